"""Runs that are listed as what they are not, and runs removed that something still needs."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from emukit import files
from emukit.errors import EmukitError, RunError
from emukit.files import LOCK_FILE, exclusive, is_held
from emukit.progress import silent_reporter
from emukit.recipes.load import load_recipe
from emukit.runs import run as run_module
from emukit.runs.listing import find_runs, list_runs, summarise_run
from emukit.runs.run import read_run, train_run
from emukit.studies import prune as removal
from emukit.studies.prune import prune_all_but_best, prune_named, remove
from emukit.submission import SubmissionEntry, write_entry
from tests.coded import warming_archive

QUIET = silent_reporter()
# Penalties on the linear emulator, in the order of their scores.
RIDGES = (1.0, 1e3, 1e5)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Three linear runs, one of them fitted for good, and one under another protocol."""
    archive, folder = warming_archive(), tmp_path_factory.mktemp("runs")

    def run(name, ridge, protocol="k360", **words):
        recipe = load_recipe("linear", assignments=['model.features=["CO2","SO2"]', f"model.ridge={ridge}"])
        command = f"emukit train linear --set model.ridge={ridge}"
        return train_run(archive, recipe, folder / name, protocol=protocol, command=command, reporter=QUIET, **words)[0]

    runs = [run(f"r{i}", ridge) for i, ridge in enumerate(RIDGES)]
    run("other", RIDGES[2], "loso:ssp126")
    run("fitted", RIDGES[1], final=runs[1])
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(trained, folder)
    return folder


def edit(folder, **changes):
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | changes))


def names(listed):
    return [run.folder.name for run in listed]


def score(folder):
    return json.loads((folder / "scores" / "validation.json").read_text())["score"]


def test_scores_are_in_order(runs):
    assert score(runs / "r0") < score(runs / "r1") < score(runs / "r2")


def test_every_run_is_said_to_be_what_it_is(runs):
    edit(runs / "r0", state="training")
    edit(runs / "r1", state="training")
    (runs / "r2" / "run.json").write_text('{"format": 1, "sta')
    with exclusive(runs / "r0"):
        found = {run.folder.name: run for run in list_runs([runs])}
        held = {name for name, run in found.items() if run.held}
    states = {name: run.state for name, run in found.items()}
    assert states == {
        "r0": "training", "r1": "interrupted", "r2": "damaged", "other": "finished", "fitted": "finished"
    }  # fmt: skip
    assert held == {"r0"}
    assert "run.json is damaged" in found["r2"].problem
    assert (found["other"].model, found["other"].scores) == ("linear", {"validation": score(runs / "other")})
    assert found["other"].record.identity.protocol == "loso:ssp126"
    assert found["fitted"].ranked_by is None


def test_those_under_way_come_first_then_the_best_of_what_compares(runs):
    assert names(list_runs([runs])) == ["r0", "r1", "r2", "other", "fitted"]
    edit(runs / "r2", state="training")
    (runs / "other" / "run.json").write_text("")
    assert names(list_runs([runs])) == ["r2", "r0", "r1", "fitted", "other"]


def test_a_score_that_is_damaged_is_named_and_stops_nothing(runs):
    path = runs / "r1" / "scores" / "validation.json"
    path.write_text(path.read_text().replace('"score": 0', '"score": 9', 1))
    found = {run.folder.name: run for run in list_runs([runs])}
    assert found["r1"].state == "damaged"
    assert "validation.json is damaged" in found["r1"].problem
    assert found["r0"].state == "finished"


@pytest.mark.parametrize(
    ("name", "text", "new"),
    [
        ("scores/validation.json", '"spans": [', '"spans": 3, "more": ['),
        ("metrics.jsonl", "", '{"epoch": 1, "seconds": "long"}\n'),
        ("metrics.jsonl", "", "[1]\n"),
        ("run.json", '"command": "', '"command": "\\"'),
    ],
)
def test_whatever_is_damaged_the_others_are_listed(runs, name, text, new):
    path = runs / "r1" / name
    before = path.read_text() if path.exists() else ""
    assert text in before
    path.write_text(before.replace(text, new, 1) if text else new)
    found = {run.folder.name: run for run in list_runs([runs])}
    # A command that cannot be read names no model; everything else is a damage.
    assert (found["r1"].state, found["r1"].model) == (("finished", "linear") if name == "run.json" else ("damaged", ""))
    assert found["r0"].state == "finished"


