"""How long the runs of a study take, how many epochs fit into a time, and what was decided: `plan.json`.

Invariant: seconds of epochs come from steps of the recipe itself, timed on this machine under the first protocol, and
those of a start from short runs. Steps are timed alone; how much longer they take next to other trainings is measured
on the quickest network, where an epoch of it is short. What is counted on top of the steps is said where it is counted.
What is fitted in closed form is not timed: it counts as a start alone.

The file is there before the first run, and is never written again: a study continues with the same base, data and
epochs. Other variants than the base may be fixed, added or left out in between: each is compared with the base alone,
over the same epochs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

import torch

from emukit.data.archive import Archive
from emukit.data.split import Split
from emukit.emulators.registry import EMULATORS
from emukit.errors import RecipeError, RunError
from emukit.files import LOCK_FILE, PART, write_text
from emukit.parallel.comm import Comm
from emukit.parallel.launch import PARENT
from emukit.planning.plan import make_plan
from emukit.progress import silent_reporter
from emukit.recipes.schema import NetworkRecipe, Recipe, WrapperRecipe
from emukit.runs.record import card_digest, read_json
from emukit.studies.study import Study, epoch_paths, recipe_of, seconds_of
from emukit.terminal import duration
from emukit.training.log import LOG, read_lines

PLAN_FILE = "plan.json"
# More seconds or epochs than anybody has.
MOST = 1e12
WORDS = {
    "study": "base, match or search",
    "data": "data",
    "card": "data card",
    "budget": "budget",
    "format": "version of emukit",
}
# What a validation costs, of the time of a training step over as many months: a step passes forwards, and backwards,
# which takes twice as long.
VALIDATION_SHARE = 1 / 3
# What is fitted in seconds, to see what a run costs besides its epochs: a process, imports, the store, the references.
SHORT_RECIPE = "climatology"
# Epochs are tried next to each other where one takes no longer than this.
TRIED_SECONDS = 20.0
EMUKIT = (sys.executable, "-m", "emukit")


@dataclass(frozen=True)
class Cost:
    """What a run of a variant takes.

    Attributes:
        start: Seconds besides the epochs.
        epoch: Seconds of an epoch, of all networks of the run together; 0 where nothing is trained by epochs.
        epochs: Of the recipe; None where there are none, or networks differ in them.
        own: Seconds of all epochs that the recipe itself wants.
    """

    start: float
    epoch: float
    epochs: int | None
    own: float

    def seconds(self, epochs: int | None) -> float:
        """Of a run, with another number of epochs than the recipe's where one is given."""
        return self.start + (self.own if epochs is None else epochs * self.epoch)


def trainings(recipe: Recipe, scenarios: int) -> list[tuple[NetworkRecipe, int]]:
    """The networks that a run trains, and how often: a wrapper that leaves scenarios out trains its bases for each."""
    if isinstance(recipe, NetworkRecipe):
        return [(recipe, 1)]
    if not isinstance(recipe, WrapperRecipe):
        return []
    folds = 1 + (scenarios if EMULATORS.load(recipe.emulator).cross_fitted else 0)
    return [
        (network, times * folds * base.copies)
        for base in recipe.bases
        if not base.run
        for network, times in trainings(base.recipe, scenarios)
    ]


def epoch_seconds(archive: Archive, recipe: NetworkRecipe, split: Split, comm: Comm, threads: int) -> float | None:
    """Seconds of an epoch with its validation, from timed steps; None where the network does not fit to be timed."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        plan = make_plan(archive, recipe, split, comm, silent_reporter())
    finally:
        torch.set_num_threads(before)
    if plan.step_seconds is None:
        return None
    training = plan.recipe.training
    months = training.segments.length * plan.memory.whole * training.accumulate
    scored = sum(len(s) for s in split.scored["validation"]) / training.validate_every
    twice = 1 if training.average.kind == "none" else 2
    return plan.step_seconds * (plan.steps + VALIDATION_SHARE * twice * scored / months)


def start_seconds(words: Sequence[str], environments: Sequence[Mapping[str, str]]) -> float:
    """Seconds that a run takes besides its epochs: as many short runs at the same time as there will be, measured.

    Args:
        words: Options of `emukit train` that name the data.
        environments: Of the processes.

    Raises:
        RecipeError: A run that only takes a climatology fails; its words are told.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="emukit-") as place:
        _train_together(("train", SHORT_RECIPE, *words), environments, Path(place))
    return time.monotonic() - started


def epoch_seconds_together(words: Sequence[str], environments: Sequence[Mapping[str, str]]) -> float:
    """Seconds of an epoch while as many trainings compute at the same time as there will be, measured.

    Args:
        words: Of an `emukit train` of two epochs or more; the first one of each is not counted.
        environments: Of the processes.

    Raises:
        RecipeError: A run fails; its words are told.
    """
    with tempfile.TemporaryDirectory(prefix="emukit-") as place:
        folders = _train_together(words, environments, Path(place))
        return fmean(line["seconds"] for folder in folders for line in read_lines(folder / LOG)[1:])


