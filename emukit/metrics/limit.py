"""How good a score can become: the forced response and the size of the variability known, the weather not.

A run is t = f + e: the forced response f, common to all runs, and internal variability e, independent between them.
A perfect emulator knows f, and how large a run's standard deviation over time is expected to be; it predicts f with
its anomalies about the time mean scaled to that standard deviation. What is left of a number is its noise ceiling.

Metrics take roots, and the mean of a root is not the root of the mean. The variance of the time mean that three runs
give has two degrees of freedom in a cell, and more in the mean over a field. With two, its root is on average 11 %
below that of the true variance. But the perfect emulator is compared with one run. Its number is the root of a
variance of one degree of freedom, which is lower still: 20 % below. So nothing is pooled before a root is taken, and
each pair of runs gives a number. Where e is normal, (e_i - e_j) / sqrt(2) has the distribution of e, over cells and
months together. Its number, roots included, therefore has the expectation of the perfect emulator's.

A prediction that knows, by the metric, to vary less than a run where that lowers the monthly error more than it costs
can be below this limit by some thousandths.

Invariant: the estimate is a function of the runs alone and treats them alike; more runs make it surer, not lower.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from statistics import fmean
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

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The P pairs of runs."""
        return list(combinations(range(len(self.fields)), 2))

    @cached_property
    def std(self) -> Array:
        """(M, Y, X) standard deviation over time."""
        return np.asarray(self.fields.std(1))

    @cached_property
    def forced_std(self) -> Array:
        """(Y, X) standard deviation over time of f.

        That of the mean of the runs is too large by 1 / M of the variance of e, which is taken off; a cell where
        nothing is left is taken to have no forced variation.
        """
        mean = self.fields.mean(0)
        anomaly = self.fields - self.fields.mean(1)[:, None]
        square = mean.var(0) - anomaly.var(0, ddof=1).mean(0) / len(self.fields)
        return np.asarray(np.sqrt(np.maximum(square, 0.0)))


@dataclass(frozen=True)
class Ceiling:
    """How a metric's noise ceiling is estimated.

    Attributes:
        cells: Each gives (P, Y, X) values of some cells for each pair of runs, of which the area mean is taken.
        of_means: From these area means of one pair to the metric; its mean over pairs is the ceiling.
    """

    cells: tuple[Callable[[Runs], Array], ...]
    of_means: Callable[..., float]


def steps_left(runs: Runs) -> Array:
    """(P, Y, X) squared error of a step, in squared units of the variable.

    It is the mean square of e, and what scaling to the standard deviation adds to it.

    Args:
        runs: M runs, each (T, Y, X).
    """
    scaling = (runs.std.mean(0) - runs.forced_std) ** 2
    return np.stack([((runs.fields[i] - runs.fields[j]) ** 2).mean(0) / 2 + scaling for i, j in runs.pairs])


def mean_left(runs: Runs) -> Array:
    """(P, Y, X) squared error of the time mean of M runs, each (T, Y, X), in squared units of the variable."""
    mean = runs.fields.mean(1)
    return np.stack([(mean[i] - mean[j]) ** 2 / 2 for i, j in runs.pairs])


def std_left(runs: Runs) -> Array:
    """(P, Y, X) absolute error of the standard deviation over time, times the square root of two.

    The mean of M runs in the place of the expectation would come out too small, as they agree with their own mean.
    """
    return np.stack([np.abs(runs.std[i] - runs.std[j]) for i, j in runs.pairs])


def variance(runs: Runs) -> Array:
    """(P, Y, X) variance over time of a run, of M runs, each (T, Y, X), in squared units of the variable."""
    return np.stack([(runs.std[i] ** 2 + runs.std[j] ** 2) / 2 for i, j in runs.pairs])


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
    sums = total(np.stack([(own * w).sum((1, 2)) for own in np.concatenate(blocks, axis=2)]))
    means = dict(zip(kinds, sums, strict=True))
    each = [zip(*(means[cells] for cells in ceiling.cells), strict=True) for ceiling in ceilings]
    return [fmean(ceiling.of_means(*of_pair) for of_pair in of) for ceiling, of in zip(ceilings, each, strict=True)]
