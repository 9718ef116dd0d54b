"""Losses by name: every term, and the shipped losses of `emukit train MODEL --loss NAME`.

Invariant: a term is found by its name, and importing this table imports none of them. Shipped losses are plain values,
each a whole loss table: naming one replaces everything a recipe says about its loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from emukit.errors import RecipeError
from emukit.registry import Entry, Registry

# Each a function of GridContext that builds a LossTerm. A new term is a function and a line here, or a package with an
# entry point in the group ``emukit.losses`` (docs/plugins.md).
TERMS: Registry[Entry] = Registry(
    "loss term",
    "emukit.losses",
    {
        "mse": Entry("emukit.losses.values:mse", "mean squared error"),
        "l1": Entry("emukit.losses.values:l1", "mean absolute error"),
        "huber": Entry("emukit.losses.values:huber", "squared near zero, absolute beyond"),
        "log_cosh": Entry("emukit.losses.values:log_cosh", "a smooth mean absolute error"),
        "rmse": Entry("emukit.losses.values:rmse", "root of each segment's mean squared error"),
        "time_mean": Entry("emukit.losses.values:time_mean", "error of the mean over the segment"),
        "time_std": Entry("emukit.losses.values:time_std", "error of the standard deviation over the segment"),
        "dice": Entry("emukit.losses.values:dice", "how little two fields overlap"),
        "gabor": Entry("emukit.losses.texture:gabor", "absolute differences of texture, by Gabor filters"),
        "hessian": Entry("emukit.losses.texture:hessian", "root of the mean square of second differences"),
        "polar": Entry(
            "emukit.losses.texture:polar",
            "absolute error, warped about the middle of the map as one published loss does",
        ),
        "sobel": Entry("emukit.losses.texture:sobel", "absolute differences of gradients"),
        "ssim": Entry("emukit.losses.texture:ssim", "one minus the structural similarity"),
    },
    entry=Entry,
    accepts=callable,
    expected="a function of GridContext that gives a LossTerm",
)
# The score's own weights of its parts, half for each variable; a test holds them equal to the metric's. The score is in
# K and mm/day and this is in standard deviations, so what it trades for what depends on the targets' scale. A variable
# that the score does not know counts as one of two does, and its parts as those of tas.
_METRIC = {
    "tas": {"rmse": 0.05, "time_mean": 0.5, "time_std": 0.5},
    "pr": {"rmse": 0.05, "time_mean": 0.5, "time_std": 0.375},
    "default": {"rmse": 0.05, "time_mean": 0.5, "time_std": 0.5},
}


def _everywhere(term: str) -> dict[str, Any]:
    """One term for all variables, in the place of the tables that the shipped recipes have for two of them, too."""
    return {v: {term: 1.0} for v in ("tas", "pr", "default")}


LOSSES: Mapping[str, Mapping[str, Any]] = {
    "mse": _everywhere("mse"),
    "l1": _everywhere("l1"),
    "huber": _everywhere("huber"),
    # The competition's third place, from the team's own report.
    "published": {
        "tas": {"l1": 1.0, "gabor": 0.5, "hessian": 0.2, "polar": 0.3},
        "pr": {"dice": 0.5, "mse": 0.5},
        "default": {"l1": 1.0},
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
    """The terms of a loss table in words: ``tas l1 + 0.5 gabor, pr 0.5 dice + 0.5 mse, others l1``."""

    def weighted(terms: Mapping[str, float]) -> str:
        return " + ".join(name if weight == 1 else f"{weight:g} {name}" for name, weight in terms.items() if weight)

    tables = {k: terms for k, terms in table.items() if isinstance(terms, Mapping) and k != "default"}
    words = [f"{variable} {weighted(terms)}" for variable, terms in tables.items()]
    if "default" in table:
        words.append(f"{'others ' if words else ''}{weighted(table['default'])}")
    return ", ".join(words)


def loss_names() -> list[str]:
    """Every shipped loss with its other name."""
    return [name + "".join(f" or {alias}" for alias, of in ALIASES.items() if of == name) for name in LOSSES]


def loss_lines() -> list[str]:
    """Every shipped loss with its other name, its terms and, where there is one, its warm-up."""
    lines = []
    for names, table in zip(loss_names(), LOSSES.values(), strict=True):
        warm_up = f"; {table['warmup_epochs']:g} epochs of l1 first" if "warmup_epochs" in table else ""
        lines.append(f"{names}: {loss_terms(table)}{warm_up}")
    return lines


def named_loss(name: str) -> dict[str, Any]:
    """The loss table of a shipped loss.

    Raises:
        RecipeError: There is none of that name.
    """
    name = ALIASES.get(name, name)
    if name not in LOSSES:
        raise RecipeError(
            f"unknown loss {name!r}",
            expected=", ".join([*LOSSES, *ALIASES]),
            hint="mix own: --set loss.default.l1=1.0",
        )
    return deepcopy(dict(LOSSES[name]))
