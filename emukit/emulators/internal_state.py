"""Variability as a state that is predicted step by step: of every cell, of blocks of cells, and of what blocks leave.

Invariant: blocks are area means, so that the area mean of a field of blocks is that of the field, and a field is its
blocks plus a detail whose mean over every block is zero. All statistics come from training months alone.

A state is the deviation of a run from its forced response, in units of the standard deviation of its cell and calendar
month; of a relative variable, the deviation of the square root of its factor, which is less skewed and leads to no
negative value. From month to month both blocks and details keep a share of themselves (a damped persistence); what a
network draws is the rest, the innovation. The increment of the state is that rest less what is damped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from emukit.data.grid import Grid
from emukit.emulators.residuals import Residuals
from emukit.errors import ProtocolError, RecipeError

Field = NDArray[np.float32]

# Channels that say the season and the forced warming.
SETTING = 3


@dataclass(frozen=True, eq=False)
class StateSpace:
    """Between the variability of training runs and states, blocks and details.

    Attributes:
        center: (12, V, Y, X) mean of what states are made from, by calendar month.
        scale: (12, V, Y, X) its standard deviation; one where it never varies.
        weights: (Y, X) area weights, sum one.
        size: Rows and columns of a block, in cells.
        spread: (V, y, x) standard deviation of the blocks' states.
        persistence: (V, y, x) share of itself that a block keeps.
        innovation: (V, y, x) standard deviation of the rest.
        detail_persistence: (V, Y, X) likewise, of details.
        detail_innovation: (V, Y, X).
        warming: Mean and standard deviation of the forced global temperature over training months, K.
        history: States of blocks that the next one is drawn from.
        memory: Months whose mean it is drawn from as well; 0: none.
        relative: Of which variables the square root of a factor is the state.
    """

    center: Field
    scale: Field
    weights: Field
    size: int
    spread: Field
    persistence: Field
    innovation: Field
    detail_persistence: Field
    detail_innovation: Field
    warming: tuple[float, float]
    history: int
    memory: int
    relative: tuple[bool, ...]

    @property
    def past(self) -> int:
        """Months before a month that its blocks are drawn from."""
        return max(self.history, self.memory)

    @property
    def block_channels(self) -> int:
        """Channels of a frame from which blocks are drawn."""
        return block_channels(len(self.relative), self.history, self.memory)

    @property
    def detail_channels(self) -> int:
        """Channels of a frame from which details are drawn."""
        return detail_channels(len(self.relative))

    def forward(self, residual: NDArray[np.floating], month: NDArray[np.integer]) -> Field:
        """(T, V, Y, X) deviations and factors of calendar months (T,) to states."""
        made = residual.astype(np.float32)
        for v in np.flatnonzero(self.relative):
            made[:, v] = np.sqrt(np.maximum(made[:, v], 0.0))
        return np.asarray((made - self.center[month]) / self.scale[month], np.float32)

    def inverse(self, state: NDArray[np.floating], month: NDArray[np.integer]) -> Field:
        """The inverse of `forward`; factors are never negative."""
        made = np.asarray(state * self.scale[month] + self.center[month], np.float32)
        for v in np.flatnonzero(self.relative):
            made[:, v] = np.maximum(made[:, v], 0.0) ** 2
        return made

    def blocks(self, state: Tensor) -> Tensor:
        """Area means, (..., Y, X) -> (..., y, x)."""
        return block_means(state, torch.from_numpy(self.weights), self.size)

    def spread_out(self, blocks: Tensor) -> Tensor:
        """Every cell with the value of its block, (..., y, x) -> (..., Y, X)."""
        return blocks.repeat_interleave(self.size, -2).repeat_interleave(self.size, -1)

    def without_blocks(self, field: Tensor) -> Tensor:
        """A field less the means of its blocks, (..., Y, X)."""
        return field - self.spread_out(self.blocks(field))

    def block_frames(self, past: Tensor, setting: Tensor) -> Tensor:
        """What the next blocks are drawn from.

        Args:
            past: (S, P, V, y, x) blocks of the P = `past` months before, the last one last.
            setting: (S, SETTING), as `setting` makes it.

        Returns:
            (S, 1, C, y, x).
        """
        scaled = past / torch.from_numpy(self.spread)
        parts = [scaled[:, -self.history :].flatten(1, 2)]
        if self.memory:
            parts.append(scaled[:, -self.memory :].mean(1))
        parts.append(_everywhere(setting, past.shape[-2:]))
        return torch.cat(parts, 1)[:, None]

    def detail_frames(self, before: Tensor, blocks: Tensor, setting: Tensor) -> Tensor:
        """What the next details are drawn from.

        Args:
            before: (S, V, Y, X) the state before, in full.
            blocks: (S, V, y, x) the next blocks.
            setting: (S, SETTING).

        Returns:
            (S, 1, C, Y, X): the detail before, the blocks before, and the next blocks.
        """
        kept = self.spread_out(self.blocks(before))
        parts = (before - kept, kept, self.spread_out(blocks), _everywhere(setting, before.shape[-2:]))
        return torch.cat(parts, 1)[:, None]

    def setting(self, month: NDArray[np.integer], warming: NDArray[np.floating]) -> Tensor:
        """(S, SETTING): the season of calendar months (S,) as a circle, and a global temperature (S,) in K."""
        angle = 2 * np.pi * (np.asarray(month) + 0.5) / 12
        scaled = (np.asarray(warming, np.float64) - self.warming[0]) / self.warming[1]
        return torch.from_numpy(np.stack((np.cos(angle), np.sin(angle), scaled), -1).astype(np.float32))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its arrays, for `from_parts`."""
        return {f.name: getattr(self, f.name) for f in fields(self) if isinstance(getattr(self, f.name), np.ndarray)}

    def numbers(self) -> dict[str, Any]:
        """Everything else, as plain values."""
        return {
            "size": self.size,
            "warming": list(self.warming),
            "history": self.history,
            "memory": self.memory,
            "relative": list(self.relative),
        }

    @classmethod
    def from_parts(cls, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, Any]) -> StateSpace:
        """The inverse of `arrays` and `numbers`."""
        names = [f.name for f in fields(cls) if f.name not in numbers]
        return cls(
            **{name: np.asarray(arrays[name], np.float32) for name in names},
            size=int(numbers["size"]),
            warming=(float(numbers["warming"][0]), float(numbers["warming"][1])),
            history=int(numbers["history"]),
            memory=int(numbers["memory"]),
            relative=tuple(bool(r) for r in numbers["relative"]),
        )


