"""The rows of a submission: what each is called, in which order they stand, how they are written, what can be wrong.

Invariant: an ID is ``t{month:03d}_{variable}_{lat:.2f}_{lon:.2f}`` and the order is month, variable, latitude,
longitude. Every reader and writer of submissions asks a `RowLayout`; nothing else builds or takes apart an ID. Reading
a file gives back every number bit for bit, and equal predictions give equal bytes, packed or not. However many rows are
wrong, a `Problem` stays small: a count, and the first few rows as examples.
"""

from __future__ import annotations

import gzip
import re
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import IO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.errors import SubmissionError
from emukit.files import atomic_path

# "t" and three digits: the competition's format, hence at most a thousand months.
HEAD = 4
MAX_MONTHS = 1000
CELL = re.compile(r"_(?P<variable>[A-Za-z]\w*)_(?P<lat>-?\d+\.\d\d)_(?P<lon>-?\d+\.\d\d)", re.ASCII)
COLUMNS = ("ID", "Prediction")
EXAMPLES = 5


@dataclass(frozen=True)
class RowLayout:
    """Which rows a submission holds: months x variables x latitudes x longitudes.

    Attributes:
        months: Number of months; the first is ``t000``.
        variables: Names along the V axis.
        lat: Latitudes as they are written, two decimals.
        lon: Longitudes as they are written, two decimals.
    """

    months: int
    variables: tuple[str, ...]
    lat: tuple[str, ...]
    lon: tuple[str, ...]

    def __post_init__(self) -> None:
        if not 0 < self.months <= MAX_MONTHS:
            raise SubmissionError(
                "a submission has between 1 and 1000 months",
                found=f"{self.months} months",
                expected="a month index of three digits, t000 .. t999",
            )
        for name, texts in (("variables", self.variables), ("latitudes", self.lat), ("longitudes", self.lon)):
            if len(set(texts)) != len(texts) or not texts:
                raise SubmissionError(
                    f"the {name} do not give every row an ID of its own",
                    found=f"{len(texts)} {name}, {len(set(texts))} of them distinct as written in IDs",
                    expected="a grid whose cells differ in two decimals of a degree",
                )

    @classmethod
    def of(cls, grid: Grid, months: int, variables: Sequence[str] = ("tas", "pr")) -> RowLayout:
        """The layout of a prediction on a grid."""
        return cls(
            months,
            tuple(variables),
            tuple(f"{y:.2f}" for y in grid.lat.tolist()),
            tuple(f"{x:.2f}" for x in grid.lon.tolist()),
        )

    @classmethod
    def from_ids(cls, ids: pa.ChunkedArray) -> RowLayout:
        """Read the layout off the IDs of a complete file, whose rows may stand in any order.

        The cells are those of one month; `positions` tells whether the other months have the same.

        Raises:
            SubmissionError: The IDs have another form, or are not full months x variables x cells.
        """
        if len(ids) == 0:
            raise SubmissionError("there are no rows", expected="one row for every month, variable and cell")
        heads = pc.utf8_slice_codeunits(ids, 0, HEAD)
        months = sorted(pc.unique(heads).to_pylist())
        if months != [month_name(t) for t in range(len(months))]:
            raise SubmissionError(
                "the months of the IDs do not count up from t000",
                found=f"{len(months)} labels, {months[0]!r} .. {months[-1]!r}",
                expected=f"t000 .. {month_name(len(months) - 1)}",
            )
        cells = pc.utf8_slice_codeunits(ids.filter(pc.equal(heads, heads[0])), HEAD, None).to_pylist()
        matches = [CELL.fullmatch(cell) for cell in cells]
        parts = [m.groupdict() for m in matches if m]
        if len(parts) < len(cells):
            wrong = next(cell for cell, m in zip(cells, matches, strict=True) if not m)
            raise SubmissionError(
                "an ID has another form",
                found=f"{heads[0].as_py()}{wrong}",
                expected="t{month:03d}_{variable}_{lat:.2f}_{lon:.2f}, for example t000_tas_-88.59_1.88",
            )
        layout = cls(
            len(months),
            tuple(dict.fromkeys(p["variable"] for p in parts)),
            tuple(sorted({p["lat"] for p in parts}, key=float)),
            tuple(sorted({p["lon"] for p in parts}, key=float)),
        )
        if len(ids) != layout.size:
            v, y, x = layout.shape[1:]
            raise SubmissionError(
                "the rows are not a full block of months, variables and cells",
                found=f"{len(ids)} rows",
                expected=f"{layout.months} months x {v} variables x {y} x {x} cells = {layout.size} rows",
            )
        return layout

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(T, V, Y, X)."""
        return self.months, len(self.variables), len(self.lat), len(self.lon)

    @property
    def size(self) -> int:
        """Number of rows."""
        return int(np.prod(self.shape))

    @property
    def most_rows(self) -> int:
        """How far a file is read that should hold these rows: far enough to tell one that holds all of them twice."""
        return 2 * self.size + 1000

    @cached_property
    def cells(self) -> list[str]:
        """The part of the ID after the month, underscore included, for the V * Y * X rows of a month."""
        return [f"_{v}_{y}_{x}" for v in self.variables for y in self.lat for x in self.lon]

    @cached_property
    def ids(self) -> pa.ChunkedArray:
        """All IDs in order, a chunk of V x Y x X strings for each of the T months."""
        first = pc.binary_join_element_wise(month_name(0), pa.array(self.cells), "")
        _, offsets, text = first.buffers()
        starts = np.frombuffer(offsets, np.int32)[: len(first)]
        chunks = []
        for t in range(self.months):
            # Months differ in three digits only: copying the first and setting these is 5x faster than joining again.
            letters = np.frombuffer(text, np.uint8).copy()
            for place, digit in enumerate(month_name(t).encode()):
                letters[starts + place] = digit
            chunks.append(pa.StringArray.from_buffers(len(first), offsets, pa.py_buffer(letters)))
        return pa.chunked_array(chunks, pa.string())

    def id_at(self, position: int) -> str:
        """The ID of the row at a position in the order."""
        t, cell = divmod(position, len(self.cells))
        return month_name(t) + self.cells[cell]

    def positions(self, ids: pa.ChunkedArray) -> NDArray[np.int64]:
        """(N,) where each of N IDs stands in the order; -1 for an ID that is not of this layout."""
        # Two small tables, of months and of cells, stay in the processor's cache; one of all IDs is 7x slower.
        t = pc.index_in(pc.utf8_slice_codeunits(ids, 0, HEAD), pa.array([month_name(t) for t in range(self.months)]))
        cell = pc.index_in(pc.utf8_slice_codeunits(ids, HEAD, None), pa.array(self.cells))
        month = t.fill_null(-1).to_numpy().astype(np.int64)
        place = cell.fill_null(-1).to_numpy().astype(np.int64)
        return np.where((month < 0) | (place < 0), -1, month * len(self.cells) + place)

    @property
    def weights(self) -> NDArray[np.float64]:
        """(Y, X) cosine-latitude weights of the latitudes as written, as the official scorer takes them."""
        return Grid(np.array(self.lat, np.float64), np.array(self.lon, np.float64)).weights


def month_name(t: int) -> str:
    """How a month index stands in an ID."""
    return f"t{t:03d}"


def submission_ids(grid: Grid, months: int, variables: Sequence[str] = ("tas", "pr")) -> pa.ChunkedArray:
    """The ID column of a submission, in order: months x variables x latitudes x longitudes strings.

    Raises:
        SubmissionError: The months do not fit three digits, or two cells would share an ID.
    """
    return RowLayout.of(grid, months, variables).ids


def write_submission(
    path: Path | str,
    prediction: NDArray[np.floating],
    grid: Grid,
    variables: Sequence[str] = ("tas", "pr"),
) -> int:
    """Write a submission; ``.csv``, ``.csv.gz`` or ``.zip`` by the name.

    Numbers are written as the shortest text that reads back to the same float of the array's type.

    Args:
        path: Where; replaced whole, or left as it was.
        prediction: (T, V, Y, X) float32 or float64 in physical units (tas in K, pr in mm/day).
        grid: Cell centres of the Y and X axes.
        variables: Names along the V axis.

    Returns:
        The number of rows below the header.

    Raises:
        SubmissionError: The name, shape or type does not fit, or a value is not finite. Nothing is written.
        EmukitError: The disk is full, or the place cannot be written.
    """
    path = Path(path)
    packing = packing_of(path)
    layout = _checked_layout(prediction, grid, tuple(variables))
    cells = pa.array([f"{cell}," for cell in layout.cells])
    with atomic_path(path) as temporary, temporary.open("wb") as raw, _packed(raw, packing, path.name) as out:
        out.write((",".join(COLUMNS) + "\n").encode())
        for t, fields in enumerate(prediction):
            numbers = pc.cast(pa.array(fields.ravel()), pa.string())
            rows = pc.binary_join_element_wise(month_name(t), cells, numbers, "\n", "")
            # The text of a string column lies end to end in one buffer: a month's rows, ready to be written.
            _, offsets, text = rows.buffers()
            out.write(memoryview(text)[: np.frombuffer(offsets, np.int32)[len(rows)]])
    return layout.size


def packing_of(path: Path) -> str:
    """``csv``, ``gz`` or ``zip``, by the name.

    Raises:
        SubmissionError: It is not one of them.
    """
    name = path.name.lower()
    for ending, packing in ((".csv", "csv"), (".csv.gz", "gz"), (".zip", "zip")):
        if name.endswith(ending):
            return packing
    raise SubmissionError(
        f"{path.name} is not a name for a submission",
        expected="a name that ends in .csv, .csv.gz or .zip; of ClimX in .parquet",
        hint="rename it",
    )


def _checked_layout(prediction: NDArray[np.floating], grid: Grid, variables: tuple[str, ...]) -> RowLayout:
    expected = f"(T, {len(variables)}, {grid.shape[0]}, {grid.shape[1]}), float32 or float64"
    if prediction.ndim != 4 or prediction.shape[1:] != (len(variables), *grid.shape):
        raise SubmissionError(
            "the prediction has another shape than the grid", found=str(prediction.shape), expected=expected
        )
    if prediction.dtype not in (np.float32, np.float64):
        raise SubmissionError(
            "the prediction is of a type that has no exact text", found=str(prediction.dtype), expected=expected
        )
    layout = RowLayout.of(grid, len(prediction), variables)
    finite = np.isfinite(prediction)
    if not finite.all():
        first = layout.id_at(int(np.argmin(finite)))
        raise SubmissionError(
            "the prediction is not finite everywhere",
            found=f"{finite.size - finite.sum()} NaN or infinite values, the first at {first}",
            expected="a number for every month and cell",
            hint="look at the emulator's output for that month; training may have diverged",
        )
    return layout


@contextmanager
def _packed(raw: IO[bytes], packing: str, name: str) -> Iterator[IO[bytes]]:
    # Time stamps and the name of the temporary file are kept out, so that equal predictions give equal files.
    if packing == "gz":
        with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
            yield cast(IO[bytes], packed)
    elif packing == "zip":
        inner = name[: -len(".zip")]
        info = zipfile.ZipInfo(inner if inner.lower().endswith(".csv") else f"{inner}.csv", (1980, 1, 1, 0, 0, 0))
        info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
        with zipfile.ZipFile(raw, "w") as archive, archive.open(info, "w") as out:
            yield out
    else:
        yield raw


@dataclass(frozen=True)
class Problem:
    """One way in which a submission is wrong.

    Attributes:
        kind: A word for programs: ``missing``, ``duplicate``, ``shifted`` ..; `check_submission` lists them.
        message: A sentence for people, without row numbers.
        rows: Line numbers in the CSV of the first few wrong rows; the header is line 1.
        count: How many rows are wrong; 0 where the file as a whole is.
        accepted: The competition accepts such a file all the same: this is a note.
    """

    kind: str
    message: str
    rows: tuple[int, ...] = ()
    count: int = 0
    accepted: bool = False

    def __str__(self) -> str:
        if not self.rows:
            return self.message
        more = ", ..." if self.count > len(self.rows) else ""
        return f"{self.message} (line{'s' * (self.count > 1)} {', '.join(map(str, self.rows))}{more})"


@dataclass
class Tally:
    """Counts wrong rows of one kind while a file is read.

    Attributes:
        kind: The kind of the problem it becomes.
        what: The message after the count, for example "rows are not finite".
        accepted: Whether the competition accepts such rows.
    """

    kind: str
    what: str
    accepted: bool = False
    count: int = 0
    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def add(self, line: int, text: str) -> None:
        """One more wrong row, and what stands in it."""
        self.count += 1
        if len(self.rows) < EXAMPLES:
            self.rows.append(line)
            self.texts.append(text if len(text) <= 40 else f"{text[:37]}...")

    def problems(self) -> list[Problem]:
        """The problem it adds up to; none where nothing was added."""
        if not self.count:
            return []
        message = f"{self.count} {self.what}, for example {self.texts[0]!r}"
        return [Problem(self.kind, message, tuple(self.rows), self.count, self.accepted)]
