"""Putting a number in the place of an automatic batch size.

Invariant: the number is settled before a run's identity is, and is part of the run from then on: a resumed run cuts the
batches it began with, on whatever machine it continues.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

from emukit.data.archive import Archive
from emukit.data.frames import FrameEncoder
from emukit.data.residency import place
from emukit.data.segments import resident_bytes
from emukit.data.split import Split
from emukit.data.states import cut
from emukit.errors import RecipeError
from emukit.parallel.comm import Comm
from emukit.planning.memory import SAFE, batch_bytes, build_for, count_state, free_share, largest_share, measure_for
from emukit.progress import Reporter
from emukit.recipes.schema import Base, NetworkRecipe, Recipe, WrapperRecipe

R = TypeVar("R", bound=Recipe)
N = TypeVar("N", bound=NetworkRecipe)

# An automatic batch leaves an epoch this many steps at least: fewer, larger ones learn less in the same time.
FEWEST_STEPS = 8


def resolve_batch(
    recipe: R,
    archive: Archive,
    split: Split,
    comm: Comm,
    reporter: Reporter,
    recorded: Recipe | None = None,
    *,
    shards: int = 1,
) -> R:
    """Put a number in the place of an automatic batch size; any other recipe comes back as it is.

    The number is the largest power of two of segments that fits into memory and leaves an epoch enough steps. It
    becomes part of the recipe, and so of the run: on another machine the run continues with the same batches.

    Args:
        recipe: What is to be trained.
        archive: The data.
        split: Its training spans.
        comm: The processes, which agree on what the first of them finds.
        reporter: Is told the number.
        recorded: The recipe of the run that is resumed, whose number is taken.
        shards: Processes that share the network's state.

    Raises:
        RecipeError: Gradients are accumulated over more batches than an epoch has.
    """
    if isinstance(recipe, WrapperRecipe):
        # What is trained on fewer months, with a scenario left out, takes the batches found for all of them.
        before: tuple[Base | None, ...] = (None,) * len(recipe.bases)
        if isinstance(recorded, WrapperRecipe) and len(recorded.bases) == len(before):
            before = recorded.bases
        bases = tuple(
            base
            if base.run
            else base.model_copy(
                update={
                    "recipe": resolve_batch(
                        base.recipe, archive, split, comm, reporter, old.recipe if old else None, shards=shards
                    )
                }
            )
            for base, old in zip(recipe.bases, before, strict=True)
        )
        return recipe.model_copy(update={"bases": bases})
    if not isinstance(recipe, NetworkRecipe):
        return recipe
    if recipe.training.segments.per_batch != "auto":
        _refuse_endless_steps(recipe, archive, split)
        return recipe
    if isinstance(recorded, NetworkRecipe):
        found = recorded.training.segments.batch_size
    else:
        found = _largest_batch(recipe, archive, split, comm, shards)
    # Every process must cut the same batches, and their memories may differ.
    number = int(comm.sum(np.array([float(found if comm.main else 0)]))[0])
    reporter.say(f"training.segments.per_batch: auto is {number} here")
    chosen = _with_batch(recipe, number)
    _refuse_endless_steps(chosen, archive, split)
    return chosen


def _refuse_endless_steps(recipe: NetworkRecipe, archive: Archive, split: Split) -> None:
    training = recipe.training
    batches = cut(archive, split.train, recipe.inputs, training.segments).steps()
    if training.accumulate > batches:
        raise RecipeError(
            "a step takes more batches than an epoch has",
            found=f"training.accumulate = {training.accumulate}, {batches} batches an epoch",
            expected=f"at most {batches}, which is one step an epoch",
            hint="a smaller --set training.accumulate or --set training.segments.per_batch",
        )


def _largest_batch(recipe: NetworkRecipe, archive: Archive, split: Split, comm: Comm, shards: int) -> int:
    training, window = recipe.training, recipe.inputs.window
    encoder = FrameEncoder.fit(archive, split.train, recipe.inputs)
    channels, length = len(encoder.channels), training.segments.length
    state = count_state(recipe, archive, channels)
    own_state = -(-state.total // shards)
    available = free_share(comm)
    # Whole, with its gradients, it must fit to be measured.
    if max(own_state, state.weights + state.gradients) > SAFE * available:
        return 1
    # On a CPU what it costs is counted, and needs no storage.
    with torch.device(comm.device if comm.device.type == "cuda" else "meta"):
        network = build_for(recipe, archive, channels)
    frame = (channels, *archive.grid.shape)
    activations = measure_for(recipe, network, frame).activations

    def acceptable(number: int) -> bool:
        sized = _with_batch(recipe, number).training.segments
        addresses = cut(archive, split.train, recipe.inputs, sized)
        if -(-addresses.steps() // training.accumulate) < FEWEST_STEPS:
            return False
        data = resident_bytes(archive, addresses, encoder)
        streamed = place(sized.residency, data, available, comm.device.type) == "host" and comm.device.type != "cpu"
        segments, months = largest_share(number, length, comm.data.world)
        batch = batch_bytes(segments, months, frame, len(archive.variables), window.history)
        needed = own_state + (0 if streamed else data) + batch + activations.at(segments, months)
        return needed <= SAFE * available

    number = 1
    while acceptable(2 * number):
        number *= 2
    return number


def _with_batch(recipe: N, number: int) -> N:
    segments = recipe.training.segments.model_copy(update={"per_batch": number})
    return recipe.model_copy(update={"training": recipe.training.model_copy(update={"segments": segments})})
