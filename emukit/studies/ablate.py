"""From a study to its runs: what is to be trained, what is done already, how long the rest takes, and doing it.

Invariant: a run of a study is an ordinary run folder, found by the hash of what decides its numbers. It is trained
once, whichever studies ask for it and however often they are stopped.

    FOLDER/runs/MODEL-HASH/       run folders, shared by all studies
    FOLDER/runs/MODEL-HASH.log    what the run said
    FOLDER/runs/MODEL-HASH.failed why it failed, until it is tried again
    FOLDER/STUDY/plan.json        the epochs that were fitted to a budget, before the first run
    FOLDER/STUDY/study.json       what came of it
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from emukit.data.archive import Archive
from emukit.data.protocol import make_split
from emukit.errors import EmukitError, ProtocolError, RecipeError
from emukit.files import sweep, write_text
from emukit.parallel.comm import Comm
from emukit.progress import Reporter, silent_reporter
from emukit.recipes.fitting import fit_recipe, fit_variables
from emukit.recipes.schema import NetworkRecipe, Recipe
from emukit.runs.listing import HASH_DIGITS, failure_of, failure_path, is_finished, log_path
from emukit.runs.protocols import chosen_seeds, named_protocols
from emukit.runs.run import Run, finished_run, identity_of
from emukit.studies.budget import (
    EMUKIT,
    TRIED_SECONDS,
    Cost,
    SavedPlan,
    epoch_seconds,
    epoch_seconds_together,
    fit_epochs,
    read_saved_plan,
    start_seconds,
    trainings,
    write_saved_plan,
)
from emukit.studies.jobs import Job, slots, visible_gpus
from emukit.studies.study import (
    Study,
    Variant,
    epoch_paths,
    recipe_of,
    refuse_untrainable,
    seconds_of,
    train_words,
)

RUNS = "runs"


@dataclass(frozen=True)
class StudyData:
    """The data, and the options of a command that open it so again."""

    archive: Archive
    words: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """A run of a study.

    Attributes:
        variant: Its name.
        protocol, seed, members: As for `emukit train`.
        recipe: What is trained.
        folder: Where.
        words: Of the `emukit train` that trains it, without the folder.
    """

    variant: str
    protocol: str
    seed: int
    members: tuple[int, ...] | None
    recipe: Recipe
    folder: Path
    words: tuple[str, ...]

    @property
    def command(self) -> str:
        """What trains the same."""
        return shlex.join(("emukit", *self.words))

    @property
    def log(self) -> Path:
        """Where its process writes."""
        return log_path(self.folder)

    @property
    def failure(self) -> Path:
        """Where it stands why it failed."""
        return failure_path(self.folder)

    def error(self) -> str:
        """Why it failed; empty where it did not."""
        return failure_of(self.folder)

    def finished(self, archive: Archive) -> Run | None:
        """The run, where it is whole; None where it is not, or is damaged, which training it will say."""
        try:
            run = finished_run(
                archive, self.recipe, self.folder, protocol=self.protocol, members=self.members, seed=self.seed
            )
        except EmukitError:
            return None
        return run if run and (self.folder / "emulator").is_dir() else None


@dataclass(frozen=True)
class StudyPlan:
    """All runs of a study.

    Attributes:
        study: Its file.
        folder: Of its results.
        variants: In full, the base first.
        recipes: By name of the variant, with the epochs that were fitted.
        epochs: By name of the variant; None where they are the recipe's own.
        protocols: Name to the sets that are scored.
        not_scored: Protocol to the reason why its test months are not.
        seeds: By name of the variant.
        runs: In the order in which they are started: every variant once before any has a second seed.
        costs: By name of the variant, measured on this machine before the study was started.
        not_timed: Variants whose epochs could not be timed here: what they take is not in any estimate.
        saved: What the study was started with; None where this begins it.
    """

    study: Study
    folder: Path
    variants: tuple[Variant, ...]
    recipes: Mapping[str, Recipe]
    epochs: Mapping[str, int | None]
    protocols: Mapping[str, tuple[str, ...]]
    not_scored: Mapping[str, str]
    seeds: Mapping[str, tuple[int, ...]]
    runs: tuple[PlannedRun, ...]
    costs: Mapping[str, Cost]
    not_timed: tuple[str, ...] = ()
    saved: SavedPlan | None = None

    def folders(self, variant: str) -> set[Path]:
        """Where the runs of a variant are; the same as another's where the two differ in their names alone."""
        return {run.folder for run in self.runs if run.variant == variant}

    def distinct(self) -> list[PlannedRun]:
        """The runs, one for each folder, in the words of the first variant that has it: two may be the same."""
        first: dict[Path, PlannedRun] = {}
        for run in self.runs:
            first.setdefault(run.folder, run)
        return list(first.values())

    def to_do(self, archive: Archive, retry: bool, tried: Container[Path] = ()) -> list[PlannedRun]:
        """The runs that are not finished, except for those that failed and are not to be tried again.

        Args:
            archive: The data.
            retry: Whether to try again what failed.
            tried: Folders of runs that are not to be tried once more.
        """
        left = [r for r in self.distinct() if not r.finished(archive)]
        return [r for r in left if not r.error() or (retry and r.folder not in tried)]

    def seconds(self, runs: Sequence[PlannedRun], workers: int) -> float:
        """What some runs take, so many at a time."""
        each = [self.costs[r.variant].seconds(self.epochs[r.variant]) for r in runs]
        return max(sum(each) / workers, max(each, default=0.0))


