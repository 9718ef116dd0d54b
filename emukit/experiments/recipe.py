"""Recipes: everything that decides what is trained, except the data, the split and the seed.

Invariant: a recipe names one emulator, and every option in it was checked against that emulator's own signature. The
same checked recipe comes from the command line, from a TOML file and from the record in a run folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import Field, SerializeAsAny, create_model, model_validator

from emukit.config import Settings, check, merge, options_of, parse_assignments, read_toml
from emukit.data.frames import InputSettings
from emukit.data.targets import TargetSettings
from emukit.emulators.registry import EMULATORS
from emukit.errors import RecipeError
from emukit.files import shipped
from emukit.losses.named import named_loss
from emukit.models.registry import CONTEXT, NETWORKS
from emukit.training.settings import LossSettings, TrainingSettings

FAST = "-fast"


class TargetsSettings(Settings):
    """How each target variable is normalised."""

    tas: TargetSettings = TargetSettings()
    pr: TargetSettings = TargetSettings()


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
        # Where the arrays live changes no number: a run may go on where they have to live elsewhere.
        place = {"training": {"segments": {"residency"}}}
        text = json.dumps(self.model_dump(mode="json", exclude={"description": True, **place}), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


class NetworkRecipe(Recipe):
    """A network, what it reads, what it is asked for, and how it is trained."""

    inputs: InputSettings = InputSettings()
    targets: TargetsSettings = TargetsSettings()
    loss: LossSettings = LossSettings()
    training: TrainingSettings = TrainingSettings()

    @model_validator(mode="after")
    def _loss_that_can_act(self) -> NetworkRecipe:
        loss, training = self.loss, self.training
        idle = [f"loss.{v}.time_std" for v, terms in (("tas", loss.tas), ("pr", loss.pr)) if terms.get("time_std")]
        if idle and training.segments.length == 1:
            raise ValueError(f"{' and '.join(idle)} cannot act on segments of one month, training.segments.length")
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
            if {targets.tas.transform, targets.pr.transform} & {"log1p", "sqrt"}:
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


def is_random(recipe: Recipe) -> bool:
    """Whether the seed of a run decides anything: weights of networks, or what an emulator that is `seeded` draws."""
    if isinstance(recipe, NetworkRecipe):
        return True
    parts = [base.recipe for base in recipe.bases] if isinstance(recipe, WrapperRecipe) else []
    return getattr(EMULATORS[recipe.emulator].load(), "seeded", False) or any(map(is_random, parts))


def seeds_within(recipe: Recipe) -> int:
    """How many seeds a run takes, from its own on: runs of seeds nearer than that share networks."""
    if not isinstance(recipe, WrapperRecipe):
        return 1
    return max(base.copies * seeds_within(base.recipe) for base in recipe.bases)


def emulator_names() -> tuple[str, ...]:
    """Everything `emukit train` can train."""
    return (*(n for n, e in EMULATORS.items() if e.made != "stepwise"), *NETWORKS)


def recipe_names() -> tuple[str, ...]:
    """Every name that a command takes: emulators, and shipped recipes of other names."""
    files = sorted(p.stem for p in shipped("baselines", ".").glob("*.toml") if p.stem != "published")
    return tuple(dict.fromkeys((*emulator_names(), *files)))


def fast_name(name: str) -> str:
    """The shipped recipe that is to answer much the same in less time: that of the name with ``-fast`` behind it.

    Raises:
        RecipeError: There is none, or nothing of that name at all.
    """
    names = recipe_names()
    if name not in names:
        raise _unknown(name)
    if f"{name}{FAST}" not in names:
        those = [n.removesuffix(FAST) for n in names if n.endswith(FAST)]
        raise RecipeError(
            f"there is no fast recipe of {name}",
            expected=f"one that has one: {', '.join(those) or 'none is shipped'}",
            hint=f"leave --fast out{f', or name {those[0]}' if those else ''}",
        )
    return f"{name}{FAST}"


def _unknown(name: str) -> RecipeError:
    close = get_close_matches(name.lower(), recipe_names(), n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return RecipeError(
        f"unknown emulator {name!r}",
        expected=", ".join(recipe_names()),
        hint=f"{meant}`emukit models` lists what can be trained",
    )


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
        options = options_of(kind.fit, ("seed",) if getattr(kind, "seeded", False) else ())
    else:
        raise _unknown(emulator)
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
        values = {**values, "bases": [_parse_base(b, i, source) for i, b in enumerate(_bases(values, source))]}
    return check(kind, values, source=source)


def _bases(values: Mapping[str, Any], source: str) -> list[dict[str, Any]]:
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


def load_recipe(
    name: str, file: Path | None = None, assignments: Iterable[str] = (), loss: str | None = None
) -> Recipe:
    """The recipe of a name: the shipped one, overlaid with a named loss, a file, and single settings, in this order.

    Each of the three may name a preset, `model.size`: its options are laid over the sources before and under the
    explicit ones of its own source.

    Args:
        name: An emulator, or a shipped recipe of another name such as ``cnn-gru-published``.
        file: A TOML recipe; what it does not set keeps its default.
        assignments: ``a.b=c`` words.
        loss: A shipped loss, which replaces the shipped recipe's.

    Raises:
        RecipeError: Unknown name, a loss for what is not trained by one, unreadable file, another emulator in the file,
            an unknown size, or wrong settings.
    """
    values, source = shipped_values(name), f"recipe {name}"
    if loss is not None:
        if values["emulator"] not in NETWORKS:
            raise RecipeError(
                f"{name} is not a network and has no loss of its own",
                hint=f"emukit train {name}, alone; a network in it takes --set bases.1.recipe.loss.tas={{l1=1.0}}",
            )
        values["loss"], source = named_loss(loss), f"{source} with loss {loss}"
    if file is not None:
        over = read_toml(file)
        if over.get("emulator", values["emulator"]) != values["emulator"]:
            raise RecipeError(
                f"{file} is a recipe for another emulator",
                found=str(over["emulator"]),
                expected=str(values["emulator"]),
                hint=f"emukit train {over['emulator']} --recipe {file}",
            )
        # A loss table is a recipe for one variable: it replaces the default one rather than mixing with it.
        values, source = _lay_over(values, over), str(file)
    assignments = tuple(assignments)
    changes = expand_size(parse_assignments(assignments), values["emulator"])
    if changes.get("emulator", values["emulator"]) != values["emulator"]:
        raise RecipeError(
            f"{source} is of another emulator than --set names",
            found=str(changes["emulator"]),
            expected=str(values["emulator"]),
            hint=f"emukit train {changes['emulator']}",
        )
    for path in (word.partition("=")[0].strip() for word in assignments):
        # A whole table in one word replaces the recipe's, as a file's does; loss.tas.l1=1 is a term of its own.
        for variable in ("tas", "pr"):
            if path in ("loss", f"loss.{variable}") and variable in changes["loss"] and "loss" in values:
                values = {**values, "loss": {k: v for k, v in values["loss"].items() if k != variable}}
    source = f"{source} with --set" if changes else source
    single = changes.pop("bases", {})
    values = merge(values, changes)
    if "bases" in values:
        values["bases"] = _load_bases(_bases(values, source), single, source)
    return parse_recipe(values, source)


def _lay_over(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with those of another source on top."""
    # A loss table is a recipe for one variable: it replaces the default one rather than mixing with it.
    tables = over.get("loss", {})
    kept = {k: v for k, v in values.get("loss", {}).items() if not isinstance(tables, Mapping) or k not in tables}
    under = {**values, "loss": kept} if "loss" in values else values
    return merge(under, expand_size(over, values["emulator"]))


