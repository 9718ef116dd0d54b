"""What the settings of a recipe mean, what they may be, and what they are: for lists, files to edit, and editors.

Invariant: every word comes from the docstring and the type of what is set: nothing is said twice.
"""

from __future__ import annotations

import textwrap
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from emukit.config import Settings, docstring_table, toml_value
from emukit.recipes.load import NO_BASE, load_recipe, sizes_of
from emukit.recipes.schema import Base, Recipe, WrapperRecipe

# What a table of a variable means that the docstring cannot name.
VARIABLE = "As default, for this variable alone."
# Of comments in a recipe file.
WIDTH = 110
NAMES = {bool: "true | false", int: "whole number", float: "number", str: "text"}
LIMITS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


@dataclass(frozen=True)
class Setting:
    """One setting of a recipe.

    Attributes:
        path: As `--set` names it.
        value: What it is, as plain values.
        form: What it may be, in words.
        meaning: What it means, from the docstring; empty where that says nothing.
    """

    path: str
    value: Any
    form: str
    meaning: str


def settings_of(settings: Settings, prefix: str = "") -> Iterator[Setting]:
    """Every setting in a recipe or in a part of one, in their order."""
    said = _meanings(type(settings))
    for name, value, field in _fields(settings):
        if isinstance(value, Settings):
            yield from settings_of(value, f"{prefix}{name}.")
        elif isinstance(value, tuple) and value and all(isinstance(part, Settings) for part in value):
            for i, part in enumerate(value):
                yield from settings_of(part, f"{prefix}{name}.{i}.")
        elif not (name == "run" and value is None):
            yield Setting(
                f"{prefix}{name}",
                _plain(value),
                _form(value, field),
                said.get(name, VARIABLE if field is None else ""),
            )


def recipe_toml(name: str) -> str:
    """A recipe file with every setting of a MODEL, each with its meaning, to be edited and trained.

    Raises:
        RecipeError: There is no such MODEL.
    """
    recipe = load_recipe(name)
    title = f"# emukit train THIS_FILE.toml trains what `emukit train {name}` does, until something is changed."
    return "\n".join([title, *_table(recipe, "")]) + "\n"


def recipe_text(recipe: Recipe, place: Callable[[str], str] = str) -> str:
    """A recipe file that trains exactly this recipe, without comments.

    Args:
        recipe: The recipe.
        place: From the folder of a finished run that is a base to how the file names it; it must be there when the
            file is read.
    """
    return "\n".join(_table(recipe, "", comments=False, place=place)) + "\n"


def _table(settings: Settings, path: str, comments: bool = True, place: Callable[[str], str] = str) -> Iterator[str]:
    """The lines of a table: its own values first, then the tables in it."""
    said = _meanings(type(settings))
    if isinstance(settings, Base) and settings.run:
        yield f"run = {toml_value(place(settings.run.folder))}"
        return
    if isinstance(settings, Recipe):
        yield f'base = "{NO_BASE}"'
    inner: list[tuple[str, Settings | tuple[Settings, ...]]] = []
    for name, value, field in _fields(settings):
        if isinstance(value, Settings) or (
            isinstance(value, tuple) and value and all(isinstance(part, Settings) for part in value)
        ):
            inner.append((name, value))
        elif not (name == "run" and value is None):
            meaning = said.get(name, VARIABLE if field is None else "")
            words = f"{meaning} [{_form(value, field)}]".strip()
            if comments:
                yield from (
                    f"# {line}" for line in textwrap.wrap(words, WIDTH, break_long_words=False, break_on_hyphens=False)
                )
            if comments or value is not None:
                yield f"# {name} is not set" if value is None else f"{name} = {toml_value(_plain(value))}"
    for name, value in inner:
        inside = f"{path}.{name}" if path else name
        for part in value if isinstance(value, tuple) else (value,):
            yield ""
            yield f"[[{inside}]]" if isinstance(value, tuple) else f"[{inside}]"
            yield from _table(part, inside, comments, place)


