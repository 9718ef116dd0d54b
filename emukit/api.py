"""What a notebook needs, in one place: open data, train, predict, evaluate, submit.

Invariant: every function here is a command's work without its printing: the same checks, the same numbers, the same run
folders. `import emukit` offers all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from emukit.config import toml_value
from emukit.data import opening
from emukit.data.archive import Archive, Scenario
from emukit.data.store import archive_from_dataset
from emukit.progress import default_reporter
from emukit.recipes import load
from emukit.recipes.catalogue import REGISTRIES, recipe_names
from emukit.recipes.schema import Recipe
from emukit.runs.evaluate import Evaluation
from emukit.runs.evaluate import evaluate as evaluate_emulator
from emukit.runs.predict import predict_ensemble
from emukit.runs.run import Run, read_run, train_run
from emukit.runs.submit import submit_run

if TYPE_CHECKING:
    from emukit.submission import SubmissionEntry

IN_MEMORY = "a dataset in memory"


def open_data(
    source: str | Path | xr.Dataset = opening.DEMO,
    *,
    card: str | None = None,
    convert: Mapping[str, str] | None = None,
    verbose: bool = False,
) -> Archive:
    """Open data, check them, and hold them in memory.

    Args:
        source: Path of a Zarr or NetCDF store, ``demo`` for the built-in climate, or a dataset in a store's layout,
            such as a slice of one.
        card: Data card, by name or by the path of a TOML file; recognised when None.
        convert: Variable to the units that the store holds it in, such as ``{"tas": "degC"}``.
        verbose: Show progress and notes.

    Raises:
        StoreError: The data cannot be read, or have no single meaning.
    """
    reporter = default_reporter(not verbose)
    if isinstance(source, xr.Dataset):
        archive = archive_from_dataset(source, source=IN_MEMORY, card=card, convert=convert)
    else:
        archive = opening.open_data(str(source), card=card, convert=convert, reporter=reporter)
    for sentence in opening.oddities(archive):
        reporter.note(sentence)
    return archive


def list_recipes() -> tuple[str, ...]:
    """Names that `load_recipe` and `train` know."""
    return recipe_names()


def load_recipe(
    name: str, *, settings: Mapping[str, Any] | None = None, file: str | Path | None = None, loss: str | None = None
) -> Recipe:
    """A shipped recipe, with settings laid over it.

    Args:
        name: One of `list_recipes`.
        settings: Dotted path to value, such as ``{"training.epochs": 5}``.
        file: TOML recipe laid over it first.
        loss: Name of a shipped loss that replaces the recipe's.

    Raises:
        RecipeError: Unknown names or settings, or wrong values.
    """
    words = [f"{path}={toml_value(value)}" for path, value in (settings or {}).items()]
    return load.load_recipe(name, Path(file) if file is not None else None, words, loss)


def train(
    archive: Archive,
    recipe: str | Recipe,
    folder: str | Path,
    *,
    settings: Mapping[str, Any] | None = None,
    protocol: str | None = None,
    members: Sequence[int] | None = None,
    seed: int = 0,
    resume: bool = False,
    verbose: bool = False,
) -> Run:
    """Train an emulator, score it on validation, and keep the run in a folder.

    Args:
        archive: The data.
        recipe: A name of `list_recipes`, or what `load_recipe` returned.
        folder: A new folder; that of the same run, finished, is taken as it is.
        settings: As for `load_recipe`, where `recipe` is a name.
        protocol: What trains and what is held out; the data card's default when None.
        members: Training members; all when None.
        seed: Seed of weights, dropout and batch order.
        resume: Continue an interrupted run.
        verbose: Show progress and notes.

    Raises:
        EmukitError: The recipe, the folder or the split cannot be used.
        ValueError: There are settings for a recipe that is loaded already.
    """
    if isinstance(recipe, str):
        recipe = load_recipe(recipe, settings=settings)
    elif settings:
        raise ValueError("settings belong to a recipe's name; pass them to load_recipe")
    run, _ = train_run(
        archive,
        recipe,
        Path(folder),
        protocol=protocol,
        members=members,
        seed=seed,
        resume=resume,
        reporter=default_reporter(not verbose),
    )
    return run


def load_run(folder: str | Path, *, trust: Sequence[str] = ()) -> Run:
    """Read a run folder.

    Args:
        folder: What `train` or `emukit train` wrote.
        trust: Classes and functions outside emukit that the run may import, as ``module:Name``. Those that an installed
            package registers, and those that this process has trained with, need no leave.

    Raises:
        RunError: There is no run, or it is damaged.
    """
    for target in trust:
        for registry in REGISTRIES.values():
            registry.admit(target)
    return read_run(Path(folder))


def predict(
    run: Run,
    forcings: Scenario | xr.Dataset,
    *,
    members: int | None = None,
    start: str | None = None,
    stop: str | None = None,
) -> xr.Dataset:
    """Predict a scenario.

    Args:
        run: A finished run.
        forcings: A scenario of an archive (``archive["ssp245"]``), or a dataset of forcings, such as
            `emukit.forcings` returns, changed to ask "what if".
        members: How many realisations, along a dimension ``member``; None: one prediction, without that dimension.
        start: First month, such as ``2070-02``; the first that can be predicted when None.
        stop: Last month, included; the scenario's last when None.

    Returns:
        A dataset with the variables on (time, y, x), CF attributes and units.

    Raises:
        RunError: The run has not finished, or has one answer and no realisations.
        ProtocolError: A forcing or a month is missing.
        StoreError: The forcings are on another grid, in other units, or not finite.
    """
    emulator = run.emulator()
    if members is None:
        return emulator.predict(forcings, start, stop)
    return predict_ensemble(emulator, forcings, members, start, stop)


def evaluate(run: Run, archive: Archive, split: str = "validation") -> Evaluation:
    """Score a run on a set of its protocol, with references.

    Args:
        run: A finished run.
        archive: The data it was trained on, or others of the same grid.
        split: ``validation``, ``test``, or ``test-all`` under ``loso``.

    Raises:
        ProtocolError: There is no such set, or its targets are hidden.
    """
    return evaluate_emulator(run.emulator(archive), archive, run.split(archive), split)


def submit(
    run: Run, archive: Archive, folder: str | Path, *, packing: str = "csv", verbose: bool = False
) -> SubmissionEntry:
    """Write the submission of a run's test months, checked, with its `entry.toml`.

    Args:
        run: A finished run.
        archive: Its forcings are predicted from.
        folder: A new folder.
        packing: ``csv``, ``csv.gz`` or ``zip``.
        verbose: Show progress and notes.

    Raises:
        SubmissionError: The submission fails its own check.
        EmukitError: The folder is taken, or cannot be written.
    """
    return submit_run(run, archive, Path(folder), packing, default_reporter(not verbose))
