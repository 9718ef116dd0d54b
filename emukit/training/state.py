"""Where the training loop stands, as it is kept in a checkpoint.

Invariant: a state that was read is one that the loop could have been in; what it does next need check nothing.
"""

from __future__ import annotations

import math
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, model_validator

from emukit.files import parse_json

Count = Annotated[int, Field(ge=0)]


class TrainingState(BaseModel):
    """Where the loop stands.

    Attributes:
        epoch: Epoch under way, from zero; equal to the number of finished ones.
        step: Steps done in it.
        best_score: The best validation score so far; infinite before there is one.
        best_epoch: The epoch, counted from one, after which it was reached.
        best_average: Whether averaged weights reached it.
        best_digest: SHA-256 of their file, on the process that wrote it.
        stale: Validations since.
        halvings: How often the learning rate was halved on a plateau.
        sums: Loss terms of the epoch under way, summed over its steps.
        stopped: Whether early stopping has ended the training.
        seconds: Time spent so far, over all sessions.
        log: The lines of the finished epochs in `metrics.jsonl`; None in checkpoints of earlier versions.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    epoch: Count = 0
    step: Count = 0
    best_score: float = math.inf
    best_epoch: Count = 0
    best_average: bool = False
    best_digest: str = ""
    stale: Count = 0
    halvings: Count = 0
    sums: dict[str, FiniteFloat] = Field(default_factory=dict)
    stopped: bool = False
    seconds: FiniteFloat = Field(0.0, ge=0)
    log: list[str] | None = None

    def check_within(self, epochs: int, steps_per_epoch: int) -> None:
        """Refuse a state that a training of this length never comes to.

        Raises:
            ValueError: It is beyond the end, of an epoch or of the training.
        """
        if self.epoch > epochs or self.step > (steps_per_epoch if self.epoch < epochs else 0):
            raise ValueError(
                f"epoch {self.epoch}, step {self.step} of a training of {epochs} epochs of {steps_per_epoch} steps"
            )

    @model_validator(mode="after")
    def _could_be(self) -> Self:
        if max(self.best_epoch, self.stale) > self.epoch:
            raise ValueError(f"best epoch {self.best_epoch} and {self.stale} validations since, in epoch {self.epoch}")
        if self.halvings > self.epoch:
            raise ValueError(f"a learning rate that was halved {self.halvings} times, in epoch {self.epoch}")
        if math.isfinite(self.best_score) != (self.best_epoch > 0):
            raise ValueError(f"best score {self.best_score} in epoch {self.best_epoch}")
        if bool(self.best_digest) != (self.best_epoch > 0):
            raise ValueError(f"a digest {self.best_digest!r} of the weights of epoch {self.best_epoch}")
        if bool(self.sums) != (self.step > 0):
            raise ValueError(f"sums of {len(self.sums)} terms after {self.step} steps")
        if self.log is not None and (
            len(self.log) != self.epoch or any(_epoch(line) != epoch for epoch, line in enumerate(self.log, 1))
        ):
            raise ValueError(f"a log of other epochs than 1 to {self.epoch}")
        return self


def _epoch(line: str) -> object:
    value = parse_json(line)
    return value.get("epoch") if isinstance(value, dict) else None
