"""The residual CNN of the competition's starter kit, as the reference everyone knows.

Invariant: with one frame of history and the starter's five forcings the network is theirs to the parameter, flat-earth
zero padding included. It has no memory and no idea of season beyond what the forcings carry; with a longer history
the frames of a window become channels, and every window is computed from scratch: nothing is shared between months.

Source: the public starter kit of the UCSD CSE 151B Spring 2025 climate emulation competition.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from emukit.models.layers import check_sizes, normalised_convolution

# Channels double with every block but the last: beyond it no machine holds one.
DEEPEST = 16


class BatchNormResidualBlock(nn.Module):
    """Two convolutions next to a skip, all at full resolution, (B, C, Y, X) -> (B, out, Y, X)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            *normalised_convolution(in_channels, out_channels),
            nn.ReLU(),
            *normalised_convolution(out_channels, out_channels),
        )
        self.skip: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.skip = nn.Sequential(*normalised_convolution(in_channels, out_channels, kernel=1))

    def forward(self, fields: Tensor) -> Tensor:
        """(B, C, Y, X) -> (B, out, Y, X)."""
        return torch.relu(self.path(fields) + self.skip(fields))


class SimpleCNN(nn.Module):
    """Forcing frames to climate, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (BatchNormResidualBlock,)
    DIVIDES: ClassVar[bool | str] = True

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        grid: tuple[int, int],
        history: int,
        width: int = 64,
        depth: int = 4,
        dropout: float = 0.1,
    ) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            variables: V.
            grid: (Y, X); any, as nothing in the network depends on it.
            history: H, frames of a window; the starter's is 1.
            width: Channels of the first convolution; each block but the last doubles them.
            depth: Residual blocks.
            dropout: Whole channels dropped before the last convolutions, while training.

        Raises:
            ValueError: A size is out of range.
        """
        super().__init__()
        check_sizes(1, width=width)
        check_sizes(1, DEEPEST, depth=depth)
        self.history = history
        widths = [width * 2**i for i in range(depth)]
        widths.append(widths[-1])
        self.stem = nn.Sequential(*normalised_convolution(history * in_channels, width), nn.ReLU())
        self.blocks = nn.Sequential(*(BatchNormResidualBlock(a, b) for a, b in pairwise(widths)))
        self.head = nn.Sequential(
            nn.Dropout2d(dropout),
            *normalised_convolution(widths[-1], max(widths[-1] // 2, 1)),
            nn.ReLU(),
            nn.Conv2d(max(widths[-1] // 2, 1), variables, 1),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""
        # (S, L, C, Y, X, H) -> (S L, H C, Y, X).
        windows = frames.unfold(1, self.history, 1).movedim(-1, 2)
        fields: Tensor = self.head(self.blocks(self.stem(windows.flatten(2, 3).flatten(0, 1))))
        return fields.reshape(*windows.shape[:2], *fields.shape[1:])
