"""Target transforms: from physical units to what a network is asked for, and exactly back.

Invariant: fitted on training spans alone; `inverse(forward(x)) == x` up to float rounding for every value a training
span can hold, and `inverse` maps every finite number to a finite one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emukit.config import Settings, check
from emukit.data.archive import Archive
from emukit.data.split import Span
from emukit.data.variable import Transform, Variable
from emukit.errors import RecipeError
from emukit.parallel.share import Share

if TYPE_CHECKING:
    from sklearn.preprocessing import PowerTransformer

Array = NDArray[np.float64]

# Fitting Yeo-Johnson's exponent needs no more values than this; they are taken evenly over months and cells.
YEO_JOHNSON_SAMPLE = 200_000
# Of a standard deviation, added where a ratio to a climatology is taken.
LITTLE = 0.2
# Steps that are normalised at once.
PART_STEPS = 2048


class TargetSettings(Settings):
    """How one target variable is normalised.

    Attributes:
        transform: Pointwise function of the value: none, log1p, sqrt, cbrt (these for what is never negative),
            yeo-johnson with its exponent fitted on training months, or what the data card says of the variable
            (``card``).
        climatology: What is subtracted: the training mean of all cells and months (``global``), of each cell
            (``cell``), or of each cell and calendar month (``cell-month``). Days share the group of their calendar
            month, as 365 means of a few values each would be noise; hours that of their month and time of the day;
            years are one group.
        scale: What anomalies are divided by: their standard deviation over the same kinds of groups.
    """

    transform: Transform | Literal["card"] = "card"
    # The seasonal cycle stays in the target: it is part of the standard deviation over time that a loss may ask for.
    climatology: Literal["global", "cell", "cell-month"] = "cell"
    scale: Literal["global", "cell", "cell-month"] = "cell"

    def known(self, variable: Variable) -> TargetSettings:
        """The same, with the card's transform where it is chosen."""
        return self if self.transform != "card" else self.model_copy(update={"transform": variable.transform})


class Pointwise(NamedTuple):
    """A transform by name with its fitted exponent (used by yeo-johnson only)."""

    name: str
    exponent: float

    def forward(self, x: Array) -> Array:
        """Physical units to the transform's, of any shape. Values below zero count as zero under log1p and roots."""
        if self.name == "log1p":
            return np.log1p(np.maximum(x, 0.0))
        if self.name == "sqrt":
            return np.sqrt(np.maximum(x, 0.0))
        if self.name == "cbrt":
            # The cube root of rain is nearly normal (Stidd 1953, doi:10.1029/TR034i001p00031).
            return np.cbrt(np.maximum(x, 0.0))
        if self.name == "yeo-johnson":
            return _power_transformer(self.exponent).transform(x.reshape(-1, 1)).reshape(x.shape)  # type: ignore[no-any-return]
        return x

    def inverse(self, z: Array) -> Array:
        """The transform's units back to physical ones, of any shape; the exact inverse on the range of `forward`."""
        if self.name == "log1p":
            return np.expm1(np.clip(z, 0.0, 700.0))
        if self.name == "sqrt":
            return np.square(np.maximum(z, 0.0))
        if self.name == "cbrt":
            return np.maximum(z, 0.0) ** 3
        if self.name == "yeo-johnson":
            # Outside its range the inverse does not exist (NaN): a network that overshoots gets the range's edge.
            low, high = _yeo_johnson_range(self.exponent)
            inside = np.clip(z, low, high)
            return _power_transformer(self.exponent).inverse_transform(inside.reshape(-1, 1)).reshape(z.shape)  # type: ignore[no-any-return]
        return z


def _power_transformer(exponent: float) -> PowerTransformer:
    # Takes a second to import, and one transform needs it.
    from sklearn.preprocessing import PowerTransformer

    transformer = PowerTransformer(method="yeo-johnson", standardize=False)
    transformer.lambdas_ = np.array([exponent])
    transformer.n_features_in_ = 1
    return transformer


def _yeo_johnson_range(exponent: float) -> tuple[float, float]:
    """Values that `forward` can give for x in [-1e6, 1e6]."""
    edges = _power_transformer(exponent).transform(np.array([[-1e6], [1e6]]))
    return float(edges[0, 0]), float(edges[1, 0])


