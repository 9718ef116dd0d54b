"""The default transformer: frames cut into patches and read once, months that read their windows, cells of their own.

Invariant: a target month is a function of its own window of H frames alone, and a frame's blocks run once however many
windows hold it. With rotary positions the trunk's patches roll with the frames, by whole patches where those divide the
circle; the heads do not: each cell has weights of its own over the features of its patch, as its climate depends on
where it lies.

A month starts as the last frame of its window and reads the others in its month blocks. Forcings that are the same
everywhere, such as CO2, pass the LayerNorms because those act on the features of one patch, never over the map: the
forcing stands there relative to the season and the place. Beyond training it is the linear path that carries the trend
on, gated by the patch; the trunk sees inputs squashed to a few standard deviations (see `emukit.models.heads`).
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from emukit.models.attention import FrameBlock, TimeBlock, Turn, harmonics, patch_centres, space_turn
from emukit.models.heads import Trunks, soft_clip
from emukit.models.layers import MOST_BLOCKS, check_sizes
from emukit.sphere import OnSphere

Positions = Literal["rotary", "learned"]

# Rows and columns of the regions whose mean forcings the linear path reads.
REGIONS = (3, 6)


class Trunk(OnSphere):
    """Frames to what the heads read of each month and patch, (S, L+H-1, C, Y, X) -> (S, L, N, D)."""

    def __init__(
        self,
        in_channels: int,
        grid: tuple[int, int],
        history: int,
        *,
        patch: tuple[int, int],
        dim: int,
        heads: int,
        blocks: tuple[int, int],
        ratio: int,
        dropout: float,
        positions: Positions,
        recompute: bool,
    ) -> None:
        super().__init__()
        self.history = history
        self.pairs = dim // heads // 2
        self.tiles = tiling(grid, patch)
        self.patch, self.grid = patch, grid
        self.positions = positions
        self.recompute = recompute
        self.embed = nn.Conv2d(in_channels, dim, patch, stride=patch)
        polar, longitude = patch_centres(self.tiles, patch, grid)
        # Rotary positions say how far apart two patches are; what the latitude itself means is learned by row.
        self.place = (
            nn.Embedding(self.tiles[0], dim)
            if positions == "rotary"
            else nn.Linear(harmonics(polar, longitude).shape[1], dim, bias=False)
        )
        nn.init.normal_(self.place.weight, std=0.1)
        self.frames = nn.ModuleList(FrameBlock(dim, heads, ratio, dropout) for _ in range(blocks[0]))
        self.times = nn.ModuleList(TimeBlock(dim, heads, history, dropout) for _ in range(blocks[1]))
        self.months = nn.ModuleList(FrameBlock(dim, heads, ratio, dropout) for _ in range(blocks[1]))
        self.norm = nn.LayerNorm(dim)

    def forward(self, frames: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) -> (S, L, N, D)."""
        fields = soft_clip(frames.flatten(0, 1))
        place, turn = self._positions(fields)
        maps = self.embed(self.sphere.to_tiles(fields, self.patch)).flatten(2).transpose(1, 2) + place
        for block in self.frames:
            maps = self._run(block, maps, turn)
        memory = maps.reshape(*frames.shape[:2], *maps.shape[1:])
        months = memory[:, self.history - 1 :]
        for time, block in zip(self.times, self.months, strict=True):
            months = self._run(time, months, memory)
            months = self._run(block, months.flatten(0, 1), turn).reshape(months.shape)
        return self.norm(months)  # type: ignore[no-any-return]

    def _positions(self, like: Tensor) -> tuple[Tensor, Turn | None]:
        """What is added to every patch, (N, D), and what its queries and keys are turned by."""
        centres = patch_centres(self.tiles, self.patch, self.grid, like.device)
        polar, longitude = (self.sphere.own_tiles(c, 0, self.tiles) for c in centres)
        if self.positions == "learned":
            return self.place(harmonics(polar, longitude).to(self.place.weight.dtype)), None
        turn = space_turn(polar, longitude, self.pairs, self.tiles)
        place: Tensor = self.place.weight.repeat_interleave(self.tiles[1], 0)
        return self.sphere.own_tiles(place, 0, self.tiles), turn

    def _run(self, block: nn.Module, *inputs: Any) -> Tensor:
        if self.recompute and self.training:
            return checkpoint(block, *inputs, use_reentrant=False)  # type: ignore[no-any-return]
        return block(*inputs)  # type: ignore[no-any-return]


