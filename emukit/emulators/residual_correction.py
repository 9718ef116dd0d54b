"""A simple emulator that can be trusted far from what it was shown, plus networks that learn its residual.

Invariant: with a shrinkage factor of zero the prediction is the anchor's, whatever the networks predict. The factor is
found where the networks were asked about scenarios that they had not been shown.

A network that is right where forcings are like those it was trained on can be wrong without bound where they are not,
and a factor found in one scenario says nothing of another that goes further. So the correction can be made to fall off
with the distance of a month's forcings from all that training showed: far away the anchor speaks alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Span, Split
from emukit.emulators.base import Emulator, refuse_unused
from emukit.emulators.features import ForcingSpace, feature
from emukit.emulators.wrapper import Fold, Wrapper
from emukit.errors import ProtocolError, RecipeError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Decay:
    """How a residual correction falls off with the distance from the training years.

    Attributes:
        space: The training years among the forcings.
        length_scale: Distance at which exp(-1/2) of the correction is left, in standard deviations of the training
            years.
    """

    space: ForcingSpace
    length_scale: float


class ResidualCorrection(Wrapper):
    """The first base, plus the mean of the others, trained on its residual and shrunk towards zero.

    Attributes:
        shrinkage: (12, V, Y, X) factor of the correction, in [0, 1], by calendar month.
        decay: How the correction falls off with the distance from the training years; None where it does not.
        evidence: Scenario to its weight, left out, in finding the factor: its kernel similarity to the others, or one.
    """

    kind = "residual-correction"
    steps: ClassVar[tuple[str, ...]] = ("month",)
    most_bases: ClassVar[int | None] = None
    least_bases: ClassVar[int] = 2
    cross_fitted: ClassVar[bool] = True
    residual: ClassVar[bool] = True

    def __init__(
        self,
        domain: Domain,
        bases: Sequence[Emulator],
        shrinkage: NDArray[np.float32] | None = None,
        decay: Decay | None = None,
        evidence: Mapping[str, float] | None = None,
    ) -> None:
        """All of what the networks predict, unless a factor is given."""
        super().__init__(domain, bases)
        whole = np.ones((12, len(domain.variables), *domain.grid.shape), np.float32)
        self.shrinkage = whole if shrinkage is None else shrinkage
        self.decay = decay
        self.evidence = dict(evidence or {})

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X); within the bounds."""
        out = self.bases[0].predict_fields(scenario, start, stop)
        if len(self.bases) > 1:
            month = scenario.calendar_month[start:stop]
            out = out + self.shrinkage[month] * _residual(self.bases, scenario, start, stop, self.decay)
        self.clip_to_bounds(out)
        return out

    def own_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The factor, and how the correction falls off."""
        if self.decay is None:
            return {"evidence": self.evidence}, {"shrinkage": self.shrinkage}
        own = {
            "evidence": self.evidence,
            "length_scale": self.decay.length_scale,
            "forcings": list(self.decay.space.names),
        }
        return own, {"shrinkage": self.shrinkage, **self.decay.space.arrays()}

    @classmethod
    def from_own_state(
        cls, domain: Domain, bases: Sequence[Emulator], meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of `own_state`."""
        # Emulators of earlier versions call them `reach` and `share`.
        length_scale = meta.get("length_scale", meta.get("reach"))
        decay = None
        if length_scale is not None:
            decay = Decay(ForcingSpace.from_arrays(meta["forcings"], arrays), float(length_scale))
        factor = arrays["shrinkage" if "shrinkage" in arrays else "share"]
        return cls(domain, bases, np.asarray(factor, np.float32), decay, meta["evidence"])

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
        length_scale: float | None = None,
        forcings: tuple[str, ...] = ("CO2", "CH4", "SO2", "BC"),
    ) -> Self:
        """Find the shrinkage factor, by cell and calendar month.

        With a length scale, scenarios left out count by their kernel similarity to the others, averaged over the months
        that count: one that lies far from all others says next to nothing of how to weigh networks close by.

        The factor is the regression of what the anchor leaves in the last years of scenarios left out, as the mean over
        members and those years, on what the networks said it would leave; between zero and one. What counts is what
        repeats over the years, so it is means over years that are compared. A cell alone is noisy: its sums are
        added to those of all cells and months of its variable, scaled to weigh as much as `prior` cells.

        Args:
            archive: The data.
            split: Its training spans, from which distances are measured.
            bases: The anchor, and networks.
            folds: One for each training scenario.
            prior: Weight of the factor over all cells and months against the cell's own; larger is smoother.
            years: How many of the last years of each scenario left out count.
            length_scale: Distance from the nearest training year among the forcings, in standard deviations of the
                training years, at which exp(-1/2) of the correction is left. None: it does not fall off.
            forcings: The axes of that space, as `emukit.emulators.features` names them.

        Raises:
            RecipeError: A value out of its range, or a bad name of a forcing.
            ProtocolError: A forcing is not in the store, or less than a year of a scenario left out can be predicted.
        """
        cls.check(archive, prior=prior, years=years, length_scale=length_scale, forcings=forcings)
        shape = (12, len(archive.variables), *archive.grid.shape)
        product, square = np.zeros(shape), np.zeros(shape)
        evidence: dict[str, float] = {}
        for fold in folds:
            first = max(base.first_month for base in fold.bases)
            for span in fold.held_out:
                last = replace(span, start=max(span.start, first, span.stop - 12 * years))
                if len(last) < 12:
                    raise ProtocolError(
                        f"less than a year of {span.scenario} can be predicted where it is left out",
                        found=f"{len(last)} months",
                        hint="a shorter window (inputs.window), or a protocol with more training months",
                    )
                weight = 1.0
                if length_scale is not None:
                    space = ForcingSpace.fit(archive, fold.train, forcings)
                    near = space.kernel_similarity(archive[span.scenario], archive.grid, length_scale)
                    weight = float(near[last.start : last.stop].mean())
                said, left = _climates(archive, fold.bases, last)
                product += weight * said * left
                square += weight * said**2
                evidence[span.scenario] = weight
        shrinkage = _shrinkage(product, square, archive.grid.weights, prior)
        return cls(archive.domain, bases, shrinkage, _decay(archive, split, length_scale, forcings), evidence)

    @classmethod
    def forcings_read(cls, options: Mapping[str, Any]) -> dict[str, Sequence[str]]:
        """`forcings`, where a distance is measured among them."""
        return {"forcings": options["forcings"]} if options["length_scale"] is not None else {}

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse values out of their ranges, or without effect; arguments as for `fit`."""
        length_scale, years, prior = (options.get(n) for n in ("length_scale", "years", "prior"))
        if length_scale is not None and not (length_scale > 0 and np.isfinite(length_scale)):
            raise RecipeError("model.length_scale is out of range", found=str(length_scale), expected="more than 0")
        if years is not None and years < 1:
            raise RecipeError("model.years is out of range", found=str(years), expected="1 or more")
        if prior is not None and not (prior >= 0 and np.isfinite(prior)):
            raise RecipeError("model.prior is out of range", found=str(prior), expected="0 or more")
        if length_scale is None and "forcings" in options:
            refuse_unused(
                cls.fit, "no distance is measured among them", "set model.length_scale", forcings=options["forcings"]
            )
        if length_scale is not None:
            for name in options.get("forcings", ()):
                feature(name, next(iter(archive.values())), archive.grid)

    def refit(
        self, archive: Archive, split: Split, bases: Sequence[Emulator], folds: Sequence[Fold], **options: Any
    ) -> Self:
        """The same factor for other bases: it was selected, and nothing is left to select on."""
        length_scale = options.get("length_scale")
        space = _decay(archive, split, length_scale, self.decay.space.names if self.decay else ())
        return type(self)(archive.domain, bases, self.shrinkage, space, self.evidence)

    def findings(self, archive: Archive, split: Split) -> tuple[str, ...]:
        """The area means of its shrinkage factor, and what it was found by."""
        means = self.grid.mean(self.shrinkage.mean(0))
        lines = [f"{v}: mean shrinkage factor {m:.2f}" for v, m in zip(self.variables, means, strict=True)]
        found = ", ".join(f"{name} {weight:.2g}" for name, weight in self.evidence.items())
        return (*lines, f"found in scenarios left out, with weights {found}")


def residual_archive(archive: Archive, anchor: Emulator, spans: Sequence[Span]) -> Archive:
    """The archive with, in the months of the spans, what an emulator leaves in the place of the targets.

    The other months are as good as hidden: there is nothing to learn from them.
    """
    scenarios = dict(archive.scenarios)
    for name, scenario in archive.items():
        if scenario.targets is None:
            continue
        targets, hidden = np.zeros_like(scenario.targets), np.ones(len(scenario), bool)
        for s in (s for s in spans if s.scenario == name):
            first = max(s.start, anchor.first_month)
            targets[:, first : s.stop] = scenario.targets[:, first : s.stop]
            targets[:, first : s.stop] -= anchor.predict_fields(scenario, first, s.stop)
            hidden[first : s.stop] = False
        scenarios[name] = replace(scenario, targets=targets, hidden=hidden)
    return replace(archive, scenarios=scenarios)


def _residual(
    bases: Sequence[Emulator], scenario: Scenario, start: int, stop: int, decay: Decay | None
) -> NDArray[np.float32]:
    """(T, V, Y, X): the mean of what all bases except for the first predict, as it falls off with distance."""
    said = [network.predict_fields(scenario, start, stop) for network in bases[1:]]
    mean: NDArray[np.float32] = np.mean(said, axis=0, dtype=np.float32)
    if decay is not None:
        near = decay.space.kernel_similarity(scenario, bases[0].grid, decay.length_scale)[start:stop]
        mean *= near.astype(np.float32)[:, None, None, None]
    return mean


def _decay(archive: Archive, split: Split, length_scale: float | None, forcings: Sequence[str]) -> Decay | None:
    return None if length_scale is None else Decay(ForcingSpace.fit(archive, split.train, forcings), length_scale)


def _climates(archive: Archive, bases: Sequence[Emulator], span: Span) -> tuple[Array, Array]:
    """(12, V, Y, X) means over the years of a span: what networks said the anchor would leave, and what it left."""
    scenario = archive[span.scenario]
    month = scenario.calendar_month[span.start : span.stop]
    truth = np.mean([scenario.truth(m, span.start, span.stop) for m in span.members], axis=0, dtype=np.float64)
    left = truth - bases[0].predict_fields(scenario, span.start, span.stop)
    said = _residual(bases, scenario, span.start, span.stop, None)
    by_month = [(said[month == m].mean(0, dtype=np.float64), left[month == m].mean(0)) for m in range(12)]
    return np.stack([s for s, _ in by_month]), np.stack([o for _, o in by_month])


def _shrinkage(product: Array, square: Array, weights: Array, prior: float) -> NDArray[np.float32]:
    """(12, V, Y, X) regression coefficients, drawn to that of each variable as a whole, in [0, 1]."""
    mean_product = (product * weights).sum((-2, -1)).mean(0)[None, :, None, None]
    mean_square = (square * weights).sum((-2, -1)).mean(0)[None, :, None, None]
    least = np.finfo(np.float64).tiny
    shrinkage = (product + prior * mean_product) / np.maximum(square + prior * mean_square, least)
    clipped: NDArray[np.float32] = np.clip(shrinkage, 0.0, 1.0).astype(np.float32)
    return clipped
