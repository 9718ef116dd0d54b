"""The last fit: everything is selected, so the validation months train too.

Invariant: nothing is chosen in a final fit. How long it trains, which weights it keeps and what a wrapper selected on
validation are those of a finished run of the same recipe, protocol, members and data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from emukit.emulators.base import Emulator
from emukit.emulators.wrapper import Wrapper
from emukit.errors import RunError
from emukit.runs.record import Identity
from emukit.training.log import LOG, gaps, read_lines
from emukit.training.loop import KeptWeights
from emukit.training.settings import TrainingSettings


@dataclass(frozen=True)
class RefitLength:
    """How long a network is trained in a final fit.

    Attributes:
        epochs: Of the whole schedule.
        keep: Where it ends.
        stretch: Epochs of the run that selected in one of these.
    """

    epochs: int
    keep: KeptWeights
    stretch: float


@dataclass(frozen=True)
class RefitPolicy:
    """What a finished run, or a base in one, selected.

    Attributes:
        folder: Where its log is.
        emulator: Itself.
    """

    folder: Path
    emulator: Emulator

    def base(self, number: int, place: str) -> RefitPolicy:
        """That of a base of a wrapper, trained in a folder of its own."""
        assert isinstance(self.emulator, Wrapper)
        return RefitPolicy(self.folder / "bases" / place, self.emulator.bases[number])

    def length(self, settings: TrainingSettings, steps_per_epoch: int, cost: Callable[[float], float]) -> RefitLength:
        """As many optimiser steps as the best weights had behind them, in epochs that have more steps.

        Args:
            settings: Of the recipe.
            steps_per_epoch: Of the final fit.
            cost: From a validation score to what was made small.

        Raises:
            RunError: The log of the run is missing, damaged or without a validation score, or the learning rate waited
                for validations, of which a final fit has none.
        """
        if settings.schedule == "plateau":
            raise RunError(
                "a final fit has no validations, for which the schedule of the learning rate waits",
                found="training.schedule = plateau",
                expected="cosine, whose rate follows from the step",
                hint="select with --set training.schedule=cosine, then fit that run again",
            )
        best, keep, before = float("inf"), None, 0.0
        lines = read_lines(self.folder / LOG)
        if missing := gaps(lines):
            raise RunError(
                f"the log of {self.folder} does not say which epoch was best",
                found=missing,
                hint="restore it, name another finished run with --final, or train it again",
            )
        for line in lines:
            for key, averaged in (("validation", False), ("validation_average", True)):
                score = (line.get(key) or {}).get("score")
                if isinstance(score, float) and cost(score) < best:
                    best, keep, before = cost(score), KeptWeights(line["epoch"], averaged), line["step"] / line["epoch"]
        if keep is None:
            raise RunError(
                f"the log of {self.folder} does not say which epoch was best",
                found="no validation score in metrics.jsonl",
                hint="name another finished run with --final, or train it again",
            )
        stretch = steps_per_epoch / before
        epochs = max(1, round(settings.epochs / stretch))
        return RefitLength(
            epochs, KeptWeights(min(epochs, max(1, round(keep.epoch / stretch))), keep.averaged), stretch
        )


def check_selected(folder: Path, before: Identity, now: Identity) -> None:
    """Refuse a run that selected something else than what is to be fitted; only the seed may differ.

    Raises:
        RunError: It did, or is a final fit itself.
    """
    if before.final:
        raise RunError(f"the run {folder} is a final fit, which selected nothing", hint="name the run it came from")
    known, wanted = before.model_dump(exclude={"seed"}), now.model_dump(exclude={"seed"})
    different = [name for name, value in wanted.items() if known[name] != value]
    if different:
        raise RunError(
            f"the run {folder} selected for another configuration",
            found=f"another {', '.join(different)}",
            expected="the same recipe, protocol, members and data; only the seed may differ",
            hint="give --final the settings of that run, or train one with these first",
        )