def _train_together(words: Sequence[str], environments: Sequence[Mapping[str, str]], place: Path) -> list[Path]:
    """Train the same in every environment, all at the same time; the run folders."""
    folders = [place / str(i) for i in range(len(environments))]
    processes = [
        subprocess.Popen(
            [*EMUKIT, *words, "--out", str(folder), "-q"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment, PARENT: str(os.getpid())},
        )
        for folder, environment in zip(folders, environments, strict=True)
    ]
    said = [process.communicate()[1] for process in processes]
    for process, text in zip(processes, said, strict=True):
        if process.returncode:
            raise RecipeError("a run cannot be started", found=text.strip()[-1000:])
    return folders


def fit_epochs(
    costs: Mapping[str, Cost],
    runs: Mapping[str, int],
    seconds: float,
    workers: int,
    match: Literal["epochs", "cost"],
) -> dict[str, int | None]:
    """Epochs of every variant, so that all runs together take the time.

    Args:
        costs: By variant; those without epochs take what they take.
        runs: How many of each.
        seconds: Of all of them together.
        workers: How many run at a time.
        match: All alike, or epochs of the same cost.

    Raises:
        RecipeError: Not even one epoch of each fits.
    """
    trained = [v for v, c in costs.items() if c.epoch and runs[v]]
    fixed = sum(runs[v] * (c.start if c.epoch else c.seconds(None)) for v, c in costs.items())
    # The last runs do not end together: while the last one of a worker runs, the others may have none.
    left = seconds * workers - fixed
    least = sum(runs[v] * costs[v].epoch for v in trained)
    if left < least:
        raise RecipeError(
            "the budget is too small for one epoch of every run",
            found=duration(seconds),
            expected=f"{duration((fixed + least) / workers)} or more: {sum(runs.values())} runs, {workers} at a time",
            hint="a larger --budget, or fewer --seeds",
        )
    if match == "epochs":
        return {v: int(left / least) if v in trained else None for v in costs}
    share = left / sum(runs[v] for v in trained) if trained else 0.0
    epochs = {v: int(share / costs[v].epoch) if v in trained else None for v in costs}
    # An epoch that is dearer than its share is taken out of the others'.
    dear = [v for v in trained if not epochs[v]]
    if not dear:
        return epochs
    rest = {v: c for v, c in costs.items() if v not in dear}
    spent = sum(runs[v] * (costs[v].start + costs[v].epoch) for v in dear)
    return {
        **dict.fromkeys(costs),
        **fit_epochs(rest, runs, seconds - spent / workers, workers, match),
        **dict.fromkeys(dear, 1),
    }


@dataclass(frozen=True)
class SavedPlan:
    """What was decided when a study was started.

    Attributes:
        epochs: By name of the variant; None where they are the recipe's own.
        costs: By name of the variant, as they were measured then.
        budget: To which epochs were fitted; None where they were not.
        runs: How many of each variant the budget was for.
        changes: How the variants differ from those it was started with, in words.
        untimed: Those that were not there then, or were others.
    """

    epochs: Mapping[str, int | None]
    costs: Mapping[str, Cost]
    budget: str | None
    runs: Mapping[str, int]
    changes: str = ""
    untimed: Sequence[str] = ()


def plan_exists(folder: Path) -> bool:
    """Whether a study was started in a folder."""
    return (folder / PLAN_FILE).exists()


def write_saved_plan(folder: Path, saved: SavedPlan, study: Study, archive: Archive, command: str) -> None:
    """Keep it, where nothing is kept yet.

    Args:
        folder: Of the study's results.
        saved: What was decided.
        study: What is asked.
        archive: The data.
        command: What began it.

    Raises:
        RunError: The folder holds something else.
    """
    if not plan_exists(folder):
        there = folder.iterdir() if folder.is_dir() else ()
        others = sorted(p.name for p in there if p.name != LOCK_FILE and not PART.fullmatch(p.name))
        if others:
            raise RunError(
                f"{folder} is not the folder of a study",
                found=f"no {PLAN_FILE}, and {', '.join(others[:5])}",
                expected="a new or empty folder: results are written there",
                hint="another --out, or another name in the study's file",
            )
        decided = {name: value for name, value in asdict(saved).items() if name not in ("changes", "untimed")}
        kept = _key(study, archive) | decided | {"variants": _variants(study), "command": command}
        write_text(folder / PLAN_FILE, json.dumps(kept, indent=1))


