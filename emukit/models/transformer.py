"""The default transformer: frames cut into patches and read once, months that read their windows, cells of their own.

Invariant: a target month is a function of its own window of H frames alone, and a frame's blocks run once however many
windows hold it. With rotary positions the trunk's patches roll with the frames, by whole patches where those divide the
circle; the heads do not: each cell has weights of its own over the features of its patch, as its climate depends on
where it lies.

A month starts as the last frame of its window and reads the others in its month blocks. Forcings that are the same
everywhere, such as CO2, pass the LayerNorms because those act on the features of one patch, never over the map: the
forcing stands there relative to the season and the place. Beyond training it is the linear path that carries the trend
on, gated by the patch; the trunk sees inputs squashed to a few standard deviations (see `emukit.models.heads`).

Attention in space depends on the difference of two longitudes on the circle alone, never on where a map is cut open.
Attention in time lets a target month see the H frames of its own window and nothing else. B batch of frames, N patches,
D features, S segments, T frames, L target months.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from emukit.models.heads import Trunks, soft_clip
from emukit.models.layers import MOST_BLOCKS, check_sizes
from emukit.sphere import OnSphere

Positions = Literal["rotary", "learned"]

# Rows and columns of the regions whose mean forcings the linear path reads.
REGIONS = (3, 6)


# Cosines and sines of a rotation for every position, each (positions, features of a head / 2).
Turn = tuple[Tensor, Tensor]

# Harmonics of the circle, and powers of the latitude, that learned positions are mixed from.
HARMONICS = 4
ZONAL = 4


def patch_centres(
    tiles: tuple[int, int], patch: tuple[int, int], cells: tuple[int, int], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Where the patches of a map lie, row by row.

    Args:
        tiles: Patches along latitude and longitude.
        patch: Cells of a patch along both.
        cells: (Y, X) of the map before it was padded; rows are padded alike on both sides, columns at the end.
        device: Where the result is wanted.

    Returns:
        Angle from the first row's pole and longitude of every patch, both (N,) in radians, in float32.
    """
    offset = (tiles[0] * patch[0] - cells[0]) // 2
    polar = ((torch.arange(tiles[0], device=device) + 0.5) * patch[0] - offset) * (math.pi / cells[0])
    # The true circle has X cells: a last patch that was filled up from the first columns overlaps the first patch.
    longitude = (torch.arange(tiles[1], device=device) + 0.5) * patch[1] * (2 * math.pi / cells[1])
    return polar.repeat_interleave(tiles[1]), longitude.repeat(tiles[0])


def space_turn(polar: Tensor, longitude: Tensor, pairs: int, tiles: tuple[int, int]) -> Turn:
    """Rotations for patches: half of the pairs turn with longitude, a whole number of times round the circle.

    Rotary positions as in Su et al. 2021 (arXiv:2104.09864), where frequencies are arbitrary; whole numbers are what
    makes the product of two rotated vectors depend on the longitudes' difference modulo the circle.
    """
    east = pairs // 2
    # Frequencies above half the number of patches round the circle repeat lower ones.
    turns = 1 + torch.arange(east, device=longitude.device) % max(1, tiles[1] // 2)
    steps = 1 + torch.arange(pairs - east, device=polar.device) % max(1, tiles[0] // 2)
    angle = torch.cat((longitude[:, None] * turns, polar[:, None] * steps), 1)
    return angle.cos(), angle.sin()


def time_turn(frames: int, pairs: int, history: int, like: Tensor) -> Turn:
    """Rotations for frames, of wavelengths from six months to about six windows."""
    rate = float(history) ** (-torch.arange(pairs, device=like.device) / pairs)
    angle = torch.arange(frames, device=like.device)[:, None] * rate
    return angle.cos(), angle.sin()


def rotate(vectors: Tensor, turn: Turn) -> Tensor:
    """Turn (..., positions, features) vectors pair by pair, the i-th of the first half with the i-th of the second."""
    cosine, sine = (t.to(vectors.dtype) for t in turn)
    first, second = vectors.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), -1)


