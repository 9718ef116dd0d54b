"""Ridge regression whose coefficients follow the seasons.

Invariant: every season has an intercept of its own, free of the penalty. Of a Fourier series the mean over the
year is penalised as a coefficient for each season would be, and the waves, whose basis has half its mean square, twice
as much.

Seasons are the G groups of `TimeAxis.season`: of months the calendar months; of steps shorter than a day those of each
time of the day, which share their waves; of years one, without waves.

Letters: N steps of training, K columns, C numbers predicted, each on its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from emukit.data.time import TimeAxis

Array = NDArray[np.float64]


def fit_seasons(
    z: Array, season: NDArray[np.int64], weights: Array, truth: NDArray[np.floating], ridge: float, groups: int
) -> tuple[Array, Array]:
    """One regression for each season.

    Args:
        z: (N, K) what is regressed on.
        season: (N,) 0 to G - 1.
        weights: (N,) of the squared errors.
        truth: (N, C).
        ridge: Penalty of the squared coefficients of all seasons together.
        groups: G.

    Returns:
        (G, C) intercepts and (G, K, C) coefficients.
    """
    intercept, response = [], []
    for m in range(groups):
        rows = season == m
        if not rows.any():
            # A record may be shorter than a year.
            intercept.append(np.average(truth, axis=0, weights=weights))
            response.append(np.zeros((z.shape[1], truth.shape[1])))
            continue
        # All fits share the penalty, so that it means the same whichever way the season is represented.
        model = Ridge(alpha=max(ridge / groups, 1e-9)).fit(z[rows], truth[rows].astype(np.float64), weights[rows])
        intercept.append(np.atleast_1d(model.intercept_))
        response.append(np.atleast_2d(model.coef_).T)  # scikit-learn drops the axis of a single target
    return np.stack(intercept), np.stack(response)


def fit_harmonics(
    z: Array, season: NDArray[np.int64], weights: Array, truth: NDArray[np.floating], ridge: float, basis: Array
) -> tuple[Array, Array]:
    """One regression for all seasons, each coefficient a Fourier series over the year; see `fit_seasons`.

    Args:
        z: (N, K) what is regressed on.
        season: (N,) 0 to G - 1.
        weights: (N,) of the squared errors.
        truth: (N, C).
        ridge: Penalty of the squared Fourier coefficients.
        basis: (G, H) of that series, as `season_basis` makes it.
    """
    design = (z[:, :, None] * basis[season][:, None, :]).reshape(len(z), -1)
    # Season means leave both sides: every season keeps an intercept of its own, free of the penalty.
    design_mean = _season_means(design, season, weights, len(basis))
    truth_mean = _season_means(truth, season, weights, len(basis))
    target = truth - truth_mean[season]
    model = Ridge(alpha=max(ridge, 1e-9), fit_intercept=False)
    model.fit(design - design_mean[season], target, weights)
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


def _season_means(values: NDArray[np.floating], season: NDArray[np.int64], weights: Array, groups: int) -> Array:
    # A season that no training step is of has the mean of all.
    seen = np.bincount(season, minlength=groups) > 0
    out = np.zeros((groups, values.shape[1]))
    for m in range(groups):
        rows = season == m if seen[m] else slice(None)
        out[m] = np.average(values[rows], axis=0, weights=weights[rows])
    return out
