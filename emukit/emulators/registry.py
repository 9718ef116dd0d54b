"""Every emulator by name: one table, and the one way to load a saved one.

Invariant: what `save` wrote, `load_emulator` finds by its kind; a new emulator is a file and a line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from emukit.errors import RunError, shortage

if TYPE_CHECKING:
    from emukit.data.archive import Domain
    from emukit.emulators.base import Emulator


@dataclass(frozen=True)
class EmulatorEntry:
    """Where an emulator is, and what it is good for.

    Attributes:
        target: ``module:Class``, imported when used.
        summary: One line for `emukit models`.
        made: How: in ``closed-form``, by its class's `fit(archive, split, **options)`; ``stepwise``, in a training
            loop; or as a ``wrapper`` of others, by `fit(archive, split, bases, **options)`.
        seeded: Whether `fit` takes the seed of the run too, as a keyword `seed` that is no option.
    """

    target: str
    summary: str
    made: Literal["closed-form", "stepwise", "wrapper"]
    seeded: bool = False

    def load(self) -> Any:
        """The class."""
        module, _, name = self.target.partition(":")
        return getattr(import_module(module), name)


EMULATORS: dict[str, EmulatorEntry] = {
    "climatology": EmulatorEntry(
        "emukit.emulators.climatology:ClimatologyEmulator",
        "mean of the first 20 training years by calendar month; a reference",
        "closed-form",
    ),
    "linear": EmulatorEntry(
        "emukit.emulators.linear:LinearEmulator", "ridge on forcing series, in seconds; the one to beat", "closed-form"
    ),
    "eof-regression": EmulatorEntry(
        "emukit.emulators.eof_regression:EofRegression",
        "principal components on straight lines in forcing series, in seconds",
        "closed-form",
    ),
    "gaussian-process": EmulatorEntry(
        "emukit.emulators.gaussian_process:GaussianProcess",
        "a Gaussian process for each principal component, over a linear part",
        "closed-form",
    ),
    "random-forest": EmulatorEntry(
        "emukit.emulators.random_forest:RandomForest",
        "a forest for the principal components, over a linear part, as it cannot extrapolate",
        "closed-form",
        seeded=True,
    ),
    "anchored": EmulatorEntry(
        "emukit.emulators.anchored:Anchored",
        "a trusted emulator, plus a share of networks trained on what it leaves",
        "wrapper",
    ),
    "kriging": EmulatorEntry(
        "emukit.emulators.kriging:Kriging",
        "a trusted emulator, plus what it leaves in training years of like forcings, in seconds",
        "wrapper",
    ),
    "additive-gp": EmulatorEntry(
        "emukit.emulators.additive_gp:AdditiveGP",
        "an additive Gaussian process of the forced response, with discrepancies of scenarios; seconds",
        "wrapper",
    ),
    "ensemble": EmulatorEntry(
        "emukit.emulators.ensemble:Ensemble",
        "the mean of several emulators, weighted alike or on validation",
        "wrapper",
    ),
    "variance-matched": EmulatorEntry(
        "emukit.emulators.variance_matched:VarianceMatched",
        "its base, stretched to vary as a single run does; for the score, not for its months",
        "wrapper",
    ),
    "calibrated": EmulatorEntry(
        "emukit.emulators.calibrated:Calibrated",
        "variance-matched, drawn back to the least expected score",
        "wrapper",
    ),
    "sampled": EmulatorEntry(
        "emukit.emulators.sampled:Sampled",
        "an emulator, with weather like a real run's; one realisation",
        "wrapper",
        seeded=True,
    ),
    "neural": EmulatorEntry("emukit.emulators.neural:NeuralEmulator", "any network of the network table", "stepwise"),
}


def build_emulator(kind: str, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Emulator:
    """An emulator from what its `state` gave.

    Raises:
        KeyError: There is no such kind, or a part of it is missing.
        ValueError: A part of it does not fit.
    """
    cls: type[Emulator] = EMULATORS[kind].load()
    return cls.from_state(domain, meta, arrays)


def load_emulator(folder: Path | str) -> Emulator:
    """Load a trained emulator from its folder, or from the folder of the run that trained it.

    Raises:
        RunError: There is none, or it is damaged, or of an unknown kind or format.
    """
    # The table of names is read where nothing is loaded.
    from emukit.data.archive import Domain
    from emukit.data.card import parse_card
    from emukit.data.grid import Grid
    from emukit.emulators.base import SPACE, read_saved, time_of
    from emukit.emulators.forcing_space import ForcingSpace

    folder = Path(folder)
    if (folder / "emulator").is_dir():
        folder = folder / "emulator"
    head, arrays = read_saved(folder)
    try:
        grid = Grid(arrays.pop("grid.lat"), arrays.pop("grid.lon"))
        card = parse_card(head["card"], "the saved emulator")
        domain = Domain(card, grid, tuple(head["variables"]), time_of(head))
        space = {k.removeprefix(SPACE): arrays.pop(k) for k in [*arrays] if k.startswith(SPACE)}
        emulator = build_emulator(head["kind"], domain, head["meta"], arrays)
        if head.get("trained_in"):
            emulator.trained_in = ForcingSpace.from_arrays(head["trained_in"], space)
        return emulator
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, ValueError) as e:
        # RuntimeError is what torch raises for weights that do not fit the network they are said to belong to.
        raise shortage(e) or RunError(
            f"the emulator in {folder} does not fit this version of emukit",
            found=str(e),
            expected=f"a kind of {', '.join(EMULATORS)} with all its parts",
            hint="use the version of emukit that wrote it, or train it again",
        ) from e
