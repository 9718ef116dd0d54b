"""The sums of a run year by year, from which a score over any choice of years follows.

Invariant: the years of a span add up to the moments of the span, so that a score made of them is the score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.split import Span
from emukit.emulators.base import Emulator
from emukit.files import atomic_path, open_regular
from emukit.metrics import Competition
from emukit.runs.evaluate import scored_variables
from emukit.runs.run import Run
from emukit.studies.bootstrap import resample_years, scores_of

Array = NDArray[np.float64]


def years_in(span: Span, archive: Archive) -> int:
    """Into how many years the sums of a span are divided."""
    time = archive[span.scenario].time
    if competition_of(archive).derive:
        return len(np.unique(time.year[span.start : span.stop]))
    return max(1, len(span) // time.per_year)


def year_moments(emulator: Emulator, archive: Archive, spans: Sequence[Span], competition: Competition) -> list[Array]:
    """Predict, and sum every year.

    Args:
        emulator: Of the archive's grid and variables.
        archive: Forcings and truth.
        spans: What is scored.
        competition: Whose sums they are.

    Returns:
        For every span (N, 6, V, Y, X), packed moments of its years, with the further sums of the competition. They are
        counted from the span's first step; steps that are left over belong to the last.
    """
    out = []
    for span in spans:
        prediction = emulator.predict_fields(archive[span.scenario], span.start, span.stop)
        truth = archive[span.scenario].truth(span.members[0], span.start, span.stop)
        if competition.derive:
            derive = competition.derive(archive, span.scenario, span.start, span.stop)
            prediction, truth = derive(prediction), derive(truth)
            edges = [*range(len(truth) + 1)]
            out.append(np.stack([competition.moments(prediction[a:b], truth[a:b]).pack() for a, b in pairwise(edges)]))
            continue
        year = archive[span.scenario].time.per_year
        edges = [*range(0, years_in(span, archive) * year, year), len(span)]
        out.append(np.stack([competition.moments(prediction[a:b], truth[a:b]).pack() for a, b in pairwise(edges)]))
    return out


def save_years(path: Path, spans: Sequence[Array]) -> None:
    """Keep them in a file.

    Raises:
        EmukitError: It cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as f:
        np.savez(f, *spans)


def load_years(path: Path) -> list[Array] | None:
    """Read such a file; None where there is none that can be read, and it is to be made again."""
    try:
        with open_regular(path) as f, np.load(f, allow_pickle=False) as kept:
            return [np.asarray(kept[f"arr_{i}"], np.float64) for i in range(len(kept.files))]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def numbers_on_years(run: Run, archive: Archive, spans: Sequence[Span], name: str) -> Array:
    """The numbers of a run on a set and on draws of its years, whose sums are kept beside the scores of the run.

    Args:
        run: A finished one.
        archive: The data that it was trained on.
        spans: What the set scores.
        name: Of the set.

    Returns:
        (1 + draws, C) columns of the competition, the mean over spans: first on the years as they are.

    Raises:
        EmukitError: The run is damaged, or its folder cannot be written.
    """
    path = run.folder / "scores" / f"{name}-years.npz"
    kept = load_years(path)
    found = _numbers_if_own(kept, run, archive, spans, name) if kept else None
    if found is None:
        kept = year_moments(run.emulator(archive), archive, spans, competition_of(archive))
        save_years(path, kept)
        found = _numbers(kept, archive)
    return found


def _numbers_if_own(kept: list[Array], run: Run, archive: Archive, spans: Sequence[Span], name: str) -> Array | None:
    """The numbers that kept sums make; None where they are not those of this run."""
    fields = (6 + len(competition_of(archive).terms), len(scored_variables(archive)), *archive.grid.shape)
    wanted = [(years_in(span, archive), *fields) for span in spans]
    if [k.shape for k in kept] != wanted or not all(np.isfinite(k).all() for k in kept):
        return None
    found = _numbers(kept, archive)
    score = run.evaluation(name)["score"] if (run.folder / "scores" / f"{name}.json").exists() else None
    return found if score is None or math.isclose(found[0, 0], score, abs_tol=1e-4) else None


def _numbers(kept: Sequence[Array], archive: Archive) -> Array:
    """(1 + draws, C) numbers, the mean over spans."""
    weights, competition = archive.grid.weights, competition_of(archive)
    each = [
        scores_of(years, resample_years(len(years), seed=i), weights, scored_variables(archive), competition)
        for i, years in enumerate(kept)
    ]
    return np.asarray(np.mean(each, axis=0))
