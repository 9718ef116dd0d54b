"""What is in a folder of daily files, what is odd, what is hidden: `emukit data check` of ClimX.

Invariant: a report lists every problem that can be found; a folder without problems opens. Of the values only the first
and the last year of each scenario are read, and the report says so: a full folder holds 200 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emukit.data.card import Card
from emukit.data.check_report import numbered, verdict
from emukit.data.daily import DAYS, DailyStore
from emukit.data.daily_folder import DailyFolder, DailyScenario, FolderSurvey, survey_folder
from emukit.data.variable import Variable
from emukit.errors import StoreError
from emukit.progress import Reporter

MADE_BY = "demo_settings"
_ORDER = ("tasmin", "tas", "tasmax")


@dataclass
class Extremes:
    """Of some values: the least, the largest and their mean."""

    low: float = float("inf")
    high: float = float("-inf")
    total: float = 0.0
    count: int = 0

    def add(self, values: NDArray[np.floating]) -> None:
        """Take values along."""
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))
        self.total += float(values.sum(dtype=np.float64))
        self.count += values.size

    @property
    def mean(self) -> float:
        """Their mean."""
        return self.total / self.count if self.count else float("nan")


@dataclass(frozen=True)
class FolderReport:
    """All that `emukit data check` tells of a folder of daily files.

    Attributes:
        source: The path.
        folder: What was opened, its files closed by now; None where nothing could be.
        bytes_on_disk: Of all files.
        targets: Variable to the extremes of the first and last years.
        forcings: Likewise.
        reading: How the targets are read: some years, or a band of rows.
        protocols: Splits whose scenarios are all there, and long enough.
        oddities: What is odd, measured first, then from the card.
        problems: Why it cannot be used; empty where it can.
    """

    source: str
    folder: DailyFolder | None = None
    bytes_on_disk: int = 0
    targets: dict[str, Extremes] | None = None
    forcings: dict[str, Extremes] | None = None
    reading: str = ""
    protocols: tuple[str, ...] = ()
    oddities: tuple[str, ...] = ()
    problems: tuple[StoreError, ...] = ()

    @property
    def trainable(self) -> bool:
        """Whether it opens, and some protocol can be cut from it."""
        return not self.problems and bool(self.protocols)

    def lines(self) -> Iterator[str]:
        """The report as plain text."""
        folder = self.folder
        if folder is None:
            yield f"{self.source}: daily files"
            yield from self.verdict()
            return
        made = "in the layout of" if MADE_BY in folder.attributes else "card"
        yield f"{self.source}: daily files, {made} {folder.card.name}"
        lat, lon = folder.grid.lat, folder.grid.lon
        extent = f"latitude {lat[0]:.2f} .. {lat[-1]:.2f}, longitude {lon[0]:.2f} .. {lon[-1]:.2f}"
        yield f"  {len(lat)} x {len(lon)} cells, {extent}; calendar noleap"
        yield f"  {self.bytes_on_disk / 1e6:.0f} MB on disk" + (f"; {self.reading}" if self.reading else "")
        yield "scenarios"
        for name, held in folder.scenarios.items():
            yield f"  {name}: {held.years[0]}-{held.years[-1]}, {_days_text(held)}"
            yield f"        {', '.join(held.files)}"
        yield "targets, first and last year of each scenario"
        carried = folder.card.daily.carried if folder.card.daily else ()
        for name, found in (self.targets or {}).items():
            role = "in no score" if name in carried else "scored"
            yield from _variable_lines(name, found, folder.card.targets[name].units, folder.card.targets[name], role)
        yield "forcings, first and last year of each scenario"
        for name, found in (self.forcings or {}).items():
            one = next(held.forcings[name] for held in folder.scenarios.values() if name in held.forcings)
            shape = "a map" if one.is_map else "a value"
            yield from _variable_lines(
                name, found, one.units or "no units", folder.card.forcings[name], f"{shape} a {one.step}"
            )
        if not self.problems:
            yield "protocols"
            yield f"  {', '.join(self.protocols) or 'none'}"
        yield from numbered("odd", self.oddities)
        yield from self.verdict()

    def verdict(self) -> Iterator[str]:
        """Why the folder cannot be used, or that it can."""
        return verdict(self.problems, self.protocols, "no protocol finds all its scenarios, or they are too short")


def _days_text(held: DailyScenario) -> str:
    if held.targets is None:
        return f"targets hidden: {held.days:,} days to predict"
    return f"{held.days:,} days"


def _variable_lines(name: str, found: Extremes, units: str, of: Variable, extra: str = "") -> Iterator[str]:
    values = f"{found.low:10.4g} .. {found.high:<10.4g} mean {found.mean:<10.4g}"
    yield f"  {name:11} {units:11} {values} {extra}".rstrip()
    yield f"              {of.what}"


def inspect_folder(path: Path | str, card: Card | str | None = None, reporter: Reporter | None = None) -> FolderReport:
    """Look at a folder of daily files and report it; nothing about the folder is raised.

    Args:
        path: As `emukit.data.daily_folder.open_folder`.
        card: Its card; found by the grid when None.
        reporter: Where progress is shown.
    """
    survey = FolderSurvey()
    with ExitStack() as stack:
        try:
            folder = survey_folder(Path(path), card, stack, survey)
        except StoreError as e:
            survey.problems.append(e)
            folder = None
        if folder is None:
            return FolderReport(str(path), problems=tuple(survey.problems))
        targets: dict[str, Extremes] = {}
        forcings: dict[str, Extremes] = {}
        with (reporter or Reporter(quiet=True)).step("looking at", len(folder.scenarios)) as step:
            for name, held in folder.scenarios.items():
                _look_at_forcings(held, folder, forcings, survey)
                if held.targets is not None:
                    _look_at_targets(held, held.targets, folder.card, targets, survey)
                step.advance(note=name)
        _check_ranges(folder.card, targets, forcings, survey)
        _check_base_period(folder, survey)
        return FolderReport(
            str(path),
            folder,
            sum((folder.path / f).stat().st_size for held in folder.scenarios.values() for f in held.files),
            targets,
            forcings,
            _reading(folder),
            working_protocols(folder),
            (*survey.oddities, *folder.card.oddities),
            tuple(survey.problems),
        )


def _look_at_targets(
    held: DailyScenario, store: DailyStore, card: Card, targets: dict[str, Extremes], survey: FolderSurvey
) -> None:
    last = (len(store.years) - 1) * DAYS
    for start, stop in dict.fromkeys([(0, min(DAYS, store.days)), (last, store.days)]):
        ordered = {}
        for variable in card.targets:
            try:
                values = store.read(variable, start, stop)
            except StoreError as e:
                survey.problems.append(e)
                continue
            targets.setdefault(variable, Extremes()).add(values)
            if not values.any():
                survey.problems.append(
                    StoreError(f"{variable} of {held.name} is zero", found=f"no other value in {stop - start} days")
                )
            # A year of the full grid takes 81 MB: what is not compared is let go.
            if variable in _ORDER:
                ordered[variable] = values
        for low, high in pairwise(_ORDER):
            if low in ordered and high in ordered and (wrong := int((ordered[low] > ordered[high]).sum())):
                year, size = store.first_year + start // DAYS, ordered[low].size
                survey.odd(held.name, f"{low} is above {high} on some days of {year} ({wrong:,} values of {size:,})")


def _look_at_forcings(
    held: DailyScenario, folder: DailyFolder, forcings: dict[str, Extremes], survey: FolderSurvey
) -> None:
    for name, forcing in held.forcings.items():
        size = 12 if forcing.step == "month" else 1
        negative, zero = False, False
        try:
            for start in dict.fromkeys([0, max(forcing.steps - size, 0)]):
                values = forcing.read(start, start + size)
                forcings.setdefault(name, Extremes()).add(values)
                negative, zero = negative or bool((values < 0).any()), zero or bool((values == 0).any())
        except StoreError as e:
            survey.problems.append(
                StoreError(f"{e.what} ({held.name})", found=e.found, expected=e.expected, hint=e.hint)
            )
            continue
        if forcing.is_map:
            words = [word for word, there in (("negative values", negative), ("zeros", zero)) if there]
            if words:
                survey.odd(held.name, f"emissions hold {' and '.join(words)}")


def _check_ranges(
    card: Card, targets: dict[str, Extremes], forcings: dict[str, Extremes], survey: FolderSurvey
) -> None:
    """Targets outside of what the card allows cannot be used; forcings, whose units are not stated, are odd."""
    for name, found in targets.items():
        of = card.targets[name]
        low, high = of.range
        if found.low < low or found.high > high or not of.largest[0] <= found.high <= of.largest[1]:
            survey.problems.append(
                StoreError(
                    f"{name} holds values that it cannot have in {of.units}",
                    found=f"{found.low:.4g} .. {found.high:.4g}",
                    expected=f"{low:g} .. {high:g}, the largest from {of.largest[0]:g} to {of.largest[1]:g}",
                    hint="its units attribute may not say what the values are in",
                )
            )
    for name, found in forcings.items():
        of = card.forcings[name]
        if found.low < of.range[0] or found.high > of.range[1]:
            survey.notes.append(f"{name} is {found.low:.4g} .. {found.high:.4g}: not {of.units}, as the card guesses")


def _check_base_period(folder: DailyFolder, survey: FolderSurvey) -> None:
    if folder.card.daily is None:
        return
    first, last = folder.card.daily.base_period
    whole = [
        held
        for held in folder.scenarios.values()
        if held.targets is not None and first in held.years and (last + 1 - held.years[0]) * DAYS <= held.days
    ]
    if not whole:
        survey.notes.append(f"no scenario holds the base period {first}-{last}: percentiles cannot be computed")


def _reading(folder: DailyFolder) -> str:
    store = next((held.targets for held in folder.scenarios.values() if held.targets is not None), None)
    if store is None:
        return ""
    variable = next(iter(folder.card.targets))
    years, rows = store.plan(variable)
    chunk = store.chunks(variable)
    packed = f"chunks of {chunk[0]} days and {chunk[1]} rows" if chunk else "days one after the other"
    some = f"{years} year{'s' * (years > 1)}" if years < len(store.years) else "all years"
    all_rows = folder.grid.shape[0]
    return f"{packed}: read by {some}, {f'{rows} rows' if rows < all_rows else 'all rows'}"


def working_protocols(folder: DailyFolder) -> tuple[str, ...]:
    """The card's protocols that can be cut from what is there, then one for each scenario that can be left out."""
    days = {name: held.days for name, held in folder.scenarios.items() if held.targets is not None}
    visible = set(days)
    working = [
        name
        for name, protocol in folder.card.protocols.items()
        if set(protocol.train) <= visible
        and all(-span.offsets[0] <= days.get(span.scenario, 0) for span in protocol.validation)
    ]
    lengths = folder.card.loso
    for name in days if len(days) > 1 else ():
        others = [n for other, n in days.items() if other != name]
        if name != "historical" and days[name] >= lengths.test and min(others) >= lengths.validation:
            working.append(f"loso:{name}")
    return tuple(working)
