"""The typical year: every order statistic of a year where it is expected, and the weather of one year to order it.

Invariant: a prediction is daily fields of all variables together. What it says of a year follows from the warming of
that year and from training years alone; no index is looked at, unless the template asks for it by name.

A score of annual extremes is best answered by the expectation of each index, which neither the mean of all weathers nor
one of them gives. So the days of every training year are sorted, cell by cell and variable by variable, and the k-th of
them is a straight line in the global warming: q_k(G) = a_k + b_k G. The hottest day of a year is then the expected
hottest day, and the number of days above a threshold is near the expected number. On which day of the year each of them
falls is taken from one year of training, the template, the same for all years that are predicted.

A template may be chosen block by block, by what annual indices come out. It is chosen on training years alone. It
looks at the indices that a competition scores: that is a choice made for the score, and the emulator says so. It never
bends a daily value; only the order of days differs. For every candidate year the typical year is built at three
warmings, with the candidate's order of days, and its indices are compared with what training years lead to expect of
them. The nearest candidate is taken for each block (or cell), for temperatures and for everything else apart, so that a
day is of one year inside a block and a group.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from emukit.competitions.climx.score import thresholds_of_archive
from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.grid import Grid
from emukit.data.split import Span, Split
from emukit.emulators.base import Emulator, refuse_unused, temperature_position
from emukit.emulators.features import check_feature, feature
from emukit.errors import ProtocolError, RecipeError
from emukit.metrics.extremes import INDICES, UNITS, VARIABLES, annual_indices

Array = NDArray[np.float64]
Field = NDArray[np.float32]

DAYS = 365
# Rows of a year that are sorted together: their copies stay small next to the year itself.
ROWS = 8
# Cells whose days are put in order together: what is looked up at random stays in the processor's cache.
CELLS = 288
FEATURES = ("CO2", "CO2~30", "SO2", "BC")
# Candidates: their indices at three warmings take as long as three years of indices each.
CANDIDATES = 60
# Indices of precipitation; the others are of temperatures.
_RAIN = tuple(name for name in INDICES if UNITS[name].startswith("mm") or name in ("CDD", "CWD", "R10mm"))
GROUPS: tuple[tuple[str, ...], ...] = (tuple(n for n in INDICES if n not in _RAIN), _RAIN)


@dataclass(frozen=True)
class TrainingYear:
    """One whole calendar year of one training run: positions [start, stop) of a scenario."""

    span: Span
    member: int
    year: int
    start: int
    stop: int

    def read(self, archive: Archive) -> Field:
        """(365, V, Y, X) its days."""
        return archive[self.span.scenario].truth(self.member, self.start, self.stop)

    def values(self, archive: Archive, variable: int, rows: slice = slice(None)) -> Field:
        """(365, rows, X) its days of the variable at a position."""
        return archive[self.span.scenario].values(variable, self.member, self.start, self.stop, rows)

    def __str__(self) -> str:
        return f"{self.span.scenario} {self.year}, member {self.member}"


def training_years(archive: Archive, split: Split) -> list[TrainingYear]:
    """The calendar years of 365 days that lie whole inside the training spans, of every member."""
    return [
        TrainingYear(span, member, year, start, stop)
        for span in split.train
        for year, start, stop in whole_years(archive[span.scenario], span)
        for member in span.members
    ]


@dataclass(frozen=True, eq=False)
class Warming:
    """The global mean temperature that the forcings explain, year by year.

    Attributes:
        features: Names of the F forcing series.
        center: (F,) their means over training years.
        scale: (F,) their standard deviations.
        response: (F,) K per standard deviation.
        mean: K.
    """

    features: tuple[str, ...]
    center: Array
    scale: Array
    response: Array
    mean: float

    @classmethod
    def of_training(
        cls, archive: Archive, years: Sequence[TrainingYear], features: tuple[str, ...], ridge: float
    ) -> tuple[Warming, Array]:
        """Fit by ridge regression on training years, one variable of a year in memory at a time.

        Args:
            archive: The data.
            years: The N years.
            features: Names of forcing series, as `emukit.emulators.features` has them.
            ridge: Penalty on squared coefficients of standardised series, against the sum of squared errors in K.

        Returns:
            The fit, and (N,) the global mean temperatures that it explains.
        """
        place = temperature_position(archive, "model.features")
        known = {
            name: annual_features(features, archive[name], archive.grid)
            for name in dict.fromkeys(y.span.scenario for y in years)
        }
        rows = []
        for year in years:
            series, numbers = known[year.span.scenario]
            rows.append(series[int(np.searchsorted(numbers, year.year))])
        means = np.empty((len(years), *archive.grid.shape))
        for band in archive.bands:
            for mean, year in zip(means, years, strict=True):
                mean[band] = year.values(archive, place, band).mean(0, dtype=np.float64)
        series, temperature = np.stack(rows), archive.grid.mean(means)
        center, scale = series.mean(0), series.std(0)
        scale = np.where(scale > 0, scale, 1.0)
        z = (series - center) / scale
        mean_temperature = float(temperature.mean())
        response = np.linalg.solve(z.T @ z + ridge * np.eye(z.shape[1]), z.T @ (temperature - mean_temperature))
        fitted = cls(features, center, scale, response, mean_temperature)
        return fitted, fitted(series)

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values and arrays from which `from_state` builds it."""
        arrays: dict[str, NDArray[Any]] = {"center": self.center, "scale": self.scale, "response": self.response}
        return {"features": list(self.features), "mean": self.mean}, arrays

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Warming:
        """The inverse of `state`."""
        center, scale, response = (np.asarray(arrays[name], np.float64) for name in ("center", "scale", "response"))
        return cls(tuple(meta["features"]), center, scale, response, float(meta["mean"]))

    def __call__(self, series: Array) -> Array:
        """(N,) K, of (N, F) years."""
        return np.asarray(self.mean + (series - self.center) / self.scale @ self.response)


