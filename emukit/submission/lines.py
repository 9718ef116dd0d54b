"""Examine a submission row by row, when it is not exactly right.

Invariant: every line is either placed (its ID is known and not there before) or counted in a problem, and reading
continues after a wrong one, up to a bound that the layout gives. What is found is what a CSV reader finds line by line;
lines without surprises are read in columns, hundreds of thousands at once.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
from numpy.typing import NDArray

from emukit.submission.read import LONGEST_LINE, CsvColumns, pieces
from emukit.submission.rows import COLUMNS, EXAMPLES, HEAD, Problem, RowLayout, Tally, month_name

# Enough to tell another grid from a slip of the pen; a file of random IDs must not fill the memory.
_MOST_STRANGE = 100_000
# Longer lines are left to the CSV reader, which has a bound for a field.
_PLAIN_LINE = 100_000
# What a number may be: finite, NaN or infinite, no number, or bytes that are not UTF-8.
_NUMBER, _NON_FINITE, _UNPARSABLE, _UNDECODABLE = range(4)
# Numbers as programs write them.
_DECIMAL = r"^-?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?$"
# What Python may take for a number all the same: spaces around it, a sign, words for what is not finite, other scripts.
_PERHAPS = r"^\s*[+-]?[\d._]*\d[\d._]*([eE][+-]?\d+)?\s*$|(?i:nan|inf)|[^\x20-\x7e]"


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


def examine(stream: IO[bytes], layout: RowLayout) -> Examined:
    """Read all lines of a CSV and name what is wrong with its encoding, header, IDs and numbers.

    Raises:
        SubmissionError: By the stream, when a packed file turns out to be cut or damaged.
    """
    reading = _Reading(layout)
    reading.read(pieces(stream))
    return reading.result()


def examine_columns(columns: CsvColumns, layout: RowLayout) -> Examined:
    """Name what is wrong with IDs and numbers that were read already, row i from line i + 2.

    What it finds is what `examine` finds in the same file.
    """
    states = np.where(np.isfinite(columns.values), _NUMBER, _NON_FINITE)
    reading = _Reading(layout)
    rows = _Rows(np.arange(len(states)) + 2, columns.ids, columns.values, states, lambda i: str(columns.values[i]))
    reading.add(rows)
    return reading.result()


@dataclass(eq=False)
class _Rows:
    """Rows that have a name and something in the place of a number.

    Attributes:
        lines: (N,) where they stand, in their order.
        ids: (N,) their names; of one that is not UTF-8, what can be read of it.
        values: (N,) float64, where they have one.
        states: (N,) what their numbers are.
        number: The number of a row as it is written.
        torn: Names that are not UTF-8, with their bytes as lone surrogates, by row.
    """

    lines: NDArray[np.int64]
    ids: pa.ChunkedArray
    values: NDArray[np.float64]
    states: NDArray[np.int64]
    number: Callable[[int], str]
    torn: dict[int, str] = field(default_factory=dict)


class _Reading:
    """What was read of one file so far."""

    def __init__(self, layout: RowLayout) -> None:
        self.layout = layout
        self.lines = np.zeros(layout.size, np.int64)
        self.values = np.full(layout.size, np.nan)
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

    def read(self, blocks: Iterator[bytes]) -> None:
        """Go through all lines of a CSV, in blocks that end with a line."""
        block = next(blocks, b"")
        if not block:
            self.whole.append(Problem("empty", "the file is empty"))
            return
        try:
            end = _first_line(block)
            header = next(csv.reader([_text(block[:end])]), [])
            if header and header[0].startswith("\ufeff"):
                self.whole.append(Problem("encoding", "the file starts with a byte-order mark", (1,), 1))
                header[0] = header[0].removeprefix("\ufeff").strip('"')
            columns = self._columns(header)
            if columns is None:
                return
            table = _Table(len(header), *columns)
            begun = self._body(block[end:] or next(blocks, b""), blocks, table)
        except csv.Error as e:
            self.whole.append(Problem("malformed", f"reading as CSV stops: {e}", (1,), 1))
            return
        if not begun and not self.malformed.count and not self.stopped:
            self.whole.append(Problem("empty", "there are no rows below the header"))

    def _body(self, block: bytes, blocks: Iterator[bytes], table: _Table) -> bool:
        """Everything below the header; whether there is a row in it."""
        line, begun = 2, False
        while block:
            rows, wrong, count = table.plain(block, line, self.layout.most_rows) or table.one_by_one(
                block, blocks, line, self.layout.most_rows
            )
            for number, text in wrong.examples:
                self.malformed.add(number, text)
            self.malformed.count += wrong.count - len(wrong.examples)
            self.add(rows)
            begun = begun or len(rows.lines) > 0
            line += count
            if wrong.stop:
                self.whole.append(Problem("malformed", f"reading as CSV stops: {wrong.stop}", (line - 1,), 1))
                # What is left is not read, and nothing is said of it.
                return True
            if line - 1 > self.layout.most_rows:
                most = self.layout.most_rows
                text = f"more than {most:,} lines, where a submission has {self.layout.size:,} rows: reading stopped"
                self.whole.append(Problem("too_long", text, (line - 1,), 1))
                self.stopped = True
                return begun
            block = next(blocks, b"")
        return begun

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
        if header[0][:HEAD] in {month_name(t) for t in range(self.layout.months)}:
            self.whole[-1] = Problem("header", "there is no header: the first line is a row", (1,), 1)
            self.add(_rows_of([(1, header[0], header[1])]))
        return 0, 1

    def add(self, rows: _Rows) -> None:
        """Place rows, or count what is wrong with them."""
        at, lines, states = self.layout.positions(rows.ids), rows.lines, rows.states
        at[list(rows.torn)] = -1
        known, row = at >= 0, np.arange(len(at))
        # Of several rows with one ID the last that is assigned stays: backwards, that is the first of them.
        first = np.full(self.layout.size, -1, np.int64)
        first[at[known][::-1]] = row[known][::-1]
        placed = np.zeros(len(at), bool)
        placed[known] = (first[at[known]] == row[known]) & (self.lines[at[known]] == 0)
        self.lines[at[placed]] = lines[placed]
        numbers = placed & (states == _NUMBER)
        self.values[at[numbers]] = rows.values[numbers]
        order = at[placed]
        behind = row[placed][np.diff(order, prepend=self.previous) < 0]
        self.previous = int(order[-1]) if len(order) else self.previous
        torn = np.zeros(len(at), bool)
        torn[list(rows.torn)] = True

        def name(i: int) -> str:
            return rows.torn.get(i) or str(rows.ids[i])

        for tally, found, text in (
            (
                self.encoding,
                torn | (placed & (states == _UNDECODABLE)),
                lambda i: name(i) if torn[i] else rows.number(i),
            ),
            (self.unknown, ~known & ~torn, name),
            (self.duplicate, known & ~placed, name),
            (self.unparsable, placed & (states == _UNPARSABLE), rows.number),
            (self.non_finite, placed & (states == _NON_FINITE), rows.number),
        ):
            _count(tally, np.flatnonzero(found), lines, text)
        _count(self.misordered, behind, lines, name)
        if not known.all():
            self._remember(rows.ids.filter(pa.array(~known)))

    def _remember(self, strange: pa.ChunkedArray) -> None:
        cells = pc.utf8_slice_codeunits(strange, HEAD, None)
        months = pc.unique(pc.utf8_slice_codeunits(strange.filter(pc.starts_with(cells, "_")), 0, HEAD))
        other = pc.unique(cells)
        other = other.filter(pc.invert(pc.is_in(other, pa.array(self.layout.cells))))
        for kept, found in ((self.strange_months, months), (self.strange_cells, other)):
            kept.update(found[: max(_MOST_STRANGE - len(kept), 0)].to_pylist())

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
        return Examined(problems, self.values, self.lines, self.strange_months, self.strange_cells, self.stopped)


@dataclass(eq=False)
class _Wrong:
    """Lines that are not rows: how many have another number of columns, the first of them, and why reading stops."""

    count: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)
    stop: str = ""

    def add(self, line: int, text: Callable[[], str]) -> None:
        """One more."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((line, text()))