def harmonics(polar: Tensor, longitude: Tensor) -> Tensor:
    """Smooth functions on the globe, periodic in longitude, (N,), (N,) -> (N, ZONAL (2 HARMONICS + 1))."""
    order = torch.arange(1, HARMONICS + 1, device=longitude.device)
    angle = longitude[:, None] * order
    east = torch.cat((torch.ones_like(longitude)[:, None], angle.cos(), angle.sin()), 1)
    north = (polar[:, None] * torch.arange(ZONAL, device=polar.device)).cos()
    return (north[:, :, None] * east[:, None, :]).flatten(1)


class SpaceAttention(OnSphere):
    """Attention among the patches of one map, (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, maps: Tensor, turn: Turn | None) -> Tensor:
        """Every patch reads all patches of its map; `turn` rotates queries and keys, None leaves them."""
        query, key, value = self.project(maps).reshape(*maps.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if turn is not None:
            query, key = rotate(query, turn), rotate(key, turn)
        read = self.sphere.attend(query, key, value)
        return self.out(read.transpose(1, 2).flatten(-2))  # type: ignore[no-any-return]


class TimeAttention(nn.Module):
    """What target months read, patch by patch, from the frames of their windows.

    Keys and values are projected once per frame however many windows hold it, and a band of the month-by-frame matrix
    says who sees whom: a few wide products instead of one tiny one for every month and patch.
    """

    def __init__(self, dim: int, heads: int, history: int) -> None:
        super().__init__()
        self.heads = heads
        self.history = history
        self.query = nn.Linear(dim, dim)
        self.remember = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, months: Tensor, frames: Tensor) -> Tensor:
        """(S, L, N, D) queries, (S, L+H-1, N, D) frames -> (S, L, N, D)."""
        query = self._by_patch(self.query(months))
        key, value = (self._by_patch(x) for x in self.remember(frames).chunk(2, -1))
        cosine, sine = time_turn(frames.shape[1], query.shape[-1] // 2, self.history, query)
        # A month's query stands where the last frame of its window stands: what counts is the frame's age.
        query = rotate(query, (cosine[self.history - 1 :], sine[self.history - 1 :]))
        read = F.scaled_dot_product_attention(
            query, rotate(key, (cosine, sine)), value, attn_mask=self._window(query.shape[-2], key)
        )
        segments, count, patches, dim = months.shape
        read = read.reshape(segments, patches, self.heads, count, -1).permute(0, 3, 1, 2, 4)
        return self.out(read.reshape(segments, count, patches, dim))  # type: ignore[no-any-return]

    def _by_patch(self, tokens: Tensor) -> Tensor:
        """(S, T, N, D) -> (S N, heads, T, D / heads)."""
        return tokens.reshape(*tokens.shape[:3], self.heads, -1).permute(0, 2, 3, 1, 4).flatten(0, 1)

    def _window(self, months: int, key: Tensor) -> Tensor:
        """Which frames a month sees, (L, L+H-1): month l the frames l to l+H-1."""
        age = torch.arange(months, device=key.device)[:, None] - torch.arange(key.shape[-2], device=key.device)
        return (age <= 0) & (age > -self.history)


class FeedForward(nn.Sequential):
    """Each patch by itself, (..., D) -> (..., D)."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__(nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))


class FrameBlock(nn.Module):
    """Attention in space, then each patch by itself, (B, N, D) -> (B, N, D)."""

    def __init__(self, dim: int, heads: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.space = SpaceAttention(dim, heads)
        self.each = FeedForward(dim, ratio)
        self.dropout = nn.Dropout(dropout)

    def forward(self, maps: Tensor, turn: Turn | None) -> Tensor:
        """Residual updates, normalised before each."""
        maps = maps + self.dropout(self.space(self.norms[0](maps), turn))
        return maps + self.dropout(self.each(self.norms[1](maps)))  # type: ignore[no-any-return]


class TimeBlock(nn.Module):
    """Attention in time over the window, (S, L, N, D) -> (S, L, N, D)."""

    def __init__(self, dim: int, heads: int, history: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.time = TimeAttention(dim, heads, history)
        self.dropout = nn.Dropout(dropout)

    def forward(self, months: Tensor, frames: Tensor) -> Tensor:
        """A residual update; `frames` are (S, L+H-1, N, D)."""
        return months + self.dropout(self.time(self.norms[0](months), self.norms[1](frames)))  # type: ignore[no-any-return]


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
