"""What a recipe is: everything that decides what is trained, except the data, the split and the seed.

Invariant: a recipe names one emulator, and every option in it was checked against that emulator's own signature. The
same checked recipe comes from the command line, from a TOML file and from the record in a run folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    create_model,
    model_serializer,
    model_validator,
)

from emukit.config import Settings, check, options_of
from emukit.data.frames import InputSettings
from emukit.data.targets import TargetSettings
from emukit.data.variable import ROOTS
from emukit.emulators.registry import EMULATORS
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.models.registry import CONTEXT, NETWORKS
from emukit.objectives.base import Objective
from emukit.objectives.registry import OBJECTIVES, REGRESSION, objective_class
from emukit.recipes.names import emulator_names, recipe_digest, unknown_emulator
from emukit.training.settings import LossSettings, TrainingSettings


class TargetsSettings(Settings):
    """How each target variable is normalised.

    Every further key is a variable, with what differs from `default`.

    Attributes:
        default: Of every variable without a table of its own; None: each has one.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, TargetSettings]

    default: TargetSettings | None = TargetSettings()

    @model_validator(mode="before")
    @classmethod
    def _over_default(cls, values: Any) -> Any:
        default = values.get("default") if isinstance(values, Mapping) else None
        if not isinstance(default, Mapping):
            return values
        return {k: {**default, **v} if isinstance(v, Mapping) else v for k, v in values.items()}

    @model_serializer(mode="wrap")
    def _told(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = handler(self)
        return values if self.default else {k: v for k, v in values.items() if k != "default"}

    @property
    def tables(self) -> dict[str, TargetSettings]:
        """The settings of variables that have their own, by name."""
        return dict(self.__pydantic_extra__ or {})

    def of(self, variable: str) -> TargetSettings:
        """How a variable is normalised."""
        return self.tables.get(variable, self.default or TargetSettings())


class Recipe(Settings):
    """Base of all recipes.

    Attributes:
        emulator: Name of a closed-form emulator or of a network.
        description: For people.
        model: The emulator's own options.
    """

    emulator: str
    description: str = ""
    model: Settings

    @property
    def options(self) -> dict[str, Any]:
        """The emulator's own options as plain values."""
        return self.model.model_dump(mode="python")

    @property
    def digest(self) -> str:
        """SHA-256 of everything that decides the numbers."""
        return recipe_digest(self.model_dump(mode="json"))


class ObjectiveSettings(Settings):
    """What a network is trained for; the options of the objective named stand beside its name.

    Attributes:
        name: Such as ``regression``.
    """

    name: str = REGRESSION

    @property
    def options(self) -> dict[str, Any]:
        """The objective's own options as plain values."""
        return self.model_dump(mode="python", exclude={"name"})

    def build(self, loss: CompositeLoss | None) -> Objective:
        """The objective itself.

        Raises:
            RecipeError: An option is out of its range.
        """
        return objective_class(self.name)(loss, **self.options)


def _objective_settings(value: object) -> object:
    """A table, or a name alone, checked against the signature of the objective that it names."""
    if isinstance(value, ObjectiveSettings):
        return value
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, Mapping):
        return table
    name = table.get("name", REGRESSION)
    if not isinstance(name, str):
        raise ValueError(f"objective.name must be one of {', '.join(OBJECTIVES)}, not {name!r}")
    try:
        options = options_of(objective_class(name))
    except RecipeError as e:
        raise ValueError(f"{e.what}; known: {e.expected}") from e
    kind = create_model("ObjectiveSettings", __base__=(ObjectiveSettings, options))
    return kind.model_validate(dict(table))


class NetworkRecipe(Recipe):
    """A network, what it reads, what it is asked for, and how it is trained."""

    objective: Annotated[SerializeAsAny[ObjectiveSettings], BeforeValidator(_objective_settings)] = ObjectiveSettings()

    inputs: InputSettings = InputSettings()
    targets: TargetsSettings = TargetsSettings()
    loss: LossSettings = LossSettings()
    training: TrainingSettings = TrainingSettings()

    def network_channels(self, encoded: int) -> int:
        """Input channels of its network, for frames of so many: noise of the objective comes on top."""
        return encoded + self.objective.build(None).noise_channels

    @model_validator(mode="after")
    def _loss_that_can_act(self) -> NetworkRecipe:
        loss, training = self.loss, self.training
        objective = self.objective.build(None)
        if objective.single_runs and training.segments.members == "mean":
            raise ValueError(
                f"objective.name {self.objective.name} learns from single runs: "
                "training.segments.members must be all or random, not mean"
            )
        if self.objective.name != REGRESSION and loss.warmup_epochs + loss.ramp_epochs:
            raise ValueError(f"loss.warmup_epochs and loss.ramp_epochs are of regression, not of {self.objective.name}")
        # The default counts where the recipe says it: elsewhere every variable may have a table of its own.
        said = loss.tables | ({"default": loss.default} if "default" in loss.model_fields_set else {})
        unused = [f"loss.{v}.time_std" for v, terms in said.items() if terms.get("time_std")]
        if unused and training.segments.length == 1:
            raise ValueError(f"{' and '.join(unused)} cannot act on segments of one month, training.segments.length")
        if loss.warmup_epochs >= training.epochs:
            raise ValueError(
                f"loss.warmup_epochs {loss.warmup_epochs:g} leaves the loss none of training.epochs {training.epochs}"
            )
        return self


class Base(Settings):
    """What a wrapper wraps.

    Attributes:
        recipe: How it is trained. In a recipe file: a name, or a table that is laid over the recipe of its `emulator`.
        copies: How many of it, each with a seed of its own.
    """

    recipe: SerializeAsAny[Recipe]
    copies: int = Field(1, ge=1, le=100)


