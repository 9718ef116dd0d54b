"""Two of the four baselines that the organisers of ClimX published, rebuilt from their description.

Invariant: both are what was published, weaknesses included: they predict daily means, and by default the months of
their climatology lie on the first of each month, half a month early. `climatology` and `linear` are emukit's own.

Both interpolate between twelve monthly means of the historical run by a cubic spline through the year. The pattern
scaling explains the global mean temperature by CO2 and each cell's departure from that climatology by the global mean,
each by one straight line over all days; precipitation and humidity are taken as log10(x + 1e-6) there.

Guesses, where nothing is published: the spline is periodic, the climatology of the first baseline is of the fields
themselves, and the global mean is weighted by area.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.grid import weighted_mean
from emukit.data.protocol import HISTORICAL
from emukit.data.split import Span, Split
from emukit.data.time import MONTH_LENGTHS
from emukit.emulators.base import Emulator, temperature_position
from emukit.emulators.climatology import seasonal_sums
from emukit.emulators.features import check_feature
from emukit.emulators.typical_year import check_days
from emukit.errors import ProtocolError

Array = NDArray[np.float64]
Field = NDArray[np.float32]
Knots = Literal["first", "middle"]

DAYS, CALENDAR = 365, "noleap"
# What their preprocessing adds before the logarithm, in kg m-2 s-1 and kg kg-1.
OFFSET = 1e-6
LOGARITHMIC = ("precipitation_flux", "lwe_precipitation_rate", "specific_humidity")


@lru_cache
def spline_of_months(knots: Knots) -> Array:
    """(365, 12) share of each monthly mean in each day: a periodic cubic spline through all of them.

    Args:
        knots: Whether a month's mean lies on its first day (``first``), as in the published baselines, or in its
            middle (``middle``).
    """
    from scipy.interpolate import CubicSpline

    lengths = np.array(MONTH_LENGTHS[CALENDAR])
    starts = np.cumsum(lengths) - lengths
    at = starts if knots == "first" else starts + (lengths - 1) / 2
    whole = np.append(at, at[0] + DAYS)
    days = np.arange(DAYS, dtype=np.float64)
    values = np.vstack([np.eye(12), np.eye(12)[:1]])
    return np.asarray(CubicSpline(whole, values, bc_type="periodic")(days), np.float64)


class ClimxClimatology(Emulator):
    """The mean of each calendar month of the historical run, interpolated to days."""

    kind = "climx-climatology"
    steps = ("day",)
    streams = True

    def __init__(self, domain: Domain, means: Array, knots: Knots) -> None:
        """Use `fit`.

        Args:
            domain: What is predicted, and where.
            means: (12, V, Y, X) means of the calendar months.
            knots: As in `spline_of_months`.
        """
        super().__init__(domain)
        self._means, self._knots = means, knots

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """As `check_historical`."""
        check_historical(archive, cls.kind)

    @classmethod
    def fit(cls, archive: Archive, split: Split, *, knots: Knots = "first") -> Self:
        """Average the training days of the historical run by calendar month.

        Args:
            archive: Daily data.
            split: Its training spans of the historical run are used.
            knots: Where the mean of a month lies: on its first day, as published, or in its middle.

        Raises:
            ProtocolError: The data are not daily, or no day of the historical run trains.
        """
        cls.check(archive)
        total, count = seasonal_sums(archive, _historical(split))
        return cls(archive.domain, total / count[:, None, None, None], knots)

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> Field:
        """(T, V, Y, X): the same year again and again."""
        shares = spline_of_months(self._knots)[scenario.time.day_of_year[start:stop]]
        out = np.tensordot(shares.astype(np.float32), self._means.astype(np.float32), 1)
        self.clip_to_bounds(out)
        return np.asarray(out, np.float32)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The means, and where they lie."""
        return {"knots": self._knots}, {"means": self._means}

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        return cls(domain, np.asarray(arrays["means"], np.float64), knots_of(meta))


