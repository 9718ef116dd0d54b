"""Read a submission or solution CSV, packed or plain, into two columns.

Invariant: reading judges nothing about the rows except that they have an ID and a number; what the IDs should be is
the business of `check` and `score`. A file is read no further than just past what it can hold, whatever it unpacks to.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as arrow_csv
from numpy.typing import NDArray

from emukit.errors import SubmissionError
from emukit.files import open_regular
from emukit.submission.rows import COLUMNS, HEAD, MAX_MONTHS, packing_of

# Bit 0 of the general purpose flags, PKWARE APPNOTE 4.4.4.
_ENCRYPTED = 0x1
# Rows of a solution, whose grid nobody has said: 360 months on 192 x 288 cells are 40 million.
MOST_ROWS = 50_000_000
# Of a row: an ID and a number take 50 bytes, and others may add columns of their own.
ROW_BYTES = 256
HEADER_BYTES = 1 << 16
LONGEST_ID = 64
# A file is read in pieces of so many bytes; one thread reads 80 MB in 0.2 s.
PIECE = 4 << 20
# Far more than a row has; a line without an end must not fill the memory.
LONGEST_LINE = 1 << 20
# Below so many rows it is not asked whether they can all differ.
UNASKED_ROWS = 4_000_000
_TYPES = {"ID": pa.string(), "Prediction": pa.float64()}
_ROW = re.compile(r"Row #(\d+)")
_MAGIC = {"gz": b"\x1f\x8b", "zip": b"PK"}


@dataclass(frozen=True, eq=False)
class CsvColumns:
    """The rows of a submission or solution, in the file's order.

    Attributes:
        ids: (N,) strings.
        values: (N,) float64, the decimal numbers of the file.
    """

    ids: pa.ChunkedArray
    values: NDArray[np.float64]


class TooLongError(SubmissionError):
    """A file that holds more than a submission can."""


class _Bounded(io.RawIOBase):
    """A stream that is read no further than so many bytes."""

    def __init__(self, stream: IO[bytes], most: int, name: str) -> None:
        self._stream, self._left, self._most, self._name = stream, most, most, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._stream.read(len(buffer))
        self._left -= len(data)
        if self._left < 0:
            raise _too_long(self._name, f"more than {self._most / 1e6:.0f} MB, unpacked")
        buffer[: len(data)] = data
        return len(data)


def _too_long(name: str, found: str) -> TooLongError:
    return TooLongError(
        f"{name} holds more than a submission can",
        found=found,
        expected="a row for every month, variable and cell, once",
        hint="write it again with emukit submit",
    )


@contextmanager
def open_csv(path: Path, rows: int = MOST_ROWS) -> Iterator[IO[bytes]]:
    """The bytes of the CSV inside a ``.csv``, ``.csv.gz`` or ``.zip``.

    Args:
        path: The file.
        rows: How many it can hold at most.

    Raises:
        SubmissionError: There is no such file, it is not what its name says, it is cut or damaged, or it unpacks to
            more bytes than so many rows have; some of this may show only when the bytes are read.
    """
    packing = packing_of(path)

    def bounded(stream: IO[bytes]) -> IO[bytes]:
        return io.BufferedReader(_Bounded(stream, HEADER_BYTES + rows * ROW_BYTES, path.name), 1 << 20)

    try:
        with open_regular(path) as raw:
            start = raw.read(2)
            raw.seek(0)
            actual = next((p for p, magic in _MAGIC.items() if start == magic), "csv")
            if start and actual != packing:
                raise SubmissionError(
                    f"{path.name} is not what its name says",
                    found=f"the bytes of a {actual} file",
                    expected=f"a {packing} file",
                    hint="rename it, or write it again",
                )
            if packing == "gz":
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield bounded(cast(IO[bytes], unpacked))
            elif packing == "zip":
                with zipfile.ZipFile(raw) as archive, archive.open(_only_csv(path, archive)) as stream:
                    yield bounded(stream)
            else:
                yield bounded(raw)
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile, NotImplementedError) as e:
        # NotImplementedError is zipfile's word for a compression it does not know.
        raise SubmissionError(
            f"{path.name} cannot be unpacked",
            found=str(e),
            expected="a whole file",
            hint="it was cut or damaged on its way: copy or write it again",
        ) from e
    except OSError as e:
        raise SubmissionError(f"cannot read {path}", found=e.strerror or str(e), hint="name an existing file") from e


def read_submission(path: Path | str, rows: int | None = None, *, skip_blank_lines: bool = True) -> CsvColumns:
    """Read the columns ID and Prediction, whatever other columns there are.

    Args:
        path: ``.csv``, ``.csv.gz`` or ``.zip``.
        rows: How many there can be at most; where nobody knows, as many as can have IDs of their own.
        skip_blank_lines: False refuses them, so that row i of the result is line i + 2 of the file.

    Raises:
        TooLongError: There are more rows than there can be.
        SubmissionError: The file cannot be read as such a CSV.
    """
    path, most = Path(path), MOST_ROWS if rows is None else rows
    with open_csv(path, most) as stream:
        names = _header(path, stream)
        _require_columns(path, names)
    with open_csv(path, most) as stream:
        try:
            batches = _batches(path, stream, names, most, skip_blank_lines)
        except (pa.ArrowInvalid, pa.ArrowKeyError) as e:
            raise SubmissionError(
                f"{path.name} cannot be read as a submission",
                found=str(e),
                expected="the columns ID and Prediction, a number in every row",
                hint=f"emukit check-submission {path} names every wrong row",
            ) from e
    table = pa.Table.from_batches(batches, pa.schema(_TYPES.items()))
    return CsvColumns(table["ID"], table["Prediction"].to_numpy())


def pieces(stream: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a file in pieces that end where a line does, unless that is longer than any row."""
    left = b""
    while data := stream.read(PIECE):
        left += data
        # The last letter may be the first half of a line end of Windows.
        end = max(left.rfind(b"\n"), left.rfind(b"\r", 0, len(left) - 1)) + 1
        if end or len(left) > LONGEST_LINE:
            end = end or len(left)
            yield left[:end]
            left = left[end:]
    if left:
        yield left


