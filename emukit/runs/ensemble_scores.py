"""Scoring the realisations of a run as an ensemble, next to what the climate model's own runs score so.

Invariant: a real member stands next to the run in the same numbers: each member in turn is the truth of the others. The
fair CRPS and the corrected spread do not favour the larger ensemble.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.split import Span
from emukit.emulators.base import Emulator
from emukit.errors import ProtocolError
from emukit.files import inside, write_text
from emukit.metrics import Moments, Score, mean_score
from emukit.metrics.ensemble import EnsembleParts, EnsembleSums, score_ensemble
from emukit.progress import Reporter
from emukit.runs.evaluate import score_emulator

# Steps of an ensemble that are in memory together.
STEPS = 60


@dataclass(frozen=True)
class EnsembleEvaluation:
    """Scores of an ensemble on one set of months.

    Attributes:
        realisations: E.
        parts: By variable, over all members of the climate model's ensemble as truth.
        real: The same of the climate model's members: each in turn the truth, the others the ensemble. None where
            there are fewer than two.
        mean: The competition's score of the mean of the realisations, against the members that the protocol scores.
        one: That of the first realisation.
    """

    realisations: int
    parts: Mapping[str, EnsembleParts]
    real: Mapping[str, EnsembleParts] | None
    mean: Score
    one: Score

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "realisations": self.realisations,
            "ensemble": {v: asdict(p) for v, p in self.parts.items()},
            "climate_model": {v: asdict(p) for v, p in self.real.items()} if self.real else None,
            "mean_of_realisations": self.mean.as_dict(),
            "one_realisation": self.one.as_dict(),
        }


def evaluate_ensemble(
    emulator: Emulator, archive: Archive, spans: tuple[Span, ...], members: int, reporter: Reporter
) -> EnsembleEvaluation:
    """Draw realisations of the months of some spans, and score them.

    Args:
        emulator: One that draws realisations.
        archive: Its forcings are predicted from, its targets compared with.
        spans: Visible months.
        members: How many realisations; two or more.
        reporter: Shows the progress.

    Raises:
        RunError: The emulator has one answer to a scenario.
        ProtocolError: Fewer than two realisations are asked for.
    """
    if not emulator.draws:
        emulator.member(0)  # says what is wrong
    if members < 2:
        raise ProtocolError("an ensemble has two realisations or more", found=str(members), hint="--members 20")
    if competition_of(archive).derive:
        raise ProtocolError(
            f"{competition_of(archive).name} scores what it derives from years, and an ensemble is scored as fields",
            hint="leave --members out",
        )
    places: dict[tuple[str, int, int], list[Span]] = {}
    for span in spans:
        places.setdefault((span.scenario, span.start, span.stop), []).append(span)
    shape, competition = (len(archive.variables), *archive.grid.shape), competition_of(archive)
    drawn = [emulator.member(i) for i in range(members)]
    # Scenarios may have different numbers of members; sums are of ensembles of one size.
    others = min(len(archive[name].members) for name, _, _ in places) - 1
    sums, real = EnsembleSums.zero(members, shape), EnsembleSums.zero(max(others, 1), shape)
    means: list[Score] = []
    work = sum(-(-(stop - start) // STEPS) for _, start, stop in places)
    with reporter.step("drawing realisations", members * work) as bar:
        for (name, start, stop), own in places.items():
            scenario = archive[name]
            moments = [Moments.zero(shape, tuple(competition.terms)) for _ in own]
            for first in range(start, stop, STEPS):
                last = min(first + STEPS, stop)
                fields = []
                for one in drawn:
                    fields.append(one.predict_fields(scenario, first, last))
                    bar.advance()
                ensemble = np.stack(fields)
                truths = {m: scenario.truth(m, first, last) for m in scenario.members}
                for member, truth in truths.items():
                    sums += EnsembleSums.of(ensemble, truth)
                    rest = [t for m, t in truths.items() if m != member][:others]
                    if rest:
                        real += EnsembleSums.of(np.stack(rest), truth)
                average = ensemble.mean(0)
                for i, span in enumerate(own):
                    moments[i] += competition.moments(average, truths[span.members[0]])
            means += [competition.score(m, archive.grid.weights, archive.variables) for m in moments]
    return EnsembleEvaluation(
        members,
        score_ensemble(sums, archive.grid.weights, archive.variables),
        score_ensemble(real, archive.grid.weights, archive.variables) if others > 0 else None,
        mean_score(means),
        score_emulator(emulator, archive, spans),
    )


def save_ensemble(folder: Path, name: str, found: EnsembleEvaluation) -> None:
    """Keep the scores of a set in the run folder, next to those of its one answer.

    Raises:
        EmukitError: They cannot be written, or the folder of the scores is a link.
    """
    write_text(inside(folder, "ensembles", f"{name}.json"), json.dumps(found.as_dict(), indent=1))
