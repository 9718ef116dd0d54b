"""The leaderboard: what stands next to what, and on which months.

Invariant: scores of different months never share a ranking. Rows are grouped by split and set, and what is ranked
together was scored on the same months of the same truth.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from statistics import fmean, stdev
from typing import Literal

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from emukit.metrics.competition import Column, Competition
from emukit.terminal import markdown_text

LINES = ("reference", "limit")
# With more numbers than the score and seven metrics a table is wider than a terminal.
MOST_COLUMNS = 8
# What another run of the climate model scores in the place of a prediction, and what a perfect emulator would.
ANOTHER_RUN, LIMIT = "reference: another run", "noise ceiling"
# Of the column that stands next to the score where it is known: the score holds the weather of one member.
OVER_MEMBERS = "mean ± sd over members"
Format = Literal["table", "md", "csv", "json"]


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard.

    Attributes:
        name: Of the run, submission or publication.
        kind: ``run`` or ``submission`` of one's own; ``published`` by a team of the competition; ``measured``, a plain
            regression scored elsewhere; ``reference`` and ``limit``, lines to compare with that take no place: what
            another run of the climate model, the climatology or a plain regression scores on the same months, and
            what a perfect emulator would.
        split: What was scored: rows are ranked only next to rows of the same split.
        score: None where a publication gave none on these months.
        numbers: By key of the competition's metrics; fewer where a publication gave fewer.
        seed: Of the training, where there is one.
        parameters: Of a network, where known.
        note: Source of a published number, or what to know.
        model: What was trained, of a run or a submission.
        random: Whether another seed would give another score.
        remark: What to know of its training, next to its name.
        members: Scores with each member of these months as truth, in the place of the one that the split names; empty
            where they are not known.
        competition: Which score it is.
    """

    name: str
    kind: Literal["run", "submission", "published", "measured", "reference", "limit"]
    split: str
    score: float | None
    numbers: dict[str, float]
    seed: int | None = None
    parameters: int | None = None
    note: str = ""
    model: str = ""
    random: bool = True
    remark: str = ""
    members: tuple[float, ...] = ()
    competition: Competition = field(kw_only=True)

    @property
    def key(self) -> tuple[str, str, str, int | None, float | None]:
        """What tells one line of the leaderboard from another."""
        return self.split, self.name, self.kind, self.seed, self.score

    @property
    def over_members(self) -> tuple[float, float] | None:
        """Mean over members as truth, and sample standard deviation over them; None of fewer than two."""
        return (fmean(self.members), stdev(self.members)) if len(self.members) > 1 else None

    @property
    def over_members_text(self) -> str:
        """The same for people; empty where it is not known."""
        return "" if self.over_members is None else "{:.4f} ± {:.4f}".format(*self.over_members)

    @property
    def order(self) -> tuple[bool, float]:
        """Sorts rows of one split, the best first and those without a score last."""
        return self.score is None, self.competition.cost(self.score or 0.0)

    def values(self) -> dict[str, float | None]:
        """The score and all numbers by key, None where there is none."""
        return {"score": self.score, **{key: self.numbers.get(key) for key in self.competition.keys}}


