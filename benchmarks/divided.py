"""One field over several processes against one: seconds and memory of a training step, of reading, and of exchange.

Invariant: both give the same loss after the same steps. The reference is the same network on the whole field in one
process; each process computes with one thread.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from benchmarks import Figure, Work, compare, measure
from benchmarks.child import peak_mb
from emukit.data.demo import DemoClimate
from emukit.data.demo.planet import emission_grid, target_grid
from emukit.data.frames import FrameEncoder, InputSettings
from emukit.data.segments import SegmentSampler, SegmentSettings
from emukit.data.split import Span
from emukit.data.store import open_store
from emukit.data.targets import TargetNormalizer
from emukit.data.zarr_writer import write_zarr
from emukit.models.registry import build_network
from emukit.parallel import domain as divided
from emukit.parallel.comm import Comm, join_group
from emukit.parallel.domain import DividedSphere, divide
from emukit.parallel.launch import ProcessPlace
from emukit.planning.memory import count_divided
from emukit.sphere import WHOLE, Sphere, part_shape

GRIDS = ((192, 288), (384, 576))
PROCESSES = 2
STEPS = 3
# Processes that rows, and each row, are divided among, of which the memory is looked at.
DIVISIONS = ((2, 1), (4, 1), (2, 2))
# Of the frames: channels, a window's length, and months of the one segment.
CHANNELS, HISTORY, MONTHS = 6, 3, 2
# The U-Net on the finest grid, without weights of single cells, whose number would grow with the grid.
OPTIONS = {"local": False, "linear": 0, "coarsen": 0}
AGREEMENT = 1e-4
# The store that is read: so many cells each way for one of the demo climate, years, and rows of a chunk.
FINER, YEARS, CHUNK_ROWS = 4, 3, 24
# How much more than its share of the cells a process may keep for the gradient: rows and columns of its neighbours.
HALO = 0.05


def bench_divided(runs: int) -> list[Figure]:
    """Steps of the U-Net on two grids, and their memory."""
    figures = []
    for rows, columns in GRIDS:
        words = (str(rows), str(columns))
        name = f"{STEPS} steps, {rows} x {columns}, {PROCESSES} processes against one"
        work, plain = f"{__name__}:prepare_divided", f"{__name__}:prepare_whole"
        figures.append(compare(name, work, plain, words, runs=runs, tolerance=AGREEMENT))
        share = measure(f"{__name__}:prepare_share", words)
        name = f"exchange, share of a step, {rows} x {columns}, {PROCESSES} processes"
        figures.append(Figure(name, 100 * share.answer, "%", 0.0, math.nan, share.peak_mb, "", within=True))
    return [*figures, *_memory(*GRIDS[-1]), *_reading(*GRIDS[-1])]


def _memory(rows: int, columns: int) -> list[Figure]:
    """What the busiest process keeps for the gradient, counted, and the peak of the first one above its start."""
    frame, batch = (CHANNELS, rows, columns), (1, MONTHS)
    network = _network((rows, columns))
    whole = count_divided(network, frame, HISTORY, batch, "fp32", 1)
    alone = measure(f"{__name__}:prepare_memory", (str(rows), str(columns), "1", "1")).answer
    figures = []
    for down, across in DIVISIONS:
        cost = count_divided(network, frame, HISTORY, batch, "fp32", down, across)
        peak = measure(f"{__name__}:prepare_memory", (str(rows), str(columns), str(down), str(across)))
        share = (1 + HALO) * cost.part[0] * cost.part[1] / (rows * columns)
        where = f"{rows} x {columns}, {down} x {across} processes"
        kept = (cost.kept / 1e6, "MB", whole.kept / 1e6, whole.kept / cost.kept)
        bound = f"at most {100 * share:.0f} % of one process's"
        within = cost.kept <= share * whole.kept
        figures.append(Figure(f"kept for the gradient by each, {where}", *kept, peak.peak_mb, bound, within))
        name = f"peak above the start of a process, {where}"
        figures.append(Figure(name, peak.answer, "MB", alone, alone / peak.answer, peak.peak_mb, "", within=True))
    return figures


def _reading(rows: int, columns: int) -> list[Figure]:
    """How much the first process grows while a store is read, normalised and encoded."""
    figures = []
    with tempfile.TemporaryDirectory(prefix="emukit-divided-") as folder:
        store = Path(folder, "rows.zarr")
        held = write_rows(store, rows, columns) / 1e6
        alone = measure(f"{__name__}:prepare_reading", (str(store), str(rows), str(columns), "1", "1")).answer
        for down, across in DIVISIONS:
            words = (str(store), str(rows), str(columns), str(down), str(across))
            peak = measure(f"{__name__}:prepare_reading", words)
            name = f"peak above the start of a process that reads {held:.0f} MB, {rows} x {columns}, {down} x {across}"
            name += " processes"
            figures.append(Figure(name, peak.answer, "MB", alone, alone / peak.answer, peak.peak_mb, "", within=True))
    return figures


def write_rows(store: Path, rows: int, columns: int) -> int:
    """Write a demo climate whose cells are cut into finer ones, some rows in each chunk; bytes of its fields."""
    climate = DemoClimate(rows // FINER, columns // FINER, years=YEARS, members=1)
    coarse, grid = climate.dataset(hidden=False), target_grid(rows, columns)
    other = emission_grid(rows, columns)
    place = {"y": grid.lat, "x": grid.lon, "latitude": other.lat, "longitude": other.lon}
    fine = coarse.isel({d: np.arange(len(v)) // FINER for d, v in place.items()}).assign_coords(place)
    fields = [str(v) for v in fine.data_vars if {"y", "latitude"} & set(fine[v].dims)]
    for v in fields:
        fine[v] = fine[v].astype(np.float32)
    one = {"y": CHUNK_ROWS, "latitude": CHUNK_ROWS, "ssp": 1}
    chunks = {v: {"chunks": tuple(one.get(str(d), n) for d, n in fine[v].sizes.items())} for v in fields}
    time_axis: dict[Hashable, Any] = {"time": {"units": "days since 2015-01-15", "calendar": "noleap"}}
    write_zarr(fine, store, time_axis | {v: {**e, "compressors": None} for v, e in chunks.items()})
    return sum(fine[v].nbytes for v in fields)


def prepare_reading(store: str, rows: str, columns: str, down: str, across: str) -> Work:
    """Megabytes by which the first of so many processes, or one alone, grows while it makes a store ready."""
    if down == across == "1":
        return lambda: _read(store, None)
    folder = tempfile.mkdtemp(prefix="emukit-divided-")
    words = (str(Path(folder, "processes")), rows, columns, down, across)
    others = _others(words, store)
    sphere = _joined(0, *words)

    def work() -> float:
        grown = _read(store, sphere)
        _part(others)
        return grown

    return work


def _read(store: str, sphere: DividedSphere | None) -> float:
    before = peak_mb()
    archive = open_store(store, comm=sphere.comm if sphere else None)
    spans = [Span(name, 0, len(scenario), scenario.members) for name, scenario in archive.items()]
    encoder = FrameEncoder.fit(archive, spans, InputSettings())
    normalizer = TargetNormalizer.fit(archive, spans, {})
    part = (sphere or WHOLE).part(archive.grid.shape)
    SegmentSampler(archive, spans, encoder, normalizer, SegmentSettings(length=12), "cpu", part)
    return peak_mb() - before


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


def prepare_memory(rows: str, columns: str, down: str, across: str) -> Work:
    """Megabytes by which the first of so many processes, or one alone, grows while it takes steps."""
    grid = (int(rows), int(columns))
    if down == across == "1":
        return lambda: _grown(grid, None)
    return _together(rows, columns, lambda steps: steps(), down, across, growth=True)


def _grown(grid: tuple[int, int], sphere: DividedSphere | None) -> float:
    before = peak_mb()
    _steps(grid, sphere)()
    return peak_mb() - before


def _together(
    rows: str,
    columns: str,
    act: Callable[[Work], float],
    down: str = str(PROCESSES),
    across: str = "1",
    *,
    growth: bool = False,
) -> Work:
    """Join a group with processes that take the same steps, and take them; or say how much this one grows by them."""
    folder = tempfile.mkdtemp(prefix="emukit-divided-")
    words = (str(Path(folder, "processes")), rows, columns, down, across)
    others = _others(words)
    sphere = _joined(0, *words)
    steps = (lambda: _grown(sphere.grid, sphere)) if growth else _steps(sphere.grid, sphere)

    def work() -> float:
        answer = act(steps)
        _part(others)
        return answer

    return work


def _others(words: tuple[str, str, str, str, str], *more: str) -> list[subprocess.Popen[bytes]]:
    world = int(words[3]) * int(words[4])
    command = [sys.executable, "-m", __name__]
    return [subprocess.Popen([*command, str(rank), *words, *more]) for rank in range(1, world)]


def _part(others: list[subprocess.Popen[bytes]]) -> None:
    for other in others:
        other.wait()
    dist.destroy_process_group()


def _joined(rank: int, place: str, rows: str, columns: str, down: str, across: str) -> DividedSphere:
    world = int(down) * int(across)
    join_group(ProcessPlace(rank, world, rank, "", 0, one_machine=True, file=place), "gloo")
    return DividedSphere(Comm(rank, world, columns=int(across)), (int(rows), int(columns)))


def _network(grid: tuple[int, int]) -> nn.Module:
    torch.manual_seed(0)
    return build_network("unet", in_channels=CHANNELS, variables=2, grid=grid, history=HISTORY, options=OPTIONS)


def _steps(grid: tuple[int, int], sphere: DividedSphere | None) -> Work:
    """Ready to take steps after one that prepares, which returns the loss of the last."""
    torch.set_num_threads(1)
    network = _network(grid)
    if sphere is not None:
        divide(network, sphere)
    of: Sphere = sphere or WHOLE
    own = part_shape(of.part(grid), grid)
    frames = of.randn((1, MONTHS + HISTORY - 1, CHANNELS, *own), torch.empty(0))
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = of.cell_mean(network(frames).square()).mean()
        (loss / (sphere.comm.world if sphere else 1)).backward()  # type: ignore[no-untyped-call]
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


def accompany(rank: str, *words: str) -> None:
    """In one of the other processes: join the group, and take the same steps, or read the store that is named last."""
    torch.set_num_threads(1)
    place, rows, columns, down, across, *store = words
    joined = _joined(int(rank), place, rows, columns, down, across)
    if store:
        _read(store[0], joined)
    else:
        _steps(joined.grid, joined)()
    dist.destroy_process_group()


if __name__ == "__main__":
    accompany(*sys.argv[1:])
