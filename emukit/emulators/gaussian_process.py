"""Principal components of the climate as Gaussian processes over forcing series.

Invariant: what is kept is the training inputs, one vector of weights and the kernel's numbers for each component; the
prediction is a sum of kernels in plain numpy and equals scikit-learn's.

Far from every training year a process returns to its mean. With `detrend` ``linear`` that mean is a straight line in
the forcings, so that it continues warming as a linear emulator does; with ``none`` it is the training climatology, and
a scenario beyond the training forcings would cool back to it.

After ClimateBench (Watson-Parris et al. 2022, doi:10.1029/2021MS002954), whose Gaussian process has Matern kernels of
smoothness 1.5 and a length scale for each forcing too, but predicts annual fields.
"""

from __future__ import annotations

import warnings
from typing import Self

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from emukit.data.archive import Archive
from emukit.data.split import Split
from emukit.emulators.base import refuse_unused
from emukit.emulators.components import Array, ComponentEmulator, Detrend, fit_basis, fit_trend
from emukit.errors import RecipeError

# In standard deviations of a feature over the training years. Weather that persists for some years (the member mean
# keeps much of it) looks like a function of slow forcings on shorter scales; at the longest a feature does not matter.
_SHORTEST, _LONGEST = 1.0, 100.0


class GaussianProcess(ComponentEmulator):
    """A Gaussian process for each principal component, on top of a linear part."""

    kind = "gaussian-process"

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        *,
        features: tuple[str, ...] = ("CO2", "CO2~30", "SO2", "BC"),
        components: int = 10,
        detrend: Detrend = "linear",
        ridge: float = 1.0,
        restarts: int = 2,
    ) -> Self:
        """Fit each component's kernel by its marginal likelihood.

        Args:
            archive: The data.
            split: Its training spans are used, in whole years. Years of few members count as much as others.
            features: Forcing series, as `emukit.emulators.features` names them.
            components: Patterns kept for each variable.
            detrend: The mean of the processes: a line in the features (``linear``), or zero (``none``).
            ridge: Penalty of that line; see `eof-regression`.
            restarts: Further searches for the kernel's numbers, from random starts.

        Raises:
            RecipeError: No features, a bad name, or a value outside its range.
            ProtocolError: A forcing is not in the store, or no training span holds a whole year.
        """
        if restarts < 0:
            raise RecipeError("model.restarts is negative", found=str(restarts), expected="0 or more")
        if detrend == "none":
            refuse_unused(cls.fit, "there is no line", "set model.detrend to 'linear'", ridge=ridge)
        basis, years = fit_basis(archive, split, features, components)
        trend = fit_trend(years, ridge, detrend)
        left = years.amounts - np.einsum("nf,fvk->nvk", years.z, trend)
        shape = left.shape[1:]
        signal, length, alpha = np.zeros(shape), np.ones((*shape, len(features))), np.zeros(left.shape)
        for v, k in np.ndindex(*shape):
            signal[v, k], length[v, k], alpha[:, v, k] = _fit_one(years.z, left[:, v, k], restarts)
        learned = {"inputs": years.z, "signal": signal, "length": length, "alpha": alpha}
        return cls(archive.domain, basis, trend, learned)

    def departure(self, z: Array) -> Array:
        """(T, V, K) means of the processes given the training years."""
        inputs, signal = self.learned["inputs"], self.learned["signal"]
        out = np.zeros((len(z), *signal.shape))
        for v, k in np.ndindex(*signal.shape):
            length = self.learned["length"][v, k]
            out[:, v, k] = signal[v, k] * (_matern(z / length, inputs / length) @ self.learned["alpha"][:, v, k])
        return out


def _fit_one(z: Array, amounts: Array, restarts: int) -> tuple[float, Array, Array]:
    """Variance of the signal, length scales (F,) and weights (N,) of one component."""
    size = float(amounts.std())
    if size == 0:
        return 0.0, np.ones(z.shape[1]), np.zeros(len(z))
    # In units of the amounts' own standard deviation, half of it signal to begin with.
    matern = Matern(np.full(z.shape[1], 3.0), (_SHORTEST, _LONGEST), nu=1.5)
    kernel = ConstantKernel(0.5, (1e-4, 1e2)) * matern + WhiteKernel(0.5, (1e-4, 1e1))
    process = GaussianProcessRegressor(kernel, n_restarts_optimizer=restarts, random_state=0)
    with warnings.catch_warnings():
        # A length scale that ends at its bound says that the feature does not matter, which is an answer.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(z, amounts / size)
    signal = process.kernel_.k1
    return float(signal.k1.constant_value), np.asarray(signal.k2.length_scale), process.alpha_ * size


def _matern(a: Array, b: Array) -> Array:
    """(T, N) Matern correlations of smoothness 1.5 between points (T, F) and (N, F)."""
    distance = np.sqrt(3.0) * cdist(a, b)
    return np.asarray((1.0 + distance) * np.exp(-distance), np.float64)
