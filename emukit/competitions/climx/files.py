"""ClimX submissions on disk: what is wrong with one, and what it scores against a truth.

Invariant: every part of the years is scored by itself, with its own mean and variance, as the competition scores its
public and its private split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from emukit.competitions.climx.score import PUBLISHED, SHAPE, ClimXScore, score_index
from emukit.competitions.climx.submission import CELLS, FIRST_YEAR, YEARS, check_table, read_table
from emukit.errors import SubmissionError
from emukit.metrics.extremes import INDICES

# Where no split is known: the whole, and parts of about the lengths that the organisers' tool names as an example.
PARTS = {"2015-2100": slice(0, YEARS), "2015-2070": slice(0, 56), "2071-2100": slice(56, YEARS)}
USAGE = "Usage"
REFERENCES = {
    "mean of the truth": 0.0,
    "another run of the same model, about": -0.3,
    **{f"organisers' baseline: {name}": value for name, value in PUBLISHED.items()},
}


@dataclass(frozen=True)
class ScoredParts:
    """Scores of a submission.

    Attributes:
        parts: Name of a part of the years to its score.
    """

    parts: Mapping[str, ClimXScore]

    def rows(self, further: Sequence[ClimXScore] = ()) -> list[tuple[str, ...]]:
        """A row for the score and each index, a column for each part, as text; then how many cells count.

        Args:
            further: Scores of something else, each a column before the last.
        """
        names = list(self.parts)
        first = self.parts[names[0]]
        columns = [*self.parts.values(), *further]
        whole = [("score", *(f"{score.value:.4f}" for score in columns), "")]
        for index in INDICES:
            values = [score.indices[index].value for score in columns]
            texts = ["-" if v is None else f"{v:.4f}" for v in values]
            whole.append((index, *texts, f"{first.indices[index].cells:,}"))
        return whole

    def headings(self, further: Sequence[str] = ()) -> tuple[str, ...]:
        """The headings of `rows`, with those of further scores."""
        return ("nNSE, higher is better", *self.parts, *further, "cells")


def is_climx(path: Path) -> bool:
    """Whether a file is laid out as a ClimX submission: Parquet, or a CSV that begins with ``row_id``."""
    if path.suffix.lower() == ".parquet":
        return True
    if path.suffix.lower() != ".csv" or not path.is_file():
        return False
    with path.open("rb") as f:
        return f.read(16).lstrip(b'"').startswith(b"row_id")


def problems_of(path: Path) -> list[str]:
    """Every way in which a submission is wrong; none where it is valid.

    Raises:
        SubmissionError: It cannot be read.
    """
    return check_table(read_table(path))


def score_files(submission: Path, solution: Path) -> ScoredParts:
    """Score a submission against a solution in the same layout.

    A solution may hold a column ``Usage``: its parts are then scored in place of `PARTS`.

    Raises:
        SubmissionError: One of them cannot be read or is not valid.
    """
    predicted, truth = read_table(submission), read_table(solution)
    usage = truth[USAGE].to_numpy() if USAGE in truth.column_names else None
    if usage is not None:
        truth = truth.drop_columns([USAGE])
    for path, table in ((submission, predicted), (solution, truth)):
        problems = check_table(table)
        if problems:
            raise SubmissionError(f"{path} is not valid", found="\n            ".join(problems))
    parts = PARTS if usage is None else _parts(usage, solution)
    by_index = {}
    for name in INDICES:
        g, p = _fields(truth, name), _fields(predicted, name)
        by_index[name] = {part: score_index(g[years], p[years]) for part, years in parts.items()}
    return ScoredParts({part: ClimXScore({n: by_index[n][part] for n in INDICES}) for part in parts})


def _fields(table: pa.Table, name: str) -> NDArray[np.floating]:
    return np.asarray(table[name].to_numpy()).reshape(YEARS, *SHAPE)


def _parts(usage: NDArray[np.object_], solution: Path) -> dict[str, slice | NDArray[np.int64]]:
    by_year = usage.reshape(YEARS, CELLS)
    if (by_year != by_year[:, :1]).any():
        raise SubmissionError(
            f"the column {USAGE} of {solution} divides a year", expected=f"one word for all cells of {FIRST_YEAR}, ..."
        )
    words = by_year[:, 0].astype(str)
    return {str(word): np.flatnonzero(words == word) for word in np.unique(words)}
