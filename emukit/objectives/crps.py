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
from emukit.losses.grid_context import Mean, local_mean, root
from emukit.objectives.base import Forward, Noise, Objective

# Area means that are scored next to the cells: of the globe, and of rows and columns of regions.
REGIONS = {"globe": (1, 1), "regions": (3, 6)}


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

    def __init__(
        self, loss: CompositeLoss | None, *, realisations: int = 2, noise: int = 4, regional: float = 0.0
    ) -> None:
        """Set it up.

        Args:
            loss: The composite loss, of which grid, variables and the weight of each variable are taken.
            realisations: How many a step draws.
            noise: Channels of noise next to those of a frame, standard normal, independent between cells and steps.
            regional: Weight of the score of area means, of the globe and of regions, each in units of its own size.
                The score of cells does not ask whether they vary together.

        Raises:
            RecipeError: Fewer than two realisations, no channel of noise, or a negative weight.
        """
        super().__init__(loss)
        if regional < 0:
            raise RecipeError("objective.regional is out of range", found=str(regional), expected="0 or more")
        self.regional = regional
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
        return self.score(torch.stack(drawn), sample.targets, mean)

    def score(self, realisations: Tensor, targets: Tensor, mean: Mean = local_mean) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of (E, S, L, V, Y, X) realisations of (S, L, V, Y, X) targets."""
        assert self.composite is not None
        with torch.autocast(targets.device.type, enabled=False):
            realisations, targets = realisations.float(), targets.float()
            total, terms = self.composite.means(fair_crps(realisations, targets), "crps", mean)
            for name, regions in REGIONS.items() if self.regional else ():
                found = self._of_regions(realisations, targets, regions, mean)
                total = total + self.regional * found / len(REGIONS)
                terms[f"{name}.crps"] = found.detach()
            return total, terms

    def _of_regions(self, realisations: Tensor, targets: Tensor, regions: tuple[int, int], mean: Mean) -> Tensor:
        """Mean over variables of the score of the area means of some regions, in units of their root mean square."""
        assert self.composite is not None
        sphere, weights = self.composite.context.sphere, self.composite.context.weights
        weights = sphere.own(weights)
        shares = sphere.region_means(weights[None, None], regions)[0]

        def means(fields: Tensor) -> Tensor:
            pooled = sphere.region_means((fields * weights).flatten(0, -4), regions)
            return (pooled / shares).reshape(*fields.shape[:-2], *regions)

        of_targets = means(targets)
        score = fair_crps(means(realisations), of_targets)
        values = [
            mean(score[:, :, v].mean((1, 2, 3))) / root(mean(of_targets[:, :, v].square().mean((1, 2, 3))))
            for v in range(len(self.composite.variables))
        ]
        return torch.stack(values).mean()

    def predict(self, forward: Forward, frames: Tensor, noise: Noise, source: Tensor | None = None) -> Tensor:
        """One realisation."""
        return forward(torch.cat((frames, noise(self.noise).to(frames)), 2))
