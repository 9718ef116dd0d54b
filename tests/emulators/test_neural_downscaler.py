"""A network on blocks: exact residuals, seamless stitching, and noise that blocks share."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from emukit.data.block_sampler import BlockSampler, BlockSettings
from emukit.data.coarsen import Coarsening, CoarseSettings
from emukit.data.grid import Grid
from emukit.data.protocol import make_split
from emukit.data.split import Span
from emukit.data.store import open_store
from emukit.data.targets import TargetSettings
from emukit.emulators.downscaler import fit_baselines, known_targets
from emukit.emulators.downscaling_residuals import Base, ConditionSettings, ResidualFrames, fit_frames
from emukit.emulators.neural_downscaler import NeuralDownscaler, Tiling, build_block_network
from emukit.models.block_unet import BlockUNet
from emukit.objectives.registry import OBJECTIVES
from tests.other_steps import even_dataset, written, yearly_dataset

SPANS = (Span("ssp126", 0, 240, (0, 1)),)


def frames_of(archive, base="regression"):
    coarsening = Coarsening(archive.grid, CoarseSettings(grid=(4, 6)))
    said = TargetSettings(climatology="cell-month", scale="cell")
    targets = known_targets(archive.domain, lambda v: said)
    return fit_frames(archive, SPANS, coarsening, targets, ConditionSettings(base=base, width=3))


@pytest.fixture(scope="module", params=["regression", "pass"])
def frames(archive, request):
    return frames_of(archive, request.param)


@pytest.fixture(scope="module")
def asked(archive, frames):
    truth = archive["ssp585"].truth(0, 500, 520).astype(np.float64)
    return truth, frames.coarsening.down(truth), archive["ssp585"].time[500:520]


class Pointwise(nn.Module):
    """Knows one cell at a time, and stands in for a U-Net."""

    multiple = 1

    def __init__(self, channels, variables):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(channels, 8, 1), nn.Tanh(), nn.Conv2d(8, variables, 1))

    def forward(self, frames):
        return self.layers(frames[:, -1])[:, None]


def downscaler_of(archive, frames, network, size=(4, 6), overlap=2, objective="regression"):
    blocks = BlockSettings(size=size)
    return NeuralDownscaler(
        archive.domain, frames.coarsening, frames, network, {}, blocks, overlap, objective=objective, seed=3
    )


def full_field(downscaler, coarse, time):
    """One pass of the network over the whole map, without any stitching."""
    frames = downscaler.frames
    rows, columns = (np.arange(n) for n in downscaler.domain.grid.shape)
    shown, base = frames.block(coarse, time, rows, columns)
    with torch.inference_mode():
        residual = downscaler.network(torch.from_numpy(shown)[:, None])[:, 0].double().numpy()
    return frames.reconstructed(residual, base, time, rows, columns)


def test_base_and_true_residual_are_the_truth(frames, asked):
    truth, coarse, time = asked
    rows, columns = np.arange(1, 7), np.arange(8, 14) % 12
    _, base = frames.block(coarse, time, rows, columns)
    fine = truth[..., rows, :][..., columns]
    residual = frames.residual(fine, base, time, rows, columns)
    np.testing.assert_allclose(frames.reconstructed(residual, base, time, rows, columns), fine, rtol=1e-12, atol=1e-12)


def test_constant_offset_from_training_climate_leaves_no_residual_of_the_pass(archive):
    frames = frames_of(archive, "pass")
    own = np.repeat(np.arange(12), 1)
    time = archive["ssp126"].time[: len(own)]
    climatology = frames.passed.inverse(np.zeros((12, 2, *archive.grid.shape)), time.season)
    fine = frames.fine.inverse(np.zeros((12, 2, *archive.grid.shape)), time.season)
    rows, columns = np.arange(8), np.arange(12)
    np.testing.assert_allclose(frames.normalised(fine, time, rows, columns), 0, atol=1e-9)
    np.testing.assert_allclose(frames.passed.forward_exactly(climatology, time.season), 0, atol=1e-9)


def test_frames_say_season_and_place(archive, frames, asked):
    _, coarse, time = asked
    rows, columns = np.arange(2, 6), np.arange(10, 16) % 12
    shown, _ = frames.block(coarse, time, rows, columns)
    assert shown.shape[1] == len(frames.channels)
    at = frames.channels.index
    np.testing.assert_allclose(shown[:, at("sin_year"), 1, 2], np.sin(2 * np.pi * time.month / 12), atol=1e-6)
    np.testing.assert_allclose(shown[0, at("sin_lat"), :, 3], np.sin(np.deg2rad(archive.grid.lat[rows])), atol=1e-6)
    np.testing.assert_allclose(shown[0, at("cos_lon"), 0], np.cos(np.deg2rad(archive.grid.lon[columns])), atol=1e-6)


@pytest.mark.parametrize(("size", "overlap"), [((4, 6), 2), ((5, 5), 1), ((8, 12), 4), ((3, 7), 0)])
def test_stitched_blocks_are_the_full_field_of_a_pointwise_network(archive, frames, asked, size, overlap):
    _, coarse, time = asked
    chosen = downscaler_of(archive, frames, Pointwise(len(frames.channels), 2), size, overlap)
    np.testing.assert_allclose(
        chosen._fields(coarse, time, np.arange(8), np.arange(12), 0),
        full_field(chosen, coarse, time),
        rtol=1e-6,
        atol=1e-6,
    )


def test_stitched_blocks_are_the_full_field_of_a_u_net_where_it_sees_no_edge():
    torch.manual_seed(1)
    network = BlockUNet(in_channels=3, variables=1, uniform=0, width=4, depth=1).double()
    nn.init.normal_(network.head.weight)
    field, reach = torch.randn(1, 1, 3, 64, 96, dtype=torch.double), network.reach
    with torch.inference_mode():
        whole = network(field)
        for top, left in [(0, 10), (6, 32), (24, 56)]:
            block = network(field[..., top : top + 40, left : left + 40])
            inner = slice(reach, 40 - reach)
            expected = whole[..., top + reach : top + 40 - reach, left + reach : left + 40 - reach]
            torch.testing.assert_close(block[..., inner, inner], expected, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize(("depth", "blocks"), [(0, 1), (1, 1), (2, 1), (1, 2)])
def test_reach_bounds_what_a_cell_depends_on(depth, blocks):
    torch.manual_seed(0)
    network = BlockUNet(in_channels=2, variables=1, uniform=0, width=2, depth=depth, blocks=blocks).double()
    nn.init.normal_(network.head.weight)
    size, reach = 80 + 40 * depth * blocks, network.reach
    for middle in (size // 2, size // 2 + 1):
        fields = torch.randn(1, 1, 2, size, 8, dtype=torch.double, requires_grad=True)
        network(fields)[0, 0, 0, middle, 4].backward()
        rows = torch.nonzero(fields.grad.abs().sum((0, 1, 2, 4)) > 0).ravel()
        assert middle - rows.min() <= reach
        assert rows.max() - middle <= reach
        # A bound that is far too large would make the test above empty.
        assert rows.max() - middle >= reach - 3 * 2**depth - 2


@pytest.mark.parametrize(
    ("shape", "size", "overlap", "multiple"),
    [((181, 360), (48, 72), 12, 4), ((145, 192), (32, 64), 8, 8), ((48, 72), (24, 36), 8, 4), ((7, 9), (7, 9), 3, 1)],
)
def test_tiles_cover_every_cell_with_weight(shape, size, overlap, multiple):
    tiling = Tiling(shape, size, overlap, multiple)
    total = np.zeros(shape)
    for tile in tiling.tiles(np.arange(shape[0]), np.arange(shape[1])):
        np.add.at(
            total, (tile.to_rows[:, None], tile.to_columns[None]), tile.weights[tile.from_rows][:, tile.from_columns]
        )
        assert tile.rows[0] >= 0
        assert tile.rows[-1] < shape[0]
    if multiple > 1:
        assert total.min() > 0.01
    assert (total > 0).all()


def test_a_region_over_the_dateline_has_the_numbers_of_the_globe(archive, frames, asked):
    _, coarse, time = asked
    torch.manual_seed(0)
    network = BlockUNet(in_channels=len(frames.channels), variables=2, uniform=frames.uniform, width=4, depth=1)
    nn.init.normal_(network.head.weight)
    chosen = downscaler_of(archive, frames, network)
    rows, columns = np.arange(3, 7), np.arange(10, 15) % 12
    whole = chosen.fields(coarse, time)
    np.testing.assert_allclose(
        chosen.fields(coarse, time, rows, columns), whole[..., rows, :][..., columns], rtol=1e-5, atol=1e-5
    )
    # Nor does a step depend on which others are asked for.
    np.testing.assert_allclose(chosen.fields(coarse[9:11], time[9:11]), whole[9:11], rtol=1e-5, atol=1e-5)


def test_untrained_network_gives_its_base(archive, frames, asked):
    _, coarse, time = asked
    objective = OBJECTIVES.load("regression")(None)
    network = build_block_network(frames, 2, {"width": 4, "depth": 1}, objective)
    found = downscaler_of(archive, frames, network).fields(coarse, time)
    if frames.base is not None:
        np.testing.assert_allclose(found, frames.base.fields(coarse, time), rtol=1e-9, atol=1e-9)
    else:
        rows, columns = np.arange(8), np.arange(12)
        passed = frames.passed.forward_exactly(frames.coarsening.up(coarse), time.season)
        expected = frames.reconstructed(np.zeros_like(passed), Base(passed, passed, None), time, rows, columns)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_realisations_differ_and_blocks_share_their_noise(archive, frames, asked):
    _, coarse, time = asked
    network = Pointwise(len(frames.channels) + 4, 2)
    chosen = downscaler_of(archive, frames, network, objective="crps")
    assert chosen.draws
    first, second = (chosen.fields(coarse[:2], time[:2], member=m) for m in (0, 1))
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_array_equal(first, chosen.fields(coarse[:2], time[:2], member=0))
    whole = downscaler_of(archive, frames, network, size=(8, 12), objective="crps")
    np.testing.assert_allclose(whole.fields(coarse[:2], time[:2]), first, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("base", ["regression", "pass"])
def test_nothing_fitted_knows_months_outside_the_training(archive, base):
    def fitted(data):
        arrays = []
        for one in (
            frames_of(data, base),
            *fit_baselines(data, SPANS, Coarsening(data.grid, CoarseSettings(grid=(4, 6)))),
        ):
            if isinstance(one, ResidualFrames):
                arrays += [*one.fine.state()[1].values(), *one.passed.state()[1].values()]
                one = one.base
            arrays += one.state()[1].values() if one is not None else []
        return arrays

    def scrambled(first, last):
        scenario = archive["ssp126"]
        targets = scenario.targets.copy()
        targets[:, first:last] *= 1.01
        return replace(archive, scenarios={**archive.scenarios, "ssp126": replace(scenario, targets=targets)})

    known = fitted(archive)
    assert all(np.array_equal(a, b) for a, b in zip(known, fitted(scrambled(240, None)), strict=True))
    same = [np.array_equal(a, b) for a, b in zip(known, fitted(scrambled(239, 240)), strict=True)]
    # The slopes of the climatology of the residual are ones.
    assert sum(same) == 1


def test_sampler_asks_for_what_is_left(archive, frames):
    settings = BlockSettings(size=(4, 6), times=2)
    sampler = BlockSampler(archive, SPANS, frames.coarsening, frames, settings)
    address = sampler.epoch(0, 0)[0][0]
    sample = sampler.batch([address])
    rows, columns = sampler.cells(address)
    time = archive["ssp126"].time[address.step : address.step + 1]
    truth = archive["ssp126"].truth((0, 1)[address.member], address.step, address.step + 1)
    shown, base = frames.block(frames.coarsening.down(truth), time, rows, columns)
    # The sampler keeps coarse fields in single precision.
    np.testing.assert_allclose(sample.frames[0], shown, atol=2e-4)
    left = frames.residual(truth[..., rows, :][..., columns], base, time, rows, columns)
    np.testing.assert_allclose(sample.targets[0], left, atol=2e-4)


def test_odd_grids_with_points_at_the_poles_are_stitched():
    shape = (37, 30)
    grid = Grid(np.linspace(-90, 90, 37), np.arange(30) * 12.0)
    coarsening = Coarsening(grid, CoarseSettings(grid=(9, 8)))
    field = np.random.default_rng(0).standard_normal((2, 1, *shape))
    passed = coarsening.down_up(field)
    tiling = Tiling(shape, (16, 16), 6, 4)
    sums, total = np.zeros_like(field), np.zeros(shape)
    for tile in tiling.tiles(np.arange(37), np.arange(30)):
        block = coarsening.up(coarsening.down(field), tile.rows, tile.columns)[:, :, tile.from_rows][
            ..., tile.from_columns
        ]
        weights = tile.weights[tile.from_rows][:, tile.from_columns]
        at = np.ix_(tile.to_rows, tile.to_columns)
        sums[:, :, at[0], at[1]] += weights * block
        total[at] += weights
    np.testing.assert_allclose(sums / total, passed, atol=1e-12)


@pytest.mark.parametrize("time", ["6h", "year"])
def test_hours_and_years_are_downscaled_as_months_are(tmp_path, time):
    dataset = even_dataset(6, 4 * 40) if time == "6h" else yearly_dataset()
    store, card = written(tmp_path, time, dataset, 4)
    archive = open_store(store, card=str(card))
    split = make_split(archive)
    shape = archive.grid.shape
    coarsening = Coarsening(archive.grid, CoarseSettings(grid=(shape[0] // 2, shape[1] // 2)))
    said = TargetSettings(climatology="cell", scale="cell")
    targets = known_targets(archive.domain, lambda v: said)
    frames = fit_frames(archive, split.train, coarsening, targets, ConditionSettings(width=3))
    assert frames.uniform == (4 if time == "6h" else 0)
    settings = BlockSettings(size=(2, 4), times=2)
    sampler = BlockSampler(archive, split.train, coarsening, frames, settings)
    sample = sampler.batch(sampler.epoch(0, 0)[0])
    network = build_block_network(frames, 2, {"width": 4, "depth": 1}, OBJECTIVES.load("regression")(None))
    assert network(sample.frames).shape == sample.targets.shape
    if time == "6h":
        # Of the first four steps of a day each sees another time of it.
        scenario = archive[split.train[0].scenario]
        coarse = coarsening.down(scenario.truth(0, 0, 4))
        shown, _ = frames.block(coarse, scenario.time[:4], np.arange(2), np.arange(4))
        angle = np.arctan2(shown[:, 2, 0, 0], shown[:, 3, 0, 0])
        np.testing.assert_allclose(np.diff(np.unwrap(angle)), np.pi / 2, atol=1e-6)
    chosen = NeuralDownscaler(archive.domain, coarsening, frames, network, {}, settings, 1)
    one = split.validation[0]
    coarse = coarsening.down(archive[one.scenario].truth(one.members[0], one.start, one.stop))
    assert np.isfinite(chosen.fields(coarse, archive[one.scenario].time[one.start : one.stop])).all()