class TargetNormalizer:
    """Transforms all target variables.

    Attributes:
        settings: Variable name to how it is normalised, in the order of the V axis.
    """

    def __init__(
        self,
        settings: Mapping[str, TargetSettings],
        pointwise: Sequence[Pointwise],
        center: Array,
        scale: Array,
    ) -> None:
        self.settings = dict(settings)
        self._pointwise = tuple(pointwise)
        # (G, V, Y, X) each, or of the cells of one of several processes, for the G groups of `TimeAxis.season` (12 of
        # months), whatever the grouping: one code path, and 1 MB on the competition's grid.
        self._center, self._scale = center, scale

    @classmethod
    def fit(
        cls,
        archive: Archive,
        spans: Sequence[Span],
        settings: Mapping[str, TargetSettings],
        *,
        through: Callable[[NDArray[np.floating]], NDArray[np.floating]] | None = None,
    ) -> TargetNormalizer:
        """Fit on all members of the training spans.

        Args:
            archive: The data.
            spans: Training spans.
            settings: By variable.
            through: What is done to the (T, Y, X) fields of a variable first, such as a coarse-down-up pass.

        Returns:
            Of the cells that the archive holds.
        """
        pointwise, centers, scales = [], [], []
        known = {v.name: settings.get(v.name, TargetSettings()).known(v) for v in archive.domain.described}
        for v, chosen in enumerate(known.values()):
            function = Pointwise(chosen.transform, _fit_exponent(archive, spans, v, chosen, through))
            sums = _season_sums(archive, spans, v, function, through)
            center = _grouped_mean(sums[0], sums[1], chosen.climatology, archive)
            # Second moment about that centre, from sums: E[(x-c)^2] = E[x^2] - 2cE[x] + c^2.
            about = sums[2] - 2 * center * sums[1] + sums[0] * center**2
            variance = np.maximum(_grouped_mean(sums[0], about, chosen.scale, archive), 0.0)
            pointwise.append(function)
            centers.append(center)
            scales.append(_positive(np.sqrt(variance), archive.share))
        return cls(
            known,
            pointwise,
            np.stack(centers, 1),
            np.stack(scales, 1),
        )

    def line(self, names: Sequence[str] | None = None) -> tuple[Array, Array]:
        """(V, Y, X) what a normalised zero is, and the size of a normalised one, in physical units.

        Args:
            names: Variables of which it has to be so: what is said of others means nothing. All when None.

        Raises:
            RecipeError: One of them is transformed, or normalised by season.
        """
        for (name, settings), pointwise in zip(self.settings.items(), self._pointwise, strict=True):
            wrong = {} if pointwise.name == "none" else {"transform": "none"}
            for key in ("climatology", "scale"):
                wrong |= {key: "cell"} if getattr(settings, key) == "cell-month" else {}
            if wrong and (names is None or name in names):
                raise RecipeError(
                    f"{name} is not normalised by a line that is the same in every season",
                    found=f"targets.{name}: {settings.model_dump()}",
                    expected='transform "none", climatology and scale "cell" or "global"',
                    hint=" ".join(f"--set targets.{name}.{key}={value}" for key, value in wrong.items()),
                )
        return self._center[0], self._scale[0]

    def own(self, part: tuple[slice, slice], grid: tuple[int, int]) -> TargetNormalizer:
        """The same for a part of a grid of (Y, X) cells; itself where it knows no other cells."""
        rows, columns = (np.arange(n)[of] for n, of in zip(grid, part, strict=True))
        held = self._center.shape[-2:]
        return self if held == (len(rows), len(columns)) else self.window(rows, columns)

    def whole(self, share: Share) -> TargetNormalizer:
        """Put together from what processes that share a globe know of their cells."""
        center, scale = (share.whole(a) for a in (self._center, self._scale))
        return TargetNormalizer(self.settings, self._pointwise, center, scale)

    def window(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> TargetNormalizer:
        """The same for fields of some rows and columns of the grid."""
        center, scale = (a[..., rows, :][..., columns] for a in (self._center, self._scale))
        return TargetNormalizer(self.settings, self._pointwise, center, scale)

    def forward(self, values: NDArray[np.floating], season: NDArray[np.int64]) -> NDArray[np.float32]:
        """Normalise (T, V, Y, X) fields of physical units; `season` is (T,), as `TimeAxis.season` has it."""
        out = np.empty(values.shape, np.float32)
        self._normalise(values, season, out)
        return out

    def forward_exactly(self, values: NDArray[np.floating], season: NDArray[np.int64]) -> Array:
        """As `forward`, (T, V, Y, X), in float64: for differences of normalised fields, which rounding would spoil."""
        out = np.empty(values.shape, np.float64)
        self._normalise(values, season, out)
        return out

    def _normalise(
        self, values: NDArray[np.floating], season: NDArray[np.int64], out: NDArray[np.float32] | Array
    ) -> None:
        for part in _parts(len(values)):
            group = season[part]
            for v, function in enumerate(self._pointwise):
                x = function.forward(values[part, v].astype(np.float64))
                out[part, v] = (x - self._center[group, v]) / self._scale[group, v]

    def level(self, values: NDArray[np.floating], season: NDArray[np.int64]) -> Array:
        """How large normalised (T, V, Y, X) fields are next to their climatology, as the transform sees both.

        A part of the scale is added to both, so that a desert month is divided by something; beyond a factor of three
        nothing is told apart.
        """
        out = np.empty(values.shape, np.float64)
        for v in range(values.shape[1]):
            center, scale = self._center[season, v], self._scale[season, v]
            x = values[:, v].astype(np.float64) * scale + center
            little = LITTLE * scale
            out[:, v] = np.clip((np.maximum(x, 0.0) + little) / (np.maximum(center, 0.0) + little), 1 / 3, 3.0)
        return out

    def inverse(self, values: NDArray[np.floating], season: NDArray[np.int64]) -> Array:
        """Back to physical units, (T, V, Y, X) float64."""
        out = np.empty(values.shape, np.float64)
        for part in _parts(len(values)):
            group = season[part]
            for v, function in enumerate(self._pointwise):
                z = values[part, v].astype(np.float64) * self._scale[group, v] + self._center[group, v]
                out[part, v] = function.inverse(z)
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values and arrays from which `from_state` builds the same normaliser."""
        meta = {
            "settings": {k: v.model_dump(mode="json") for k, v in self.settings.items()},
            "exponents": [p.exponent for p in self._pointwise],
        }
        return meta, {"center": self._center, "scale": self._scale}

    @classmethod
    def from_state(cls, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> TargetNormalizer:
        """The inverse of `state`."""
        settings = {k: check(TargetSettings, v, source="the saved emulator") for k, v in meta["settings"].items()}
        pointwise = [Pointwise(s.transform, e) for s, e in zip(settings.values(), meta["exponents"], strict=True)]
        return cls(settings, pointwise, np.asarray(arrays["center"]), np.asarray(arrays["scale"]))


# From the (T, Y, X) fields of a variable to those that statistics are taken of.
_Through = Callable[[NDArray[np.floating]], NDArray[np.floating]] | None


def _truth(archive: Archive, span: Span, variable: int, through: _Through) -> Iterator[NDArray[np.floating]]:
    scenario = archive[span.scenario]
    for member in span.members:
        fields = scenario.truth(member, span.start, span.stop)[:, variable]
        yield fields if through is None else through(fields)


def _fit_exponent(
    archive: Archive, spans: Sequence[Span], variable: int, settings: TargetSettings, through: _Through
) -> float:
    if settings.transform != "yeo-johnson":
        return 1.0
    from sklearn.preprocessing import PowerTransformer

    grid, share = archive.grid.shape, archive.share
    own = tuple(range(n)[of] for n, of in zip(grid, (share.rows, share.columns), strict=True))
    step = max(1, sum(len(s) * len(s.members) for s in spans) * grid[0] * grid[1] // YEO_JOHNSON_SAMPLE)
    values = []
    for span in spans:
        for fields in _truth(archive, span, variable, through):
            t, *place = np.unravel_index(np.arange(0, len(fields) * grid[0] * grid[1], step), (len(fields), *grid))
            here = np.logical_and.reduce([(at >= o.start) & (at < o.stop) for at, o in zip(place, own, strict=True)])
            y, x = (at[here] - o.start for at, o in zip(place, own, strict=True))
            # Of several processes each has zeros in the place of others' cells: their sum is the sample of one.
            taken = np.zeros(len(t))
            taken[here] = fields[t[here], y, x]
            values.append(taken)
    sample = share.sum(np.concatenate(values))
    return float(PowerTransformer(method="yeo-johnson", standardize=False).fit(sample[:, None]).lambdas_[0])


def _parts(steps: int) -> list[slice]:
    """Slices of the first axis, so that float64 copies are small next to the fields of long records."""
    return [slice(a, a + PART_STEPS) for a in range(0, steps, PART_STEPS)]


def _season_sums(
    archive: Archive, spans: Sequence[Span], variable: int, function: Pointwise, through: _Through
) -> tuple[Array, Array, Array]:
    """Count (G, 1, 1), sum and sum of squares (G, Y, X) of transformed values by `TimeAxis.season`."""
    groups = archive.time.seasons
    n = np.zeros((groups, 1, 1))
    sums = np.zeros((2, groups, *archive.cells))
    for span in spans:
        season = archive[span.scenario].time.season[span.start : span.stop]
        for truth in _truth(archive, span, variable, through):
            for m in np.unique(season):
                x = function.forward(truth[season == m].astype(np.float64))
                n[m] += len(x)
                sums[0, m] += x.sum(0)
                sums[1, m] += (x * x).sum(0)
    return n, sums[0], sums[1]


def _grouped_mean(n: Array, total: Array, group: str, archive: Archive) -> Array:
    """Mean over the groups named, spread back to (G, y, x)."""
    if group == "cell-month":
        if (n == 0).any():
            # A season that no training span holds: the cell's mean stands in for it.
            cell = total.sum(0) / n.sum()
            return np.asarray(np.where(n > 0, total / np.maximum(n, 1), cell))
        return np.asarray(total / n)
    mean = total.sum(0) / n.sum()
    if group == "global":
        own, rows, columns = archive.share, *archive.grid.shape
        mean = np.full_like(mean, own.sum(mean.sum()) / (rows * columns) if own.divided else mean.mean())
    return np.broadcast_to(mean, total.shape).copy()


def _positive(scale: Array, share: Share) -> Array:
    # A cell that never varies in training (a desert month without rain) has no scale of its own. A thousandth of the
    # typical one keeps the division finite and such a cell's errors from dominating the loss a thousandfold more.
    floor = 1e-3 * float(np.median(share.whole(scale))) or 1.0
    return np.asarray(np.maximum(scale, floor))