class ClimxPatternScaling(Emulator):
    """Straight lines: the global mean temperature in CO2, and every cell in the global mean temperature."""

    kind = "climx-lps"
    steps = ("day",)
    streams = True

    def __init__(
        self, domain: Domain, means: Array, level: Field, slope: Field, line: Array, knots: Knots, forcing: str
    ) -> None:
        """Use `fit`.

        Args:
            domain: What is predicted, and where.
            means: (12, V, Y, X) means of the calendar months of the historical run, where they are logarithmic of the
                logarithm.
            level: (V, Y, X) departure from these at no global departure.
            slope: (V, Y, X) change per K of global departure.
            line: (2,) global departure without CO2, and per unit of it.
            knots: As in `spline_of_months`.
            forcing: Name of the CO2 series.
        """
        super().__init__(domain)
        self._means, self._level, self._slope, self._line = means, level, slope, line
        self._knots, self._forcing = knots, forcing

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse what `fit` would refuse; arguments as for `fit`."""
        check_historical(archive, cls.kind)
        temperature_position(archive, cls.kind)
        for scenario in archive.values():
            check_feature(options["forcing"], scenario, archive.grid)

    @classmethod
    def fit(cls, archive: Archive, split: Split, *, knots: Knots = "first", forcing: str = "CO2_LBC") -> Self:
        """Fit by least squares over the training days of all scenarios but the historical run.

        Args:
            archive: Daily data.
            split: Its training spans; those of the historical run give the climatology alone, as published.
            knots: Where the mean of a month lies in the climatology.
            forcing: The series of CO2.

        Raises:
            ProtocolError: The data are not daily, lack the forcing, or no day of the historical run, or of another
                scenario, trains.
        """
        cls.check(archive, forcing=forcing)
        place = temperature_position(archive, cls.kind)
        spans = [s for s in split.train if s.scenario != HISTORICAL]
        if not spans:
            raise ProtocolError(f"{cls.kind} trains on scenarios after the historical run", found="none in the split")
        logarithmic = logarithmic_variables(archive.domain)
        means = historical_means(archive, split)
        shares = spline_of_months(knots)
        years = [(span, *days) for span in spans for days in _years(span)]

        def departures(v: int, year: tuple[Span, int, int], band: slice) -> Array:
            """(T, rows, X) days of a variable less the climatology."""
            span, start, stop = year
            scenario = archive[span.scenario]
            found = in_space(scenario.values(v, span.members[0], start, stop, band), logarithmic[v])
            found -= np.tensordot(shares[scenario.time.day_of_year[start:stop]], means[:, v, band], 1)
            return found

        warming = [np.zeros(stop - start) for _, start, stop in years]
        for band in archive.bands:
            for total, year in zip(warming, years, strict=True):
                total += weighted_mean(departures(place, year, band), archive.grid.weights[band])
        sums, products = np.zeros(means.shape[1:]), np.zeros(means.shape[1:])
        for v, band in itertools.product(range(len(archive.variables)), archive.bands):
            for mean, year in zip(warming, years, strict=True):
                fields = departures(v, year, band)
                sums[v, band] += fields.sum(0)
                products[v, band] += np.tensordot(mean, fields, 1)
        co2 = {name: daily_series(archive[name], forcing) for name in dict.fromkeys(s.scenario for s in spans)}
        gas = [co2[span.scenario][start:stop] for span, start, stop in years]
        x, g = np.concatenate(gas), np.concatenate(warming)
        slope = (products - g.mean() * sums) / ((g - g.mean()) ** 2).sum()
        level = sums / len(g) - slope * g.mean()
        per_unit = ((x - x.mean()) * g).sum() / ((x - x.mean()) ** 2).sum()
        line = np.array([g.mean() - per_unit * x.mean(), per_unit])
        return cls(archive.domain, means, level.astype(np.float32), slope.astype(np.float32), line, knots, forcing)

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> Field:
        """(T, V, Y, X): the climatology, moved along the lines."""
        warming = self._line[0] + self._line[1] * daily_series(scenario, self._forcing)[start:stop]
        shares = spline_of_months(self._knots)[scenario.time.day_of_year[start:stop]]
        out = np.empty((stop - start, len(self.variables), *self.grid.shape), np.float32)
        # In float64 one variable at a time: all of them would take twice the answer.
        for v, logarithmic in enumerate(logarithmic_variables(self.domain)):
            said = np.tensordot(shares, self._means[:, v], 1)
            said += self._level[v] + warming[:, None, None] * self._slope[v]
            out[:, v] = 10.0**said - OFFSET if logarithmic else said
        self.clip_to_bounds(out)
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The climatology and the lines."""
        arrays: dict[str, NDArray[Any]] = {
            "means": self._means,
            "level": self._level,
            "slope": self._slope,
            "line": self._line,
        }
        return {"knots": self._knots, "forcing": self._forcing}, arrays

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        means, line = (np.asarray(arrays[n], np.float64) for n in ("means", "line"))
        level, slope = (np.asarray(arrays[n], np.float32) for n in ("level", "slope"))
        return cls(domain, means, level, slope, line, knots_of(meta), str(meta["forcing"]))


