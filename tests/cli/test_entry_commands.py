"""An entry whose commands make another CSV than its own, need something that they do not make, or lose a setting."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from emukit.data.protocol import make_split
from emukit.data.store import open_store
from emukit.files import sha256
from emukit.progress import silent_reporter
from emukit.recipes.catalogue import recipe_names
from emukit.recipes.describe import recipe_text
from emukit.recipes.fitting import fit_recipe
from emukit.recipes.load import load_recipe
from emukit.runs.record import checked_command, read_record
from emukit.runs.run import read_run
from emukit.runs.submit import training_commands
from emukit.studies.prune import _is_of
from emukit.submission import read_entry
from tests.cli.conftest import TINY

QUICK = (*TINY, "--set=training.epochs=1", "--set=training.segments.length=60")


def again(emukit, entry, folder, monkeypatch, files=()):
    """What the commands of an entry write in a folder that holds some files and nothing else, as a digest."""
    folder.mkdir()
    for name in files:
        (folder / name).write_text(files[name])
    monkeypatch.chdir(folder)
    for line in entry.commands:
        program, *words = shlex.split(line)
        assert program == "emukit"
        answer = emukit(*words, "-q")
        assert answer.code == 0, f"{line}: {answer.err}"
    return sha256(next(Path("submissions").glob("*/submission.csv")))


def submitted(emukit, run, name):
    answer = emukit("submit", run, "--out", f"submissions/{name}", "-q")
    assert answer.code == 0, answer.err
    return read_entry(Path("submissions") / name)


def test_the_commands_of_a_plain_run_say_all_that_was_left_to_defaults(emukit, demo_store, tmp_path, monkeypatch):
    words = ("train", "linear", "--data", demo_store, "--set", "model.ridge=3.0", "--members=1", "-q")
    assert emukit(*words, "--out", "runs/mine").code == 0
    entry = submitted(emukit, "runs/mine", "one")
    train = shlex.split(entry.commands[0])
    assert train[train.index("--protocol") + 1] == "official"
    assert train[train.index("--seed") + 1] == "0"
    assert "-q" not in train
    assert train.count("--members=1") == 1
    assert "--members" not in train
    assert entry.commands[1:] == ["emukit submit runs/mine --out submissions/one"]
    assert again(emukit, entry, tmp_path / "again", monkeypatch) == entry.csv_sha256


def test_the_commands_of_a_refit_train_twice(emukit, demo_store, tmp_path, monkeypatch):
    words = ("train", "cnn-gru", "--refit", "--data", demo_store, *QUICK, "--out", "runs/net", "-q")
    assert emukit(*words).code == 0
    entry = submitted(emukit, "runs/net-final", "net")
    assert len(entry.commands) == 2
    assert again(emukit, entry, tmp_path / "again", monkeypatch) == entry.csv_sha256


def test_the_commands_of_a_final_fit_train_what_selected_first(emukit, demo_store, tmp_path, monkeypatch):
    assert emukit("train", "linear", "--data", demo_store, "--protocol", "k360", "--out", "runs/first", "-q").code == 0
    assert emukit("train", "linear", "--final", "runs/first", "--seed", "3", "--out", "runs/last", "-q").code == 0
    entry = submitted(emukit, "runs/last", "last")
    assert [shlex.split(line)[1] for line in entry.commands] == ["train", "train", "submit"]
    assert "--out runs/first" in entry.commands[0]
    assert again(emukit, entry, tmp_path / "again", monkeypatch) == entry.csv_sha256


def test_the_commands_of_an_ensemble_of_finished_runs_train_these(emukit, demo_store, tmp_path, monkeypatch):
    for name, ridge in (("a", 1.0), ("b", 100.0)):
        words = ("train", "linear", "--data", demo_store, "--set", f"model.ridge={ridge}", "-q")
        assert emukit(*words, "--out", f"runs/{name}").code == 0
    text = 'emulator = "ensemble"\n' + "".join(f'[[bases]]\nrun = "runs/{n}"\n' for n in "ab")
    Path("both.toml").write_text(text)
    assert emukit("train", "both.toml", "--data", demo_store, "--out", "runs/both", "-q").code == 0
    entry = submitted(emukit, "runs/both", "both")
    assert [line.rpartition("--out ")[2] for line in entry.commands] == [
        "runs/a", "runs/b", "runs/both", "submissions/both",
    ]  # fmt: skip
    assert "both.toml" in entry.commands[2]
    assert 'run = "runs/a"' in entry.recipe
    # A recipe file of one's own is what the entry holds.
    files = {"both.toml": entry.recipe}
    assert again(emukit, entry, tmp_path / "again", monkeypatch, files) == entry.csv_sha256


@pytest.mark.parametrize("name", recipe_names())
def test_the_recipe_of_an_entry_is_a_file_that_trains_the_same(name, tmp_path):
    recipe = load_recipe(name)
    (tmp_path / "r.toml").write_text(recipe_text(recipe))
    assert load_recipe(str(tmp_path / "r.toml")).model_dump() == recipe.model_dump()
    assert "#" not in recipe_text(recipe).replace(recipe.description, "")


def test_the_recipe_of_a_trained_network_is_read_back_with_its_digest(emukit, demo_store, tmp_path):
    assert emukit("train", "cnn-gru", "--data", demo_store, *QUICK, "--out", "net", "-q").code == 0
    entry = submitted(emukit, "net", "net")
    (tmp_path / "r.toml").write_text(entry.recipe)
    record = read_record(tmp_path / "net")
    archive = open_store(demo_store)
    fitted = fit_recipe(load_recipe(str(tmp_path / "r.toml")), archive, make_split(archive), silent_reporter())
    assert fitted.digest == record.identity.recipe
    assert "\n[training]\n" in (tmp_path / "submissions/net/entry.toml").read_text()
    assert 'emulator = "cnn-gru"' in (tmp_path / "submissions/net/entry.toml").read_text().splitlines()


def test_a_run_of_an_entry_is_known_by_what_it_is_and_of_an_old_entry_by_what_it_says(emukit, linear_run):
    entry = submitted(emukit, linear_run, "one")
    record = read_record(linear_run)
    assert _is_of(entry, record)
    other = record.model_copy(update={"identity": record.identity.model_copy(update={"data": "0" * 64})})
    assert not _is_of(entry, other)
    old = entry.model_copy(update={"run": "", "commands": [], "recipe": json.dumps(record.recipe, sort_keys=True)})
    assert _is_of(old, record)
    assert not _is_of(old.model_copy(update={"seed": 1}), record)


@pytest.mark.parametrize(
    "command", ["python notebook.py", "emukit train linear --set 'a", "emukit train x; rm -rf ~", ""]
)
def test_a_run_that_no_command_trained_is_trained_from_the_recipe(linear_run, command):
    run = read_run(linear_run)
    record = run.record.model_copy(update={"command": command})
    (line,) = training_commands(record, linear_run, run.recipe)
    assert line.startswith("emukit train recipe.toml --protocol official --seed 0 --out ")


def test_how_a_training_ran_is_left_out_and_what_it_trained_is_not(linear_run):
    run = read_run(linear_run)
    words = "--devices 4 --strategy=fsdp --objective crps --track wandb --compile --precision bf16"
    record = run.record.model_copy(update={"command": f"emukit train cnn-gru {words}"})
    (line,) = training_commands(record, linear_run, run.recipe)
    assert line.startswith("emukit train cnn-gru --objective crps --precision bf16 --protocol official")
    assert checked_command("emukit train cnn-gru --objective crps") == "emukit train cnn-gru --objective crps"
