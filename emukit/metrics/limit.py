"""How good a score can become: the forced response and the size of the variability known, the weather not.

A run is t = f + e: the forced response f, common to all runs, and internal variability e, independent between them.
A perfect emulator knows f, and how large a run's standard deviation over time is expected to be; it predicts f with
its anomalies about the time mean scaled to that standard deviation. What is left of a number is its noise ceiling.

The roots that a number takes are taken of means over runs and cells, and so are a little above the mean of the roots.
A prediction that knows, by the metric, to vary less than a run where that lowers the monthly error more than it costs
can be below this limit by some thousandths.

Invariant: the estimate is a function of the runs alone and treats them alike; more runs make it surer, not lower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
# From sums over some cells to those over all.
Total = Callable[[Any], Array]

# 16 MB in float64.
BLOCK_VALUES = 2_000_000


@dataclass(frozen=True, eq=False)
class Runs:
    """Several runs of the same months of one variable, and what ceilings share.

    Attributes:
        fields: (M, T, Y, X) in physical units, M at least two.
    """

    fields: Array

    @cached_property
    def std(self) -> Array:
        """(M, Y, X) standard deviation over time."""
        return np.asarray(self.fields.std(1))

    @cached_property
    def variance_of_mean(self) -> Array:
        """(Y, X) variance of e averaged over time: that of the runs' time means, divided by M - 1, so unbiased."""
        return np.asarray(self.fields.mean(1).var(0, ddof=1))

    @cached_property
    def variance_within(self) -> Array:
        """(Y, X) variance over runs of months about each run's time mean; with `variance_of_mean`, that of e."""
        anomaly = self.fields - self.fields.mean(1)[:, None]
        return np.asarray(anomaly.var(0, ddof=1).mean(0))

    @cached_property
    def forced_std(self) -> Array:
        """(Y, X) standard deviation over time of f.

        That of the mean of the runs is too large by 1 / M of the variance of e, which is taken off; a cell where
        nothing is left is taken to have no forced variation.
        """
        square = self.fields.mean(0).var(0) - self.variance_within / len(self.fields)
        return np.asarray(np.sqrt(np.maximum(square, 0.0)))


@dataclass(frozen=True)
class Ceiling:
    """How a metric's noise ceiling is estimated.

    Attributes:
        cells: Each gives (Y, X) values of some cells, of which the area mean is taken.
        of_means: From these area means to the metric.
    """

    cells: tuple[Callable[[Runs], Array], ...]
    of_means: Callable[..., float]


def steps_left(runs: Runs) -> Array:
    """(Y, X) expected squared error of a step, in squared units of the variable.

    It is the variance of e, and what scaling to the standard deviation adds to it.

    Args:
        runs: M runs, each (T, Y, X).
    """
    scaling = (runs.std.mean(0) - runs.forced_std) ** 2
    return np.asarray(runs.variance_within + runs.variance_of_mean + scaling)


def mean_left(runs: Runs) -> Array:
    """(Y, X) expected squared error of the time mean of M runs, each (T, Y, X), in squared units of the variable."""
    return runs.variance_of_mean


def std_left(runs: Runs) -> Array:
    """(Y, X) expected absolute error of the standard deviation over time, times the square root of two.

    For a normal standard deviation the mean deviation from its expectation is the mean absolute difference between two
    runs divided by the square root of two, so it is estimated from all pairs. The mean of M runs in the place of the
    expectation would come out too small, as they agree with their own mean.
    """
    std = runs.std
    pairs = [np.abs(std[i] - std[j]) for i in range(len(std)) for j in range(i)]
    return np.asarray(np.mean(pairs, 0))


def variance(runs: Runs) -> Array:
    """(Y, X) variance over time expected of a run, of M runs, each (T, Y, X), in squared units of the variable."""
    return np.asarray((runs.std**2).mean(0))


def ceilings_of(
    runs: Sequence[NDArray[np.floating]] | NDArray[np.floating],
    weights: NDArray[np.floating],
    place: int,
    ceilings: Sequence[Ceiling],
    total: Total = np.asarray,
) -> list[float]:
    """Ceilings of one variable.

    Args:
        runs: M runs, at least two, each (T, V, Y, X) in physical units.
        weights: (Y, X) area weights; any positive multiple gives the same.
        place: Of the variable along the V axis.
        ceilings: What is estimated.
        total: From sums over the cells that are given to sums over all cells, where others have the rest.

    Raises:
        ValueError: There are fewer than two runs, or no months.
    """
    if len(runs) < 2 or len(runs[0]) < 1:
        raise ValueError(f"a limit needs two runs and a month, not {len(runs)} and {len(runs[0]) if len(runs) else 0}")
    if not ceilings:
        return []
    w = np.asarray(weights, np.float64) / total(np.sum(weights, dtype=np.float64))
    months, _, rows, columns = runs[0].shape
    # Cells are apart until the end: a few rows of them at a time need little more memory than the runs themselves.
    step = max(1, BLOCK_VALUES // (len(runs) * months * columns))
    kinds = list(dict.fromkeys(cells for ceiling in ceilings for cells in ceiling.cells))
    blocks = []
    for y in range(0, rows, step):
        some = Runs(np.stack([r[:, place, y : y + step].astype(np.float64) for r in runs]))
        blocks.append(np.stack([cells(some) for cells in kinds]))
    sums = total(np.array([(w * own).sum() for own in np.concatenate(blocks, axis=1)]))
    means = dict(zip(kinds, map(float, sums), strict=True))
    return [float(ceiling.of_means(*(means[cells] for cells in ceiling.cells))) for ceiling in ceilings]
