"""Whether a classifier tells the variability of generated steps from that of real ones.

Invariant: a classifier is judged on years that it has not seen, and every run loses its own straight line of each
season, within the years that are seen and within the others: so means take no part. Means would tell two runs of a
climate model apart as well (CESM2 under ssp585, 30 years of regional means: 73 % of unseen months), because of what the
ocean remembers for decades.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

# Halves are made of blocks of so many years, so that a year seldom has its neighbour in the other half.
BLOCK_YEARS = 3
# Fewer blocks give no interval.
LEAST_BLOCKS = 4
# Inverse strength of the penalty. It hardly matters: with 0.003, 0.03 and 0.3, CESM2 with deviations 1.2 times as large
# is told from itself in 64, 64 and 63 % of unseen months.
PENALTY = 0.03


@dataclass(frozen=True)
class TwoSample:
    """How well a classifier tells two kinds of runs apart.

    Attributes:
        accuracy: Share of unseen months that it takes for what they are; 0.5 where it cannot tell.
        low: Lower end of the 95 % interval.
        high: Upper end.
        pairs: Pairs of runs it was trained for.
    """

    accuracy: float
    low: float
    high: float
    pairs: int


def two_sample_test(pairs: Sequence[tuple[Array, Array]], season: NDArray[np.integer], per_year: int) -> TwoSample:
    """Train a classifier for each pair of runs on half of the years, and judge it on the other half, both ways.

    It is a logistic regression on squares, on products with the step before, and on products of the first variable with
    the others: so it sees variances, memory and correlation.

    Args:
        pairs: Of runs (T, V, R) of the same steps.
        season: (T,) calendar month, or what else the steps have in its place.
        per_year: Steps of a year. Data of less than four blocks are cut into four.

    Returns:
        The mean over pairs; the interval is that of a mean over blocks, by Student's t: steps of a block depend on
        each other, and so do pairs that share a run.

    Raises:
        ValueError: There are no pairs, or fewer than eight steps.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    steps = len(season)
    if not pairs or steps < 2 * LEAST_BLOCKS:
        raise ValueError("a two-sample test needs a pair of runs of at least eight steps")
    block = np.arange(steps) // min(BLOCK_YEARS * per_year, steps // LEAST_BLOCKS)
    right = np.zeros((len(pairs), steps))
    for i, pair in enumerate(pairs):
        first, second = (_without_lines(run, 2 * season + block % 2) for run in pair)
        scale = np.sqrt((first**2 + second**2).mean(0) / 2)
        scale[scale == 0] = 1.0
        features = np.concatenate([_features(first / scale), _features(second / scale)])
        kind, blocks = np.repeat([0, 1], steps), np.tile(block, 2)
        for half in (0, 1):
            seen = blocks % 2 == half
            classifier = make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=300))
            with warnings.catch_warnings():
                # One that has not converged is a classifier like any other: it is judged on unseen years.
                warnings.simplefilter("ignore", ConvergenceWarning)
                classifier.fit(features[seen], kind[seen])
            hit = classifier.predict(features[~seen]) == kind[~seen]
            right[i, block % 2 != half] = hit.reshape(2, -1).mean(0)
    by_block = np.array([right[:, block == b].mean() for b in np.unique(block)])
    accuracy = float(right.mean())
    reach = float(stats.t.ppf(0.975, len(by_block) - 1) * by_block.std(ddof=1) / np.sqrt(len(by_block)))
    return TwoSample(accuracy, max(accuracy - reach, 0.0), min(accuracy + reach, 1.0), len(pairs))


def mean_test(tests: Sequence[TwoSample]) -> TwoSample:
    """The mean over tests on independent periods."""
    accuracy = float(np.mean([t.accuracy for t in tests]))
    reach = float(np.sqrt(np.sum([(t.high - t.low) ** 2 for t in tests])) / 2 / len(tests))
    return TwoSample(accuracy, accuracy - reach, accuracy + reach, sum(t.pairs for t in tests))


def _features(run: Array) -> Array:
    """(T, F) squares, products with the step before, and products of the first variable with the others."""
    lagged = run * np.concatenate([run[:1], run[:-1]])
    together = run[:, :1] * run[:, 1:]
    return np.concatenate([f.reshape(len(run), -1) for f in (run**2, lagged, together)], axis=1)


def _without_lines(run: Array, group: NDArray[np.integer]) -> Array:
    """A run without its own straight line of each group of steps and each feature."""
    out = np.asarray(run, np.float64).copy()
    for g in np.unique(group):
        rows = np.flatnonzero(group == g)
        x = rows - rows.mean()
        slope = np.tensordot(x, out[rows], 1) / max(float(x @ x), 1.0)
        out[rows] -= out[rows].mean(0) + x[:, None, None] * slope
    return out
