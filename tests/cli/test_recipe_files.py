"""A recipe file as MODEL that trains something else, and printed files that do not train."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from emukit.runs.record import checked_command, read_record


@pytest.fixture
def mine(emukit):
    """A printed recipe with one change."""
    printed = emukit("models", "linear", "--toml")
    assert printed.code == 0, printed.err
    assert "\nridge = 10.0\n" in printed.out
    Path("mine.toml").write_text(printed.out.replace("\nridge = 10.0", "\nridge = 3.0"))
    return "mine.toml"


def test_a_printed_file_trains_with_its_change_and_its_run_is_called_after_it(emukit, demo_store, mine):
    answer = emukit("train", mine, "--data", demo_store, "-q")
    assert answer.code == 0, answer.err
    record = read_record(Path("runs/mine-official-s0"))
    assert (record.recipe["emulator"], record.recipe["model"]["ridge"]) == ("linear", 3.0)
    # What a page offers to be pasted trains the same file.
    assert shlex.split(checked_command(record.command))[:3] == ["emukit", "train", "mine.toml"]
    assert emukit("submit", "runs/mine-official-s0", "-q").code == 0
    again = emukit("train", mine, "--data", demo_store, "--set", "model.ridge=4.0")
    assert again.code == 2
    assert "a run of another recipe" in again.err


def test_validate_crossval_and_models_take_a_file(emukit, demo_store, mine):
    answer = emukit("evaluate", mine, "--data", demo_store, "--protocols", "official", "-q")
    assert answer.code == 0, answer.err
    record = read_record(Path("runs/evaluate-mine/mine-official-s0"))
    assert record.recipe["model"]["ridge"] == 3.0
    answer = emukit("crossval", mine, "linear", "--data", demo_store, "--months", "900", "-q")
    assert answer.code == 0, answer.err
    folders = {p.name.rpartition("-")[0] for p in Path("runs/crossval").iterdir() if p.is_dir()}
    assert folders == {"mine", "linear"}
    rows = json.loads(emukit("models", mine, "--format", "json").out)
    (ridge,) = [row for row in rows if row["setting"] == "model.ridge"]
    assert ridge["default"] == "3.0"
    assert ridge["form"] == "number"
    assert ridge["meaning"].endswith(".")


@pytest.mark.parametrize("name", ["cnn-gru", "downscale"])
def test_the_name_of_a_setting_is_broken_in_eighty_columns(emukit, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "80")
    rows = json.loads(emukit("models", name, "--format", "json").out)
    shown = emukit("models", name).out
    first = {line.split()[0] for line in shown.splitlines() if line.strip()}
    assert {row["setting"] for row in rows} <= first
    # What may be named as an objective; a downscaler has no states to feed back.
    assert "  diffusion (" in shown
    assert ("  rollout (" in shown) == (name == "cnn-gru")


def test_a_schema_is_json_with_the_options_of_the_name(emukit):
    answer = emukit("models", "linear", "--schema")
    schema = json.loads(answer.out)
    assert {"features", "ridge", "size"} <= schema["$defs"]["Options"]["properties"].keys()


@pytest.mark.parametrize(
    "words", [("--toml",), ("linear", "--toml", "--schema"), ("linear", "--toml", "--format", "json"), ("--schema",)]
)
def test_two_things_at_once_or_none_are_refused(emukit, words):
    answer = emukit("models", *words)
    assert answer.code == 2
    assert "of one NAME" in answer.err


@pytest.mark.parametrize(
    "command",
    [
        "emukit train -x.toml",
        "emukit train 'a;b.toml'",
        "emukit train a.toml.sh",
        "emukit train 'x:$(y)'",
        "emukit train mod:Name --out /etc",
    ],
)
def test_a_command_of_a_stranger_is_not_offered(command):
    assert checked_command(command) == ""


@pytest.mark.parametrize("command", ["emukit train ../my/best.toml --seed 3", "emukit train my.nets:Net -q"])
def test_files_and_classes_are(command):
    assert checked_command(command) == command
