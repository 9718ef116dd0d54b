"""A year of climate as a few amounts of fixed patterns: what the classical emulators predict, and the way back.

Invariant: climatology, patterns and feature statistics come from training months alone, and what is predicted for a
month depends on that month's features alone.

A training row is a year: twelve months of the member mean, as departures from the climatology by cell and calendar
month. Patterns span all twelve months, so each carries its own seasonal cycle (Arctic winters warm more than summers),
and a few hundred rows are left where months would be thousands. A month is predicted from its own features, which
stand for its year's: half a year of warming apart at most, 0.02 K where a century brings 4 K.

`EofRegression` has straight lines in forcing series for the amounts: closed-form, with the same patterns and the same
regression as under the other classical emulators, so that what they add to it can be told from it. Beyond the training
forcings it continues along its lines.

Area weighted principal components after Hannachi et al. (2007, doi:10.1002/joc.1499); the emulators on them after
ClimateBench (Watson-Parris et al. 2022, doi:10.1029/2021MS002954).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Split
from emukit.emulators.base import Emulator
from emukit.emulators.features import feature
from emukit.errors import ProtocolError, RecipeError

Array = NDArray[np.float64]
Detrend = Literal["linear", "none"]


@dataclass(frozen=True, eq=False)
class Basis:
    """Between features, amounts and fields.

    Attributes:
        features: Names of the F forcing series.
        center: (F,) their means over the training years.
        scale: (F,) their standard deviations.
        climate: (N, V, Y, X) mean of the training years (N = 12 months, or 1 where steps are years), in physical units.
        patterns: (V, K, N, Y, X); orthonormal in the mean over area and months, so that an amount has the variable's
            units and the sum of squared amounts is the mean squared departure.
    """

    features: tuple[str, ...]
    center: Array
    scale: Array
    climate: NDArray[np.float32]
    patterns: NDArray[np.float32]

    def standardised(self, scenario: Scenario, domain: Domain, start: int, stop: int) -> Array:
        """(T, F) features of months [start, stop), as training years had mean 0 and standard deviation 1."""
        series = np.stack([feature(n, scenario, domain.grid)[start:stop] for n in self.features], 1)
        return np.asarray((series - self.center) / self.scale, np.float64)


@dataclass(frozen=True, eq=False)
class TrainingYears:
    """What the classical emulators are fitted on: N years.

    Attributes:
        z: (N, F) standardised features, means over each year.
        amounts: (N, V, K) of the patterns.
        weights: (N,) members in each year's mean.
    """

    z: Array
    amounts: Array
    weights: Array


class ComponentEmulator(Emulator):
    """Climatology plus patterns times amounts; amounts are a line in the features, plus what a subclass adds."""

    forcing_options: ClassVar[tuple[str, ...]] = ("features",)
    # A pattern for each of 365 days would hold more noise than climate.
    steps: ClassVar[tuple[str, ...]] = ("month", "year")

    def __init__(
        self, domain: Domain, basis: Basis, trend: Array, learned: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        """Use `fit`.

        Args:
            domain: What is predicted, and where.
            basis: Features and patterns.
            trend: (F, V, K) amounts per standard deviation of each feature; zero where there is no linear part.
            learned: Arrays of the subclass by name.
        """
        super().__init__(domain)
        self.basis, self.trend, self.learned = basis, trend, dict(learned or {})

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse values out of their ranges; arguments as for `fit`."""
        _check_basis(options["features"], options["components"])
        if options["ridge"] < 0:
            raise RecipeError("model.ridge is negative", found=str(options["ridge"]), expected="0 or more")

    @abstractmethod
    def departure(self, z: Array) -> Array:
        """(T, F) standardised features -> (T, V, K) amounts next to the linear part."""

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X): climatology plus patterns; within the bounds."""
        z = self.basis.standardised(scenario, self.domain, start, stop)
        amounts = np.einsum("tf,fvk->tvk", z, self.trend) + self.departure(z)
        month = scenario.time.phase[start:stop]
        out = np.empty((stop - start, *self.basis.climate.shape[1:]), np.float32)
        for m in range(len(self.basis.climate)):
            rows = month == m
            change = np.einsum("tvk,vkyx->tvyx", amounts[rows], self.basis.patterns[:, :, m], optimize=True)
            out[rows] = self.basis.climate[m] + change
        self.clip_to_bounds(out)
        return out

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Feature names; statistics, patterns, trend, and what the subclass learned."""
        b = self.basis
        arrays: dict[str, NDArray[Any]] = {"center": b.center, "scale": b.scale, "trend": self.trend}
        arrays |= {"climate": b.climate, "patterns": b.patterns}
        arrays |= {f"learned.{name}": values for name, values in self.learned.items()}
        return {"features": list(b.features)}, arrays

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""
        parts = (arrays[n] for n in ("center", "scale", "climate", "patterns"))
        mark = "learned."
        learned = {n.removeprefix(mark): values for n, values in arrays.items() if n.startswith(mark)}
        return cls(domain, Basis(tuple(meta["features"]), *parts), arrays["trend"], learned)


