"""What a recipe is: everything that decides what is trained, except the data, the split and the seed.

Invariant: a recipe names one emulator, and every option in it was checked against that emulator's own signature. The
same checked recipe comes from the command line, from a TOML file and from the record in a run folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
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
from emukit.emulators.registry import EMULATORS, with_present_names
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.models.registry import CONTEXT, NETWORKS
from emukit.objectives.base import Objective
from emukit.objectives.registry import CRPS, LATER_OPTIONS, OBJECTIVES, REGRESSION
from emukit.objectives.rollout import Curriculum, Rollout
from emukit.recipes.catalogue import emulator_names, is_network, recipe_digest, unknown_emulator
from emukit.training.settings import AverageSettings, LossSettings, OptimizerSettings, TrainingSettings, VariableTables


class TargetsSettings(VariableTables):
    """How each target variable is normalised.

    Every further key is a variable, with what differs from `default`.

    Attributes:
        default: Of every variable without a table of its own; None: each has one.
    """

    __pydantic_extra__: dict[str, TargetSettings]

    default: TargetSettings | None = TargetSettings()

    @model_validator(mode="before")
    @classmethod
    def _over_default(cls, values: Any) -> Any:
        default = values.get("default") if isinstance(values, Mapping) else None
        if not isinstance(default, Mapping):
            return values
        return {k: {**default, **v} if isinstance(v, Mapping) else v for k, v in values.items()}

    def of(self, variable: str) -> TargetSettings:
        """How a variable is normalised."""
        settings: TargetSettings = self.tables.get(variable, self.default or TargetSettings())
        return settings


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
    """What a network is trained for; the options of the objective named stand next to its name.

    Attributes:
        name: Such as ``regression``.
    """

    name: str = REGRESSION

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = dump(self)
        later = LATER_OPTIONS.get(self.name, {})
        return {k: v for k, v in values.items() if k not in later or v != later[k]}

    @property
    def options(self) -> dict[str, Any]:
        """The objective's own options as plain values."""
        return self.model_dump(mode="python", exclude={"name"})

    def build(self, loss: CompositeLoss | None) -> Objective:
        """The objective itself.

        Raises:
            RecipeError: An option is out of its range.
        """
        kind: type[Objective] = OBJECTIVES.load(self.name)
        return kind(loss, **self.options)


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
        options = options_of(OBJECTIVES.load(name))
    except RecipeError as e:
        raise ValueError(f"{e.what}; known: {e.expected}") from e
    kind = create_model("ObjectiveSettings", __base__=(ObjectiveSettings, options))
    return kind.model_validate(dict(table))


# Any objective, with its own options.
AnyObjective = Annotated[SerializeAsAny[ObjectiveSettings], BeforeValidator(_objective_settings)]


def check_levels(objective: ObjectiveSettings, network: str) -> None:
    """Refuse an objective that needs more of a network than it can.

    Raises:
        ValueError: The network takes no noisy field and level.
    """
    if objective.build(None).levels and not getattr(NETWORKS.load(network), "takes_level", False):
        able = [name for name in NETWORKS.built_in if getattr(NETWORKS.load(name), "takes_level", False)]
        raise ValueError(
            f"objective.name {objective.name} needs a network that takes a noisy field and its level, such as "
            f"{' or '.join(able)}; {network} does not"
        )


class NetworkRecipe(Recipe):
    """A network, what it reads, what it is asked for, and how it is trained."""

    objective: AnyObjective = ObjectiveSettings()

    inputs: InputSettings = InputSettings()
    targets: TargetsSettings = TargetsSettings()
    loss: LossSettings = LossSettings()
    training: TrainingSettings = TrainingSettings()

    @property
    def emulator_kind(self) -> str:
        """What its trained network is saved as: ``trajectory`` where outputs are among its inputs, else ``neural``."""
        return "trajectory" if self.inputs.states else "neural"

    def network_channels(self, encoded: int) -> int:
        """Input channels of its network, for frames of so many: noise of the objective comes on top."""
        return encoded + self.objective.build(None).noise_channels

    @model_validator(mode="after")
    def _loss_that_can_act(self) -> NetworkRecipe:
        loss, training = self.loss, self.training
        objective = self.objective.build(None)
        wrong = trajectory_problem(self, objective)
        if wrong:
            raise ValueError(wrong)
        if objective.single_runs and training.segments.members == "mean":
            raise ValueError(
                f"objective.name {self.objective.name} learns from single runs: "
                "training.segments.members must be all or random, not mean"
            )
        check_levels(self.objective, self.emulator)
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


