"""The variance-matched prediction, drawn back towards its base as far as the competition's score wants it.

Invariant: no score of any month is used, only the formula of the score and what internal variability makes of it. A
cell's standard deviation lies between those of its base's forced part and of the variance-matched prediction.

The score of one variable, for a prediction whose mean is settled, is

    S = a R + w <|p - t|>,    R^2 = <e + (p - f)^2>

with the weights a and w of the monthly error and of the standard deviation, the area mean <>, a cell's standard
deviation over time p, to be chosen, and the truth's, t. Take as prediction m + (p / q) (b - m), where b is the base and
m and q are its mean and standard deviation, and as truth the forced response with internal variability added. Then the
expected squared monthly error is quadratic in p: least at p = f, which is q times the regression of the truth on the
base, and larger by (p - f)^2 elsewhere. What is left at best, e, is the internal variance, and where the base varies by
more than what is forced, what that hides. The truth's t is not known: from run to run it varies about its mean t0 with
a spread s, so that E|p - t| is least at p = t0 and has the derivative
2 Phi((p - t0) / s) - 1, Phi being the normal distribution's. With the derivative of S set to nought every cell has an
equation of its own,

    a (p - f) / R + w (2 Phi((p - t0) / s) - 1) = 0,

whose left side rises in p, from below nought at f to above it at t0; all cells share the one number R. S is convex in
all p together, so that finding p for a given R, then R for that p, and so on, can only go to its one minimum: started
at p = t0, R falls in every step.

How far p stays below t0 thus grows with the spread s between runs, and with how calm the base is; as a is a tenth of w
or little more, it is not far. Where rain is cut off at zero, the squared error grows a little faster than (p - f)^2.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from emukit.competitions.cse151b import NAME, PART_WEIGHTS
from emukit.data.archive import Archive
from emukit.emulators.variance_matched import VarianceMatched
from emukit.errors import RecipeError

Array = NDArray[np.float64]


class Calibrated(VarianceMatched):
    """Variance-matched, with the standard deviation of least expected score in every cell.

    It gains next to nothing: 0.0005 on average over the members and decades that it was fitted on, and it lost 0.0002
    over their periods of thirty years (CESM2, over the linear emulator).
    """

    kind = "calibrated"

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse data that another score is made of; arguments as for `fit`."""
        super().check(archive, **options)
        other = [v for v in archive.variables if v not in PART_WEIGHTS]
        if archive.card.competition != NAME or other:
            raise RecipeError(
                f"calibrated knows the score of {NAME} alone",
                found=f"variables without a weight in it: {', '.join(other)}"
                if other
                else f"the competition {archive.card.competition} of the card {archive.card.name}",
                expected=f"{', '.join(PART_WEIGHTS)} of a card with the competition {NAME}",
                hint="use variance-matched, which asks for no score",
            )

    def aim(self, said: Array, internal: Array) -> Array:
        """The standard deviation that a block is given; arguments as in `VarianceMatched.aim`."""
        matched = super().aim(said, internal)
        spread = np.sqrt(self.variability.time_std)
        share = np.minimum(self.variability.forced, 1.0)
        calm, left = share * said, internal + share * (1 - share) * said**2
        best = [
            least_expected_score(
                calm[i],
                matched[i],
                spread[i],
                left[i],
                self.grid.weights,
                PART_WEIGHTS[v]["monthly_rmse"] / PART_WEIGHTS[v]["time_stddev_mae"],
            )
            for i, v in enumerate(self.variables)
        ]
        return np.stack(best)


def least_expected_score(
    calm: Array, matched: Array, spread: Array, left: Array, area: Array, price: float, rounds: int = 30
) -> Array:
    """The standard deviations p of least expected score, of the module's docstring.

    Args:
        calm: (Y, X) f, of least monthly error.
        matched: (Y, X) t0, expected of the truth.
        spread: (Y, X) s, of the truth's from run to run.
        left: (Y, X) e, squared monthly error at p = f.
        area: (Y, X) weights that sum to one.
        price: a / w, what the monthly error counts in units of the standard deviation's.
        rounds: Of finding R again; each is followed by 40 halvings of the interval between f and t0.

    Returns:
        (Y, X), between `calm` and `matched`.
    """
    width = spread + 1e-9 * matched + np.finfo(np.float64).tiny  # never nought
    best = matched
    for _ in range(rounds):
        root = np.sqrt(np.sum(area * (left + (best - calm) ** 2)))
        below, above = np.minimum(calm, matched), np.maximum(calm, matched)
        if root == 0.0:
            break
        for _ in range(40):
            middle = (below + above) / 2
            rises = price * (middle - calm) / root + 2 * ndtr((middle - matched) / width) - 1
            below, above = np.where(rises < 0, middle, below), np.where(rises < 0, above, middle)
        if np.allclose(above, best, rtol=1e-6, atol=0):
            break
        best = (below + above) / 2
    return best
