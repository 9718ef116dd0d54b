"""The IDs of a submission: what each row of the CSV is called, and in which order the rows stand.

Invariant: an ID is ``t{month:03d}_{variable}_{lat:.2f}_{lon:.2f}`` and the order is month, variable, latitude,
longitude. Every reader and writer of submissions asks a `Layout`; nobody else builds or takes apart an ID.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.errors import SubmissionError

# "t" and three digits: the competition's format, hence at most a thousand months.
HEAD = 4
MAX_MONTHS = 1000
CELL = re.compile(r"_(?P<variable>[A-Za-z]\w*)_(?P<lat>-?\d+\.\d\d)_(?P<lon>-?\d+\.\d\d)", re.ASCII)


@dataclass(frozen=True)
class Layout:
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
    def of(cls, grid: Grid, months: int, variables: Sequence[str] = ("tas", "pr")) -> Layout:
        """The layout of a prediction on a grid."""
        return cls(
            months,
            tuple(variables),
            tuple(f"{y:.2f}" for y in grid.lat.tolist()),
            tuple(f"{x:.2f}" for x in grid.lon.tolist()),
        )

    @classmethod
    def from_ids(cls, ids: pa.ChunkedArray) -> Layout:
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
    return Layout.of(grid, months, variables).ids