def fit_basis(
    archive: Archive, split: Split, features: tuple[str, ...], components: int
) -> tuple[Basis, TrainingYears]:
    """Find the patterns of the training years, and the amounts of each in every year.

    Args:
        archive: The data.
        split: Its training spans are used; months after the last whole year of a span are left over.
        features: Forcing series, as `emukit.emulators.features` names them.
        components: K, for each variable.

    Raises:
        RecipeError: No features, a bad or repeated name, or a number of components that the years do not hold.
        ProtocolError: A forcing is not in the store, or no training span holds a whole year.
    """
    _check_basis(features, components)
    series, weights, fields = _years(archive, split, features)
    if components > len(series):
        raise RecipeError(
            "model.components is out of range",
            found=str(components),
            expected=f"1 to {len(series)}, the number of training years",
        )
    center = np.average(series, axis=0, weights=weights)
    scale = np.sqrt(np.average((series - center) ** 2, axis=0, weights=weights))
    scale[scale == 0] = 1.0  # a forcing that never moved in training gets no response
    climate = np.average(fields, axis=0, weights=weights)
    area = archive.grid.weights / archive.time.per_year
    patterns, amounts = [], []
    for v in range(fields.shape[2]):
        found = _principal(fields[:, :, v] - climate[:, v], area, weights, components)
        patterns.append(found[0])
        amounts.append(found[1])
    basis = Basis(features, center, scale, climate.astype(np.float32), np.stack(patterns).astype(np.float32))
    return basis, TrainingYears((series - center) / scale, np.stack(amounts, 1), weights)


def _check_basis(features: Sequence[str], components: int) -> None:
    if not features:
        raise RecipeError("model.features names no feature", hint='--set \'model.features=["CO2", "SO2"]\'')
    if len(set(features)) < len(features):
        raise RecipeError("model.features names a feature twice", found=", ".join(features), expected="each once")
    if components < 1:
        raise RecipeError("model.components is out of range", found=str(components), expected="1 or more")


def fit_trend(years: TrainingYears, ridge: float, detrend: Detrend = "linear") -> Array:
    """(F, V, K) amounts as straight lines in the features, by ridge regression; zeros for ``none``.

    Args:
        years: Features and amounts; both have mean zero over the years, so the line needs no intercept.
        ridge: Penalty on the squared coefficients against the sum of squared errors over all years and members.
        detrend: Whether there is a linear part.

    Raises:
        RecipeError: The penalty is negative.
    """
    if ridge < 0:
        raise RecipeError("model.ridge is negative", found=str(ridge), expected="0 or more")
    shape = (years.z.shape[1], *years.amounts.shape[1:])
    if detrend == "none":
        return np.zeros(shape)
    model = Ridge(alpha=max(ridge, 1e-9), fit_intercept=False)
    model.fit(years.z, years.amounts.reshape(len(years.z), -1), years.weights)
    return np.asarray(model.coef_.T.reshape(shape), np.float64)


def _years(archive: Archive, split: Split, features: tuple[str, ...]) -> tuple[Array, Array, NDArray[np.float32]]:
    """All training years: features (N, F), members (N,), member means (N, 12, V, Y, X) with January first.

    Where steps are years, there is 1 in the place of 12.
    """
    series, weights, fields = [], [], []
    year = archive.time.per_year
    for span in split.train:
        scenario, years = archive[span.scenario], len(span) // year
        stop = span.start + year * years
        if not years:
            continue
        rows = np.stack([feature(n, scenario, archive.grid)[span.start : stop] for n in features], 1)
        series.append(rows.reshape(years, year, -1).mean(1))
        weights.append(np.full(years, float(len(span.members))))
        mean = scenario.truth(span.members[0], span.start, stop).astype(np.float32)
        for member in span.members[1:]:
            mean += scenario.truth(member, span.start, stop)
        by_year = (mean / len(span.members)).reshape(years, year, *mean.shape[1:])
        fields.append(by_year[:, np.argsort(scenario.time.phase[span.start : span.start + year])])
    if not series:
        raise ProtocolError(
            f"protocol {split.protocol} holds no whole training year",
            found=", ".join(s.text(archive) for s in split.train),
            hint=f"a protocol with a training span of {year} {archive.time.unit}s or more",
        )
    return np.concatenate(series), np.concatenate(weights), np.concatenate(fields)


def _principal(departures: NDArray[np.floating], area: Array, weights: Array, components: int) -> tuple[Array, Array]:
    """Patterns (K, 12, Y, X) and amounts (N, K) of departures (N, 12, Y, X), the largest first."""
    flat = departures.reshape(len(departures), -1).astype(np.float64)
    cells = np.broadcast_to(area, departures.shape[1:]).reshape(-1)
    # The matrix of years against years is small, and has the same components as that of cells against cells.
    root = np.sqrt(weights)[:, None]
    square, left = np.linalg.eigh(root * ((flat * cells) @ flat.T) * root.T)
    square, left = square[::-1][:components], left[:, ::-1][:, :components]
    size = np.sqrt(np.maximum(square, 0.0))
    inverse = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
    patterns = (root * left * inverse).T @ flat
    return patterns.reshape(components, *departures.shape[1:]), (flat * cells) @ patterns.T


class EofRegression(ComponentEmulator):
    """Ridge regression of principal components on forcing features."""

    kind = "eof-regression"

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        *,
        features: tuple[str, ...] = ("CO2", "CO2~30", "SO2", "BC"),
        components: int = 10,
        ridge: float = 1.0,
    ) -> Self:
        """Fit by ridge regression.

        Args:
            archive: The data.
            split: Its training spans are used, in whole years.
            features: Forcing series, as `emukit.emulators.features` names them.
            components: Patterns kept for each variable; what the others hold is left at its training mean.
            ridge: Penalty on the squared coefficients of standardised features, against the sum of squared errors over
                all training years and members.

        Raises:
            RecipeError: No features, a bad name, or a value outside its range.
            ProtocolError: A forcing is not in the store, or no training span holds a whole year.
        """
        basis, years = fit_basis(archive, split, features, components)
        return cls(archive.domain, basis, fit_trend(years, ridge))

    def departure(self, z: Array) -> Array:
        """(T, V, K) zeros: there is nothing next to the lines."""
        return np.zeros((len(z), *self.trend.shape[1:]))
