"""The linear emulator: each cell's climate as a straight line in a few forcing series.

Invariant: the fit is closed-form and sees training months alone; all members enter at once, and as they share their
forcings that is the fit to their mean with the members as weights. Targets on disk are read once, a calendar year or a
band of rows at a time.

Pattern scaling with several patterns; after Santer et al. (1990) and, for ClimateBench, Watson-Parris et al. (2022,
doi:10.1029/2021MS002954). Regressed on several forcings at once, a cell attributes to one what belongs to another
where the training scenarios move them together; a scenario that moves them apart is then answered wrongly. So the
forcings can be let act through one number, the global mean temperature that they explain, and each of them, on what it
does besides, by as little as a penalty of its own allows.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.grid import Grid, weighted_mean
from emukit.data.split import Span, Split
from emukit.emulators.base import Emulator, refuse_unused, temperature_position
from emukit.emulators.climatology import AnnualCycle
from emukit.emulators.features import feature
from emukit.emulators.seasonal_ridge import StreamedHarmonics, fit_harmonics, fit_seasons, season_basis
from emukit.errors import RecipeError

Array = NDArray[np.float64]
# The (T,) series of a name, as `emukit.emulators.features.feature` gives it.
SeriesOf = Callable[[str, Scenario, Grid], Array]

WARMING = "warming"

# Cells are fitted apart, so many at a time: the means over members of a whole grid take a third of the store. A record
# of days takes fewer cells at once.
BLOCK_CELLS = 1024
BLOCK_VALUES = 1 << 22
# Steps whose area mean is taken at a time.
SLAB_STEPS = 120


class LinearEmulator(Emulator):
    """Ridge regression per cell on forcing features, with the seasonal cycle of every coefficient."""

    kind = "linear"
    forcing_options: ClassVar[tuple[str, ...]] = ("features", "warming")
    by_variable = ("strength",)
    streams: ClassVar[bool] = True

    def __init__(
        self,
        domain: Domain,
        features: tuple[str, ...],
        center: Array,
        scale: Array,
        intercept: NDArray[np.float32],
        response: NDArray[np.float32],
    ) -> None:
        """Use `fit`.

        Args:
            domain: What is predicted, and where.
            features: Names of the F forcing series.
            center: (F,) their training means.
            scale: (F,) their training standard deviations.
            intercept: (G, V, Y, X) climate at the mean forcing, by season (`TimeAxis.season`); of days and hours the
                knots of `emukit.emulators.climatology`.
            response: (G, F, V, Y, X) change per standard deviation of each series, likewise.
        """
        super().__init__(domain)
        self._features = features
        self._center, self._scale = center, scale
        self._intercept, self._response = intercept, response

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        *,
        features: tuple[str, ...] = ("CO2", "CO2~30", "SO2", "BC"),
        season: Literal["month", "harmonics"] = "harmonics",
        harmonics: int = 2,
        ridge: float = 10.0,
        warming: tuple[str, ...] = (),
        warming_ridge: float = 10.0,
        least_warming: float | None = None,
        strength: dict[str, dict[str, float]] | None = None,
        smoothing: float = 0.0,
    ) -> Self:
        """Fit by ridge regression.

        Args:
            archive: The data.
            split: Its training spans are used.
            features: Forcing series, as `emukit.emulators.features` names them.
            season: How coefficients vary over the year: one for each calendar month (``month``), or a Fourier series
                (``harmonics``), which shares data between neighbouring months. Days and hours follow a
                cycle through the months, for which there is the series alone; each time of the day has an intercept of
                its own. Of years there is one season.
            harmonics: Waves a year of that series, 0 to 6.
            ridge: Penalty on the squared coefficients of standardised features, against the sum of squared errors over
                all training months and members.
            warming: Forcing series that explain the global mean temperature, of which every cell's climate is then a
                function first (pattern scaling); `features` explain what is left. Empty: no such first step.
            warming_ridge: Penalty of that explanation, in the measure of `ridge`.
            least_warming: Least response of a cell's annual mean temperature to the global mean, K per K. A cell
                that seems to warm less is taken to have been held back by what `features` explain, a circulation that
                declines, rather than to continue cooling for as long as the globe warms. None: no such bound.
            strength: Variable to feature to a multiple of `ridge`, 1 where nothing is said; ``warming`` is the name of
                the global mean temperature's own.
            smoothing: Share of every cell's response that is the mean over it and the eight cells around it. Weather
                of single cells in the training months is lost by it, and so are coasts.

        Raises:
            RecipeError: No features, a bad name, a value outside its range, or an option that would do nothing.
            ProtocolError: A forcing is not in the store.
        """
        cls.check(
            archive,
            features=features,
            season=season,
            harmonics=harmonics,
            ridge=ridge,
            warming=warming,
            warming_ridge=warming_ridge,
            least_warming=least_warming,
            strength=strength,
            smoothing=smoothing,
        )
        terms = (*features, WARMING) if warming else features
        penalties = penalties_of(strength or {}, archive.variables, terms)
        names = tuple(dict.fromkeys((*features, *warming)))
        table = Table.of(archive, split, names, feature)
        columns, spread = np.eye(len(names))[:, : len(features)], 1.0
        if warming:
            # A sum of features is as linear in them as they are: what is kept in the end is a response to each.
            mean = global_temperature(archive, split)
            by = [names.index(n) for n in warming]
            shares = _explained(archive, mean, table.z, table.cycle, table.weights, by, warming_ridge)
            spread = float(np.sqrt(np.average((table.z @ shares) ** 2, weights=table.weights))) or 1.0
            columns = np.column_stack([columns, shares / spread])
        intercept, response = fit_cells(
            archive, split, table, columns, penalties, season, harmonics, ridge, least_warming, spread, smoothing
        )
        return cls(archive.domain, names, table.center, table.scale, intercept, response)

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse values out of their ranges, or without effect; arguments as for `fit`."""
        defaults = {n: p.default for n, p in signature(cls.fit).parameters.items() if p.kind is p.KEYWORD_ONLY}
        given = {**defaults, **options}
        features, warming, smoothing = given["features"], given["warming"], given["smoothing"]
        if not warming:
            refuse_unused(cls.fit, "model.warming names no series", "name some", warming_ridge=given["warming_ridge"])
        if given["season"] == "month":
            refuse_unused(
                cls.fit,
                "every calendar month is fitted alone",
                "set model.season to 'harmonics'",
                harmonics=given["harmonics"],
            )
            if archive.time.minutes:
                raise RecipeError(
                    "model.season = 'month' needs steps of a month",
                    found=archive.time.describe(),
                    expected="harmonics",
                    hint="leave model.season at its default",
                )
        elif archive.time.step == "year":
            refuse_unused(cls.fit, "a year has no season", "take data of months", harmonics=given["harmonics"])
        if not 0 <= smoothing <= 1:
            raise RecipeError("model.smoothing is out of range", found=str(smoothing), expected="a share, 0 to 1")
        if warming:
            temperature_position(archive, "model.warming")
        terms = (*features, WARMING) if warming else features
        _check_options(terms, warming, given["harmonics"], min(given["ridge"], given["warming_ridge"]))
        if given["least_warming"] is not None and archive.on_disk:
            raise RecipeError(
                "model.least_warming fits some cells a second time, which needs their fields in memory",
                found=f"{archive.source}, which stays on disk",
                expected="no such bound",
                hint="--set model.least_warming=none, or coarser data (the lite files of ClimX)",
            )
        if given["least_warming"] is not None and not (features and warming):
            raise RecipeError(
                "model.least_warming bounds nothing",
                found=f"{len(warming)} series for model.warming, {len(features)} for model.features",
                expected="both: features take what the warming may not",
            )
        penalties_of(given["strength"] or {}, archive.variables, terms)

    def series(self, name: str, scenario: Scenario) -> Array:
        """(T,) one of the series that it is linear in, of a whole scenario."""
        return feature(name, scenario, self.grid)

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X): intercept plus response times features; within the bounds."""
        series = np.stack([self.series(n, scenario) for n in self._features], 1)[start:stop]
        z = ((series - self._center) / self._scale).astype(np.float32)
        cycle = AnnualCycle.of(scenario.time, start, stop)
        alone = len(cycle.parts) == 1
        out = (np.empty if alone else np.zeros)((stop - start, *self._intercept.shape[1:]), np.float32)
        for season, share in cycle.parts:
            for m in np.unique(season):
                rows = season == m
                fields = self._intercept[m] + np.einsum("tf,fvyx->tvyx", z[rows], self._response[m])
                if alone:
                    out[rows] = fields
                else:
                    out[rows] += share[rows].astype(np.float32)[:, None, None, None] * fields
        self.clip_to_bounds(out)
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Feature names; statistics and coefficients."""
        arrays = {"center": self._center, "scale": self._scale}
        return {"features": list(self._features)}, arrays | {"intercept": self._intercept, "response": self._response}

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        names = ("center", "scale", "intercept", "response")
        return cls(domain, tuple(meta["features"]), *(arrays[n] for n in names))


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of all N training steps.

    Attributes:
        z: (N, F) standardised series.
        center: (F,) their means.
        scale: (F,) their standard deviations.
        cycle: Where the steps lie among the seasons.
        weights: (N,) members.
    """

    z: Array
    center: Array
    scale: Array
    cycle: AnnualCycle
    weights: Array

    @classmethod
    def of(cls, archive: Archive, split: Split, names: tuple[str, ...], series_of: SeriesOf) -> Self:
        """From the (T,) series of each name, of every training scenario."""
        series, cycle, weights = _training_table(archive, split, names, series_of)
        center = np.average(series, axis=0, weights=weights)
        scale = np.sqrt(np.average((series - center) ** 2, axis=0, weights=weights))
        scale[scale == 0] = 1.0  # a forcing that never moved in training gets no response
        return cls((series - center) / scale, center, scale, cycle, weights)


def fit_cells(
    archive: Archive,
    split: Split,
    table: Table,
    columns: Array,
    penalties: Sequence[tuple[list[int], Array]],
    season: Literal["month", "harmonics"],
    harmonics: int,
    ridge: float,
    least_warming: float | None,
    spread: float,
    smoothing: float,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Regress every cell on sums of the series; see `LinearEmulator.fit`.

    Args:
        archive: The data.
        split: Its training spans.
        table: The standardised series of the training steps.
        columns: (F, K) sums of them that are regressed on.
        penalties: As `penalties_of` gives them.
        season: As for `LinearEmulator.fit`, like what follows.
        harmonics: See there.
        ridge: See there.
        least_warming: Bound of the last column's coefficient, per K of the global mean.
        spread: K of the global mean that the last column's unit is.
        smoothing: See there.

    Returns:
        (G, V, Y, X) intercepts and (G, F, V, Y, X) responses to the series.
    """
    z, cycle, weights = table.z, table.cycle, table.weights
    groups, basis = archive.time.seasons, season_basis(harmonics, archive.time)
    names = z.shape[1]
    shape = (len(archive.variables), math.prod(archive.cells))
    intercept, response = np.empty((groups, *shape)), np.empty((groups, names, *shape))

    def regress(z: Array, truth: NDArray[np.floating]) -> tuple[Array, Array]:
        if season == "month":
            return fit_seasons(z, cycle, weights, truth, ridge)
        return fit_harmonics(z, cycle, weights, truth, ridge, basis)

    temperature = archive.domain.temperature
    for variables, factors in penalties:
        # Dividing a column by the root of a number is multiplying its penalty by that number.
        scaled = columns / np.sqrt(factors)
        if archive.on_disk:
            streamed = StreamedHarmonics(z @ scaled, cycle, weights, ridge, basis)
            for v, band in itertools.product(variables, archive.bands):
                rows = range(*band.indices(archive.grid.shape[0]))
                block = slice(rows.start * archive.grid.shape[1], rows.stop * archive.grid.shape[1])
                base, coefficients = streamed.fit(_stored_pieces(archive, split, v, band), block.stop - block.start)
                intercept[:, v, block] = base
                response[:, :, v, block] = np.einsum("nk,mkc->mnc", scaled, coefficients)
            continue
        at_once = BLOCK_CELLS
        if archive.time.minutes:
            at_once = min(at_once, max(1, BLOCK_VALUES // (len(z) * len(variables))))
        for first in range(0, shape[1], at_once):
            block = slice(first, min(first + at_once, shape[1]))
            size = block.stop - block.start
            part = _member_means(archive, split, variables, block).reshape(len(z), -1)
            base, coefficients = regress(z @ scaled, part)
            if least_warming is not None and temperature is not None and temperature in variables:
                place = variables.index(temperature)
                cells = slice(place * size, (place + 1) * size)
                least = least_warming * spread * np.sqrt(factors[-1])
                _hold_up(base[:, cells], coefficients[:, :, cells], least, z @ scaled, cycle, part[:, cells], regress)
            by_feature = np.einsum("nk,mkc->mnc", scaled, coefficients)
            intercept[:, variables, block] = base.reshape(groups, len(variables), -1)
            response[:, :, variables, block] = by_feature.reshape(groups, names, len(variables), -1)
    fields = (len(archive.variables), *archive.cells)
    return (
        intercept.reshape(groups, *fields).astype(np.float32),
        _smoothed(response.reshape(groups, names, *fields), smoothing).astype(np.float32),
    )


def _check_options(terms: tuple[str, ...], warming: tuple[str, ...], harmonics: int, ridge: float) -> None:
    if not terms:
        raise RecipeError("the linear emulator needs a feature", hint='--set \'model.features=["CO2~10", "SO2"]\'')
    for key, names in (("features", terms), ("warming", warming)):
        if len(set(names)) < len(names):
            raise RecipeError(f"model.{key} names a feature twice", found=", ".join(names), expected="each once")
    if not 0 <= harmonics <= 6:
        raise RecipeError("model.harmonics is out of range", found=str(harmonics), expected="0 to 6 waves a year")
    if ridge < 0:
        raise RecipeError("a ridge of the model is negative", found=str(ridge), expected="0 or more")


def penalties_of(
    strength: Mapping[str, Mapping[str, float]], variables: tuple[str, ...], terms: tuple[str, ...]
) -> list[tuple[list[int], Array]]:
    """Variables that share their penalties, by number, with the (K,) factors of the penalty.

    Raises:
        RecipeError: A name that there is not, or a factor that is not positive.
    """
    unknown = [v for v in strength if v not in variables]
    unknown += [f"{v}.{t}" for v, own in strength.items() for t in own if t not in terms]
    if unknown:
        raise RecipeError(
            "model.strength names what the model has not",
            found=", ".join(unknown),
            expected=f"{', '.join(variables)}, and of each some of {', '.join(terms)}",
        )
    groups: dict[tuple[float, ...], list[int]] = {}
    for i, variable in enumerate(variables):
        factors = tuple(float(strength.get(variable, {}).get(t, 1.0)) for t in terms)
        if min(factors) <= 0:
            raise RecipeError("model.strength is not positive", found=str(min(factors)), expected="more than 0")
        groups.setdefault(factors, []).append(i)
    return [(members, np.array(factors)) for factors, members in groups.items()]


def _smoothed(fields: Array, share: float) -> Array:
    """(..., Y, X) fields, a share of which is the mean over nine cells; beyond a pole lies the row next to it again."""
    if not share:
        return fields
    rows = np.pad(fields, [(0, 0)] * (fields.ndim - 2) + [(1, 1), (0, 0)], mode="edge")
    three = rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :]
    nine = three + np.roll(three, 1, -1) + np.roll(three, -1, -1)
    return np.asarray((1 - share) * fields + share * nine / 9, np.float64)


def _hold_up(
    intercept: Array,
    coefficients: Array,
    least: float,
    z: Array,
    cycle: AnnualCycle,
    truth: NDArray[np.floating],
    regress: Callable[[Array, NDArray[np.floating]], tuple[Array, Array]],
) -> None:
    """Where the annual mean of the last coefficient is too small, raise it, and fit the others to what that leaves."""
    low = np.flatnonzero(coefficients[:, -1].mean(0) < least)
    if low.size == 0:
        return
    raised = coefficients[:, -1, low]
    raised = raised + least - raised.mean(0)
    intercept[:, low], coefficients[:, :-1, low] = regress(z[:, :-1], truth[:, low] - z[:, -1:] * cycle.at(raised))
    coefficients[:, -1, low] = raised


def global_temperature(archive: Archive, split: Split) -> Array:
    """(N,) global mean temperature of all training steps, the mean over members."""
    position = [temperature_position(archive, "model.warming")]
    if archive.on_disk:
        total = np.zeros(sum(map(len, split.train)))
        for band in archive.bands:
            for steps, fields in _stored_pieces(archive, split, position[0], band):
                of_band = fields.reshape(len(fields), -1, archive.grid.shape[1])
                total[steps] += weighted_mean(of_band, archive.grid.weights[band])
        return total
    means = []
    for span in split.train:
        for start in range(span.start, span.stop, SLAB_STEPS):
            slab = replace(span, start=start, stop=min(start + SLAB_STEPS, span.stop))
            fields = _mean_of_span(archive, slab, position, slice(None)).reshape(len(slab), *archive.grid.shape)
            means.append(archive.grid.mean(fields))
    return np.concatenate(means)


def _explained(
    archive: Archive, temperature: Array, z: Array, cycle: AnnualCycle, weights: Array, by: list[int], ridge: float
) -> Array:
    """(F,) change of the global mean temperature per standardised feature, in K; zero for what does not explain it."""
    shares = np.zeros(z.shape[1])
    basis = season_basis(0, archive.time)
    shares[by] = fit_harmonics(z[:, by], cycle, weights, temperature[:, None], ridge, basis)[1][0, :, 0]
    return shares


def _training_table(
    archive: Archive, split: Split, features: tuple[str, ...], series_of: SeriesOf
) -> tuple[Array, AnnualCycle, Array]:
    """Rows of all training steps: features (N, F), their place in the year, members (N,)."""
    series, cycles, weights = [], [], []
    for span in split.train:
        scenario = archive[span.scenario]
        rows = slice(span.start, span.stop)
        series.append(np.stack([series_of(n, scenario, archive.grid)[rows] for n in features], 1))
        cycles.append(AnnualCycle.of(scenario.time, span.start, span.stop))
        weights.append(np.full(len(span), float(len(span.members))))
    return np.concatenate(series), AnnualCycle.join(cycles), np.concatenate(weights)


def _member_means(archive: Archive, split: Split, variables: list[int], cells: slice) -> NDArray[np.float32]:
    """(N, V, C) means over members of some variables in some cells, of all training steps."""
    return np.concatenate([_mean_of_span(archive, span, variables, cells) for span in split.train])


def _stored_pieces(
    archive: Archive, split: Split, variable: int, band: slice
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Training steps, a calendar year at a time, and their (T, C) targets on disk in a band of rows."""
    seen = 0
    for span in split.train:
        scenario = archive[span.scenario]
        for start, stop in scenario.pieces(span.start, span.stop):
            values = scenario.values(variable, span.members[0], start, stop, band)
            first = seen + start - span.start
            yield slice(first, first + stop - start), values.reshape(stop - start, -1)
        seen += len(span)


def _mean_of_span(archive: Archive, span: Span, variables: list[int], cells: slice) -> NDArray[np.float32]:
    """(T, V, C) means over the members of a span."""

    def of_member(member: int) -> NDArray[np.float32]:
        truth = archive[span.scenario].truth(member, span.start, span.stop)
        return truth.reshape(*truth.shape[:2], -1)[:, variables, cells]

    # A copy, as a list of variables makes one.
    mean = of_member(span.members[0])
    for member in span.members[1:]:
        mean += of_member(member)
    mean /= len(span.members)
    return mean
