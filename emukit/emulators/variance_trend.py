"""How internal variability changes with warming, as far as training scenarios agree on it.

Invariant: a slope counts for what it foretells in scenarios that it was not fitted to; of slopes fitted to chance next
to nothing is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid

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
    """(3,) mean warmth of the decades, and the lowest and highest at which they say how variance changes."""
    seen = np.array([d.global_mean for d in decades])
    more = BEYOND * np.ptp(seen)
    middle = np.average(seen, weights=[len(d) for d in decades])
    return np.array([middle, seen.min() - more, seen.max() + more])


def change(slope: Array, warming: float) -> Array:
    """The factor by which variance changes, within bounds: a slope is fitted to a few K of warming."""
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
    """(G, V, Y, X) variance at the mean warmth, given how it changes."""
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
