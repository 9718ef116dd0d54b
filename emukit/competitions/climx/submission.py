"""A ClimX submission: one row for each year and cell, one column for each index; Parquet or CSV.

Invariant: rows are matched by their order alone (year, then latitude from -90, then longitude from 0), so a file is
written and read in that order or refused. A missing value is refused, never filled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from emukit.competitions.climx.score import LAT, SHAPE, expand
from emukit.data.daily import DAYS
from emukit.errors import SubmissionError
from emukit.files import atomic_path
from emukit.metrics.extremes import INDICES, SPELL, UNITS

FIRST_YEAR, LAST_YEAR = 2015, 2100
YEARS = LAST_YEAR - FIRST_YEAR + 1
CELLS = SHAPE[0] * SHAPE[1]
ROWS = YEARS * CELLS
COLUMNS = ("row_id", *INDICES)
# 31 December 2100 is missing in the competition's files.
LAST_DAYS = DAYS - 1
COUNTS = tuple(name for name, unit in UNITS.items() if unit == "days")
# No annual maximum or minimum of air temperature on Earth lies outside, in K.
COLDEST, WARMEST = 150.0, 350.0
# A desert apart, the very wet days of a year bring more than this somewhere (mm); kg m-2 s-1 would be far below it.
LEAST_R95P = 1.0


def write_submission(path: Path | str, indices: Mapping[str, NDArray[np.floating]]) -> int:
    """Write a submission, Parquet or CSV by the ending of the name.

    A column whose values are all whole is written as int64, any other as float64; in CSV with six decimals.

    Args:
        path: ``.parquet`` or ``.csv``; replaced whole, or left as it was.
        indices: The fifteen indices of 2015-2100, each (86, 192, 288), or (86, 12, 18) as computed from the lite
            files, whose cells are then repeated 16 x 16 times as the competition's own tool does.

    Returns:
        The number of rows.

    Raises:
        SubmissionError: The name, an index or a shape does not fit, or the content would be refused. Nothing is
            written.
    """
    path = Path(path)
    ending = _ending(path)
    missing = [name for name in INDICES if name not in indices]
    if missing:
        raise SubmissionError("a submission needs all fifteen indices", found=f"without {', '.join(missing)}")
    columns: dict[str, pa.Array] = {"row_id": pa.array(np.arange(ROWS, dtype=np.int64))}
    for name in INDICES:
        columns[name] = _column(name, np.asarray(indices[name], np.float64))
    table = pa.table(columns)
    problems = check_table(table)
    if problems:
        raise SubmissionError(
            f"{path.name} would be refused or score wrongly",
            found="\n            ".join(problems),
            hint="look at the daily fields that the indices were computed from; nothing was written",
        )
    with atomic_path(path) as temporary:
        if ending == ".parquet":
            # A dictionary of millions of different numbers costs seconds and saves nothing.
            whole = [f.name for f in table.schema if pa.types.is_integer(f.type) and f.name != "row_id"]
            pq.write_table(table, temporary, compression="snappy", use_dictionary=whole)
        else:
            _write_csv(table, temporary)
    return ROWS


def read_submission(path: Path | str) -> dict[str, NDArray[np.float64]]:
    """The indices of a submission, each (86, 192, 288).

    Raises:
        SubmissionError: The file cannot be read, or is not a valid submission; the message lists every problem.
    """
    table = read_table(path)
    problems = check_table(table)
    if problems:
        raise SubmissionError(
            f"{path} is not a valid ClimX submission",
            found="\n            ".join(problems),
            hint="write it with emukit.competitions.climx.submission.write_submission",
        )
    return {name: table[name].to_numpy().astype(np.float64).reshape(YEARS, *SHAPE) for name in INDICES}


def read_table(path: Path | str) -> pa.Table:
    """The columns of a Parquet or CSV file, as they are.

    Raises:
        SubmissionError: It is missing, is neither, or holds more rows than a submission can have.
    """
    path = Path(path)
    ending = _ending(path)
    try:
        if ending == ".parquet":
            with _parquet(path) as file:
                return file.read()
        table, rows = _read_csv(path)
    except (OSError, pa.ArrowException) as e:
        raise _unreadable(path, e) from e
    if rows <= 2 * ROWS:
        return table
    raise _too_large(path)


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as e:
        raise _unreadable(path, e) from e
    if file.metadata.num_rows > 2 * ROWS or file.metadata.num_columns > 2 * len(COLUMNS):
        file.close()
        raise _too_large(path)
    return file


def _unreadable(path: Path, error: Exception) -> SubmissionError:
    found = str(error).splitlines()[0] if str(error) else type(error).__name__
    return SubmissionError(f"cannot read {path}", found=found, expected="a Parquet or CSV file")


def _too_large(path: Path) -> SubmissionError:
    return SubmissionError(
        f"{path} holds far more than a submission",
        found=f"more than {2 * ROWS:,} rows or {2 * len(COLUMNS)} columns",
        expected=f"{ROWS:,} rows, {len(COLUMNS)} columns",
    )


class ParquetColumns:
    """The columns of a Parquet file, each read when it is asked for: all of them would take 600 MB.

    Attributes:
        column_names: Their names.
        num_rows: How many rows there are.
    """

    def __init__(self, path: Path, file: pq.ParquetFile) -> None:
        """Use `open_columns`."""
        self._path, self._file = path, file
        self.column_names: list[str] = file.schema_arrow.names
        self.num_rows: int = file.metadata.num_rows

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """The column of a name; of several of that name the first.

        Raises:
            SubmissionError: It cannot be read.
        """
        try:
            return self._file.read(columns=[name]).column(0)
        except (OSError, pa.ArrowException) as e:
            raise _unreadable(self._path, e) from e

    def drop_columns(self, names: list[str]) -> ParquetColumns:
        """The same without some columns."""
        out = ParquetColumns(self._path, self._file)
        out.column_names = [name for name in self.column_names if name not in names]
        return out


def open_columns(path: Path | str, stack: ExitStack) -> ParquetColumns | pa.Table:
    """As `read_table`, but the columns of a Parquet file are read one by one.

    Args:
        path: The file.
        stack: Closes it.

    Raises:
        SubmissionError: As `read_table`.
    """
    path = Path(path)
    if _ending(path) != ".parquet":
        return read_table(path)
    return ParquetColumns(path, stack.enter_context(_parquet(path)))


def check_table(table: ParquetColumns | pa.Table) -> list[str]:
    """Every way in which a table is not a valid submission, a sentence each; none where it is.

    Beyond what the competition's own check asks, this looks for values that no climate has: they are how a wrong unit
    or a shifted calendar shows.
    """
    problems = check_layout(table)
    for name in INDICES:
        if name in table.column_names:
            problems += checked_values(name, table[name])[1]
    return problems


def check_layout(table: ParquetColumns | pa.Table) -> list[str]:
    """What is wrong with the columns and rows of a table, whatever the values of its indices are."""
    return _columns(table) + _rows(table)


def _columns(table: ParquetColumns | pa.Table) -> list[str]:
    names = table.column_names
    problems = [f"column {name} is missing" for name in COLUMNS if name not in names]
    extra = [name for name in names if name not in COLUMNS]
    if extra:
        problems.append(f"columns that do not belong to a submission: {', '.join(map(repr, extra[:5]))}")
    if len(set(names)) < len(names):
        problems.append("a column stands twice")
    elif not problems and tuple(names) != COLUMNS:
        problems.append(f"the columns are in another order than {', '.join(COLUMNS)}")
    return problems


def _rows(table: ParquetColumns | pa.Table) -> list[str]:
    problems = []
    if table.num_rows != ROWS:
        problems.append(f"{table.num_rows:,} rows instead of {ROWS:,} ({YEARS} years of {CELLS:,} cells)")
    if "row_id" in table.column_names:
        ids = table["row_id"]
        if not pa.types.is_integer(ids.type):
            problems.append(f"row_id is {ids.type} instead of int64")
        elif ids.null_count or not np.array_equal(ids.to_numpy(), np.arange(len(ids))):
            problems.append("row_id does not count 0, 1, 2 and so on: rows are matched by their order alone")
    return problems


def checked_values(name: str, column: pa.ChunkedArray) -> tuple[NDArray[np.float64], list[str]]:
    """The values of an index, none where they are no numbers, and what is wrong with them, a sentence each."""
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        return np.empty(0), [f"{name} is {column.type} instead of int64 or float64"]
    values = np.asarray(column.to_numpy(), np.float64)
    return values, _problems(name, values)


def _problems(name: str, values: NDArray[np.float64]) -> list[str]:
    if len(values) == 0:
        return []
    # A mask of millions of rows is made only for what is wrong somewhere; NaN and infinity show in the extremes.
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        bad = ~np.isfinite(values)
        count = "1 value is" if bad.sum() == 1 else f"{int(bad.sum()):,} values are"
        return [f"{name}: {count} missing, NaN or infinite, the first in {_where(bad)}"]
    return [f"{name}: {text}, the first in {_where(wrong)}" for text, wrong in _oddities(name, values, low, high)]


def _oddities(
    name: str, values: NDArray[np.float64], low: float, high: float
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """What no climate has, and where; values lie between `low` and `high`."""
    if name in ("TXx", "TNn"):
        if low < COLDEST or high > WARMEST:
            yield f"outside {COLDEST:g} to {WARMEST:g} K (degrees Celsius?)", (values < COLDEST) | (values > WARMEST)
        return
    if low < 0:
        yield "negative", values < 0
    if name in COUNTS:
        if high > DAYS:
            yield f"more than {DAYS} days in a year", values > DAYS
        last = np.zeros(len(values), bool)
        of_year = values[(YEARS - 1) * CELLS :]
        last[(YEARS - 1) * CELLS :] = (of_year > LAST_DAYS) & (of_year <= DAYS)
        if last.any():
            yield f"{DAYS} days in {LAST_YEAR}, which has {LAST_DAYS}", last
    least = {"WSDI": SPELL, "CSDI": SPELL, "GSL": 1, "SDII": 1}.get(name)
    if least is not None:
        small = (values > 0) & (values < least)
        if small.any():
            yield _TOO_SMALL[name], small
    if name == "R95p" and high < LEAST_R95P:
        yield f"never more than {LEAST_R95P:g} mm (kg m-2 s-1 instead of mm?)", np.ones(len(values), bool)


_TOO_SMALL = {
    "WSDI": f"days in spells of less than {SPELL} days",
    "CSDI": f"days in spells of less than {SPELL} days",
    "GSL": "a season of less than a day",
    "SDII": "less than 1 mm/day on wet days",
}


def _where(wrong: NDArray[np.bool_]) -> str:
    row = int(np.argmax(wrong))
    year, cell = divmod(row, CELLS)
    i, j = divmod(cell, SHAPE[1])
    return f"row {row} ({FIRST_YEAR + year}, {LAT[i]:.2f} N, {1.25 * j:.2f} E)"


def _column(name: str, values: NDArray[np.float64]) -> pa.Array:
    try:
        full = expand(values)
    except ValueError as e:
        raise SubmissionError(f"{name} is on another grid than the competition's", found=str(e)) from e
    if full.shape != (YEARS, *SHAPE):
        raise SubmissionError(f"{name} has another shape", found=str(values.shape), expected=f"({YEARS}, 192, 288)")
    flat = full.ravel()
    if np.isfinite(flat).all() and np.array_equal(flat, np.floor(flat)):
        return pa.array(flat.astype(np.int64))
    return pa.array(flat)


def _ending(path: Path) -> str:
    ending = path.suffix.lower()
    if ending not in (".parquet", ".csv"):
        raise SubmissionError(
            f"{path.name} does not name a ClimX submission", expected="a name that ends in .parquet or .csv"
        )
    return ending


def _write_csv(table: pa.Table, path: Path) -> None:
    # Arrow writes the shortest text that reads back; the competition's own tool writes six decimals.
    rounded = {
        name: pc.round(table[name], 6) if pa.types.is_floating(table[name].type) else table[name]
        for name in table.column_names
    }
    pa.csv.write_csv(pa.table(rounded), path, pa.csv.WriteOptions(quoting_style="none", quoting_header="none"))


def _read_csv(path: Path) -> tuple[pa.Table, int]:
    batches, rows = [], 0
    with pa.csv.open_csv(path) as reader:
        for batch in reader:
            batches.append(batch)
            rows += batch.num_rows
            if rows > 2 * ROWS:
                break
    return pa.Table.from_batches(batches), rows
