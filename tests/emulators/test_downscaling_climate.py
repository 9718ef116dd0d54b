"""What is left in a warmer climate: how warm a step is, what of its pass is weather, and how much more is left."""

from copy import copy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from emukit.data.block_sampler import BlockSettings
from emukit.data.coarsen import Coarsening, CoarseSettings
from emukit.data.grid import Grid
from emukit.data.split import Span
from emukit.data.store import open_store
from emukit.data.targets import Pointwise, TargetNormalizer, TargetSettings
from emukit.data.time import TimeAxis
from emukit.emulators import downscaling_residuals
from emukit.emulators.downscaler import CrossFit, coarse_fields, known_targets
from emukit.emulators.downscaling_residuals import (
    Base,
    Climate,
    ConditionSettings,
    ResidualFrames,
    cross_frames,
    fit_frames,
)
from emukit.emulators.neural_downscaler import (
    NeuralDownscaler,
    build_block_network,
    load_downscaler,
    save_downscaler,
)
from emukit.errors import RecipeError, RunError
from emukit.objectives.registry import OBJECTIVES
from emukit.recipes.downscale import load_downscale

SPANS = (Span("ssp126", 0, 240, (0, 1)), Span("ssp585", 300, 900, (0,)))
SAID = TargetSettings(climatology="cell-month", scale="cell")


@pytest.fixture(scope="module")
def archive(demo_store):
    return open_store(demo_store)


def fitted(archive):
    coarsening = Coarsening(archive.grid, CoarseSettings(grid=(4, 6)))
    conditions = ConditionSettings(width=1, residual="out-of-fold", calibrate=True, climate=True)
    return fit_frames(archive, SPANS, coarsening, known_targets(archive.domain, lambda v: SAID), conditions)


@pytest.fixture(scope="module")
def frames(archive):
    """With a climate, whose exponents are made up."""
    plain = fitted(archive)
    climate = Climate.fit(archive, SPANS, plain.coarsening, plain.passed)
    size = np.random.default_rng(0).uniform(0.5, 2, (12, 2, *archive.grid.shape))
    climate = replace(climate, exponent=np.array([0.05, -0.1]))
    return plain.varied(size=size, far=np.array([0.1, 0.2]), climate=climate)


def test_the_climate_is_the_area_mean_of_the_variable_that_explains_most_and_the_pattern_a_regression_on_it(archive):
    plain = fitted(archive)
    found = Climate.fit(archive, SPANS, plain.coarsening, plain.passed)
    assert archive.variables[found.variable] == "tas"
    truth = [archive[s.scenario].truth(m, s.start, s.stop).astype(np.float64) for s in SPANS for m in s.members]
    season = np.concatenate([archive[s.scenario].calendar_month[s.start : s.stop] for s in SPANS for _ in s.members])
    whole = np.concatenate(truth)
    means = (whole[:, 0] * archive.grid.weights).sum((1, 2))
    center = np.array([means[season == k].mean() for k in range(12)])
    np.testing.assert_allclose(found.center, center, rtol=1e-6)
    index = means - center[season]
    np.testing.assert_allclose(found.scale, np.sqrt((index**2).mean()), rtol=1e-4)
    passed = plain.passed.forward_exactly(plain.coarsening.down_up(whole), season)
    for v, row, column in ((0, 1, 3), (1, 6, 10)):
        slope = np.polyfit(index / found.scale[0], passed[:, v, row, column], 1)[0]
        assert found.pattern[v, row, column] == pytest.approx(slope, abs=1e-3)
    assert (found.exponent == 0).all()


def test_the_climate_is_that_of_the_first_variable_though_another_moves_all(archive, monkeypatch):
    plain, rng = fitted(archive), np.random.default_rng(3)
    coarse, time = rng.normal(size=(240, 2, 4, 6)), archive["ssp126"].time[:240]
    coarse[:, 1] = 5 + rng.normal(size=240)[:, None, None] + 0.1 * coarse[:, 1]
    monkeypatch.setattr(downscaling_residuals, "training_pairs", lambda *which: [(None, coarse, time)])
    found = Climate.fit(archive, SPANS, plain.coarsening, plain.passed)
    assert archive.variables[found.variable] == "pr"
    assert found.scale == pytest.approx(1, abs=0.15)


