"""What a network costs: bytes and operations, measured at small sizes and extrapolated.

Invariant: measuring changes nothing that training depends on: no weight, no running statistic, no random state, and no
gradient is left behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from emukit.training.engine import AUTOCAST

# Sizes that are measured: months of a segment, enough for what grows with them to show, and few enough to be quick.
SHORT, LONG = 2, 6
# A pass this long is not repeated: what only the first one pays for is little of it.
SLOW_PASS_SECONDS = 1.0
# AdamW keeps a mean and a mean square of every gradient, in float32.
ADAMW_STATES = 2


@dataclass(frozen=True)
class State:
    """Bytes that do not depend on the batch.

    Attributes:
        parameters: How many numbers are trained.
        weights: Parameters and buffers.
        gradients: One for each parameter.
        optimizer: AdamW's moments.
        average: Averaged weights, where they are kept.
    """

    parameters: int
    weights: int
    gradients: int
    optimizer: int
    average: int

    @classmethod
    def of(cls, network: nn.Module, averaged: bool) -> State:
        """Counted from shapes: the network may be on the meta device."""
        trained = [p for p in network.parameters() if p.requires_grad]
        gradients = sum(p.nbytes for p in trained)
        weights = sum(t.nbytes for t in (*network.parameters(), *network.buffers()))
        moments = ADAMW_STATES * gradients
        return cls(sum(p.numel() for p in trained), weights, gradients, moments, weights if averaged else 0)

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.average


@dataclass(frozen=True)
class Affine:
    """An amount for S segments of L months: fixed + S (segment + L month)."""

    fixed: float
    segment: float
    month: float

    @classmethod
    def through(cls, amount: Callable[[int, int], float], length: int) -> Affine:
        """The one with three measured amounts, of (segments, months)."""
        short, long = min(SHORT, length), min(LONG, length)
        one, two = amount(1, short), amount(2, short)
        month = (amount(1, long) - one) / (long - short) if long > short else 0.0
        return cls(2 * one - two, two - one - short * month, month)

    def at(self, segments: int, months: int) -> float:
        """The amount for a batch."""
        return max(0.0, self.fixed + segments * (self.segment + months * self.month))


@dataclass(frozen=True)
class Footprint:
    """What a forward and backward pass costs.

    Attributes:
        activations: Bytes kept for the backward pass; on a GPU the peak of everything that the pass allocates.
        flops: Floating-point operations.
        flops_per_second: Reached at the larger of the small sizes.
    """

    activations: Affine
    flops: Affine
    flops_per_second: float


def measure(network: nn.Module, frame: tuple[int, int, int], history: int, length: int, precision: str) -> Footprint:
    """Run a network forward and backward at small sizes.

    Args:
        network: On its device, not yet wrapped or sharded.
        frame: (C, Y, X).
        history: H, frames of a window.
        length: Months of a segment in training.
        precision: As in the training settings.
    """
    device = next(network.parameters()).device

    def run(segments: int, months: int) -> tuple[float, float, float]:
        frames = torch.randn(segments, months + history - 1, *frame, device=device)
        return _one_pass(network, frames, AUTOCAST.get(precision))

    measured: dict[tuple[int, int], tuple[float, float, float]] = {}
    largest = 1, min(LONG, length)

    def once(segments: int, months: int) -> tuple[float, float, float]:
        if (segments, months) not in measured:
            measured[segments, months] = run(segments, months)
        return measured[segments, months]

    with _undisturbed(network):
        # The first pass pays for what no later one does, on a GPU with the memory of gradients too.
        first = run(*largest)
        if device.type == "cpu" and first[2] > SLOW_PASS_SECONDS:
            measured[largest] = first
        activations = Affine.through(lambda s, m: once(s, m)[0], length)
        flops = Affine.through(lambda s, m: once(s, m)[1], length)
        _, operations, seconds = once(*largest)
    return Footprint(activations, flops, operations / seconds)


def _one_pass(network: nn.Module, frames: Tensor, dtype: torch.dtype | None) -> tuple[float, float, float]:
    """Bytes, operations and seconds of a forward and backward pass."""
    device = frames.device
    own = {t.untyped_storage().data_ptr() for t in (frames, *network.parameters(), *network.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    with FlopCounterMode(display=False) as counter:
        started = time.perf_counter()
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast(device.type, dtype, enabled=dtype is not None),
        ):
            total = network(frames).float().square().mean()
        total.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    used = torch.cuda.max_memory_allocated(device) - before if device.type == "cuda" else sum(kept.values())
    return float(used), float(counter.get_total_flops()), seconds


@contextmanager
def _undisturbed(network: nn.Module) -> Iterator[None]:
    """Training mode inside; everything that passes change is as before afterwards."""
    mode = network.training
    buffers = {name: b.detach().clone() for name, b in network.named_buffers()}
    device = next(network.parameters()).device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        try:
            network.train()
            yield
        finally:
            network.train(mode)
            network.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name, b in network.named_buffers():
                    b.copy_(buffers[name])
