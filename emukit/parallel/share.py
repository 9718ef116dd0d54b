"""Which cells of every field a process holds, and what it learns of the cells that others hold.

Invariant: what is asked here has the same answer on every process that shares a globe, up to the order in which floats
are added; all of them ask the same, in the same order. A process that shares its globe with nobody holds all cells, and
is asked for nothing that costs anything.

Fields are NumPy arrays whose last two axes are rows and columns: (..., Y, X) of all cells, (..., y, x) of those that a
process holds.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from emukit.parallel.comm import Comm
    from emukit.parallel.domain import DividedSphere

Array = NDArray[np.float64]

# Of all cells of some steps that are brought together at once.
PIECE_BYTES = 1 << 24


class Share:
    """All cells: what a process holds that shares its globe with nobody.

    Attributes:
        divided: Whether others hold cells of the same fields.
        rows: Those that are held here.
        columns: Likewise.
        first: Whether this process is the first of those that share the globe.
    """

    divided = False
    first = True
    rows = slice(None)
    columns = slice(None)

    def shape(self, grid: tuple[int, int]) -> tuple[int, int]:
        """(y, x) of what is held of fields on a grid of (Y, X) cells."""
        return grid

    def own(self, fields: NDArray[Any]) -> NDArray[Any]:
        """(..., Y, X) -> (..., y, x): a view of the cells that are held here."""
        return fields

    def cut(self, fields: NDArray[Any], part: tuple[slice, slice]) -> NDArray[Any]:
        """Those of a part of the grid.

        Args:
            fields: (..., y, x), as they are held here.
            part: Rows and columns of the grid: the cells that are held here, or all of them.
        """
        return fields[..., *part]

    def whole(self, fields: NDArray[Any]) -> NDArray[Any]:
        """(..., y, x) -> (..., Y, X), on every process."""
        return fields

    def at_first(self, fields: NDArray[Any]) -> NDArray[Any] | None:
        """(..., y, x) -> (..., Y, X) on the first process, None on the others."""
        return fields

    def pieces_at_first(self, fields: NDArray[Any]) -> Iterator[NDArray[Any] | None]:
        """`at_first` of (T, ..., y, x) fields, so many steps at a time that little memory is taken."""
        rows, columns = self.whole_shape(fields)
        step = max(1, PIECE_BYTES // (math.prod(fields.shape[1:-2]) * rows * columns * fields.dtype.itemsize))
        for start in range(0, len(fields), step):
            yield self.at_first(fields[start : start + step])

    def whole_shape(self, fields: NDArray[Any]) -> tuple[int, int]:
        """(Y, X) of all cells of fields (..., y, x)."""
        return fields.shape[-2], fields.shape[-1]

    def sum(self, values: Any) -> Array:
        """What all processes have, added up, of any shape."""
        return np.asarray(values, np.float64)

    def every(self, flags: Any) -> NDArray[np.bool_]:
        """Where flags of any shape are set on every process."""
        return np.asarray(flags, np.bool_)

    def any(self, flags: Any) -> NDArray[np.bool_]:
        """Where flags of any shape are set on some process."""
        return np.asarray(flags, np.bool_)

    def extremes(self, low: Array, high: Array) -> tuple[Array, Array]:
        """The smallest of `low` and the largest of `high` over the processes; NaN where one has NaN."""
        return low, high

    def texts(self, text: str) -> list[str]:
        """What every process says, in the order of their ranks."""
        return [text]

    def keys(self, own: Sequence[bytes]) -> list[bytes]:
        """Of each piece of bytes, what stands for it and for those of the other processes in its place."""
        return list(own)

    def of_first(self, compute: Callable[[], str]) -> str:
        """What the first process computes, on every process."""
        return compute()


ALONE = Share()


class DividedShare(Share):
    """The cells of one of several processes that share a globe."""

    divided = True

    def __init__(self, comm: Comm, sphere: DividedSphere) -> None:
        """Hold what a divided sphere gives this process.

        Args:
            comm: The processes that share the globe.
            sphere: Which cells are whose.
        """
        self._comm, self._sphere = comm, sphere
        self.first = comm.main
        self.rows, self.columns = sphere.part(sphere.grid)

    def shape(self, grid: tuple[int, int]) -> tuple[int, int]:
        """Of this process."""
        return len(range(*self.rows.indices(grid[0]))), len(range(*self.columns.indices(grid[1])))

    def own(self, fields: NDArray[Any]) -> NDArray[Any]:
        """This process's."""
        return fields[..., self.rows, self.columns]

    def cut(self, fields: NDArray[Any], part: tuple[slice, slice]) -> NDArray[Any]:
        """As they are, or gathered where all are asked for."""
        return fields if part == (self.rows, self.columns) else self.whole(fields)[..., *part]

    def whole(self, fields: NDArray[Any]) -> NDArray[Any]:
        """Gathered."""
        return self._gathered(fields, at_first=False)

    def at_first(self, fields: NDArray[Any]) -> NDArray[Any] | None:
        """Sent to the first process."""
        found = self._gathered(fields, at_first=True)
        return found if self.first else None

    def whole_shape(self, fields: NDArray[Any]) -> tuple[int, int]:
        """Of the grid."""
        return self._sphere.grid

    def _gathered(self, fields: NDArray[Any], *, at_first: bool) -> NDArray[Any]:
        import torch

        native = np.ascontiguousarray(fields, fields.dtype.newbyteorder("="))
        with torch.no_grad():
            values = torch.from_numpy(native).to(self._comm.device)
            return self._sphere.gather(values, at_first=at_first).cpu().numpy()

    def sum(self, values: Any) -> Array:
        """Over all of them, in float64."""
        return self._comm.sum(np.asarray(values, np.float64))

    def every(self, flags: Any) -> NDArray[np.bool_]:
        """Counted."""
        return np.asarray(self.sum(flags) == self._comm.world)

    def any(self, flags: Any) -> NDArray[np.bool_]:
        """Counted."""
        return np.asarray(self.sum(flags) > 0)

    def extremes(self, low: Array, high: Array) -> tuple[Array, Array]:
        """Of what all of them send."""
        import torch

        # Reductions of torch's backends do not agree on what is the smaller of a number and NaN; NumPy's do.
        pair = np.ascontiguousarray(np.stack((low, -high)), np.float64)
        sent = self._comm.gather_bytes(torch.from_numpy(pair.reshape(-1).view(np.uint8)))
        least = np.min([each.numpy().view(np.float64).reshape(pair.shape) for each in sent], axis=0)
        return least[0], -least[1]

    def texts(self, text: str) -> list[str]:
        """As UTF-8."""
        import torch

        comm = self._comm
        said = np.frombuffer(text.encode(), np.uint8)
        lengths = comm.sum(np.eye(comm.world)[comm.rank] * len(said)).astype(int)
        padded = np.zeros(max(1, lengths.max()), np.uint8)
        padded[: len(said)] = said
        sent = comm.gather_bytes(torch.from_numpy(padded))
        return [bytes(each.numpy()[:n]).decode() for each, n in zip(sent, lengths, strict=True)]

    def keys(self, own: Sequence[bytes]) -> list[bytes]:
        """Digests of all of them, joined."""
        each = [hashlib.blake2b(piece, digest_size=8).hexdigest() for piece in own]
        return ["".join(of).encode() for of in zip(*map(str.split, self.texts(" ".join(each))), strict=True)]

    def of_first(self, compute: Callable[[], str]) -> str:
        """Sent to the others."""
        return self.texts(compute() if self.first else "")[0]


def share_of(comm: Comm | None, grid: tuple[int, int]) -> Share:
    """What a process holds of fields on a grid of (Y, X) cells.

    Args:
        comm: The processes that share the globe; None: this one alone.
        grid: Of all cells.

    Raises:
        TrainingError: There are fewer rows than processes, or the columns do not divide.
    """
    if comm is None or comm.world == 1:
        return ALONE
    from emukit.parallel.domain import DividedSphere

    return DividedShare(comm, DividedSphere(comm, grid))
