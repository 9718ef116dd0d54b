"""Maps of indices that are another scenario's, scores of the wrong region, days of the wrong cell."""

from __future__ import annotations

import numpy as np
import pytest

from emukit.competitions.climx.parts import score_maps
from emukit.competitions.climx.score import derive_indices, regions, score_index
from emukit.data import daily_archive
from emukit.data.opening import open_data
from emukit.data.split import Span, Split
from emukit.emulators.climx_baselines import ClimxClimatology
from emukit.figures.maps import IndexMap, draw_index_maps
from emukit.metrics.extremes import INDICES
from emukit.report.index_pictures import RANKS, collect_indices, index_figures


@pytest.fixture(scope="module")
def archive(climx_folder):
    return open_data(str(climx_folder[0]))


@pytest.fixture(scope="module")
def emulator(archive):
    train = tuple(Span(n, 0, len(archive[n]), (0,)) for n in ("historical", "ssp126"))
    return ClimxClimatology.fit(archive, Split("own", train, {}))


@pytest.fixture(scope="module")
def span(archive):
    return Span("ssp585", 0, len(archive["ssp585"]), (0,))


@pytest.fixture(scope="module")
def shown(archive, emulator, span):
    return collect_indices(emulator, archive, span)


def test_regions_and_cells_have_the_scores_of_the_competition():
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, (9, 15, 12, 18))
    said = truth + rng.normal(0, 0.7, truth.shape)
    # Nothing varies there, so nothing is scored.
    truth[:, 4, :6] = 1.0
    maps, where = score_maps(said, truth), regions()
    for i in (0, 4):
        wanted = score_index(truth[:, i], said[:, i]).by_region
        for place, name in enumerate(where.names):
            found = np.unique(maps.regions[i][where.cells == place])
            assert found.tolist() == [wanted[name]] if name in wanted else np.isnan(found).all(), name
        assert np.isnan(maps.regions[i][where.cells < 0]).all()
    assert np.isnan(maps.cells[4, :6]).all()
    y, x = np.argwhere(~np.isnan(maps.cells[0]))[5]
    variance, error = truth[:, 0, y, x].var(), ((said - truth)[:, 0, y, x] ** 2).mean()
    assert maps.cells[0, y, x] == pytest.approx((variance - error) / (variance + error))
    inside = where.cells.reshape(12, 16, 18, 16).max((1, 3)) >= 0
    np.testing.assert_array_equal(~np.isnan(maps.cells[0]), inside)


def test_maps_are_of_the_indices_that_are_scored(archive, emulator, span, shown):
    derive = derive_indices(archive, "ssp585", 0, span.stop)
    np.testing.assert_array_equal(shown.truth, derive(archive["ssp585"].truth(0, 0, span.stop)))
    np.testing.assert_array_equal(shown.prediction, derive(emulator.predict_fields(archive["ssp585"], 0, span.stop)))
    figures = index_figures(shown, "a title", whole=False)
    assert set(figures) == {"indices", "regions", "days"}
    error = (shown.prediction - shown.truth).mean(0)[0]
    drawn = maps_in(figures["indices"][0])
    assert len(drawn) == len(INDICES)
    # Beside the map, the cells across the prime meridian.
    np.testing.assert_allclose(drawn[0][:, 1:-1], error)
    assert f"bias {archive.grid.mean(error):+.3f}" in figures["indices"][1]
    said, true = shown.prediction.mean(0)[0], shown.truth.mean(0)[0]
    row = maps_in(draw_index_maps([IndexMap("TXx (K)", said, true, "")], archive.grid, "", earth=False))
    for found, wanted in zip(row, (said, true, said - true), strict=True):
        np.testing.assert_allclose(found[:, 1:-1], wanted)
    # A planet that is made up has no coasts.
    assert archive.made_up
    assert not shown.earth


def maps_in(figure):
    """The values of all maps, in the order in which they were drawn."""
    return [
        np.asarray(axes.collections[0].get_array())
        for axes in figure.axes
        if axes.collections and axes.get_xlim() == (0.0, 360.0)
    ]


def test_days_are_those_of_the_cells_with_the_scores_named(archive, emulator, span, shown):
    known = ~np.isnan(shown.scores.cells)
    mean = np.nanmean(np.where(known, shown.scores.cells, np.nan), 0)
    ordered = np.sort(mean[known.any(0)])
    assert len(shown.cells) == len(RANKS)
    for name, rank in (("lowest", 0), ("highest", -1)):
        (title,) = (t for t in shown.cells if t.startswith(name))
        assert title.endswith(f"{ordered[rank]:+.2f}")
        y, x = np.argwhere(mean == ordered[rank])[0]
        assert f"{abs(archive.grid.lat[y]):.1f}°{'NS'[int(archive.grid.lat[y] < 0)]}" in title
        rows = shown.cells[title]
        assert [r.label.split()[0] for r in rows] == ["tas", "tasmax", "tasmin", "pr"]
        truth = archive["ssp585"].truth(0, 0, span.stop)[:, archive.variables.index("pr"), y, x]
        assert rows[3].truth.shape == (3, 365)
        np.testing.assert_array_equal(rows[3].truth.ravel()[:-1], truth)
        # The last 31 December is in no file.
        assert np.isnan(rows[3].truth[-1, -1])
        said = emulator.predict_fields(archive["ssp585"], 0, span.stop)[:, archive.variables.index("tas"), y, x]
        np.testing.assert_array_equal(rows[0].prediction.ravel()[:-1], said)


def test_data_on_disk_are_shown_a_year_at_a_time(climx_folder, emulator, span, shown, monkeypatch):
    monkeypatch.setattr(daily_archive, "MOST_BYTES", 0)
    stored = open_data(str(climx_folder[0]))
    assert stored.on_disk
    lengths = []
    predict = emulator.predict_fields
    monkeypatch.setattr(
        emulator, "predict_fields", lambda scenario, a, b: lengths.append(b - a) or predict(scenario, a, b)
    )
    found = collect_indices(emulator, stored, span)
    assert max(lengths) == 365
    np.testing.assert_allclose(found.prediction, shown.prediction)
    np.testing.assert_array_equal(found.scores.cells, shown.scores.cells)
    assert list(found.cells) == list(shown.cells)
