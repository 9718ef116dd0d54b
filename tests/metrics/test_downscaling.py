"""A correlation, a spectrum or a tail of downscaled fields that a plain computation does not give."""

import numpy as np
import pytest

from emukit.data.grid import Grid
from emukit.metrics.downscaling import competition, tail_area, tail_thresholds, texts_of, zonal_spectrum

UNITS = {"tas": "K", "pr": "mm/day"}


def grid(columns):
    return Grid(np.array([-60.0, -20.0, 20.0, 60.0]), np.arange(columns) * 360 / columns)


def fields(columns=6, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(50, 2, 4, columns)) * [[[3.0]], [[0.5]]] + [[[7.0]], [[-0.2]]]
    return truth + 0.4 * rng.normal(size=truth.shape) + 0.1, truth


def test_scores_are_those_of_all_cells_and_steps_with_their_area():
    found, truth = fields()
    own, best = grid(6), {"tas": 0.5, "pr": 0.25}
    scored = competition(UNITS, best)
    score = scored.score(scored.moments(found, truth), own.weights, tuple(UNITS))
    w = np.broadcast_to(own.weights / own.weights.sum() / len(truth), truth[:, 0].shape).ravel()
    for v, name in enumerate(UNITS):
        p, t = found[:, v].ravel(), truth[:, v].ravel()
        mae, variance = w @ np.abs(p - t), w @ (t - w @ t) ** 2
        both = np.cov(p, t, aweights=w, ddof=0)
        assert score[f"{name}.mae"] == pytest.approx(mae, rel=1e-9)
        assert score[f"{name}.nmae"] == pytest.approx(mae / (w @ np.abs(t)), rel=1e-9)
        assert score[f"{name}.r2"] == pytest.approx(1 - w @ (p - t) ** 2 / variance, rel=1e-9)
        assert score[f"{name}.correlation"] == pytest.approx(both[0, 1] / np.sqrt(both[0, 0] * both[1, 1]), rel=1e-9)
        assert score[f"{name}.bias"] == pytest.approx(w @ (p - t), rel=1e-9)
    assert score.value == pytest.approx(np.mean([score[f"{name}.mae"] / best[name] for name in UNITS]))


@pytest.mark.parametrize("columns", [6, 7])
def test_spectrum_sums_to_the_variance_along_rows(columns):
    found, own = fields(columns)[0], grid(columns)
    power = zonal_spectrum(found, own)
    assert power.shape == (2, columns // 2)
    np.testing.assert_allclose(power.sum(-1), own.weights.sum(1) @ found.var(-1).mean(0).T, rtol=1e-9)
    wave = np.cos(2 * np.deg2rad(own.lon)) * np.ones((1, 1, 4, 1))
    np.testing.assert_allclose(zonal_spectrum(wave, own), [[0, 0.5, 0]], atol=1e-12)


def test_tails_begin_at_quantiles_of_all_cells_and_count_area():
    truth, own = fields()[1], grid(6)
    found = tail_thresholds(truth)
    for v in range(2):
        np.testing.assert_allclose(found[:, v], np.quantile(truth[:, v].ravel(), [0.99, 0.999]))
    beyond = np.zeros((4, 2, 4, 6))
    beyond[0, 1, 3, :3] = 5.0
    area = tail_area(beyond, np.array([[1.0, 1.0], [6.0, 5.0]]), own)
    np.testing.assert_allclose(area, [[0, own.weights[3, :3].sum() / 4], [0, 0]])


def test_errors_in_a_small_unit_are_not_printed_as_zero_and_rounding_errors_are():
    """Of humidity in kg kg-1 three decimals tell no downscaler from another; a bias of 1e-9 needs no digits."""
    best = {"huss.mae": 0.00137, "huss.bias": 2e-9, "huss.nmae": 0.08, "huss.power": 0.0041, "tas.mae": 0.264}
    scores = {"bilinear": best, "network": {**best, "huss.mae": 0.00041, "huss.bias": float("nan")}}
    columns = ("mae", "bias", "nmae", "power", "crps")
    assert texts_of(scores, "huss", columns) == {
        "bilinear": ["0.00137", "0.00000", "0.080", "0.004", ""],
        "network": ["0.00041", "", "0.080", "0.004", ""],
    }
    assert texts_of({"bilinear": best}, "tas", ("mae",)) == {"bilinear": ["0.264"]}