def trajectory_problem(recipe: NetworkRecipe, objective: Objective) -> str:
    """What is wrong with states as inputs, or with their rollout; empty where nothing is."""
    segments = recipe.training.segments
    if recipe.inputs.states and (segments.members, segments.mix) != ("all", "any"):
        return (
            "inputs.states are of single runs, in any order: training.segments.members must be all, and "
            "training.segments.mix any"
        )
    if not isinstance(objective, Rollout):
        return ""
    if not recipe.inputs.states:
        return "objective.name rollout feeds states back: inputs.states must name some"
    if segments.length != objective.longest:
        return (
            f"training.segments.length is {segments.length}, and objective.lengths of a rollout end at "
            f"{objective.longest}: they must be the same"
        )
    boundaries = objective.curriculum.boundaries
    if boundaries and boundaries[-1] >= recipe.training.epochs:
        return (
            f"objective.boundaries end at epoch {boundaries[-1]:g}, after training.epochs "
            f"{recipe.training.epochs}: the last length would never be used"
        )
    return ""


class FinishedRun(Settings):
    """A run that is wrapped as it is.

    Attributes:
        folder: Where it lies; not a part of what decides the numbers.
        identity: Digest of what decided its numbers.
    """

    folder: str
    identity: str = Field(pattern=r"^[0-9a-f]{64}$")


class Base(Settings):
    """What a wrapper wraps.

    Attributes:
        recipe: How it is trained. In a recipe file: a name, or a table that is laid over the recipe of its `emulator`.
        copies: How many of it, each with a seed of its own.
        run: A finished run to take as it is, in the place of a recipe. In a recipe file: its folder.
    """

    recipe: SerializeAsAny[Recipe]
    copies: int = Field(1, ge=1, le=100)
    run: FinishedRun | None = None

    @model_validator(mode="after")
    def _one_run(self) -> Base:
        if self.run and self.copies > 1:
            raise ValueError("a finished run is one: leave copies out")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Recipes without finished runs keep the digests that they had before there were any.
        values: dict[str, Any] = dump(self)
        return values if self.run else {k: v for k, v in values.items() if k != "run"}


class WrapperRecipe(Recipe):
    """An emulator made of others.

    Attributes:
        bases: The others, in the order in which it takes them.
    """

    bases: tuple[Base, ...] = Field(min_length=1)

    @property
    def parts(self) -> list[tuple[Recipe, int]]:
        """What it is made of, copies one by one: recipe and what is added to the seed."""
        return [(b.recipe, copy * seeds_within(b.recipe)) for b in self.bases for copy in range(b.copies)]

    @property
    def finished(self) -> dict[int, FinishedRun]:
        """Those of its parts that are finished runs, by number."""
        runs = [b.run for b in self.bases for _ in range(b.copies)]
        return {number: run for number, run in enumerate(runs) if run}

    @model_validator(mode="after")
    def _takes_so_many(self) -> WrapperRecipe:
        kind, number = EMULATORS.load(self.emulator), sum(b.copies for b in self.bases)
        if kind.most_bases is not None and number > kind.most_bases:
            raise ValueError(f"{self.emulator} wraps {kind.most_bases}, not {number}, bases")
        if number < kind.least_bases:
            raise ValueError(f"{self.emulator} wraps {kind.least_bases} bases or more, not {number}")
        finished = [i for i, b in enumerate(self.bases) if b.run]
        if finished and kind.cross_fitted:
            raise ValueError(f"{self.emulator} trains its bases again, without a scenario: none of them may be a run")
        if kind.residual and any(finished[1:] if finished[:1] == [0] else finished):
            raise ValueError(f"{self.emulator} trains networks on what its first base leaves: only that may be a run")
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
            if name in EMULATORS and getattr(EMULATORS.load(name), "varied", False):
                raise ValueError(f"{self.emulator} wraps what says the mean over runs; {name} varies as a run does")
        for base in self.bases if kind.needs_error(**self.options) else ():
            name = base.recipe.emulator
            if name not in EMULATORS or not getattr(EMULATORS.load(name), "knows_error", False):
                raise ValueError(
                    f"model.uncertain needs a base that knows how far off it may be, as additive-gp; {name} does not"
                )
        return self


