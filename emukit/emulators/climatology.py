"""The climate that was: the mean of every cell and calendar month over the first training years, whatever the forcing.

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
from emukit.emulators.base import Emulator
from emukit.errors import ProtocolError, RecipeError


class ClimatologyEmulator(Emulator):
    """Predicts the mean of all training members over a reference period."""

    kind = "climatology"

    def __init__(self, domain: Domain, mean: NDArray[np.float32]) -> None:
        super().__init__(domain)
        self._mean = mean

    @classmethod
    def fit(cls, archive: Archive, split: Split, *, years: int = 20) -> Self:
        """Average the training months of each calendar month.

        Args:
            archive: The data.
            split: Its training spans are used.
            years: Length of the reference period, from each scenario's first month. Twenty years are the present
                climate; a longer period holds the warming that is to be predicted.

        Raises:
            RecipeError: `years` is not positive.
            ProtocolError: No training month of some calendar month lies in the reference period.
        """
        if years < 1:
            raise RecipeError("model.years must be at least 1", found=str(years))
        spans = [replace(s, stop=min(s.stop, 12 * years)) for s in split.train if s.start < 12 * years]
        total, count = monthly_sums(archive, spans)
        if (count == 0).any():
            raise ProtocolError(
                f"the first {years} years hold no training month of some calendar month",
                hint="choose a longer reference period with --set model.years",
            )
        return cls(archive.domain, (total / count[:, None, None, None]).astype(np.float32))

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X): each month's climatology."""
        return self._mean[scenario.calendar_month[start:stop]]

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The twelve mean fields."""
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


def monthly_sums(archive: Archive, spans: Sequence[Span]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sums of all members' targets by calendar month.

    Returns:
        (12, V, Y, X) sums in float64 and the (12,) number of fields in each.
    """
    total = np.zeros((12, len(archive.variables), *archive.grid.shape))
    count = np.zeros(12, np.int64)
    for span in spans:
        scenario = archive[span.scenario]
        month = scenario.calendar_month[span.start : span.stop]
        for member in span.members:
            truth = scenario.truth(member, span.start, span.stop)
            for m in range(12):
                total[m] += truth[month == m].sum(0, dtype=np.float64)
        count += len(span.members) * np.bincount(month, minlength=12)
    return total, count
