"""The linear emulator: each cell's climate as a straight line in a few forcing series.

Invariant: the fit is closed-form and sees training months alone; all members enter at once, and as they share their
forcings that is the fit to their mean with the members as weights.

Pattern scaling with several patterns; after Santer et al. (1990) and, for ClimateBench, Watson-Parris et al. (2022,
doi:10.1029/2021MS002954).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Split
from emukit.emulators.base import Emulator
from emukit.emulators.features import feature
from emukit.errors import RecipeError

Array = NDArray[np.float64]


class LinearEmulator(Emulator):
    """Ridge regression per cell on forcing features, with the seasonal cycle of every coefficient."""

    kind = "linear"

    def __init__(
        self,
        domain: Domain,
        features: tuple[str, ...],
        center: Array,
        scale: Array,
        intercept: NDArray[np.float32],
        response: NDArray[np.float32],
    ) -> None:
        """Use `fit`.

        Args:
            domain: What is predicted, and where.
            features: Names of the F forcing series.
            center: (F,) their training means.
            scale: (F,) their training standard deviations.
            intercept: (12, V, Y, X) climate at the mean forcing, by calendar month.
            response: (12, F, V, Y, X) change per standard deviation of each series, by calendar month.
        """
        super().__init__(domain)
        self._features = features
        self._center, self._scale = center, scale
        self._intercept, self._response = intercept, response

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        *,
        features: tuple[str, ...] = ("CO2", "CO2~30", "SO2", "BC"),
        season: Literal["month", "harmonics"] = "harmonics",
        harmonics: int = 2,
        ridge: float = 10.0,
    ) -> Self:
        """Fit by ridge regression.

        Args:
            archive: The data.
            split: Its training spans are used.
            features: Forcing series, as `emukit.emulators.features` names them.
            season: How coefficients vary over the year: one for each calendar month (``month``), or a Fourier series
                (``harmonics``), which shares data between neighbouring months.
            harmonics: Waves a year of that series, 0 to 6.
            ridge: Penalty on the squared coefficients of standardised features, against the sum of squared errors over
                all training months and members.

        Raises:
            RecipeError: No features, a bad name, or a value outside its range.
            ProtocolError: A forcing is not in the store.
        """
        _check_options(features, harmonics, ridge)
        series, month, weights, truth = _training_table(archive, split, features)
        center = np.average(series, axis=0, weights=weights)
        scale = np.sqrt(np.average((series - center) ** 2, axis=0, weights=weights))
        scale[scale == 0] = 1.0  # a forcing that never moved in training gets no response
        z = (series - center) / scale
        cells = (len(archive.variables), *archive.grid.shape)
        if season == "month":
            intercept, response = _fit_months(z, month, weights, truth, ridge)
        else:
            intercept, response = _fit_harmonics(z, month, weights, truth, ridge, harmonics)
        return cls(
            archive.domain,
            features,
            center,
            scale,
            intercept.reshape(12, *cells).astype(np.float32),
            response.reshape(12, len(features), *cells).astype(np.float32),
        )

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X): intercept plus response times features; pr at least zero."""
        series = np.stack([feature(n, scenario, self.grid) for n in self._features], 1)[start:stop]
        z = ((series - self._center) / self._scale).astype(np.float32)
        month = scenario.calendar_month[start:stop]
        out = np.empty((stop - start, *self._intercept.shape[1:]), np.float32)
        for m in range(12):
            rows = month == m
            out[rows] = self._intercept[m] + np.einsum("tf,fvyx->tvyx", z[rows], self._response[m])
        if "pr" in self.variables:
            rain = out[:, self.variables.index("pr")]
            np.maximum(rain, 0.0, out=rain)
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Feature names; statistics and coefficients."""
        arrays = {"center": self._center, "scale": self._scale}
        return {"features": list(self._features)}, arrays | {"intercept": self._intercept, "response": self._response}

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        names = ("center", "scale", "intercept", "response")
        return cls(domain, tuple(meta["features"]), *(arrays[n] for n in names))


def _check_options(features: tuple[str, ...], harmonics: int, ridge: float) -> None:
    if not features:
        raise RecipeError("the linear emulator needs a feature", hint='--set \'model.features=["CO2~10", "SO2"]\'')
    if len(set(features)) < len(features):
        raise RecipeError("model.features names a feature twice", found=", ".join(features), expected="each once")
    if not 0 <= harmonics <= 6:
        raise RecipeError("model.harmonics is out of range", found=str(harmonics), expected="0 to 6 waves a year")
    if ridge < 0:
        raise RecipeError("model.ridge is negative", found=str(ridge), expected="0 or more")


def _training_table(
    archive: Archive, split: Split, features: tuple[str, ...]
) -> tuple[Array, NDArray[np.int64], Array, NDArray[np.float32]]:
    """Rows of all training months: features (N, F), calendar month (N,), members (N,), their mean target (N, V*Y*X)."""
    series, month, weights, truth = [], [], [], []
    for span in split.train:
        scenario = archive[span.scenario]
        rows = slice(span.start, span.stop)
        series.append(np.stack([feature(n, scenario, archive.grid)[rows] for n in features], 1))
        month.append(scenario.calendar_month[rows])
        weights.append(np.full(len(span), float(len(span.members))))
        mean = scenario.truth(span.members[0], span.start, span.stop).astype(np.float32)
        for member in span.members[1:]:
            mean += scenario.truth(member, span.start, span.stop)
        truth.append((mean / len(span.members)).reshape(len(span), -1))
    return np.concatenate(series), np.concatenate(month), np.concatenate(weights), np.concatenate(truth)


def _fit_months(
    z: Array, month: NDArray[np.int64], weights: Array, truth: NDArray[np.float32], ridge: float
) -> tuple[Array, Array]:
    intercept, response = [], []
    for m in range(12):
        rows = month == m
        # Twelve fits share the penalty, so that it means the same whichever way the season is represented.
        model = Ridge(alpha=max(ridge / 12, 1e-9)).fit(z[rows], truth[rows].astype(np.float64), weights[rows])
        intercept.append(model.intercept_)
        response.append(model.coef_.T)
    return np.stack(intercept), np.stack(response)


def _fit_harmonics(
    z: Array, month: NDArray[np.int64], weights: Array, truth: NDArray[np.float32], ridge: float, harmonics: int
) -> tuple[Array, Array]:
    basis = _fourier(harmonics)
    design = (z[:, :, None] * basis[month][:, None, :]).reshape(len(z), -1)
    # Month means leave both sides: every calendar month keeps an intercept of its own, free of the penalty.
    design_mean = _month_means(design, month, weights)
    truth_mean = _month_means(truth, month, weights)
    target = truth - truth_mean[month]
    model = Ridge(alpha=max(ridge, 1e-9), fit_intercept=False)
    model.fit(design - design_mean[month], target, weights)
    coefficients = model.coef_.T.reshape(z.shape[1], basis.shape[1], -1)
    response = np.einsum("fhc,mh->mfc", coefficients, basis)
    intercept = truth_mean - design_mean @ model.coef_.T
    return intercept, response


def _fourier(harmonics: int) -> Array:
    """(12, 1 + 2 harmonics) Fourier basis over the year; the sixth sine vanishes on months and is left out."""
    phase = 2 * np.pi * np.arange(12) / 12
    waves = [np.ones(12)]
    for k in range(1, harmonics + 1):
        waves += [np.cos(k * phase)] if k == 6 else [np.cos(k * phase), np.sin(k * phase)]
    return np.stack(waves, 1)


def _month_means(values: NDArray[np.floating], month: NDArray[np.int64], weights: Array) -> Array:
    out = np.zeros((12, values.shape[1]))
    for m in range(12):
        rows = month == m
        if rows.any():
            out[m] = np.average(values[rows], axis=0, weights=weights[rows])
    return out
