"""One field over two processes against one: seconds of a training step, and the share of it that exchange takes.

Invariant: both give the same loss after the same steps. The reference is the same network on the whole field in one
process; each process computes with one thread.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks import Figure, Work, compare, measure
from emukit.models.registry import build_network
from emukit.parallel import domain as divided
from emukit.parallel.comm import Comm
from emukit.parallel.domain import DividedSphere, divide
from emukit.parallel.launch import Place
from emukit.parallel.rendezvous import join_group
from emukit.sphere import WHOLE, Sphere

GRIDS = ((192, 288), (384, 576))
PROCESSES = 2
STEPS = 3
# Of the frames: channels, a window's length, and months of the one segment.
CHANNELS, HISTORY, MONTHS = 6, 3, 2
# The U-Net on the finest grid, without weights of single cells, whose number would grow with the grid.
OPTIONS = {"local": False, "linear": 0, "coarsen": 0}
AGREEMENT = 1e-4


def bench_divided(runs: int) -> list[Figure]:
    """Steps of the U-Net on two grids."""
    figures = []
    for rows, columns in GRIDS:
        words = (str(rows), str(columns))
        name = f"{STEPS} steps, {rows} x {columns}, {PROCESSES} processes against one"
        work, plain = f"{__name__}:prepare_divided", f"{__name__}:prepare_whole"
        figures.append(compare(name, work, plain, words, runs=runs, tolerance=AGREEMENT))
        share = measure(f"{__name__}:prepare_share", words)
        name = f"exchange of rows, share of a step, {rows} x {columns}, {PROCESSES} processes"
        figures.append(Figure(name, 100 * share.answer, "%", 0.0, float("nan"), share.peak_mb, "", within=True))
    return figures


def prepare_whole(rows: str, columns: str) -> Work:
    """Steps of one process."""
    return _steps((int(rows), int(columns)), None)


def prepare_divided(rows: str, columns: str) -> Work:
    """The same steps of two processes; the loss is their sum over all rows."""
    return _together(rows, columns, lambda steps: steps())


def prepare_share(rows: str, columns: str) -> Work:
    """The share of the time of such steps that is spent on sending rows and waiting for them."""
    waited = 0.0
    exchange = divided._exchange

    def timed(*arguments: object) -> object:
        nonlocal waited
        started = time.perf_counter()
        try:
            return exchange(*arguments)  # type: ignore[arg-type]
        finally:
            waited += time.perf_counter() - started

    def share(steps: Work) -> float:
        divided._exchange = timed  # type: ignore[assignment]
        started = time.perf_counter()
        steps()
        return waited / (time.perf_counter() - started)

    return _together(rows, columns, share)


def _together(rows: str, columns: str, act: Callable[[Work], float]) -> Work:
    """Join a group with processes that take the same steps, and take them."""
    folder = tempfile.mkdtemp(prefix="emukit-divided-")
    place = str(Path(folder, "processes"))
    others = [
        subprocess.Popen([sys.executable, "-m", __name__, str(rank), place, rows, columns])
        for rank in range(1, PROCESSES)
    ]
    steps = _joined(0, place, (int(rows), int(columns)))

    def work() -> float:
        answer = act(steps)
        for other in others:
            other.wait()
        dist.destroy_process_group()
        return answer

    return work


def _joined(rank: int, place: str, grid: tuple[int, int]) -> Work:
    join_group(Place(rank, PROCESSES, rank, "", 0, one_machine=True, file=place), "gloo")
    return _steps(grid, DividedSphere(Comm(rank, PROCESSES), grid))


def _steps(grid: tuple[int, int], sphere: DividedSphere | None) -> Work:
    """Ready to take steps after one that prepares, which returns the loss of the last."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = build_network("unet", in_channels=CHANNELS, variables=2, grid=grid, history=HISTORY, options=OPTIONS)
    if sphere is not None:
        divide(network, sphere)
    of: Sphere = sphere or WHOLE
    frames = of.randn((1, MONTHS + HISTORY - 1, CHANNELS, *grid), torch.empty(0))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = of.cell_mean(network(frames).square()).mean()
        (loss / (PROCESSES if sphere else 1)).backward()  # type: ignore[no-untyped-call]
        if sphere is not None:
            for parameter in network.parameters():
                dist.all_reduce(parameter.grad)
        optimizer.step()
        return float(loss.detach())

    step()

    def work() -> float:
        for _ in range(STEPS - 1):
            step()
        return step()

    return work


if __name__ == "__main__":
    torch.set_num_threads(1)
    _joined(int(sys.argv[1]), sys.argv[2], (int(sys.argv[3]), int(sys.argv[4])))()
    dist.destroy_process_group()
