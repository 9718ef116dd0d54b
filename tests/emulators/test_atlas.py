"""Realisations that depend on what else is asked, blocks that lose the mean, variance that a trajectory loses."""

import io
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from emukit.data.grid import Grid
from emukit.data.protocol import make_split
from emukit.emulators.atlas import PREDICTOR, PROJECTOR, SPIN_UP, Atlas, Part, RowSampler, calibrated, unresolved
from emukit.emulators.internal_state import DAMPING, StateSeries, StateSpace, block_means, check_blocks
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.emulators.residuals import Residuals, globe_deviations, training_residuals
from emukit.errors import RecipeError
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.recipes.schema import PartTraining
from emukit.runs.ensemble_scores import evaluate_ensemble
from emukit.runs.generator import PartTrainer
from emukit.runs.run import train_run
from tests.coded import small_grid, warming_archive

QUIET = Reporter(quiet=True)
SMALL = (
    "bases.0.recipe=linear",
    "model.block=2",
    "model.memory=3",
    "predictor.model.patch_rows=1",
    "predictor.model.patch_columns=1",
    "predictor.model.dim=8",
    "predictor.model.heads=1",
    "predictor.model.blocks=1",
    "predictor.training.epochs=1",
    "predictor.training.per_batch=32",
    "projector.model.width=2",
    "projector.training.epochs=1",
)
CHEAP = {
    "crps": (),
    "diffusion": ("predictor.objective.steps=3",),
    "interpolant": ("predictor.objective.steps=2",),
}


def residuals(months=240, runs=2, rho=0.6, grid=(4, 6), seed=0):
    """Variability by formula: an AR(1) of cells and of the globe, one variable added and one a factor."""
    rng = np.random.default_rng(seed)
    series = np.zeros((runs * months, 2, *grid))
    for r in range(runs):
        x = rng.standard_normal((2, *grid))
        for t in range(months):
            x = rho * x + (1 - rho**2) ** 0.5 * rng.standard_normal((2, *grid))
            series[r * months + t] = x
    values = np.stack((2 * series[:, 0], np.maximum(1 + 0.2 * series[:, 1], 0)), 1).astype(np.float16)
    month = np.tile(np.arange(months) % 12, runs)
    return Residuals(values, np.arange(runs) * months, month, np.linspace(0, 3, runs * months).astype(np.float32))


def series_of(found=None, grid=None, globe=None, **options):
    found, grid = found or residuals(), grid or small_grid()
    if globe is None:
        globe = np.zeros((len(found.values), 1))
    return StateSeries.of(found, grid, (False, True), globe, **({"size": 2, "history": 2, "memory": 3} | options))


@pytest.fixture(scope="module")
def series():
    return series_of()


def test_states_are_of_unit_variance_and_lead_back(series):
    found = residuals()
    states, space = series.states.astype(np.float64), series.space
    for m in (0, 7):
        own = states[series.month == m]
        np.testing.assert_allclose(own.mean(0), 0, atol=2e-3)
        np.testing.assert_allclose(own.std(0), 1, atol=2e-3)
    back = space.inverse(space.forward(found.values, found.month), found.month)
    np.testing.assert_allclose(back, found.values.astype(np.float64), atol=2e-3)
    assert space.inverse(np.full((1, 2, 4, 6), -99.0), np.array([0]))[:, 1].max() == 0


