"""The UCSD CSE 151B Spring 2025 competition: monthly tas and pr from emission scenarios.

Invariant: the score is that of the competition's own scorer (Kaggle, "CSE 151B Spring 2025 competition"), from which
formula and weights are taken. Lower is better.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.metrics.competition import Competition, PublishedTable, Score, SubmissionFormat
from emukit.metrics.standard import step_rmse, time_mean_rmse, time_std_mae

NAME = "cse151b"
UNITS = {"tas": "K", "pr": "mm/day"}
VARIABLE_WEIGHTS = {"tas": 0.5, "pr": 0.5}
PART_WEIGHTS = {
    "tas": {"monthly_rmse": 0.1, "time_mean_rmse": 1.0, "time_stddev_mae": 1.0},
    "pr": {"monthly_rmse": 0.1, "time_mean_rmse": 1.0, "time_stddev_mae": 0.75},
}


@cache
def cse151b() -> Competition:
    """The competition."""
    metrics = [
        metric
        for v, units in UNITS.items()
        for metric in (
            step_rmse(v, units, name="monthly_rmse", step="month"),
            time_mean_rmse(v, units),
            time_std_mae(v, units),
        )
    ]
    return Competition(
        name=NAME,
        title="UCSD CSE 151B, Spring 2025",
        units=UNITS,
        metrics=tuple(metrics),
        weights={f"{v}.{n}": VARIABLE_WEIGHTS[v] * w for v in UNITS for n, w in PART_WEIGHTS[v].items()},
        description="official score: the numbers of each variable, weighted and added up; it has no unit",
        legend="month: RMSE of the months; mean: of their mean over time; "
        "std: MAE of their standard deviation over time",
        long_names={"tas": "near-surface air temperature", "pr": "precipitation"},
        never_zero=("tas",),
        published=PublishedTable(file="published.toml", card="cse151b-2025", cells="48x72", last_month="2100-01"),
        submission=SubmissionFormat(
            packings=("csv", "csv.gz", "zip"),
            write=_write,
            check=_check,
            score_fields=_score_fields,
            score_files=_score_files,
        ),
    )


def competition(units: Mapping[str, str]) -> Competition:
    """The same whatever else a store holds."""
    return cse151b()


# The readers and writers of CSV are heavy, and most commands need none.


def _write(path: Path, fields: NDArray[np.floating], grid: Grid, variables: tuple[str, ...]) -> int:
    from emukit.submission import write_submission

    return write_submission(path, fields, grid, variables)


def _check(
    path: Path, grid: Grid, months: int, variables: tuple[str, ...], reference: NDArray[np.floating] | None
) -> list[Any]:
    from emukit.submission import check_submission

    return check_submission(path, grid, months, variables, reference)


def _score_fields(path: Path, truth: NDArray[np.floating], grid: Grid) -> Score:
    from emukit.submission import score_submission

    return score_submission(path, truth, grid, cse151b())


def _score_files(path: Path, solution: Path) -> Score:
    from emukit.submission import score_csv

    return score_csv(path, solution, cse151b())
