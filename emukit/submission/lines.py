"""Examine a submission row by row, when it is not exactly right.

Invariant: every line is either placed (its ID is known and not there before) or counted in a problem, and reading
continues after a wrong one, up to a bound that the layout gives.
"""

from __future__ import annotations

import csv
import io
import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emukit.submission.ids import HEAD, Layout, month_name
from emukit.submission.problems import EXAMPLES, Problem, Tally
from emukit.submission.read import Columns
from emukit.submission.write import COLUMNS

# Enough to tell another grid from a slip of the pen; a file of random IDs must not fill the memory.
_MOST_STRANGE = 100_000
# Far more than a row has; a line without an end must not fill the memory.
_LONGEST_LINE = 1 << 20


@dataclass(frozen=True, eq=False)
class Examined:
    """What the lines of a file hold.

    Attributes:
        problems: What is wrong with single lines.
        values: (N,) float64 in the layout's order; NaN where there is no finite number.
        lines: (N,) line number of each; 0 where the ID is missing.
        strange_months: Months as written in such IDs as the layout does not have.
        strange_cells: Cells as written, underscore first, that the layout does not have; of very many only the first.
        stopped: Whether there is more in the file than was read.
    """

    problems: list[Problem]
    values: NDArray[np.float64]
    lines: NDArray[np.int64]
    strange_months: set[str]
    strange_cells: set[str]
    stopped: bool = False

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
    # Bytes that are not UTF-8 become lone surrogates, which mark the row that holds them.
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(_lines(text))
    try:
        examination.read(reader)
    except csv.Error as e:
        examination.whole.append(Problem("malformed", f"reading as CSV stops: {e}", (reader.line_num,), 1))
    finally:
        text.detach()
    return examination.result()


def examine_columns(columns: Columns, layout: Layout) -> Examined:
    """Name what is wrong with IDs and numbers that were read already, row i from line i + 2.

    What it finds is what `examine` finds in the same file; it takes a tenth of the time.
    """
    examination = _Examination(layout)
    at = layout.positions(columns.ids)
    known, row = at >= 0, np.arange(len(at))
    # Of several rows with one ID the last that is assigned stays: backwards, that is the first of the file.
    first = np.empty(layout.size, np.int64)
    first[at[known][::-1]] = row[known][::-1]
    placed = np.zeros(len(at), bool)
    placed[known] = first[at[known]] == row[known]
    finite = np.isfinite(columns.values)
    examination.lines, examination.values = np.zeros(layout.size, np.int64), np.full(layout.size, np.nan)
    examination.lines[at[placed]] = row[placed] + 2
    examination.values[at[placed & finite]] = columns.values[placed & finite]
    order = row[placed]
    behind = order[1:][np.diff(at[placed]) < 0]
    for tally, rows, texts in (
        (examination.unknown, row[~known], columns.ids),
        (examination.duplicate, row[known & ~placed], columns.ids),
        (examination.misordered, behind, columns.ids),
        (examination.non_finite, row[placed & ~finite], columns.values),
    ):
        for i in rows[:EXAMPLES].tolist():
            tally.add(i + 2, str(texts[i]))
        tally.count = len(rows)
    strange = columns.ids.filter(pa.array(~known))
    cells = pc.utf8_slice_codeunits(strange, HEAD, None)
    months = pc.utf8_slice_codeunits(strange.filter(pc.starts_with(cells, "_")), 0, HEAD)
    examination.strange_months = set(pc.unique(months)[:_MOST_STRANGE].to_pylist())
    unlike = pc.filter(pc.unique(cells), pc.invert(pc.is_in(pc.unique(cells), pa.array(layout.cells))))
    examination.strange_cells = set(unlike[:_MOST_STRANGE].to_pylist())
    return examination.result()


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    """The lines of a file.

    Raises:
        csv.Error: One is longer than any row.
    """
    while line := text.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise csv.Error(f"a line of more than {_LONGEST_LINE:,} letters")
        yield line


class _Reader(Protocol):
    """What `csv.reader` returns."""

    @property
    def line_num(self) -> int: ...

    def __next__(self) -> list[str]: ...

    def __iter__(self) -> Iterator[list[str]]: ...


class _Examination:
    """The state of one reading: what was placed where, and what was wrong so far."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.months = {month_name(t): t * len(layout.cells) for t in range(layout.months)}
        self.cells = {cell: i for i, cell in enumerate(layout.cells)}
        # Single items of a Python array are read and set several times faster than those of numpy.
        self.values: Any = array("d", [math.nan]) * layout.size
        self.lines: Any = array("q", [0]) * layout.size
        self.stopped = False
        self.previous = -1
        self.strange_months: set[str] = set()
        self.strange_cells: set[str] = set()
        self.whole: list[Problem] = []
        self.encoding = Tally("encoding", "rows hold bytes that are not UTF-8")
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
        placed, most = False, self.layout.most_rows
        for row in reader:
            line = reader.line_num
            if line > most:
                text = f"more than {most:,} lines, where a submission has {self.layout.size:,} rows: reading stopped"
                self.whole.append(Problem("too_long", text, (line,), 1))
                self.stopped = True
                return
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
        return Examined(
            problems,
            np.array(self.values),
            np.array(self.lines),
            self.strange_months,
            self.strange_cells,
            self.stopped,
        )


def _is_undecodable(text: str) -> bool:
    return any("\udc80" <= c <= "\udcff" for c in text)
