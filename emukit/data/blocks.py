"""Reading a store's arrays block by block into arrays that already exist.

Invariant: a block follows the store's chunks, so that every chunk is decompressed once and no array is held twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.decode import ROLES, Axes, role

# Two threads: zstd and lz4 release the interpreter lock, and more than two wait for memory instead.
THREADS = 2
BLOCK_MONTHS = 120


@dataclass(frozen=True)
class Region:
    """Scenarios [s0, s1) and months [t0, t1) of one variable."""

    s0: int
    s1: int
    t0: int
    t1: int


class Blocks:
    """One variable, readable in regions of scenarios and months.

    Args:
        variable: Lazily loaded or in memory; any order of dimensions.
        axes: Its horizontal dimensions, or None for a global series.
    """

    def __init__(self, name: str, variable: xr.Variable, axes: Axes | None) -> None:
        self.name, self.variable, self.axes = name, variable, axes
        dims = {role(d): d for d in variable.dims}
        self._order = [dims[r] for r in ROLES if r in dims]
        self._scenario, self._time = dims.get("scenario"), dims.get("time")
        chunks = variable.encoding.get("preferred_chunks", {})
        n = variable.sizes[self._time] if self._time else 1
        chunk = int(chunks.get(self._time, min(n, BLOCK_MONTHS)))
        self._months = chunk * max(1, BLOCK_MONTHS // chunk)
        self._scenarios = int(chunks.get(self._scenario, 1))

    @property
    def has_member(self) -> bool:
        """Whether there is a member dimension."""
        return any(role(d) == "member" for d in self.variable.dims)

    def regions(self, scenarios: int, months: int) -> Iterator[Region]:
        """Regions that cover the variable, each a whole number of chunks."""
        for s in range(0, scenarios, self._scenarios):
            for t in range(0, months, self._months):
                yield Region(s, min(s + self._scenarios, scenarios), t, min(t + self._months, months))

    def read(self, region: Region) -> NDArray[np.floating]:
        """(S, T, [M], [Y, X]) of a region, oriented as emukit's grid; a view of the data where it is in memory."""
        index = {self._time: slice(region.t0, region.t1)}
        if self._scenario is not None:
            index[self._scenario] = slice(region.s0, region.s1)
        block = self.variable.isel(index).transpose(*self._order).values
        if self._scenario is None:
            block = block[None]
        return self.axes.orient(block) if self.axes else block


def run(tasks: Iterable[Callable[[], None]]) -> None:
    """Run tasks on `THREADS` threads; the first error stops the rest."""
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(task) for task in tasks]
        try:
            for future in futures:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
