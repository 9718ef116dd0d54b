"""The default CNN-GRU: a pooled convolutional encoder, a GRU over each window, one head per variable.

Invariant: a target month is a function of its own window of H frames alone. The encoder's maps roll with the frames
(exactly, by multiples of 2**stages cells); the heads do not, as each cell has weights of its own: a cell's climate
depends on where it lies.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emukit.models.layers import GlobeConv2d, Poles, WindowGRU, halve


class FrameFeatures(nn.Module):
    """What a frame says, as one vector: (B, C, Y, X) -> (B, features)."""

    def __init__(
        self, in_channels: int, *, width: int, stages: int, pool: tuple[int, int], features: int, poles: Poles
    ) -> None:
        super().__init__()
        channels = [in_channels, *(width * 2**i for i in range(stages))]
        self.stages = nn.ModuleList(
            GlobeConv2d(a, b, poles=poles) for a, b in zip(channels[:-1], channels[1:], strict=True)
        )
        self.pool = pool
        self.project = nn.Linear(channels[-1] * pool[0] * pool[1], features)

    def maps(self, fields: Tensor) -> Tensor:
        """The encoder's last maps, (B, C, Y, X) -> (B, width 2**(stages-1), Y/2**stages, X/2**stages)."""
        for stage in self.stages:
            # Halved before the stencil: forcings are smooth, and the finest grid would cost four times as much.
            fields = F.gelu(stage(halve(fields)))
        return fields

    def forward(self, fields: Tensor) -> Tensor:
        regions = F.adaptive_avg_pool2d(self.maps(fields), self.pool)
        return self.project(regions.flatten(1))  # type: ignore[no-any-return]


class CNNGRU(nn.Module):
    """Forcing frames to climate, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        grid: tuple[int, int],
        history: int,
        width: int = 32,
        stages: int = 3,
        pool_rows: int = 3,
        pool_columns: int = 6,
        features: int = 128,
        hidden: int = 256,
        dropout: float = 0.1,
        poles: Poles = "reflect",
    ) -> None:
        super().__init__()
        self.grid = grid
        self.dropout = dropout
        self.encoder = FrameFeatures(
            in_channels, width=width, stages=stages, pool=(pool_rows, pool_columns), features=features, poles=poles
        )
        self.recurrence = WindowGRU(features, hidden, history)
        self.heads = nn.ModuleList(nn.Linear(hidden, grid[0] * grid[1]) for _ in range(variables))

    def forward(self, frames: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""
        features = self.encoder(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])
        state = F.dropout(self.recurrence(features), self.dropout, self.training)
        return torch.stack([head(state).unflatten(-1, self.grid) for head in self.heads], 2)
