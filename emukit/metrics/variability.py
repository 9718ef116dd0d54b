"""What weather looks like, in numbers: to tell sampled fields from a climate model's.

Invariant: every number is a function of one run's fields alone, so that runs are compared with runs by the same rule;
real runs among each other are the reference. The integral of a spectrum over its frequencies is the variance of the
series, up to what the mean of each segment took away; runs of the same months have the same frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.signal import welch

from emukit.data.grid import Grid

Array = NDArray[np.float64]

EARTH_RADIUS_KM = 6371.0

# Width of the classes of distance, about the size of a cell, and how far from each cell correlations are looked at.
CLASS_KM = 400.0
FARTHEST_KM = 6000.0
Kind = Literal["months, globe", "months, cell", "years, globe", "years, cell"]

# Fewer years make no spectrum of years worth looking at: three segments of ten years overlap in twenty.
LEAST_YEARS = 20
# Longer segments tell slower periods apart, and leave fewer of them to average, so that noise hides what is there.
LONGEST_YEARS = 20


@dataclass(frozen=True, eq=False)
class VariabilityStatistics:
    """How one run varies about its own climate.

    Attributes:
        std: (V, Y, X) standard deviation of anomalies, in the variable's unit.
        seasonal_std: (12, V) root area mean of their variance by calendar month.
        memory: (V, Y, X) correlation with the month before.
        together: (V - 1, Y, X) correlation of the first variable with each of the others.
        length_km: (V,) distance at which the correlation with a cell's surroundings falls to 1/e; infinite where it
            does not as far as it is measured.
        measured_km: How far that is.
    """

    std: Array
    seasonal_std: Array
    memory: Array
    together: Array
    length_km: Array
    measured_km: float

    @classmethod
    def of(cls, fields: NDArray[np.floating], month: NDArray[np.int64], grid: Grid) -> VariabilityStatistics:
        """Describe consecutive months of one run.

        Args:
            fields: (T, V, Y, X) in physical units, T at least three years.
            month: (T,) calendar month, January 0.
            grid: Where.
        """
        anomaly = anomalies(fields, month)
        variance = (anomaly**2).mean(0)
        by_month = np.stack([(anomaly[month == m] ** 2).mean(0) for m in range(12)])
        unit = anomaly / np.sqrt(np.maximum(variance, np.finfo(np.float64).tiny))
        lengths, measured = zip(*(_length(unit[:, v], grid) for v in range(fields.shape[1])), strict=True)
        return cls(
            np.sqrt(variance),
            np.sqrt(grid.mean(by_month)),
            (unit[1:] * unit[:-1]).mean(0),
            (unit[:, :1] * unit[:, 1:]).mean(0),
            np.array(lengths),
            min(measured),
        )

    def differences(self, other: VariabilityStatistics, grid: Grid) -> dict[str, Array]:
        """How far another run is from this one.

        Returns:
            ``std`` and ``memory``, (V,) area means of absolute differences, std as a share of the area-mean std of this
            one; ``together``, (V - 1,) likewise; ``total_std``, ``seasonal_std`` and ``length``, (V,) what the other's
            has over this one's as a share of it, for seasonal_std the largest of any calendar month. A difference
            between lengths of which one was not measured is not a number.
        """
        spread = grid.mean(self.std)
        seasonal = other.seasonal_std / self.seasonal_std - 1
        measured = np.isfinite(self.length_km) & np.isfinite(other.length_km)
        length = np.divide(other.length_km, self.length_km, out=np.full(len(measured), np.nan), where=measured)
        return {
            "std": grid.mean(np.abs(other.std - self.std)) / spread,
            "memory": grid.mean(np.abs(other.memory - self.memory)),
            "together": grid.mean(np.abs(other.together - self.together)),
            "total_std": grid.mean(other.std) / spread - 1,
            "seasonal_std": np.abs(seasonal).max(0),
            "length": length - 1,
        }


def anomalies(fields: NDArray[np.floating], month: NDArray[np.int64]) -> Array:
    """(T, V, Y, X) fields without the straight line of each cell and calendar month, in float64."""
    out = np.empty(fields.shape)
    for m in np.unique(month):
        rows = np.flatnonzero(month == m)
        values = fields[rows].astype(np.float64)
        x = np.arange(len(rows)) - (len(rows) - 1) / 2
        slope = np.tensordot(x, values, axes=1) / max(float(x @ x), 1.0)
        line = values.mean(0) + x[:, None, None, None] * slope
        # What a line of two numbers takes away is put back, so that the variance is that of the weather.
        out[rows] = (values - line) * np.sqrt(len(rows) / max(len(rows) - 2, 1))
    return out


def rank_histogram(truth: NDArray[np.floating], ensemble: Sequence[NDArray[np.floating]], weights: Array) -> Array:
    """How often the truth has each rank among an ensemble: flat where it is one of them.

    Args:
        truth: (T, V, Y, X).
        ensemble: M fields of the same shape.
        weights: (Y, X) area weights that sum to one.

    Returns:
        (M + 1, V) shares that sum to one over ranks; a tie is shared evenly among the ranks it could have.
    """
    below, tied = np.zeros(truth.shape, np.int16), np.zeros(truth.shape, np.int16)
    for member in ensemble:
        below += member < truth
        tied += member == truth
    share = np.float32(1) / (tied + np.float32(1))
    out = np.zeros((len(ensemble) + 1, truth.shape[1]))
    for k in range(len(ensemble) + 1):
        here = (below <= k) & (k <= below + tied)
        out[k] = (np.where(here, share, np.float32(0)).mean(0, dtype=np.float64) * weights).sum((-2, -1))
    return out


def chance_of_ranks(realisations: Sequence[NDArray[np.floating]], weights: Array) -> Array:
    """How far from flat a rank histogram is by chance, where the truth is one more realisation.

    Each realisation in turn is the truth among all others. So months and cells depend on each other here as they do in
    the realisations, and the ensemble is as much a matter of chance as the truth; counting months and cells as if each
    were a draw of its own would make the band many times too narrow.

    Args:
        realisations: M + 1 fields (T, V, Y, X).
        weights: (Y, X) area weights that sum to one.

    Returns:
        (M + 1, V) standard deviation of a histogram among M about 1 / (M + 1).
    """
    histograms = [
        rank_histogram(truth, [r for j, r in enumerate(realisations) if j != i], weights)
        for i, truth in enumerate(realisations)
    ]
    return np.asarray(np.sqrt(np.mean((np.stack(histograms) - 1 / len(realisations)) ** 2, axis=0)), np.float64)


def _length(unit: Array, grid: Grid) -> tuple[float, float]:
    """Distance at which the mean correlation of cells falls to 1/e, and the farthest that is looked at.

    It is found on straight lines between classes of distance; infinite where the farthest class is above 1/e too.
    """
    cells = unit.reshape(len(unit), -1).astype(np.float32)
    # Some two hundred cells, evenly over the globe: rows by their cosine, and so by area.
    weights = grid.weights.ravel()
    chosen = np.searchsorted(np.cumsum(weights), (np.arange(200) + 0.5) / 200)
    lat, lon = (a.ravel() for a in np.meshgrid(np.deg2rad(grid.lat), np.deg2rad(grid.lon), indexing="ij"))
    point = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    distance = EARTH_RADIUS_KM * np.arccos(np.clip(point[:, chosen].T @ point, -1, 1))
    correlation = cells[:, chosen].T @ cells / len(cells)
    edges = np.arange(0.5, FARTHEST_KM / CLASS_KM) * CLASS_KM
    of_class = np.digitize(distance, edges)
    area = np.broadcast_to(weights, distance.shape)
    total = np.bincount(of_class.ravel(), area.ravel(), len(edges) + 1)
    there = np.flatnonzero(total[:-1] > 0)
    mean = np.bincount(of_class.ravel(), (area * correlation).ravel(), len(edges) + 1)[there] / total[there]
    far = np.bincount(of_class.ravel(), (area * distance).ravel(), len(edges) + 1)[there] / total[there]
    below, measured = np.flatnonzero(mean < np.exp(-1)), float(far[-1])
    if not below.size:
        return np.inf, measured
    k = below[0]
    return (float(np.interp(-np.exp(-1), -mean[k - 1 : k + 1], far[k - 1 : k + 1])) if k else 0.0), measured


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
