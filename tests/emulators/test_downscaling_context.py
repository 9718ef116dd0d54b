"""Steps before and after the one that is downscaled: what is seen of them, and what is never seen."""

import tracemalloc
from copy import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

from emukit.data.block_sampler import BlockSampler, BlockSettings
from emukit.data.coarsen import Coarsening, CoarseSettings, in_context
from emukit.data.protocol import make_split
from emukit.data.split import Span
from emukit.data.targets import TargetSettings
from emukit.emulators import downscaler
from emukit.emulators.base import Emulator
from emukit.emulators.downscaled import Downscaled
from emukit.emulators.downscaler import Neighbourhood, coarse_fields, fit_baselines, fit_bytes, known_targets
from emukit.emulators.downscaling_residuals import ConditionSettings, fit_frames
from emukit.emulators.neural_downscaler import (
    NeuralDownscaler,
    build_block_network,
    load_downscaler,
    save_downscaler,
)
from emukit.errors import RecipeError, RunError
from emukit.objectives.registry import OBJECTIVES
from emukit.progress import Reporter
from emukit.recipes.downscale import load_downscale, parse_downscale
from emukit.runs import downscale, downscaled_file
from emukit.runs.downscaled_file import downscale_file

SPANS = (Span("ssp126", 0, 240, (0, 1)),)
QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def seen(archive, coarsening):
    """A network whose head is not zero, with a context of one step, and the coarse fields of thirty months."""
    conditions = ConditionSettings(width=3, context=1, context_width=1, root="cbrt", residual="out-of-fold")
    said = TargetSettings(climatology="cell-month", scale="cell")
    frames = fit_frames(archive, SPANS, coarsening, known_targets(archive.domain, lambda v: said, "cbrt"), conditions)
    options = {"width": 4, "depth": 1}
    torch.manual_seed(0)
    network = build_block_network(frames, 2, options, OBJECTIVES.load("regression")(None))
    nn.init.normal_(network.head.weight)
    one = NeuralDownscaler(archive.domain, coarsening, frames, network, options, BlockSettings(size=(4, 6)), 2)
    span = Span("ssp370", 100, 130, (0,))
    plain = coarse_fields(archive, span, 0, coarsening)
    return one, plain, archive["ssp370"].time[100:130]


def test_regression_is_a_plain_ridge_on_the_months_before_and_after_too(archive, coarsening):
    fitted = Neighbourhood.fit(
        archive, SPANS, coarsening, ("none", "cbrt"), width=1, penalty=0.02, context=1, context_width=3
    )
    truth, coarse, month = [], [], archive["ssp126"].calendar_month[:240]
    for m in (0, 1):
        fields = archive["ssp126"].truth(m, 0, 240).astype(np.float64)
        for out, own in ((truth, fields), (coarse, coarsening.down(fields))):
            out.append(np.stack([own[:, 0], np.cbrt(np.maximum(own[:, 1], 0))], 1))
    truth, coarse = np.stack(truth), np.stack(coarse)
    t_mean = np.stack([truth[:, month == k].mean((0, 1)) for k in range(12)])
    c_mean = np.stack([coarse[:, month == k].mean((0, 1)) for k in range(12)])
    anomaly = coarse - c_mean[month]
    row, column, v = 5, 11, 1
    y, x = 2, 5
    square = [(min(max(y + dy, 0), 3), (x + dx) % 6) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]

    def features(a, step):
        """Of one member: the cell itself, then nine of the month before and nine of the month after."""
        out = [a[step, w, y, x] for w in (0, 1)]
        for other in (step - 1, step + 1):
            there = 0 <= other < len(a)
            out += [a[other, w, i, j] if there else 0.0 for w in (0, 1) for i, j in square]
        return out

    asked = Span("ssp585", 500, 530, (0,))
    shown = coarse_fields(archive, asked, 0, coarsening, 1)
    time = archive["ssp585"].time[500:530]
    own = coarsening.down(archive["ssp585"].truth(0, 500, 530))
    own = np.stack([own[:, 0], np.cbrt(np.maximum(own[:, 1], 0))], 1) - c_mean[time.month]
    found = fitted.fields(shown, time)
    for step in (0, 7, 29):
        g = time.month[step]
        near = np.flatnonzero(np.isin(month, [(g - 1) % 12, g, (g + 1) % 12]))
        X = np.array([features(anomaly[m], s) for m in (0, 1) for s in near])
        target = np.array([(truth[m, s] - t_mean[month[s]])[v, row, column] for m in (0, 1) for s in near])
        scale = np.sqrt((X**2).mean(0))
        Z = X / scale
        beta = np.linalg.solve(Z.T @ Z + 0.02 * len(Z) * np.eye(38), Z.T @ target) / scale
        expected = max(t_mean[g][v, row, column] + np.array(features(own, step)) @ beta, 0.0) ** 3
        assert found[step, v, row, column] == pytest.approx(expected, rel=1e-4)


