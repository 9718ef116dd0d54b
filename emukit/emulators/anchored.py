"""A simple emulator that can be trusted far from what it was shown, and networks that learn what it leaves.

Invariant: with a share of zero the prediction is the anchor's, whatever the networks say. The share is found where the
networks were asked about scenarios that nobody had shown them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Span, Split
from emukit.emulators.base import Emulator
from emukit.emulators.wrapper import Fold, Wrapper

Array = NDArray[np.float64]


class Anchored(Wrapper):
    """The first base, plus a share of the mean of the others, which were trained on what it leaves.

    Attributes:
        share: (12, V, Y, X) in [0, 1], by calendar month.
    """

    kind = "anchored"
    most_bases: ClassVar[int | None] = None
    cross_fitted: ClassVar[bool] = True
    residual: ClassVar[bool] = True

    def __init__(self, domain: Domain, bases: Sequence[Emulator], share: NDArray[np.float32] | None = None) -> None:
        """All of what the networks say, unless a share is given."""
        super().__init__(domain, bases)
        whole = np.ones((12, len(domain.variables), *domain.grid.shape), np.float32)
        self.share = whole if share is None else share

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X); pr at least zero."""
        out = self.bases[0].predict_fields(scenario, start, stop)
        if len(self.bases) > 1:
            month = scenario.calendar_month[start:stop]
            out = out + self.share[month] * _residual(self.bases, scenario, start, stop)
        self.cut_negative_rain(out)
        return out

    def own_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The share."""
        return {}, {"share": self.share}

    @classmethod
    def from_own_state(
        cls, domain: Domain, bases: Sequence[Emulator], meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of `own_state`."""
        return cls(domain, bases, np.asarray(arrays["share"], np.float32))

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        bases: Sequence[Emulator],
        folds: Sequence[Fold],
        *,
        prior: float = 1.0,
        years: int = 30,
    ) -> Self:
        """Find the share, by cell and calendar month.

        The share is the regression of what the anchor leaves in the last years of scenarios left out, as the mean over
        members and those years, on what the networks said it would leave; between zero and one. What counts is what
        repeats over the years, so it is means over years that are compared. A cell alone is noisy: its sums are
        added to those of all cells and months of its variable, scaled to weigh as much as `prior` cells.

        Args:
            archive: The data.
            split: Not looked at: the folds hold all that is needed.
            bases: The anchor, and networks.
            folds: One for each training scenario.
            prior: Weight of the share over all cells and months against the cell's own; larger is smoother.
            years: How many of the last years of each scenario left out count.
        """
        shape = (12, len(archive.variables), *archive.grid.shape)
        product, square = np.zeros(shape), np.zeros(shape)
        for fold in folds:
            for span in fold.held_out:
                said, left = _climates(
                    archive, fold.bases, replace(span, start=max(span.start, span.stop - 12 * years))
                )
                product += said * left
                square += said**2
        return cls(archive.domain, bases, _share(product, square, archive.grid.weights, prior))


def residual_archive(archive: Archive, anchor: Emulator, spans: Sequence[Span]) -> Archive:
    """The archive with, in the months of the spans, what an emulator leaves in the place of the targets.

    The other months are as good as hidden: there is nothing to learn from them.
    """
    scenarios = dict(archive.scenarios)
    for name in {s.scenario for s in spans}:
        scenario = archive[name]
        assert scenario.targets is not None
        targets, hidden = np.zeros_like(scenario.targets), np.ones(len(scenario), bool)
        for s in (s for s in spans if s.scenario == name):
            first = max(s.start, anchor.first_month)
            targets[:, first : s.stop] = scenario.targets[:, first : s.stop]
            targets[:, first : s.stop] -= anchor.predict_fields(scenario, first, s.stop)
            hidden[first : s.stop] = False
        scenarios[name] = replace(scenario, targets=targets, hidden=hidden)
    return replace(archive, scenarios=scenarios)


def _residual(bases: Sequence[Emulator], scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
    """(T, V, Y, X): the mean of what all bases but the first say."""
    said = [network.predict_fields(scenario, start, stop) for network in bases[1:]]
    mean: NDArray[np.float32] = np.mean(said, axis=0, dtype=np.float32)
    return mean


def _climates(archive: Archive, bases: Sequence[Emulator], span: Span) -> tuple[Array, Array]:
    """(12, V, Y, X) means over the years of a span: what networks said the anchor would leave, and what it left."""
    scenario = archive[span.scenario]
    month = scenario.calendar_month[span.start : span.stop]
    truth = np.mean([scenario.truth(m, span.start, span.stop) for m in span.members], axis=0, dtype=np.float64)
    left = truth - bases[0].predict_fields(scenario, span.start, span.stop)
    said = _residual(bases, scenario, span.start, span.stop)
    by_month = [(said[month == m].mean(0, dtype=np.float64), left[month == m].mean(0)) for m in range(12)]
    return np.stack([s for s, _ in by_month]), np.stack([o for _, o in by_month])


def _share(product: Array, square: Array, weights: Array, prior: float) -> NDArray[np.float32]:
    """(12, V, Y, X) regression coefficients, drawn to that of each variable as a whole, in [0, 1]."""
    mean_product = (product * weights).sum((-2, -1)).mean(0)[None, :, None, None]
    mean_square = (square * weights).sum((-2, -1)).mean(0)[None, :, None, None]
    least = np.finfo(np.float64).tiny
    share = (product + prior * mean_product) / np.maximum(square + prior * mean_square, least)
    clipped: NDArray[np.float32] = np.clip(share, 0.0, 1.0).astype(np.float32)
    return clipped
