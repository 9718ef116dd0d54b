"""A roofline with a wrong side: operations, bytes, ceilings; and lines that pretend to have run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import Measured, device, roofline
from benchmarks.device import CeilingRow, DeviceRow, bench_device
from benchmarks.networks import Job
from tests.benchmarks.test_networks import SMALL, in_this_process  # noqa: F401

JOB = Job("cnn-gru", SMALL, months=12, grid=(8, 12), years=2)
CEILING = ("32", "4096")


class Flat(nn.Module):
    """Two products, (S, F, C, Y, X) -> (S, 1, V, Y, X) with V Y X = 6."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(20, 8, bias=False), nn.Linear(8, 6, bias=False)

    def forward(self, frames: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(frames.flatten(1)))).reshape(-1, 1, 1, 2, 3)


def test_a_step_is_counted_as_by_hand() -> None:
    cost = roofline.count_step(Flat, (5, 1, 1, 4, 5), (5, 1, 1, 2, 3), half=False)
    # Forward 5 x 20 x 8 and 5 x 8 x 6 multiply-adds; backward both weights' gradients and the inner activation's.
    assert cost.flops == 2 * 5 * (2 * 20 * 8 + 3 * 8 * 6)
    assert cost.parameters == 20 * 8 + 8 * 6
    # Kept: the activation after relu and the fields.
    assert cost.saved == 4 * 5 * (8 + 6)
    assert cost.bytes == (3 + 7) * 4 * cost.parameters + 2 * cost.saved + 4 * 5 * (20 + 2 * 6)


