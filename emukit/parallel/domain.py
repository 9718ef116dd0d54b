"""One globe whose rows are divided over several processes: what `emukit.sphere` asks, answered with rows of others.

Invariant: outputs and gradients are those of one process, up to the order in which floats are added. Latitude is
divided and longitude stays whole, so the circle closes on every process and the only edges are the poles, which the
processes that have them reflect. All exchange goes through one function, `_Rows`, whose backward returns what it took.

Autograd calls backward functions in the reverse order of their forward ones. All processes call the same forward
functions in the same order, so they meet in backward, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from emukit.errors import TrainingError
from emukit.parallel.comm import Comm, SumBoth
from emukit.sphere import Edges, Sphere, fill_columns, half_turn, place

# First and last row plus one, of every process in the order of ranks.
Bounds = tuple[tuple[int, int], ...]

# Rows are dealt out by so many where that is even: halvings then cut no pair of rows. How much larger than the mean the
# largest part may become by it.
COARSEST, UNEVEN = 16, 1.1


class DividedSphere(Sphere):
    """A part of the rows of one globe.

    On the meta device nothing is sent, but all is counted: so a plan is made without other processes.

    The number of columns, which no process divides, says how often a field has been halved, and so which of its rows
    are whose.

    Attributes:
        comm: The processes that share the globe.
        grid: (Y, X) of the finest fields.
        sent: Bytes of rows that this process has sent, forward and backward.
    """

    def __init__(self, comm: Comm, grid: tuple[int, int]) -> None:
        """Deal out the rows.

        Raises:
            TrainingError: There are fewer rows than processes.
        """
        self.comm, self.grid, self.sent = comm, grid, 0
        self._levels = levels(grid, comm.world)
        self._patches: dict[int, Bounds] = {}
        _check_rows(self._levels[grid[1]], grid)

    @property
    def divided(self) -> bool:
        """Always."""
        return True

    def bounds(self, columns: int) -> Bounds:
        """Whose rows are which, of fields with so many columns.

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

    def own(self, values: Tensor, dim: int, columns: int) -> Tensor:
        """A view of this process's rows."""
        start, stop = self.bounds(columns)[self.comm.rank]
        return values.narrow(dim, start, stop - start)

    def rows(self, rows: int, columns: int) -> slice:
        """This process's rows of a field with so many columns."""
        return slice(*self.bounds(columns)[self.comm.rank])

    def total_rows(self, fields: Tensor) -> int:
        """Y of the level that a field's columns tell."""
        return self.bounds(fields.shape[-1])[-1][1]

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes that share the globe, in float32 at least."""
        if values.is_meta:
            return values
        wide = values.to(torch.promote_types(values.dtype, torch.float32))
        summed: Tensor = SumBoth.apply(wide, self.comm.handle)  # type: ignore[no-untyped-call]
        return summed.to(values.dtype)

    def randn(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Drawn for all rows, so that the generators of all processes stay together."""
        whole = (*shape[:-2], self.bounds(shape[-1])[-1][1], shape[-1])
        return self.own(torch.randn(whole, dtype=like.dtype, device=like.device), -2, shape[-1])

    def gather(self, fields: Tensor) -> Tensor:
        """All rows, on every process."""
        bounds = self.bounds(fields.shape[-1])
        return self._take(fields, bounds, ((0, bounds[-1][1]),) * len(bounds))

    def pad(self, fields: Tensor, width: int, edges: Edges = "reflect") -> Tensor:
        """As for one process, of this process's rows: (..., own Y + 2 width, X + 2 width)."""
        if width == 0:
            return fields
        bounds = self.bounds(fields.shape[-1])
        tall = self._window(fields, bounds, [(a - width, b + width) for a, b in bounds], edges)
        if edges == "zero":
            return F.pad(tall, (width, width))
        return torch.cat((tall[..., -width:], tall, tall[..., :width]), -1)

    def for_coarser(self, fields: Tensor) -> Tensor:
        """Both rows of each pair that this process's rows of the coarser grid are made of."""
        fine, coarse = self.bounds(fields.shape[-1]), self.bounds((fields.shape[-1] + 1) // 2)
        return self._take(fields, fine, [(2 * a, min(2 * b, fine[-1][1])) for a, b in coarse])

    def for_finer(self, fields: Tensor, size: tuple[int, int], width: int) -> tuple[Tensor, int, int]:
        """The coarse rows that lie under this process's fine ones, and `width` more on every side."""
        coarse, fine = self.bounds(fields.shape[-1]), self.bounds(size[1])
        want = [(a // 2 - width, (b - 1) // 2 + 1 + width) for a, b in fine]
        tall = self._window(fields, coarse, want, "reflect")
        if width:
            tall = torch.cat((tall[..., -width:], tall, tall[..., :width]), -1)
        start, stop = fine[self.comm.rank]
        return tall, start % 2, stop - start

    def with_next_row(self, fields: Tensor) -> Tensor:
        """One row more than this process's."""
        bounds = self.bounds(fields.shape[-1])
        return self._window(fields, bounds, [(a, b + 1) for a, b in bounds], "replicate")

    def convolve(self, fields: Tensor, convolution: nn.Conv2d, bias: Tensor | None) -> Tensor:
        """With zeros beyond the poles alone; rows of others where the map goes on."""
        if convolution.padding == (0, 0) and max(convolution.stride) == 1:
            return super().convolve(fields, convolution, bias)
        (kernel, wide), (stride, stride_x) = convolution.kernel_size, convolution.stride
        (dilation, dilation_x), padding = convolution.dilation, convolution.padding
        reach = dilation * (kernel - 1)
        even = stride == stride_x and stride in (1, 2) and kernel % 2 == wide % 2 == 1
        if not even or padding != (reach // 2, dilation_x * (wide - 1) // 2) or convolution.padding_mode != "zeros":
            raise TrainingError(
                "a globe cannot be divided for this convolution",
                found=str(convolution),
                expected="an odd kernel, stride 1 or 2, and half the kernel of zeros on every side",
                hint="leave --domain out",
            )
        bounds = self.bounds(fields.shape[-1])
        out = bounds if stride == 1 else self.bounds((fields.shape[-1] + 1) // 2)
        want = [(stride * a - reach // 2, stride * (b - 1) + reach - reach // 2 + 1) for a, b in out]
        tall = self._window(fields, bounds, want, "zero")
        return F.conv2d(
            tall, convolution.weight, bias, stride, (0, padding[1]), convolution.dilation, convolution.groups
        )

    def cell_mean(self, fields: Tensor) -> Tensor:
        """Sums of all processes over the number of all cells."""
        return self.sum(fields.sum((-2, -1))) / (self.total_rows(fields) * fields.shape[-1])

    def region_means(self, fields: Tensor, regions: tuple[int, int]) -> Tensor:
        """Each process's part of every region; regions overlap where they do not divide the rows."""
        total = self.total_rows(fields)
        zonal = F.adaptive_avg_pool2d(fields, (fields.shape[-2], regions[1]))
        first = [i * total // regions[0] for i in range(regions[0])]
        after = [-(-(i + 1) * total // regions[0]) for i in range(regions[0])]
        own = torch.arange(total)[self.rows(total, fields.shape[-1])]
        share = torch.stack([((own >= a) & (own < b)).double() / (b - a) for a, b in zip(first, after, strict=True)])
        return self.sum(torch.einsum("...yk,ry->...rk", zonal, share.to(zonal)))

    def to_cells(self, numbers: Tensor, linear: nn.Linear, grid: tuple[int, int]) -> Tensor:
        """This process's rows alone are computed."""
        weight = self.own(linear.weight.reshape(*grid, -1), 0, grid[1]).flatten(0, 1)
        bias = None if linear.bias is None else self.own(linear.bias.reshape(grid), 0, grid[1]).flatten()
        fields = F.linear(numbers, weight, bias)
        return fields.reshape(*numbers.shape[:-1], -1, grid[1])

    def to_tiles(self, fields: Tensor, patch: tuple[int, int]) -> Tensor:
        """The rows of this process's rows of patches, which are dealt out by themselves."""
        total, columns = self.total_rows(fields), fields.shape[-1]
        tiles = (-(-total // patch[0]), -(-columns // patch[1]))
        bounds = self._tile_bounds(tiles[0])
        own = bounds[self.comm.rank]
        # Attention sees patches by their number alone: it tells how many rows of patches they are.
        self._patches[(own[1] - own[0]) * tiles[1]] = tuple((a * tiles[1], b * tiles[1]) for a, b in bounds)
        south = (tiles[0] * patch[0] - total) // 2
        want = [(a * patch[0] - south, b * patch[0] - south) for a, b in bounds]
        return fill_columns(self._window(fields, self.bounds(columns), want, "reflect"), patch[1])

    def from_tiles(self, fields: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
        """From the rows of patches to the rows of fields of their owners."""
        tiles = -(-grid[0] // patch[0])
        south = (tiles * patch[0] - grid[0]) // 2
        stretch = [(a * patch[0] - south, b * patch[0] - south) for a, b in self._tile_bounds(tiles)]
        have = [(max(a, 0), min(b, grid[0])) for a, b in stretch]
        offset = have[self.comm.rank][0] - stretch[self.comm.rank][0]
        length = have[self.comm.rank][1] - have[self.comm.rank][0]
        return self._take(fields[..., offset : offset + length, : grid[1]], have, self.bounds(grid[1]))

    def own_tiles(self, values: Tensor, dim: int, tiles: tuple[int, int]) -> Tensor:
        """A view of those of this process's rows of patches."""
        start, stop = self._tile_bounds(tiles[0])[self.comm.rank]
        return values.narrow(dim, start * tiles[1], (stop - start) * tiles[1])

    def all_tiles(self, values: Tensor) -> Tensor:
        """Gathered from all processes; their gradients go back to whom each patch belongs."""
        bounds = self._patches[values.shape[-2]]
        return self._take(values, bounds, ((0, bounds[-1][1]),) * len(bounds))

    def mask(self, values: Tensor, keep: float) -> Tensor:
        """What dropout multiplies values by: that of one process, of which this one takes its rows."""
        patches = self._patches.get(values.shape[-2]) if values.ndim > 1 else None
        level = self._levels.get(values.shape[-1])
        own = self.comm.rank
        if values.ndim >= 4 and level and level[own][1] - level[own][0] == values.shape[-2]:
            part: Bounds | None = level
        else:
            part = patches
        total = part[-1][1] if part else values.shape[-2]
        whole = values.new_empty((*values.shape[:-2], total, values.shape[-1])).bernoulli_(keep).div_(keep)
        return whole.narrow(-2, part[own][0], values.shape[-2]) if part else whole

    def _tile_bounds(self, rows: int) -> Bounds:
        bounds = shares(rows, self.comm.world)
        _check_rows(bounds, self.grid)
        return bounds

    def _take(self, fields: Tensor, have: Sequence[tuple[int, int]], want: Sequence[tuple[int, int]]) -> Tensor:
        """Rows on (..., own rows, X) that lie within the map."""
        if all(h == w for h, w in zip(have, want, strict=True)):
            return fields
        return _Rows.apply(fields, tuple(have), tuple(want), self)  # type: ignore[no-untyped-call, no-any-return]

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
        taken = self._take(fields, have, inside)
        (a, b), (first, last) = want[self.comm.rank], inside[self.comm.rank]
        south, north = max(-a, 0), max(b - total, 0)
        parts = [taken[..., max(a, 0) - first : min(b, total) - first, :]]
        if south:
            parts.insert(0, _beyond(taken[..., :south, :], taken[..., :1, :], south, edges))
        if north:
            parts.append(_beyond(taken[..., total - first - north :, :], taken[..., -1:, :], north, edges))
        return torch.cat(parts, -2) if len(parts) > 1 else parts[0]


class _Rows(torch.autograd.Function):
    """The rows that this process wants, of those that others have; backward adds the gradients where rows came from."""

    @staticmethod
    def forward(ctx: Any, fields: Tensor, have: Bounds, want: Bounds, sphere: DividedSphere) -> Tensor:
        ctx.have, ctx.want, ctx.sphere = have, want, sphere
        own, mine = have[sphere.comm.rank], want[sphere.comm.rank]
        out = fields.new_empty((*fields.shape[:-2], mine[1] - mine[0], fields.shape[-1]))
        received = _exchange(fields, own, [_overlap(own, w) for w in want], [_overlap(h, mine) for h in have], sphere)
        for part, values in received:
            out[..., part[0] - mine[0] : part[1] - mine[0], :] = values
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        have, want, sphere = ctx.have, ctx.want, ctx.sphere
        own, mine = have[sphere.comm.rank], want[sphere.comm.rank]
        out = gradient.new_zeros((*gradient.shape[:-2], own[1] - own[0], gradient.shape[-1]))
        received = _exchange(
            gradient, mine, [_overlap(h, mine) for h in have], [_overlap(own, w) for w in want], sphere
        )
        for part, values in received:
            out[..., part[0] - own[0] : part[1] - own[0], :] += values
        return out, None, None, None


def _exchange(
    fields: Tensor,
    own: tuple[int, int],
    send: Sequence[tuple[int, int]],
    receive: Sequence[tuple[int, int]],
    sphere: DividedSphere,
) -> list[tuple[tuple[int, int], Tensor]]:
    """Rows of this process to others, and those of others, with this process's own, in the order of ranks.

    Args:
        fields: (..., rows, X), those of `own`.
        own: First and last row plus one of `fields`.
        send: Rows for every process; empty where first is last.
        receive: Rows of every process.
        sphere: The processes; counts what is sent.
    """
    comm = sphere.comm
    ranks = comm.group.ranks if comm.group else tuple(range(comm.world))
    shape = (fields.shape[:-2], fields.shape[-1])
    requests: list[tuple[Any, Tensor, int]] = []
    buffers: list[tuple[tuple[int, int], Tensor]] = []
    for rank, (a, b) in enumerate(send):
        if rank != comm.rank and b > a:
            part = fields[..., a - own[0] : b - own[0], :].contiguous()
            sphere.sent += part.nbytes
            requests.append((dist.isend, part, ranks[rank]))
    for rank, (a, b) in enumerate(receive):
        if b <= a:
            continue
        if rank == comm.rank:
            buffers.append(((a, b), fields[..., a - own[0] : b - own[0], :]))
            continue
        buffer = fields.new_empty((*shape[0], b - a, shape[1]))
        buffers.append(((a, b), buffer))
        requests.append((dist.irecv, buffer, ranks[rank]))
    if requests and not fields.is_meta:
        for request in dist.batch_isend_irecv([dist.P2POp(*request, comm.handle) for request in requests]):
            request.wait()
    return buffers


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> tuple[int, int]:
    return max(a[0], b[0]), min(a[1], b[1])


def _beyond(rows: Tensor, edge: Tensor, number: int, edges: Edges) -> Tensor:
    """What lies beyond a pole, (..., number, X), given the rows next to it and the last one."""
    if edges == "reflect":
        return half_turn(rows.flip(-2))
    shape = (*edge.shape[:-2], number, edge.shape[-1])
    return edge.expand(shape) if edges == "replicate" else edge.new_zeros(shape)


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
        raise TrainingError(
            f"a globe of {grid[0]} rows cannot be divided over {len(bounds)} processes",
            found=f"{bounds[-1][1]} rows where the network's grid is coarsest",
            expected="a row or more for every process",
            hint=(f"--domain {bounds[-1][1]} or fewer" if bounds[-1][1] > 1 else "leave --domain out")
            + ", or a network with fewer halvings",
        )


class DividedGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` whose statistics are those of all rows; parameters have the same names."""

    sphere: DividedSphere

    def forward(self, fields: Tensor) -> Tensor:
        """(B, C, own Y, X) -> the same shape."""
        total = self.num_channels // self.num_groups * self.sphere.total_rows(fields) * fields.shape[-1]
        normal = _GroupNorm.apply(fields, self.weight, self.bias, self.num_groups, self.eps, total, self.sphere)  # type: ignore[no-untyped-call]
        return normal  # type: ignore[no-any-return]


class _GroupNorm(torch.autograd.Function):
    """Normalised by the mean and variance of all rows; kept for the gradient are the fields alone, as torch does.

    With x the normalised fields, g the gradient times the weight and n the values of a group on all processes, the
    gradient is (g - sum(g) / n - x sum(g x) / n) / sigma: both sums are over all rows, too. A sum in the forward pass
    alone would leave out what this process's rows do to the statistics of the others'. Everything is written as numbers
    by channel times fields, so that no copies of fields stand next to them.
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
        """Any shape; of fields and patches the own rows."""
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
    """Have a network compute this process's rows of its fields, in place; its parameters stay whole, with their names.

    Gradients are those of this process's rows: summed over the processes they are those of the whole.
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