def _load_bases(bases: list[dict[str, Any]], single: Any, source: str) -> list[dict[str, Any]]:
    """Bases with the whole recipe in the place of its name, or of a table over it; then single settings of theirs."""
    inner: dict[int, Mapping[str, Any]] = {}
    for key, change in single.items() if isinstance(single, Mapping) else [("", single)]:
        if key.isdecimal() and int(key) < len(bases) and not isinstance(change, Mapping):
            raise RecipeError(
                f"{source} sets bases.{key} to what is no table",
                found=repr(change),
                expected=f"bases.{key}.recipe=NAME, or another setting of it",
            )
        if not key.isdecimal() or int(key) >= len(bases):
            raise RecipeError(
                f"{source} has no base {key or repr(change)}",
                found=f"{len(bases)} bases",
                expected="bases.NUMBER.KEY=VALUE, the first being number 0",
                hint="--set bases.0.recipe=linear",
            )
        base = bases[int(key)]
        named, over = base.get("recipe"), change.get("recipe")
        if isinstance(over, Mapping) and isinstance(over.get("bases"), Mapping):
            inner[int(key)] = over["bases"]
            over = {k: v for k, v in over.items() if k != "bases"}
            change = {**change, "recipe": over}
        if isinstance(named, str) and isinstance(over, Mapping):
            base = {**base, "recipe": {"emulator": named}}
        bases[int(key)] = merge(base, change)
    return [
        {**b, "recipe": _load_base(b.get("recipe"), inner.get(i, {}), f"{source}, bases.{i}")}
        for i, b in enumerate(bases)
    ]


