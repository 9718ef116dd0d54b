"""Recipes fitted to data: which forcings they read, and what they say of which variable.

Invariant: a recipe that comes from here reads nothing that the data lack, and says for each of their variables, and for
no other, how it is normalised and by which loss it is learned. What is missing is known before anything is fitted or
written, all of it at once; what a shipped recipe would read, or says of an absent variable, is left out of it and said.
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
from emukit.data.variable import ROOTS
from emukit.emulators.features import ForcingSpace, check_feature, forcing_of
from emukit.emulators.registry import EMULATORS
from emukit.errors import EmukitError, ProtocolError, RecipeError
from emukit.losses.registry import LOSSES
from emukit.models.registry import NETWORKS, asks
from emukit.progress import Reporter
from emukit.recipes.catalogue import own_names
from emukit.recipes.load import load_recipe
from emukit.recipes.schema import (
    NetworkRecipe,
    Recipe,
    TargetsSettings,
    WrapperRecipe,
    networks_of,
    recipe_class,
)
from emukit.training.settings import LossSettings

R = TypeVar("R", bound=Recipe)
Names = tuple[str, ...]


def fit_recipe(recipe: R, archive: Archive, split: Split, reporter: Reporter) -> R:
    """A recipe for the variables of the data, without the forcings of shipped recipes that they lack.

    A recipe whose emulator does not know the steps of the data is refused first, or reads them into memory where they
    do not fit, or computes with states that they do not hold.

    Args:
        recipe: What is to be trained. Lists of forcings that are those of a shipped recipe lose what is missing, as
            long as something is left; lists that somebody chose are taken at their word.
        archive: The data.
        split: Forcings are needed in the scenarios that it trains on and scores.
        reporter: Is told what was left out.

    Raises:
        ProtocolError: Forcings that were chosen are missing, or nothing is left of a shipped list; all of them are
            named, with settings that work. Or an emulator of the recipe does not know the time axis of the data.
        RecipeError: As `fit_variables`.
    """
    for leaf in _leaves(recipe):
        if not isinstance(leaf, NetworkRecipe):
            EMULATORS[leaf.emulator].load().check_steps(archive)
    _refuse_on_disk(recipe, archive)
    _refuse_without_states(recipe, archive)
    recipe = fit_variables(recipe, archive, reporter)
    spans = [*split.train, *(s for spans in split.scored.values() for s in spans)]
    scenarios = tuple(dict.fromkeys(s.scenario for s in spans))
    missing: dict[str, tuple[Names, dict[str, str]]] = {}
    fitted = _fitted(recipe, "", archive, scenarios, missing, reporter)
    if missing:
        if not any(archive[s].forcings for s in scenarios):
            raise ProtocolError(
                "the data have no forcings, which the recipe reads",
                found=f"{archive.source} with {', '.join(archive.variables)} alone",
                hint="a network that reads the states before: --set 'inputs.states=[...]'; for references, persistence "
                "and climatology",
            )
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


def _refuse_on_disk(recipe: Recipe, archive: Archive) -> None:
    if not archive.on_disk:
        return
    alone = not isinstance(recipe, NetworkRecipe | WrapperRecipe)
    if not (alone and EMULATORS[recipe.emulator].load().streams):
        raise ProtocolError(
            f"{recipe.emulator} trains in memory, into which the data do not fit",
            found=f"{archive.source}, {archive.grid.shape[0]} x {archive.grid.shape[1]} cells",
            expected="an emulator that is fitted a year at a time: typical-year, delta-change, linear, climx-lps, "
            "climatology",
            hint="one of these, coarser data (the lite files of ClimX), or a machine with more memory",
        )


def _refuse_without_states(recipe: Recipe, archive: Archive) -> None:
    """Refuse a network that computes with states where the data are no sequence of them."""
    for network in networks_of(recipe):
        states = network.inputs.states
        if asks(NETWORKS.load(network.emulator)) and not set(states) & set(archive.variables):
            wanted = f"with {', '.join(states)}" if states else "whose outputs --set inputs.states=[...] names"
            raise ProtocolError(
                f"{network.emulator} computes with states, and these data are no sequence of them",
                found=f"{archive.time.unit}s of {', '.join(archive.variables)} in {archive.source}",
                expected=f"states of the atmosphere one after the other, such as six-hourly ones, {wanted}",
                hint="such data (docs/forecasts.md), or another network: `emukit models` lists them",
            )


def fit_variables(recipe: R, archive: Archive, reporter: Reporter | None = None) -> R:
    """A recipe that says of each variable of the data what it said by default, and nothing of others.

    Args:
        recipe: What is to be trained. What shipped recipes say of a variable that the data lack is left out; what
            somebody chose is taken at their word.
        archive: The data.
        reporter: Is told what was left out.

    Raises:
        RecipeError: A loss or a target setting of a variable that the data lack, a variable without a loss, or a loss
            or transform that cannot act on it.
    """
    said: list[str] = []
    fitted = _for_variables(recipe, "", archive, said, residual=False)
    for line in said if reporter else ():
        assert reporter is not None
        reporter.note(f"the data have no such variable: without {line}")
    return fitted


def _for_variables(recipe: R, prefix: str, archive: Archive, said: list[str], *, residual: bool) -> R:
    """One recipe and its bases; `residual`: a network that learns what another emulator leaves."""
    if isinstance(recipe, NetworkRecipe):
        return recipe.model_copy(update=_network_tables(recipe, prefix, archive, said, residual))
    if isinstance(recipe, WrapperRecipe):
        apart = EMULATORS.load(recipe.emulator).residual
        bases = []
        for i, base in enumerate(recipe.bases):
            if base.run:
                bases.append(base)
                continue
            path = f"{prefix}bases.{i}.recipe."
            inner = _for_variables(base.recipe, path, archive, said, residual=apart and i > 0)
            bases.append(base.model_copy(update={"recipe": inner}))
        recipe = recipe.model_copy(update={"bases": tuple(bases)})
    options: dict[str, Any] = {}
    for option in EMULATORS.load(recipe.emulator).by_variable:
        value = recipe.options[option]
        gone = [
            v
            for v, own in _by_variable(value).items()
            if v not in archive.variables and own in _shipped_options(recipe.emulator, option).get(v, ())
        ]
        if gone:
            said += [f"{prefix}model.{option}.{v}" for v in gone]
            kept = {v: own for v, own in _by_variable(value).items() if v not in gone}
            options[option] = kept if isinstance(value, Mapping) else tuple(kept)
    return recipe.model_copy(update={"model": recipe.model.model_copy(update=options)}) if options else recipe


def _network_tables(
    recipe: NetworkRecipe, prefix: str, archive: Archive, said: list[str], residual: bool
) -> dict[str, Any]:
    """`loss` and `targets` of a network for exactly the variables of the data."""
    variables, tables = archive.variables, recipe.loss.tables
    absent = [v for v in tables if v not in variables]
    chosen = [v for v in absent if tables[v] not in _shipped_losses().get(v, ())]
    wrong = [f"{prefix}loss.{v}" for v in chosen]
    wrong += [f"{prefix}targets.{v}" for v in recipe.targets.tables if v not in variables]
    if wrong:
        raise RecipeError(
            f"the recipe says {', '.join(wrong)}, and the data have no such variable",
            found=f"{archive.source} with {', '.join(variables)}",
            expected=f"tables of {', '.join(variables)}, or of default",
            hint="remove them, or correct the name",
        )
    said += [f"{prefix}loss.{v}" for v in absent]
    loss = recipe.loss.for_variables(variables)
    still = [v for v in variables if recipe.training.segments.length == 1 and loss.of(v).get("time_std")]
    if still:
        raise RecipeError(
            f"{', '.join(f'{prefix}loss.{v}.time_std' for v in still)} cannot act on segments of one month",
            found=f"{prefix}training.segments.length=1, and the loss of {', '.join(still)} is the default",
            expected="a loss of single months, or longer segments",
            hint=f"--set '{prefix}loss.default={{mse=1.0}}'",
        )
    targets = {}
    for variable in archive.domain.described:
        own = recipe.targets.of(variable.name)
        # What another emulator leaves is negative half of the time.
        plain = residual and own.transform == "card" and variable.transform in ROOTS
        own = own.model_copy(update={"transform": "none"}) if plain else own.known(variable)
        if own.transform in ROOTS and not variable.never_negative:
            raise RecipeError(
                f"{prefix}targets.{variable.name}.transform = {own.transform} is for what is never negative",
                found=f"values from {variable.range[0]:g} {variable.units}, and no lower bound in the data card",
                expected="none or yeo-johnson",
                hint=f"--set {prefix}targets.{variable.name}.transform=yeo-johnson",
            )
        targets[variable.name] = own
    return {"loss": loss, "targets": TargetsSettings.model_validate({**targets, "default": None})}


def _by_variable(value: Any) -> dict[str, Any]:
    """What an option says by variable: a table of them, or a list of their names."""
    return dict(value) if isinstance(value, Mapping) else dict.fromkeys(value or ())


@cache
def _shipped_losses() -> dict[str, list[dict[str, float]]]:
    """The tables that shipped recipes and losses have, by variable."""
    found: dict[str, list[dict[str, float]]] = {}
    for name in own_names():
        for network in networks_of(load_recipe(name)):
            for v, terms in network.loss.tables.items():
                found.setdefault(v, []).append(terms)
    for table in LOSSES.values():
        for v, terms in LossSettings.model_validate(dict(table)).tables.items():
            found.setdefault(v, []).append(terms)
    return found


@cache
def _shipped_options(emulator: str, option: str) -> dict[str, list[Any]]:
    """What shipped recipes of an emulator say in an option, by variable."""
    found: dict[str, list[Any]] = {}
    for leaf in (leaf for name in own_names() for leaf in _leaves(load_recipe(name)) if leaf.emulator == emulator):
        for v, own in _by_variable(leaf.options[option]).items():
            found.setdefault(v, []).append(own)
    return found


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
        with_states = isinstance(recipe, NetworkRecipe) and recipe.inputs.states
        if (left or with_states) and names in _shipped_lists(recipe.emulator, path):
            changed[path] = left
            whys = dict.fromkeys(_absent(n, archive, scenarios) or why for n, why in wrong.items())
            rest = f" ({', '.join(left)} stay)" if left else ""
            reporter.note(f"{prefix}{path} without {', '.join(wrong)}: {'; '.join(whys)}{rest}")
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


def _absent(name: str, archive: Archive, scenarios: Sequence[str]) -> str:
    """The first scenario without the forcing of a feature, in words that hold for other names as well."""
    forcing = forcing_of(name)
    for scenario in scenarios:
        if forcing and forcing not in archive[scenario].forcings:
            return f"not in scenario {scenario}"
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
    leaves = [
        leaf
        for name in dict.fromkeys((*own_names(), emulator))
        for leaf in _leaves(load_recipe(name))
        if leaf.emulator == emulator
    ]
    lists = [_lists(leaf).get(path) for leaf in leaves]
    lists.append(getattr(default, path.removeprefix("model."), None))
    return frozenset(tuple(names) for names in lists if names)


def _leaves(recipe: Recipe) -> Iterator[Recipe]:
    yield recipe
    for base in recipe.bases if isinstance(recipe, WrapperRecipe) else ():
        yield from _leaves(base.recipe)
