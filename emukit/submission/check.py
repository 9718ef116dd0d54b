"""Every way in which a submission file can be wrong, named.

Invariant: no problem, except accepted ones, means that the file holds each expected ID once with a finite and possible
number, under the right header. A file that is exactly right is recognised in tenths of a second; any other is read line
by line, so that every problem carries line numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.errors import SubmissionError
from emukit.submission.content import content_problems
from emukit.submission.ids import Layout
from emukit.submission.lines import Examined, examine
from emukit.submission.problems import Problem
from emukit.submission.read import open_csv, read_submission
from emukit.submission.structure import structure_problems
from emukit.submission.write import packing_of

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
    ``misordered``, ``unparsable``, ``non_finite``; ``tas_range``, ``pr_negative``, ``pr_range``, ``pr_units``,
    ``all_zero``, ``constant``; with a reference ``shifted`` and ``upside_down``.

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
    layout = Layout.of(grid, months, variables)
    values = _exactly_right(path, layout)
    if values is not None:
        return content_problems(values, np.arange(2, layout.size + 2), layout, reference)
    try:
        with open_csv(path) as stream:
            examined = examine(stream, layout)
    except SubmissionError as e:
        return [Problem("unreadable", f"{e.what}: {e.found}" if e.found else e.what)]
    return _problems(examined, layout, reference)


def _exactly_right(path: Path, layout: Layout) -> NDArray[np.float64] | None:
    """The values in order, if header and IDs are exactly right and all numbers finite."""
    try:
        with open_csv(path) as stream:
            header = stream.readline(64).rstrip(b"\r\n")
        if header != _HEADER:
            return None
        columns = read_submission(path, skip_blank_lines=False)
    except SubmissionError:
        return None
    right = columns.ids.equals(layout.ids) and bool(np.isfinite(columns.values).all())
    return columns.values if right else None


def _problems(examined: Examined, layout: Layout, reference: NDArray[np.floating] | None) -> list[Problem]:
    if examined.nothing_read:
        return examined.problems
    return [
        *structure_problems(examined, layout),
        *examined.problems,
        *content_problems(examined.values, examined.lines, layout, reference),
    ]