@dataclass(frozen=True)
class _Table:
    """How many columns a file has, and which of them hold names and numbers."""

    width: int
    name: int
    number: int

    def plain(self, block: bytes, first: int, most: int) -> tuple[_Rows, _Wrong, int] | None:
        """The rows of a block, in columns; None where only a CSV reader knows where a row ends.

        Args:
            block: Whole lines.
            first: The number of its first line.
            most: The last line that is read.

        Returns:
            Rows, lines that are none, and how many lines were read: one more than may be where there are more.
        """
        # Every line end is one to a CSV reader, except within quotes, and these are asked below to close in their line.
        if b"\r" in block:
            block = block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        data = np.frombuffer(block, np.uint8)
        quotes = np.flatnonzero(data == ord('"'))
        if not _quotes_close(data, quotes):
            return None
        ends = np.flatnonzero(data == ord("\n"))
        if not len(ends) or ends[-1] != len(data) - 1:
            ends = np.append(ends, len(data))
        count = min(len(ends), max(most - first + 1, 0))
        if count < len(ends):
            # As far as may be read; that there is more is told by the count.
            if not count:
                return _rows_of([]), _Wrong(), 1
            found = self.plain(block[: ends[count - 1] + 1], first, most)
            return found and (found[0], found[1], count + 1)
        starts = np.concatenate([[0], ends[:-1] + 1])
        if (ends - starts).max() > _PLAIN_LINE:
            return None

        def of_lines(places: NDArray[np.int64]) -> NDArray[np.int64]:
            return np.diff(np.searchsorted(places, np.append(starts, len(data))))

        commas = np.flatnonzero(data == ord(","))
        odd = of_lines(commas) != self.width - 1
        if len(quotes):
            odd |= of_lines(commas[np.searchsorted(quotes, commas) % 2 == 1]) > 0
        if not block.isascii():
            odd |= of_lines(np.flatnonzero(data >= 0x80)) > 0
            exact = odd & ((of_lines(np.flatnonzero(data >= 0x80)) > 0) | (of_lines(quotes) > 0))
        else:
            exact = odd & (of_lines(quotes) > 0)
        # Without quotes and in ASCII, a line with another number of commas is a blank one or no row.
        bare = odd & ~exact & (ends > starts)
        wrong, slow = _Wrong(), list[tuple[int, str, str]]()
        for i in np.union1d(np.flatnonzero(exact), np.flatnonzero(bare)[:EXAMPLES]).tolist():
            row = next(csv.reader([_text(block[starts[i] : ends[i]])]), [])
            self._line(first + i, row, slow, wrong)
        wrong.count += max(int(bare.sum()) - EXAMPLES, 0)
        if odd.all():
            return _rows_of(slow), wrong, count
        kept = data[np.repeat(~odd, np.diff(np.append(starts, len(data))))].tobytes() if odd.any() else block
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(kept),
                read_options=arrow_csv.ReadOptions(
                    use_threads=False, block_size=len(kept) + 1, column_names=[str(i) for i in range(self.width)]
                ),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=[str(self.name), str(self.number)],
                    column_types={str(self.name): pa.string(), str(self.number): pa.string()},
                    null_values=[],
                ),
            )
        except pa.ArrowInvalid:
            return None
        lines = np.arange(first, first + count)[~odd]
        assert len(table) == len(lines)
        numbers = table[str(self.number)]
        values, states = _read_numbers(numbers)
        rows = _Rows(lines, table[str(self.name)], values, states, lambda i: str(numbers[i]))
        return _merged(rows, slow), wrong, count

    def one_by_one(self, block: bytes, blocks: Iterator[bytes], first: int, most: int) -> tuple[_Rows, _Wrong, int]:
        """The same by a CSV reader, which reads on in the blocks that follow until a row ends where a block does."""
        left = [True]

        def lines() -> Iterator[str]:
            piece = block
            while piece:
                text = io.TextIOWrapper(io.BytesIO(piece), encoding="utf-8", errors="surrogateescape", newline="")
                line = text.readline(LONGEST_LINE)
                while line:
                    if len(line) == LONGEST_LINE:
                        raise csv.Error(f"a line of more than {LONGEST_LINE:,} letters")
                    after = text.readline(LONGEST_LINE)
                    left[0] = bool(after)
                    yield line
                    line = after
                piece = next(blocks, b"")

        found: list[tuple[int, str, str]] = []
        wrong = _Wrong()
        reader = csv.reader(lines())
        try:
            for row in reader:
                if first - 1 + reader.line_num > most:
                    break
                self._line(first - 1 + reader.line_num, row, found, wrong)
                if not left[0]:
                    break
        except csv.Error as e:
            wrong.stop = str(e)
        return _rows_of(found), wrong, reader.line_num

    def _line(self, line: int, row: list[str], rows: list[tuple[int, str, str]], wrong: _Wrong) -> None:
        if len(row) == self.width:
            rows.append((line, row[self.name], row[self.number]))
        elif row:
            wrong.add(line, lambda: ",".join(row))