@dataclass(frozen=True, eq=False)
class StateSeries:
    """The states of training runs, run after run.

    Attributes:
        space: Their statistics.
        states: (N, V, Y, X) float16, exact to 0.05 %.
        blocks: (N, V, y, x).
        month: (N,) calendar month.
        warming: (N,) forced global temperature, K.
        rows: Months with enough of their run before them to be drawn.
    """

    space: StateSpace
    states: NDArray[np.float16]
    blocks: Tensor
    month: NDArray[np.int64]
    warming: NDArray[np.float32]
    rows: NDArray[np.int64]

    @classmethod
    def of(
        cls, residuals: Residuals, grid: Grid, relative: Sequence[bool], *, size: int, history: int, memory: int
    ) -> StateSeries:
        """States and statistics of the variability of training runs.

        Args:
            residuals: The variability.
            grid: Of its fields.
            relative: Which variables are factors.
            size: Rows and columns of a block.
            history: See `StateSpace`.
            memory: Likewise.

        Raises:
            ProtocolError: Blocks do not divide the grid, or no run is long enough.
        """
        check_blocks(grid.shape, size)
        month, values = residuals.month, residuals.values
        center = np.zeros((12, *values.shape[1:]), np.float32)
        scale = np.ones_like(center)
        weights = np.asarray(grid.weights / grid.weights.sum(), np.float32)
        coarse = (grid.shape[0] // size, grid.shape[1] // size)
        unit = np.ones((len(relative), *coarse), np.float32)
        warming = (float(residuals.global_mean.mean()), float(residuals.global_mean.std()) or 1.0)
        space = StateSpace(
            center,
            scale,
            weights,
            size,
            unit,
            unit,
            unit,
            center[0],
            scale[0],
            warming,
            history,
            memory,
            tuple(relative),
        )
        states = np.empty(values.shape, np.float16)
        for m in range(12):
            of_month = np.flatnonzero(month == m)
            if of_month.size:
                made = space.forward(values[of_month], np.zeros(of_month.size, np.int64) + m)
                center[m] = made.mean(0, dtype=np.float64)
                deviation = made.std(0, dtype=np.float64)
                scale[m] = np.where(deviation > 0, deviation, 1.0)
                states[of_month] = (made - center[m]) / scale[m]
        blocks = np.empty((len(states), len(relative), *coarse), np.float32)
        for first in range(0, len(states), PIECE):
            piece = torch.from_numpy(states[first : first + PIECE].astype(np.float32))
            blocks[first : first + PIECE] = space.blocks(piece).numpy()
        past = space.past
        rows = [np.arange(run.start + past, run.stop) for run in residuals.runs if run.stop - run.start > past]
        if not rows:
            raise ProtocolError(
                "no training run is long enough to learn from",
                found=f"{max(r.stop - r.start for r in residuals.runs)} months at most",
                expected=f"more than {past}, the months before a month that it is drawn from",
                hint="--set model.memory=0, or a protocol with longer training spans",
            )
        known = np.concatenate(rows)
        kept, rest = _persistence(blocks, known)
        space = replace(space, spread=_deviation(blocks), persistence=kept, innovation=rest)
        series = cls(space, states, torch.from_numpy(blocks), month, residuals.global_mean, known)
        kept, rest = series._detail_persistence()
        return replace(series, space=replace(space, detail_persistence=kept, detail_innovation=rest))

    def state(self, rows: NDArray[np.int64]) -> Tensor:
        """(S, V, Y, X) states of some rows."""
        return torch.from_numpy(self.states[rows].astype(np.float32))

    def setting(self, rows: NDArray[np.int64]) -> Tensor:
        """(S, SETTING) of some rows."""
        return self.space.setting(self.month[rows], self.warming[rows])

    def past(self, rows: NDArray[np.int64]) -> Tensor:
        """(S, P, V, y, x) blocks of the months before some rows."""
        return self.blocks[torch.from_numpy(rows[:, None] + np.arange(-self.space.past, 0))]

    def block_innovation(self, rows: NDArray[np.int64]) -> Tensor:
        """(S, V, y, x) what damped persistence leaves of blocks, of unit variance."""
        space, at = self.space, torch.from_numpy(rows)
        kept = torch.from_numpy(space.persistence) * self.blocks[at - 1]
        return (self.blocks[at] - kept) / torch.from_numpy(space.innovation)

    def detail_innovation(self, rows: NDArray[np.int64]) -> Tensor:
        """(S, V, Y, X) likewise of details, each cell by its own persistence: block means of it are not quite zero."""
        space = self.space
        now, before = (space.without_blocks(self.state(r)) for r in (rows, rows - 1))
        rest = now - torch.from_numpy(space.detail_persistence) * before
        return rest / torch.from_numpy(space.detail_innovation)

    def _detail_persistence(self) -> tuple[Field, Field]:
        square, product, total, count = (np.zeros(self.states.shape[1:]) for _ in range(4))
        for first in range(0, len(self.rows), PIECE):
            rows = self.rows[first : first + PIECE]
            now, before = (self.space.without_blocks(self.state(r)).double().numpy() for r in (rows, rows - 1))
            square += (before**2).sum(0)
            product += (now * before).sum(0)
            total += (now**2).sum(0)
            count += len(rows)
        share = np.divide(product, square, out=np.zeros_like(product), where=square > 0)
        rest = np.sqrt(np.maximum(total - 2 * share * product + share**2 * square, 0.0) / count)
        return share.astype(np.float32), np.where(rest > 0, rest, 1.0).astype(np.float32)


def block_channels(variables: int, history: int, memory: int) -> int:
    """Channels of a frame from which blocks are drawn, as `StateSpace.block_frames` makes it."""
    return variables * (history + (memory > 0)) + SETTING


def detail_channels(variables: int) -> int:
    """Channels of a frame from which details are drawn, as `StateSpace.detail_frames` makes it."""
    return 3 * variables + SETTING


# Months whose full fields are together in float32.
PIECE = 240


def check_blocks(grid: tuple[int, int], size: int) -> None:
    """Refuse blocks that do not divide a grid.

    Raises:
        RecipeError: They do not, or are single cells.
    """
    if size < 2 or grid[0] % size or grid[1] % size:
        able = [n for n in range(2, min(grid) + 1) if not (grid[0] % n or grid[1] % n)]
        raise RecipeError(
            "model.block is out of range",
            found=f"{size}, on a grid of {grid[0]} x {grid[1]} cells",
            expected=f"one of {', '.join(map(str, able))}" if able else "a number above 1 that divides both sides",
        )


def block_means(fields: Tensor, weights: Tensor, size: int) -> Tensor:
    """Weighted means of blocks of size x size cells, (..., Y, X) -> (..., y, x)."""
    shares = weights.to(fields)
    rows, columns = fields.shape[-2] // size, fields.shape[-1] // size

    def sums(values: Tensor) -> Tensor:
        return values.reshape(*values.shape[:-2], rows, size, columns, size).sum((-3, -1))

    return sums(fields * shares) / sums(shares)


def _everywhere(numbers: Tensor, grid: Sequence[int]) -> Tensor:
    """(S, C) -> (S, C, Y, X)."""
    return numbers[..., None, None].expand(*numbers.shape, *grid)


def _deviation(values: Field) -> Field:
    deviation = values.std(0, dtype=np.float64)
    return np.where(deviation > 0, deviation, 1.0).astype(np.float32)


def _persistence(values: Field, rows: NDArray[np.int64]) -> tuple[Field, Field]:
    """The regression of a month on the one before, without intercept, and the deviation of the rest."""
    now, before = values[rows].astype(np.float64), values[rows - 1].astype(np.float64)
    square = (before**2).sum(0)
    share = np.divide((now * before).sum(0), square, out=np.zeros_like(square), where=square > 0)
    rest = np.sqrt(((now - share * before) ** 2).mean(0))
    return share.astype(np.float32), np.where(rest > 0, rest, 1.0).astype(np.float32)
