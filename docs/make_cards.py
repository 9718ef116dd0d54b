"""Writes the tables of docs/cards.md: all keys of a data card, from the classes that check it and their docstrings.

Invariant: a key that a card may have is on the page, with the meaning that its class states. A test compares the page
with what this script would write.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from emukit.data.card import Card

PAGE = Path(__file__).with_name("cards.md")
BEGIN, END = "<!-- `make docs` writes what follows -->", "<!-- until here -->"


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Key to its meaning, from the section `Attributes` of the docstrings of a class and its bases."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
        section = re.search(r"^Attributes:\n((?:[ \t].*\n?|\n)*)", text, re.MULTILINE)
        for name, meaning in re.findall(
            r"^    (\w+): ((?:.*)(?:\n {5,}.*)*)", section.group(1) if section else "", re.MULTILINE
        ):
            found[name] = " ".join(meaning.split()).replace("``", "`")
    return found


def models_in(annotation: Any) -> Iterator[tuple[bool, type[BaseModel]]]:
    """The parts that a type holds, and whether each stands under a name of its own."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield False, annotation
        return
    named = getattr(annotation, "__origin__", None) is dict
    for inner in get_args(annotation):
        for below, model in models_in(inner):
            yield named or below, model


def type_text(schema: Mapping[str, Any]) -> str:
    """What a value looks like, in a word or two."""
    if "$ref" in schema:
        return "a table, see below"
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{json.dumps(v)}`" for v in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(type_text(s) for s in schema["anyOf"] if s.get("type") != "null")
    if schema.get("type") == "array":
        items = schema.get("prefixItems")
        if items:
            return f"`[{', '.join(str(s.get('type')) for s in items)}]`"
        inner = schema.get("items", {})
        return "tables, see below" if "$ref" in inner else f"a list, each {type_text(inner)}"
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        if not isinstance(inner, Mapping):
            return "a table"
        return "a table for each name, see below" if "$ref" in inner else f"name = {type_text(inner)}"
    words = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "`true` or `false`"}
    return words.get(str(schema.get("type")), "any value")


def default_text(schema: Mapping[str, Any], required: bool) -> str:
    """The default of a key."""
    value = schema.get("default")
    if required:
        return "required"
    empty = value is None or value in ("", [], {}) or (isinstance(value, dict) and set(value.values()) == {None})
    return "none" if empty else f"`{json.dumps(value)}`"


def section(title: str, model: type[BaseModel]) -> str:
    """The table of one part of a card."""
    schema = model.model_json_schema()
    said = meanings(model)
    lines = [
        f"| `{key}` | {type_text(of)} | {default_text(of, key in schema.get('required', ()))} | {said.get(key, '')} |"
        for key, of in schema["properties"].items()
    ]
    summary = inspect.cleandoc(model.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")
    head = ["| key | value | default | meaning |", "|---|---|---|---|"]
    return "\n".join([f"### {title}", "", summary, "", *head, *lines])


def places(model: type[BaseModel], path: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """A part of a card with the path of its table, and those below it."""
    yield model, path
    for key, field in model.model_fields.items():
        for named, part in models_in(field.annotation):
            yield from places(part, ".".join(filter(None, (path, key, "NAME" if named else ""))))


def sections() -> Iterator[str]:
    """The tables of a card and of its parts, each part once, under all paths at which it may stand."""
    found: dict[type[BaseModel], list[str]] = {}
    for model, path in places(Card):
        found.setdefault(model, []).append(path)
    for model, paths in found.items():
        yield section(", ".join(f"`[{p}]`" for p in paths if p) or "Top of the file", model)


def written(page: str) -> str:
    """A page with its tables made again."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n" + "\n\n".join(sections()) + f"\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
