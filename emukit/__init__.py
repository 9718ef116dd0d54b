"""emukit: climate emulation from emission forcings to a scored submission.

The names below are what notebooks need; everything else is imported from its module. Nothing heavy is imported until a
name is used, so `import emukit` costs nothing.
"""

from __future__ import annotations

import os
import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emukit.api import evaluate, list_recipes, load_recipe, load_run, open_data, predict, submit, train
    from emukit.competitions.xarray_scores import score_datasets as score
    from emukit.data.cf import forcings_dataset as forcings
    from emukit.data.cf import truth_dataset as truth
    from emukit.data.store import open_store
    from emukit.emulators.registry import load_emulator
    from emukit.submission.check import check_submission

from emukit.distribution import NAME, VERSION, other_project, remedy

__version__ = VERSION
_NAMES = {
    **{
        name: f"emukit.api:{name}"
        for name in ("evaluate", "list_recipes", "load_recipe", "load_run", "open_data", "predict", "submit", "train")
    },
    "check_submission": "emukit.submission.check:check_submission",
    "forcings": "emukit.data.cf:forcings_dataset",
    "load_emulator": "emukit.emulators.registry:load_emulator",
    "open_store": "emukit.data.store:open_store",
    "score": "emukit.competitions.xarray_scores:score_datasets",
    "truth": "emukit.data.cf:truth_dataset",
}

# OpenMP's threads spin while they wait for each other: next to any busy process they take the time of those they wait
# for, and a training becomes several times slower. The runtime reads this when torch is imported; processes inherit it.
if "GOMP_SPINCOUNT" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__all__ = [
    "check_submission",
    "evaluate",
    "forcings",
    "list_recipes",
    "load_emulator",
    "load_recipe",
    "load_run",
    "open_data",
    "open_store",
    "predict",
    "score",
    "submit",
    "train",
    "truth",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'emukit' has no attribute {name!r}")
    module, _, attribute = _NAMES[name].partition(":")
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_NAMES])


if _other := other_project(Path(__file__).parent):
    warnings.warn(
        f"{NAME} shares its import name with another project named emukit, and {_other}: one may be imported in the "
        f"place of the other. {remedy()}",
        stacklevel=2,
    )