def test_a_folder_that_cannot_be_read_stops_no_listing(runs, monkeypatch):
    closed = runs / "closed"
    closed.mkdir()
    scandir = os.scandir

    def refusing(path):
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    listed = {run.folder: run for run in list_runs([runs])}
    assert listed[closed].state == "damaged"
    assert len(listed) > 3


def test_what_a_study_gave_up_has_failed_and_says_why(runs):
    edit(runs / "r0", state="training")
    listed = {run.folder.name: run.state for run in list_runs([runs])}
    for name in listed:
        (runs / f"{name}.failed").write_text("error: no memory\n  do: buy some")
    for run in list_runs([runs]):
        before = listed[run.folder.name]
        assert run.state == ("failed" if before == "interrupted" else before)
        assert run.problem == "error: no memory" or run.state != "failed"
    assert "interrupted" in listed.values()


def test_what_lies_in_a_run_belongs_to_it_and_what_lies_in_a_folder_is_found(runs, tmp_path):
    inner = runs / "r0" / "bases" / "0-linear"
    shutil.copytree(runs / "r1", inner)
    shutil.copytree(runs / "r1", runs / "validate-linear" / "linear-k360-s0")
    shutil.copytree(runs / "r1", runs / ".r1.123.part")
    (runs / "back").symlink_to(runs)
    shutil.copytree(runs / "r1", tmp_path / "elsewhere" / "r9")
    (runs / "away").symlink_to(tmp_path / "elsewhere")
    expected = {"r0", "r1", "r2", "other", "fitted", "linear-k360-s0"}
    assert set(names(list_runs([runs]))) == expected
    assert len(find_runs([runs, runs / "r1", runs / ".." / "runs"])) == len(expected)
    assert summarise_run(runs / "r0").size > summarise_run(runs / "r1").size
    with pytest.raises(RunError, match="not a folder"):
        find_runs([runs / "nowhere"])


def test_size_is_what_lies_on_the_disk(runs):
    before = summarise_run(runs / "r0").size
    (runs / "r0" / "more").write_bytes(bytes(3 << 20))
    assert summarise_run(runs / "r0").size - before == pytest.approx(3 << 20, rel=0.01)


def test_how_far_an_interrupted_training_came_is_read_from_the_newest_log(runs):
    folder = runs / "r0"
    edit(folder, state="training", seconds=0.0)
    for place, epochs in (("bases/0-cnn-gru", 5), ("bases/1-cnn-gru", 3)):
        log = folder / place / "metrics.jsonl"
        log.parent.mkdir(parents=True)
        lines = [{"epoch": e + 1, "step": 10 * e, "seconds": 2.0} for e in range(epochs)]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"epo')
        time.sleep(0.02)
    found = summarise_run(folder)
    assert (found.epoch, found.epochs, found.seconds) == (3, None, 16.0)


def test_looking_never_keeps_a_training_from_its_folder(runs, monkeypatch):
    assert not is_held(runs / "r0" / "nowhere")
    assert not is_held(runs / "r0")
    looking = (runs / "r0" / LOCK_FILE).open("rb")
    assert files._taken(looking)
    # Whoever looks lets go at once: well within the time that is waited.
    monkeypatch.setattr(files.time, "sleep", lambda seconds: looking.close())
    with exclusive(runs / "r0"):
        assert is_held(runs / "r0")


def test_the_best_of_each_model_and_months_stay(runs):
    found = prune_all_but_best([runs], 1)
    assert names(found.runs) == ["r2"]
    assert found.kept == {runs / "r1": f"it selected the final fit {runs / 'fitted'}"}
    assert found.size == summarise_run(runs / "r2").size
    assert prune_all_but_best([runs], 3).runs == ()
    # Without its final fit, nothing needs the second best.
    shutil.rmtree(runs / "fitted")
    assert names(prune_all_but_best([runs], 1).runs) == ["r1", "r2"]
    assert names(prune_all_but_best([runs], 2).runs) == ["r2"]


