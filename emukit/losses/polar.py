"""Differences as seen from the middle of the map.

Invariant: the warp is linear, so the error is warped once, and its grid is built once for all steps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from emukit.losses.grid_context import GridContext, LossTerm, Mean


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
