"""Stretched fields of another mean, trend or standard deviation than asked for, or with negative rain."""

from functools import partial

import numpy as np
import pytest

from emukit.emulators.variance_matched import stretch, trend

stretch_above_zero = partial(stretch, above_zero=True)


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
    # The last two are apart by no more than a rounding of float32.
    field = np.array([0.0, 1.0, 2.0, 2.0000001])[:, None]
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


def warming(months=126, cells=40, seed=1, weather=0.3):
    """A slope, a season that begins and ends in the middle of a year, and weather."""
    rng = np.random.default_rng(seed)
    t = np.arange(months)[:, None]
    slope, phase = rng.normal(0, 0.02, cells), rng.uniform(0, 12, cells)
    season = 3 * np.cos(2 * np.pi * (t - phase) / 12)
    return (280 + slope * (t - (months - 1) / 2) + season + rng.normal(0, weather, (months, cells))), slope


def test_a_season_cut_in_the_middle_does_not_tilt_the_trend():
    field, slope = warming(weather=0.0)
    out = trend(field)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-9)
    np.testing.assert_allclose(np.diff(out, axis=0), np.broadcast_to(out[1] - out[0], (125, 40)), atol=1e-9)
    np.testing.assert_allclose(out[1] - out[0], slope, atol=1e-9)
    field = warming()[0]
    out = trend(field)
    years = field[6:].reshape(10, 12, 40).mean(1)
    np.testing.assert_allclose(12 * (out[1] - out[0]), np.polyfit(range(10), years, 1)[0], rtol=1e-6)


def test_a_line_is_not_drawn_through_a_single_year():
    assert not trend(warming(23)[0]).any()


@pytest.mark.parametrize("times", [0.8, 1.0, 1.7])
def test_the_trend_stays_where_the_rest_is_stretched(times):
    field = warming()[0]
    line = trend(field)
    wanted = times * field.std(0)
    out = stretch(field, wanted, keep=line)
    np.testing.assert_allclose(out.mean(0), field.mean(0), rtol=1e-12)
    np.testing.assert_allclose(out.std(0), wanted, rtol=1e-9)
    np.testing.assert_allclose(trend(out), line, atol=1e-9)
    if times != 1:
        assert np.abs(trend(stretch(field, wanted)) - line).max() > 0.1


def test_a_cell_whose_trend_alone_varies_too_much_still_varies_as_asked():
    field = warming(120)[0] * np.ones(40)
    field += 0.1 * np.arange(120)[:, None]
    wanted = np.full(40, 1.5)
    line = trend(field)
    assert (line.std(0) > wanted).all()
    out = stretch(field, wanted, keep=line)
    np.testing.assert_allclose(out.std(0), wanted, rtol=1e-9)
    np.testing.assert_allclose(out.mean(0), field.mean(0), rtol=1e-12)


def test_rain_with_a_trend_keeps_mean_and_standard_deviation_and_is_never_negative():
    field = (rain(120) + np.linspace(0, 5, 40)) * np.linspace(0.7, 1.3, 120)[:, None]
    wanted = 1.5 * field.std(0)
    out = stretch(field, wanted, keep=trend(field), above_zero=True)
    assert out.min() == 0
    np.testing.assert_allclose(out.mean(0), field.mean(0), rtol=1e-9)
    np.testing.assert_allclose(out.std(0), wanted, rtol=1e-9)
    # Against the plain formula where nothing was cut off.
    wet = (out > 0).all(0)
    assert wet.any()
    assert not wet.all()
    np.testing.assert_allclose(trend(out)[:, wet], trend(field)[:, wet], atol=1e-9)
