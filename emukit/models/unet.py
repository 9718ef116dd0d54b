"""U-Net: a month's map at several resolutions, told of the months before by its blocks' scales or by its channels.

Invariant: a target month is a function of its own window of H frames alone. Each frame's own maps and summary are
computed once; a target month then costs one pass through the U-Net. Everything up to the heads commutes with a roll in
longitude by 2**(coarsen + depth) cells where that divides the grid.

U-Net: Ronneberger et al. 2015, arXiv:1505.04597. FiLM: Perez et al. 2018, arXiv:1709.07871. Blocks normalise inside the
residual branch alone and are scaled and shifted after it, so that a forcing that is the same in every cell, such as
CO2, is not lost.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emukit.models.heads import (
    FrameMaps,
    LinearResponse,
    Trunks,
    VariableHead,
    branch_sizes,
    downsampled_grids,
    soft_clip,
)
from emukit.models.layers import GlobeConv2d, Poles, check_sizes
from emukit.sphere import OnSphere

WindowMode = Literal["film", "channels"]

# Channels are normalised in this many groups where each then holds two or more.
GROUPS = 4


class ResidualBlock(nn.Module):
    """Two convolutions next to a skip, scaled and shifted by a state in between, (B, C, Y, X) -> (B, out, Y, X)."""

    def __init__(self, in_channels: int, out_channels: int, *, state: int, dropout: float, poles: Poles) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            out_channels: Channels of the result.
            state: Width of the state; 0 for none.
            dropout: Between the convolutions, while training.
            poles: See `emukit.sphere.Edges`.
        """
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(_groups(n), n) for n in (in_channels, out_channels))
        self.convolutions = nn.ModuleList(
            GlobeConv2d(n, out_channels, poles=poles) for n in (in_channels, out_channels)
        )
        self.film = nn.Linear(state, 2 * out_channels) if state else None
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, fields: Tensor, state: Tensor | None) -> Tensor:
        """(B, C, Y, X) and (B, state) -> (B, out, Y, X)."""
        inner = self.norms[1](self.convolutions[0](F.gelu(self.norms[0](fields))))
        if self.film is not None and state is not None:
            scale, shift = self.film(state)[..., None, None].chunk(2, 1)
            inner = inner * (1 + scale) + shift
        out: Tensor = self.skip(fields) + self.convolutions[1](self.dropout(F.gelu(inner)))
        return out


