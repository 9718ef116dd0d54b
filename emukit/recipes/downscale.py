"""What a downscaling run trains: coarse grid, blocks, conditions, network, objective and training.

Invariant: every setting was checked, against the network's and the objective's own signatures too; the same checked
recipe comes from the command line, from a TOML file and from the record of a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny, create_model, model_validator

from emukit.config import Settings, check, merge, options_of, parse_assignments, read_toml
from emukit.data.block_sampler import BlockSettings
from emukit.data.coarsen import CoarseSettings
from emukit.data.targets import TargetSettings
from emukit.emulators.downscaling_residuals import ConditionSettings
from emukit.emulators.neural_downscaler import CONTEXT
from emukit.errors import RecipeError
from emukit.models.block_unet import BlockUNet
from emukit.objectives.registry import OBJECTIVES, REGRESSION
from emukit.recipes.catalogue import admit
from emukit.recipes.schema import AnyObjective, ObjectiveSettings, TargetsSettings
from emukit.training.settings import AverageSettings, LossSettings, OptimizerSettings, TrainingSettings

DOWNSCALE = "downscale"


def _loss() -> LossSettings:
    return LossSettings(default={"l1": 1.0})


def _targets() -> TargetsSettings:
    return TargetsSettings(default=TargetSettings(climatology="cell-month", scale="cell"))


def _training() -> TrainingSettings:
    return TrainingSettings(
        epochs=10,
        patience=4,
        optimizer=OptimizerSettings(learning_rate=2e-3, warmup_steps=100),
        average=AverageSettings(kind="ema", decay=0.995),
    )


class DownscaleRecipe(Settings):
    """A network that makes fine fields of coarse ones.

    Attributes:
        emulator: Always ``downscale``.
        description: For people.
        coarse: The coarse grid, and how fields come to it.
        blocks: How training fields are cut.
        overlap: Cells by which blocks of a prediction overlap at least.
        conditions: What the network is told, and what its answer is added to.
        targets: How each variable is normalised, the fine fields and the pass each by statistics of their own.
        objective: What the network is trained for.
        loss: Terms that compare cell by cell.
        training: The training loop; `training.segments` is of networks that read forcings.
        model: The network's own options.
    """

    emulator: str = Field(DOWNSCALE, pattern=f"^{DOWNSCALE}$")
    description: str = ""
    coarse: CoarseSettings = CoarseSettings()
    blocks: BlockSettings = BlockSettings()
    overlap: int = Field(8, ge=0)
    conditions: ConditionSettings = ConditionSettings()
    targets: TargetsSettings = Field(default_factory=_targets)
    objective: AnyObjective = ObjectiveSettings()
    loss: LossSettings = Field(default_factory=_loss)
    training: TrainingSettings = Field(default_factory=_training)
    model: SerializeAsAny[Settings]

    @model_validator(mode="after")
    def _what_acts(self) -> DownscaleRecipe:
        if self.training.segments.model_fields_set:
            raise ValueError("training.segments is of networks that read forcings: blocks.* says how blocks are cut")
        if self.training.accumulate > 1:
            raise ValueError("training.accumulate: take blocks.times in its place")
        if self.objective.build(None).trajectory:
            raise ValueError(f"objective.name: {self.objective.name} feeds states back, and a downscaler has none")
        sides = [n for n in self.blocks.size if n % 2 ** self.model.model_dump()["depth"]]
        if sides:
            raise ValueError(f"blocks.size: {sides[0]} cells cannot be halved model.depth times")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides the numbers."""
        values = self.model_dump(mode="json", exclude={"description"})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def parse_downscale(values: Mapping[str, Any], source: str) -> DownscaleRecipe:
    """Check plain values.

    Raises:
        RecipeError: Unknown or wrong settings, all of them listed.
    """
    options = options_of(BlockUNet, CONTEXT)
    kind = create_model("DownscaleRecipe", __base__=DownscaleRecipe, model=(options, options()))
    return check(kind, values, source=source, hint="docs/downscaling.md lists the settings")


def load_downscale(
    file: Path | None = None, assignments: Iterable[str] = (), objective: str | None = None
) -> DownscaleRecipe:
    """The default recipe, overlaid with a file and single settings.

    Args:
        file: TOML.
        assignments: ``a.b=c`` words; ``model.size`` names a preset of the network's.
        objective: Short for ``objective.name``.

    Raises:
        RecipeError: Unknown or wrong settings, or such as would do nothing.
    """
    training = _training().model_dump(mode="json", exclude={"segments"})
    # Records of runs from before there was a choice do not say it, and mean the other.
    conditions = {"residual": "out-of-fold", "conserve": True, "context": 1, "root": "cbrt"}
    values: dict[str, Any] = {"training": training, "conditions": conditions}
    source = f"recipe {DOWNSCALE}"
    for over, name in ((read_toml(file) if file else {}, str(file)), (parse_assignments(assignments), "--set")):
        if over:
            admit(over)
            model = over.get("model")
            if isinstance(model, Mapping) and "size" in model:
                size = model["size"]
                if not isinstance(size, str) or size not in BlockUNet.SIZES:
                    raise RecipeError(
                        f"unknown size {size!r} of {DOWNSCALE}", expected=", ".join(BlockUNet.SIZES), hint=name
                    )
                over = {**over, "model": merge(BlockUNet.SIZES[size], {k: v for k, v in model.items() if k != "size"})}
            if isinstance(over.get("loss"), Mapping):
                # A loss table replaces the default one rather than mixing with it.
                values.pop("loss", None)
            if isinstance(over.get("coarse"), str | list | tuple):
                over = {**over, "coarse": {"grid": over["coarse"]}}
            values, source = merge(values, over), f"{source} with {name}"
    if objective is not None:
        if objective not in OBJECTIVES:
            raise RecipeError(f"unknown objective {objective!r}", expected=", ".join(OBJECTIVES))
        asked = values.get("objective", {})
        if isinstance(asked, str):
            asked = {}
        # What is neither a name nor a table is left for the check to refuse.
        if isinstance(asked, Mapping):
            values["objective"] = {**asked, "name": objective}
    conditions = values["conditions"]
    if isinstance(conditions, Mapping) and conditions.get("residual") == "out-of-fold":
        conditions = {"calibrate": True, **conditions}
        # A regression gives one answer, which has no spread to change with the climate.
        asked = values.get("objective", {})
        name = asked.get("name", REGRESSION) if isinstance(asked, Mapping) else asked
        if conditions["calibrate"] is True and name in OBJECTIVES and OBJECTIVES.load(name).draws:
            conditions = {"climate": True, **conditions}
        values["conditions"] = conditions
    recipe = parse_downscale(values, source)
    _refuse_unused(recipe.conditions)
    return recipe


def _refuse_unused(conditions: ConditionSettings) -> None:
    """Refuse settings of a regression where there is none; records of runs may hold them."""
    if conditions.base == "regression":
        return
    usual = ConditionSettings()
    changed = [n for n in ("width", "penalty") if getattr(conditions, n) != getattr(usual, n)]
    if changed:
        raise RecipeError(
            f"{' and '.join(f'conditions.{n}' for n in changed)} would do nothing",
            found=f"{', '.join(f'conditions.{n} = {getattr(conditions, n)}' for n in changed)}, where "
            "conditions.base is the pass, and no regression is fitted",
            expected=", ".join(f"{n} at its default, {getattr(usual, n)}" for n in changed),
            hint=f"leave {'it' if len(changed) == 1 else 'them'} out, or --set conditions.base=regression",
        )
