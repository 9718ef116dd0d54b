"""Any objective on blocks of a map, whose cells count as the batch says and not as a grid does.

Invariant: the loss of a batch is the mean over its blocks of the weighted sum over their cells; with the weights of
`emukit.data.block_sampler` its expectation is the loss of the globe.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from emukit.data.block_sampler import WEIGHTS
from emukit.data.sampler import Sample
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext, Mean, local_mean
from emukit.objectives.base import Forward, Noise, Objective

# Terms that compare cell by cell, and so know no shape of the grid.
TERMS = ("mse", "l1", "huber", "log_cosh")


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
