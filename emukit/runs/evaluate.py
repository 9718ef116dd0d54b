"""Scoring an emulator on a set of months, with the lines that say what a score is worth.

Invariant: a score over several spans is the mean of the spans' scores, each of its numbers likewise; hidden months are
never scored. Further tables, of what a competition derives from whole years, are of the same prediction and truth as
the score, and decide nothing. Processes that share a globe, each with its own cells of truth and prediction, add up
their sums over months; no field of a month is ever whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from statistics import fmean, stdev
from typing import Any
from weakref import WeakKeyDictionary, ref

import numpy as np
from numpy.typing import NDArray

from emukit.cache import find_answer, keep_answer
from emukit.competitions.ranking import ANOTHER_RUN, LIMIT
from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive, Scenario
from emukit.data.protocol import make_split
from emukit.data.residency import host_free
from emukit.data.split import Span, Split, is_hidden
from emukit.emulators.base import Emulator
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.neural import BLOCK_MONTHS
from emukit.errors import ProtocolError, RunError
from emukit.metrics import Moments, Score, mean_score
from emukit.metrics.competition import Detail
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.runs.record import card_digest, trained_on_validation
from emukit.terminal import size

Field = NDArray[np.float64]
Truth = tuple[list[int], Field, Field]

# What was derived last of a scenario's truth, and of an emulator's prediction, for as long as these are: a year of days
# on the full grid of ClimX takes several seconds to read or to predict, and a command scores it and tells of it. A
# network predicts something else after every step of its training: `score_emulator`, which validates, keeps nothing.
_TRUTH: WeakKeyDictionary[Scenario, tuple[ref[Archive], Span, Truth]] = WeakKeyDictionary()
_PREDICTION: WeakKeyDictionary[Emulator, tuple[ref[Archive], Span, Field]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Evaluation:
    """Scores of one set.

    Attributes:
        name: ``validation``, ``test`` or ``test-all``.
        spans: What was scored, for people.
        score: Of the emulator.
        references: Of what every emulator is measured against: other runs of the climate model, climatology, and the
            linear emulator at its defaults.
        limit: Of a perfect emulator; None where it cannot be estimated.
        members: Against every member of the same months in the place of the one that the protocol scores.
        remark: What to know of its training; empty where there is nothing.
    """

    name: str
    spans: tuple[str, ...]
    score: Score
    references: Mapping[str, Score]
    limit: Score | None
    members: Mapping[int, Score] = field(default_factory=dict)
    remark: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        references = {k: s.as_dict() for k, s in self.references.items()}
        return {
            "set": self.name,
            "spans": list(self.spans),
            **self.score.as_dict(),
            # The key of run folders of all versions.
            "floors": references,
            "limit": self.limit.as_dict() if self.limit else None,
            "members": {str(m): s.as_dict() for m, s in self.members.items()},
        }


def evaluate(emulator: Emulator, archive: Archive, split: Split, name: str = "validation") -> Evaluation:
    """Score an emulator on a set of a split, with its references.

    Args:
        emulator: What predicts.
        archive: The data, with visible targets on the months of the set.
        split: Whose sets are scored.
        name: Of the set: ``validation``, ``test``, or ``test-all`` where a scenario is left out.

    Returns:
        The score against the member of each span, the references, the noise ceiling, and the scores against every
        member in its place.

    Raises:
        ProtocolError: There is no such set, its targets are hidden, or the emulator has another grid.
    """
    spans = scored_spans(archive, split, name)
    check_fits(emulator, archive)
    references, limit = lines_beside(archive, split.protocol, spans)
    members = score_members(emulator, archive, spans)
    # Where the protocol scores one member, its score is among them.
    (first, *rest) = {s.members[0] for s in spans}
    score = score_emulator(emulator, archive, spans, keep=True) if rest or first not in members else members[first]
    texts = tuple(s.text(archive) for s in spans)
    remark = trained_on_validation(split.protocol, name, final="validation" not in split.scored)
    return Evaluation(name, texts, score, references, limit, members, remark)


def member_lines(by_seed: Sequence[Mapping[int, Score]]) -> dict[str, dict[str, float]]:
    """Mean over members as truth, and sample standard deviation over members; of several seeds, the mean of each.

    Args:
        by_seed: For each seed, the scores against each member. Of a single member there is no line.
    """
    each = [[s.line() for s in by_member.values()] for by_member in by_seed]
    number = min(map(len, each), default=0)
    if number < 2:
        return {}
    names = [k for k in each[0][0] if all(k in line for own in each for line in own)]
    mean = {k: fmean(fmean(m[k] for m in own) for own in each) for k in names}
    spread = {k: fmean(stdev(m[k] for m in own) for own in each) for k in names}
    return {f"mean over {number} members as truth": mean, "standard deviation over members": spread}


def lines_beside(archive: Archive, protocol: str, spans: tuple[Span, ...]) -> tuple[dict[str, Score], Score | None]:
    """What every score on spans is compared with: the references by name, and the limit.

    They follow from the data, its card, the protocol and the spans, and are computed once for these: see
    `emukit.cache`.
    """
    key = {
        "data": archive.digest,
        "card": card_digest(archive.card),
        "protocol": protocol,
        "spans": [[s.scenario, s.start, s.stop, list(s.members)] for s in spans],
    }
    known = None
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        kept = find_answer("references", key)
        competition, limit = competition_of(archive), kept["limit"]
        scores = {n: Score.from_dict(competition, s) for n, s in kept["references"].items()}
        known = scores, limit and Score.from_dict(competition, limit)
    # Processes that share a globe compute it together, unless all of them know it.
    if archive.share.every(known is not None):
        assert known is not None
        return known
    references, limit = _compute_lines(archive, protocol, spans)
    answer = {n: s.as_dict() for n, s in references.items()}
    keep_answer("references", key, {"references": answer, "limit": limit and limit.as_dict()})
    return references, limit


def _compute_lines(archive: Archive, protocol: str, spans: tuple[Span, ...]) -> tuple[dict[str, Score], Score | None]:
    # References do not depend on the members that somebody chose to train on.
    everything = make_split(archive, protocol)
    references: dict[str, Score] = {}
    wanted = competition_of(archive).references
    # Too few training months for a climatology, or a store without the default features, leave out a line; that is no
    # reason to refuse a score.
    with suppress(ProtocolError):
        if "climatology" in wanted:
            references["climatology"] = score_emulator(ClimatologyEmulator.fit(archive, everything), archive, spans)
    if "runs" in wanted:
        others = other_runs(archive, spans)
        # Where every member is scored, each stands next to all others.
        mean = None if others else ensemble_member(archive, spans)
        references |= {**others, **({"another run": mean} if mean else {})}
    with suppress(ProtocolError):
        if "linear" in wanted:
            references["linear"] = score_emulator(LinearEmulator.fit(archive, everything), archive, spans)
    return references, noise_ceiling(archive, spans)


def scored_spans(archive: Archive, split: Split, name: str) -> tuple[Span, ...]:
    """The spans of a set.

    Raises:
        ProtocolError: There is no such set, or its targets are hidden.
    """
    can_be = [n for n, own in split.scored.items() if not any(is_hidden(archive, s) for s in own)]
    # A final fit may leave nothing that can be scored here.
    elsewhere = "its test months are scored elsewhere: `emukit submit RUN` writes what is scored there"
    if name not in split.scored:
        raise ProtocolError(
            f"protocol {split.protocol} has no set {name!r} here",
            found="; ".join(split.notes),
            expected=", ".join(can_be) or "nothing: all that could be scored is hidden in this store",
            hint=f"--split {can_be[0]}" if can_be else elsewhere,
        )
    spans = split.scored[name]
    for span in spans:
        if is_hidden(archive, span):
            raise ProtocolError(
                f"the targets of {span.text(archive)} are hidden in this store",
                found="zeros, the mark of a hidden test set",
                expected="visible targets",
                hint=f"--split {can_be[0]}; {elsewhere}" if can_be else elsewhere,
            )
    return spans


def score_emulator(
    emulator: Emulator, archive: Archive, spans: tuple[Span, ...], comm: Comm | None = None, *, keep: bool = False
) -> Score:
    """Mean score of an emulator over spans of an archive that it fits.

    Args:
        emulator: The same on all processes, or sharded over them.
        archive: Its forcings are predicted from, its targets compared with.
        spans: Months.
        comm: Processes that share the months; every one of them gets the score. None: this one alone.
        keep: Of data on disk, keep what is derived from the last span for what is told of it next. The emulator must
            not change as long as it is.
    """
    if comm is None or comm.world == 1:
        if archive.on_disk:
            return mean_score([_score_by_pieces(emulator, archive, span, keep=keep) for span in spans])
        # Spans of the same months, one after the other, are of several members: one prediction for all of them.
        predict = lru_cache(1)(lambda name, start, stop: emulator.predict_own(archive[name], start, stop))
        return _score(archive, spans, lambda s: predict(s.scenario, s.start, s.stop))
    # What is derived from whole years cannot be divided within one.
    if emulator.from_beginning or competition_of(archive).derive:
        return mean_score(_shared_by_span(emulator, archive, spans, comm))
    return mean_score([_shared_score(emulator, archive, span, comm) for span in spans])


def score_members(emulator: Emulator, archive: Archive, spans: tuple[Span, ...]) -> dict[int, Score]:
    """The score of an emulator, which is trained, against each member that all spans have, the mean over their months.

    A score against one member holds that member's own weather; the mean over members holds a third of it.
    """
    places = tuple(dict.fromkeys((s.scenario, s.start, s.stop) for s in spans))
    common = set.intersection(*(set(archive[name].members) for name, _, _ in places))
    scores: dict[int, list[Score]] = {m: [] for m in sorted(common)}
    for name, start, stop in places:
        if archive.on_disk:
            for member, found in scores.items():
                found.append(_score_by_pieces(emulator, archive, Span(name, start, stop, (member,)), keep=True))
            continue
        said = emulator.predict_own(archive[name], start, stop)
        for member, found in scores.items():
            found.append(_score(archive, (Span(name, start, stop, (member,)),), partial(_given, said)))
    return {member: mean_score(found) for member, found in scores.items()}


def scored_variables(archive: Archive) -> tuple[str, ...]:
    """Names along the V axis of what is scored: the archive's variables, or what the competition derives from them."""
    competition = competition_of(archive)
    return competition.variables if competition.derive else archive.variables


