"""An archive from a folder of daily files: in memory, or on disk where it does not fit.

Invariant: both hold the same values, bit for bit. A forcing of a year or a month has one value on every day of it;
nothing is interpolated, and no file is joined with another along an axis that they do not share. On disk, no whole
scenario is ever held: at most one block of days and rows, as large as `BLOCK_BYTES` or as one chunk of the files asks
for, is kept between reads.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from emukit.cache import find_answer, keep_answer
from emukit.data.archive import Archive, Scenario
from emukit.data.card import Card
from emukit.data.daily import DAYS, DailyStore
from emukit.data.daily_folder import DailyFolder, DailyScenario, FolderSurvey, Forcing, survey_folder
from emukit.data.grid import weighted_mean
from emukit.data.residency import host_free
from emukit.data.time import DAY_MINUTES, TimeAxis
from emukit.errors import StoreError
from emukit.files import sha256
from emukit.progress import Reporter
from emukit.terminal import size

CALENDAR = "noleap"
# The attribute by which files of `emukit data demo` say how they were made.
DEMO_SETTINGS = "demo_settings"
# Share of the free memory that fields may take: training needs room too. More than so many bytes stay on disk on every
# machine; the lite files take 2 GB.
SHARE, MOST_BYTES = 0.5, 32 << 30
# Of the block that is kept: all days of a band of rows, where chunks hold many days, take this much.
BLOCK_BYTES = 1 << 30
# Steps of a map of forcings that are read at once.
STEPS = 120


def archive_from_folder(path: Path | str, card: Card | str | None, reporter: Reporter) -> Archive:
    """Open a folder of daily files: read into memory if it fits, else left on disk.

    Scenarios whose targets are in no file are there with their forcings, all of their days hidden.

    Args:
        path: As `open_folder`.
        card: As `open_folder`.
        reporter: Shows the progress.

    Raises:
        StoreError: The folder cannot be read.
    """
    survey = FolderSurvey()
    with ExitStack() as stack:
        folder = survey_folder(Path(path), card, stack, survey)
        if survey.problems:
            raise survey.problems[0]
        if folder is None:
            raise AssertionError("a folder without problems opens")
        needed = _bytes(folder)
        if needed > min(SHARE * host_free(), MOST_BYTES):
            reporter.say(f"{size(needed)} of daily fields stay on disk, and are read a part at a time")
            archive = _on_disk(folder, str(path), reporter)
            # The files stay open for as long as anything reads them.
            weakref.finalize(folder, stack.pop_all().close)
            return archive
        variables = tuple(folder.card.targets)
        scenarios = {}
        work = len(variables) * sum(s.targets is not None for s in folder.scenarios.values())
        with reporter.step("read days", work) as bar:
            for name, held in folder.scenarios.items():
                scenarios[name] = _scenario(folder, held, variables)
                if held.targets is not None:
                    bar.advance(len(variables), note=name)
        return Archive(
            folder.card,
            str(path),
            folder.grid,
            variables,
            scenarios,
            notes=folder.oddities,
            made_up=DEMO_SETTINGS in folder.attributes,
        )


def _on_disk(folder: DailyFolder, source: str, reporter: Reporter) -> Archive:
    targets = stored_targets(folder)
    scenarios = {name: _stored_scenario(folder, held, targets.get(name)) for name, held in folder.scenarios.items()}
    return Archive(
        folder.card,
        source,
        folder.grid,
        tuple(folder.card.targets),
        scenarios,
        notes=folder.oddities,
        bands=bands_of([*targets.values()], folder.grid.shape[0]),
        file_digest=cache(lambda: digest_of_files(folder, reporter)),
        made_up=DEMO_SETTINGS in folder.attributes,
    )


def _stored_scenario(folder: DailyFolder, held: DailyScenario, targets: DailyTargets | None) -> Scenario:
    time = _time(held)
    forcings: dict[str, NDArray[np.floating]] = {}
    for name, forcing in held.forcings.items():
        if forcing.is_map:
            stored = StoredForcing(folder, forcing, _places(forcing, time))
            # What reads more of it than its area means does not train on an archive on disk.
            forcings[name] = cast(Any, stored)
        else:
            forcings[name] = _on_days(forcing, time)
    return Scenario(held.name, time, forcings, (0,), None, np.full(held.days, targets is None), targets)


def _time(held: DailyScenario) -> TimeAxis:
    first_year = held.years[0] if held.targets is None else held.targets.years[0]
    return TimeAxis("day", first_year * DAYS * DAY_MINUTES, held.days, CALENDAR)


def outline_of(folder: DailyFolder, source: str) -> Archive:
    """The scenarios and their steps without any values: enough to cut protocols from, and made at once."""
    scenarios = {
        name: Scenario(name, _time(held), {}, (0,), _no_values(folder, held), np.full(held.days, held.targets is None))
        for name, held in folder.scenarios.items()
    }
    return Archive(folder.card, source, folder.grid, tuple(folder.card.targets), scenarios)


def _no_values(folder: DailyFolder, held: DailyScenario) -> NDArray[np.float32]:
    """Zeros that take no memory, where only the shape of targets is asked for."""
    return np.broadcast_to(np.float32(0), (1, held.days, len(folder.card.targets), *folder.grid.shape))


def _scenario(folder: DailyFolder, held: DailyScenario, variables: tuple[str, ...]) -> Scenario:
    time = _time(held)
    targets = _no_values(folder, held)
    if held.targets is not None:
        targets = np.empty_like(targets, order="C")
        for v, name in enumerate(variables):
            targets[0, :, v] = held.targets.read(name, 0, held.days)
    forcings = {name: _on_days(forcing, time) for name, forcing in held.forcings.items()}
    return Scenario(held.name, time, forcings, (0,), targets, np.full(held.days, held.targets is None))


def _on_days(forcing: Forcing, time: TimeAxis) -> NDArray[np.floating]:
    """(T,) float64 or (T, Y, X) float32: the value of its own step on every day."""
    values, place = forcing.read(), _places(forcing, time)
    if values.ndim == 3:
        stepped: Any = SteppedForcing(np.asarray(values, np.float32), place)
        return cast(NDArray[np.floating], stepped)
    return np.asarray(values[place], np.float64)


def _places(forcing: Forcing, time: TimeAxis) -> NDArray[np.int64]:
    """(T,) which step of a forcing each day belongs to.

    Raises:
        StoreError: A day has none.
    """
    steps = forcing.years * 12 + forcing.months
    wanted = time.year * 12 + (time.month if forcing.step == "month" else 0)
    place = np.searchsorted(steps, wanted)
    inside = place < len(steps)
    if not inside.all() or (steps[place] != wanted).any():
        raise StoreError(
            f"the forcing {forcing.name} does not cover all days",
            found=f"{forcing.years[0]} to {forcing.years[-1]}",
            expected=f"{time.text(0)} to {time.text(-1)}",
        )
    return np.asarray(place, np.int64)


def _bytes(folder: DailyFolder) -> int:
    """Of the fields that would be held in memory."""
    cells = folder.grid.shape[0] * folder.grid.shape[1]
    total = 0
    for held in folder.scenarios.values():
        fields = held.days * len(folder.card.targets) if held.targets is not None else 0
        fields += sum(forcing.steps for forcing in held.forcings.values() if forcing.is_map)
        total += 4 * cells * fields
    return total


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


class SteppedForcing:
    """Maps of a forcing on the days of a scenario, each held once: on every day they would take 30 times the memory.

    It is indexed as an array (T, Y, X) is, and becomes one where an array is asked for.
    """

    ndim = 3
    dtype = np.dtype(np.float32)

    def __init__(self, maps: NDArray[np.float32], place: NDArray[np.int64]) -> None:
        """Use `archive_from_folder`.

        Args:
            maps: (S, Y, X) on an axis of their own.
            place: (T,) which of them belongs to each day.
        """
        self._maps, self._place = maps, place
        self.shape = (len(place), *maps.shape[1:])
        self.nbytes = maps.nbytes

    def __len__(self) -> int:
        return len(self._place)

    def __getitem__(self, index: Any) -> Any:
        first, *others = index if isinstance(index, tuple) else (index,)
        return self._maps[(self._place[first], *others)]

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        """On every day."""
        return np.asarray(self._maps[self._place], dtype)

    def area_mean(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(T,) sum over cells times (Y, X) weights."""
        return np.asarray(weighted_mean(self._maps, weights)[self._place], np.float64)


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
