"""Scores of trajectories by lead time, next to persistence and the climatology of the training.

Invariant: every number of a lead is of the same beginnings and steps for the trajectory and for what stands next to it;
a beginning reads no step that it predicts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Scenario
from emukit.data.split import Span, Split
from emukit.data.time import TimeAxis
from emukit.emulators.base import Emulator
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.trajectory import Persistence, Trajectory
from emukit.errors import ProtocolError
from emukit.files import inside, write_text
from emukit.metrics.ensemble import fair_crps
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.runs.evaluate import refuse_many

Array = NDArray[np.float64]

# Of hours and days: what weather forecasts are compared at.
DAYS = (1, 3, 5, 10)
# Of months and years, in steps.
STEPS = (1, 3, 6, 12, 24)
# Beginnings in memory together.
TOGETHER = 16
# Training steps that stand for the climatological distribution.
CLIMATE_STATES = 40


@dataclass(frozen=True)
class LeadScores:
    """Scores of one variable at one lead, means over beginnings.

    Attributes:
        rmse: Root of the area-mean squared error of the trajectory, or of the mean of realisations.
        persistence: Of the last known step.
        climatology: Of the training climatology.
        crps: Area-mean fair CRPS of the realisations; None of an emulator with one answer.
        climatology_crps: That of training steps as an ensemble; None likewise.
    """

    rmse: float
    persistence: float
    climatology: float
    crps: float | None
    climatology_crps: float | None


@dataclass(frozen=True)
class Forecasts:
    """Scores by variable and lead.

    Attributes:
        realisations: How many; 1 of an emulator with one answer.
        beginnings: How many trajectories the first lead is a mean of.
        leads: Lead in words to how many steps it is.
        scores: Variable to the scores by lead.
    """

    realisations: int
    beginnings: int
    leads: Mapping[str, int]
    scores: Mapping[str, Mapping[str, LeadScores]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        scores = {v: {lead: asdict(s) for lead, s in own.items()} for v, own in self.scores.items()}
        return {
            "realisations": self.realisations,
            "beginnings": self.beginnings,
            "leads": dict(self.leads),
            "scores": scores,
        }


def leads_of(time: TimeAxis, longest: int) -> dict[str, int]:
    """The leads that are shown, in words and steps, up to a longest."""
    if not time.minutes:
        leads = {f"{n} {time.unit}{'s' * (n > 1)}": n for n in STEPS}
    else:
        first = {} if time.step == "day" else {f"{time.minutes / 60:g} h": 1}
        leads = first | {f"{n} day{'s' * (n > 1)}": n * time.per_day for n in DAYS}
    return {words: n for words, n in leads.items() if n <= longest}


def evaluate_forecasts(
    emulator: Emulator,
    archive: Archive,
    split: Split,
    spans: tuple[Span, ...],
    members: int | None,
    reporter: Reporter,
    comm: Comm | None = None,
) -> Forecasts:
    """Trajectories from beginnings all over some spans, one a day (of months and years: one a step).

    Args:
        emulator: A trajectory.
        archive: Its states are begun from and compared with.
        split: Of which the training says the climatology.
        spans: Visible steps; a trajectory begins and ends in one of them.
        members: How many realisations of an emulator that draws them; None: one answer.
        reporter: Shows the progress.
        comm: Processes among which beginnings are divided; each of them makes this call and gets the scores. None:
            this one alone.

    Raises:
        ProtocolError: The emulator does not run from a beginning, or no span is long enough for a forecast.
        RunError: So many realisations do not fit into memory, or the emulator has one answer.
    """
    if not isinstance(emulator, Trajectory):
        raise ProtocolError(f"{emulator.kind} makes no forecasts", expected="one that runs from a beginning")
    time = archive.time
    leads = leads_of(time, max(map(len, spans)))
    if not leads:
        raise ProtocolError(
            "the scored steps are too few for a forecast", found="; ".join(s.text(archive) for s in spans)
        )
    persistence, climatology = Persistence(archive.domain), ClimatologyEmulator.fit(archive, split)
    climate = _training_states(archive, split)
    places = list(dict.fromkeys((s.scenario, s.start, s.stop) for s in spans))
    begun = {place: _beginnings(place, emulator, time.per_day, min(leads.values())) for place in places}
    shape = (len(leads), len(archive.variables))
    sums, counts = {name: np.zeros(shape) for name in LeadScores.__dataclass_fields__}, np.zeros(len(leads))
    groups = [group for (name, _, stop), starts in begun.items() for group in _alike(name, starts, stop, leads)]
    if members:
        # Those of a group are in memory together.
        most = max((len(starts) * longest for _, starts, longest in groups), default=0)
        refuse_many(members, 4 * most * len(archive.variables) * archive.grid.weights.size, comm)
    drawn = [emulator.member(i) for i in range(members)] if members else [emulator]
    # The groups are those of one process, so that every forecast is the same to the last bit.
    among = (comm or Comm()).data
    groups = groups[among.rank :: among.world]
    with reporter.step("forecasting", len(groups) * len(drawn)) as bar:
        for name, starts, longest in groups:
            scenario, said = archive[name], []
            for one in drawn:
                said.append(one.forecast(scenario, starts, longest))
                bar.advance()
            still = persistence.forecast(scenario, starts, 1)[:, 0]
            for i, start in enumerate(starts):
                for k, lead in enumerate(leads.values()):
                    if lead > longest:
                        continue
                    step = start + lead - 1
                    truth = _truth(scenario, step)
                    realisations = np.stack([s[i, lead - 1] for s in said])
                    mean = climatology.predict_fields(scenario, step, step + 1)[0]
                    of_lead = {
                        "rmse": _rmse(archive, realisations.mean(0, dtype=np.float64), truth),
                        "persistence": _rmse(archive, still[i], truth),
                        "climatology": _rmse(archive, mean, truth),
                    }
                    if members:
                        of_lead["crps"] = archive.grid.mean(fair_crps(realisations, truth))
                        of_lead["climatology_crps"] = archive.grid.mean(fair_crps(climate, truth))
                    for number, value in of_lead.items():
                        sums[number][k] += value
                    counts[k] += 1
    sums, counts = {number: among.sum(total) for number, total in sums.items()}, among.sum(counts)
    scores: dict[str, dict[str, LeadScores]] = {}
    for v, variable in enumerate(archive.variables):
        scores[variable] = {}
        for k, words in enumerate(leads):
            if counts[k]:
                own = {number: float(total[k, v] / counts[k]) for number, total in sums.items()}
                scores[variable][words] = LeadScores(
                    **(own if members else {**own, "crps": None, "climatology_crps": None})
                )
    return Forecasts(len(drawn), int(counts[0]), leads, scores)


def save_forecasts(folder: Path, name: str, found: Forecasts) -> None:
    """Keep the scores of a set in the run folder.

    Raises:
        EmukitError: They cannot be written, or the folder is a link.
    """
    write_text(inside(folder, "forecasts", f"{name}.json"), json.dumps(found.as_dict(), indent=1))


def _alike(name: str, starts: list[int], stop: int, leads: Mapping[str, int]) -> list[tuple[str, list[int], int]]:
    """Beginnings whose trajectories are equally long, a few at a time: to the longest lead within the span."""
    by_length: dict[int, list[int]] = {}
    for start in starts:
        by_length.setdefault(max(n for n in leads.values() if n <= stop - start), []).append(start)
    return [
        (name, own[i : i + TOGETHER], length) for length, own in by_length.items() for i in range(0, len(own), TOGETHER)
    ]


def _beginnings(place: tuple[str, int, int], emulator: Trajectory, every: int, shortest: int) -> list[int]:
    _, start, stop = place
    first = max(start, emulator.first_month)
    return list(range(first, stop - shortest + 1, every))


def _training_states(archive: Archive, split: Split) -> NDArray[np.float32]:
    """(E, V, Y, X) training steps evenly over all spans, of their first members."""
    steps = [(s, t) for s in split.train for t in range(s.start, s.stop)]
    chosen = np.linspace(0, len(steps) - 1, min(CLIMATE_STATES, len(steps))).round().astype(int)
    fields = [archive[s.scenario].truth(s.members[0], t, t + 1)[0] for s, t in (steps[i] for i in chosen)]
    return np.asarray(np.stack(fields), np.float32)


def _truth(scenario: Scenario, step: int) -> NDArray[np.float32]:
    """(V, Y, X) of the member that trajectories begin from."""
    return np.asarray(scenario.truth(scenario.members[0], step, step + 1)[0])


def _rmse(archive: Archive, said: NDArray[np.floating], truth: NDArray[np.floating]) -> Array:
    """(V,) of (V, Y, X) fields."""
    return np.asarray(np.sqrt(archive.grid.mean((said.astype(np.float64) - truth) ** 2)))
