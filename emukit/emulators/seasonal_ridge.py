"""Ridge regression whose coefficients follow the seasons.

Invariant: every season has an intercept of its own, free of the penalty. Of a Fourier series the mean over the
year is penalised as a coefficient for each season would be, and the waves, whose basis has half its mean square, twice
as much.

Seasons are the G groups of `TimeAxis.season`: of months the calendar months; of steps shorter than a day those of each
time of the day, which share their waves; of years one, without waves. What is found for days and hours are the knots of
a cycle through the months (`emukit.emulators.climatology`).

Letters: N steps of training, K columns, C numbers predicted, each on its own.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, solve

from emukit.data.time import TimeAxis
from emukit.emulators.climatology import AnnualCycle, fill_unseen

Array = NDArray[np.float64]

# Columns whose errors are in float64 at a time: the targets of a whole grid are several times as large as the store.
BLOCK_COLUMNS = 512
# Columns of targets on disk that are in float64 at a time, of the steps of a year.
STREAMED_COLUMNS = 8192


def fit_seasons(
    z: Array, cycle: AnnualCycle, weights: Array, truth: NDArray[np.floating], ridge: float
) -> tuple[Array, Array]:
    """One regression for each season.

    Args:
        z: (N, K) what is regressed on.
        cycle: Where the N steps lie among the seasons, which are months or years.
        weights: (N,) of the squared errors.
        truth: (N, C).
        ridge: Penalty of the squared coefficients of all seasons together.

    Returns:
        (G, C) intercepts and (G, K, C) coefficients.
    """
    # Needs a second to import, and fits only this form.
    from sklearn.linear_model import Ridge

    intercept, response = [], []
    groups = cycle.time.seasons
    for m in range(groups):
        rows = cycle.season == m
        # All fits share the penalty, so that it means the same whichever way the season is represented.
        model = Ridge(alpha=max(ridge / groups, 1e-9)).fit(z[rows], truth[rows].astype(np.float64), weights[rows])
        intercept.append(np.atleast_1d(model.intercept_))
        response.append(np.atleast_2d(model.coef_).T)  # scikit-learn drops the axis of a single target
    return np.stack(intercept), np.stack(response)


def fit_harmonics(
    z: Array, cycle: AnnualCycle, weights: Array, truth: NDArray[np.floating], ridge: float, basis: Array
) -> tuple[Array, Array]:
    """One regression for all seasons, each coefficient a Fourier series over the year; see `fit_seasons`.

    Args:
        z: (N, K) what is regressed on.
        cycle: Where the N steps lie among the seasons.
        weights: (N,) of the squared errors.
        truth: (N, C).
        ridge: Penalty of the squared Fourier coefficients.
        basis: (G, H) of that series, as `season_basis` makes it.
    """
    design = (z[:, :, None] * cycle.at(basis)[:, None, :]).reshape(len(z), -1)
    # Season means leave both sides: every season keeps an intercept of its own, free of the penalty.
    design_mean = cycle.knots(cycle.means(design, weights))
    truth_mean = cycle.knots(cycle.means(truth, weights))
    root = np.sqrt(weights)[:, None]
    scaled = (design - cycle.at(design_mean)) * root
    product = np.empty((scaled.shape[1], truth.shape[1]))
    for first in range(0, truth.shape[1], BLOCK_COLUMNS):
        block = slice(first, first + BLOCK_COLUMNS)
        product[:, block] = scaled.T @ ((truth[:, block] - cycle.at(truth_mean[:, block])) * root)
    found = _solve_ridge(scaled, product, max(ridge, 1e-9))
    response = np.einsum("fhc,mh->mfc", found.reshape(z.shape[1], basis.shape[1], -1), basis)
    intercept = truth_mean - design_mean @ found
    return intercept, response


class StreamedHarmonics:
    """`fit_harmonics` of targets that come some steps at a time: their sums are kept, and no target.

    In exact arithmetic its answers are those of `fit_harmonics`.
    """

    def __init__(self, z: Array, cycle: AnnualCycle, weights: Array, ridge: float, basis: Array) -> None:
        """Prepare what does not depend on targets; arguments as for `fit_harmonics`."""
        groups = cycle.time.seasons
        design = (z[:, :, None] * cycle.at(basis)[:, None, :]).reshape(len(z), -1)
        self._design_mean = cycle.knots(cycle.means(design, weights))
        departures = design - cycle.at(self._design_mean)
        weighted = departures * weights[:, None]
        self._season = (cycle.season[:, None] == np.arange(groups)) * weights[:, None]
        # What is summed over the steps: products with the columns, and with the seasons.
        self._sums_of = np.concatenate([weighted, self._season], axis=1)
        self._of_knots = weighted.T @ cycle.at(np.eye(groups))
        self._scaled = departures * np.sqrt(weights)[:, None]
        self._cycle, self._ridge, self._basis, self._columns = cycle, ridge, basis, z.shape[1]

    def fit(self, pieces: Iterable[tuple[slice, NDArray[np.floating]]], targets: int) -> tuple[Array, Array]:
        """(G, C) intercepts and (G, K, C) coefficients, as `fit_harmonics` returns them.

        Args:
            pieces: Steps and their (N', C) targets; together every step once.
            targets: C.
        """
        sums = np.zeros((self._sums_of.shape[1], targets))
        for steps, truth in pieces:
            of_steps = self._sums_of[steps].T
            for first in range(0, targets, STREAMED_COLUMNS):
                block = slice(first, first + STREAMED_COLUMNS)
                sums[:, block] += of_steps @ truth[:, block].astype(np.float64)
        waves = self._scaled.shape[1]
        count = self._season.sum(0)
        means = sums[waves:] / np.where(count > 0, count, 1.0)[:, None]
        fill_unseen(means, count > 0, self._cycle.time.per_day)
        truth_mean = self._cycle.knots(means)
        found = _solve_ridge(self._scaled, sums[:waves] - self._of_knots @ truth_mean, max(self._ridge, 1e-9))
        response = np.einsum("fhc,mh->mfc", found.reshape(self._columns, self._basis.shape[1], -1), self._basis)
        return truth_mean - self._design_mean @ found, response


def season_basis(harmonics: int, time: TimeAxis) -> Array:
    """(G, H) Fourier basis over the year by season: the same at all times of the day, constant where steps are years.

    Args:
        harmonics: Waves a year, 0 to 6.
        time: Whose seasons.
    """
    return np.ones((1, 1)) if time.step == "year" else np.repeat(_fourier(harmonics), time.per_day, 0)


def _solve_ridge(design: Array, product: Array, ridge: float) -> Array:
    """(K, C) coefficients of a ridge regression from its normal equations.

    Args:
        design: (N, K) weighted columns.
        product: (K, C) of the columns with the weighted targets.
        ridge: Penalty of the squared coefficients.
    """
    normal = design.T @ design
    normal.flat[:: len(normal) + 1] += ridge
    try:
        return np.asarray(solve(normal, product, assume_a="pos"), np.float64)
    except LinAlgError:
        # Columns that are the same up to rounding, and next to no penalty: the smallest coefficients that fit.
        return np.asarray(np.linalg.pinv(normal, hermitian=True) @ product, np.float64)


def _fourier(harmonics: int) -> Array:
    """(12, 1 + 2 harmonics) Fourier basis over the year; the sixth sine vanishes on months and is left out."""
    phase = 2 * np.pi * np.arange(12) / 12
    waves = [np.ones(12)]
    for k in range(1, harmonics + 1):
        waves += [np.cos(k * phase)] if k == 6 else [np.cos(k * phase), np.sin(k * phase)]
    return np.stack(waves, 1)


def orthonormal_season(harmonics: int) -> Array:
    """(12, H) the same basis, with a mean square of one and mean products of zero over the year."""
    basis = _fourier(harmonics)
    return np.asarray(basis / np.sqrt(np.mean(basis**2, 0)), np.float64)
