"""Scoring the realisations of a run as an ensemble, next to what the climate model's own runs score so.

Invariant: a real member stands next to the run in the same numbers: each member in turn is the truth of the others. The
fair CRPS and the corrected spread do not favour the larger ensemble. Several processes give the scores of one: every
realisation is drawn by one of them, in the company that it has however many there are, and every step is scored by one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive, Scenario
from emukit.data.split import Span
from emukit.emulators.base import Emulator
from emukit.errors import ProtocolError
from emukit.files import inside, write_text
from emukit.metrics import Moments, Score, mean_score
from emukit.metrics.ensemble import (
    LEAST_BLOCKS,
    EnsembleParts,
    EnsembleSums,
    Flatness,
    RankCounts,
    Regions,
    TwoSample,
    energy_score,
    mean_test,
    score_ensemble,
    time_blocks,
    two_sample_test,
)
from emukit.metrics.variability import Deviations, RunStatistics, ZonalPower
from emukit.parallel.comm import Comm
from emukit.progress import Reporter, Step
from emukit.runs.evaluate import refuse_many, score_emulator

Array = NDArray[np.float64]
Sums = TypeVar("Sums", EnsembleSums, ZonalPower)

# Steps of an ensemble that are in memory together.
STEPS = 60


@dataclass(frozen=True)
class RegionalScores:
    """What is said of the regional means of one variable.

    Attributes:
        energy: Energy score over regions, in the variable's unit; lower is better.
        flatness: Of the ranks of all truths; of the climate model, of the member that the protocol scores among the
            others, as all members together are flat by construction.
        by_member: The p-value with each member alone as truth.
    """

    energy: float
    flatness: Flatness
    by_member: tuple[float | None, ...]


@dataclass(frozen=True)
class VariableScores:
    """Everything that is said of one variable.

    Attributes:
        cells: Of the fields.
        regional: Of the means of regions.
        variability: How the realisations vary about the mean of the others; None of a single one.
    """

    cells: EnsembleParts
    regional: RegionalScores
    variability: RunStatistics | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; the numbers of the fields at the top."""
        variability = {n: asdict(s) for n, s in self.variability.numbers().items()} if self.variability else None
        return {**asdict(self.cells), "regional": asdict(self.regional), "variability": variability}


@dataclass(frozen=True)
class EnsembleEvaluation:
    """Scores of an ensemble on one set of months.

    Attributes:
        realisations: E.
        parts: By variable, over all members of the climate model's ensemble as truth.
        real: The same of the climate model's members: each in turn the truth, the others the ensemble. None where
            there are fewer than two.
        two_sample: How well realisations are told from members; None of too few steps.
        two_sample_real: How well members are told from each other.
        mean: The competition's score of the mean of the realisations, against the members that the protocol scores.
        one: That of the first realisation.
    """

    realisations: int
    parts: Mapping[str, VariableScores]
    real: Mapping[str, VariableScores] | None
    two_sample: TwoSample | None
    two_sample_real: TwoSample | None
    mean: Score
    one: Score

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "realisations": self.realisations,
            "ensemble": {v: p.as_dict() for v, p in self.parts.items()},
            "climate_model": {v: p.as_dict() for v, p in self.real.items()} if self.real else None,
            "two_sample": asdict(self.two_sample) if self.two_sample else None,
            "two_sample_climate_model": asdict(self.two_sample_real) if self.two_sample_real else None,
            "mean_of_realisations": self.mean.as_dict(),
            "one_realisation": self.one.as_dict(),
        }


@dataclass(frozen=True, eq=False)
class Period:
    """The sums and regional means of an ensemble, and of the members it is compared with, in one period.

    Attributes:
        regional: (E, T, V, R).
        truth: (M, T, V, R) of the members.
        zonal: Of the realisations.
        zonal_real: Of the members; None of a single one.
        season: (T,).
        per_year: Steps of a year.
        scored: Position of the member that the protocol scores.
    """

    regional: Array
    truth: Array
    zonal: ZonalPower
    zonal_real: ZonalPower | None
    season: NDArray[np.int64]
    per_year: int
    scored: int


