"""A folder of daily NetCDF files, one or several for each scenario, with forcings on axes of their own: ClimX.

Invariant: files are opened one by one, and nothing is ever joined along a forcing's axis and the daily one together.
Targets and maps of forcings stay on disk until some years or some rows of them are asked for.

The data card says by which patterns the files are found, what they hold, and which axes the forcings have.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import Path
from typing import Literal

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.card import Card, DailyFiles, load_card, scenario_names, shipped_cards, text_of
from emukit.data.daily import (
    DAYS,
    LAT_NAMES,
    LON_NAMES,
    READ_ERRORS,
    DailyStore,
    check_chunk,
    join_days,
    open_file,
    read_grid,
)
from emukit.data.grid import Grid
from emukit.errors import ProtocolError, StoreError

SCENARIO = "forcing_scenario"
# What the layout may hold; the published folder has seven files.
MOST_FILES, MOST_STEPS = 100, 12 * 1000
_IN_NAME = re.compile(r"ssp\d{3}|hist")


@dataclass(frozen=True, eq=False)
class _Piece:
    """Some steps of a forcing in one file."""

    array: xr.DataArray
    first: int
    steps: int


@dataclass(frozen=True, eq=False)
class Forcing:
    """A forcing of one scenario, on its own axis.

    Attributes:
        name: Of the variable.
        step: Of its axis.
        first: The first step: a year, or 12 times a year plus the month (January 0).
        steps: T.
        units: What the file says; empty where it says nothing. Nothing is assumed, nothing converted.
        dtype: In which it is stored.
        is_map: Whether it is a map (T, Y, X) and not a series (T,).
    """

    name: str
    step: Literal["year", "month"]
    first: int
    steps: int
    units: str
    dtype: str
    is_map: bool
    _pieces: tuple[_Piece, ...]

    @property
    def years(self) -> NDArray[np.int64]:
        """(T,) the year in which each step lies."""
        steps = self.first + np.arange(self.steps)
        return np.asarray(steps if self.step == "year" else steps // 12, np.int64)

    @property
    def months(self) -> NDArray[np.int64]:
        """(T,) the calendar month of each step, January 0; 0 throughout of years."""
        return np.asarray(
            (self.first + np.arange(self.steps)) % 12 if self.step == "month" else np.zeros(self.steps), np.int64
        )

    def read(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """(stop - start,) or (stop - start, Y, X) steps [start, stop), as they are stored.

        Raises:
            StoreError: They cannot be read, or one is not finite.
        """
        stop = self.steps if stop is None else stop
        out = []
        for piece in self._pieces:
            low, high = max(start - piece.first, 0), min(stop - piece.first, piece.steps)
            if low < high:
                out.append(self._read_piece(piece, low, high))
        values = np.concatenate(out)
        if not np.isfinite(values).all():
            raise StoreError(f"{self.name} is not finite everywhere", expected="a number at every step in every cell")
        return values

    def _read_piece(self, piece: _Piece, low: int, high: int) -> NDArray[np.float64]:
        try:
            return np.asarray(piece.array[low:high].to_numpy(), np.float64)
        except READ_ERRORS as e:
            raise StoreError(f"cannot read {self.name}", found=str(e).splitlines()[0]) from e


@dataclass(frozen=True, eq=False)
class DailyScenario:
    """One scenario of a folder.

    Attributes:
        name: Such as ``historical`` or ``ssp126``.
        files: The names of its files.
        targets: Its days; None where they are hidden.
        forcings: By name.
        years: The calendar years that its forcings, and its targets where they are there, cover.
        days: T of its targets; where they are hidden, of what is to be predicted.
    """

    name: str
    files: tuple[str, ...]
    targets: DailyStore | None
    forcings: Mapping[str, Forcing]
    years: range
    days: int


@dataclass(frozen=True, eq=False)
class DailyFolder:
    """A folder as `open_folder` finds it.

    Attributes:
        path: The folder with the files.
        card: What it holds.
        grid: Of every field.
        scenarios: By name, in the order of the card.
        attributes: Of the first file.
        oddities: What is odd, a sentence each.
    """

    path: Path
    card: Card
    grid: Grid
    scenarios: Mapping[str, DailyScenario]
    attributes: Mapping[str, object]
    oddities: tuple[str, ...] = ()

    def targets(self, scenario: str) -> DailyStore:
        """The daily targets of a scenario, to be read as blocks.

        Raises:
            ProtocolError: There is no such scenario, or its targets are hidden.
        """
        found = self._scenario(scenario).targets
        if found is None:
            raise ProtocolError(
                f"the targets of {scenario} are hidden",
                found=f"{', '.join(self._scenario(scenario).files)}: forcings alone",
                expected=f"one of {', '.join(s for s, held in self.scenarios.items() if held.targets is not None)}",
            )
        return found

    def forcing(self, scenario: str, name: str) -> Forcing:
        """A forcing of a scenario.

        Raises:
            ProtocolError: There is no such scenario.
            StoreError: The scenario has no such forcing.
        """
        forcings = self._scenario(scenario).forcings
        if name not in forcings:
            raise StoreError(f"{scenario} has no forcing {name}", found=", ".join(forcings) or "none")
        return forcings[name]

    def _scenario(self, name: str) -> DailyScenario:
        if name not in self.scenarios:
            raise ProtocolError(
                f"scenario {name} is not in {self.path}", found=f"scenarios {', '.join(self.scenarios)}"
            )
        return self.scenarios[name]


@dataclass
class FolderSurvey:
    """What was found wrong and odd while a folder was opened; a problem does not end the look at the others."""

    problems: list[StoreError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    of_scenarios: dict[str, list[str]] = field(default_factory=dict)

    def odd(self, scenario: str, what: str) -> None:
        """Note what is odd in a scenario; what several have in common is said once."""
        named = self.of_scenarios.setdefault(what, [])
        if scenario not in named:
            named.append(scenario)

    @property
    def oddities(self) -> tuple[str, ...]:
        """What is odd, a sentence each."""
        return (*self.notes, *(f"{', '.join(named)}: {what}" for what, named in self.of_scenarios.items()))


@contextmanager
def open_folder(path: Path | str, card: Card | str | None = None) -> Iterator[DailyFolder]:
    """Open a folder of daily files; they are closed when the block ends.

    Args:
        path: The folder with the files, or one that holds it as ``lite`` or ``full``.
        card: Its card, or the name of one; found by the grid when None.

    Raises:
        StoreError: The folder cannot be read, or is not what the card says: the first problem.
    """
    survey = FolderSurvey()
    with ExitStack() as stack:
        folder = survey_folder(Path(path), card, stack, survey)
        if survey.problems:
            raise survey.problems[0]
        if folder is None:
            raise AssertionError("a folder without problems opens")
        yield folder


def is_daily_folder(path: Path | str) -> bool:
    """Whether a path is a folder whose files have the names of a data card for daily files."""
    path = Path(path).expanduser()
    # Most folders are Zarr stores: no card is read for them.
    if not path.is_dir() or any((path / name).exists() for name in (".zgroup", ".zmetadata", "zarr.json")):
        return False
    return any(_places(path, _files_of(card)) for card in folder_cards())


def folder_cards() -> list[Card]:
    """The shipped cards of data that come as a folder of daily files."""
    return [card for card in map(load_card, shipped_cards()) if card.daily is not None]


def survey_folder(path: Path, card: Card | str | None, stack: ExitStack, survey: FolderSurvey) -> DailyFolder | None:
    """Open a folder, and collect what is wrong with it.

    Args:
        path: As `open_folder`.
        card: As `open_folder`.
        stack: Closes the files.
        survey: Gets problems and oddities.

    Returns:
        The folder as far as it can be used; None where no scenario can.

    Raises:
        StoreError: There are no files.
    """
    path = path.expanduser()
    if card is not None:
        candidates = [card if isinstance(card, Card) else load_card(card)]
    else:
        candidates = folder_cards()
        candidates = [c for c in candidates if path.is_dir() and _places(path, _files_of(c))] or candidates
    known = candidates[0]
    patterns = _files_of(known)
    place = _place(path, patterns)
    names = sorted(p.name for p in place.iterdir() if _is_data(p, patterns))
    if len(names) > MOST_FILES:
        raise StoreError(f"{place} holds too many files", found=f"{len(names):,}", expected=f"at most {MOST_FILES}")
    opened: dict[str, list[tuple[str, xr.Dataset]]] = {}
    for name in names:
        try:
            ds = open_file(place / name, stack)
            scenario = _scenario_of(ds, name, known, survey)
        except StoreError as e:
            survey.problems.append(e)
            continue
        opened.setdefault(scenario, []).append((name, ds))
    grids: dict[str, Grid] = {}
    for scenario, files in opened.items():
        try:
            grids[scenario] = _one_grid(files)
        except StoreError as e:
            survey.problems.append(e)
    if not grids:
        return None
    grid = next(iter(grids.values()))
    # Cards of the same files differ in their grid: that of the grid, else the nearest in size.
    chosen = min(candidates, key=lambda c: abs(math.prod(_files_of(c).cells) - math.prod(grid.shape)))
    wanted = _files_of(chosen).cells
    if wanted != grid.shape:
        survey.notes.append(
            f"the grid is {grid.shape[0]} x {grid.shape[1]}, not the {wanted[0]} x {wanted[1]} of {chosen.name}"
        )
    scenarios = {}
    for scenario in sorted(grids, key=lambda s: (chosen.scenarios.index(s) if s in chosen.scenarios else 99, s)):
        if grids[scenario] != grid:
            survey.problems.append(StoreError(f"{opened[scenario][0][0]} is on another grid than {names[0]}"))
            continue
        found = _read_scenario(scenario, opened[scenario], chosen, survey)
        if found is not None:
            scenarios[scenario] = found
    for missing in (s for s in chosen.scenarios if s not in opened):
        survey.notes.append(f"there is no file of {missing}")
    if not scenarios:
        return None
    _compare_forcings(scenarios, survey)
    attributes = dict(opened[next(iter(scenarios))][0][1].attrs)
    return DailyFolder(place, chosen, grid, scenarios, attributes, survey.oddities)


def _compare_forcings(scenarios: Mapping[str, DailyScenario], survey: FolderSurvey) -> None:
    """Say where forcings are stored in other types than elsewhere, and where nothing says their units."""
    unknown: dict[str, None] = {}
    for name, scenario in scenarios.items():
        for forcing in scenario.forcings.values():
            kinds = {
                other.forcings[forcing.name].dtype for other in scenarios.values() if forcing.name in other.forcings
            }
            if len(kinds) > 1:
                survey.odd(name, f"{forcing.step}ly forcings are {forcing.dtype}")
            if not forcing.units:
                unknown[forcing.name] = None
    if unknown:
        survey.notes.append(f"no units are stated for {', '.join(unknown)}: none are assumed")


def _files_of(card: Card) -> DailyFiles:
    if card.daily is None:
        raise StoreError(
            f"the data card {card.name} describes one store, not a folder of daily files",
            expected=f"one of {', '.join(c.name for c in folder_cards())}, or a card with [daily]",
            hint="choose one with --card",
        )
    return card.daily


def _is_data(path: Path, files: DailyFiles) -> bool:
    # Downloads may be links into a cache: what a name leads to counts, and is refused on opening if it is not a file.
    if path.name.startswith(".") or path.is_dir():
        return False
    return any(fnmatchcase(path.name, pattern) for pattern in (*files.train, *files.forcings_only))


def _places(path: Path, files: DailyFiles) -> list[Path]:
    """The folder itself where it holds files, else those of its ``lite`` and ``full`` that do."""
    try:
        places = [
            p
            for p in (path, path / "lite", path / "full")
            if p.is_dir() and any(_is_data(f, files) for f in p.iterdir())
        ]
    except OSError:
        return []
    return places[:1] if path in places else places


def _place(path: Path, files: DailyFiles) -> Path:
    places = _places(path, files) if path.is_dir() else []
    if len(places) == 1:
        return places[0]
    if places:
        raise StoreError(f"{path} holds two data sets", found="lite and full", hint=f"name one of them: {places[0]}")
    raise StoreError(
        f"there are no daily files in {path}",
        found="nothing there" if not path.exists() else "no file with such a name" if path.is_dir() else "a file",
        expected=f"files named {', '.join((*files.train, *files.forcings_only))}",
        hint="name the folder that was downloaded, full or lite, or one that holds it",
    )


def _scenario_of(ds: xr.Dataset, name: str, card: Card, survey: FolderSurvey) -> str:
    """The scenario of a file: what it says, else what its name says."""
    if SCENARIO in ds.variables:
        values = np.atleast_1d(ds[SCENARIO].to_numpy()).ravel()
        if values.size != 1:
            raise StoreError(f"{name} holds {values.size} scenarios", expected="one scenario in a file")
        return scenario_names([text_of(values[0])], card.scenarios)[0]
    found = _IN_NAME.search(name)
    if found is None:
        raise StoreError(f"{name} does not say which scenario it holds", expected=f"a coordinate {SCENARIO}")
    scenario = "historical" if found[0] == "hist" else found[0]
    survey.notes.append(f"{name} has no coordinate {SCENARIO}: by its name it is {scenario}")
    return scenario


def _one_grid(files: Sequence[tuple[str, xr.Dataset]]) -> Grid:
    first = read_grid(files[0][1], files[0][0])
    for name, ds in files[1:]:
        if read_grid(ds, name) != first:
            raise StoreError(f"{name} is on another grid than {files[0][0]}")
    return first


def _read_scenario(
    name: str, files: Sequence[tuple[str, xr.Dataset]], card: Card, survey: FolderSurvey
) -> DailyScenario | None:
    """One scenario; None where something is wrong with it."""
    problems = len(survey.problems)
    layout = _files_of(card)
    targets = _read_targets(name, files, card, survey)
    forcings = {}
    for variable in card.forcings:
        try:
            forcings[variable] = _read_forcing(name, variable, files, layout, survey)
        except StoreError as e:
            survey.problems.append(e)
    if len(survey.problems) > problems:
        return None
    years = targets.years if targets else _years_of(next(iter(forcings.values())))
    others = "targets" if targets else "other forcings"
    for forcing in forcings.values():
        covered = _years_of(forcing)
        if covered != years:
            survey.problems.append(
                StoreError(
                    f"{forcing.name} of {name} covers other years than the {others}",
                    found=f"{covered[0]} to {covered[-1]}",
                    expected=f"{years[0]} to {years[-1]}",
                )
            )
    if len(survey.problems) > problems:
        return None
    days = targets.days if targets else len(years) * DAYS - layout.missing_days
    names = tuple(file for file, _ in files)
    return DailyScenario(name, names, targets, forcings, years, days)


def _read_targets(
    name: str, files: Sequence[tuple[str, xr.Dataset]], card: Card, survey: FolderSurvey
) -> DailyStore | None:
    layout = _files_of(card)
    holding = [(file, ds) for file, ds in files if any(v in ds.data_vars for v in card.targets)]
    for file, _ in files:
        only = any(fnmatchcase(file, pattern) for pattern in layout.forcings_only)
        held = any(file == other for other, _ in holding)
        if only and held:
            survey.odd(name, "a file that is named for forcings alone holds targets: they are not hidden")
        elif not only and not held:
            survey.problems.append(StoreError(f"{file} holds no target", expected=f"any of {', '.join(card.targets)}"))
    if not holding:
        return None
    try:
        store = join_days([(ds, file) for file, ds in holding])
        for variable in card.targets:
            store.check(variable)
    except StoreError as e:
        survey.problems.append(e)
        return None
    lacking = len(store.years) * DAYS - store.days
    if lacking:
        last = "31 December" if lacking == 1 else f"last {lacking} days"
        survey.odd(name, f"the {last} of the last year {'is' if lacking == 1 else 'are'} missing")
    return store


def _read_forcing(
    scenario: str, name: str, files: Sequence[tuple[str, xr.Dataset]], layout: DailyFiles, survey: FolderSurvey
) -> Forcing:
    pieces: dict[int, _Piece] = {}
    steps: set[Literal["year", "month"]] = set()
    for file, ds in files:
        if name not in ds.data_vars:
            continue
        array = ds[name]
        step, axis = _forcing_axis(file, array, layout)
        for dim in [d for d in array.dims if d == SCENARIO]:
            if array.sizes[dim] != 1:
                raise StoreError(f"{name} of {file} holds {array.sizes[dim]} scenarios", expected="one")
            array = array.isel({dim: 0})
        check_chunk(ds[name], f"{name} of {file}")
        steps.add(step)
        first, count = _steps(file, ds, axis, step, scenario, survey)
        # Each of several files may hold the whole axis.
        pieces.setdefault(first, _Piece(array.transpose(axis, ...), first, count))
    if not pieces or len(steps) != 1:
        found = f"steps of a {' and a '.join(sorted(steps))}" if steps else ", ".join(file for file, _ in files)
        raise StoreError(f"forcing {name} of {scenario} is missing or on two axes", found=found)
    ordered = [pieces[first] for first in sorted(pieces)]
    for before, after in pairwise(ordered):
        if before.first + before.steps != after.first:
            raise StoreError(
                f"the files of {scenario} hold parts of {name} that do not follow each other",
                hint="use the files as they were downloaded",
            )
    start = ordered[0].first
    array = ordered[0].array
    return Forcing(
        name,
        steps.pop(),
        start,
        sum(piece.steps for piece in ordered),
        str(array.attrs.get("units", "")),
        str(array.dtype),
        array.ndim > 1,
        tuple(_Piece(p.array, p.first - start, p.steps) for p in ordered),
    )


def _forcing_axis(file: str, array: xr.DataArray, layout: DailyFiles) -> tuple[Literal["year", "month"], str]:
    """The step and the name of a forcing's axis; refuses what is on the daily axis or has unknown dimensions."""
    dims = [str(d) for d in array.dims if d != SCENARIO]
    axes: dict[str, Literal["year", "month"]] = {layout.year_axis: "year", layout.month_axis: "month"}
    known = [d for d in dims if d in axes]
    cells = [d for d in dims if d in LAT_NAMES], [d for d in dims if d in LON_NAMES]
    rest = len(dims) - len(known)
    if "time" in dims:
        raise StoreError(
            f"{array.name} of {file} is spread over the days",
            found=", ".join(dims),
            expected=" or ".join(axes),
            hint="files that were joined along time are like that: use them as they were downloaded",
        )
    if len(known) != 1 or rest not in (0, 2) or (rest == 2 and not all(len(c) == 1 for c in cells)):
        raise StoreError(
            f"{array.name} of {file} has other dimensions than a forcing",
            found=", ".join(dims) or "none",
            expected=f"{' or '.join(axes)}, and lat and lon of a map",
        )
    return axes[known[0]], known[0]


