"""Pages from templates, and the errors of entries as scripts: a page opened from disk may load scripts, but no data.

Invariant: nothing here reads runs, data or the clock: what is shown is in values, a `Site`. Every value enters a page
through a template that escapes it; an address inside the site is relative, so that the folder opens from a disk, and
nothing outside the folder is asked for. An identifier is a file name, a fragment of a link and an element's id without
any escaping. The drawing of all scores on a line is linear in the score, from the best that is shown to the worst; what
lies beyond the worst reference is at the end, marked so. A script holds one call with plain values, and text in it can
end neither the string nor the script.

An error v is kept as one signed byte q with v = m sign(q) (q / 127)^2, where m is the largest of its quantity: fine
near zero, where maps are read, and never wrong by more than 0.8 % of m.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from emukit.competitions.ranking import ANOTHER_RUN, LIMIT, LINES, Row, places, ranked
from emukit.data.grid import Grid
from emukit.data.variable import OTHER_COLOURS
from emukit.figures.maps import Field, coastline, scale_colours
from emukit.metrics import Competition
from emukit.metrics.competition import Column
from emukit.studies.bootstrap import both_ends
from emukit.studies.results import DIFFERENCE
from emukit.studies.study_file import Interval, ShownVariant, StudyFile, StudyResult

HERE = Path(__file__).parent
ASSETS = ("style.css", "table.js", "compare.js")
STEPS = 127
WIDTH, LINE_Y = 720.0, 46.0
MARGIN = 14.0
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
        values: In the order of the columns; empty where it has none.
    """

    label: str
    values: Sequence[str]


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


def render(site: Site) -> Iterator[tuple[str, str]]:
    """Every text file of a site: its name below the folder, with slashes, and what it holds."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(site=site, lines=LINES, difference=DIFFERENCE)
    environment.filters.update(signed=_signed, ends=_ends, words=_words, unit=_unit)
    for name in ASSETS:
        yield f"assets/{name}", (HERE / "assets" / name).read_text(encoding="utf-8")
    uses = _uses(site.studies)
    tables = _tables(site, uses)
    index = environment.get_template("index.html")
    yield "index.html", index.render(root="", tables=tables, svg=(WIDTH, LINE_Y))
    comparable = sum(e.errors is not None for e in site.entries)
    yield "compare.html", environment.get_template("compare.html").render(root="", count=comparable)
    yield "assets/entries.js", site_script(site)
    beside = ranked(site.rows)
    page = environment.get_template("entry.html")
    for entry in site.entries:
        yield (
            f"entries/{entry.id}.html",
            page.render(root="../", entry=entry, sets=_sets(entry, beside), uses=uses.get(entry.id, ())),
        )
        if entry.errors:
            yield f"data/{entry.id}.js", entry_script(entry)
    page = environment.get_template("downscale.html")
    for run in site.downscales:
        yield f"downscaling/{run.id}.html", page.render(root="../", page=run)
    page = environment.get_template("study.html")
    for study in site.studies:
        results = [_result(study, r) for r in study.study.results]
        yield (
            f"studies/{study.id}.html",
            page.render(
                root="../",
                page=study,
                study=study.study,
                results=results,
                competition=study.study.competition.competition,
                differences=_differences(study.study),
                best=_best(study),
            ),
        )


def _uses(studies: Sequence[StudyPage]) -> dict[str, list[dict[str, Any]]]:
    """Id of an entry to the variants of studies that it is a run of."""
    uses: dict[str, list[dict[str, Any]]] = {}
    for page in studies:
        for variant in page.study.variants:
            for run in variant.runs:
                if run.folder in page.entries:
                    use = {"page": page, "variant": variant.name, "seed": run.seed}
                    uses.setdefault(page.entries[run.folder], []).append(use)
    return uses


def _differences(study: StudyFile) -> dict[str, list[str]]:
    """By name of the variant, what is set in the base, and what differs from it in every other one."""
    base = study.variants[0]
    out = {}
    for variant in study.variants:
        words = {f"recipe {variant.recipe}": variant is base or variant.recipe != base.recipe}
        own = variant is base or variant.recipe != base.recipe
        for path, value in variant.settings.items():
            words[f"{path} = {_plain(value)}"] = own or base.settings.get(path) != value
        for path in base.settings.keys() - variant.settings.keys():
            words[f"{path} as in the recipe"] = not own
        words[f"members {variant.members or 'all'}"] = variant.members != base.members
        out[variant.name] = [word for word, shown in words.items() if shown]
    return out


def _best(page: StudyPage) -> ShownVariant | None:
    """The trial that a search chose, where it is known how to train it."""
    return next((v for v in page.study.variants if v.name == page.study.best and page.best_command), None)


def _tables(site: Site, uses: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The leaderboard: a table for each set of months."""
    folders = {e.id: e.folder for e in site.entries if e.folder != e.name}
    out = []
    for i, (split, group) in enumerate(ranked(site.rows).items()):
        competition = group[0].competition
        columns = competition.columns_of(row.values() for row in group)
        rows = [
            {
                "place": place,
                "row": row,
                "cells": _cells(row, columns),
                "entry": site.links.get(row.key, ""),
                "kind": row.kind,
                "folder": folders.get(site.links.get(row.key, ""), ""),
                "uses": uses.get(site.links.get(row.key, ""), ()),
            }
            for place, row in places(group)
        ]
        own = sum(r.kind in ("run", "submission") for r in group)
        table = {"id": f"set-{i}", "split": split, "rows": rows, "marks": marks(group), "own": own}
        table["members"] = any(row.over_members for row in group)
        out.append(table | {"columns": columns, "direction": competition.direction})
    return out


