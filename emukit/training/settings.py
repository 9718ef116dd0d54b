"""How long, how fast and on what a network is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from emukit.config import Settings
from emukit.data.archive import Archive
from emukit.data.segments import SegmentSettings
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext, Padding
from emukit.losses.registry import TERMS
from emukit.sphere import WHOLE, Sphere

Weight = Annotated[float, Field(ge=0)]


def _known_terms(terms: dict[str, float]) -> dict[str, float]:
    unknown = [t for t in terms if t not in TERMS]
    if unknown:
        raise ValueError(f"unknown loss term {', '.join(unknown)}; known: {', '.join(TERMS)}")
    return terms


Terms = Annotated[dict[str, Weight], AfterValidator(_known_terms)]


class VariableTables(Settings):
    """Settings with a table ``default``, in which every further key is a variable with a table of its own."""

    model_config = ConfigDict(extra="allow")

    @model_serializer(mode="wrap")
    def _told(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return values if getattr(self, "default", None) else {k: v for k, v in values.items() if k != "default"}

    @property
    def tables(self) -> dict[str, Any]:
        """The tables of variables that have their own, by name."""
        return dict(self.__pydantic_extra__ or {})


class LossSettings(VariableTables):
    """The composite loss, in normalised space.

    Every further key is a variable with its own table of term names and weights, such as ``pr = { mse = 1.0 }``.

    Attributes:
        default: Term names with weights, of every variable without a table of its own.
        area_weighted: Cells count with their area, as in the score, or all alike.
        padding: What stencils see beyond a field's edges: the other side of the globe, or zeros.
        warmup_epochs: Epochs of mean absolute error instead of the terms.
        ramp_epochs: Epochs after these in which the terms take over, linearly.
    """

    __pydantic_extra__: dict[str, Terms]

    # Squared error, and the standard deviation over time that it would lose.
    default: Terms = Field(default_factory=lambda: {"mse": 1.0, "time_std": 0.5})
    area_weighted: bool = True
    padding: Padding = "circular"
    warmup_epochs: float = Field(0.0, ge=0)
    ramp_epochs: float = Field(0.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _tables(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            odd = [k for k, v in values.items() if k not in cls.model_fields and not isinstance(v, Mapping)]
            if odd:
                raise ValueError(
                    f"unknown key {', '.join(map(str, odd))}: neither a setting, {', '.join(cls.model_fields)}, nor a "
                    "variable's table of terms such as { mse = 1.0 }"
                )
        return values

    def of(self, variable: str) -> dict[str, float]:
        """The terms of a variable."""
        terms: dict[str, float] = self.tables.get(variable, self.default)
        return terms

    def for_variables(self, variables: Sequence[str]) -> LossSettings:
        """The same with a table for each of some variables, and no default.

        Raises:
            RecipeError: A variable has no term, so that nothing would teach the network what it is.
        """
        without = [v for v in variables if not any(self.of(v).values())]
        if without:
            raise RecipeError(
                f"the loss has no term for {', '.join(without)}",
                found="a network is not trained on what has no loss",
                expected=f"a table for each of {', '.join(variables)}, or loss.default",
                hint=" ".join(f"--set loss.{v}.mse=1.0" for v in without),
            )
        values = self.model_dump(exclude={*self.tables, "default"}) | {v: self.of(v) for v in variables}
        return LossSettings.model_validate({**values, "default": {}})

    def ramp(self, epochs_done: float) -> float:
        """How much of the loss is the terms and not the warm-up, from 0 to 1.

        Args:
            epochs_done: Epochs behind the current step, as a fraction within one.
        """
        beyond = epochs_done - self.warmup_epochs
        if beyond < 0:
            return 0.0
        return min(beyond / self.ramp_epochs, 1.0) if self.ramp_epochs else 1.0


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


class AverageSettings(Settings):
    """Averages of weights, scored next to the weights themselves at every validation; the better one counts.

    Attributes:
        kind: Exponential over steps (``ema``), equal over the last epochs (``swa``), or ``none``.
        decay: Of ``ema``, for one step; 0.99 remembers about a hundred.
        start: Of ``swa``: the part of the epochs before it begins.
    """

    kind: Literal["none", "ema", "swa"] = "none"
    decay: float = Field(0.99, ge=0, lt=1)
    start: float = Field(0.75, ge=0, lt=1)


# Settings of a schedule that waits for validations.
PLATEAU = ("schedule", "plateau")


class TrainingSettings(Settings):
    """The training loop.

    Attributes:
        epochs: Passes over the training months.
        segments: How months are cut into batches.
        accumulate: Batches of one optimiser step; their gradients are added, so that only one is in memory.
        optimizer: AdamW and its schedule.
        average: Averages of weights.
        precision: ``fp32``; ``tf32``, with matrix products of 10-bit mantissas on GPUs that have them; ``bf16`` and
            ``fp16``, mixed: parameters, loss and optimiser stay in float32.
        validate_every: Epochs between validations.
        patience: Validations without a better score after which training stops; 0 never stops early.
        schedule: Of the learning rate, after the warm-up: ``cosine``, half a cosine down to the final rate at the last
            step; ``plateau``, halved whenever `plateau` validations have brought no better score.
        plateau: Of that schedule.
        checkpoint_minutes: A checkpoint is written after every epoch, and within one when this much time has passed.
    """

    epochs: int = Field(30, ge=1, le=1_000_000)
    segments: SegmentSettings = SegmentSettings()
    accumulate: int = Field(1, ge=1, le=1_000_000)
    optimizer: OptimizerSettings = OptimizerSettings()
    average: AverageSettings = AverageSettings(kind="ema")
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    validate_every: int = Field(1, ge=1)
    patience: int = Field(0, ge=0)
    schedule: Literal["cosine", "plateau"] = "cosine"
    plateau: int = Field(5, ge=1)
    checkpoint_minutes: float = Field(5.0, gt=0)

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes keep the digests that they had before there was another schedule.
        values: dict[str, Any] = dump(self)
        return values if self.schedule == "plateau" else {k: v for k, v in values.items() if k not in PLATEAU}

    @model_validator(mode="after")
    def _plateau_before_the_end(self) -> TrainingSettings:
        if self.schedule == "cosine" and "plateau" in self.model_fields_set and self.plateau != 5:
            raise ValueError("plateau counts only with schedule = 'plateau'")
        if self.schedule == "plateau" and 0 < self.patience <= self.plateau:
            raise ValueError(
                f"patience {self.patience} stops the training before plateau {self.plateau} could lower the rate: "
                "set patience higher, or 0"
            )
        return self

    @model_validator(mode="after")
    def _validated_at_all(self) -> TrainingSettings:
        if self.validate_every > self.epochs:
            raise ValueError(f"validate_every {self.validate_every} is more than epochs {self.epochs}: set both")
        averaged = self.epochs - int(self.average.start * self.epochs)
        if self.average.kind == "swa" and averaged < 2:
            raise ValueError(
                f"average.start {self.average.start} leaves swa {averaged} of {self.epochs} epochs; it needs two"
            )
        return self


def composite_loss(
    settings: LossSettings, archive: Archive, device: torch.device, sphere: Sphere = WHOLE
) -> CompositeLoss:
    """The loss of a recipe on an archive's grid, for its variables; `sphere` says which of its rows are here.

    Raises:
        RecipeError: A variable has no loss, or a loss no variable.
    """
    grid = archive.grid
    weights = grid.weights if settings.area_weighted else np.full(grid.shape, 1.0 / np.prod(grid.shape))
    space = GridContext(torch.as_tensor(weights, dtype=torch.float32, device=device), settings.padding, sphere)
    terms = settings.for_variables(archive.variables).tables
    return CompositeLoss(settings.tables | terms, archive.variables, space)
