"""What the pages show, as plain values.

Invariant: an identifier holds letters, digits, dots, dashes and underscores alone: it is a file name, a fragment of a
link and an element's id without any escaping.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from emukit.competitions.ranking import Row
from emukit.data.grid import Grid
from emukit.figures.maps import Field
from emukit.metrics import Competition
from emukit.studies.study_file import StudyFile

LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
LONGEST = 60


@dataclass(frozen=True)
class Picture:
    """An image of a page.

    Attributes:
        file: Below the site's folder, with slashes.
        source: Where it is copied from.
        size: Width and height in pixels.
        alt: What it shows, in words.
        caption: What to see in it.
        heading: Of its section.
    """

    file: str
    source: Path
    size: tuple[int, int]
    alt: str
    caption: str
    heading: str


@dataclass(frozen=True, eq=False)
class Errors:
    """Errors of an entry on the map, for the page that compares two.

    Attributes:
        months: What they are errors of, in words.
        key: The same for entries whose errors may be subtracted from each other: of the same months of the same data.
        earth: Whether the coasts are those of the Earth.
        grid: Of the errors.
        fields: By quantity, ``tas.mean`` and so on.
        scores: By key, of the set of months; of several spans their mean, while errors are of the first.
        competition: Whose numbers they are.
    """

    months: str
    key: str
    earth: bool
    grid: Grid
    fields: Mapping[str, Field]
    scores: Mapping[str, float]
    competition: Competition


@dataclass(frozen=True, eq=False)
class PageEntry:
    """A run or a submission.

    Attributes:
        id: Of its files and links.
        name: As it calls itself; a run of a study is called what it is there.
        folder: The name of its folder.
        kind: ``run`` or ``submission``.
        rows: Its lines of the leaderboard, one a set of months.
        facts: What it is, and what it cost: name to value.
        provenance: Where it came from: name to value.
        sessions: Under what each session of training ran, name to value.
        config: Its recipe as text.
        pictures: In the order of the page.
        missing: What is not shown, and why.
        errors: None where there is no prediction to compare.
    """

    id: str
    name: str
    folder: str
    kind: str
    rows: Sequence[Row]
    facts: Mapping[str, str]
    provenance: Mapping[str, str]
    sessions: Sequence[Mapping[str, str]]
    config: str
    pictures: Sequence[Picture] = ()
    missing: Sequence[str] = ()
    errors: Errors | None = None


@dataclass(frozen=True, eq=False)
class StudyPage:
    """A study, and what belongs to it.

    Attributes:
        id: Of its page.
        study: As it was read.
        pictures: Of the results for each set of months, by protocol and set; none where nothing can be drawn.
        entries: Folder of a run, as the study writes it, to the id of its entry.
        best_command: What trains the best trial; empty where none is known that can be trusted.
    """

    id: str
    study: StudyFile
    pictures: Mapping[tuple[str, str], Sequence[Picture]]
    entries: Mapping[str, str]
    best_command: str = ""


@dataclass(frozen=True)
class ScoreLine:
    """A row of a table of downscalers.

    Attributes:
        label: Of the downscaler.
        values: In the order of the columns; None where it has none.
    """

    label: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class PageTable:
    """Scores of one variable on one set.

    Attributes:
        title: Variable, units and set.
        heads: Heading and meaning of each column.
        rows: The baselines first.
        gain: How much lower the MAE of the network is than that of the best baseline, relative to it.
        months: What was scored.
    """

    title: str
    heads: Sequence[tuple[str, str]]
    rows: Sequence[ScoreLine]
    gain: float | None
    months: str


@dataclass(frozen=True, eq=False)
class DownscalePage:
    """A downscaling run.

    Attributes:
        id: Of its page.
        name: Of its folder.
        facts: What it cost: name to value.
        origin: Where it came from: name to value.
        config: Its recipe as text.
        tables: A table for each variable and set.
        pictures: In the order of the page.
        missing: What is not shown, and why.
    """

    id: str
    name: str
    facts: Mapping[str, str]
    origin: Mapping[str, str]
    config: str
    tables: Sequence[PageTable]
    pictures: Sequence[Picture]
    missing: Sequence[str]


@dataclass(frozen=True)
class Unfinished:
    """A run that has no emulator yet, and so no page.

    Attributes:
        name: Of its folder.
        state: As `emukit runs` says it.
        command: How to continue it.
    """

    name: str
    state: str
    command: str


@dataclass(frozen=True, eq=False)
class Site:
    """Everything.

    Attributes:
        title: Of the first page.
        written: When, and by which emukit.
        rows: Of the leaderboard.
        links: Key of a row to the id of its entry.
        entries: By id.
        studies: By id.
        scales: Quantity to the limit of the scale that all maps share.
        left_out: What could not be read, and why.
        unfinished: Runs without an emulator yet.
        downscales: Downscaling runs, by id.
    """

    title: str
    written: str
    rows: Sequence[Row]
    links: Mapping[tuple[object, ...], str]
    entries: Sequence[PageEntry]
    studies: Sequence[StudyPage]
    scales: Mapping[str, float]
    left_out: Sequence[str] = ()
    unfinished: Sequence[Unfinished] = ()
    downscales: Sequence[DownscalePage] = ()


def identifier(name: str, folder: Path) -> str:
    """A name as an identifier, made its own by the folder's place."""
    plain = "".join(c if c in LETTERS else "-" for c in name)[:LONGEST].strip(".-") or "entry"
    return f"{plain}-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:8]}"
