"""The CNN-GRU of the competition's third place, as published, for comparison.

Invariant: the network is theirs to the parameter (352,878,672 at width 32, six channels, 48 x 72 cells), flat-earth
zero padding included; only the order of computation is ours, a frame being encoded once however many windows hold it.

Source: the public report of the third place in the UCSD CSE 151B Spring 2025 climate emulation competition.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from emukit.models.layers import SqueezeExcitation, WindowGRU, check_sizes, normalised_convolution

# As published.
REDUCTION = 16
HEAD_WIDTH = 1024
# Stacked recurrences of which the upper ones still learn; far more are a mistake.
MOST_LAYERS = 16


class PublishedCNNGRU(nn.Module):
    """One branch per variable, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    # Nearly all parameters are in the recurrence's input projection. The encoder is left whole: activations computed
    # again would count a batch twice in the running statistics of its BatchNorms.
    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (WindowGRU,)
    DIVIDES: ClassVar[bool | str] = (
        "its recurrence reads each frame flattened, all cells of all channels as one vector, with weights for every one"
    )

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        grid: tuple[int, int],
        history: int,
        width: int = 32,
        hidden: int = 512,
        layers: int = 2,
        dropout: float = 0.2,
    ) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            variables: V, one branch for each.
            grid: (Y, X).
            history: H, frames of a window.
            width: Channels of the first convolution, d of the report; the last has four times as many.
            hidden: Width of the recurrent state.
            layers: Stacked recurrences.
            dropout: Between recurrences and in the head.

        Raises:
            ValueError: A size is out of range.
        """
        super().__init__()
        check_sizes(1, width=width, hidden=hidden)
        check_sizes(1, MOST_LAYERS, layers=layers)
        self.branches = nn.ModuleList(
            _Branch(in_channels, grid, history, width, hidden, layers, dropout) for _ in range(variables)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""
        return torch.stack([branch(frames) for branch in self.branches], 2)


class _Branch(nn.Module):
    """Network of one variable, (S, L+H-1, C, Y, X) -> (S, L, Y, X)."""

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int],
        history: int,
        width: int,
        hidden: int,
        layers: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.grid = grid
        self.encoder = nn.Sequential(
            *_convolution(in_channels, width),
            *_convolution(width, 2 * width),
            *_convolution(2 * width, 2 * width, stride=2),
            *_convolution(2 * width, 4 * width),
            SqueezeExcitation(4 * width, REDUCTION),
            nn.Flatten(),
        )
        # A stencil of 3 with stride 2 and one cell of padding keeps the larger half of an odd number of cells.
        cells = ((grid[0] + 1) // 2) * ((grid[1] + 1) // 2)
        self.recurrence = WindowGRU(4 * width * cells, hidden, history, layers=layers, dropout=dropout)
        self.head = nn.Sequential(
            nn.LayerNorm(hidden),
            nn.Linear(hidden, HEAD_WIDTH),
            nn.LayerNorm(HEAD_WIDTH),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(HEAD_WIDTH, grid[0] * grid[1]),
        )

    def forward(self, frames: Tensor) -> Tensor:
        features = self.encoder(frames.flatten(0, 1)).reshape(*frames.shape[:2], -1)
        fields: Tensor = self.head(self.recurrence(features))
        return fields.reshape(*fields.shape[:2], *self.grid)


def _convolution(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    # In place: neither normalisation nor ReLU needs what stood there, and a CPU pays for every fresh page.
    return [*normalised_convolution(in_channels, out_channels, stride=stride), nn.ReLU(inplace=True)]