def test_regression_does_not_depend_on_how_training_steps_are_read(archive, coarsening, monkeypatch):
    def fitted():
        return Neighbourhood.fit(archive, SPANS, coarsening, ("none", "sqrt"), width=1, context=2).weights

    whole = fitted()
    monkeypatch.setattr(downscaler, "_STEPS", 7)
    np.testing.assert_allclose(fitted(), whole, rtol=1e-4, atol=1e-5)


def test_no_step_outside_a_span_is_seen(archive, coarsening):
    """Next to a training span lie months that are held out, or hidden by zeros."""
    span = Span("ssp126", 20, 30, (0,))
    fields = coarse_fields(archive, span, 0, coarsening, 2)
    assert np.isnan(fields[0, 2:4]).all()
    assert np.isnan(fields[-1, 4:6]).all()
    assert np.isnan(fields[1, 6:8]).all()
    np.testing.assert_array_equal(fields[1, 2:4], fields[0, :2])
    middle = coarse_fields(archive, span, 0, coarsening, 2, slice(4, 6))
    np.testing.assert_array_equal(middle, fields[4:6])


def test_the_network_is_shown_the_passes_of_its_neighbours_in_the_units_of_their_own_season(archive, seen):
    one, plain, time = seen
    frames = one.frames
    rows, columns = np.arange(2, 6), np.arange(10, 15) % 12
    shown, _ = frames.block(in_context(plain, 1), time, rows, columns)
    assert shown.shape[1] == len(frames.channels)
    at = frames.channels.index
    for v, name in enumerate(archive.variables):
        passed = frames.passed.forward_exactly(one.coarsening.up(plain), time.season)[:, v]
        own = passed[:, rows][..., columns]
        np.testing.assert_allclose(shown[:, at(f"coarse {name}")], own, atol=1e-5)
        np.testing.assert_allclose(shown[1:, at(f"coarse {name} -1")], own[:-1], atol=1e-5)
        np.testing.assert_allclose(shown[:-1, at(f"coarse {name} +1")], own[1:], atol=1e-5)
        assert (shown[0, at(f"coarse {name} -1")] == 0).all()
        assert (shown[-1, at(f"coarse {name} +1")] == 0).all()


def test_answers_change_with_the_month_before_and_after_and_no_other(seen):
    one, plain, time = seen
    known = one.fields(in_context(plain, 1), time)
    changed = plain.copy()
    changed[15, 0] += 3.0
    found = one.fields(in_context(changed, 1), time)
    moved = np.abs(found - known).max((1, 2, 3)) > 1e-6
    np.testing.assert_array_equal(np.flatnonzero(moved), [14, 15, 16])


def test_fields_without_the_context_are_refused_and_more_of_it_is_left_out(archive, seen):
    one, plain, time = seen
    with pytest.raises(ValueError, match="2 coarse fields of each step, not 6"):
        one.fields(plain, time)
    known = one.fields(in_context(plain, 1), time)
    np.testing.assert_array_equal(one.fields(in_context(plain, 3), time), known)
    for baseline in fit_baselines(archive, SPANS, one.coarsening):
        np.testing.assert_array_equal(baseline.fields(in_context(plain, 1), time), baseline.fields(plain, time))


def test_blocks_of_training_see_the_neighbours_of_their_step(archive, seen):
    one, _, _ = seen
    sampler = BlockSampler(archive, SPANS, one.coarsening, one.frames, BlockSettings(size=(4, 6), times=2))
    for address in sampler.epoch(0, 0)[0]:
        rows, columns = sampler.cells(address)
        time = archive["ssp126"].time[address.step : address.step + 1]
        part = slice(address.step, address.step + 1)
        coarse = coarse_fields(archive, SPANS[0], (0, 1)[address.member], one.coarsening, 1, part)
        shown, _ = one.frames.block(coarse, time, rows, columns)
        # The sampler keeps coarse fields in single precision.
        np.testing.assert_allclose(sampler.batch([address]).frames[0], shown, atol=5e-4)


