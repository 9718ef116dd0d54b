"""The climate that was: the mean of every cell and season over the first training years, whatever the forcing.

Seasons are calendar months; of steps shorter than a day each time of the day has a mean of its own, and of years there
is one (`TimeAxis.season`). Days and hours follow a cycle through the months without a step from one to the next, whose
mean over each calendar month is that month's mean. Between the middles of months, days are interpolated (hours
likewise, each time of the day on its own). The values in the middles of months, the knots, are solved for, as in the
boundary conditions of AMIP II (Taylor, Williamson and Zwiers 2000, PCMDI Report 60): interpolated means would flatten
summer and winter.

Invariant: knows no forcing, so nothing that scores worse has learned anything from one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Span, Split
from emukit.data.time import MONTH_LENGTHS, TimeAxis
from emukit.emulators.base import Emulator
from emukit.errors import ProtocolError, RecipeError

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class ClimatologyEmulator(Emulator):
    """Predicts the mean of all training members over a reference period."""

    kind = "climatology"
    streams = True

    def __init__(self, domain: Domain, mean: NDArray[np.float32]) -> None:
        super().__init__(domain)
        self._mean = mean

    @classmethod
    def fit(cls, archive: Archive, split: Split, *, years: int = 20) -> Self:
        """Average the training steps of each season.

        Args:
            archive: The data.
            split: Its training spans are used.
            years: Length of the reference period, from each scenario's first step. Twenty years are the present
                climate; a longer period holds the warming that is to be predicted.

        Raises:
            RecipeError: `years` is not positive.
            ProtocolError: No training month of some calendar month lies in the reference period. Of days and hours, of
                which a record may be shorter than a year, such a season is given that of the nearest month.
        """
        if years < 1:
            raise RecipeError("model.years must be at least 1", found=str(years))
        time, last = archive.time, archive.time.per_year * years
        spans = [replace(s, stop=min(s.stop, last)) for s in split.train if s.start < last]
        total, count = seasonal_sums(archive, spans)
        if (count == 0).any() and (not time.minutes or not count.any()):
            raise ProtocolError(
                f"the first {years} years hold no training {time.unit}"
                + (" of some calendar month" if time.is_monthly else ""),
                hint="choose a longer reference period with --set model.years",
            )
        mean = total / np.maximum(count, 1)[:, None, None, None]
        fill_unseen(mean, count > 0, time.per_day)
        return cls(archive.domain, AnnualCycle.of(time, 0, 0).knots(mean).astype(np.float32))

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X): the climatology of each step's season."""
        return np.asarray(AnnualCycle.of(scenario.time, start, stop).at(self._mean), np.float32)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The mean fields."""
        return {}, {"mean": self._mean}

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        return cls(domain, np.asarray(arrays["mean"], np.float32))


def seasonal_reference(archive: Archive, split: Split) -> NDArray[np.float32]:
    """(12, V, Y, X) training climatology, beginning with the calendar month of the test span's first month.

    A submission that is some months early or late does not fit its seasonal cycle.
    """
    climatology = ClimatologyEmulator.fit(archive, split)
    span = split.test
    return climatology.predict_fields(archive[span.scenario], span.start, span.start + 12)


def seasonal_sums(archive: Archive, spans: Sequence[Span]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums of all members' targets by season.

    Returns:
        (G, V, y, x) sums in float64 and the (G,) number of fields in each, for the G groups of `TimeAxis.season`.
    """
    groups = archive.time.seasons
    total = np.zeros((groups, len(archive.variables), *archive.cells))
    count = np.zeros(groups, np.int64)
    for span in spans:
        scenario = archive[span.scenario]
        for member in span.members:
            for start, stop in scenario.pieces(span.start, span.stop):
                season = scenario.time.season[start:stop]
                truth = scenario.truth(member, start, stop)
                for m in np.unique(season):
                    total[m] += truth[season == m].sum(0, dtype=np.float64)
        season = scenario.time.season[span.start : span.stop]
        count += len(span.members) * np.bincount(season, minlength=groups)
    return total, count


