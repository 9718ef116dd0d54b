"""What networks and losses do with neighbouring cells and with the whole globe: padding, resampling, sums and means.

Invariant: whoever asks a `Sphere` knows nothing of processes. `WHOLE` is the globe in one process; where a field's
cells are divided over several, `emukit.parallel.domain.DividedSphere` answers instead, with the same numbers up to the
order in which floats are added. Fields are (..., Y, X), rows from one pole to the other, columns all round the circle.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# What lies beyond the last row. The meridian on the other side of the pole (``reflect``: rows mirrored and turned by
# half a circle, as cells lie on a sphere), the last row again (``replicate``), or zeros, all round the map (``zero``).
Edges = Literal["reflect", "replicate", "zero"]

# Rows and columns of a grid that a process has.
Part = tuple[slice, slice]
ALL: Part = (slice(None), slice(None))


def part_shape(part: Part, grid: tuple[int, int]) -> tuple[int, int]:
    """How many rows and columns of a grid a part of it has."""
    rows, columns = (len(range(*each.indices(n))) for each, n in zip(part, grid, strict=True))
    return rows, columns


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
    """The globe in one process. What a subclass changes are the methods that need cells of others."""

    @property
    def divided(self) -> bool:
        """Whether this process has a part of the cells alone."""
        return False

    def own(self, values: Tensor) -> Tensor:
        """This process's cells of whole fields, (..., Y, X) -> (..., own Y, own X)."""
        return values

    def part(self, grid: tuple[int, int]) -> Part:
        """Which cells of a field on a grid (Y, X) this process has."""
        return slice(0, grid[0]), slice(0, grid[1])

    def whole_grid(self, fields: Tensor) -> tuple[int, int]:
        """(Y, X) of fields on all processes together."""
        return fields.shape[-2], fields.shape[-1]

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes that share a globe, differentiable on all of them. Any shape."""
        return values

    def randn(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Standard normal numbers for fields (..., own Y, own X): what one process would draw for these cells."""
        return torch.randn(shape, dtype=like.dtype, device=like.device)

    def gather(self, fields: Tensor) -> Tensor:
        """All cells of a field that is this process's: (..., own Y, own X) -> (..., Y, X)."""
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
        """The cells that this process's cells of a grid half as fine are made of.

        Args:
            fields: (..., Y, X).

        Returns:
            (..., rows, columns): 2 j and 2 j + 1 for each own row j of ceil(Y/2), likewise for columns; an odd last row
            or column stands alone.
        """
        return fields

    def for_finer(self, fields: Tensor, size: tuple[int, int], width: int) -> tuple[Tensor, Part]:
        """The cells that this process's cells of a grid twice as fine are made of.

        Args:
            fields: (..., ceil(Y/2), ceil(X/2)).
            size: (Y, X) of the finer grid, of all or of this process's cells.
            width: Cells to add on every side.

        Returns:
            (..., rows, columns), and which cells of these, refined, are this process's.
        """
        first = 2 * width
        return self.pad(fields, width), (slice(first, first + size[0]), slice(first, first + size[1]))

    def with_next(self, fields: Tensor) -> Tensor:
        """Where the globe is divided, one row and column more than this process's; at the end of the map its last."""
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
        padded, (rows, columns) = self.for_finer(fields, size, 1)
        fine = F.interpolate(padded, scale_factor=2, mode="bilinear", align_corners=False)
        return fine[..., rows, columns]

    def transposed(self, fields: Tensor, convolution: nn.ConvTranspose2d, size: tuple[int, int]) -> Tensor:
        """A transposed convolution of 2 x 2 cells and stride 2: each cell becomes four.

        Args:
            fields: (B, C, ceil(Y/2), ceil(X/2)).
            convolution: Kernel 2, stride 2, without padding.
            size: (Y, X); of an odd side the last row or column is dropped.
        """
        given, (rows, columns) = self.for_finer(fields, size, 0)
        fine: Tensor = convolution(given)
        return fine[..., rows, columns]

    def convolve(self, fields: Tensor, convolution: nn.Conv2d, bias: Tensor | None) -> Tensor:
        """A convolution with zeros beyond the edges, as `nn.Conv2d` with padding computes it, and this bias."""
        return convolution._conv_forward(fields, convolution.weight, bias)  # type: ignore[no-any-return]

    def to_tiles(self, fields: Tensor, patch: tuple[int, int]) -> Tensor:
        """Continue fields until patches divide them: over both poles alike in latitude, round the circle in longitude.

        Args:
            fields: (..., Y, X).
            patch: Rows and columns of a patch.

        Returns:
            (..., rows, columns): those of this process's patches.
        """
        rows = -fields.shape[-2] % patch[0]
        if rows:
            south, north = rows // 2, rows - rows // 2
            beyond = half_turn(fields).flip(-2)
            parts = (beyond[..., fields.shape[-2] - south :, :], fields, beyond[..., :north, :])
            fields = torch.cat(parts, -2)
        return fill_columns(fields, patch[1])

    def from_tiles(self, fields: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
        """Undo `to_tiles`: (..., rows, columns) of this process's patches to (..., Y, X) of its own cells."""
        south = (fields.shape[-2] - grid[0]) // 2
        return fields[..., south : south + grid[0], : grid[1]]

    def own_tiles(self, values: Tensor, dim: int, tiles: tuple[int, int]) -> Tensor:
        """Those of this process's patches, of what there is one of for every patch, row by row."""
        return values

    def tiles_across(self, tiles: tuple[int, int]) -> int:
        """How many patches this process has next to each other in longitude."""
        return tiles[1]

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What this process's patches read from all patches, each (B, heads, own patches, D) -> the same shape."""
        return F.scaled_dot_product_attention(query, key, value)

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