def make_study_plan(
    opened: StudyData,
    study: Study,
    root: Path,
    environments: Sequence[Mapping[str, str]],
    *,
    seeds: int | None = None,
    protocols: str | None = None,
    budget: str | None = None,
    workers: int | None = None,
    trials: Sequence[Variant] = (),
    reporter: Reporter,
) -> StudyPlan:
    """Say what is to be trained; nothing is written.

    Args:
        opened: The data.
        study: What is asked.
        root: Folder of all studies and their runs.
        environments: Of the processes that run at the same time on this machine, where costs are measured.
        seeds: In the place of the study's.
        protocols: In the place of the study's.
        budget: In the place of the study's. A study that was started keeps the epochs that were fitted then.
        workers: Runs at a time, where it is not as many as there are environments.
        trials: Variants that were searched for until now, of a study that was started; they are taken to cost what the
            base does, and train as many epochs.
        reporter: Shows progress.

    Raises:
        RecipeError: A variant's recipe is wrong, not even one epoch of each run fits into the budget, or epochs are to
            be fitted that a variant sets.
        ProtocolError: A protocol cannot be cut from this store.
        RunError: The folder holds another study.
    """
    archive, folder = opened.archive, root / study.name
    refuse_untrainable(study)
    _recipes(study.all_variants())
    budget = budget or study.budget
    saved = read_saved_plan(folder, study, archive, budget)
    named = study.protocols if protocols is None else protocols
    sets, not_scored = named_protocols(archive, archive.default_protocol if named is None else named)
    if study.trials and len(sets) > 1:
        raise RecipeError(
            "a search has one protocol: the months that select under one may be those that another tests",
            found=", ".join(sets),
            expected="one of them",
            hint="search under one, then `emukit evaluate MODEL --protocols ...` what was found under the others",
        )
    variants = [*study.all_variants(), *trials]
    _refuse_members(archive, next(iter(sets)), variants)
    recipes = _recipes(variants)
    chosen = {v.name: chosen_seeds(recipes[v.name], seeds or study.seeds) for v in variants}
    epochs: Mapping[str, int | None] = saved.epochs if saved else dict.fromkeys(recipes)
    costs: Mapping[str, Cost] = saved.costs if saved else {}
    if trials:
        alike = [trial.name for trial in trials]
        epochs = {**epochs, **dict.fromkeys(alike, epochs[study.base_name])}
        costs = {**costs, **dict.fromkeys(alike, costs[study.base_name])}
    plan = StudyPlan(study, folder, tuple(variants), recipes, epochs, sets, not_scored, chosen, (), costs)
    if saved:
        if saved.budget or study.match == "cost":
            _refuse_own_epochs(study, recipes)
        return _with_runs(replace(plan, saved=saved), opened, root)
    costs, not_timed = measure_costs(
        archive, plan.variants, recipes, next(iter(sets)), opened.words, environments, reporter
    )
    if not_timed and (budget or study.match == "cost"):
        raise RecipeError(
            "epochs cannot be fitted: what an epoch takes could not be measured",
            found=", ".join(not_timed),
            expected="networks of which one step fits into this machine's memory and time",
            hint="`emukit plan MODEL` says what they need; leave these variants out, or train without --budget",
        )
    if budget or study.match == "cost":
        _refuse_own_epochs(study, recipes)
        number = _number_of_runs(study, chosen, sets)
        # Trials are trained as many at a time as are asked for together.
        workers = min(workers or len(environments), at_a_time(study, number))
        if budget:
            seconds = seconds_of(budget)
        else:
            base = costs[study.base_name]
            if not base.epoch:
                raise RecipeError(
                    "match = 'cost' gives every variant epochs of the base's cost, and the base has none",
                    found=f"base {study.base!r}",
                    expected="a base that trains by epochs, or --budget",
                )
            # What has no epochs takes what it takes, and gives nothing to the others.
            each = {v: base.seconds(None) if c.epoch else c.seconds(None) for v, c in costs.items()}
            seconds = sum(each[v] * n for v, n in number.items()) / workers
        epochs = fit_epochs(costs, number, seconds, workers, study.match)
    return _with_runs(replace(plan, epochs=epochs, costs=costs, not_timed=tuple(not_timed)), opened, root)


