"""Plans that a terminal cuts off, or that end in something other than an answer."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import TINY


@pytest.mark.parametrize("columns", [80, 120])
def test_a_plan_says_what_training_costs(emukit, demo_store, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    answer = emukit("plan", "cnn-gru", "--data", demo_store, *TINY, "-q")
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    for words in ("weights", "gradients", "optimiser", "data", "batch", "activations", "together", "a step", "time"):
        assert any(line.startswith(words) for line in lines), words
    assert lines[-1].startswith("No bottleneck is reached; the nearest is ")
    assert max(map(len, lines)) <= columns
    assert "\u2026" not in answer.out
    assert not Path("runs").exists()


def test_sizes_in_the_list_of_models_say_for_which_grid(emukit):
    assert any("48 x 72" in line for line in emukit("models").out.splitlines())


def test_a_closed_form_emulator_needs_no_plan(emukit, demo_store):
    answer = emukit("plan", "linear", "--data", demo_store)
    assert answer.code == 2
    assert "fitted in closed form" in answer.err


def test_an_automatic_batch_is_named_and_recorded(emukit, demo_store):
    words = ("cnn-gru", "--data", demo_store, *TINY, "--set=training.segments.per_batch=auto")
    planned = emukit("plan", *words, "--set=training.segments.length=24")
    assert planned.code == 0, planned.err
    trained = emukit("train", *words, "--set=training.segments.length=24", "--out", "runs/a")
    assert trained.code == 0, trained.err
    number = json.loads(Path("runs/a/run.json").read_text())["recipe"]["training"]["segments"]["per_batch"]
    for said in (planned.err, trained.err):
        assert f"per_batch: auto is {number} here" in said
    assert f"batches of {number} x 24 months" in planned.out


def test_a_plan_takes_precision_and_loss_as_training_does(emukit, demo_store):
    answer = emukit("plan", "cnn-gru", "--data", demo_store, *TINY, "-q", "--precision", "bf16", "--loss", "l1")
    assert answer.code == 0, answer.err
    assert "months, bf16" in answer.out
    assert emukit("plan", "cnn-gru", "--data", demo_store, "--loss", "nothing").code == 2


@pytest.mark.parametrize("setting", ["training.segments.per_batch", "training.accumulate"])
def test_numbers_beyond_sense_are_refused(emukit, demo_store, setting):
    answer = emukit("plan", "cnn-gru", "--data", demo_store, "--set", f"{setting}=1000000000000")
    assert answer.code == 2
    assert "less than or equal to 1000000" in answer.err


def test_the_demo_is_a_store_by_name_for_data_commands(emukit):
    shown = emukit("data", "windows", "demo")
    assert shown.code == 0, shown.err
    checked = emukit("data", "check", "demo")
    assert checked.code == 0, checked.err
    assert checked.out.splitlines()[-1] == "usable"
    assert "demo.zarr" not in checked.out
