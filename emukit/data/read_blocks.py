"""Reading a store's arrays block by block into arrays that already exist.

Invariant: a block follows the store's chunks, so that every chunk is decompressed once and no array is held twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.chunk_files import READ_ERRORS, ChunkedArray, read_problem
from emukit.data.decode import ROLES, Axes, role

# Where chunks do not say how much to read at once: a few megabytes, which stay in the cache.
BLOCK_MONTHS = 120


@dataclass(frozen=True)
class Region:
    """Scenarios, months and members of one variable, each half open; members are (0, 1) where it has none."""

    scenarios: tuple[int, int]
    months: tuple[int, int]
    members: tuple[int, int]


class Blocks:
    """One variable, readable in regions.

    Args:
        name: Its name.
        variable: Its values, lazy or in memory; any order of dimensions.
        axes: Its horizontal dimensions, or None for a global series.
        chunked: Its chunk files, where its values are those of a Zarr array on disk.
    """

    def __init__(
        self, name: str, variable: xr.Variable, axes: Axes | None, chunked: ChunkedArray | None = None
    ) -> None:
        self.name, self.variable, self.axes = name, variable, axes
        self.dims = {role(d): d for d in variable.dims}
        stored = variable.encoding.get("preferred_chunks") or {}
        self._chunk: dict[Any, int] = {d: int(c) for d, c in stored.items() if d in variable.dims}
        if chunked:
            self._chunk = dict(zip(variable.dims, chunked.chunk, strict=True))
        # A chunk that holds part of the grid cannot be oriented alone: such a variable goes through xarray.
        whole = all(self._chunk.get(d, 0) >= variable.sizes[d] for r, d in self.dims.items() if r in ("lat", "lon"))
        self._chunked = chunked if whole else None

    def _cuts(self, what: str, default: int) -> list[tuple[int, int]]:
        dim = self.dims.get(what)
        if dim is None:
            return [(0, 1)]
        n, step = self.variable.sizes[dim], self._chunk.get(dim, default)
        if not self._chunked:
            step *= max(1, default // step)
        return [(i, min(i + step, n)) for i in range(0, n, step)]

    def regions(self) -> Iterator[Region]:
        """Regions that cover the variable, each a whole number of chunks."""
        for scenarios in self._cuts("scenario", 1):
            for months in self._cuts("time", BLOCK_MONTHS):
                for members in self._cuts("member", 1):
                    yield Region(scenarios, months, members)

    def read(self, region: Region) -> NDArray[Any]:
        """(S, T, M, [Y, X]) of a region, oriented as emukit's grid; a view where the data is in memory.

        Raises:
            StoreError: The region cannot be read.
        """
        spans = {"scenario": region.scenarios, "time": region.months, "member": region.members}
        index = {self.dims[r]: slice(*span) for r, span in spans.items() if r in self.dims}
        if self._chunked:
            coords = tuple(index[d].start // self._chunk[d] if d in index else 0 for d in self.variable.dims)
            block = self._chunked.read(self._chunked.at(coords))
        else:
            block = self._read_lazily(index)
        order = [r for r in ROLES if r in self.dims]
        block = block.transpose([self.variable.dims.index(self.dims[r]) for r in order])
        missing = tuple(i for i, r in enumerate(("scenario", "time", "member")) if r not in self.dims)
        block = np.expand_dims(block, missing)
        return self.axes.orient(block) if self.axes else block

    def _read_lazily(self, index: dict[Any, slice]) -> NDArray[Any]:
        try:
            return np.asarray(self.variable.isel(index).values)
        except READ_ERRORS as e:
            where = ", ".join(f"{d} {s.start}..{s.stop - 1}" for d, s in index.items())
            raise read_problem(f"{self.name} cannot be read at {where}", e) from e
