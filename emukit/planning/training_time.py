"""How long trainings take, and how many epochs fit into a time.

Invariant: seconds of epochs come from steps of the recipe itself, timed on this machine under the first protocol, and
those of a start from short runs. Steps are timed alone; how much longer they take next to other trainings is measured
on the quickest network, where an epoch of it is short. What is counted on top of the steps is said where it is counted.
What is fitted in closed form is not timed: it counts as a start alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Literal

import torch

from emukit.data.archive import Archive
from emukit.data.split import Split
from emukit.emulators.registry import EMULATORS
from emukit.errors import RecipeError
from emukit.parallel.comm import Comm
from emukit.parallel.launch import PARENT
from emukit.planning.plan import make_plan
from emukit.progress import silent_reporter
from emukit.recipes.schema import NetworkRecipe, Recipe, WrapperRecipe
from emukit.terminal import duration
from emukit.training.log import LOG, read_lines

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
