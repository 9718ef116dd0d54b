"""How much one run of the climate model departs from the forced response, and how that changes with warming.

Invariant: training spans alone are looked at. Where a scenario has several members, variability is how they differ
from each other, so no emulator's mistake is taken for it. Where none has, it is what the base leaves of the one member
there is, and that holds the base's mistakes too: `Variability.from_members` says which of the two it was. A slope of
the variability counts for what it foretells in scenarios that it was not fitted to; of slopes fitted to chance next to
nothing is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain
from emukit.data.grid import Grid
from emukit.data.split import Span
from emukit.emulators.base import Emulator
from emukit.errors import ProtocolError

Array = NDArray[np.float64]

# Beyond what training showed, variance continues changing for half of the warmings seen, and never by more than
# fourfold.
BEYOND = 0.5
LARGEST_CHANGE = 4.0
# How much of a slope is believed: one of these, by variable.
SHARES = tuple(i / 10 for i in range(11))


@dataclass(frozen=True, eq=False)
class Decade:
    """What about ten training years of one scenario say about variability.

    Attributes:
        scenario: Its name.
        global_mean: Global mean temperature over them, in K.
        variance: (G, V, Y, X) variance of a step about the forced response, by season (`TimeAxis.season`).
        freedom: (G,) degrees of freedom of each.
        said: (V, Y, X) variance over these steps of what the base says.
        forced: (V, Y, X) variance over these steps of the members, less that of their departures.
        mean: (G, V, Y, X) mean by season of what the base says.
    """

    scenario: str
    global_mean: float
    variance: Array
    freedom: Array
    said: Array
    forced: Array
    mean: Array

    def __len__(self) -> int:
        return int(self.freedom.sum())


def global_mean_range(decades: Sequence[Decade]) -> Array:
    """(3,) mean of the decades' global mean temperatures, K, and the lowest and highest that bound the trend."""
    seen = np.array([d.global_mean for d in decades])
    more = BEYOND * np.ptp(seen)
    middle = np.average(seen, weights=[len(d) for d in decades])
    return np.array([middle, seen.min() - more, seen.max() + more])


def change(slope: Array, warming: float) -> Array:
    """(...) factor by which variance changes, for a (...) slope in 1/K and a warming in K.

    It is bounded, as a slope is fitted to a few K of warming.
    """
    most = np.log(LARGEST_CHANGE)
    return np.asarray(np.exp(np.clip(slope * warming, -most, most)), np.float64)


def _slope(decades: Sequence[Decade]) -> Array:
    """(G, V, Y, X) change of the logarithm of variance per K."""
    weight = np.stack([d.freedom for d in decades])
    warming = np.array([d.global_mean for d in decades]) - global_mean_range(decades)[0]
    mean = _average(np.stack([d.variance for d in decades]), weight)
    # A month without any variance, as in a desert, must not make its logarithm the only one that counts.
    least = np.maximum(1e-3 * mean, np.finfo(np.float64).tiny)
    logs = np.stack([np.log(np.maximum(d.variance, least)) for d in decades])
    logs -= _average(logs, weight)
    product = _neighbours(np.einsum("km,kmvyx->mvyx", weight * warming[:, None], logs))
    square = _neighbours((weight * warming[:, None] ** 2).sum(0))[:, None, None, None]
    # Without warming there is no slope to find: a tenth of a degree is weather.
    return product / square if np.std(warming) > 0.1 else np.zeros_like(product)


def level_at_middle(decades: Sequence[Decade], slope: Array) -> Array:
    """(G, V, Y, X) variance at the mean temperature, given how it changes."""
    middle = global_mean_range(decades)[0]
    steady = np.stack([d.variance / change(slope, d.global_mean - middle) for d in decades])
    return _average(steady, np.stack([d.freedom for d in decades]))


def _average(values: Array, weight: Array) -> Array:
    """Weighted mean over the first axis; (K, G, V, Y, X) and (K, G)."""
    total = np.maximum(weight.sum(0), 1.0)[:, None, None, None]
    return np.asarray(np.einsum("km,kmvyx->mvyx", weight, values) / total, np.float64)


