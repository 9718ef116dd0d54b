"""Loading a store's values: every block is read once, into its place in memory.

Invariant: next to the values only each step's smallest and largest value is kept, and digests where they are asked for.
The extremes tell NaN, hidden months and units without another pass over the data; this is what keeps loading near the
cost of decompression. Processes that share a globe hold their own cells; extremes, digests and what could not be read
are those of all cells, the same on each of them.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emukit.data.decode import Findings
from emukit.data.source import Blocks, Extent, Source
from emukit.data.store_layout import Layout
from emukit.errors import StoreError
from emukit.parallel.share import ALONE, Share
from emukit.parallel.threads import open_pool
from emukit.progress import Reporter

# zstd and lz4 release the interpreter lock; more than two threads wait for memory instead.
THREADS = 2

Values = NDArray[np.floating]


@dataclass
class Loaded:
    """Values as stored (units not converted) and the extremes of each step.

    Attributes:
        targets: Per scenario (M, T, V, y, x) float32, of the cells that are held.
        forcings: Name to one array per scenario: (T, y, x) float32 or (T,) float64. Scenarios whose values are the
            same share one array.
        share: Which cells are held.
        low: Variable to the smallest value of each step: (S, M, T) for targets, (S, T) for forcings. NaN if any is.
        high: The same for the largest value.
        broken: Variables of which some block could not be read; their values mean nothing.
        digests: Variable to the SHA-256 of each scenario's values as stored (see `emukit.data.card.Digests`), of those
            asked for.
    """

    targets: list[NDArray[np.float32]]
    forcings: dict[str, list[Values]]
    share: Share = ALONE
    low: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    high: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    digests: dict[str, list[str]] = field(default_factory=dict)


def load(
    source: Source,
    layout: Layout,
    findings: Findings,
    reporter: Reporter,
    digests: Collection[str] = (),
    share: Share = ALONE,
) -> Loaded:
    """Read every usable variable; blocks that cannot be read become problems in `findings`.

    Args:
        source: The store.
        layout: What its axes mean.
        findings: Where problems go.
        reporter: Where progress is shown.
        digests: Variables, float32 or float64 in the store, whose digests are taken.
        share: Which cells are read and held.
    """
    s, m, t = len(layout.names), len(layout.members), len(layout.time)
    shape = (m, t, len(layout.targets), *share.shape(layout.grid.shape))
    loaded = Loaded([np.zeros(shape, np.float32) for _ in range(s if layout.targets else 0)], {}, share)
    first: list[Task] = []
    then: list[Task] = []
    for v, (name, axes) in enumerate(layout.targets.items()):
        loaded.low[name], loaded.high[name] = np.full((2, s, m, t), np.nan)
        blocks = source.blocks(name, axes)
        then += [Task(name, partial(_read_target, blocks, r, v, loaded)) for r in blocks.regions()]
    fields: list[_Field] = []
    together: list[_Field] = []
    for name, forcing_axes in layout.forcings.items():
        passing = name in digests and forcing_axes is not None and source.ds[name].dtype.itemsize > 4
        fields.append(_Field(source.blocks(name, forcing_axes), layout, loaded, passing))
        if passing and share.divided:
            # Rows of all processes meet in the digest, in order.
            together.append(fields[-1])
            continue
        for r in fields[-1].blocks.regions():
            (then if r.scenarios[0] else first).append(Task(name, partial(fields[-1].read, r)))
    with reporter.step("read store", len(first) + len(then)) as step:
        # The first scenario's forcings come first: the others are compared with them.
        for batch in (first, then):
            _run(batch, loaded, findings, step.advance)
    for f in together:
        f.read_together(loaded, findings)
    _agree(loaded, findings)
    for f in fields:
        f.finish(loaded)
    # In an order that all processes have.
    held = [v for v in loaded.low if v in digests and v not in loaded.digests and v not in loaded.broken]
    if share.divided:
        loaded.digests |= {v: [_held_digest(layout, loaded, v, i) for i in range(s)] for v in held}
        return loaded
    with open_pool(THREADS) as pool:  # hashlib releases the interpreter lock
        taken = {v: [pool.submit(_held_digest, layout, loaded, v, i) for i in range(s)] for v in held}
    loaded.digests |= {v: [f.result() for f in of] for v, of in taken.items()}
    return loaded


def _agree(loaded: Loaded, findings: Findings) -> None:
    """Let all processes know what each could not read, and the extremes of all cells."""
    share = loaded.share
    if not share.divided:
        return
    own = [[p.what, p.found, p.expected, p.hint] for p in findings.problems]
    said = [json.loads(text) for text in share.texts(json.dumps([own, sorted(loaded.broken)]))]
    findings.problems.clear()
    for problems, broken in said:
        loaded.broken.update(broken)
        for what, found, expected, hint in problems:
            findings.refuse(what, found=found, expected=expected, hint=hint)
    for name in loaded.low:
        # In place: who reads a variable fills the same arrays.
        loaded.low[name][...], loaded.high[name][...] = share.extremes(loaded.low[name], loaded.high[name])


def _held_digest(layout: Layout, loaded: Loaded, name: str, s: int) -> str:
    """Digest of values that are held as they are stored."""
    share = loaded.share
    if name in loaded.forcings:
        values = loaded.forcings[name][s]
        first = next(i for i, a in enumerate(loaded.forcings[name]) if a is values)
        if first < s:
            return _held_digest(layout, loaded, name, first)
        return digest_of(values) if values.ndim == 1 else _digest_of_all(values, share)
    v, targets = list(layout.targets).index(name), loaded.targets[s]
    if not (loaded.low[name][s].any() or loaded.high[name][s].any()):
        rows, columns = layout.grid.shape
        return zeros_digest(targets.shape[0] * targets.shape[1] * rows * columns)
    return _digest_of_all(targets[:, :, v].swapaxes(0, 1), share)


def _digest_of_all(values: Values, share: Share) -> str:
    """SHA-256 of (T, ..., y, x) values of all cells, little-endian, in the order of their dimensions."""
    digest = hashlib.sha256()
    for part in share.pieces_at_first(values):
        if part is not None:
            digest.update(_little(part))
    return share.of_first(digest.hexdigest)


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
    block = blocks.read(region, loaded.share)
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
        self.blocks, self._share = blocks, loaded.share
        s, t = len(layout.names), len(layout.time)
        cells = loaded.share.shape(layout.grid.shape)
        shape, dtype = ((t, *cells), np.float32) if blocks.axes else ((t,), np.float64)
        self._arrays: list[Values] = [np.empty(shape, dtype) for _ in range(s)]
        self._equal: list[list[slice]] = [[] for _ in range(s)]
        self._differs = np.zeros(s, bool)
        # float64 is held as float32: its digest is taken of what passes by.
        self._digests = [_Passing() for _ in range(s if digests else 0)]
        self._low, self._high = np.full((2, s, t), np.nan)
        self._lock = threading.Lock()
        loaded.low[blocks.name], loaded.high[blocks.name] = self._low, self._high

    def read(self, region: Extent) -> None:
        block = self._block(region)
        for i, s in enumerate(range(*region.scenarios) if self._digests else ()):
            self._digests[s].add(region.months[0], block[i])
        self._keep(region, block)

    def read_together(self, loaded: Loaded, findings: Findings) -> None:
        """Read all of it, in order, and have the first process take digests of all cells."""
        for region in self.blocks.regions():
            try:
                block = self._block(region)
            except StoreError as e:
                # The others wait for this process's cells all the same.
                loaded.broken.add(self.blocks.name)
                findings.problems.append(e)
                spans = (region.scenarios, region.months)
                cells = self._arrays[0].shape[1:]
                block = np.zeros((*(b - a for a, b in spans), *cells), self.blocks.variable.dtype)
            for i, s in enumerate(range(*region.scenarios)):
                whole = self._share.at_first(block[i])
                if whole is not None:
                    self._digests[s].add(region.months[0], whole)
            self._keep(region, block)

    def _block(self, region: Extent) -> NDArray[Any]:
        return self.blocks.read(region, self._share)[:, :, 0]

    def _keep(self, region: Extent, block: NDArray[Any]) -> None:
        months = slice(*region.months)
        for i, s in enumerate(range(*region.scenarios)):
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
        first, differs = self._arrays[0], self._share.any(self._differs)
        for s in range(1, len(self._arrays)):
            if not differs[s]:
                self._arrays[s] = first
                self._low[s], self._high[s] = self._low[0], self._high[0]
                continue
            for months in self._equal[s]:
                self._arrays[s][months] = first[months]
        loaded.forcings[self.blocks.name] = self._arrays
        if self._digests and self.blocks.name not in loaded.broken:
            loaded.digests[self.blocks.name] = [self._share.of_first(d.hexdigest) for d in self._digests]


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