class Drawing:
    """Realisations that several processes draw: each has some groups of them, and all get the whole.

    Attributes:
        own: How many this process draws.
    """

    def __init__(self, emulator: Emulator, members: int, comm: Comm) -> None:
        """Deal them out; the groups are the same however many processes there are.

        Args:
            emulator: One that draws realisations.
            members: E, how many.
            comm: The processes.
        """
        # However many processes there are: sums of products are rounded differently with another number of rows.
        size = emulator.together
        groups = [range(first, min(first + size, members)) for first in range(0, members, size)]
        # Each group has an emulator of its own, which goes on from where it was.
        self._groups = [(group, emulator.member(group.start)) for group in comm.shard(groups)]
        self._comm, self._emulator = comm, emulator
        self._shares = [sum(map(len, replace(comm, rank=r).shard(groups))) for r in range(comm.world)]
        self.own = self._shares[comm.rank]

    def fields(self, scenario: Scenario, start: int, stop: int, bar: Step) -> NDArray[np.float32]:
        """(E, stop - start, V, Y, X), the same on all processes."""
        from torch import from_numpy

        shape = (len(self._emulator.variables), *self._emulator.grid.shape)
        own = np.empty((self.own, stop - start, *shape), np.float32)
        done = 0
        for group, one in self._groups:
            if len(group) == 1:
                own[done] = one.predict_fields(scenario, start, stop)
            else:
                own[done : done + len(group)] = one.predict_members(scenario, start, stop, len(group), group.start)
            done += len(group)
            bar.advance(len(group))
        if self._comm.world == 1:
            return own
        gathered = self._comm.gather_months(from_numpy(own)[None].to(self._comm.device), self._shares)
        return np.asarray(gathered[0].cpu().numpy())


