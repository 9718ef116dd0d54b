"""The continuous ranked probability score: a network that is given noise learns to draw realisations.

Invariant: the score is fair: its expectation is smallest for realisations drawn from the distribution of the target,
however few of them a step draws; the order of the realisations does not matter. Of one realisation it is the mean
absolute error.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emukit.data.sampler import Sample
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import Mean, local_mean
from emukit.objectives.base import Forward, Noise, Objective


def fair_crps(realisations: Tensor, target: Tensor) -> Tensor:
    """The fair CRPS of every value (Ferro 2014, doi:10.1002/qj.2270).

    Args:
        realisations: (E, ...), exchangeable.
        target: (...).

    Returns:
        (...): mean |x - y| minus half the mean |x - x'| over pairs of different realisations. Two realisations give
        (|x - y| + |x' - y| - |x - x'|) / 2, which no cancellation makes negative.
    """
    number = len(realisations)
    error = (realisations - target).abs().mean(0)
    if number == 1:
        return error
    pairs = [(realisations[i] - realisations[j]).abs() for i in range(number) for j in range(i)]
    return error - 0.5 * torch.stack(pairs).mean(0)


class Crps(Objective):
    """Area mean of the fair CRPS of a few realisations, each from the same frames with other noise."""

    draws = True
    divisible = False
    single_runs = True

    def __init__(self, loss: CompositeLoss | None, *, realisations: int = 2, noise: int = 4) -> None:
        """Set it up.

        Args:
            loss: The composite loss, of which grid, variables and the weight of each variable are taken.
            realisations: How many a step draws.
            noise: Channels of noise next to those of a frame, standard normal, drawn again for every cell and step.

        Raises:
            RecipeError: Fewer than two realisations, or no channel of noise.
        """
        super().__init__(loss)
        for name, value, least in (("realisations", realisations, 2), ("noise", noise, 1)):
            if value < least:
                raise RecipeError(f"objective.{name} is out of range", found=str(value), expected=f"{least} or more")
        self.realisations, self.noise = realisations, noise

    @property
    def noise_channels(self) -> int:
        """Those of its noise."""
        return self.noise

    @property
    def passes(self) -> int:
        """One for each realisation."""
        return self.realisations

    def loss(
        self, forward: Forward, sample: Sample, *, ramp: float = 1.0, mean: Mean = local_mean
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over variables of the area-mean fair CRPS, in units of the normalised targets."""
        assert self.composite is not None
        frames = sample.frames
        shape = (*frames.shape[:2], self.noise, *frames.shape[-2:])
        drawn = [
            forward(torch.cat((frames, self.composite.context.sphere.randn(shape, frames)), 2))
            for _ in range(self.realisations)
        ]
        with torch.autocast(frames.device.type, enabled=False):
            score = fair_crps(torch.stack(drawn).float(), sample.targets.float())
            return self.composite.means(score, "crps", mean)

    def predict(self, forward: Forward, frames: Tensor, noise: Noise, source: Tensor | None = None) -> Tensor:
        """One realisation."""
        return forward(torch.cat((frames, noise(self.noise).to(frames)), 2))
