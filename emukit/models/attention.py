"""Attention in space and in time for frames cut into patches, and positions that know the globe.

Invariant: attention in space depends on the difference of two longitudes on the circle alone, never on where a map is
cut open; attention in time lets a target month see the H frames of its own window and nothing else. Both go through
`scaled_dot_product_attention`. B batch of frames, N patches, D features, S segments, T frames, L target months.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emukit.sphere import OnSphere

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
