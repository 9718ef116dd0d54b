"""Training steps on one device: precisions and segment lengths, against the device's own ceilings.

Invariant: every line of a network trains on the same number of months with the same weights; each runs in a fresh
process, and its ceilings are measured in the same run. What cannot run here has a line that says why.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import nn

from benchmarks import Measured, Work, measure, times_faster
from benchmarks.networks import PUBLISHED, Job, channels_of, made_up_archive, network_recipe, read_job, wait
from benchmarks.roofline import Cost, autocast, count_step, use_precision
from emukit.data.split import Span
from emukit.errors import EmukitError
from emukit.models.registry import NETWORKS, build_network

PRECISIONS = ("fp32", "tf32", "bf16", "bf16+compile")
LENGTHS = (1, 12, 60)
# The line that the others of a network are held against.
BASE = ("fp32", 1)
# Target months of a step, whatever the segments they stand in: a multiple of every length.
MONTHS = {"cuda": 240, "cpu": 60}
LARGE = "model.size=large"
# Steps are repeated for about this long.
SECONDS = 1.0


@dataclass(frozen=True)
class DeviceRow:
    """One network, precision and segment length on one device.

    Attributes:
        network: Name and settings.
        precision: fp32, tf32, bf16 or bf16+compile.
        segments: How the months of a step stand in it, such as ``20 x 12``.
        rate: Months trained in a second; NaN where nothing ran.
        times: Against the network in float32 with a window for each month; NaN where that line has no numbers.
        milliseconds: Of a step: forward, backward and AdamW.
        memory_mb: Peak of the device, in 1e6 bytes.
        teraflops: Operations in a second, counted, in 1e12.
        gigabytes: Traffic in a second by the model of `benchmarks.roofline`, in 1e9 bytes.
        fraction: Of the roofline: the time the ceilings allow over the time it took.
        note: Which ceiling is the lower one, or why there are no numbers.
    """

    headings: ClassVar[tuple[str, ...]] = (
        "network",
        "precision",
        "segments",
        "months/s",
        "times\nfaster",
        "step\nms",
        "peak\nMB",
        "TFLOP/s",
        "GB/s",
        "of the\nroofline",
        "bound by",
    )
    within: ClassVar[bool] = True

    network: str
    precision: str
    segments: str
    rate: float = math.nan
    times: float = math.nan
    milliseconds: float = math.nan
    memory_mb: float = math.nan
    teraflops: float = math.nan
    gigabytes: float = math.nan
    fraction: float = math.nan
    note: str = ""

    def cells(self) -> tuple[str, ...]:
        """What stands under the headings."""
        numbers = (
            (self.milliseconds, "{:.1f}"),
            (self.memory_mb, "{:.0f}"),
            (self.teraflops, "{:.2f}"),
            (self.gigabytes, "{:.1f}"),
            (self.fraction, "{:.0%}"),
        )
        shown = ("-" if math.isnan(value) else text.format(value) for value, text in numbers)
        rate = "-" if math.isnan(self.rate) else f"{self.rate:.1f}"
        return (self.network, self.precision, self.segments, rate, times_faster(self.times), *shown, self.note)


@dataclass(frozen=True)
class CeilingRow:
    """What the device gives at best, measured in this run: the two arms of the roofline."""

    headings: ClassVar[tuple[str, ...]] = ("ceiling", "measured by", "value")
    within: ClassVar[bool] = True

    name: str
    how: str
    value: float
    unit: str

    def cells(self) -> tuple[str, ...]:
        """What stands under the headings."""
        return (self.name, self.how, f"{self.value:.2f} {self.unit}")


def bench_device(
    jobs: Sequence[Job],
    runs: int,
    *,
    lengths: Sequence[int] = LENGTHS,
    precisions: Sequence[str] = PRECISIONS,
    ceiling: Sequence[str] = (),
) -> list[CeilingRow | DeviceRow]:
    """Ceilings of the device, then a line for each network, precision and segment length.

    Args:
        jobs: The networks, on one device; `months` must be a multiple of every length.
        runs: Measurements of each, of which the fastest counts for ceilings and the median for steps.
        lengths: L of the segments.
        precisions: Which of `PRECISIONS`.
        ceiling: Side of the matrices and bytes of the copy; chosen for the device when empty.
    """
    device = jobs[0].device
    able = {p: why_not(p, device) for p in precisions}
    side, size = (ceiling[:1], ceiling[1:]) if ceiling else ((), ())
    roofline = "benchmarks.roofline"
    flops = {
        p: max(measure(f"{roofline}:prepare_flops", (p, device, *side)).answer for _ in range(runs))
        for p in dict.fromkeys(p.partition("+")[0] for p in precisions)
        if not why_not(p, device)
    }
    copied = max(measure(f"{roofline}:prepare_bytes", (device, *size)).answer for _ in range(runs))
    rows: list[CeilingRow | DeviceRow] = [
        CeilingRow(f"{p} arithmetic", "matrix product", value / 1e12, "TFLOP/s") for p, value in flops.items()
    ]
    rows.append(CeilingRow("memory", "copy, read and written", copied / 1e9, "GB/s"))
    for job in jobs:
        costs: dict[tuple[int, bool], Cost] = {}
        base, lines = math.nan, []
        for precision in precisions:
            for length in lengths:
                here = replace(job, precision=precision, length=length)
                row = DeviceRow(job.label, precision, f"{job.months // length} x {length}", note=able[precision])
                if not able[precision]:
                    half = precision.startswith("bf16")
                    if (length, half) not in costs:
                        costs[length, half] = step_cost(here)
                    steps = [measure(f"{__name__}:prepare_step", here.words) for _ in range(runs)]
                    row = _row(row, steps, costs[length, half], flops[precision.partition("+")[0]], copied)
                    base = row.rate if (precision, length) == BASE else base
                lines.append(row)
        rows += [replace(row, times=row.rate / base) for row in lines]
    return rows


def device_job(job: Job) -> Job:
    """The job at the size that a device bench is about: the network's large preset, where it has one."""
    sizes = getattr(NETWORKS.load(network_recipe(job).emulator), "SIZES", {})
    own = any(s.startswith("model.") for s in job.settings)
    settings = job.settings if own or "large" not in sizes else (*job.settings, LARGE)
    return replace(job, settings=settings, months=MONTHS[torch.device(job.device).type], years=4)