def _load_base(recipe: Any, single: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The plain values of a base's whole recipe, with single settings of its own bases."""
    over = {"emulator": recipe} if isinstance(recipe, str) else recipe
    if not isinstance(over, Mapping) or not isinstance(over.get("emulator"), str):
        raise RecipeError(
            f"{source} names no emulator", found=repr(recipe), expected="a name, or a table with a key emulator"
        )
    values = shipped_values(over["emulator"])
    values = _lay_over(values, {k: v for k, v in over.items() if k not in ("emulator", "bases")})
    if "bases" in over:
        values["bases"] = over["bases"]
    if single and "bases" not in values:
        raise RecipeError(
            f"{source} has no bases of its own",
            found=", ".join(f"bases.{key}" for key in single),
            expected=f"settings of {values['emulator']}, which wraps nothing",
        )
    if "bases" in values:
        values["bases"] = _load_bases(_bases(values, source), single, source)
    return values


def shipped_values(name: str) -> dict[str, Any]:
    """The plain values of a shipped recipe, or of an emulator without one.

    Raises:
        RecipeError: There is no such name.
    """
    values: dict[str, Any] = {"emulator": name}
    path = shipped_recipe(name)
    if path is not None:
        return expand_size(merge(values, read_toml(path)))
    if name not in emulator_names():
        raise _unknown(name)
    return values


def sizes_of(emulator: str) -> dict[str, dict[str, Any]]:
    """Presets of an emulator's options by name; ``default`` sets nothing."""
    presets = getattr(NETWORKS[emulator].load(), "SIZES", {}) if emulator in NETWORKS else {}
    return {"default": {}} | presets


def expand_size(values: Mapping[str, Any], emulator: str | None = None) -> dict[str, Any]:
    """Put the options of a preset in the place of `model.size`, under the other settings of the same `model` table.

    Args:
        values: Plain values of one source: a recipe file, or a command line's settings.
        emulator: Whose presets; default: the one that the values name.

    Raises:
        RecipeError: The emulator has no preset of that name.
    """
    model = values.get("model")
    if not isinstance(model, Mapping) or "size" not in model:
        return dict(values)
    emulator = emulator or str(values.get("emulator"))
    sizes, size = sizes_of(emulator), model["size"]
    if not isinstance(size, str) or size not in sizes:
        raise RecipeError(
            f"unknown size {size!r} of {emulator}", expected=", ".join(sizes), hint=f"--set model.size={[*sizes][-1]}"
        )
    explicit = {k: v for k, v in model.items() if k != "size"}
    return {**values, "model": merge(sizes[size], explicit)}


def shipped_recipe(name: str) -> Path | None:
    """The file of a shipped recipe, or None."""
    if not name.replace("-", "").replace("_", "").isalnum():
        return None
    path = shipped("baselines", ".") / f"{name}.toml"
    return path if path.exists() else None
