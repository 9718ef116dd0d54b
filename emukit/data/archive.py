"""The climate data: scenarios with their forcings and targets, in memory, or on disk where they do not fit.

Invariant: scenarios are never concatenated, so no window can cross from one into another; each has consecutive steps of
the archive's time axis (`emukit.data.time`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from emukit.data.card import Card
from emukit.data.grid import Grid
from emukit.data.time import Months, TimeAxis
from emukit.data.variable import Variable
from emukit.errors import ProtocolError
from emukit.parallel.share import ALONE, Share
from emukit.parallel.threads import open_pool

T = TypeVar("T")


class StoredTargets(Protocol):
    """Targets of one scenario and member that stay on disk, read where they are asked for.

    Attributes:
        variables: V, how many there are.
    """

    variables: int

    def read(self, variable: int, start: int, stop: int, rows: slice) -> NDArray[np.float32]:
        """(T, rows, X) steps [start, stop) of the variable at a position on the V axis."""


@dataclass(frozen=True, eq=False)
class Scenario:
    """One emission scenario: what drives the climate, and what the climate model answered.

    Attributes:
        name: For example ``ssp370``.
        time: Its T steps.
        forcings: Name to (T,) float64 (global series) or (T, Y, X) float32 (fields), in the card's units. Fields that
            stay on disk are `emukit.data.daily_archive.StoredForcing`, maps of months on days `SteppedForcing`.
        members: The ensemble members present, in the order of the first axis of `targets`.
        targets: (M, T, V, Y, X) float32 in physical units, or None where only forcings are known.
        hidden: (T,) True where the targets are a hidden test set (zero in the store).
        stored: Targets on disk, of the only member, in the place of `targets`.
        share: Which cells fields hold, (y, x): all, unless processes share the globe.
    """

    name: str
    time: TimeAxis
    forcings: Mapping[str, NDArray[np.floating]]
    members: tuple[int, ...] = ()
    targets: NDArray[np.float32] | None = None
    hidden: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    stored: StoredTargets | None = None
    share: Share = ALONE

    def __len__(self) -> int:
        return len(self.time)

    def __repr__(self) -> str:
        """One line; the arrays would fill screens."""
        steps = f"{self.time.text(0)}..{self.time.text(-1)}"
        return f"Scenario({self.name!r}, {steps}, members {self.members}, forcings {', '.join(self.forcings)})"

    @property
    def months(self) -> Months:
        """(T,) `datetime64[M]` of a scenario of months.

        Raises:
            ProtocolError: Its steps are not months.
        """
        return self.time.months

    @property
    def calendar_month(self) -> NDArray[np.int64]:
        """(T,) 0 for January .. 11 for December, of a scenario of months.

        Raises:
            ProtocolError: Its steps are not months.
        """
        return self.months.astype(np.int64) % 12

    def index(self, step: str | np.datetime64) -> int:
        """Position of a step such as ``2060-02``; of days, ``2060-02-01``.

        Raises:
            ProtocolError: The step is outside the scenario.
        """
        i = self.time.position(str(step))
        if not 0 <= i < len(self):
            raise ProtocolError(
                f"{self.time.unit} {step} is not in scenario {self.name}",
                found=f"{self.time.text(0)} .. {self.time.text(-1)}",
                hint=f"name a {self.time.unit} inside the scenario",
            )
        return i

    def member_index(self, member: int) -> int:
        """Position of a member on the first axis of `targets`.

        Raises:
            ProtocolError: The member is not there.
        """
        if member not in self.members:
            raise ProtocolError(
                f"member {member} is not in scenario {self.name}",
                found=f"members {', '.join(map(str, self.members)) or 'none'}",
                hint="choose from those with --members",
            )
        return self.members.index(member)

    def truth(self, member: int, start: int, stop: int) -> NDArray[np.float32]:
        """(T, V, Y, X) targets of steps [start, stop) of one member.

        Raises:
            ProtocolError: The member is not there, or some of the steps are hidden.
        """
        place = self._known(member, start, stop)
        if self.stored is not None:
            return self._read(start, stop)
        assert self.targets is not None
        return self.targets[place, start:stop]

    def values(
        self, variable: int, member: int, start: int, stop: int, rows: slice = slice(None)
    ) -> NDArray[np.float32]:
        """(T, rows, X) targets of one variable, by its position, of steps [start, stop) of one member.

        Raises:
            ProtocolError: As `truth`.
        """
        place = self._known(member, start, stop)
        if self.stored is not None:
            return self.stored.read(variable, start, stop, rows)
        assert self.targets is not None
        return self.targets[place, start:stop, variable, rows]

    def pieces(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Parts of steps [start, stop), in order, that may be held at once: calendar years of targets on disk."""
        if self.stored is None:
            return [(start, stop)]
        edges = [start, *(start + 1 + np.flatnonzero(np.diff(self.time.year[start:stop]))).tolist(), stop]
        return list(pairwise(edges))

    def _known(self, member: int, start: int, stop: int) -> int:
        """The position of a member whose steps [start, stop) are known."""
        if (self.targets is None and self.stored is None) or self.hidden[start:stop].any():
            raise ProtocolError(
                f"the targets of {self.name} {self.time.text(start)} .. {self.time.text(stop - 1)} are not known",
                found="forcings only"
                if self.targets is None and self.stored is None
                else "a hidden test set (targets are all zero)",
                expected=f"{self.time.unit}s whose truth is in the store",
                hint=f"score validation instead, or another protocol; hidden {self.time.unit}s are scored by the "
                "competition",
            )
        return self.member_index(member)

    def _read(self, start: int, stop: int) -> NDArray[np.float32]:
        assert self.stored is not None
        variables = self.stored.variables
        first = self.stored.read(0, start, stop, slice(None))
        out = np.empty((stop - start, variables, *first.shape[1:]), np.float32)
        out[:, 0] = first
        for v in range(1, variables):
            out[:, v] = self.stored.read(v, start, stop, slice(None))
        return out


