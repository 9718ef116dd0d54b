"""How a network is trained and asked: what a training step minimises, and how the network then answers.

Invariant: a network knows nothing of its objective. The same network, sampler and optimiser serve any of them; what an
objective adds to a network's input, it adds in training and in prediction alike.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from emukit.data.sampler import Sample
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import Mean, local_mean

# (S, L+H-1, C, Y, X) frames -> (S, L, V, Y, X) normalised fields: the network on the hardware at hand.
Forward = Callable[[Tensor], Tensor]

# channels -> (S, L+H-1, channels, Y, X) standard normal numbers for the frames of a prediction.
Noise = Callable[[int], Tensor]


class Objective(ABC):
    """What a network is trained for.

    Attributes:
        draws: Whether its network draws realisations: another answer for every noise.
        divisible: Whether a sample's steps may be computed apart, on several processes, and joined before the loss.
        single_runs: Whether its targets must be single runs: the spread of a mean of runs is not that of a run.
    """

    draws: ClassVar[bool] = False
    divisible: ClassVar[bool] = True
    single_runs: ClassVar[bool] = False

    def __init__(self, loss: CompositeLoss | None) -> None:
        """An objective; its own options are keyword arguments of subclasses.

        Args:
            loss: Of normalised fields; None where the network is only asked.
        """
        self.composite = loss

    @property
    def noise_channels(self) -> int:
        """Channels that it adds to every frame."""
        return 0

    @property
    def passes(self) -> int:
        """Forward passes of a training step."""
        return 1

    @abstractmethod
    def loss(
        self, forward: Forward, sample: Sample, *, ramp: float = 1.0, mean: Mean = local_mean
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What a step minimises.

        Args:
            forward: The network.
            sample: A batch, or this process's part of one.
            ramp: From 0, the loss's warm-up, to 1, itself.
            mean: Mean of numbers (S,) over all samples of the batch, on all processes.

        Returns:
            The total, and by name what is logged.
        """

    def predict(self, forward: Forward, frames: Tensor, noise: Noise) -> Tensor:
        """Ask the network.

        Args:
            forward: The network.
            frames: (S, L+H-1, C, Y, X).
            noise: Standard normal numbers for the frames, a function of the realisation and of each frame's own step.

        Returns:
            (S, L, V, Y, X) normalised.
        """
        return forward(frames)
