"""Recipes by name: the shipped values, with files, single settings and bases laid over them.

Invariant: what comes last wins, key by key, but for the tables of a loss, which replace each other; and nothing is
checked before everything is laid together, then all of it at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from emukit.config import merge, parse_assignments, read_toml
from emukit.errors import RecipeError
from emukit.files import shipped
from emukit.losses.named import named_loss
from emukit.models.registry import NETWORKS
from emukit.recipes.names import FAST, emulator_names, recipe_names, unknown_emulator
from emukit.recipes.schema import Recipe, base_tables, network_paths, parse_recipe


def fast_name(name: str) -> str:
    """The shipped recipe that is to answer much the same in less time: that of the name with ``-fast`` behind it.

    Raises:
        RecipeError: There is none, or nothing of that name at all.
    """
    names = recipe_names()
    if name not in names:
        raise unknown_emulator(name)
    if f"{name}{FAST}" not in names:
        those = [n.removesuffix(FAST) for n in names if n.endswith(FAST)]
        raise RecipeError(
            f"there is no fast recipe of {name}",
            expected=f"one that has one: {', '.join(those) or 'none is shipped'}",
            hint=f"leave --fast out{f', or name {those[0]}' if those else ''}",
        )
    return f"{name}{FAST}"


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
    assignments = tuple(assignments)
    if loss is not None:
        if values["emulator"] not in NETWORKS:
            paths = network_paths(load_recipe(name, file, assignments))
            words = " ".join(
                f"--set '{path}loss.{v}={{l1=1.0}}'"
                for path, network in paths.items()
                for v in network.loss.tables or ("default",)
            )
            raise RecipeError(
                f"{name} has no loss of its own" if paths else f"{name} trains no network and has no loss",
                hint=f"in the place of --loss, say, {words}" if paths else "leave --loss out",
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
        tables, known = changes.get("loss"), values.get("loss")
        if path.partition(".")[0] == "loss" and isinstance(tables, Mapping) and isinstance(known, Mapping):
            whole = {v for v, table in tables.items() if path in ("loss", f"loss.{v}") and isinstance(table, Mapping)}
            values = {**values, "loss": {k: v for k, v in known.items() if k not in whole}}
    source = f"{source} with --set" if changes else source
    single = changes.pop("bases", {})
    values = merge(values, changes)
    if "bases" in values:
        values["bases"] = _load_bases(base_tables(values, source), single, source)
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
        values["bases"] = _load_bases(base_tables(values, source), single, source)
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
        raise unknown_emulator(name)
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
