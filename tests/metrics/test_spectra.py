"""Spectra whose power is of another period, amount or place than that of the series."""

import numpy as np
import pytest

from emukit.metrics.variability import spectra, welch_spectrum
from tests.coded import small_grid


def total(spectrum):
    """The integral over frequencies."""
    return spectrum.power.sum(0) * (spectrum.frequency[1] - spectrum.frequency[0])


def test_power_of_a_cycle_lies_at_its_frequency_and_adds_up_to_its_variance():
    months = np.arange(360)
    found = welch_spectrum(3.0 * np.sin(2 * np.pi * months / 40), 12)
    assert found.frequency[found.power.argmax()] == pytest.approx(12 / 40, abs=1 / 15)
    assert total(found) == pytest.approx(4.5, rel=0.02)
    assert found.frequency[0] > 0
    assert found.frequency[-1] == pytest.approx(6.0)


def test_power_of_noise_adds_up_to_its_variance_and_is_flat():
    noise = 2.0 * np.random.default_rng(0).standard_normal((360, 400))
    found = welch_spectrum(noise, 12)
    # The first frequency lost some to the means of the segments.
    np.testing.assert_allclose(found.power[1:-1].mean(1), 4.0 / 6, rtol=0.15)
    assert total(found).mean() == pytest.approx(4.0, rel=0.02)


def test_segments_are_half_a_short_series_and_twenty_years_of_a_long_one():
    assert len(welch_spectrum(np.zeros(360), 12).frequency) == 90
    assert len(welch_spectrum(np.zeros(1020), 12).frequency) == 120
    assert len(welch_spectrum(np.zeros(85), 1).frequency) == 10


@pytest.fixture(scope="module")
def fields():
    """Noise that is independent between cells in the first variable, and common to them in the second."""
    rng = np.random.default_rng(1)
    grid = small_grid(6, 8)
    own = rng.standard_normal((486, 6, 8))
    own[:, 0] *= 5.0
    common = np.broadcast_to(rng.standard_normal((486, 1, 1)), own.shape)
    return np.stack([own, common], 1), grid


def test_cells_have_the_power_that_their_mean_has_lost(fields):
    values, grid = fields
    found = spectra(values, grid)
    weights = grid.weights
    variance = np.ones(grid.shape)
    variance[0] = 25.0
    cell, globe = total(found["months, cell"]), total(found["months, globe"])
    assert cell[0] == pytest.approx((weights * variance).sum(), rel=0.05)
    assert globe[0] == pytest.approx((weights**2 * variance).sum(), rel=0.15)
    assert globe[1] == pytest.approx(cell[1], rel=1e-9)


def test_years_are_twelve_months_from_the_first_and_need_twenty_of_them(fields):
    values, grid = fields
    found = spectra(values, grid)
    annual = np.stack([values[12 * i : 12 * i + 12].mean(0) for i in range(40)])
    np.testing.assert_allclose(found["years, globe"].power, welch_spectrum(grid.mean(annual), 1).power)
    np.testing.assert_allclose(found["years, cell"].power, grid.mean(welch_spectrum(annual, 1).power))
    assert found["years, globe"].frequency[-1] == pytest.approx(0.5)
    assert total(found["years, globe"])[1] == pytest.approx(1 / 12, rel=0.4)
    assert set(spectra(values[:240], grid)) == set(found)
    assert set(spectra(values[:239], grid)) == {"months, globe", "months, cell"}