class PartTraining(Settings):
    """How a network of a generator is trained: on all months of all training runs, in a new order every epoch.

    Nothing is selected on validation: the averaged weights of the last epoch are kept.

    Attributes:
        epochs: Passes over the training months.
        per_batch: Months of a batch.
        optimizer: AdamW and its schedule.
        average: Averages of weights.
        precision: As of other networks.
        checkpoint_minutes: A checkpoint is written after every epoch, and within one when this much time has passed.
        lengths: Months of the trajectories that a predictor is trained on, each from the blocks that it drew before,
            one length after the other.
        boundaries: Epochs after which the next length is used, one fewer than lengths.
        recompute: Keep the blocks between months alone, and compute what is between them again for the gradient: less
            memory, a third more time.
    """

    epochs: int = Field(10, ge=1, le=1_000_000)
    per_batch: int = Field(64, ge=1, le=1_000_000)
    optimizer: OptimizerSettings = OptimizerSettings()
    average: AverageSettings = AverageSettings(kind="ema", decay=0.999)
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    checkpoint_minutes: float = Field(5.0, gt=0)
    lengths: tuple[int, ...] = (1,)
    boundaries: tuple[float, ...] = ()
    recompute: bool = False

    @property
    def curriculum(self) -> Curriculum:
        """The lengths of trajectories.

        Raises:
            RecipeError: They do not grow, or the boundaries do not fit them.
        """
        return Curriculum(self.lengths, self.boundaries, "predictor.training")

    def whole(self) -> TrainingSettings:
        """The same as settings of the training loop."""
        values = self.model_dump(exclude={"per_batch", "lengths", "boundaries", "recompute"})
        segments = {"length": 1, "per_batch": self.per_batch, "members": "all"}
        return TrainingSettings.model_validate({**values, "segments": segments, "validate_every": self.epochs})


class PartSettings(Settings):
    """A network of a generator.

    Attributes:
        network: Its name.
        model: Its own options.
        objective: What it is trained for.
        training: How.
    """

    network: str
    model: Settings
    objective: AnyObjective = ObjectiveSettings()
    training: PartTraining = PartTraining()

    @model_validator(mode="after")
    def _can_be_trained(self) -> PartSettings:
        check_levels(self.objective, self.network)
        if self.objective.build(None).trajectory:
            raise ValueError(f"objective.name: {self.objective.name} feeds states back, and a month is drawn alone")
        return self


def _part_settings(value: object) -> object:
    """A table checked against the signature of the network that it names."""
    if isinstance(value, PartSettings) or not isinstance(value, Mapping):
        return value
    name = value.get("network")
    if not isinstance(name, str):
        raise ValueError(f"network must be one of {', '.join(NETWORKS)}, not {name!r}")
    try:
        options = options_of(NETWORKS.load(name), CONTEXT)
    except RecipeError as e:
        raise ValueError(f"{e.what}; known: {e.expected}") from e
    kind = create_model("PartSettings", __base__=PartSettings, model=(options, options()))
    return kind.model_validate(dict(value))


