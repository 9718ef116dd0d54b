"""What a network costs: bytes and operations, counted or measured at small sizes and extrapolated.

What would take long to compute is counted on tensors without storage, which costs neither time nor memory. Invariant:
measuring changes nothing that training depends on: no weight, no running statistic, no random state, and no
gradient is left behind.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from emukit.parallel.domain import DividedSphere, divide
from emukit.training.engine import AUTOCAST

# Sizes that are measured: months of a segment, enough for what grows with them to show, and few enough to be quick.
SHORT, LONG = 2, 6
# A pass this long is not repeated: what only the first one pays for is little of it.
SLOW_PASS_SECONDS = 1.0
# Operations of the largest measured pass beyond which a CPU does not compute it: a second or so of a core. In half
# precision, which most CPUs emulate, it takes several times as long.
MOST_FLOPS, MOST_HALF_FLOPS = 2e10, 4e9
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

    def times(self, number: int) -> Affine:
        """So many times the amount."""
        return Affine(number * self.fixed, number * self.segment, number * self.month)

    def at(self, segments: int, months: int) -> float:
        """The amount for a batch."""
        return max(0.0, self.fixed + segments * (self.segment + months * self.month))


@dataclass(frozen=True)
class Footprint:
    """What a forward and backward pass costs.

    Attributes:
        activations: Bytes kept for the backward pass; on a GPU the peak of everything that the pass allocates.
        flops: Floating-point operations.
        flops_per_second: Reached at the larger of the small sizes; None where nothing was computed.
    """

    activations: Affine
    flops: Affine
    flops_per_second: float | None

    def times(self, passes: int, kept: int) -> Footprint:
        """That of so many passes, of which some are kept together."""
        return Footprint(self.activations.times(kept), self.flops.times(passes), self.flops_per_second)


def measure(network: nn.Module, frame: tuple[int, int, int], history: int, length: int, precision: str) -> Footprint:
    """Run a network forward and backward at small sizes; on a CPU, where that takes long, count without computing.

    Args:
        network: Not yet wrapped or sharded; on its device, or on the meta device, to be counted as on a CPU.
        frame: (C, Y, X).
        history: H, frames of a window.
        length: Months of a segment in training.
        precision: As in the training settings.
    """
    device, dtype = next(network.parameters()).device, AUTOCAST.get(precision)

    def run(segments: int, months: int, on: nn.Module, where: torch.device) -> tuple[float, float, float]:
        frames = torch.randn(segments, months + history - 1, *frame, device=where)
        return _one_pass(on, frames, dtype)

    largest = 1, min(LONG, length)
    if device.type != "cuda":
        shell, meta = _without_storage(network), torch.device("meta")
        with _cpu_attention():
            counted = {largest: run(1, largest[1], shell, meta)}
            if device.type == "meta" or counted[largest][1] > (MOST_HALF_FLOPS if dtype else MOST_FLOPS):
                return _extrapolate(lambda s, m: run(s, m, shell, meta), counted, length, None)
    measured: dict[tuple[int, int], tuple[float, float, float]] = {}
    with _undisturbed(network):
        # The first pass pays for what no later one does, on a GPU with the memory of gradients too.
        first = run(1, largest[1], network, device)
        repeat = device.type == "cuda" or first[2] <= SLOW_PASS_SECONDS
        measured[largest] = run(1, largest[1], network, device) if repeat else first
        rate = measured[largest][1] / measured[largest][2]
        return _extrapolate(lambda s, m: run(s, m, network, device), measured, length, rate)


def count_pass(network: nn.Module, shape: tuple[int, ...], precision: str, sphere: DividedSphere | None = None) -> int:
    """Bytes of tensors that a forward pass keeps for the backward one, counted without computing.

    Args:
        network: As for `measure`; not divided.
        shape: (S, L+H-1, C, Y, X) of the frames, of the own rows where the globe is divided.
        precision: As in the training settings.
        sphere: Which rows those are; it counts what both passes would send.
    """
    shell = _without_storage(network)
    if sphere is not None:
        divide(shell, sphere)
    with _cpu_attention():
        return int(_one_pass(shell, torch.randn(shape, device="meta"), AUTOCAST.get(precision))[0])


def _extrapolate(
    run: Callable[[int, int], tuple[float, float, float]],
    known: dict[tuple[int, int], tuple[float, float, float]],
    length: int,
    rate: float | None,
) -> Footprint:
    def once(segments: int, months: int) -> tuple[float, float, float]:
        if (segments, months) not in known:
            known[segments, months] = run(segments, months)
        return known[segments, months]

    activations = Affine.through(lambda s, m: once(s, m)[0], length)
    return Footprint(activations, Affine.through(lambda s, m: once(s, m)[1], length), rate)


class _Enough(BaseException):
    """A forward pass has run for as long as it may."""


def forward_rate(
    network: nn.Module, frame: tuple[int, int, int], history: int, precision: str, seconds: float
) -> float | None:
    """Operations a second of a forward pass over one month, which is broken off after some seconds.

    Args:
        network: On its device, with storage.
        frame: (C, Y, X).
        history: H, frames of a window.
        precision: As in the training settings.
        seconds: After which the next layer is not computed any more.

    Returns:
        None where no operation was counted before the end.
    """
    device, dtype = next(network.parameters()).device, AUTOCAST.get(precision)
    until = time.perf_counter() + seconds

    def stop(*_: Any) -> None:
        if time.perf_counter() > until:
            raise _Enough

    handles = [module.register_forward_hook(stop) for module in network.modules()]
    with _undisturbed(network), torch.no_grad(), flop_counter() as counter:
        started = time.perf_counter()
        try:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                network(torch.randn(1, history, *frame, device=device))
        except _Enough:
            pass
        finally:
            for handle in handles:
                handle.remove()
        taken = time.perf_counter() - started
    return counter.get_total_flops() / taken or None


def flop_counter() -> FlopCounterMode:
    """Counts operations of matrix products and convolutions, attention as its mathematics alike on every device.

    The backward pass of attention counts as twice the forward one: what a fused kernel computes again is its own
    affair. torch's own table leaves the kernel for CPUs out.
    """
    aten = torch.ops.aten
    forward = [aten._scaled_dot_product_flash_attention_for_cpu, aten._scaled_dot_product_flash_attention]
    forward += [aten._scaled_dot_product_efficient_attention, aten._scaled_dot_product_cudnn_attention]
    backward = [aten._scaled_dot_product_flash_attention_for_cpu_backward]
    backward += [aten._scaled_dot_product_flash_attention_backward]
    backward += [aten._scaled_dot_product_efficient_attention_backward]
    backward += [aten._scaled_dot_product_cudnn_attention_backward]

    def once(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    def twice(_: Any, query: Any, key: Any, value: Any, *__: Any, **___: Any) -> int:
        return 2 * int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    return FlopCounterMode(display=False, custom_mapping=dict.fromkeys(forward, once) | dict.fromkeys(backward, twice))


@contextmanager
def _cpu_attention() -> Iterator[None]:
    """Attention on tensors without storage keeps what the CPU's kernel keeps, and not the matrix of all weights.

    The function itself is replaced: torch's modes, made for this, are off while checkpoints compute layers again.
    """
    original = F.scaled_dot_product_attention

    def attend(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        mask = None if attn_mask is None else attn_mask.to(query.dtype)
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        attended: Tensor = kernel(query, key, value, attn_mask=mask)[0]
        return attended

    F.scaled_dot_product_attention = attend  # type: ignore[assignment]
    try:
        yield
    finally:
        F.scaled_dot_product_attention = original


def _without_storage(network: nn.Module) -> nn.Module:
    """The same network on the meta device, in training mode; the original keeps all it has."""
    memo: dict[int, Any] = {}
    for p in network.parameters():
        memo[id(p)] = nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
    for b in network.buffers():
        memo[id(b)] = torch.empty_like(b, device="meta")
    return copy.deepcopy(network, memo).train()


def _one_pass(network: nn.Module, frames: Tensor, dtype: torch.dtype | None) -> tuple[float, float, float]:
    """Bytes, operations and seconds of a forward and backward pass."""
    device = frames.device
    own = {_storage(t) for t in (frames, *network.parameters(), *network.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # Held until the end, as autograd holds it, so that no other storage takes the same address.
        if _storage(tensor) not in own:
            kept.setdefault(_storage(tensor), tensor)
        return tensor

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else 0
    with flop_counter() as counter:
        started = time.perf_counter()
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast("cpu" if device.type == "meta" else device.type, dtype, enabled=dtype is not None),
        ):
            total = network(frames).float().square().mean()
        total.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - started
    if device.type == "cuda":
        used = torch.cuda.max_memory_allocated(device) - before
    else:
        used = sum(t.untyped_storage().nbytes() for t in kept.values())
    return float(used), float(counter.get_total_flops()), seconds


def _storage(tensor: Tensor) -> int:
    # Without storage there is no address of data, but still one of the storage's description.
    return int(tensor.untyped_storage()._cdata)


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
