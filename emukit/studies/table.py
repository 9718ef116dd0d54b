"""How a study is printed: for every set of months a table of its variants, and a sentence for each.

Invariant: the base comes first and a difference is to it; a mean stands next to how many seeds it is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from emukit.competitions.ranking import add_number_columns, legends, shown_columns
from emukit.metrics import Competition
from emukit.terminal import csv_table, markdown_table, markdown_text, terminal_table

# What the column of the difference is called, in a terminal, in a file and on a page.
DIFFERENCE = "score less base's"
# No interval is told more finely.
MOST_DIGITS = 9


@dataclass(frozen=True)
class StudyTable:
    """A study on one set of months.

    Attributes:
        title: Which study, protocol, set and months.
        competition: Whose numbers they are.
        rows: As `study.json` has them: variant, seeds, mean, sd, difference, sentence.
        lines: A reference and the limit by name, with their numbers.
    """

    title: str
    competition: Competition
    rows: tuple[Mapping[str, Any], ...]
    lines: Mapping[str, Mapping[str, float]]


def tables(studies: Sequence[StudyTable]) -> list[RenderableType]:
    """One rich table each, with the standard deviations under the means, and the sentences below."""
    out: list[RenderableType] = []
    for study in studies:
        table = terminal_table(study.title)
        table.add_column("", overflow="fold")
        table.add_column("seeds", justify="right", no_wrap=True)
        add_number_columns(table, study.competition)
        shown = len(shown_columns(study.competition))
        table.add_column(DIFFERENCE.replace(" ", "\n"), justify="right", no_wrap=True)
        for row in study.rows:
            cells = _cells(row, study.competition)
            cells = [*cells[: 1 + shown], *cells[-1:]]
            table.add_row(Text(row["variant"]), *(_two_lines(text, under) for text, under in cells))
        for name, values in study.lines.items():
            table.add_row(Text(name), "", *_numbers(values, study.competition)[:shown], "", style="dim")
        out += [table, *(Text(f"{row['variant']}: {row['sentence']}") for row in study.rows[1:]), Text("")]
    return out + legends(study.competition for study in studies)


def markdown(studies: Sequence[StudyTable]) -> str:
    """One Markdown table each, and the sentences under it."""
    lines = []
    for study in studies:
        columns = study.competition.columns
        headings = ("", "seeds", *(markdown_text(c.full_heading) for c in columns), DIFFERENCE)
        rows = []
        for row in study.rows:
            cells = (f"{text} ({under})" if under else text for text, under in _cells(row, study.competition))
            rows.append((markdown_text(row["variant"]), *cells))
        rows += [(f"*{name}*", "", *_numbers(values, study.competition), "") for name, values in study.lines.items()]
        lines += [f"### {markdown_text(study.title)}", ""]
        lines += markdown_table(headings, rows, right=range(1, len(headings)))
        lines += ["", *(f"- {markdown_text(row['variant'])}: {row['sentence']}" for row in study.rows[1:]), ""]
    return "\n".join(lines)


def to_csv(studies: Sequence[StudyTable]) -> str:
    """One CSV table of all of them: a row for every number of every variant."""
    lines: list[tuple[object, ...]] = []
    for study in studies:
        for row in study.rows:
            for name in (c.key for c in study.competition.columns if c.key in (row["mean"] or ())):
                own = (study.title, row["variant"], name, len(row["seeds"]), row["mean"][name])
                difference = (row["difference"] or {}).get(name, {})
                lines.append((*own, (row["sd"] or {}).get(name), *map(difference.get, ("mean", "low", "high"))))
    return csv_table(("table", "variant", "number", "seeds", "mean", "sd", "difference", "low", "high"), lines)


def both_ends(low: float, high: float, digits: int = 3, sign: str = "+") -> tuple[str, str]:
    """The ends of an interval as text: one that does not hold zero has as many digits as keep zero from its ends.

    Args:
        low, high: The ends.
        digits: Behind the point, where they suffice.
        sign: As a format has it: ``+`` for the sign of either, empty for that of a negative number alone.
    """
    nearest = min(abs(low), abs(high)) if low > 0 or high < 0 else 0.0
    while nearest and digits < MOST_DIGITS and not float(f"{nearest:.{digits}f}"):
        digits += 1
    return f"{low:{sign}.{digits}f}", f"{high:{sign}.{digits}f}"


def _cells(row: Mapping[str, Any], competition: Competition) -> list[tuple[str, str]]:
    """Seeds, the score and the numbers, and the difference in the score; with what stands under each, if any.

    Under a mean stands its standard deviation over seeds, and under the difference the 95 % interval.
    """
    if not row["mean"]:
        return [("0", ""), *[("", "")] * (len(competition.columns) + 1)]
    spread = [f"\N{PLUS-MINUS SIGN}{x}" if x else "" for x in _numbers(row["sd"] or {}, competition)]
    score = row["difference"]["score"] if row["difference"] else None
    ends = " to ".join(both_ends(score["low"], score["high"])) if score and score["low"] is not None else ""
    return [
        (str(len(row["seeds"])), ""),
        *zip(_numbers(row["mean"], competition), spread, strict=True),
        (f"{score['mean']:+.4f}" if score else "", ends),
    ]


def _two_lines(text: str, under: str) -> Text:
    # An interval takes two more: a terminal of 80 columns has room for the names then.
    return Text.assemble(text, ("\n" + under.replace(" to ", " to\n"), "dim") if under else "")


def _numbers(values: Mapping[str, float], competition: Competition) -> list[str]:
    return [column.text(values.get(column.key)) for column in competition.columns]
