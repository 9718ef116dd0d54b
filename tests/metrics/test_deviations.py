"""A memory, a spectrum or a variance of years that members do not have, and nobody sees."""

import numpy as np
import pytest

from emukit.data.grid import Grid
from emukit.metrics.variability import Deviations, ZonalPower, deviations

GRID = Grid(np.array([-45.0, 0.0, 45.0]), np.arange(0.0, 360, 30))
AREA = np.array([0.6, 0.4])


def runs(members=8, steps=600, memory=0.5, scale=1.0, seed=0):
    """(E, T, 2, 2): the second variable has a correlation of 0.6 with the first, in both regions; a shared trend."""
    z = np.random.default_rng(seed).normal(size=(members, steps, 2, 2))
    for t in range(1, steps):
        z[:, t] = memory * z[:, t - 1] + np.sqrt(1 - memory**2) * z[:, t]
    z[:, :, 1] = 0.6 * z[:, :, 0] + 0.8 * z[:, :, 1]
    return scale * z + np.linspace(0, 50, steps)[:, None, None]


def zonal(members, seed=0):
    return ZonalPower.of(np.random.default_rng(seed).normal(size=(members, 3, 2, *GRID.shape)), GRID)


def described(x, seed=0):
    return Deviations.of(x, AREA, 12, zonal(len(x), seed))


def test_deviations_have_the_variance_of_the_realisations_and_no_trend():
    x = runs(members=3, steps=4000)
    d = deviations(x)
    others = np.stack([np.delete(x, i, 0).mean(0) for i in range(3)])
    np.testing.assert_allclose(d, (x - others) * np.sqrt(2 / 3), atol=1e-10)
    assert d.var() == pytest.approx(1, rel=0.05)
    with pytest.raises(ValueError, match="single"):
        deviations(x[:1])


def test_numbers_are_those_that_the_series_were_made_with():
    # In units of their own, which correlation and memory know nothing of.
    found = described(runs(members=20, steps=2400) * [[10.0], [3.0]]).statistics(1, None)
    assert found.std.mean == pytest.approx(3, rel=0.05)
    assert found.memory.mean == pytest.approx(0.5, abs=0.03)
    assert found.correlation.mean == pytest.approx(0.6, abs=0.03)
    assert found.memory.low < found.memory.mean < found.memory.high
    # Of two regions with shares .6 and .4; the variance of means of twelve steps with memory .5 is exact.
    lags = np.arange(1, 12)
    of_year = (12 + 2 * ((12 - lags) * 0.5**lags).sum()) / 144
    assert found.annual_variance.mean == pytest.approx(9 * (0.36 + 0.16) * of_year, rel=0.1)
    assert found.regional_spectrum is None
    first = described(runs()).statistics(0, None)
    assert first.correlation is None
    assert "correlation" not in first.numbers()
    assert described(runs(steps=48)).statistics(0, None).annual_variance is None


def test_spectrum_is_the_members_own_or_is_not():
    members, same, white = described(runs(seed=1)), described(runs(seed=2)), described(runs(memory=0.0, seed=3))
    own = members.statistics(0, members, own=True).regional_spectrum
    like = same.statistics(0, members).regional_spectrum
    other = white.statistics(0, members).regional_spectrum
    assert like.mean == pytest.approx(own.mean, rel=0.3)
    assert other.low > 1.5 * own.high
    # A member is not compared with a mean that it is part of.
    three = described(runs(members=3, seed=4))
    plain = [
        np.sqrt((np.log10(s[:, 0] / np.delete(three.spectrum, i, 0).mean(0)[:, 0]) ** 2).mean())
        for i, s in enumerate(three.spectrum)
    ]
    assert three.statistics(0, three, own=True).regional_spectrum.mean == pytest.approx(np.mean(plain))
    assert described(runs(steps=20)).statistics(0, members).regional_spectrum is None


def test_zonal_power_adds_up_to_the_variance_and_over_steps():
    x = np.random.default_rng(5).normal(size=(4, 9, 2, *GRID.shape))
    whole, parts = ZonalPower.of(x, GRID), ZonalPower.of(x[:, :5], GRID) + ZonalPower.of(x[:, 5:], GRID)
    np.testing.assert_allclose(parts.power, whole.power, rtol=1e-12)
    assert parts.n == whole.n == 9
    variance = GRID.mean((deviations(x) ** 2).mean(1))
    np.testing.assert_allclose(whole.octaves().sum(-1), variance, rtol=1e-12)
    # A wave of wavenumber three is in the class of two and three.
    wave = np.cos(np.deg2rad(3 * GRID.lon)) * np.ones((3, 1))
    two = np.stack([wave, -wave])[:, None, None]
    found = ZonalPower.of(two, GRID).octaves()[0, 0]
    assert found.shape == (4,)
    assert found[2] == pytest.approx(found.sum())
    assert found[2] == pytest.approx(2 * 0.5)


def test_fields_without_small_scales_are_found_out():
    rng = np.random.default_rng(6)
    members, smooth = (rng.normal(size=(4, 40, 1, *GRID.shape)) for _ in range(2))
    smooth = (smooth + np.roll(smooth, 1, -1) + np.roll(smooth, -1, -1)) / 3
    area, of = np.ones(1), np.zeros((4, 40, 1, 1))
    powers = [
        Deviations.of(of + rng.normal(size=of.shape), area, 12, ZonalPower.of(x, GRID)) for x in (members, smooth)
    ]
    own = powers[0].statistics(0, powers[0], own=True).zonal_spectrum
    assert powers[1].statistics(0, powers[0]).zonal_spectrum.low > 2 * own.high


def test_mean_over_periods_is_of_numbers_and_of_spectra_of_one_length_alone():
    long, short = described(runs(seed=1)), described(runs(steps=300, seed=2))
    both = Deviations.mean([long, short])
    np.testing.assert_allclose(both.std, (long.std + short.std) / 2)
    assert both.spectrum is None
    assert Deviations.mean([long, long]).spectrum.shape == long.spectrum.shape
