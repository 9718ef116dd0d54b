"""What networks and losses do with neighbouring cells and with the whole globe: padding, resampling, sums and means.

Invariant: whoever asks a `Sphere` knows nothing of processes. `WHOLE` is the globe in one process; where a field's rows
are divided over several, `emukit.parallel.domain.DividedSphere` answers instead, with the same numbers up to the order
in which floats are added. Fields are (..., Y, X), rows from one pole to the other, columns all round the circle.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What lies beyond the last row. The meridian on the other side of the pole (``reflect``: rows mirrored and turned by
# half a circle, as cells lie on a sphere), the last row again (``replicate``), or zeros, all round the map (``zero``).
Edges = Literal["reflect", "replicate", "zero"]


def half_turn(fields: Tensor) -> Tensor:
    """Turn by 180 degrees of longitude; with an odd number of cells, the mean of the two nearest turns."""
    half = fields.shape[-1] // 2
    turned = fields.roll(half, -1)
    if fields.shape[-1] % 2 == 0:
        return turned
    return 0.5 * (turned + fields.roll(half + 1, -1))


def fill_columns(fields: Tensor, width: int) -> Tensor:
    """Continue fields to the east, round the circle, until patches of a width divide them."""
    columns = -fields.shape[-1] % width
    return torch.cat((fields, fields[..., :columns]), -1) if columns else fields


class Sphere:
    """The globe in one process. What a subclass changes are the methods that need rows of others."""

    @property
    def divided(self) -> bool:
        """Whether this process has a part of the rows alone."""
        return False

    def own(self, values: Tensor, dim: int, columns: int) -> Tensor:
        """This process's rows of what holds all rows of a field with so many columns, along one dimension."""
        return values

    def rows(self, rows: int, columns: int) -> slice:
        """Which rows of a field of so many rows and columns this process has."""
        return slice(0, rows)

    def total_rows(self, fields: Tensor) -> int:
        """Y of a field on all processes together."""
        return fields.shape[-2]

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes that share a globe, differentiable on all of them. Any shape."""
        return values

    def randn(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Standard normal numbers for fields of a shape (..., own Y, X): what one process would draw for these rows."""
        return torch.randn(shape, dtype=like.dtype, device=like.device)

    def gather(self, fields: Tensor) -> Tensor:
        """All rows of a field that is this process's: (..., own Y, X) -> (..., Y, X), not differentiable."""
        return fields

    def pad(self, fields: Tensor, width: int, edges: Edges = "reflect") -> Tensor:
        """Continue fields past their edges: round in longitude, over the poles in latitude.

        Args:
            fields: (..., Y, X).
            width: Cells to add on every side, at most Y and X.
            edges: See `Edges`.

        Returns:
            (..., Y + 2 width, X + 2 width).
        """
        if width == 0:
            return fields
        if edges == "zero":
            return F.pad(fields, (width, width, width, width))
        south, north = fields[..., :width, :].flip(-2), fields[..., -width:, :].flip(-2)
        if edges == "reflect":
            south, north = half_turn(south), half_turn(north)
        else:
            south = fields[..., :1, :].expand_as(south)
            north = fields[..., -1:, :].expand_as(north)
        tall = torch.cat((south, fields, north), -2)
        return torch.cat((tall[..., -width:], tall, tall[..., :width]), -1)

    def for_coarser(self, fields: Tensor) -> Tensor:
        """The rows that this process's rows of a grid half as fine are made of.

        Args:
            fields: (..., Y, X).

        Returns:
            (..., rows, X): 2 j and 2 j + 1 for each own row j of ceil(Y/2); an odd last row stands alone.
        """
        return fields

    def for_finer(self, fields: Tensor, size: tuple[int, int], width: int) -> tuple[Tensor, int, int]:
        """The rows that this process's rows of a grid twice as fine are made of.

        Args:
            fields: (..., ceil(Y/2), ceil(X/2)).
            size: (Y, X) of the finer grid; the number of columns alone says which rows are this process's.
            width: Cells to add on every side.

        Returns:
            (..., rows, columns), how many rows of the refined result, those of `width` not counted, come before this
            process's first, and how many this process has.
        """
        return self.pad(fields, width), 0, size[0]

    def with_next_row(self, fields: Tensor) -> Tensor:
        """Where rows are divided, this process's and the next one, at the end of the map its last again."""
        return fields

    def downsample(self, fields: Tensor) -> Tensor:
        """Mean of 2 x 2 cells, (B, C, Y, X) -> (B, C, ceil(Y/2), ceil(X/2)).

        The merged cells stay centred between the poles, which a strided stencil on an even grid does not. An odd last
        row or column is merged with itself.
        """
        return F.avg_pool2d(self.for_coarser(fields), 2, ceil_mode=True)

    def max_pool(self, fields: Tensor) -> Tensor:
        """Largest of 2 x 2 cells, (B, C, Y, X) -> (B, C, ceil(Y/2), ceil(X/2))."""
        return F.max_pool2d(self.for_coarser(fields), 2, ceil_mode=True)

    def upsample(self, fields: Tensor, size: tuple[int, int]) -> Tensor:
        """Twice as many cells each way, linearly between cell centres, across dateline and poles: undoes `downsample`.

        Args:
            fields: (B, C, ceil(Y/2), ceil(X/2)).
            size: (Y, X); of an odd side the last half cell is dropped.

        Returns:
            (B, C, Y, X).
        """
        padded, first, rows = self.for_finer(fields, size, 1)
        fine = F.interpolate(padded, scale_factor=2, mode="bilinear", align_corners=False)
        return fine[..., 2 + first : 2 + first + rows, 2 : 2 + size[1]]

    def transposed(self, fields: Tensor, convolution: nn.ConvTranspose2d, size: tuple[int, int]) -> Tensor:
        """A transposed convolution of 2 x 2 cells and stride 2: each cell becomes four.

        Args:
            fields: (B, C, ceil(Y/2), ceil(X/2)).
            convolution: Kernel 2, stride 2, without padding.
            size: (Y, X); of an odd side the last row or column is dropped.
        """
        given, first, rows = self.for_finer(fields, size, 0)
        fine: Tensor = convolution(given)
        return fine[..., first : first + rows, : size[1]]

    def convolve(self, fields: Tensor, convolution: nn.Conv2d, bias: Tensor | None) -> Tensor:
        """A convolution with zeros beyond the edges, as `nn.Conv2d` with padding computes it, and this bias."""
        return convolution._conv_forward(fields, convolution.weight, bias)  # type: ignore[no-any-return]

    def to_tiles(self, fields: Tensor, patch: tuple[int, int]) -> Tensor:
        """Continue fields until patches divide them: over both poles alike in latitude, round the circle in longitude.

        Args:
            fields: (..., Y, X).
            patch: Rows and columns of a patch.

        Returns:
            (..., rows, columns): those of this process's rows of patches.
        """
        rows = -fields.shape[-2] % patch[0]
        if rows:
            south, north = rows // 2, rows - rows // 2
            beyond = half_turn(fields).flip(-2)
            parts = (beyond[..., fields.shape[-2] - south :, :], fields, beyond[..., :north, :])
            fields = torch.cat(parts, -2)
        return fill_columns(fields, patch[1])

    def from_tiles(self, fields: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
        """Undo `to_tiles`: (..., rows, columns) of this process's rows of patches to (..., Y, X) of its own rows."""
        south = (fields.shape[-2] - grid[0]) // 2
        return fields[..., south : south + grid[0], : grid[1]]

    def own_tiles(self, values: Tensor, dim: int, tiles: tuple[int, int]) -> Tensor:
        """Those of this process's rows of patches, of what there is one of for every patch, row by row."""
        return values

    def all_tiles(self, values: Tensor) -> Tensor:
        """Features of all patches, (..., own patches, D) -> (..., N, D), differentiable on all processes."""
        return values

    def to_cells(self, numbers: Tensor, linear: nn.Linear, grid: tuple[int, int]) -> Tensor:
        """Numbers that hold for the whole globe to a field, each cell with weights of its own.

        Args:
            numbers: (..., R).
            linear: From R to Y X.
            grid: (Y, X).

        Returns:
            (..., Y, X).
        """
        fields: Tensor = linear(numbers)
        return fields.reshape(*numbers.shape[:-1], *grid)

    def cell_mean(self, fields: Tensor) -> Tensor:
        """Plain mean over all cells, (..., Y, X) -> (...)."""
        return fields.mean((-2, -1))

    def region_means(self, fields: Tensor, regions: tuple[int, int]) -> Tensor:
        """Means over regions as `F.adaptive_avg_pool2d` cuts them, (B, C, Y, X) -> (B, C, rows, columns)."""
        return F.adaptive_avg_pool2d(fields, regions)


WHOLE = Sphere()


class OnSphere(nn.Module):
    """A module that looks at neighbouring cells, at all cells, or at where a cell lies: it asks its `sphere`.

    Attributes:
        sphere: The globe in one process, until `place` sets another.
    """

    sphere: Sphere = WHOLE


def place(network: nn.Module, sphere: Sphere) -> None:
    """Have every module of a network ask this sphere."""
    for module in network.modules():
        if isinstance(module, OnSphere):
            module.sphere = sphere