@dataclass(frozen=True, eq=False)
class AnnualCycle:
    """Where N steps lie in the cycle of G seasons (`TimeAxis.season`).

    Attributes:
        time: A time axis of the same steps.
        season: (N,) the season of each step.
        parts: Of which knots each step is made: pairs of (N,) knots and their (N,) shares, which add up to one; of
            months and years one pair, the season itself.
    """

    time: TimeAxis
    season: Index
    parts: tuple[tuple[Index, Array], ...]

    @classmethod
    def of(cls, time: TimeAxis, start: int, stop: int) -> AnnualCycle:
        """Steps [start, stop) of an axis."""
        season = time.season[start:stop]
        if not time.minutes:
            return cls(time, season, ((season, np.ones(len(season))),))
        first, share = _between(_lengths(time))
        day, of_day = time.day_of_year[start:stop], time.step_of_day[start:stop]
        pairs = ((first, 1.0 - share), ((first + 1) % 12, share))
        return cls(time, season, tuple((month[day] * time.per_day + of_day, w[day]) for month, w in pairs))

    @classmethod
    def join(cls, cycles: Sequence[AnnualCycle]) -> AnnualCycle:
        """The steps of several, one after the other."""
        parts = zip(*(c.parts for c in cycles), strict=True)
        joined = tuple((np.concatenate([k for k, _ in p]), np.concatenate([w for _, w in p])) for p in parts)
        return cls(cycles[0].time, np.concatenate([c.season for c in cycles]), joined)

    def at(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """(N, ...) what the (G, ...) knots say of each step, in their type."""
        (knot, share), *others = self.parts
        if not others:
            return np.asarray(values[knot])
        shape = (-1, *(1,) * (values.ndim - 1))
        out = values[knot] * share.astype(values.dtype).reshape(shape)
        for knot, share in others:
            out += values[knot] * share.astype(values.dtype).reshape(shape)
        return np.asarray(out)

    def knots(self, means: Array) -> Array:
        """(G, ...) the knots of the cycle with these means over seasons, (G, ...)."""
        if len(self.parts) == 1:
            return means
        return np.asarray(np.linalg.solve(_mixture(_lengths(self.time)), means.reshape(12, -1)).reshape(means.shape))

    def means(self, values: NDArray[np.floating], weights: Array) -> Array:
        """(G, C) weighted means of (N, C) values by season.

        A season that no step is of has those of the nearest month at the same time of the day.
        """
        out = np.zeros((self.time.seasons, values.shape[1]))
        for m in np.unique(self.season):
            rows = self.season == m
            out[m] = np.average(values[rows], axis=0, weights=weights[rows])
        fill_unseen(out, np.bincount(self.season, minlength=len(out)) > 0, self.time.per_day)
        return out


def fill_unseen(values: Array, seen: NDArray[np.bool_], per_day: int) -> None:
    """Give seasons that no step is of the values of the nearest month that some is, at the same time of the day.

    Args:
        values: (G, ...), changed in place.
        seen: (G,) which seasons there are; not none.
        per_day: Times of the day among the seasons of a month.
    """
    if seen.all():
        return
    season = np.arange(len(values))
    month, of_day = season // per_day, season % per_day
    months = len(values) // per_day
    apart = np.abs(month[:, None] - month[None])
    apart = np.minimum(apart, months - apart)
    # Another time of the day is farther than any month.
    apart = np.where(seen[None], apart + months * (of_day[:, None] != of_day[None]), 3 * months)
    values[:] = values[np.where(seen, season, apart.argmin(1))]


def _lengths(time: TimeAxis) -> tuple[int, ...]:
    return MONTH_LENGTHS.get(time.calendar, MONTH_LENGTHS["noleap"])


@lru_cache
def _between(lengths: tuple[int, ...]) -> tuple[Index, Array]:
    """For each day of the year, the month whose middle lies before its noon, and how far it is to the next middle."""
    ends = np.cumsum(lengths)
    middle = ends - np.array(lengths) / 2
    noon = np.arange(ends[-1]) + 0.5
    first = (np.searchsorted(middle, noon, side="right") - 1) % 12
    gap = (np.roll(middle, -1) - middle) % ends[-1]
    return first, np.asarray((noon - middle[first]) % ends[-1] / gap[first], np.float64)


@lru_cache
def _mixture(lengths: tuple[int, ...]) -> Array:
    """(12, 12) share of each knot in the mean of each month."""
    first, share = _between(lengths)
    month = np.repeat(np.arange(12), lengths)
    out = np.zeros((12, 12))
    np.add.at(out, (month, first), 1.0 - share)
    np.add.at(out, (month, (first + 1) % 12), share)
    return np.asarray(out / np.array(lengths)[:, None], np.float64)
