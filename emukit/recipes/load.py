"""Recipes by name or file, with files, single settings and bases laid over them.

Invariant: what comes last wins, key by key, except for the tables of a loss, which replace each other; and nothing is
checked before everything is laid together, then all of it at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emukit.config import merge, parse_assignments, read_toml
from emukit.emulators.registry import EMULATORS, present_name, with_present_names
from emukit.errors import RecipeError, RunError
from emukit.files import parse_json, read_text, shipped
from emukit.losses.registry import named_loss
from emukit.models.registry import NETWORKS
from emukit.recipes.catalogue import (
    FAST,
    admit,
    identity_digest,
    is_network,
    recipe_digest,
    recipe_names,
    unknown_emulator,
)

if TYPE_CHECKING:
    from emukit.recipes.schema import Recipe

# How a MODEL that is a recipe file ends.
TOML = ".toml"
# The networks of a generator, in its recipe.
PARTS = ("predictor", "projector")
# The emulator that names a downscaling run.
DOWNSCALED = "downscaled"
# The base of a recipe that says everything itself.
NO_BASE = "none"


def fast_name(name: str) -> str:
    """The shipped recipe that is to answer much the same in less time: that of the name with ``-fast`` behind it.

    Raises:
        RecipeError: There is none, or nothing of that name at all.
    """
    name, names = present_name(name), recipe_names()
    if name not in names and not name.endswith(TOML):
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
    """The recipe of a MODEL, overlaid with a named loss, a file, and single settings, in this order.

    A recipe file stands on the shipped recipe of its `emulator`, or on what it names as its `base`: a shipped recipe,
    or another file, whose path is relative to its own.

    Each of the three may name a preset, `model.size`: its options are laid over the sources before and under the
    explicit ones of its own source.

    Args:
        name: An emulator, a shipped recipe of another name such as ``cnn-gru-published``, a recipe file ending in
            ``.toml``, or a class as ``module:Name``.
        file: A TOML recipe; what it does not set keeps its default.
        assignments: ``a.b=c`` words.
        loss: A shipped loss, which replaces the shipped recipe's.

    Raises:
        RecipeError: Unknown name, a loss for what is not trained by one, unreadable file, another emulator in the file,
            an unknown size, or wrong settings.
    """
    # The schema knows every setting of a training, and imports torch; the names and files of recipes need none of it.
    from emukit.recipes.schema import base_tables, network_paths, parse_recipe

    values, source = _values_of(name), f"recipe {name}"
    assignments = tuple(assignments)
    if loss is not None:
        if not is_network(values["emulator"]):
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
        over = with_present_names(read_toml(file))
        admit(over)
        if "base" in over:
            over = _on_base(over, str(file), file.parent, ())
        if over.get("emulator", values["emulator"]) != values["emulator"]:
            raise RecipeError(
                f"{file} is a recipe for another emulator",
                found=str(over["emulator"]),
                expected=str(values["emulator"]),
                hint=f"emukit train {over['emulator']} --recipe {file}",
            )
        # A loss table is a recipe for one variable: it replaces the default one rather than mixing with it.
        values, source = _lay_over(values, over), str(file)
    changes = with_present_names(parse_assignments(assignments))
    admit(changes)
    changes = expand_size(changes, values["emulator"])
    if set(PARTS) <= set(values) and isinstance(changes.get("base"), str):
        values = {**values, "bases": [{"recipe": _forced_response(changes.pop("base"))}]}
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
    # A whole list replaces the recipe's; a table is single settings of bases by their numbers.
    single = {} if isinstance(changes.get("bases"), list) else changes.pop("bases", {})
    changes = _with_networks(values, changes)
    values = merge(_without_other_options(values, changes), changes)
    _refuse_idle_parts(values, changes, source)
    if "bases" in values:
        values["bases"] = _load_bases(base_tables(values, source), single, source)
    return parse_recipe(_with_digests(values), source)


def _with_networks(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """What is laid over the recipe of a generator, which trains its networks once something is said of one."""
    model, known = over.get("model", {}), values.get("model", {})
    said = any(part in over and part in values for part in PARTS)
    # What is no table is refused with the rest of the recipe.
    tables = isinstance(model, Mapping) and isinstance(known, Mapping)
    if not said or not tables or "learned" in model or known.get("learned", True):
        return dict(over)
    return {**over, "model": {**model, "learned": True}}


def _refuse_idle_parts(values: Mapping[str, Any], changes: Mapping[str, Any], source: str) -> None:
    """Refuse single settings of networks that are not trained.

    Raises:
        RecipeError: There are some.
    """
    model, idle = values.get("model"), [part for part in PARTS if part in changes and part in values]
    if idle and isinstance(model, Mapping) and model.get("learned") is False:
        raise RecipeError(
            f"{source} says how networks are trained that are not: settings of {' and '.join(idle)} would do nothing",
            found="model.learned = false",
            expected="model.learned = true, or no settings of networks",
            hint="--set model.learned=true",
        )


def objective_path(name: str) -> str | None:
    """The setting by which a MODEL names its objective; None where it has none, or several.

    Raises:
        RecipeError: There is no such name or file.
    """
    values = _values_of(name)
    if set(PARTS) <= set(values):
        return f"{PARTS[0]}.objective.name"
    return "objective.name" if is_network(values["emulator"]) else None


def _forced_response(name: str) -> dict[str, Any]:
    """The recipe that a generator is to give variability: that of a MODEL, or what that varies as a run does.

    So best-fast stands for its additive-gp.
    """
    recipe = _values_of(name)
    while recipe["emulator"] in EMULATORS and getattr(EMULATORS.load(recipe["emulator"]), "varied", False):
        first = recipe["bases"][0]["recipe"]
        recipe = _values_of(first) if isinstance(first, str) else first
    return {**recipe, "base": NO_BASE}


def _without_other_options(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values without the options of what is exchanged: an objective, and a part's network, has its own."""
    kept = dict(values)
    for key, change in changes.items():
        value = values.get(key)
        if not isinstance(value, Mapping) or not isinstance(change, Mapping):
            continue
        if key == "objective":
            kept[key] = {} if change.get("name", value.get("name")) != value.get("name") else value
        elif key in PARTS:
            kept[key] = _without_other_options(value, change)
            if change.get("network", value.get("network")) != value.get("network"):
                kept[key].pop("model", None)
    return kept