def test_a_block_is_told_the_climate_of_the_globe_and_counts_the_weather_in_it(archive, frames):
    scenario = archive["ssp585"]
    coarse, time = frames.coarsening.down(scenario.truth(0, 900, 906)), scenario.time[900:906]
    rows, columns = np.arange(2, 6), np.arange(10, 15) % 12
    _, base = frames.block(coarse, time, rows, columns)
    climate = frames.climate
    globe = scenario.truth(0, 900, 906)[:, 0].astype(np.float64)
    index = ((globe * archive.grid.weights).sum((1, 2)) - climate.center[time.season]) / climate.scale
    assert index.min() > 1
    np.testing.assert_allclose(base.climate, index, rtol=1e-4)
    passed = frames.passed.forward_exactly(frames.coarsening.up(coarse), time.season)
    weather = (passed - index[:, None, None, None] * climate.pattern)[..., rows, :][..., columns]
    size = frames.size[time.season][..., rows, :][..., columns]
    for v, (far, exponent) in enumerate(((0.1, 0.05), (0.2, -0.1))):
        expected = size[:, v] * (1 + np.minimum(weather[:, v] ** 2, 36)) ** far
        expected *= np.exp(index * exponent)[:, None, None]
        np.testing.assert_allclose(base.unit[:, v], expected, rtol=1e-3)
    _, whole = frames.block(coarse, time, np.arange(8), np.arange(12))
    np.testing.assert_allclose(base.unit, whole.unit[..., rows, :][..., columns], rtol=1e-12)


def test_no_climate_makes_answers_more_than_three_times_as_large(frames):
    one = frames.climate
    found = one.factor(np.array([-1e9, 0.0, 1e9]))
    np.testing.assert_allclose(found, [[1 / 3, 3], [1, 1], [3, 1 / 3]], rtol=1e-12)


def test_growth_with_the_climate_is_told_from_that_with_unusual_weather():
    """Made with 0.2 and 0.1 of how far the weather is, and with 0.05 and 0.1 for each deviation of the climate."""
    rng = np.random.default_rng(0)
    grid = Grid(np.linspace(-75, 75, 4), np.arange(6) * 60.0)
    settings = {name: TargetSettings(transform="none") for name in ("tas", "pr")}
    ones = np.ones((12, 2, 4, 6))
    fine = TargetNormalizer(settings, [Pointwise("none", 1.0)] * 2, ones, ones)
    time = TimeAxis("month", 0, 4800)
    weather, index = rng.normal(0, 2, (4800, 2, 4, 6)), rng.normal(size=4800)
    far = (1 + np.minimum(weather**2, 36)) ** np.array([0.2, 0.1])[:, None, None]
    grown = np.exp(np.multiply.outer(index, [0.05, 0.1]))[..., None, None]
    left = rng.normal(size=weather.shape) * far * grown
    apart = (ResidualFrames(None, fine, fine, None, np.zeros((0, 4, 6)), (), time),)
    archive = SimpleNamespace(grid=grid)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            downscaling_residuals, "_left", lambda *which: [(Base(weather, weather, None, index), left, time)]
        )
        known = np.array([0.2, 0.1])
        np.testing.assert_allclose(downscaling_residuals._residual_far(archive, (), apart, np.zeros(2)), known)
        # Where the weather of warm months is unusual, what it explains is not for the climate to explain.
        weather = weather * np.exp(0.5 * index)[:, None, None, None]
        left = rng.normal(size=weather.shape) * (1 + np.minimum(weather**2, 36)) ** known[:, None, None] * grown
        # Nor what is left where it rains more, as it does then.
        growth = np.array([0.4, 0.2])
        left *= fine.level(weather, time.season) ** growth[:, None, None]
        found = downscaling_residuals._residual_climate(archive, (), apart, growth, known)
        np.testing.assert_allclose(found, [0.05, 0.1], atol=0.0051)


