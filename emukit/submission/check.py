"""Every way in which a submission file can be wrong, named.

Invariant: no problem, except accepted ones, means that the file holds each expected ID once with a finite and possible
number, under the right header. Every problem carries line numbers. A cause (another grid, months counted from one, a
file cut off) is named before its thousands of effects.

A reference is only compared by its mean seasonal cycle, so any run or climatology of the same grid serves, whatever its
scenario; only its calendar months must be right.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.errors import SubmissionError
from emukit.submission.lines import Examined, examine, examine_columns
from emukit.submission.read import CsvColumns, TooLongError, open_csv, read_submission
from emukit.submission.rows import CELL, EXAMPLES, HEAD, Problem, RowLayout, month_name, packing_of

_HEADER = b"ID,Prediction"


def check_submission(
    path: Path | str,
    grid: Grid,
    months: int = 360,
    variables: Sequence[str] = ("tas", "pr"),
    reference: NDArray[np.floating] | None = None,
) -> list[Problem]:
    """Find what is wrong with a submission.

    Line ends of Windows, quoted IDs and blank lines are accepted, as the competition's reader accepts them.
    Rows in another order are accepted too: a problem says so, which is marked as accepted.
    Kinds of problems: ``unreadable``, ``encoding``, ``empty``, ``header``, ``malformed``, ``month_count``,
    ``month_labels``, ``variables``, ``grid``, ``truncated``, ``missing``, ``unknown``, ``duplicate``,
    ``misordered``, ``unparsable``, ``non_finite``, ``too_long``; ``tas_range``, ``pr_negative``, ``pr_range``,
    ``pr_units``, ``all_zero``, ``constant``; with a reference ``shifted`` and ``upside_down``.

    Args:
        path: ``.csv``, ``.csv.gz`` or ``.zip``.
        grid: Cell centres the IDs must name.
        months: How many months there must be.
        variables: Which variables, in their order.
        reference: (R, V, Y, X) months in a row, at least twelve, the first of the calendar month of ``t000``: a
            simulation, or a climatology of twelve. Its seasonal cycle tells a shifted submission; with fewer than
            twelve months submitted nothing can be told.

    Returns:
        The problems, causes before effects; none for a good submission.

    Raises:
        SubmissionError: There is no such file, or its name does not end in .csv, .csv.gz or .zip.
        ValueError: The reference does not fit grid and variables.
    """
    path = Path(path)
    packing_of(path)
    if not path.is_file():
        raise SubmissionError(f"there is no submission {path}", hint="name an existing .csv, .csv.gz or .zip file")
    layout = RowLayout.of(grid, months, variables)
    most = layout.most_rows
    try:
        columns = _columns(path, most)
        if columns is not None and _exactly_right(columns, layout):
            return content_problems(columns.values, np.arange(2, layout.size + 2), layout, reference)
        if columns is not None:
            examined = examine_columns(columns, layout)
        else:
            with open_csv(path, most) as stream:
                examined = examine(stream, layout)
    except TooLongError as e:
        return [Problem("too_long", f"{e.found}, where a submission has {layout.size:,} rows: reading stopped")]
    except SubmissionError as e:
        return [Problem("unreadable", f"{e.what}: {e.found}" if e.found else e.what)]
    return _problems(examined, layout, reference)


def _columns(path: Path, most: int) -> CsvColumns | None:
    """The rows of a file with the right header and a number in each row, which is line i + 2; None of any other."""
    try:
        with open_csv(path) as stream:
            start = stream.read(len(_HEADER) + 1)
        # As old Macs, Windows, or all others end a line.
        known = start in (_HEADER + b"\n", _HEADER + b"\r")
        columns = read_submission(path, most, skip_blank_lines=False) if known else None
    except TooLongError:
        raise
    except SubmissionError:
        return None
    return columns if columns and len(columns.ids) else None


def _exactly_right(columns: CsvColumns, layout: RowLayout) -> bool:
    """Whether the IDs stand in order, each once, and all numbers are finite."""
    return columns.ids.equals(layout.ids) and bool(np.isfinite(columns.values).all())


def _problems(examined: Examined, layout: RowLayout, reference: NDArray[np.floating] | None) -> list[Problem]:
    if examined.nothing_read:
        return examined.problems
    if examined.stopped:
        # What follows may hold what seems to be missing.
        return [*examined.problems]
    return [
        *structure_problems(examined, layout),
        *examined.problems,
        *content_problems(examined.values, examined.lines, layout, reference),
    ]


Fields = NDArray[np.floating]

# Beyond the extremes of any monthly mean on Earth (about 203 to 318 K, and 0 to 100 mm/day), with room for emulators.
TAS_RANGE = (150.0, 350.0)
PR_RANGE = (0.0, 1000.0)
# The wettest cell of a month in kg m-2 s-1 is about 1e-3; in mm/day even the driest global field exceeds 5 somewhere.
_PR_SMALLEST_MAXIMUM = 0.01
_CELSIUS = (-100.0, 70.0)

# A prediction that is one month off correlates with the cycle as cos(30 degrees) = 0.87 of what the right month would
# give, half a month off as 0.97. Between the two, well outside the noise of a ten-year mean, lies 0.05.
_CLEARLY_BETTER = 0.05
_RELATED = 0.5
_YEAR = 12


def content_problems(
    values: NDArray[np.float64], lines: NDArray[np.int64], layout: RowLayout, reference: Fields | None = None
) -> list[Problem]:
    """Name impossible values, and months that hold another month's climate.

    Args:
        values: (N,) float64 in the layout's order; NaN where there is none.
        lines: (N,) line number of each; 0 where there is none.
        layout: What the values are.
        reference: (R, V, Y, X) months in a row, at least twelve, the first of the calendar month of ``t000``:
            a simulation, or a climatology of twelve.

    Raises:
        ValueError: The reference has another shape, fewer than twelve months, or is not finite.
    """
    fields, at = values.reshape(layout.shape), lines.reshape(layout.shape)
    problems = []
    for i, variable in enumerate(layout.variables):
        field = fields[:, i]
        problems += _flat(variable, field) or _impossible(variable, field, at[:, i])
    return problems + (_shifted(fields, reference, layout) if reference is not None else [])


def _flat(variable: str, field: NDArray[np.float64]) -> list[Problem]:
    known = field[np.isfinite(field)]
    if known.size < 2:
        return []
    if not known.any():
        return [Problem("all_zero", f"{variable} is zero everywhere", (), known.size)]
    if known.min() == known.max():
        return [Problem("constant", f"{variable} is {known[0]:g} everywhere", (), known.size)]
    if len(field) > 1 and np.isfinite(field).all() and (field == field[0]).all():
        return [Problem("constant", f"{variable} is the same field in all {len(field)} months", (), known.size)]
    return []


def _impossible(variable: str, field: NDArray[np.float64], at: NDArray[np.int64]) -> list[Problem]:
    known = field[np.isfinite(field)]
    if not known.size:
        return []
    if variable == "tas":
        low, high = TAS_RANGE
        hint = "; they look like degrees Celsius" if _CELSIUS[0] < known.min() and known.max() < _CELSIUS[1] else ""
        return _outside("tas_range", f"tas values lie outside {low:g} .. {high:g} K{hint}", field, low, high, at)
    if variable == "pr":
        low, high = PR_RANGE
        problems = _outside("pr_negative", "pr values are negative", field, low, np.inf, at)
        problems += _outside("pr_range", f"pr values exceed {high:g} mm/day", field, -np.inf, high, at)
        if 0 < known.max() < _PR_SMALLEST_MAXIMUM:
            text = f"the largest pr is {known.max():.2g} mm/day: it looks like kg m-2 s-1, which is 86400 times smaller"
            problems.append(Problem("pr_units", text, (), known.size))
        return problems
    return []


def _outside(
    kind: str, what: str, field: NDArray[np.float64], low: float, high: float, at: NDArray[np.int64]
) -> list[Problem]:
    wrong = (field < low) | (field > high)
    if not wrong.any():
        return []
    rows, found = np.sort(at[wrong])[:EXAMPLES], field[wrong]
    worst = found[np.argmax(np.maximum(low - found, found - high))]
    return [Problem(kind, f"{len(found)} {what}, the worst {worst:g}", tuple(rows.tolist()), len(found))]


def _shifted(fields: NDArray[np.float64], reference: Fields, layout: RowLayout) -> list[Problem]:
    if reference.shape[1:] != fields.shape[1:] or len(reference) < _YEAR or not np.isfinite(reference).all():
        raise ValueError(f"the reference {reference.shape} must be finite and (12 or more, V, Y, X) of {layout.shape}")
    problems = []
    for i, variable in enumerate(layout.variables):
        cycle, right = _cycle(fields[:, i]), _cycle(np.asarray(reference[:, i], np.float64))
        if cycle is None or right is None:
            continue
        fits = {lag: _correlation(cycle, np.roll(right, -lag, 0), layout.weights) for lag in range(-5, 7)}
        upside_down = _correlation(cycle, right[:, ::-1], layout.weights)
        best = max(fits, key=lambda lag: fits[lag])
        fit = max(fits[best], upside_down)
        if fit < _RELATED or fit - fits[0] < _CLEARLY_BETTER:
            continue
        measured = f"its seasonal cycle correlates {fit:.2f} so, {fits[0]:.2f} as it stands"
        if upside_down > fits[best]:
            problems.append(Problem("upside_down", f"{variable} looks upside down, south for north: {measured}"))
        else:
            way = "early" if best > 0 else "late"
            by = "one month" if abs(best) == 1 else f"{abs(best)} months"
            text = f"{variable} looks {by} {way}: the rows of a month hold the climate {best:+d} months on; {measured}"
            problems.append(Problem("shifted", text))
    return problems


def _cycle(field: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """(12, Y, X) mean departure of each calendar month from the year, counted from the first; None if unknown."""
    months = [field[k::_YEAR] for k in range(_YEAR)]
    known = [np.isfinite(month) for month in months]
    if not all(k.any(0).all() for k in known):
        return None
    means = np.stack([np.where(k, m, 0.0).sum(0) / k.sum(0) for m, k in zip(months, known, strict=True)])
    cycle: NDArray[np.float64] = means - means.mean(0)
    # Rounding leaves a field without seasons a cycle of 1e-14.
    return cycle if np.abs(cycle).max() > 1e-9 * max(np.abs(means).max(), 1e-30) else None


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    return float((weights * a * b).sum() / np.sqrt((weights * a * a).sum() * (weights * b * b).sum()))


_MONTH = re.compile(r"t\d{3}", re.ASCII)


def structure_problems(examined: Examined, layout: RowLayout) -> list[Problem]:
    """Name what is wrong with the set of IDs, against what the file should hold."""
    return [
        *_months(examined.lines, examined.strange_months, layout),
        *_cells(examined.strange_cells, layout),
        *_missing(examined.lines, layout),
    ]


def _months(lines: NDArray[np.int64], strange: set[str], layout: RowLayout) -> list[Problem]:
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


def _cells(strange: set[str], layout: RowLayout) -> list[Problem]:
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


def _missing(lines: NDArray[np.int64], layout: RowLayout) -> list[Problem]:
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
