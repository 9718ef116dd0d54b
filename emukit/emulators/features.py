"""Global series of forcings by name, and how far from those of the training a month lies.

Invariant: a feature of step t depends on the date and on the forcings of its own scenario up to step t alone.

A name is a forcing (``CO2``), optionally its area mean over a region (``SO2@europe``), optionally remembered over
years (``CO2~10``: an exponential filter with an e-folding time of 10 years, the ocean's slow answer in one number).
Its logarithm is taken first where the name says so (``log:CO2_LBC~10``): the forcing of a concentration.
Or it is a passage from 0 to 1 that all scenarios share (``step:2045:20``: half way at the beginning of 2045, from 12 to
88 percent within 20 years): for what a climate model does at about the same time whatever is emitted, such as the
decline of the Atlantic's overturning. It is bounded, so it cannot run away beyond the training years.
``energy-balance`` is the warming of `emukit.emulators.forced_balance` with its default parameters, K.

In the space of forcings coordinates are global means in units of their spread over the training months, so that a
distance of one is what training scenarios differ by in one of them; targets are not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Scenario
from emukit.data.daily_archive import SteppedForcing, StoredForcing
from emukit.data.grid import Grid, weighted_mean
from emukit.data.split import Span
from emukit.errors import ProtocolError, RecipeError

# (south, north, west, east) in degrees; west > east wraps through Greenwich. Rectangles round the regions whose
# aerosol emissions the SSPs move apart.
REGIONS: dict[str, tuple[float, float, float, float]] = {
    "europe": (35.0, 70.0, 350.0, 40.0),
    "east-asia": (20.0, 50.0, 100.0, 145.0),
    "south-asia": (5.0, 35.0, 65.0, 97.5),
    "north-america": (25.0, 60.0, 230.0, 300.0),
    "south-america": (-55.0, 13.0, 278.0, 326.0),
    "africa": (-35.0, 35.0, 343.0, 52.0),
    "northern": (0.0, 90.0, 0.0, 360.0),
    "southern": (-90.0, 0.0, 0.0, 360.0),
}

_CORE = re.compile("energy-balance")
_STEP = re.compile(r"step:(?P<year>[0-9]{4}):(?P<width>[0-9]+(\.[0-9]+)?)")
_NAME = re.compile(r"(?P<log>log:)?(?P<forcing>[^@~:]+)(@(?P<region>[^@~]+))?(~(?P<years>[0-9]+(\.[0-9]+)?))?")
Array = NDArray[np.float64]
# Of an axis, as a share of its mean.
LEAST_SPREAD = 0.01
# Beyond this a year is far outside the training. On the competition's data the scenarios that are predicted lie up to
# 1.2 (ssp245) and 1.7 (the end of ssp370) from the others; an extreme scenario that is left out, 6 to 8.
FAR = 2.0


def feature(name: str, scenario: Scenario, grid: Grid) -> NDArray[np.float64]:
    """The (T,) series of one feature, in the forcing's units; of a step without any.

    Raises:
        RecipeError: The name has another form, or an unknown region.
        ProtocolError: The scenario has no such forcing, or it has no regions.
    """
    match = check_feature(name, scenario, grid)
    if match.re is _STEP:
        return _logistic_ramp(scenario, int(match["year"]), float(match["width"]))
    if match.re is _CORE:
        from emukit.emulators.forced_balance import default_warming

        return default_warming(scenario, grid)
    region, years = match["region"], match["years"]
    held = scenario.forcings[match["forcing"]]
    if region is not None:
        weights = grid.weights * _inside(region, grid)
        values = _area_mean(scenario, held, weights / weights.sum())
    else:
        values = _area_mean(scenario, held, grid.weights) if held.ndim == 3 else held.astype(np.float64)
    if match["log"]:
        if not (values > 0).all():
            raise ProtocolError(
                f"the feature {name!r} needs a forcing above zero",
                found=f"{values.min():.4g} in scenario {scenario.name}",
                hint="leave out log:",
            )
        values = np.log(values)
    return exponential_memory(values, float(years), scenario.time.per_year) if years else values


def _area_mean(scenario: Scenario, held: NDArray[np.floating], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    # Maps of months are averaged once, and not on each of their days; those on disk are read once.
    if isinstance(held, SteppedForcing | StoredForcing):
        return held.area_mean(weights)
    return scenario.share.sum(weighted_mean(held, scenario.share.own(weights)))


def check_feature(name: str, scenario: Scenario, grid: Grid) -> re.Match[str]:
    """Refuse a feature that a scenario cannot have, without computing it.

    Returns:
        The parts of its name.

    Raises:
        RecipeError: The name has another form, or an unknown region.
        ProtocolError: The scenario has no such forcing, or it has no regions.
    """
    step = _STEP.fullmatch(name)
    if step is not None and float(step["width"]) > 0:
        return step
    if core := _CORE.fullmatch(name):
        # torch, which nothing else here needs.
        from emukit.emulators.forced_balance import check_default_warming

        check_default_warming(scenario)
        return core
    match = _NAME.fullmatch(name)
    if match is None:
        raise RecipeError(
            f"cannot read the feature {name!r}",
            expected="FORCING, FORCING@REGION, FORCING~YEARS or both, log: before it; or step:YEAR:WIDTH",
        )
    forcing, region = match["forcing"], match["region"]
    if forcing not in scenario.forcings:
        raise ProtocolError(
            f"forcing {forcing} of the feature {name!r} is not in scenario {scenario.name}",
            found=", ".join(scenario.forcings),
            hint="forcings that hold it, or a recipe without it",
        )
    if region is None:
        return match
    if region not in REGIONS:
        raise RecipeError(f"unknown region in the feature {name!r}", found=region, expected=", ".join(REGIONS))
    if scenario.forcings[forcing].ndim != 3:
        raise ProtocolError(
            f"the feature {name!r} needs a field",
            found="a global series in this store",
            hint="leave out @REGION",
        )
    if not _inside(region, grid).any():
        raise ProtocolError(
            f"region {region} holds no cell of this grid", found=f"{grid.shape[0]} x {grid.shape[1]} cells"
        )
    return match


def forcing_of(name: str) -> str:
    """The forcing that a feature is made of; empty where it is made of none."""
    match = None if _CORE.fullmatch(name) else _NAME.fullmatch(name)
    return match["forcing"] if match else ""


def exponential_memory(series: NDArray[np.float64], years: float, per_year: int = 12) -> NDArray[np.float64]:
    """Exponential filter s[t] = s[t-1] + (x[t] - s[t-1]) / (n years) with n steps a year, starting at x[0].

    Scenarios share the past before their first step, so a common start costs them the same.
    """
    step = min(1.0, 1.0 / (per_year * years)) if years > 0 else 1.0
    kept, state = 1.0 - step, (1.0 - step) * series[0]
    filtered = np.empty(len(series))
    # A loop of a thousand additions: scipy.signal, which has the filter, takes most of a second to import.
    for t, value in enumerate((step * series).tolist()):
        filtered[t] = value + state
        state = kept * filtered[t]
    return filtered


def _logistic_ramp(scenario: Scenario, year: int, width: float) -> NDArray[np.float64]:
    """Logistic function of time, from 12 to 88 percent within `width` years around the beginning of `year`."""
    from scipy.special import expit

    time = scenario.time
    # Whole steps over steps of a year: exact for months.
    years = ((time.year - year) * time.per_year + time.phase) / time.per_year
    return np.asarray(expit(4.0 * years / width), np.float64)


def _inside(region: str, grid: Grid) -> NDArray[np.bool_]:
    """(Y, X) the cells whose centres lie in a region."""
    south, north, west, east = REGIONS[region]
    lon = grid.lon % 360.0
    inside_lon = (lon >= west) & (lon <= east) if west <= east else (lon >= west) | (lon <= east)
    return np.asarray(((grid.lat >= south) & (grid.lat <= north))[:, None] & inside_lon, np.bool_)


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
