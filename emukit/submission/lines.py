"""Examine a submission line by line, when it is not exactly right.

Invariant: every line is either placed (its ID is known and not there before) or counted in a problem, and reading
goes on after a wrong one. It takes seconds where `read_submission` takes tenths, but it knows line numbers.
"""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from emukit.submission.ids import HEAD, Layout, month_name
from emukit.submission.problems import Problem, Tally
from emukit.submission.write import COLUMNS

# Enough to tell another grid from a slip of the pen; a file of random IDs must not fill the memory.
_MOST_STRANGE = 100_000


@dataclass(frozen=True, eq=False)
class Examined:
    """What the lines of a file hold.

    Attributes:
        problems: What is wrong with single lines.
        values: (N,) float64 in the layout's order; NaN where there is no finite number.
        lines: (N,) line number of each; 0 where the ID is missing.
        strange_months: Months as written in such IDs as the layout does not have.
        strange_cells: Cells as written, underscore first, that the layout does not have; of very many only the first.
    """

    problems: list[Problem]
    values: NDArray[np.float64]
    lines: NDArray[np.int64]
    strange_months: set[str]
    strange_cells: set[str]

    @property
    def nothing_read(self) -> bool:
        """No row had an ID, known or strange: the header or the whole file is the problem, not the rows."""
        return not (self.lines.any() or self.strange_months or self.strange_cells)


def examine(stream: IO[bytes], layout: Layout) -> Examined:
    """Read all lines of a CSV and name what is wrong with its encoding, header, IDs and numbers.

    Raises:
        SubmissionError: By the stream, when a packed file turns out to be cut or damaged.
    """
    examination = _Examination(layout)
    # Bytes that are no UTF-8 become lone surrogates, which mark the row that holds them.
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(text)
    try:
        examination.read(reader)
    except csv.Error as e:
        examination.whole.append(Problem("malformed", f"reading as CSV stops: {e}", (reader.line_num,), 1))
    finally:
        text.detach()
    return examination.result()


class _Reader(Protocol):
    """What `csv.reader` returns."""

    @property
    def line_num(self) -> int: ...

    def __next__(self) -> list[str]: ...

    def __iter__(self) -> Iterator[list[str]]: ...


class _Examination:
    """The state of one reading: what was placed where, and what was wrong so far."""

    def __init__(self, layout: Layout) -> None:
        self.months = {month_name(t): t * len(layout.cells) for t in range(layout.months)}
        self.cells = {cell: i for i, cell in enumerate(layout.cells)}
        self.values = array("d", [math.nan]) * layout.size
        self.lines = array("q", [0]) * layout.size
        self.previous = -1
        self.strange_months: set[str] = set()
        self.strange_cells: set[str] = set()
        self.whole: list[Problem] = []
        self.encoding = Tally("encoding", "rows hold bytes that are no UTF-8")
        self.malformed = Tally("malformed", "rows have another number of columns than the header")
        self.unknown = Tally("unknown", "rows have an ID that the submission does not have")
        self.duplicate = Tally("duplicate", "rows repeat an ID of an earlier row")
        self.misordered = Tally(
            "misordered",
            "rows stand behind a row that belongs after them; rows are matched by ID, in any order",
            accepted=True,
        )
        self.unparsable = Tally("unparsable", "rows have no number as their Prediction")
        self.non_finite = Tally("non_finite", "rows are NaN or infinite")

    def read(self, reader: _Reader) -> None:
        """Go through all rows of a CSV."""
        header = next(reader, None)
        if header is None:
            self.whole.append(Problem("empty", "the file is empty"))
            return
        if header and header[0].startswith("\ufeff"):
            self.whole.append(Problem("encoding", "the file starts with a byte-order mark", (1,), 1))
            header[0] = header[0].removeprefix("\ufeff").strip('"')
        columns = self._columns(header)
        if columns is None:
            return
        width, (name, number) = len(header), columns
        placed = False
        for row in reader:
            line = reader.line_num
            if len(row) == width:
                self.row(line, row[name], row[number])
                placed = True
            elif row:
                self.malformed.add(line, ",".join(row))
        if not placed and not self.malformed.count:
            self.whole.append(Problem("empty", "there are no rows below the header"))

    def _columns(self, header: list[str]) -> tuple[int, int] | None:
        if header == list(COLUMNS):
            return 0, 1
        found = ",".join(header)
        problem = Problem("header", f"the header is {found[:80]!r}, not 'ID,Prediction'", (1,), 1)
        self.whole.append(problem)
        plain = [column.strip().lower() for column in header]
        if {"id", "prediction"} <= set(plain):
            return plain.index("id"), plain.index("prediction")
        if len(header) != len(COLUMNS):
            return None
        if header[0][:HEAD] in self.months:
            self.whole[-1] = Problem("header", "there is no header: the first line is a row", (1,), 1)
            self.row(1, *header)
        return 0, 1

    def row(self, line: int, name: str, number: str) -> None:
        """Place one row, or count what is wrong with it."""
        month, cell = self.months.get(name[:HEAD]), self.cells.get(name[HEAD:])
        if month is None or cell is None:
            (self.encoding if _is_undecodable(name) else self.unknown).add(line, name)
            self._remember(name)
            return
        position = month + cell
        if self.lines[position]:
            self.duplicate.add(line, name)
            return
        self.lines[position] = line
        if position < self.previous:
            self.misordered.add(line, name)
        self.previous = position
        try:
            value = float(number)
        except ValueError:
            (self.encoding if _is_undecodable(number) else self.unparsable).add(line, number)
            return
        if not math.isfinite(value):
            self.non_finite.add(line, number)
        elif "_" in number or not number.isascii():
            # Python takes 1_000 and the digits of other scripts for numbers; CSV readers do not.
            self.unparsable.add(line, number)
        else:
            self.values[position] = value

    def _remember(self, name: str) -> None:
        month, cell = name[:HEAD], name[HEAD:]
        if cell.startswith("_") and len(self.strange_months) < _MOST_STRANGE:
            self.strange_months.add(month)
        if cell not in self.cells and len(self.strange_cells) < _MOST_STRANGE:
            self.strange_cells.add(cell)

    def result(self) -> Examined:
        """What was found, the file as a whole first."""
        tallies = (
            self.encoding,
            self.malformed,
            self.unknown,
            self.duplicate,
            self.misordered,
            self.unparsable,
            self.non_finite,
        )
        problems = self.whole + [problem for tally in tallies for problem in tally.problems()]
        return Examined(problems, np.array(self.values), np.array(self.lines), self.strange_months, self.strange_cells)


def _is_undecodable(text: str) -> bool:
    return any("\udc80" <= c <= "\udcff" for c in text)