def _rows_of(found: list[tuple[int, str, str]]) -> _Rows:
    """Line, name and number of rows as a CSV reader gives them."""
    torn = {i: name for i, (_, name, _) in enumerate(found) if _is_undecodable(name)}
    names = [
        name if i not in torn else name.encode("utf-8", "replace").decode() for i, (_, name, _) in enumerate(found)
    ]
    numbers = [number for _, _, number in found]
    read = [_read_number(number) for number in numbers]
    return _Rows(
        np.array([line for line, _, _ in found], np.int64),
        pa.chunked_array([names], pa.string()),
        np.array([value for value, _ in read], np.float64),
        np.array([state for _, state in read], np.int64),
        numbers.__getitem__,
        torn,
    )


def _merged(rows: _Rows, slow: list[tuple[int, str, str]]) -> _Rows:
    """Rows of a block that were read in different ways, in the order of its lines."""
    if not slow:
        return rows
    other, here = _rows_of(slow), len(rows.lines)
    order = np.argsort(np.concatenate([rows.lines, other.lines]), kind="stable")
    place = {int(i) - here: k for k, i in enumerate(order) if i >= here}

    def number(k: int) -> str:
        i = int(order[k])
        return rows.number(i) if i < here else other.number(i - here)

    return _Rows(
        np.concatenate([rows.lines, other.lines])[order],
        pa.chunked_array([*rows.ids.chunks, *other.ids.chunks]).take(pa.array(order)),
        np.concatenate([rows.values, other.values])[order],
        np.concatenate([rows.states, other.states])[order],
        number,
        {place[i]: name for i, name in other.torn.items()},
    )


