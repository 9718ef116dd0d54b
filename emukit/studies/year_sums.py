"""The sums of a run year by year, from which a score over any choice of years follows.

Invariant: the years of a span add up to the moments of the span, so that a score made of them is the score.
"""

from __future__ import annotations

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
