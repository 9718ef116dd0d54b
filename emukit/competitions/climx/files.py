"""ClimX submissions on disk: what is wrong with one, and what it scores against a truth.

Invariant: every part of the years is scored by itself, with its own mean and variance, as the competition scores its
public and its private split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emukit.competitions.climx.score import PUBLISHED, SHAPE, ClimXScore, part_moments, scores_of
from emukit.competitions.climx.submission import (
    CELLS,
    FIRST_YEAR,
    YEARS,
    check_layout,
    check_table,
    checked_values,
    open_columns,
)
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
    with ExitStack() as stack:
        return check_table(open_columns(path, stack))


def score_files(submission: Path, solution: Path) -> ScoredParts:
    """Score a submission against a solution in the same layout.

    A solution may hold a column ``Usage``: its parts are then scored in place of `PARTS`.

    Raises:
        SubmissionError: One of them cannot be read or is not valid.
    """
    with ExitStack() as stack:
        tables = [open_columns(path, stack) for path in (submission, solution)]
        usage = tables[1][USAGE].to_numpy() if USAGE in tables[1].column_names else None
        if usage is not None:
            tables[1] = tables[1].drop_columns([USAGE])
        problems = [check_layout(table) for table in tables]
        parts = PARTS if usage is None or problems[1] else _parts(usage, solution)
        moments = []
        # A column of each at a time: all of them would take the memory of both files.
        for name in INDICES:
            fields = []
            for table, found in zip(tables, problems, strict=True):
                if name in table.column_names:
                    values, wrong = checked_values(name, table[name])
                    found += wrong
                    fields.append(values)
            if not any(problems):
                predicted, truth = (values.reshape(YEARS, *SHAPE) for values in fields)
                moments.append(part_moments(truth, predicted, [*parts.values()]))
    for path, found in zip((submission, solution), problems, strict=True):
        if found:
            raise SubmissionError(f"{path} is not valid", found="\n            ".join(found))
    variance, error = (np.stack([m[i] for m in moments]) for i in (0, 1))
    scores = scores_of(variance, error)
    by_part = {part: {n: scores[i][p] for i, n in enumerate(INDICES)} for p, part in enumerate(parts)}
    return ScoredParts({part: ClimXScore(of) for part, of in by_part.items()})


def _parts(usage: NDArray[np.object_], solution: Path) -> dict[str, slice | NDArray[np.int64]]:
    by_year = usage.reshape(YEARS, CELLS)
    if (by_year != by_year[:, :1]).any():
        raise SubmissionError(
            f"the column {USAGE} of {solution} divides a year", expected=f"one word for all cells of {FIRST_YEAR}, ..."
        )
    words = by_year[:, 0].astype(str)
    return {str(word): np.flatnonzero(words == word) for word in np.unique(words)}
