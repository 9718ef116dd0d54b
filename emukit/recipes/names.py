"""What can be trained, by name; and what the names in a record say.

Invariant: nothing is imported here that trains or predicts, so that thousands of records are looked at in a second.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from functools import cache
from typing import Any

from emukit.emulators.registry import EMULATORS
from emukit.errors import RecipeError
from emukit.files import shipped
from emukit.models.registry import NETWORKS

FAST = "-fast"


def emulator_names() -> tuple[str, ...]:
    """Everything `emukit train` can train."""
    return (*(n for n, e in EMULATORS.items() if e.made != "stepwise"), *NETWORKS)


@cache
def recipe_names() -> tuple[str, ...]:
    """Every name that a command takes: emulators, and shipped recipes of other names."""
    files = sorted(p.stem for p in shipped("baselines", ".").glob("*.toml") if p.stem != "published")
    return tuple(dict.fromkeys((*emulator_names(), *files)))


def unknown_emulator(name: str) -> RecipeError:
    """What is to be said of a name that no emulator and no shipped recipe has."""
    close = get_close_matches(name.lower(), recipe_names(), n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    return RecipeError(
        f"unknown emulator {name!r}",
        expected=", ".join(recipe_names()),
        hint=f"{meant}`emukit models` lists what can be trained",
    )


def is_random(recipe: Mapping[str, Any]) -> bool:
    """Whether the seed of a run decides anything: weights of networks, or what an emulator that is `seeded` draws.

    Args:
        recipe: Plain values.
    """
    name, bases = recipe.get("emulator"), recipe.get("bases")
    if name in NETWORKS or (name in EMULATORS and EMULATORS[name].seeded):
        return True
    inner = [b.get("recipe") for b in bases if isinstance(b, Mapping)] if isinstance(bases, list | tuple) else []
    return any(is_random(r) for r in inner if isinstance(r, Mapping))


def model_name(command: str, emulator: str) -> str:
    """The recipe that a command trained, by the name it has there.

    Args:
        command: That of a record or an entry.
        emulator: What it is called where the command names no shipped recipe.
    """
    words: list[str] = []
    with suppress(ValueError):
        words = shlex.split(command)
    if "train" in words[:2] and words[-1] != "train":
        name = words[words.index("train") + 1] + (FAST if "--fast" in words else "")
        if name in recipe_names():
            return name
    return emulator


def _without_regression(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of a recipe and its bases, as they were before there were other objectives than regression."""
    out = {k: v for k, v in values.items() if k != "objective" or v not in ({"name": "regression"}, "regression")}
    if isinstance(out.get("bases"), list | tuple):
        out["bases"] = [
            {**b, "recipe": _without_regression(b["recipe"])}
            if isinstance(b, Mapping) and isinstance(b.get("recipe"), Mapping)
            else b
            for b in out["bases"]
        ]
    return out


def recipe_digest(values: Mapping[str, Any]) -> str:
    """SHA-256 of everything in a recipe's plain values that decides the numbers."""
    # Where the arrays live changes no number: a run may go on where they have to live elsewhere.
    deciding = _without_regression({k: v for k, v in values.items() if k != "description"})
    training = deciding.get("training")
    if isinstance(training, Mapping) and isinstance(training.get("segments"), Mapping):
        segments = {k: v for k, v in training["segments"].items() if k != "residency"}
        deciding["training"] = {**training, "segments": segments}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
