"""The forced response as an additive Gaussian process, with a discrepancy of each scenario's own.

Invariant: training months alone decide it. Where the forcings are far from all that training showed, the prediction is
the base's.

Years are rows. A year of a cell is twelve Fourier coefficients, each divided by the standard deviation that it has from
run to run, so that sizes of components have one unit everywhere. The kernel is a sum (Duvenaud et al. 2011): linear in
the global mean warming that the forcings explain, in a few climate indices, in forcing series, and a discrepancy
(Kennedy and O'Hagan 2001, doi:10.1111/1467-9868.00294) of each scenario, independent between scenarios. A scenario
that has departed from what its forcings explain continues to: the discrepancy is integrated Brownian motion from the
first month. Sizes are found by restricted likelihood, pooled over the cells of a part and over the coefficients of a
group: quiet cells and noisy ones have sizes of their own.

Global mean and indices are one-dimensional processes of the same kind on remembered forcings, so that they are known
for scenarios that nobody showed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.grid import Grid
from emukit.data.split import Span, Split
from emukit.data.variable import Role
from emukit.emulators.base import Discrepancy, Emulator, Explanation, temperature_position
from emukit.emulators.features import ForcingSpace, feature, years_of
from emukit.emulators.restricted_likelihood import Conditioned, fit_sizes
from emukit.emulators.seasonal_ridge import orthonormal_season
from emukit.emulators.wrapper import Fold, Wrapper
from emukit.errors import ProtocolError, RecipeError

Array = NDArray[np.float64]
Motion = Literal["integrated", "brownian"]

# Fourier coefficients of the year that share sizes: its mean, one and two waves, three and four, the rest.
GROUPS = (slice(0, 1), slice(1, 5), slice(5, 9), slice(9, 12))
# Fields of seasonal means have some tens of spatial degrees of freedom (Bretherton et al. 1999): all cells together say
# as much as so many independent series.
INDEPENDENT = 50.0
# Time of a discrepancy in years per unit.
TIME_UNIT = 40.0
# Random sums of the departures of runs that stand for their covariance: cells far apart that have none are correlated
# by 1 / sqrt(64) by chance.
PATTERNS = 64
# A part numbers cells in a byte.
MOST_PARTS = 255
DISCREPANCY = "discrepancy"
WARMING = "warming"

Box = tuple[float, float, float, float]
# Name to the role of a variable and the boxes (south, north, west, east, in degrees) the difference of whose means is
# the index.
INDICES: dict[str, tuple[Role, Box, Box | None]] = {
    "hemispheres": ("temperature", (0.0, 90.0, 0.0, 360.0), (-90.0, 0.0, 0.0, 360.0)),
    "north-atlantic": ("temperature", (42.0, 68.0, 300.0, 352.0), None),
    "rain-belt": ("precipitation", (0.0, 18.0, 150.0, 280.0), (-18.0, 0.0, 150.0, 280.0)),
}


@dataclass(frozen=True, eq=False)
class Points:
    """Times at which a process is looked at.

    Attributes:
        time: (n,) years since the scenarios begin.
        scenario: (n,) number of the training scenario, -1 for none of them.
        columns: Series of linear components by name, (n,) each.
    """

    time: Array
    scenario: NDArray[np.int64]
    columns: Mapping[str, Array]

    def part(self, start: int, stop: int) -> Points:
        """Points [start, stop)."""
        rows = slice(start, stop)
        return Points(self.time[rows], self.scenario[rows], {k: c[rows] for k, c in self.columns.items()})

    def means(self, stretches: Sequence[tuple[int, int]]) -> Points:
        """One point for each stretch [a, b) of points of one scenario, their mean."""
        columns = {k: np.array([c[a:b].mean() for a, b in stretches]) for k, c in self.columns.items()}
        time = np.array([self.time[a:b].mean() for a, b in stretches])
        return Points(time, np.array([self.scenario[a] for a, _ in stretches]), columns)


def motion(kind: Motion, a: Array, b: Array) -> Array:
    """Covariance of Brownian motion from time zero, or of its integral, at times that broadcast, in years."""
    low, high = np.minimum(a, b) / TIME_UNIT, np.maximum(a, b) / TIME_UNIT
    return np.asarray(low if kind == "brownian" else low**2 * (3 * high - low) / 6, np.float64)


def covariance(name: str, a: Points, b: Points, kind: Motion) -> Array:
    """(n, m) covariance of one component at size one."""
    if name == DISCREPANCY:
        same = (a.scenario[:, None] == b.scenario) & (a.scenario[:, None] >= 0)
        return np.where(same, motion(kind, a.time[:, None], b.time), 0.0)
    return np.outer(a.columns[name], b.columns[name])


def prior_variance(name: str, a: Points, kind: Motion) -> Array:
    """(n,) the diagonal of `covariance` of points with themselves."""
    if name == DISCREPANCY:
        return np.where(a.scenario >= 0, motion(kind, a.time, a.time), 0.0)
    return np.asarray(a.columns[name] ** 2, np.float64)


@dataclass(frozen=True, eq=False)
class Standard:
    """Forcing series in units of their spread over the training years.

    Attributes:
        names: K series, as `emukit.emulators.features` names them.
        center: (K,) means.
        scale: (K,) standard deviations.
    """

    names: tuple[str, ...]
    center: Array
    scale: Array

    @classmethod
    def fit(cls, archive: Archive, names: tuple[str, ...], years: Sequence[tuple[str, int, int]]) -> Self:
        """From the training years (scenario, first month, month after the last)."""
        series = {s: _series(archive[s], archive.grid, names) for s in dict.fromkeys(y[0] for y in years)}
        values = np.stack([series[s][a:b].mean(0) for s, a, b in years])
        scale = values.std(0)
        scale[scale == 0] = 1.0  # a forcing that never moved in training gets no response
        return cls(names, values.mean(0), scale)

    def of(self, scenario: Scenario, grid: Grid) -> dict[str, Array]:
        """(T,) series of all months of a scenario, by name."""
        values = (_series(scenario, grid, self.names) - self.center) / self.scale
        return {name: values[:, k] for k, name in enumerate(self.names)}


@dataclass(frozen=True, eq=False)
class IndexProcess:
    """The global mean, or an index of the climate, as a process on forcings.

    Attributes:
        sizes: Component to its size.
        weights: (N,) of the kernel at the training years, in the unit of the index.
        mean: Its mean.
        unit: Its standard deviation from run to run; None in emulators that were saved before it was kept.
        center: Mean over the training years of what the process says.
        slope: What of it goes with the warming; zero of the warming itself.
        spread: Standard deviation over the training years of the rest.
    """

    sizes: Mapping[str, float]
    weights: Array
    mean: float
    unit: float | None = None
    center: float = 0.0
    slope: float = 0.0
    spread: float = 1.0

    def raw(self, at: Points, years: Points) -> Array:
        """(n,) the index in its own unit."""
        across = sum(size * covariance(name, at, years, "brownian") for name, size in self.sizes.items())
        return np.asarray(self.mean + across @ self.weights, np.float64)

    def said(self, at: Points, years: Points, warming: Array | float = 0.0) -> Array:
        """(n,) the index without what goes with the warming, in units of its spread over the training years."""
        return np.asarray((self.raw(at, years) - self.center - self.slope * warming) / self.spread, np.float64)

    def standardised(self, years: Points, warming: Array | None = None) -> IndexProcess:
        """The same, with what `said` needs measured over the training years."""
        raw = self.raw(years, years)
        center = float(raw.mean())
        if warming is None:
            return replace(self, center=center, spread=float(raw.std()) or 1.0)
        square = float(warming @ warming) or 1.0
        slope = float((raw - center) @ warming) / square
        return replace(self, center=center, slope=slope, spread=float((raw - slope * warming).std()) or 1.0)


@dataclass(frozen=True, eq=False)
class Drivers:
    """What the kernel is a function of: forcings, and the global mean and indices that they explain.

    Attributes:
        scenarios: Training scenarios; a discrepancy belongs to the number of its scenario.
        years: The N training years, with the columns of the forcings alone.
        warming: Forcings of global mean and indices.
        features: Forcings of linear components.
        processes: Global mean first, then indices, by name.
        first_month: Where time begins.
    """

    scenarios: tuple[str, ...]
    years: Points
    warming: Standard
    features: Standard
    processes: Mapping[str, IndexProcess]
    first_month: np.datetime64

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the linear components."""
        return (*self.processes, *(f"feature {name}" for name in self.features.names))

    def columns(self, forcings: Points) -> Points:
        """Points with the columns of the linear components, from points with those of the forcings."""
        warming = self.processes[WARMING].said(forcings, self.years)
        columns = {WARMING: warming}
        columns |= {n: p.said(forcings, self.years, warming) for n, p in self.processes.items() if n != WARMING}
        columns |= {f"feature {n}": forcings.columns[f"feature {n}"] for n in self.features.names}
        return replace(forcings, columns=columns)

    def of(self, scenario: Scenario, grid: Grid) -> Points:
        """All months of a scenario, with the columns of the linear components."""
        return self.columns(months_of(scenario, grid, self.scenarios, self.warming, self.features, self.first_month))


