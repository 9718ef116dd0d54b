"""Fields of each season as a cycle that days follow without a step from month to month.

Invariant: the mean of a cycle over each calendar month is that month's mean. Months and years have their own fields;
between the middles of months, days are interpolated (hours likewise, each time of the day on its own).

The values in the middles of months, the knots, are solved for, as in the boundary conditions of AMIP II (Taylor,
Williamson and Zwiers 2000, PCMDI Report 60): interpolated means would flatten summer and winter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from emukit.data.time import MONTH_LENGTHS, TimeAxis

Array = NDArray[np.float64]
Index = NDArray[np.int64]


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
