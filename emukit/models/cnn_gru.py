"""The default CNN-GRU: pooled convolutional encoder, GRU over each window, gated linear path, a head per variable.

Invariant: a target month is a function of its own window of H frames alone. The encoder's maps roll with the frames
(exactly, by multiples of 2**stages cells where that divides the grid); pooling into regions and the heads do not: each
cell has weights of its own, as its climate depends on where it lies.

The linear path is why it extrapolates at all: to first order, climate change is a fixed pattern for each season times
the forcing, so the mean forcing of the window, mapped linearly, is offered to the heads as it is and multiplied by
gates that the recurrence sets (season above all). What is left for the recurrence to learn is small. The encoder sees
inputs squashed to a few standard deviations: far beyond the forcings of training the gates would otherwise saturate and
lose even the season, while the linear path, which reads what was given, carries the trend on.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emukit.models.heads import soft_clip
from emukit.models.layers import (
    AttentionPooling,
    GlobeConv2d,
    Poles,
    SqueezeExcitation,
    WindowGRU,
    check_halvings,
    check_sizes,
)
from emukit.sphere import OnSphere


class FrameFeatures(OnSphere):
    """What a frame says, as one vector, (B, C, Y, X) -> (B, features)."""

    def __init__(
        self,
        in_channels: int,
        *,
        width: int,
        stages: int,
        pool: tuple[int, int],
        features: int,
        poles: Poles,
        squeeze_excitation: bool = False,
    ) -> None:
        super().__init__()
        channels = [in_channels, *(width * 2**i for i in range(stages))]
        self.stages = nn.ModuleList(GlobeConv2d(a, b, poles=poles) for a, b in pairwise(channels))
        self.pool = pool
        self.project = nn.Linear(channels[-1] * pool[0] * pool[1], features)
        self.excite = SqueezeExcitation(channels[-1]) if squeeze_excitation else None

    def maps(self, fields: Tensor) -> Tensor:
        """The last maps, (B, C, Y, X) -> (B, width 2**(stages-1), ceil(Y/2**stages), ceil(X/2**stages))."""
        fields = soft_clip(fields)
        for stage in self.stages:
            # Halved before the stencil: forcings are smooth, and stencils on the finest grid would cost most.
            fields = F.gelu(stage(self.sphere.downsample(fields)))
        return fields if self.excite is None else self.excite(fields)

    def forward(self, fields: Tensor) -> Tensor:
        # No normalisation of maps anywhere: a forcing that is the same in every cell, such as CO2, would be lost to it.
        regions = self.sphere.region_means(self.maps(fields), self.pool)
        return self.project(regions.flatten(1))  # type: ignore[no-any-return]


class Reading(OnSphere):
    """All that stands before the heads, (S, L+H-1, C, Y, X) -> (S, L, hidden + 2 linear)."""

    def __init__(
        self,
        in_channels: int,
        history: int,
        *,
        width: int,
        stages: int,
        pool: tuple[int, int],
        features: int,
        hidden: int,
        linear: int,
        dropout: float,
        poles: Poles,
        attention: bool,
        squeeze_excitation: bool,
    ) -> None:
        super().__init__()
        self.history = history
        self.pool = pool
        self.encoder = FrameFeatures(
            in_channels,
            width=width,
            stages=stages,
            pool=pool,
            features=features,
            poles=poles,
            squeeze_excitation=squeeze_excitation,
        )
        self.recurrence = WindowGRU(features, hidden, history)
        self.pooling = AttentionPooling(hidden) if attention else None
        self.dropout = nn.Dropout(dropout)
        self.patterns = nn.Linear(in_channels * pool[0] * pool[1], linear) if linear else None
        self.gates = nn.Linear(hidden, linear) if linear else None

    def read(self, frames: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) -> (S, L, hidden + 2 linear)."""
        features = self.encoder(frames.flatten(0, 1)).reshape(*frames.shape[:2], -1)
        if self.pooling is None:
            state = self.recurrence(features)
        else:
            state = self.pooling(self.recurrence(features, every=True))
        read = [self.dropout(state)]
        if self.patterns is not None and self.gates is not None:
            linear = self.patterns(self._window_mean(frames))
            read += [linear, linear * self.gates(state)]
        return torch.cat(read, -1)

    def forward(self, frames: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) -> (S, L, hidden + 2 linear)."""
        return self.read(frames)

    def _window_mean(self, frames: Tensor) -> Tensor:
        """Regional means of every channel over each window, (S, L+H-1, C, Y, X) -> (S, L, C * regions)."""
        regions = self.sphere.region_means(frames.flatten(0, 1), self.pool)
        return regions.reshape(*frames.shape[:2], -1).unfold(1, self.history, 1).mean(-1)


class CNNGRU(Reading):
    """Forcing frames to climate, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    # For a GPU: regions as fine as the last maps of 48 x 72 cells.
    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "large": {
            "width": 128,
            "pool_rows": 6,
            "pool_columns": 9,
            "features": 1024,
            "hidden": 2048,
            "linear": 256,
            "dropout": 0.1,
        }
    }
    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (FrameFeatures, WindowGRU)
    DIVIDES: ClassVar[bool | str] = True

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        grid: tuple[int, int],
        history: int,
        width: int = 16,
        stages: int = 3,
        pool_rows: int = 3,
        pool_columns: int = 6,
        features: int = 64,
        hidden: int = 128,
        linear: int = 32,
        dropout: float = 0.0,
        poles: Poles = "reflect",
        attention: bool = False,
        squeeze_excitation: bool = False,
        trunks: Literal["shared", "separate"] = "shared",
    ) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            variables: V, one head for each.
            grid: (Y, X).
            history: H, frames of a window.
            width: Channels of the first convolution; each further one has twice as many.
            stages: Convolutions, each on a grid half as fine as before.
            pool_rows: Rows of the regions whose means are kept.
            pool_columns: Columns of them.
            features: Width of a frame's feature vector.
            hidden: Width of the recurrent state.
            linear: Patterns of the linear path; 0 leaves it out.
            dropout: On the recurrent state that the heads read, while training.
            poles: What convolutions see beyond the poles, see `emukit.sphere.Edges`.
            attention: Read all recurrent states of the window, weighted by learned scores, not the last state alone.
            squeeze_excitation: Scale the channels of the last maps by numbers drawn from their means.
            trunks: All before the heads once for all variables (``shared``) or once for each (``separate``).

        Raises:
            ValueError: A size is below one, or there are more halvings than the grid bears.
        """
        check_sizes(1, width=width, stages=stages, pool_rows=pool_rows, pool_columns=pool_columns)
        check_sizes(1, features=features, hidden=hidden)
        check_sizes(0, linear=linear)
        check_halvings(grid, stages)
        options: dict[str, Any] = {"width": width, "stages": stages, "pool": (pool_rows, pool_columns)}
        options |= {"features": features, "hidden": hidden, "linear": linear, "dropout": dropout, "poles": poles}
        options |= {"attention": attention, "squeeze_excitation": squeeze_excitation}
        super().__init__(in_channels, history, **options)
        self.grid = grid
        # The first variable reads what this module itself holds, whose weights have the same names either way.
        own = variables - 1 if trunks == "separate" else 0
        self.others = nn.ModuleList(Reading(in_channels, history, **options) for _ in range(own))
        self.heads = nn.ModuleList(nn.Linear(hidden + 2 * linear, grid[0] * grid[1]) for _ in range(variables))

    def forward(self, frames: Tensor) -> Tensor:
        """(S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""
        known = [self.read(frames), *(other(frames) for other in self.others)]
        fields = []
        for v, head in enumerate(self.heads):
            assert isinstance(head, nn.Linear)
            fields.append(self.sphere.to_cells(known[v % len(known)], head, self.grid))
        return torch.stack(fields, 2)
