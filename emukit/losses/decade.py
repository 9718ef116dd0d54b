"""Losses on what a segment does over time: its mean and its variability, as the competition scores a decade.

Invariant: each looks at whole segments, fields (S, L, Y, X) with L consecutive months, and averages over segments; with
a perfect prediction it is zero, and its gradient is finite there. `weights` is (Y, X) and sums to one.

A network trained on squared error predicts the mean of all possible weathers, whose variability is far too small; these
terms ask for the right amount of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Variance below which the standard deviation is flattened: the derivative of a square root at zero is infinite.
VARIANCE_FLOOR = 1e-6


def time_mean(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Root of the area-mean squared error of each segment's time mean."""
    error = prediction.mean(1) - target.mean(1)
    root: Tensor = ((error.square() * weights).sum((-2, -1)) + VARIANCE_FLOOR).sqrt()
    mean: Tensor = root.mean() - VARIANCE_FLOOR**0.5
    return mean


def time_std(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Area mean of the absolute error of each segment's standard deviation over time."""
    return ((_std(prediction) - _std(target)).abs() * weights).sum((-2, -1)).mean()


def _std(fields: Tensor) -> Tensor:
    return torch.sqrt(fields.var(1, correction=0) + VARIANCE_FLOOR)
