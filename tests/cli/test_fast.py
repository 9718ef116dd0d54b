"""`--fast` that trains the slow recipe, or a recipe that nobody named."""

import json
import shutil
from pathlib import Path

import pytest

from emukit.files import shipped
from emukit.recipes import catalogue
from emukit.recipes import load as recipe


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """The shipped recipes, with `mine` and `mine-fast` among them, and only these fast."""
    folder = tmp_path / "baselines"
    shutil.copytree(shipped("baselines", "."), folder, ignore=shutil.ignore_patterns("*-fast.toml"))
    (folder / "mine.toml").write_text('emulator = "ensemble"\n[[bases]]\nrecipe = "cnn-gru"\ncopies = 2\n')
    (folder / "mine-fast.toml").write_text(
        'emulator = "linear"\ndescription = "mine in seconds"\n[model]\nridge = 7.0\n'
    )
    for module in (recipe, catalogue):
        monkeypatch.setattr(module, "shipped", lambda kind, name: folder / name)
    # The names are read once a process: those of this test are neither taken from another's nor left to one.
    catalogue.shipped_names.cache_clear()
    yield
    catalogue.shipped_names.cache_clear()


def test_train_takes_the_fast_recipe(emukit, demo_store, recipes):
    answer = emukit("train", "mine", "--fast", "--data", demo_store, "--set", "model.harmonics=1")
    assert answer.code == 0, answer.err
    record = json.loads(Path("runs/mine-fast-official-s0/run.json").read_text())
    assert (record["recipe"]["emulator"], record["recipe"]["model"]["ridge"]) == ("linear", 7.0)
    assert record["recipe"]["model"]["harmonics"] == 1
    assert record["command"].startswith("emukit train mine --fast ")


def test_evaluate_and_crossval_take_the_fast_recipe(emukit, demo_store, recipes):
    answer = emukit("evaluate", "mine", "--fast", "--data", demo_store, "--protocols", "official", "-q")
    assert answer.code == 0, answer.err
    assert "mine-fast, official validation" in " ".join(answer.out.split())
    record = json.loads(Path("runs/evaluate-mine-fast/mine-fast-official-s0/run.json").read_text())
    assert record["recipe"]["model"]["ridge"] == 7.0
    assert record["command"].startswith("emukit train mine-fast ")
    words = ("crossval", "mine", "--fast", "--data", demo_store, "--months", "900", "-q")
    answer = emukit(*words)
    assert answer.code == 0, answer.err
    kept = json.loads(Path("runs/crossval/crossval.json").read_text())
    assert list(kept["recipes"]) == ["mine-fast"]
    assert kept["recipes"]["mine-fast"]["digest"] == record["identity"]["recipe"]


@pytest.mark.parametrize("verb", ["train", "evaluate", "crossval"])
def test_what_has_no_fast_recipe_is_refused_with_those_that_have(emukit, demo_store, recipes, verb):
    more = ("--seeds", "1") if verb == "evaluate" else ()
    answer = emukit(verb, "linear", "--fast", "--data", demo_store, *more)
    assert answer.code == 2
    assert "no fast recipe of linear" in answer.err
    assert "one that has one: mine\n" in answer.err
    assert not Path("runs").exists()
    answer = emukit(verb, "nothing", "--fast", "--data", demo_store, *more)
    assert answer.code == 2
    assert "unknown emulator 'nothing'" in answer.err


def test_models_lists_them_with_the_size_of_all_networks(emukit, recipes):
    shown = " ".join(emukit("models").out.split())
    assert "mine-fast closed form mine in seconds" in shown
    network = int(shown.partition(" cnn-gru ")[2].split()[0].replace(",", ""))
    assert f"mine {2 * network:,} " in shown


def snapshot(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in sorted(Path(folder).rglob("*")) if p.is_file()}


def test_a_run_that_is_finished_is_reused_by_what_builds_on_it(emukit, demo_store, recipes):
    """The README's order: a run, later the same with --refit; and both again."""
    words = ("train", "mine", "--fast", "--data", demo_store)
    first = emukit(*words)
    assert first.code == 0, first.err
    before = snapshot("runs")
    refit = emukit(*words, "--refit")
    assert refit.code == 0, refit.err
    assert "runs/mine-fast-official-s0 is finished, of the same recipe" in refit.err
    assert "runs/mine-fast-official-s0-final: " in refit.out
    after = snapshot("runs")
    assert {p: after[p] for p in before} == before
    again = emukit(*words, "--refit")
    assert again.code == 0, again.err
    assert again.err.count("is finished, of the same recipe") == 2
    # The scores are shown as they were.
    assert [line for line in again.out.splitlines() if "score" in line] == [
        line for line in first.out.splitlines() if "score" in line
    ] + ["final fit: trained on the validation months too, so they score nothing"]
    assert snapshot("runs") == after
    # By hand too; and nothing else than the very same.
    selected, final = "runs/mine-fast-official-s0", "runs/mine-fast-official-s0-final"
    assert emukit(*words, "--final", selected, "--out", final).code == 0
    for more, said in (
        (("--out", final), "a run of another final"),
        (("--set", "model.ridge=8.0"), "a run of another recipe"),
        (("--seed", "1", "--out", selected), "a run of another seed"),
        (("--seed", "1", "--out", selected, "--refit"), "-final exists"),
        (("--members", "0"), "a run of another members"),
    ):
        other = emukit(*words, *more)
        assert other.code == 2, more
        assert said in other.err
    assert snapshot("runs") == after


def test_an_interrupted_run_is_not_taken_for_a_finished_one(emukit, demo_store, recipes):
    words = ("train", "mine", "--fast", "--data", demo_store)
    assert emukit(*words).code == 0
    path = Path("runs/mine-fast-official-s0/run.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "state": "training"}))
    answer = emukit(*words)
    assert answer.code == 2
    assert "an interrupted run of this configuration" in answer.err
    assert "--resume to continue it" in answer.err
