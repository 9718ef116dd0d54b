"""Variability as a state that is predicted step by step: of every cell, of blocks of cells, and of what blocks leave.

Invariant: blocks are area means, so that the area mean of a field of blocks is that of the field, and a field is its
blocks, spread out smoothly, plus a detail whose mean over every block is zero. All statistics come from training months
alone.

A state is the deviation of a run from its forced response, in units of the standard deviation of its cell and calendar
month; of a relative variable, the deviation of the square root of its factor, which is less skewed and leads to no
negative value. What a network draws is what the past does not say linearly, the innovation. Of blocks that is what a
regression on all blocks of the past leaves, divided by the root of its covariance: drawn numbers that are independent
and of unit variance give blocks, and so the globe, the covariance of training runs, whatever a network has learned.
Of a detail a regression of each cell on itself before, and on the blocks nearby, now and before, is known.

Of a relative variable the deviations of cells nearly balance over the globe, which neither blocks of square roots nor
details know. The globe's own deviation is therefore a state too: what blocks, their past and itself before say
linearly, and noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
Array = NDArray[np.float64]

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
        regression: (K, N) of the N = V y x blocks of a month, in units of their spread, on the K numbers of the past
            that `predictors` gives.
        rows: (Y, y) with which blocks are spread out over rows ..
        columns: (X, x) .. and columns, so that block means of the outcome are the blocks.
        globe: (K + N + R, R) regression of the globe's deviations of the R relative variables, in units of
            `globe_scale`, on the numbers of the past, the new blocks in units of their spread, and themselves before.
        globe_innovation: (R,) standard deviation of what that leaves.
        globe_scale: (12, R) standard deviation of the globe's relative deviations by calendar month.
        root: (N, N) what drawn numbers are multiplied with: a root of the covariance of what the regression leaves.
        detail_persistence: (V, Y, X) share of itself that a detail keeps.
        detail_regression: (y, x, P, V, size, size) regression of the cells of a block on the P numbers of `_nearby`.
        detail_innovation: (V, Y, X) standard deviation of the rest.
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
    regression: Field
    root: Field
    rows: Field
    columns: Field
    globe: Field
    globe_innovation: Field
    globe_scale: Field
    detail_persistence: Field
    detail_regression: Field
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
        """Every cell with what its block and those next to it say, (..., y, x) -> (..., Y, X)."""
        return torch.from_numpy(self.rows) @ blocks @ torch.from_numpy(self.columns).T

    def expected_details(self, details: Tensor, before: Tensor, blocks: Tensor) -> Tensor:
        """What is said linearly of the next details.

        Args:
            details: (S, V, Y, X) those before.
            before: (S, V, y, x) the blocks before.
            blocks: (S, V, y, x) the next ones.
        """
        near, regression = self._nearby(before, blocks), torch.from_numpy(self.detail_regression)
        said = torch.einsum("spyx,yxpvij->svyixj", near, regression)
        return torch.from_numpy(self.detail_persistence) * details + said.reshape(details.shape)

    def _nearby(self, before: Tensor, blocks: Tensor) -> Tensor:
        """(S, P, y, x): of each block those next to it and itself, in units of their spread, before and now."""
        scaled = torch.cat((before, blocks), 1) / torch.from_numpy(self.spread).repeat(2, 1, 1)
        padded = torch.cat((scaled[..., :1, :], scaled, scaled[..., -1:, :]), -2)
        count = scaled.shape[-2]
        near = [padded[..., i : i + count, :].roll(j, -1) for i in range(3) for j in (-1, 0, 1)]
        return torch.cat(near, 1)

    def next_globe(self, past: Tensor, blocks: Tensor, before: Tensor, drawn: Tensor) -> Tensor:
        """The globe's deviations (S, R) in units of `globe_scale`.

        Args:
            past: (S, P, V, y, x) blocks of the past.
            blocks: (S, V, y, x) the new ones.
            before: (S, R) the deviations before.
            drawn: (S, R) of unit variance.
        """
        said = self._of_globe(past, blocks, before) @ torch.from_numpy(self.globe)
        return said + torch.from_numpy(self.globe_innovation) * drawn

    def _of_globe(self, past: Tensor, blocks: Tensor, before: Tensor) -> Tensor:
        """(S, K + N + R)."""
        scaled = blocks / torch.from_numpy(self.spread)
        return torch.cat((self.predictors(past), scaled.flatten(1), before), 1)

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
        parts = (self._scaled(past), _everywhere(setting, past.shape[-2:]))
        return torch.cat(parts, 1)[:, None]

    def predictors(self, past: Tensor) -> Tensor:
        """(S, K) numbers of blocks (S, P, V, y, x) of the past: the last `history` months, and the mean of `memory`."""
        return self._scaled(past).flatten(1)

    def _scaled(self, past: Tensor) -> Tensor:
        scaled = past / torch.from_numpy(self.spread)
        parts = [scaled[:, -self.history :].flatten(1, 2)]
        if self.memory:
            parts.append(scaled[:, -self.memory :].mean(1))
        return torch.cat(parts, 1)

    def next_blocks(self, past: Tensor, drawn: Tensor) -> Tensor:
        """The next blocks (S, V, y, x) from those of the past (S, P, V, y, x) and what was drawn (S, V, y, x)."""
        expected = self.predictors(past) @ torch.from_numpy(self.regression)
        rest = drawn.flatten(1) @ torch.from_numpy(self.root).T
        return (expected + rest).reshape(drawn.shape) * torch.from_numpy(self.spread)

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
        """The inverse of `arrays` and `numbers`.

        Of earlier versions, in which a block kept a share of itself alone, both matrices are made from those shares.
        """
        if "persistence" in arrays:
            history, memory = int(numbers["history"]), int(numbers["memory"])
            shares, rest = arrays["persistence"].ravel(), (arrays["innovation"] / arrays["spread"]).ravel()
            regression = np.zeros((history + (memory > 0), len(shares), len(shares)))
            regression[history - 1] = np.diag(shares)
            arrays = {**arrays, "regression": regression.reshape(-1, len(shares)), "root": np.diag(rest)}
            # .. all cells of a block were alike, and the globe's deviations followed from theirs.
            size, (_, *grid) = int(numbers["size"]), arrays["detail_innovation"].shape
            rows, columns = (np.repeat(np.eye(n // size), size, 0) for n in grid)
            globe = np.zeros((len(regression.reshape(-1, len(shares))) + len(shares), 0))
            nothing = {"globe": globe, "globe_innovation": np.zeros(0), "globe_scale": np.zeros((12, 0))}
            count, own = len(arrays["spread"]), [n // size for n in grid]
            nothing["detail_regression"] = np.zeros((*own, 18 * count, count, size, size))
            arrays = {**arrays, "rows": rows, "columns": columns, **nothing}
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
        whitening: (N, N) inverse of the root of the covariance of what the regression leaves.
    """

    space: StateSpace
    states: NDArray[np.float16]
    blocks: Tensor
    month: NDArray[np.int64]
    warming: NDArray[np.float32]
    rows: NDArray[np.int64]
    whitening: Field

    @classmethod
    def of(
        cls,
        residuals: Residuals,
        grid: Grid,
        relative: Sequence[bool],
        globe: NDArray[np.floating],
        *,
        size: int,
        history: int,
        memory: int,
    ) -> StateSeries:
        """States and statistics of the variability of training runs.

        Args:
            residuals: The variability.
            grid: Of its fields.
            relative: Which variables are factors.
            globe: (N, R) the globe's relative deviations of these.
            size: Rows and columns of a block.
            history: See `StateSpace`.
            memory: Likewise.

        Raises:
            ProtocolError: Blocks do not divide the grid, or no run is long enough.
        """
        check_blocks(grid.shape, size, len(relative))
        month, values = residuals.month, residuals.values
        center = np.zeros((12, *values.shape[1:]), np.float32)
        scale = np.ones_like(center)
        weights = np.asarray(grid.weights / grid.weights.sum(), np.float32)
        coarse = (grid.shape[0] // size, grid.shape[1] // size)
        unit = np.ones((len(relative), *coarse), np.float32)
        numbers, past, factors = unit.size, unit.size * (history + (memory > 0)), globe.shape[1]
        space = StateSpace(
            center=center,
            scale=scale,
            weights=weights,
            size=size,
            spread=unit,
            regression=np.zeros((past, numbers), np.float32),
            root=np.eye(numbers, dtype=np.float32),
            rows=_smooth(grid.weights.sum(1), size, around=False),
            columns=_smooth(grid.weights.sum(0), size, around=True),
            globe=np.zeros((past + numbers + factors, factors), np.float32),
            globe_innovation=np.ones(factors, np.float32),
            globe_scale=np.ones((12, factors), np.float32),
            detail_persistence=center[0],
            detail_regression=np.zeros((*coarse, 18 * len(relative), len(relative), size, size), np.float32),
            detail_innovation=scale[0],
            warming=(float(residuals.global_mean.mean()), float(residuals.global_mean.std()) or 1.0),
            history=history,
            memory=memory,
            relative=tuple(relative),
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
        before = space.past
        rows = [np.arange(run.start + before, run.stop) for run in residuals.runs if run.stop - run.start > before]
        if not rows:
            raise ProtocolError(
                "no training run is long enough to learn from",
                found=f"{max(r.stop - r.start for r in residuals.runs)} months at most",
                expected=f"more than {before}, the months before a month that it is drawn from",
                hint="--set model.memory=0, or a protocol with longer training spans",
            )
        known = np.concatenate(rows)
        space = replace(space, spread=_deviation(blocks))
        series = cls(space, states, torch.from_numpy(blocks), month, residuals.global_mean, known, space.root)
        regression, root, whitening = series._regression()
        series = replace(series, space=replace(space, regression=regression, root=root), whitening=whitening)
        series = replace(series, space=series._globe(globe))
        return replace(series, space=series._details())

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
        """(S, V, y, x) what the regression leaves of blocks, of unit variance and not correlated."""
        left = self._left(rows) * torch.from_numpy(self.space.spread).flatten()
        return self.whitened(left.reshape(-1, *self.blocks.shape[1:]))

    def whitened(self, blocks: Tensor) -> Tensor:
        """Blocks (..., V, y, x) in the units of innovations."""
        scaled = (blocks / torch.from_numpy(self.space.spread)).flatten(-3)
        return (scaled @ torch.from_numpy(self.whitening).T).reshape(blocks.shape)

    def _left(self, rows: NDArray[np.int64]) -> Tensor:
        """(S, N) what the regression leaves, in units of the spread."""
        space = self.space
        now = (self.blocks[torch.from_numpy(rows)] / torch.from_numpy(space.spread)).flatten(1)
        return now - space.predictors(self.past(rows)) @ torch.from_numpy(space.regression)

    def detail_innovation(self, rows: NDArray[np.int64]) -> Tensor:
        """(S, V, Y, X) likewise of details, each cell by its own regression: block means of it are not quite zero."""
        space, at = self.space, torch.from_numpy(rows)
        now, before = (space.without_blocks(self.state(r)) for r in (rows, rows - 1))
        rest = now - space.expected_details(before, self.blocks[at - 1], self.blocks[at])
        return rest / torch.from_numpy(space.detail_innovation)

    def _regression(self) -> tuple[Field, Field, Field]:
        """The regression of blocks on their past, the root of the covariance of what it leaves, and its inverse.

        It is damped as little as can be. More would predict other months better, but what is drawn should vary as
        training months do: of the competition's data a damping that predicts better loses a third of the variance of
        the globe's annual means.
        """
        space, count = self.space, len(self.rows)
        square, product, own = self._sums(lambda rows: (space.predictors(self.past(rows)), self._left(rows)))
        damping = DAMPING * len(square) / count
        while True:
            found = _solved(square, product, damping * count)
            if _forgets(replace(space, regression=found.astype(np.float32)), self.blocks[:4]):
                break
            damping *= 3
        crossed = found.T @ product
        values, axes = np.linalg.eigh((own - crossed - crossed.T + found.T @ square @ found) / count)
        sizes = np.sqrt(np.maximum(values, 0.0))
        inverse = np.divide(1.0, sizes, out=np.zeros_like(sizes), where=sizes > LEAST_SIZE * sizes.max())
        matrices = (found, (axes * sizes) @ axes.T, (axes * inverse) @ axes.T)
        regression, root, whitening = (np.ascontiguousarray(m, np.float32) for m in matrices)
        return regression, root, whitening

    def _globe(self, globe: NDArray[np.floating]) -> StateSpace:
        """The statistics with those of the globe's deviations (N, R)."""
        scale = np.ones((12, globe.shape[1]))
        for m in np.unique(self.month):
            scale[m] = globe[self.month == m].std(0)
        series = torch.from_numpy((globe / np.where(scale > 0, scale, 1.0)[self.month]).astype(np.float32))

        def of(rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
            at = torch.from_numpy(rows)
            return self.space._of_globe(self.past(rows), self.blocks[at], series[at - 1]), series[at]

        square, product, own = self._sums(of)
        found = _solved(square, product, DAMPING * len(square))
        left = np.diag(own) - 2 * (found * product).sum(0) + (found * (square @ found)).sum(0)
        rest = np.sqrt(np.maximum(left, 0.0) / len(self.rows))
        regression, innovation, units = (np.asarray(a, np.float32) for a in (found, rest, scale))
        return replace(self.space, globe=regression, globe_innovation=innovation, globe_scale=units)

    def _sums(self, of: Callable[[NDArray[np.int64]], tuple[Tensor, Tensor]]) -> tuple[Array, Array, Array]:
        """Of x (S, K) and y (S, N) of rows, sums over all rows of x'x, x'y and y'y."""
        sums: list[Any] = [0.0, 0.0, 0.0]
        for first in range(0, len(self.rows), PIECE):
            x, y = (a.double().numpy() for a in of(self.rows[first : first + PIECE]))
            sums = [total + a.T @ b for total, (a, b) in zip(sums, ((x, x), (x, y), (y, y)), strict=True)]
        return sums[0], sums[1], sums[2]

    def _details(self) -> StateSpace:
        """The statistics with the regression of details, cell by cell, and the size of what it leaves."""
        space = self.space
        count, size, (y, x) = len(space.relative), space.size, self.blocks.shape[-2:]

        def by_block(fields: Tensor) -> Tensor:
            """(S, V, Y, X) -> (y x, S, V size size)."""
            cells = fields.reshape(-1, count, y, size, x, size).permute(2, 4, 0, 1, 3, 5)
            return cells.reshape(y * x, len(fields), -1)

        # Of numbers nearby with each other and with details now and before, and of details with each other.
        sums: list[Any] = [0.0] * 6
        for first in range(0, len(self.rows), PIECE):
            rows = self.rows[first : first + PIECE]
            at = torch.from_numpy(rows)
            near = space._nearby(self.blocks[at - 1], self.blocks[at]).double()
            near = near.permute(2, 3, 0, 1).reshape(y * x, len(rows), -1)
            now, before = (by_block(space.without_blocks(self.state(r)).double()) for r in (rows, rows - 1))
            own = (now * now).sum(1), (now * before).sum(1), (before * before).sum(1)
            with_near = (near.mT @ other for other in (near, now, before))
            sums = [total + value for total, value in zip(sums, (*with_near, *own), strict=True)]
        square: Tensor = sums[0]
        products: list[Tensor] = sums[1:3]
        damped = square + DAMPING * square.shape[-1] * torch.eye(square.shape[-1], dtype=torch.float64)
        found: list[Tensor] = [torch.linalg.solve(damped, product) for product in products]

        def left(a: int, b: int, own: Tensor) -> Tensor:
            """Sums of products of what both leave when the numbers nearby are known."""
            crossed = (found[a] * products[b]).sum(1) + (found[b] * products[a]).sum(1)
            return own - crossed + (found[a] * (square @ found[b])).sum(1)

        rest, common, past = left(0, 0, sums[3]), left(0, 1, sums[4]), left(1, 1, sums[5])
        share = torch.where(past > 0, common / past.clamp(min=1e-30), 0.0)
        deviation = ((rest - share * common).clamp(min=0.0) / len(self.rows)).sqrt()

        def fields(values: Tensor) -> Field:
            """The inverse of `by_block` for (y x, V size size), to (V, Y, X)."""
            cells = values.reshape(y, x, count, size, size).permute(2, 0, 3, 1, 4)
            return cells.reshape(count, y * size, x * size).float().numpy()

        regression = (found[0] - share[:, None] * found[1]).reshape(y, x, -1, count, size, size)
        return replace(
            space,
            detail_persistence=fields(share),
            detail_regression=np.ascontiguousarray(regression.float().numpy()),
            detail_innovation=fields(torch.where(deviation > 0, deviation, 1.0)),
        )


def block_channels(variables: int, history: int, memory: int) -> int:
    """Channels of a frame from which blocks are drawn, as `StateSpace.block_frames` makes it."""
    return variables * (history + (memory > 0)) + SETTING


def detail_channels(variables: int) -> int:
    """Channels of a frame from which details are drawn, as `StateSpace.detail_frames` makes it."""
    return 3 * variables + SETTING


# Months whose full fields are together in float32.
PIECE = 240

# Damping of a regression for each of its predictors, in units of the variance of one of them in one month. Of the
# competition's data trajectories then have 1.01 and 1.01 of the variance of training blocks (tas, pr); with six times
# as much 0.97, and with 60 times 0.91, of both together.
DAMPING = 0.003

# Months after which a trajectory without noise has come closer to nothing.
FORGETTING = 240

# Patterns of blocks that vary less than this share of the largest do not vary at all.
LEAST_SIZE = 1e-4

# Blocks of all variables whose covariance is known: its root takes a minute on one core.
MOST_NUMBERS = 2048


def check_blocks(grid: tuple[int, int], size: int, variables: int) -> None:
    """Refuse blocks that do not divide a grid.

    Raises:
        RecipeError: They do not, are single cells, or are more than can be drawn together.
    """
    if size < 2 or grid[0] % size or grid[1] % size:
        able = [n for n in range(2, min(grid) + 1) if not (grid[0] % n or grid[1] % n)]
        raise RecipeError(
            "model.block is out of range",
            found=f"{size}, on a grid of {grid[0]} x {grid[1]} cells",
            expected=f"one of {', '.join(map(str, able))}" if able else "a number above 1 that divides both sides",
            hint=f"--set model.block={min(able, key=lambda n: abs(n - size))}" if able else "data on a grid with one",
        )
    numbers = variables * grid[0] * grid[1] // size**2
    if numbers > MOST_NUMBERS:
        raise RecipeError(
            "model.block is out of range: the covariance of so many blocks is not known",
            found=f"{numbers:,} blocks of all variables",
            expected=f"up to {MOST_NUMBERS:,}",
            hint="larger blocks",
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


def _solved(square: Array, product: Array, damping: float) -> Array:
    """Coefficients of a damped regression."""
    return np.asarray(np.linalg.solve(square + damping * np.eye(len(square)), product))


def _forgets(space: StateSpace, blocks: Tensor) -> bool:
    """Whether trajectories without noise from some blocks (S, V, y, x) come to rest."""
    past = blocks[:, None].repeat(1, max(space.past, 1), 1, 1, 1)
    nothing = torch.zeros_like(blocks)
    for _ in range(FORGETTING):
        past = torch.cat((past[:, 1:], space.next_blocks(past, nothing)[:, None]), 1)
    return bool(past.isfinite().all()) and float(past.square().sum()) < float(blocks.square().sum())


def _smooth(weights: NDArray[np.floating], size: int, *, around: bool) -> Field:
    """(Y, y) with which y blocks of `size` cells are spread out along one side of the grid.

    Linear between the middles of blocks, from what makes the weighted mean of every block that of the outcome.

    Args:
        weights: (Y,) of the cells.
        size: Cells of a block.
        around: Whether the last block lies next to the first; otherwise the outermost half blocks are constant.
    """
    count = len(weights) // size
    at = (np.arange(len(weights)) + 0.5) / size - 0.5
    below, share = np.floor(at).astype(np.int64), at - np.floor(at)
    lines = np.zeros((len(weights), count))
    for offset, part in ((0, 1 - share), (1, share)):
        place = (below + offset) % count if around else (below + offset).clip(0, count - 1)
        np.add.at(lines, (np.arange(len(weights)), place), part)
    shares = weights.reshape(count, size) / weights.reshape(count, size).sum(1, keepdims=True)
    means = np.einsum("bs,bsk->bk", shares, lines.reshape(count, size, count))
    return np.asarray(lines @ np.linalg.inv(means), np.float32)


def _deviation(values: Field) -> Field:
    deviation = values.std(0, dtype=np.float64)
    return np.where(deviation > 0, deviation, 1.0).astype(np.float32)
