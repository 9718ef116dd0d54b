"""The climate that was: the mean of every cell and season over the first training years, whatever the forcing.

Seasons are calendar months; of steps shorter than a day each time of the day has a mean of its own, and of years there
is one (`TimeAxis.season`). Days and hours follow the cycle through the months (`emukit.emulators.annual_cycle`).

Invariant: knows no forcing, so nothing that scores worse has learned anything from one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Span, Split
from emukit.emulators.annual_cycle import AnnualCycle, fill_unseen
from emukit.emulators.base import Emulator
from emukit.errors import ProtocolError, RecipeError


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
        (G, V, Y, X) sums in float64 and the (G,) number of fields in each, for the G groups of `TimeAxis.season`.
    """
    groups = archive.time.seasons
    total = np.zeros((groups, len(archive.variables), *archive.grid.shape))
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
