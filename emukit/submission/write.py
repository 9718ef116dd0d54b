"""Write a prediction as the CSV that the competition takes.

Invariant: reading the file gives back every number bit for bit, and equal predictions give equal bytes, packed or not.
"""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.errors import SubmissionError
from emukit.files import atomic_path
from emukit.submission.ids import Layout, month_name

COLUMNS = ("ID", "Prediction")


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
        SubmissionError: It is none of them.
    """
    name = path.name.lower()
    for ending, packing in ((".csv", "csv"), (".csv.gz", "gz"), (".zip", "zip")):
        if name.endswith(ending):
            return packing
    raise SubmissionError(
        f"{path.name} is not a name for a submission",
        expected="a name that ends in .csv, .csv.gz or .zip",
        hint="rename it",
    )


def _checked_layout(prediction: NDArray[np.floating], grid: Grid, variables: tuple[str, ...]) -> Layout:
    expected = f"(T, {len(variables)}, {grid.shape[0]}, {grid.shape[1]}), float32 or float64"
    if prediction.ndim != 4 or prediction.shape[1:] != (len(variables), *grid.shape):
        raise SubmissionError(
            "the prediction has another shape than the grid", found=str(prediction.shape), expected=expected
        )
    if prediction.dtype not in (np.float32, np.float64):
        raise SubmissionError(
            "the prediction is of a type that has no exact text", found=str(prediction.dtype), expected=expected
        )
    layout = Layout.of(grid, len(prediction), variables)
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
