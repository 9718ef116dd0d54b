"""How long, how fast and on what a network is trained."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, field_validator, model_validator

from emukit.config import Settings
from emukit.data.segments import SegmentSettings
from emukit.losses.composite import TERMS

Weight = Annotated[float, Field(ge=0)]


class LossSettings(Settings):
    """The composite loss: for each variable, term names with weights."""

    tas: dict[str, Weight] = Field(default_factory=lambda: {"mse": 1.0})
    pr: dict[str, Weight] = Field(default_factory=lambda: {"mse": 1.0})
    area_weighted: bool = True

    @field_validator("tas", "pr")
    @classmethod
    def _known_terms(cls, terms: dict[str, float]) -> dict[str, float]:
        unknown = [t for t in terms if t not in TERMS]
        if unknown:
            raise ValueError(f"unknown loss term {', '.join(unknown)}; known: {', '.join(TERMS)}")
        return terms


class OptimizerSettings(Settings):
    """AdamW with a linear warm-up and a cosine decay.

    Attributes:
        learning_rate: At the end of the warm-up.
        final_learning_rate: At the last step.
        warmup_steps: Steps of linear increase.
        weight_decay: Decoupled (Loshchilov and Hutter 2019, arXiv:1711.05101).
        clip_norm: Gradients longer than this are scaled down to it.
    """

    learning_rate: float = Field(1e-3, gt=0)
    final_learning_rate: float = Field(1e-6, ge=0)
    warmup_steps: int = Field(50, ge=0)
    weight_decay: float = Field(1e-2, ge=0)
    clip_norm: float = Field(1.0, gt=0)


class TrainingSettings(Settings):
    """The training loop.

    Attributes:
        epochs: Passes over the training months.
        segments: How months are cut into batches.
        optimizer: AdamW and its schedule.
        validate_every: Epochs between validations.
        patience: Validations without a better score after which training stops; 0 never stops early.
        checkpoint_minutes: A checkpoint is written after every epoch, and within one when this much time has passed.
    """

    epochs: int = Field(30, ge=1, le=1_000_000)
    segments: SegmentSettings = SegmentSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    validate_every: int = Field(1, ge=1)
    patience: int = Field(0, ge=0)
    checkpoint_minutes: float = Field(5.0, gt=0)

    @model_validator(mode="after")
    def _validated_at_all(self) -> TrainingSettings:
        if self.validate_every > self.epochs:
            raise ValueError(f"validate_every {self.validate_every} is more than epochs {self.epochs}")
        return self
