"""Fields that stay on disk: the daily targets and the maps of forcings of a folder that does not fit into memory.

Invariant: what is read is what an archive in memory would hold, bit for bit. No whole scenario is ever held: at most
one block of days and rows, as large as `BLOCK_BYTES` or as one chunk of the files asks for, is kept between reads.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emukit.cache import find_answer, keep_answer
from emukit.data.daily import DAYS, DailyStore
from emukit.data.daily_folder import DailyFolder, Forcing
from emukit.data.grid import weighted_mean
from emukit.errors import StoreError
from emukit.files import sha256
from emukit.progress import Reporter

# Of the block that is kept: all days of a band of rows, where chunks hold many days, take this much.
BLOCK_BYTES = 1 << 30
# Steps of a map of forcings that are read at once.
STEPS = 120


@dataclass
class _Kept:
    """The block that was read last, of all scenarios of an archive: another one takes its place."""

    key: tuple[object, ...] = ()
    values: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0, 0), np.float32))


class DailyTargets:
    """Targets of one scenario, read a block at a time in the order that its chunks favour."""

    def __init__(self, folder: DailyFolder, store: DailyStore, kept: _Kept) -> None:
        variables = tuple(folder.card.targets)
        self.variables = len(variables)
        # Files are open for as long as their folder is.
        self._folder = folder
        self._store, self._names, self._kept = store, variables, kept
        self._plans = {name: store.plan(name, BLOCK_BYTES) for name in dict.fromkeys(variables)}

    @property
    def rows_at_once(self) -> int:
        """Rows of the bands in which it is read fastest; all rows, where its chunks hold few days."""
        return min(rows for _, rows in self._plans.values())

    def read(self, variable: int, start: int, stop: int, rows: slice = slice(None)) -> NDArray[np.float32]:
        """(stop - start, rows, X) days [start, stop) of a variable.

        A piece of a block of several years, or of a band of rows, is taken from that block, which is kept. What lies
        in no such block is read by itself.

        Raises:
            StoreError: As `DailyStore.read`.
        """
        name = self._names[variable]
        years, band = self._plans[name]
        all_rows = self._store.grid.shape[0]
        first, last, _ = rows.indices(all_rows)
        block = years * DAYS
        begin = start // block * block
        whole_rows = band == all_rows
        one_year = years == 1 and whole_rows
        if one_year or stop > begin + block or (whole_rows != (last - first == all_rows)):
            return self._store.read(name, start, stop, rows)
        key = (id(self), name, begin, first, last)
        if self._kept.key != key:
            self._kept.key, self._kept.values = (), np.zeros((0, 0, 0), np.float32)
            end = min(begin + block, self._store.days)
            self._kept.values = self._store.read(name, begin, end, slice(first, last))
            self._kept.key = key
        return self._kept.values[start - begin : stop - begin].copy()


class StoredForcing:
    """Maps of a forcing on the steps of a scenario, each of them those of its month or year on disk."""

    ndim = 3
    dtype = np.dtype(np.float32)

    def __init__(self, folder: DailyFolder, forcing: Forcing, place: NDArray[np.int64]) -> None:
        """Use `archive_from_folder`.

        Args:
            folder: Whose files hold it.
            forcing: The maps, on an axis of their own.
            place: (T,) which of them belongs to each step.
        """
        self._folder, self._forcing, self._place = folder, forcing, place
        self.shape = (len(place), *folder.grid.shape)
        self._means: dict[bytes, NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return len(self._place)

    def area_mean(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(T,) sum over cells times (Y, X) weights; each map is read once, and what comes out is remembered."""
        key = weights.tobytes()
        if key not in self._means:
            steps = self._forcing.steps
            parts = [
                weighted_mean(self._forcing.read(i, min(i + STEPS, steps)).astype(np.float32), weights)
                for i in range(0, steps, STEPS)
            ]
            self._means[key] = np.concatenate(parts)
        return np.asarray(self._means[key][self._place], np.float64)

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        """Refuse what would fill the memory.

        Raises:
            StoreError: Always.
        """
        raise StoreError(
            f"the maps of {self._forcing.name} do not fit into memory",
            found=f"{self.shape[0]:,} days of {self.shape[1]} x {self.shape[2]} cells",
            expected="something that reads their area means alone",
            hint="use the lite files",
        )


def stored_targets(folder: DailyFolder) -> dict[str, DailyTargets]:
    """The targets of every scenario of an open folder that has some."""
    kept = _Kept()
    return {
        name: DailyTargets(folder, held.targets, kept)
        for name, held in folder.scenarios.items()
        if held.targets is not None
    }


def bands_of(targets: Sequence[DailyTargets], rows: int) -> tuple[slice, ...]:
    """The rows of the grid, in bands in which every scenario can be read at once."""
    step = min((t.rows_at_once for t in targets), default=rows)
    return tuple(slice(first, min(first + step, rows)) for first in range(0, rows, step))


def digest_of_files(folder: DailyFolder, reporter: Reporter) -> str:
    """SHA-256 of the names and bytes of the files of a folder.

    What a file of the same place, size and times had the last time is not computed again.
    """
    names = sorted({name for held in folder.scenarios.values() for name in held.files})
    lines = []
    with reporter.step("digest of the files", len(names)) as step:
        for name in names:
            lines.append(f"{name} {_file_digest(folder.path / name)}")
            step.advance(note=name)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    found = path.stat()
    key = {"path": str(path.resolve()), "size": found.st_size, "times": [found.st_mtime_ns, found.st_ctime_ns]}
    kept = find_answer("file-digest", key)
    if isinstance(kept, str):
        return kept
    digest = sha256(path)
    keep_answer("file-digest", key, digest)
    return digest
