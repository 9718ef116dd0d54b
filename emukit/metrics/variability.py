"""How runs and realisations vary, in numbers: to tell sampled fields from a climate model's.

Invariant: every number is a function of one run's fields alone, or of one realisation's deviations from the mean of the
others, in which the forced response that they share takes no part. So runs of a climate model are described by the same
rule, and an emulator's numbers mean something only next to those. The integral of a spectrum over its frequencies is
the variance of the series, up to what the mean of each segment took away; runs of the same months have the same
frequencies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
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
# Fewer years say nothing about the variance of realisations between them.
LEAST_ENSEMBLE_YEARS = 5
# Zonal wavenumbers in classes an octave wide.
_OCTAVE = 2


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


def deviations(realisations: NDArray[np.floating]) -> Array:
    """Of each of (E, ...) realisations from the mean of the others, with the variance of the realisations themselves.

    Raises:
        ValueError: There is a single realisation.
    """
    number = len(realisations)
    if number < 2:
        raise ValueError("a single realisation has no deviation from others")
    x = np.asarray(realisations, np.float64)
    # x less the mean of the others is (x - mean) E / (E - 1), whose variance is E / (E - 1) times that of x.
    return np.asarray((x - x.mean(0)) * np.sqrt(number / (number - 1)))


@dataclass(frozen=True, eq=False)
class ZonalPower:
    """Sums over steps of the power of deviations by zonal wavenumber; they add.

    Attributes:
        n: Number of steps.
        power: (E, V, K) sum over steps of the area mean of the squared amplitude, from wavenumber 0; over wavenumbers
            it sums to the variance.
    """

    n: int
    power: Array

    @classmethod
    def of(cls, realisations: NDArray[np.floating], grid: Grid) -> ZonalPower:
        """The sums of (E, T, V, Y, X) realisations."""
        power = zonal_power(deviations(realisations), grid).sum(1)
        return cls(realisations.shape[1], power)

    @classmethod
    def zero(cls, number: int, variables: int, grid: Grid) -> ZonalPower:
        """Sums over no steps."""
        return cls(0, np.zeros((number, variables, grid.shape[1] // 2 + 1)))

    def __add__(self, other: ZonalPower) -> ZonalPower:
        return ZonalPower(self.n + other.n, self.power + other.power)

    def octaves(self) -> Array:
        """(E, V, O) mean variance in wavenumber 0, and in 1, 2-3, 4-7 and so on to the shortest waves."""
        mean = self.power / self.n
        first = [0] + [_OCTAVE**i for i in range(mean.shape[-1].bit_length()) if _OCTAVE**i < mean.shape[-1]]
        return np.add.reduceat(mean, first, axis=-1)


@dataclass(frozen=True)
class Statistic:
    """A number of several runs.

    Attributes:
        mean: Over runs.
        low: The smallest of a run.
        high: The largest of a run.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Array) -> Statistic:
        """Of (E,) runs."""
        return cls(float(values.mean()), float(values.min()), float(values.max()))