def test_saved_and_loaded_sees_the_same(seen, tmp_path):
    one, plain, time = seen
    size = np.random.default_rng(0).uniform(0.5, 2, (12, 2, *one.domain.grid.shape))
    one = copy(one)
    one.frames = one.frames.varied(size=size, growth=np.array([0.0, 0.3]), far=np.array([0.2, 0.1]))
    save_downscaler(one, tmp_path / "emulator")
    loaded = load_downscaler(tmp_path / "emulator")
    shown = in_context(plain, 1)
    np.testing.assert_array_equal(loaded.fields(shown, time), one.fields(shown, time))
    assert loaded.context == loaded.frames.base.context == 1


@pytest.mark.parametrize(("key", "value"), [("context", 2), ("context", "1"), ("context", -1), ("context", 10**9)])
def test_a_saved_context_that_is_not_that_of_its_regression_is_refused(seen, tmp_path, monkeypatch, key, value):
    one, _, _ = seen
    meta, arrays = one.state()
    monkeypatch.setattr(NeuralDownscaler, "state", lambda self: ({**meta, key: value}, arrays))
    save_downscaler(one, tmp_path / "emulator")
    with pytest.raises(RunError, match="does not fit"):
        load_downscaler(tmp_path / "emulator")


def test_a_file_read_in_parts_gives_what_it_gives_at_once(archive, seen, tmp_path, monkeypatch):
    one, plain, time = seen
    names = archive.domain.described
    xr.Dataset(
        {v.name: (("time", "y", "x"), plain[:, i], {"units": v.units}) for i, v in enumerate(names)},
        coords={"time": time.cf_time(), "y": one.coarsening.grid.lat, "x": one.coarsening.grid.lon},
    ).to_netcdf(tmp_path / "coarse.nc")
    monkeypatch.setattr(downscaled_file, "_PART_BYTES", 8 * 8 * 96 * 2)
    downscale_file(one, tmp_path / "coarse.nc", tmp_path / "fine.zarr", reporter=QUIET)
    with xr.open_zarr(tmp_path / "fine.zarr") as written:
        assert written.tas.encoding["chunks"][0] == 8
        expected = one.fields(in_context(plain, 1), time)
        for v, variable in enumerate(names):
            np.testing.assert_allclose(written[variable.name].values, expected[:, v], rtol=1e-5, atol=1e-6)


class Known(Emulator):
    """A coarse emulator that says what it is given for each step."""

    kind = "known"

    def __init__(self, domain, fields):
        super().__init__(domain)
        self.fields = fields

    def predict_fields(self, scenario, start, stop):
        return self.fields[start:stop]

    def state(self):
        return {}, {}

    @classmethod
    def from_state(cls, domain, meta, arrays):
        raise NotImplementedError


class Late(Known):
    """One whose window reaches eleven months back."""

    kind = "late"
    first_month = 11

    def predict_fields(self, scenario, start, stop):
        assert start >= self.first_month
        return super().predict_fields(scenario, start, stop)


def test_what_an_emulator_says_of_a_month_does_not_depend_on_which_months_are_asked_for(archive, seen):
    one, _, _ = seen
    scenario = archive["ssp126"]
    whole = Span("ssp126", 0, len(scenario), (0,))
    said = coarse_fields(archive, whole, 0, one.coarsening).astype(np.float32)
    emulator = Downscaled(archive.domain, (Known(replace(archive.domain, grid=one.coarsening.grid), said),), one)
    wide, narrow = emulator.predict_fields(scenario, 0, 90), emulator.predict_fields(scenario, 40, 47)
    np.testing.assert_allclose(narrow, wide[40:47], rtol=1e-5, atol=1e-5)
    assert emulator.predict_fields(scenario, len(scenario) - 1, len(scenario)).shape[0] == 1


def test_months_before_the_first_of_a_base_are_not_asked_of_it(archive, seen):
    """A base whose window drops the first months would refuse them, and with them its own first month."""
    one, _, _ = seen
    scenario = archive["ssp126"]
    said = coarse_fields(archive, Span("ssp126", 0, len(scenario), (0,)), 0, one.coarsening).astype(np.float32)
    base = Late(replace(archive.domain, grid=one.coarsening.grid), said)
    emulator = Downscaled(archive.domain, (base,), one)
    assert emulator.first_month == Late.first_month == 11
    first = emulator.predict_fields(scenario, 11, 15)
    np.testing.assert_allclose(emulator.predict_fields(scenario, 11, 12), first[:1], rtol=1e-5, atol=1e-5)
    # What the base says of the first month is seen next to the second.
    np.testing.assert_allclose(emulator.predict_fields(scenario, 12, 14), first[1:3], rtol=1e-5, atol=1e-5)


