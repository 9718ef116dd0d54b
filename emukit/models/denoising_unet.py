"""A U-Net that reads a noisy field next to the frames, and is told of the level of its noise.

Invariant: a target month is a function of its own window, its own noisy field and its level alone. Without weights of
each cell (`local`) it commutes with a roll in longitude by 2**depth cells, where that divides the grid.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from emukit.models.heads import VariableHead, downsampled_grids
from emukit.models.layers import GlobeConv2d, LevelEmbedding, Poles, asked, check_sizes, faint
from emukit.models.unet import Pyramid, ResidualBlock
from emukit.sphere import OnSphere


class DenoisingUNet(OnSphere):
    """Frames, noisy fields and their levels to fields, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {"large": {"width": 64, "depth": 3, "hidden": 256}}
    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (ResidualBlock,)
    DIVIDES: ClassVar[bool | str] = True
    takes_level: ClassVar[bool] = True

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        grid: tuple[int, int],
        history: int,
        width: int = 16,
        depth: int = 2,
        hidden: int = 64,
        local: bool = True,
        dropout: float = 0.0,
        poles: Poles = "reflect",
    ) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            variables: V.
            grid: (Y, X).
            history: H, frames of a window; they are read as channels.
            width: Channels of the finest level; each deeper one has twice as many.
            depth: Halvings.
            hidden: Features of the noise's level, which scale and shift every block.
            local: Whether every cell has an input bias and head weights of its own.
            dropout: Inside the blocks, while training.
            poles: What convolutions see beyond the poles, see `emukit.sphere.Edges`.

        Raises:
            ValueError: A size is out of range, or the grid cannot be halved so often.
        """
        super().__init__()
        check_sizes(1, width=width, depth=depth, hidden=hidden)
        downsampled_grids(grid, depth)
        self.history, self.variables = history, variables
        self.encode = GlobeConv2d(history * in_channels + variables, width, poles=poles)
        self.place = nn.Parameter(torch.zeros(width, *grid)) if local else None
        self.level = LevelEmbedding(hidden)
        self.pyramid = Pyramid(width, depth, state=hidden, dropout=dropout, poles=poles)
        self.heads = faint(nn.ModuleList(VariableHead(width, 0, grid, local=local) for _ in range(variables)))

    def forward(self, frames: Tensor, noisy: Tensor | None = None, level: Tensor | None = None) -> Tensor:
        """(S, L+H-1, C, Y, X), and with noise (S, L, V, Y, X) and (S, L) -> (S, L, V, Y, X)."""
        windows, fields, levels = asked(frames, self.history, self.variables, noisy, level)
        maps = self.encode(torch.cat((windows, fields), 1))
        if self.place is not None:
            maps = maps + self.sphere.own(self.place)
        maps = self.pyramid(maps, self.level(levels))
        out = torch.stack([head(maps, None) for head in self.heads], 1)
        return out.reshape(len(frames), -1, *out.shape[1:])
