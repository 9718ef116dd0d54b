"""Training batches of blocks: rectangles of the map at random places, round in longitude, bounded in latitude.

Invariant: a block over the dateline is the block of the rolled field; blocks never cross a pole. How often a cell is in
a block is known exactly (`hit_frequency`): rows next to a pole are in few, which `weights` makes up for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, field_validator

from emukit.config import Settings
from emukit.data.archive import Archive
from emukit.data.coarsen import Coarsening, in_context
from emukit.data.grid import Grid
from emukit.data.sampler import Sample
from emukit.data.split import Span
from emukit.data.time import TimeAxis
from emukit.errors import ProtocolError, RecipeError

Array = NDArray[np.float64]
Cells = NDArray[np.int64]

WEIGHTS = "weights"
# What an answer is added to: frames alone know what that is made of.
_Base = TypeVar("_Base")


class BlockSettings(Settings):
    """How training fields are cut into blocks.

    Attributes:
        size: Rows and columns of a block.
        per_time: Blocks cut from each time step that is read.
        times: Time steps of a batch, which then holds times x per_time blocks.
        share: Share of the training steps that an epoch reads; every epoch draws its own.
        weights: How cells count in the loss: ``corrected``: with their area over how often they are in a block, so that
            the loss is that of the globe; ``area``: with their area alone; ``none``: all alike.
    """

    size: tuple[int, int] = (24, 36)
    per_time: int = Field(2, ge=1, le=10_000)
    times: int = Field(8, ge=1, le=10_000)
    share: float = Field(1.0, gt=0, le=1)
    weights: Literal["corrected", "area", "none"] = "corrected"

    @field_validator("size", mode="before")
    @classmethod
    def _pair(cls, size: object) -> object:
        return pair(size)

    @field_validator("size")
    @classmethod
    def _some_cells(cls, size: tuple[int, int]) -> tuple[int, int]:
        if min(size) < 1:
            raise ValueError("a block has at least one cell")
        return size


def pair(value: object) -> object:
    """Two numbers written as ``24,36``, as `--set` takes them; anything else as it is."""
    if isinstance(value, str):
        parts = value.split(",")
        if len(parts) == 2 and all(p.strip().isdecimal() for p in parts):
            return tuple(int(p) for p in parts)
    return value


class Block(NamedTuple):
    """The address of a block: span number, position of the member in its span, step, first row, first column."""

    span: int
    member: int
    step: int
    row: int
    column: int


class BlockFrames(Protocol[_Base]):
    """What a network is shown of a block, and asked for.

    Attributes:
        channels: Names of the frames' channels.
        context: Steps on either side whose coarse fields it reads too, as `in_context` lays them out.
    """

    channels: tuple[str, ...]
    context: int

    def block(
        self, coarse: NDArray[np.floating], time: TimeAxis, rows: Cells, columns: Cells
    ) -> tuple[NDArray[np.float32], _Base]:
        """(T, C, y, x) frames of some steps of a block, and what the network's answer is added to."""

    def residual(self, fine: NDArray[np.floating], base: _Base, time: TimeAxis, rows: Cells, columns: Cells) -> Array:
        """(T, V, y, x) the answer that gives the truth of the block."""


def check_size(size: tuple[int, int], grid: Grid) -> None:
    """Refuse a block that is larger than the map.

    Raises:
        RecipeError: It is.
    """
    if any(b > g for b, g in zip(size, grid.shape, strict=True)):
        raise RecipeError(
            "a block is larger than the map",
            found=f"blocks.size = {size[0]},{size[1]}",
            expected=f"at most {grid.shape[0]},{grid.shape[1]}",
            hint=f"--set blocks.size={min(size[0], grid.shape[0])},{min(size[1], grid.shape[1])}",
        )


def hit_frequency(grid: Grid, size: tuple[int, int]) -> Array:
    """(Y,) the probability that a cell of a row is in a block whose place is drawn at random.

    First rows are drawn evenly from all that leave room for the block, first columns from all.
    """
    (rows, columns), (height, width) = grid.shape, size
    places = rows - height + 1
    row = np.arange(rows)
    holding = np.minimum(row, places - 1) - np.maximum(row - height + 1, 0) + 1
    return np.asarray(holding / places * (width / columns), np.float64)


def cell_weights(grid: Grid, settings: BlockSettings) -> Array:
    """(Y,) the weight of a cell of a row in the sum over a block; over random blocks their sum is one on average."""
    (rows, columns), (height, width) = grid.shape, settings.size
    if settings.weights == "none":
        return np.full(rows, 1.0 / (height * width))
    area = grid.weights[:, 0]
    hits = hit_frequency(grid, settings.size)
    weights = area / hits if settings.weights == "corrected" else area
    return np.asarray(weights / (weights * hits * columns).sum(), np.float64)


