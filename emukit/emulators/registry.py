"""Every emulator by name: one table, and the one way to load a saved one.

Invariant: what `save` wrote, `load_emulator` finds by its kind; a new emulator is a file and a line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from emukit.data.archive import Domain
from emukit.data.card import parse_card
from emukit.data.grid import Grid
from emukit.emulators.base import Emulator, read_saved
from emukit.errors import RunError


@dataclass(frozen=True)
class EmulatorEntry:
    """Where an emulator is, and what it is good for.

    Attributes:
        target: ``module:Class``, imported when used.
        summary: One line for `emukit models`.
        closed_form: Whether its class has a `fit(archive, split, **options)`; the others are trained step by step.
    """

    target: str
    summary: str
    closed_form: bool

    def load(self) -> Any:
        """The class."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)


EMULATORS: dict[str, EmulatorEntry] = {
    "climatology": EmulatorEntry(
        "emukit.emulators.climatology:ClimatologyEmulator",
        "mean of the first 20 training years by calendar month; a floor",
        True,
    ),
    "linear": EmulatorEntry(
        "emukit.emulators.linear:LinearEmulator", "ridge on forcing series, in seconds; the one to beat", True
    ),
    "neural": EmulatorEntry("emukit.emulators.neural:NeuralEmulator", "any network of the network table", False),
}


def load_emulator(folder: Path | str) -> Emulator:
    """Load a trained emulator from its folder, or from the folder of the run that trained it.

    Raises:
        RunError: There is none, or it is damaged, or of an unknown kind or format.
    """
    folder = Path(folder)
    if (folder / "emulator").is_dir():
        folder = folder / "emulator"
    head, arrays = read_saved(folder)
    try:
        kind, meta = head["kind"], head["meta"]
        cls: type[Emulator] = EMULATORS[kind].load()
        grid = Grid(arrays.pop("grid.lat"), arrays.pop("grid.lon"))
        first_month = np.datetime64(head["first_month"], "M")
        domain = Domain(parse_card(head["card"], "the saved emulator"), grid, tuple(head["variables"]), first_month)
        return cls.from_state(domain, meta, arrays)
    except (KeyError, RuntimeError, ValueError) as e:
        # RuntimeError is what torch raises for weights that do not fit the network they are said to belong to.
        raise RunError(
            f"the emulator in {folder} does not fit this version of emukit",
            found=str(e),
            expected=f"a kind of {', '.join(EMULATORS)} with all its parts",
            hint="use the version of emukit that wrote it, or train it again",
        ) from e