def span_moments(
    archive: Archive, span: Span, prediction: NDArray[np.floating], truth: NDArray[np.floating]
) -> Moments:
    """The sums of a span, of its fields or of what the competition derives from them.

    Args:
        archive: The data.
        span: Whose steps the fields are.
        prediction: (T, V, Y, X).
        truth: Likewise.
    """
    competition = competition_of(archive)
    if competition.derive:
        derive = competition.derive(archive, span.scenario, span.start, span.stop)
        prediction, truth = derive(prediction), derive(truth)
    return competition.moments(prediction, truth)


def _score_by_pieces(emulator: Emulator, archive: Archive, span: Span, *, keep: bool) -> Score:
    """Score of one span of targets on disk: a calendar year of prediction and truth is in memory at a time."""
    scenario, competition = archive[span.scenario], competition_of(archive)
    variables = scored_variables(archive)
    moments = Moments.zero((len(variables), *archive.grid.shape), tuple(competition.terms))
    if competition.derive:
        predicted = _derived(emulator, archive, span) if keep else _derived_prediction(emulator, archive, span)
        for year in zip(predicted, _truth(archive, span)[1], strict=True):
            moments += competition.moments(*(fields[None] for fields in year))
        return competition.score(moments, archive.grid.weights, variables)
    for start, stop in scenario.pieces(span.start, span.stop):
        truth = scenario.truth(span.members[0], start, stop)
        moments += competition.moments(emulator.predict_fields(scenario, start, stop), truth)
    return competition.score(moments, archive.grid.weights, variables)


