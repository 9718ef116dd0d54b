"""How realisations vary about the mean of the others: memory, correlation, annual means, spectra.

Invariant: every number is one realisation's own, of its deviations from the mean of the others, so that the forced
response that they share takes no part, and runs of a climate model are described by the same rule. An emulator's
numbers mean something only next to those.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.metrics.variability import welch_spectrum, zonal_power

Array = NDArray[np.float64]

# Fewer years say nothing about the variance between them.
LEAST_YEARS = 5
# Zonal wavenumbers in classes an octave wide.
_OCTAVE = 2


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
        if years >= LEAST_YEARS:
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