class BlockSampler:
    """The sampler of blocks: every training step of every member is read once in an epoch, in random order.

    Attributes:
        settings: How blocks are cut.
        spans: What is trained on.
        length: L, always one step.
    """

    length = 1

    def __init__(
        self,
        archive: Archive,
        spans: Sequence[Span],
        coarsening: Coarsening,
        frames: BlockFrames[Any] | Sequence[BlockFrames[Any]],
        settings: BlockSettings,
        device: torch.device | str = "cpu",
    ) -> None:
        """Coarsen the training fields; fine ones are read out of the archive block by block.

        Args:
            archive: The data.
            spans: Training spans.
            coarsening: Of the fine grid.
            frames: Makes what the network is shown; one for all spans, or one for each.
            settings: How.
            device: Where batches are put.

        Raises:
            RecipeError: A block is larger than the map.
            ProtocolError: There is nothing to train on.
        """
        check_size(settings.size, archive.grid)
        if not spans or not any(len(s) for s in spans):
            raise ProtocolError("there are no training months to cut blocks from")
        self.settings, self.spans, self.grid = settings, tuple(spans), archive.grid
        self._archive, self._device = archive, torch.device(device)
        self._frames = tuple(frames) if isinstance(frames, Sequence) else (frames,) * len(self.spans)

        def seen(span: Span, member: int, context: int) -> NDArray[np.floating]:
            coarse = coarsening.down(archive[span.scenario].truth(member, span.start, span.stop))
            return in_context(coarse.astype(np.float32), context)

        pairs = [*zip(self.spans, self._frames, strict=True)]
        self._coarse = [[seen(span, m, own.context) for m in span.members] for span, own in pairs]
        self._times = np.concatenate(
            [
                np.stack([x.ravel() for x in np.meshgrid(i, range(len(s.members)), range(len(s)), indexing="ij")], 1)
                for i, s in enumerate(self.spans)
            ]
        )
        self._read = max(1, round(settings.share * len(self._times)))
        self._weights = cell_weights(archive.grid, settings)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-self._read // self.settings.times)

    @property
    def resident_bytes(self) -> int:
        """Size of the coarse fields, which are kept next to the archive."""
        return sum(c.nbytes for span in self._coarse for c in span)

    def epoch(self, epoch: int, seed: int) -> list[list[Block]]:
        """Addresses of an epoch's batches, a function of seed and epoch alone."""
        rng = np.random.default_rng([seed, epoch, 0xB10C])
        (rows, columns), (height, _) = self.grid.shape, self.settings.size
        chosen = self._times[rng.permutation(len(self._times))[: self._read]]
        number = self.settings.per_time
        places = np.stack(
            [
                rng.integers(0, rows - height + 1, (len(chosen), number)),
                rng.integers(0, columns, (len(chosen), number)),
            ],
            -1,
        )
        blocks = [
            [Block(span, member, step, row, column) for row, column in own]
            for (span, member, step), own in zip(chosen.tolist(), places.tolist(), strict=True)
        ]
        size = self.settings.times
        return [[b for own in blocks[i : i + size] for b in own] for i in range(0, len(blocks), size)]

    def cells(self, block: Block) -> tuple[Cells, Cells]:
        """Rows and columns of a block."""
        height, width = self.settings.size
        return block.row + np.arange(height), (block.column + np.arange(width)) % self.grid.shape[1]

    def batch(self, addresses: Sequence[Block], steps: slice | None = None) -> Sample:
        """Read blocks: frames (S, 1, C, y, x), targets (S, 1, V, y, x) and their `weights` (S, 1, y, x)."""
        frames, targets, weights = [], [], []
        for block in addresses:
            span = self.spans[block.span]
            scenario, step = self._archive[span.scenario], span.start + block.step
            rows, columns = self.cells(block)
            time = scenario.time[step : step + 1]
            coarse = self._coarse[block.span][block.member][block.step : block.step + 1]
            own = self._frames[block.span]
            shown, base = own.block(coarse, time, rows, columns)
            assert scenario.targets is not None
            whole = scenario.targets[scenario.member_index(span.members[block.member]), step]
            fine = whole[:, block.row : block.row + len(rows)][..., columns][None]
            frames.append(shown)
            targets.append(own.residual(fine, base, time, rows, columns))
            weights.append(np.broadcast_to(self._weights[rows, None], (1, len(rows), len(columns))))
        put = [torch.from_numpy(np.stack(part).astype(np.float32)) for part in (frames, targets, weights)]
        shown_, wanted, weight = (t.to(self._device) for t in put)
        return Sample(shown_, wanted, {WEIGHTS: weight})

    def prefetch(self, addresses: Sequence[Block], steps: slice | None = None) -> None:
        """Nothing: blocks are small, and read when they are needed."""

    def address(self, addresses: Sequence[Block]) -> str:
        """For people: what a batch holds."""
        said = []
        for b in addresses:
            span = self.spans[b.span]
            time = self._archive[span.scenario].time
            said.append(
                f"{span.scenario} member {span.members[b.member]} {time.text(span.start + b.step)} "
                f"row {b.row} column {b.column}"
            )
        return "; ".join(said[:4]) + (f" and {len(said) - 4} more" if len(said) > 4 else "")