def annual_features(names: Sequence[str], scenario: Scenario, grid: Grid) -> tuple[Array, NDArray[np.int64]]:
    """(N, F) yearly means of features over the years that a scenario touches, and (N,) the years."""
    years, place = np.unique(scenario.time.year, return_inverse=True)
    count = np.bincount(place)
    each = [np.bincount(place, weights=feature(n, scenario, grid)) / count for n in names]
    return np.stack(each, 1), years


def whole_years(scenario: Scenario, span: Span) -> Iterator[tuple[int, int, int]]:
    """Year, first and last position of the calendar years that lie whole inside a span."""
    time = scenario.time
    years = time.year[span.start : span.stop]
    edges = [span.start, *(span.start + 1 + np.flatnonzero(np.diff(years))).tolist(), span.stop]
    for start, stop in itertools.pairwise(edges):
        if stop - start == DAYS:
            yield int(time.year[start]), start, stop


class TypicalYear(Emulator):
    """Expected order statistics of a year, on the days of a template."""

    kind = "typical-year"
    forcing_options: ClassVar[tuple[str, ...]] = ("features",)
    steps = ("day",)
    streams = True

    def __init__(
        self, domain: Domain, warming: Warming, level: Field, slope: Field, ranks: NDArray[np.uint16], template: str
    ) -> None:
        """Use `fit`.

        Args:
            domain: What is predicted, and where.
            warming: From forcings to the global mean temperature.
            level: (365, V, Y, X) the sorted days of a year at the mean warming of training.
            slope: (365, V, Y, X) their change per K.
            ranks: (365, V, Y, X) which of them falls on each day.
            template: The year whose weather orders the days, for people.
        """
        super().__init__(domain)
        self.warming, self.template = warming, template
        self._level, self._slope, self._ranks = level, slope, ranks

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse data or values that `fit` would refuse; arguments as for `fit`."""
        check_days(archive, cls.kind)
        temperature_position(archive, "model.features")
        if not options["features"]:
            raise RecipeError("model.features is empty", hint="--set 'model.features=[\"CO2\"]'")
        for name in options["features"]:
            for scenario in archive.values():
                check_feature(name, scenario, archive.grid)
        if options["ridge"] < 0:
            raise RecipeError("model.ridge must not be negative", found=str(options["ridge"]))
        if not 0 < options.get("block", 12.0) <= 180:
            raise RecipeError("model.block is out of range", found=str(options["block"]), expected="up to 180 degrees")
        cells = archive.grid.weights.size
        if (
            options.get("template") == "block"
            and len(np.unique(cells_of_blocks(archive.grid, options["block"]))) == cells
        ):
            raise RecipeError(
                f"a block of {options['block']:g} degrees is a cell of this grid",
                found=f"{archive.grid.shape[0]} x {archive.grid.shape[1]} cells",
                expected="blocks of several cells, or the template cell by its own name",
                hint="--set model.block=45",
            )
        if "template" in options and options["template"] != "block":
            refuse_unused(cls.fit, "only blocks have a size", "set model.template to 'block'", block=options["block"])

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        *,
        features: tuple[str, ...] = FEATURES,
        ridge: float = 1.0,
        template: Literal["global", "block", "cell"] = "global",
        block: float = 12.0,
    ) -> Self:
        """Two passes over the training years, one variable of one year in memory at a time.

        A template by indices takes two more, with all variables of a year.

        Args:
            archive: Daily data.
            split: Its training spans are used, their whole years.
            features: Forcing series that explain the global mean temperature, as `emukit.emulators.features` names
                them, averaged over each year.
            ridge: Penalty on their squared coefficients, standardised, against the sum of squared errors in K.
            template: Whose order the days have: one training year for the whole globe, chosen without a look at any
                index (``global``); or the training year whose order meets the expected indices of ClimX best, in each
                block (``block``) or in each cell (``cell``), where nothing is coherent in space any more. The last two
                are choices made for the score: ask the organisers before a prize entry. ``cell`` is borderline under
                the rule against shortcuts made for the metric.
            block: Degrees each way of a block.

        Raises:
            RecipeError: A value outside its range, or an unknown feature.
            ProtocolError: The data are not daily, have no temperature, or the spans hold fewer than three whole years.
        """
        cls.check(archive, features=features, ridge=ridge, template=template, block=block)
        years = training_years(archive, split)
        if len(years) < 3:
            raise ProtocolError(
                "the training spans hold too few whole years",
                found=f"{len(years)} of {DAYS} days",
                expected="three or more",
                hint="choose another protocol",
            )
        warming, explained = Warming.of_training(archive, years, features, ridge)
        # The year of the median warming: chosen by the forcings alone, without a look at any weather.
        middle = years[int(np.argsort(explained, kind="stable")[len(years) // 2])]
        shape = (DAYS, len(archive.variables), *archive.grid.shape)
        level, slope, ranks = (np.empty(shape, kind) for kind in (np.float32, np.float32, np.uint16))
        for v in range(len(archive.variables)):
            for band in archive.bands:
                level[:, v, band], slope[:, v, band] = regress_sorted(
                    (year.values(archive, v, band) for year in years), explained
                )
                ranks[:, v, band] = rank_days(middle.values(archive, v, band))
            level[:, v] -= np.float32(explained.mean() - warming.mean) * slope[:, v]
        emulator = cls(archive.domain, warming, level, slope, ranks, str(middle))
        if template == "global":
            return emulator
        numbers = np.arange(archive.grid.weights.size).reshape(archive.grid.shape)
        emulator._ranks = choose_templates(
            archive,
            [partial(year.read, archive) for year in years],
            explained - warming.mean,
            emulator.year_of,
            rank_days,
            numbers if template == "cell" else cells_of_blocks(archive.grid, block),
        )
        emulator.template = f"training years chosen by {template} for ClimX's indices"
        return emulator

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> Field:
        """(T, V, Y, X) float32: the typical year of each year's warming."""
        series, years = annual_features(self.warming.features, scenario, self.grid)
        warming = self.warming(series)
        out = np.empty((stop - start, len(self.variables), *self.grid.shape), np.float32)
        year, day = scenario.time.year[start:stop], scenario.time.day_of_year[start:stop]
        for n in np.unique(year):
            # The days of a year follow each other.
            first, last = np.flatnonzero(year == n)[[0, -1]]
            departure = float(warming[int(np.searchsorted(years, n))] - self.warming.mean)
            ranks = self._ranks[day[first] : day[last] + 1]
            self._fill_year(out[first : last + 1], departure, ranks)
        return out

    def year_of(self, departure: float, ranks: NDArray[np.uint16]) -> Field:
        """(N, V, Y, X) days of a year.

        Args:
            departure: Its global mean temperature, K above the mean of training.
            ranks: (N, V, Y, X) which of the sorted days falls on each.
        """
        days = np.empty(ranks.shape, np.float32)
        self._fill_year(days, departure, ranks)
        return days

    def _fill_year(self, days: Field, departure: float, ranks: NDArray[np.uint16]) -> None:
        """Fill (N, V, Y, X) `days`; arguments as for `year_of`."""
        for v in range(ranks.shape[1]):
            order_days(self._level[:, v], self._slope[:, v], departure, ranks[:, v], days[:, v])
        self.clip_to_bounds(days)
        self._order_extremes(days)

    def _order_extremes(self, fields: Field) -> None:
        """A day's minimum is not above its mean, nor its maximum below, in the (T, V, Y, X) fields themselves."""
        mean = self.domain.temperature
        if mean is None:
            return
        described = self.domain.described
        for v, variable in enumerate(described):
            if variable.standard_name != described[mean].standard_name:
                continue
            if "maximum" in variable.cell_methods:
                np.maximum(fields[:, v], fields[:, mean], out=fields[:, v])
            elif "minimum" in variable.cell_methods:
                np.minimum(fields[:, v], fields[:, mean], out=fields[:, v])

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The warming, and the order statistics with the days they fall on."""
        meta, arrays = self.warming.state()
        arrays |= {"level": self._level, "slope": self._slope, "ranks": self._ranks}
        return meta | {"template": self.template}, arrays

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        warming = Warming.from_state(meta, arrays)
        ranks = np.asarray(arrays["ranks"], np.uint16)
        if ranks.max() >= DAYS:
            raise ValueError(f"a rank of {int(ranks.max())} in a year of {DAYS} days")
        level, slope = (np.asarray(arrays[name], np.float32) for name in ("level", "slope"))
        return cls(domain, warming, level, slope, ranks, str(meta["template"]))


def regress_sorted(years: Iterator[Field], warming: Array) -> tuple[Field, Field]:
    """The sorted days of years as straight lines in the warming.

    Args:
        years: (365, Y, X) each, in the order of `warming`; each is looked at once.
        warming: (N,) K.

    Returns:
        (365, Y, X) the level at the mean warming, and the slope per K.
    """
    departure = warming - warming.mean()
    spread = float((departure**2).sum())
    first: Field | None = None
    total = steep = np.zeros(0, np.float32)
    for year, g in zip(years, departure, strict=True):
        ordered = sort_days(year)
        if first is None:
            # Sums are of differences from one year, which float32 holds to thousandths of what a day is known to.
            first, total, steep = ordered.copy(), np.zeros_like(ordered), np.zeros_like(ordered)
        ordered -= first
        total += ordered
        ordered *= np.float32(g)
        steep += ordered
    assert first is not None
    slope = steep / np.float32(spread) if spread > 0 else np.zeros_like(steep)
    return first + total / np.float32(len(warming)), slope


def order_days(level: Field, slope: Field, departure: float, ranks: NDArray[np.uint16], days: Field) -> None:
    """Put the order statistics of a year at a warming on the days of a template.

    Args:
        level: (365, Y, X) the sorted days at the mean warming of training.
        slope: (365, Y, X) their change per K.
        departure: The warming of the year, K above that mean.
        ranks: (N, Y, X) which of the sorted days falls on each of the N days.
        days: (N, Y, X), filled.
    """
    rows = max(1, CELLS // level.shape[2])
    for y in range(0, level.shape[1], rows):
        band = slice(y, y + rows)
        # A straight line in each of them may let two cross far from the training.
        ordered = np.maximum.accumulate(level[:, band] + np.float32(departure) * slope[:, band], axis=0)
        cells = ordered[0].size
        place = ranks[:, band].reshape(len(ranks), cells) * np.int64(cells) + np.arange(cells)
        days[:, band] = ordered.ravel()[place].reshape(len(ranks), *ordered.shape[1:])


def sort_days(year: Field) -> Field:
    """(365, ..., Y, X) each cell's days in ascending order."""
    # Of an archive in memory the days of a variable lie far apart, which makes sorting them more than twice as slow.
    year = np.ascontiguousarray(year)
    out = np.empty_like(year)
    for y in range(0, year.shape[-2], ROWS):
        # Sorting along the last axis of a contiguous copy takes a third of the time of sorting along the first.
        block = np.ascontiguousarray(np.moveaxis(year[..., y : y + ROWS, :], 0, -1))
        block.sort(axis=-1)
        out[..., y : y + ROWS, :] = np.moveaxis(block, -1, 0)
    return out


