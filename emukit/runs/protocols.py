"""A recipe under several protocols and seeds: what it scores where, and how far seeds are apart.

Invariant: every number is that of a run folder, trained under the protocol it is shown for, on months that the protocol
lets be scored; what could not be scored is named, with the reason.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from emukit.competitions.ranking import ANOTHER_RUN, LIMIT
from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.protocol import ALL, LOSO, make_split
from emukit.data.split import Split, is_hidden
from emukit.errors import ProtocolError, RecipeError, RunError
from emukit.metrics import Competition, Score, mean_score
from emukit.outputs import json_kind, new_output, refuse_taken
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.recipes.catalogue import is_random
from emukit.recipes.fitting import fit_variables
from emukit.recipes.schema import Recipe, seeds_within
from emukit.runs.evaluate import (
    ensemble_member,
    evaluate,
    member_lines,
    noise_ceiling,
    scored_spans,
)
from emukit.runs.record import DataArguments, Scoring, trained_on_validation
from emukit.runs.run import Run, finished_run, run_name, save_evaluation, train_run
from emukit.runs.score_tables import ScoreTable, Summary
from emukit.training.engine import Execution

REPORT_FILE = "validation.json"
REPORT = json_kind("the results of `emukit evaluate MODEL`", ("model", "recipe", "scored", "runs"))


@dataclass(frozen=True)
class Scored:
    """A recipe on one set of one protocol.

    Attributes:
        protocol: Under which it was trained; ``loso:all`` for the mean over scenarios left out.
        name: ``validation``, which may have chosen among epochs, or ``test``, which chose nothing.
        months: What was scored, for people.
        scores: By seed.
        reference: Mean over the other runs of the climate model, where there are any.
        limit: Of a perfect emulator, where it can be estimated.
        members: By seed, the scores against each member in the place of the one that the protocol scores.
    """

    protocol: str
    name: str
    months: tuple[str, ...]
    scores: Mapping[int, Score]
    reference: Score | None
    limit: Score | None
    members: Mapping[int, Mapping[int, Score]] = field(default_factory=dict)

    @property
    def remark(self) -> str:
        """Of a scenario left out, whether the last months of the others, the validation months, trained."""
        words = trained_on_validation(self.protocol, self.name, final=False)
        return f"; {words}" if words else ""

    def lines(self) -> dict[str, dict[str, float]]:
        """Score and numbers of the mean over seeds, of their sample standard deviation, of reference and limit."""
        each = [s.line() for s in self.scores.values()]
        several = len(each) > 1
        lines = {f"seed {seed}": s.line() for seed, s in self.scores.items()} if several else {}
        mean = {k: fmean(e[k] for e in each) for k in each[0] if all(k in e for e in each)}
        lines[f"mean of {len(each)} seeds" if several else "one run"] = mean
        if several:
            lines["standard deviation over seeds"] = {k: stdev(e[k] for e in each) for k in mean}
        lines |= member_lines([*self.members.values()])
        for name, score in ((ANOTHER_RUN, self.reference), (LIMIT, self.limit)):
            if score:
                lines[name] = score.line()
        return lines


@dataclass(frozen=True)
class RecipeEvaluation:
    """What `evaluate_recipe` found.

    Attributes:
        model: Name of the recipe.
        recipe: Its digest.
        data: Digest of the data.
        seeds: One run each; a single one where a seed decides nothing.
        competition: By which all is scored.
        scored: One for every set that could be scored.
        not_scored: Protocol to the reason why its test months cannot be scored.
        runs: Their folders.
    """

    model: str
    recipe: str
    data: str
    seeds: tuple[int, ...]
    competition: Competition
    scored: tuple[Scored, ...]
    not_scored: Mapping[str, str]
    runs: tuple[str, ...]

    def blocks(self) -> list[ScoreTable]:
        """What is to be printed."""
        return [
            ScoreTable(
                f"{self.model}, {s.protocol} {s.name}: {'; '.join(s.months)}{s.remark}", self.competition, s.lines()
            )
            for s in self.scored
        ]

    def summary(self) -> list[Summary]:
        """A line for every set: the mean score, how far seeds are apart, and what it is measured against."""
        out = []
        for s in self.scored:
            values = [score.value for score in s.scores.values()]
            out.append(
                Summary(
                    f"{s.protocol} {s.name}",
                    len(values),
                    fmean(values),
                    stdev(values) if len(values) > 1 else None,
                    s.reference.value if s.reference else None,
                    s.limit.value if s.limit else None,
                )
            )
        return out

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        scored = [
            {"protocol": s.protocol, "set": s.name, "months": list(s.months), "lines": s.lines()} for s in self.scored
        ]
        return {
            "model": self.model,
            "recipe": self.recipe,
            "data": self.data,
            "seeds": list(self.seeds),
            "competition": Scoring.of(self.competition).model_dump(),
            "scored": scored,
            "summary": [asdict(line) for line in self.summary()],
            "not_scored": dict(self.not_scored),
            "runs": list(self.runs),
        }


def named_protocols(archive: Archive, words: str | None) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """The protocols of a comma-separated list, ``loso:all`` being every scenario that can be left out and scored.

    Args:
        archive: The data.
        words: Such as ``k360,loso:all``; None: the card's default, and all scenarios left out.

    Returns:
        Protocol to the sets of it that can be scored; and, for what is left out, protocol to the reason.

    Raises:
        ProtocolError: A protocol cannot be cut from this archive, or no scenario can be left out and scored.
    """
    sets: dict[str, tuple[str, ...]] = {}
    reasons: dict[str, str] = {}
    for name in _names(archive, words):
        if name != ALL:
            why = _unscored_test(archive, make_split(archive, name))
            sets[name] = ("validation",) if why else ("validation", "test")
            reasons |= {name: why} if why else {}
            continue
        every = {LOSO + s: _left_out_unscored(archive, s) for s in archive}
        if all(every.values()):
            raise ProtocolError(
                f"{ALL} has no scenario whose last months can be scored",
                found="; ".join(f"{p}: {why}" for p, why in every.items()),
                hint="name other protocols with --protocols, or a store with visible targets",
            )
        sets |= {protocol: ("validation", "test") for protocol, why in every.items() if not why}
        reasons |= {protocol: why for protocol, why in every.items() if why}
    return sets, reasons


def _names(archive: Archive, words: str | None) -> list[str]:
    names = [w.strip() for w in (f"{archive.default_protocol},{ALL}" if words is None else words).split(",")]
    if not all(names):
        raise ProtocolError(
            "--protocols holds an empty name", found=repr(words), expected="names and commas, such as k360,loso:all"
        )
    return names


def chosen_seeds(recipe: Recipe, number: int) -> tuple[int, ...]:
    """Seeds of runs that share no network; a single one where the seed of a run decides nothing.

    Copies of a base count up from the seed of the run, so the seeds of runs are as far apart as a run reaches.

    Raises:
        RecipeError: No run is asked for.
    """
    if number < 1:
        raise RecipeError("--seeds is the number of runs under each protocol", found=str(number), expected="1 or more")
    reach = seeds_within(recipe)
    return tuple(range(0, number * reach, reach)) if is_random(recipe.model_dump()) else (0,)


def evaluate_recipe(
    archive: Archive,
    recipe: Recipe,
    model: str,
    out: Path,
    *,
    protocols: str | None = None,
    seeds: int = 3,
    data_arguments: DataArguments | None = None,
    comm: Comm | None = None,
    execution: Execution | None = None,
    command: str | None = None,
    reporter: Reporter,
) -> RecipeEvaluation:
    """Train a recipe under every protocol with every seed, and score each run where its protocol lets it be scored.

    What is in `out` from before is kept: a finished run of the same configuration is read, an interrupted one
    continues.

    Args:
        archive: The data.
        recipe: What to train.
        model: Its name, with which folders begin.
        out: Folder of the run folders, and of `validation.json`.
        protocols: As for `named_protocols`.
        seeds: Runs under each protocol, of a recipe with anything random in it.
        data_arguments: How the archive was opened, kept in the runs.
        comm: This process, which computes alone.
        execution: How training is run.
        command: What trains the recipe, except for protocol and seed, for the records of the runs.
        reporter: Shows progress.

    Raises:
        ProtocolError: A protocol cannot be cut from this archive.
        RecipeError: No run is asked for.
        RunError: A folder holds a run of another configuration.
        TrainingError: A loss is not finite.
    """
    # The same command continues where it was stopped, and writes its results again.
    refuse_taken(out / REPORT_FILE, REPORT, overwrite=True)
    recipe = fit_variables(recipe, archive, reporter)
    sets, not_scored = named_protocols(archive, protocols)
    chosen = chosen_seeds(recipe, seeds)
    for protocol, why in not_scored.items():
        reporter.note(f"{protocol}: {'left out' if protocol not in sets else 'validation only'}, {why}")
    if len(chosen) < seeds:
        reporter.say(
            f"note: no seed of a run decides anything in {model}: one run is enough, {seeds} would be the same"
        )
    scored: list[Scored] = []
    runs: list[str] = []
    for protocol, names in sets.items():
        found: dict[str, dict[int, Score]] = {name: {} for name in names}
        by_member: dict[str, dict[int, Mapping[int, Score]]] = {name: {} for name in names}
        for seed in chosen:
            folder = out / run_name(model, protocol, seed)
            reporter.say(f"run {len(runs) + 1} of {len(sets) * len(chosen)}: {folder}")
            run = trained(
                archive,
                recipe,
                folder,
                protocol=protocol,
                seed=seed,
                data_arguments=data_arguments,
                comm=comm,
                execution=execution,
                command=command,
                reporter=reporter,
            )
            runs.append(str(folder))
            for name in names:
                found[name][seed], by_member[name][seed] = _scores_of(run, archive, name)
        scored += [_with_lines(archive, protocol, name, found[name], by_member[name]) for name in names]
    left_out = [s for s in scored if s.protocol.startswith(LOSO) and s.name == "test"]
    if len(left_out) > 1 and ALL in _names(archive, protocols):
        scored.append(_mean(left_out))
    competition = competition_of(archive)
    digests = recipe.digest, archive.digest
    result = RecipeEvaluation(model, *digests, chosen, competition, tuple(scored), not_scored, tuple(runs))
    with new_output(out / REPORT_FILE, REPORT, overwrite=True) as temporary:
        temporary.write_text(json.dumps(result.as_dict(), indent=1), encoding="utf-8")
    return result


def trained(
    archive: Archive,
    recipe: Recipe,
    folder: Path,
    *,
    protocol: str,
    seed: int,
    data_arguments: DataArguments | None,
    comm: Comm | None,
    execution: Execution | None = None,
    command: str | None,
    reporter: Reporter,
) -> Run:
    """The run of a folder: read where it is finished; started, or continued, where it is not.

    Args:
        archive: The data.
        recipe: What to train.
        folder: Of the run.
        protocol: Under which it is trained.
        seed: Of the run.
        data_arguments: How the archive was opened, kept in the run.
        comm: This process, which computes alone.
        execution: How training is run.
        command: What trains the recipe, except for protocol and seed, for the record of the run.
        reporter: Shows progress.

    Raises:
        ProtocolError: The split cannot be made on this archive.
        RunError: The folder holds a run of another configuration.
        TrainingError: A loss is not finite.
    """
    run = finished_run(archive, recipe, folder, protocol=protocol, seed=seed)
    if run is None:
        words = f"{command} --protocol {shlex.quote(protocol)} --seed {seed}" if command else None
        run, _ = train_run(
            archive,
            recipe,
            folder,
            protocol=protocol,
            seed=seed,
            resume=True,
            data_arguments=data_arguments,
            comm=comm,
            execution=execution,
            command=words,
            reporter=reporter,
        )
    return run


def _left_out_unscored(archive: Archive, scenario: str) -> str:
    """Why leaving a scenario out gives no score; empty where it does."""
    try:
        split = make_split(archive, LOSO + scenario)
    except ProtocolError as e:
        return e.what
    return _unscored_test(archive, split)


def _unscored_test(archive: Archive, split: Split) -> str:
    """Why the test months of a split give no score; empty where they do."""
    if "test" not in split.scored:
        return "a fold of a cross-validation has no test months"
    for span in split.scored["test"]:
        if is_hidden(archive, span):
            return f"the targets of {span.text(archive)} are hidden in this store"
        if span.members[0] not in archive[span.scenario].members:
            return f"member {span.members[0]} of {span.scenario} is not in this store"
    return ""


def _scores_of(run: Run, archive: Archive, name: str) -> tuple[Score, dict[int, Score]]:
    """The score that the run keeps for a set, and those against every member; computed, and kept, where it has none."""
    path = run.folder / "scores" / f"{name}.json"
    # Runs of before there were scores against every member are scored again.
    if not path.exists() or "members" not in run.evaluation(name):
        save_evaluation(run.folder, evaluate(run.emulator(archive), archive, run.split(archive), name))
    evaluation = run.evaluation(name)
    try:
        each = {int(m): _read_score(archive, own) for m, own in evaluation["members"].items()}
        return _read_score(archive, evaluation), each
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise RunError(
            f"the {name} score of {run.folder} is damaged",
            found=repr(e),
            hint=f"emukit evaluate {run.folder} --split {name}",
        ) from e


def _read_score(archive: Archive, values: Mapping[str, Any]) -> Score:
    competition = competition_of(archive)
    return Score(competition, competition.flatten(values), int(values["months"]))


def _with_lines(
    archive: Archive,
    protocol: str,
    name: str,
    scores: Mapping[int, Score],
    members: Mapping[int, Mapping[int, Score]],
) -> Scored:
    spans = scored_spans(archive, make_split(archive, protocol), name)
    months = tuple(s.text(archive) for s in spans)
    return Scored(
        protocol, name, months, scores, ensemble_member(archive, spans), noise_ceiling(archive, spans), members
    )


def _mean(parts: Sequence[Scored]) -> Scored:
    """The mean over scenarios left out, seed by seed; of reference and limit where every scenario has one."""
    scores = {seed: mean_score([p.scores[seed] for p in parts]) for seed in parts[0].scores}
    references, limits = [p.reference for p in parts if p.reference], [p.limit for p in parts if p.limit]
    return Scored(
        ALL,
        "test",
        tuple(m for p in parts for m in p.months),
        scores,
        mean_score(references) if len(references) == len(parts) else None,
        mean_score(limits) if len(limits) == len(parts) else None,
        {seed: _mean_by_member([p.members[seed] for p in parts]) for seed in scores},
    )


def _mean_by_member(parts: Sequence[Mapping[int, Score]]) -> dict[int, Score]:
    common = [m for m in parts[0] if all(m in part for part in parts)]
    return {m: mean_score([part[m] for part in parts]) for m in common}
