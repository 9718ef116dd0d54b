"""Shipped losses by name, for `emukit train MODEL --loss NAME`.

Invariant: plain values, each a whole loss table: naming one replaces everything a recipe says about its loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from emukit.errors import RecipeError

# The score's own weights of its parts, half for each variable; a test holds them equal to the metric's. The score is in
# K and mm/day and this is in standard deviations, so what it trades for what depends on the targets' scale.
_METRIC = {
    "tas": {"rmse": 0.05, "time_mean": 0.5, "time_std": 0.5},
    "pr": {"rmse": 0.05, "time_mean": 0.5, "time_std": 0.375},
}

LOSSES: Mapping[str, Mapping[str, Any]] = {
    "mse": {"tas": {"mse": 1.0}, "pr": {"mse": 1.0}},
    "l1": {"tas": {"l1": 1.0}, "pr": {"l1": 1.0}},
    "huber": {"tas": {"huber": 1.0}, "pr": {"huber": 1.0}},
    # The competition's third place, from the team's own report.
    "published": {
        "tas": {"l1": 1.0, "gabor": 0.5, "hessian": 0.2, "polar": 0.3},
        "pr": {"dice": 0.5, "mse": 0.5},
        "area_weighted": False,
        "padding": "zero",
    },
    # Both want segments of years: over one month there is no variability.
    "metric": _METRIC,
    # The score asks little for each month's field and has many minima; L1 first finds the months.
    "decade": {**_METRIC, "warmup_epochs": 3.0, "ramp_epochs": 5.0},
}

# Other names of the same: by what it is made of.
ALIASES: Mapping[str, str] = {"dice-gabor": "published"}


def loss_terms(table: Mapping[str, Any]) -> str:
    """The terms of a loss table in words: ``tas l1 + 0.5 gabor, pr 0.5 dice + 0.5 mse``."""

    def weighted(terms: Mapping[str, float]) -> str:
        return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in terms.items() if weight)

    return ", ".join(f"{variable} {weighted(table[variable])}" for variable in ("tas", "pr") if variable in table)


def loss_lines() -> list[str]:
    """Every shipped loss with its other name, its terms and, where there is one, its warm-up."""
    lines = []
    for name, table in LOSSES.items():
        also = "".join(f" or {alias}" for alias, of in ALIASES.items() if of == name)
        warm_up = f"; {table['warmup_epochs']:g} epochs of l1 first" if "warmup_epochs" in table else ""
        lines.append(f"{name}{also}: {loss_terms(table)}{warm_up}")
    return lines


def named_loss(name: str) -> dict[str, Any]:
    """The loss table of a shipped loss.

    Raises:
        RecipeError: There is none of that name.
    """
    name = ALIASES.get(name, name)
    if name not in LOSSES:
        raise RecipeError(
            f"unknown loss {name!r}", expected=", ".join([*LOSSES, *ALIASES]), hint="--set loss.tas.mse=1.0 mixes own"
        )
    return deepcopy(dict(LOSSES[name]))
