"""Delta change: days of training years as they were, moved to the mean climate of the year that is asked for.

Invariant: within a day all cells and variables are of one training day; what is changed is the mean of each calendar
month, cell by cell, by what the global warming explains of it. A realisation is a function of seed, number and year.

Temperatures are moved by a difference; what is never negative and varies in proportion to its mean, such as rain, by a
ratio, so that dry days stay dry.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from copy import copy
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.residency import host_free
from emukit.data.split import Split
from emukit.emulators.base import Emulator
from emukit.emulators.typical_year import (
    DAYS,
    FEATURES,
    TypicalYear,
    Warming,
    annual_features,
    training_years,
)
from emukit.errors import ProtocolError, RecipeError
from emukit.terminal import size

Field = NDArray[np.float32]

MONTHS = 12
# A month whose expected mean is below this share of the largest in its cell is not divided by: a desert's ratio would
# be noise.
LEAST_SHARE = 1e-3
# Of the free memory, that the years may take.
SHARE = 0.8


class DeltaChange(Emulator):
    """Training years with the expected change of their monthly means."""

    kind = "delta-change"
    forcing_options: ClassVar[tuple[str, ...]] = ("features",)
    steps = ("day",)
    streams = True

    def __init__(
        self,
        domain: Domain,
        warming: Warming,
        level: Field,
        slope: Field,
        pool: Field,
        of_pool: NDArray[np.float64],
        month: NDArray[np.int64],
        *,
        seed: int,
        number: int = 0,
    ) -> None:
        """Use `fit`.

        Args:
            domain: What is predicted, and where.
            warming: From forcings to the global mean temperature.
            level: (12, V, Y, X) mean of each calendar month at the mean warming of training.
            slope: (12, V, Y, X) its change per K.
            pool: (N, 365, V, Y, X) the years that are drawn from.
            of_pool: (N,) the warming of each, K above the mean of training.
            month: (365,) calendar month of each day, January 0.
            seed: Of the draws.
            number: Which realisation it gives.
        """
        super().__init__(domain)
        self.warming, self.seed, self.number = warming, seed, number
        self._level, self._slope, self._pool, self._of_pool, self._month = level, slope, pool, of_pool, month

    @property
    def draws(self) -> bool:
        """Whether there is more than one year to draw from."""
        return len(self._pool) > 1

    def member(self, number: int) -> Self:
        """The same with other draws."""
        if not self.draws:
            return super().member(number)
        one = copy(self)
        one.number = number
        return one

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse data or values that `fit` would refuse; arguments as for `fit`."""
        TypicalYear.check(archive, features=options["features"], ridge=options["ridge"])
        if options["years"] < 1:
            raise RecipeError("model.years must be at least 1", found=str(options["years"]))

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        *,
        seed: int = 0,
        years: int = 20,
        features: tuple[str, ...] = FEATURES,
        ridge: float = 1.0,
    ) -> Self:
        """Learn the means of months, and keep some years.

        Args:
            archive: Daily data.
            split: Its training spans are used, their whole years.
            seed: Of the draws: that of the run.
            years: How many training years are kept to draw from, those of the middle warming; 1: one year is repeated.
            features: Forcing series that explain the global mean temperature, averaged over each year.
            ridge: Penalty on their squared coefficients, as in `typical-year`.

        Raises:
            RecipeError: A value outside its range, or an unknown feature.
            ProtocolError: The data are not daily, have no temperature, or the spans hold too few whole years.
        """
        cls.check(archive, years=years, features=features, ridge=ridge)
        found = training_years(archive, split)
        if len(found) < max(years, 3):
            raise ProtocolError(
                "the training spans hold too few whole years",
                found=f"{len(found)} of {DAYS} days",
                expected=f"{max(years, 3)} or more",
                hint="choose another protocol, or --set model.years=1",
            )
        warming, explained = Warming.of_training(archive, found, features, ridge)
        departure = explained - warming.mean
        chosen = np.sort(np.argsort(np.abs(departure - np.median(departure)), kind="stable")[:years])
        first = found[0]
        month = archive[first.span.scenario].time.month[first.start : first.stop]
        shape = (MONTHS, len(archive.variables), *archive.grid.shape)
        _refuse_large(len(chosen), shape)
        total, steep = np.zeros(shape), np.zeros(shape)
        pool = np.empty((len(chosen), DAYS, *shape[1:]), np.float32)
        centred = explained - explained.mean()
        for v, band in itertools.product(range(len(archive.variables)), archive.bands):
            for i, (year, g) in enumerate(zip(found, centred, strict=True)):
                field = year.values(archive, v, band)
                means = np.stack([field[month == m].mean(0, dtype=np.float64) for m in range(MONTHS)])
                total[:, v, band] += means
                steep[:, v, band] += g * means
                if i in chosen:
                    pool[int(np.searchsorted(chosen, i)), :, v, band] = field
        spread = float((centred**2).sum())
        # Sums of g alone are zero: the slope needs no mean taken off.
        slope = steep / spread if spread > 0 else np.zeros(shape)
        level = total / len(found) - float((explained - warming.mean).mean()) * slope
        return cls(
            archive.domain,
            warming,
            level.astype(np.float32),
            slope.astype(np.float32),
            pool,
            departure[chosen],
            month,
            seed=seed,
        )

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> Field:
        """(T, V, Y, X) float32: one realisation."""
        series, years = annual_features(self.warming.features, scenario, self.grid)
        warming = self.warming(series) - self.warming.mean
        out = np.empty((stop - start, len(self.variables), *self.grid.shape), np.float32)
        year, day = scenario.time.year[start:stop], scenario.time.day_of_year[start:stop]
        relative = [self.domain.card.targets[v].relative for v in self.variables]
        for n in np.unique(year):
            rows = np.flatnonzero(year == n)
            source = self._draw(int(n))
            days = self._pool[source][day[rows]]
            wanted = self._level + np.float32(warming[int(np.searchsorted(years, n))]) * self._slope
            had = self._level + np.float32(self._of_pool[source]) * self._slope
            month = self._month[day[rows]]
            for v in range(len(self.variables)):
                if relative[v]:
                    out[rows, v] = days[:, v] * _ratio(wanted[:, v], had[:, v])[month]
                else:
                    out[rows, v] = days[:, v] + (wanted[:, v] - had[:, v])[month]
        self.clip_to_bounds(out)
        return out

    def _draw(self, year: int) -> int:
        if not self.draws:
            return 0
        random = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.number, year)))
        return int(random.integers(len(self._pool)))

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The warming, the means of months, and the years."""
        meta, arrays = self.warming.state()
        arrays |= {"level": self._level, "slope": self._slope, "pool": self._pool, "of_pool": self._of_pool}
        arrays["month"] = self._month
        return meta | {"seed": self.seed}, arrays

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        warming = Warming.from_state(meta, arrays)
        level, slope, pool = (np.asarray(arrays[name], np.float32) for name in ("level", "slope", "pool"))
        of_pool, month = np.asarray(arrays["of_pool"], np.float64), np.asarray(arrays["month"], np.int64)
        return cls(domain, warming, level, slope, pool, of_pool, month, seed=int(meta["seed"]))


def _refuse_large(years: int, shape: tuple[int, ...]) -> None:
    """Refuse years that would not fit into memory."""
    one, room = 4 * DAYS * math.prod(shape[1:]), int(SHARE * host_free())
    if years * one > room:
        raise RecipeError(
            f"{years} years to draw from do not fit into memory",
            found=size(years * one),
            expected=f"up to {size(room)}",
            hint=f"--set model.years={max(room // one, 1)}",
        )


def _ratio(wanted: Field, had: Field) -> Field:
    """(12, Y, X) what a month's values are multiplied by; one where the month is all but dry."""
    least = LEAST_SHARE * had.max(0)
    usable = (had > least) & (wanted > 0)
    return np.where(usable, wanted / np.where(usable, had, 1.0), 1.0).astype(np.float32)
