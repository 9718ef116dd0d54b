"""The average of several emulators: seeds, architectures, or anything else that answers the same forcings.

Invariant: weights are at least zero and sum to one for every variable, so that a prediction lies between those of the
bases, and with equal bases it is theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Span, Split
from emukit.emulators.base import Emulator
from emukit.emulators.wrapper import Fold, Wrapper
from emukit.errors import RecipeError

Array = NDArray[np.float64]


class Ensemble(Wrapper):
    """A weighted mean of its bases.

    Averaging lowers the error of every month and of the time mean, and with it the variability, where the bases differ
    by chance: what predicts a real-looking standard deviation is not to be averaged, but to be made of the average.

    Attributes:
        weights: (V, B) of every variable and base.
    """

    kind = "ensemble"
    most_bases: ClassVar[int | None] = None
    needs_mean: ClassVar[bool] = False

    def __init__(self, domain: Domain, bases: Sequence[Emulator], weights: Array | None = None) -> None:
        """All bases count alike, unless weights are given."""
        super().__init__(domain, bases)
        shape = (len(domain.variables), len(self.bases))
        self.weights = np.full(shape, 1.0 / shape[1]) if weights is None else weights

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        bases: Sequence[Emulator],
        folds: Sequence[Fold],
        *,
        weights: Literal["equal", "validation"] = "equal",
    ) -> Self:
        """Settle the weights.

        Args:
            archive: The data.
            split: Its validation months choose the weights, where these are to be chosen.
            bases: What is averaged.
            folds: None are needed.
            weights: ``equal``; or ``validation``, those of the smallest area-weighted mean squared error on the
                validation months, for each variable, none below zero and all together one. A few years of one run
                choose little more than what to leave out, and squared error does not ask for variability.
        """
        if weights == "equal":
            return cls(archive.domain, bases)
        products = _error_products(archive, split.validation, bases)
        return cls(archive.domain, bases, np.stack([simplex_weights(p) for p in products]))

    def refit(
        self, archive: Archive, split: Split, bases: Sequence[Emulator], folds: Sequence[Fold], **options: Any
    ) -> Self:
        """The same weights for other bases."""
        return type(self)(archive.domain, bases, self.weights)

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X); within the bounds."""
        out = np.zeros((stop - start, len(self.variables), *self.grid.shape))
        for base, weight in zip(self.bases, self.weights.T, strict=True):
            # Nothing is asked that does not count.
            if weight.any():
                out += weight[:, None, None] * base.predict_fields(scenario, start, stop)
        self.clip_to_bounds(out)
        return out.astype(np.float32)

    def spread(self, scenario: Scenario, start: int, stop: int) -> dict[str, tuple[float, float]]:
        """How far the bases are apart in months [start, stop) of a scenario.

        Returns:
            For every variable, in its unit, the standard deviation over bases of the time mean and that of months: of
            the variance over bases, divided by their number less one, the root of the mean over the area, and of that
            over months. Zero for a single base.
        """
        if len(self.bases) < 2:
            return dict.fromkeys(self.variables, (0.0, 0.0))
        fields = np.stack([b.predict_fields(scenario, start, stop) for b in self.bases]).astype(np.float64)
        of_mean = self.grid.mean(fields.mean(1).var(0, ddof=1))
        of_months = self.grid.mean(fields.var(0, ddof=1)).mean(0)
        return {v: (float(np.sqrt(of_mean[i])), float(np.sqrt(of_months[i]))) for i, v in enumerate(self.variables)}

    def findings(self, archive: Archive, split: Split) -> tuple[str, ...]:
        """Its weights, and its spread over the validation months, where they did not train."""
        return (*self._weight_lines(), *self._spread_lines(archive, split.scored.get("validation", ())))

    def own_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The weights."""
        return {}, {"weights": self.weights}

    @classmethod
    def from_own_state(
        cls, domain: Domain, bases: Sequence[Emulator], meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of `own_state`."""
        return cls(domain, bases, np.asarray(arrays["weights"], np.float64))

    def _weight_lines(self) -> Iterator[str]:
        for name, row in zip(self.variables, self.weights, strict=True):
            yield f"{name} weights {' '.join(f'{w:.3f}' for w in row)}"

    def _spread_lines(self, archive: Archive, spans: Sequence[Span]) -> Iterator[str]:
        for span in spans:
            time = archive[span.scenario].time
            spread = self.spread(archive[span.scenario], span.start, span.stop)
            text = ", ".join(f"{v} {mean:.3f} ({time.unit}s {each:.3f})" for v, (mean, each) in spread.items())
            place = f"{span.scenario} {time.text(span.start)}..{time.text(span.stop - 1)}"
            yield f"standard deviation over {len(self.bases)} bases of the time mean, {place}: {text}"


def simplex_weights(products: Array) -> Array:
    """The weights, none negative and of sum one, that minimise a positive semidefinite quadratic form.

    For u = s w with w of sum one, |A u|^2 + (sum(u) - 1)^2 = s^2 q(w) + (s - 1)^2 with q(w) = |A w|^2; the best s
    leaves q / (1 + q), which grows with q. So the non-negative least squares of A with a row of ones below it, against
    zeros and a one, is the minimum sought, except for its sum: found exactly, in finitely many steps (Lawson and Hanson
    1974, chapter 23), where a general solver would stop at a tolerance.

    Args:
        products: (B, B) mean products of the errors of the bases.

    Returns:
        (B,) weights.

    Raises:
        RecipeError: A product is not finite: a base predicts none.
    """
    if not np.isfinite(products).all():
        raise RecipeError(
            "a base of the ensemble predicts what is not a finite number", hint="look at its own training"
        )
    # In units of the mean error, so that neither part of the sum is lost to rounding.
    scale = float(np.trace(products)) / len(products)
    if scale == 0.0:
        return np.full(len(products), 1.0 / len(products))
    values, vectors = np.linalg.eigh(products / scale)
    root = np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T
    found, _ = nnls(np.vstack([root, np.ones(len(products))]), np.append(np.zeros(len(products)), 1.0))
    return np.asarray(found / found.sum(), np.float64)


def _error_products(archive: Archive, spans: Sequence[Span], bases: Sequence[Emulator]) -> Array:
    """(V, B, B): area means of products of two bases' errors, over months; spans count alike, as in a score."""
    total = np.zeros((len(archive.variables), len(bases), len(bases)))
    for span in spans:
        scenario = archive[span.scenario]
        said = np.stack([b.predict_fields(scenario, span.start, span.stop) for b in bases]).astype(np.float64)
        for member in span.members:
            error = said - scenario.truth(member, span.start, span.stop)
            part = np.einsum("atvyx,btvyx,yx->vab", error, error, archive.grid.weights, optimize=True)
            total += part / (len(span) * len(span.members) * len(spans))
    return total
