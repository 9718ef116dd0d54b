"""Baselines and the regression of cells against plain loops."""

import numpy as np
import pytest

from emukit.data.coarsen import Coarsening, CoarseSettings
from emukit.data.grid import Grid
from emukit.data.split import Span
from emukit.data.targets import TargetSettings
from emukit.emulators.downscaler import (
    CellLine,
    Interpolation,
    Neighbourhood,
    SeasonalResidual,
    fit_baselines,
    known_targets,
)

SPANS = (Span("ssp126", 0, 240, (0, 1)), Span("ssp370", 60, 180, (1,)))


@pytest.fixture(scope="module")
def pooled(archive, coarsening):
    """Truth, pass, coarse and calendar month of all training steps, one after the other."""
    parts = [(archive[s.scenario], m, s) for s in SPANS for m in s.members]
    truth = np.concatenate([a.truth(m, s.start, s.stop) for a, m, s in parts]).astype(np.float64)
    month = np.concatenate([a.calendar_month[s.start : s.stop] for a, _, s in parts])
    return truth, coarsening.down_up(truth), coarsening.down(truth), month


@pytest.fixture(scope="module")
def asked(archive, coarsening):
    truth = archive["ssp585"].truth(0, 500, 530)
    return coarsening.down(truth), archive["ssp585"].time[500:530]


def clipped(fields):
    fields[:, 1] = np.maximum(fields[:, 1], 0.0)
    return fields


def test_line_is_a_least_squares_fit_of_each_cell_and_month(archive, coarsening, pooled, asked):
    truth, passed, _, month = pooled
    fitted = CellLine.fit(archive, SPANS, coarsening)
    for m, v, y, x in [(0, 0, 0, 0), (6, 1, 5, 11), (11, 0, 7, 3)]:
        slope, intercept = np.polyfit(passed[month == m, v, y, x], truth[month == m, v, y, x], 1)
        assert fitted.slope[m, v, y, x] == pytest.approx(slope, rel=1e-6)
        assert fitted.intercept[m, v, y, x] == pytest.approx(intercept, rel=1e-5, abs=1e-5)
    coarse, time = asked
    expected = fitted.slope[time.month] * coarsening.up(coarse) + fitted.intercept[time.month]
    np.testing.assert_allclose(fitted.fields(coarse, time), clipped(expected), atol=1e-10)


def test_residual_is_the_mean_of_each_calendar_month(archive, coarsening, pooled, asked):
    truth, passed, _, month = pooled
    coarse, time = asked
    climatology = np.stack([(truth - passed)[month == m].mean(0) for m in range(12)])
    expected = clipped(coarsening.up(coarse) + climatology[time.month])
    found = SeasonalResidual.fit(archive, SPANS, coarsening).fields(coarse, time)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_season_without_training_takes_the_line_of_all(archive, coarsening, asked):
    coarse, time = asked
    few = (Span("ssp126", 0, 6, (0, 1)),)
    fitted = CellLine.fit(archive, few, coarsening)
    absent = sorted(set(range(12)) - set(archive["ssp126"].calendar_month[:6].tolist()))
    assert np.isfinite(fitted.fields(coarse, time)).all()
    for m in absent[1:]:
        np.testing.assert_array_equal(fitted.slope[m], fitted.slope[absent[0]])


def test_regression_is_a_plain_ridge_on_the_coarse_cells_round_about(archive, coarsening, pooled, asked):
    truth, _, down, month = pooled
    coarse, time = asked
    fitted = Neighbourhood.fit(archive, SPANS, coarsening, ("none", "sqrt"), width=3, penalty=0.01)

    def see(fields):
        return np.stack([fields[:, 0], np.sqrt(np.maximum(fields[:, 1], 0))], 1)

    t, c, asked_ = see(truth), see(down), see(coarse)
    row, column, v = 5, 11, 1
    around = [(w, min(max(2 + dy, 0), 3), (5 + dx) % 6) for w in range(2) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    for step in (0, 7):
        m = time.month[step]
        near = np.isin(month, [(m - 1) % 12, m, (m + 1) % 12])
        c_mean = np.stack([c[month == k].mean(0) for k in range(12)])
        t_mean = np.stack([t[month == k].mean(0) for k in range(12)])
        X = np.stack([(c - c_mean[month])[near][:, w, y, x] for w, y, x in around], 1)
        target = (t - t_mean[month])[near][:, v, row, column]
        scale = np.sqrt((X**2).mean(0))
        Z = X / scale
        beta = np.linalg.solve(Z.T @ Z + 0.01 * len(Z) * np.eye(18), Z.T @ target) / scale
        given = np.array([(asked_ - c_mean[time.month])[step, w, y, x] for w, y, x in around])
        expected = max(t_mean[m][v, row, column] + given @ beta, 0.0) ** 2
        assert fitted.fields(coarse, time)[step, v, row, column] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("number", range(4))
def test_a_block_is_the_globe_cropped(archive, coarsening, asked, number):
    coarse, time = asked
    every = (
        *fit_baselines(archive, SPANS, coarsening),
        Neighbourhood.fit(archive, SPANS, coarsening, ("none",) * 2, width=3),
    )
    rows, columns = np.arange(2, 6), np.arange(9, 15) % 12
    whole = every[number].fields(coarse, time)
    np.testing.assert_allclose(
        every[number].fields(coarse, time, rows, columns), whole[..., rows, :][..., columns], atol=1e-9
    )


def test_interpolation_stays_within_the_bounds(archive, coarsening, asked):
    coarse, time = asked
    dry = coarse.copy()
    dry[:, 1] = 0.0
    dry[:, 1, 2, 3] = 50.0
    assert coarsening.up(dry)[:, 1].min() < 0
    assert Interpolation(archive.domain, coarsening).fields(dry, time)[:, 1].min() == 0.0


def test_rain_is_seen_by_its_root_unless_somebody_says_otherwise(archive):
    assert [t.transform for t in known_targets(archive.domain, lambda v: TargetSettings()).values()] == ["none", "sqrt"]
    said = known_targets(archive.domain, lambda v: TargetSettings(transform="none"))
    assert [t.transform for t in said.values()] == ["none", "none"]


@pytest.mark.real
def test_baselines_of_the_competition_store(real_archive):
    """Of ssp585's last 360 months, MAE and RMSE of tas and pr; measured apart with image resizing of torch."""
    # The published numbers are of plain means of 4 x 4 cells, as on a grid whose cells have equal areas.
    equal = Grid(np.zeros(48), real_archive.grid.lon)
    coarsening = Coarsening(equal, CoarseSettings(grid=(12, 18), method="bilinear"))
    spans = (Span("ssp126", 0, 1021, (0,)), Span("ssp370", 0, 661, (0,)))
    truth, time = real_archive["ssp585"].truth(0, 661, 1021), real_archive["ssp585"].time[661:]
    w = real_archive.grid.weights
    expected = [((1.558, 2.586), (1.386, 2.327)), ((0.497, 0.764), (0.958, 1.724)), ((0.66, 0.987), (0.869, 1.583))]
    for one, numbers in zip(fit_baselines(real_archive, spans, coarsening), expected, strict=True):
        error = one.fields(coarsening.down(truth), time) - truth
        mae, rmse = (np.abs(error).mean(0) * w).sum((1, 2)), np.sqrt(((error**2).mean(0) * w).sum((1, 2)))
        np.testing.assert_allclose(np.stack([mae, rmse], 1), numbers, atol=0.012, err_msg=one.label)