def _neighbours(values: Array) -> Array:
    """Each season with the one of the month before and the one of the month after."""
    month = max(len(values) // 12, 1)
    return np.asarray(values + np.roll(values, month, 0) + np.roll(values, -month, 0), np.float64)


def believed_slope(decades: Sequence[Decade], grid: Grid) -> Array:
    """(G, V, Y, X) change of the logarithm of variance per K, as far as scenarios left out bear it out."""
    return _slope(decades) * _share(decades, grid)[:, None, None]


def _share(decades: Sequence[Decade], grid: Grid) -> Array:
    """(V,): the share of the slopes with which scenarios left out are foretold best.

    By the deviance of chi-squared distributed variances, log(expected) + found / expected, over all cells and months.
    """
    deviance = np.zeros((len(SHARES), len(decades[0].said)))
    names = dict.fromkeys(d.scenario for d in decades)
    for name in names if len(names) > 1 else ():
        others = [d for d in decades if d.scenario != name]
        slope, (middle, low, high) = _slope(others), global_mean_range(others)
        for i, share in enumerate(SHARES):
            level = level_at_middle(others, share * slope)
            # A month that is always dry in the others must not make one drop of rain the only one that counts.
            least = np.maximum(1e-3 * level.mean((0, 2, 3), keepdims=True), np.finfo(np.float64).tiny)
            level = np.maximum(level, least)
            for d in (d for d in decades if d.scenario == name):
                expected = level * change(share * slope, min(max(d.global_mean, low), high) - middle)
                each = np.log(expected) + d.variance / expected
                deviance[i] += np.einsum("m,mvyx,yx->v", d.freedom, each, grid.weights)
    return np.asarray(np.take(SHARES, deviance.argmin(0)), np.float64)


# Variability is taken as constant over ten years: long enough for ten values of each calendar month, short enough for
# the warmest scenario to warm by about half a degree.
STEADY_YEARS = 10


@dataclass(frozen=True, eq=False)
class Variability:
    """Variances of a single run about the forced response, in squared units of each variable.

    Attributes:
        level: (G, V, Y, X) variance of a step by season (`TimeAxis.season`; 12 of months), where the global mean is
            `global_mean[0]`.
        slope: (G, V, Y, X) change of its logarithm per K of the global mean temperature, as far as it is believed.
        global_mean: (3,) the global mean temperature at which `level` holds, and the lowest and highest at which
            `slope` does.
        time_mean: (V, Y, X) variance of the mean over a period.
        time_std: (V, Y, X) variance of the standard deviation over a period, from run to run.
        forced: (V, Y, X) share of the base's variance over ten years that is forced: about one for a base that predicts
            the mean over members, less for one that was taught to vary as a single run does.
        from_members: Whether members were compared with each other; if not, one member with the base.
        usual: (G, V, Y, X) mean of a step at which `level` holds, where variance is in proportion to the mean; zero
            elsewhere. None where it is nowhere.
    """

    level: Array
    slope: Array
    global_mean: Array
    time_mean: Array
    time_std: Array
    forced: Array
    from_members: bool
    usual: Array | None = None

    def by_season(self, global_mean: float, mean: Array | None = None) -> Array:
        """(G, V, Y, X) variance of a step by season.

        Args:
            global_mean: Global mean temperature, in K.
            mean: (G, V, Y, X) mean of the forced response by season; as in training when None.
        """
        at, low, high = self.global_mean
        known = self.level * change(self.slope, min(max(global_mean, low), high) - at)
        return np.asarray(known if self.usual is None or mean is None else known * ratio(mean, self.usual), np.float64)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """All of it by name, as float32 except for the three temperatures."""
        fields = {n: getattr(self, n).astype(np.float32) for n in _FIELDS}
        usual = {} if self.usual is None else {"usual": self.usual.astype(np.float32)}
        return {**fields, **usual, "warmth": self.global_mean, "from_members": np.array([self.from_members], np.uint8)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """The inverse of `arrays`."""
        fields = {n: np.asarray(arrays[n], np.float64) for n in _FIELDS}
        usual = np.asarray(arrays["usual"], np.float64) if "usual" in arrays else None
        global_mean = np.asarray(arrays["warmth"], np.float64)
        return cls(**fields, global_mean=global_mean, from_members=bool(arrays["from_members"]), usual=usual)


_FIELDS = ("level", "slope", "time_mean", "time_std", "forced")


def ratio(mean: Array, usual: Array) -> Array:
    """(...) mean over usual mean, of equal shapes and units, within fourfold; one where there is no usual mean."""
    wetter = np.divide(mean, usual, out=np.ones_like(usual), where=usual > 0)
    return np.asarray(np.clip(wetter, 1 / LARGEST_CHANGE, LARGEST_CHANGE), np.float64)


def season_means(fields: NDArray[np.floating], season: NDArray[np.int64], groups: int) -> Array:
    """(G, V, Y, X) means by season of (T, V, Y, X) fields; zero where a season is absent."""
    out = np.zeros((groups, *fields.shape[1:]))
    for m in np.unique(season):
        out[m] = fields[season == m].mean(0, dtype=np.float64)
    return out


def whole_blocks(start: int, stop: int, months: int) -> list[tuple[int, int]]:
    """Blocks [a, b) of exactly `months` steps within [start, stop), counted from its end."""
    return [(b - months, b) for b in range(stop, start + months - 1, -months)][::-1]


def blocks(start: int, stop: int, months: int) -> list[tuple[int, int]]:
    """All of [start, stop) in blocks counted from its end; a rest of less than half a block joins the first one."""
    whole = whole_blocks(start, stop, months)
    first = whole[0][0] if whole else stop
    if first == start:
        return whole
    if whole and first - start < months / 2:
        return [(start, whole[0][1]), *whole[1:]]
    return [(start, first), *whole]


def global_mean_of(fields: NDArray[np.floating], domain: Domain) -> float:
    """The mean temperature over months and the globe, in K, of (T, V, Y, X) fields; zero where none is predicted."""
    if domain.temperature is None:
        return 0.0
    return float(domain.grid.mean(fields[:, domain.temperature].mean(0, dtype=np.float64)))


def refuse_same_runs(archive: Archive, spans: Sequence[Span]) -> None:
    """Refuse spans in which two members are one run: they would say that runs do not vary.

    Raises:
        ProtocolError: There is such a span.
    """
    for span in spans:
        scenario = archive[span.scenario]
        for a, b in combinations(span.members, 2):
            # Two runs differ in their first month already; the rest is looked at where they do not.
            if all(
                np.array_equal(scenario.truth(a, span.start, stop), scenario.truth(b, span.start, stop))
                for stop in (span.start + 1, span.stop)
            ):
                kept = ",".join(str(m) for m in span.members if m != b)
                raise ProtocolError(
                    f"members {a} and {b} of {span.scenario} are the same run, so that no run seems to vary",
                    found=f"the same values in all {scenario.time.unit}s of {span.text(archive)}",
                    expected="members that differ in their weather",
                    hint=f"train on others, --members {kept}, or take the copy out of the store",
                )


def estimate_variability(
    archive: Archive, spans: Sequence[Span], base: Emulator, period: int, proportional: Sequence[str] = ()
) -> Variability:
    """Estimate internal variability.

    Variances of months are means over all members, years and scenarios. Their change with warming is the regression of
    the logarithm of a decade's variance on the decade's global mean temperature, as the base predicts it; neighbouring
    calendar months share one slope. Of the slopes of a variable that share is kept, down to none, with which training
    scenarios left out in turn are foretold best by the others. With one scenario none is.

    Variances of means and of standard deviations over a period are those of the very means and standard deviations of
    the members, period by period, so that a decade of persistent warmth counts as what it is. Where no span is that
    long, the longest one stands in, and the variance falls with the length.

    Args:
        archive: The data.
        spans: Training spans. Those of several members are used; if there are none, all of them.
        base: Predicts the forced response.
        period: Steps of a period.
        proportional: Variables whose variance is taken to be in proportion to their mean of the calendar month, as the
            base predicts it; a slope with warming is then of what that leaves.

    Raises:
        ProtocolError: No training month can be predicted by the base, or two members are the same run.
    """
    refuse_same_runs(archive, spans)
    spans = [replace(s, start=max(s.start, base.first_month)) for s in spans if s.stop > base.first_month]
    several = [s for s in spans if len(s.members) > 1]
    spans = several or spans
    if not spans:
        raise ProtocolError(
            f"there is no training {archive.time.unit} to estimate variability from",
            expected=f"some from {archive.time.unit} {base.first_month} of a scenario on, the first that the base "
            "predicts",
            hint=f"a protocol with more training {archive.time.unit}s",
        )
    decades = [_decade(archive, s, base) for span in spans for s in _cut(span, STEADY_YEARS * archive.time.per_year)]
    usual = None
    if proportional:
        freedom = np.stack([d.freedom for d in decades])
        means = np.stack([d.mean for d in decades])
        usual = np.einsum("km,kmvyx->mvyx", freedom / np.maximum(freedom.sum(0), 1.0), means)
        usual[:, [v not in proportional for v in archive.variables]] = 0.0
        decades = [replace(d, variance=d.variance / ratio(d.mean, usual)) for d in decades]
    slope = believed_slope(decades, archive.grid)
    time_mean, time_std = _over_periods(archive, spans, base, period)
    said = sum(d.said * len(d) for d in decades)
    forced = sum(d.forced * len(d) for d in decades)
    return Variability(
        level_at_middle(decades, slope),
        slope,
        global_mean_range(decades),
        time_mean,
        time_std,
        np.clip(np.divide(forced, said, out=np.ones_like(said), where=said > 0), 0.0, 2.0),
        bool(several),
        usual,
    )


def _cut(span: Span, months: int) -> list[Span]:
    return [replace(span, start=a, stop=b) for a, b in blocks(span.start, span.stop, months)]


def _departures(archive: Archive, span: Span, base: Emulator) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """(M, T, V, Y, X) members, their departures, and what makes the mean square of those a variance without bias."""
    scenario = archive[span.scenario]
    runs = np.stack([scenario.truth(m, span.start, span.stop) for m in span.members])
    count = len(span.members)
    if count > 1:
        return runs, runs - runs.mean(0), count / (count - 1)
    return runs, runs - base.predict_fields(scenario, span.start, span.stop), 1.0


def _decade(archive: Archive, span: Span, base: Emulator) -> Decade:
    runs, apart, gain = _departures(archive, span, base)
    scenario = archive[span.scenario]
    season, groups = scenario.time.season[span.start : span.stop], scenario.time.seasons
    square = gain * np.mean(apart.astype(np.float64) ** 2, 0)
    variance = np.zeros((groups, *square.shape[1:]))
    for m in np.unique(season):
        variance[m] = square[season == m].mean(0)
    said = base.predict_fields(scenario, span.start, span.stop)
    whole = runs.var(1, dtype=np.float64).mean(0)
    return Decade(
        span.scenario,
        global_mean_of(said, archive.domain),
        variance,
        np.asarray(np.bincount(season, minlength=groups) * max(1, len(span.members) - 1), np.float64),
        said.var(0, dtype=np.float64),
        whole - gain * apart.var(1, dtype=np.float64).mean(0),
        season_means(said, season, groups),
    )


def _over_periods(archive: Archive, spans: Sequence[Span], base: Emulator, period: int) -> tuple[Array, Array]:
    """(V, Y, X) variances, from run to run, of the mean and of the standard deviation over a period."""
    length = min(period, max(len(s) for s in spans))
    means, spreads = [], []
    for span in spans:
        for a, b in whole_blocks(span.start, span.stop, length):
            part = replace(span, start=a, stop=b)
            runs, apart, gain = _departures(archive, part, base)
            std = runs.std(1, dtype=np.float64)
            if len(span.members) > 1:
                centre = std.mean(0)
            else:
                said = base.predict_fields(archive[span.scenario], a, b)
                centre = np.sqrt(said.var(0, dtype=np.float64) + apart.var((0, 1), dtype=np.float64))
            means.append(gain * np.mean(apart.mean(1, dtype=np.float64) ** 2, 0))
            spreads.append(gain * np.mean((std - centre) ** 2, 0))
    return np.mean(means, 0) * length / period, np.mean(spreads, 0) * length / period
