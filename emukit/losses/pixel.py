"""Losses that compare cell by cell.

Invariant: each is an area-weighted mean over every month and cell of a function of prediction minus target, so it does
not depend on how months are batched.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from emukit.losses.grid_context import GridContext, LossTerm, Mean

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