def rank_days(year: Field) -> NDArray[np.uint16]:
    """(365, ..., Y, X) the rank of each day in its cell's year, 0 the lowest; ties in the order of the days."""
    order = np.argsort(year, axis=0, kind="stable")
    ranks = np.empty(year.shape, np.uint16)
    days = np.broadcast_to(np.arange(len(year), dtype=np.uint16).reshape(-1, *(1,) * (year.ndim - 1)), year.shape)
    np.put_along_axis(ranks, order, days, axis=0)
    return ranks


def cells_of_blocks(grid: Grid, degrees: float) -> NDArray[np.int64]:
    """(Y, X) number of the block of so many degrees each way in which a cell's centre lies."""
    rows = np.floor((grid.lat + 90.0) / degrees).astype(np.int64)
    columns = np.floor((grid.lon % 360.0) / degrees).astype(np.int64)
    numbers = rows[:, None] * (int(360.0 / degrees) + 1) + columns[None]
    return np.asarray(np.unique(numbers, return_inverse=True)[1].reshape(grid.shape), np.int64)


def choose_templates(
    archive: Archive,
    years: Sequence[Callable[[], Field]],
    warming: Array,
    build: Callable[[float, NDArray[np.uint16]], Field],
    rank: Callable[[Field], NDArray[np.uint16]],
    blocks: NDArray[np.int64],
) -> NDArray[np.uint16]:
    """The order of days, put together from the best candidate of every block and group of variables.

    Args:
        archive: Daily data with the base period of the percentiles.
        years: Each returns the (365, V, Y, X) days of a training year.
        warming: (N,) K above the mean of training.
        build: From a warming and (365, V, Y, X) ranks to the typical year with this order of days.
        rank: From days to their ranks.
        blocks: (Y, X) number of each cell's block.

    Returns:
        (365, V, Y, X) ranks.

    Raises:
        ProtocolError: A variable of the indices is missing, or there is no base period.
    """
    missing = [v for v in VARIABLES if v not in archive.variables]
    if missing:
        raise ProtocolError(
            "a template by indices needs the variables that these are computed from",
            found=f"no {', '.join(missing)}",
            hint="--set model.template=global",
        )
    indices = _indices_of(archive)
    expected, scatter, levels = _expected(years, warming, indices)
    step = max(1, len(years) // CANDIDATES)
    temperatures = [archive.card.targets[v].standard_name == "air_temperature" for v in archive.variables]
    number = int(blocks.max()) + 1
    weights = archive.grid.weights.ravel()
    area = np.bincount(blocks.ravel(), weights=weights, minlength=number)
    best = np.full((len(GROUPS), number), np.inf)
    chosen: NDArray[np.uint16] | None = None
    for year in years[::step]:
        ranks = rank(year())
        found = np.stack([indices(build(float(level), ranks)) for level in levels])
        distance = ((found - expected) / scatter) ** 2
        chosen = ranks.copy() if chosen is None else chosen
        for g, names in enumerate(GROUPS):
            of_group = distance[:, [INDICES.index(n) for n in names]].mean((0, 1))
            of_block = np.bincount(blocks.ravel(), weights=weights * of_group, minlength=number) / area
            better = (of_block < best[g])[blocks]
            best[g] = np.minimum(best[g], of_block)
            for v, temperature in enumerate(temperatures):
                if temperature == (g == 0):
                    chosen[:, v][:, better] = ranks[:, v][:, better]
    assert chosen is not None
    return chosen


def _indices_of(archive: Archive) -> Callable[[Field], Array]:
    """From (365, V, Y, X) days to (15, Y X) indices; what the year before leaves over is left out."""
    thresholds = thresholds_of_archive(archive)
    places = [archive.variables.index(v) for v in VARIABLES]

    def indices(days: Field) -> Array:
        fields = {n: days[:, p].reshape(1, len(days), -1) for n, p in zip(VARIABLES, places, strict=True)}
        found = annual_indices(fields, thresholds)
        return np.stack([found[name][0] for name in INDICES])

    return indices


def _expected(
    years: Sequence[Callable[[], Field]], warming: Array, indices: Callable[[Field], Array]
) -> tuple[Array, Array, Array]:
    """(3, 15, C) indices expected at three warmings, (15, C) their scatter about it, (3,) the warmings."""
    found = np.stack([indices(year()) for year in years])
    centred = warming - warming.mean()
    spread = float((centred**2).sum())
    mean = found.mean(0)
    slope = np.tensordot(centred, found, 1) / spread if spread > 0 else np.zeros_like(mean)
    residual = found - mean - centred[:, None, None] * slope
    scatter = np.sqrt((residual**2).mean(0))
    # An index that never varies in a cell (frost in the tropics) is met exactly, or is a day's length off.
    scatter = np.maximum(scatter, 0.1 * np.maximum(np.median(scatter, axis=-1, keepdims=True), 1e-3))
    levels = np.quantile(warming, [0.1, 0.5, 0.9])
    return mean + (levels - warming.mean())[:, None, None] * slope, scatter, levels


def check_days(archive: Archive, kind: str) -> None:
    """Refuse data whose years do not have 365 days.

    Raises:
        ProtocolError: They are such data.
    """
    if archive.time.step != "day" or archive.time.days_of_year != DAYS or archive.time.calendar == "standard":
        raise ProtocolError(
            f"{kind} works on days of years of 365 days",
            found=archive.time.describe(),
            expected="day, calendar noleap",
            hint="choose another model, or a store of daily fields without 29 February",
        )
