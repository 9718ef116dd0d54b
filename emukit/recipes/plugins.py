"""What a recipe takes from outside emukit.

Invariant: only a recipe that a user names lets ``module:Name`` be imported; the record of a run never does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from emukit.competitions.registry import COMPETITIONS
from emukit.data.card import CARDS
from emukit.data.encodings import CYCLES, STATIC
from emukit.emulators.registry import EMULATORS
from emukit.errors import RunError
from emukit.losses.registry import TERMS
from emukit.models.registry import NETWORKS
from emukit.objectives.registry import OBJECTIVES
from emukit.recipes.catalogue import is_network
from emukit.registry import Plugin, Registry

REGISTRIES: Mapping[str, Registry[Any]] = {
    r.kind: r for r in (NETWORKS, EMULATORS, OBJECTIVES, TERMS, CYCLES, STATIC, CARDS, COMPETITIONS)
}


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
