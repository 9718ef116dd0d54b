"""A prediction that varies as much as a single run of the climate model does.

Invariant: mean and trend of every block of months are the base's, no value is beyond a bound, and the standard
deviation over a period is the one expected of a real run. The blocks are counted from a scenario's end, never from the
months asked for.

A network or regression that minimises squared error predicts the mean over all members that could be: right on
average, and far too calm. A metric that compares standard deviations punishes that, and this repairs it in the
cheapest way: stretched about its mean, the base is the nearest field that varies as much. It is the best there is for
the competition. What it is not: weather. Its extra variance has the shape of the forced response, mostly of the
seasonal cycle, so that no month of it is a month that could occur: wet seasons are too wet and dry seasons too dry. Who
needs months that could occur takes samples.

The trend is kept because a stretched one would begin every block with a step back: under ssp585 global pr fell by 0.03
mm/day there, what it gains in ten years. Keeping it costs little, as what is left next to it hardly correlates with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Split
from emukit.data.time import TimeAxis
from emukit.data.variable import Bounds
from emukit.emulators.base import Emulator
from emukit.emulators.variability import Variability, blocks, estimate_variability, global_mean_of, season_means
from emukit.emulators.wrapper import Fold, Wrapper
from emukit.errors import RecipeError

Array = NDArray[np.float64]

# Float32 resolves 6e-8 of a value: what varies by less than this share of its mean does not vary.
STEADY = 1e-6


def trend(field: NDArray[np.floating], per_year: int = 12) -> Array:
    """The straight line through each cell's means of whole years.

    Whole years, counted from the last step: a season that begins or ends within the steps does not tilt the line.

    Args:
        field: (T, ...) steps; computed with in float64.
        per_year: Steps of a year.

    Returns:
        (T, ...) float64, with mean zero over the steps. Zero where there are less than two whole years.
    """
    steps = len(field)
    years = steps // per_year
    time = np.arange(steps) - (steps - 1) / 2
    if years < 2:
        return np.zeros(field.shape)
    whole = field[steps - per_year * years :].astype(np.float64)
    annual = whole.reshape(years, per_year, -1).mean(1)
    when = float(per_year) * (np.arange(years) - (years - 1) / 2)
    slope = (when @ annual) / (when @ when)
    return np.asarray(time.reshape(-1, *(1,) * (field.ndim - 1)) * slope.reshape(field.shape[1:]), np.float64)


def stretch(
    field: NDArray[np.floating], std: Array, *, keep: NDArray[np.floating] | None = None, above_zero: bool = False
) -> Array:
    """Scale what is left of each cell's months next to its mean over time and a part to keep.

    The result is c + keep + k a with the anomaly a = field - mean - keep, and, above zero, max(0, that). With n months
    not at zero, c keeps the mean and k solves a quadratic equation for the standard deviation. Months that become
    negative are put at zero, and the rest is solved for again, until none is.

    Args:
        field: (T, ...) months; computed with in float64. Above zero: none negative.
        std: (...) population standard deviation wanted. A cell that does not vary stays as it is: it has no shape that
            could be stretched.
        keep: (T, ...) what is not stretched, with mean zero over the months: `trend`. Where it varies more than is
            wanted, it is scaled to that. Nothing, if absent.
        above_zero: Whether nothing may be negative. No cell can vary more than with all it has in one month; one that
            is asked to comes as near to that as its months allow.

    Returns:
        (T, ...) float64.
    """
    months, shape = len(field), field.shape[1:]
    flat = field.reshape(months, -1).astype(np.float64)
    mean, wanted = flat.mean(0), np.asarray(std, np.float64).reshape(-1)
    line = np.zeros_like(flat) if keep is None else keep.reshape(months, -1).astype(np.float64)
    varies = flat.std(0) > STEADY * np.abs(mean)
    anomaly = flat - mean - line
    own = line.std(0)
    line *= np.where(own > wanted, wanted / np.where(own > 0, own, 1.0), 1.0)
    out = flat.copy()
    todo = np.flatnonzero(varies)
    left = np.ones((months, len(todo)), bool)
    while len(todo):
        cells = _solved(mean[todo], wanted[todo], line[:, todo], anomaly[:, todo], left)
        negative = left & (cells < 0) if above_zero else np.zeros_like(left)
        out[:, todo] = cells
        again = negative.any(0)
        todo, left = todo[again], (left & ~negative)[:, again]
    return out.reshape(months, *shape)


def _solved(mean: Array, std: Array, line: Array, anomaly: Array, left: NDArray[np.bool_]) -> Array:
    """(T, C): the months left share the mean and the standard deviation of all; the others are zero."""
    months, n = len(left), left.sum(0)
    about = [np.where(left, part - np.where(left, part, 0.0).sum(0) / n, 0.0) for part in (line, anomaly)]
    a, b, c = (about[1] ** 2).sum(0), (about[0] * about[1]).sum(0), (about[0] ** 2).sum(0)
    # The squares of n months with that mean and standard deviation, about the mean of those that are left.
    squares = months * (std**2 + mean**2) - (months * mean) ** 2 / n
    # Months that are all alike have nothing to stretch: they share alike.
    alike = a <= n * (STEADY * mean) ** 2
    root = np.sqrt(np.maximum(b**2 + a * (squares - c), 0.0))
    k = np.where(alike, 0.0, np.maximum(root - b, 0.0) / np.where(alike, 1.0, a))
    return np.asarray(np.where(left, months * mean / n + about[0] + k * about[1], 0.0), np.float64)


class VarianceMatched(Wrapper):
    """Its base, each cell's months scaled about a line so that their standard deviation is a real run's.

    Attributes:
        variability: What a run adds to the forced response.
        period: Months over which the standard deviation is a real run's, or as many steps as last as long.
        block: The same, over which mean and trend are kept.
    """

    kind = "variance-matched"
    by_variable = ("proportional",)
    varied: ClassVar[bool] = True

    def __init__(
        self, domain: Domain, bases: Sequence[Emulator], variability: Variability, period: int, block: int
    ) -> None:
        """Use `fit`."""
        super().__init__(domain, bases)
        self.variability, self.period, self.block = variability, period, block

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        bases: Sequence[Emulator],
        folds: Sequence[Fold],
        *,
        period: int = 360,
        block: int = 120,
        warming: bool = True,
        proportional: tuple[str, ...] = (),
    ) -> Self:
        """Estimate internal variability from the training spans.

        Args:
            archive: The data.
            split: Its training spans are used.
            bases: One.
            folds: None.
            period: Months over which the standard deviation is to be a real run's: as many as will be scored. Where
                steps are not months, this and `block` are as many steps as last as long.
            block: Months over which mean and trend are kept. Shorter than the period, so that what is not a straight
                line over it is not stretched with the seasons.
            warming: Whether variability may change with the global mean temperature, where the data support it; it
                does not where no variable is the near-surface temperature.
            proportional: Variables whose variance is in proportion to their predicted mean of decade and calendar
                month, as that of precipitation nearly is.

        Raises:
            RecipeError: A block of less than a year, or longer than the period.
            ProtocolError: There is no training month that the base can predict.
        """
        cls.check(archive, period=period, block=block, proportional=proportional)
        steps = _steps(period, archive.time)
        found = estimate_variability(archive, split.train, bases[0], steps, proportional)
        if not warming:
            found = replace(found, slope=np.zeros_like(found.slope))
        return cls(archive.domain, bases, found, period, block)

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse values out of their ranges; arguments as for `fit`."""
        block, period = options["block"], options["period"]
        unknown = [v for v in options["proportional"] if v not in archive.variables]
        if unknown:
            raise RecipeError(
                "model.proportional names what is not predicted",
                found=", ".join(unknown),
                expected=f"some of {', '.join(archive.variables)}",
            )
        if not 12 <= block <= period:
            raise RecipeError(
                "model.block is out of range", found=f"{block} months", expected=f"12 to model.period, {period}"
            )

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X); within the bounds."""
        out = np.empty((stop - start, len(self.variables), *self.grid.shape), np.float32)
        # A month before the base's first goes to the base, which says what is wrong with it.
        for a, b in blocks(min(start, self.first_month), len(scenario), _steps(self.block, scenario.time)):
            if a < stop and start < b:
                # A block is always predicted whole: its mean and variance must not depend on the months asked for.
                first, last = max(a, start), min(b, stop)
                out[first - start : last - start] = self._matched(scenario, a, b)[first - a : last - a]
        return out

    def _matched(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X): the steps of one block."""
        field = self.bases[0].predict_fields(scenario, start, stop)
        time = scenario.time
        season = time.season[start:stop]
        global_mean = global_mean_of(field, self.domain)
        by_season = self.variability.by_season(global_mean, season_means(field, season, time.seasons))
        count = np.bincount(season, minlength=time.seasons)
        internal = np.einsum("m,mvyx->vyx", count / count.sum(), by_season)
        std = self.aim(field.std(0, dtype=np.float64), internal)
        out = np.empty_like(field)
        for i, variable in enumerate(self.domain.described):
            out[:, i] = _stretched(field[:, i], std[i], variable.bounds, time.per_year)
        # Of two bounds, the stretch keeps to one.
        self.clip_to_bounds(out)
        return out

    def aim(self, said: Array, internal: Array) -> Array:
        """The standard deviation that a block is given.

        It is that expected of a real run: with the variance of the forced part about the block's mean, plus that of
        single months, less that of the mean over the period, about which a run's standard deviation is taken. As a
        standard deviation differs from run to run, its mean is below the root of the mean variance: E[s]^2 = E[s^2] -
        Var[s].

        Args:
            said: (V, Y, X) standard deviation of the base over the block.
            internal: (V, Y, X) variance of single months about the forced response.
        """
        known = self.variability
        variance = known.forced * said**2 + internal - known.time_mean - known.time_std
        return np.sqrt(np.maximum(variance, 0.0))

    @property
    def notes(self) -> tuple[str, ...]:
        """Whether variability had to be estimated from one member."""
        if self.variability.from_members:
            return ()
        return (
            "no training scenario has more than one member: variability is what the base leaves of it, "
            "mistakes of the base included",
        )

    def own_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Lengths; variances."""
        return {"period": self.period, "block": self.block}, self.variability.arrays()

    @classmethod
    def from_own_state(
        cls, domain: Domain, bases: Sequence[Emulator], meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of `own_state`."""
        return cls(domain, bases, Variability.from_arrays(arrays), meta["period"], meta["block"])


def _steps(months: int, time: TimeAxis) -> int:
    """As many steps as last so many months; a multiple of a year's share, and one at least."""
    return max(round(months * time.per_year / 12), 1)


def _stretched(field: NDArray[np.floating], std: Array, bounds: Bounds, per_year: int) -> Array:
    """(T, Y, X) steps of one variable with a standard deviation; trend and bound, of two the lower, are kept to."""
    line = trend(field, per_year)
    if bounds.lower is not None:
        return bounds.lower + stretch(field - bounds.lower, std, keep=line, above_zero=True)
    if bounds.upper is not None:
        return bounds.upper - stretch(bounds.upper - field, std, keep=-line, above_zero=True)
    return stretch(field, std, keep=line)
