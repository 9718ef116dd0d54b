"""Every objective by name.

Invariant: what a recipe names is found here; a new objective is a file and a line.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from emukit.errors import RecipeError

if TYPE_CHECKING:
    from emukit.objectives.base import Objective

REGRESSION = "regression"

# name -> module:Class.
OBJECTIVES: dict[str, str] = {
    REGRESSION: "emukit.objectives.regression:Regression",
    "crps": "emukit.objectives.crps:Crps",
}


def objective_class(name: str) -> type[Objective]:
    """The class of an objective.

    Raises:
        RecipeError: There is none of that name.
    """
    if name not in OBJECTIVES:
        raise RecipeError(
            f"unknown objective {name!r}", expected=", ".join(OBJECTIVES), hint=f"--set objective.name={REGRESSION}"
        )
    module, _, attribute = OBJECTIVES[name].partition(":")
    cls: type[Objective] = getattr(import_module(module), attribute)
    return cls
