"""The U-Net of textbooks and guides, on a globe of any size: one month at a time, from its window's frames as channels.

Invariant: with 65 channels in and out and a window of one frame it has 7,742,849 parameters, as the network of Negin
Sobhani's guide to distributed training (NCAR) has, whose zero padding and halvings without a rest it does not share:
convolutions are round in longitude and continue over the poles, and sides are halved upwards, so that 181 x 360 cells
pass, whose every level but the first has an odd side. The prediction rolls with the frames, by 2**depth cells where
that divides the circle.

U-Net: Ronneberger et al. 2015, arXiv:1505.04597, with batch normalisation (Ioffe and Szegedy 2015, arXiv:1502.03167).
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from emukit.models.layers import NormalisedConv2d, NormalisedConvTranspose2d, Poles, check_halvings, check_sizes
from emukit.sphere import OnSphere

# Channels double with every level: beyond it no machine holds one.
DEEPEST = 12


class DoubleConvolution(OnSphere):
    """Two convolutions, each normalised and cut at zero, (B, C, Y, X) -> (B, out, Y, X)."""

    def __init__(self, in_channels: int, out_channels: int, poles: Poles) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(NormalisedConv2d(n, out_channels, 3) for n in (in_channels, out_channels))
        self.norms = nn.ModuleList(nn.BatchNorm2d(out_channels) for _ in range(2))
        self.poles: Poles = poles

    def forward(self, fields: Tensor) -> Tensor:
        """(B, C, Y, X) -> (B, out, Y, X)."""
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            fields = torch.relu(norm(convolution(self.sphere.pad(fields, 1, self.poles))))
        return fields


class PlainUNet(OnSphere):
    """Forcing frames to climate, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (DoubleConvolution,)
    DIVIDES: ClassVar[bool | str] = True

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        grid: tuple[int, int],
        history: int,
        width: int = 64,
        depth: int = 3,
        dropout: float = 0.0,
        poles: Poles = "reflect",
    ) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            variables: V.
            grid: (Y, X).
            history: H, frames of a window; they become channels.
            width: Channels of the finest level; each deeper one has twice as many.
            depth: Halvings.
            dropout: Whole channels of the coarsest level dropped, while training.
            poles: What convolutions see beyond the poles, see `emukit.sphere.Edges`.

        Raises:
            ValueError: A size is out of range, or the grid cannot be halved so often.
        """
        super().__init__()
        check_sizes(1, width=width)
        check_sizes(1, DEEPEST, depth=depth)
        check_halvings(grid, depth)
        self.history = history
        widths = [width * 2**i for i in range(depth + 1)]
        sides = pairwise([history * in_channels, *widths])
        self.down = nn.ModuleList(DoubleConvolution(a, b, poles) for a, b in sides)
        self.dropout = nn.Dropout2d(dropout)
        self.rise = nn.ModuleList(
            NormalisedConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(list(pairwise(widths)))
        )
        self.up = nn.ModuleList(DoubleConvolution(2 * n, n, poles) for n in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, variables, 1)

    def forward(self, frames: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""
        # (S, L, C, Y, X, H) -> (S L, H C, Y, X).
        windows = frames.unfold(1, self.history, 1).movedim(-1, 2)
        fields = windows.flatten(2, 3).flatten(0, 1)
        levels = []
        for i, block in enumerate(self.down):
            fields = block(self.sphere.max_pool(fields) if i else fields)
            levels.append(fields)
        fields = self.dropout(levels.pop())
        for rise, block, level in zip(self.rise, self.up, reversed(levels), strict=True):
            assert isinstance(rise, nn.ConvTranspose2d)
            risen = self.sphere.transposed(fields, rise, (level.shape[-2], level.shape[-1]))
            fields = block(torch.cat((level, risen), 1))
        out: Tensor = self.head(fields)
        return out.reshape(*windows.shape[:2], *out.shape[1:])
