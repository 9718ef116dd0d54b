"""Scores of an ensemble's regional means: energy score, and whether its rank histograms are flat.

Invariant: a p-value counts the months for what they are worth. Neighbouring months and regions depend on each other, so
counts of ranks vary between years by more than independent months would let them; the test is corrected by how much
more.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from emukit.data.grid import Grid

Array = NDArray[np.float64]

# About as large as the regions of assessment reports; in units of degrees of latitude and longitude.
BOX = (30.0, 60.0)
# More classes of ranks than this hold too few months each for a chi-square of thirty years.
MOST_CLASSES = 10
# Blocks of time, so that steps of one are nearly independent of those of another: a tenth of a period, at most five
# years. Of monthly series with memory 0.7 (0.9), 30 years and the truth one of the realisations, p is below 0.05 in 6 %
# (8 %) of trials with blocks of three years, in 10 % (20 %) with blocks of one, and in more than 90 % uncorrected.
BLOCKS = 10
MOST_YEARS = 5
# Fewer blocks than this say too little about how much counts vary between them.
LEAST_BLOCKS = 5
# Steps looked at together: pairs of fifty realisations of so many fit into memory.
_STEPS = 60


@dataclass(frozen=True, eq=False)
class Regions:
    """Boxes of latitude and longitude that divide the globe.

    Attributes:
        names: R, such as ``30N..60N 0..60E``.
        weights: (R, Y, X) area weights, of which each region's sum to one.
        area: (R,) shares of the globe; they sum to one.
    """

    names: tuple[str, ...]
    weights: Array
    area: Array

    @classmethod
    def of(cls, grid: Grid) -> Regions:
        """Boxes of 30 degrees of latitude and 60 of longitude, without those in which the grid has no cell."""
        rows = np.floor((grid.lat + 90.0) / BOX[0]).clip(0, 180 / BOX[0] - 1).astype(int)
        columns = np.floor(grid.lon / BOX[1]).astype(int)
        names, weights = [], []
        for row in np.unique(rows):
            south = -90 + BOX[0] * row
            for column in np.unique(columns):
                here = (rows == row)[:, None] & (columns == column)[None]
                weights.append(grid.weights * here)
                west = BOX[1] * column
                names.append(f"{_latitude(south)}..{_latitude(south + BOX[0])} {west:.0f}..{west + BOX[1]:.0f}E")
        stacked = np.stack(weights)
        area = stacked.sum((1, 2))
        return cls(tuple(names), stacked / area[:, None, None], area)

    def means(self, fields: NDArray[np.floating]) -> Array:
        """(..., Y, X) to (..., R), float64."""
        cells = np.asarray(fields, np.float64).reshape(*fields.shape[:-2], -1)
        return np.asarray(cells @ self.weights.reshape(len(self.names), -1).T)


def _latitude(degrees: float) -> str:
    return f"{abs(degrees):.0f}{'S' if degrees < 0 else 'N'}"


def energy_score(realisations: Array, truth: Array, weights: NDArray[np.floating]) -> Array:
    """Energy score of an ensemble of vectors (Gneiting and Raftery 2007, doi:10.1198/016214506000001437).

    Of a single region it is the fair CRPS. It is smallest for realisations whose regions vary together as the truth's.

    Args:
        realisations: (E, T, R); of several, pairs of a realisation with itself do not count (the fair form).
        truth: (T, R).
        weights: (R,) of the squares in the norm; any positive multiple gives the same.

    Returns:
        (T,): mean of |x - y| less half the mean of |x - x'|, in which |d| is the root of the weighted mean square.
    """
    scale = np.sqrt(np.asarray(weights, np.float64) / np.sum(weights))
    number = len(realisations)
    out = np.empty(len(truth))
    for first in range(0, len(truth), _STEPS):
        steps = slice(first, first + _STEPS)
        x, y = realisations[:, steps] * scale, truth[steps] * scale
        score = np.linalg.norm(x - y, axis=-1).mean(0)
        if number > 1:
            pairs = sum(np.linalg.norm(x[i + 1 :] - x[i], axis=-1).sum(0) for i in range(number - 1))
            score = score - pairs / (number * (number - 1))
        out[steps] = score
    return out


def time_blocks(steps: int, per_year: int) -> NDArray[np.int64]:
    """(T,) which block each of consecutive steps is in."""
    return np.arange(steps) // max(min(steps // BLOCKS, MOST_YEARS * per_year), 1)


@dataclass(frozen=True, eq=False)
class RankCounts:
    """How often the truth had a rank among the realisations, by block of time and region.

    Attributes:
        counts: (B, R, K) of blocks of steps, by class of ranks; ties are shared equally.
        chances: (K,) of each class, where the truth could be a realisation.
    """

    counts: Array
    chances: Array

    @classmethod
    def of(
        cls, realisations: Array, truths: Sequence[Array], block: NDArray[np.integer], classes: int = MOST_CLASSES
    ) -> RankCounts:
        """Count the ranks of some truths among the same realisations.

        Args:
            realisations: (E, T, R).
            truths: Each (T, R). Several are counted together, so that what they share is counted once.
            block: (T,) which block a step is in; blocks are taken to be independent of each other.
            classes: Neighbouring ranks are taken together to so many classes at most.
        """
        number = len(realisations) + 1
        # The first ranks of classes whose sizes differ by one at most.
        edges = np.linspace(0, number, min(classes, number) + 1).round().astype(int)
        sizes = np.diff(edges)
        _, place = np.unique(block, return_inverse=True)
        counts = np.zeros((int(place.max()) + 1, truths[0].shape[1], len(sizes)))
        for truth in truths:
            below = (realisations < truth).sum(0)
            tied = (realisations == truth).sum(0)
            for k, (low, high) in enumerate(itertools.pairwise(edges)):
                inside = np.minimum(below + tied + 1, high) - np.maximum(below, low)
                np.add.at(counts[:, :, k], place, np.maximum(inside, 0) / (tied + 1))
        return cls(counts, sizes / number)

    def __add__(self, other: RankCounts) -> RankCounts:
        """The counts of both, as blocks of their own."""
        if not np.array_equal(self.chances, other.chances):
            raise ValueError("ranks among ensembles of other sizes do not add")
        return RankCounts(np.concatenate([self.counts, other.counts]), self.chances)

    def flatness(self) -> Flatness:
        """Whether the histogram of all regions is flat, and how many regions have one of their own that is not."""
        whole = _rank_test(self.counts.sum(1), self.chances)
        each = [_rank_test(self.counts[:, r], self.chances).p for r in range(self.counts.shape[1])]
        known = [p for p in each if p is not None]
        rejected = float(np.mean([p < 0.05 for p in known])) if known else None
        return Flatness(whole.chi_square, whole.freedom, whole.p, whole.effective, whole.shares, rejected)


@dataclass(frozen=True)
class Flatness:
    """A rank histogram against a flat one.

    Attributes:
        chi_square: Of the counts, divided by how much more they vary between blocks than independent counts would.
        freedom: Its degrees of freedom, fewer than classes less one where the classes vary together.
        p: Chance of one at least as large if the truth were a realisation; None of too few blocks.
        effective: How many independent values the counts are worth.
        shares: Of each class.
        rejected: Share of regions whose own histogram has p below 0.05; 0.05 is expected by chance.
    """

    chi_square: float
    freedom: float
    p: float | None
    effective: float
    shares: tuple[float, ...]
    rejected: float | None = None


def _rank_test(counts: Array, chances: Array) -> Flatness:
    """The chi-square test of (B, K) counts of dependent values, corrected as for a survey of clusters.

    The design effects are those of Rao and Scott (1984, doi:10.1214/aos/1176346391), taken from the variance between
    blocks; with the second-order correction of the degrees of freedom, and an F distribution for that they are
    estimated from few blocks (Thomas and Rao 1987, doi:10.1080/01621459.1987.10478475).
    """
    blocks, n, total = len(counts), counts.sum(), counts.sum(0)
    shares = tuple((total / n).tolist())
    plain = float(((total - n * chances) ** 2 / (n * chances)).sum())
    departure = counts - counts.sum(1, keepdims=True) * (total / n)
    covariance = departure.T @ departure * (blocks / max(blocks - 1, 1))
    # Of the matrix of design effects, the sums of its eigenvalues and of their squares.
    trace = float((np.diag(covariance) / (n * chances)).sum())
    squares = float((covariance**2 / (n**2 * np.outer(chances, chances))).sum())
    if blocks < LEAST_BLOCKS or trace <= 0:
        return Flatness(plain, len(chances) - 1.0, None, float(n), shares)
    effect, freedom = trace / (len(chances) - 1), trace**2 / squares
    p = float(stats.f.sf(plain / trace, freedom, freedom * (blocks - 1)))
    return Flatness(plain / trace * freedom, freedom, p, float(n / effect), shares)