@dataclass(frozen=True, eq=False)
class Domain:
    """What is predicted, and where.

    Attributes:
        card: What the forcings and targets are.
        grid: The grid of every field.
        variables: Target variables in the order of the V axis.
        time: The time axis from the latest beginning of a scenario on: what an emulator remembers begins no later.
    """

    card: Card
    grid: Grid
    variables: tuple[str, ...]
    time: TimeAxis

    @property
    def first_month(self) -> np.datetime64:
        """The first step of an axis of months.

        Raises:
            ProtocolError: Its steps are not months.
        """
        return np.datetime64(self.time[:1].months[0])

    @property
    def described(self) -> tuple[Variable, ...]:
        """What the card says of the variables, in the order of the V axis."""
        return tuple(self.card.targets[v] for v in self.variables)

    @property
    def relative(self) -> tuple[bool, ...]:
        """(V,) which variables vary in proportion to their mean, as zero is their lower bound."""
        return tuple(v.relative for v in self.described)

    @property
    def temperature(self) -> int | None:
        """Where the near-surface air temperature is on the V axis, by which warming is measured; None without one.

        It is the first variable whose role is ``temperature``.
        """
        return self.card.position("temperature", self.variables)


@dataclass(frozen=True, eq=False)
class Archive(Mapping[str, Scenario]):
    """A checked store: a mapping from scenario name to `Scenario`.

    Attributes:
        card: The data card that the store matched: names, units, protocols.
        source: Where it was read from.
        grid: The grid of every field.
        variables: Target variables in the order of the V axis.
        scenarios: The scenarios by name.
        statics: Name to (Y, X) float32 time-independent fields (``land``, ``orography``) where the store has them.
        notes: What is odd about the store, one sentence each.
        published: Whether digests tell that every visible target is the published one.
        bands: The rows of the grid in the order in which targets on disk are read fastest; of an archive in memory
            all at once.
        file_digest: Of an archive on disk, what computes `digest`: from the bytes of its files.
        made_up: Whether its files say that a demo climate made them, whose planet is not the Earth.
        share: Which cells the fields of scenarios hold; all, unless processes share the globe. Grid and statics are
            whole.
    """

    card: Card
    source: str
    grid: Grid
    variables: tuple[str, ...]
    scenarios: Mapping[str, Scenario]
    statics: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    published: bool = False
    bands: tuple[slice, ...] = (slice(None),)
    file_digest: Callable[[], str] | None = None
    made_up: bool = False
    share: Share = ALONE
    # A changed copy does not inherit what was computed from the original.
    _kept: dict[str, Any] = field(default_factory=dict, init=False)

    def __repr__(self) -> str:
        """One line; the arrays would fill screens."""
        return f"Archive({self.source!r}, {self.card.name}, {', '.join(self.scenarios)}, grid {self.grid.shape})"

    @property
    def default_protocol(self) -> str:
        """The split to use where none is named."""
        return self.card.default_protocol

    @property
    def cells(self) -> tuple[int, int]:
        """(y, x) of the cells that fields hold."""
        return self.share.shape(self.grid.shape)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of every name, month and value, for provenance; the same whatever container it was read from.

        Of an archive that stays on disk it is of the bytes of its files.

        Computed when first asked for (about a third of a second for the competition's store), so that loading does not
        pay for it and a changed copy never carries the digest of its original.
        """
        if self.file_digest is not None:
            return self.file_digest()
        share = self.share
        names = [self.grid.lat.tobytes(), self.grid.lon.tobytes(), repr(self.variables).encode()]
        arrays = [self.statics[k] for k in sorted(self.statics)]
        names += [k.encode() for k in sorted(self.statics)]
        for s in self.values():
            forcings = sorted(s.forcings)
            names += [repr((s.name, s.members, forcings)).encode(), _stamps(s.time), s.hidden.tobytes()]
            arrays += [s.forcings[k] for k in forcings] + ([] if s.targets is None else [s.targets])
        whole = hashlib.sha256(b"\0".join(names))
        if share.divided:
            statics = len(self.statics)
            for i, array in enumerate(arrays):
                whole.update(_sha256(array) if i < statics or array.ndim < 2 else _sha256_of_all(array, share))
            return share.of_first(whole.hexdigest)
        with open_pool(2) as pool:  # hashlib releases the interpreter lock
            for part in pool.map(_sha256, arrays):
                whole.update(part)
        return whole.hexdigest()

    def kept(self, name: str, compute: Callable[[], T]) -> T:
        """What follows from the archive and takes long to compute: once, and then kept for as long as the archive is.

        Args:
            name: Of what is kept.
            compute: Computes it when it is first asked for.
        """
        if name not in self._kept:
            self._kept[name] = compute()
        return cast(T, self._kept[name])

    @property
    def on_disk(self) -> bool:
        """Whether targets are read where they are asked for, and not held."""
        return self.file_digest is not None

    @property
    def domain(self) -> Domain:
        """What an emulator trained on this archive predicts, and where."""
        return Domain(self.card, self.grid, self.variables, self.time)

    @property
    def time(self) -> TimeAxis:
        """The time axis of the scenario that begins last."""
        return max((s.time for s in self.scenarios.values()), key=lambda t: t.first)

    def __getitem__(self, name: str) -> Scenario:
        if name not in self.scenarios:
            raise ProtocolError(
                f"scenario {name} is not in {self.source}",
                found=f"scenarios {', '.join(self.scenarios)}",
                hint="choose one of those",
            )
        return self.scenarios[name]

    def __contains__(self, name: object) -> bool:
        return name in self.scenarios

    def __iter__(self) -> Iterator[str]:
        return iter(self.scenarios)

    def __len__(self) -> int:
        return len(self.scenarios)


def _stamps(time: TimeAxis) -> bytes:
    return time.months.tobytes() if time.is_monthly else repr(time).encode()


def _sha256(array: NDArray[np.generic]) -> bytes:
    array = np.ascontiguousarray(array)
    head = f"{array.dtype.str}{array.shape}".encode()
    return hashlib.sha256(head + hashlib.sha256(array.data.cast("B")).digest()).digest()


def _sha256_of_all(array: NDArray[np.generic], share: Share) -> bytes:
    """As `_sha256` of the cells of all processes, (..., T, y, x) or (..., T, V, y, x); right on the first alone."""
    whole = hashlib.sha256()
    for fields in array if array.ndim > 3 else [array]:
        for part in share.pieces_at_first(fields):
            if part is not None:
                whole.update(np.ascontiguousarray(part).data.cast("B"))
    head = f"{array.dtype.str}{(*array.shape[:-2], *share.whole_shape(array))}".encode()
    return hashlib.sha256(head + whole.digest()).digest()