class WrapperRecipe(Recipe):
    """An emulator made of others.

    Attributes:
        bases: The others, in the order in which it takes them.
    """

    bases: tuple[Base, ...] = Field(min_length=1)

    @property
    def parts(self) -> list[tuple[Recipe, int]]:
        """What is to be trained, copies one by one: recipe and what is added to the seed."""
        return [(b.recipe, copy * seeds_within(b.recipe)) for b in self.bases for copy in range(b.copies)]

    @model_validator(mode="after")
    def _takes_so_many(self) -> WrapperRecipe:
        kind, number = EMULATORS[self.emulator].load(), sum(b.copies for b in self.bases)
        if kind.most_bases is not None and number > kind.most_bases:
            raise ValueError(f"{self.emulator} wraps {kind.most_bases}, not {number}, bases")
        if number < kind.least_bases:
            raise ValueError(f"{self.emulator} wraps {kind.least_bases} bases or more, not {number}")
        if kind.residual and not all(isinstance(b.recipe, NetworkRecipe) for b in self.bases[1:]):
            raise ValueError(f"{self.emulator} trains networks on what its first base leaves: every other is a network")
        # What an anchor leaves is negative half of the time.
        for targets in (
            b.recipe.targets for b in self.bases[1:] if isinstance(b.recipe, NetworkRecipe) and kind.residual
        ):
            every = [*targets.tables.values(), *([targets.default] if targets.default else [])]
            if any(own.transform in ROOTS for own in every):
                raise ValueError("targets.transform must take what is negative: none or yeo-johnson")
        for base in self.bases if kind.needs_mean else ():
            name = base.recipe.emulator
            if name in EMULATORS and getattr(EMULATORS[name].load(), "varied", False):
                raise ValueError(f"{self.emulator} wraps what says the mean over runs; {name} varies as a run does")
        return self


# Of emulators in emulators; no shipped recipe has more than three.
DEEPEST = 20


def networks_of(recipe: Recipe) -> list[NetworkRecipe]:
    """The networks that a recipe trains."""
    if isinstance(recipe, WrapperRecipe):
        return [network for part, _ in recipe.parts for network in networks_of(part)]
    return [recipe] if isinstance(recipe, NetworkRecipe) else []


def network_paths(recipe: Recipe) -> dict[str, NetworkRecipe]:
    """Networks by what stands before their settings in `--set`: nothing, or ``bases.1.recipe.`` and so on."""
    if isinstance(recipe, WrapperRecipe):
        return {
            f"bases.{i}.recipe.{path}": network
            for i, b in enumerate(recipe.bases)
            for path, network in network_paths(b.recipe).items()
        }
    return {"": recipe} if isinstance(recipe, NetworkRecipe) else {}


def seeds_within(recipe: Recipe) -> int:
    """How many seeds a run takes, from its own on: runs of seeds nearer than that share networks."""
    if not isinstance(recipe, WrapperRecipe):
        return 1
    return max(base.copies * seeds_within(base.recipe) for base in recipe.bases)


@cache
def recipe_class(emulator: str) -> type[Recipe]:
    """The recipe class of one emulator, its `model` table made from the emulator's signature.

    Raises:
        RecipeError: There is no emulator of that name.
    """
    base: type[Recipe]
    if emulator in NETWORKS:
        base, options = NetworkRecipe, options_of(NETWORKS[emulator].load(), CONTEXT)
    elif emulator in EMULATORS and EMULATORS[emulator].made != "stepwise":
        base = WrapperRecipe if EMULATORS[emulator].made == "wrapper" else Recipe
        kind = EMULATORS[emulator].load()
        # The seed of a run is no part of its recipe.
        options = options_of(kind.fit, ("seed",) if EMULATORS[emulator].seeded else ())
    else:
        raise unknown_emulator(emulator)
    return create_model(base.__name__, __base__=base, model=(options, options()))


def parse_recipe(values: Mapping[str, Any], source: str) -> Recipe:
    """Check plain values as a recipe.

    Raises:
        RecipeError: No or an unknown emulator, unknown or mistyped keys (all of them listed).
    """
    name = values.get("emulator")
    if not isinstance(name, str):
        raise RecipeError(f"{source} names no emulator", expected=f"emulator = one of {', '.join(emulator_names())}")
    kind = recipe_class(name)
    if issubclass(kind, WrapperRecipe):
        values = {**values, "bases": [_parse_base(b, i, source) for i, b in enumerate(base_tables(values, source))]}
    return check(kind, values, source=source)


def base_tables(values: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
    """The `bases` of plain values, as a list of tables."""
    bases = values.get("bases")
    if source.count(", bases.") > DEEPEST:
        raise RecipeError(
            "the recipe wraps emulators in emulators in emulators without end",
            found=f"more than {DEEPEST} one in another",
            expected="fewer",
        )
    if not isinstance(bases, list | tuple) or not all(isinstance(b, Mapping) for b in bases):
        raise RecipeError(
            f"{source} does not say what {values['emulator']} wraps",
            found=repr(bases),
            expected="one or more tables [[bases]]",
            hint='[[bases]] with recipe = "linear", or another name of `emukit models`',
        )
    return [dict(b) for b in bases]


def _parse_base(base: dict[str, Any], number: int, source: str) -> dict[str, Any]:
    recipe = base.get("recipe")
    if isinstance(recipe, Mapping):
        base["recipe"] = parse_recipe(recipe, f"{source}, bases.{number}")
    return base
