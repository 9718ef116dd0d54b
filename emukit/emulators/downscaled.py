"""Forcings to coarse fields to fine fields: a coarse emulator with a downscaler behind it, as one emulator.

Invariant: the coarse emulator is trained on the coarsened data alone; the downscaler is taken as it is, from a run that
knew no more of the data than this one may.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Domain, Scenario
from emukit.data.coarsen import Coarsening, in_context
from emukit.data.split import Split
from emukit.emulators.base import Emulator, saved_digest
from emukit.emulators.neural_downscaler import NeuralDownscaler, downscaler_of, load_downscaler, saved_values
from emukit.emulators.registry import build_emulator
from emukit.emulators.wrapper import Fold, Wrapper
from emukit.errors import ProtocolError, RecipeError, RunError

# Steps that are downscaled together.
_STEPS = 60


class Downscaled(Wrapper):
    """A coarse emulator, whose fields a downscaler refines."""

    kind = "downscaled"
    needs_mean = False

    def __init__(
        self, domain: Domain, bases: Sequence[Emulator], downscaler: NeuralDownscaler, number: int = 0
    ) -> None:
        super().__init__(domain, bases)
        self.downscaler, self.number = downscaler, number

    @classmethod
    def check(cls, archive: Archive, **options: Any) -> None:
        """Refuse a downscaler that is none, or that does not fit the data.

        Raises:
            RecipeError: No folder is named.
            RunError: There is no downscaler in it, or another one than the recipe names.
            ProtocolError: It is of another grid or other variables.
        """
        _found(archive, **options)

    @classmethod
    def base_archive(cls, archive: Archive, **options: Any) -> Archive:
        """The data on the downscaler's coarse grid."""
        return coarse_archive(archive, _found(archive, **options).coarsening)

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        bases: Sequence[Emulator],
        folds: Sequence[Fold],
        *,
        downscaler: str = "",
        digest: str = "",
    ) -> Self:
        """Put the two together.

        Args:
            archive: The data.
            split: Its months; the downscaler must have been trained under the same protocol.
            bases: The coarse emulator.
            folds: None.
            downscaler: Folder of a finished run of ``emukit train downscale``.
            digest: SHA-256 of the downscaler in it, which the recipe is given when it is read: another one is refused.

        Raises:
            RunError: The downscaler is not the one that the recipe names.
            ProtocolError: The downscaler was trained on other data or under another protocol, and may know what is
                held out here.
        """
        found = _found(archive, downscaler, digest)
        known, expected = found.trained_on, {"protocol": split.protocol, "data": archive.digest}
        if known != expected:
            raise ProtocolError(
                f"the downscaler in {downscaler} was trained on other data or under another protocol",
                found=f"protocol {known.get('protocol')}, data {str(known.get('data'))[:12]}",
                expected=f"protocol {split.protocol}, data {archive.digest[:12]}",
                hint=f"emukit train downscale --protocol '{split.protocol}', on the same store",
            )
        return cls(archive.domain, bases, found)

    @property
    def draws(self) -> bool:
        """Whether the coarse emulator or the downscaler does."""
        return super().draws or self.downscaler.draws

    def member(self, number: int) -> Self:
        """A realisation of both, where each draws any."""
        if not self.draws:
            return super().member(number)
        one = copy(self)
        one.bases = tuple(base.member(number) if base.draws else base for base in self.bases)
        one.number = number
        return one

    def predict_fields(self, scenario: Scenario, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X) float32 within the bounds."""
        coarse, context = coarse_scenario(scenario, self.downscaler.coarsening), self.downscaler.context
        # What is said of a step does not depend on which others are asked for. Before its first the base says nothing.
        first, last = max(start - context, min(start, self.first_month)), min(stop + context, len(scenario))
        said = in_context(self.bases[0].predict_fields(coarse, first, last), context)[start - first : stop - first]
        out = np.empty((stop - start, len(self.variables), *self.grid.shape), np.float32)
        for done in range(0, stop - start, _STEPS):
            part = slice(done, min(done + _STEPS, stop - start))
            time = scenario.time[start + part.start : start + part.stop]
            out[part] = self.downscaler.fields(said[part], time, member=self.number)
        return out

    def own_state(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """The downscaler."""
        return saved_values(self.downscaler)

    @classmethod
    def from_own_state(
        cls, domain: Domain, bases: Sequence[Emulator], meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]
    ) -> Self:
        """The inverse of `own_state`."""
        return cls(domain, bases, downscaler_of(domain, meta, arrays))

    @classmethod
    def from_state(cls, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Self:
        """The inverse of `state`: its base lives on the coarse grid."""
        own = {k: v for k, v in arrays.items() if "/" not in k}
        downscaler = downscaler_of(domain, meta["own"], own)
        coarse = replace(domain, grid=downscaler.coarsening.grid)
        (base,) = meta["bases"]
        held = {k.removeprefix("0/"): v for k, v in arrays.items() if k.startswith("0/")}
        return cls(domain, (build_emulator(base["kind"], coarse, base["meta"], held),), downscaler)


def _found(archive: Archive, downscaler: str = "", digest: str = "") -> NeuralDownscaler:
    if not downscaler:
        raise RecipeError(
            "downscaled names no downscaler",
            expected="the folder of a finished run of `emukit train downscale`",
            hint="--set model.downscaler=runs/fine",
        )
    place = Path(downscaler).expanduser() / "emulator"
    found = load_downscaler(place)
    now = saved_digest(place)
    if digest not in ("", now):
        raise RunError(
            f"the downscaler in {downscaler} is not the one that the recipe names",
            found=f"one with the digest {now[:12]}",
            expected=digest[:12],
            hint="put that run back, or train this emulator again, into another --out",
        )
    if found.domain.grid != archive.grid or found.domain.variables != archive.variables:
        raise ProtocolError(
            f"the downscaler in {downscaler} is of another grid or other variables",
            found=f"{found.domain.grid.shape}, {', '.join(found.domain.variables)}",
            expected=f"{archive.grid.shape}, {', '.join(archive.variables)}",
        )
    return found


def coarse_scenario(scenario: Scenario, coarsening: Coarsening) -> Scenario:
    """A scenario's gridded forcings, coarsened; series as they are; no targets."""
    forcings = {
        name: values if values.ndim == 1 else coarsening.down(values).astype(np.float32)
        for name, values in scenario.forcings.items()
    }
    return replace(scenario, forcings=forcings, targets=None, members=())


def coarse_archive(archive: Archive, coarsening: Coarsening) -> Archive:
    """All fields of an archive, coarsened. Hidden steps stay zero, and hidden."""
    scenarios = {}
    for name, scenario in archive.items():
        coarse = coarse_scenario(scenario, coarsening)
        if scenario.targets is not None:
            targets = np.stack([coarsening.down(member).astype(np.float32) for member in scenario.targets])
            coarse = replace(coarse, targets=targets, members=scenario.members)
        scenarios[name] = coarse
    statics = {name: coarsening.down(field).astype(np.float32) for name, field in archive.statics.items()}
    return replace(archive, grid=coarsening.grid, scenarios=scenarios, statics=statics, published=False)
