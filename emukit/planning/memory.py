"""What a training keeps in memory, in words and against what there is; and what one field over several processes takes.

Invariant: nothing is allocated to find out that a network does not fit: its own size is counted on the meta device, and
what the rest costs is measured at small sizes. Of several processes, bytes are those that they would keep and send,
tensor by tensor: the network runs forward and backward on tensors without storage, with the rows of one of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import nn

from emukit.data.archive import Archive
from emukit.data.frames import FrameEncoder
from emukit.data.residency import free_memory, place
from emukit.data.segments import SegmentAddresses, SegmentSampler, resident_bytes
from emukit.data.split import Split
from emukit.data.states import cut
from emukit.errors import RecipeError
from emukit.models.registry import build_network
from emukit.parallel.comm import Comm
from emukit.parallel.domain import DividedSphere
from emukit.progress import Reporter
from emukit.recipes.schema import Base, NetworkRecipe, Recipe, WrapperRecipe
from emukit.terminal import size
from emukit.training.footprint import Footprint, State, count_pass, measure

# Memory that a plan may use: allocators fragment, other programs wake up, and validation needs room of its own.
SAFE = 0.8
# Processes that are tried, one after another, for the fewest that will do.
TRIED = (2, 4, 8, 16, 32, 64)
R = TypeVar("R", bound=Recipe)
N = TypeVar("N", bound=NetworkRecipe)

# What steps cost, by all that decides it: copies, folds and seeds of a recipe are measured once in a process.
_MEASURED: dict[tuple[object, ...], Footprint] = {}

# An automatic batch leaves an epoch this many steps at least: fewer, larger ones learn less in the same time.
FEWEST_STEPS = 8


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one process.

    Attributes:
        state: What does not depend on the batch.
        shards: Processes that share the state.
        data: Arrays that batches are read from.
        residency: Where they live.
        batch: Frames and targets of a batch.
        whole: Segments of the largest batch: where an epoch has fewer than wanted, all of them.
        wanted: Segments of a batch by the settings.
        footprint: What a pass costs; None where the network is too large to be measured.
        activations: Kept for the backward pass; None likewise.
        available: What there would be without this training.
        device: Its type.
    """

    state: State
    shards: int
    data: int
    residency: Literal["device", "host"]
    batch: int
    whole: int
    wanted: int
    footprint: Footprint | None
    activations: int | None
    available: int
    device: str

    @property
    def own_state(self) -> int:
        """This process's part of the state."""
        return -(-self.state.total // self.shards)

    @property
    def on_device(self) -> int:
        """Everything that is on the device, as far as it is known."""
        streamed = self.residency == "host" and self.device != "cpu"
        return self.own_state + (0 if streamed else self.data) + self.batch + (self.activations or 0)

    @property
    def fits(self) -> bool:
        """Whether it is safe to train."""
        return self.activations is not None and self.on_device <= SAFE * self.available

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """What, how much, and why, for people."""
        s = self.state
        of = f", of which this process holds 1/{self.shards}" if self.shards > 1 else ""
        yield "weights", size(s.weights), f"{s.parameters:,} parameters{of}"
        yield "gradients", size(s.gradients), "one for each parameter"
        yield "optimiser", size(s.optimizer), "AdamW: two for each parameter, float32"
        if s.average:
            yield "average", size(s.average), "a copy of the weights (training.average)"
        streamed = self.residency == "host" and self.device != "cpu"
        where = "in host memory, streamed batch by batch" if streamed else f"resident on the {self.device}"
        yield "data", size(self.data), where
        all_of = f" of {self.whole} segments: an epoch has no more (per_batch is {self.wanted:,})"
        yield "batch", size(self.batch), "frames and targets" + (all_of if self.whole < self.wanted else "")
        if self.activations is None:
            yield "activations", "?", "not measured: the whole model is not on this device"
        else:
            yield "activations", size(self.activations), "kept for the backward pass, from small sizes"
        share = f"{self.on_device / self.available:.0%} of the {size(self.available)}" if self.available else "of none"
        yield "together", size(self.on_device), f"{share} there are on this machine"

    def line(self) -> str:
        """The same in one line."""
        parts = ", ".join(f"{what} {amount}" for what, amount, _ in self.rows())
        doubt = "" if self.fits or self.shards > 1 else " - IT MAY NOT FIT: see `emukit plan`"
        return f"memory: {parts} of {size(self.available)}{doubt}"


def memory_plan(
    network: nn.Module, source: SegmentSampler, recipe: NetworkRecipe, comm: Comm, *, sharded: bool = False
) -> MemoryPlan:
    """What training this network on this source will keep in memory.

    To be called once both are made, before the network is wrapped; nothing that training depends on is changed.

    Args:
        network: On its device; to be sharded, on the CPU.
        source: Batches.
        recipe: Objective, batch size, precision, averaging.
        comm: The processes.
        sharded: Whether they share the network's state.
    """
    settings = recipe.training
    state, shards = State.of(network, settings.average.kind != "none"), comm.world if sharded else 1
    streamed = source.residency == "host" and comm.device.type != "cpu"
    available = free_share(comm) + state.weights + (0 if streamed else source.resident_bytes)
    history = source.window.history
    footprint = None
    # Whole, with its gradients, it must fit to be measured, also where only a shard of it would be trained here.
    if (
        state.weights + state.gradients <= SAFE * available
        and next(network.parameters()).device.type == comm.device.type
    ):
        footprint = measure_for(recipe, network, (source.frame[0], *source.grid))
    whole = largest_batch(source)
    # A stencil's cells of the neighbours are kept next to the own ones.
    beside = [2 * (own < n) for own, n in zip(source.frame[1:], source.grid, strict=True)]
    share = math.prod(
        min(1.0, (own + more) / n) for own, more, n in zip(source.frame[1:], beside, source.grid, strict=True)
    )
    segments, months = largest_share(whole, settings.segments.length, comm.data.world)
    return MemoryPlan(
        state,
        shards,
        source.resident_bytes,
        source.residency,
        batch_bytes(segments, months, source.frame, source.variables, history),
        whole,
        settings.segments.batch_size,
        footprint,
        int(share * footprint.activations.at(segments, months)) if footprint else None,
        available,
        comm.device.type,
    )


def largest_batch(source: SegmentSampler | SegmentAddresses) -> int:
    """Segments of the largest batch of an epoch, which may have fewer than a batch could hold."""
    return max(map(len, source.epoch(0, 0)))


def largest_share(segments: int, months: int, world: int) -> tuple[int, int]:
    """Segments, and months of each, that the busiest of several processes computes of a batch."""
    return (-(-segments // world), months) if segments >= world else (segments, -(-months // world))


def batch_bytes(segments: int, months: int, frame: tuple[int, int, int], variables: int, history: int) -> int:
    """Frames and targets of a batch, float32."""
    channels, rows, columns = frame
    return 4 * segments * rows * columns * (channels * (months + history - 1) + variables * months)


def measure_for(recipe: NetworkRecipe, network: nn.Module, frame: tuple[int, int, int]) -> Footprint:
    """What a training step of a recipe costs, from small sizes.

    Args:
        recipe: Its objective adds channels to a frame, and may ask the network several times.
        network: As for `emukit.training.footprint.measure`.
        frame: (C, Y, X) as the encoder makes them.
    """
    training, history = recipe.training, recipe.inputs.window.history
    wide = (recipe.network_channels(frame[0]), *frame[1:])
    objective, precision = recipe.objective.build(None), training.precision
    # Each step of a trajectory is a pass of its own.
    length = 1 if objective.trajectory else training.segments.length
    weights = tuple(p.shape for p in network.parameters())
    key = (
        type(network),
        recipe.model.model_dump_json(),
        weights,
        next(network.parameters()).device,
        wide,
        history,
        length,
        precision,
    )
    if key not in _MEASURED:
        _MEASURED[key] = measure(network, wide, history, length, precision)
    return _MEASURED[key].times(objective.passes, objective.kept)


def build_for(recipe: NetworkRecipe, archive: Archive, channels: int) -> nn.Module:
    """A recipe's network for frames of so many channels of an archive."""
    return build_network(
        recipe.emulator,
        in_channels=recipe.network_channels(channels),
        variables=len(archive.variables),
        grid=archive.grid.shape,
        history=recipe.inputs.window.history,
        options=recipe.options,
    )


def count_state(recipe: NetworkRecipe, archive: Archive, channels: int) -> State:
    """Bytes of its state, without allocating any."""
    with torch.device("meta"):
        return State.of(build_for(recipe, archive, channels), recipe.training.average.kind != "none")


def free_share(comm: Comm) -> int:
    """Bytes free for this process; processes on CPUs share one memory."""
    free = free_memory(comm.device)
    return free // comm.world if comm.device.type == "cpu" else free


@dataclass(frozen=True)
class DividedCost:
    """What a step takes of the busiest process of several that share a globe.

    Attributes:
        rows: Processes that rows are divided over.
        columns: Processes that each row is divided over.
        part: Rows and columns that it has.
        grid: (Y, X) of the globe.
        kept: Bytes of tensors that it keeps for the backward pass.
        sent: Bytes of cells that it sends, forward and backward.
    """

    rows: int
    columns: int
    part: tuple[int, int]
    grid: tuple[int, int]
    kept: int
    sent: int

    @property
    def processes(self) -> int:
        """How many share the globe."""
        return self.rows * self.columns

    @property
    def option(self) -> str:
        """What --domain is to say."""
        return f"{self.rows}x{self.columns}" if self.columns > 1 else str(self.rows)


def count_divided(
    network: nn.Module,
    frame: tuple[int, int, int],
    history: int,
    batch: tuple[int, int],
    precision: str,
    rows: int,
    columns: int = 1,
) -> DividedCost:
    """Count a forward and backward pass of a batch by one of several processes that share a globe.

    Args:
        network: One that can be divided; itself it is left as it is.
        frame: (C, Y, X) of the whole grid.
        history: H, frames of a window.
        batch: Segments, and months of each.
        precision: As in the training settings.
        rows: Processes that rows are divided over.
        columns: Processes that each row is divided over; where both are 1, the globe is whole.

    Raises:
        TrainingError: Some process would have no cells at some level of the network.
    """
    channels, grid = frame[0], (frame[1], frame[2])
    processes, sphere, part = rows * columns, None, grid
    if processes > 1:
        bounds = DividedSphere(Comm(0, processes, columns=columns), grid).bounds(grid[1])
        lengths = [b - a for a, b in bounds]
        # Those in the middle have neighbours on both sides.
        busiest = max(range(len(lengths)), key=lambda r: (lengths[r], 0 < r < len(lengths) - 1))
        sphere = DividedSphere(Comm(busiest * columns, processes, columns=columns), grid)
        part = (lengths[busiest], grid[1] // columns)
    kept = count_pass(network, (batch[0], batch[1] + history - 1, channels, *part), precision, sphere)
    return DividedCost(rows, columns, part, grid, kept, sphere.sent if sphere else 0)


def on_device(memory: MemoryPlan, cost: DividedCost) -> int:
    """Bytes on the device of a process that has some of the cells, of a plan for all of them."""
    share = math.prod(cost.part) / math.prod(cost.grid)
    streamed = memory.residency == "host" and memory.device != "cpu"
    return memory.own_state + int(share * ((0 if streamed else memory.data) + memory.batch)) + cost.kept


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