def device_networks() -> tuple[str, ...]:
    """What the device bench measures unless it is told otherwise."""
    return (PUBLISHED, "transformer")


def why_not(precision: str, device: str) -> str:
    """Why a precision cannot be had here; empty where it can."""
    kind = torch.device(device).type
    if precision == "tf32" and kind == "cpu":
        return "skipped: a CPU has no TF32"
    if precision == "tf32" and torch.cuda.get_device_capability(device) < (8, 0):
        return "skipped: this GPU has no TF32"
    if precision.endswith("compile") and kind == "cpu" and not (shutil.which("g++") or shutil.which("clang++")):
        return "skipped: no C++ compiler"
    if precision.endswith("compile") and kind == "cuda" and importlib.util.find_spec("triton") is None:
        return "skipped: no Triton"
    return ""


def step_cost(job: Job) -> Cost:
    """The least a step of this job does."""
    shapes = _shapes(job)
    return count_step(lambda: _network(job, shapes[0][2]), *shapes, half=job.precision.startswith("bf16"))


def prepare_step(words: str) -> Work:
    """Training steps on random months; the answer is the seconds of one, NaN where memory does not suffice."""
    job = read_job(words)
    use_precision(job.precision)
    torch.manual_seed(0)
    frames, targets = (torch.randn(shape, device=job.device) for shape in _shapes(job))
    network = _network(job, frames.shape[2]).to(job.device).train()
    optimizer = torch.optim.AdamW(network.parameters())
    if job.precision.endswith("compile"):
        network.compile()

    def step() -> None:
        with autocast(job.precision, job.device):
            fields = network(frames)
        loss = nn.functional.mse_loss(fields.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    def seconds_of(steps: int) -> float:
        wait(job.device)
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait(job.device)
        return (time.perf_counter() - start) / steps

    try:
        seconds_of(1)  # compiles, loads libraries, makes the moments
        steps = max(1, min(100, math.ceil(SECONDS / seconds_of(1))))
    except torch.OutOfMemoryError:
        return lambda: math.nan
    return lambda: seconds_of(steps)


def _network(job: Job, channels: int) -> nn.Module:
    recipe = network_recipe(job)
    return build_network(
        recipe.emulator,
        in_channels=channels,
        variables=2,
        grid=job.grid,
        history=recipe.inputs.window.history,
        options=recipe.options,
    )


def _shapes(job: Job) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Frames (S, L+H-1, C, Y, X) and targets (S, L, V, Y, X) of a step."""
    if job.months % job.length:
        raise EmukitError(f"{job.months} months are not a whole number of segments of {job.length}")
    recipe = network_recipe(job)
    channels = channels_of(recipe, made_up_archive(replace(job, years=1)), [Span("ssp126", 0, 12, (0,))])
    segments, history = job.months // job.length, recipe.inputs.window.history
    return (
        (segments, job.length + history - 1, channels, *job.grid),
        (segments, job.length, 2, *job.grid),
    )


def _row(row: DeviceRow, steps: Sequence[Measured], cost: Cost, flops: float, copied: float) -> DeviceRow:
    steps = [m for m in steps if not math.isnan(m.answer)]
    if not steps:
        return replace(row, note="out of memory")
    seconds = statistics.median(m.answer for m in steps)
    segments, length = map(int, row.segments.split(" x "))
    arithmetic, traffic = cost.flops / flops, cost.bytes / copied
    return replace(
        row,
        rate=segments * length / seconds,
        milliseconds=1000 * seconds,
        memory_mb=max(m.memory_mb for m in steps),
        teraflops=cost.flops / seconds / 1e12,
        gigabytes=cost.bytes / seconds / 1e9,
        fraction=max(arithmetic, traffic) / seconds,
        note="arithmetic" if arithmetic > traffic else "memory",
    )
