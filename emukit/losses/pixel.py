"""Losses that compare cell by cell.

Invariant: each is an area-weighted mean over every month and cell, so it does not depend on how months are batched.
Fields are (..., Y, X) in normalised space; `weights` is (Y, X) and sums to one.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

# Where Huber turns from square to straight, in standard deviations of the normalised target.
HUBER_DELTA = 1.0


def _area_mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum((-2, -1)).mean()


def mse(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error."""
    return _area_mean((prediction - target).square(), weights)


def l1(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Mean absolute error."""
    return _area_mean((prediction - target).abs(), weights)


def huber(prediction: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Huber loss: e^2 / 2 up to one standard deviation, |e| - 1/2 beyond (Huber 1964, doi:10.1214/aoms/1177703732)."""
    return _area_mean(F.huber_loss(prediction, target, reduction="none", delta=HUBER_DELTA), weights)
