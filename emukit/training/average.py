"""Averages of weights over training: exponential (EMA) or equal over the last epochs (SWA).

Invariant: the average is a function of the weights after each step, or epoch, alone, and never changes them; it is
scored and chosen on validation like any checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from emukit.training.settings import AverageSettings


class WeightAverage:
    """Average of a network's parameters and floating-point buffers.

    Running statistics of batch normalisation are averaged like weights, not estimated again.
    """

    def __init__(self, network: nn.Module, settings: AverageSettings, epochs: int) -> None:
        """Nothing is averaged yet.

        Args:
            network: Whose weights; sharded parameters stay sharded.
            settings: Which average.
            epochs: Of the whole training, for the start of SWA.
        """
        self._network = network
        self._settings = settings
        self._first_epoch = int(settings.start * epochs)
        self.count = 0
        self.tensors: dict[str, Tensor] = {}

    @property
    def ready(self) -> bool:
        """Whether there is an average of more than one state of the weights."""
        return self.count > 1

    def after_step(self) -> None:
        """Take the weights of one more optimiser step."""
        if self._settings.kind == "ema":
            # Early on the average forgets faster, so that it does not remember the random start (as in TensorFlow's
            # ExponentialMovingAverage with num_updates).
            decay = min(self._settings.decay, (1 + self.count) / (10 + self.count))
            self._blend(1.0 - decay)

    def after_epoch(self, epoch: int) -> None:
        """Take the weights at the end of an epoch, counted from one (Izmailov et al. 2018, arXiv:1803.05407)."""
        if self._settings.kind == "swa" and epoch > self._first_epoch:
            self._blend(1.0 / (self.count + 1))

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network holds the average inside, and its own weights again afterwards."""
        live = dict(self._averaged())
        kept = {name: tensor.detach().clone() for name, tensor in live.items()}
        self._put(self.tensors)
        try:
            yield
        finally:
            self._put(kept)

    def allocate(self) -> None:
        """Make room for the average, to be filled from a checkpoint."""
        self.tensors = {name: torch.zeros_like(tensor) for name, tensor in self._averaged()}

    def _averaged(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in (*self._network.named_parameters(), *self._network.named_buffers()):
            if tensor.is_floating_point():
                yield name, tensor.detach()

    @torch.no_grad()
    def _blend(self, weight: float) -> None:
        if not self.tensors:
            self.tensors = {name: tensor.clone() for name, tensor in self._averaged()}
        else:
            for name, tensor in self._averaged():
                self.tensors[name].lerp_(tensor, weight)
        self.count += 1

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, tensor in self._averaged():
            tensor.copy_(values[name])
