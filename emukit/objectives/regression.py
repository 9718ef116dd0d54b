"""Regression: the network's answer is compared with the target, term by term."""

from __future__ import annotations

from torch import Tensor

from emukit.data.sampler import Sample
from emukit.losses.grid_context import Mean, local_mean
from emukit.objectives.base import Forward, Objective


class Regression(Objective):
    """A weighted sum of loss terms of one answer."""

    def loss(
        self, forward: Forward, sample: Sample, *, ramp: float = 1.0, mean: Mean = local_mean
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The composite loss."""
        assert self.composite is not None
        return self.composite(forward(sample.frames), sample.targets, ramp=ramp, mean=mean)