def _shared_score(emulator: Emulator, archive: Archive, span: Span, comm: Comm) -> Score:
    """Score of one span whose months the processes predict in turns, in the blocks that one alone would compute."""
    scenario, competition = archive[span.scenario], competition_of(archive)
    terms, shape = tuple(competition.terms), (len(archive.variables), *archive.cells)
    moments = Moments.zero(shape, terms)
    blocks = [(a, min(a + BLOCK_MONTHS, span.stop)) for a in range(span.start, span.stop, BLOCK_MONTHS)]
    # Processes that share a globe predict together, and each scores its own cells; where they have read all of them,
    # one scores the whole.
    scores = archive.share.divided or comm.domain.main
    for (start, stop), counts in comm.data.padded_rounds(blocks):
        prediction = emulator.predict_own(scenario, start, stop)
        if counts and scores:
            moments += competition.moments(prediction, scenario.truth(span.members[0], start, stop))
    among = comm.data if archive.share.divided else comm
    summed = Moments.unpack(among.sum(moments.pack()), terms)
    return competition.score(_of_all_cells(summed, archive), archive.grid.weights, archive.variables)


def _of_all_cells(moments: Moments, archive: Archive) -> Moments:
    """Sums of the cells that an archive holds -> of all cells, six or so fields for each variable."""
    share = archive.share
    return Moments.unpack(share.whole(moments.pack()), tuple(moments.more)) if share.divided else moments


