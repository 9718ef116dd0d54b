"""What a study is: one question, asked of variants of a recipe.

Invariant: a variant is a shipped recipe with single settings laid over it, nothing else; so each of its runs is what
one `emukit train` command trains, and that command can be told.

A study file names a base recipe and what is varied: named variants, and axes, every combination of whose values is a
variant too. Settings are written as for `--set`, by dotted path.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from emukit.config import Settings, check, read_toml, toml_value
from emukit.errors import RecipeError
from emukit.files import shipped
from emukit.recipes.load import load_recipe

if TYPE_CHECKING:
    from emukit.recipes.schema import Recipe

FOLDER = "ablations"
# What the first variant is called where a study does not name it.
BASE = "base"
# Of a folder next to that of the runs.
NAME_WORDS = "up to 60 letters, digits, dots, dashes and underscores, no dot first, and not runs"
NAME = r"^(?!\.)(?!runs$)[\w.-]{1,60}$"
# Of a setting, as `--set` takes it.
PATH = re.compile(r"[\w-]+(\.[\w-]+)*")
# No setting here has a range beyond these.
LARGEST = 1e15
# More runs of one study than this are a mistake in its axes.
MOST_VARIANTS = 200
MOST_SECONDS = 366 * 86400


def _dotted(settings: dict[str, Any]) -> dict[str, Any]:
    for path, value in settings.items():
        if not PATH.fullmatch(path):
            raise ValueError(f"{path!r} is not a dotted path, such as training.epochs")
        if "." not in path and isinstance(value, Mapping):
            raise ValueError(
                f'a path is one key, in quotes: "{path}.{next(iter(value), "")}" = ..., and tables no settings'
            )
    return settings


# Dotted path to value.
Paths = Annotated[dict[str, Any], AfterValidator(_dotted)]


class Variant(Settings):
    """One thing that is compared.

    Attributes:
        name: In tables.
        recipe: What is trained; the study's base when None. Settings of the study are for its base alone.
        settings: Dotted path to value, laid over the recipe.
        members: Training members; all when None.
    """

    name: str = Field(min_length=1)
    recipe: str | None = None
    settings: Paths = Field(default_factory=dict)
    members: tuple[int, ...] | None = None

    @field_validator("members")
    @classmethod
    def _some_once(cls, members: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if members is not None and (not members or len(set(members)) < len(members)):
            raise ValueError("members are one or more numbers, each once")
        return members


class Axis(Settings):
    """A setting, and the values it takes: each in turn, or, of a study with trials, what a search asks for.

    Attributes:
        path: Dotted, as for `--set`.
        values: Any that TOML has.
        low, high: In the place of values, the ends of a range that is searched; whole numbers where both are.
        log: Whether the range is searched on a logarithmic scale.
        label: What stands for the path in names; the last part of it when None.
    """

    path: str = Field(min_length=1)
    values: tuple[Any, ...] | None = Field(None, min_length=1)
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    label: str | None = None

    @model_validator(mode="after")
    def _values_or_a_range(self) -> Axis:
        if not PATH.fullmatch(self.path):
            raise ValueError(f"{self.path!r} is not a dotted path, such as training.epochs")
        ends = (self.low, self.high)
        if (self.values is None) == (ends == (None, None)):
            raise ValueError("an axis has values, or low and high")
        if self.values is not None:
            if self.log:
                raise ValueError("log is for low and high")
        elif self.low is None or self.high is None or not -LARGEST <= self.low < self.high <= LARGEST:
            raise ValueError(f"low and high are numbers up to {LARGEST:g}, the lower one first")
        elif self.log and self.low <= 0:
            raise ValueError("the low end of a range with log lies above zero")
        return self

    def ends(self) -> tuple[Any, ...]:
        """All its values, or both ends of its range."""
        return (self.low, self.high) if self.values is None else self.values

    @property
    def number(self) -> float:
        """How many values it takes; of a range that is not of whole numbers, infinitely many."""
        if self.values is not None:
            return len({json.dumps(value, default=str) for value in self.values})
        return self.high - self.low + 1 if isinstance(self.low, int) and isinstance(self.high, int) else math.inf

    def word(self, value: Any) -> str:
        """A value of it in the name of a variant."""
        return f"{self.path.rpartition('.')[2] if self.label is None else self.label}={_name(value)}"


class Study(Settings):
    """A study file.

    Attributes:
        name: Of the folder of its results; that of the file when it names none.
        question: What it asks.
        finding: What others found, with the source.
        base: Recipe of every variant that names none; with `settings` it is the first variant, with which all others
            are compared.
        settings: Of the base, and of every variant of it.
        base_name: What the first variant is called.
        base_members: Training members of the first variant, and of every one made from axes; all when None.
        variants: Named ones.
        axes: Every combination of their values is a variant; with trials, what is searched.
        trials: So many variants are searched for on the axes, one after the other, or as many as there are
            combinations, where these are fewer; none when None.
        together: Trials that are asked for before the scores of any of them are known.
        seeds: Runs of each variant under each protocol, where a seed decides anything.
        protocols: As for `emukit evaluate --protocols`; the card's default when None.
        match: With a budget, all variants train the same number of ``epochs``, or epochs of the same ``cost``.
        budget: Time that all runs together may take, such as 30m; epochs are those of the recipes when None.
    """

    name: str = ""
    question: str = Field(min_length=1)
    finding: str = ""
    base: str
    settings: Paths = Field(default_factory=dict)
    base_name: str = Field(BASE, min_length=1)
    base_members: tuple[int, ...] | None = None
    variants: tuple[Variant, ...] = ()
    axes: tuple[Axis, ...] = ()
    trials: int | None = Field(None, ge=1, lt=MOST_VARIANTS)
    together: int = Field(4, ge=1)
    seeds: int = Field(3, ge=1, le=1000)
    protocols: str | None = None
    match: Literal["epochs", "cost"] = "epochs"
    budget: str | None = None

    @field_validator("name")
    @classmethod
    def _folder(cls, name: str) -> str:
        if not re.fullmatch(NAME, name):
            raise ValueError(f"{NAME_WORDS}, not {name!r}")
        return name

    @field_validator("budget")
    @classmethod
    def _time(cls, text: str | None) -> str | None:
        if text is not None:
            seconds_of(text)
        return text

    @model_validator(mode="after")
    def _variants_apart(self) -> Study:
        if not self.variants and not self.axes:
            raise ValueError("a study has [[variants]], or [[axes]], or both")
        paths = [axis.path for axis in self.axes]
        if len(set(paths)) < len(paths):
            raise ValueError("several axes have the same path; one axis has all values of a setting")
        if self.trials and not self.axes:
            raise ValueError("trials search [[axes]], and there are none")
        ranges = [axis.path for axis in self.axes if axis.values is None]
        if ranges and not self.trials:
            raise ValueError(f"a range is searched, so the study needs trials = 20, say: {', '.join(ranges)}")
        number = len(self.variants) + (self.trials or 0)
        if self.axes and not self.trials:
            number += math.prod(len(axis.values or ()) for axis in self.axes)
        if number >= MOST_VARIANTS:
            raise ValueError(f"{number} variants; a study has fewer than {MOST_VARIANTS}")
        names = [v.name for v in self.all_variants()]
        # Of trials, names are made of these.
        names += [axis.word(value) for axis in self.axes for value in axis.ends()] if self.trials else []
        odd = [n for n in names if not n.isprintable() or not n.strip()]
        if odd:
            raise ValueError(f"the name of a variant is one line of letters and signs, not {odd[0]!r}")
        twice = sorted({v.name for v in self.all_variants() if names.count(v.name) > 1})
        if twice:
            raise ValueError(f"several variants are called {', '.join(twice)}")
        return self

    def all_variants(self) -> list[Variant]:
        """The base first, then the named ones, then those of the axes; recipe and settings of each in full.

        Without those that are searched, which are not known yet.
        """
        base = Variant(name=self.base_name, recipe=self.base, settings=self.settings, members=self.base_members)
        named = [
            Variant(
                name=v.name,
                recipe=v.recipe or self.base,
                settings=({} if v.recipe else self.settings) | v.settings,
                members=v.members,
            )
            for v in self.variants
        ]
        return [base, *named, *(v for v in self._combined() if v.settings != base.settings)]

    def _combined(self) -> list[Variant]:
        if self.trials or not self.axes:
            return []
        return [self.on_axes(values) for values in itertools.product(*(axis.values or () for axis in self.axes))]

    def on_axes(self, values: Sequence[Any], name: str = "") -> Variant:
        """The variant with a value on every axis, which its name tells after the name that is given."""
        over = {axis.path: value for axis, value in zip(self.axes, values, strict=True)}
        words = [axis.word(value) for axis, value in zip(self.axes, values, strict=True)]
        return Variant(
            name=" ".join([name] * bool(name) + words),
            recipe=self.base,
            settings=self.settings | over,
            members=self.base_members,
        )

    @property
    def number_of_trials(self) -> int:
        """How many variants are searched for: each combination once, so never more than there are."""
        combinations = math.prod(axis.number for axis in self.axes)
        return int(min(self.trials or 0, combinations))

    @property
    def digest(self) -> str:
        """SHA-256 of what all variants are compared with; these, seeds, protocols and trials may be added."""
        asked: list[Any] = [self.all_variants()[0].model_dump(mode="json"), self.match]
        if self.trials:
            asked += [[axis.model_dump(mode="json") for axis in self.axes], self.together]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def load_study(named: str) -> Study:
    """A shipped study by its name, or one from a file.

    Raises:
        RecipeError: There is none of that name, the file cannot be read, or something in it is wrong.
    """
    path = Path(named)
    if path.suffix != ".toml":
        if named not in study_names():
            raise RecipeError(
                f"there is no study {named!r}",
                expected=f"a file NAME.toml, or one of {', '.join(study_names())}",
                hint="`emukit ablate --list` says what each of them asks",
            )
        path = shipped("baselines", FOLDER) / f"{named}.toml"
    values = read_toml(path)
    if "name" not in values and not re.fullmatch(NAME, path.stem):
        raise RecipeError(
            f"a study cannot be called as the file {path} is",
            found=repr(path.stem),
            expected=NAME_WORDS,
            hint='give it a name in the file: name = "mine"',
        )
    hint = "fix the keys named above; the files of shipped studies in baselines/ablations/ show what may stand there"
    return check(Study, {"name": path.stem} | values, source=str(path), hint=hint)


def study_names() -> tuple[str, ...]:
    """The shipped studies."""
    return tuple(sorted(p.stem for p in shipped("baselines", FOLDER).glob("*.toml")))


def recipe_of(variant: Variant, epochs: int | None = None) -> Recipe:
    """The recipe of a variant, with another number of epochs where one is given and there are any.

    Raises:
        RecipeError: A setting is unknown or wrong.
    """
    name = str(variant.recipe)
    try:
        return load_recipe(name, None, assignments(variant, epochs))
    except RecipeError as e:
        raise RecipeError(
            f"variant {variant.name!r}: {e.what}", found=e.found, expected=e.expected, hint="fix the study's file"
        ) from e


def assignments(variant: Variant, epochs: int | None = None) -> list[str]:
    """The settings of a variant as words for `--set`."""
    words = [f"{path}={toml_value(value)}" for path, value in variant.settings.items()]
    if epochs is not None:
        words += [f"{path}={epochs}" for path in epoch_paths(load_recipe(str(variant.recipe), None, words))]
    return words


def refuse_untrainable(study: Study) -> None:
    """Refuse axes that are searched and of which a value, or an end, makes no recipe: before hours of training.

    Raises:
        RecipeError: There is such a value.
    """
    first = [axis.ends()[0] for axis in study.axes]
    for place, axis in enumerate(study.axes if study.trials else ()):
        for value in axis.ends():
            recipe_of(study.on_axes([*first[:place], value, *first[place + 1 :]]))


def train_words(variant: Variant, data: Sequence[str], epochs: int | None, protocol: str, seed: int) -> tuple[str, ...]:
    """Of the `emukit train` that trains a run of a variant, on the data that options open."""
    words = ["train", str(variant.recipe), *data]
    for word in assignments(variant, epochs):
        words += ["--set", word]
    words += ["--protocol", protocol, "--seed", str(seed)]
    words += ["--members", ",".join(map(str, variant.members))] if variant.members is not None else []
    return tuple(words)


def epoch_paths(recipe: Recipe) -> list[str]:
    """Where a recipe says how long each network of it trains; none where nothing is trained by epochs."""
    from emukit.recipes.schema import network_paths

    return [f"{path}training.epochs" for path in network_paths(recipe)]


def seconds_of(text: str) -> float:
    """A time such as 90s, 30m, 1.5h or 2d in seconds.

    Raises:
        ValueError: It is not a time.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhd])\s*", text)
    seconds = float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else 0.0
    if not 0 < seconds <= MOST_SECONDS:
        raise ValueError(f"{text!r} is not a time of up to a year; 90s, 30m, 1.5h and 2d are")
    return seconds


def _name(value: Any) -> str:
    """A value in the name of a variant."""
    if isinstance(value, Mapping):
        return " ".join(f"{k} {_name(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "+".join(map(_name, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