def read_saved_plan(folder: Path, study: Study, archive: Archive, budget: str | None) -> SavedPlan | None:
    """What a study was started with in a folder; None where none was.

    A variant that has come to it, or is another now, trains as many epochs as the others, and is taken to cost what the
    base does.

    Raises:
        RunError: It is another one, or the file is damaged.
        RecipeError: The recipe of a variant is wrong.
    """
    path = folder / PLAN_FILE
    if not path.exists():
        return None
    kept = read_json(path, f"remove {folder}; its runs are kept")
    now = _key(study, archive) | ({"budget": budget} if budget else {})
    different = [WORDS[k] for k, v in now.items() if kept.get(k) != v]
    changes = _changes(kept.get("variants"), study)
    if changes and not different:
        different = _unfitted(changes, kept, study)
    saved = None if different or changes is None else _parsed(kept, study, changes)
    if saved is None:
        raise RunError(
            f"{folder} holds another study of this name",
            found=(f"another {', '.join(different)}" if different else f"a damaged {PLAN_FILE}")
            + (f": {_told(changes)}" if changes else ""),
            expected="the study that it holds",
            hint=f"another name in the study's file, or remove {folder}: its runs lie next to it, and are found again",
        )
    return saved


def _key(study: Study, archive: Archive) -> dict[str, str | int]:
    return {"format": 3, "study": study.digest, "data": archive.digest, "card": card_digest(archive.card)}


def _unfitted(changes: Mapping[str, Sequence[str]], kept: Mapping[str, Any], study: Study) -> list[str]:
    """What of a changed study was not fitted when it was started, and cannot be now."""
    if study.match == "cost":
        return ["cost to be matched"]
    networks = [v.name for v in study.all_variants() if v.name in _untimed(changes) and epoch_paths(recipe_of(v))]
    epochs = kept.get("epochs")
    fitted = isinstance(epochs, dict) and any(e is not None for e in epochs.values())
    return ["budget, which was fitted to no network"] if networks and kept.get("budget") and not fitted else []


def _untimed(changes: Mapping[str, Sequence[str]]) -> list[str]:
    return [name for word, names in changes.items() if word != "gone" for name in names]


def _parsed(kept: Mapping[str, Any], study: Study, changes: Mapping[str, Sequence[str]]) -> SavedPlan | None:
    """None where something is missing or of another kind."""
    variants, others = study.all_variants(), _untimed(changes)
    same = [v.name for v in variants if v.name not in others]
    try:
        costs = {v: Cost(**kept["costs"][v]) for v in same}
        epochs = {v: kept["epochs"][v] for v in same}
        runs = dict(kept["runs"])
        budget = kept["budget"]
        fitted = next((e for e in kept["epochs"].values() if e is not None), None)
        if budget is not None:
            seconds_of(budget)
    except (KeyError, TypeError, AttributeError, ValueError):
        return None
    for variant in variants:
        trained = bool(epoch_paths(recipe_of(variant)))
        if variant.name in others:
            epochs[variant.name], costs[variant.name] = _like(trained, fitted, costs[study.base_name])
        elif study.match == "epochs" and epochs[variant.name] != (fitted if trained else None):
            return None
        if trained and budget and epochs[variant.name] is None:
            return None
    numbers = [x for c in costs.values() for x in (c.start, c.epoch, c.own)]
    counts = [e for e in (*epochs.values(), *(c.epochs for c in costs.values())) if e is not None]
    whole = all(type(n) is int and 0 < n <= MOST for n in (*counts, *runs.values()))
    known = all(type(n) in (int, float) and 0 <= n <= MOST for n in numbers)
    if not (whole and known and runs.keys() >= set(same)):
        return None
    return SavedPlan(epochs, costs, budget, runs, _told(changes), others)


def _like(trained: bool, epochs: int | None, base: Cost) -> tuple[int | None, Cost]:
    """Epochs and cost of a variant that was not timed: those of the others, where it trains by epochs at all."""
    return (epochs, base) if trained else (None, Cost(base.start, 0.0, None, 0.0))


def _variants(study: Study) -> dict[str, Any]:
    """As JSON gives them back, so that they can be compared with what was kept."""
    variants: dict[str, Any] = {v.name: v.model_dump(mode="json", exclude={"name"}) for v in study.all_variants()}
    return dict(json.loads(json.dumps(variants)))


def _changes(kept: object, study: Study) -> dict[str, list[str]] | None:
    """Names of variants that differ from those that were kept, by how they do; None where none were kept."""
    now = _variants(study)
    if not isinstance(kept, dict) or study.base_name not in kept:
        return None
    parts = {
        "new": [v for v in now if v not in kept],
        "gone": [v for v in kept if v not in now],
        "changed": [v for v in now if v in kept and now[v] != kept[v]],
    }
    return {word: names for word, names in parts.items() if names}


def _told(changes: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{word}: {', '.join(map(repr, names))}" for word, names in changes.items())