class Attend(nn.Module):
    """A projection to four heads of eight, and attention, (S, T, 32) -> (S, 4, T, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(32, 96)

    def forward(self, frames: Tensor) -> Tensor:
        q, k, v = self.project(frames).unflatten(-1, (3, 4, 8)).permute(2, 0, 3, 1, 4)
        return nn.functional.scaled_dot_product_attention(q, k, v)


def test_the_products_of_attention_are_counted() -> None:
    cost = roofline.count_step(Attend, (2, 16, 32), (2, 4, 16, 8), half=False)
    linear, attention = 2 * (2 * 16 * 32 * 96), 2 * (2 * (2 * 4 * 16 * 16 * 8))
    # Backward: the gradient of the linear's weights alone, and of both factors of attention's two products.
    assert cost.flops == (1 + 1) * linear + (1 + 2) * attention == 589_824
    # No attention matrix (2, 4, 16, 16) is kept, nor need it be; the projection is, the fields and a sum for each row.
    assert 4 * 2 * 16 * (96 + 32) <= cost.saved <= 4 * 2 * 16 * (96 + 32 + 4) + 4 * 2 * 16 * 32


def test_convolutions_are_counted() -> None:
    cost = roofline.count_step(lambda: nn.Conv2d(3, 4, 3, padding=1), (5, 3, 6, 7), (5, 4, 6, 7), half=False)
    assert cost.flops == 2 * (2 * 5 * 6 * 7 * 3 * 4 * 9)  # forward, and backward the weights' gradient


def test_half_precision_keeps_less_and_computes_as_much() -> None:
    full, half = (device.step_cost(replace(JOB, precision=p, length=12)) for p in ("fp32", "bf16"))
    assert full.flops == half.flops > 0
    assert half.saved < full.saved


def test_single_windows_compute_every_frame_again() -> None:
    whole, single = (device.step_cost(replace(JOB, length=n)) for n in (12, 1))
    assert single.flops > 1.5 * whole.flops
    assert single.parameters == whole.parameters


def test_ceilings_are_operations_and_bytes_in_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(roofline, "_fastest", lambda work, where: calls.append(work()) or 0.5)
    assert roofline.prepare_flops("bf16", "cpu", "16")() == 2 * 16**3 / 0.5
    assert roofline.prepare_bytes("cpu", "4000")() == 2 * 4000 / 0.5
    product, copy = calls
    assert product.dtype == torch.bfloat16
    assert copy.nbytes == 4000


def test_the_fraction_is_of_the_lower_ceiling() -> None:
    cost = roofline.Cost(flops=6e9, bytes=2e9, parameters=1, saved=1)
    row = DeviceRow("x", "fp32", "2 x 12")
    steps = [Measured(9.0, 50.0 + i, s, 1) for i, s in enumerate((0.9, 0.5, 0.1))]
    by_bytes = device._row(row, steps, cost, 60e9, 10e9)
    assert (by_bytes.fraction, by_bytes.note) == (pytest.approx(0.2 / 0.5), "memory")
    assert (by_bytes.rate, by_bytes.milliseconds, by_bytes.memory_mb) == (48.0, 500.0, 52.0)
    assert (by_bytes.teraflops, by_bytes.gigabytes) == (pytest.approx(0.012), pytest.approx(4.0))
    by_products = device._row(row, steps, cost, 20e9, 10e9)
    assert (by_products.fraction, by_products.note) == (pytest.approx(0.3 / 0.5), "arithmetic")


def fake_steps(seconds: dict[tuple[str, int], list[float]]) -> Any:
    """`measure` for steps of given seconds, NaN out of memory; ceilings are one."""
    left = {key: iter(values) for key, values in seconds.items()}

    def fake(work: str, arguments: tuple[str, ...]) -> Measured:
        if not work.endswith("prepare_step"):
            return Measured(1.0, 1.0, 1.0, 1)
        job = device.read_job(arguments[0])
        answer = next(left[job.precision, job.length])
        return Measured(1.0, 7e6 if math.isnan(answer) else 40.0, answer, 1)

    return fake


def device_rows(monkeypatch: pytest.MonkeyPatch, seconds: dict[tuple[str, int], list[float]]) -> list[DeviceRow]:
    monkeypatch.setattr(device, "measure", fake_steps(seconds))
    monkeypatch.setattr(device, "step_cost", lambda job: roofline.Cost(1.0, 1.0, 1, 1))
    rows = bench_device([JOB], 3, lengths=(12, 1), precisions=("bf16", "fp32"))
    return [r for r in rows if isinstance(r, DeviceRow)]


def test_times_faster_is_against_float32_windows_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {("bf16", 12): [1.0] * 3, ("bf16", 1): [2.0] * 3, ("fp32", 12): [4.0] * 3, ("fp32", 1): [8.0] * 3}
    assert [r.cells()[4] for r in device_rows(monkeypatch, seconds)] == ["8.0", "4.0", "2.0", "1.0"]
    out = device_rows(monkeypatch, seconds | {("fp32", 1): [math.nan] * 3})
    assert [r.cells()[4] for r in out] == ["-"] * 4
    assert [r.rate for r in out[:3]] == [12.0, 6.0, 3.0]


def test_medians_are_of_the_runs_that_did_not_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {("bf16", 12): [math.nan, 1.0, 3.0], ("bf16", 1): [9.0, 1.0, math.nan]}
    rows = device_rows(monkeypatch, seconds | {("fp32", 12): [5.0, 1.0, 4.0], ("fp32", 1): [1.0] * 3})
    assert [r.milliseconds for r in rows] == [2000.0, 5000.0, 4000.0, 1000.0]
    assert {r.memory_mb for r in rows} == {40.0}


def test_every_precision_and_length_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "SECONDS", 0.0)
    compiled: list[nn.Module] = []
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    monkeypatch.setattr(device.shutil, "which", lambda name: "/usr/bin/c++")
    rows = bench_device([JOB], 1, lengths=(1, 12), ceiling=CEILING)
    ceilings = [r for r in rows if isinstance(r, CeilingRow)]
    assert [c.name for c in ceilings] == ["fp32 arithmetic", "bf16 arithmetic", "memory"]
    steps = [r for r in rows if isinstance(r, DeviceRow)]
    assert [(r.precision, r.segments) for r in steps] == [
        (p, s) for p in device.PRECISIONS for s in ("12 x 1", "1 x 12")
    ]
    for row in steps:
        if row.precision == "tf32":
            assert row.note == "skipped: a CPU has no TF32"
            assert row.cells()[3:-1] == ("-",) * 7
        else:
            assert row.rate > 0
            assert row.fraction > 0
            assert row.times == pytest.approx(row.rate / steps[0].rate)
    assert len(compiled) == 2


def test_without_a_compiler_there_are_no_compiled_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.shutil, "which", lambda name: None)
    rows = bench_device([JOB], 1, lengths=(12,), precisions=("bf16+compile",), ceiling=CEILING)
    assert rows[-1].cells()[-1] == "skipped: no C++ compiler"


def test_too_little_memory_is_a_line_not_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = roofline.Cost(1.0, 1.0, 1, 1)
    monkeypatch.setattr(device, "step_cost", lambda job: cost)

    def full(*args: Any) -> Tensor:
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(nn.functional, "mse_loss", full)
    rows = bench_device([JOB], 1, lengths=(12,), precisions=("fp32",), ceiling=CEILING)
    assert rows[-1].cells()[-1] == "out of memory"
    assert math.isnan(rows[-1].rate)


def test_bf16_is_autocast_and_tf32_a_setting() -> None:
    a = torch.ones(2, 2)
    with roofline.autocast("bf16", "cpu"):
        assert (a @ a).dtype == torch.bfloat16
    with roofline.autocast("fp32", "cpu"):
        assert (a @ a).dtype == torch.float32
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        roofline.use_precision("tf32")
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
        roofline.use_precision("fp32")
        assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_the_large_preset_is_measured_unless_a_size_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from emukit.models.cnn_gru import CNNGRU

    monkeypatch.setattr(CNNGRU, "SIZES", {"large": {"width": 32}}, raising=False)
    assert device.device_job(Job("cnn-gru")).settings == (device.LARGE,)
    assert device.device_job(Job("cnn-gru", ("model.width=8",))).settings == ("model.width=8",)
    monkeypatch.setattr(CNNGRU, "SIZES", {})
    assert device.device_job(Job("cnn-gru")).settings == ()
    assert all(months % length == 0 for months in device.MONTHS.values() for length in device.LENGTHS)
