"""What a training step must cost at least, and what the device could give: the two sides of a roofline.

Invariant: operations and bytes are counted on tensors without storage, so the count is the same on every device and
costs neither time nor memory; ceilings are measured where and when the step is.

The model of the bytes of a step: every parameter is read by the forward and by the backward pass and its gradient
written once; AdamW reads parameter, gradient and two moments and writes back three of them; whatever autograd keeps
for the backward pass is written once and read once; frames and targets are read and fields written. Intermediate
results that are not kept are free: a perfect compiler would keep them in registers. So this is the least traffic a step
can do, and the fraction of the roofline is honest from below.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import Work
from benchmarks.networks import wait

Precision = Literal["fp32", "tf32", "bf16", "bf16+compile"]

# Reads and writes of a parameter's four bytes by AdamW, and by the two passes.
_ADAMW_PASSES, _MODEL_PASSES = 7, 3
# Side of the square matrices whose product shows the arithmetic ceiling, and bytes copied for the other.
_SIDE = {"cuda": 8192, "cpu": 1024}
_COPY_BYTES = {"cuda": 2**31, "cpu": 2**28}
# A ceiling is the best of several tries: anything slower was disturbed.
_TRIES = 5


@dataclass(frozen=True)
class Cost:
    """The least that a training step does.

    Attributes:
        flops: Floating-point operations of matrix products, attention and convolutions, forward and backward.
        bytes: Memory traffic by the model above.
        parameters: Number of parameters.
        saved: Bytes kept for the backward pass, parameters apart.
    """

    flops: float
    bytes: float
    parameters: int
    saved: int


def count_step(
    build: Callable[[], nn.Module], frames: tuple[int, ...], targets: tuple[int, ...], *, half: bool
) -> Cost:
    """Count one step without computing it.

    Args:
        build: Makes the network.
        frames: Shape of the frames.
        targets: Shape of the targets.
        half: Whether the forward pass runs under bfloat16 autocast.
    """
    with FakeTensorMode():
        network = build().train()
        given, wanted = torch.empty(frames), torch.empty(targets)
        apart = {_storage(t) for t in (*network.parameters(), *network.buffers(), given, wanted)}
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in apart:
                # Held until the end, so that no other storage takes the same address.
                kept.setdefault(_storage(tensor), tensor)
            return tensor

        def step() -> None:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                fields = network(given)
            nn.functional.mse_loss(fields.float(), wanted).backward()  # type: ignore[no-untyped-call]

        # Twice: the counter knows attention only as its products, and the fused kernels keep no attention matrix.
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            step()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            step()
        saved = sum(t.untyped_storage().nbytes() for t in kept.values())
        parameters = sum(p.numel() for p in network.parameters())
        ends = given.nbytes + 2 * wanted.nbytes
    moved = (_MODEL_PASSES + _ADAMW_PASSES) * 4 * parameters + 2 * saved + ends
    return Cost(float(counter.get_total_flops()), float(moved), parameters, saved)


def use_precision(precision: str) -> None:
    """Set how float32 products are computed; bfloat16 is a matter of `autocast`."""
    tf32 = precision == "tf32"
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = tf32


def autocast(precision: str, device: str) -> Any:
    """The context of a forward pass."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision.startswith("bf16"))


def prepare_flops(precision: str, device: str, side: str = "") -> Work:
    """A large matrix product; the answer is the operations it reaches in a second."""
    use_precision(precision)
    n = int(side) if side else _SIDE[torch.device(device).type]
    dtype = torch.bfloat16 if precision.startswith("bf16") else torch.float32
    a, b = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype)
    return lambda: 2 * n**3 / _fastest(lambda: a @ b, device)


def prepare_bytes(device: str, size: str = "") -> Work:
    """A large copy; the answer is the bytes read and written in a second."""
    n = int(size) if size else _COPY_BYTES[torch.device(device).type]
    source = torch.zeros(n // 4, device=device)
    target = torch.zeros_like(source)
    return lambda: 2 * source.nbytes / _fastest(lambda: target.copy_(source), device)


def _fastest(work: Callable[[], object], device: str) -> float:
    seconds = []
    for _ in range(_TRIES + 1):  # the first one loads libraries
        start = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