def _cells(row: Row, columns: Sequence[Column]) -> list[tuple[Column, float | None]]:
    return list(zip(columns, row.values().values(), strict=True))


def _sets(entry: PageEntry, beside: Mapping[str, Sequence[Row]]) -> list[dict[str, Any]]:
    """What an entry has on each set of months, with the lines it is measured against and its place."""
    out = []
    for own in entry.rows:
        group = beside.get(own.split, [own])
        place = next((p for p, r in places(group) if r.key == own.key), "")
        competitors = sum(r.kind not in LINES and r.score is not None for r in group)
        others = [r for r in group if r.kind in (*LINES, "published", "measured")]
        shown = sorted([own, *others], key=lambda r: r.order)
        columns = own.competition.columns_of(r.values() for r in shown)
        rows = [{"row": r, "cells": _cells(r, columns), "own": r is own} for r in shown]
        found = {"split": own.split, "rows": rows, "place": place, "of": competitors, "note": own.note}
        found |= {"members": own.over_members_text, "remark": own.remark}
        out.append(found | {"columns": columns})
    return out


def _result(page: StudyPage, result: StudyResult) -> dict[str, Any]:
    known = {name: v for name, v in ((ANOTHER_RUN, result.floor), (LIMIT, result.limit)) if v}
    means = (row.mean for row in result.rows if row.mean)
    columns = page.study.competition.competition.columns_of([*known.values(), *means])
    lines = [(name, [(c, values.get(c.key)) for c in columns]) for name, values in known.items()]
    pictures = page.pictures.get((result.protocol, result.set), ())
    return {"result": result, "columns": columns, "lines": lines, "pictures": pictures}


def _unit(column: Column) -> str:
    """How a number is measured, and in what."""
    return ", ".join(filter(None, (column.measure, column.units)))