def _batches(
    path: Path, stream: IO[bytes], names: list[str], most: int, skip_blank_lines: bool
) -> list[pa.RecordBatch]:
    """The two columns in pieces, up to the first that goes beyond what there can be."""
    batches: list[pa.RecordBatch] = []
    count, ask = 0, UNASKED_ROWS
    for batch in _tables(stream, names, skip_blank_lines):
        batches.append(batch)
        count += len(batch)
        longest = pc.max(pc.binary_length(batch["ID"])).as_py() or 0
        if longest > LONGEST_ID:
            raise _too_long(path.name, f"an ID of {longest} bytes")
        if count > most:
            raise _too_long(path.name, f"more than {most:,} rows")
        if count > ask:
            # Every row has a month and a cell of its own: there are a thousand times as many as cells at most.
            cells = pa.chunked_array([pc.utf8_slice_codeunits(b["ID"], HEAD, None) for b in batches])
            if count > MAX_MONTHS * len(pc.unique(cells)):
                raise _too_long(path.name, f"the same IDs again and again in the first {count:,} rows")
            ask = 2 * count
    return batches


def _tables(stream: IO[bytes], names: list[str], skip_blank_lines: bool) -> Iterator[pa.RecordBatch]:
    """The two columns of each piece of a file.

    Arrow is given bytes: of a stream it would read ahead in a thread of its own, and an interpreter that ends before
    this thread is aborted.
    """
    rows = 0
    for piece in pieces(stream):
        if rows and skip_blank_lines and not piece.strip():
            continue
        try:
            table = arrow_csv.read_csv(
                pa.BufferReader(piece),
                read_options=arrow_csv.ReadOptions(
                    use_threads=False, block_size=len(piece) + 1, column_names=names if rows else None
                ),
                parse_options=arrow_csv.ParseOptions(ignore_empty_lines=skip_blank_lines),
                convert_options=arrow_csv.ConvertOptions(include_columns=COLUMNS, column_types=_TYPES, null_values=[]),
            )
        except pa.ArrowInvalid as e:
            # The rows of this piece are counted from its beginning.
            before, number, after = _ROW.split(str(e), maxsplit=1) if _ROW.search(str(e)) else (str(e), "", "")
            raise pa.ArrowInvalid(f"{before}{f'Row #{int(number) + rows}' if number else ''}{after}") from e
        yield from table.to_batches()
        # The header is the first of all.
        rows = (rows or 1) + len(table)


def _header(path: Path, stream: IO[bytes]) -> list[str]:
    """The names of the columns: what the first line that is not blank holds."""
    line = b"\n"
    while line in (b"\n", b"\r\n"):
        line = stream.readline(HEADER_BYTES)
    try:
        first = line.decode("utf-8-sig").splitlines()[:1]
        return next(csv.reader(first), [])
    except (UnicodeDecodeError, csv.Error) as e:
        raise SubmissionError(
            f"the first line of {path.name} cannot be read",
            found=f"{line[:80]!r}" if isinstance(e, UnicodeDecodeError) else str(e),
            expected=f"the columns {' and '.join(COLUMNS)}, in UTF-8",
            hint=f"correct its first line; emukit check-submission {path} names every wrong row",
        ) from e


def _require_columns(path: Path, names: list[str]) -> None:
    # Arrow takes the first of two columns of one name and says nothing.
    for column in COLUMNS:
        if (n := names.count(column)) != 1:
            raise SubmissionError(
                f"{path.name} cannot be read as a submission",
                found=f"{n or 'no'} column{'s' * (n > 1)} {column} in the header {','.join(names[:8])}",
                expected=f"the columns {' and '.join(COLUMNS)}, each once",
                hint=f"correct its first line; emukit check-submission {path} names every wrong row",
            )


def _only_csv(path: Path, archive: zipfile.ZipFile) -> str:
    # Archives made by hand on a Mac carry a shadow folder __MACOSX next to the file.
    names = [n for n in archive.namelist() if not n.endswith("/") and not n.startswith("__MACOSX/")]
    if len(names) != 1 or not names[0].lower().endswith(".csv"):
        raise SubmissionError(
            f"{path.name} does not hold one CSV",
            found=", ".join(names[:5]) or "nothing",
            expected="exactly one .csv file inside",
            hint="pack the CSV alone",
        )
    if archive.getinfo(names[0]).flag_bits & _ENCRYPTED:
        raise SubmissionError(f"{path.name} is locked with a password", hint="pack the CSV without one")
    return names[0]
