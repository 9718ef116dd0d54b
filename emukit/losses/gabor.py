"""Differences of texture: what a bank of Gabor filters answers to the error.

Invariant: the filters are linear, so the difference of two fields' answers is the answer to their difference; the error
is filtered once, not both fields, and the bank is built once for all steps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from emukit.losses.grid_context import GridContext, LossTerm, Mean

# The bank of the competition's third place: 7 x 7 cells, 2 widths x 2 wavelengths x 8 orientations.
RADIUS = 3
SIGMAS = (1.0, 2.0)
WAVELENGTHS = (3.0, 5.0)
ORIENTATIONS = 8
ASPECT_RATIO = 0.5

# Months filtered at once: their windows (49 times the field) stay in the processor's cache.
CHUNK = 15


def gabor(context: GridContext) -> LossTerm:
    """Mean absolute difference of the 32 filters' responses; a response counts with the area of its central cell."""
    pad = context.padder(RADIUS)
    kernels = context.constant(gabor_bank().flatten(1))

    def term(prediction: Tensor, target: Tensor, mean: Mean) -> Tensor:
        error = prediction - target
        # As a matrix product: a convolution from one channel to 32 has a gradient that takes three times as long.
        bank = kernels.to(error.dtype)
        months = torch.split(pad(error).flatten(0, 1)[:, None], CHUNK)
        responses = torch.cat([(bank @ F.unfold(m, 2 * RADIUS + 1)).abs().mean(1) for m in months])
        return mean(context.segment_mean(responses.view_as(error)))

    return term


def gabor_bank() -> Tensor:
    """The kernels, (32, 7, 7) in float64: width outermost, then wavelength, then orientation.

    exp(-(u^2 + (aspect v)^2) / (2 sigma^2)) cos(2 pi u / wavelength), with (u, v) the cell's place turned by the
    orientation, each kernel divided by the sum of its absolute values.
    """
    place = torch.arange(-RADIUS, RADIUS + 1, dtype=torch.float64)
    y, x = torch.meshgrid(place, place, indexing="ij")
    kernels = []
    for sigma in SIGMAS:
        for wavelength in WAVELENGTHS:
            for k in range(ORIENTATIONS):
                angle = math.pi * k / ORIENTATIONS
                u = x * math.cos(angle) + y * math.sin(angle)
                v = y * math.cos(angle) - x * math.sin(angle)
                envelope = torch.exp(-(u.square() + (ASPECT_RATIO * v).square()) / (2 * sigma**2))
                kernel = envelope * torch.cos(2 * math.pi / wavelength * u)
                kernels.append(kernel / kernel.abs().sum())
    return torch.stack(kernels)