def _words(value: Any) -> str:
    """What is a table of names and values as a line."""
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _plain(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _ends(interval: Interval) -> str:
    """The ends of an interval; nothing where it has none."""
    if interval.low is None or interval.high is None:
        return ""
    return " to ".join(both_ends(interval.low, interval.high, 4)).replace("-", "\N{MINUS SIGN}")


@dataclass(frozen=True)
class Mark:
    """A row on the line.

    Attributes:
        x: Where, in units of the drawing.
        name: Of the row.
        kind: Of the row.
        score: Of the row, as it is printed.
        level: Of lines: which row of labels it takes, so that two do not overlap.
        beyond: Whether its score is beyond the end of the line.
    """

    x: float
    name: str
    kind: str
    score: str
    level: int = 0
    beyond: bool = False


def marks(rows: Sequence[Row]) -> list[Mark]:
    """Places of all rows that have a score; none where there are fewer than two."""
    scored = [r for r in rows if r.score is not None]
    if len(scored) < 2:
        return []
    # What is to be small: the score, or its negative where higher is better.
    costs = {r.key: r.competition.cost(r.score or 0.0) for r in scored}
    lines = [costs[r.key] for r in scored if r.kind in LINES]
    low, high = min(costs.values()), max(costs.values())
    # A single failed training would press all others into a point.
    if lines:
        high = min(high, max(lines) + 0.25 * abs(max(lines)))
    high = max(high, low + abs(low) * 1e-9 + 1e-9)
    out: list[Mark] = []
    ends = [-1e9, -1e9, -1e9]
    for row in sorted(scored, key=lambda r: r.order):
        cost = costs[row.key]
        x = MARGIN + (WIDTH - 2 * MARGIN) * min((cost - low) / (high - low), 1.0)
        level = 0
        if row.kind in LINES:
            level = min(range(len(ends)), key=lambda i: (ends[i] > x - 4, ends[i]))
            ends[level] = x + 6.2 * len(row.name)
        out.append(Mark(round(x, 1), row.name, row.kind, f"{row.score:.4f}", level, cost > high))
    return out


def entry_script(entry: PageEntry) -> str:
    """The errors of one entry, for the page that compares."""
    errors = entry.errors
    assert errors is not None
    flat = np.stack([f.error.ravel() for f in errors.fields.values()])
    largest = np.maximum(np.abs(flat).max(1), np.finfo(np.float64).tiny)
    # Rounded as it is written: what is read is multiplied by the written number.
    largest = np.array([float(f"{m:.6g}") for m in largest])
    q = np.rint(np.sign(flat) * STEPS * np.sqrt(np.minimum(np.abs(flat) / largest[:, None], 1.0))).astype(np.int8)
    plain = {
        "id": entry.id,
        "months": errors.months,
        "key": errors.key,
        "earth": errors.earth,
        "lat": [round(float(y), 4) for y in errors.grid.lat],
        "lon": [round(float(x), 4) for x in errors.grid.lon],
        "quantities": [
            {
                "name": name,
                "label": field.label,
                "numbers": field.numbers,
                "largest": float(m),
                "values": base64.b64encode(q[i].tobytes()).decode("ascii"),
            }
            for i, ((name, field), m) in enumerate(zip(errors.fields.items(), largest, strict=True))
        ],
    }
    return f"emukit.addErrors({_script(plain)});\n"


def site_script(site: Site) -> str:
    """Who can be compared, in which scales and colours, and the coasts."""
    variables = dict.fromkeys(name.partition(".")[0] for name in site.scales)
    named = {q.partition(".")[0]: f.colours for e in site.entries if e.errors for q, f in e.errors.fields.items()}
    plain = {
        "entries": [
            {
                "id": e.id,
                "name": e.name,
                "months": e.errors.months,
                "key": e.errors.key,
                "scores": dict(e.errors.scores),
                "competition": e.errors.competition.name,
                "columns": _columns(e.errors.competition),
                "higherIsBetter": e.errors.competition.higher_is_better,
            }
            for e in site.entries
            if e.errors
        ],
        "scales": dict(site.scales),
        "colours": {v: scale_colours(named.get(v, OTHER_COLOURS)) for v in variables},
        "coast": [np.rint(10 * line).astype(int).ravel().tolist() for line in coastline()],
    }
    return f"emukit.start({_script(plain)});\n"


def _columns(competition: Competition) -> list[dict[str, Any]]:
    """What a table of the competition's numbers needs."""
    return [
        {
            "key": c.key,
            "heading": c.heading,
            "unit": ", ".join(filter(None, (c.measure, c.units))),
            "title": ", ".join(filter(None, (c.description, c.units))),
            "digits": c.digits,
        }
        for c in competition.columns
    ]


def _script(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    # Valid inside a script whether it is a file or stands in a page.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
