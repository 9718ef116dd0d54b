"""Emulators made of emulators: what all of them share.

Invariant: a wrapper is an emulator like any other: physical units in and out, saved whole with everything it wraps, and
its prediction for a month does not depend on which other months are asked for.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.split import Span, Split
from emukit.emulators.base import Emulator, Explanation
from emukit.emulators.registry import build_emulator


@dataclass(frozen=True)
class Fold:
    """Emulators that were trained without some of the training months.

    Attributes:
        held_out: Those months.
        bases: The bases of a wrapper, trained on the others.
        train: Those others.
    """

    held_out: tuple[Span, ...]
    bases: tuple[Emulator, ...]
    train: tuple[Span, ...]


class Wrapper(Emulator):
    """An emulator that answers by asking others.

    Attributes:
        bases: What it asks, in the order of its recipe.
        most_bases: How many it can take; None: any number.
        least_bases: How many it must have.
        needs_mean: Whether its bases must say the mean over runs, without any variability of a single one.
        varied: Whether it gives its base that variability.
        cross_fitted: Whether `fit` needs folds, for which the bases are trained again and again: how far a base can be
            trusted in a scenario that it was not shown cannot be seen in one that it was trained on.
        residual: Whether every base but the first is trained on what the first leaves.
        trains_networks: Whether it has networks of its own: its recipe says how they are trained, and `fit` is given a
            function `train` that trains one.
    """

    most_bases: ClassVar[int | None] = 1
    least_bases: ClassVar[int] = 1
    cross_fitted: ClassVar[bool] = False
    residual: ClassVar[bool] = False
    needs_mean: ClassVar[bool] = True
    varied: ClassVar[bool] = False
    trains_networks: ClassVar[bool] = False

    def __init__(self, domain: Domain, bases: Sequence[Emulator]) -> None:
        super().__init__(domain)
        self.bases = tuple(bases)

    @classmethod
    @abstractmethod
    def fit(cls, archive: Archive, split: Split, bases: Sequence[Emulator], folds: Sequence[Fold]) -> Self:
        """Fit what is its own on the training spans; further keyword arguments are options of its recipe.

        Args:
            archive: The data.
            split: Training spans, and validation spans where something is selected.
            bases: Trained on the same split.
            folds: One for each training scenario, left out whole, where the class is `cross_fitted`; else none.
        """

    @classmethod
    def base_archive(cls, archive: Archive, **options: Any) -> Archive:
        """The data on which its bases are trained: the same, where a class does not say otherwise.

        Args:
            archive: The data.
            options: Those of `fit`.
        """
        return archive

    @classmethod
    def check_training(cls, archive: Archive, spans: Sequence[Span], **options: Any) -> None:
        """Refuse training spans that `fit` would refuse, before the bases are trained.

        Args:
            archive: The data.
            spans: Training spans.
            options: Those of `fit`.

        Raises:
            ProtocolError: They do not tell what is to be learned.
            RecipeError: They leave an option without effect.
        """
        return

    @classmethod
    def needs_error(cls, **options: Any) -> bool:
        """Whether its bases must know how far off their forced response may be (`Emulator.knows_error`).

        Args:
            options: Those of `fit`.
        """
        return False

    def refit(
        self, archive: Archive, split: Split, bases: Sequence[Emulator], folds: Sequence[Fold], **options: Any
    ) -> Self:
        """Fit it again on training spans that hold the validation months, for a final fit.

        What was selected on validation cannot be selected again: a class that does so takes it over from itself.
        """
        return type(self).fit(archive, split, bases, folds, **options)

    def findings(self, archive: Archive, split: Split) -> tuple[str, ...]:
        """What fitting found, one line each, for people and for the record of the run."""
        return self.notes

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know about how it was fitted, a sentence each."""
        return ()

    @property
    def draws(self) -> bool:
        """Whether one of its bases does."""
        return any(base.draws for base in self.bases)

    def member(self, number: int) -> Self:
        """The same of a realisation of each base that draws any."""
        if not self.draws:
            return super().member(number)
        one = copy(self)
        one.bases = tuple(base.member(number) if base.draws else base for base in self.bases)
        return one

    def explain(self, scenario: Scenario, start: int, stop: int) -> Explanation | None:
        """That of the first base that knows."""
        return next((found for b in self.bases if (found := b.explain(scenario, start, stop))), None)

    @property
    def first_month(self) -> int:
        """The first month that all of its bases can predict."""
        return max(base.first_month for base in self.bases)

    @abstractmethod
    def own_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """What `from_own_state` needs next to the bases; names of arrays hold no slash."""

    @classmethod
    @abstractmethod
    def from_own_state(
        cls, domain: Domain, bases: Sequence[Emulator], meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of `own_state`."""

    def state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Its own values and arrays, and under numbers those of its bases."""
        own, arrays = self.own_state()
        bases = []
        for i, base in enumerate(self.bases):
            meta, held = base.state()
            bases.append({"kind": base.kind, "meta": meta})
            arrays |= {f"{i}/{name}": array for name, array in held.items()}
        return {"own": own, "bases": bases}, arrays

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`."""

        def part(number: int) -> dict[str, NDArray[Any]]:
            prefix = f"{number}/"
            return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}

        bases = [build_emulator(b["kind"], domain, b["meta"], part(i)) for i, b in enumerate(meta["bases"])]
        return cls.from_own_state(domain, bases, meta["own"], {k: v for k, v in arrays.items() if "/" not in k})
