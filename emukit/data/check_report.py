"""What is in a store, what is odd, what is hidden, and whether it can be used: the report behind `emukit data check`.

Invariant: a report lists every problem that can be found, not only the first; a store without problems opens. Of a
folder of daily files only the first and the last year of each scenario are read, and the report says so: a full folder
holds 200 GB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive
from emukit.data.card import Card, Published
from emukit.data.daily import DAYS, DailyStore
from emukit.data.daily_archive import outline_of
from emukit.data.daily_folder import DailyFolder, DailyScenario, FolderSurvey, survey_folder
from emukit.data.decode import Findings, read_calendar
from emukit.data.protocol import make_split, working_protocols
from emukit.data.published_copy import digests_of
from emukit.data.source import Source, open_source
from emukit.data.split import stretches
from emukit.data.store import Survey, archive_of, said_of, survey_store, visible_extremes
from emukit.data.time import in_words
from emukit.data.variable import Variable
from emukit.errors import ProtocolError, StoreError
from emukit.progress import Reporter

MADE_BY = "demo_settings"
_ORDER = ("tasmin", "tas", "tasmax")


@dataclass(frozen=True)
class VariableReport:
    """One variable: what it is, and its visible values in the card's units (after `convert`, where given)."""

    name: str
    what: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    units: str
    low: float
    high: float
    mean: float


