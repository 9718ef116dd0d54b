"""The Dice loss for fields: how little two fields overlap.

Invariant: it is a ratio of sums over the whole batch, not a mean of ratios, so it does not depend on how the batch is
divided over processes (batches whose gradients are accumulated are batches of their own); scaling both fields by one
factor does not change it.
"""

from __future__ import annotations

from torch import Tensor

from emukit.losses.grid_context import FLOOR, GridContext, LossTerm, Mean


def dice(context: GridContext) -> LossTerm:
    """One minus the Dice coefficient of real-valued fields, 2 <x, y> / (|x|^2 + |y|^2).

    The overlap is that of V-Net (Milletari et al. 2016, arXiv:1606.04797). Written as |x - y|^2 / (|x|^2 + |y|^2), the
    same number, it is exactly zero where the fields agree, all zeros included. 0 to 2; 1 for unrelated fields.
    """

    def term(prediction: Tensor, target: Tensor, mean: Mean) -> Tensor:
        apart = mean(context.segment_mean((prediction - target).square()))
        size = mean(context.segment_mean(prediction.square() + target.square()))
        return apart / (size + FLOOR)

    return term
