"""An archive from a folder of daily files, for what is trained in memory.

Invariant: a forcing of a year or a month has one value on every day of it; nothing is interpolated, and no file is
joined with another along an axis that they do not share.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Scenario
from emukit.data.card import Card
from emukit.data.daily_folder import DailyFolder, DailyScenario, Forcing, open_folder
from emukit.data.residency import host_free
from emukit.data.time import DAY_MINUTES, TimeAxis
from emukit.errors import StoreError
from emukit.progress import Reporter
from emukit.terminal import size

CALENDAR = "noleap"
DAYS = 365
# Share of the free memory that the fields may take: training needs room too.
SHARE = 0.5


def archive_from_folder(path: Path | str, card: Card | str | None, reporter: Reporter) -> Archive:
    """Read a folder of daily files into memory.

    Scenarios whose targets are in no file are there with their forcings, all of their days hidden.

    Args:
        path: As `open_folder`.
        card: As `open_folder`.
        reporter: Shows the progress, and is told what is odd.

    Raises:
        StoreError: The folder cannot be read, or does not fit into memory.
    """
    with open_folder(path, card) as folder:
        needed, free = _bytes(folder), host_free()
        if needed > SHARE * free:
            raise StoreError(
                f"{folder.path} does not fit into memory",
                found=f"{size(needed)} of daily fields",
                expected=f"up to {size(int(SHARE * free))}, half of what is free on this machine",
                hint="use the lite files, or a machine with more memory",
            )
        for note in folder.oddities:
            reporter.say(f"note: {note}")
        variables = tuple(folder.card.targets)
        scenarios = {}
        work = len(variables) * sum(s.targets is not None for s in folder.scenarios.values())
        with reporter.step("read days", work) as bar:
            for name, held in folder.scenarios.items():
                scenarios[name] = _scenario(folder, held, variables)
                if held.targets is not None:
                    bar.advance(len(variables), note=name)
        return Archive(
            folder.card, str(path), folder.grid, variables, scenarios, notes=tuple(folder.oddities), published=False
        )


def _scenario(folder: DailyFolder, held: DailyScenario, variables: tuple[str, ...]) -> Scenario:
    first_year = held.years[0] if held.targets is None else held.targets.years[0]
    time = TimeAxis("day", first_year * DAYS * DAY_MINUTES, held.days, CALENDAR)
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
    return np.asarray(values[place], np.float32 if values.ndim == 3 else np.float64)


def _bytes(folder: DailyFolder) -> int:
    """Of the fields that would be held."""
    cells = folder.grid.shape[0] * folder.grid.shape[1]
    total = 0
    for held in folder.scenarios.values():
        fields = len(folder.card.targets) if held.targets is not None else 0
        fields += sum(forcing.is_map for forcing in held.forcings.values())
        total += 4 * held.days * cells * fields
    return total
