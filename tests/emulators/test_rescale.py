"""Stretched fields of another mean or standard deviation than asked for, or with negative rain."""

import numpy as np
import pytest

from emukit.emulators.rescale import stretch, stretch_above_zero


def rain(months=60, cells=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.gamma(rng.uniform(0.3, 4.0, cells), 1.0, (months, cells)).astype(np.float32)


@pytest.mark.parametrize("times", [0.2, 1.0, 3.0])
@pytest.mark.parametrize("how", [stretch, stretch_above_zero])
def test_mean_stays_and_standard_deviation_is_the_one_asked_for(how, times):
    field = rain()
    wanted = times * field.std(0, dtype=np.float64)
    out = how(field, wanted)
    np.testing.assert_allclose(out.mean(0), field.mean(0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(out.std(0), wanted, rtol=1e-9)


def test_rain_is_the_cut_off_stretch_that_a_search_finds():
    """Against two nested bisections, of the shift that keeps the mean and of the factor that gives the spread."""
    field = rain(36, 12)
    mean, anomaly = field.mean(0, dtype=np.float64), field - field.mean(0, dtype=np.float64)
    wanted = np.linspace(0.3, 2.5, 12) * mean

    def cut(factor):
        low, high = -factor * np.abs(anomaly).max(0) - mean, mean + 0 * factor
        for _ in range(60):
            middle = (low + high) / 2
            wet = np.maximum(middle + factor * anomaly, 0).mean(0) > mean
            low, high = np.where(wet, low, middle), np.where(wet, middle, high)
        return np.maximum(low + factor * anomaly, 0)

    low, high = np.zeros(12), np.full(12, 1e3)
    for _ in range(60):
        middle = (low + high) / 2
        wide = cut(middle).std(0) > wanted
        low, high = np.where(wide, low, middle), np.where(wide, middle, high)
    np.testing.assert_allclose(stretch_above_zero(field, wanted), cut(low), atol=1e-6)


def test_rain_never_becomes_negative_and_the_wettest_month_holds_all_at_most():
    field = rain(24, 30)
    out = stretch_above_zero(field, np.full(30, 1e3))
    assert out.min() >= 0
    np.testing.assert_allclose(out.mean(0), field.mean(0, dtype=np.float64), rtol=1e-9)
    assert ((out > 1e-9).sum(0) == 1).all()
    assert (out.argmax(0) == field.argmax(0)).all()


def test_equally_wet_months_share_all_the_rain():
    field = np.array([0.0, 1.0, 2.0, 2.0])[:, None]
    np.testing.assert_allclose(stretch_above_zero(field, np.array([50.0]))[:, 0], [0, 0, 2.5, 2.5])


def test_months_as_dry_as_others_change_together():
    field = np.array([0.0, 0.0, 0.0, 1.0, 3.0])[:, None]
    out = stretch_above_zero(field, np.array([1.3]))[:, 0]
    assert out.mean() == pytest.approx(0.8)
    assert out.std() == pytest.approx(1.3)
    assert out[0] == out[1] == out[2] == 0


@pytest.mark.parametrize("how", [stretch, stretch_above_zero])
@pytest.mark.parametrize("value", [0.0, 0.1, 3.7])
def test_a_cell_without_any_variation_stays(how, value):
    field = np.full((37, 2), value, np.float32)
    np.testing.assert_allclose(how(field, np.array([0.5, 0.0])), field, rtol=1e-7)
