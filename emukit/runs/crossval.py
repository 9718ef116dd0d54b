"""How a recipe answers what it was not shown, asked without the test months.

Invariant: no test month is fitted on, selected on or scored here. The validation months are scored, as one fold and as
the end of a scenario that is left out: they may select.

A year held out at random tests nothing: its neighbours give the answer away. The folds leave out what a competition
leaves out: a scenario as a whole, and, in turn, the later part of each while its earlier part and the others stay; and
the validation months, against all members. How far the forcings of a fold lie from those of its training is said next
to its scores: recipes that extrapolate best are not those that interpolate best, so the two are averaged and ranked
apart.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

from emukit.competitions.ranking import ANOTHER_RUN, LIMIT
from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.protocol import make_split
from emukit.data.split import HELD_OUT, Span, Split, fold_split, last_scored
from emukit.emulators.base import Emulator
from emukit.emulators.features import ForcingSpace
from emukit.errors import ProtocolError
from emukit.metrics import Competition, Score, mean_score
from emukit.outputs import json_kind, new_output, refuse_taken
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.recipes.catalogue import model_label
from emukit.recipes.fitting import fit_variables
from emukit.recipes.schema import Recipe, networks_of
from emukit.runs.evaluate import ensemble_member, noise_ceiling, score_emulator
from emukit.runs.protocols import trained
from emukit.runs.record import DataArguments, Scoring
from emukit.runs.run import run_name
from emukit.runs.score_tables import ScoreTable

REPORT_FILE = "crossval.json"
REPORT = json_kind("the results of `emukit crossval`", ("protocol", "months", "recipes", "limit"))

VALIDATION = "validation months"
# Forcings among which the distance of a fold is measured, those of them that a store has.
AXES = ("CO2", "CH4", "SO2", "BC")
# Up to this many training spreads from the nearest training year a fold asks for interpolation. A scenario between
# others lies about one spread away, the outermost of a set five to ten.
BOUND = 2.5


@dataclass(frozen=True)
class CrossValidation:
    """What was scored where it had not been shown.

    Attributes:
        folds: Name of the fold to the score there, the mean over members.
    """

    folds: Mapping[str, Score]

    @property
    def mean(self) -> Score:
        """Of all folds alike, each of its numbers."""
        return self.mean_of(self.folds)

    def mean_of(self, folds: Iterable[str]) -> Score:
        """Of some folds alike."""
        return mean_score([self.folds[name] for name in folds])

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"mean": self.mean.as_dict(), "folds": {name: s.as_dict() for name, s in self.folds.items()}}


@dataclass(frozen=True)
class Comparison:
    """Recipes on the same folds.

    Attributes:
        protocol: Whose training months were divided.
        seed: Of all runs.
        data: Digest of the data.
        competition: By which all is scored.
        recipes: Name to digest.
        months: Fold to what was scored, for people.
        distances: Fold to how far its forcings lie from the nearest training year on average, in training spreads.
        bound: Folds up to this distance ask for interpolation, the others for extrapolation.
        found: Name of a recipe to its scores.
        reference: Another run of the climate model on the same months, where each fold has one.
        limit: Of a perfect emulator, where it can be estimated in each fold.
        notes: What is odd about the folds, for people.
    """

    protocol: str
    seed: int
    data: str
    competition: Competition
    recipes: Mapping[str, str]
    months: Mapping[str, str]
    distances: Mapping[str, float]
    bound: float
    found: Mapping[str, CrossValidation]
    reference: CrossValidation | None
    limit: CrossValidation | None
    notes: tuple[str, ...]

    def blocks(self) -> list[ScoreTable]:
        """What is to be printed: every fold of a single recipe; means, and differences fold by fold, of several."""
        first, *others = self.found
        mean = f"{self.protocol}, mean over {len(self.months)} folds"
        if others:
            together = {name: found.mean.line() for name, found in self.found.items()}
            whole = ScoreTable(mean, self.competition, together | self._lines(self.months))
            return [whole, *self._by_kind(), *(self._difference(name, first) for name in others)]
        return [
            *self._fold_blocks(first),
            *self._by_kind(),
            ScoreTable(
                f"{first}, {mean}", self.competition, {"mean": self.found[first].mean.line()} | self._lines(self.months)
            ),
        ]

    @property
    def kinds(self) -> dict[str, list[str]]:
        """Folds that ask for interpolation, and those that ask for extrapolation; a kind without any is left out."""
        near = [fold for fold, distance in self.distances.items() if distance <= self.bound]
        far = [fold for fold in self.distances if fold not in near]
        return {k: folds for k, folds in (("interpolation", near), ("extrapolation", far)) if folds}

    def ranked(self, folds: Iterable[str]) -> list[str]:
        """Recipes, the best mean over some folds first."""
        chosen = [*folds]
        return sorted(self.found, key=lambda name: self.found[name].mean_of(chosen).cost)

    def _by_kind(self) -> list[ScoreTable]:
        """Means of interpolation and of extrapolation, the best recipe first."""
        out = []
        for kind, folds in self.kinds.items():
            side = "within" if kind == "interpolation" else "beyond"
            title = f"{self.protocol}, {kind}: mean over {len(folds)} folds {side} {self.bound:g} training spreads"
            names = self.ranked(folds)
            lines = {name: self.found[name].mean_of(folds).line() for name in names}
            rank = {name: str(i) for i, name in enumerate(names, 1)}
            out.append(ScoreTable(title, self.competition, lines | self._lines(folds), ("rank", rank)))
        return out

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        lines = {"reference": self.reference, "limit": self.limit}
        return {
            "protocol": self.protocol,
            "seed": self.seed,
            "data": self.data,
            "competition": Scoring.of(self.competition).model_dump(),
            "months": dict(self.months),
            "distances": dict(self.distances),
            "bound": self.bound,
            "ranks": {kind: self.ranked(folds) for kind, folds in self.kinds.items()},
            "notes": list(self.notes),
            "recipes": {
                n: {"digest": self.recipes[n], **found.as_dict(), **self._means(n)} for n, found in self.found.items()
            },
            **{name: line.as_dict() if line else None for name, line in lines.items()},
        }

    def _means(self, model: str) -> dict[str, Any]:
        return {kind: self.found[model].mean_of(folds).as_dict() for kind, folds in self.kinds.items()}

    def _distance(self, folds: Iterable[str]) -> tuple[str, dict[str, str]]:
        return "distance", {fold: f"{self.distances[fold]:.2f}" for fold in folds if fold in self.distances}

    def _fold_blocks(self, model: str) -> list[ScoreTable]:
        """One for every set of months, of all folds that score it."""
        out = []
        for months in dict.fromkeys(self.months.values()):
            folds = [fold for fold, scored in self.months.items() if scored == months]
            lines = {fold: self.found[model].folds[fold].line() for fold in folds}
            title = f"{model}, {self.protocol}: {months}"
            out.append(ScoreTable(title, self.competition, lines | self._lines(folds[:1]), self._distance(folds)))
        return out

    def _lines(self, folds: Iterable[str]) -> dict[str, dict[str, float]]:
        """Reference and limit, the mean over some folds."""
        chosen = [*folds]
        lines = {ANOTHER_RUN: self.reference, LIMIT: self.limit}
        return {k: v.mean_of(chosen).line() for k, v in lines.items() if v}

    def _difference(self, model: str, first: str) -> ScoreTable:
        """How much more a recipe scores than the first, fold by fold."""
        lines = {}
        for fold, score in self.found[model].folds.items():
            ours, theirs = score.line(), self.found[first].folds[fold].line()
            lines[fold] = {k: ours[k] - theirs[k] for k in ours if k in theirs}
        better = sum(self.competition.cost(line["score"]) < 0 for line in lines.values())
        keys = next(iter(lines.values()))
        mean = {k: fmean(line[k] for line in lines.values()) for k in keys if all(k in own for own in lines.values())}
        name = f"mean; {model} better in {better} of {len(lines)}"
        side = "above" if self.competition.higher_is_better else "below"
        title = f"{model} minus {first}, fold by fold, {side} zero where {model} is better"
        return ScoreTable(title, self.competition, lines | {name: mean}, self._distance(lines))


def blocked_folds(archive: Archive, split: Split, *, months: int | None = None, later: bool = True) -> dict[str, Split]:
    """Parts of the training months to fit on, and others to score.

    Every fold has the set ``held-out``, the last months of the scenario that was left out, a span for each member; and
    a validation set of its own, for what must select while it trains: the last months of the spans that are left.

    Args:
        archive: The data.
        split: Its training spans are divided; nothing else of it is used.
        months: How many steps a fold scores at most; default: as many as a protocol that leaves a scenario out.
        later: Not only folds without a scenario, but those without the later part of one as well.

    Raises:
        ProtocolError: There are not enough training months to leave some out, or a fold is left less than a year.
    """
    months = archive.card.loso.test if months is None else months
    names = dict.fromkeys(s.scenario for s in split.train)
    last = {name: max((s for s in split.train if s.scenario == name), key=lambda s: s.stop) for name in names}
    folds = {}
    for name, span in last.items():
        stop = last_scored(split, name, whole=True) or span.stop
        start = max(span.start, stop - months)
        if len(last) > 1 and start < span.stop:
            folds[f"without {name}"] = fold_split(archive, split, name, start, whole=True)
        start = max(span.start, span.stop - months)
        if later and start > span.start:
            label = f"without {name} from {archive[name].time.text(start)}"
            folds[label] = fold_split(archive, split, name, start, whole=False)
    if not folds:
        raise ProtocolError(
            f"protocol {split.protocol} trains on too few {archive.time.unit}s to leave some out",
            found=", ".join(s.text(archive) for s in split.train),
            expected=f"two scenarios, or one of more than {months} {archive.time.unit}s",
        )
    return folds


def validation_fold(archive: Archive, split: Split) -> Split | None:
    """The split itself, its validation months scored against every member; None where it has none."""
    spans = split.scored.get("validation", ())
    every = tuple(replace(s, members=(m,)) for s in spans for m in archive[s.scenario].members)
    return Split(split.protocol, split.train, {HELD_OUT: every}) if every else None


def forcing_distance(archive: Archive, train: Iterable[Span], scored: Iterable[Span]) -> float | None:
    """Mean distance of months from the nearest training year among the forcings, in training spreads.

    No target is looked at. None where the store has none of the forcings.

    Args:
        archive: The data.
        train: Training spans.
        scored: Whose months are asked for.
    """
    spans = [*scored]
    names = [n for n in AXES if all(n in scenario.forcings for scenario in archive.values())]
    if not names:
        return None
    space = ForcingSpace.fit(archive, [*train], names)
    each = [space.distance(archive[s.scenario], archive.grid)[s.start : s.stop] for s in dict.fromkeys(spans)]
    return fmean(float(d.mean()) for d in each)


def cross_validate(
    archive: Archive,
    folds: Mapping[str, Split],
    fit: Callable[[str, Split], Emulator],
) -> CrossValidation:
    """Fit on every fold, and score what it was not shown.

    Args:
        archive: The data.
        folds: As `blocked_folds` made them.
        fit: From the name and the split of a fold to an emulator; it must look at the split's training and validation
            months alone.
    """
    return CrossValidation(
        {name: score_emulator(fit(name, split), archive, split.scored[HELD_OUT]) for name, split in folds.items()}
    )


def compare(
    archive: Archive,
    recipes: Mapping[str, Recipe],
    out: Path,
    *,
    protocol: str | None = None,
    months: int | None = None,
    seed: int = 0,
    bound: float = BOUND,
    data_arguments: DataArguments | None = None,
    comm: Comm | None = None,
    commands: Mapping[str, str] | None = None,
    reporter: Reporter,
) -> Comparison:
    """Train recipes on the same folds, and score each fold where it was not shown.

    A fold of a recipe is a run folder. What is in `out` from before is kept: a finished run of the same configuration
    is read, an interrupted one continues.

    Args:
        archive: The data.
        recipes: What to train, by name.
        out: Folder of a folder for every recipe, and of `crossval.json`.
        protocol: Whose training months are divided; the card's default when None.
        months: How many months a fold scores at most; default: as many as a protocol that leaves a scenario out.
        seed: Of all runs.
        bound: Folds up to this many training spreads from their training ask for interpolation.
        data_arguments: How the archive was opened, kept in the runs.
        comm: This process, which computes alone.
        commands: What trains a recipe, except for protocol and seed, for the records of the runs.
        reporter: Shows progress.

    Raises:
        ProtocolError: There are not enough training months to leave some out, or to train a recipe on.
        RunError: A folder holds a run of another configuration.
        TrainingError: A loss is not finite.
    """
    # The same command continues where it was stopped, and writes its results again.
    refuse_taken(out / REPORT_FILE, REPORT, overwrite=True)
    recipes = {model: fit_variables(recipe, archive, reporter) for model, recipe in recipes.items()}
    split = make_split(archive, protocol)
    folds = blocked_folds(archive, split, months=months)
    selected = validation_fold(archive, split)
    if selected is not None:
        folds[VALIDATION] = selected
    total, done = len(recipes) * len(folds), 0

    def fit(model: str, label: str, fold: Split) -> Emulator:
        nonlocal done
        done += 1
        recipe = recipes[model]
        # Other settings of the same name have a folder of their own.
        folder = out / f"{model_label(model)}-{recipe.digest[:8]}" / run_name(model, fold.protocol, seed)
        reporter.say(f"fold {done} of {total}: {model} {label}")
        run = trained(
            archive,
            recipe,
            folder,
            protocol=fold.protocol,
            seed=seed,
            data_arguments=data_arguments,
            comm=comm,
            command=(commands or {}).get(model),
            reporter=reporter,
        )
        return run.emulator(archive)

    result = Comparison(
        split.protocol,
        seed,
        archive.digest,
        competition_of(archive),
        {model: recipe.digest for model, recipe in recipes.items()},
        {label: _months(archive, fold) for label, fold in folds.items()},
        _distances(archive, folds),
        bound,
        {m: cross_validate(archive, folds, partial(fit, m)) for m in recipes},
        _line(folds, lambda fold: ensemble_member(archive, fold.scored[HELD_OUT])),
        _line(folds, lambda fold: noise_ceiling(archive, fold.scored[HELD_OUT])),
        (*(note for fold in folds.values() for note in fold.notes), *_selecting(recipes)),
    )
    with new_output(out / REPORT_FILE, REPORT, overwrite=True) as temporary:
        temporary.write_text(json.dumps(result.as_dict(), indent=1), encoding="utf-8")
    return result


def _line(folds: Mapping[str, Split], score: Callable[[Split], Score | None]) -> CrossValidation | None:
    """Something to compare with, where every fold has it."""
    scores = {label: found for label, fold in folds.items() if (found := score(fold))}
    return CrossValidation(scores) if len(scores) == len(folds) else None


def _distances(archive: Archive, folds: Mapping[str, Split]) -> dict[str, float]:
    found = {n: forcing_distance(archive, f.train, f.scored[HELD_OUT]) for n, f in folds.items()}
    return {name: distance for name, distance in found.items() if distance is not None}


def _selecting(recipes: Mapping[str, Recipe]) -> list[str]:
    """What is to be known of recipes that look at the validation months while they train."""
    names = [name for name, recipe in recipes.items() if networks_of(recipe)]
    return [f"the {VALIDATION} chose epochs of {name}, so that its score there is optimistic" for name in names]


def _months(archive: Archive, fold: Split) -> str:
    """What a fold scores, in words."""
    spans = fold.scored[HELD_OUT]
    places = dict.fromkeys((s.scenario, s.start, s.stop) for s in spans)
    each = [[s for s in spans if (s.scenario, s.start, s.stop) == place] for place in places]
    return "; ".join(replace(own[0], members=tuple(m for s in own for m in s.members)).text(archive) for own in each)
