"""The leaderboard: what stands beside what, and on which months.

Invariant: scores of different months never share a ranking. Rows are grouped by split and set, and what is ranked
together was scored on the same months of the same truth.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from emukit.terminal import markdown_text

PARTS = ("monthly_rmse", "time_mean_rmse", "time_stddev_mae")
NUMBERS = tuple(f"{v}.{p}" for v in ("tas", "pr") for p in PARTS)
LINES = ("reference", "limit")
# What another run of the climate model scores in the place of a prediction, and what a perfect emulator would.
ANOTHER_RUN, LIMIT = "reference: another run", "estimated limit"
Format = Literal["table", "md", "csv", "json"]
HEADINGS = ("score", "tas month", "tas mean", "tas std", "pr month", "pr mean", "pr std")
# Of the columns; a score has none.
UNITS = ("", "K", "K", "K", "mm/day", "mm/day", "mm/day")
MEASURES = ("", "RMSE", "RMSE", "MAE", "RMSE", "RMSE", "MAE")
_WORDS = ("monthly RMSE", "RMSE of the time mean", "MAE of the standard deviation")
# Where a line has room for them, in a file.
FULL_HEADINGS = ("score", *(f"{v} {w}, {u}" for v, u in (("tas", "K"), ("pr", "mm/day")) for w in _WORDS))
# What the short headings mean, under a table.
LEGEND = "month: RMSE of the months; mean: of their mean over time; std: MAE of their standard deviation over time"


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard.

    Attributes:
        name: Of the run, submission or publication.
        kind: ``run`` or ``submission`` of one's own; ``published`` by a team of the competition; ``measured``, a plain
            regression scored elsewhere; ``reference`` and ``limit``, lines to compare with that take no place: what
            another run of the climate model, the climatology or a plain regression scores on the same months, and
            what a perfect emulator would.
        split: What was scored: rows are ranked only beside rows of the same split.
        score: The official score, lower is better; None where a publication gave none on these months.
        numbers: The six numbers by ``variable.part``; fewer where a publication gave fewer.
        seed: Of the training, where there is one.
        parameters: Of a network, where known.
        note: Source of a published number, or what to know.
        model: What was trained, of a run or a submission.
        random: Whether another seed would give another score.
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

    @property
    def key(self) -> tuple[str, str, str, int | None, float | None]:
        """What tells one line of the leaderboard from another."""
        return self.split, self.name, self.kind, self.seed, self.score


def ranked(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by split, best first; splits with scored runs or submissions first, those with unscored ones next."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.split, []).append(row)
    own = {s for s, g in groups.items() if any(r.kind in ("run", "submission") for r in g)}
    scored = {s for s in own if any(r.kind in ("run", "submission") and r.score is not None for r in groups[s])}
    order = sorted(groups, key=lambda s: (s not in scored, s not in own, s))
    return {s: sorted(groups[s], key=lambda r: (r.score is None, r.score or 0.0)) for s in order}


def tables(rows: Sequence[Row]) -> list[RenderableType]:
    """One rich table a split."""
    out: list[RenderableType] = []
    for split, group in ranked(rows).items():
        table = Table(
            title=Text(split), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0, pad_edge=False
        )
        table.add_column("#", justify="right")
        table.add_column("entry", overflow="fold", ratio=1)
        add_number_columns(table)
        for place, row in places(group):
            # Text, not markup: a run's name may hold brackets.
            style = "dim" if row.kind in LINES else "cyan" if row.kind in ("published", "measured") else ""
            table.add_row(*(Text(c) for c in (place, _terminal_label(row), *_cells(row))), style=style)
        if any(row.note for row in group):
            table.caption = "sources and caveats of the rows: --format md"
            table.caption_justify = "left"
        out.append(table)
    return [*out, Text(LEGEND, style="dim")] if out else out


def add_number_columns(table: Table) -> None:
    """Add the columns of the score and the six numbers: what each is, how it is measured, and its unit.

    Args:
        table: One for a terminal, which has lines for these but no width.
    """
    for heading, measure, unit in zip(HEADINGS, MEASURES, UNITS, strict=True):
        lines = [*heading.split(), measure, unit] if measure else [heading]
        table.add_column("\n".join(lines), justify="right", no_wrap=True)


def markdown(rows: Sequence[Row]) -> str:
    """One Markdown table a split."""
    lines = []
    for split, group in ranked(rows).items():
        lines += [f"### {markdown_text(split)}", "", "| # | entry | kind | " + " | ".join(FULL_HEADINGS) + " | note |"]
        lines.append("|--:|---|---|" + "--:|" * len(FULL_HEADINGS) + "---|")
        for place, row in places(group):
            cells = (place, _label(row), row.kind, *_cells(row), row.note)
            lines.append("| " + " | ".join(markdown_text(c) for c in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def comma_separated(rows: Sequence[Row]) -> str:
    """One CSV table of all rows, the split as a column."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["split", "name", "kind", "score", *NUMBERS, "seed", "parameters", "note", "model"])
    for split, group in ranked(rows).items():
        for r in group:
            numbers = [r.numbers.get(n, "") for n in NUMBERS]
            writer.writerow([split, r.name, r.kind, r.score, *numbers, r.seed, r.parameters, r.note, r.model])
    return stream.getvalue()


def as_json(rows: Sequence[Row]) -> str:
    """All rows in ranking order."""
    return json.dumps([asdict(r) for group in ranked(rows).values() for r in group], indent=1)


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
    return f"{row.name} ({', '.join(words)})" if words else row.name


def _terminal_label(row: Row) -> str:
    # A terminal has no room for a column of its own.
    kind = "" if row.kind in ("run", "submission", "limit") else f"{row.kind}: "
    why = f" ({row.note.partition(';')[0]})" if row.score is None else ""
    return f"{kind}{_label(row)}{why}"


def _cells(row: Row) -> list[str]:
    score = "" if row.score is None else f"{row.score:.4f}"
    return [score, *(f"{row.numbers[n]:.3f}" if n in row.numbers else "" for n in NUMBERS)]