def ranked(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by split, best first; splits with scored runs or submissions first, those with unscored ones next."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.split, []).append(row)
    own = {s for s, g in groups.items() if any(r.kind in ("run", "submission") for r in g)}
    scored = {s for s in own if any(r.kind in ("run", "submission") and r.score is not None for r in groups[s])}
    order = sorted(groups, key=lambda s: (s not in scored, s not in own, s))
    return {s: sorted(groups[s], key=lambda r: r.order) for s in order}


def tables(rows: Sequence[Row]) -> list[RenderableType]:
    """One rich table a split."""
    out: list[RenderableType] = []
    for split, group in ranked(rows).items():
        table = Table(
            title=Text(split), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0, pad_edge=False
        )
        table.add_column("#", justify="right")
        table.add_column("entry", overflow="fold", ratio=1)
        add_number_columns(table, group[0].competition)
        several = any(row.members for row in group)
        if several:
            table.add_column("\n".join(["mean ±", "sd over", "members"]), justify="right", no_wrap=True)
        for place, row in places(group):
            # Text, not markup: a run's name may hold brackets.
            style = "dim" if row.kind in LINES else "cyan" if row.kind in ("published", "measured") else ""
            shown = _cells(row)[: len(shown_columns(row.competition))] + [row.over_members_text] * several
            table.add_row(*(Text(c) for c in (place, _terminal_label(row), *shown)), style=style)
        captions = ["sources and caveats of the rows: --format md"] if any(row.note for row in group) else []
        if len(group[0].competition.columns) > MOST_COLUMNS:
            captions.append(f"the {len(group[0].competition.metrics)} numbers of each score: --format csv")
        if captions:
            table.caption, table.caption_justify = "; ".join(captions), "left"
        out.append(table)
    return out + legends(row.competition for row in rows)


def legends(competitions: Iterable[Competition]) -> list[RenderableType]:
    """What the headings of tables mean, a line for each competition."""
    texts = dict.fromkeys(competition.legend for competition in competitions if competition.legend)
    return [Text(text, style="dim") for text in texts]


def shown_columns(competition: Competition) -> tuple[Column, ...]:
    """The columns of a table in a terminal: of a competition with many metrics the score alone."""
    columns = competition.columns
    return columns if len(columns) <= MOST_COLUMNS else columns[:1]


def add_number_columns(table: Table, competition: Competition) -> None:
    """Add the columns of the score and the metrics: what each is, how it is measured, and its unit.

    Args:
        table: One for a terminal, which has lines for these but no width.
        competition: Whose numbers they are.
    """
    for column in shown_columns(competition):
        lines = [*column.heading.split(), column.measure, column.units]
        table.add_column("\n".join(filter(None, lines)), justify="right", no_wrap=True)


def markdown(rows: Sequence[Row]) -> str:
    """One Markdown table a split."""
    lines = []
    for split, group in ranked(rows).items():
        headings = [markdown_text(column.full_heading) for column in group[0].competition.columns]
        several = any(row.members for row in group)
        headings += [OVER_MEMBERS] * several
        lines += [f"### {markdown_text(split)}", "", "| # | entry | kind | " + " | ".join(headings) + " | note |"]
        lines.append("|--:|---|---|" + "--:|" * len(headings) + "---|")
        for place, row in places(group):
            cells = (place, _label(row), row.kind, *_cells(row), *[row.over_members_text] * several, row.note)
            lines.append("| " + " | ".join(markdown_text(c) for c in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def to_csv(rows: Sequence[Row]) -> str:
    """One CSV table of all rows, the split as a column."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    keys = all_keys(row.competition for row in rows)
    last = ("seed", "parameters", "note", "model", "remark", "members_mean", "members_sd")
    writer.writerow(["split", "name", "kind", "score", *keys, *last])
    for split, group in ranked(rows).items():
        for r in group:
            numbers = [r.numbers.get(key, "") for key in keys]
            own = (r.seed, r.parameters, r.note, r.model, r.remark, *(r.over_members or ("", "")))
            writer.writerow([split, r.name, r.kind, r.score, *numbers, *own])
    return stream.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """All rows in ranking order."""
    names = [f.name for f in fields(Row) if f.name != "competition"]
    plain = [
        {name: getattr(r, name) for name in names} | {"competition": r.competition.name}
        for group in ranked(rows).values()
        for r in group
    ]
    return json.dumps(plain, indent=1)


def all_keys(competitions: Iterable[Competition]) -> list[str]:
    """Keys of the metrics of several competitions, each once."""
    return list(dict.fromkeys(key for competition in competitions for key in competition.keys))


def places(group: Sequence[Row]) -> list[tuple[str, Row]]:
    """Rows with their places; references and limits are lines to compare with, not competitors: they take none."""
    out, place = [], 0
    for row in group:
        ranks = row.kind not in LINES and row.score is not None
        place += ranks
        out.append((str(place) if ranks else "", row))
    return out


def _label(row: Row) -> str:
    words = [row.model] if row.model else []
    words += [f"seed {row.seed}"] if row.seed is not None and row.random else []
    words += [row.remark] if row.remark else []
    return f"{row.name} ({', '.join(words)})" if words else row.name


def _terminal_label(row: Row) -> str:
    # A terminal has no room for a column of its own.
    kind = "" if row.kind in ("run", "submission", "limit") else f"{row.kind}: "
    why = f" ({row.note.partition(';')[0]})" if row.score is None else ""
    return f"{kind}{_label(row)}{why}"


def _cells(row: Row) -> list[str]:
    return [column.text(value) for column, value in zip(row.competition.columns, row.values().values(), strict=True)]
