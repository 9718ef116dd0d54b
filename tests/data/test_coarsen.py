"""The coarse-down-up pass against plain loops, image resizing and what must hold exactly."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import xarray as xr

from emukit.data.coarsen import Coarsening, CoarseSettings, _low_pass, in_context, offsets
from emukit.data.grid import Grid
from emukit.errors import RecipeError

# Sizes: of the competition, of a grid with poles as points and odd rows, of another that no coarse grid divides.
SHAPES = [((48, 72), (12, 18)), ((37, 72), (10, 18)), ((29, 48), (8, 13))]
METHODS = ["conservative", "bilinear", "antialiased"]


def grid_of(shape):
    rows, columns = shape
    lat = np.linspace(-90, 90, rows) if rows % 2 else -90 + (np.arange(rows) + 0.5) * 180 / rows
    return Grid(lat, np.arange(columns) * 360 / columns)


def pass_of(shape, coarse, method="conservative", **more):
    return Coarsening(grid_of(shape), CoarseSettings(grid=coarse, method=method, **more))


def noise(shape, *before, seed=0):
    return np.random.default_rng(seed).standard_normal((*before, *shape))


@pytest.mark.parametrize(("shape", "coarse"), SHAPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("low_pass", [0.0, 0.02])
def test_constants_are_kept(shape, coarse, method, low_pass):
    chosen = pass_of(shape, coarse, method, low_pass=low_pass)
    field = np.full(shape, 287.5)
    np.testing.assert_allclose(chosen.down(field), 287.5, rtol=1e-13)
    np.testing.assert_allclose(chosen.down_up(field), 287.5, rtol=1e-13)


@pytest.mark.parametrize(("shape", "coarse"), SHAPES)
def test_conservative_pass_keeps_the_mean_of_the_globe_and_of_each_coarse_cell(shape, coarse):
    chosen, field = pass_of(shape, coarse), noise(shape, 3) + 5
    passed = chosen.down_up(field)
    np.testing.assert_allclose(chosen.fine.mean(passed), chosen.fine.mean(field), rtol=1e-12)
    np.testing.assert_allclose(chosen.down(passed), chosen.down(field), atol=1e-12)
    np.testing.assert_allclose((chosen.cell_weights * chosen.down(field)).sum((-2, -1)), chosen.fine.mean(field), 1e-12)


def test_coarse_cells_are_area_means_of_their_fine_cells():
    chosen, field = pass_of((48, 72), (12, 18)), noise((48, 72))
    w = np.cos(np.deg2rad(chosen.fine.lat))
    for j, i in [(0, 0), (3, 17), (11, 5)]:
        rows, columns = slice(4 * j, 4 * j + 4), slice(4 * i, 4 * i + 4)
        expected = np.average(field[rows, columns].mean(1), weights=w[rows])
        assert chosen.down(field)[j, i] == pytest.approx(expected, abs=1e-13)
    assert chosen.grid.lat[0] == pytest.approx(chosen.fine.lat[:4].mean())
    assert chosen.grid.lon[1] == pytest.approx(chosen.fine.lon[4:8].mean())


def test_a_fine_cell_across_two_coarse_ones_is_shared():
    chosen = pass_of((4, 5), (2, 2))
    field = np.tile(np.array([0.0, 0, 1, 0, 0]), (4, 1))
    np.testing.assert_allclose(chosen.down(field), 0.5 / 2.5, atol=1e-14)


@pytest.mark.parametrize("method", ["conservative", "bilinear"])
def test_rolling_the_field_by_coarse_cells_rolls_the_pass(method):
    chosen, field = pass_of((48, 72), (12, 18), method, low_pass=0.02), noise((48, 72), 2)
    rolled = chosen.down_up(np.roll(field, 20, -1))
    np.testing.assert_allclose(rolled, np.roll(chosen.down_up(field), 20, -1), atol=1e-12)


def test_the_published_resize_has_a_seam_at_the_dateline():
    chosen, field = pass_of((48, 72), (12, 18), "antialiased"), noise((48, 72))
    rolled = chosen.down_up(np.roll(field, 20, -1))
    assert np.abs(rolled - np.roll(chosen.down_up(field), 20, -1)).max() > 0.1


@pytest.mark.parametrize(("shape", "coarse"), SHAPES)
def test_antialiased_is_what_image_libraries_do(shape, coarse):
    field = noise(shape, 1, 2)
    chosen = pass_of(shape, coarse, "antialiased")
    down = F.interpolate(torch.from_numpy(field), coarse, mode="bilinear", antialias=True)
    up = F.interpolate(down, shape, mode="bilinear", antialias=True)
    np.testing.assert_allclose(chosen.down(field), down.numpy(), atol=1e-12)
    np.testing.assert_allclose(chosen.down_up(field), up.numpy(), atol=1e-12)


def test_bilinear_is_torch_on_a_field_continued_round_the_globe():
    coarse = noise((12, 18), 1, 2)
    round_ = torch.from_numpy(np.concatenate([coarse[..., -2:], coarse, coarse[..., :2]], -1))
    expected = F.interpolate(round_, (48, 88), mode="bilinear")[..., 8:-8].numpy()
    np.testing.assert_allclose(pass_of((48, 72), (12, 18), "bilinear").up(coarse), expected, atol=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_a_block_of_the_pass_is_the_pass_cropped(method):
    chosen = pass_of((37, 72), (10, 18), method, low_pass=0.02)
    coarse = chosen.down(noise((37, 72), 2))
    rows, columns = np.arange(5, 21), np.arange(60, 84) % 72
    block = chosen.up(coarse, rows, columns)
    np.testing.assert_allclose(block, chosen.up(coarse)[..., rows, :][..., columns], atol=1e-13)


def test_low_pass_has_its_response_at_the_shortest_coarse_wave():
    chosen = pass_of((48, 72), (12, 18), low_pass=0.02)
    # The zonal wave of 9 cycles is the shortest that 18 columns hold; a wave of one cycle passes almost whole.
    x = np.arange(72) * 2 * np.pi / 72
    for cycles, response in [(9, 0.02), (1, 0.02 ** (1 / 81))]:
        wave = np.cos(cycles * x)
        np.testing.assert_allclose(_low_pass(72, 18, 0.02, periodic=True) @ wave, response * wave, atol=1e-12)
    rows = _low_pass(48, 12, 0.02, periodic=False)
    meridional = np.cos(np.pi * 12 * (np.arange(48) + 0.5) / 48)
    np.testing.assert_allclose(rows @ meridional, 0.02 * meridional, atol=1e-12)
    assert np.abs(chosen.down(noise((48, 72)))).max() < np.abs(pass_of((48, 72), (12, 18)).down(noise((48, 72)))).max()


def test_a_finer_coarse_grid_is_refused():
    with pytest.raises(RecipeError, match="finer than the data"):
        pass_of((48, 72), (12, 90))
    with pytest.raises(ValueError, match="at least 2"):
        CoarseSettings(grid=(1, 18))


@pytest.mark.parametrize(
    ("rows", "columns"),
    [
        (np.arange(48), np.arange(72)),
        (np.arange(5, 6), np.arange(70, 75) % 72),
        (np.arange(7, 30), (np.arange(72) + 3) % 72),
        (np.arange(40, 48), np.arange(66, 72)),
        (np.arange(4, 8), np.arange(1, 70)),
    ],
)
def test_fields_given_the_means_of_coarse_cells_have_them(rows, columns):
    chosen = pass_of((48, 72), (12, 18))
    truth = np.abs(noise((48, 72), 3, 2)) ** 3
    coarse = chosen.down(truth)
    said = np.abs(noise((48, 72), 3, 2))
    said[0, 1, :4, :4] = 0.0
    said[0, 0, :4, :4] = 0.0
    cells = chosen.whole_cells(rows, columns)
    own = said[..., cells.rows, :][..., cells.columns]
    found = chosen.with_means(own, coarse, cells, (False, True))
    assert (found[:, 1] >= 0).all()
    # Put where they belong, they have the coarse means of the cells that they are of.
    whole = said.copy()
    whole[:, :, cells.rows[:, None], cells.columns] = found
    back = chosen.down(whole)[..., cells.coarse_rows, :][..., cells.coarse_columns]
    np.testing.assert_allclose(back, coarse[..., cells.coarse_rows, :][..., cells.coarse_columns], rtol=1e-12)
    np.testing.assert_array_equal(cells.rows[cells.inner], rows)
    np.testing.assert_array_equal(cells.columns[cells.across], columns)
    # What had the means already is left as it is.
    same = truth[..., cells.rows, :][..., cells.columns]
    np.testing.assert_allclose(chosen.with_means(same, coarse, cells, (False, True)), same, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("shape", "coarse", "method", "whole"),
    [
        ((48, 72), (12, 18), "conservative", True),
        ((48, 72), (12, 18), "bilinear", True),
        ((48, 72), (12, 18), "antialiased", False),
        ((37, 72), (10, 18), "conservative", False),
    ],
)
def test_only_means_over_whole_cells_can_be_given(shape, coarse, method, whole):
    assert pass_of(shape, coarse, method).whole == whole
    assert not pass_of(shape, coarse, method, low_pass=0.02).whole


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "variable", "coarse"),
    [("era5-1deg-week.zarr", "t2m", (46, 90)), ("glosea4_ensemble_ts_monthly.nc", None, (36, 48))],
)
def test_real_grids_with_odd_rows_and_points_at_the_poles(real_store, name, variable, coarse):
    path = real_store.parent / name
    if not path.exists():
        pytest.skip(f"no {name} next to the store")
    with xr.open_dataset(path, decode_times=False) as ds:
        variable = variable or next(v for v in ds.data_vars if ds[v].ndim >= 3)
        lat, lon = (next(c for c in ds.coords if str(c).startswith(n)) for n in ("lat", "lon"))
        array = ds[variable].sortby(lat)
        field = array.transpose(..., lat, lon).values.reshape(-1, ds.sizes[lat], ds.sizes[lon])[0].astype(np.float64)
        grid = Grid(array[lat].values.astype(np.float64), array[lon].values.astype(np.float64))
    assert grid.shape in ((181, 360), (145, 192))
    chosen = Coarsening(grid, CoarseSettings(grid=coarse))
    filled = np.where(np.isfinite(field), field, np.nanmean(field))
    passed = chosen.down_up(filled)
    assert grid.mean(passed) == pytest.approx(float(grid.mean(filled)), rel=1e-12)
    np.testing.assert_allclose(chosen.down(passed), chosen.down(filled), rtol=1e-11)
    assert np.abs(passed - filled).mean() < 0.2 * np.abs(filled - filled.mean()).mean()


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("context", [0, 1, 3])
def test_each_step_stands_next_to_its_neighbours_and_nothing_beyond_the_series(length, context):
    """Values are their own addresses: a hundred times the step, and the variable."""
    series = 100.0 * np.arange(length)[:, None, None, None] + np.arange(2)[:, None, None] + np.zeros((2, 3))
    found = in_context(series, context)
    assert found.shape == (length, 2 * (1 + 2 * context), 2, 3)
    for t in range(length):
        for place, step in enumerate(offsets(context)):
            for v in range(2):
                inside = 0 <= t + step < length
                expected = 100.0 * (t + step) + v if inside else np.nan
                np.testing.assert_array_equal(found[t, 2 * place + v], np.full((2, 3), expected))
    if context:
        np.testing.assert_array_equal(found[:, : 2 * (2 * context - 1)], in_context(series, context - 1))