@dataclass(frozen=True)
class RunStatistics:
    """How one variable varies in each of several runs.

    Attributes:
        std: Root of the area-mean variance of the regional means, in the variable's unit.
        memory: Correlation of regional means with the step before, mean over regions.
        correlation: Correlation of regional means with those of the first variable; None of the first.
        annual_variance: Variance of global means of years, in the unit squared; None of fewer than five years.
        regional_spectrum: How far the spectrum of the regional means is from that of members in all frequencies: root
            mean square of the decimal logarithm of their ratio. None where there are no members, or too few steps.
        zonal_spectrum: Likewise of the power by zonal wavenumber, in octaves.
    """

    std: Statistic
    memory: Statistic
    correlation: Statistic | None
    annual_variance: Statistic | None
    regional_spectrum: Statistic | None
    zonal_spectrum: Statistic | None

    def numbers(self) -> dict[str, Statistic]:
        """Those that are known, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


@dataclass(frozen=True, eq=False)
class Deviations:
    """What several runs of the same steps are described by.

    Attributes:
        std: (E, V).
        memory: (E, V).
        correlation: (E, V) with the first variable.
        annual_variance: (E, V); None of fewer than five years.
        spectrum: (E, F, V) power of regional means; None of too few steps.
        zonal: (E, V, O).
    """

    std: Array
    memory: Array
    correlation: Array
    annual_variance: Array | None
    spectrum: Array | None
    zonal: Array

    @classmethod
    def of(cls, regional: Array, area: Array, per_year: int, zonal: ZonalPower) -> Deviations:
        """Describe runs.

        Args:
            regional: (E, T, V, R) means of regions.
            area: (R,) share of each region; they sum to one.
            per_year: Steps of a year. Years are counted from the first step; an incomplete last year is left out.
            zonal: Of the same runs.
        """
        z = deviations(regional)
        square = (z**2).mean(1)
        tiny = np.finfo(np.float64).tiny
        lagged = (z[:, 1:] * z[:, :-1]).mean(1)
        edges = np.sqrt((z[:, 1:] ** 2).mean(1) * (z[:, :-1] ** 2).mean(1))
        crossed = (z * z[:, :, :1]).mean(1) / np.sqrt(np.maximum(square * square[:, :1], tiny))
        years = z.shape[1] // per_year
        annual = None
        if years >= LEAST_ENSEMBLE_YEARS:
            globe = z @ area
            means = globe[:, : years * per_year].reshape(len(z), years, per_year, -1).mean(2)
            annual = (means**2).mean(1)
        spectrum = None
        if z.shape[1] >= 24:
            density = welch_spectrum(z.swapaxes(0, 1), per_year).power
            spectrum = (density @ area).swapaxes(0, 1)
        return cls(
            np.sqrt(square @ area),
            (lagged / np.maximum(edges, tiny)) @ area,
            crossed @ area,
            annual,
            spectrum,
            zonal.octaves(),
        )

    @classmethod
    def mean(cls, periods: Sequence[Deviations]) -> Deviations:
        """The mean over periods; spectra only where all have the same frequencies."""

        def spectral(values: Sequence[Array | None]) -> Array | None:
            known = [v for v in values if v is not None]
            alike = len(known) == len(values) and len({v.shape for v in known}) == 1
            return np.mean(known, axis=0) if alike else None

        std, memory, correlation, zonal = (
            np.mean([getattr(p, name) for p in periods], axis=0) for name in ("std", "memory", "correlation", "zonal")
        )
        annual, spectrum = (spectral([getattr(p, name) for p in periods]) for name in ("annual_variance", "spectrum"))
        return cls(std, memory, correlation, annual, spectrum, zonal)

    def statistics(self, v: int, members: Deviations | None, *, own: bool = False) -> RunStatistics:
        """The numbers of one variable.

        Args:
            v: Its place.
            members: The climate model's, which spectra are compared with, each time all members but one.
            own: Whether these are the members themselves: each is compared with the others.
        """
        regional = zonal = None
        if members is not None and len(members.std) > 1:
            zonal = Statistic.of(_distances(self.zonal[:, v], members.zonal[:, v], own=own))
            if self.spectrum is not None and members.spectrum is not None:
                regional = Statistic.of(_distances(self.spectrum[:, :, v], members.spectrum[:, :, v], own=own))
        return RunStatistics(
            Statistic.of(self.std[:, v]),
            Statistic.of(self.memory[:, v]),
            Statistic.of(self.correlation[:, v]) if v else None,
            None if self.annual_variance is None else Statistic.of(self.annual_variance[:, v]),
            regional,
            zonal,
        )


def _distances(spectra: Array, members: Array, *, own: bool) -> Array:
    """(E,) distances of (E, F) spectra from the mean of (M, F) members without one, in turn, or without themselves."""
    number, out = len(members), []
    for i, spectrum in enumerate(spectra):
        without: Sequence[int] = (i,) if own else range(number)
        ratios = [np.log10(_above_zero(spectrum) / _above_zero(np.delete(members, j, 0).mean(0))) for j in without]
        out.append(np.mean([np.sqrt((r**2).mean()) for r in ratios]))
    return np.array(out)


def _above_zero(power: Array) -> Array:
    """Power without zeros, of which there is no logarithm."""
    return np.maximum(power, np.finfo(np.float64).tiny)
