"""Draws docs/architecture.svg: the packages of emukit in the order of their layers, and what imports what.

Invariant: the picture is a function of the imports in the code and of the layers in pyproject.toml. A test compares it
with what this script would draw.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PICTURE = Path(__file__).with_name("architecture.svg")
PACKAGE = "emukit"

# In pixels.
ROW, NAME, SAID, CELL, EDGE = 24, 12, 118, 24, 10
INK, GREY, LINE, DOT = "#222222", "#666666", "#dddddd", "#0072B2"


def layers() -> list[list[str]]:
    """The packages from the top layer to the lowest; those of one layer do not import each other."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = next(c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [[name.strip().removeprefix(f"{PACKAGE}.") for name in line.split("|")] for line in contract["layers"]]


def imports(names: Sequence[str]) -> dict[str, set[str]]:
    """Package to the packages that it imports."""
    graph = grimp.build_graph(PACKAGE, cache_dir=None)
    found: dict[str, set[str]] = {name: set() for name in names}
    for module in graph.modules:
        name = module.split(".")[1] if "." in module else ""
        for imported in graph.find_modules_directly_imported_by(module):
            other = imported.split(".")[1] if "." in imported else ""
            if name in found and other in found and other != name:
                found[name].add(other)
    return found


def purposes() -> dict[str, str]:
    """Package to what it is for, as docs/architecture.md says it."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)(?:/|\.py)` \| (.*?) \|$", page, re.MULTILINE)
    return {name: words.replace("`", "") for name, words in rows}


def text(x: float, y: float, words: str, colour: str = INK, extra: str = "") -> str:
    """A line of text."""
    return f'<text x="{x:g}" y="{y:g}" fill="{colour}"{extra}>{escape(words)}</text>'


def marks(order: Sequence[str], imported: Mapping[str, set[str]], left: float, top: float) -> Iterator[str]:
    """The matrix: a row for each package, a dot in the column of each that it imports."""
    for i, name in enumerate(order):
        middle = top + (i + 0.5) * ROW
        yield f'<path d="M{EDGE} {middle + ROW / 2:g}H{left + len(order) * CELL:g}" stroke="{LINE}"/>'
        for j, other in enumerate(order):
            x = left + (j + 0.5) * CELL
            if i == j:
                yield f'<rect x="{x - 4:g}" y="{middle - 4:g}" width="8" height="8" fill="{GREY}"/>'
            elif other in imported[name]:
                yield f'<circle cx="{x:g}" cy="{middle:g}" r="5" fill="{DOT}"/>'


def picture() -> str:
    """The picture as SVG."""
    order = [name for layer in layers() for name in layer]
    imported, said = imports(order), purposes()
    left = SAID + 7.0 * max(len(said[name]) for name in order)
    top = 100
    width, height = left + len(order) * CELL + EDGE + 40, top + len(order) * ROW + EDGE
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="Helvetica, Arial, sans-serif" font-size="13">',
        f'<rect width="{width:g}" height="{height:g}" fill="#ffffff"/>',
        text(NAME, 24, "Packages of emukit, from the command line down", extra=' font-weight="bold" font-size="15"'),
        text(NAME, 46, "A dot: the package of the row imports the package of the column.", GREY),
        text(NAME, 64, "All dots lie right of the diagonal, since a layer imports only those below it.", GREY),
    ]
    for j, name in enumerate(order):
        x = left + (j + 0.5) * CELL + 4
        lines.append(text(x, top - 6, name, GREY, f' transform="rotate(-50 {x:g} {top - 6:g})" font-size="12"'))
    for i, name in enumerate(order):
        middle = top + (i + 0.5) * ROW + 4.5
        lines += [
            text(NAME, middle, name, extra=' font-weight="bold"'),
            text(SAID, middle, said[name], GREY),
        ]
    return "\n".join([*lines, *marks(order, imported, left, top), "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
