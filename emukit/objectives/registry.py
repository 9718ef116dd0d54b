"""Every objective by name: one table.

Invariant: what a recipe names is found here. A new objective is a file and a line, or a package with an entry point in
the group ``emukit.objectives``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emukit.registry import Entry, Registry

REGRESSION, CRPS = "regression", "crps"


def _is_objective(found: Any) -> bool:
    from emukit.objectives.base import Objective

    return isinstance(found, type) and issubclass(found, Objective)


OBJECTIVES: Registry[Entry] = Registry(
    "objective",
    "emukit.objectives",
    {
        REGRESSION: Entry("emukit.objectives.regression:Regression", "one answer, by the loss of the recipe"),
        CRPS: Entry("emukit.objectives.crps:Crps", "realisations, by the fair CRPS of several at a time"),
        "interpolant": Entry(
            "emukit.objectives.interpolant:Interpolant", "realisations, by the drift of random paths to the target"
        ),
        "rollout": Entry(
            "emukit.objectives.rollout:Rollout", "a trajectory of several steps, each from the states said before"
        ),
        "diffusion": Entry("emukit.objectives.diffusion:Diffusion", "realisations, by removing noise of any level"),
    },
    entry=Entry,
    accepts=_is_objective,
    expected="a subclass of emukit.objectives.base.Objective",
)

# Options that came later, at the value that does what was done before: there they change no digest of a recipe, so that
# runs of before are found and continue.
LATER_OPTIONS: Mapping[str, Mapping[str, Any]] = {"interpolant": {"gaussian": False}}
