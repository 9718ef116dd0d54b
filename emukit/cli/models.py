"""What `emukit models` lists."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from emukit.config import toml_value
from emukit.data.encodings import CYCLES, STATIC, cycles_of
from emukit.emulators.registry import EMULATORS
from emukit.losses.named import LOSSES
from emukit.losses.registry import TERMS
from emukit.models.registry import NETWORKS, count_parameters
from emukit.recipes.describe import settings_of
from emukit.recipes.load import load_recipe, sizes_of
from emukit.recipes.names import plugin_models, recipe_names
from emukit.recipes.plugins import REGISTRIES
from emukit.recipes.schema import NetworkRecipe, networks_of

# Sizes are those on the competition's grid; CO2 and CH4 are series there, which makes no difference to a channel count.
GRID = (48, 72)
SIZES_NOTE = f"Parameters are those on the competition's grid of {GRID[0]} x {GRID[1]} cells; other grids have others."


def model_rows() -> Iterator[tuple[str, str, str]]:
    """Name, size and use of every emulator and shipped recipe."""
    plugins = plugin_models()
    for name in recipe_names():
        if name in plugins:
            # Nothing of a package is imported to list it.
            yield name, "plug-in", plugins[name].problem or plugins[name].origin
            continue
        recipe = load_recipe(name)
        networks = networks_of(recipe)
        size = f"{sum(network_size(n) for n in networks):,}" if networks else "closed form"
        entry = NETWORKS.get(recipe.emulator) or EMULATORS[recipe.emulator]
        yield name, size, recipe.description or entry.summary


def network_size(recipe: NetworkRecipe) -> int:
    """Parameters of a recipe's network on the competition's grid, with its inputs."""
    inputs = recipe.inputs
    channels = len(inputs.forcings)
    channels += sum(len(cycle.channels) for cycle in cycles_of(inputs.seasonal, "year"))
    channels += sum(len(STATIC.load(n).channels) if n in STATIC else 1 for n in inputs.statics)
    return count_parameters(
        recipe.emulator,
        in_channels=recipe.network_channels(channels),
        variables=2,
        grid=GRID,
        history=inputs.window.history,
        options=recipe.options,
    )


def setting_rows(name: str) -> Iterator[tuple[str, str, str, str]]:
    """Every setting of a recipe by dotted path, with its value, what it may be, and what it means."""
    for setting in settings_of(load_recipe(name)):
        value = "not set" if setting.value is None else toml_value(setting.value)
        yield setting.path, value, setting.form, setting.meaning


def plugin_lines() -> Iterator[str]:
    """Components of installed packages that are no model, and those that are not used."""
    for registry in REGISTRIES.values():
        if registry not in (NETWORKS, EMULATORS) and registry.plugins:
            found = (f"{name} ({entry.problem or entry.origin})" for name, entry in registry.plugins.items())
            yield f"{registry.kind}s of packages: {', '.join(found)}"
        yield from registry.ignored
    for registry in (NETWORKS, EMULATORS):
        for name in registry.plugins.keys() - plugin_models().keys():
            package = registry.plugins[name].distribution
            yield f"the {registry.kind} {name} of {package} is ignored: emukit has that name"


def choice_lines(name: str) -> Iterator[str]:
    """What may be named in settings that hold names, and the sizes of a recipe's network."""
    sized = {s: load_recipe(name, assignments=(f"model.size={s}",)) for s in sizes_of(load_recipe(name).emulator)}
    sizes = [f"{s} ({network_size(r):,} parameters)" for s, r in sized.items() if isinstance(r, NetworkRecipe)]
    if sizes:
        yield f"model.size: {', '.join(sizes)}"
    yield "loss terms:"
    yield from (f"  {name} ({TERMS[name].summary})" for name in TERMS)
    yield "losses for --loss, each as a recipe's [loss] table:"
    for name, table in LOSSES.items():
        yield f"  {name}: " + "; ".join(f"{key} = {_inline(value)}" for key, value in table.items())
    yield f"seasonal encodings: {', '.join(CYCLES)}"
    yield f"statics: {', '.join(STATIC)}, and the fields of the store or of inputs.static_file"


def _inline(value: Any) -> str:
    # As TOML writes it on one line; numbers, texts and truths are written as in JSON.
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_inline(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)
