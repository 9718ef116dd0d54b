"""Writes the tables of docs/cards.md: every key of a data card, read from the classes that check one and their docstrings.

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
    return "none" if value is None or value in ("", [], {}) else f"`{json.dumps(value)}`"


def section(title: str, model: type[BaseModel]) -> str:
    """The table of one part of a card."""
    schema = model.model_json_schema()
    said = meanings(model)
    lines = [
        f"| `{key}` | {type_text(of)} | {default_text(of, key in schema.get('required', ()))} | {said[key]} |"
        for key, of in schema["properties"].items()
    ]
    summary = inspect.cleandoc(model.__doc__ or "").split("\n\n")[0].replace("\n", " ").replace("``", "`")
    return "\n".join([f"### {title}", "", summary, "", "| key | value | default | meaning |", "|---|---|---|---|", *lines])


def sections(model: type[BaseModel], path: str = "", seen: frozenset[type[BaseModel]] = frozenset()) -> Iterator[str]:
    """The tables of a card and of its parts, each part once, at its first place."""
    yield section(f"`[{path}]`" if path else "Top of the file", model)
    for key, field in model.model_fields.items():
        for named, part in models_in(field.annotation):
            if part not in seen:
                below = ".".join(filter(None, (path, key, "NAME" if named else "")))
                yield from sections(part, below, seen | {part})


def written(page: str) -> str:
    """A page with its tables made anew."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n" + "\n\n".join(sections(Card)) + f"\n\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
