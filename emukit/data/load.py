"""Loading a store's values: every block is read once, into its place in memory.

Invariant: next to the values only each step's smallest and largest value is kept, and digests where they are asked for.
The extremes tell NaN, hidden months and units without another pass over the data; this is what keeps loading near the
cost of decompression.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from emukit.data.decode import Findings
from emukit.data.source import Blocks, Extent, Source
from emukit.data.store_layout import Layout
from emukit.errors import StoreError
from emukit.parallel.threads import open_pool
from emukit.progress import Reporter

# zstd and lz4 release the interpreter lock; more than two threads wait for memory instead.
THREADS = 2
# Steps whose values are brought into the order of a digest at once.
DIGEST_STEPS = 64

Values = NDArray[np.floating]


@dataclass
class Loaded:
    """Values as stored (units not converted) and the extremes of each step.

    Attributes:
        targets: Per scenario (M, T, V, Y, X) float32.
        forcings: Name to one array per scenario: (T, Y, X) float32 or (T,) float64. Scenarios whose values are the
            same share one array.
        low: Variable to the smallest value of each step: (S, M, T) for targets, (S, T) for forcings. NaN if any is.
        high: The same for the largest value.
        broken: Variables of which some block could not be read; their values mean nothing.
        digests: Variable to the SHA-256 of each scenario's values as stored (see `emukit.data.card.Digests`), of those
            asked for.
    """

    targets: list[NDArray[np.float32]]
    forcings: dict[str, list[Values]]
    low: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    high: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    digests: dict[str, list[str]] = field(default_factory=dict)


def load(
    source: Source, layout: Layout, findings: Findings, reporter: Reporter, digests: Collection[str] = ()
) -> Loaded:
    """Read every usable variable; blocks that cannot be read become problems in `findings`.

    Args:
        source: The store.
        layout: What its axes mean.
        findings: Where problems go.
        reporter: Where progress is shown.
        digests: Variables, float32 or float64 in the store, whose digests are taken.
    """
    s, m, t = len(layout.names), len(layout.members), len(layout.time)
    shape = (m, t, len(layout.targets), *layout.grid.shape)
    loaded = Loaded([np.zeros(shape, np.float32) for _ in range(s if layout.targets else 0)], {})
    first: list[Task] = []
    then: list[Task] = []
    for v, (name, axes) in enumerate(layout.targets.items()):
        loaded.low[name], loaded.high[name] = np.full((2, s, m, t), np.nan)
        blocks = source.blocks(name, axes)
        then += [Task(name, partial(_read_target, blocks, r, v, loaded)) for r in blocks.regions()]
    fields: list[_Field] = []
    for name, forcing_axes in layout.forcings.items():
        passing = name in digests and forcing_axes is not None and source.ds[name].dtype.itemsize > 4
        fields.append(_Field(source.blocks(name, forcing_axes), layout, loaded, passing))
        for r in fields[-1].blocks.regions():
            (then if r.scenarios[0] else first).append(Task(name, partial(fields[-1].read, r)))
    with reporter.step("read store", len(first) + len(then)) as step:
        # The first scenario's forcings come first: the others are compared with them.
        for batch in (first, then):
            _run(batch, loaded, findings, step.advance)
    for f in fields:
        f.finish(loaded)
    held = [v for v in digests if v not in loaded.digests and v not in loaded.broken]
    with open_pool(THREADS) as pool:  # hashlib releases the interpreter lock
        taken = {v: [pool.submit(_held_digest, layout, loaded, v, i) for i in range(s)] for v in held}
    loaded.digests |= {v: [f.result() for f in of] for v, of in taken.items()}
    return loaded


def _held_digest(layout: Layout, loaded: Loaded, name: str, s: int) -> str:
    """Digest of values that are held as they are stored."""
    if name in loaded.forcings:
        first = next(i for i, a in enumerate(loaded.forcings[name]) if a is loaded.forcings[name][s])
        return digest_of(loaded.forcings[name][s]) if first == s else _held_digest(layout, loaded, name, first)
    v, targets = list(layout.targets).index(name), loaded.targets[s]
    if not (loaded.low[name][s].any() or loaded.high[name][s].any()):
        return zeros_digest(targets[:, :, v].size)
    digest = hashlib.sha256()
    for first in range(0, targets.shape[1], DIGEST_STEPS):
        digest.update(_little(targets[:, first : first + DIGEST_STEPS, v].swapaxes(0, 1)))
    return digest.hexdigest()


def digest_of(values: Values) -> str:
    """SHA-256 of values, little-endian, in the order of their dimensions."""
    return hashlib.sha256(_little(values)).hexdigest()


def _little(values: Values) -> memoryview:
    return np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data


@cache
def zeros_digest(size: int) -> str:
    """Digest of so many float32 zeros: of targets that are hidden throughout."""
    return digest_of(np.zeros(size, np.float32))


@dataclass(frozen=True)
class Task:
    """A block to read."""

    variable: str
    read: Callable[[], None]


def _run(tasks: list[Task], loaded: Loaded, findings: Findings, advance: Callable[[], None]) -> None:
    with open_pool(THREADS) as pool:
        futures = [pool.submit(task.read) for task in tasks]
        try:
            for task, future in zip(tasks, futures, strict=True):
                try:
                    future.result()
                except StoreError as e:
                    loaded.broken.add(task.variable)
                    findings.problems.append(e)
                advance()
        except BaseException:  # Ctrl-C, or a bug: do not read on
            pool.shutdown(cancel_futures=True)
            raise


def _extremes(part: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    flat = part.reshape(len(part), -1)
    with np.errstate(invalid="ignore"):
        return flat.min(axis=1), flat.max(axis=1)


def _read_target(blocks: Blocks, region: Extent, v: int, loaded: Loaded) -> None:
    block = blocks.read(region)
    months = slice(*region.months)
    for i, s in enumerate(range(*region.scenarios)):
        for j, m in enumerate(range(*region.members)):
            part = block[i, :, j]
            low, high = _extremes(part)
            loaded.low[blocks.name][s, m, months], loaded.high[blocks.name][s, m, months] = low, high
            if low.any() or high.any():  # hidden blocks stay the zeros that they are: they then cost no memory
                loaded.targets[s][m, months, v] = part


class _Field:
    """One forcing. Scenarios equal to the first share its array: memory that is never written is never used."""

    def __init__(self, blocks: Blocks, layout: Layout, loaded: Loaded, digests: bool) -> None:
        self.blocks = blocks
        s, t = len(layout.names), len(layout.time)
        shape, dtype = ((t, *layout.grid.shape), np.float32) if blocks.axes else ((t,), np.float64)
        self._arrays: list[Values] = [np.empty(shape, dtype) for _ in range(s)]
        self._equal: list[list[slice]] = [[] for _ in range(s)]
        self._differs = np.zeros(s, bool)
        # float64 is held as float32: its digest is taken of what passes by.
        self._digests = [_Passing() for _ in range(s if digests else 0)]
        self._low, self._high = np.full((2, s, t), np.nan)
        self._lock = threading.Lock()
        loaded.low[blocks.name], loaded.high[blocks.name] = self._low, self._high

    def read(self, region: Extent) -> None:
        block = self.blocks.read(region)[:, :, 0]
        months = slice(*region.months)
        for i, s in enumerate(range(*region.scenarios)):
            if self._digests:
                self._digests[s].add(region.months[0], block[i])
            out, base = self._arrays[s][months], self._arrays[0][months]
            # One month tells most differing blocks apart, without a copy of the block.
            if s and all(np.array_equal(block[i, :n].astype(out.dtype, copy=False), base[:n]) for n in (1, None)):
                self._low[s, months], self._high[s, months] = self._low[0, months], self._high[0, months]
                with self._lock:
                    self._equal[s].append(months)
                continue
            out[...] = block[i]
            self._differs[s] = True
            self._low[s, months], self._high[s, months] = _extremes(out)

    def finish(self, loaded: Loaded) -> None:
        """Share the arrays that are equal; complete those that are equal in part only."""
        first = self._arrays[0]
        for s in range(1, len(self._arrays)):
            if not self._differs[s]:
                self._arrays[s] = first
                self._low[s], self._high[s] = self._low[0], self._high[0]
                continue
            for months in self._equal[s]:
                self._arrays[s][months] = first[months]
        loaded.forcings[self.blocks.name] = self._arrays
        if self._digests and self.blocks.name not in loaded.broken:
            loaded.digests[self.blocks.name] = [d.hexdigest() for d in self._digests]


class _Passing:
    """SHA-256 of consecutive months that two threads read: what comes early waits for what is before it."""

    def __init__(self) -> None:
        self._sha, self._next = hashlib.sha256(), 0
        self._early: dict[int, Values] = {}
        self._lock = threading.Lock()

    def add(self, month: int, values: Values) -> None:
        with self._lock:
            self._early[month] = values
            while self._next in self._early:
                part = self._early.pop(self._next)
                self._sha.update(_little(part))
                self._next += len(part)

    def hexdigest(self) -> str:
        return self._sha.hexdigest()
