"""What a training step reads, and what makes an epoch of it.

Invariant: a sample is what its addresses say, wherever the arrays live; an epoch's addresses are a function of seed and
epoch alone. The trainer knows samples by this contract only: segments of months (`emukit.data.segments`) are one way to
cut an archive, blocks of a map or stretches of a trajectory are others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

A = TypeVar("A")


@dataclass(frozen=True, eq=False)
class Sample:
    """Named tensors of some addresses.

    Attributes:
        frames: (S, L+H-1, C, Y, X) what the network reads: S addresses, L target steps, a history of H.
        targets: (S, L, V, Y, X), normalised.
        named: Further tensors of a task, S first: an earlier state, a coarse field, a mask.
    """

    frames: Tensor
    targets: Tensor
    named: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Sample:
        """The same on another device."""
        frames, targets, *named = (t.to(device, non_blocking=non_blocking) for t in self.tensors())
        return Sample(frames, targets, dict(zip(self.named, named, strict=True)))

    def tensors(self) -> list[Tensor]:
        """All of them."""
        return [self.frames, self.targets, *self.named.values()]


class Sampler(Protocol[A]):
    """Makes epochs of addresses, and samples of addresses.

    Attributes:
        length: L, target steps of a sample.
        steps_per_epoch: Batches of an epoch; the same for every epoch.
    """

    @property
    def length(self) -> int: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, seed: int) -> list[list[A]]:
        """Addresses of an epoch's batches."""

    def batch(self, addresses: Sequence[A], steps: slice | None = None) -> Sample:
        """Read a batch.

        Args:
            addresses: Of its samples.
            steps: The target steps whose frames are wanted, all when None; targets come in full.
        """

    def prefetch(self, addresses: Sequence[A], steps: slice | None = None) -> None:
        """Begin to read a batch that will be asked for next, with the same arguments, where that helps."""

    def address(self, addresses: Sequence[A]) -> str:
        """For people: what a batch holds."""
