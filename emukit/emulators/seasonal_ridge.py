"""Ridge regression whose coefficients follow the seasons.

Invariant: every calendar month has an intercept of its own, free of the penalty. Of a Fourier series the mean over the
year is penalised as a coefficient for each month would be, and the waves, whose basis has half its mean square, twice
as much.

Letters: N months of training, K columns, C numbers predicted, each on its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, solve

Array = NDArray[np.float64]

# Columns whose errors are in float64 at a time: the targets of a whole grid are several times as large as the store.
BLOCK_COLUMNS = 512


def fit_months(
    z: Array, month: NDArray[np.int64], weights: Array, truth: NDArray[np.floating], ridge: float
) -> tuple[Array, Array]:
    """One regression for each calendar month.

    Args:
        z: (N, K) what is regressed on.
        month: (N,) calendar month, 0 to 11.
        weights: (N,) of the squared errors.
        truth: (N, C).
        ridge: Penalty of the squared coefficients of all months together.

    Returns:
        (12, C) intercepts and (12, K, C) coefficients.
    """
    # Needs a second to import, and fits only this form.
    from sklearn.linear_model import Ridge

    intercept, response = [], []
    for m in range(12):
        rows = month == m
        # Twelve fits share the penalty, so that it means the same whichever way the season is represented.
        model = Ridge(alpha=max(ridge / 12, 1e-9)).fit(z[rows], truth[rows].astype(np.float64), weights[rows])
        intercept.append(np.atleast_1d(model.intercept_))
        response.append(np.atleast_2d(model.coef_).T)  # scikit-learn drops the axis of a single target
    return np.stack(intercept), np.stack(response)


def fit_harmonics(
    z: Array, month: NDArray[np.int64], weights: Array, truth: NDArray[np.floating], ridge: float, harmonics: int
) -> tuple[Array, Array]:
    """One regression for all months, each coefficient a Fourier series over the year; see `fit_months`.

    Args:
        z: (N, K) what is regressed on.
        month: (N,) calendar month, 0 to 11.
        weights: (N,) of the squared errors.
        truth: (N, C).
        ridge: Penalty of the squared Fourier coefficients.
        harmonics: Waves a year, 0 to 6.
    """
    basis = _fourier(harmonics)
    design = (z[:, :, None] * basis[month][:, None, :]).reshape(len(z), -1)
    # Month means leave both sides: every calendar month keeps an intercept of its own, free of the penalty.
    design_mean = _month_means(design, month, weights)
    truth_mean = _month_means(truth, month, weights)
    root = np.sqrt(weights)[:, None]
    scaled = (design - design_mean[month]) * root
    product = np.empty((scaled.shape[1], truth.shape[1]))
    for first in range(0, truth.shape[1], BLOCK_COLUMNS):
        block = slice(first, first + BLOCK_COLUMNS)
        product[:, block] = scaled.T @ ((truth[:, block] - truth_mean[month, block]) * root)
    found = _solve_ridge(scaled, product, max(ridge, 1e-9))
    response = np.einsum("fhc,mh->mfc", found.reshape(z.shape[1], basis.shape[1], -1), basis)
    intercept = truth_mean - design_mean @ found
    return intercept, response


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


def _month_means(values: NDArray[np.floating], month: NDArray[np.int64], weights: Array) -> Array:
    out = np.zeros((12, values.shape[1]))
    for m in range(12):
        rows = month == m
        if rows.any():
            out[m] = np.average(values[rows], axis=0, weights=weights[rows])
    return out
