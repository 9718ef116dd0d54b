"""A small prediction whose values spell their own month, variable and cell, and its CSV lines."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emukit.competitions.cse151b import cse151b
from emukit.data.grid import Grid
from emukit.metrics import Score
from emukit.submission import score as submission_score

GRID = Grid(np.array([-60.0, 1.885, 60.0]), np.array([1.875, 91.875, 181.875, 271.875]))
MONTHS = 24
CELLS = 2 * 3 * 4


def coded(months: int = MONTHS, grid: Grid = GRID, first_month: int = 0) -> NDArray[np.float32]:
    """(T, 2, Y, X) with a seasonal cycle of opposite hemispheres, and a digit that is the row's own."""
    lat, lon = np.deg2rad(grid.lat)[:, None], np.deg2rad(grid.lon)
    angle = 2 * math.pi * (np.arange(months) + first_month)[:, None, None] / 12
    shape = (months, *grid.shape)
    season = -np.cos(angle) * np.sin(lat) + 0.1 * np.cos(lon)
    own = np.arange(np.prod(shape)).reshape(shape) / np.prod(shape)
    return np.stack([280 + 20 * season + own, 3 + 2 * season + own], 1).astype(np.float32)


def lines_of(prediction: NDArray[np.floating], grid: Grid = GRID, first: int = 0) -> list[str]:
    """The CSV's lines, header first, written out plainly."""
    lines = ["ID,Prediction"]
    for t in range(prediction.shape[0]):
        for v, variable in enumerate(("tas", "pr")):
            for y, lat in enumerate(grid.lat):
                for x, lon in enumerate(grid.lon):
                    lines.append(f"t{t + first:03d}_{variable}_{lat:.2f}_{lon:.2f},{float(prediction[t, v, y, x])!r}")
    return lines


def save(path: Path, lines: Iterable[str], end: str = "\n") -> Path:
    """Write lines as a file."""
    path.write_bytes("".join(line + end for line in lines).encode())
    return path


def score_csv(submission: Path | str, solution: Path | str) -> Score:
    """By the shipped competition."""
    return submission_score.score_csv(submission, solution, cse151b())


def score_submission(submission: Path | str, truth: NDArray[np.floating], grid: Grid) -> Score:
    """By the shipped competition."""
    return submission_score.score_submission(submission, truth, grid, cse151b())
