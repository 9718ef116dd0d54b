"""Fitted numbers that know a target which scores them: of validation, which may only select, or of test.

Over every emulator and every shipped recipe that is not a network: with all targets outside the training months
scrambled, hidden or not, what is fitted stays the same to the last bit; with one training month scrambled it does not.

By design a network's weights are those of the epoch that was best on validation, and the weights of an ensemble may be
chosen there too. What is made with them is held against scrambled test targets alone, except for normalisers and
shares.
"""

import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.emulators.registry import EMULATORS
from emukit.parallel.comm import Comm
from emukit.progress import silent_reporter
from emukit.recipes.catalogue import recipe_names
from emukit.recipes.load import load_recipe
from emukit.recipes.schema import NetworkRecipe, WrapperRecipe, networks_of, parse_recipe
from emukit.runs import fit as trainer
from emukit.training.engine import Execution
from tests.coded import warming_archive

PROTOCOLS = ("official", "k360", "loso:ssp126")
# Seconds at their defaults, and as honest with less.
FASTER = {
    "gaussian-process": ("model.restarts=0", "model.components=3"),
    "random-forest": ("model.trees=10",),
    "best-sampled": ("model.years=3",),
    # What it is told of is fixed before its first step; three show that steps know no more.
    "column-closure": ("model.rounds=3", "model.months=2", "model.hidden=8", "model.substeps=2", "model.held=2"),
    "atlas": (
        "bases.0.recipe=linear",
        "model.block=2",
        "model.memory=3",
        "predictor.model.patch_rows=1",
        "predictor.model.patch_columns=1",
        "predictor.model.dim=8",
        "predictor.model.heads=1",
        "predictor.model.blocks=1",
        "predictor.objective.steps=2",
        "predictor.training.epochs=1",
        "projector.model.width=2",
        "projector.training.epochs=1",
    ),
}
# Not fitted here: the first needs a downscaling run (tests/emulators/test_neural_downscaler.py asks the same of
# what that fits), the second says again what was observed before it begins.
NOT_FITTED = {"downscaled", "persistence"}
TINY = (
    "model.width=4",
    "model.depth=1",
    "training.epochs=2",
    "training.segments.length=60",
    "inputs.window.history=2",
    "inputs.forcings=['CO2', 'SO2']",
)


def tiny(recipe):
    """The recipe with a small network in the place of each, and one of what it takes copies of."""
    if isinstance(recipe, NetworkRecipe):
        return load_recipe("simple-cnn", assignments=TINY)
    if isinstance(recipe, WrapperRecipe):
        bases = [base.model_copy(update={"recipe": tiny(base.recipe), "copies": 1}) for base in recipe.bases]
        return recipe.model_copy(update={"bases": tuple(bases)})
    return recipe


def knows_months(recipe):
    steps = EMULATORS[recipe.emulator].load().steps
    return not steps or "month" in steps


def recipes():
    """Every shipped recipe but networks, of which there is one; and the ensemble that selects on validation."""
    chosen = {name: load_recipe(name, assignments=FASTER.get(name, ())) for name in recipe_names()}
    # What knows days alone cannot be fitted to this climate: tests/emulators/test_typical_year.py asks the same of it.
    kept = {name: tiny(recipe) for name, recipe in chosen.items() if not isinstance(recipe, NetworkRecipe)}
    kept = {name: recipe for name, recipe in kept.items() if knows_months(recipe)}
    kept = {name: recipe for name, recipe in kept.items() if name not in NOT_FITTED}
    bases = [{"recipe": {"emulator": name}} for name in ("linear", "eof-regression")]
    table = {"emulator": "ensemble", "model": {"weights": "validation"}, "bases": bases}
    kept["ensemble weighted on validation"] = parse_recipe(table, "here")
    return kept | {"neural": tiny(chosen["cnn-gru"])}


RECIPES = recipes()
PLANS = []


@cache
def targets():
    return warming_archive()


