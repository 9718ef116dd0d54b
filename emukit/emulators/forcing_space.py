"""Where months lie among the forcings, and how far from those that training showed.

Invariant: coordinates are global means of forcings in units of their spread over the training months, so that a
distance of one is what training scenarios differ by in one of them; targets are not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Scenario
from emukit.data.grid import Grid
from emukit.data.split import Span
from emukit.emulators.features import feature
from emukit.errors import ProtocolError, RecipeError

Array = NDArray[np.float64]

# Of an axis, as a share of its mean.
LEAST_SPREAD = 0.01
# Beyond this a year is far outside the training. On the competition's data the scenarios that are predicted lie up to
# 1.2 (ssp245) and 1.7 (the end of ssp370) from the others; an extreme scenario that is left out, 6 to 8.
FAR = 2.0


def years_of(start: int, stop: int, per_year: int = 12) -> list[tuple[int, int]]:
    """The whole years [a, b) of steps [start, stop), counted from the end; a rest at the beginning is left out."""
    return [(b - per_year, b) for b in range(stop, start + per_year - 1, -per_year)][::-1]


@dataclass(frozen=True, eq=False)
class ForcingSpace:
    """The years of training, as points.

    Attributes:
        names: K forcing series, as `emukit.emulators.features` names them.
        center: (K,) their means over the training years.
        scale: (K,) their standard deviations.
        points: (N, K) the training years, span after span.
    """

    names: tuple[str, ...]
    center: Array
    scale: Array
    points: Array

    @classmethod
    def fit(cls, archive: Archive, spans: Sequence[Span], names: Sequence[str]) -> Self:
        """The space of some training spans.

        Raises:
            RecipeError: No series, a bad name, or one twice.
            ProtocolError: A forcing is not in the store, or no span holds a whole year.
        """
        if not names or len(set(names)) < len(names):
            raise RecipeError("model.forcings are the axes of a space", found=repr(list(names)), expected="each once")
        years = []
        for span in spans:
            series = _series(archive[span.scenario], archive.grid, names)
            years += [series[a:b].mean(0) for a, b in years_of(span.start, span.stop, archive.time.per_year)]
        if not years:
            time = archive.time
            raise ProtocolError(
                f"the training {time.unit}s hold no whole year",
                expected=f"{time.per_year} {time.unit}s or more in a row",
            )
        values = np.stack(years)
        scale = values.std(0)
        scale[scale == 0] = 1.0  # what never moved in training is not a distance
        center = values.mean(0)
        return cls(tuple(names), center, scale, (values - center) / scale)

    @classmethod
    def of_training(cls, archive: Archive, spans: Sequence[Span], names: Sequence[str]) -> Self:
        """As `fit`, with axes that hardly move in training scaled by a hundredth of their mean.

        The sun's small cycles would otherwise count as much as a century of emissions.
        """
        space = cls.fit(archive, spans, names)
        least = LEAST_SPREAD * np.abs(space.center)
        scale = np.where(space.points.any(0), np.maximum(space.scale, least), np.where(least > 0, least, 1.0))
        return cls(space.names, space.center, scale, space.points * space.scale / scale)

    def farthest(self, scenario: Scenario, grid: Grid, start: int, stop: int) -> tuple[float, int] | None:
        """How far the years of steps [start, stop) lie from the nearest training year each, at most.

        Returns:
            The distance of the farthest year, and its last step; None where there is no whole year up to `stop`. Of
            less than a year it is that of the year that ends with it.
        """
        year = scenario.time.per_year
        years = years_of(start, stop, year) or years_of(max(0, stop - year), stop, year)
        if not years:
            return None
        series = self.of(scenario, grid)
        square = [((series[a:b].mean(0) - self.points) ** 2).sum(1).min() for a, b in years]
        worst = int(np.argmax(square))
        return float(np.sqrt(square[worst])), years[worst][1] - 1

    def of(self, scenario: Scenario, grid: Grid) -> Array:
        """(T, K) coordinates of all months of a scenario."""
        return np.asarray((_series(scenario, grid, self.names) - self.center) / self.scale, np.float64)

    def kernel(self, coordinates: Array, length: float) -> Array:
        """(T, N) similarity of months to training years: one where they are, exp(-1/2) at a distance of `length`."""
        square = ((coordinates[:, None] - self.points[None]) ** 2).sum(-1)
        return np.asarray(np.exp(-0.5 * square / length**2), np.float64)

    def distance(self, scenario: Scenario, grid: Grid) -> Array:
        """(T,) of all months of a scenario to the nearest training year, in spreads of the training years."""
        square = ((self.of(scenario, grid)[:, None] - self.points[None]) ** 2).sum(-1)
        return np.asarray(np.sqrt(square.min(1)), np.float64)

    def kernel_similarity(self, scenario: Scenario, grid: Grid, reach: float, sharpness: float = 2.0) -> Array:
        """(T,) of all months of a scenario to the nearest training year: exp(-(distance / reach)^sharpness / 2)."""
        square = ((self.of(scenario, grid)[:, None] - self.points[None]) ** 2).sum(-1).min(1)
        return np.asarray(np.exp(-0.5 * (square / reach**2) ** (sharpness / 2)), np.float64)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All of it by name, except for the names of the series."""
        return {"center": self.center, "scale": self.scale, "points": self.points}

    @classmethod
    def from_arrays(cls, names: Sequence[str], arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """The inverse of `arrays`."""
        center, scale, points = (np.asarray(arrays[n], np.float64) for n in ("center", "scale", "points"))
        return cls(tuple(names), center, scale, points)


def _series(scenario: Scenario, grid: Grid, names: Sequence[str]) -> Array:
    return np.stack([feature(n, scenario, grid) for n in names], 1)