def test_other_models_and_unfinished_runs_are_in_no_ranking_with_these(runs):
    shutil.rmtree(runs / "fitted")
    edit(runs / "r2", command="emukit train anchor --data demo")
    edit(runs / "r1", state="training")
    assert prune_all_but_best([runs], 1).runs == ()
    edit(runs / "r2", command="emukit train linear --fast")
    assert summarise_run(runs / "r2").model == "linear"
    edit(runs / "r2", command="emukit train best --fast")
    assert summarise_run(runs / "r2").model == "best-fast"
    edit(runs / "r2", command="python train.py")
    assert summarise_run(runs / "r2").model == "linear"


def test_a_run_that_is_written_is_not_removed(runs):
    with exclusive(runs / "r2"):
        assert prune_all_but_best([runs], 1).kept[runs / "r2"] == "another process is writing it"
        with pytest.raises(RunError, match="r2 is not removed") as caught:
            prune_named([runs / "r0", runs / "r2"])
        assert caught.value.found == "another process is writing it"
        with pytest.raises(RunError, match="another process"):
            remove(summarise_run(runs / "r2"))
    assert (runs / "r2" / "run.json").exists()


def test_what_selected_a_final_fit_goes_with_it_or_not_at_all(runs):
    with pytest.raises(RunError) as caught:
        prune_named([runs / "r1"])
    assert caught.value.found == f"it selected the final fit {runs / 'fitted'}"
    assert names(prune_named([runs / "r1", runs / "fitted"]).runs) == ["r1", "fitted"]
    # A damaged neighbour refers to nothing, and keeps nobody from removing another.
    (runs / "other" / "run.json").write_text("")
    assert names(prune_named([runs / "r0"]).runs) == ["r0"]


def entry_of(run, **changes):
    record = run.record
    values = {
        "name": "mine", "created": "", "emulator": "linear", "recipe": json.dumps(record.recipe, sort_keys=True),
        "protocol": record.identity.protocol, "scenario": "ssp370", "first_month": "2025-02",
        "last_month": "2030-01", "seed": 0, "command": record.command, "split": "s", "data_digest": "d",
        "emukit_version": "0", "git_commit": "", "csv": "submission.csv", "csv_sha256": "0" * 64, "rows": 1,
        "validation": {},
    }  # fmt: skip
    return SubmissionEntry(**(values | changes))


@pytest.mark.parametrize("place", ["beside", "here", "inside"])
def test_what_was_submitted_is_not_removed(runs, tmp_path, monkeypatch, place):
    folders = {"beside": tmp_path / "submissions", "here": tmp_path / "here" / "submissions", "inside": runs}
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    folder = folders[place] / "mine"
    folder.mkdir(parents=True)
    write_entry(folder, entry_of(read_run(runs / "r2"), seed=1))
    assert names(prune_all_but_best([runs], 1).runs) == ["r2"]
    write_entry(folder, entry_of(read_run(runs / "r2")))
    assert prune_all_but_best([runs], 1).kept[runs / "r2"] == f"the submission {folder} is of it"
    with pytest.raises(RunError, match="r2 is not removed"):
        prune_named([runs / "r2"])


@pytest.mark.parametrize("report", ["validation.json", "crossval.json", "study.json"])
def test_what_is_scored_together_stays_together(runs, report):
    (runs / report).write_text("{}")
    for run in (runs / "r1", runs / "r2"):
        assert prune_all_but_best([runs], 1).kept[run]
    with pytest.raises(RunError) as caught:
        prune_named([runs / "r0"])
    assert caught.value.found == f"{runs / report} is about it and others together; {removal.MAY_GO}"


