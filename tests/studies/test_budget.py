"""Budgets that are overrun, or spent on one variant."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from emukit.errors import RecipeError
from emukit.recipes.load import load_recipe
from emukit.studies import budget
from emukit.studies.budget import Cost, fit_epochs, trainings
from tests import forks
from tests.cli.conftest import TINY

COSTS = {"quick": Cost(10, 2, 30, 60), "slow": Cost(10, 6, 30, 180), "closed": Cost(10, 0, None, 0)}
RUNS = {"quick": 3, "slow": 3, "closed": 1}


def total(epochs):
    return sum(RUNS[v] * (COSTS[v].start + (epochs[v] or 0) * COSTS[v].epoch) for v in COSTS)


def test_equal_epochs_fill_the_time():
    epochs = fit_epochs(COSTS, RUNS, 500, 2, "epochs")
    # 70 s of starts, then 24 s an epoch of all: (1000 - 70) / 24 = 38.75.
    assert epochs == {"quick": 38, "slow": 38, "closed": None}
    assert total(epochs) <= 1000


def test_equal_cost_gives_the_slow_one_fewer():
    epochs = fit_epochs(COSTS, RUNS, 500, 2, "cost")
    # 930 s for six runs: 155 s each.
    assert epochs == {"quick": 77, "slow": 25, "closed": None}
    assert total(epochs) <= 1000


def test_an_epoch_dearer_than_its_share_is_taken_out_of_the_others():
    costs = {**COSTS, "huge": Cost(40, 200, 30, 6000)}
    runs = {**RUNS, "huge": 1}
    epochs = fit_epochs(costs, runs, 500, 2, "cost")
    # 1000 - 70 - 240 = 690 s for six runs.
    assert epochs == {"quick": 57, "slow": 19, "closed": None, "huge": 1}


@pytest.mark.parametrize("match", ["epochs", "cost"])
def test_a_budget_too_small_for_one_epoch_says_what_it_takes(match):
    with pytest.raises(RecipeError, match="too small") as error:
        fit_epochs(COSTS, RUNS, 40, 2, match)
    assert "47 s or more" in error.value.text()


def test_seconds_of_a_run():
    assert COSTS["quick"].seconds(None) == 70
    assert COSTS["quick"].seconds(5) == 20
    assert COSTS["closed"].seconds(None) == 10


@pytest.mark.parametrize(("average", "times"), [("none", 1), ("ema", 2)])
def test_weights_that_are_averaged_are_validated_besides(monkeypatch, average, times):
    """An epoch is its steps, and what validates it at a third of their cost."""
    words = ["training.segments.length=10", "training.accumulate=3", "training.validate_every=2"]
    recipe = load_recipe("cnn-gru", assignments=[*words, f"training.average.kind={average}"])
    plan = SimpleNamespace(recipe=recipe, step_seconds=6.0, steps=5, memory=SimpleNamespace(whole=4))
    monkeypatch.setattr(budget, "make_plan", lambda *words: plan)
    split = SimpleNamespace(scored={"validation": [range(60), range(180)]})
    found = budget.epoch_seconds(None, recipe, split, None, 1)
    # 240 months every second time, in steps of 4 x 10 x 3.
    assert found == pytest.approx(6.0 * (5 + times * 240 / 2 / 120 / 3))


def test_an_epoch_is_measured_while_others_compute(demo_store, monkeypatch):
    words = ["train", "cnn-gru", "--data", str(demo_store), "--set", "training.epochs=2"]
    for word in TINY:
        words += ["--set", word.removeprefix("--set=")] if "epochs" not in word else []
    with monkeypatch.context() as patch:
        if sys.platform == "linux":
            # That each is a command of its own shows below.
            patch.setattr(budget, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": forks.Popen}))
        found = budget.epoch_seconds_together(words, [{"OMP_NUM_THREADS": "1"}] * 2)
    assert 0 < found < 60
    with pytest.raises(RecipeError, match="cannot be started") as error:
        budget.epoch_seconds_together([*words, "--set", "model.rigde=1"], [{}])
    assert "model.rigde" in error.value.text()


def test_folds_and_copies_are_counted():
    assert [t for _, t in trainings(load_recipe("cnn-gru"), 3)] == [1]
    assert trainings(load_recipe("best-fast"), 3) == []
    assert [t for _, t in trainings(load_recipe("ensemble"), 3)] == [3]
    # Each of three networks once, and once more for each of three scenarios.
    assert [t for _, t in trainings(load_recipe("best-networks"), 3)] == [12]
