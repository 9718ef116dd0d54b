"""What one field over several processes takes: counted for any number of them, in one process and without computing.

Invariant: bytes are those that the processes would keep and send, tensor by tensor: the network runs forward and
backward on tensors without storage, with the rows that one of the processes would have.
"""

from __future__ import annotations

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
        processes: How many share it; 1: it is whole.
        rows: Its rows.
        whole: Rows of the globe.
        kept: Bytes of tensors that it keeps for the backward pass.
        sent: Bytes of rows that it sends, forward and backward.
    """

    processes: int
    rows: int
    whole: int
    kept: int
    sent: int


def count_divided(
    network: nn.Module,
    frame: tuple[int, int, int],
    history: int,
    batch: tuple[int, int],
    precision: str,
    processes: int,
) -> DividedCost:
    """Count a forward and backward pass of a batch by one of several processes that share a globe.

    Args:
        network: One that can be divided; itself it is left as it is.
        frame: (C, Y, X) of the whole grid.
        history: H, frames of a window.
        batch: Segments, and months of each.
        precision: As in the training settings.
        processes: How many share a globe; 1: it is whole.

    Raises:
        TrainingError: Some process would have no rows at some level of the network.
    """
    channels, *grid = frame
    sphere = None
    rows = grid[0]
    if processes > 1:
        bounds = DividedSphere(Comm(0, processes), (grid[0], grid[1])).bounds(grid[1])
        lengths = [b - a for a, b in bounds]
        # Those in the middle have neighbours on both sides.
        busiest = max(range(processes), key=lambda r: (lengths[r], 0 < r < processes - 1))
        sphere, rows = DividedSphere(Comm(busiest, processes), (grid[0], grid[1])), lengths[busiest]
    shape = (batch[0], batch[1] + history - 1, channels, rows, grid[1])
    kept = count_pass(network, shape, precision, sphere)
    return DividedCost(processes, rows, grid[0], kept, sphere.sent if sphere else 0)


def on_device(memory: MemoryPlan, cost: DividedCost) -> int:
    """Bytes on the device of a process that has some of the rows, of a plan for all of them."""
    share = cost.rows / cost.whole
    streamed = memory.residency == "host" and memory.device != "cpu"
    return memory.own_state + int(share * ((0 if streamed else memory.data) + memory.batch)) + cost.kept
