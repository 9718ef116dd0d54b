"""Power spectra of weather: how much of the variance has which period.

Invariant: the integral of a spectrum over its frequencies is the variance of the series, up to what the mean of each
segment took away; runs of the same months have the same frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import welch

from emukit.data.grid import Grid

Array = NDArray[np.float64]
Kind = Literal["months, globe", "months, cell", "years, globe", "years, cell"]

# Fewer years make no spectrum of years worth looking at: three segments of ten years overlap in twenty.
LEAST_YEARS = 20
# Longer segments tell slower periods apart, and leave fewer of them to average, so that noise hides what is there.
LONGEST_YEARS = 20


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A power spectral density.

    Attributes:
        frequency: (F,) in cycles per year, above zero.
        power: (F, V) in the variable's unit squared, times years.
    """

    frequency: Array
    power: Array


def spectra(anomaly: NDArray[np.floating], grid: Grid) -> dict[Kind, Spectrum]:
    """Spectra of monthly anomalies and of their annual means: of the global mean, and the area mean of the cells' own.

    Args:
        anomaly: (T, V, Y, X) of consecutive months, as `emukit.metrics.variability.anomalies` gives them. Years are
            counted from the first month; what is left of the last is not a year.
        grid: Where.

    Returns:
        All kinds where there are twenty years, else those of months.
    """
    years = len(anomaly) // 12
    out: dict[Kind, Spectrum] = {
        "months, globe": welch_spectrum(grid.mean(anomaly), 12),
        "months, cell": _of_cells(anomaly, 12, grid),
    }
    if years >= LEAST_YEARS:
        annual = anomaly[: 12 * years].reshape(years, 12, *anomaly.shape[1:]).mean(1)
        out["years, globe"] = welch_spectrum(grid.mean(annual), 1)
        out["years, cell"] = _of_cells(annual, 1, grid)
    return out


def zonal_power(fields: NDArray[np.floating], grid: Grid) -> Array:
    """Variance along the rows by zonal wavenumber, rows counted with their area.

    Args:
        fields: (..., Y, X).
        grid: Theirs.

    Returns:
        (..., X // 2 + 1) from wavenumber 0, the square of the rows' means, to the grid scale; in the unit squared. Over
        all wavenumbers it sums to the area mean of the square.
    """
    cells = fields.shape[-1]
    amplitude = np.fft.rfft(np.asarray(fields, np.float64), axis=-1) / cells
    # Every wavenumber but the first, and the last of an even number of cells, stands for two of a full transform.
    twice = np.full(amplitude.shape[-1], 2.0)
    twice[0] = 1.0
    if cells % 2 == 0:
        twice[-1] = 1.0
    return np.asarray(np.einsum("...yk,y->...k", np.abs(amplitude) ** 2 * twice, grid.weights.sum(1)))


def welch_spectrum(series: NDArray[np.floating], per_year: int) -> Spectrum:
    """Welch's estimate along the first axis: Hann windows of half its length, at most twenty years, half overlapping.

    Args:
        series: (T, ...).
        per_year: How many values a year has.

    Returns:
        `power` with the shape (F, ...).
    """
    length = min(len(series) // 2, LONGEST_YEARS * per_year)
    frequency, power = welch(series, per_year, "hann", nperseg=length, detrend="constant", axis=0)
    # The mean of a segment was taken away, so nothing is known of frequency zero.
    return Spectrum(np.asarray(frequency[1:], np.float64), np.asarray(power[1:], np.float64))


def _of_cells(fields: NDArray[np.floating], per_year: int, grid: Grid) -> Spectrum:
    of_cells = welch_spectrum(fields, per_year)
    return Spectrum(of_cells.frequency, grid.mean(of_cells.power))
