"""The weather of a prediction next to that of members of the climate model's ensemble, as a table.

Invariant: next to every difference stands that between two members, without which it says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

CAPTION = (
    "of anomalies from a straight line of each calendar month: std their standard deviation, memory the correlation "
    "with the month before, length where the correlation with the surroundings falls to 1/e"
)


@dataclass(frozen=True)
class Line:
    """One number of weather.

    Attributes:
        name: Which, with the variable.
        unit: Of the values; empty for a correlation.
        members: Smallest and largest of the members; None where only a difference is known.
        prediction: None where only a difference is known.
        difference: Of the prediction from a member, the mean over members; not a number where it was not measured.
        between_members: Of a member from another, the mean size over pairs, likewise; None of a single member.
        relative: Whether differences are shares of what the member has.
        signed: Whether the difference has a direction.
        measured: What a value that is infinite is more than.
    """

    name: str
    unit: str
    members: tuple[float, float] | None
    prediction: float | None
    difference: float
    between_members: float | None
    relative: bool
    signed: bool
    measured: float


def weather_table(lines: Sequence[Line], title: str) -> Table:
    """All numbers, a line each."""
    table = Table(
        title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0, pad_edge=False
    )
    table.caption, table.caption_justify = CAPTION, "left"
    table.add_column("weather", overflow="fold")
    for heading in ("unit", "members", "prediction", "difference\nfrom member", "between\nmembers"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(
            Text(line.name),
            line.unit,
            "" if line.members is None else "..".join(dict.fromkeys(_number(n, line.measured) for n in line.members)),
            "" if line.prediction is None else _number(line.prediction, line.measured),
            _difference(line.difference, line.relative, line.signed),
            "" if line.between_members is None else _difference(line.between_members, line.relative, False),
        )
    return table


def beyond(measured: float) -> str:
    """More than was measured, in whole hundreds that certainly were."""
    return f"> {measured // 100 * 100:.0f}"


def _number(value: float, measured: float) -> str:
    if math.isinf(value):
        return beyond(measured)
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3f}"


def _difference(value: float, relative: bool, signed: bool) -> str:
    if math.isnan(value):
        return "?"
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f} %" if relative else f"{value:{sign}.3f}"
