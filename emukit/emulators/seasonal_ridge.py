"""Ridge regression whose coefficients follow the seasons.

Invariant: every season has an intercept of its own, free of the penalty. Of a Fourier series the mean over the
year is penalised as a coefficient for each season would be, and the waves, whose basis has half its mean square, twice
as much.

Seasons are the G groups of `TimeAxis.season`: of months the calendar months; of steps shorter than a day those of each
time of the day, which share their waves; of years one, without waves. What is found for days and hours are the knots of
a cycle through the months (`emukit.emulators.annual_cycle`).

Letters: N steps of training, K columns, C numbers predicted, each on its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from emukit.data.time import TimeAxis
from emukit.emulators.annual_cycle import Cycle

Array = NDArray[np.float64]


def fit_seasons(
    z: Array, cycle: Cycle, weights: Array, truth: NDArray[np.floating], ridge: float
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
    z: Array, cycle: Cycle, weights: Array, truth: NDArray[np.floating], ridge: float, basis: Array
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
    target = truth - cycle.at(truth_mean)
    model = Ridge(alpha=max(ridge, 1e-9), fit_intercept=False)
    model.fit(design - cycle.at(design_mean), target, weights)
    found = np.atleast_2d(model.coef_).T  # scikit-learn drops the axis of a single target
    response = np.einsum("fhc,mh->mfc", found.reshape(z.shape[1], basis.shape[1], -1), basis)
    intercept = truth_mean - design_mean @ found
    return intercept, response


def season_basis(harmonics: int, time: TimeAxis) -> Array:
    """(G, H) Fourier basis over the year by season: the same at all times of the day, constant where steps are years.

    Args:
        harmonics: Waves a year, 0 to 6.
        time: Whose seasons.
    """
    return np.ones((1, 1)) if time.step == "year" else np.repeat(_fourier(harmonics), time.per_day, 0)


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