def _count(tally: Tally, rows: NDArray[np.int64], lines: NDArray[np.int64], text: Callable[[int], str]) -> None:
    """Count rows of one kind; the first of them are kept as examples."""
    for i in rows[:EXAMPLES].tolist():
        tally.add(int(lines[i]), text(i))
    tally.count += max(len(rows) - EXAMPLES, 0)


def _read_numbers(texts: pa.ChunkedArray) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Values of texts, and what each is."""
    try:
        values = pc.cast(texts, pa.float64()).to_numpy().copy()
        return values, np.where(np.isfinite(values), _NUMBER, _NON_FINITE)
    except pa.ArrowInvalid:
        pass
    values, states = np.full(len(texts), np.nan), np.full(len(texts), _UNPARSABLE)
    decimal = pc.match_substring_regex(texts, _DECIMAL)
    plain = decimal.to_numpy()
    values[plain] = pc.cast(texts.filter(decimal), pa.float64()).to_numpy()
    states[plain] = _NUMBER
    perhaps = pc.and_(pc.invert(decimal), pc.match_substring_regex(texts, _PERHAPS))
    for i, text in zip(np.flatnonzero(perhaps.to_numpy()).tolist(), texts.filter(perhaps).to_pylist(), strict=True):
        values[i], states[i] = _read_number(text)
    return values, states


def _read_number(text: str) -> tuple[float, int]:
    """The value of a text, and what it is."""
    try:
        value = float(text)
    except ValueError:
        return math.nan, _UNDECODABLE if _is_undecodable(text) else _UNPARSABLE
    if not math.isfinite(value):
        return math.nan, _NON_FINITE
    # Python takes 1_000 and the digits of other scripts for numbers; CSV readers do not.
    return (value, _NUMBER) if text.isascii() and "_" not in text else (math.nan, _UNPARSABLE)


def _quotes_close(data: NDArray[np.uint8], quotes: NDArray[np.int64]) -> bool:
    """Whether every quote opens a field or closes it in the same line, so that lines are rows."""
    if not len(quotes):
        return True
    if len(quotes) % 2:
        return False
    opening, closing = quotes[::2], quotes[1::2]
    before = np.concatenate([[ord("\n")], data])[opening]
    after = np.concatenate([data, [ord("\n")]])[closing + 1]
    ends = np.flatnonzero(data == ord("\n"))
    same = np.searchsorted(ends, opening) == np.searchsorted(ends, closing)
    return bool(same.all() and np.isin(before, [*b",\n"]).all() and np.isin(after, [*b",\n"]).all())


def _is_undecodable(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= c <= "\udcff" for c in text)


def _first_line(block: bytes) -> int:
    """Where the first line ends, its end among it."""
    ends = [i for i in (block.find(b"\n"), block.find(b"\r")) if i >= 0]
    if not ends:
        return len(block)
    end = min(ends) + 1
    return end + (block[end - 1 : end + 1] == b"\r\n")


def _text(line: bytes) -> str:
    """A line as text; bytes that are not UTF-8 become lone surrogates, which mark the row that holds them."""
    if len(line) >= LONGEST_LINE:
        raise csv.Error(f"a line of more than {LONGEST_LINE:,} letters")
    return line.decode("utf-8", errors="surrogateescape")
