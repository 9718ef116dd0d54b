"""Blocks against rolled fields, and how often cells are in one against an enumeration of all places."""

import numpy as np
import pytest

from emukit.data.block_sampler import Block, BlockSampler, BlockSettings, cell_weights, hit_frequency
from emukit.data.coarsen import Coarsening, CoarseSettings
from emukit.data.grid import Grid
from emukit.data.split import Span
from emukit.data.store import open_store
from emukit.errors import ProtocolError, RecipeError


def grid_of(rows, columns):
    return Grid(-90 + (np.arange(rows) + 0.5) * 180 / rows, np.arange(columns) * 360 / columns)


class PlainFrames:
    """Shows the pass as it is, and asks for the truth."""

    channels = ("a", "b")
    context = 0

    def __init__(self, coarsening):
        self.coarsening = coarsening

    def block(self, coarse, time, rows, columns):
        up = self.coarsening.up(coarse, rows, columns)
        return up.astype(np.float32), np.zeros_like(up)

    def residual(self, fine, base, time, rows, columns):
        return np.asarray(fine, np.float64) - base


@pytest.fixture(scope="module")
def archive(demo_store):
    return open_store(demo_store)


def sampler_of(archive, **settings):
    coarsening = Coarsening(archive.grid, CoarseSettings(grid=(4, 6)))
    spans = (Span("ssp126", 100, 140, (0, 1)), Span("ssp370", 0, 7, (1,)))
    settings = BlockSettings(**{"size": (4, 6), "times": 4, **settings})
    return BlockSampler(archive, spans, coarsening, PlainFrames(coarsening), settings), coarsening


def test_block_over_the_dateline_is_the_block_of_the_rolled_field(archive):
    sampler, coarsening = sampler_of(archive)
    sample = sampler.batch([Block(0, 1, 5, 2, 9), Block(1, 0, 6, 4, 0)])
    truth = archive["ssp126"].truth(1, 105, 106)
    np.testing.assert_array_equal(sample.targets[0, 0], np.roll(truth, -9, -1)[0, :, 2:6, :6])
    expected = np.roll(coarsening.down_up(truth), -9, -1)[0, :, 2:6, :6]
    np.testing.assert_allclose(sample.frames[0, 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(sample.targets[1, 0], archive["ssp370"].truth(1, 6, 7)[0, :, 4:8, :6])


@pytest.mark.parametrize(
    ("rows", "columns", "size"), [(8, 12, (4, 6)), (9, 10, (5, 10)), (6, 8, (6, 3)), (7, 4, (1, 4))]
)
def test_hit_frequency_is_that_of_all_places(rows, columns, size):
    hits = np.zeros((rows, columns))
    places = [(r, c) for r in range(rows - size[0] + 1) for c in range(columns)]
    for r, c in places:
        hits[r : r + size[0], (c + np.arange(size[1])) % columns] += 1
    expected = np.broadcast_to((hits / len(places))[:, :1], hits.shape)
    np.testing.assert_allclose(hits / len(places), expected, atol=1e-15)
    np.testing.assert_allclose(hit_frequency(grid_of(rows, columns), size), expected[:, 0], atol=1e-15)


def test_corrected_weights_make_the_loss_that_of_the_globe():
    grid, size = grid_of(9, 12), (4, 6)
    weights = cell_weights(grid, BlockSettings(size=size, weights="corrected"))
    total, places = np.zeros(grid.shape), 0
    for r in range(6):
        for c in range(12):
            total[r : r + 4, (c + np.arange(6)) % 12] += weights[r : r + 4, None]
            places += 1
    np.testing.assert_allclose(total / places, grid.weights, rtol=1e-12)


@pytest.mark.parametrize("kind", ["corrected", "area", "none"])
def test_weights_of_a_block_add_up_to_one_on_average(kind):
    grid, size = grid_of(9, 12), (4, 6)
    weights = cell_weights(grid, BlockSettings(size=size, weights=kind))
    assert np.mean([6 * weights[r : r + 4].sum() for r in range(6)]) == pytest.approx(1.0, abs=1e-12)
    if kind == "area":
        assert weights[4] / weights[0] == pytest.approx(grid.weights[4, 0] / grid.weights[0, 0])


def test_an_epoch_reads_every_step_of_every_member_once_and_is_a_function_of_seed_and_epoch(archive):
    sampler, _ = sampler_of(archive, per_time=3)
    batches = sampler.epoch(2, 7)
    assert len(batches) == sampler.steps_per_epoch == -(-87 // 4)
    blocks = [b for batch in batches for b in batch]
    times = [b[:3] for b in blocks]
    assert len(blocks) == 3 * 87
    assert len(set(times)) == 87
    assert batches == sampler.epoch(2, 7) != sampler.epoch(3, 7)
    assert {b.row for b in blocks} == set(range(5))
    assert {b.column for b in blocks} == set(range(12))


def test_a_share_of_the_steps_is_drawn_anew(archive):
    sampler, _ = sampler_of(archive, share=0.1, times=2)
    first, second = ({b[:3] for batch in sampler.epoch(e, 0) for b in batch} for e in (0, 1))
    assert len(first) == len(second) == 9
    assert first != second


def test_what_cannot_be_cut_is_refused(archive):
    with pytest.raises(RecipeError, match="larger than the map"):
        sampler_of(archive, size=(4, 13))
    coarsening = Coarsening(archive.grid, CoarseSettings(grid=(4, 6)))
    with pytest.raises(ProtocolError, match="no training months"):
        BlockSampler(archive, (), coarsening, PlainFrames(coarsening), BlockSettings(size=(4, 6)))
    assert BlockSettings.model_validate({"size": "24,36"}).size == (24, 36)


def test_addresses_name_scenario_member_and_step(archive):
    sampler, _ = sampler_of(archive)
    assert sampler.address([Block(0, 1, 5, 2, 9)]).startswith("ssp126 member 1 ")