def _shared_by_span(emulator: Emulator, archive: Archive, spans: tuple[Span, ...], comm: Comm) -> list[Score]:
    """Scores of spans that the processes take in turns, each whole: what runs from a beginning cannot begin within."""
    competition, variables = competition_of(archive), scored_variables(archive)
    shape, terms = (len(variables), *archive.grid.shape), tuple(competition.terms)
    moments = [Moments.zero(shape, terms) for _ in spans]
    for (i, span), counts in comm.data.padded_rounds(list(enumerate(spans))):
        prediction = emulator.predict_fields(archive[span.scenario], span.start, span.stop)
        if counts and comm.domain.main:
            truth = archive[span.scenario].truth(span.members[0], span.start, span.stop)
            moments[i] = span_moments(archive, span, prediction, truth)
    whole = [Moments.unpack(comm.sum(m.pack()), terms) for m in moments]
    return [competition.score(m, archive.grid.weights, variables) for m in whole]


def check_fits(emulator: Emulator, archive: Archive) -> None:
    """Refuse an archive that the emulator cannot predict on.

    Raises:
        ProtocolError: It has another grid or other variables.
    """
    if emulator.grid != archive.grid or emulator.variables != archive.variables:
        raise ProtocolError(
            "the emulator was trained on another grid or other variables",
            found=f"{emulator.grid.shape[0]} x {emulator.grid.shape[1]} cells, {', '.join(emulator.variables)}",
            expected=f"{archive.grid.shape[0]} x {archive.grid.shape[1]} cells, {', '.join(archive.variables)}",
            hint="use the store it was trained on, or one of the same grid",
        )


def other_runs(archive: Archive, spans: tuple[Span, ...]) -> dict[str, Score]:
    """Every other member as the prediction: what a perfect climate model with its own weather would score."""
    common = set.intersection(*(set(archive[s.scenario].members) for s in spans))
    return {
        f"another run (member {m})": _score(archive, spans, partial(_run_of, archive, m))
        for m in sorted(common - {s.members[0] for s in spans})
    }


def ensemble_member(archive: Archive, spans: tuple[Span, ...]) -> Score | None:
    """What a run of the climate model scores on average, over the other runs of each span.

    None where a span has no other.
    """
    each = [list(other_runs(archive, (span,)).values()) for span in spans]
    return mean_score([mean_score(runs) for runs in each]) if all(each) else None