def run_study(
    to_do: Sequence[PlannedRun],
    execute: Callable[..., None],
    *,
    began: Callable[[PlannedRun], None],
    ended: Callable[[PlannedRun, str], None],
    look: Callable[[], None],
) -> None:
    """Train runs of a study.

    Args:
        to_do: As `StudyPlan.to_do` has them.
        execute: As `run_jobs`, with the places where jobs run given.
        began, ended, look: As for `run_jobs`.
    """
    jobs = [
        Job(
            (*EMUKIT, *r.words, "--out", str(r.folder), "--resume"),
            r.folder,
            r.log,
            is_finished,
        )
        for r in to_do
    ]

    def keep(number: int, error: str) -> None:
        run = to_do[number]
        if error:
            # Where it cannot be kept, the run is tried again when the study continues.
            with suppress(EmukitError, OSError):
                write_text(run.failure, error)
        ended(run, error)

    def begin(number: int) -> None:
        # What has not been started again has still failed.
        to_do[number].failure.unlink(missing_ok=True)
        began(to_do[number])

    execute(jobs, began=begin, ended=keep, look=look)


def write_plan(plan: StudyPlan, archive: Archive, budget: str | None, command: str) -> None:
    """Keep the plan, before the first run: one that continues trains the same epochs."""
    for run in plan.runs:
        # A killed study leaves parts next to its runs and in them, and may have nothing left to write that would sweep
        # them.
        for place in (run.folder.parent, run.folder, run.folder / "scores"):
            sweep(place)
    runs = _number_of_runs(plan.study, plan.seeds, plan.protocols)
    saved = SavedPlan(plan.epochs, plan.costs, budget or plan.study.budget, runs)
    write_saved_plan(plan.folder, saved, plan.study, archive, command)


def environments_of(jobs: int | None) -> list[dict[str, str]]:
    """Of the processes that run at the same time on this machine."""
    return slots(jobs, visible_gpus(), os.cpu_count() or 1)


def _with_runs(plan: StudyPlan, opened: StudyData, root: Path) -> StudyPlan:
    """The plan with its runs, which follow from the rest of it."""
    archive = opened.archive
    recipes = {v.name: recipe_of(v, plan.epochs[v.name]) for v in plan.variants}
    runs = []
    for index in range(max(map(len, plan.seeds.values()))):
        for protocol in plan.protocols:
            for variant in plan.variants:
                if index >= len(plan.seeds[variant.name]):
                    continue
                seed, recipe = plan.seeds[variant.name][index], recipes[variant.name]
                split = make_split(archive, protocol, variant.members)
                fitted = fit_variables(recipe, archive)
                digest = identity_of(archive, fitted, split, variant.members, seed).digest
                words = train_words(variant, opened.words, plan.epochs[variant.name], protocol, seed)
                folder = root / RUNS / f"{variant.recipe}-{digest[:HASH_DIGITS]}"
                runs.append(PlannedRun(variant.name, protocol, seed, variant.members, recipe, folder, words))
    return replace(plan, recipes=recipes, runs=tuple(runs))


def _number_of_runs(study: Study, seeds: Mapping[str, Sequence[int]], protocols: Collection[str]) -> dict[str, int]:
    """Runs by name of the variant; those of trials count as the base's."""
    number = {v.name: len(seeds[v.name]) * len(protocols) for v in study.all_variants()}
    number[study.base_name] *= 1 + study.number_of_trials
    return number


def at_a_time(study: Study, runs: Mapping[str, int]) -> int:
    """How many runs there can be at a time at most."""
    if not study.trials:
        return max(1, sum(runs.values()))
    return study.together * runs[study.base_name] // (1 + study.number_of_trials)


def _refuse_members(archive: Archive, protocol: str, variants: Sequence[Variant]) -> None:
    """Refuse members that a variant names and the data has not, before anything is measured."""
    for variant in variants:
        try:
            make_split(archive, protocol, variant.members)
        except ProtocolError as e:
            raise ProtocolError(
                f"variant {variant.name!r}: {e.what}", found=e.found, expected=e.expected, hint="fix the study's file"
            ) from e


