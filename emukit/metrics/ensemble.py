"""Scores of ensembles: how well the distribution of realisations fits what happened.

Invariant: `EnsembleSums` add, so that a score over any division of the time steps is that of the whole. The order of
the realisations does not matter, and an ensemble drawn from the distribution of the truth has no better competitor.

Of regional means, a p-value counts the months for what they are worth. Neighbouring months and regions depend on each
other, so counts of ranks vary between years by more than independent months would let them; the test is corrected by
how much more.

A classifier that tells generated steps from real ones is judged on years that it has not seen, and every run loses its
own straight line of each season, within the years that are seen and within the others: so means take no part. Means
would tell two runs of a climate model apart as well (CESM2 under ssp585, 30 years of regional means: 73 % of unseen
months), because of what the ocean remembers for decades.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid

Array = NDArray[np.float64]

# Steps looked at together: pairs of realisations of so many fit into memory next to the fields themselves.
_STEPS = 12
# Halves are made of blocks of so many years, so that a year seldom has its neighbour in the other half.
BLOCK_YEARS = 3
# Fewer blocks give no interval.
LEAST_BLOCKS = 4
# Inverse strength of the penalty. It hardly matters: with 0.003, 0.03 and 0.3, CESM2 with deviations 1.2 times as large
# is told from itself in 64, 64 and 63 % of unseen months.
PENALTY = 0.03
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
LEAST_RANKED_BLOCKS = 5
# Steps looked at together: pairs of fifty realisations of so many fit into memory.
_RANKED = 60


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
    from scipy import stats
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
    for first in range(0, len(truth), _RANKED):
        steps = slice(first, first + _RANKED)
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
    from scipy import stats

    blocks, n, total = len(counts), counts.sum(), counts.sum(0)
    shares = tuple((total / n).tolist())
    plain = float(((total - n * chances) ** 2 / (n * chances)).sum())
    departure = counts - counts.sum(1, keepdims=True) * (total / n)
    covariance = departure.T @ departure * (blocks / max(blocks - 1, 1))
    # Of the matrix of design effects, the sums of its eigenvalues and of their squares.
    trace = float((np.diag(covariance) / (n * chances)).sum())
    squares = float((covariance**2 / (n**2 * np.outer(chances, chances))).sum())
    if blocks < LEAST_RANKED_BLOCKS or trace <= 0:
        return Flatness(plain, len(chances) - 1.0, None, float(n), shares)
    effect, freedom = trace / (len(chances) - 1), trace**2 / squares
    p = float(stats.f.sf(plain / trace, freedom, freedom * (blocks - 1)))
    return Flatness(plain / trace * freedom, freedom, p, float(n / effect), shares)
