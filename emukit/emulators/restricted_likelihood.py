"""Gaussian processes whose kernel is a sum of known components with unknown sizes and an unknown constant mean.

Invariant: sizes maximise the restricted likelihood (Patterson and Thompson 1971, doi:10.1093/biomet/58.3.545), which
does not depend on the constant mean. Series that share their sizes enter through one matrix of products between
training points, so that the cost does not grow with the number of cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

Array = NDArray[np.float64]

# The logarithm of a size, in units of the noise variance of one run, has a normal prior with mean zero and this
# standard deviation. It keeps a size that the data say nothing of from leaving for zero or infinity.
PRIOR_SPREAD = 3.0
# Sizes outside of exp(-+12) are zero or infinite to the accuracy of the factorisation.
LARGEST_LOG = 12.0


def negative_log_likelihood(
    logs: Array, components: Array, noise: Array, products: Array, series: float
) -> tuple[float, Array]:
    """Negative logarithm of the restricted likelihood with its prior, up to a constant, and its gradient.

    Args:
        logs: (J,) logarithms of the sizes.
        components: (J, N, N) covariances of the components at size one.
        noise: (N,) variance of the noise of each point.
        products: (N, N) mean over series of y y'; a constant added to a series does not matter.
        series: How many independent series the mean stands for.
    """
    sizes, ones = np.exp(logs), np.ones(len(noise))
    lower = np.linalg.cholesky(np.tensordot(sizes, components, 1) + np.diag(noise))
    half = np.linalg.inv(lower)
    inverse = half.T @ half
    summed = inverse @ ones
    information = ones @ summed
    # The inverse on contrasts: what it gives does not change when a constant is added to a series.
    contrast = inverse - np.outer(summed, summed) / information
    fitted = contrast @ products
    value = np.log(np.diag(lower)).sum() + 0.5 * np.log(information) + 0.5 * np.trace(fitted)
    slope = 0.5 * np.einsum("jab,ab->j", components, contrast - fitted @ contrast) * sizes
    prior = logs / PRIOR_SPREAD
    return float(series * value + 0.5 * prior @ prior), np.asarray(series * slope + prior / PRIOR_SPREAD, np.float64)


def fit_sizes(components: Array, noise: Array, products: Array, series: float) -> Array:
    """(J,) sizes with the highest restricted likelihood; arguments as for `negative_log_likelihood`."""
    found = minimize(
        negative_log_likelihood,
        np.zeros(len(components)),
        (components, noise, products, series),
        "L-BFGS-B",
        jac=True,
        bounds=[(-LARGEST_LOG, LARGEST_LOG)] * len(components),
    )
    return np.asarray(np.exp(found.x), np.float64)


@dataclass(frozen=True, eq=False)
class Conditioned:
    """A process given noisy values at N training points.

    Attributes:
        inverse: (N, N) of the covariance of the training values.
        summed: (N,) its row sums.
    """

    inverse: Array
    summed: Array

    @classmethod
    def on(cls, covariance: Array, noise: Array) -> Conditioned:
        """From the (N, N) covariance of the process and the (N,) variances of the noise."""
        inverse = cho_solve(cho_factor(covariance + np.diag(noise), lower=True), np.eye(len(noise)))
        return cls(inverse, inverse.sum(0))

    def weights(self, values: Array) -> tuple[Array, Array]:
        """(N, ...) weights of the kernel and the (...) generalised least squares mean, for (N, ...) values."""
        mean = np.tensordot(self.summed, values, 1) / self.summed.sum()
        return np.tensordot(self.inverse, values - mean, 1), np.asarray(mean, np.float64)

    def variance(self, prior: Array, across: Array, level: Array | float = 1.0) -> Array:
        """(T,) posterior variances, the uncertainty of the mean included.

        Args:
            prior: (T,) variances of the process at the points asked for.
            across: (T, N) its covariances with the training points.
            level: (T,) how often each point holds the mean: zero of a component alone.
        """
        explained = np.einsum("tn,nm,tm->t", across, self.inverse, across, optimize=True)
        unexplained = level - across @ self.summed
        return np.asarray(np.maximum(prior - explained + unexplained**2 / self.summed.sum(), 0.0), np.float64)

    def covariance(self, prior: Array, across: Array) -> Array:
        """(T, T) posterior covariances, the uncertainty of the mean included; `variance` is their diagonal.

        Args:
            prior: (T, T) of the process between the points asked for.
            across: (T, N) as there.
        """
        unexplained = 1.0 - across @ self.summed
        shared = np.outer(unexplained, unexplained) / self.summed.sum()
        return np.asarray(prior - across @ self.inverse @ across.T + shared, np.float64)