@dataclass(frozen=True)
class ScenarioReport:
    """One scenario: its steps, its members, and the spans (first, last step) that are hidden."""

    name: str
    steps: int
    members: tuple[int, ...]
    hidden: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DataReport:
    """What `emukit data check` tells of any data.

    Attributes:
        source: The path.
        protocols: Splits that can be trained and scored on, the card's default first; empty where it cannot be used.
        untrainable: Why no protocol works, where it opens and none does.
        oddities: What is odd, measured first, then from the card.
        problems: Why it cannot be used; empty where it can.
    """

    source: str
    protocols: tuple[str, ...] = ()
    untrainable: str = ""
    oddities: tuple[str, ...] = ()
    problems: tuple[StoreError, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether it would open."""
        return not self.problems

    @property
    def trainable(self) -> bool:
        """Whether it opens, and some protocol leaves months to train and validate on."""
        return self.usable and bool(self.protocols)

    def verdict(self) -> Iterator[str]:
        """Why the data cannot be used or trained on, or that they can."""
        yield from _numbered("problems", [p.text() for p in self.problems])
        if self.problems:
            yield f"cannot be used: {len(self.problems)} problem(s)"
        else:
            yield "usable" if self.protocols else f"cannot be trained on: {self.untrainable}"

    def _ending(self) -> Iterator[str]:
        """What stands below the values."""
        if self.usable:
            yield "protocols"
            yield f"  {', '.join(self.protocols) or 'none'}"
        yield from _numbered("odd", self.oddities)
        yield from self.verdict()


@dataclass(frozen=True)
class StoreReport(DataReport):
    """All that is told of a store.

    Attributes:
        kind: ``Zarr v2`` and the like; empty where it could not be opened.
        card: Name of the data card.
        published: Whether the values are the published ones of that card: True, False, or None where the card holds no
            digests.
        digests: What a card of one's own would say of these values, where it was asked for.
        calendar: Of the time coordinate.
        step: Of the time axis.
        span: First and last step.
        grid: In words.
        bytes_on_disk: Size of the store.
        bytes_in_memory: Size of the arrays after loading.
    """

    kind: str = ""
    card: str = ""
    published: bool | None = None
    digests: Published | None = None
    calendar: str = ""
    step: str = "month"
    span: tuple[str, str] = ("", "")
    grid: str = ""
    bytes_on_disk: int = 0
    bytes_in_memory: int = 0
    variables: tuple[VariableReport, ...] = ()
    scenarios: tuple[ScenarioReport, ...] = ()

    @property
    def unit(self) -> str:
        """What one step is called."""
        return self.step if self.step in ("month", "year", "day") else "step"

    def lines(self) -> Iterator[str]:
        """The report as plain text."""
        card = "in the layout of" if self.published is False else "card"
        yield f"{self.source}: {self.kind or 'not readable'}" + (f", {card} {self.card}" if self.card else "")
        if self.grid:
            disk, memory = self.bytes_on_disk / 1e6, self.bytes_in_memory / 1e6
            step = "" if self.step == "month" else f"{in_words(self.step)}, "
            yield f"  {self.grid}; {self.span[0]} .. {self.span[1]}, {step}calendar {self.calendar}"
            yield f"  {disk:.0f} MB on disk, {memory:.0f} MB in memory"
        if self.variables:
            yield "variables"
            for v in self.variables:
                size = " x ".join(map(str, v.shape))
                values = f"{v.low:10.4g} .. {v.high:<10.4g} mean {v.mean:<10.4g}"
                yield f"  {v.name:5} {v.units:11} {values} {v.dtype} {size}"
                yield f"        {v.what}"
        if self.scenarios:
            yield "scenarios"
            for s in self.scenarios:
                members = ", ".join(map(str, s.members)) or "none"
                hidden = "; ".join(f"{a} .. {b}" for a, b in s.hidden) or "nothing"
                yield f"  {s.name}: {s.steps} {self.unit}s, members {members}, hidden: {hidden}"
        yield from self._ending()


def _numbered(title: str, entries: Sequence[str]) -> Iterator[str]:
    """Entries below a title; nothing where there are none."""
    if entries:
        yield title
    for i, entry in enumerate(entries, 1):
        yield f"  {i}. " + entry.replace("\n", "\n     ")


def inspect_store(
    path: str | Path,
    *,
    card: Card | str | None = None,
    convert: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
    digests: bool = False,
) -> StoreReport:
    """Look at everything in a store and report it; nothing about the store is raised.

    Args:
        path: As `open_store`, as all below.
        card: Its card.
        convert: Its units.
        reporter: Where progress is shown.
        digests: Take the digests of all variables, for a card of one's own.
    """
    findings = Findings()
    try:
        with open_source(path) as source:
            chosen, survey = survey_store(
                source, card, convert, findings, reporter or Reporter(quiet=True), digests=digests
            )
            return _report(source, chosen, survey, findings, digests)
    except StoreError as e:
        return StoreReport(str(path), problems=(*findings.problems, e))


def _report(source: Source, card: Card, survey: Survey | None, findings: Findings, digests: bool) -> StoreReport:
    found = StoreReport(
        source.name,
        kind=source.kind,
        card=card.name,
        bytes_on_disk=source.bytes_on_disk,
        oddities=said_of(card, survey, findings) if survey else tuple(findings.notes),
        published=survey.identity.recognised if survey and card.published else None,
        problems=tuple(findings.problems),
    )
    if survey is None:
        return found
    layout = survey.layout
    lat, lon = layout.grid.lat, layout.grid.lon
    time = layout.time
    working: tuple[str, ...] = ()
    untrainable = ""
    if not found.problems:
        archive = archive_of(source, card, survey, found.oddities)
        working = tuple(working_protocols(archive))
        untrainable = "" if working else _why_untrainable(archive)
    return StoreReport(
        **{
            **found.__dict__,
            "calendar": read_calendar(source.ds),
            "step": time.step,
            "span": (time.text(0), time.text(-1)),
            "grid": f"{len(lat)} x {len(lon)} cells, latitude {lat[0]:.2f} .. {lat[-1]:.2f}, "
            f"longitude {lon[0]:.2f} .. {lon[-1]:.2f}",
            "bytes_in_memory": _memory(survey),
            "digests": digests_of(layout, survey.loaded, source.ds) if digests else None,
            "variables": tuple(_variables(source, card, survey)),
            "protocols": working,
            "untrainable": untrainable,
            "scenarios": tuple(
                ScenarioReport(
                    name,
                    int(survey.held[s].sum()),
                    tuple(m for m, there in zip(layout.members, survey.present[s], strict=True) if there),
                    tuple((time.text(a), time.text(b - 1)) for a, b in stretches(survey.hidden[s])),
                )
                for s, name in enumerate(layout.names)
            ),
        }
    )


def _why_untrainable(archive: Archive) -> str:
    try:
        make_split(archive)
    except ProtocolError as e:
        return f"{e.what} ({e.found}), and no other protocol works either"
    return ""


def _memory(survey: Survey) -> int:
    arrays = {id(a): a for a in survey.loaded.targets}
    arrays |= {id(a): a for per_scenario in survey.loaded.forcings.values() for a in per_scenario}
    return sum(a.nbytes for a in arrays.values())


def _variables(source: Source, card: Card, survey: Survey) -> Iterator[VariableReport]:
    for name in [*survey.layout.targets, *survey.layout.forcings]:
        stored = source.ds[name]
        arrays, low, high = _visible(survey, name)
        total = sum(float(a.sum(dtype=np.float64)) for a in arrays)
        count = sum(a.size for a in arrays)
        yield VariableReport(
            name,
            card.quantities[name].what,
            tuple(map(str, stored.dims)),
            stored.shape,
            str(stored.dtype),
            card.quantities[name].units,
            low,
            high,
            total / count if count else float("nan"),
        )


def _visible(survey: Survey, name: str) -> tuple[list[NDArray[np.floating]], float, float]:
    """The visible values of a variable, and their extremes, in the units they are held in now."""
    if name in survey.layout.forcings:
        arrays = [
            a[own] if not own.all() else a for a, own in zip(survey.loaded.forcings[name], survey.held, strict=True)
        ]
    else:
        v = list(survey.layout.targets).index(name)
        arrays = [
            targets[m, start:stop, v]
            for s, targets in enumerate(survey.loaded.targets)
            for m in np.flatnonzero(survey.present[s])
            for start, stop in stretches(~survey.hidden[s] & survey.held[s])
        ]
    if not arrays or name in survey.loaded.broken or visible_extremes(survey, name) is None:
        return [], float("nan"), float("nan")
    return arrays, min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)


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
class FolderReport(DataReport):
    """All that is told of a folder of daily files.

    Attributes:
        folder: What was opened, its files closed by now; None where nothing could be.
        bytes_on_disk: Of all files.
        targets: Variable to the extremes of the first and last years.
        forcings: Likewise.
        reading: How the targets are read: some years, or a band of rows.
    """

    folder: DailyFolder | None = None
    bytes_on_disk: int = 0
    targets: dict[str, Extremes] | None = None
    forcings: dict[str, Extremes] | None = None
    reading: str = ""

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
        yield from self._ending()


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
        outline = outline_of(folder, str(path))
        _check_base_period(folder, survey)
        working = () if survey.problems else tuple(working_protocols(outline))
        return FolderReport(
            str(path),
            protocols=working,
            untrainable="" if working or survey.problems else _why_untrainable(outline),
            oddities=(*survey.oddities, *folder.card.oddities),
            problems=tuple(survey.problems),
            folder=folder,
            bytes_on_disk=sum(
                (folder.path / f).stat().st_size for held in folder.scenarios.values() for f in held.files
            ),
            targets=targets,
            forcings=forcings,
            reading=_reading(folder),
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