class GeneratorRecipe(WrapperRecipe):
    """An emulator that gives its base variability, by networks of its own.

    Attributes:
        predictor: Draws the next blocks of cells.
        projector: Draws the details of all cells.
    """

    predictor: Annotated[SerializeAsAny[PartSettings], BeforeValidator(_part_settings)]
    projector: Annotated[SerializeAsAny[PartSettings], BeforeValidator(_part_settings)]

    @property
    def trains(self) -> bool:
        """Whether its networks are trained: an option `learned` may say that they are not."""
        return bool(self.options.get("learned", True))

    @model_validator(mode="after")
    def _draws_at_all(self) -> GeneratorRecipe:
        name = self.predictor.objective.name
        if not self.predictor.objective.build(None).draws:
            raise ValueError(f"predictor.objective.name {name} draws nothing: crps, interpolant or diffusion")
        training = self.predictor.training
        if training.curriculum.longest > 1 and name != CRPS:
            raise ValueError(f"predictor.training.lengths: trajectories are scored by the CRPS, and not by {name}")
        if training.curriculum.longest == 1 and training.recompute:
            raise ValueError(
                "predictor.training.recompute is for trajectories of several months: predictor.training.lengths"
            )
        if training.boundaries and training.boundaries[-1] >= training.epochs:
            raise ValueError(
                f"predictor.training.boundaries end at epoch {training.boundaries[-1]:g}, after "
                f"predictor.training.epochs {training.epochs}: the last length would never be used"
            )
        own = self.projector.training
        if own.lengths != (1,) or own.boundaries or own.recompute:
            raise ValueError("projector.training: lengths, boundaries and recompute are those of a predictor")
        return self


# Of emulators in emulators; no shipped recipe has more than three.
DEEPEST = 20


def networks_of(recipe: Recipe) -> list[NetworkRecipe]:
    """The networks that a recipe trains."""
    if isinstance(recipe, WrapperRecipe):
        trained = [part for number, (part, _) in enumerate(recipe.parts) if number not in recipe.finished]
        return [network for part in trained for network in networks_of(part)]
    return [recipe] if isinstance(recipe, NetworkRecipe) else []


def network_paths(recipe: Recipe) -> dict[str, NetworkRecipe]:
    """Networks by what stands before their settings in `--set`: nothing, or ``bases.1.recipe.`` and so on."""
    if isinstance(recipe, WrapperRecipe):
        return {
            f"bases.{i}.recipe.{path}": network
            for i, b in enumerate(recipe.bases)
            if not b.run
            for path, network in network_paths(b.recipe).items()
        }
    return {"": recipe} if isinstance(recipe, NetworkRecipe) else {}


def seeds_within(recipe: Recipe) -> int:
    """How many seeds a run takes, from its own on: runs of seeds nearer than that share networks."""
    if not isinstance(recipe, WrapperRecipe):
        return 1
    return max(1 if base.run else base.copies * seeds_within(base.recipe) for base in recipe.bases)


def recipe_class(emulator: str) -> type[Recipe]:
    """The recipe class of one emulator, its `model` table made from the emulator's signature.

    Raises:
        RecipeError: There is no emulator of that name, it cannot be imported, or it has no method `fit`.
    """
    if is_network(emulator):
        return _recipe_class(NetworkRecipe, NETWORKS.load(emulator), CONTEXT)
    if emulator in EMULATORS and EMULATORS[emulator].made_as != "stepwise":
        kind, entry = EMULATORS.load(emulator), EMULATORS[emulator]
        if not callable(getattr(kind, "fit", None)):
            raise RecipeError(
                f"{emulator} cannot be fitted", found=f"no `fit` in {entry.target}", expected="a class method `fit`"
            )
        base: type[Recipe] = WrapperRecipe if entry.made == "wrapper" else Recipe
        generates = entry.made == "wrapper" and kind.trains_networks
        # The seed of a run is not part of its recipe.
        given = (("seed",) if entry.seeded else ()) + (("train",) if generates else ())
        return _recipe_class(GeneratorRecipe if generates else base, kind.fit, given)
    raise unknown_emulator(emulator)


@cache
def _recipe_class(base: type[Recipe], function: Callable[..., Any], context: tuple[str, ...]) -> type[Recipe]:
    options = options_of(function, context)
    return create_model(base.__name__, __base__=base, model=(options, options()))


def parse_recipe(values: Mapping[str, Any], source: str) -> Recipe:
    """Check plain values as a recipe.

    Raises:
        RecipeError: No or an unknown emulator, unknown or mistyped keys (all of them listed).
    """
    values = with_present_names(values)
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
