"""What one field over several processes takes: counted for any number of them, in one process and without computing.

Invariant: bytes are those that the processes would keep and send, tensor by tensor: the network runs forward and
backward on tensors without storage, with the cells that one of the processes would have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn

from emukit.parallel.comm import Comm
from emukit.parallel.domain import DividedSphere
from emukit.planning.memory import MemoryPlan
from emukit.training.footprint import count_pass

# Processes that are tried, one after another, for the fewest that will do.
TRIED = (2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class DividedCost:
    """What a step takes of the busiest process of several that share a globe.

    Attributes:
        rows: Processes that rows are divided over.
        columns: Processes that each row is divided over.
        part: Rows and columns that it has.
        grid: (Y, X) of the globe.
        kept: Bytes of tensors that it keeps for the backward pass.
        sent: Bytes of cells that it sends, forward and backward.
    """

    rows: int
    columns: int
    part: tuple[int, int]
    grid: tuple[int, int]
    kept: int
    sent: int

    @property
    def processes(self) -> int:
        """How many share the globe."""
        return self.rows * self.columns

    @property
    def option(self) -> str:
        """What --domain is to say."""
        return f"{self.rows}x{self.columns}" if self.columns > 1 else str(self.rows)


def count_divided(
    network: nn.Module,
    frame: tuple[int, int, int],
    history: int,
    batch: tuple[int, int],
    precision: str,
    rows: int,
    columns: int = 1,
) -> DividedCost:
    """Count a forward and backward pass of a batch by one of several processes that share a globe.

    Args:
        network: One that can be divided; itself it is left as it is.
        frame: (C, Y, X) of the whole grid.
        history: H, frames of a window.
        batch: Segments, and months of each.
        precision: As in the training settings.
        rows: Processes that rows are divided over.
        columns: Processes that each row is divided over; where both are 1, the globe is whole.

    Raises:
        TrainingError: Some process would have no cells at some level of the network.
    """
    channels, grid = frame[0], (frame[1], frame[2])
    processes, sphere, part = rows * columns, None, grid
    if processes > 1:
        bounds = DividedSphere(Comm(0, processes, columns=columns), grid).bounds(grid[1])
        lengths = [b - a for a, b in bounds]
        # Those in the middle have neighbours on both sides.
        busiest = max(range(len(lengths)), key=lambda r: (lengths[r], 0 < r < len(lengths) - 1))
        sphere = DividedSphere(Comm(busiest * columns, processes, columns=columns), grid)
        part = (lengths[busiest], grid[1] // columns)
    kept = count_pass(network, (batch[0], batch[1] + history - 1, channels, *part), precision, sphere)
    return DividedCost(rows, columns, part, grid, kept, sphere.sent if sphere else 0)


def on_device(memory: MemoryPlan, cost: DividedCost) -> int:
    """Bytes on the device of a process that has some of the cells, of a plan for all of them."""
    share = math.prod(cost.part) / math.prod(cost.grid)
    streamed = memory.residency == "host" and memory.device != "cpu"
    return memory.own_state + int(share * ((0 if streamed else memory.data) + memory.batch)) + cost.kept
