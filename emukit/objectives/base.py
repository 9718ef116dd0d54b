"""How a network is trained and asked: what a training step minimises, and how the network then answers.

Invariant: a network knows nothing of its objective. The same network, sampler and optimiser serve any of them; what an
objective adds to a network's input, it adds in training and in prediction alike. `OnBlocks` makes any objective one of
blocks of a map: with the weights of `emukit.data.block_sampler` the expectation of its loss is the loss of the globe.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emukit.data.block_sampler import WEIGHTS
from emukit.data.sampler import Sample
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext, Mean, local_mean
from emukit.sphere import ALL, Part

# (S, L+H-1, C, Y, X) frames -> (S, L, V, Y, X) normalised fields: the network on the hardware at hand. A network that
# `takes_level` is also given a noisy field (S, L, V, Y, X) and its level (S, L).
Forward = Callable[..., Tensor]
# Terms that compare cell by cell, and so know no shape of the grid.
TERMS = ("mse", "l1", "huber", "log_cosh")


class Noise(Protocol):
    """Standard normal numbers of a realisation, a function of its address and of each field's own step."""

    def __call__(self, channels: int) -> Tensor:
        """(S, L+H-1, channels, Y, X) next to the frames of a prediction."""

    def answer(self, draw: int) -> Tensor:
        """(S, L, V, Y, X) in the shape of the answer: one of many independent draws, numbered from 0."""


@dataclass(frozen=True)
class AddressedNoise:
    """Numbers that depend on their address alone, whatever else is computed, and where.

    Attributes:
        seed: Of the run.
        realisations: (S,) number of each sample's realisation.
        steps: (S, L+H-1) of each frame.
        fields: (L, V, Y, X) of an answer.
        part: Cells of them that are wanted, where a globe is divided.
    """

    seed: int
    realisations: Sequence[int]
    steps: Sequence[Sequence[int]]
    fields: tuple[int, int, int, int]
    part: Part = ALL

    def __call__(self, channels: int) -> Tensor:
        """Those of each frame: of seed, realisation and step."""
        return self._drawn(0, (), (channels, *self.fields[2:]))

    def answer(self, draw: int) -> Tensor:
        """Those of each target step: of seed, realisation, step and draw."""
        return self._drawn(-self.fields[0], (draw,), self.fields[1:])

    def _drawn(self, first: int, draw: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
        def field(number: int, step: int) -> NDArray[np.float32]:
            sequence = np.random.SeedSequence(self.seed, spawn_key=(number, step, *draw))
            return np.random.default_rng(sequence).standard_normal(shape, np.float32)[..., *self.part]

        samples = zip(self.realisations, self.steps, strict=True)
        return torch.from_numpy(np.stack([[field(n, step) for step in steps[first:]] for n, steps in samples]))


class Objective(ABC):
    """What a network is trained for.

    Attributes:
        draws: Whether its network draws realisations: another answer for every noise.
        divisible: Whether a sample's steps may be computed apart, on several processes, and joined before the loss.
        single_runs: Whether its targets must be single runs: the spread of a mean of runs is not that of a run.
        levels: Whether its network is given a noisy field and the level of its noise next to the frames.
        trajectory: Whether it feeds answers back as states, so that a recipe must have some.
    """

    draws: ClassVar[bool] = False
    divisible: ClassVar[bool] = True
    single_runs: ClassVar[bool] = False
    levels: ClassVar[bool] = False
    trajectory: ClassVar[bool] = False

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
        """Forward passes of a training step; of a trajectory, those of its longest."""
        return 1

    @property
    def kept(self) -> int:
        """Passes of which everything is kept for the gradient at the same time."""
        return self.passes

    def share(self, epochs: int) -> float:
        """Passes of a step, on average over so many epochs, over `passes`."""
        return 1.0

    def advance(self, epochs: float) -> None:
        """Told before every training step how many epochs are done, with fractions; most objectives do not care."""
        return

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

    def predict(self, forward: Forward, frames: Tensor, noise: Noise, source: Tensor | None = None) -> Tensor:
        """Ask the network.

        Args:
            forward: The network.
            frames: (S, L+H-1, C, Y, X).
            noise: Standard normal numbers of the realisation.
            source: (S, L, V, Y, X) where a path to the answer begins, the tensor `source` of a sample; zeros when None.

        Returns:
            (S, L, V, Y, X) normalised.
        """
        return forward(frames)


class OnBlocks(Objective):
    """An objective with the weights of each batch in the place of a grid's."""

    divisible = False

    def __init__(self, inner: Objective, terms: Mapping[str, Mapping[str, float]], variables: tuple[str, ...]) -> None:
        """Wrap it.

        Args:
            inner: What is minimised.
            terms: Variable to term to weight.
            variables: Along the V axis.

        Raises:
            RecipeError: A term compares more than cells.
        """
        super().__init__(None)
        wrong = sorted({t for own in terms.values() for t, weight in own.items() if weight} - {*TERMS})
        if wrong:
            raise RecipeError(
                f"the loss has terms that blocks cannot have: {', '.join(wrong)}",
                found="a term of a whole map, or of many steps",
                expected=f"some of {', '.join(TERMS)}",
                hint="--set 'loss.default={l1=1.0}'",
            )
        self._inner, self._terms, self._variables = inner, terms, variables

    @property
    def noise_channels(self) -> int:
        """Those of the objective."""
        return self._inner.noise_channels

    @property
    def passes(self) -> int:
        """Those of the objective."""
        return self._inner.passes

    @property
    def kept(self) -> int:
        """Those of the objective inside."""
        return self._inner.kept

    def loss(
        self, forward: Forward, sample: Sample, *, ramp: float = 1.0, mean: Mean = local_mean
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """That of the objective, with the weights of the sample."""
        # (S, 1, Y, X): area means are then sums over each block by weights of its own.
        context = GridContext(sample.named[WEIGHTS])
        self._inner.composite = CompositeLoss(self._terms, self._variables, context)
        return self._inner.loss(forward, sample, ramp=ramp, mean=mean)

    def predict(self, forward: Forward, frames: Tensor, noise: Noise, source: Tensor | None = None) -> Tensor:
        """That of the objective."""
        return self._inner.predict(forward, frames, noise, source)
