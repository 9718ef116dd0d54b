"""The coarse-down-up pass: what a coarse grid keeps of a fine field, back on the fine grid.

Both ways are linear and separable: one matrix along latitude, one along longitude. A block of the pass is therefore
computed from the rows of these matrices that the block needs, and from nothing else.

Invariant: constants are kept exactly. The conservative pass keeps the area mean of every coarse cell, so also that of
the globe, and commutes with a roll in longitude by whole coarse cells; a block of the pass is the pass of the whole
field, cropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from emukit.config import Settings
from emukit.data.grid import Grid
from emukit.errors import RecipeError

Array = NDArray[np.float64]
Method = Literal["conservative", "bilinear", "antialiased"]


class CoarseSettings(Settings):
    """How a fine field becomes a coarse one.

    Attributes:
        grid: Rows and columns of the coarse grid.
        method: ``conservative``: means by area over the cells, and back by the periodic bilinear interpolation that has
            these means; ``bilinear``: the same means, and back by the periodic bilinear interpolation between them,
            which does not keep them; ``antialiased``: bilinear with a triangular filter, both ways as images are
            resized and as published by IPSL-AID, with a seam at the dateline.
        low_pass: Response of a Gaussian low-pass at the coarse grid's shortest wave, applied first (IPSL-AID: 0.02); 0
            leaves it out. It is round in longitude and mirrored at the poles; area means are then only nearly kept.
    """

    grid: tuple[int, int] = (12, 18)
    method: Method = "conservative"
    low_pass: float = Field(0.0, ge=0.0, lt=1.0)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, values: Any) -> Any:
        """``12,18`` is short for the grid."""
        values = {"grid": values} if isinstance(values, str | tuple | list) else values
        if isinstance(values, Mapping) and isinstance(values.get("grid"), str):
            parts = values["grid"].split(",")
            if len(parts) == 2 and all(p.strip().isdecimal() for p in parts):
                return {**values, "grid": tuple(int(p) for p in parts)}
        return values

    @field_validator("grid")
    @classmethod
    def _a_grid(cls, shape: tuple[int, int]) -> tuple[int, int]:
        if min(shape) < 2:
            raise ValueError("a coarse grid has at least 2 rows and 2 columns")
        return shape


class WholeCells(NamedTuple):
    """Some coarse cells with all fine cells in them, and where fine cells that were asked for are among these.

    Attributes:
        coarse_rows, coarse_columns: Of the coarse grid.
        rows, columns: Of the fine grid.
        inner, across: Places of the asked for among `rows` and `columns`.
    """

    coarse_rows: NDArray[np.int64]
    coarse_columns: NDArray[np.int64]
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    inner: NDArray[np.int64]
    across: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Coarsening:
    """The pass on one fine grid.

    Attributes:
        fine: The fine grid.
        settings: How.
    """

    fine: Grid
    settings: CoarseSettings

    def __post_init__(self) -> None:
        """Refuse a coarse grid that is not coarser.

        Raises:
            RecipeError: It has more rows or columns than the fine one.
        """
        if any(c > f for c, f in zip(self.shape, self.fine.shape, strict=True)):
            raise RecipeError(
                "the coarse grid is finer than the data",
                found=f"coarse.grid = {self.shape[0]},{self.shape[1]}",
                expected=f"at most {self.fine.shape[0]},{self.fine.shape[1]}",
                hint="--set coarse.grid=12,18",
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(y, x) of the coarse grid."""
        return self.settings.grid

    @cached_property
    def grid(self) -> Grid:
        """The coarse grid: the middles of its cells, which hold equally many fine cells each."""
        (rows, columns), (Y, X) = self.shape, self.fine.shape
        middle = (np.arange(rows) + 0.5) * Y / rows - 0.5
        lat = np.interp(middle, np.arange(Y), self.fine.lat)
        step = 360.0 / X
        lon = self.fine.lon[0] + step * ((np.arange(columns) + 0.5) * X / columns - 0.5)
        return Grid(lat, lon)

    @cached_property
    def cell_weights(self) -> Array:
        """(y, x) share of the globe's area in every coarse cell; they add up to one."""
        w = self.fine.weights
        overlap_y, overlap_x = (_overlap(n, m) for n, m in zip(self.fine.shape, self.shape, strict=True))
        return np.asarray(overlap_y @ w @ overlap_x.T)

    @cached_property
    def _down(self) -> tuple[Array, Array]:
        (Y, X), (rows, columns) = self.fine.shape, self.shape
        if self.settings.method == "antialiased":
            down = _triangle(Y, rows), _triangle(X, columns)
        else:
            weights = self.fine.weights.sum(1)
            down = _means(_overlap(Y, rows), weights), _means(_overlap(X, columns), np.ones(X))
        if self.settings.low_pass:
            filters = (
                _low_pass(Y, rows, self.settings.low_pass, periodic=False),
                _low_pass(X, columns, self.settings.low_pass, periodic=True),
            )
            down = down[0] @ filters[0], down[1] @ filters[1]
        return down

    @cached_property
    def _up(self) -> tuple[Array, Array]:
        (Y, X), (rows, columns) = self.fine.shape, self.shape
        if self.settings.method == "antialiased":
            return _triangle(rows, Y), _triangle(columns, X)
        out = []
        for fine, coarse, weights, periodic in (
            (Y, rows, self.fine.weights.sum(1), False),
            (X, columns, np.ones(X), True),
        ):
            between = _bilinear(coarse, fine, periodic)
            if self.settings.method == "conservative":
                # The values at the nodes whose interpolation has the given means: rows of the inverse add up to one.
                between = between @ np.linalg.inv(_means(_overlap(fine, coarse), weights) @ between)
            out.append(between)
        return out[0], out[1]

    def down(self, fields: NDArray[np.floating]) -> Array:
        """(..., Y, X) -> (..., y, x), float64."""
        return _both(self._down, fields)

    def up(
        self,
        fields: NDArray[np.floating],
        rows: NDArray[np.int64] | slice = slice(None),
        columns: NDArray[np.int64] | slice = slice(None),
    ) -> Array:
        """Back to the fine grid.

        Args:
            fields: (..., y, x).
            rows: Which of the fine rows; all by default.
            columns: Which of the fine columns.

        Returns:
            (..., Y, X), or the rows and columns asked for, float64.
        """
        return _both((self._up[0][rows], self._up[1][columns]), fields)

    @property
    def whole(self) -> bool:
        """Whether coarse fields are means over whole fine cells, so that fine fields can be given them cell by cell."""
        plain = self.settings.method != "antialiased" and not self.settings.low_pass
        return plain and all(f % c == 0 for f, c in zip(self.fine.shape, self.shape, strict=True))

    def whole_cells(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> WholeCells:
        """The coarse cells, whole, that hold some of the consecutive fine rows and columns."""
        (Y, X), (y, x) = self.fine.shape, self.shape
        high, wide = Y // y, X // x
        top, bottom = rows[0] // high, rows[-1] // high + 1
        left = columns[0] // wide
        number = min(x, (columns[0] % wide + len(columns) - 1) // wide + 1)
        across = np.arange(len(columns)) + columns[0] % wide
        return WholeCells(
            np.arange(top, bottom),
            (left + np.arange(number)) % x,
            np.arange(top * high, bottom * high),
            (left * wide + np.arange(number * wide)) % X,
            rows - top * high,
            across % (number * wide),
        )

    def with_means(
        self, fields: NDArray[np.floating], coarse: NDArray[np.floating], cells: WholeCells, positive: Sequence[bool]
    ) -> Array:
        """Fine fields with the area means of coarse ones in every coarse cell.

        Args:
            fields: (T, V, Y, X) of some whole coarse cells.
            coarse: (T, V, y, x) of the globe.
            cells: Which they are.
            positive: By variable, whether it is multiplied, not added to; where that would take a factor beyond five,
                it is added to as well, which never makes it negative.
        """
        T, V = fields.shape[:2]
        high, wide = (f // c for f, c in zip(self.fine.shape, self.shape, strict=True))
        shape = (T, V, len(cells.coarse_rows), high, len(cells.coarse_columns), wide)
        blocks = np.array(fields, np.float64).reshape(shape)
        weights = self.fine.weights[cells.rows, 0].reshape(-1, high)
        weights = weights / weights.sum(1, keepdims=True)
        means = np.einsum("tvihjw,ih->tvij", blocks, weights) / wide
        wanted = np.asarray(coarse, np.float64)[:, :, cells.coarse_rows][..., cells.coarse_columns]
        for v, multiplied in enumerate(positive):
            own, want = means[:, v], np.maximum(wanted[:, v], 0.0) if multiplied else wanted[:, v]
            near = multiplied & (own >= 0.2 * want) & (own > 0)
            factor = np.where(near, want / np.where(near, own, 1.0), 1.0)
            added = np.where(near, 0.0, want - own)
            blocks[:, v] = blocks[:, v] * factor[:, :, None, :, None] + added[:, :, None, :, None]
        return blocks.reshape(fields.shape)

    def down_up(self, fields: NDArray[np.floating]) -> Array:
        """The pass, (..., Y, X) -> (..., Y, X), float64."""
        return self.up(self.down(fields))


def offsets(context: int) -> tuple[int, ...]:
    """Steps of a series that are seen together, in the order of `in_context`: 0, -1, 1, -2, 2 and so on."""
    return (0, *(sign * k for k in range(1, context + 1) for sign in (-1, 1)))


def in_context(series: NDArray[np.floating], context: int) -> NDArray[np.floating]:
    """Fields of every step of a series, next to those of the steps before and after it.

    Args:
        series: (T, V, y, x) of consecutive steps.
        context: How many steps on either side.

    Returns:
        (T, (1 + 2 context) V, y, x): the V fields of the step itself, then those of the steps that `offsets` names.
        They are NaN where the series has no such step. Fewer steps of context are the first of these fields.
    """
    if not context:
        return series
    out = np.full((len(series), 1 + 2 * context, *series.shape[1:]), np.nan, series.dtype)
    for i, step in enumerate(offsets(context)):
        inside = slice(max(-step, 0), max(len(series) - max(step, 0), 0))
        out[inside, i] = series[max(step, 0) : max(len(series) + min(step, 0), 0)]
    return out.reshape(len(series), -1, *series.shape[2:])


def _both(matrices: tuple[Array, Array], fields: NDArray[np.floating]) -> Array:
    return np.asarray(matrices[0] @ np.asarray(fields, np.float64) @ matrices[1].T)


def _overlap(fine: int, coarse: int) -> Array:
    """(coarse, fine) share of every fine cell in every coarse one, which hold fine / coarse cells each."""
    edges = np.arange(coarse + 1) * (fine / coarse)
    low, high = np.arange(fine), np.arange(fine) + 1.0
    shared = np.minimum(high, edges[1:, None]) - np.maximum(low, edges[:-1, None])
    return np.asarray(np.maximum(shared, 0.0), np.float64)


def _means(overlap: Array, weights: Array) -> Array:
    weighted = overlap * weights
    return np.asarray(weighted / weighted.sum(1, keepdims=True))


def _bilinear(coarse: int, fine: int, periodic: bool) -> Array:
    """(fine, coarse) linear interpolation between the middles of cells; constant beyond the last, or round."""
    position = (np.arange(fine) + 0.5) * coarse / fine - 0.5
    if not periodic:
        position = np.clip(position, 0.0, coarse - 1.0)
    below = np.floor(position).astype(np.int64)
    share = position - below
    out = np.zeros((fine, coarse))
    np.add.at(out, (np.arange(fine), below % coarse), 1.0 - share)
    np.add.at(out, (np.arange(fine), (below + 1) % coarse), share)
    return out


def _triangle(old: int, new: int) -> Array:
    """(new, old) resizing by a triangular filter as wide as a cell of the coarser grid, cut off at the edges.

    The antialiased bilinear resize of image libraries, with half-pixel centres.
    """
    scale = old / new
    width = max(scale, 1.0)
    centre = scale * (np.arange(new) + 0.5)
    first = np.maximum((centre - width + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + width + 0.5).astype(np.int64), old)
    out = np.zeros((new, old))
    for i, (start, stop) in enumerate(zip(first, last, strict=True)):
        at = np.arange(start, stop)
        weights = np.clip(1.0 - np.abs(at + 0.5 - centre[i]) / width, 0.0, None)
        out[i, at] = weights / weights.sum()
    return out


def _low_pass(fine: int, coarse: int, response: float, periodic: bool) -> Array:
    """(fine, fine) Gaussian low-pass exp(-f^2 / (2 s^2)) with a given response at f = coarse / (2 fine) cycles a cell.

    Round in longitude (by the Fourier transform); in latitude mirrored at the last half cell (by the cosine transform).
    """
    nyquist = coarse / (2 * fine)
    two_variances = nyquist**2 / -np.log(response)
    if periodic:
        gain = np.exp(-(np.fft.rfftfreq(fine) ** 2) / two_variances)
        return np.asarray(np.fft.irfft(np.fft.rfft(np.eye(fine), axis=0) * gain[:, None], n=fine, axis=0))
    k = np.arange(fine)
    waves = np.cos(np.pi * k[:, None] * (np.arange(fine) + 0.5) / fine)
    waves /= np.linalg.norm(waves, axis=1, keepdims=True)
    return np.asarray(waves.T @ (np.exp(-((k / (2 * fine)) ** 2) / two_variances)[:, None] * waves))