def historical_means(archive: Archive, split: Split) -> Array:
    """(12, V, Y, X) means of the calendar months of the historical run, where they are logarithmic of the logarithm.

    Raises:
        ProtocolError: No day of the historical run trains.
    """
    logarithmic = logarithmic_variables(archive.domain)
    total, count = np.zeros((12, len(archive.variables), *archive.grid.shape)), np.zeros(12)
    spans = _historical(split)
    for span in spans:
        count += np.bincount(archive[span.scenario].time.month[span.start : span.stop], minlength=12)
    for v, band in itertools.product(range(len(archive.variables)), archive.bands):
        for span in spans:
            scenario = archive[span.scenario]
            for start, stop in _years(span):
                fields = in_space(scenario.values(v, span.members[0], start, stop, band), logarithmic[v])
                month = scenario.time.month[start:stop]
                for m in np.unique(month):
                    total[m, v, band] += fields[month == m].sum(0)
    return np.asarray(total / count[:, None, None, None])


def daily_series(scenario: Scenario, forcing: str) -> Array:
    """(T,) a yearly series on days: straight lines between 2 July and 2 July, and beyond at both ends.

    Args:
        scenario: Whose days.
        forcing: A series that has one value on all days of a year.
    """
    years, first = np.unique(scenario.time.year, return_index=True)
    values = np.asarray(scenario.forcings[forcing], np.float64)[first]
    at = years * DAYS + 182.0
    days = scenario.time.year * DAYS + scenario.time.day_of_year
    if len(years) == 1:
        return np.full(len(days), values[0])
    low = np.clip(np.searchsorted(at, days, side="right") - 1, 0, len(years) - 2)
    return np.asarray(values[low] + (days - at[low]) / DAYS * (values[low + 1] - values[low]))


def check_historical(archive: Archive, kind: str) -> None:
    """Refuse data whose years do not have 365 days, or without a historical run.

    Raises:
        ProtocolError: They are such data.
    """
    check_days(archive, kind)
    if HISTORICAL not in archive:
        raise ProtocolError(f"{kind} needs a historical run", found=f"scenarios {', '.join(archive)}")


def _historical(split: Split) -> list[Span]:
    spans = [s for s in split.train if s.scenario == HISTORICAL]
    if not spans:
        raise ProtocolError("the climatology is of the historical run, no day of which trains")
    return spans


def _years(span: Span) -> list[tuple[int, int]]:
    """The days of a year at a time: float64 copies of more would fill the memory."""
    edges = [*range(span.start, span.stop, DAYS), span.stop]
    return list(itertools.pairwise(edges))


def logarithmic_variables(domain: Domain) -> list[bool]:
    """(V,) which variables the published baselines take as logarithms: precipitation and humidity."""
    return [variable.standard_name in LOGARITHMIC for variable in domain.described]


def in_space(values: Field, logarithmic: bool) -> Array:
    """Values of a variable in float64, log10(x + 1e-6) of one that is logarithmic."""
    out = values.astype(np.float64)
    return np.asarray(np.log10(np.maximum(out, 0.0) + OFFSET)) if logarithmic else out


def knots_of(meta: Mapping[str, Any]) -> Knots:
    """Where the means of months lie, as a saved baseline says."""
    knots: Knots = "middle" if meta["knots"] == "middle" else "first"
    return knots
