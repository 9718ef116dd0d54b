"""Losses that compare values: cell by cell, over the months of a segment, and by their overlap.

Invariant: with a perfect prediction each is zero, and its gradient is finite there. `mse`, `l1`, `huber` and `log_cosh`
are area-weighted means over every month and cell of a function of prediction minus target, so they do not depend on how
months are batched. `rmse`, `time_mean` and `time_std` look at whole segments, L consecutive months, and average over
segments: on one segment they are the three parts of the competition's score in normalised units. `dice` is a ratio of
sums over the whole batch, not a mean of ratios, so it does not depend on how the batch is divided over processes
(batches whose gradients are accumulated are batches of their own); scaling both fields by one factor does not change
it.

A network trained on squared error predicts the mean of all possible weathers, whose variability is far too small;
`time_std` asks for the right amount of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from emukit.losses.grid_context import FLOOR, GridContext, LossTerm, Mean, root

# Where Huber turns from square to straight, in standard deviations of the normalised target.
HUBER_DELTA = 1.0


def mse(context: GridContext) -> LossTerm:
    """Mean squared error."""
    return _mean_of(context, torch.square)


def l1(context: GridContext) -> LossTerm:
    """Mean absolute error."""
    return _mean_of(context, torch.abs)


def huber(context: GridContext) -> LossTerm:
    """Huber loss: e^2 / 2 up to one standard deviation, |e| - 1/2 beyond (Huber 1964, doi:10.1214/aoms/1177703732)."""

    def term(prediction: Tensor, target: Tensor, mean: Mean) -> Tensor:
        values = F.huber_loss(prediction, target, reduction="none", delta=HUBER_DELTA)
        return mean(context.segment_mean(values))

    return term


def log_cosh(context: GridContext) -> LossTerm:
    """Mean of log cosh e: e^2 / 2 for small errors, |e| - log 2 for large ones, smooth between."""
    # e + log((1 + exp(-2 e)) / 2), which does not overflow as cosh does.
    return _mean_of(context, lambda error: error + F.softplus(-2 * error) - math.log(2))


def _mean_of(context: GridContext, function: Callable[[Tensor], Tensor]) -> LossTerm:
    def term(prediction: Tensor, target: Tensor, mean: Mean) -> Tensor:
        return mean(context.segment_mean(function(prediction - target)))

    return term


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
