"""Further tables of a run whose competition scores what it derives from whole years, such as annual extremes.

Invariant: what is told here is of the same prediction and truth as the score, and decides nothing.

What was derived last of a scenario's truth, and of an emulator's prediction, is kept as long as these are: a year of
days on the full grid of ClimX takes several seconds to read or to predict, and a command scores it and tells of it.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive, Scenario
from emukit.data.split import Span
from emukit.emulators.base import Emulator
from emukit.errors import ProtocolError
from emukit.metrics.competition import Detail
from emukit.progress import Reporter

Field = NDArray[np.float64]
Truth = tuple[list[int], Field, Field]

_TRUTH: WeakKeyDictionary[Scenario, tuple[ref[Archive], Span, Truth]] = WeakKeyDictionary()
_PREDICTION: WeakKeyDictionary[Emulator, tuple[ref[Archive], Span, Field]] = WeakKeyDictionary()


def detail_tables(emulator: Emulator, archive: Archive, spans: tuple[Span, ...]) -> list[tuple[str, Detail]]:
    """The tables of every span, each with the span in words; none of a competition that has none."""
    detail, place = competition_of(archive).detail, archive.domain.temperature
    if detail is None or place is None:
        return []
    out = []
    for span in spans:
        years, truth, warming = _truth(archive, span)
        prediction = _derived(emulator, archive, span)
        out += [(span.text(archive), table) for table in detail(years, warming, prediction, truth)]
    return out


def ensemble_tables(
    emulator: Emulator, archive: Archive, spans: tuple[Span, ...], members: int, reporter: Reporter
) -> list[tuple[str, Detail]]:
    """Scores of realisations on every span.

    Args:
        emulator: One that draws realisations.
        archive: Its forcings are predicted from, its targets compared with.
        spans: Visible years.
        members: How many realisations.
        reporter: Shows the progress.

    Raises:
        RunError: The emulator has one answer to a scenario.
        ProtocolError: The competition does not score realisations, or the data do not fit into memory.
    """
    if not emulator.draws:
        emulator.member(0)  # says what is wrong
    score = competition_of(archive).ensemble
    if score is None or archive.on_disk:
        raise ProtocolError(
            "these realisations cannot be scored",
            found="data that do not fit into memory" if score else competition_of(archive).name,
            expected="the lite files" if score else "a competition that scores realisations",
            hint="leave --members out",
        )
    out = []
    with reporter.step("drawing realisations", members * len(spans)) as bar:
        for span in spans:
            _, truth, _ = _truth(archive, span)
            drawn = np.empty((members, *truth.shape))
            for i in range(members):
                drawn[i] = _derived(emulator.member(i), archive, span)
                bar.advance()
            out.append((span.text(archive), score(drawn, truth)))
    return out


def derived_fields(emulator: Emulator, archive: Archive, span: Span) -> tuple[Field, Field]:
    """(N, W, Y, X) what is derived from the prediction of a span, and from its truth.

    A calendar year of data on disk is in memory at a time.
    """
    _, truth, _ = _truth(archive, span)
    return _derived(emulator, archive, span), truth


def _truth(archive: Archive, span: Span) -> Truth:
    """Years, derived fields, and the global mean temperature of each year."""
    scenario = archive[span.scenario]
    kept = _TRUTH.get(scenario)
    if kept is None or kept[0]() is not archive or kept[1] != span:
        kept = _TRUTH[scenario] = (ref(archive), span, _derived_truth(archive, span, archive.domain.temperature or 0))
    return kept[2]


def _derived_truth(archive: Archive, span: Span, temperature: int) -> Truth:
    scenario, competition = archive[span.scenario], competition_of(archive)
    assert competition.derive is not None
    derive = competition.derive(archive, span.scenario, span.start, span.stop)
    years = np.unique(scenario.time.year[span.start : span.stop])
    parts, warming = [], np.empty(len(years))
    for start, stop in scenario.pieces(span.start, span.stop):
        fields = scenario.truth(span.members[0], start, stop)
        parts.append(derive(fields))
        mean = archive.grid.mean(fields[:, temperature])
        for year in np.unique(scenario.time.year[start:stop]):
            warming[np.searchsorted(years, year)] = mean[scenario.time.year[start:stop] == year].mean()
    return [int(y) for y in years], np.concatenate(parts), warming


def _derived(emulator: Emulator, archive: Archive, span: Span) -> Field:
    """(N, W, Y, X) what is derived from a prediction."""
    kept = _PREDICTION.get(emulator)
    if kept is None or kept[0]() is not archive or kept[1] != span:
        kept = _PREDICTION[emulator] = (ref(archive), span, _derived_prediction(emulator, archive, span))
    return kept[2]


def _derived_prediction(emulator: Emulator, archive: Archive, span: Span) -> Field:
    scenario, competition = archive[span.scenario], competition_of(archive)
    assert competition.derive is not None
    derive = competition.derive(archive, span.scenario, span.start, span.stop)
    parts = [derive(emulator.predict_fields(scenario, a, b)) for a, b in scenario.pieces(span.start, span.stop)]
    return np.concatenate(parts)
