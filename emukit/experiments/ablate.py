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

import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from emukit.data.archive import Archive
from emukit.data.split import make_split
from emukit.errors import EmukitError, RecipeError, RunError
from emukit.experiments.budget import EMUKIT, Cost, epoch_seconds, fit_epochs, start_seconds, trainings
from emukit.experiments.jobs import Job, slots, visible_gpus
from emukit.experiments.recipe_kinds import Recipe
from emukit.experiments.record import card_digest, read_json, read_record
from emukit.experiments.run import Run, finished_run, identity_of
from emukit.experiments.study import Study, Variant, assignments, recipe_of, seconds_of
from emukit.experiments.validate import chosen_seeds, named_protocols
from emukit.files import write_text
from emukit.parallel.comm import Comm
from emukit.progress import Reporter

RUNS, PLAN_FILE = "runs", "plan.json"
# Of the digest of a run's identity: enough to tell millions of runs apart.
HASH_DIGITS = 12


@dataclass(frozen=True)
class Opened:
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
        return self.folder.with_name(self.folder.name + ".log")

    @property
    def failure(self) -> Path:
        """Where it stands why it failed."""
        return self.folder.with_name(self.folder.name + ".failed")

    def error(self) -> str:
        """Why it failed; empty where it did not."""
        if not self.failure.is_file():
            return ""
        return self.failure.read_text(encoding="utf-8", errors="replace").strip() or "it failed without a word"

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
        runs: In the order in which they are begun: every variant once before any has a second seed.
        costs: By name of the variant, measured on this machine before the study was begun.
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

    def distinct(self) -> list[PlannedRun]:
        """The runs, one for each folder: two variants may be the same but for their names."""
        return list({run.folder: run for run in self.runs}.values())

    def seconds(self, runs: Sequence[PlannedRun], workers: int) -> float:
        """What some runs take, so many at a time."""
        each = [self.costs[r.variant].seconds(self.epochs[r.variant]) for r in runs]
        return max(sum(each) / workers, max(each, default=0.0))