def scrambled(change):
    """The climate with other targets where `change`, from a scenario's name to months, says so, in all members."""
    rng = np.random.default_rng(1)
    archive, scenarios = targets(), {}
    for name, scenario in archive.items():
        months = change(name)
        values = scenario.targets.copy()
        values[:, months] = rng.normal(0.0, 50.0, values[:, months].shape)
        scenarios[name] = replace(scenario, targets=values)
    return replace(archive, scenarios=scenarios)


def inside(spans, name):
    months = np.zeros(len(targets()[name]), bool)
    for span in spans:
        if span.scenario == name:
            months[span.start : span.stop] = True
    return months


def fitted(archive, recipe, split, folder):
    """Plain values, arrays, and predictions of a scenario that was shown and one that may not have been."""
    emulator, _ = trainer.prepare(archive, recipe, split, 0, Comm(), Execution())(folder, silent_reporter())
    values, arrays = emulator.state()
    said = [emulator.predict_fields(archive[name], 20, len(archive[name])) for name in ("ssp245", "ssp370")]
    return values, arrays, np.stack(said)


def clean(name):
    """Whether an array depends on no network that was selected: normalisers, the factor of a residual correction."""
    return re.search(r"(^|/)(inputs\.|targets\.|shrinkage$)", name) is not None


def test_every_emulator_is_among_the_recipes():
    assert {r.emulator for r in RECIPES.values()} | NOT_FITTED >= {
        n
        for n, e in EMULATORS.built_in.items()
        if e.made != "stepwise" and (not e.load().steps or "month" in e.load().steps)
    }
    assert networks_of(RECIPES["residual-correction"])
    assert networks_of(RECIPES["ensemble"])


@pytest.fixture(autouse=True)
def _one_look_at_memory(monkeypatch):
    """How much of it a network takes, which depends on no target, is measured once for all."""
    measure = trainer.memory_plan
    monkeypatch.setattr(trainer, "memory_plan", lambda *args, **options: _plan(lambda: measure(*args, **options)))


def _plan(measure):
    if not PLANS:
        PLANS.append(measure())
    return PLANS[0]


@pytest.fixture(scope="module")
def as_it_is(tmp_path_factory):
    """What is fitted to the climate as it is, by recipe and protocol."""

    @cache
    def fit(name, protocol):
        return fitted(targets(), RECIPES[name], make_split(targets(), protocol), tmp_path_factory.mktemp("run"))

    return fit


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", RECIPES)
def test_nothing_fitted_knows_a_target_that_scores_it(name, protocol, tmp_path, as_it_is):
    recipe, split = RECIPES[name], make_split(targets(), protocol)
    selects = bool(networks_of(recipe)) or "validation" in name
    values, arrays, said = as_it_is(name, protocol)

    outside = scrambled(lambda s: ~inside(split.train, s))
    other_values, other, other_said = fitted(outside, recipe, split, tmp_path / "unseen")
    assert other_values == values
    assert other.keys() == arrays.keys()
    assert all(np.array_equal(arrays[k], other[k]) for k in arrays if clean(k) or not selects)

    if selects:
        outside = scrambled(lambda s: ~inside((*split.train, *split.validation), s))
        other_values, other, other_said = fitted(outside, recipe, split, tmp_path / "test")
        assert other_values == values
        assert all(np.array_equal(arrays[k], other[k]) for k in arrays)
    np.testing.assert_array_equal(other_said, said)


@pytest.mark.parametrize("name", RECIPES)
def test_a_scrambled_training_month_is_noticed(name, tmp_path, as_it_is):
    recipe, split = RECIPES[name], make_split(targets(), "k360")
    _, arrays, said = as_it_is(name, "k360")
    span = split.train[-1]
    month = (span.start + span.stop) // 2
    shown = scrambled(lambda s: np.arange(len(targets()[s])) == (month if s == span.scenario else -1))
    _, other, other_said = fitted(shown, recipe, split, tmp_path)
    assert not all(np.array_equal(arrays[k], other[k]) for k in arrays)
    assert not np.array_equal(other_said, said)