def _steps(
    file: str, ds: xr.Dataset, axis: str, step: Literal["year", "month"], scenario: str, survey: FolderSurvey
) -> tuple[int, int]:
    """The first step of an axis, and how many there are. Year and month count; the day of a stamp does not."""
    count = ds.sizes[axis]
    if not 0 < count <= MOST_STEPS:
        raise StoreError(f"{axis} of {file} has {count:,} steps", expected=f"1 to {MOST_STEPS:,}")
    try:
        time = ds[axis]
        calendar = str(time.attrs.get("calendar", "standard"))
        stamps = np.atleast_1d(cftime.num2date(time.to_numpy(), str(time.attrs["units"]), calendar=calendar))
        numbers = np.array([s.year if step == "year" else 12 * s.year + s.month - 1 for s in stamps])
    except (*READ_ERRORS, AttributeError, OverflowError) as e:
        raise StoreError(f"the stamps of {axis} of {file} cannot be read", found=str(e).splitlines()[0]) from e
    if (np.diff(numbers) != 1).any():
        at = int((np.diff(numbers) != 1).argmax())
        raise StoreError(
            f"the {step}s of {axis} of {file} do not follow each other", found=f"{stamps[at]}, then {stamps[at + 1]}"
        )
    days, hours = sorted({s.day for s in stamps}), sorted({s.hour for s in stamps})
    if len(days) > 1 or (step == "month" and days != [15]):
        survey.odd(scenario, f"stamps of {axis} lie on days {days[0]} to {days[-1]}: {_READ[step]}")
    elif len(hours) > 1:
        survey.odd(scenario, f"stamps of {axis} lie at {' and '.join(f'{h:02d}:00' for h in hours)}: {_READ[step]}")
    return int(numbers[0]), count


_READ = {"year": "the year alone is read", "month": "year and month alone are read"}


def _years_of(forcing: Forcing) -> range:
    years = forcing.years
    return range(int(years[0]), int(years[-1]) + 1)
