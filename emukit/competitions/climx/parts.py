"""ClimX submissions on disk and what they score against a truth, with what stands next to a score: parts of the years,
counted cells, what other answers reach, ensembles.

Invariant: every part of the years is scored by itself, with its own mean and variance, as the competition scores its
public and its private split. The forced ceiling looks at the truth: it is a bound to compare with, and no emulator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emukit.competitions.climx.score import (
    LAT,
    LEAST_VARIANCE,
    LON,
    PUBLISHED,
    SHAPE,
    ClimXScore,
    IndexScore,
    crps_efficiency,
    part_moments,
    regions,
    score_index,
    scores_of,
)
from emukit.competitions.climx.submission import (
    CELLS,
    FIRST_YEAR,
    YEARS,
    check_layout,
    check_table,
    checked_values,
    open_columns,
)
from emukit.data.grid import Grid
from emukit.errors import SubmissionError
from emukit.metrics.competition import Detail, ScoreMaps
from emukit.metrics.extremes import INDICES

# Where no split is known: the whole, and parts of about the lengths that the organisers' tool names as an example.
PARTS = {"2015-2100": slice(0, YEARS), "2015-2070": slice(0, 56), "2071-2100": slice(56, YEARS)}
USAGE = "Usage"
REFERENCES = {
    "mean of the truth": 0.0,
    "another run of the same model, about": -0.3,
    **{f"organisers' baseline: {name}": value for name, value in PUBLISHED.items()},
}
Field = NDArray[np.float64]
# Where no part is known: the first 56 of 86 years, as in the example of the organisers' tool, and the rest.
FIRST_SHARE = 56 / 86
# Of the polynomial in the global mean temperature that is fitted to the truth.
DEGREE = 3
# Fewer years say nothing of a variance.
LEAST_YEARS = 5
# A cubic has four numbers for each cell and takes their share of the weather: all in four years, a fifth in twenty.
LEAST_YEARS_OF_CEILING = 20


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


def detail_tables(years: Sequence[int], warming: Field, prediction: Field, truth: Field) -> list[Detail]:
    """Scores by part of the years and by region, and what others reach.

    The forced ceiling is left out under `LEAST_YEARS_OF_CEILING` years.

    Args:
        years: N years.
        warming: (N,) global mean temperature of the truth in K.
        prediction: (N, 15, Y, X) indices.
        truth: Likewise.
    """
    ceilings = [_score(forced_fit(warming, truth), truth)] if len(years) >= LEAST_YEARS_OF_CEILING else []
    parts = ScoredParts({name: _score(prediction[of], truth[of]) for name, of in parts_of(years).items()})
    whole = next(iter(parts.parts.values()))
    compare = [("forced ceiling: a cubic in the global temperature of this truth", f"{c.value:.4f}") for c in ceilings]
    compare += [(name, f"{value:.4f}") for name, value in REFERENCES.items()]
    return [
        Detail(parts.headings(["forced ceiling"] * len(ceilings)), tuple(parts.rows(ceilings))),
        Detail(("to compare with; baselines on the hidden ssp245", "nNSE"), tuple(compare)),
        Detail(("region, lowest first", "nNSE, mean of the indices", "lowest", "highest"), tuple(_by_region(whole)), 8),
    ]


def ensemble_table(members: Field, truth: Field) -> Detail:
    """Scores of realisations by the continuous ranked probability score: emukit's reading of the uncertainty track.

    Args:
        members: (E, N, 15, Y, X) indices of realisations.
        truth: (N, 15, Y, X).
    """
    columns = []
    for fair in (False, True):
        scores = {name: crps_efficiency(truth[:, i], members[:, :, i], fair=fair) for i, name in enumerate(INDICES)}
        columns.append(ClimXScore(scores))
    one, mean = _score(members[0], truth), _score(members.mean(0), truth)
    columns += [one, mean]
    parts = ScoredParts({"CRPS": columns[0]})
    headings = ("CRPS score (emukit's reading)", "of an infinite ensemble", "nNSE of the first", "nNSE of the mean")
    rows = parts.rows(columns[1:])
    return Detail((f"{len(members)} realisations", *headings, "cells"), tuple(rows))


def score_maps(prediction: Field, truth: Field) -> ScoreMaps:
    """The score of every index by region, on the competition's grid, and by cell, on that of the data.

    Args:
        prediction: (N, 15, Y, X) indices.
        truth: Likewise.
    """
    where, shape = regions(), truth.shape[2:]
    scores = _score(prediction, truth).indices
    # The last place of a row is that of cells in no region, whose number is -1.
    by_region = np.full((len(INDICES), len(where.names) + 1), np.nan)
    for i, name in enumerate(INDICES):
        for region, value in scores[name].by_region.items():
            by_region[i, where.names.index(region)] = value
    variance, error = truth.var(0), ((prediction - truth) ** 2).mean(0)
    # A cell of the lite grid is in a score where any of the cells that it stands for is.
    inside = (where.cells >= 0).reshape(shape[0], SHAPE[0] // shape[0], shape[1], SHAPE[1] // shape[1]).any((1, 3))
    with np.errstate(invalid="ignore"):
        cells = np.where((variance > LEAST_VARIANCE) & inside, (variance - error) / (variance + error), np.nan)
    return ScoreMaps(Grid(LAT, np.asarray(LON, np.float64)), by_region[:, where.cells], cells)


def parts_of(years: Sequence[int]) -> dict[str, slice]:
    """Name to positions: all years, and the first two thirds or so and the rest where both say something."""
    out = {f"{years[0]}-{years[-1]}": slice(0, len(years))}
    first = round(FIRST_SHARE * len(years))
    if min(first, len(years) - first) >= LEAST_YEARS:
        out[f"{years[0]}-{years[first - 1]}"] = slice(0, first)
        out[f"{years[first]}-{years[-1]}"] = slice(first, len(years))
    return out


def forced_fit(warming: Field, truth: Field) -> Field:
    """(N, 15, Y, X) the truth's own cubic in the global mean temperature, in every cell.

    No smooth answer can do much better, as it is fitted to the years that it is scored on.
    """
    z = (warming - warming.mean()) / (warming.std() or 1.0)
    design = np.stack([z**k for k in range(DEGREE + 1)], 1)
    q, _ = np.linalg.qr(design)
    flat = truth.reshape(len(truth), -1)
    return np.asarray((q @ (q.T @ flat)).reshape(truth.shape))


def _score(prediction: Field, truth: Field) -> ClimXScore:
    return ClimXScore({name: score_index(truth[:, i], prediction[:, i]) for i, name in enumerate(INDICES)})


def _by_region(score: ClimXScore) -> list[tuple[str, ...]]:
    """A row for each region, the worst first: the mean over its indices, and which are lowest and highest."""
    rows = []
    for name in regions().names:
        values = {i: s.by_region[name] for i, s in _known(score).items() if name in s.by_region}
        if values:
            low, high = (min(values, key=values.__getitem__), max(values, key=values.__getitem__))
            mean = sum(values.values()) / len(values)
            rows.append((mean, (name, f"{mean:.4f}", f"{low} {values[low]:.3f}", f"{high} {values[high]:.3f}")))
    return [row for _, row in sorted(rows)]


def _known(score: ClimXScore) -> dict[str, IndexScore]:
    return {name: s for name, s in score.indices.items() if s.value is not None}
