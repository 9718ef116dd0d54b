"""`emukit runs` that prints other numbers than the folders hold, or removes without being told to."""

import csv
import io
import json
import shutil
import sys
from pathlib import Path

import pytest


@pytest.fixture
def runs(emukit, linear_run):
    """Two runs of one kind and a damaged one, in runs/ here."""
    for name in ("a", "b", "bad"):
        shutil.copytree(linear_run, Path("runs") / name)
    path = Path("runs/b/run.json")
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 7', 1))
    Path("runs/bad/run.json").write_text("{")
    return emukit


def test_every_format_holds_the_same_runs(runs):
    answer = runs("runs")
    assert answer.code == 0, answer.err
    lines = [line.split() for line in answer.out.splitlines()]
    score = json.loads(Path("runs/a/scores/validation.json").read_text())["score"]
    assert next(line for line in lines if line[:1] == ["runs/a"])[1:5] == ["finished", "linear", "0", f"{score:.4f}"]
    assert "damaged: runs/bad: " in answer.err
    assert "3 runs, " in answer.out
    plain = json.loads(runs("runs", "runs", "--format", "json").out)
    assert [(r["folder"], r["state"], r["seed"]) for r in plain] == [
        ("runs/a", "finished", 0), ("runs/b", "finished", 7), ("runs/bad", "damaged", None)
    ]  # fmt: skip
    assert plain[0]["scores"] == {"validation": score}
    assert plain[0]["bytes"] > 10_000
    table = list(csv.DictReader(io.StringIO(runs("runs", "--format", "csv").out)))
    assert [row["folder"] for row in table] == [r["folder"] for r in plain]
    assert float(table[0]["score"]) == score
    markdown = runs("runs", "--format", "md").out.splitlines()
    assert f"| runs/b | finished | linear | official | 7 | {score:.4f} | validation |" in markdown[3]
    assert len({line.count("|") for line in markdown}) == 1


def test_a_name_that_is_broken_cannot_be_copied_out_of_a_pipe(runs, monkeypatch):
    monkeypatch.delenv("COLUMNS")
    long = Path("runs", "a-" + 100 * "b")
    Path("runs/b").rename(long)
    answer = runs("runs")
    assert any(line.split()[:1] == [str(long)] for line in answer.out.splitlines()), answer.out
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, runs("runs").out.splitlines())) <= 80


def test_a_run_that_failed_before_it_began_is_not_listed(runs):
    first, second = (Path("ablations/runs", f"linear-{n}cdef0123456") for n in "ab")
    first.mkdir(parents=True)
    said = {path: path.with_name(path.name + ".failed") for path in (first, second)}
    said[first].write_text("error: no dust\nmore")
    said[second].write_text("")
    # What is called otherwise, or hidden, is no run's.
    for other in (Path("ablations/notes.failed"), Path(f"ablations/.{first.name}.1.removed", said[first].name)):
        other.parent.mkdir(exist_ok=True)
        other.write_text("x")
    answer = runs("runs", "list", "runs", "ablations", Path("ablations").resolve())
    assert "failed before anything was trained" in answer.out
    assert "5 runs, " in answer.out
    assert f"failed: {first}: error: no dust\n" in answer.err
    assert f"failed: {second}: it failed without a word\n" in answer.err
    first.with_name(first.name + ".log").write_text("")
    assert "removed 2 runs, " in runs("runs", "rm", first, second, "-y").out
    assert not list(Path("ablations/runs").iterdir())


def test_a_failure_that_cannot_be_read_hides_all_runs(runs, monkeypatch):
    path = Path("runs/linear-abcdef012345.failed")
    path.write_text("x")

    def forbidden(place):
        assert place == path
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("emukit.runs.listing.open_regular", forbidden)
    answer = runs("runs")
    assert answer.code == 0
    assert "4 runs, " in answer.out
    assert "runs/linear-abcdef012345.failed cannot be read (Permission denied)" in answer.err


def test_a_place_without_runs_and_none_at_all(emukit):
    assert emukit("runs").out == "0 runs, 0 B\n"
    assert emukit("runs", "rm", "--keep-best").out == "nothing to remove\n"
    Path("runs").mkdir()
    assert emukit("runs").out == "0 runs, 0 B\n"
    answer = emukit("runs", "nowhere")
    assert answer.code == 2
    assert "nowhere is not a folder" in answer.err


def test_removal_is_said_asked_for_and_only_then_done(runs, monkeypatch):
    dry = runs("runs", "rm", "--keep-best", "--dry-run")
    assert dry.code == 0, dry.err
    assert "would remove runs/b: finished, validation 0." in dry.out
    assert "runs/a" not in dry.out
    silent = runs("runs", "rm", "--keep-best")
    assert silent.code == 2
    assert "--yes" in silent.err
    assert "would remove runs/b: " in silent.out
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    asked = []
    monkeypatch.setattr("typer.confirm", lambda question: asked.append(question) or False)
    refused = runs("runs", "rm", "runs/b")
    assert "nothing was removed" in refused.out
    assert asked == ["remove 1 run?"]
    assert Path("runs/b").exists()

    def slowly(question):
        # While it is asked, a study begins that is about these runs.
        Path("runs/study.json").write_text("{}")
        return True

    monkeypatch.setattr("typer.confirm", slowly)
    late = runs("runs", "rm", "--keep-best")
    assert "keep   runs/b: " in late.out
    assert "removed 0 runs" in late.out
    assert Path("runs/b").exists()
    Path("runs/study.json").unlink()
    monkeypatch.setattr("typer.confirm", lambda question: True)
    assert "removed 1 run, " in runs("runs", "rm", "runs/b").out
    assert not Path("runs/b").exists()
    assert {p.name for p in Path("runs").iterdir()} == {"a", "bad"}


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--keep-best", "--yes"], {"a", "bad"}),
        (["--yes", "--keep-best"], {"a", "bad"}),
        (["--keep-best", "2", "--yes"], {"a", "b", "bad"}),
        (["--keep-best", "runs", "--yes"], {"a", "bad"}),
        (["runs/a", "runs/b", "-y"], {"bad"}),
    ],
)
def test_as_many_stay_as_were_to_be_kept(runs, words, left):
    answer = runs("runs", "rm", *words)
    assert answer.code == 0, answer.err
    assert {p.name for p in Path("runs").iterdir()} == left


@pytest.mark.parametrize("words", [[], ["runs/bad"], ["runs/a", "nowhere", "-y"], ["--keep-best", "0"]])
def test_what_cannot_be_removed_is_refused_whole(runs, words):
    answer = runs("runs", "rm", *words)
    assert answer.code == 2
    assert {p.name for p in Path("runs").iterdir()} == {"a", "b", "bad"}
