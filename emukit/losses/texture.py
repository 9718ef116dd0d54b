"""Losses on local structure: Gabor filters, second differences, gradients, structural similarity, and a polar warp.

Invariant: with a perfect prediction each is zero and its gradient is finite, in spite of roots. The Gabor filters and
the warp are linear, so the difference of two fields' answers is the answer to their difference; the error is filtered
once, not both fields, and the bank and the grid are built once for all steps. Fields are continued past their edges
before an operator sees them, and what kornia makes of its own edges is cut away.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from kornia.filters import spatial_gradient
from kornia.metrics import ssim as similarity
from torch import Tensor, tensor

from emukit.losses.grid_context import GridContext, LossTerm, Mean, root

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


def polar(context: GridContext) -> LossTerm:
    """Mean absolute difference of both fields warped to polar coordinates about the middle of the map.

    The error near the middle counts more than at the corners. The loss is that of the competition's third place and has
    no meaning on a sphere: it alone changes when both fields are turned in longitude. Beyond the edges the outermost
    cells are repeated, whatever the padding. A warped cell counts with the warped area weights.
    """
    rows, columns = context.weights.shape
    points = polar_grid(rows, columns)
    whole = context.constant(points)[None]
    weights = _warp(context.weights[None, None], whole)[0, 0]
    weights = weights / weights.sum()
    sphere = context.sphere
    grid = whole
    if sphere.divided:
        # A process warps what is sampled between its own cells and the first ones of the next process, each way.
        within, mine = [], torch.ones(points.shape[:2], dtype=torch.bool)
        for axis, own in enumerate(reversed(sphere.part((rows, columns)))):
            last = (columns, rows)[axis] - 1
            place = ((points[..., axis] + 1) / 2 * last).clamp(0, last)
            mine &= (place >= own.start) & (place < own.stop)
            within.append(2 * (place - own.start) / (own.stop - own.start) - 1)
        grid = context.constant(torch.stack(within, -1)[mine])[None, None]
        weights = weights[mine.to(weights.device)][None]

    def term(prediction: Tensor, target: Tensor, mean: Mean) -> Tensor:
        # All months as channels of one image: the grid is the same for all.
        error = sphere.with_next((prediction - target).flatten(0, 1))
        warped = _warp(error[None], grid.to(error.dtype))[0].abs()
        months = sphere.sum((warped * weights.to(error.dtype)).sum((-2, -1)))
        return mean(months.view(prediction.shape[:2]).mean(1))

    return term


def polar_grid(rows: int, columns: int) -> Tensor:
    """Where each cell of the warped field is sampled, (R, columns, 2) as x, y from -1 to 1, float64.

    R radii, the whole part of the distance from the middle to a corner, run from zero to that distance, and as many
    angles as there are columns from zero to the full circle, both ends included.
    """
    middle_y, middle_x = (rows - 1) / 2, (columns - 1) / 2
    corner = math.hypot(middle_y, middle_x)
    radius = torch.linspace(0, corner, math.floor(corner), dtype=torch.float64)[:, None]
    angle = torch.linspace(0, 2 * math.pi, columns, dtype=torch.float64)
    return torch.stack((radius * angle.cos() / middle_x, radius * angle.sin() / middle_y), -1)


def _warp(image: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True)
