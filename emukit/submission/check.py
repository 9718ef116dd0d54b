"""Every way in which a submission file can be wrong, named.

Invariant: no problem, except accepted ones, means that the file holds each expected ID once with a finite and possible
number, under the right header. A file whose rows all have an ID and a number is read in columns, in tenths of a second;
any other is read line by line. Either way every problem carries line numbers.
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
from emukit.submission.lines import Examined, examine, examine_columns
from emukit.submission.problems import Problem
from emukit.submission.read import Columns, TooLongError, open_csv, read_submission
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
    layout = Layout.of(grid, months, variables)
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


def _columns(path: Path, most: int) -> Columns | None:
    """The rows of a file with the right header and a number in each row, which is line i + 2; None of any other."""
    try:
        with open_csv(path) as stream:
            header = stream.readline(64).rstrip(b"\r\n")
        columns = read_submission(path, most, skip_blank_lines=False) if header == _HEADER else None
    except TooLongError:
        raise
    except SubmissionError:
        return None
    return columns if columns and len(columns.ids) else None


def _exactly_right(columns: Columns, layout: Layout) -> bool:
    """Whether the IDs stand in order, each once, and all numbers are finite."""
    return columns.ids.equals(layout.ids) and bool(np.isfinite(columns.values).all())


def _problems(examined: Examined, layout: Layout, reference: NDArray[np.floating] | None) -> list[Problem]:
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
