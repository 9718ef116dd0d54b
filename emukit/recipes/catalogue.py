"""What can be trained, by name; what the names in a record say; and what a recipe takes from outside emukit.

Invariant: nothing of emukit is imported here that trains or predicts, so that thousands of records are looked at in a
second. Only a recipe that a user names lets ``module:Name`` be imported; the record of a run never does.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

from emukit.competitions.registry import COMPETITIONS
from emukit.data.card import CARDS
from emukit.data.encodings import CYCLES, STATIC
from emukit.emulators.registry import EMULATORS, LATER_OPTIONS, present_name, with_former_names
from emukit.errors import RecipeError, RunError
from emukit.files import shipped
from emukit.losses.registry import TERMS
from emukit.models.registry import NETWORKS
from emukit.objectives.registry import OBJECTIVES
from emukit.registry import TARGET, Entry, Plugin, Registry

FAST = "-fast"
# The objective that networks had before there were others, as recipes say it.
REGRESSION = ({"name": "regression"}, "regression")
# A command line without quotes, escapes, and blanks other than spaces.
_PLAIN = re.compile(r"[\w ./:,=@%+~-]*", re.ASCII)
REGISTRIES: Mapping[str, Registry[Any]] = {
    r.kind: r for r in (NETWORKS, EMULATORS, OBJECTIVES, TERMS, CYCLES, STATIC, CARDS, COMPETITIONS)
}


def emulator_names() -> tuple[str, ...]:
    """Everything `emukit train` can train: emukit's own, and that of installed packages, of which none is imported."""
    return (*(n for n, e in EMULATORS.items() if e.made_as != "stepwise"), *NETWORKS)


def own_names() -> tuple[str, ...]:
    """Every name of emukit itself: its emulators, networks and shipped recipes."""
    fitted = (n for n, e in EMULATORS.built_in.items() if e.made_as != "stepwise")
    return tuple(dict.fromkeys((*fitted, *NETWORKS.built_in, *shipped_names())))


def is_network(name: str) -> bool:
    """Whether a name is that of a network; emukit's own emulators keep their names, whatever packages call theirs."""
    return name not in EMULATORS.built_in and name in NETWORKS


def plugin_models() -> dict[str, Entry]:
    """Networks and emulators of installed packages by name, without those whose names mean something of emukit."""
    own = {*EMULATORS.built_in, *own_names()}
    found: dict[str, Entry] = {**EMULATORS.plugins, **NETWORKS.plugins}
    return {name: entry for name, entry in found.items() if name not in own}


def recipe_names() -> tuple[str, ...]:
    """Every name that a command takes: emulators, and shipped recipes of other names."""
    return tuple(dict.fromkeys((*emulator_names(), *shipped_names())))


@cache
def shipped_names() -> tuple[str, ...]:
    """The recipes that emukit brings along: every file in ``baselines/``."""
    return tuple(sorted(p.stem for p in shipped("baselines", ".").glob("*.toml") if p.stem != "published"))


def unknown_emulator(name: str) -> RecipeError:
    """What is to be said of a name that no emulator and no shipped recipe has."""
    if NETWORKS.may_import(name):
        return RecipeError(
            f"{name} is neither a network nor an emulator",
            expected="a subclass of torch.nn.Module or of emukit.emulators.base.Emulator",
            hint="name the class itself, as module:Name",
        )
    if TARGET.fullmatch(name):
        error = NETWORKS.refusal(name)
        return RecipeError(error.what, expected=error.expected, hint=error.hint)
    close = get_close_matches(name.lower(), recipe_names(), n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return RecipeError(
        f"unknown emulator {name!r}",
        expected=", ".join(recipe_names()),
        hint=f"{meant}`emukit models` lists what can be trained",
    )


def is_random(recipe: Mapping[str, Any]) -> bool:
    """Whether the seed of a run decides anything: weights of networks, or what an emulator that is `seeded` draws.

    Args:
        recipe: Plain values.
    """
    name, bases = present_name(str(recipe.get("emulator"))), recipe.get("bases")
    if "training" in recipe or name in NETWORKS.built_in:
        return True
    # A package that is not installed any more, or is broken, must not hide all other runs.
    with suppress(RecipeError):
        if name in EMULATORS and EMULATORS[name].seeded:
            return True
    listed = [b for b in bases if isinstance(b, Mapping)] if isinstance(bases, list | tuple) else []
    # A finished run is what it is.
    inner = [b.get("recipe") for b in listed if not b.get("run")]
    return any(is_random(r) for r in inner if isinstance(r, Mapping))


def model_name(command: str, emulator: str) -> str:
    """The recipe that a command trained, by the name it has there.

    Args:
        command: That of a record or an entry.
        emulator: What it is called where the command names no shipped recipe.
    """
    words: list[str] = []
    if _PLAIN.fullmatch(command):
        # Without quotes the words are what stands between spaces; shlex reads sign by sign, which thousands notice.
        words = command.split()
    else:
        with suppress(ValueError):
            words = shlex.split(command)
    if "train" in words[:2] and words[-1] != "train":
        name = words[words.index("train") + 1] + (FAST if "--fast" in words else "")
        if present_name(name) in recipe_names():
            return present_name(name)
    return present_name(emulator)


def model_label(model: str) -> str:
    """What runs of a MODEL are called: its name, that of a recipe file, or of a class without its module.

    Args:
        model: As a command names it.
    """
    name = Path(model).stem if model.endswith(".toml") else model.partition(":")[2] or model
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)