def test_what_grows_with_warming_in_training_is_as_large_as_it_is_in_a_warmer_month(archive):
    """Fine structure is added to temperature that the coarse field does not tell and that grows with the warming."""
    rng = np.random.default_rng(1)
    plain = fitted(archive)
    rows, columns = (np.arange(n) for n in archive.grid.shape)
    scenarios = {}
    for name in ("ssp126", "ssp585"):
        targets = archive[name].targets.copy()
        warmth = (targets[:, :, 0] * archive.grid.weights).sum((2, 3))
        years = np.stack([np.convolve(np.pad(w, 30, "edge"), np.full(61, 1 / 61), "valid") for w in warmth])
        noise = rng.normal(size=targets[:, :, 0].shape)
        noise -= plain.coarsening.down_up(noise)
        targets[:, :, 0] += 3.0 * np.exp(0.2 * (years - years.min()))[..., None, None] * noise
        scenarios[name] = replace(archive[name], targets=targets.astype(np.float32))
    other = replace(archive, scenarios=scenarios)
    # A warmer part of a scenario than any that trains.
    spans, asked = (Span("ssp126", 0, 400, (0, 1)), Span("ssp585", 0, 700, (0, 1))), Span("ssp585", 900, 1000, (0,))
    frames = fit_frames(
        other, spans, plain.coarsening, known_targets(other.domain, lambda v: SAID), ConditionSettings(width=1)
    )
    crossed = CrossFit.of(other, spans, frames.base, 0.01)
    truth = other["ssp585"].truth(0, asked.start, asked.stop)
    coarse, time = coarse_fields(other, asked, 0, plain.coarsening), other["ssp585"].time[asked.start : asked.stop]
    sizes = {}
    for climate in (False, True):
        whole = cross_frames(other, spans, frames, crossed, calibrate=True, climate=climate).whole
        _, base = whole.block(coarse, time, rows, columns)
        answers = whole.residual(truth, base, time, rows, columns)[:, 0]
        sizes[climate] = float(np.sqrt((answers**2 * archive.grid.weights).sum((1, 2)).mean()))
    assert sizes[False] > 1.2
    assert sizes[True] == pytest.approx(1, abs=0.12)


@pytest.fixture(scope="module")
def saved(archive, frames):
    options = {"width": 4, "depth": 1}
    torch.manual_seed(0)
    network = build_block_network(frames, 2, options, OBJECTIVES.load("crps")(None))
    torch.nn.init.normal_(network.head.weight)
    blocks = BlockSettings(size=(4, 6))
    return NeuralDownscaler(archive.domain, frames.coarsening, frames, network, options, blocks, 2, objective="crps")


def test_saved_and_loaded_knows_the_climate(archive, saved, tmp_path):
    save_downscaler(saved, tmp_path / "emulator")
    coarse, time = saved.coarsening.down(archive["ssp585"].truth(0, 900, 903)), archive["ssp585"].time[900:903]
    loaded = load_downscaler(tmp_path / "emulator")
    np.testing.assert_array_equal(loaded.fields(coarse, time), saved.fields(coarse, time))
    without = copy(saved)
    without.frames = saved.frames.varied(climate=None)
    assert np.abs(without.fields(coarse, time) - saved.fields(coarse, time)).max() > 1e-3


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("variable", "psl"),
        ("variable", ["tas"]),
        ("climate.scale", np.zeros(1)),
        ("climate.center", np.zeros(11)),
        ("climate.pattern", np.zeros((2, 8, 11))),
        ("climate.exponent", np.full(2, np.nan)),
        ("size", None),
    ],
)
def test_a_saved_climate_that_is_damaged_is_refused(saved, tmp_path, monkeypatch, key, value):
    meta, arrays = saved.state()
    if key == "variable":
        meta |= {"climate": value}
    elif value is None:
        del arrays[key]
    else:
        arrays |= {key: value}
    monkeypatch.setattr(NeuralDownscaler, "state", lambda self: (meta, arrays))
    save_downscaler(saved, tmp_path / "emulator")
    with pytest.raises(RunError, match="does not fit"):
        load_downscaler(tmp_path / "emulator")


def test_only_what_draws_counts_the_climate_unless_it_is_asked():
    assert not load_downscale().conditions.climate
    for name in ("crps", "diffusion", "interpolant"):
        assert load_downscale(None, (), name).conditions.climate
        assert not load_downscale(None, ["conditions.climate=false"], name).conditions.climate
        assert not load_downscale(None, ["conditions.calibrate=false"], name).conditions.climate
    assert load_downscale(None, ["objective.name=crps"]).conditions.climate
    assert load_downscale(None, ["conditions.climate=true"]).conditions.climate
    with pytest.raises(RecipeError, match="climate is of what is calibrated"):
        load_downscale(None, ["conditions.calibrate=false", "conditions.climate=true"])


def test_a_recipe_from_before_the_climate_counted_keeps_its_digest():
    """Its record does not say `climate`, and its run would otherwise be refused when it is resumed."""
    before = load_downscale(None, ["conditions.climate=false"], "diffusion")
    assert "climate" not in before.model_dump(mode="json")["conditions"]
    assert before.digest == "eddad534b678c92f858feeab786eb64bc7dad02886f959a8246152635f91ffce"
