"""A diffusion transformer: patches that attend to the whole globe, told of the level of noise by their norms.

Invariant: a target month is a function of its own window, its own noisy field and its level alone. Blocks begin as the
identity (adaLN-Zero), and answers close to zero. Rotary positions make whole numbers of turns round the circle of
longitude; without weights of each patch (`local`) the answer rolls with the input by whole patches where they divide
the circle.

Peebles and Xie 2023 (arXiv:2212.09748), with `emukit.models.transformer` for positions.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from emukit.models.layers import MOST_BLOCKS, LevelEmbedding, asked, check_sizes, faint, modulated
from emukit.models.transformer import FeedForward, PatchHead, SpaceAttention, Turn, patch_centres, space_turn, tiling
from emukit.sphere import OnSphere


class LevelBlock(nn.Module):
    """Attention among patches, then each patch by itself, scaled by the level, (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, heads: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.space = SpaceAttention(dim, heads)
        self.each = FeedForward(dim, ratio)
        self.modulation = nn.Linear(dim, 6 * dim)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, patches: Tensor, level: Tensor, turn: Turn) -> Tensor:
        """Residual updates; `level` is (B, D)."""
        shift, scale, gate, shift_each, scale_each, gate_each = self.modulation(level).chunk(6, -1)
        update = self.dropout(self.space(modulated(patches, shift, scale), turn))
        patches = patches + gate[:, None] * update
        update = self.dropout(self.each(modulated(patches, shift_each, scale_each)))
        out: Tensor = patches + gate_each[:, None] * update
        return out


class DiT(OnSphere):
    """Frames, noisy fields and their levels to fields, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {"large": {"dim": 256, "heads": 8, "blocks": 8}}
    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (LevelBlock,)
    DIVIDES: ClassVar[bool | str] = True
    takes_level: ClassVar[bool] = True

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        grid: tuple[int, int],
        history: int,
        patch_rows: int = 4,
        patch_columns: int = 4,
        dim: int = 64,
        heads: int = 4,
        blocks: int = 4,
        mlp_ratio: int = 4,
        local: bool = True,
        dropout: float = 0.0,
    ) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            variables: V.
            grid: (Y, X).
            history: H, frames of a window; they are read as channels.
            patch_rows: Rows of a patch; a grid that patches do not divide is padded, round in longitude and over the
                poles in latitude.
            patch_columns: Columns of a patch.
            dim: D, features of a patch; a multiple of four times `heads`.
            heads: Attention heads.
            blocks: One after the other.
            mlp_ratio: Width of the hidden layer in a block, in multiples of `dim`.
            local: Whether every patch has a position and head weights of its own; otherwise every row.
            dropout: On every residual update, while training.

        Raises:
            ValueError: A size is out of range, a patch is larger than the grid, or heads do not divide the features.
        """
        super().__init__()
        check_sizes(1, patch_rows=patch_rows, patch_columns=patch_columns, dim=dim, heads=heads, mlp_ratio=mlp_ratio)
        check_sizes(1, MOST_BLOCKS, blocks=blocks)
        if patch_rows > grid[0] or patch_columns > grid[1]:
            raise ValueError(f"a patch of {patch_rows} x {patch_columns} cells is larger than the grid, {grid}")
        if dim % (4 * heads):
            raise ValueError(f"dim must be a multiple of 4 x heads = {4 * heads}, not {dim}")
        self.history, self.variables, self.grid = history, variables, grid
        self.patch, self.pairs, self.local = (patch_rows, patch_columns), dim // heads // 2, local
        self.tiles = tiling(grid, self.patch)
        self.condition = nn.Conv2d(history * in_channels, dim, self.patch, stride=self.patch)
        self.noisy = nn.Conv2d(variables, dim, self.patch, stride=self.patch, bias=False)
        self.level = LevelEmbedding(dim)
        self.place = nn.Embedding(self.tiles[0] * (self.tiles[1] if local else 1), dim)
        nn.init.normal_(self.place.weight, std=0.1)
        self.blocks = nn.ModuleList(LevelBlock(dim, heads, mlp_ratio, dropout) for _ in range(blocks))
        self.modulation = nn.Linear(dim, 2 * dim)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)
        kind = PatchHead if local else _SharedHead
        self.heads = faint(nn.ModuleList(kind(dim, grid, self.patch) for _ in range(variables)))

    def forward(self, frames: Tensor, noisy: Tensor | None = None, level: Tensor | None = None) -> Tensor:
        """(S, L+H-1, C, Y, X), and with noise (S, L, V, Y, X) and (S, L) -> (S, L, V, Y, X)."""
        windows, fields, levels = asked(frames, self.history, self.variables, noisy, level)
        tiles = (self.sphere.to_tiles(each, self.patch) for each in (windows, fields))
        maps = self.condition(next(tiles)) + self.noisy(next(tiles))
        place = self.place.weight if self.local else self.place.weight.repeat_interleave(self.tiles[1], 0)
        patches = maps.flatten(2).transpose(1, 2) + self.sphere.own_tiles(place, 0, self.tiles)
        known = nn.functional.silu(self.level(levels))
        centres = patch_centres(self.tiles, self.patch, self.grid, maps.device)
        polar, longitude = (self.sphere.own_tiles(c, 0, self.tiles) for c in centres)
        turn = space_turn(polar, longitude, self.pairs, self.tiles)
        for block in self.blocks:
            patches = block(patches, known, turn)
        patches = modulated(patches, *self.modulation(known).chunk(2, -1))
        read = patches.reshape(len(frames), -1, *patches.shape[1:])
        return torch.stack([head(read) for head in self.heads], 2)


class _SharedHead(OnSphere):
    """Features of a patch to its cells, with the same weights for every patch, (S, L, N, D) -> (S, L, Y, X)."""

    def __init__(self, features: int, grid: tuple[int, int], patch: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.patch, self.tiles = grid, patch, tiling(grid, patch)
        self.cells = nn.Linear(features, patch[0] * patch[1])

    def forward(self, read: Tensor) -> Tensor:
        fields = (
            self.cells(read)
            .unflatten(2, (-1, self.sphere.tiles_across(self.tiles)))
            .unflatten(-1, self.patch)
            .transpose(3, 4)
        )
        fields = fields.flatten(4, 5).flatten(2, 3)
        return self.sphere.from_tiles(fields, self.grid, self.patch)
