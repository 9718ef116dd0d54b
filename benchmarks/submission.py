"""How fast a submission of 2,488,320 rows is written and scored.

Invariant: the input is the same for both sides and made before the clock starts: a noise climate of the
competition's size (360 months, 48 x 72 cells), in float32, with every digit a float32 has.
"""

from __future__ import annotations

import random
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import Figure, Work, compare
from emukit.data.grid import Grid

MONTHS = 360
FASTER = 10.0
WRITE_PEAK_MB = 600.0
SCORE_PEAK_MB = 1000.0


def bench_submission_write(months: int = MONTHS, runs: int = 3) -> list[Figure]:
    """Write a CSV, against a dictionary for each row and `DataFrame.to_csv`."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            compare(
                "write submission",
                f"{__name__}:prepare_write",
                f"{__name__}:prepare_write_reference",
                (folder, str(months)),
                runs=runs,
                faster=FASTER,
                peak_mb=WRITE_PEAK_MB,
            )
        ]


def bench_submission_score(months: int = MONTHS, runs: int = 3) -> list[Figure]:
    """Score two CSVs, against merge, regular expression and pivot in pandas: in the same order, and shuffled."""
    from emukit.submission import write_submission

    with tempfile.TemporaryDirectory() as folder:
        solution, submission, shuffled = (Path(folder) / f"{n}.csv" for n in ("solution", "submission", "shuffled"))
        write_submission(solution, noise_climate(months, seed=0), grid())
        write_submission(submission, noise_climate(months, seed=1), grid())
        shuffle_rows(submission, shuffled)
        return [
            compare(
                name,
                f"{__name__}:prepare_score",
                f"{__name__}:prepare_score_reference",
                (str(path), str(solution)),
                runs=runs,
                faster=FASTER,
                peak_mb=SCORE_PEAK_MB,
            )
            for name, path in (("score submission", submission), ("score submission, rows shuffled", shuffled))
        ]


def prepare_write(folder: str, months: str) -> Work:
    """emukit's writer; the answer is the number of rows."""
    from emukit.submission import write_submission

    return partial(write_submission, Path(folder) / "ours.csv", noise_climate(int(months), seed=0), grid())


def prepare_write_reference(folder: str, months: str) -> Work:
    """The plain writer."""
    from benchmarks.references import write_row_by_row

    climate, cells = noise_climate(int(months), seed=0), grid()
    return partial(write_row_by_row, Path(folder) / "plain.csv", climate, cells.lat, cells.lon)


def prepare_score(submission: str, solution: str) -> Work:
    """emukit's scorer; the answer is the score."""
    from emukit.competitions.cse151b import cse151b
    from emukit.submission import score_csv

    return lambda: score_csv(submission, solution, cse151b()).value


def prepare_score_reference(submission: str, solution: str) -> Work:
    """The plain scorer."""
    from benchmarks.references import score_by_merge

    return partial(score_by_merge, Path(submission), Path(solution))


def grid() -> Grid:
    """The competition's grid: 48 latitudes from pole to pole, 72 longitudes from 1.875."""
    edge = 88.58638743455498
    return Grid(np.linspace(-edge, edge, 48, dtype=np.float64), np.linspace(1.875, 356.875, 72, dtype=np.float64))


def noise_climate(months: int, seed: int) -> NDArray[np.float32]:
    """(T, 2, 48, 72) temperatures around 280 K and skewed precipitation without any structure."""
    rng = np.random.default_rng(seed)
    shape = (months, *grid().shape)
    return np.stack([rng.normal(280.0, 10.0, shape), rng.gamma(0.7, 4.0, shape)], 1).astype(np.float32)


def shuffle_rows(path: Path, target: Path) -> None:
    """Copy a CSV with its rows in another order, the same at every call."""
    header, *rows = path.read_bytes().splitlines(keepends=True)
    random.Random(0).shuffle(rows)
    target.write_bytes(header + b"".join(rows))
