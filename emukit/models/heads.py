"""What networks that work on maps share: the way in from frames, and the way out to one variable's field.

Invariant: what nonlinear layers see is squashed to a few standard deviations, the linear path sees what was given. Up
to the heads everything commutes with a roll in longitude (by multiples of the coarsening); a head with weights of its
own in every cell does not, nor does the linear path, whose regions and cells stand still.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emukit.models.layers import GlobeConv2d, Poles, check_halvings
from emukit.sphere import OnSphere

Trunks = Literal["shared", "separate"]

# Standard deviations of a channel beyond which a nonlinear layer tells values apart no more: far beyond the forcings of
# training it would otherwise saturate and lose even the season. Nearly all of a forcing's training values lie within;
# found with the CNN-GRU on ssp585 left out of training, where CO2 reaches 8: score 1.15 with it, 1.84 without.
SQUASH_AT = 3.0


def soft_clip(fields: Tensor) -> Tensor:
    """Bound values smoothly to +-3; small ones stay as they are. Any shape."""
    return SQUASH_AT * torch.tanh(fields / SQUASH_AT)


def downsampled_grids(grid: tuple[int, int], times: int) -> list[tuple[int, int]]:
    """The grid, and the grid after each of some halvings.

    Raises:
        ValueError: A halving would find a side of a single cell.
    """
    check_halvings(grid, times)
    sizes = [grid]
    for _ in range(times):
        sizes.append(((sizes[-1][0] + 1) // 2, (sizes[-1][1] + 1) // 2))
    return sizes


def branch_sizes(trunks: Trunks, variables: int) -> list[int]:
    """How many variables each trunk of a network serves."""
    return [variables] if trunks == "shared" else [1] * variables


class FrameMaps(OnSphere):
    """Maps of single frames on a coarser grid, (B, C, Y, X) -> (B, widths[-1], about Y/2**n, about X/2**n)."""

    def __init__(self, in_channels: int, widths: list[int], *, coarsen: bool = True, poles: Poles = "reflect") -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            widths: Channels after each convolution.
            coarsen: Whether each convolution works on a grid half as fine as the one before.
            poles: See `emukit.sphere.Edges`.
        """
        super().__init__()
        self.coarsen = coarsen
        self.stages = nn.ModuleList(GlobeConv2d(a, b, poles=poles) for a, b in pairwise([in_channels, *widths]))

    def forward(self, fields: Tensor) -> Tensor:
        """The last maps. Nothing is normalised: a forcing that is the same in every cell, such as CO2, survives."""
        for stage in self.stages:
            fields = F.gelu(stage(self.sphere.downsample(fields) if self.coarsen else fields))
        return fields


class LinearResponse(OnSphere):
    """A state, numbers that follow the forcing linearly, and those numbers multiplied by gates that the state sets.

    To first order climate change is a fixed pattern for each season times the forcing: the mean forcing of the window,
    mapped linearly, and its products with gates (season above all) are offered to the heads next to the state.

    Attributes:
        numbers: R = state + 2 P, width of the result.
    """

    def __init__(self, in_channels: int, state: int, patterns: int, *, pool: tuple[int, int], history: int) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            state: Width of the state.
            patterns: P, forcing patterns.
            pool: Rows and columns of the regions whose means are read.
            history: H, frames of a window.
        """
        super().__init__()
        self.pool, self.history, self.numbers = pool, history, state + 2 * patterns
        self.patterns = nn.Linear(in_channels * pool[0] * pool[1], patterns)
        self.gates = nn.Linear(state, patterns)

    def forward(self, frames: Tensor, state: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) and (S, L, state) -> (S, L, R)."""
        regions = self.sphere.region_means(frames.flatten(0, 1), self.pool).reshape(*frames.shape[:2], -1)
        linear = self.patterns(regions.unfold(1, self.history, 1).mean(-1))
        return torch.cat((state, linear, linear * self.gates(state)), -1)


class CellHead(OnSphere):
    """A linear map of K features to one number with weights of its own in every cell, (B, K, Y, X) -> (B, Y, X).

    A cell's climate depends on where it lies, which shared weights can only learn from static channels.
    """

    def __init__(self, features: int, grid: tuple[int, int]) -> None:
        """Fresh weights, drawn as `nn.Linear` draws them.

        Args:
            features: K.
            grid: (Y, X).
        """
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features, *grid).uniform_(-(features**-0.5), features**-0.5))
        self.bias = nn.Parameter(torch.zeros(*grid))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, K, Y, X) -> (B, Y, X)."""
        weight, bias = (self.sphere.own(p) for p in (self.weight, self.bias))
        return (maps * weight).sum(1) + bias


class VariableHead(OnSphere):
    """One variable's field from maps and from numbers that hold for the whole globe."""

    def __init__(self, features: int, numbers: int, grid: tuple[int, int], *, local: bool) -> None:
        """Fresh weights.

        Args:
            features: K, channels of the maps.
            numbers: R, such as those of a `LinearResponse`; each gets a map of its own; 0 reads none.
            grid: (Y, X).
            local: Whether every cell has weights of its own over the K features.
        """
        super().__init__()
        self.grid = grid
        self.cells = CellHead(features, grid) if local else nn.Conv2d(features, 1, 1)
        self.maps = nn.Linear(numbers, grid[0] * grid[1], bias=False) if numbers else None

    def forward(self, maps: Tensor, numbers: Tensor | None) -> Tensor:
        """(B, K, Y, X) and (B, R) -> (B, Y, X)."""
        field: Tensor = self.cells(maps).reshape(-1, *maps.shape[-2:])
        if self.maps is not None and numbers is not None:
            field = field + self.sphere.to_cells(numbers, self.maps, self.grid)
        return field
