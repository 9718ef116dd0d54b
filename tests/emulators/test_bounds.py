"""Predictions beyond the bounds of their variables, bounds that change what lies within, one variable for another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from emukit.data.card import parse_card
from emukit.data.frames import FrameEncoder
from emukit.data.protocol import make_split
from emukit.data.targets import TargetNormalizer
from emukit.data.variable import Bounds
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.neural import NeuralEmulator
from emukit.emulators.residuals import training_residuals
from emukit.emulators.sampled import Sampled
from emukit.emulators.variability import global_mean_of
from emukit.emulators.variance_matched import VarianceMatched, _stretched, trend
from emukit.progress import silent_reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import train_run
from tests.coded import warming_archive


def bounded(**bounds: dict[str, float]):
    """The warming archive with bounds of its variables, and its split."""
    archive = warming_archive()
    settings = archive.card.model_dump()
    for v, own in bounds.items():
        settings["targets"][v]["bounds"] = own
    archive = replace(archive, card=parse_card(settings, "tests"))
    return archive, make_split(archive)


def network(archive, split, residual=False):
    recipe = load_recipe("cnn-gru")
    encoder = FrameEncoder.fit(archive, split.train, recipe.inputs)
    normalizer = TargetNormalizer.fit(archive, split.train, {})

    class Zero(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.level = torch.nn.Parameter(torch.tensor(-50.0))

        def forward(self, frames):
            return self.level.expand(len(frames), frames.shape[1] - 11, 2, *archive.grid.shape)

    return NeuralEmulator(archive.domain, "cnn-gru", {}, Zero(), encoder, normalizer, residual=residual)


def test_a_network_s_negative_precipitation_is_not_clipped():
    archive, split = bounded()
    fields = network(archive, split).predict_fields(archive["ssp126"], 12, 24)
    assert (fields[:, 1] == 0).all()
    assert fields[:, 0].max() < 280  # tas has no bound
    assert network(archive, split, residual=True).predict_fields(archive["ssp126"], 12, 24)[:, 1].max() < 0


@pytest.mark.parametrize("bounds", [{"lower": 278.0}, {"upper": 283.0}, {"lower": 278.0, "upper": 283.0}, {}])
def test_a_prediction_beyond_its_bounds_is_not_the_nearest_bound(bounds):
    plain, split = bounded()
    archive, _ = bounded(tas=bounds)
    free = LinearEmulator.fit(plain, split).predict_fields(plain["ssp585"], 0, 180)
    held = LinearEmulator.fit(archive, split).predict_fields(archive["ssp585"], 0, 180)
    assert free[:, 0].min() < 278
    assert free[:, 0].max() > 283
    expected = np.clip(free[:, 0], bounds.get("lower", -np.inf), bounds.get("upper", np.inf))
    np.testing.assert_array_equal(held[:, 0], expected)
    np.testing.assert_array_equal(held[:, 1], free[:, 1])


@pytest.mark.parametrize(("lower", "upper"), [(275.0, None), (None, 290.0), (275.0, 290.0)])
def test_a_stretch_leaves_its_bounds_or_its_mean(lower, upper):
    archive, split = bounded(tas={k: x for k, x in (("lower", lower), ("upper", upper)) if x is not None})
    base = LinearEmulator.fit(archive, split)
    emulator = VarianceMatched.fit(archive, split, [base], (), period=60, block=60, warming=False)
    # So much variability that every cell reaches a bound.
    wild = replace(emulator.variability, level=emulator.variability.level + 100.0)
    emulator = VarianceMatched(archive.domain, [base], wild, 60, 60)
    said, out = (e.predict_fields(archive["ssp585"], 121, 181)[:, 0].astype(np.float64) for e in (base, emulator))
    assert lower is None or out.min() == pytest.approx(lower, abs=1e-4)
    assert upper is None or out.max() == pytest.approx(upper, abs=1e-4)
    if lower is None or upper is None:
        assert (out.std(0) > 1.1 * said.std(0)).mean() > 0.9
        np.testing.assert_allclose(out.mean(0), said.mean(0), atol=1e-3)


def test_a_variable_with_zero_for_a_bound_does_not_vary_in_proportion():
    """pr multiplies by default, and adds where its card takes the bound away; tas the other way round."""
    archive, split = bounded()
    assert archive.domain.relative == (False, True)
    residuals = training_residuals(archive, split.train, 21).values.astype(np.float64)
    np.testing.assert_allclose(residuals.mean((0, 2, 3)), [0, 1], atol=1e-3)
    other, _ = bounded(tas={"lower": 0.0}, pr={})
    assert other.domain.relative == (True, False)
    residuals = training_residuals(other, split.train, 21).values.astype(np.float64)
    np.testing.assert_allclose(residuals.mean((0, 2, 3)), [1, 0], atol=1e-3)
    # Below a bound of its own that is not zero nothing is a share of anything.
    assert bounded(tas={"lower": 200.0})[0].domain.relative == (False, True)


@pytest.mark.parametrize("weather", ["blocks", "eof"])
def test_realisations_of_two_relative_variables_take_each_other_s_mean(weather):
    archive, split = bounded(tas={"lower": 0.0})
    base = LinearEmulator.fit(archive, split)
    options = {"years": 2, "similar": 1.0} if weather == "blocks" else {"modes": 20}
    emulator = Sampled.fit(archive, split, [base], (), weather=weather, smooth=21, **options)
    assert emulator.climatology.shape[:2] == (12, 2)
    fields = np.mean([emulator.member(n).predict_fields(archive["ssp370"], 0, 60) for n in range(30)], axis=0)
    said = base.predict_fields(archive["ssp370"], 0, 60)
    np.testing.assert_allclose(archive.grid.mean(fields).mean(0), archive.grid.mean(said).mean(0), rtol=0.01)
    # As saved before other variables were relative: pr alone, without an axis for it.
    meta, arrays = emulator.own_state()
    plain, _ = bounded()
    old = {k: a for k, a in arrays.items() if k != "climatology"} | {"rain": arrays["climatology"][:, 1]}
    again = Sampled.from_own_state(plain.domain, [base], meta, old)
    np.testing.assert_array_equal(again.climatology, arrays["climatology"][:, 1:])


@pytest.mark.parametrize("name", ["anchor", "additive-gp", "variance-matched", "sampled"])
def test_the_first_variable_is_taken_for_the_temperature(name, tmp_path):
    """The same climate with its variables in another order is predicted alike."""
    archive, _ = bounded()
    turned = replace(
        archive,
        variables=archive.variables[::-1],
        scenarios={k: replace(s, targets=s.targets[:, :, ::-1]) for k, s in archive.items()},
    )
    # Blocks of five years are longer than the runs of this climate.
    words = ["model.years=2"] if name == "sampled" else []
    said = []
    for i, data in enumerate((archive, turned)):
        run, _ = train_run(data, load_recipe(name, None, words), tmp_path / str(i), reporter=silent_reporter())
        said.append(run.emulator(data).predict_fields(data["ssp585"], 60, 180))
    np.testing.assert_allclose(said[1][:, ::-1], said[0], rtol=1e-4, atol=1e-3)


def test_least_warming_holds_for_the_first_variable_or_warmth_is_measured_by_it():
    archive, split = bounded()
    turned = replace(
        archive,
        variables=archive.variables[::-1],
        scenarios={k: replace(s, targets=s.targets[:, :, ::-1]) for k, s in archive.items()},
    )
    options = {"warming": ("CO2", "SO2"), "features": ("SO2",), "least_warming": 1.5}
    held, other = (LinearEmulator.fit(a, split, **options) for a in (archive, turned))
    free = LinearEmulator.fit(archive, split, **{**options, "least_warming": None})
    said, again, plain = (e.predict_fields(archive["ssp585"], 0, 180) for e in (held, other, free))
    np.testing.assert_allclose(again[:, ::-1], said, rtol=1e-4, atol=1e-3)
    assert np.abs(said[:, 0] - plain[:, 0]).max() > 0.1
    np.testing.assert_allclose(said[:, 1], plain[:, 1], rtol=1e-4, atol=1e-4)
    assert global_mean_of(again, turned.domain) == pytest.approx(archive.grid.mean(said[:, 0]).mean(), abs=0.01)


def test_a_stretch_below_an_upper_bound_turns_the_trend():
    rng = np.random.default_rng(0)
    field = 280 + 0.05 * np.arange(120)[:, None, None] + rng.normal(0, 1, (120, 2, 3))
    out = _stretched(field, np.full((2, 3), 4.0), Bounds(upper=500.0), 12)
    np.testing.assert_allclose(out, _stretched(field, np.full((2, 3), 4.0), Bounds(), 12), atol=1e-9)
    np.testing.assert_allclose(trend(out), trend(field), atol=1e-9)
