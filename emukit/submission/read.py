"""Read a submission or solution CSV, packed or plain, into two columns.

Invariant: reading judges nothing about the rows but that they have an ID and a number; what the IDs should be is
the business of `check` and `score`.
"""

from __future__ import annotations

import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
from numpy.typing import NDArray

from emukit.errors import SubmissionError
from emukit.files import open_regular
from emukit.submission.write import COLUMNS, packing_of

# Bit 0 of the general purpose flags, PKWARE APPNOTE 4.4.4.
_ENCRYPTED = 0x1
_MAGIC = {"gz": b"\x1f\x8b", "zip": b"PK"}


@dataclass(frozen=True, eq=False)
class Columns:
    """The rows of a submission or solution, in the file's order.

    Attributes:
        ids: (N,) strings.
        values: (N,) float64, the decimal numbers of the file.
    """

    ids: pa.ChunkedArray
    values: NDArray[np.float64]


@contextmanager
def open_csv(path: Path) -> Iterator[IO[bytes]]:
    """The bytes of the CSV inside a ``.csv``, ``.csv.gz`` or ``.zip``.

    Raises:
        SubmissionError: There is no such file, it is not what its name says, or it is cut or damaged, which may show
            only when the bytes are read.
    """
    packing = packing_of(path)
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
                    yield cast(IO[bytes], unpacked)
            elif packing == "zip":
                with zipfile.ZipFile(raw) as archive, archive.open(_only_csv(path, archive)) as stream:
                    yield stream
            else:
                yield raw
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


def read_submission(path: Path | str, *, skip_blank_lines: bool = True) -> Columns:
    """Read the columns ID and Prediction, whatever other columns there are.

    Args:
        path: ``.csv``, ``.csv.gz`` or ``.zip``.
        skip_blank_lines: False refuses them, so that row i of the result is line i + 2 of the file.

    Raises:
        SubmissionError: The file cannot be read as such a CSV.
    """
    path = Path(path)
    with open_csv(path) as stream:
        try:
            table = arrow_csv.read_csv(
                stream,
                # One thread reads 80 MB in 0.2 s; two gain little on an idle machine and lose on a busy one.
                read_options=arrow_csv.ReadOptions(use_threads=False, block_size=4 << 20),
                parse_options=arrow_csv.ParseOptions(ignore_empty_lines=skip_blank_lines),
                convert_options=arrow_csv.ConvertOptions(
                    column_types={"ID": pa.string(), "Prediction": pa.float64()},
                    null_values=[],
                ),
            )
        except pa.ArrowInvalid as e:
            raise SubmissionError(
                f"{path.name} cannot be read as a submission",
                found=str(e),
                expected="the columns ID and Prediction, a number in every row",
                hint=f"emukit check-submission {path} names every wrong row",
            ) from e
    _require_columns(path, table.column_names)
    return Columns(table["ID"], table["Prediction"].to_numpy())


def _require_columns(path: Path, names: list[str]) -> None:
    # Arrow takes the first of two columns of one name and says nothing.
    for column in COLUMNS:
        if (n := names.count(column)) != 1:
            raise SubmissionError(
                f"{path.name} cannot be read as a submission",
                found=f"{n or 'no'} column{'s' * (n > 1)} {column} in the header {','.join(names[:8])}",
                expected=f"the columns {' and '.join(COLUMNS)}, each once",
                hint=f"mend its first line; emukit check-submission {path} names every wrong row",
            )


def _only_csv(path: Path, archive: zipfile.ZipFile) -> str:
    # Archives made by hand on a Mac carry a shadow folder __MACOSX beside the file.
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
