"""How a study is printed: for every set of months a table of its variants, and a sentence for each.

Invariant: the base comes first and a difference is to it; a mean stands beside how many seeds it is over.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from emukit.report.leaderboard import HEADINGS, NUMBERS

COLUMNS = ("score", *NUMBERS)


@dataclass(frozen=True)
class StudyTable:
    """A study on one set of months.

    Attributes:
        title: Which study, protocol, set and months.
        rows: As `study.json` has them: variant, seeds, mean, sd, difference, sentence.
        lines: Floor and limit by name, with their numbers.
    """

    title: str
    rows: tuple[Mapping[str, Any], ...]
    lines: Mapping[str, Mapping[str, float]]


def tables(studies: Sequence[StudyTable]) -> list[RenderableType]:
    """One rich table each, and the sentences under it."""
    out: list[RenderableType] = []
    for study in studies:
        table = Table(title=Text(study.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
        table.add_column("", overflow="fold")
        for heading in ("seeds", *HEADINGS[:1], "+-", *HEADINGS[1:], "to base"):
            table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
        for row in study.rows:
            table.add_row(*map(Text, (row["variant"], *_cells(row))))
        for name, numbers in study.lines.items():
            score, *six = (numbers[c] for c in COLUMNS)
            table.add_row(Text(name), "", f"{score:.4f}", "", *(f"{x:.3f}" for x in six), "", style="dim")
        out += [table, *(Text(f"{row['variant']}: {row['sentence']}") for row in study.rows[1:]), Text("")]
    return out


def markdown(studies: Sequence[StudyTable]) -> str:
    """One Markdown table each, and the sentences under it."""
    lines = []
    for study in studies:
        headings = ("", "seeds", "score", "sd", *HEADINGS[1:], "minus base")
        lines += [f"### {study.title}", "", f"| {' | '.join(headings)} |", "|---|" + "--:|" * (len(headings) - 1)]
        for row in study.rows:
            lines.append(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in (row['variant'], *_cells(row)))} |")
        for name, numbers in study.lines.items():
            score, *six = (numbers[c] for c in COLUMNS)
            lines.append(f"| *{name}* | | {score:.4f} | | {' | '.join(f'{x:.3f}' for x in six)} | |")
        lines += ["", *(f"- `{row['variant']}`: {row['sentence']}" for row in study.rows[1:]), ""]
    return "\n".join(lines)


def comma_separated(studies: Sequence[StudyTable]) -> str:
    """One CSV table of all of them: a row for every number of every variant."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["table", "variant", "number", "seeds", "mean", "sd", "difference", "low", "high"])
    for study in studies:
        for row in study.rows:
            for name in COLUMNS if row["mean"] else ():
                difference = (row["difference"] or {}).get(name, {})
                writer.writerow(
                    [
                        study.title,
                        row["variant"],
                        name,
                        len(row["seeds"]),
                        row["mean"][name],
                        (row["sd"] or {}).get(name),
                        *(difference.get(k) for k in ("mean", "low", "high")),
                    ]
                )
    return stream.getvalue()


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Seeds, score, its standard deviation, the six numbers, and the difference in the score."""
    if not row["mean"]:
        return ["0", *[""] * (len(COLUMNS) + 2)]
    spread = f"{row['sd']['score']:.4f}" if row["sd"] else ""
    to_base = f"{row['difference']['score']['mean']:+.4f}" if row["difference"] else ""
    score, *six = (row["mean"][c] for c in COLUMNS)
    return [str(len(row["seeds"])), f"{score:.4f}", spread, *(f"{x:.3f}" for x in six), to_base]