def make_study_plan(
    opened: Opened,
    study: Study,
    root: Path,
    environments: Sequence[Mapping[str, str]],
    *,
    seeds: int | None = None,
    protocols: str | None = None,
    budget: str | None = None,
    workers: int | None = None,
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
        budget: In the place of the study's. A study that was begun keeps the epochs that were fitted then.
        workers: Runs at a time, where it is not as many as there are environments.
        reporter: Shows progress.

    Raises:
        RecipeError: A variant's recipe is wrong, or not even one epoch of each run fits into the budget.
        ProtocolError: A protocol cannot be cut from this store.
        RunError: The folder holds another study.
    """
    archive, folder = opened.archive, root / study.name
    budget = budget or study.budget
    known, costs = _begun(folder, study, archive, budget)
    sets, not_scored = named_protocols(archive, protocols or study.protocols or archive.default_protocol)
    variants = study.all_variants()
    recipes = {v.name: recipe_of(v) for v in variants}
    chosen = {v.name: chosen_seeds(recipes[v.name], seeds or study.seeds) for v in variants}
    epochs: Mapping[str, int | None] = known or dict.fromkeys(recipes)
    plan = StudyPlan(study, folder, tuple(variants), recipes, epochs, sets, not_scored, chosen, (), costs)
    if known is not None:
        return _with_runs(plan, opened, root)
    costs = _costs(opened, plan, environments, reporter)
    if budget or study.match == "cost":
        number = {v.name: len(chosen[v.name]) * len(sets) for v in variants}
        workers = workers or len(environments)
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
    return _with_runs(replace(plan, epochs=epochs, costs=costs), opened, root)


def run_study(
    opened: Opened,
    plan: StudyPlan,
    execute: Callable[..., None],
    *,
    retry: bool,
    began: Callable[[PlannedRun], None],
    ended: Callable[[PlannedRun, str], None],
    look: Callable[[], None],
) -> None:
    """Train what is not trained yet. A run that failed is not tried again, but with `retry`.

    Args:
        opened: The data.
        plan: As `make_study_plan` made it.
        execute: As `run_jobs`, with the places where jobs run given.
        retry: Whether to try again what failed.
        began, ended, look: As for `run_jobs`.
    """
    archive = opened.archive
    to_do = [r for r in plan.distinct() if not r.finished(archive) and (retry or not r.error())]
    for run in to_do:
        run.failure.unlink(missing_ok=True)
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
            # Where it cannot be kept, the run is tried again when the study goes on.
            with suppress(EmukitError, OSError):
                write_text(run.failure, error)
        ended(run, error)

    execute(jobs, began=lambda number: began(to_do[number]), ended=keep, look=look)


def write_plan(plan: StudyPlan, archive: Archive, budget: str | None, command: str) -> None:
    """Keep the plan, before the first run: one that goes on trains the same epochs."""
    if plan_exists(plan.folder):
        return
    kept = _key(plan.study, archive) | {
        "budget": budget or plan.study.budget,
        "epochs": dict(plan.epochs),
        "costs": {v: asdict(c) for v, c in plan.costs.items()},
        "command": command,
    }
    write_text(plan.folder / PLAN_FILE, json.dumps(kept, indent=1))


def plan_exists(folder: Path) -> bool:
    """Whether a study was begun in a folder."""
    return (folder / PLAN_FILE).exists()


def environments_of(jobs: int | None) -> list[dict[str, str]]:
    """Of the processes that run at the same time on this machine."""
    return slots(jobs, visible_gpus(), os.cpu_count() or 1)


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder, which is named after what decides its numbers, is whole."""
    try:
        return read_record(folder).state == "finished"
    except RunError:
        return False


def _key(study: Study, archive: Archive) -> dict[str, str | int]:
    return {"format": 1, "study": study.digest, "data": archive.digest, "card": card_digest(archive.card)}


def _begun(
    folder: Path, study: Study, archive: Archive, budget: str | None
) -> tuple[dict[str, int | None] | None, dict[str, Cost]]:
    """Epochs and costs of a study that was begun in the folder; None, and none, where there is none.

    Raises:
        RunError: It is another one.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        return None, {}
    kept = read_json(path, f"remove {folder}; its runs are kept")
    now = _key(study, archive) | ({"budget": budget} if budget else {})
    words = {"study": "study", "data": "data", "card": "data card", "budget": "budget", "format": "version of emukit"}
    different = [words[k] for k, v in now.items() if kept.get(k) != v]
    try:
        names = [v.name for v in study.all_variants()]
        costs = {v: Cost(**kept["costs"][v]) for v in names}
        epochs = {v: kept["epochs"][v] for v in names}
        if not all(e is None or (isinstance(e, int) and e > 0) for e in epochs.values()):
            raise TypeError("epochs are no numbers")
    except (KeyError, TypeError):
        epochs = costs = {}
    if different or not costs:
        raise RunError(
            f"{folder} holds another study of this name",
            found=f"another {', '.join(different)}" if different else "no costs and epochs",
            expected=f"the one that was begun with: {kept.get('command')}",
            hint="another --out, another name in the study's file, or remove the folder: runs of the same settings are "
            "read all the same",
        )
    return epochs, costs


def _with_runs(plan: StudyPlan, opened: Opened, root: Path) -> StudyPlan:
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
                digest = identity_of(archive, recipe, split, variant.members, seed).digest
                words = ["train", str(variant.recipe), *opened.words]
                for word in assignments(variant, plan.epochs[variant.name]):
                    words += ["--set", word]
                words += ["--protocol", protocol, "--seed", str(seed)]
                words += ["--members", ",".join(map(str, variant.members))] if variant.members is not None else []
                folder = root / RUNS / f"{variant.recipe}-{digest[:HASH_DIGITS]}"
                runs.append(PlannedRun(variant.name, protocol, seed, variant.members, recipe, folder, tuple(words)))
    return replace(plan, recipes=recipes, runs=tuple(runs))


def _costs(
    opened: Opened, plan: StudyPlan, environments: Sequence[Mapping[str, str]], reporter: Reporter
) -> dict[str, Cost]:
    """What a run of each variant takes on this machine."""
    archive, protocol = opened.archive, next(iter(plan.protocols))
    scenarios = len({s.scenario for s in make_split(archive, protocol).train})
    start = start_seconds((*opened.words, "--protocol", protocol), environments)
    threads = int(environments[0].get("OMP_NUM_THREADS") or os.environ["OMP_NUM_THREADS"])
    comm, costs, known = _here(), {}, {}
    with reporter.step("measuring", len(plan.variants)) as bar:
        for variant in plan.variants:
            recipe, own, epoch = plan.recipes[variant.name], 0.0, 0.0
            for network, times in trainings(recipe, scenarios):
                # Epochs change what is trained, and not what one of them takes.
                training = network.training.model_copy(update={"epochs": 0})
                like = (network.model_copy(update={"training": training}).digest, variant.members)
                if like not in known:
                    split = make_split(archive, protocol, variant.members)
                    known[like] = epoch_seconds(archive, network, split, comm, threads) or 0.0
                epoch += times * known[like]
                own += times * known[like] * network.training.epochs
            wanted = {n.training.epochs for n, _ in trainings(recipe, scenarios)}
            costs[variant.name] = Cost(start, epoch, wanted.pop() if len(wanted) == 1 else None, own)
            bar.advance(note=variant.name)
    return costs


def _here() -> Comm:
    import torch

    return Comm(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