def evaluate_ensemble(
    emulator: Emulator,
    archive: Archive,
    spans: tuple[Span, ...],
    members: int,
    reporter: Reporter,
    comm: Comm | None = None,
) -> EnsembleEvaluation:
    """Draw realisations of the months of some spans, and score them.

    Args:
        emulator: One that draws realisations.
        archive: Its forcings are predicted from, its targets compared with.
        spans: Visible months.
        members: How many realisations; two or more.
        reporter: Shows the progress.
        comm: Processes among which realisations are divided to be drawn, and steps to be scored; each of them makes
            this call and gets the scores. None: this one alone.

    Raises:
        RunError: The emulator has one answer to a scenario, or so many realisations do not fit into memory.
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
    # Those that share a globe draw and score the same.
    among = (comm or Comm()).data
    places: dict[tuple[str, int, int], list[Span]] = {}
    for span in spans:
        places.setdefault((span.scenario, span.start, span.stop), []).append(span)
    shape, competition = (len(archive.variables), *archive.grid.shape), competition_of(archive)
    terms = tuple(competition.terms)
    # What begins where it is asked is asked once for a whole span.
    lengths = {place: STEPS if emulator.continues else place[2] - place[1] for place in places}
    longest = max(min(length, stop - start) for (_, start, stop), length in lengths.items())
    # Fields in float32, once more where they are joined, and how often the truth has each rank.
    refuse_many(members, (2 * 4 * longest + 8) * math.prod(shape))
    drawing, regions = Drawing(emulator, members, among), Regions.of(archive.grid)
    # Scenarios may have different numbers of members; sums are of ensembles of one size.
    others = min(len(archive[name].members) for name, _, _ in places) - 1
    sums, real = EnsembleSums.zero(members, shape), EnsembleSums.zero(max(others, 1), shape)
    means: list[Score] = []
    periods: list[Period] = []
    work = sum(-(-(place[2] - place[1]) // length) for place, length in lengths.items())
    with reporter.step("drawing realisations", drawing.own * work) as bar:
        for (name, start, stop), own in places.items():
            scenario = archive[name]
            moments = [Moments.zero(shape, terms) for _ in own]
            chosen, scored = scenario.members[: others + 1], own[0].members[0]
            if scored not in chosen:
                chosen = (*chosen[:-1], scored)
            zonal, zonal_real = (ZonalPower.zero(n, shape[0], archive.grid) for n in (members, len(chosen)))
            drawn, real_means = (
                np.zeros((n, stop - start, shape[0], len(regions.names))) for n in (members, len(chosen))
            )
            for first in range(start, stop, lengths[name, start, stop]):
                last = min(first + lengths[name, start, stop], stop)
                whole = drawing.fields(scenario, first, last, bar)
                if not (mine := among.shard(range(first, last))):
                    continue
                ensemble = whole[:, mine[0] - first : mine[-1] + 1 - first]
                truths = {m: scenario.truth(m, mine[0], mine[-1] + 1) for m in scenario.members}
                for member, truth in truths.items():
                    sums += EnsembleSums.of(ensemble, truth)
                    rest = [t for m, t in truths.items() if m != member][:others]
                    if rest:
                        real += EnsembleSums.of(np.stack(rest), truth)
                average = ensemble.mean(0)
                for i, span in enumerate(own):
                    moments[i] += competition.moments(average, truths[span.members[0]])
                runs = np.stack([truths[m] for m in chosen])
                zonal += ZonalPower.of(ensemble, archive.grid)
                zonal_real = zonal_real + ZonalPower.of(runs, archive.grid) if others > 0 else zonal_real
                steps = slice(mine[0] - start, mine[-1] + 1 - start)
                drawn[:, steps], real_means[:, steps] = regions.means(ensemble), regions.means(runs)
            added = [Moments.unpack(among.sum(m.pack()), terms) for m in moments]
            means += [competition.score(m, archive.grid.weights, archive.variables) for m in added]
            periods.append(
                Period(
                    among.sum(drawn),
                    among.sum(real_means),
                    _added(zonal, among),
                    _added(zonal_real, among) if others > 0 else None,
                    scenario.time.season[start:stop],
                    scenario.time.per_year,
                    chosen.index(scored),
                )
            )
    sums, real = _added(sums, among), _added(real, among)
    cells = score_ensemble(sums, archive.grid.weights, archive.variables)
    cells_real = score_ensemble(real, archive.grid.weights, archive.variables) if others > 0 else None
    varied, varied_real = _deviations(periods, regions)
    parts, parts_real = {}, {}
    for v, name in enumerate(archive.variables):
        parts[name] = VariableScores(
            cells[name], _regional(periods, regions, v), varied.statistics(v, varied_real, own=False)
        )
        if cells_real:
            statistics = varied_real.statistics(v, varied_real, own=True) if varied_real else None
            parts_real[name] = VariableScores(cells_real[name], _regional_real(periods, regions, v), statistics)
    return EnsembleEvaluation(
        members,
        parts,
        parts_real or None,
        _two_sample(periods, _realisation_pairs),
        _two_sample(periods, _member_pairs),
        mean_score(means),
        score_emulator(emulator, archive, spans),
    )


def _added(own: Sums, comm: Comm) -> Sums:
    """The sums over the steps of all processes."""
    arrays = {f.name: value for f in fields(own) if isinstance(value := getattr(own, f.name), np.ndarray)}
    added: dict[str, Any] = {name: comm.sum(value) for name, value in arrays.items()}
    return replace(own, n=round(float(comm.sum(np.array([float(own.n)]))[0])), **added)


def _regional(periods: Sequence[Period], regions: Regions, v: int) -> RegionalScores:
    """Of the realisations, with all members as truth."""
    truths = [[m[:, v] for m in g.truth] for g in periods]
    energy = [
        energy_score(g.regional[:, :, v], t, regions.area) for g, own in zip(periods, truths, strict=True) for t in own
    ]
    together = _flatness([(g.regional[:, :, v], own, g.per_year) for g, own in zip(periods, truths, strict=True)])
    fewest = min(len(own) for own in truths)
    each = [
        _flatness([(g.regional[:, :, v], own[m : m + 1], g.per_year) for g, own in zip(periods, truths, strict=True)])
        for m in range(fewest)
    ]
    return RegionalScores(float(np.concatenate(energy).mean()), together, tuple(f.p for f in each))


def _regional_real(periods: Sequence[Period], regions: Regions, v: int) -> RegionalScores:
    """Of the members, each in turn the truth among the others."""
    energy, each = [], []
    for m in range(len(periods[0].truth)):
        own = [(np.delete(g.truth[:, :, v], m, 0), g.truth[m, :, v]) for g in periods]
        energy += [energy_score(rest, truth, regions.area) for rest, truth in own]
        each.append(_flatness([(r, [t], g.per_year) for (r, t), g in zip(own, periods, strict=True)]))
    return RegionalScores(float(np.concatenate(energy).mean()), each[periods[0].scored], tuple(flat.p for flat in each))


def _flatness(periods: Sequence[tuple[Array, Sequence[Array], int]]) -> Flatness:
    """Of (E, T, R) realisations, some (T, R) truths and the steps of a year, of each period."""
    counts = [RankCounts.of(x, truths, time_blocks(x.shape[1], per_year)) for x, truths, per_year in periods]
    return reduce(add, counts).flatness()


def _deviations(periods: Sequence[Period], regions: Regions) -> tuple[Deviations, Deviations | None]:
    """Of the realisations and of the members, the mean over periods."""
    own = [Deviations.of(g.regional, regions.area, g.per_year, g.zonal) for g in periods]
    real = [Deviations.of(g.truth, regions.area, g.per_year, g.zonal_real) for g in periods if g.zonal_real]
    return Deviations.mean(own), Deviations.mean(real) if real else None


def _realisation_pairs(g: Period) -> list[tuple[Array, Array]]:
    """Each member with a realisation of its own, as far as there are any."""
    return list(zip(g.truth, g.regional, strict=False))


def _member_pairs(g: Period) -> list[tuple[Array, Array]]:
    """Each member with the next, around: as many pairs as members, of two a single one."""
    number = len(g.truth)
    return [(g.truth[i], g.truth[(i + 1) % number]) for i in range(number if number > 2 else number - 1)]


def _two_sample(periods: Sequence[Period], pairs: Callable[[Period], list[tuple[Array, Array]]]) -> TwoSample | None:
    if any(len(g.season) < 2 * LEAST_BLOCKS or not pairs(g) for g in periods):
        return None
    return mean_test([two_sample_test(pairs(g), g.season, g.per_year) for g in periods])


def save_ensemble(folder: Path, name: str, found: EnsembleEvaluation) -> None:
    """Keep the scores of a set in the run folder, next to those of its one answer.

    Raises:
        EmukitError: They cannot be written, or the folder of the scores is a link.
    """
    write_text(inside(folder, "ensembles", f"{name}.json"), json.dumps(found.as_dict(), indent=1))
