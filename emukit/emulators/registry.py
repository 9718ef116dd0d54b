"""Every emulator by name: one table, and the one way to load a saved one.

Invariant: what `save` wrote, `load_emulator` finds by its kind. A new emulator is a file and a line here, or a package
with an entry point in the group ``emukit.emulators`` (docs/plugins.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from emukit.errors import RecipeError, RunError, shortage
from emukit.registry import Entry, Plugin, Registry

if TYPE_CHECKING:
    from emukit.data.archive import Domain
    from emukit.emulators.base import Emulator


Made = Literal["closed-form", "stepwise", "wrapper"]


@dataclass(frozen=True)
class EmulatorEntry(Entry):
    """Where an emulator is, and what it is good for.

    Attributes:
        made_as: How: in ``closed-form``, by its class's `fit(archive, split, **options)`; ``stepwise``, in a training
            loop; or as a ``wrapper`` of others, by `fit(archive, split, bases, folds, **options)`. None: its class
            says so.
        takes_seed: Whether `fit` takes the seed of the run too, as a keyword `seed` that is not an option. Where
            `made_as` is None, the signature says so.
    """

    made_as: Made | None = None
    takes_seed: bool = False

    @property
    def made(self) -> Made:
        """How it is made; a class of another package is imported to see."""
        if self.made_as is None:
            from emukit.emulators.wrapper import Wrapper

            return "wrapper" if issubclass(self.load(), Wrapper) else "closed-form"
        return self.made_as

    @property
    def seeded(self) -> bool:
        """Whether `fit` takes the seed of the run; a class of another package is imported to see."""
        if self.made_as is None:
            return "seed" in signature(self.load().fit).parameters
        return self.takes_seed


def _is_emulator(found: Any) -> bool:
    from emukit.emulators.base import Emulator

    return isinstance(found, type) and issubclass(found, Emulator)


EMULATORS: Registry[EmulatorEntry] = Registry(
    "emulator",
    "emukit.emulators",
    {
        "climatology": EmulatorEntry(
            "emukit.emulators.climatology:ClimatologyEmulator",
            "mean of the first 20 training years by calendar month; a reference",
            made_as="closed-form",
        ),
        "persistence": EmulatorEntry(
            "emukit.emulators.trajectory:Persistence",
            "everything stays as it was before the first step; a reference for forecasts",
            made_as="closed-form",
        ),
        "linear": EmulatorEntry(
            "emukit.emulators.linear:LinearEmulator",
            "ridge on forcing series, in seconds; the one to beat",
            made_as="closed-form",
        ),
        "energy-balance": EmulatorEntry(
            "emukit.emulators.energy_balance:EnergyBalanceEmulator",
            "pattern scaling on the warming of a two-layer energy balance, in seconds",
            made_as="closed-form",
        ),
        "eof-regression": EmulatorEntry(
            "emukit.emulators.components:EofRegression",
            "principal components on straight lines in forcing series, in seconds",
            made_as="closed-form",
        ),
        "gaussian-process": EmulatorEntry(
            "emukit.emulators.gaussian_process:GaussianProcess",
            "a Gaussian process for each principal component, over a linear part",
            made_as="closed-form",
        ),
        "random-forest": EmulatorEntry(
            "emukit.emulators.random_forest:RandomForest",
            "a forest for the principal components, over a linear part, as it cannot extrapolate",
            made_as="closed-form",
            takes_seed=True,
        ),
        "residual-correction": EmulatorEntry(
            "emukit.emulators.residual_correction:ResidualCorrection",
            "a trusted emulator, plus networks trained on its residual and shrunk towards zero",
            made_as="wrapper",
        ),
        "kriging": EmulatorEntry(
            "emukit.emulators.kriging:Kriging",
            "a trusted emulator, plus what it leaves in training years of like forcings, in seconds",
            made_as="wrapper",
        ),
        "additive-gp": EmulatorEntry(
            "emukit.emulators.additive_gp:AdditiveGP",
            "an additive Gaussian process of the forced response, with discrepancies of scenarios; seconds",
            made_as="wrapper",
        ),
        "mean-corrected": EmulatorEntry(
            "emukit.emulators.mean_corrected:MeanCorrected",
            "one emulator's fields with another's global means, such as those of an energy balance",
            made_as="wrapper",
        ),
        "ensemble": EmulatorEntry(
            "emukit.emulators.ensemble:Ensemble",
            "the mean of several emulators, weighted alike or on validation",
            made_as="wrapper",
        ),
        "variance-matched": EmulatorEntry(
            "emukit.emulators.variance_matched:VarianceMatched",
            "its base, stretched to vary as a single run does; for the score, not for its months",
            made_as="wrapper",
        ),
        "calibrated": EmulatorEntry(
            "emukit.emulators.calibrated:Calibrated",
            "variance-matched, drawn back to the least expected score",
            made_as="wrapper",
        ),
        "sampled": EmulatorEntry(
            "emukit.emulators.sampled:Sampled",
            "an emulator, with weather like a real run's; one realisation",
            made_as="wrapper",
            takes_seed=True,
        ),
        "atlas": EmulatorEntry(
            "emukit.emulators.atlas:Atlas",
            "an emulator, with variability drawn month by month, by regressions or networks; of any length",
            made_as="wrapper",
            takes_seed=True,
        ),
        "column-closure": EmulatorEntry(
            "emukit.emulators.column_closure:ColumnClosureEmulator",
            "an energy balance, with what it leaves of every column said by a network, month by month; realisations",
            made_as="wrapper",
            takes_seed=True,
        ),
        "typical-year": EmulatorEntry(
            "emukit.emulators.typical_year:TypicalYear",
            "daily fields whose sorted days are where they are expected, on the days of one training year",
            made_as="closed-form",
        ),
        "delta-change": EmulatorEntry(
            "emukit.emulators.delta_change:DeltaChange",
            "daily training years, moved to the mean of the year that is asked for; realisations",
            made_as="closed-form",
            takes_seed=True,
        ),
        "downscaled": EmulatorEntry(
            "emukit.emulators.downscaled:Downscaled",
            "a coarse emulator, trained on the coarsened data, with a downscaling run behind it",
            made_as="wrapper",
        ),
        "climx-climatology": EmulatorEntry(
            "emukit.emulators.climx_baselines:ClimxClimatology",
            "a baseline of the ClimX organisers: monthly means of the historical run, half a month early",
            made_as="closed-form",
        ),
        "climx-lps": EmulatorEntry(
            "emukit.emulators.climx_baselines:ClimxPatternScaling",
            "a baseline of the ClimX organisers: straight lines in CO2 and in the global mean temperature",
            made_as="closed-form",
        ),
        "climx-nn": EmulatorEntry(
            "emukit.emulators.climx_networks:ClimxNetwork",
            "a baseline of the ClimX organisers: a small network of each day's forcings in a cell",
            made_as="closed-form",
            takes_seed=True,
        ),
        "climx-gnn": EmulatorEntry(
            "emukit.emulators.climx_networks:ClimxGraphNetwork",
            "a baseline of the ClimX organisers: graph convolutions over a few edges drawn at random",
            made_as="closed-form",
            takes_seed=True,
        ),
        "neural": EmulatorEntry(
            "emukit.emulators.neural:NeuralEmulator", "any network of the network table", made_as="stepwise"
        ),
        "trajectory": EmulatorEntry(
            "emukit.emulators.trajectory:TrajectoryNetwork",
            "any network with outputs among its inputs (inputs.states), step by step from a beginning",
            made_as="stepwise",
        ),
    },
    entry=EmulatorEntry,
    accepts=_is_emulator,
    expected="a subclass of emukit.emulators.base.Emulator",
)


# What emulators, and options of theirs, are called in recipes, run folders and saved emulators of earlier versions.
FORMER_NAMES = {"anchored": "residual-correction"}
FORMER_OPTIONS = {"residual-correction": {"reach": "length_scale"}, "additive-gp": {"reach": "length_scale"}}
# Options that came later, at the value that does what was done before: there they change no digest of a recipe, so that
# runs of before are found.
LATER_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "additive-gp": {"parts": 1, "sharpness": 2.0},
    "hybrid": {"relaxation": 0.0, "relaxation_days": [1.0, 5.0]},
}


def present_name(name: str) -> str:
    """The name of an emulator, where an earlier version called it otherwise."""
    return FORMER_NAMES.get(name, name)


def with_present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values of one recipe with its emulator and the options of `model` under their names of today.

    An option under its earlier name replaces that of today: shipped recipes have the latter, so a user wrote the
    former.
    """
    name = values.get("emulator")
    if not isinstance(name, str):
        return dict(values)
    out, name = {**values, "emulator": present_name(name)}, present_name(name)
    model, former = values.get("model"), FORMER_OPTIONS.get(name, {})
    if isinstance(model, Mapping) and former.keys() & model.keys():
        kept = {k: v for k, v in model.items() if k not in former}
        out["model"] = {**kept, **{former[k]: v for k, v in model.items() if k in former}}
    return out


