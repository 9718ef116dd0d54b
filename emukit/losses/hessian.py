"""Differences of curvature.

Invariant: with a perfect prediction it is zero and its gradient is finite, in spite of the root.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, tensor

from emukit.losses.grid_context import GridContext, LossTerm, Mean, root

# Second differences between neighbouring cells, as in the competition's third place. The mixed one is not divided by
# four, so it is four times the derivative.
STENCILS = (
    ((0.0, 0.0, 0.0), (1.0, -2.0, 1.0), (0.0, 0.0, 0.0)),
    ((1.0, 0.0, -1.0), (0.0, 0.0, 0.0), (-1.0, 0.0, 1.0)),
    ((0.0, 1.0, 0.0), (0.0, -2.0, 0.0), (0.0, 1.0, 0.0)),
)


def hessian(context: GridContext) -> LossTerm:
    """Root of the mean over the whole batch of dxx^2 + 2 dxy^2 + dyy^2 of the error.

    Differences are those between cells, not between kilometres; each counts with the area of its central cell.
    """
    pad = context.padder(1)
    kernels = context.constant(tensor(STENCILS)[:, None])

    def term(prediction: Tensor, target: Tensor, mean: Mean) -> Tensor:
        error = prediction - target
        dxx, dxy, dyy = F.conv2d(pad(error).flatten(0, 1)[:, None], kernels.to(error.dtype)).unbind(1)
        squares = dxx.square() + 2 * dxy.square() + dyy.square()
        return root(mean(context.segment_mean(squares.view_as(error))))

    return term