def _lay_over(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with those of another source on top."""
    # A loss table is a recipe for one variable: it replaces the default one rather than mixing with it.
    tables = over.get("loss", {})
    kept = {k: v for k, v in values.get("loss", {}).items() if not isinstance(tables, Mapping) or k not in tables}
    under = {**values, "loss": kept} if "loss" in values else values
    over = _with_networks(under, over)
    return merge(_without_other_options(under, over), expand_size(over, values["emulator"]))


def _load_bases(bases: list[dict[str, Any]], single: Any, source: str) -> list[dict[str, Any]]:
    """Bases with the whole recipe in the place of its name, or of a table over it; then single settings of theirs."""
    inner: dict[int, Mapping[str, Any]] = {}
    bases = [_finished_run(base, f"{source}, bases.{i}") for i, base in enumerate(bases)]
    for key, change in single.items() if isinstance(single, Mapping) else [("", single)]:
        if key.isdecimal() and int(key) < len(bases) and not isinstance(change, Mapping):
            raise RecipeError(
                f"{source} sets bases.{key} to what is not a table",
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
        if base.get("run"):
            raise RecipeError(
                f"{source} sets something of bases.{key}, which is a finished run",
                found=", ".join(change),
                hint="leave it out, or name a recipe in the place of the run",
            )
        named, over = base.get("recipe"), change.get("recipe")
        if isinstance(over, Mapping) and isinstance(over.get("bases"), Mapping):
            inner[int(key)] = over["bases"]
            over = {k: v for k, v in over.items() if k != "bases"}
            change = {**change, "recipe": over}
        if isinstance(named, str) and isinstance(over, Mapping):
            base = {**base, "recipe": {"emulator": named}}
        bases[int(key)] = merge(base, change)
    return [
        b if b.get("run") else {**b, "recipe": _load_base(b.get("recipe"), inner.get(i, {}), f"{source}, bases.{i}")}
        for i, b in enumerate(bases)
    ]


def _load_base(recipe: Any, single: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The plain values of a base's whole recipe, with single settings of its own bases."""
    from emukit.recipes.schema import base_tables

    over = {"emulator": recipe} if isinstance(recipe, str) else recipe
    over = with_present_names(over) if isinstance(over, Mapping) else over
    if isinstance(over, Mapping) and "base" in over:
        values = _on_base(over, source, Path(), ())
    elif isinstance(over, Mapping) and isinstance(over.get("emulator"), str):
        values = _values_of(over["emulator"])
        values = _lay_over(values, {k: v for k, v in over.items() if k not in ("emulator", "bases")})
    else:
        raise RecipeError(
            f"{source} names no emulator", found=repr(recipe), expected="a name, or a table with a key emulator or base"
        )
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


def _with_digests(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, with the digest of every downscaler that is named by its folder; where there is none, as they are."""
    out, model = dict(values), values.get("model")
    if out.get("emulator") == DOWNSCALED and isinstance(model, Mapping) and not model.get("digest"):
        # Imports xarray, which recipes that name no downscaler do not need.
        from emukit.emulators.base import saved_digest

        # What is wrong with the folder is said when the data are there.
        with suppress(RunError):
            digest = saved_digest(Path(str(model.get("downscaler"))).expanduser() / "emulator")
            out["model"] = {**model, "digest": digest}
    bases = out.get("bases")
    if isinstance(bases, list):
        out["bases"] = [
            {**b, "recipe": _with_digests(b["recipe"])}
            if isinstance(b.get("recipe"), Mapping) and not b.get("run")
            else b
            for b in bases
        ]
    return out


def _finished_run(base: dict[str, Any], source: str) -> dict[str, Any]:
    """A base that names a folder as its `run`, with the recipe and the identity of that run; any other as it is.

    Raises:
        RecipeError: There is no finished run, or the base names a recipe too.
    """
    folder = base.get("run")
    if folder is None or isinstance(folder, Mapping):
        return base
    if "recipe" in base or not isinstance(folder, str):
        raise RecipeError(
            f"{source} does not name one finished run",
            found=", ".join(f"{k} = {v!r}" for k, v in base.items())[:200],
            expected='run = "FOLDER" alone, or a recipe',
        )
    path = Path(folder).expanduser().absolute()
    try:
        record = parse_json(read_text(path / "run.json"))
        recipe, identity, state = record["recipe"], record["identity"], record["state"]
        if recipe_digest(recipe) != identity["recipe"]:
            raise ValueError("its recipe was edited")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise RecipeError(
            f"{source} names a run that cannot be read",
            found=f"{path}: {getattr(e, 'strerror', None) or e}",
            expected="the folder of a finished run",
            hint="`emukit runs` lists them",
        ) from e
    if state != "finished":
        raise RecipeError(f"{source} names a run that has not finished", found=str(path), hint="finish it first")
    return {**base, "recipe": recipe, "run": {"folder": str(path), "identity": identity_digest(identity)}}


def _values_of(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The plain values of a MODEL: a name, a recipe file, or a class as ``module:Name``.

    Raises:
        RecipeError: There is no such name or file, or files are the bases of each other.
    """
    if not name.endswith(TOML):
        return shipped_values(name, seen)
    path = Path(name)
    over = with_present_names(read_toml(path))
    admit(over)
    if "base" in over:
        return _on_base(over, name, path.parent, seen)
    if not isinstance(over.get("emulator"), str):
        raise RecipeError(
            f"{name} names no emulator",
            expected='emulator = "NAME", or base = "NAME"',
            hint="`emukit models` lists them",
        )
    return _lay_over(shipped_values(over["emulator"], seen), {k: v for k, v in over.items() if k != "emulator"})


def _on_base(over: Mapping[str, Any], source: str, folder: Path, seen: tuple[str, ...]) -> dict[str, Any]:
    """The values of a recipe that names its `base`, laid over those of the base.

    Args:
        over: The values.
        source: Where they come from, for the message.
        folder: To which the path of a base is relative.
        seen: The bases that led here.

    Raises:
        RecipeError: The base does not exist, or leads back to itself.
    """
    base = over["base"]
    if not isinstance(base, str):
        raise RecipeError(f"{source} has a base that is not a name", found=repr(base), expected='base = "cnn-gru"')
    if base == NO_BASE and isinstance(over.get("emulator"), str):
        return expand_size({k: v for k, v in over.items() if k != "base"})
    if base.endswith(TOML):
        base = str((folder / Path(base).expanduser()).absolute())
    if base in seen:
        raise RecipeError(f"{source} is its own base", found=" -> ".join((*seen, base)), hint="name another base")
    values = _values_of(base, (*seen, base))
    emulator = over.get("emulator", values["emulator"])
    if emulator != values["emulator"]:
        # Inputs, targets, loss and training are what networks have in common.
        values = {k: v for k, v in values.items() if k not in ("model", "bases", "description")}
        values["emulator"] = emulator
    return _lay_over(values, {k: v for k, v in over.items() if k != "base"})


def shipped_values(name: str, seen: tuple[str, ...] = ()) -> dict[str, Any]:
    """The plain values of a shipped recipe, or of an emulator without one.

    Args:
        name: Of the recipe or emulator; a class as ``module:Name``, which may be imported from now on.
        seen: The recipes whose base it is.

    Raises:
        RecipeError: There is no such name.
    """
    name = present_name(name)
    values: dict[str, Any] = {"emulator": name}
    path = shipped_recipe(name)
    if path is not None:
        own = read_toml(path)
        if "base" in own:
            return _on_base(own, str(path), path.parent, (*seen, name))
        return expand_size(merge(values, own))
    admit(values)
    if not is_network(name) and (name not in EMULATORS or EMULATORS[name].made_as == "stepwise"):
        raise unknown_emulator(name)
    return values


def sizes_of(emulator: str) -> dict[str, dict[str, Any]]:
    """Presets of an emulator's options by name; ``default`` sets nothing."""
    presets = getattr(NETWORKS.load(emulator), "SIZES", {}) if is_network(emulator) else {}
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
