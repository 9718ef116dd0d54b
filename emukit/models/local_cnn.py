"""A few convolutions on the grid of the fields, without a coarser one.

Invariant: a target month is a function of its own window alone, and what the network says of a cell of cells nearby
alone. Without weights of each cell (`local`) it commutes with every roll in longitude.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from emukit.models.heads import VariableHead
from emukit.models.layers import MOST_BLOCKS, GlobeConv2d, Poles, check_sizes, faint, stacked_windows
from emukit.models.unet import ResidualBlock
from emukit.sphere import OnSphere


class LocalCNN(OnSphere):
    """Frames to fields by convolutions on their own grid alone, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {"large": {"width": 64, "blocks": 4}}
    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (ResidualBlock,)
    DIVIDES: ClassVar[bool | str] = True

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        grid: tuple[int, int],
        history: int,
        width: int = 16,
        blocks: int = 1,
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
            width: Channels.
            blocks: Residual blocks; a cell sees 2 `blocks` + 1 cells each way.
            local: Whether every cell has an input bias and head weights of its own.
            dropout: Inside the blocks, while training.
            poles: What convolutions see beyond the poles, see `emukit.sphere.Edges`.

        Raises:
            ValueError: A size is out of range.
        """
        super().__init__()
        check_sizes(1, width=width)
        check_sizes(1, MOST_BLOCKS, blocks=blocks)
        self.history = history
        self.encode = GlobeConv2d(history * in_channels, width, poles=poles)
        self.place = nn.Parameter(torch.zeros(width, *grid)) if local else None
        self.blocks = nn.ModuleList(
            ResidualBlock(width, width, state=0, dropout=dropout, poles=poles) for _ in range(blocks)
        )
        self.heads = faint(nn.ModuleList(VariableHead(width, 0, grid, local=local) for _ in range(variables)))

    def forward(self, frames: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""
        maps = self.encode(stacked_windows(frames, self.history))
        if self.place is not None:
            maps = maps + self.sphere.own(self.place)
        for block in self.blocks:
            maps = block(maps, None)
        out = torch.stack([head(maps, None) for head in self.heads], 1)
        return out.reshape(len(frames), -1, *out.shape[1:])
