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
from emukit.recipes.load import load_recipe, shipped_recipe
from emukit.recipes.names import recipe_names

if TYPE_CHECKING:
    from emukit.recipes.schema import NetworkRecipe

# Sizes are those on the competition's grid; CO2 and CH4 are series there, which makes no difference to a channel count.
GRID = (48, 72)
SIZES_NOTE = f"Parameters are those on the competition's grid of {GRID[0]} x {GRID[1]} cells; other grids have others."


def model_rows() -> Iterator[tuple[str, str, str]]:
    """Name, size and use of every emulator and shipped recipe."""
    texts = {name: read_text(path) if (path := shipped_recipe(name)) else "" for name in recipe_names()}
    # To check the recipes and to count their networks takes torch and seconds.
    key = {"recipes": hashlib.sha256(json.dumps(texts).encode()).hexdigest()}
    rows = find_answer("models", key)
    if not _are_rows(rows):
        rows = [list(_model_row(name)) for name in texts]
        keep_answer("models", key, rows)
    yield from map(tuple, rows)


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(row, list) and len(row) == 3 and all(isinstance(cell, str) for cell in row) for row in value
    )


def _model_row(name: str) -> tuple[str, str, str]:
    from emukit.recipes.schema import networks_of

    recipe = load_recipe(name)
    networks = networks_of(recipe)
    size = f"{sum(network_size(n) for n in networks):,}" if networks else "closed form"
    entry = NETWORKS.get(recipe.emulator) or EMULATORS[recipe.emulator]
    return name, size, recipe.description or entry.summary


def network_size(recipe: NetworkRecipe) -> int:
    """Parameters of a recipe's network on the competition's grid, with its inputs."""
    from emukit.data.encodings import SEASONAL, STATIC
    from emukit.models.registry import count_parameters

    inputs = recipe.inputs
    channels = len(inputs.forcings)
    channels += sum(len(SEASONAL[n][0]) for n in inputs.seasonal)
    channels += sum(len(STATIC[n][0]) if n in STATIC else 1 for n in inputs.statics)
    return count_parameters(
        recipe.emulator,
        in_channels=channels,
        variables=2,
        grid=GRID,
        history=inputs.window.history,
        options=recipe.options,
    )


def setting_rows(name: str) -> Iterator[tuple[str, str]]:
    """Every setting of a recipe by dotted path, with its value."""
    return _flat("", load_recipe(name).model_dump(mode="json"))


def choice_lines(name: str) -> Iterator[str]:
    """What may be named in settings that hold names, and the sizes of a recipe's network."""
    from emukit.data.encodings import SEASONAL, STATIC
    from emukit.losses.composite import TERMS
    from emukit.losses.named import LOSSES
    from emukit.recipes.load import sizes_of
    from emukit.recipes.schema import NetworkRecipe

    sized = {s: load_recipe(name, assignments=(f"model.size={s}",)) for s in sizes_of(load_recipe(name).emulator)}
    sizes = [f"{s} ({network_size(r):,} parameters)" for s, r in sized.items() if isinstance(r, NetworkRecipe)]
    if sizes:
        yield f"model.size: {', '.join(sizes)}"
    yield f"loss terms: {', '.join(TERMS)}"
    yield "losses for --loss, each as a recipe's [loss] table:"
    for name, table in LOSSES.items():
        yield f"  {name}: " + "; ".join(f"{key} = {_inline(value)}" for key, value in table.items())
    yield f"seasonal encodings: {', '.join(SEASONAL)}"
    yield f"statics: {', '.join(STATIC)}, and the fields of the store or of inputs.static_file"


def _inline(value: Any) -> str:
    # As TOML writes it on one line; numbers, texts and truths are written as in JSON.
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_inline(v)}" for k, v in value.items()) + " }"
    return json.dumps(value)


def _flat(prefix: str, values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict) and value:
            yield from _flat(f"{prefix}{key}.", value)
        else:
            yield f"{prefix}{key}", repr(value)