class UNet(nn.Module):
    """Forcing frames to climate, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "large": {"width": 96, "depth": 3, "coarsen": 0, "features": 128, "hidden": 256, "linear": 128}
    }
    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (ResidualBlock,)
    DIVIDES: ClassVar[bool | str] = True

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        grid: tuple[int, int],
        history: int,
        window: WindowMode = "film",
        width: int = 16,
        depth: int = 2,
        coarsen: int = 1,
        features: int = 32,
        hidden: int = 64,
        bands: int = 6,
        linear: int = 32,
        pool_rows: int = 3,
        pool_columns: int = 6,
        trunks: Trunks = "shared",
        local: bool = True,
        dropout: float = 0.0,
        poles: Poles = "reflect",
    ) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            variables: V, one head for each.
            grid: (Y, X).
            history: H, frames of a window.
            window: How the U-Net knows the window: ``film`` shows it the last frame and lets a state made from all H
                frames scale and shift every block; ``channels`` stacks the maps of the H frames.
            width: Channels of the finest level; each deeper one has twice as many.
            depth: Halvings inside the U-Net.
            coarsen: Halvings before it; forcings are smooth, and the finest grid costs most.
            features: Width of a frame's summary.
            hidden: Width of the state made from a window's summaries.
            bands: Latitude bands whose means a summary is made from.
            linear: Patterns of the linear path; 0 leaves it out.
            pool_rows: Rows of the regions whose mean forcing the linear path reads.
            pool_columns: Columns of them.
            trunks: One trunk for all variables, or one for each.
            local: Whether every cell has head weights of its own.
            dropout: Inside the blocks, while training.
            poles: What convolutions see beyond the poles, see `emukit.sphere.Edges`.

        Raises:
            ValueError: A size is out of range, or the grid cannot be halved so often.
        """
        super().__init__()
        check_sizes(1, width=width, depth=depth, features=features, hidden=hidden, bands=bands)
        check_sizes(1, pool_rows=pool_rows, pool_columns=pool_columns)
        check_sizes(0, linear=linear, coarsen=coarsen)
        grids = downsampled_grids(grid, coarsen + depth)[: coarsen + 1]
        self.branches = nn.ModuleList(
            _Branch(
                in_channels,
                served,
                grids,
                history,
                window=window,
                width=width,
                depth=depth,
                features=features,
                hidden=hidden,
                bands=bands,
                linear=linear,
                pool=(pool_rows, pool_columns),
                local=local,
                dropout=dropout,
                poles=poles,
            )
            for served in branch_sizes(trunks, variables)
        )

    def forward(self, frames: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""
        return torch.cat([branch(frames) for branch in self.branches], 2)


class _Branch(OnSphere):
    """One trunk with the heads it serves, (S, L+H-1, C, Y, X) -> (S, L, served, Y, X)."""

    def __init__(
        self,
        in_channels: int,
        served: int,
        grids: list[tuple[int, int]],
        history: int,
        *,
        window: WindowMode,
        width: int,
        depth: int,
        features: int,
        hidden: int,
        bands: int,
        linear: int,
        pool: tuple[int, int],
        local: bool,
        dropout: float,
        poles: Poles,
    ) -> None:
        super().__init__()
        self.grids, self.history, self.bands = grids, history, bands
        halvings = len(grids) - 1
        self.encoder = FrameMaps(in_channels, [width] * max(halvings, 1), coarsen=halvings > 0, poles=poles)
        self.film = window == "film"
        stateful = self.film or linear > 0
        self.summary = nn.Linear(width * bands, features) if stateful else None
        self.state = nn.Linear(features * history, hidden) if stateful else None
        self.stack = None if self.film else nn.Conv2d(history * width, width, 1)
        self.pyramid = Pyramid(width, depth, state=hidden if self.film else 0, dropout=dropout, poles=poles)
        self.response = LinearResponse(in_channels, hidden, linear, pool=pool, history=history) if linear else None
        numbers = self.response.numbers if self.response is not None else 0
        self.heads = nn.ModuleList(VariableHead(width, numbers, grids[0], local=local) for _ in range(served))

    def forward(self, frames: Tensor) -> Tensor:
        months = frames.shape[1] - self.history + 1
        maps, state = self.maps(soft_clip(frames))
        numbers = None
        if self.response is not None and state is not None:
            numbers = self.response(frames, state).flatten(0, 1)
        for grid in reversed(self.grids[:-1]):
            maps = self.sphere.upsample(maps, grid)
        fields = torch.stack([head(maps, numbers) for head in self.heads], 1)
        return fields.reshape(-1, months, *fields.shape[1:])

    def maps(self, frames: Tensor) -> tuple[Tensor, Tensor | None]:
        """The U-Net's maps and the windows' states.

        (S, L+H-1, C, Y, X) -> (S L, width, coarse Y, coarse X) and, where there is one, (S, L, hidden).
        """
        own = self.encoder(frames.flatten(0, 1))
        state = None
        if self.summary is not None and self.state is not None:
            zonal = self.sphere.region_means(own, (self.bands, 1)).flatten(1)
            summaries = F.gelu(self.summary(zonal)).reshape(*frames.shape[:2], -1)
            state = F.gelu(self.state(summaries.unfold(1, self.history, 1).flatten(2)))
        own = own.reshape(*frames.shape[:2], *own.shape[1:])
        if self.stack is None:
            shown = own[:, self.history - 1 :].flatten(0, 1)
        else:
            shown = self.stack(own.unfold(1, self.history, 1).movedim(-1, 2).flatten(2, 3).flatten(0, 1))
        known = state.flatten(0, 1) if self.film and state is not None else None
        return self.pyramid(shown, known), state


class Pyramid(OnSphere):
    """The U-Net proper, (B, width, Y, X) and (B, state) -> (B, width, Y, X)."""

    def __init__(self, width: int, depth: int, *, state: int, dropout: float, poles: Poles) -> None:
        super().__init__()

        def block(a: int, b: int) -> ResidualBlock:
            return ResidualBlock(a, b, state=state, dropout=dropout, poles=poles)

        widths = [width * 2**i for i in range(depth + 1)]
        self.down = nn.ModuleList(block(widths[max(i - 1, 0)], widths[i]) for i in range(depth))
        self.bottom = block(widths[depth - 1], widths[depth])
        self.up = nn.ModuleList(block(widths[i + 1] + widths[i], widths[i]) for i in reversed(range(depth)))

    def forward(self, fields: Tensor, state: Tensor | None) -> Tensor:
        levels = []
        for block in self.down:
            fields = block(fields, state)
            levels.append(fields)
            fields = self.sphere.downsample(fields)
        fields = self.bottom(fields, state)
        for block, level in zip(self.up, reversed(levels), strict=True):
            risen = self.sphere.upsample(fields, (level.shape[-2], level.shape[-1]))
            fields = block(torch.cat((risen, level), 1), state)
        return fields


def _groups(channels: int) -> int:
    return math.gcd(GROUPS, channels) if channels >= 2 * GROUPS else 1