def _recipes(variants: Sequence[Variant]) -> dict[str, Recipe]:
    """The recipe of every variant, by its name; of all that are wrong, it is said what is."""
    recipes, wrong = {}, []
    for variant in variants:
        try:
            recipes[variant.name] = recipe_of(variant)
        except RecipeError as e:
            wrong.append(e)
    if len(wrong) > 1:
        raise RecipeError(
            f"{len(wrong)} of {len(variants)} variants are wrong",
            found="; ".join(f"{e.what}: {e.found}" for e in wrong),
            hint="fix the study's file; `emukit models NAME` shows every setting of a recipe",
        )
    for error in wrong:
        raise error
    return recipes


def _refuse_own_epochs(study: Study, recipes: Mapping[str, Recipe]) -> None:
    """Refuse epochs that a variant, or a search, sets otherwise than the base, where those of all are fitted."""
    variants = study.all_variants()
    base = variants[0].settings
    own = {
        v.name: path
        for v in variants
        for path in epoch_paths(recipes[v.name])
        if path in v.settings and v.settings[path] != base.get(path)
    }
    searched = {axis.path for axis in study.axes if study.trials}
    taken = searched.intersection(epoch_paths(recipes[study.base_name]))
    if own or taken:
        name, path = next(iter(own.items()), ("trials", min(taken, default="")))
        raise RecipeError(
            "epochs are fitted to a budget or a cost, and a variant sets its own",
            found=f"{path} of {name!r}",
            expected="the same epochs in all variants, or no budget",
            hint="leave --budget and `match` out to compare lengths of training",
        )


def measure_costs(
    archive: Archive,
    variants: Sequence[Variant],
    recipes: Mapping[str, Recipe],
    protocol: str,
    data: Sequence[str],
    environments: Sequence[Mapping[str, str]],
    reporter: Reporter,
) -> tuple[dict[str, Cost], list[str]]:
    """What a run of each variant takes on this machine; and the variants whose epochs could not be timed.

    Args:
        archive: The data.
        variants: Of the study.
        recipes: By name of the variant.
        protocol: Under which trainings are timed.
        data: Options that open the data again.
        environments: Of the processes that run at the same time.
        reporter: Shows progress.
    """
    import torch

    scenarios = len({s.scenario for s in make_split(archive, protocol).train})
    start = start_seconds((*data, "--protocol", protocol), environments)
    threads = int(environments[0].get("OMP_NUM_THREADS") or os.environ["OMP_NUM_THREADS"])
    comm = Comm(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    costs: dict[str, Cost] = {}
    not_timed: list[str] = []
    known: dict[tuple[str, tuple[int, ...] | None], float | None] = {}

    def timed(network: NetworkRecipe, members: tuple[int, ...] | None) -> float | None:
        # Epochs change what is trained, and not what one of them takes.
        training = network.training.model_copy(update={"epochs": 0})
        like = (network.model_copy(update={"training": training}).digest, members)
        if like not in known:
            split = make_split(archive, protocol, members)
            fitted = fit_recipe(network, archive, split, silent_reporter())
            known[like] = epoch_seconds(archive, fitted, split, comm, threads)
        return known[like]

    with reporter.step("measuring", len(variants)) as bar:
        for variant in variants:
            networks = trainings(recipes[variant.name], scenarios)
            seconds = [timed(network, variant.members) for network, _ in networks]
            if None in seconds:
                not_timed.append(variant.name)
                seconds = []
            each = [(n.training.epochs, times * (s or 0.0)) for (n, times), s in zip(networks, seconds, strict=False)]
            wanted = {n.training.epochs for n, _ in networks}
            costs[variant.name] = Cost(
                start,
                sum(epoch for _, epoch in each),
                wanted.pop() if len(wanted) == 1 else None,
                sum(epochs * epoch for epochs, epoch in each),
            )
            bar.advance(note=variant.name)
    single = {v.name: r for v in variants if isinstance(r := recipes[v.name], NetworkRecipe) and costs[v.name].epoch}
    quickest = min((v for v in variants if v.name in single), key=lambda v: costs[v.name].epoch, default=None)
    pace = 1.0
    if quickest and costs[quickest.name].epoch <= TRIED_SECONDS:
        # The first epoch is not counted, and the last one validates.
        epochs = 1 + single[quickest.name].training.validate_every
        words = train_words(quickest, data, epochs, protocol, 0)
        pace = epoch_seconds_together(words, environments) / costs[quickest.name].epoch
    return {v: replace(c, epoch=pace * c.epoch, own=pace * c.own) for v, c in costs.items()}, not_timed
