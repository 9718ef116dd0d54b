"""How good a score can become: the forced response and the size of the variability known, the weather not.

Invariant: the estimate is a function of the runs alone and treats them alike; more runs make it surer, not lower.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emukit.metrics.competition import Parts, Score

Array = NDArray[np.float64]

# 16 MB in float64.
BLOCK_VALUES = 2_000_000


def limit_score(
    runs: Sequence[NDArray[np.floating]] | NDArray[np.floating],
    weights: NDArray[np.floating],
    variables: tuple[str, ...] = ("tas", "pr"),
) -> Score:
    """Estimate what a perfect emulator scores against one run, from runs of the same months that differ by chance.

    A run is t = f + e: the forced response f, common to all runs, and internal variability e, independent between them.
    A perfect emulator knows f, and how large a run's standard deviation over time is expected to be; it predicts f with
    its anomalies about the time mean scaled to that standard deviation. What is left, from M runs:

    - time mean: the mean over time of e. Its variance is that of the runs' time means, divided by M - 1: unbiased.
    - standard deviation: s, a run's, against its expectation. For a normal s the mean absolute deviation is the mean
      absolute difference between two runs divided by the square root of two, so it is estimated from all pairs.
      The mean of M runs in the place of the expectation would come out too small, as they agree with their own mean.
    - monthly: the variance of e over runs, divided by M - 1, and what scaling adds to it, (s - sigma)^2 with sigma the
      standard deviation of f. That of the mean of the runs is too large by 1 / M of the variance of e, which is taken
      off; a cell where nothing is left is taken to have no forced variation.

    The roots that a score takes of the first and the last are taken of means over runs and cells, and so are a little
    above the mean of the roots. A prediction that knows, by the metric, to vary less than a run where that lowers the
    monthly error more than it costs can be below this limit by some thousandths.

    Args:
        runs: M runs, at least two, each (T, V, Y, X) in physical units.
        weights: (Y, X) area weights; any positive multiple gives the same score.
        variables: Names along the V axis.

    Raises:
        ValueError: There are fewer than two runs, or no months.
    """
    if len(runs) < 2 or len(runs[0]) < 1:
        raise ValueError(f"a limit needs two runs and a month, not {len(runs)} and {len(runs[0]) if len(runs) else 0}")
    w = np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)
    months, _, rows, columns = runs[0].shape
    # Cells are apart until the end: a few rows of them at a time need little more memory than the runs themselves.
    step = max(1, BLOCK_VALUES // (len(runs) * months * columns))
    parts = {}
    for i, v in enumerate(variables):
        blocks = [
            _cells(np.stack([r[:, i, y : y + step].astype(np.float64) for r in runs])) for y in range(0, rows, step)
        ]
        monthly, time_mean, stddev = np.concatenate(blocks, axis=1)
        parts[v] = Parts(
            monthly_rmse=float(np.sqrt((w * monthly).sum())),
            time_mean_rmse=float(np.sqrt((w * time_mean).sum())),
            time_stddev_mae=float((w * stddev).sum() / np.sqrt(2.0)),
        )
    return Score(parts, months)


def _cells(runs: Array) -> Array:
    """(3, Y, X) what the three numbers are means of, from (M, T, Y, X) of one variable."""
    number = len(runs)
    time_mean, spread = runs.mean(1), runs.std(1)
    weather_mean = time_mean.var(0, ddof=1)
    # Of months about each run's own time mean; with the variance of that mean it is the variance of e.
    anomaly = runs - time_mean[:, None]
    within = anomaly.var(0, ddof=1).mean(0)
    forced_square = runs.mean(0).var(0) - within / number
    forced = np.sqrt(np.maximum(forced_square, 0.0))
    scaling = (spread.mean(0) - forced) ** 2
    pairs = [np.abs(spread[i] - spread[j]) for i in range(number) for j in range(i)]
    return np.stack([within + weather_mean + scaling, weather_mean, np.mean(pairs, 0)])