def noise_ceiling(archive: Archive, spans: tuple[Span, ...]) -> Score | None:
    """What a perfect emulator would score on spans, from all runs of their months.

    None where there is a single run, or the noise ceiling of a number of the score is unknown.

    How it is estimated: `emukit.metrics.limit`.
    """

    # It treats all runs alike: the same for spans that differ in the member alone.
    @cache
    def limit(name: str, start: int, stop: int) -> Score | None:
        runs = [archive[name].truth(m, start, stop) for m in archive[name].members]
        own = archive.share
        return competition_of(archive).limit(runs, own.own(archive.grid.weights), archive.variables, own.sum)

    # How much of a derived number is noise is unknown.
    if competition_of(archive).derive or any(len(archive[s.scenario].members) < 2 for s in spans):
        return None
    limits = [limit(s.scenario, s.start, s.stop) for s in spans]
    known = [score for score in limits if score]
    return mean_score(known) if len(known) == len(limits) else None


def _given(fields: NDArray[np.float32], span: Span) -> NDArray[np.float32]:
    return fields


def reference_scores(archive: Archive, spans: tuple[Span, ...]) -> dict[str, Score]:
    """What a score on spans is worth, by name: that of another run, and the noise ceiling.

    Each where there are other runs of these months; neither where the store hides them.
    """
    if any(is_hidden(archive, span) for span in spans):
        return {}
    lines = {ANOTHER_RUN: ensemble_member(archive, spans), LIMIT: noise_ceiling(archive, spans)}
    return {name: score for name, score in lines.items() if score}


def _run_of(archive: Archive, member: int, span: Span) -> NDArray[np.float32]:
    return archive[span.scenario].truth(member, span.start, span.stop)


def _score(archive: Archive, spans: tuple[Span, ...], predict: Callable[[Span], NDArray[np.float32]]) -> Score:
    scores, competition = [], competition_of(archive)
    for span in spans:
        truth = archive[span.scenario].truth(span.members[0], span.start, span.stop)
        moments = span_moments(archive, span, predict(span), truth)
        whole = _of_all_cells(moments, archive)
        scores.append(competition.score(whole, archive.grid.weights, scored_variables(archive)))
    return mean_score(scores)


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
    emulator: Emulator,
    archive: Archive,
    spans: tuple[Span, ...],
    members: int,
    reporter: Reporter,
    comm: Comm | None = None,
) -> list[tuple[str, Detail]]:
    """Scores of realisations on every span.

    Args:
        emulator: One that draws realisations.
        archive: Its forcings are predicted from, its targets compared with.
        spans: Visible years.
        members: How many realisations.
        reporter: Shows the progress.
        comm: Processes among which realisations are divided; each of them makes this call and gets the tables. None:
            this one alone.

    Raises:
        RunError: The emulator has one answer to a scenario, or so many realisations do not fit into memory.
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
    # In float64, and once more where they are summed or scored.
    refuse_many(members, max(2 * 8 * _truth(archive, span)[1].size for span in spans))
    out, among = [], (comm or Comm()).data
    own = among.shard(range(members))
    with reporter.step("drawing realisations", len(own) * len(spans)) as bar:
        for span in spans:
            _, truth, _ = _truth(archive, span)
            drawn = np.zeros((members, *truth.shape))
            for i in own:
                drawn[i] = _derived(emulator.member(i), archive, span)
                bar.advance()
            out.append((span.text(archive), score(among.sum(drawn), truth)))
    return out


def refuse_many(members: int, each: int) -> None:
    """Refuse more realisations than memory holds, before one is drawn.

    Args:
        members: How many.
        each: Bytes that one takes at least.

    Raises:
        RunError: They do not fit.
    """
    from emukit.planning.memory import SAFE

    room = int(SAFE * host_free())
    if members * each > room:
        raise RunError(
            f"{members:,} realisations do not fit into memory",
            found=f"{size(members * each)}, {size(each)} for each",
            expected=f"up to {size(room)}, most of what is free on this machine",
            hint=f"--members {room // each}" if room >= each else "end other programs, or use a larger machine",
        )


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