def with_former_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `with_present_names`: as the first version wrote it, for digests that do not change."""
    name = values.get("emulator")
    former = {present: old for old, present in FORMER_OPTIONS.get(present_name(str(name)), {}).items()}
    out = {**values, "emulator": next((old for old, present in FORMER_NAMES.items() if present == name), name)}
    if "emulator" not in values:
        del out["emulator"]
    model = values.get("model")
    if isinstance(model, Mapping) and former:
        out["model"] = {former.get(k, k): v for k, v in model.items()}
    return out


def build_emulator(kind: str, domain: Domain, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Emulator:
    """An emulator from what its `state` gave.

    Raises:
        RecipeError: There is no such kind, or nobody but a file names it.
        KeyError: A part of it is missing.
        ValueError: A part of it does not fit.
    """
    kind = present_name(kind)
    cls: type[Emulator] = EMULATORS.load(kind)
    emulator = cls.from_state(domain, meta, arrays)
    emulator.kind = kind
    return emulator


def load_emulator(folder: Path | str) -> Emulator:
    """Load a trained emulator from its folder, or from the folder of the run that trained it.

    Raises:
        RunError: There is none, or it is damaged, or of an unknown kind or format.
    """
    # The table of names is read where nothing is loaded.
    from emukit.data.archive import Domain
    from emukit.data.card import parse_card
    from emukit.data.encodings import CYCLES, STATIC
    from emukit.data.grid import Grid
    from emukit.emulators.base import SPACE, read_saved, time_of
    from emukit.emulators.features import ForcingSpace
    from emukit.models.registry import NETWORKS
    from emukit.objectives.registry import OBJECTIVES

    folder = Path(folder)
    if (folder / "emulator").is_dir():
        folder = folder / "emulator"
    head, arrays = read_saved(folder)
    try:
        grid = Grid(arrays.pop("grid.lat"), arrays.pop("grid.lon"))
        card = parse_card(head["card"], "the saved emulator")
        domain = Domain(card, grid, tuple(head["variables"]), time_of(head))
        space = {k.removeprefix(SPACE): arrays.pop(k) for k in [*arrays] if k.startswith(SPACE)}
        plugins = tuple(Plugin(**values) for values in head.get("plugins", ()))
        # Losses are not needed any more.
        for registry in (NETWORKS, EMULATORS, OBJECTIVES, CYCLES, STATIC):
            for needed in (p for p in plugins if p.kind == registry.kind):
                registry.check(needed, f"the emulator in {folder}")
        emulator = build_emulator(head["kind"], domain, head["meta"], arrays)
        emulator.plugins = plugins
        if head.get("trained_in"):
            emulator.trained_in = ForcingSpace.from_arrays(head["trained_in"], space)
        return emulator
    except RecipeError as e:
        raise RunError(
            f"the emulator in {folder} does not fit what is installed here",
            found=f"{e.what}{f': {e.found}' if e.found else ''}",
            expected=e.expected,
            hint=e.hint or "install what it needs, use the version of emukit that wrote it, or train it again",
        ) from e
    except (KeyError, IndexError, TypeError, AttributeError, RuntimeError, ValueError) as e:
        # RuntimeError is what torch raises for weights that do not fit the network they are said to belong to.
        raise shortage(e) or RunError(
            f"the emulator in {folder} does not fit this version of emukit",
            found=str(e),
            expected=f"a kind of {', '.join(EMULATORS)} with all its parts",
            hint="use the version of emukit that wrote it, or train it again",
        ) from e