def recipe_schema(name: str) -> dict[str, Any]:
    """A JSON schema of the recipe files of a MODEL, for editors.

    Raises:
        RecipeError: There is no such MODEL.
    """
    recipe = load_recipe(name)
    schema = type(recipe).model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = f"emukit recipe: {name}"
    definitions: dict[str, Any] = schema.get("$defs", {})
    for kind in _classes(type(recipe)):
        table: dict[str, Any] = schema if kind is type(recipe) else definitions.get(kind.__name__, {})
        for key, said in _meanings(kind).items() if table else ():
            table["properties"].get(key, {}).setdefault("description", said)
    # A file leaves out what stays as it is.
    for table in (schema, *definitions.values()):
        table.pop("required", None)
    schema["properties"]["base"] = {
        "type": "string",
        "description": "A recipe by name, or a file next to this one: what is not set here is as there.",
    }
    options = definitions.get("Options")
    if options:
        sizes = sizes_of(recipe.emulator)
        options["properties"]["size"] = {"enum": [*sizes], "description": "A preset of the options."}
    if isinstance(recipe, WrapperRecipe):
        base = definitions["Base"]["properties"]
        base["recipe"] = {
            "anyOf": [{"type": "string"}, {"type": "object"}],
            "description": base["recipe"]["description"],
        }
        base["run"] = {"type": "string", "description": base["run"]["description"]}
    if "objective" in schema["properties"]:
        # Its options are those of the objective named.
        schema["properties"]["objective"] = {
            "anyOf": [{"type": "string"}, {"type": "object"}],
            "description": "What the network is trained for.",
        }
    return schema


def form_of(annotation: Any, field: FieldInfo | None = None) -> str:
    """What a setting of a type may be, in words.

    Args:
        annotation: Its type.
        field: What pydantic knows of its limits.
    """
    limits = [x for part in (field.metadata if field else ()) for x in _limits(part)]
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        limits += [x for part in parts[1:] for x in _limits(part)]
        text = form_of(parts[0])
    elif origin is Literal:
        text = " | ".join(toml_value(choice) for choice in parts)
    elif origin in (Union, types.UnionType):
        text = " | ".join("not set" if part is type(None) else form_of(part) for part in parts)
    elif origin is tuple:
        inner = [form_of(part) for part in parts if part is not Ellipsis]
        text = f"list of {inner[0]}" if Ellipsis in parts or len(set(inner)) == 1 else f"[{', '.join(inner)}]"
        text += "" if Ellipsis in parts or len(set(inner)) > 1 else f", {len(inner)} of them"
    elif origin is Sequence:
        text = f"list of {form_of(parts[0])}"
    elif origin in (dict, Mapping) or annotation is dict:
        text = f"table of names = {form_of(parts[1])}" if parts else "table of names = number"
    else:
        text = NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))
    return f"{text} {', '.join(limits)}" if limits else text


def _limits(part: Any) -> list[str]:
    metadata = part.metadata if isinstance(part, FieldInfo) else [part]
    found = [
        f"{sign} {getattr(one, name):g}"
        for one in metadata
        for name, sign in LIMITS.items()
        if isinstance(getattr(one, name, None), int | float)
    ]
    least = [one.min_length for one in metadata if getattr(one, "min_length", None)]
    return [*found, *(f"at least {n}" for n in least)]


def _meanings(kind: type[Settings]) -> dict[str, str]:
    """What the docstrings of a settings class and of those that it extends say of its settings."""
    said: dict[str, str] = {}
    for cls in reversed(kind.__mro__):
        if issubclass(cls, Settings):
            said |= {n: text for n, text in docstring_table(cls, "Attributes").items() if n in kind.model_fields}
    said |= {name: f.description for name, f in kind.model_fields.items() if f.description}
    return {name: text.replace("``", '"').replace("`", "") for name, text in said.items()}


def _form(value: Any, field: FieldInfo | None) -> str:
    return form_of(field.annotation, field) if field else form_of(type(value))


def _fields(settings: Settings) -> Iterator[tuple[str, Any, FieldInfo | None]]:
    """Names and values of a table with what pydantic knows of them: nothing of those of variables."""
    for name, field in type(settings).model_fields.items():
        yield name, getattr(settings, name), field
    yield from ((name, value, None) for name, value in (settings.model_extra or {}).items())


def _classes(kind: type[Settings]) -> Iterator[type[Settings]]:
    yield kind
    for field in kind.model_fields.values():
        for part in _parts(field.annotation):
            yield from _classes(part)


def _parts(annotation: Any) -> Iterator[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings) and annotation is not Recipe:
        yield annotation
    for part in get_args(annotation):
        yield from _parts(part)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple) else value
