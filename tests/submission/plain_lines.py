"""What is wrong with a submission, found by Python's CSV reader a row at a time: slow, and plain.

It is the reference of `emukit.submission.lines`, which reads in columns.
"""

import csv
import io
import math

import numpy as np

from emukit.submission.lines import Examined
from emukit.submission.rows import HEAD, Problem, Tally, month_name

LONGEST_LINE = 1 << 20


def examine(stream, layout):
    """As `emukit.submission.lines.examine`."""
    examination = Examination(layout)
    text = io.TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
    reader = csv.reader(lines(text))
    try:
        examination.read(reader)
    except csv.Error as e:
        examination.whole.append(Problem("malformed", f"reading as CSV stops: {e}", (reader.line_num,), 1))
    finally:
        text.detach()
    return examination.result()


def lines(text):
    while line := text.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE:
            raise csv.Error(f"a line of more than {LONGEST_LINE:,} letters")
        yield line


class Examination:
    """The state of one reading: what was placed where, and what was wrong so far."""

    def __init__(self, layout):
        self.layout = layout
        self.months = {month_name(t): t * len(layout.cells) for t in range(layout.months)}
        self.cells = {cell: i for i, cell in enumerate(layout.cells)}
        self.values = np.full(layout.size, np.nan)
        self.lines = np.zeros(layout.size, np.int64)
        self.stopped = False
        self.previous = -1
        self.strange_months = set()
        self.strange_cells = set()
        self.whole = []
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

    def read(self, reader):
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

    def _columns(self, header):
        if header == ["ID", "Prediction"]:
            return 0, 1
        found = ",".join(header)
        problem = Problem("header", f"the header is {found[:80]!r}, not 'ID,Prediction'", (1,), 1)
        self.whole.append(problem)
        plain = [column.strip().lower() for column in header]
        if {"id", "prediction"} <= set(plain):
            return plain.index("id"), plain.index("prediction")
        if len(header) != 2:
            return None
        if header[0][:HEAD] in self.months:
            self.whole[-1] = Problem("header", "there is no header: the first line is a row", (1,), 1)
            self.row(1, *header)
        return 0, 1

    def row(self, line, name, number):
        """Place one row, or count what is wrong with it."""
        month, cell = self.months.get(name[:HEAD]), self.cells.get(name[HEAD:])
        if month is None or cell is None:
            (self.encoding if undecodable(name) else self.unknown).add(line, name)
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
            (self.encoding if undecodable(number) else self.unparsable).add(line, number)
            return
        if not math.isfinite(value):
            self.non_finite.add(line, number)
        elif "_" in number or not number.isascii():
            # Python takes 1_000 and the digits of other scripts for numbers; CSV readers do not.
            self.unparsable.add(line, number)
        else:
            self.values[position] = value

    def _remember(self, name):
        month, cell = name[:HEAD], name[HEAD:]
        if cell.startswith("_"):
            self.strange_months.add(month)
        if cell not in self.cells:
            self.strange_cells.add(cell)

    def result(self):
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
            self.values,
            self.lines,
            self.strange_months,
            self.strange_cells,
            self.stopped,
        )


def undecodable(text):
    return any("\udc80" <= c <= "\udcff" for c in text)
