"""Which forcings a recipe reads, and which of them the data have.

Invariant: a recipe that comes from here reads nothing that the data lack. Every forcing that is missing is known before
anything is fitted or written, all of them at once; what a shipped recipe would read is left out of it and said.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

from emukit.config import toml_value
from emukit.data.archive import Archive
from emukit.data.split import Split
from emukit.emulators.features import check_feature, forcing_of
from emukit.emulators.forcing_space import ForcingSpace
from emukit.emulators.registry import EMULATORS
from emukit.errors import EmukitError, ProtocolError
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.recipes.names import recipe_names
from emukit.recipes.schema import NetworkRecipe, Recipe, WrapperRecipe, recipe_class

R = TypeVar("R", bound=Recipe)
Names = tuple[str, ...]


def fit_forcings(recipe: R, archive: Archive, split: Split, reporter: Reporter) -> R:
    """A recipe without the forcings of shipped recipes that the data lack; any other recipe comes back as it is.

    Args:
        recipe: What is to be trained. Lists of forcings that are those of a shipped recipe lose what is missing, as
            long as something is left; lists that somebody chose are taken at their word.
        archive: The data.
        split: Forcings are needed in the scenarios that it trains on and scores.
        reporter: Is told what was left out.

    Raises:
        ProtocolError: Forcings that were chosen are missing, or nothing is left of a shipped list; all of them are
            named, with settings that work.
    """
    spans = [*split.train, *(s for spans in split.scored.values() for s in spans)]
    scenarios = tuple(dict.fromkeys(s.scenario for s in spans))
    missing: dict[str, tuple[Names, dict[str, str]]] = {}
    fitted = _fitted(recipe, "", archive, scenarios, missing, reporter)
    if missing:
        had = [n for n in archive[scenarios[0]].forcings if all(n in archive[s].forcings for s in scenarios)]
        settings = []
        for path, (names, why) in missing.items():
            kept = [n for n in names if n not in why] or had
            settings.append(f"--set {shlex.quote(f'{path}={toml_value(kept)}')}")
        raise ProtocolError(
            "the recipe reads forcings that the data do not have",
            found="\n            ".join(f"{path}: {'; '.join(why.values())}" for path, (_, why) in missing.items()),
            expected=f"some of {', '.join(had)}, which all scenarios of {split.protocol} have",
            hint=" ".join(settings),
        )
    return fitted


def trained_in(recipe: Recipe, archive: Archive, split: Split) -> ForcingSpace | None:
    """The training years among the global means of all forcings that a recipe reads.

    None of a recipe that reads none, or where there is no whole year.
    """
    read = [n for leaf in _leaves(recipe) for names in _lists(leaf).values() for n in names]
    names = dict.fromkeys(found for n in read if (found := forcing_of(n)))
    with suppress(ProtocolError):
        return ForcingSpace.of_training(archive, split.train, [*names]) if names else None
    return None


def _fitted(
    recipe: R,
    prefix: str,
    archive: Archive,
    scenarios: Sequence[str],
    missing: dict[str, tuple[Names, dict[str, str]]],
    reporter: Reporter,
) -> R:
    """One recipe and its bases; what cannot be left out is put into `missing` by the path of its setting."""
    changed: dict[str, Any] = {}
    for path, names in _lists(recipe).items():
        wrong = {n: why for n in names if (why := _missing(recipe, n, archive, scenarios))}
        left = tuple(n for n in names if n not in wrong)
        if not wrong:
            continue
        if left and names in _shipped_lists(recipe.emulator, path):
            changed[path] = left
            reporter.say(f"note: {prefix}{path} without {', '.join(wrong)}: {'; '.join(wrong.values())}")
        else:
            missing[prefix + path] = names, wrong
    if isinstance(recipe, WrapperRecipe):
        bases = tuple(
            base
            if base.run
            else base.model_copy(
                update={
                    "recipe": _fitted(base.recipe, f"{prefix}bases.{i}.recipe.", archive, scenarios, missing, reporter)
                }
            )
            for i, base in enumerate(recipe.bases)
        )
        recipe = recipe.model_copy(update={"bases": bases})
    return _changed(recipe, changed) if changed else recipe


def _lists(recipe: Recipe) -> dict[str, Names]:
    """The forcings or features that a recipe reads itself, by the path of the setting."""
    if isinstance(recipe, NetworkRecipe):
        return {"inputs.forcings": recipe.inputs.forcings}
    read = EMULATORS.load(recipe.emulator).forcings_read(recipe.options)
    return {f"model.{option}": tuple(names) for option, names in read.items()}


def _missing(recipe: Recipe, name: str, archive: Archive, scenarios: Sequence[str]) -> str:
    """Why a forcing or feature cannot be had in some scenario; empty where it can."""
    for scenario in scenarios:
        if isinstance(recipe, NetworkRecipe):
            if name not in archive[scenario].forcings:
                return f"no {name} in {scenario}"
            continue
        try:
            check_feature(name, archive[scenario], archive.grid)
        except EmukitError as e:
            return e.what if not e.found or isinstance(e, ProtocolError) else f"{e.what}: {e.found}"
    return ""


def _changed(recipe: R, changed: Mapping[str, Names]) -> R:
    """A recipe with other lists, and without what it says of names that are no longer in them."""
    if isinstance(recipe, NetworkRecipe):
        inputs = recipe.inputs.model_copy(update={"forcings": changed["inputs.forcings"]})
        return recipe.model_copy(update={"inputs": inputs})
    before = _lists(recipe)
    gone = {n for names in before.values() for n in names}
    gone -= {n for path, names in before.items() for n in changed.get(path, names)}
    options: dict[str, Any] = {path.removeprefix("model."): names for path, names in changed.items()}
    for option, value in recipe.options.items():
        if isinstance(value, Mapping) and any(isinstance(own, Mapping) for own in value.values()):
            options[option] = {k: {n: x for n, x in own.items() if n not in gone} for k, own in value.items()}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=options)})


@cache
def _shipped_lists(emulator: str, path: str) -> frozenset[Names]:
    """What shipped recipes, and an emulator's defaults, read by a setting."""
    default = recipe_class(emulator).model_fields["model"].default
    leaves = [leaf for name in recipe_names() for leaf in _leaves(load_recipe(name)) if leaf.emulator == emulator]
    lists = [_lists(leaf).get(path) for leaf in leaves]
    lists.append(getattr(default, path.removeprefix("model."), None))
    return frozenset(tuple(names) for names in lists if names)


def _leaves(recipe: Recipe) -> Iterator[Recipe]:
    yield recipe
    for base in recipe.bases if isinstance(recipe, WrapperRecipe) else ():
        yield from _leaves(base.recipe)
