"""The score of the UCSD CSE 151B Spring 2025 competition.

Invariant: the score is a function of `Moments` and area weights alone. Lower is better.
Source of formula and weights: the competition's own scorer (Kaggle, "CSE 151B Spring 2025 competition").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emukit.metrics.moments import Moments

VARIABLE_WEIGHTS = {"tas": 0.5, "pr": 0.5}
PART_WEIGHTS = {
    "tas": {"monthly_rmse": 0.1, "time_mean_rmse": 1.0, "time_stddev_mae": 1.0},
    "pr": {"monthly_rmse": 0.1, "time_mean_rmse": 1.0, "time_stddev_mae": 0.75},
}


@dataclass(frozen=True)
class Parts:
    """The three numbers of one variable, in its unit (K or mm/day).

    Attributes:
        monthly_rmse: Root of the mean over months of the area-mean squared error.
        time_mean_rmse: Root of the area-mean squared error of the mean over time.
        time_stddev_mae: Area mean of the absolute error of the population standard deviation over time.
    """

    monthly_rmse: float
    time_mean_rmse: float
    time_stddev_mae: float


def score_of_parts(parts: Mapping[str, Mapping[str, float]]) -> float | None:
    """The official score of six numbers by variable and name; None where one is missing."""
    try:
        return Score({v: Parts(**numbers) for v, numbers in parts.items()}, 0).value
    except (TypeError, KeyError):
        return None


@dataclass(frozen=True)
class Score:
    """The six numbers and the official score made of them.

    Attributes:
        parts: Variable name to its three numbers.
        months: How many months they are over.
    """

    parts: Mapping[str, Parts]
    months: int

    @property
    def value(self) -> float:
        """The official score; lower is better."""
        terms = [
            VARIABLE_WEIGHTS[v] * weight * float(getattr(self.parts[v], name))
            for v in VARIABLE_WEIGHTS
            for name, weight in PART_WEIGHTS[v].items()
        ]
        return float(sum(terms))

    def as_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {"score": self.value, "months": self.months, **{v: asdict(p) for v, p in self.parts.items()}}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Score:
        """The inverse of `as_dict`.

        Raises:
            KeyError: A variable or the number of months is missing.
            TypeError: A variable has other numbers.
            ValueError: They are no numbers, or do not make the score.
        """
        parts = {v: Parts(**{n: float(x) for n, x in dict(values[v]).items()}) for v in VARIABLE_WEIGHTS}
        score = cls(parts, int(values["months"]))
        if score.value != values["score"]:
            raise ValueError(f"the six numbers make {score.value}, not {values['score']}")
        return score


def score_moments(moments: Moments, weights: NDArray[np.floating], variables: tuple[str, ...] = ("tas", "pr")) -> Score:
    """Score summed months.

    Args:
        moments: Sums with fields of shape (V, Y, X).
        weights: (Y, X) area weights; any positive multiple gives the same score.
        variables: Names along the V axis.

    Raises:
        ValueError: There are no months to score.
    """
    if moments.n == 0:
        raise ValueError("no months to score")
    w = np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)
    n = moments.n
    mean_p, mean_t = moments.p / n, moments.t / n
    # max(0): rounding can leave a constant series a variance of -1e-12.
    std_p = np.sqrt(np.maximum(moments.pp / n - mean_p**2, 0.0))
    std_t = np.sqrt(np.maximum(moments.tt / n - mean_t**2, 0.0))
    monthly = np.sqrt((w * moments.ee / n).sum((-2, -1)))
    time_mean = np.sqrt((w * (mean_p - mean_t) ** 2).sum((-2, -1)))
    stddev = (w * np.abs(std_p - std_t)).sum((-2, -1))
    return Score(
        {v: Parts(float(monthly[i]), float(time_mean[i]), float(stddev[i])) for i, v in enumerate(variables)},
        n,
    )