class PatchHead(OnSphere):
    """Features of a patch to its cells, with weights of its own for every cell, (S, L, N, F) -> (S, L, Y, X)."""

    def __init__(self, features: int, grid: tuple[int, int], patch: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.patch, self.tiles = grid, patch, tiling(grid, patch)
        count, cells = self.tiles[0] * self.tiles[1], patch[0] * patch[1]
        self.weight = nn.Parameter(torch.empty(count, features, cells).uniform_(-(features**-0.5), features**-0.5))
        self.bias = nn.Parameter(torch.zeros(count, 1, cells))

    def forward(self, patches: Tensor) -> Tensor:
        """Cells that padding added are computed and dropped."""
        weight, bias = (self.sphere.own_tiles(p, 0, self.tiles) for p in (self.weight, self.bias))
        cells = torch.baddbmm(bias, patches.flatten(0, 1).transpose(0, 1), weight)
        fields = cells.reshape(-1, self.sphere.tiles_across(self.tiles), cells.shape[1], *self.patch).permute(
            2, 0, 3, 1, 4
        )
        fields = self.sphere.from_tiles(fields.flatten(3, 4).flatten(1, 2), self.grid, self.patch)
        return fields.reshape(*patches.shape[:2], *fields.shape[-2:])


class Branch(OnSphere):
    """A trunk with its linear path, (S, L+H-1, C, Y, X) -> (S, L, N, features)."""

    def __init__(self, trunk: Trunk, in_channels: int, dim: int, linear: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.patterns = nn.Linear(in_channels * REGIONS[0] * REGIONS[1], linear) if linear else None
        self.gates = nn.Linear(dim, linear) if linear else None

    def forward(self, frames: Tensor) -> Tensor:
        patches = self.trunk(frames)
        if self.patterns is None or self.gates is None:
            return patches  # type: ignore[no-any-return]
        regions = self.sphere.region_means(frames.flatten(0, 1), REGIONS).reshape(*frames.shape[:2], -1)
        mean = regions.unfold(1, self.trunk.history, 1).mean(-1)
        linear = self.patterns(mean)[:, :, None].expand(*patches.shape[:3], -1)
        return torch.cat((patches, linear, linear * self.gates(patches)), -1)


class Transformer(nn.Module):
    """Forcing frames to climate, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    # About as many parameters as ViT-L (Dosovitskiy et al. 2021, arXiv:2010.11929), in patches fit for 48 x 72 cells.
    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "large": {"patch_rows": 4, "patch_columns": 4, "dim": 1024, "heads": 16, "frame_blocks": 12, "month_blocks": 9}
    }
    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (FrameBlock, TimeBlock)
    DIVIDES: ClassVar[bool | str] = True

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        grid: tuple[int, int],
        history: int,
        patch_rows: int = 8,
        patch_columns: int = 8,
        dim: int = 96,
        heads: int = 4,
        frame_blocks: int = 2,
        month_blocks: int = 1,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        positions: Positions = "rotary",
        trunks: Trunks = "shared",
        linear: int = 32,
        checkpoint: bool = False,
    ) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            variables: V, one head for each.
            grid: (Y, X).
            history: H, frames of a window.
            patch_rows: Rows of a patch; a grid that patches do not divide is padded, round in longitude and over the
                poles in latitude.
            patch_columns: Columns of a patch.
            dim: D, features of a patch; a multiple of four times `heads`.
            heads: Attention heads.
            frame_blocks: Blocks that every frame passes by itself.
            month_blocks: Blocks in which a month reads its window.
            mlp_ratio: Width of the hidden layer in a block, in multiples of `dim`.
            dropout: On every residual update, while training.
            positions: ``rotary`` (in longitude only differences on the circle count; latitude also learned by row), or
                ``learned`` (a learned mix of smooth functions on the globe, added once).
            trunks: One trunk for all variables (``shared``) or one for each (``separate``).
            linear: Patterns of the linear path; 0 leaves it out.
            checkpoint: Compute the blocks' activations again in the backward pass instead of keeping them.

        Raises:
            ValueError: A size is out of range, a patch is larger than the grid, or heads do not divide the features.
        """
        super().__init__()
        check_sizes(1, patch_rows=patch_rows, patch_columns=patch_columns, dim=dim, heads=heads, mlp_ratio=mlp_ratio)
        check_sizes(1, MOST_BLOCKS, frame_blocks=frame_blocks, month_blocks=month_blocks)
        check_sizes(0, linear=linear)
        if patch_rows > grid[0] or patch_columns > grid[1]:
            raise ValueError(f"a patch of {patch_rows} x {patch_columns} cells is larger than the grid, {grid}")
        if dim % (4 * heads):
            raise ValueError(f"dim must be a multiple of 4 x heads = {4 * heads}, not {dim}")
        patch = (patch_rows, patch_columns)

        def branch() -> Branch:
            trunk = Trunk(
                in_channels,
                grid,
                history,
                patch=patch,
                dim=dim,
                heads=heads,
                blocks=(frame_blocks, month_blocks),
                ratio=mlp_ratio,
                dropout=dropout,
                positions=positions,
                recompute=checkpoint,
            )
            return Branch(trunk, in_channels, dim, linear)

        self.branches = nn.ModuleList(branch() for _ in range(1 if trunks == "shared" else variables))
        self.heads = nn.ModuleList(PatchHead(dim + 2 * linear, grid, patch) for _ in range(variables))

    def forward(self, frames: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""
        read = [branch(frames) for branch in self.branches]
        return torch.stack([head(read[v % len(read)]) for v, head in enumerate(self.heads)], 2)


def tiling(grid: tuple[int, int], patch: tuple[int, int]) -> tuple[int, int]:
    """Patches that cover a grid, along latitude and longitude."""
    return -(-grid[0] // patch[0]), -(-grid[1] // patch[1])
