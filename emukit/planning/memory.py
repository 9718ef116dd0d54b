"""What a training keeps in memory, in words and against what there is.

Invariant: nothing is allocated to find out that a network does not fit: its own size is counted on the meta device, and
what the rest costs is measured at small sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from emukit.data.archive import Archive
from emukit.data.residency import free_memory
from emukit.data.segment_addresses import SegmentAddresses
from emukit.data.segments import SegmentSampler
from emukit.models.registry import build_network
from emukit.parallel.comm import Comm
from emukit.recipes.schema import NetworkRecipe
from emukit.terminal import size
from emukit.training.footprint import Footprint, State, measure

# Memory that a plan may use: allocators fragment, other programs wake up, and validation needs room of its own.
SAFE = 0.8


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
    footprint = measure(network, wide, history, training.segments.length, training.precision)
    return footprint.times(recipe.objective.build(None).passes)


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