def identity_digest(identity: Mapping[str, Any]) -> str:
    """SHA-256 of the plain values of the identity of a finished run, by which another one names it."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def recipe_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of everything in a recipe's plain values that decides the numbers."""
    # Where the arrays live changes no number: a run may continue where they have to live elsewhere.
    values = with_former_names(values)
    deciding = {k: v for k, v in values.items() if k != "description"} | _bases_as_before(values)
    # Regression was what a network was trained for before there were others.
    if deciding.get("objective") in REGRESSION:
        del deciding["objective"]
    deciding |= _model_as_before(values)
    model = deciding.get("model")
    if deciding.get("emulator") == "downscaled" and isinstance(model, Mapping):
        # Of a downscaler its digest decides, wherever it lies; recipes from before there was one know its folder alone.
        without = "downscaler" if model.get("digest") else "digest"
        deciding["model"] = {k: v for k, v in model.items() if k != without}
    training = deciding.get("training")
    if isinstance(training, Mapping) and isinstance(training.get("segments"), Mapping):
        segments = {k: v for k, v in training["segments"].items() if k != "residency"}
        deciding["training"] = {**training, "segments": segments}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()


def _model_as_before(values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an emulator, where there are any, without later ones at the value of the time before them."""
    model, later = values.get("model"), LATER_OPTIONS.get(str(values.get("emulator")))
    if later is None or not isinstance(model, Mapping):
        return {}
    return {"model": {k: v for k, v in model.items() if k not in later or v != later[k]}}


def _bases_as_before(values: Mapping[str, Any]) -> dict[str, Any]:
    """The bases of a recipe, where there are any, without what decides nothing.

    Of a finished run its identity decides, wherever it lies.
    """
    bases = values.get("bases")
    if not isinstance(bases, list | tuple):
        return {}
    kept = []
    for base in bases:
        if isinstance(base, Mapping) and isinstance(base.get("run"), Mapping):
            base = {**base, "run": {k: v for k, v in base["run"].items() if k != "folder"}}
        if isinstance(base, Mapping) and isinstance(base.get("recipe"), Mapping):
            recipe = {**with_former_names(base["recipe"]), **_bases_as_before(base["recipe"])}
            recipe |= _model_as_before(recipe)
            if recipe.get("objective") in REGRESSION:
                del recipe["objective"]
            base = {**base, "recipe": recipe}
        kept.append(base)
    return {"bases": kept}


def admit(values: Mapping[str, Any]) -> None:
    """Let every ``module:Name`` in the plain values of a user's recipe be imported, except for those of finished runs.

    Args:
        values: Of a whole recipe, or of any part of one, checked or not.
    """
    for kind, name in _named(values):
        # What a name is shows when it is imported.
        for registry in (NETWORKS, EMULATORS) if kind == "" else (REGISTRIES[kind],):
            registry.admit(name)


def plugins_of(values: Mapping[str, Any]) -> tuple[Plugin, ...]:
    """What is not emukit's own among the components that a checked recipe names.

    Args:
        values: Plain values of the recipe.
    """
    found: dict[Plugin, None] = {}
    for kind, name in _named(values, finished=True):
        registry: Registry[Any] = REGISTRIES[kind] if kind else NETWORKS if is_network(name) else EMULATORS
        # A static field may be one of the store's.
        if name in registry:
            found |= dict.fromkeys(registry.used([name]))
    return tuple(found)


def check_plugins(plugins: Iterable[Plugin], where: str) -> None:
    """Refuse to continue where something that a file needs is missing, or is of another package.

    Raises:
        RunError: It is; the message says what to install.
    """
    for plugin in plugins:
        if plugin.kind not in REGISTRIES:
            raise RunError(
                f"{where} needs a {plugin.kind}, which this version of emukit does not know",
                found=f"{plugin.name} of {plugin.package}",
                expected=", ".join(REGISTRIES),
                hint="use the version of emukit that wrote it",
            )
        REGISTRIES[plugin.kind].check(plugin, where)


def other_versions(plugins: Iterable[Plugin]) -> list[str]:
    """What is installed in another version than a file names, a sentence each."""
    lines = []
    for plugin in plugins:
        entry = REGISTRIES[plugin.kind].get(plugin.name)
        if entry and entry.version != plugin.version:
            lines.append(
                f"the {plugin.kind} {plugin.name} is of {entry.distribution} {entry.version}; "
                f"the run was trained with {plugin.version}"
            )
    return lines


def _named(values: Mapping[str, Any], finished: bool = False) -> Iterator[tuple[str, str]]:
    """Kind and name of every component in plain values, the kind of an emulator or network being empty."""
    if isinstance(values.get("emulator"), str):
        yield "", values["emulator"]
    loss, inputs, bases = (values.get(key) for key in ("loss", "inputs", "bases"))
    found = [(TERMS.kind, terms) for terms in (loss.values() if isinstance(loss, Mapping) else ())]
    if isinstance(inputs, Mapping):
        found += [(CYCLES.kind, inputs.get("seasonal")), (STATIC.kind, inputs.get("statics"))]
    objective = values.get("objective")
    found.append((OBJECTIVES.kind, [objective.get("name") if isinstance(objective, Mapping) else objective]))
    for kind, names in found:
        # Plain values are of any form before they are checked.
        listed = names if isinstance(names, list | tuple | Mapping) else ()
        yield from ((kind, name) for name in listed if isinstance(name, str))
    for part in (values.get("predictor"), values.get("projector")):
        if isinstance(part, Mapping):
            yield from (("", name) for name in (part.get("network"),) if isinstance(name, str))
            yield from _named({"objective": part.get("objective")})
    for base in bases if isinstance(bases, list | tuple) else bases.values() if isinstance(bases, Mapping) else ():
        if not isinstance(base, Mapping) or (base.get("run") and not finished):
            continue
        recipe = base.get("recipe")
        if isinstance(recipe, str):
            yield "", recipe
        elif isinstance(recipe, Mapping):
            yield from _named(recipe, finished)
