"""A finished run as the base of a wrapper.

Invariant: what is wrapped has seen nothing that the wrapper is scored on. A run of other data, of another card, or with
training months among the held-out ones is refused before anything is trained.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from emukit.data.archive import Archive
from emukit.data.folds import final_split
from emukit.data.protocol import make_split
from emukit.data.split import Span, Split
from emukit.emulators.base import Emulator
from emukit.emulators.registry import load_emulator
from emukit.errors import RunError
from emukit.recipes.catalogue import identity_digest
from emukit.recipes.plugins import check_plugins
from emukit.recipes.schema import FinishedRun, NetworkRecipe, Recipe
from emukit.runs.evaluate import check_fits
from emukit.runs.record import card_digest, read_record


def finished_emulator(run: FinishedRun, recipe: Recipe, archive: Archive, split: Split) -> Emulator:
    """The emulator of a base that is a finished run.

    Args:
        run: What the wrapper's recipe says of it.
        recipe: What it trained.
        archive: The data of the wrapper.
        split: Its months.

    Raises:
        RunError: The run is not the one that the recipe names, has not finished, is of other data or another card, or
            has trained or selected on months that the wrapper is to be scored on.
        ProtocolError: It predicts on another grid, or other variables.
    """
    folder = Path(run.folder)
    record = read_record(folder)
    identity = record.identity
    if identity_digest(identity.model_dump(mode="json")) != run.identity:
        raise RunError(
            f"the run {folder} is not the one that the recipe wraps",
            found="a run of another recipe, protocol, seed or data",
            hint="put that run back, or name this one in a recipe of its own",
        )
    if record.state != "finished":
        raise RunError(f"the run {folder} has not finished", hint="finish it first")
    different = {
        "data": (identity.data, archive.digest),
        "data card": (identity.card, card_digest(archive.card)),
    }
    wrong = [what for what, (then, now) in different.items() if then != now]
    if wrong:
        raise RunError(
            f"the run {folder} was trained on something else than is to be wrapped here",
            found=f"another {' and another '.join(wrong)}",
            expected=f"runs of {archive.source}, opened as it is now",
            hint="wrap runs that were trained on the same store with the same --card and --convert",
        )
    own = make_split(archive, identity.protocol, identity.members)
    own = final_split(archive, own) if identity.final else own
    for name, held in split.scored.items():
        # Both may select on the same months.
        selected = own.scored.get("validation", ()) if name != "validation" else ()
        for doing, known in (("trained", own.train), ("selected", selected)):
            if common := _common(known, held):
                raise RunError(
                    f"the run {folder} {doing} on months that the wrapper holds out",
                    found=f"{common.text(archive)}, which protocol {split.protocol} keeps for {name}",
                    expected="runs that never saw them",
                    hint=f"wrap runs of protocol {split.protocol}",
                )
    check_plugins(record.plugins, f"the run {folder}")
    emulator = load_emulator(folder / "emulator")
    expected = recipe.emulator_kind if isinstance(recipe, NetworkRecipe) else recipe.emulator
    if emulator.kind != expected:
        raise RunError(
            f"the emulator in {folder} is not the one that this run trained",
            found=f"an emulator of the kind {emulator.kind}",
            expected=expected,
            hint="put its own emulator folder back, or train it again",
        )
    check_fits(emulator, archive)
    return emulator


def _common(known: Iterable[Span], held: Iterable[Span]) -> Span | None:
    """The first held-out span that shares a month of a scenario with a known one, whatever the member."""
    spans = tuple(known)
    return next(
        (h for h in held for k in spans if k.scenario == h.scenario and k.start < h.stop and h.start < k.stop), None
    )
