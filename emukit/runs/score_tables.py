"""How scores of a run or a recipe are printed: for every set of months a table, with a reference and the limit next to
what was reached.

Invariant: a line is shown under the months it was reached on, or names its fold; scores of different months share no
table but as means, or as differences, over the same folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from emukit.competitions.ranking import (
    ANOTHER_RUN,
    LIMIT,
    MOST_COLUMNS,
    add_number_columns,
    all_keys,
    left_out,
    legends,
)
from emukit.metrics import Competition
from emukit.metrics.competition import Column
from emukit.terminal import csv_table, markdown_table, markdown_text, terminal_table

SUMMARY_HEADINGS = ("protocol and set", "seeds", "mean score", "sd over seeds", ANOTHER_RUN, LIMIT)


@dataclass(frozen=True)
class ScoreTable:
    """One table.

    Attributes:
        title: Of what, under which protocol, on which months.
        competition: Whose numbers they are.
        lines: Name of a line to its score and numbers, by ``score`` and the keys of metrics.
        column: Heading of one more column, and what stands in it by name of a line; empty where there is none.
    """

    title: str
    competition: Competition
    lines: Mapping[str, Mapping[str, float]]
    column: tuple[str, Mapping[str, str]] | None = None

    @property
    def headings(self) -> tuple[str, ...]:
        """Of all columns except the names of the lines."""
        return (*(c.full_heading for c in self.competition.columns), *((self.column[0],) if self.column else ()))

    def numbers(self, name: str) -> list[str]:
        """The score and the metrics of one line."""
        values = self.lines[name]
        return [c.text(values.get(c.key)) for c in self._columns]

    @cached_property
    def _columns(self) -> list[Column]:
        return self.competition.columns_of(self.lines.values())

    def own(self, name: str) -> str:
        """What stands in the column of the table's own."""
        return self.column[1].get(name, "") if self.column else ""

    def cells(self, name: str) -> list[str]:
        """All of one line."""
        return self.numbers(name) + ([self.own(name)] if self.column else [])


@dataclass(frozen=True)
class Summary:
    """One line of what a validation comes to.

    Attributes:
        what: Protocol and set.
        seeds: How many runs.
        score: Their mean.
        spread: Sample standard deviation over seeds; None of a single run.
        ensemble_member: What another run of the climate model scores; None where there is none.
        limit: Of a perfect emulator; None where it cannot be estimated.
    """

    what: str
    seeds: int
    score: float
    spread: float | None
    ensemble_member: float | None
    limit: float | None

    def cells(self) -> tuple[str, ...]:
        """As a line of a table, in the order of `SUMMARY_HEADINGS`."""
        known = (self.score, self.spread, self.ensemble_member, self.limit)
        return (self.what, str(self.seeds), *("" if x is None else f"{x:.4f}" for x in known))


def summary_table(title: str, lines: Sequence[Summary]) -> Table:
    """One table of all sets; each line is on months of its own, so lines are not ranked."""
    table = terminal_table(title)
    for i, heading in enumerate(SUMMARY_HEADINGS):
        table.add_column(heading.replace(": ", ":\n"), justify="right" if i else "left", no_wrap=i > 0)
    for line in lines:
        table.add_row(*map(Text, line.cells()))
    return table


def summary_markdown(title: str, lines: Sequence[Summary]) -> str:
    """The same in Markdown."""
    rows = markdown_table(SUMMARY_HEADINGS, (line.cells() for line in lines), right=range(1, len(SUMMARY_HEADINGS)))
    return "\n".join([f"### {title}", "", *rows, ""])


def tables(blocks: Sequence[ScoreTable], width: int) -> list[RenderableType]:
    """One rich table a block.

    Args:
        blocks: What they hold.
        width: Columns of the terminal.
    """
    out: list[RenderableType] = []
    for block in blocks:
        # A title of the table's own would be folded to its width.
        out.append(Text(block.title, style="bold"))
        table = terminal_table()
        if len(block.competition.columns) > MOST_COLUMNS:
            out.append(_turned(table, block))
            continue
        table.add_column("", overflow="fold")
        numbers, own = [block.numbers(name) for name in block.lines], [block.own(name) for name in block.lines]
        own_width = 1 + max(map(len, (block.column[0], *own))) if block.column else 0
        shown = add_number_columns(table, block.competition, block.lines, numbers, width - own_width)
        if block.column:
            table.add_column(block.column[0], justify="right", no_wrap=True)
        for name, cells, more in zip(block.lines, numbers, own, strict=True):
            table.add_row(Text(name), *cells[:shown], *([more] if block.column else ()))
        out += [table, *left_out(block.competition, shown)]
    return out + legends(block.competition for block in blocks)


def _turned(table: Table, block: ScoreTable) -> Table:
    """A line for each number, where there are more of them than a terminal has room for side by side."""
    table.add_column("")
    for name in block.lines:
        table.add_column(Text(name), justify="right", overflow="fold")
    cells = [block.cells(name) for name in block.lines]
    for heading, *shown in zip(block.headings, *cells, strict=True):
        table.add_row(Text(heading), *shown)
    return table


def markdown(blocks: Sequence[ScoreTable]) -> str:
    """One Markdown table a block."""
    lines = []
    for block in blocks:
        headings = ("", *map(markdown_text, block.headings))
        rows = ((markdown_text(name), *block.cells(name)) for name in block.lines)
        table = markdown_table(headings, rows, right=range(1, len(headings)))
        lines += [f"### {markdown_text(block.title)}", "", *table, ""]
    return "\n".join(lines)


def to_csv(blocks: Sequence[ScoreTable]) -> str:
    """One CSV table of all blocks, the title as a column, with all digits."""
    keys = ["score", *all_keys(block.competition for block in blocks)]
    lines = ((b.title, name, *map(values.get, keys)) for b in blocks for name, values in b.lines.items())
    return csv_table(["table", "line", *keys], lines)
