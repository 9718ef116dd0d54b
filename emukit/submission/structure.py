"""What the IDs of a submission say as a whole: months, grid, and rows that are missing.

Invariant: a cause (another grid, months counted from one, a file cut off) is named before its thousands of effects.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from emukit.submission.ids import CELL, HEAD, Layout, month_name
from emukit.submission.lines import Examined
from emukit.submission.problems import Problem

_MONTH = re.compile(r"t\d{3}", re.ASCII)


def structure_problems(examined: Examined, layout: Layout) -> list[Problem]:
    """Name what is wrong with the set of IDs, against what the file should hold."""
    return [
        *_months(examined.lines, examined.strange_months, layout),
        *_cells(examined.strange_cells, layout),
        *_missing(examined.lines, layout),
    ]


def _months(lines: NDArray[np.int64], strange: set[str], layout: Layout) -> list[Problem]:
    here = {int(t) for t in np.flatnonzero(lines.reshape(layout.months, -1).any(1))}
    found = sorted(here | {int(name[1:]) for name in strange if _MONTH.fullmatch(name)})
    if not found:
        return []
    problems = []
    if len(found) != layout.months:
        text = f"there are {len(found)} months, {month_name(found[0])} .. {month_name(found[-1])}, not {layout.months}"
        problems.append(Problem("month_count", text))
    if found[0] != 0 and found[-1] - found[0] + 1 == len(found):
        text = (
            f"the months are labelled {month_name(found[0])} .. {month_name(found[-1])}, "
            f"not t000 .. {month_name(layout.months - 1)}: the first month is t000"
        )
        problems.append(Problem("month_labels", text))
    return problems


def _cells(strange: set[str], layout: Layout) -> list[Problem]:
    parts = [m.groupdict() for m in map(CELL.fullmatch, strange) if m]
    problems = []
    variables = {p["variable"] for p in parts} - set(layout.variables)
    if variables:
        text = f"variables {', '.join(sorted(variables)[:5])} are not of the submission's {', '.join(layout.variables)}"
        problems.append(Problem("variables", text))
    for axis, expected in (("lat", layout.lat), ("lon", layout.lon)):
        other = sorted({p[axis] for p in parts} - set(expected), key=float)
        if other:
            text = (
                f"{len(other)} {axis} values are not of the grid, {other[0]} .. {other[-1]}; "
                f"it has {len(expected)}, {expected[0]} .. {expected[-1]}"
            )
            problems.append(Problem("grid", text))
    return problems


def _missing(lines: NDArray[np.int64], layout: Layout) -> list[Problem]:
    missing = np.flatnonzero(lines == 0)
    if not len(missing):
        return []
    problems = []
    first = int(missing[0])
    if 0 < first == layout.size - len(missing) and first % len(layout.cells):
        text = (
            f"the file ends inside month {layout.id_at(first)[:HEAD]}: it was cut off after {layout.id_at(first - 1)}"
        )
        problems.append(Problem("truncated", text, (int(lines[first - 1]),), 1))
    text = f"{len(missing)} of {layout.size} IDs are missing, for example {layout.id_at(first)}"
    return [*problems, Problem("missing", text, (), len(missing))]
