"""Losses on what a segment does over time, as the competition scores a decade: errors, mean and variability.

Invariant: each looks at whole segments, L consecutive months, and averages over segments; with a perfect prediction it
is zero, and its gradient is finite there. On one segment they are the score's three parts in normalised units.

A network trained on squared error predicts the mean of all possible weathers, whose variability is far too small; these
terms ask for the right amount of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from emukit.losses.grid_context import GridContext, LossTerm, Mean, root

# Variance below which the standard deviation is flattened: the derivative of a square root at zero is infinite.
VARIANCE_FLOOR = 1e-6


def rmse(context: GridContext) -> LossTerm:
    """Root of each segment's squared error, averaged over months and area."""

    def term(prediction: Tensor, target: Tensor, mean: Mean) -> Tensor:
        return mean(root(context.segment_mean((prediction - target).square())))

    return term


def time_mean(context: GridContext) -> LossTerm:
    """Root of the area-mean squared error of each segment's time mean."""

    def term(prediction: Tensor, target: Tensor, mean: Mean) -> Tensor:
        error = prediction.mean(1) - target.mean(1)
        return mean(root(context.area_mean(error.square())))

    return term


def time_std(context: GridContext) -> LossTerm:
    """Area mean of the absolute error of each segment's standard deviation over time."""

    def term(prediction: Tensor, target: Tensor, mean: Mean) -> Tensor:
        return mean(context.area_mean((_std(prediction) - _std(target)).abs()))

    return term


def _std(fields: Tensor) -> Tensor:
    return torch.sqrt(fields.var(1, correction=0) + VARIANCE_FLOOR)