def test_runs_that_a_study_beside_them_names_stay(runs, tmp_path):
    study = tmp_path / "weights" / "study.json"
    study.parent.mkdir()
    study.write_text(json.dumps({"variants": [{"runs": [{"folder": "../runs/r2"}]}]}))
    assert (
        prune_all_but_best([runs], 1).kept[runs / "r2"] == f"{study} is about it and others together; {removal.MAY_GO}"
    )


@pytest.mark.parametrize(
    ("name", "text"), [("study.json", '{"variants": 3}'), ("study.json", '{"variants": [{'), ("plan.json", "{}")]
)
def test_runs_stay_while_a_study_cannot_tell_which_are_its_own(runs, tmp_path, name, text):
    """Damaged, or not ended: it has a plan, and no results yet."""
    study = tmp_path / "weights"
    study.mkdir()
    (study / name).write_text(text)
    assert f"the study {study} is about cannot be told" in prune_all_but_best([runs], 1).kept[runs / "r2"]
    elsewhere = tmp_path / "elsewhere" / "runs"
    shutil.copytree(runs, elsewhere)
    assert "r2" in names(prune_all_but_best([elsewhere], 1).runs)


def test_what_is_removed_was_named(runs, tmp_path):
    """Not the target of a link, not a run that lies in another."""
    link = tmp_path / "link"
    link.symlink_to(runs / "r2")
    with pytest.raises(RunError, match="is a link"):
        prune_named([link])
    shutil.copytree(runs / "r1", runs / "r2" / "mine" / "r1")
    with pytest.raises(RunError, match="not removed") as caught:
        prune_named([runs / "r2"])
    assert "another run is in it" in caught.value.found


def test_a_run_that_another_removal_took_does_not_come_back_empty(runs):
    (victim,) = prune_named([runs / "r2"]).runs
    shutil.rmtree(runs / "r2")
    remove(victim)
    assert not (runs / "r2").exists()


def test_what_is_no_run_or_a_damaged_one_is_not_touched(runs, tmp_path):
    (tmp_path / "data").mkdir()
    for folder in (tmp_path / "data", tmp_path / "nowhere", runs):
        with pytest.raises(RunError, match="is not a run"):
            prune_named([runs / "r0", folder])
    (runs / "r2" / "run.json").write_text("{}")
    with pytest.raises(RunError, match="not removed"):
        prune_named([runs / "r2"])


def test_an_interrupted_removal_leaves_no_half_run(runs, monkeypatch):
    (victim,) = prune_named([runs / "r2"]).runs

    def interrupted(*words, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(files, "_discard", interrupted)
        with pytest.raises(KeyboardInterrupt):
            remove(victim)
    assert "r2" not in names(list_runs([runs]))
    (left,) = runs.glob(".emukit-*.part")
    assert (left / "r2" / "emulator").exists()
    # A name of somebody else's stays.
    (runs / ".mine.part").mkdir()
    remove(prune_named([runs / "other"]).runs[0])
    assert {p.name for p in runs.iterdir()} == {"r0", "r1", "fitted", ".mine.part"}


def test_a_removal_that_is_forbidden_leaves_the_run_whole(runs, monkeypatch):
    (victim,) = prune_named([runs / "r2"]).runs
    before = sorted(p.name for p in (runs / "r2").rglob("*"))

    def forbidden(self, target):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", forbidden)
    with pytest.raises(EmukitError, match="cannot remove"):
        remove(victim)
    assert sorted(p.name for p in (runs / "r2").rglob("*")) == before


@pytest.mark.parametrize("there", [False, True])
def test_a_command_that_fails_takes_a_folder_with_it_that_was_there_or_leaves_its_own(tmp_path, monkeypatch, there):
    archive, folder = warming_archive(), tmp_path / "run"
    if there:
        folder.mkdir()

    def finish(place, reporter):
        (place / "bases").mkdir()
        assert is_held(place)
        raise EmukitError("nothing can be learned")

    monkeypatch.setattr(run_module, "prepare", lambda *_: finish)
    with pytest.raises(EmukitError, match="nothing can be learned"):
        train_run(archive, load_recipe("climatology"), folder, reporter=QUIET)
    assert folder.exists() == there
    assert not there or not list(folder.iterdir())
