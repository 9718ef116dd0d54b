"""An archive from a folder of daily files: in memory, or on disk where it does not fit.

Invariant: both hold the same values. A forcing of a year or a month has one value on every day of it; nothing is
interpolated, and no file is joined with another along an axis that they do not share.
"""

from __future__ import annotations

import weakref
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Scenario
from emukit.data.card import Card
from emukit.data.daily_folder import DailyFolder, DailyScenario, Forcing, Survey, survey_folder
from emukit.data.residency import host_free
from emukit.data.stored import DailyTargets, StoredForcing, bands_of, digest_of_files, stored_targets
from emukit.data.time import DAY_MINUTES, TimeAxis
from emukit.errors import StoreError
from emukit.progress import Reporter
from emukit.terminal import size

CALENDAR = "noleap"
# The attribute by which files of `emukit data demo` say how they were made.
DEMO_SETTINGS = "demo_settings"
DAYS = 365
# Share of the free memory that fields may take: training needs room too. More than so many bytes stay on disk on every
# machine; the lite files take 2 GB.
SHARE, MOST_BYTES = 0.5, 32 << 30


def archive_from_folder(path: Path | str, card: Card | str | None, reporter: Reporter) -> Archive:
    """Open a folder of daily files: read into memory if it fits, else left on disk.

    Scenarios whose targets are in no file are there with their forcings, all of their days hidden.

    Args:
        path: As `open_folder`.
        card: As `open_folder`.
        reporter: Shows the progress, and is told what is odd.

    Raises:
        StoreError: The folder cannot be read.
    """
    survey = Survey()
    with ExitStack() as stack:
        folder = survey_folder(Path(path), card, stack, survey)
        if survey.problems:
            raise survey.problems[0]
        if folder is None:
            raise AssertionError("a folder without problems opens")
        for note in folder.oddities:
            reporter.say(f"note: {note}")
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


def _scenario(folder: DailyFolder, held: DailyScenario, variables: tuple[str, ...]) -> Scenario:
    time = _time(held)
    shape = (1, held.days, len(variables), *folder.grid.shape)
    if held.targets is None:
        # Zeros that take no memory: they are hidden, and only their shape is asked for.
        targets: NDArray[np.float32] = np.broadcast_to(np.float32(0), shape)
        hidden = np.ones(held.days, bool)
    else:
        targets, hidden = np.empty(shape, np.float32), np.zeros(held.days, bool)
        for v, name in enumerate(variables):
            targets[0, :, v] = held.targets.read(name, 0, held.days)
    forcings = {name: _on_days(forcing, time) for name, forcing in held.forcings.items()}
    return Scenario(held.name, time, forcings, (0,), targets, hidden)


def _on_days(forcing: Forcing, time: TimeAxis) -> NDArray[np.floating]:
    """(T,) float64 or (T, Y, X) float32: the value of its own step on every day."""
    values = forcing.read()
    return np.asarray(values[_places(forcing, time)], np.float32 if values.ndim == 3 else np.float64)


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
        fields = len(folder.card.targets) if held.targets is not None else 0
        fields += sum(forcing.is_map for forcing in held.forcings.values())
        total += 4 * held.days * cells * fields
    return total
