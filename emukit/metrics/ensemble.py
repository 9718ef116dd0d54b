"""Scores of ensembles: how well the distribution of realisations fits what happened.

Invariant: `EnsembleSums` add, so that a score over any division of the time steps is that of the whole. The order of
the realisations does not matter, and an ensemble drawn from the distribution of the truth has no better competitor.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Steps looked at together: pairs of realisations of so many fit into memory next to the fields themselves.
_STEPS = 12


def crps(realisations: NDArray[np.floating], truth: NDArray[np.floating], *, fair: bool = False) -> Array:
    """Continuous ranked probability score of an ensemble, in the unit of both.

    Args:
        realisations: (E, ...).
        truth: (...) what happened.
        fair: Score the distribution that the realisations are drawn from: pairs of a realisation with itself do not
            count (Ferro 2014, doi:10.1002/qj.2270).

    Returns:
        (...), float64: mean |x - y| minus half the mean |x - x'| over pairs.

    Raises:
        ValueError: Fair, with a single realisation.
    """
    number = len(realisations)
    if fair and number < 2:
        raise ValueError("the fair score needs two members")
    ordered = np.sort(realisations.astype(np.float64), axis=0)
    # The sum of |x - x'| over pairs follows from the order: the k-th smallest is subtracted from all larger ones.
    rank = (2 * np.arange(number) - number + 1).astype(np.float64)
    pairs = np.tensordot(rank, ordered, 1)
    return np.asarray(np.abs(ordered - truth).mean(0) - pairs / (number * (number - 1 if fair else number)))


def fair_crps(realisations: NDArray[np.floating], truth: NDArray[np.floating]) -> Array:
    """The fair score of (E, ...) realisations; of a single one, whose spread is unknown, the absolute error."""
    return crps(realisations, truth, fair=len(realisations) > 1)


@dataclass(frozen=True, eq=False)
class EnsembleSums:
    """Additive sums over time steps, per variable and cell, in float64.

    Attributes:
        n: Number of time steps.
        realisations: E.
        crps: (V, Y, X) sum of the fair CRPS.
        variance: (V, Y, X) sum of the variance of the realisations, divided by E - 1; zero for a single one.
        error: (V, Y, X) sum of the squared error of their mean.
        ranks: (V, Y, X, E + 1) how often the truth had each rank among them; ties are shared equally.
    """

    n: int
    realisations: int
    crps: Array
    variance: Array
    error: Array
    ranks: Array

    @classmethod
    def of(cls, realisations: NDArray[np.floating], truth: NDArray[np.floating]) -> EnsembleSums:
        """Sums of an ensemble.

        Args:
            realisations: (E, T, V, Y, X) in physical units.
            truth: (T, V, Y, X).

        Raises:
            ValueError: The shapes do not belong together.
        """
        if realisations.ndim != 5 or realisations.shape[1:] != truth.shape:
            raise ValueError(f"realisations {realisations.shape} and truth {truth.shape} must be (E, T, V, Y, X) of it")
        total = cls.zero(len(realisations), truth.shape[1:])
        for i in range(0, len(truth), _STEPS):
            total += cls._of_steps(realisations[:, i : i + _STEPS].astype(np.float64), truth[i : i + _STEPS])
        return total

    @classmethod
    def _of_steps(cls, x: Array, truth: NDArray[np.floating]) -> EnsembleSums:
        number = len(x)
        below, equal = (x < truth).sum(0), (x == truth).sum(0)
        ranks = np.zeros((*truth.shape[1:], number + 1))
        # Where realisations are exactly the truth (no rain), it has each of the ranks between with equal chance.
        for rank in range(number + 1):
            inside = (below <= rank) & (rank <= below + equal)
            ranks[..., rank] = np.where(inside, 1.0 / (equal + 1), 0.0).sum(0)
        variance = x.var(0, ddof=1).sum(0) if number > 1 else np.zeros(truth.shape[1:])
        error = ((x.mean(0) - truth) ** 2).sum(0)
        return cls(len(truth), number, fair_crps(x, truth).sum(0), variance, error, ranks)

    @classmethod
    def zero(cls, realisations: int, shape: tuple[int, ...]) -> EnsembleSums:
        """Sums over no steps, for fields of shape (V, Y, X)."""
        crps, variance, error = np.zeros((3, *shape))
        return cls(0, realisations, crps, variance, error, np.zeros((*shape, realisations + 1)))

    def __add__(self, other: EnsembleSums) -> EnsembleSums:
        if self.realisations != other.realisations:
            raise ValueError(f"ensembles of {self.realisations} and {other.realisations} realisations do not add")
        added = {f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)}
        return EnsembleSums(**(added | {"realisations": self.realisations}))


@dataclass(frozen=True)
class EnsembleParts:
    """What is said of one variable.

    Attributes:
        crps: Area mean of the fair CRPS, in the variable's unit; lower is better.
        spread_over_error: Root of the mean variance, corrected for the number of realisations, over the root of the
            mean squared error of their mean; one where the truth could be a realisation (Fortin et al. 2014,
            doi:10.1175/JHM-D-14-0008.1). None for a single realisation.
        ranks: Area-weighted share of the truth at each of the E + 1 ranks; flat where it could be a realisation.
    """

    crps: float
    spread_over_error: float | None
    ranks: tuple[float, ...]


def score_ensemble(
    sums: EnsembleSums, weights: NDArray[np.floating], variables: tuple[str, ...]
) -> dict[str, EnsembleParts]:
    """The scores of an ensemble, by variable.

    Args:
        sums: Over the time steps that are scored.
        weights: (Y, X) area weights; any positive multiple gives the same.
        variables: Names along the V axis.

    Raises:
        ValueError: There are no steps to score.
    """
    if sums.n == 0:
        raise ValueError("no time steps to score")
    w = np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)
    n, number = sums.n, sums.realisations
    crps, variance, error = ((w * s / n).sum((-2, -1)) for s in (sums.crps, sums.variance, sums.error))
    shares = (w[..., None] * sums.ranks / n).sum((1, 2))
    out = {}
    for v, name in enumerate(variables):
        spread = float(np.sqrt((number + 1) / number * variance[v] / error[v])) if number > 1 and error[v] > 0 else None
        out[name] = EnsembleParts(float(crps[v]), spread, tuple(map(float, shares[v])))
    return out