def test_blocks_keep_the_area_mean_and_details_have_none(series):
    space, state = series.space, series.state(np.arange(5))
    weights = torch.from_numpy(space.weights)
    blocks = space.blocks(state)
    plain = [
        [(state * weights)[..., 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum((-1, -2)) for j in range(3)] for i in range(2)
    ]
    areas = [[weights[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].sum() for j in range(3)] for i in range(2)]
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(blocks[..., i, j], plain[i][j] / areas[i][j])
    torch.testing.assert_close((space.spread_out(blocks) * weights).sum((-1, -2)), (state * weights).sum((-1, -2)))
    assert space.blocks(space.without_blocks(state)).abs().max() < 1e-5
    torch.testing.assert_close(space.blocks(space.spread_out(blocks)), blocks, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(space.spread_out(blocks.roll(1, -1)), space.spread_out(blocks).roll(2, -1))
    # On straight lines between the middles of blocks, from their own numbers: two cells next to an edge, a half apart.
    torch.testing.assert_close(space.spread_out(torch.ones(2, 3)), torch.ones(4, 6))
    torch.testing.assert_close(space.blocks(state.roll(2, -1)), blocks.roll(1, -1))
    torch.testing.assert_close(block_means(torch.ones(4, 6), weights, 2), torch.ones(2, 3))
    assert RowSampler(series, PREDICTOR).weights.sum() == pytest.approx(1)


def test_sum_of_innovations_is_the_state(series):
    """From a month on, damped persistence and innovations, blocks and details, give every later state again."""
    space, rows = series.space, series.rows[:30]
    state = series.state(rows[:1] - 1)
    blocks = space.blocks(state)
    for row in rows:
        at = np.array([row])
        before = space.without_blocks(state)
        detail = space.expected_details(before, series.blocks[at - 1], series.blocks[at])
        detail = detail + torch.from_numpy(space.detail_innovation) * series.detail_innovation(at)
        blocks = space.next_blocks(series.past(at), series.block_innovation(at))[0]
        state = space.spread_out(blocks) + space.without_blocks(detail)
        torch.testing.assert_close(state, series.state(at), atol=5e-3, rtol=0)


def test_innovations_are_what_the_month_before_does_not_say(series):
    # Of blocks the regression is damped; of their month before it would otherwise leave 0.5.
    for innovation, before, most in (
        (series.block_innovation(series.rows), series.blocks[torch.from_numpy(series.rows - 1)], 0.06),
        (series.detail_innovation(series.rows), series.space.without_blocks(series.state(series.rows - 1)), 2e-3),
    ):
        assert (innovation * before).mean(0).abs().max() < most
        torch.testing.assert_close(innovation.square().mean(0), torch.ones(innovation.shape[1:]), atol=2e-3, rtol=0)


def together(months=400, runs=3, seed=1, travel=0.5):
    """Variability in which cells vary against each other, and one follows another: a wave that travels."""
    rng = np.random.default_rng(seed)
    mixing = np.eye(24) + 0.8 * np.roll(np.eye(24), 7, 0) - 0.7 * np.roll(np.eye(24), 12, 1)
    propagator = travel * np.roll(np.eye(24), 1, 0) + 0.3 * np.eye(24)
    x, out = np.zeros((2, 24)), np.empty((runs * months, 2, 24))
    for t in range(runs * months):
        x = x @ propagator.T + rng.standard_normal((2, 24)) @ mixing.T
        out[t] = x
    values = np.stack((out[:, 0], np.maximum(1 + 0.05 * out[:, 1], 0)), 1).reshape(-1, 2, 4, 6).astype(np.float16)
    month = np.tile(np.arange(months) % 12, runs)
    return Residuals(values, np.arange(runs) * months, month, np.linspace(0, 3, runs * months).astype(np.float32))


def test_what_is_drawn_apart_varies_together(archive):
    """Independent noise gives blocks the covariance of training runs, also from month to month, and so the globe's."""
    series = series_of(together())
    emulator = formula(archive, series)
    states = states_of(emulator, archive["ssp245"], 60)
    drawn = series.space.blocks(torch.from_numpy(states[:, SPIN_UP:])).numpy().reshape(60, 181, 12)
    known = series.blocks.numpy().reshape(3, 400, 12)
    for lag in (0, 1, 2):
        found, expected = (
            np.einsum("eti,etj->ij", x[:, lag:], x[:, : x.shape[1] - lag]) / (len(x) * (x.shape[1] - lag))
            for x in (drawn, known)
        )
        scale = np.sqrt(np.outer(known.var((0, 1)), known.var((0, 1))))
        np.testing.assert_allclose(found / scale, expected / scale, atol=0.12)
    # The wave is in what was compared.
    assert np.abs(expected / scale - np.diag(np.diag(expected / scale))).max() > 0.3


def test_regression_of_blocks_is_that_of_all_on_all_of_their_past(series):
    rows, space = series.rows, series.space
    past = np.stack([series.blocks[r - 3 : r].numpy() for r in rows]) / space.spread
    x = np.concatenate([past[:, 2 - 1 :].reshape(len(rows), -1), past.mean(1).reshape(len(rows), -1)], 1)
    y = (series.blocks.numpy()[rows] / space.spread).reshape(len(rows), -1)
    root = np.sqrt(DAMPING * x.shape[1])
    table = np.vstack((x, root * np.eye(x.shape[1])))
    best = np.linalg.lstsq(table, np.vstack((y, np.zeros((x.shape[1], 12)))), rcond=None)[0]
    np.testing.assert_allclose(space.regression, best, atol=1e-4)
    left = y - x @ best
    np.testing.assert_allclose(space.root @ space.root.T, left.T @ left / len(left), atol=1e-4)
    np.testing.assert_allclose(series.whitening @ space.root, np.eye(12), atol=1e-3)


def test_regression_that_would_grow_without_end_is_damped_more():
    """A run that drifts away has a regression that does."""
    found = residuals(months=60)
    growing = found.values.astype(np.float64)
    growing[:, 0] *= 1.08 ** np.tile(np.arange(60), 2)[:, None, None]
    series = series_of(replace(found, values=np.clip(growing, -6e4, 6e4).astype(np.float16)))
    past = torch.randn(8, 3, 2, 2, 3, generator=torch.Generator().manual_seed(0))
    first = past[:, -1].square().sum()
    for _ in range(500):
        past = torch.cat((past[:, 1:], series.space.next_blocks(past, torch.zeros(8, 2, 2, 3))[:, None]), 1)
    assert past[:, -1].square().sum() < first


def test_the_globe_follows_from_its_blocks_and_from_itself(archive):
    """What training months say of the globe is what is drawn, whatever the cells of a draw add up to."""
    found = together(travel=0.0)
    rng = np.random.default_rng(3)
    season = np.where(found.month < 6, 0.01, 0.03)
    plain = series_of(found)
    said = plain.blocks.numpy()[:, 1].mean((1, 2)) / plain.blocks.numpy()[:, 1].mean((1, 2)).std()
    globe, own = np.zeros((len(found.values), 1)), 0.0
    for t, value in enumerate(said):
        own = 0.6 * own + 0.5 * value + 0.4 * rng.standard_normal()
        globe[t] = season[t] * own
    series = series_of(found, globe=globe)
    known = globe[:, 0] / season
    assert series.space.globe_innovation[0] == pytest.approx(0.4 / known.std(), rel=0.1)
    emulator, scenario = formula(archive, series), archive["ssp245"]
    drawn = np.stack([live.globe.numpy()[:, 0] for live in emulator._trajectory(scenario, 0, 181, tuple(range(60)))], 1)
    assert drawn[:, SPIN_UP:].std() == pytest.approx(1.0, rel=0.1)
    lagged = (drawn[:, SPIN_UP + 1 :] * drawn[:, SPIN_UP:-1]).mean()
    assert lagged == pytest.approx((known[1:] * known[:-1]).mean() / known.var(), abs=0.08)
    # Fields have it: the base is the usual, so that nothing is scaled.
    whole = emulator.predict_members(scenario, 0, 181, 60)[:, :, 1]
    found_globe = archive.grid.mean(whole) / archive.grid.mean(np.ones((4, 6)))
    wanted = drawn[:, SPIN_UP:] * series.space.globe_scale[scenario.calendar_month, 0]
    np.testing.assert_allclose(found_globe - 1, wanted, atol=1e-4)


def test_globe_of_a_run_is_that_of_its_own_mean(archive):
    """From the fields of a run, and not from factors of cells, which balance on the run's own mean alone."""
    spans = make_split(archive, "k360").train
    found, months = globe_deviations(archive, spans, 1), 0
    expected = []
    for s in spans:
        means = np.stack([archive.grid.mean(archive[s.scenario].truth(m, s.start, s.stop)[:, 1]) for m in s.members])
        expected.append(((means / means.mean(0) - 1) * (len(s.members) / (len(s.members) - 1)) ** 0.5).ravel())
        months += len(s) * len(s.members)
    assert found.shape == (months, 1) == (len(training_residuals(archive, spans, 1).values), 1)
    month = np.concatenate(
        [np.tile(archive[s.scenario].calendar_month[s.start : s.stop], len(s.members)) for s in spans]
    )
    plain = np.concatenate(expected)
    for m in range(12):
        plain[month == m] -= plain[month == m].mean()
    np.testing.assert_allclose(found[:, 0], plain, atol=1e-6)


def test_blocks_of_an_earlier_version_keep_a_share_of_themselves(series):
    """Its statistics were of every block alone."""
    space = series.space
    rng = np.random.default_rng(0)
    shares, sizes = rng.uniform(0.2, 0.8, (2, 2, 2, 3)).astype(np.float32)
    new = ("regression", "root", "rows", "columns", "globe", "globe_innovation", "globe_scale")
    arrays = {k: v for k, v in space.arrays().items() if k not in new}
    old = StateSpace.from_parts({**arrays, "persistence": shares, "innovation": sizes}, space.numbers())
    past, drawn = torch.randn(5, 3, 2, 2, 3), torch.randn(5, 2, 2, 3)
    expected = torch.from_numpy(shares) * past[:, -1] + torch.from_numpy(sizes) * drawn
    torch.testing.assert_close(old.next_blocks(past, drawn), expected)
    blocks = drawn.repeat_interleave(2, -2).repeat_interleave(2, -1)
    torch.testing.assert_close(old.spread_out(drawn), blocks)
    assert old.globe.shape == (36 + 12, 0)


def test_months_without_their_past_are_not_learned_from(series):
    runs, past = residuals().runs, series.space.past
    assert past == 3
    assert set(series.rows) == {n for r in runs for n in range(r.start + 3, r.stop)}
    assert torch.equal(series.past(np.array([10]))[0], series.blocks[7:10])
    frames = series.space.block_frames(series.past(np.array([10])), series.setting(np.array([10])))
    assert frames.shape == (1, 1, series.space.block_channels, 2, 3)
    scaled = series.blocks[7:10] / torch.from_numpy(series.space.spread)
    torch.testing.assert_close(frames[0, 0, :4], scaled[1:].flatten(0, 1))
    torch.testing.assert_close(frames[0, 0, 4:6], scaled.mean(0))
    assert frames[0, 0, -1, 0, 0] == pytest.approx((float(series.warming[10]) - 1.5) / series.warming.std(), abs=1e-3)


def test_details_are_drawn_from_the_full_field_before_and_the_new_blocks(series):
    space, sampler = series.space, RowSampler(series, PROJECTOR)
    sample = sampler.batch([9, 20])
    before = series.state(np.array([8, 19]))
    assert sample.frames.shape == (2, 1, sampler.channels, 4, 6)
    torch.testing.assert_close(sample.frames[:, 0, :2], space.without_blocks(before))
    torch.testing.assert_close(sample.frames[:, 0, 2:4], space.spread_out(space.blocks(before)))
    torch.testing.assert_close(sample.frames[:, 0, 4:6], space.spread_out(series.blocks[[9, 20]]))
    blocks = RowSampler(series, PREDICTOR).batch([9, 20])
    torch.testing.assert_close(blocks.named["source"][:, 0], series.blocks[[8, 19]] / torch.from_numpy(space.spread))


def test_an_epoch_is_every_month_once_in_an_order_of_seed_and_epoch(series):
    sampler = RowSampler(series, PREDICTOR, per_batch=50)
    epoch = sampler.epoch(3, 1)
    rows = [row for batch in epoch for row in batch]
    assert len(epoch) == sampler.steps_per_epoch == len(series.rows) // 50
    assert len(set(rows)) == len(rows) == 450
    assert set(rows) <= set(series.rows.tolist())
    assert sampler.epoch(3, 1) == epoch
    assert sampler.epoch(3, 2) != epoch != sampler.epoch(4, 1)


def test_more_blocks_than_can_be_drawn_together_are_refused():
    with pytest.raises(RecipeError, match=r"model\.block") as caught:
        check_blocks((180, 360), 4, 2)
    assert caught.value.found == "8,100 blocks of all variables"
    check_blocks((48, 72), 2, 2)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_blocks_that_do_not_divide_the_grid_are_refused(size):
    with pytest.raises(RecipeError, match=r"model.block is out of range") as caught:
        series_of(size=size)
    assert caught.value.expected == "one of 2"
    assert caught.value.hint == "--set model.block=2"


def test_statistics_are_saved_whole(series):
    space = series.space
    again = StateSpace.from_parts(space.arrays(), space.numbers())
    for name, value in vars(space).items():
        np.testing.assert_array_equal(getattr(again, name), value)


class Noise(nn.Module):
    """A network whose answer is its noise: innovations of independent cells."""

    def __init__(self, variables=2):
        super().__init__()
        self.variables = variables

    def forward(self, frames):
        return frames[:, :, -self.variables :]


class Flat(LinearEmulator):
    """A base without change."""

    def __init__(self, domain, value=280.0):
        self.domain, self.value, self.asked = domain, value, []

    first_month = 2

    def predict_fields(self, scenario, start, stop):
        self.asked.append((start, stop))
        trend = np.arange(start, stop, dtype=np.float32)[:, None, None]
        out = np.ones((stop - start, 2, *self.grid.shape), np.float32)
        out[:, 0] = self.value + trend
        return out


def close(found, expected):
    """Up to rounding: matrices are multiplied in another order for one realisation than for several."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def formula(archive, series, projector=None, **options):
    part = Part(Noise(), "local-cnn", {}, 1, "crps", {"noise": 2})
    ones = np.ones((12, 1, *archive.grid.shape), np.float32)
    parts = (series.space, part, projector or part, ones)
    return Atlas(archive.domain, (Flat(archive.domain),), *parts, **({"seed": 1} | options))


def states_of(emulator, scenario, count):
    """(E, SPIN_UP + T, V, Y, X)."""
    whole = emulator._trajectory(scenario, 0, len(scenario), tuple(range(count)))
    return np.stack([live.state.numpy() for live in whole], 1)


@pytest.fixture(scope="module")
def archive():
    return warming_archive(months=181)


def test_a_trajectory_keeps_variance_and_memory(archive, series):
    """What is drawn is of independent cells; blocks and details are to be those of the training months."""
    emulator, space = formula(archive, series), series.space
    states = states_of(emulator, archive["ssp245"], 60)
    assert states.shape == (60, 181 + SPIN_UP, 2, 4, 6)
    blocks = space.blocks(torch.from_numpy(states[:, SPIN_UP:])).numpy()
    np.testing.assert_allclose(blocks.std((0, 1)), space.spread, rtol=0.1)
    known = series.blocks.numpy()
    lagged, expected = (
        (x[..., 1:, :, :, :] * x[..., :-1, :, :, :]).mean(axes) / (x**2).mean(axes)
        for x, axes in ((blocks, (0, 1)), (known, (0,)))
    )
    np.testing.assert_allclose(lagged, expected, atol=0.1)
    details = space.without_blocks(torch.from_numpy(states[:, SPIN_UP:])).numpy()
    lagged = (details[:, 1:] * details[:, :-1]).mean((0, 1)) / (details**2).mean((0, 1))
    own = space.without_blocks(series.state(np.arange(len(series.states)))).numpy()
    expected = (own[1:] * own[:-1]).mean(0) / (own**2).mean(0)
    np.testing.assert_allclose(lagged, expected, atol=0.1)


def test_realisation_is_the_same_whatever_else_is_asked(archive, series):
    emulator, scenario = formula(archive, series), archive["ssp245"]
    whole = emulator.predict_members(scenario, 0, 100, 4)
    close(emulator.predict_fields(scenario, 0, 100), whole[0])
    close(emulator.member(3).predict_fields(scenario, 40, 60), whole[3, 40:60])
    one = emulator.member(2)
    # On from where it was left, over a gap, back again, and over what was asked before.
    for start, stop in ((10, 20), (20, 33), (60, 70), (5, 8), (7, 30), (30, 60), (0, 60), (0, 100)):
        close(one.predict_fields(scenario, start, stop), whole[2, start:stop])
    close(one.predict_members(scenario, 90, 100, 4)[1], whole[1, 90:])
    close(one.predict_members(scenario, 80, 100, 4), whole[:, 80:])
    other = formula(archive, series, seed=2).predict_fields(scenario, 0, 100)
    assert np.abs(other - whole[0])[:, 0].mean() > 0.1
    assert np.abs(whole[1] - whole[0])[:, 0].mean() > 0.1
    # Another scenario of the same forced response has the same draws.
    close(emulator.predict_fields(archive["ssp585"], 0, 50), whole[0, :50])


def test_without_a_predictor_what_is_drawn_is_its_noise(archive, series):
    """What a network draws that answers its noise has the same distribution, from other numbers."""
    emulator, scenario = formula(archive, series), archive["ssp245"]
    emulator.predictor = None
    states, known = states_of(emulator, scenario, 60), states_of(formula(archive, series), scenario, 60)
    np.testing.assert_allclose(states.std((0, 1)), known.std((0, 1)), rtol=0.1)
    assert np.abs(states - known).mean() > 0.5
    assert set(emulator.parts) == {PROJECTOR}


def test_a_trajectory_goes_on_from_where_it_was_left(archive, series):
    emulator, scenario = formula(archive, series), archive["ssp245"]
    calls = []
    emulator.predictor = replace(emulator.predictor, network=Counting(calls))
    emulator.predict_fields(scenario, 0, 12)
    assert len(calls) == 12 + SPIN_UP
    emulator.predict_fields(scenario, 12, 24)
    assert len(calls) == 24 + SPIN_UP
    emulator.predict_fields(scenario, 0, 1)
    assert len(calls) == 24 + SPIN_UP + 1 + SPIN_UP


class Faint(Noise):
    """As `Noise`, of half its size."""

    def forward(self, frames):
        return 0.5 * super().forward(frames)


def test_what_networks_draw_too_little_is_made_up_for(archive, series):
    faint = Part(Faint(), "local-cnn", {}, 1, "crps", {"noise": 2})
    space = calibrated(series, faint, faint, 0, QUIET)
    np.testing.assert_allclose(space.root, 2 * series.space.root, rtol=0.15, atol=0.02)
    full = calibrated(series, replace(faint, network=Noise()), replace(faint, network=Noise()), 0, QUIET)
    np.testing.assert_allclose(space.detail_innovation, 2 * full.detail_innovation, rtol=1e-5)
    # What is drawn of details loses the means of its blocks, a fourth of its variance here.
    emulator = formula(archive, replace(series, space=full))
    states = states_of(emulator, archive["ssp245"], 40)
    details = full.without_blocks(torch.from_numpy(states[:, SPIN_UP:])).numpy()
    known = full.without_blocks(series.state(series.rows)).numpy()
    np.testing.assert_allclose(details.std((0, 1)), known.std(0), rtol=0.15)


class Nothing(nn.Module):
    """A projector that has learned nothing: the mean of every innovation."""

    def forward(self, frames):
        return torch.zeros(*frames.shape[:2], 2, *frames.shape[-2:])


def test_details_that_a_mean_lacks_vary_as_those_of_training_months(archive):
    """A regression alone would draw no detail at all, and noise of every cell none that belongs together."""
    series = series_of(together(travel=0.0))
    space, mean = series.space, Part(Nothing(), "local-cnn", {}, 1, "regression", {})
    left = unresolved(series, mean)
    assert left.shape == (12, 100, 2, 4, 6)
    assert np.array_equal(unresolved(series, None), left)
    emulator = formula(archive, series, projector=mean, unresolved=left)
    states = states_of(emulator, archive["ssp245"], 60)
    drawn, known = (
        space.without_blocks(x).numpy().reshape(-1, 48)
        for x in (torch.from_numpy(states[:, SPIN_UP:]), series.state(series.rows))
    )
    expected = np.cov(known.T)
    scale = np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(np.cov(drawn.T) / scale, expected / scale, atol=0.1)
    assert np.abs(expected / scale - np.eye(48)).max() > 0.5
    whole = emulator.predict_members(archive["ssp245"], 100, 181, 4)
    close(emulator.member(3).predict_fields(archive["ssp245"], 150, 160), whole[3, 50:60])


def test_details_vary_with_the_blocks_nearby(archive):
    """Cells would otherwise vary too little, or too much, where a detail belongs to its block."""
    series = series_of(together(travel=0.0))
    mean = Part(Nothing(), "local-cnn", {}, 1, "regression", {})
    emulator = formula(archive, series, projector=mean, unresolved=unresolved(series, mean))
    drawn = states_of(emulator, archive["ssp245"], 60)[:, SPIN_UP:].reshape(-1, 48)
    known = series.state(series.rows).numpy().reshape(-1, 48)
    blocks, details = (
        x.numpy().reshape(len(known), 48)
        for x in (
            series.space.spread_out(series.blocks[torch.from_numpy(series.rows)]),
            series.space.without_blocks(series.state(series.rows)),
        )
    )
    # The two halves of a cell are not independent here.
    assert np.abs((blocks * details).mean(0)).max() > 0.15
    np.testing.assert_allclose(drawn.var(0), known.var(0), rtol=0.1)
    np.testing.assert_allclose(np.cov(drawn.T), np.cov(known.T), atol=0.12)


def test_what_a_projector_leaves_belongs_to_the_calendar_month():
    series = series_of(residuals(months=60))
    left = unresolved(series, Part(Nothing(), "local-cnn", {}, 1, "regression", {}))
    rows = series.rows[series.month[series.rows] == 7]
    assert left.shape[1] == max(len(series.rows[series.month[series.rows] == m]) for m in range(12))
    own = series.detail_innovation(rows).numpy()
    for field in left[7].astype(np.float32):
        assert np.abs(own - field).max((1, 2, 3)).min() < 5e-3


def test_calendar_months_without_enough_of_a_run_before_them_have_details_all_the_same():
    """Runs of twenty months with a memory of twelve: of four calendar months none has a year before it."""
    series = series_of(residuals(months=20, runs=6), memory=12)
    there = np.unique(series.month[series.rows])
    assert there.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    left = unresolved(series, None)
    assert left.shape == (12, 6, 2, 4, 6)
    assert (left.std((1, 2, 3, 4)) > 0.5).all()
    for month, nearest in ((8, 7), (9, 7), (10, 0), (11, 0)):
        assert np.array_equal(left[month], left[nearest])
    # Calendar months with fewer than others have all of theirs.
    uneven = series_of(residuals(months=30, runs=3), memory=12)
    left, rows = unresolved(uneven, None), uneven.rows[uneven.month[uneven.rows] == 9]
    assert (left.shape[1], len(rows)) == (6, 3)
    own = uneven.detail_innovation(rows).numpy()
    assert all(np.abs(left[9].astype(np.float32) - field).max((1, 2, 3)).min() < 5e-3 for field in own)


def test_a_projector_that_draws_is_not_drawn_for(series):
    assert unresolved(series, Part(Noise(), "local-cnn", {}, 1, "crps", {"noise": 2})).shape == (12, 0, 2, 4, 6)


class Counting(Noise):
    """As `Noise`, and counts."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def forward(self, frames):
        self.calls.append(frames)
        return super().forward(frames)


def held(emulator):
    """Bytes of a trajectory between two months."""
    live = emulator._live
    return sum(x.nbytes for x in vars(live).values() if isinstance(x, torch.Tensor | np.ndarray))


def test_drawing_on_holds_no_more_after_many_months(archive, series):
    """The memory of a century would otherwise be that of all its months."""
    scenario, found = archive["ssp245"], {}
    for months in (24, 168):
        emulator = formula(archive, series)
        emulator.predict_members(scenario, 0, 12, 60)
        tracemalloc.start()
        for start in range(12, months, 12):
            emulator.predict_members(scenario, start, start + 12, 60)
        found[months] = (tracemalloc.get_traced_memory()[1], held(emulator))
        tracemalloc.stop()
    assert found[24][1] == found[168][1]
    # Of twelve years more, far less than their fields.
    assert found[168][0] - found[24][0] < 0.2 * 144 * 60 * 48 * 4


def test_drawing_says_how_far_it_is(archive, series):
    said = io.StringIO()
    reporter = Reporter(console=Console(file=said, width=200), plain_seconds=0.0)
    emulator, scenario = formula(archive, series), archive["ssp245"]
    shown = emulator.predict(scenario, members=2, reporter=reporter)
    lines = [line.split()[:3] for line in said.getvalue().splitlines()]
    assert lines == [["drawing", "ssp245", f"{n}/179"] for n in (60, 120, 179)]
    whole = emulator.predict_members(scenario, 2, 181, 2)
    close(np.stack([shown.tas, shown.pr], 2), whole)
    # The realisation of a member, and not the first.
    close(emulator.member(1).predict(scenario).tas, whole[1, :, 0])


def test_networks_are_told_the_season_and_the_warming_of_the_base(archive, series):
    emulator, scenario = formula(archive, series), archive["ssp245"]
    calls = []
    emulator.predictor = replace(emulator.predictor, network=Counting(calls))
    emulator.predict_fields(scenario, 100, 101)
    assert len(calls) == 101 + SPIN_UP
    said = torch.stack([frames[0, 0, -5:-2, 0, 0] for frames in calls])
    month = (int(scenario.calendar_month[0]) + np.arange(-SPIN_UP, 101)) % 12
    np.testing.assert_allclose(said[:, 0], np.cos(2 * np.pi * (month + 0.5) / 12), atol=1e-6)
    np.testing.assert_allclose(said[:, 1], np.sin(2 * np.pi * (month + 0.5) / 12), atol=1e-6)
    # The base warms by 1 K a month: the mean over the year round month t, from 6 before to 5 after, is t - 1/2.
    mean, deviation = series.space.warming
    expected = (280 + np.arange(20, 101) - 0.5 - mean) / deviation
    np.testing.assert_allclose(said[SPIN_UP + 20 :, 2], expected, rtol=1e-5)
    assert (said[:SPIN_UP, 2] == said[SPIN_UP, 2]).all()


@pytest.mark.parametrize("objective", [*CHEAP, "nothing learned", "projector that draws", "trajectories"])
def test_trained_generator_is_saved_and_draws_the_same(archive, tmp_path, objective):
    words = {
        **{name: (f"predictor.objective.name={name}", *options) for name, options in CHEAP.items()},
        "nothing learned": (),
        "projector that draws": ("projector.objective.name=crps", "predictor.objective.steps=3"),
        "trajectories": (
            "predictor.objective.name=crps",
            "predictor.training.lengths=[1,3]",
            "predictor.training.boundaries=[0.5]",
            "predictor.training.recompute=true",
        ),
    }[objective]
    small = SMALL[:3] if objective == "nothing learned" else SMALL
    recipe = load_recipe("atlas", assignments=(*small, *words))
    run, evaluation = train_run(archive, recipe, tmp_path / "run", protocol="k360", seed=3, reporter=QUIET)
    assert evaluation is not None
    assert np.isfinite(evaluation.score.value)
    emulator, again = run.emulator(archive), load_emulator(tmp_path / "run")
    assert emulator.draws
    assert emulator.from_beginning
    scenario = archive["ssp245"]
    whole = emulator.predict_members(scenario, 0, 40, 3)
    np.testing.assert_array_equal(again.predict_members(scenario, 0, 40, 3), whole)
    # Networks may add up in another order for one realisation than for three.
    np.testing.assert_allclose(again.member(2).predict_fields(scenario, 30, 40), whole[2, 30:], rtol=1e-4, atol=1e-3)
    again.member(1).save(tmp_path / "one")
    one = load_emulator(tmp_path / "one").predict_fields(scenario, 0, 40)
    np.testing.assert_allclose(one, whole[1], rtol=1e-4, atol=1e-3)
    assert np.isfinite(whole).all()
    assert whole[:, :, 1].min() >= 0
    found = evaluate_ensemble(emulator, archive, make_split(archive, "k360").validation, 2, QUIET)
    assert all(part.cells.crps > 0 for part in found.parts.values())
    assert set(emulator.parts) == (set() if objective == "nothing learned" else {PREDICTOR, PROJECTOR})
    parameters = sum(p.numel() for part in emulator.parts.values() for p in part.network.parameters())
    assert run.record.parameters == (parameters or None)


def alternating(months=400, runs=3, rho=0.8, seed=0):
    """A memory whose sign changes with the half of the year: most of it no regression on the past can say."""
    rng, x = np.random.default_rng(seed), np.zeros((2, 4, 6))
    out, month = np.empty((runs * months, 2, 4, 6)), np.tile(np.arange(months) % 12, runs)
    for t in range(runs * months):
        new = rng.standard_normal((2, 2, 3)).repeat(2, 1).repeat(2, 2)
        x = (rho if month[t] < 6 else -rho) * x + (1 - rho**2) ** 0.5 * new
        out[t] = x
    values = np.stack((2 * out[:, 0], np.maximum(1 + 0.2 * out[:, 1], 0)), 1).astype(np.float16)
    return Residuals(values, np.arange(runs) * months, month, np.linspace(0, 3, runs * months).astype(np.float32))


def test_a_predictor_learns_what_regressions_cannot_say(archive, tmp_path):
    """With the levels of noise for images it learned nothing in as long: 0.0003 of the variance."""
    series, held = series_of(alternating()), series_of(alternating(seed=5))
    long = ("predictor.model.dim=16", "predictor.training.epochs=8", "predictor.training.optimizer.learning_rate=0.01")
    recipe = load_recipe("atlas", assignments=(*SMALL, *long))
    trainer = PartTrainer(recipe, archive, 0, Comm(), tmp_path, QUIET)
    part = trainer(PREDICTOR, RowSampler(series, PREDICTOR), ("tas", "pr"))
    # Of a regression of months apart, whose share of the variance is the square of rho.
    left = np.trace(held.space.root @ held.space.root.T) / 12
    ceiling = 1 - (1 - 0.64) / left
    sample = RowSampler(replace(held, space=series.space, whitening=series.whitening), PREDICTOR)
    batch = sample.batch(held.rows.tolist())
    numbers = torch.randn(batch.targets.shape, generator=torch.Generator().manual_seed(0))
    level = 50.0
    noisy = batch.targets + level * numbers
    levels = torch.full(batch.targets.shape[:2], level)
    with torch.inference_mode():
        said = part.network(batch.frames, noisy / (level**2 + 1) ** 0.5, levels.log() / 4)
    unsaid = float((batch.targets - said).square().mean() / batch.targets.square().mean())
    assert ceiling == pytest.approx(0.55, abs=0.05)
    assert 1 - unsaid > 0.5 * ceiling


def test_the_same_seed_trains_the_same_networks(archive, tmp_path):
    recipe = load_recipe("atlas", assignments=(*SMALL, "predictor.objective.name=crps"))
    found = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run, _ = train_run(archive, recipe, tmp_path / name, protocol="k360", seed=seed, reporter=QUIET)
        found.append(run.emulator(archive).predictor.network.state_dict()["condition.weight"])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predictor.objective.name=regression",), "draws nothing"),
        (("predictor.network=unet",), "takes a noisy field"),
        (("projector.objective.name=diffusion",), "local-cnn does not"),
        (("projector.objective.name=rollout",), "feeds states back"),
        (("bases.0.recipe=variance-matched",), "varies as a run does"),
        (("predictor.network=nothing",), "unknown network"),
        (("predictor.objective.noise=3",), "noise"),
    ],
)
def test_recipe_that_cannot_be_is_refused(words, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe("atlas", assignments=(*SMALL[:3], *words))


def test_what_is_said_of_a_network_trains_it_and_nothing_else_does(tmp_path):
    """Settings of networks that are not trained would do nothing, without a word."""
    assert not load_recipe("atlas").trains
    assert not load_recipe("atlas", assignments=("model.block=2",)).trains
    for words in (("predictor.objective.name=crps",), ("projector.training.epochs=2",), ("model.learned=true",)):
        assert load_recipe("atlas", assignments=words).trains
    file = tmp_path / "mine.toml"
    for text, trains in (
        ('base = "atlas"\n[predictor.training]\nepochs = 2\n', True),
        ('base = "atlas"\n[model]\nlearned = false\n[predictor.training]\nepochs = 2\n', False),
        ('emulator = "atlas"\n[projector.training]\nepochs = 2\n', True),
    ):
        file.write_text(text)
        assert load_recipe(str(file)).trains == load_recipe("atlas", file).trains == trains
    with pytest.raises(RecipeError, match="settings of predictor would do nothing") as caught:
        load_recipe("atlas", assignments=("model.learned=false", "predictor.training.epochs=2"))
    assert caught.value.hint == "--set model.learned=true"
    file.write_text('emulator = "atlas"\nmodel = 3\n')
    with pytest.raises(RecipeError, match="1 wrong setting"):
        load_recipe("atlas", file, ("predictor.training.epochs=2",))


def test_another_network_does_not_inherit_options(tmp_path):
    """The recipe gives its predictor patches and blocks, which no other network has."""
    file = tmp_path / "mine.toml"
    file.write_text('emulator = "atlas"\npredictor = { network = "denoising-unet", model = { width = 8 } }\n')
    for found in (load_recipe("atlas", assignments=("predictor.network=denoising-unet",)), load_recipe(str(file))):
        assert found.predictor.network == "denoising-unet"
        assert not hasattr(found.predictor.model, "patch_rows")
    assert found.predictor.model.width == 8
    same = load_recipe("atlas", assignments=("predictor.network=dit", "predictor.model.dim=32")).predictor.model
    assert (same.patch_rows, same.blocks, same.dim) == (3, 3, 32)


def test_another_objective_does_not_inherit_options(tmp_path):
    words = ('predictor.objective={name = "crps", noise = 3}',)
    file = tmp_path / "mine.toml"
    file.write_text('base = "atlas"\n[predictor.objective]\nname = "crps"\nnoise = 3\n')
    assert load_recipe(str(file)).digest == load_recipe("atlas", assignments=words).digest
    for name in ("diffusion", "interpolant"):
        found = load_recipe(str(file), assignments=(f"predictor.objective.name={name}",)).predictor.objective
        assert found.name == name
        assert found.options.get("noise", 1.0) == 1.0
    kept = load_recipe(str(file), assignments=("predictor.objective.name=crps", "predictor.objective.realisations=3"))
    assert (kept.predictor.objective.options["noise"], kept.predictor.objective.options["realisations"]) == (3, 3)


def test_settings_of_a_part_reach_the_training_loop():
    whole = PartTraining(epochs=7, per_batch=5).whole()
    assert (whole.epochs, whole.segments.batch_size, whole.segments.length) == (7, 5, 1)
    assert whole.average.kind == "ema"


def test_options_out_of_range_are_refused_before_training(archive):
    for words, said in (("model.history=0", "history"), ("model.memory=-1", "memory"), ("model.block=4", "block")):
        options = load_recipe("atlas", assignments=("model.block=2", words)).options
        with pytest.raises(RecipeError, match=said):
            Atlas.check(archive, **options)


def test_training_months_alone_are_known(archive):
    split = make_split(archive, "k360")
    found = training_residuals(archive, split.train, 15)
    assert len(found.values) == sum(len(s) * len(s.members) for s in split.train)
    grid = Grid(archive.grid.lat, archive.grid.lon)
    assert len(series_of(found, grid).states) == len(found.values)


def test_base_of_a_recipe_that_varies_is_what_it_varies():
    default, by_name, mean = (
        load_recipe("atlas", assignments=words) for words in ((), ("base=best-fast",), ("base=linear",))
    )
    assert by_name.digest == default.digest
    assert mean.bases[0].recipe == load_recipe("linear")
    nested = load_recipe("atlas", assignments=("base=best-sampled", "bases.0.recipe.model.length_scale=2.0"))
    assert nested.bases[0].recipe.emulator == "additive-gp"
    assert nested.bases[0].recipe.options["length_scale"] == 2.0
    with pytest.raises(RecipeError, match="base: unknown key"):
        load_recipe("sampled", assignments=("base=linear",))
