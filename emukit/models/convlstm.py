"""ConvLSTM: recurrence over the window on a coarse map, a gated linear path, weights of its own in every cell.

Invariant: a target month is a function of its own window of H frames alone. A frame is encoded and projected onto the
gates once, however many windows hold it; a window costs its state-to-state convolutions and, from the second layer on,
those between layers. All convolutions are round in longitude and continue over the poles.

ConvLSTM: Shi et al. 2015, arXiv:1506.04214, without peepholes. Only the recurrent term is normalised (GroupNorm): what
the forcing adds to the gates is not, so that CO2, the same in every cell, keeps its size.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils import checkpoint as recompute

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

# Hidden state and memory of one layer, (B, hidden, Y, X) each; None before the first step.
State = tuple[Tensor, Tensor] | None


class ConvLSTMCell(nn.Module):
    """One layer's update from what a frame adds to the gates and the state before; the first step has none.

    Over windows of a single frame there is no state before, and so nothing that would read it.
    """

    def __init__(self, hidden: int, history: int, *, poles: Poles) -> None:
        super().__init__()
        self.recurrent = GlobeConv2d(hidden, 4 * hidden, poles=poles) if history > 1 else None
        # One group a gate: their sizes mean different things.
        self.norm = nn.GroupNorm(4, 4 * hidden) if history > 1 else None

    def forward(self, given: Tensor, state: State) -> tuple[Tensor, Tensor]:
        """(B, 4 hidden, Y, X) and the state before -> the state after."""
        gates = given
        if state is not None and self.recurrent is not None and self.norm is not None:
            gates = given + self.norm(self.recurrent(state[0]))
        opened, forget, output, new = gates.chunk(4, 1)
        memory = torch.sigmoid(opened) * torch.tanh(new)
        if state is not None:
            memory = memory + torch.sigmoid(forget) * state[1]
        return torch.sigmoid(output) * torch.tanh(memory), memory


class ConvLSTM(nn.Module):
    """Forcing frames to climate, (S, L+H-1, C, Y, X) -> (S, L, V, Y, X)."""

    SIZES: ClassVar[dict[str, dict[str, Any]]] = {
        "large": {"width": 64, "hidden": 256, "layers": 3, "linear": 128, "checkpoint": True, "trunks": "separate"}
    }
    BLOCKS: ClassVar[tuple[type[nn.Module], ...]] = (ConvLSTMCell,)
    DIVIDES: ClassVar[bool | str] = True

    def __init__(
        self,
        *,
        in_channels: int,
        variables: int,
        grid: tuple[int, int],
        history: int,
        width: int = 16,
        stages: int = 2,
        hidden: int = 16,
        layers: int = 1,
        bands: int = 6,
        linear: int = 32,
        pool_rows: int = 3,
        pool_columns: int = 6,
        trunks: Trunks = "shared",
        local: bool = True,
        dropout: float = 0.0,
        checkpoint: bool = False,
        poles: Poles = "reflect",
    ) -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            variables: V, one head for each.
            grid: (Y, X).
            history: H, frames of a window.
            width: Channels of the first convolution; each further one has twice as many.
            stages: Convolutions before the recurrence, each on a grid half as fine as before.
            hidden: Channels of the recurrent state.
            layers: Stacked recurrences, 1 to 3.
            bands: Latitude bands in which the linear path's gates see the state.
            linear: Patterns of the linear path; 0 leaves it out.
            pool_rows: Rows of the regions whose mean forcing the linear path reads.
            pool_columns: Columns of them.
            trunks: One trunk for all variables, or one for each.
            local: Whether every cell has head weights of its own.
            dropout: On the state that the heads read, while training.
            checkpoint: Keep each step's states alone for the gradient and compute its gates again: less memory,
                about a third more time.
            poles: What convolutions see beyond the poles, see `emukit.sphere.Edges`.

        Raises:
            ValueError: A size is out of range, or the grid cannot be halved so often.
        """
        super().__init__()
        check_sizes(1, width=width, stages=stages, hidden=hidden, bands=bands)
        check_sizes(1, pool_rows=pool_rows, pool_columns=pool_columns)
        check_sizes(0, linear=linear)
        check_sizes(1, 3, layers=layers)
        grids = downsampled_grids(grid, stages)
        self.branches = nn.ModuleList(
            _Branch(
                in_channels,
                served,
                grids,
                history,
                widths=[width * 2**i for i in range(stages)],
                hidden=hidden,
                layers=layers,
                bands=bands,
                linear=linear,
                pool=(pool_rows, pool_columns),
                local=local,
                dropout=dropout,
                checkpoint=checkpoint,
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
        widths: list[int],
        hidden: int,
        layers: int,
        bands: int,
        linear: int,
        pool: tuple[int, int],
        local: bool,
        dropout: float,
        checkpoint: bool,
        poles: Poles,
    ) -> None:
        super().__init__()
        self.grids, self.history, self.bands, self.checkpoint = grids, history, bands, checkpoint
        self.encoder = FrameMaps(in_channels, widths, poles=poles)
        inputs = [widths[-1], *[hidden] * (layers - 1)]
        self.inputs = nn.ModuleList(_gates(n, hidden, poles) for n in inputs)
        self.cells = nn.ModuleList(ConvLSTMCell(hidden, history, poles=poles) for _ in inputs)
        self.dropout = nn.Dropout(dropout)
        self.response = (
            LinearResponse(in_channels, hidden * bands, linear, pool=pool, history=history) if linear else None
        )
        numbers = self.response.numbers if self.response is not None else 0
        self.heads = nn.ModuleList(VariableHead(hidden, numbers, grids[0], local=local) for _ in range(served))

    def forward(self, frames: Tensor) -> Tensor:
        maps = self.dropout(self.states(soft_clip(frames)))
        months = frames.shape[1] - self.history + 1
        numbers = None
        if self.response is not None:
            zonal = self.sphere.region_means(maps, (self.bands, 1)).reshape(-1, months, self.response.gates.in_features)
            numbers = self.response(frames, zonal).flatten(0, 1)
        for grid in reversed(self.grids[:-1]):
            maps = self.sphere.upsample(maps, grid)
        fields = torch.stack([head(maps, numbers) for head in self.heads], 1)
        return fields.reshape(-1, months, *fields.shape[1:])

    def states(self, frames: Tensor) -> Tensor:
        """The last layer's state at every window's end, (S, L+H-1, C, Y, X) -> (S L, hidden, coarse Y, coarse X)."""
        given = self.inputs[0](self.encoder(frames.flatten(0, 1)))
        given = given.reshape(*frames.shape[:2], *given.shape[1:])
        months = frames.shape[1] - self.history + 1
        states: list[State] = [None] * len(self.cells)
        for step in range(self.history):
            now = given[:, step : step + months].flatten(0, 1)
            if self.checkpoint and torch.is_grad_enabled():
                states = recompute.checkpoint(self._step, now, states, use_reentrant=False)
            else:
                states = self._step(now, states)
        last = states[-1]
        assert last is not None  # a window has at least one frame
        return last[0]

    def _step(self, given: Tensor, states: list[State]) -> list[State]:
        """All layers' states after one more frame of every window."""
        after: list[tuple[Tensor, Tensor]] = []
        for layer, (cell, state) in enumerate(zip(self.cells, states, strict=True)):
            if layer:
                given = self.inputs[layer](after[-1][0])
            after.append(cell(given, state))
        return list(after)


def _gates(in_channels: int, hidden: int, poles: Poles) -> GlobeConv2d:
    """What a frame, or the layer below, adds to the four gates; at first memory is kept (Jozefowicz et al. 2015)."""
    gates = GlobeConv2d(in_channels, 4 * hidden, poles=poles)
    remember = torch.zeros(4 * hidden)
    remember[hidden : 2 * hidden] = 1.0
    gates.conv.bias = nn.Parameter(remember)
    return gates
