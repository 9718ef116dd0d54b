"""A U-Net for blocks of a map: it knows no globe, and its answer for a cell depends on that cell's surroundings alone.

Invariant: nothing is computed over a whole block. Normalisation is over the channels of each cell and edges are
continued by their last cell, so that two blocks give the same answer wherever both see `reach` cells round about
(and begin at the same multiple of 2**depth cells).

U-Net: Ronneberger et al. 2015, arXiv:1505.04597. FiLM: Perez et al. 2018, arXiv:1709.07871.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emukit.models.layers import LevelEmbedding, check_sizes


class CellNorm(nn.Module):
    """Normalise the channels of each cell, (B, C, Y, X) -> the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, fields: Tensor) -> Tensor:
        """Zero mean and unit variance over the channels, then a scale and a shift of each channel."""
        return self.norm(fields.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]


class EdgeConv2d(nn.Module):
    """3 x 3 convolution that continues a block by its last cells, (B, C, Y, X) -> (B, out, Y, X).

    A block of a map ends where it was cut: neither over the pole nor round the globe does its edge go on.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3)

    def forward(self, fields: Tensor) -> Tensor:
        """(B, C, Y, X) -> (B, out, Y, X)."""
        return self.conv(F.pad(fields, (1, 1, 1, 1), mode="replicate"))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """Two convolutions next to a skip, scaled and shifted by an embedding in between."""

    def __init__(self, in_channels: int, out_channels: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(CellNorm(n) for n in (in_channels, out_channels))
        self.convolutions = nn.ModuleList(EdgeConv2d(n, out_channels) for n in (in_channels, out_channels))
        self.film = nn.Linear(embedding, 2 * out_channels) if embedding else None
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, fields: Tensor, state: Tensor | None) -> Tensor:
        """(B, C, Y, X) and (B, embedding) -> (B, out, Y, X)."""
        inner = self.norms[1](self.convolutions[0](F.gelu(self.norms[0](fields))))
        if self.film is not None and state is not None:
            scale, shift = self.film(state)[..., None, None].chunk(2, 1)
            inner = inner * (1 + scale) + shift
        out: Tensor = self.skip(fields) + self.convolutions[1](self.dropout(F.gelu(inner)))
        return out


class BlockUNet(nn.Module):
    """Frames of a block to fields, (S, 1, C, Y, X) -> (S, 1, V, Y, X).

    With `levels` it reads a noisy field (S, 1, V, Y, X) and its level (S, 1) too.

    The first `uniform` channels, such as the time of year, have one value in all cells; they become an embedding that
    scales and shifts every block of layers. The last layer begins at zero: an untrained network adds nothing.
    """

    # As many parameters as the networks of IPSL-AID: 54.43 M (DDPM++) and 92.14 M (ADM). Sizes, not architectures.
    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "published-54m": {"width": 115, "depth": 3, "blocks": 2, "embedding": 256},
        "published-92m": {"width": 150, "depth": 3, "blocks": 2, "embedding": 256},
    }
    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (Residual,)
    takes_level: ClassVar[bool] = True

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        uniform: int,
        levels: bool = False,
        width: int = 32,
        depth: int = 2,
        blocks: int = 1,
        embedding: int = 32,
        dropout: float = 0.0,
    ) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            variables: V.
            uniform: How many of the channels, the first ones, have one value in all cells.
            levels: Whether it is given a noisy field and its level, as for diffusion.
            width: Channels of the finest level; each deeper one has twice as many.
            depth: Halvings.
            blocks: Residual blocks of each level, on the way down and on the way up.
            embedding: Width of the embedding of the uniform channels.
            dropout: Inside the blocks, while training.

        Raises:
            ValueError: A size is out of range.
        """
        super().__init__()
        check_sizes(1, width=width, blocks=blocks, embedding=embedding)
        check_sizes(0, depth=depth, uniform=uniform)
        if uniform >= in_channels:
            raise ValueError(f"{uniform} of {in_channels} channels are uniform: there must be a map")
        self.uniform, self.depth, self.blocks = uniform, depth, blocks
        self.embed = nn.Sequential(nn.Linear(uniform, embedding), nn.GELU()) if uniform else None
        self.level = LevelEmbedding(embedding) if levels else None
        state = embedding if uniform or levels else 0
        widths = [width * 2**level for level in range(depth + 1)]
        self.stem = EdgeConv2d(in_channels - uniform + (variables if levels else 0), width)

        def level(first: int, out: int) -> nn.ModuleList:
            return nn.ModuleList(Residual(first if i == 0 else out, out, state, dropout) for i in range(blocks))

        self.down = nn.ModuleList(level(widths[max(i - 1, 0)], w) for i, w in enumerate(widths))
        self.up = nn.ModuleList(level(widths[i + 1] + widths[i], widths[i]) for i in reversed(range(depth)))
        self.norm = CellNorm(width)
        self.head = nn.Conv2d(width, variables, 1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    @property
    def multiple(self) -> int:
        """What the sides of a block must be a multiple of."""
        return 1 << self.depth

    @property
    def reach(self) -> int:
        """How far from a cell, in cells, its answer may depend on anything; a bound."""
        convolutions = 2 * self.blocks
        coarsest = 1 << self.depth
        total = 1 + 2 * convolutions * (coarsest - 1)
        # Each mean of two cells, and its way back, may add one cell of its level.
        return total + convolutions * coarsest + 2 * (coarsest - 1)

    def forward(self, frames: Tensor, noisy: Tensor | None = None, level: Tensor | None = None) -> Tensor:
        """(S, 1, C, Y, X), and with `levels` (S, 1, V, Y, X) and (S, 1) -> (S, 1, V, Y, X)."""
        fields = frames[:, -1]
        state = self.embed(fields[:, : self.uniform, 0, 0]) if self.embed is not None else None
        maps = fields[:, self.uniform :]
        if self.level is not None:
            if noisy is None or level is None:
                raise ValueError("the network needs a noisy field and its level")
            maps = torch.cat((maps, noisy[:, -1]), 1)
            told = self.level(level[:, -1])
            state = told if state is None else state + told
        x = self.stem(maps)
        skips: list[Tensor] = []
        for number, blocks in enumerate(self.down):
            if number:
                skips.append(x)
                x = F.avg_pool2d(x, 2)
            for block in blocks.children():
                x = block(x, state)
        for blocks in self.up:
            x = torch.cat((F.interpolate(x, scale_factor=2, mode="nearest"), skips.pop()), 1)
            for block in blocks.children():
                x = block(x, state)
        out: Tensor = self.head(F.gelu(self.norm(x)))
        return out[:, None]
