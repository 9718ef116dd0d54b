"""How a validation is printed: for every set of months a table, with floor and limit beside what was reached.

Invariant: a line is shown under the months it was reached on, or names its fold; scores of different months share no
table but as means, or as differences, over the same folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from emukit.report.leaderboard import HEADINGS, NUMBERS
from emukit.terminal import markdown_text

COLUMNS = ("score", *NUMBERS)


@dataclass(frozen=True)
class Block:
    """One table.

    Attributes:
        title: Of what, under which protocol, on which months.
        lines: Name of a line to its score and six numbers, by ``score`` and ``variable.part``.
    """

    title: str
    lines: Mapping[str, Mapping[str, float]]


def tables(blocks: Sequence[Block]) -> list[Table]:
    """One rich table a block."""
    out = []
    for block in blocks:
        table = Table(title=Text(block.title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0)
        table.add_column("", overflow="fold")
        for heading in HEADINGS:
            table.add_column(heading.replace(" ", "\n"), justify="right", no_wrap=True)
        for name, numbers in block.lines.items():
            table.add_row(Text(name), *_cells(numbers))
        out.append(table)
    return out


def markdown(blocks: Sequence[Block]) -> str:
    """One Markdown table a block."""
    lines = []
    for block in blocks:
        lines += [
            f"### {markdown_text(block.title)}",
            "",
            "| | " + " | ".join(HEADINGS) + " |",
            "|---|" + "--:|" * len(HEADINGS),
        ]
        lines += [
            "| " + " | ".join((markdown_text(name), *_cells(numbers))) + " |" for name, numbers in block.lines.items()
        ]
        lines.append("")
    return "\n".join(lines)


def _cells(numbers: Mapping[str, float]) -> list[str]:
    return [f"{numbers[c]:.4f}" if c == "score" else f"{numbers[c]:.3f}" for c in COLUMNS]
