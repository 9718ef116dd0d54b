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
    assert lines[-1].startswith("No wall is hit; the nearest is ")
    assert max(map(len, lines)) <= columns
    assert "\u2026" not in answer.out
    assert not Path("runs").exists()


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
