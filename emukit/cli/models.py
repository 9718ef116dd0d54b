"""What `emukit models` lists."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from emukit.cache import find_answer, keep_answer
from emukit.emulators.registry import EMULATORS
from emukit.files import read_text
from emukit.models.registry import NETWORKS
from emukit.objectives.registry import OBJECTIVES
from emukit.recipes.catalogue import plugin_models, recipe_names
from emukit.recipes.load import load_recipe, shipped_recipe

if TYPE_CHECKING:
    from emukit.recipes.schema import GeneratorRecipe, NetworkRecipe

# Sizes are those on the competition's grid; CO2 and CH4 are series there, which makes no difference to a channel count.
GRID = (48, 72)
# Settings of a training that downscaling refuses.
NOT_OF_BLOCKS = ("training.segments.", "training.accumulate")
SIZES_NOTE = f"Parameters are those on the competition's grid of {GRID[0]} x {GRID[1]} cells; other grids have others."


def model_rows() -> Iterator[tuple[str, str, str]]:
    """Name, size and use of every emulator and shipped recipe."""
    plugins = plugin_models()
    texts = {n: read_text(path) if (path := shipped_recipe(n)) else "" for n in recipe_names() if n not in plugins}
    # To check the recipes and to count their networks takes torch and seconds.
    key = {"recipes": hashlib.sha256(json.dumps(texts).encode()).hexdigest()}
    rows = find_answer("models", key)
    if not _are_rows(rows):
        rows = [list(_model_row(name)) for name in texts]
        keep_answer("models", key, rows)
    yield from map(tuple, rows)
    # Nothing of a package is imported to list it.
    for name, entry in plugins.items():
        yield name, "plug-in", entry.problem or entry.origin


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and len(row) == 3 and all(isinstance(cell, str) for cell in row) for row in value
    )


def _model_row(name: str) -> tuple[str, str, str]:
    from emukit.recipes.schema import GeneratorRecipe, networks_of

    recipe = load_recipe(name)
    networks = networks_of(recipe)
    size = f"{sum(network_size(n) for n in networks):,}" if networks else "closed form"
    if isinstance(recipe, GeneratorRecipe) and recipe.trains:
        size = f"{generator_size(recipe):,}"
    entry = NETWORKS.get(recipe.emulator) or EMULATORS[recipe.emulator]
    return name, size, recipe.description or entry.summary


def network_size(recipe: NetworkRecipe) -> int:
    """Parameters of a recipe's network on the competition's grid, with its inputs."""
    from emukit.data.encodings import STATIC, cycles_of
    from emukit.models.registry import count_parameters

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


def generator_size(recipe: GeneratorRecipe) -> int:
    """Parameters of a generator's own networks on the competition's grid."""
    from emukit.emulators.internal_state import block_channels, detail_channels
    from emukit.models.registry import count_parameters

    options, blocks = recipe.options, (GRID[0] // recipe.options["block"], GRID[1] // recipe.options["block"])
    sizes = (
        (recipe.predictor, block_channels(2, options["history"], options["memory"]), blocks),
        (recipe.projector, detail_channels(2), GRID),
    )
    return sum(
        count_parameters(
            part.network,
            in_channels=channels + part.objective.build(None).noise_channels,
            variables=2,
            grid=grid,
            history=1,
            options=part.model.model_dump(mode="python"),
        )
        for part, channels, grid in sizes
    )


def setting_rows(name: str) -> Iterator[tuple[str, str, str, str]]:
    """Every setting of a recipe by dotted path, with its value, what it may be, and what it means."""
    from emukit.config import toml_value
    from emukit.recipes.describe import settings_of
    from emukit.recipes.downscale import DOWNSCALE, load_downscale

    for setting in settings_of(load_downscale() if name == DOWNSCALE else load_recipe(name)):
        if name == DOWNSCALE and setting.path.startswith(NOT_OF_BLOCKS):
            continue
        value = "not set" if setting.value is None else toml_value(setting.value)
        yield setting.path, value, setting.form, setting.meaning


def plugin_lines() -> Iterator[str]:
    """Components of installed packages that are not models, and those that are not used."""
    from emukit.recipes.catalogue import REGISTRIES

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
    from emukit.data.encodings import CYCLES, STATIC
    from emukit.losses.registry import LOSSES, TERMS
    from emukit.recipes.downscale import DOWNSCALE
    from emukit.recipes.load import sizes_of
    from emukit.recipes.schema import NetworkRecipe

    if name == DOWNSCALE:
        from emukit.models.block_unet import BlockUNet

        yield f"model.size: {', '.join(BlockUNet.SIZES)}"
        yield from _objective_lines(trajectories=False)
        yield "docs/downscaling.md says more of them"
        return
    sized = {s: load_recipe(name, assignments=(f"model.size={s}",)) for s in sizes_of(load_recipe(name).emulator)}
    sizes = [f"{s} ({network_size(r):,} parameters)" for s, r in sized.items() if isinstance(r, NetworkRecipe)]
    if sizes:
        yield f"model.size: {', '.join(sizes)}"
    yield from _objective_lines(trajectories=True)
    yield "loss terms:"
    yield from (f"  {name} ({TERMS[name].summary})" for name in TERMS)
    yield "losses for --loss, each as a recipe's [loss] table:"
    for name, table in LOSSES.items():
        yield f"  {name}: " + "; ".join(f"{key} = {_inline(value)}" for key, value in table.items())
    yield f"seasonal encodings: {', '.join(CYCLES)}"
    yield f"statics: {', '.join(STATIC)}, and the fields of the store or of inputs.static_file"


def _objective_lines(*, trajectories: bool) -> Iterator[str]:
    yield "objectives for objective.name:"
    for name, entry in OBJECTIVES.items():
        if entry.problem or trajectories or not OBJECTIVES.load(name).trajectory:
            yield f"  {name} ({entry.problem or entry.summary or entry.origin})"


def _inline(value: Any) -> str:
    # As TOML writes it on one line; numbers, texts and truths are written as in JSON.
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_inline(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)
