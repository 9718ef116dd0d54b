"""One globe whose cells are divided over several processes: what `emukit.sphere` asks, answered with cells of others.

Invariant: outputs and gradients are those of one process, up to the order in which floats are added. Latitude is
divided first: longitude then stays whole, the circle closes on every process, and the only edges are the poles, which
the processes that have them reflect. Where there are not rows enough, longitude is divided too, as a ring. All exchange
of cells goes through one function, `_Cells`, whose backward returns what it took.

Autograd calls backward functions in the reverse order of their forward ones. All processes call the same forward
functions in the same order, so they meet in backward, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from emukit.errors import TrainingError
from emukit.parallel.comm import Comm, SumBoth
from emukit.sphere import Edges, Part, Sphere, fill_columns, half_turn, place

# First and last row, or column, plus one, of every process that an axis is divided among.
Bounds = tuple[tuple[int, int], ...]

# Rows are dealt out by so many where that is even: halvings then cut no pair of rows. How much larger than the mean the
# largest part may become by it.
COARSEST, UNEVEN = 16, 1.1

# Keys and values of one attention that a process gathers from all others, and keeps for the gradient, at most; more go
# round a ring, of which a process holds its own and one other part at a time. Measured (docs/parallel.md): a ring takes
# 1.6 to 1.8 times as long at every size, and its work space is as large as what two or three blocks keep of so much.
RING_BYTES = 1 << 25
# Weights of queries and keys that such a process computes at once: more leave the processor's cache.
SCORE_BYTES = 1 << 22


@dataclass(frozen=True)
class _Line:
    """The processes among which one axis of a tensor is divided.

    Attributes:
        axis: Counted from the last.
        members: Their ranks among those that share the globe, in the order of the axis.
        own: This process's place among them.
        circle: Whether the axis begins again where it ends.
    """

    axis: int
    members: tuple[int, ...]
    own: int
    circle: bool = False


class DividedSphere(Sphere):
    """A part of the cells of one globe.

    On the meta device nothing is sent, but all is counted: so a plan is made without other processes.

    The number of columns, which are divided evenly or not at all, says how often a field has been halved, and so which
    of its cells are whose.

    Attributes:
        comm: The processes that share the globe.
        grid: (Y, X) of the finest fields.
        across: Processes among which every row is divided.
        sent: Bytes of cells that this process has sent, forward and backward.
    """

    def __init__(self, comm: Comm, grid: tuple[int, int]) -> None:
        """Deal out the cells.

        Raises:
            TrainingError: There are fewer rows than processes along a meridian, or the columns do not divide.
        """
        self.comm, self.grid, self.sent = comm, grid, 0
        self.across = across = comm.columns
        row, column = divmod(comm.rank, across)
        self._down = _Line(-2, tuple(range(column, comm.world, across)), row)
        self._round = _Line(-1, tuple(range(row * across, (row + 1) * across)), column, circle=True)
        self._all = _Line(-2, tuple(range(comm.world)), comm.rank)
        self._levels = levels(grid, comm.world // across)
        self._patches: dict[int, tuple[int, int]] = {}
        _check_rows(self._levels[grid[1]], grid)
        self._column_bounds(grid[1])

    @property
    def divided(self) -> bool:
        """Always."""
        return True

    def bounds(self, columns: int) -> Bounds:
        """Whose rows are which, of fields with so many columns in all.

        Raises:
            TrainingError: Some process has none.
        """
        found = self._levels.get(columns)
        if found is None:
            raise TrainingError(
                f"fields of {columns} columns are no halvings of a divided globe of {self.grid[1]}",
                expected=" or ".join(map(str, self._levels)),
                hint="leave --domain out: this network cannot be divided",
            )
        _check_rows(found, self.grid)
        return found

    def _column_bounds(self, columns: int, what: str = "columns") -> Bounds:
        """Whose columns, or patches next to each other, are which, of so many."""
        each, left = divmod(columns, self.across)
        if left or not each:
            raise TrainingError(
                f"{columns} {what} cannot be divided over {self.across} processes in longitude",
                found=f"--domain {self.comm.world // self.across}x{self.across}, and a network that comes to {columns} "
                f"{what} on a globe of {self.grid[1]} columns",
                expected="as many for every process",
                hint="divide rows alone (--domain N), or by a number that divides the columns of the coarsest grid",
            )
        return tuple((each * i, each * (i + 1)) for i in range(self.across))

    def own(self, values: Tensor) -> Tensor:
        """A view of this process's cells."""
        rows, columns = self.part((values.shape[-2], values.shape[-1]))
        return values[..., rows, columns]

    def part(self, grid: tuple[int, int]) -> Part:
        """This process's cells of a field with so many columns."""
        rows, columns = self.bounds(grid[1]), self._column_bounds(grid[1])
        return slice(*rows[self._down.own]), slice(*columns[self._round.own])

    def whole_grid(self, fields: Tensor) -> tuple[int, int]:
        """(Y, X) of the level that a field's columns tell."""
        columns = fields.shape[-1] * self.across
        return self.bounds(columns)[-1][1], columns

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes that share the globe, in float32 at least."""
        if values.is_meta:
            return values
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        summed: Tensor = SumBoth.apply(wide, self.comm.handle)  # type: ignore[no-untyped-call]
        return summed.to(values.dtype)

    def randn(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Drawn for all cells, so that the generators of all processes stay together."""
        columns = shape[-1] * self.across
        whole = (*shape[:-2], self.bounds(columns)[-1][1], columns)
        return self.own(torch.randn(whole, dtype=like.dtype, device=like.device))

    def gather(self, fields: Tensor, *, at_first: bool = False) -> Tensor:
        """All cells, on every process, or on the first alone; the others then get none."""
        rows, columns = self.whole_grid(fields)
        everyone, none = not at_first, (0, 0)
        tall = self._take(
            fields,
            self.bounds(columns),
            [(0, rows) if everyone or place == 0 else none for place in range(len(self._down.members))],
            self._down,
        )
        joined = everyone or self._down.own == 0
        return self._take(
            tall,
            self._column_bounds(columns),
            [(0, columns) if joined and (everyone or place == 0) else none for place in range(self.across)],
            self._round,
        )

    def pad(self, fields: Tensor, width: int, edges: Edges = "reflect") -> Tensor:
        """As for one process, of this process's cells: (..., own Y + 2 width, own X + 2 width)."""
        if width == 0:
            return fields
        bounds = self.bounds(fields.shape[-1] * self.across)
        tall = self._window(fields, bounds, [(a - width, b + width) for a, b in bounds], edges)
        return self._widened(tall, width, edges)

    def _widened(self, fields: Tensor, width: int, edges: Edges = "reflect") -> Tensor:
        """Columns to the west and to the east, (..., X) -> (..., X + 2 width): round the circle, or zeros."""
        if self.across == 1:
            if edges == "zero":
                return F.pad(fields, (width, width))
            return torch.cat((fields[..., -width:], fields, fields[..., :width]), -1)
        bounds = self._column_bounds(fields.shape[-1] * self.across)
        want = [(a - width, b + width) for a, b in bounds]
        return self._strip(fields, want) if edges == "zero" else self._take(fields, bounds, want, self._round)

    def _strip(self, fields: Tensor, want: Sequence[tuple[int, int]]) -> Tensor:
        """Columns of a map that is not closed to a circle, with zeros where it has ended."""
        columns = fields.shape[-1] * self.across
        inside = [(max(a, 0), min(b, columns)) for a, b in want]
        taken = self._take(fields, self._column_bounds(columns), inside, self._round)
        (a, b), (first, last) = want[self._round.own], inside[self._round.own]
        return F.pad(taken, (first - a, b - last))

    def _half_turn(self, fields: Tensor) -> Tensor:
        """By half a circle, as `emukit.sphere.half_turn`, which brings the columns of other processes here."""
        if self.across == 1:
            return half_turn(fields)
        columns = fields.shape[-1] * self.across
        half, odd = divmod(columns, 2)
        bounds = self._column_bounds(columns)
        turned = self._take(fields, bounds, [(a - half - odd, b - half) for a, b in bounds], self._round)
        return 0.5 * (turned[..., 1:] + turned[..., :-1]) if odd else turned

    def for_coarser(self, fields: Tensor) -> Tensor:
        """Both rows of each pair that this process's rows of the coarser grid are made of."""
        columns = fields.shape[-1] * self.across
        fine, coarse = self.bounds(columns), self.bounds((columns + 1) // 2)
        # No process may have half of a pair of columns.
        self._column_bounds((columns + 1) // 2)
        return self._take(fields, fine, [(2 * a, min(2 * b, fine[-1][1])) for a, b in coarse], self._down)

    def for_finer(self, fields: Tensor, size: tuple[int, int], width: int) -> tuple[Tensor, Part]:
        """The coarse cells that lie under this process's fine ones, and `width` more on every side."""
        coarse_columns = fields.shape[-1] * self.across
        # Where columns are divided, each process has all of its pairs.
        columns = size[1] if self.across == 1 else 2 * coarse_columns
        coarse, fine = self.bounds(coarse_columns), self.bounds(columns)
        want = [(a // 2 - width, (b - 1) // 2 + 1 + width) for a, b in fine]
        tall = self._window(fields, coarse, want, "reflect")
        if width:
            tall = self._widened(tall, width)
        start, stop = fine[self._down.own]
        first = 2 * width + start % 2
        return tall, (slice(first, first + stop - start), slice(2 * width, 2 * width + columns // self.across))

    def with_next(self, fields: Tensor) -> Tensor:
        """One row and one column more than this process's."""
        columns = fields.shape[-1] * self.across
        bounds = self.bounds(columns)
        tall = self._window(fields, bounds, [(a, b + 1) for a, b in bounds], "replicate")
        if self.across == 1:
            return torch.cat((tall, tall[..., -1:]), -1)
        have = self._column_bounds(columns)
        taken = self._take(tall, have, [(a, min(b + 1, columns)) for a, b in have], self._round)
        return taken if taken.shape[-1] > tall.shape[-1] else torch.cat((taken, taken[..., -1:]), -1)

    def convolve(self, fields: Tensor, convolution: nn.Conv2d, bias: Tensor | None) -> Tensor:
        """With zeros beyond the edges of the map alone; cells of others where the map goes on."""
        if convolution.padding == (0, 0) and max(convolution.stride) == 1:
            return super().convolve(fields, convolution, bias)
        (kernel, wide), (stride, stride_x) = convolution.kernel_size, convolution.stride
        (dilation, dilation_x), padding = convolution.dilation, convolution.padding
        reach, reach_x = dilation * (kernel - 1), dilation_x * (wide - 1)
        even = stride == stride_x and stride in (1, 2) and kernel % 2 == wide % 2 == 1
        if not even or padding != (reach // 2, reach_x // 2) or convolution.padding_mode != "zeros":
            raise TrainingError(
                "a globe cannot be divided for this convolution",
                found=str(convolution),
                expected="an odd kernel, stride 1 or 2, and half the kernel of zeros on every side",
                hint="leave --domain out",
            )

        def under(out: Bounds, reach: int) -> list[tuple[int, int]]:
            return [(stride * a - reach // 2, stride * (b - 1) + reach - reach // 2 + 1) for a, b in out]

        columns = fields.shape[-1] * self.across
        bounds, coarse = self.bounds(columns), (columns + 1) // 2
        out = bounds if stride == 1 else self.bounds(coarse)
        given = self._window(fields, bounds, under(out, reach), "zero")
        beyond = reach_x // 2
        if self.across > 1:
            given = self._strip(given, under(self._column_bounds(columns if stride == 1 else coarse), reach_x))
            beyond = 0
        return F.conv2d(given, convolution.weight, bias, stride, (0, beyond), convolution.dilation, convolution.groups)

    def cell_mean(self, fields: Tensor) -> Tensor:
        """Sums of all processes over the number of all cells."""
        rows, columns = self.whole_grid(fields)
        return self.sum(fields.sum((-2, -1))) / (rows * columns)

    def region_means(self, fields: Tensor, regions: tuple[int, int]) -> Tensor:
        """Each process's part of every region; regions overlap where they do not divide the rows."""
        rows, columns = self.whole_grid(fields)
        own_rows, own_columns = self.part((rows, columns))
        if self.across == 1:
            zonal = F.adaptive_avg_pool2d(fields, (fields.shape[-2], regions[1]))
        else:
            zonal = torch.einsum("...yx,cx->...yc", fields, _region_shares(columns, regions[1], own_columns).to(fields))
        return self.sum(torch.einsum("...yk,ry->...rk", zonal, _region_shares(rows, regions[0], own_rows).to(zonal)))

    def to_cells(self, numbers: Tensor, linear: nn.Linear, grid: tuple[int, int]) -> Tensor:
        """This process's cells alone are computed."""
        rows, columns = self.part(grid)
        weight = linear.weight.reshape(*grid, -1)[rows, columns].flatten(0, 1)
        bias = None if linear.bias is None else linear.bias.reshape(grid)[rows, columns].flatten()
        fields = F.linear(numbers, weight, bias)
        return fields.reshape(*numbers.shape[:-1], rows.stop - rows.start, columns.stop - columns.start)

    def to_tiles(self, fields: Tensor, patch: tuple[int, int]) -> Tensor:
        """The cells of this process's patches, whose rows are dealt out by themselves."""
        total, columns = self.whole_grid(fields)
        tiles = (-(-total // patch[0]), -(-columns // patch[1]))
        if self.across > 1 and columns % patch[1]:
            raise TrainingError(
                "patches that are filled up cannot be divided in longitude",
                found=f"{columns} columns, and patches of {patch[1]}",
                expected="patches that divide the columns",
                hint="divide rows alone (--domain N), or set model.patch_columns",
            )
        across = self.tiles_across(tiles)
        bounds = self._tile_bounds(tiles[0])
        own = bounds[self._down.own]
        # Attention sees patches by their number alone: it tells how many there are in all.
        self._patches[(own[1] - own[0]) * across] = tiles
        south = (tiles[0] * patch[0] - total) // 2
        want = [(a * patch[0] - south, b * patch[0] - south) for a, b in bounds]
        tall = self._window(fields, self.bounds(columns), want, "reflect")
        return fill_columns(tall, patch[1])

    def from_tiles(self, fields: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
        """From the rows of patches to the rows of fields of their owners."""
        tiles = -(-grid[0] // patch[0])
        south = (tiles * patch[0] - grid[0]) // 2
        stretch = [(a * patch[0] - south, b * patch[0] - south) for a, b in self._tile_bounds(tiles)]
        have = [(max(a, 0), min(b, grid[0])) for a, b in stretch]
        offset = have[self._down.own][0] - stretch[self._down.own][0]
        length = have[self._down.own][1] - have[self._down.own][0]
        given = fields[..., offset : offset + length, : grid[1] // self.across]
        return self._take(given, have, self.bounds(grid[1]), self._down)

    def own_tiles(self, values: Tensor, dim: int, tiles: tuple[int, int]) -> Tensor:
        """A view of those of this process's patches."""
        start, stop = self._tile_bounds(tiles[0])[self._down.own]
        if self.across == 1:
            return values.narrow(dim, start * tiles[1], (stop - start) * tiles[1])
        first, after = self._column_bounds(tiles[1], "patches")[self._round.own]
        # Counted from the first: there is one dimension more in what follows.
        dim %= values.ndim
        shape = (*values.shape[:dim], *tiles, *values.shape[dim + 1 :])
        rows = values.reshape(shape).narrow(dim, start, stop - start)
        return rows.narrow(dim + 1, first, after - first).flatten(dim, dim + 1)

    def tiles_across(self, tiles: tuple[int, int]) -> int:
        """As many as every other process."""
        first, after = self._column_bounds(tiles[1], "patches")[self._round.own]
        return after - first

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """With the keys and values of all: gathered where they are few, passed round a ring where they are many."""
        tiles = self._patches[query.shape[-2]]
        across = self.tiles_across(tiles)
        # Process by process: who has the same rows of patches has as many of them.
        counts = [(b - a) * across for a, b in self._tile_bounds(tiles[0]) for _ in range(self.across)]
        if 2 * key.nbytes // counts[self.comm.rank] * sum(counts) > RING_BYTES:
            return _RingAttention.apply(query, key, value, tuple(counts), self)  # type: ignore[no-untyped-call, no-any-return]
        have = tuple((sum(counts[:i]), sum(counts[: i + 1])) for i in range(len(counts)))
        want = [(0, sum(counts))] * len(have)
        key, value = (self._take(each, have, want, self._all) for each in (key, value))
        return F.scaled_dot_product_attention(query, key, value)

    def mask(self, values: Tensor, keep: float) -> Tensor:
        """What dropout multiplies values by: that of one process, of which this one takes its cells."""

        def drawn(shape: tuple[int, ...]) -> Tensor:
            return values.new_empty(shape).bernoulli_(keep).div_(keep)

        shape, columns = tuple(values.shape), values.shape[-1] * self.across
        # A network that cuts fields into patches drops features of patches, which may be as many as columns.
        tiles = self._patches.get(shape[-2]) if values.ndim > 1 else None
        if tiles:
            return self.own_tiles(drawn((*shape[:-2], tiles[0] * tiles[1], shape[-1])), -2, tiles)
        rows = self._levels.get(columns) if values.ndim >= 4 else None
        if rows and rows[self._down.own][1] - rows[self._down.own][0] == shape[-2]:
            return self.own(drawn((*shape[:-2], rows[-1][1], columns)))
        return drawn(shape)

    def _tile_bounds(self, rows: int) -> Bounds:
        bounds = shares(rows, len(self._down.members))
        _check_rows(bounds, self.grid)
        return bounds

    def _take(
        self, fields: Tensor, have: Sequence[tuple[int, int]], want: Sequence[tuple[int, int]], line: _Line
    ) -> Tensor:
        """Rows, or columns, that lie within the map, or anywhere on the circle."""
        if all(h == w for h, w in zip(have, want, strict=True)):
            return fields
        return _Cells.apply(fields, tuple(have), tuple(want), line, self)  # type: ignore[no-untyped-call, no-any-return]

    def _window(self, fields: Tensor, have: Bounds, want: Sequence[tuple[int, int]], edges: Edges) -> Tensor:
        """Rows that may lie beyond the poles.

        Args:
            fields: (..., own rows, X).
            have: Rows of every process.
            want: Rows that every process wants, counted from the first row of the map.
            edges: What lies beyond the poles.
        """
        total = have[-1][1]
        inside = []
        for a, b in want:
            first, last = max(a, 0), min(b, total)
            if edges == "reflect":
                # What is mirrored must be here, too; a process of few rows has not all of it.
                first, last = min(first, 2 * total - max(b, total)), max(last, -min(a, 0))
            inside.append((first, last))
        taken = self._take(fields, have, inside, self._down)
        (a, b), (first, last) = want[self._down.own], inside[self._down.own]
        south, north = max(-a, 0), max(b - total, 0)
        parts = [taken[..., max(a, 0) - first : min(b, total) - first, :]]
        if south:
            parts.insert(0, self._beyond(taken[..., :south, :], taken[..., :1, :], south, edges))
        if north:
            parts.append(self._beyond(taken[..., total - first - north :, :], taken[..., -1:, :], north, edges))
        return torch.cat(parts, -2) if len(parts) > 1 else parts[0]

    def _beyond(self, rows: Tensor, edge: Tensor, number: int, edges: Edges) -> Tensor:
        """What lies beyond a pole, (..., number, X), given the rows next to it and the last one."""
        if edges == "reflect":
            return self._half_turn(rows.flip(-2))
        shape = (*edge.shape[:-2], number, edge.shape[-1])
        return edge.expand(shape) if edges == "replicate" else edge.new_zeros(shape)


class _RingAttention(torch.autograd.Function):
    """Attention over keys and values that pass from process to process, as Liu et al. 2023 (arXiv:2310.01889).

    A softmax over parts needs the largest weight and the sum of exponentials alone, which are corrected as parts come
    (Milakov and Gimelshein 2018, arXiv:1805.02867). Kept for the gradient are this process's queries, keys, values and
    answers, and the logarithm of each sum; weights are computed again. Gradients of keys and values travel with them,
    and are home after a whole round.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, counts: tuple[int, ...], sphere: DividedSphere
    ) -> Tensor:
        kind = torch.promote_types(query.dtype, torch.float32)
        scale = query.shape[-1] ** -0.5
        answer = query.new_zeros(query.shape, dtype=kind)
        largest = query.new_full((*query.shape[:-1], 1), float("-inf"), dtype=kind)
        total = torch.zeros_like(largest)
        # Views would keep all that queries, keys and values were cut from.
        query, part = query.contiguous(), torch.stack((key, value))
        own = part
        # Under autocast, products of float32 would be computed in half of it.
        with torch.autocast("cpu" if query.is_meta else query.device.type, enabled=False):
            for turn in range(len(counts)):
                keys, values = part.to(kind)
                for rows in _chunks(query, keys):
                    weights = scale * query[..., rows, :].to(kind) @ keys.transpose(-1, -2)
                    now = torch.maximum(largest[..., rows, :], weights.amax(-1, keepdim=True))
                    weights = weights.sub_(now).exp_()
                    before = (largest[..., rows, :] - now).exp()
                    answer[..., rows, :] = before * answer[..., rows, :] + weights @ values
                    total[..., rows, :] = before * total[..., rows, :] + weights.sum(-1, keepdim=True)
                    largest[..., rows, :] = now
                if turn < len(counts) - 1:
                    part = _passed(part, counts, turn, sphere)
        answer = answer / total
        ctx.counts, ctx.sphere = counts, sphere
        ctx.save_for_backward(query, own, answer, largest + total.log())
        return answer.to(query.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, saved, answer, logarithm = ctx.saved_tensors
        kind, scale = answer.dtype, query.shape[-1] ** -0.5
        wide, counts = gradient.to(kind), ctx.counts
        inner = (wide * answer).sum(-1, keepdim=True)
        of_query = torch.zeros_like(answer)
        # Keys, values and their gradients.
        part = torch.cat((saved.to(kind), torch.zeros_like(saved, dtype=kind)))
        for turn in range(len(counts)):
            keys, values, of_keys, of_values = part
            for rows in _chunks(query, keys):
                own, given = query[..., rows, :].to(kind), wide[..., rows, :]
                weights = (scale * own @ keys.transpose(-1, -2)).sub_(logarithm[..., rows, :]).exp_()
                of_values += weights.transpose(-1, -2) @ given
                slope = (given @ values.transpose(-1, -2)).sub_(inner[..., rows, :]).mul_(weights).mul_(scale)
                of_query[..., rows, :] += slope @ keys
                of_keys += slope.transpose(-1, -2) @ own
            # Home again, nobody needs the keys and values any more.
            part = _passed(part if turn < len(counts) - 1 else part[2:], counts, turn, ctx.sphere)
        of_key, of_value = part.to(saved.dtype)
        return of_query.to(query.dtype), of_key, of_value, None, None


def _chunks(query: Tensor, keys: Tensor) -> Iterator[slice]:
    """Queries in parts whose weights for so many keys are no more than `SCORE_BYTES`."""
    each = keys.element_size() * keys.shape[0] * keys.shape[1] * keys.shape[2]
    step = max(1, SCORE_BYTES // each)
    for first in range(0, query.shape[-2], step):
        yield slice(first, min(first + step, query.shape[-2]))


def _passed(part: Tensor, counts: tuple[int, ...], turn: int, sphere: DividedSphere) -> Tensor:
    """What the process before had, for what this one had, (..., patches, D): a turn of the ring."""
    comm = sphere.comm
    ranks = comm.group.ranks if comm.group else tuple(range(comm.world))
    sphere.sent += part.nbytes
    coming = part.new_empty(_resized(part, -2, counts[(comm.rank - turn - 1) % len(counts)]))
    if not part.is_meta:
        ends = ((dist.isend, part.contiguous(), 1), (dist.irecv, coming, -1))
        ring = [dist.P2POp(do, what, ranks[(comm.rank + to) % len(counts)], comm.handle) for do, what, to in ends]
        for request in dist.batch_isend_irecv(ring):
            request.wait()
    return coming


# Whose place in a line it is that gives or takes, and what: first and last plus one, counted from this process's first.
_Piece = tuple[int, int, int]


class _Cells(torch.autograd.Function):
    """The rows or columns that this process wants, of those that others have; backward returns their gradients."""

    @staticmethod
    def forward(ctx: Any, fields: Tensor, have: Bounds, want: Bounds, line: _Line, sphere: DividedSphere) -> Tensor:
        own, mine, length = have[line.own], want[line.own], have[-1][1]
        # On a circle the same columns may be wanted in the west and in the east.
        turns = (-length, 0, length) if line.circle else (0,)
        gives, takes = [], []
        for other in range(len(have)):
            for turn in turns:
                a, b = _overlap((own[0] + turn, own[1] + turn), want[other])
                if b > a:
                    gives.append((other, a - turn - own[0], b - turn - own[0]))
                a, b = _overlap((have[other][0] + turn, have[other][1] + turn), mine)
                if b > a:
                    takes.append((other, a - mine[0], b - mine[0]))
        ctx.gives, ctx.takes, ctx.line, ctx.sphere, ctx.length = gives, takes, line, sphere, own[1] - own[0]
        out = fields.new_empty(_resized(fields, line.axis, mine[1] - mine[0]))
        for (first, after), values in _exchange(fields, gives, takes, line, sphere):
            out.narrow(line.axis, first, after - first).copy_(values)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        line = ctx.line
        out = gradient.new_zeros(_resized(gradient, line.axis, ctx.length))
        for (first, after), values in _exchange(gradient, ctx.takes, ctx.gives, line, ctx.sphere):
            out.narrow(line.axis, first, after - first).add_(values)
        return out, None, None, None, None


def _exchange(
    fields: Tensor, gives: Sequence[_Piece], takes: Sequence[_Piece], line: _Line, sphere: DividedSphere
) -> list[tuple[tuple[int, int], Tensor]]:
    """Pieces of this process to others, and theirs, with this process's own, in the order of the line.

    Two processes may have several pieces for each other; both name them in the same order.

    Args:
        fields: What pieces are cut from.
        gives: Pieces for others and for this process itself.
        takes: Where what comes belongs.
        line: The processes and the axis.
        sphere: Counts what is sent.
    """
    comm = sphere.comm
    ranks = comm.group.ranks if comm.group else tuple(range(comm.world))
    kept = iter([fields.narrow(line.axis, a, b - a) for other, a, b in gives if other == line.own])
    requests: list[tuple[Any, Tensor, int]] = []
    buffers: list[tuple[tuple[int, int], Tensor]] = []
    for other, a, b in gives:
        if other != line.own:
            part = fields.narrow(line.axis, a, b - a).contiguous()
            sphere.sent += part.nbytes
            requests.append((dist.isend, part, ranks[line.members[other]]))
    for other, a, b in takes:
        if other == line.own:
            buffers.append(((a, b), next(kept)))
            continue
        buffer = fields.new_empty(_resized(fields, line.axis, b - a))
        buffers.append(((a, b), buffer))
        requests.append((dist.irecv, buffer, ranks[line.members[other]]))
    if requests and not fields.is_meta:
        for request in dist.batch_isend_irecv([dist.P2POp(*request, comm.handle) for request in requests]):
            request.wait()
    return buffers


def _resized(fields: Tensor, axis: int, length: int) -> list[int]:
    shape = list(fields.shape)
    shape[axis] = length
    return shape


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return max(a[0], b[0]), min(a[1], b[1])


def _region_shares(cells: int, regions: int, own: slice) -> Tensor:
    """What each own row or column counts in the mean of each region, (regions, own), cut as torch does adaptively."""
    first = [i * cells // regions for i in range(regions)]
    after = [-(-(i + 1) * cells // regions) for i in range(regions)]
    place = torch.arange(cells)[own]
    return torch.stack([((place >= a) & (place < b)).double() / (b - a) for a, b in zip(first, after, strict=True)])


def shares(rows: int, parts: int) -> Bounds:
    """Contiguous parts of some rows that differ by one at most."""
    return tuple((rows * r // parts, rows * (r + 1) // parts) for r in range(parts))


def levels(grid: tuple[int, int], parts: int) -> dict[int, Bounds]:
    """Whose rows are which on a grid and on its halvings, by their number of columns.

    A row of a coarser grid belongs to whom the first row of its pair belongs to.
    """
    rows, columns = grid
    unit = COARSEST
    while unit > 1 and (-(-rows // unit) % parts or -(-rows // unit) * unit > UNEVEN * rows):
        unit //= 2
    bounds = tuple((min(a * unit, rows), min(b * unit, rows)) for a, b in shares(-(-rows // unit), parts))
    found = {columns: bounds}
    while columns > 1:
        columns = (columns + 1) // 2
        bounds = tuple(((a + 1) // 2, (b + 1) // 2) for a, b in bounds)
        found[columns] = bounds
    return found


def _check_rows(bounds: Bounds, grid: tuple[int, int]) -> None:
    if any(b <= a for a, b in bounds):
        most = bounds[-1][1]
        raise TrainingError(
            f"a globe of {grid[0]} rows cannot be divided over {len(bounds)} processes",
            found=f"{most} rows where the network's grid is coarsest",
            expected="a row or more for every process",
            hint=(
                f"--domain {most} or fewer, or {most}xN to divide longitude too" if most > 1 else "leave --domain out"
            )
            + ", or a network with fewer halvings",
        )


class DividedGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` whose statistics are those of all cells; parameters have the same names."""

    sphere: DividedSphere

    def forward(self, fields: Tensor) -> Tensor:
        """(B, C, own Y, own X) -> the same shape."""
        rows, columns = self.sphere.whole_grid(fields)
        total = self.num_channels // self.num_groups * rows * columns
        normal = _GroupNorm.apply(fields, self.weight, self.bias, self.num_groups, self.eps, total, self.sphere)  # type: ignore[no-untyped-call]
        return normal  # type: ignore[no-any-return]


class _GroupNorm(torch.autograd.Function):
    """Normalised by the mean and variance of all cells; kept for the gradient are the fields alone, as torch does.

    With x the normalised fields, g the gradient times the weight and n the values of a group on all processes, the
    gradient is (g - sum(g) / n - x sum(g x) / n) / sigma: both sums are over all cells, too. A sum in the forward pass
    alone would leave out what this process's cells do to the statistics of the others'. Everything is written as
    numbers by channel times fields, so that no copies of fields stand next to them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        fields: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        groups: int,
        eps: float,
        total: int,
        sphere: DividedSphere,
    ) -> Tensor:
        wide = fields.to(torch.promote_types(fields.dtype, torch.float32))
        grouped = wide.reshape(len(fields), groups, -1)
        variance, mean = (v.double() for v in torch.var_mean(grouped, -1, correction=0))
        count = grouped.shape[-1]
        # In float64, because the variance is a difference of two sums.
        summed = sphere.sum(torch.stack((count * mean, count * (variance + mean.square())))) / total
        scale = torch.rsqrt((summed[1] - summed[0].square()).clamp_min(0) + eps).to(wide.dtype)
        mean = summed[0].to(wide.dtype)
        ctx.groups, ctx.total, ctx.sphere = groups, total, sphere
        ctx.save_for_backward(fields, weight, mean, scale)
        each = fields.shape[1] // groups
        mean, scale = (v.repeat_interleave(each, 1) for v in (mean, scale))
        factor = scale if weight is None else scale * weight
        offset = -mean * factor if bias is None else bias - mean * factor
        return torch.addcmul(offset[..., None, None], wide, factor[..., None, None]).to(fields.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        fields, weight, mean, scale = ctx.saved_tensors
        each = fields.shape[1] // ctx.groups
        wide, given = fields.to(mean.dtype), gradient.to(mean.dtype)
        mean_of, scale_of = (v.repeat_interleave(each, 1) for v in (mean, scale))
        plain = given.sum((-2, -1))
        # Sum of the gradient times the normalised fields, by channel.
        product = scale_of * (torch.einsum("bcyx,bcyx->bc", given, wide) - mean_of * plain)
        of_weight = of_bias = None
        ones = torch.ones_like(plain[0])
        if weight is not None:
            of_weight, of_bias = product.sum(0).to(weight.dtype), plain.sum(0).to(weight.dtype)
            ones = weight.to(mean.dtype)
        groups = (len(fields), ctx.groups, each)
        sums = torch.stack([(v * ones).reshape(groups).sum(-1) for v in (plain, product)])
        sums = (ctx.sphere.sum(sums) / ctx.total).repeat_interleave(each, -1)
        slope = -scale_of.square() * sums[1]
        offset = -scale_of * sums[0] - mean_of * slope
        own = torch.addcmul(offset[..., None, None], given, (scale_of * ones)[..., None, None])
        return own.addcmul_(wide, slope[..., None, None]).to(fields.dtype), of_weight, of_bias, None, None, None, None


class DividedDropout(nn.Dropout):
    """`nn.Dropout` that drops what one process would: processes that share a globe draw the same numbers."""

    sphere: DividedSphere

    def forward(self, values: Tensor) -> Tensor:
        """Any shape; of fields and patches the own ones."""
        if not self.training or self.p == 0:
            return values
        return values * self.sphere.mask(values, 1 - self.p)


def check_divisible(name: str, part: Any) -> None:
    """Refuse a network or loss term that does not say that it looks at fields through `emukit.sphere` alone.

    Args:
        name: Of it, for people.
        part: A network's class, or what builds a loss term.

    Raises:
        TrainingError: It cannot be divided, or nobody knows.
    """
    divides = getattr(part, "DIVIDES", part.__module__.startswith("emukit.losses."))
    if divides is not True:
        raise TrainingError(
            f"{name} cannot be divided in space",
            found=divides or "it does not say DIVIDES = True: that it looks beyond a cell through emukit.sphere alone",
            hint="leave --domain out; --strategy fsdp divides the model, --devices the batch",
        )


def divide(network: nn.Module, sphere: DividedSphere) -> None:
    """Have a network compute this process's cells of its fields, in place; its parameters stay whole, with their names.

    Gradients are those of this process's cells: summed over the processes they are those of the whole.
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            new: DividedGroupNorm | DividedDropout
            # Their subclasses are what this or another module has put there, and know what they do.
            if isinstance(child, nn.GroupNorm) and type(child) is nn.GroupNorm:
                new = DividedGroupNorm(child.num_groups, child.num_channels, child.eps, child.affine, device="meta")
                new.weight, new.bias = child.weight, child.bias
            elif isinstance(child, nn.Dropout) and type(child) is nn.Dropout:
                new = DividedDropout(child.p)
            else:
                continue
            new.sphere = sphere
            new.train(child.training)
            setattr(module, name, new)
    place(network, sphere)