def test_a_width_of_a_context_that_is_not_there_is_refused():
    with pytest.raises(RecipeError, match="context_width is of a regression with a context"):
        load_downscale(None, ["conditions.context=0", "conditions.context_width=5"])
    with pytest.raises(RecipeError, match="odd number"):
        load_downscale(None, ["conditions.context=1", "conditions.context_width=4"])


def test_settings_of_a_regression_that_the_pass_would_ignore():
    with pytest.raises(RecipeError) as e:
        load_downscale(None, ["conditions.base=pass", "conditions.width=7", "conditions.penalty=0.1"])
    assert e.value.what == "conditions.width and conditions.penalty would do nothing"
    assert "conditions.width = 7, conditions.penalty = 0.1" in e.value.found
    with pytest.raises(RecipeError, match=r"conditions\.penalty would do nothing"):
        load_downscale(None, ["conditions.base=pass", "conditions.penalty=0.1"])
    recipe = load_downscale(None, ["conditions.base=pass", "conditions.width=5"])
    assert recipe.conditions.base == "pass"
    # Runs of before it was refused are still read.
    values = recipe.model_dump(mode="json", exclude={"training": {"segments"}})
    values["conditions"]["width"] = 7
    assert parse_downscale(values, "a record").conditions.width == 7


@pytest.mark.parametrize(("width", "context", "context_width"), [(5, 0, 1), (3, 2, 5), (7, 1, 3)])
def test_memory_of_the_regression_is_what_is_said_before_it_is_fitted(
    archive, coarsening, width, context, context_width
):
    span, options = Span("ssp126", 0, 240, (0,)), {"width": width, "context": context, "context_width": context_width}
    said = fit_bytes(2, archive.grid.shape, coarsening.shape, archive.time.seasons, **options)
    tracemalloc.start()
    try:
        Neighbourhood.fit(archive, (span,), coarsening, ("none", "cbrt"), **options)
        held = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert held / 1.3 < said < held * 1.3


def test_a_regression_that_does_not_fit_is_refused_before_anything_is_read(archive, monkeypatch):
    def read(*args, **kwargs):
        raise AssertionError("it reads")

    small = ("coarse=4,6", "blocks.size=4,6", "model.depth=1")
    large = ("conditions.context=6", "conditions.width=15", "conditions.context_width=15")
    recipe = load_downscale(None, [*small, *large])
    for name in ("fit_baselines", "fit_frames"):
        monkeypatch.setattr(downscale, name, read)
    split = make_split(archive, "k360")
    # F = 2 (225 + 12 x 225) = 5850: 12 x 24 cells take 79 GB of products alone.
    monkeypatch.setattr(downscale, "host_free", lambda: 70 << 30)
    with pytest.raises(RecipeError, match="does not fit into memory") as e:
        downscale.DownscaleTrainer(archive, recipe, split, 0, QUIET)
    assert "conditions.context_width = 15" in e.value.found
    assert e.value.expected == "less than the 75.2 GB that are free"
    monkeypatch.setattr(downscale, "host_free", lambda: 200 << 30)
    with pytest.raises(AssertionError, match="it reads"):
        downscale.DownscaleTrainer(archive, recipe, split, 0, QUIET)


def test_a_calibration_of_what_is_left_in_sample_does_nothing():
    assert load_downscale().conditions.calibrate
    in_sample = "conditions.residual=in-sample"
    assert not load_downscale(None, [in_sample]).conditions.calibrate
    assert not load_downscale(None, ["conditions.calibrate=false"]).conditions.calibrate
    with pytest.raises(RecipeError, match="calibrate is of what is left out of fold"):
        load_downscale(None, [in_sample, "conditions.calibrate=true"])


def test_training_with_a_context_hides_what_is_held_out(archive):
    """Months next to a training span are changed, and nothing that is fitted changes."""
    split = make_split(archive, "loso:ssp585")
    span = next(s for s in split.train if s.stop < len(archive[s.scenario]) or s.start > 0)
    scenario = archive[span.scenario]
    targets = scenario.targets.copy()
    targets[:, span.stop :] += 5.0
    targets[:, : span.start] += 5.0
    other = replace(archive, scenarios={**archive.scenarios, span.scenario: replace(scenario, targets=targets)})
    coarsening = Coarsening(archive.grid, CoarseSettings(grid=(4, 6)))
    fits = [Neighbourhood.fit(a, (span,), coarsening, ("none", "sqrt"), width=1, context=2) for a in (archive, other)]
    np.testing.assert_array_equal(fits[0].weights, fits[1].weights)
