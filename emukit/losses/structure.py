"""Losses on local structure, with the image operators of kornia.

Invariant: fields are continued past their edges before an operator sees them, and what kornia makes of its own edges
is cut away.
"""

from __future__ import annotations

from kornia.filters import spatial_gradient
from kornia.metrics import ssim as similarity
from torch import Tensor

from emukit.losses.grid_context import GridContext, LossTerm, Mean

# Cells from the middle of the Gaussian window (standard deviation 1.5 cells) to its edge.
SSIM_RADIUS = 3

# What SSIM takes for the range of the fields, in standard deviations: three to either side.
SSIM_RANGE = 6.0


def sobel(context: GridContext) -> LossTerm:
    """Mean absolute difference of both fields' gradients, its two components averaged.

    Sobel's stencils are linear, so the error is differentiated once. Differences are those between cells, not between
    kilometres; each counts with the area of its central cell.
    """
    pad = context.padder(1)

    def term(prediction: Tensor, target: Tensor, mean: Mean) -> Tensor:
        slopes = spatial_gradient(pad(prediction - target))[..., 1:-1, 1:-1]
        return mean(context.segment_mean(slopes.abs().mean(2)))

    return term


def ssim(context: GridContext) -> LossTerm:
    """One minus the structural similarity (Wang et al. 2004, doi:10.1109/TIP.2003.819861), area mean.

    SSIM compares local means by their ratio, which says nothing about values around zero. Normalised fields, mostly
    within three standard deviations of zero, are therefore moved up by three and compared as fields of range six.
    """
    pad = context.padder(SSIM_RADIUS)

    def term(prediction: Tensor, target: Tensor, mean: Mean) -> Tensor:
        x, y = (pad(fields) + SSIM_RANGE / 2 for fields in (prediction, target))
        # eps=0: the denominator cannot vanish, and equal fields have a similarity of exactly one.
        alike = similarity(x, y, 2 * SSIM_RADIUS + 1, max_val=SSIM_RANGE, eps=0.0, padding="valid")
        return mean(context.segment_mean(1 - alike))

    return term