def months_of(
    scenario: Scenario,
    grid: Grid,
    scenarios: Sequence[str],
    warming: Standard,
    features: Standard,
    first_month: np.datetime64,
) -> Points:
    """All months of a scenario, with the columns of the forcings."""
    time = ((scenario.months - first_month).astype(np.int64) + 0.5) / 12
    number = list(scenarios).index(scenario.name) if scenario.name in scenarios else -1
    columns = {f"forcing {n}": c for n, c in warming.of(scenario, grid).items()}
    columns |= {f"feature {n}": c for n, c in features.of(scenario, grid).items()}
    return Points(np.maximum(time, 0.0), np.full(len(scenario), number), columns)


class AdditiveGP(Wrapper):
    """Its base far from the training forcings; near them, an additive Gaussian process on the training years.

    Attributes:
        drivers: What the kernel is a function of.
        kind_of_motion: Of the discrepancies.
        sizes: (V, G, P, J) of the components, by group of coefficients and part of the cells; `component_names` names
            them.
        part: (V, G, Y, X) number of the part that a cell belongs to.
        noise: (N,) variance of each training year, in units of that of one run.
        internal: (12, V, Y, X) standard deviation of a run's coefficients about the forced response.
        loads: (V, 12, N, Y, X) weights of the kernel, in the variable's unit.
        mean: (12, V, Y, X) coefficients where the kernel adds nothing.
        space: Of forcings, with the training years as points.
        length_scale: Distance in it at which exp(-1/2) of the departure from the base is left.
        sharpness: Power of the distance in that exponent, as in `ForcingSpace.kernel_similarity`.
        patterns: (R, 12, V, Y, X) fields of coefficients that go together from run to run, in units of `internal`:
            their squares sum to one over R. None in emulators that were saved before there were any.
        globe: (V,) standard deviation of a run's annual global means about the forced response; None likewise.
    """

    kind = "additive-gp"
    forcing_options: ClassVar[tuple[str, ...]] = ("features", "warming", "forcings")
    steps: ClassVar[tuple[str, ...]] = ("month",)
    knows_error = True

    def __init__(
        self,
        domain: Domain,
        bases: Sequence[Emulator],
        drivers: Drivers,
        kind_of_motion: Motion,
        sizes: Array,
        part: NDArray[np.uint8],
        noise: Array,
        internal: NDArray[np.float32],
        loads: NDArray[np.float32],
        mean: NDArray[np.float32],
        space: ForcingSpace,
        length_scale: float,
        sharpness: float,
        patterns: NDArray[np.float16] | None,
        globe: Array | None,
    ) -> None:
        """Use `fit`."""
        super().__init__(domain, bases)
        self.drivers, self.kind_of_motion, self.noise = drivers, kind_of_motion, noise
        self.sizes, self.part = sizes, part
        self.internal, self.loads, self.mean, self.space = internal, loads, mean, space
        self.length_scale, self.sharpness, self.patterns, self.globe = length_scale, sharpness, patterns, globe
        self.knows_error = patterns is not None

    @property
    def component_names(self) -> tuple[str, ...]:
        """Names along the last axis of `sizes`."""
        return (*self.drivers.components, DISCREPANCY)

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        bases: Sequence[Emulator],
        folds: Sequence[Fold],
        *,
        warming: tuple[str, ...] = ("CO2~4", "SO2~4", "CH4~10"),
        indices: tuple[str, ...] = ("hemispheres", "rain-belt"),
        features: tuple[str, ...] = ("SO2", "step:2045:20", "CO2~30"),
        discrepancy: Literal["integrated", "brownian"] = "integrated",
        parts: int = 1,
        length_scale: float = 3.0,
        sharpness: float = 2.0,
        forcings: tuple[str, ...] = ("CO2", "CH4", "SO2", "BC"),
    ) -> Self:
        """Find the sizes of the components, and condition on the training years.

        Args:
            archive: The data.
            split: Its training spans are used, in whole years.
            bases: One, which predicts the mean over runs, and is believed far away.
            folds: None.
            warming: Forcing series that explain global mean and indices, as `emukit.emulators.features` names them.
            indices: Names of climate indices in which the response is linear next to the warming: ``hemispheres``,
                ``north-atlantic``, ``rain-belt``. One whose variable is not predicted, or that has no cell on the grid,
                is left out.
            features: Forcing series in which the response is linear.
            discrepancy: How a scenario departs from what all share: integrated Brownian motion, or Brownian motion.
            parts: The cells are divided by how much runs differ in them, into so many parts of equal area, which have
                sizes of their own.
            length_scale: Distance from the nearest training year among `forcings`, in standard deviations of the
                training years, at which exp(-1/2) of the departure from the base is left.
            sharpness: Of the departure exp(-(distance / length_scale)^sharpness / 2) is left.
            forcings: The axes of that space.

        Raises:
            RecipeError: A value outside its range, or a bad name.
            ProtocolError: A forcing is not in the store, no training span holds a whole year, or none has the two
                members that tell internal variability from the forced response.
        """
        series = {"warming": warming, "indices": indices, "features": features, "forcings": forcings}
        cls.check(archive, parts=parts, length_scale=length_scale, sharpness=sharpness, **series)
        first = bases[0].first_month
        spans = [replace(s, start=max(s.start, first)) for s in split.train if s.stop > first]
        space = ForcingSpace.fit(archive, spans, forcings)
        values, internal, noise = _coefficients(archive, spans)
        rows = [(s.scenario, a, b) for s in spans for a, b in years_of(s.start, s.stop)]
        drivers = _fit_drivers(archive, rows, values, internal, noise, warming, indices, features)
        years = drivers.columns(drivers.years)
        names = (*drivers.components, DISCREPANCY)
        components = np.stack([covariance(n, years, years, discrepancy) for n in names])
        fields = (len(archive.variables), *archive.grid.shape)
        sizes = np.zeros((len(archive.variables), len(GROUPS), parts, len(names)))
        part = np.zeros((len(archive.variables), len(GROUPS), *archive.grid.shape), np.uint8)
        loads = np.zeros((len(archive.variables), 12, len(rows), *archive.grid.shape), np.float32)
        mean = np.zeros((12, *fields), np.float32)
        deviation = np.sqrt(internal.variance).reshape(12, *fields)
        for v in range(len(archive.variables)):
            for g, group in enumerate(GROUPS):
                unit = deviation[group, v]
                # What does not differ between runs does not vary: its mean is all there is to say.
                safe = np.where(unit > 0, unit, np.inf)
                scaled = values[:, group, v] / safe
                part[v, g] = parts_by_noise(unit, archive.grid.weights, parts)
                level = np.zeros(unit.shape)
                for p in range(parts):
                    cells = part[v, g] == p
                    own, area = scaled[..., cells], archive.grid.weights[cells]
                    # Each part counts as much as all cells would: its own cells are all that it is asked of.
                    area = area / (area.sum() / archive.grid.weights.ravel().sum())
                    sizes[v, g, p] = fit_sizes(components, noise, _products(own, area), INDEPENDENT)
                    process = Conditioned.on(np.tensordot(sizes[v, g, p], components, 1), noise)
                    weights, level[:, cells] = process.weights(own)
                    loads[v, group][..., cells] = (weights * unit[:, cells]).swapaxes(0, 1)
                mean[group, v] = np.where(unit > 0, level * unit, values[:, group, v].mean(0))
        return cls(
            archive.domain,
            bases,
            drivers,
            discrepancy,
            sizes,
            part,
            noise,
            deviation.astype(np.float32),
            loads,
            mean,
            space,
            length_scale,
            sharpness,
            internal.patterns,
            np.array([internal.deviation(w) for w in _global_weights(archive)]),
        )

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse values out of their ranges; arguments as for `fit`."""
        length_scale = options["length_scale"]
        if not (length_scale > 0 and np.isfinite(length_scale)):
            raise RecipeError(
                "model.length_scale is out of range", found=str(length_scale), expected="more than 0, and finite"
            )
        sharpness, parts, cells = options["sharpness"], options["parts"], int(np.prod(archive.grid.shape))
        if not (sharpness > 0 and np.isfinite(sharpness)):
            raise RecipeError(
                "model.sharpness is out of range", found=str(sharpness), expected="more than 0, and finite"
            )
        most = min(cells, MOST_PARTS)
        if not 1 <= parts <= most:
            raise RecipeError("model.parts is out of range", found=str(parts), expected=f"1 to {most}")
        temperature_position(archive, "model.warming")
        for key in ("warming", "indices", "features", "forcings"):
            names = options[key]
            if len(set(names)) < len(names):
                raise RecipeError(f"model.{key} names something twice", found=", ".join(names), expected="each once")
        if not options["warming"]:
            raise RecipeError("model.warming names no forcing", found=repr(options["warming"]), expected="one or more")
        unknown = [n for n in options["indices"] if n not in INDICES]
        if unknown:
            raise RecipeError(
                "model.indices names no climate index",
                found=", ".join(unknown),
                expected=f"some of {', '.join(INDICES)}",
            )
        for name in (*options["warming"], *options["features"], *options["forcings"]):
            feature(name, next(iter(archive.values())), archive.grid)

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X); within the bounds."""
        near = self._near(scenario, start, stop)
        out = self.bases[0].predict_fields(scenario, start, stop)
        out += near[:, None, None, None].astype(np.float32) * (self.response(scenario, start, stop) - out)
        self.clip_to_bounds(out)
        return out

    def response(
        self, scenario: Scenario, start: int, stop: int, only: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """(T, V, Y, X): the mean of the process, without the base.

        Args:
            scenario: Whose months they are.
            start: First month.
            stop: Month after the last.
            only: Names of components; those alone, as departures from the constant mean. All, and the mean, when None.
        """
        at, years, season, month = self._asked(scenario, start, stop)
        chosen = [n in (only if only is not None else self.component_names) for n in self.component_names]
        across = np.stack([covariance(n, at, years, self.kind_of_motion) for n in self.component_names])
        out = np.zeros((stop - start, len(self.variables), *self.grid.shape), np.float32)
        for v in range(len(self.variables)):
            for g, group in enumerate(GROUPS):
                for sizes, cells in self._parts(v, g):
                    kernel = np.tensordot(sizes * chosen, across, 1).astype(np.float32)
                    for h in range(group.start, group.stop):
                        said = np.tensordot(kernel, self.loads[v, h][:, cells], 1)
                        out[:, v, cells] += season[month, h, None] * said
        if only is None:
            out += np.einsum("mh,hvyx->mvyx", season, self.mean)[month]
        return out

    def uncertainty(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X): posterior standard deviation of the forced response, in the variable's unit.

        That of the process; it knows nothing of what the base would get wrong where the base is believed.
        """
        at, years, season, month = self._asked(scenario, start, stop)
        names, kind = self.component_names, self.kind_of_motion
        across = np.stack([covariance(n, at, years, kind) for n in names])
        among = np.stack([covariance(n, years, years, kind) for n in names])
        prior = np.stack([prior_variance(n, at, kind) for n in names])
        variance = np.zeros((stop - start, len(self.variables), *self.grid.shape), np.float32)
        for v in range(len(self.variables)):
            for g, group in enumerate(GROUPS):
                for sizes, cells in self._parts(v, g):
                    process = Conditioned.on(np.tensordot(sizes, among, 1), self.noise)
                    posterior = process.variance(sizes @ prior, np.tensordot(sizes, across, 1)).astype(np.float32)
                    by_month = np.einsum("mh,hc->mc", season[:, group] ** 2, self.internal[group, v][:, cells] ** 2)
                    variance[:, v, cells] += posterior[:, None] * by_month[month]
        return np.sqrt(variance)

    def draw_error(
        self, scenario: Scenario, start: int, stop: int, seed: np.random.SeedSequence
    ) -> NDArray[np.float32]:
        """(T, V, Y, X): a draw of what the process may be off by, from its posterior, as much as it is believed.

        In time it has the posterior covariance of the process, from cell to cell and from season to season that of
        runs: what is averaged over runs is wrong where these go together. It is smooth over the year: the draw is of
        years, and months lie between them.
        """
        if self.patterns is None:
            return super().draw_error(scenario, start, stop, seed)
        months = self.drivers.of(scenario, self.grid)
        knots = months.means(years_of(0, len(scenario)) or [(0, len(scenario))])
        years, names, kind = self.drivers.columns(self.drivers.years), self.component_names, self.kind_of_motion
        own, across, among = (
            np.stack([covariance(n, a, b, kind) for n in names])
            for a, b in ((knots, knots), (knots, years), (years, years))
        )
        between = np.stack([np.interp(months.time[start:stop], knots.time, e) for e in np.eye(len(knots.time))], 1)
        normal = np.random.default_rng(seed).standard_normal((len(knots.time), len(self.patterns)))
        season, month = orthonormal_season(6).astype(np.float32), scenario.calendar_month[start:stop]
        out = np.zeros((stop - start, len(self.variables), *self.grid.shape), np.float32)
        for v in range(len(self.variables)):
            for g, group in enumerate(GROUPS):
                for sizes, cells in self._parts(v, g):
                    process = Conditioned.on(np.tensordot(sizes, among, 1), self.noise)
                    known = process.covariance(np.tensordot(sizes, own, 1), np.tensordot(sizes, across, 1))
                    paths = (between @ _root(known) @ normal).astype(np.float32)
                    for h in range(group.start, group.stop):
                        field = np.tensordot(paths, self.patterns[:, h, v][:, cells].astype(np.float32), 1)
                        out[:, v, cells] += season[month, h, None] * self.internal[h, v][cells] * field
        return out * self._near(scenario, start, stop)[:, None, None, None].astype(np.float32)

    def explain(self, scenario: Scenario, start: int, stop: int) -> Explanation:
        """Shares of the components, the discrepancy of each training scenario, and how sure the mean is."""
        return Explanation(self.shares(), self._discrepancies(scenario), self._deviation_of_mean(scenario, start, stop))

    def _deviation_of_mean(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float64]:
        """(V, Y, X): posterior standard deviation of the mean of the process over months, in the variable's unit."""
        at, years, season, month = self._asked(scenario, start, stop)
        names, kind = self.component_names, self.kind_of_motion
        own, across, among = (
            np.stack([covariance(n, a, b, kind) for n in names]) for a, b in ((at, at), (at, years), (years, years))
        )
        variance = np.zeros((len(self.variables), *self.grid.shape))
        for v in range(len(self.variables)):
            for g, group in enumerate(GROUPS):
                weights = season[month, group].astype(np.float64).T / (stop - start)
                for sizes, cells in self._parts(v, g):
                    process = Conditioned.on(np.tensordot(sizes, among, 1), self.noise)
                    prior = np.einsum("ht,tu,hu->h", weights, np.tensordot(sizes, own, 1), weights, optimize=True)
                    known = process.variance(prior, weights @ np.tensordot(sizes, across, 1), weights.sum(1))
                    internal = self.internal[group, v][:, cells].astype(np.float64)
                    variance[v, cells] += np.einsum("h,hc->c", known, internal**2)
        return np.sqrt(variance)

    def _discrepancies(self, scenario: Scenario) -> dict[str, dict[str, Discrepancy]]:
        """Those of global mean and indices, then those that cells have of their own, over the years of a time axis."""
        forcings, card = self.drivers.years, self.domain.card
        units = [f"{v} ({card.targets[v].units})" for v in self.variables]
        found = {}
        for name, p in self.drivers.processes.items():
            role: Role = "temperature" if name == WARMING else INDICES[name][0]
            v = card.position(role, self.variables)
            assert v is not None  # an index without a variable was left out
            label = "global mean" if name == WARMING else name
            unit = np.nan if p.unit is None else p.unit
            own = [(p.sizes, p.weights, unit)]
            found[f"{label}, {units[v]}"] = self._departures(scenario, forcings, own, "brownian")
        years = self.drivers.columns(forcings)
        for v, text in enumerate(units):
            unit = np.nan if self.globe is None else float(self.globe[v])
            own = []
            for sizes, cells in self._parts(v, 0):
                named = dict(zip(self.component_names, sizes, strict=True))
                share = float(self.grid.mean(cells.astype(np.float64)))
                own.append((named, self.grid.mean(self.loads[v, 0] * cells).astype(np.float64), share * unit))
            found[f"rest of the global mean, {text}"] = self._departures(scenario, years, own, self.kind_of_motion)
        return found

    def _departures(
        self, scenario: Scenario, years: Points, parts: Sequence[tuple[Mapping[str, float], Array, float]], kind: Motion
    ) -> dict[str, Discrepancy]:
        """By training scenario the discrepancy of a series that is a sum of processes of its own.

        Its deviation is the sum of theirs: parts of the globe err together.

        Args:
            scenario: Whose time axis is looked at.
            years: Training years, with the columns of the components.
            parts: Of each process: sizes of the components; (N,) weights of the kernel, in the unit of the series;
                standard deviation of it from run to run.
            kind: Of the motion.
        """
        processes = [
            Conditioned.on(
                np.asarray(sum(size * covariance(n, years, years, kind) for n, size in s.items())), self.noise
            )
            for s, _, _ in parts
        ]
        time: Array = np.arange(len(scenario) // 12, dtype=np.float64) + 0.5
        months = int(self.drivers.first_month.astype(np.int64))
        begin, found = 1970 + months / 12, {}
        for i, name in enumerate(self.drivers.scenarios):
            at = Points(time, np.full(len(time), i), {})
            across, prior = covariance(DISCREPANCY, at, years, kind), prior_variance(DISCREPANCY, at, kind)
            said, deviation = np.zeros(len(time)), np.zeros(len(time))
            for process, (sizes, weights, unit) in zip(processes, parts, strict=True):
                size = sizes[DISCREPANCY]
                said += size * across @ weights
                deviation += unit * np.sqrt(process.variance(size * prior, size * across, 0.0))
            last = float(years.time[years.scenario == i].max()) + 0.5
            found[name] = Discrepancy(begin + time, said, deviation, begin + last)
        return found

    def shares(self) -> dict[str, NDArray[np.float32]]:
        """(V, Y, X) by component: its share in the variance over training years of the annual mean response."""
        years = self.drivers.columns(self.drivers.years)
        parts = {}
        for j, name in enumerate(self.component_names):
            kernel = covariance(name, years, years, self.kind_of_motion).astype(np.float32)
            said = np.zeros((len(kernel), len(self.variables), *self.grid.shape), np.float32)
            for v in range(len(self.variables)):
                for sizes, cells in self._parts(v, 0):
                    said[:, v, cells] = np.tensordot(np.float32(sizes[j]) * kernel, self.loads[v, 0][:, cells], 1)
            parts[name] = said.var(0)
        total = np.sum(np.stack([*parts.values()]), axis=0)
        return {n: np.divide(p, total, out=np.zeros_like(p), where=total > 0) for n, p in parts.items()}

    def findings(self, archive: Archive, split: Split) -> tuple[str, ...]:
        """Shares of the components, and the discrepancy of each training scenario at the end of its training years."""
        lines = []
        shares = self.shares()
        for v, variable in enumerate(self.variables):
            means = {n: float(self.grid.mean(share[v])) for n, share in shares.items()}
            words = ", ".join(f"{n.removeprefix('feature ')} {100 * m:.1f} %" for n, m in means.items())
            lines.append(f"{variable}: share of the annual mean response by component: {words}")
        for name in self.drivers.scenarios:
            last = max(s.stop for s in split.train if s.scenario == name)
            months = min(120, last)
            said = self.response(archive[name], last - months, last, only=(DISCREPANCY,)).mean(0)
            pairs = zip(self.variables, self.grid.mean(said), strict=True)
            words = ", ".join(f"{variable} {mean:+.3f}" for variable, mean in pairs)
            lines.append(f"{name}: discrepancy in its last {months} training months, global mean: {words}")
        return tuple(lines)

    def own_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Names and sizes; training years, weights, and the space of forcings."""
        d = self.drivers
        processes = {
            name: {
                "sizes": dict(p.sizes),
                "mean": p.mean,
                "unit": p.unit,
                "center": p.center,
                "slope": p.slope,
                "spread": p.spread,
            }
            for name, p in d.processes.items()
        }
        own = {
            "motion": self.kind_of_motion,
            "length_scale": self.length_scale,
            "sharpness": self.sharpness,
            "forcings": list(self.space.names),
            "scenarios": list(d.scenarios),
            "warming": list(d.warming.names),
            "features": list(d.features.names),
            "columns": list(d.years.columns),
            "processes": processes,
        }
        arrays: dict[str, NDArray[Any]] = {f"space.{n}": a for n, a in self.space.arrays().items()}
        arrays |= {
            f"{key}.{n}": getattr(standard, n)
            for key, standard in (("warming", d.warming), ("features", d.features))
            for n in ("center", "scale")
        }
        arrays |= {"years.time": d.years.time, "years.scenario": d.years.scenario}
        arrays["years.columns"] = np.stack([*d.years.columns.values()])
        arrays["processes.weights"] = np.stack([p.weights for p in d.processes.values()])
        arrays |= {n: getattr(self, n) for n in ("sizes", "part", "noise", "internal", "loads", "mean")}
        arrays |= {n: a for n in ("patterns", "globe") if (a := getattr(self, n)) is not None}
        return own, arrays

    @classmethod
    def from_own_state(
        cls, domain: Domain, bases: Sequence[Emulator], meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of `own_state`."""
        columns = dict(zip(meta["columns"], np.asarray(arrays["years.columns"], np.float64), strict=True))
        years = Points(arrays["years.time"], arrays["years.scenario"], columns)
        processes = {
            name: IndexProcess(weights=weights, **values)
            for (name, values), weights in zip(meta["processes"].items(), arrays["processes.weights"], strict=True)
        }
        warming, features = (
            Standard(tuple(meta[k]), arrays[f"{k}.center"], arrays[f"{k}.scale"]) for k in ("warming", "features")
        )
        scenarios = tuple(meta["scenarios"])
        drivers = Drivers(scenarios, years, warming, features, processes, domain.first_month)
        space = {n.removeprefix("space."): a for n, a in arrays.items() if n.startswith("space.")}
        sizes, part = arrays["sizes"], arrays.get("part")
        if part is None:
            # Emulators of earlier versions have the same sizes in all cells.
            sizes, part = sizes[:, :, None], np.zeros((*sizes.shape[:2], *domain.grid.shape), np.uint8)
        return cls(
            domain,
            bases,
            drivers,
            meta["motion"],
            sizes,
            part,
            arrays["noise"],
            arrays["internal"],
            arrays["loads"],
            arrays["mean"],
            ForcingSpace.from_arrays(meta["forcings"], space),
            float(meta["length_scale"] if "length_scale" in meta else meta["reach"]),
            float(meta.get("sharpness", 2.0)),
            arrays.get("patterns"),
            arrays.get("globe"),
        )

    def _near(self, scenario: Scenario, start: int, stop: int) -> Array:
        return self.space.kernel_similarity(scenario, self.grid, self.length_scale, self.sharpness)[start:stop]

    def _parts(self, v: int, g: int) -> Iterator[tuple[Array, NDArray[np.bool_]]]:
        """(J,) sizes and (Y, X) cells of each part, of a variable and a group of coefficients."""
        for p, sizes in enumerate(self.sizes[v, g]):
            yield sizes, self.part[v, g] == p

    def _asked(
        self, scenario: Scenario, start: int, stop: int
    ) -> tuple[Points, Points, NDArray[np.float32], NDArray[np.int64]]:
        """Months asked for and training years as points, the Fourier basis of the year, and calendar months."""
        at = self.drivers.of(scenario, self.grid).part(start, stop)
        years = self.drivers.columns(self.drivers.years)
        season = orthonormal_season(6).astype(np.float32)
        return at, years, season, scenario.calendar_month[start:stop]


def parts_by_noise(deviation: Array, weights: Array, parts: int) -> NDArray[np.uint8]:
    """(Y, X) number of the part of each cell, the quietest zero, in parts of equal area as nearly as cells allow.

    Args:
        deviation: (H, Y, X) standard deviations from run to run.
        weights: (Y, X) area weights.
        parts: How many.
    """
    order = np.argsort((deviation**2).mean(0), axis=None, kind="stable")
    area = np.cumsum(weights.ravel()[order])
    # By the middle of a cell, so that one of half the area is in one part.
    middle = (area - weights.ravel()[order] / 2) / area[-1]
    out = np.empty(order.size, np.uint8)
    out[order] = np.minimum(middle * parts, parts - 1).astype(np.uint8)
    return out.reshape(deviation.shape[1:])


def index_weights(name: str, grid: Grid) -> Array | None:
    """(Y, X) weights of an index, the sum of whose products with a field is the index.

    None where one of its boxes holds no cell of the grid, as on a coarse one.
    """
    _, *boxes = INDICES[name]
    out = np.zeros(grid.shape)
    for sign, box in zip((1.0, -1.0), boxes, strict=True):
        if box is None:
            continue
        south, north, west, east = box
        inside = ((grid.lat >= south) & (grid.lat <= north))[:, None] & (grid.lon >= west) & (grid.lon <= east)
        if not inside.any():
            return None
        part = grid.weights * inside
        out += sign * part / part.sum()
    return out


@dataclass(frozen=True, eq=False)
class _Internal:
    """How runs differ from each other in the training years.

    Attributes:
        variance: (12, V, Y, X) of a run's coefficients about the forced response.
        departures: (R, V, Y, X) of the annual means of single runs from the mean over their members.
        freedom: Degrees of freedom of both.
        patterns: (P, 12, V, Y, X) random sums of departures, as `AdditiveGP` keeps them.
    """

    variance: Array
    departures: NDArray[np.float32]
    freedom: int
    patterns: NDArray[np.float16]

    def deviation(self, weights: Array) -> float:
        """Standard deviation from run to run of an annual mean index, from its (V, Y, X) weights."""
        each = np.tensordot(self.departures, weights, 3)
        return float(np.sqrt(each @ each / self.freedom))


def _coefficients(archive: Archive, spans: Sequence[Span]) -> tuple[Array, _Internal, Array]:
    """(N, 12, V, Y, X) Fourier coefficients of training years, how runs differ, and (N,) the noise of each year."""
    season = orthonormal_season(6)
    values, members, departures = [], [], []
    shape = (12, len(archive.variables), *archive.grid.shape)
    square, freedom = np.zeros(shape), 0
    # The sums are random that their number be small; what they stand for is not, so their seed is no setting.
    sums, rng = np.zeros((PATTERNS, *shape), np.float32), np.random.default_rng(0)
    for span in spans:
        scenario = archive[span.scenario]
        for a, b in years_of(span.start, span.stop):
            basis = (season[scenario.calendar_month[a:b]] / (b - a)).astype(np.float32)
            runs = np.stack([scenario.truth(m, a, b) for m in span.members])
            # About the mean over runs and months, so that float32 keeps what differs of 300 K.
            level = runs.mean((0, 1), dtype=np.float64).astype(np.float32)
            each = np.tensordot(basis, runs - level, axes=(0, 1)).swapaxes(0, 1)
            mean = each.mean(0, dtype=np.float64)
            apart = each - mean
            values.append(mean)
            values[-1][0] += level
            members.append(len(span.members))
            if len(span.members) > 1:
                square += (apart**2).sum(0)
                signs = rng.standard_normal((PATTERNS, len(apart)), np.float32)
                sums += np.tensordot(signs, apart.astype(np.float32), 1)
                departures.append(apart[:, 0].astype(np.float32))
                freedom += len(span.members) - 1
    if not freedom:
        raise ProtocolError(
            "one member says nothing of how runs differ, which additive-gp measures responses in",
            found=", ".join(s.text(archive) for s in spans),
            expected="two members or more in a training span",
            hint="train on several --members, or take the recipe kriging, --set bases.0.recipe=kriging",
        )
    size = np.sqrt((sums**2).sum(0))
    patterns = np.divide(sums, size, out=np.zeros_like(sums), where=size > 0).astype(np.float16)
    internal = _Internal(square / freedom, np.concatenate(departures), freedom, patterns)
    return np.stack(values), internal, 1.0 / np.array(members, np.float64)


def _global_weights(archive: Archive) -> Iterator[Array]:
    """For each variable the (V, Y, X) weights of its global mean."""
    for v in range(len(archive.variables)):
        weights = np.zeros((len(archive.variables), *archive.grid.shape))
        weights[v] = archive.grid.weights
        yield weights


def _root(covariance_: Array) -> Array:
    """The symmetric root of a covariance; one of its kind, so that draws of like processes are alike."""
    values, vectors = np.linalg.eigh((covariance_ + covariance_.T) / 2)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T, np.float64)


def _products(scaled: Array, area: Array) -> Array:
    """(N, N) area-weighted mean over coefficients and cells of the products of years; (N, H, Y, X) values."""
    flat = ((scaled - scaled.mean(0)) * np.sqrt(area / scaled.shape[1])).reshape(len(scaled), -1)
    return np.asarray(flat @ flat.T, np.float64)


def _fit_drivers(
    archive: Archive,
    rows: Sequence[tuple[str, int, int]],
    values: Array,
    internal: _Internal,
    noise: Array,
    warming: tuple[str, ...],
    indices: tuple[str, ...],
    features: tuple[str, ...],
) -> Drivers:
    """Global mean and indices as processes on forcings."""
    scenarios = tuple(dict.fromkeys(name for name, _, _ in rows))
    forcing, linear = Standard.fit(archive, warming, rows), Standard.fit(archive, features, rows)
    first = archive.domain.first_month
    every = {s: months_of(archive[s], archive.grid, scenarios, forcing, linear, first) for s in scenarios}
    parts = [every[s].part(a, b) for s, a, b in rows]
    columns = {n: np.array([p.columns[n].mean() for p in parts]) for n in parts[0].columns}
    years = Points(np.array([p.time.mean() for p in parts]), np.array([p.scenario[0] for p in parts]), columns)
    kernels = {f"forcing {n}": covariance(f"forcing {n}", years, years, "brownian") for n in warming}
    kernels[DISCREPANCY] = covariance(DISCREPANCY, years, years, "brownian")
    components = np.stack([*kernels.values()])

    def process(position: int, weights: Array) -> IndexProcess:
        fields = np.zeros((len(archive.variables), *archive.grid.shape))
        fields[position] = weights
        unit = internal.deviation(fields) or 1.0
        series = np.tensordot(values[:, 0], fields, 3) / unit
        apart = series - series.mean()
        sizes = fit_sizes(components, noise, np.outer(apart, apart), 1.0)
        load, mean = Conditioned.on(np.tensordot(sizes, components, 1), noise).weights(series)
        named = {n: float(s) for n, s in zip(kernels, sizes, strict=True)}
        return IndexProcess(named, unit * load, float(unit * mean), float(unit))

    temperature = temperature_position(archive, "model.warming")
    found = {WARMING: process(temperature, archive.grid.weights).standardised(years)}
    at = found[WARMING].said(years, years)
    for name in indices:
        position = archive.card.position(INDICES[name][0], archive.variables)
        weights = index_weights(name, archive.grid)
        if position is not None and weights is not None:
            found[name] = process(position, weights).standardised(years, at)
    return Drivers(scenarios, years, forcing, linear, found, first)


def _series(scenario: Scenario, grid: Grid, names: Sequence[str]) -> Array:
    return np.stack([feature(n, scenario, grid) for n in names], 1) if names else np.zeros((len(scenario), 0))
