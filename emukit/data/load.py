"""Loading a store's values: every block is read once, into its place in memory.

Invariant: beside the values only each month's smallest and largest value is kept. They tell NaN, hidden months and
units without another pass over the data; this is what keeps loading near the cost of decompression.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from emukit.data.blocks import Blocks, Region
from emukit.data.decode import Findings
from emukit.data.layout import Layout
from emukit.data.source import Source
from emukit.errors import StoreError
from emukit.parallel.threads import open_pool
from emukit.progress import Reporter

# zstd and lz4 release the interpreter lock; more than two threads wait for memory instead.
THREADS = 2

Values = NDArray[np.floating]


@dataclass
class Loaded:
    """Values as stored (units not converted) and their monthly extremes.

    Attributes:
        targets: Per scenario (M, T, V, Y, X) float32.
        forcings: Name to one array per scenario: (T, Y, X) float32 or (T,) float64. Scenarios whose values are the
            same share one array.
        low: Variable to the smallest value of each month: (S, M, T) for targets, (S, T) for forcings. NaN if any is.
        high: The same for the largest value.
        broken: Variables of which some block could not be read; their values mean nothing.
    """

    targets: list[NDArray[np.float32]]
    forcings: dict[str, list[Values]]
    low: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    high: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)


def load(source: Source, layout: Layout, findings: Findings, reporter: Reporter) -> Loaded:
    """Read every usable variable; blocks that cannot be read become problems in `findings`."""
    s, m, t = len(layout.names), len(layout.members), len(layout.months)
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
        fields.append(_Field(source.blocks(name, forcing_axes), layout, loaded))
        for r in fields[-1].blocks.regions():
            (then if r.scenarios[0] else first).append(Task(name, partial(fields[-1].read, r)))
    with reporter.step("read store", len(first) + len(then)) as step:
        # The first scenario's forcings come first: the others are compared with them.
        for batch in (first, then):
            _run(batch, loaded, findings, step.advance)
    for f in fields:
        f.finish(loaded)
    return loaded


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


def _read_target(blocks: Blocks, region: Region, v: int, loaded: Loaded) -> None:
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

    def __init__(self, blocks: Blocks, layout: Layout, loaded: Loaded) -> None:
        self.blocks = blocks
        s, t = len(layout.names), len(layout.months)
        shape, dtype = ((t, *layout.grid.shape), np.float32) if blocks.axes else ((t,), np.float64)
        self._arrays: list[Values] = [np.empty(shape, dtype) for _ in range(s)]
        self._equal: list[list[slice]] = [[] for _ in range(s)]
        self._differs = np.zeros(s, bool)
        self._low, self._high = np.full((2, s, t), np.nan)
        self._lock = threading.Lock()
        loaded.low[blocks.name], loaded.high[blocks.name] = self._low, self._high

    def read(self, region: Region) -> None:
        block = self.blocks.read(region)[:, :, 0]
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
        first = self._arrays[0]
        for s in range(1, len(self._arrays)):
            if not self._differs[s]:
                self._arrays[s] = first
                self._low[s], self._high[s] = self._low[0], self._high[0]
                continue
            for months in self._equal[s]:
                self._arrays[s][months] = first[months]
        loaded.forcings[self.blocks.name] = self._arrays
