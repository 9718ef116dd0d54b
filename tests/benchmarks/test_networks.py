"""A speed that compares two different things: other months, other weights, other fields, or time that was not spent."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks import Measured, compare, networks, suite, training
from benchmarks import device as devices
from benchmarks.networks import Job, PerWindow
from emukit.data.archive import Archive
from emukit.errors import EmukitError, RecipeError

SMALL = ("model.width=4", "model.hidden=8", "model.features=6", "inputs.window.history=3")
JOB = Job("cnn-gru", SMALL, months=12, part=6, grid=(8, 12), years=2)


def run_here(work: str, arguments: Sequence[str]) -> Measured:
    """`measure` without a process of its own, which would take seconds to start."""
    module, _, function = work.partition(":")
    prepared = getattr(importlib.import_module(module), function)(*arguments)
    start = time.perf_counter()
    answer = prepared()
    return Measured(time.perf_counter() - start, 100.0, answer, 1)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("benchmarks", "benchmarks.networks", "benchmarks.training", "benchmarks.device"):
        monkeypatch.setattr(f"{module}.measure", run_here)
    for module in (networks, training, devices):
        monkeypatch.setattr(module, "made_up_archive", made_once)


make_archive = networks.made_up_archive


@cache
def _made(grid: tuple[int, int], years: int) -> Archive:
    return make_archive(Job("", grid=grid, years=years))


def made_once(job: Job) -> Archive:
    """The made-up climate, of which the tests need three."""
    return _made(job.grid, job.years)


class WindowSum(nn.Module):
    """Each target month is the sum of its frames; `leak` adds something of the segment's last frame."""

    def __init__(self, history: int, leak: float = 0.0) -> None:
        super().__init__()
        self.history, self.leak = history, leak
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, frames: Tensor) -> Tensor:
        sums = frames.unfold(1, self.history, 1).sum(-1)[:, :, :2]
        return self.scale * (sums + self.leak * frames[:, -1:, :2])


def test_the_reference_sees_each_window_and_nothing_else() -> None:
    frames = 10.0 ** torch.arange(6)[None, :, None, None, None].expand(2, 6, 3, 4, 5)
    calls: list[tuple[int, ...]] = []
    network = WindowSum(3)
    network.register_forward_hook(lambda m, args, out: calls.append(tuple(args[0].shape)))
    fields = PerWindow(network, 3)(frames)
    assert fields.shape == (2, 4, 2, 4, 5)
    assert fields[1, :, 0, 2, 3].tolist() == [111.0, 1110.0, 11100.0, 111000.0]
    assert calls == [(2 * 4, 3, 3, 4, 5)]


def test_a_network_whose_months_depend_on_each_other_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "build_network", lambda *a, history, **k: WindowSum(history, leak=1e-3))
    with pytest.raises(EmukitError, match="window by window"):
        networks.bench_segments([JOB], 1)


def test_both_sides_take_the_same_step(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[nn.Module] = []
    build = networks.build_network

    def keep(*args: Any, **options: Any) -> nn.Module:
        kept.append(build(*args, **options))
        return kept[-1]

    monkeypatch.setattr(networks, "build_network", keep)
    sizes: list[int] = []
    for prepare in (networks.prepare_train, networks.prepare_train_by_window):
        work = prepare(*JOB.words)
        assert all(p.grad is None for p in kept[-1].parameters())
        kept[-1].register_forward_hook(lambda m, args, out: sizes.append(out.shape[0]))
        torch.manual_seed(1)
        assert work() == 12.0
    assert sizes == [1, 12]
    ours, plain = (dict(network.named_parameters()) for network in kept)
    assert len(ours) > 4
    for name, parameter in ours.items():
        assert torch.equal(parameter, plain[name])
        assert parameter.grad.abs().max() > 0, name
        torch.testing.assert_close(parameter.grad, plain[name].grad, rtol=1e-4, atol=1e-6)


def test_a_step_is_warm_at_full_size_before_it_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    build = networks.build_network

    def watch(*args: Any, **options: Any) -> nn.Module:
        network = build(*args, **options)
        network.register_forward_hook(lambda m, args, out: sizes.append(tuple(out.shape[:2])))
        return network

    monkeypatch.setattr(networks, "build_network", watch)
    networks.prepare_train(*JOB.words)
    networks.prepare_train_by_window(*JOB.words)
    assert sizes == [(1, 12), (12, 1)]


@pytest.mark.parametrize("settings", [SMALL, (*SMALL, "inputs.window.lead_in=drop")])
def test_the_scaled_reference_encodes_no_month_more_than_it_predicts(
    monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...]
) -> None:
    job = replace(JOB, settings=settings, months=20, part=14)
    ours, plain = networks.prepare_predict(*job.words), networks.prepare_predict_by_window(*job.words)
    encoded: list[int] = []
    encode = networks.FrameEncoder.encode

    def count(self: Any, scenario: Any, *args: Any) -> Any:
        encoded.append(len(scenario))
        return encode(self, scenario, *args)

    monkeypatch.setattr(networks.FrameEncoder, "encode", count)
    assert ours() == pytest.approx(plain(), rel=1e-6)
    lead = 2 if "drop" in settings[-1] else 0
    assert encoded == [25, 14 + lead]


def test_both_sides_predict_the_same_fields() -> None:
    figures = networks.bench_segments([JOB], 1) + networks.bench_prediction([JOB], 1)
    assert [f.bound for f in figures] == ["at least 6 x faster", "at least 6 x faster", "under 10 s"]
    assert all(f.value > 0 and f.reference > 0 for f in figures)
    assert "predict 12 months" in figures[2].name
    assert f"{figures[2].value * 1000:.1f} ms a year" in figures[2].name
    assert networks.prepare_predict(*JOB.words)() == pytest.approx(
        networks.prepare_predict_by_window(*JOB.words)(), rel=1e-6
    )


def test_a_reference_that_does_a_part_counts_for_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"a:b": 4.0, "c:d": 3.0}
    monkeypatch.setattr("benchmarks.measure", lambda work, arguments: Measured(seconds[work], 9.0, 1.0, 1, 5.0))
    figure = compare("x", "a:b", "c:d", (), runs=1, scale=8.0, faster=6.0, seconds=4.5)
    assert (figure.reference, figure.ratio, figure.within) == (24.0, 6.0, True)
    assert figure.bound == "at least 6 x faster, under 4.5 s"
    assert figure.peak_mb == 5.0  # of the accelerator, where one was used
    assert not compare("x", "a:b", "c:d", (), runs=1, scale=7.9, faster=6.0).within
    assert not compare("x", "a:b", "c:d", (), runs=1, scale=8.0, seconds=4.0).within


def test_the_scaled_reference_predicts_its_part_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def record(*args: Any, **options: Any) -> Any:
        seen.update(options)
        return run_compare(*args, **options)

    run_compare = compare
    monkeypatch.setattr(networks, "compare", record)
    networks.bench_prediction([JOB], 1)
    assert seen["scale"] == 12 / 6


def test_a_job_survives_the_command_line() -> None:
    assert networks.read_job(*JOB.words) == JOB


def test_what_is_no_network_is_refused() -> None:
    with pytest.raises(RecipeError, match="linear is not a network"):
        networks.prepare_predict(*Job("linear", grid=(8, 12), years=1).words)


# -- suite


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs that reach the benches."""
    jobs: list[Job] = []
    record: Callable[..., list[Any]] = lambda given, *a, **k: jobs.extend(given) or []  # noqa: E731
    for module, name in ((networks, "bench_segments"), (networks, "bench_prediction"), (training, "bench_training")):
        monkeypatch.setattr(module, name, record)
    monkeypatch.setattr(devices, "bench_device", record)
    monkeypatch.setattr(training, "bench_input", lambda job, runs: jobs.append(job) or [])
    monkeypatch.setattr(training, "bench_reach", lambda store, given, *a: jobs.extend(given) or [])
    return jobs


@pytest.mark.parametrize("name", ["segments", "predict", "train", "input", "reach", "device"])
def test_every_bench_measures_the_network_and_settings_named(asked: list[Job], name: str) -> None:
    choice = suite.Choice("store.zarr", 1, ("cnn-gru",), ("model.hidden=9",))
    assert suite.BENCHES[name].measure(choice) == []
    assert [(j.model, j.settings) for j in asked] == [("cnn-gru", ("model.hidden=9",))]


def test_the_defaults_are_the_networks_made_for_two_cores(asked: list[Job]) -> None:
    suite.BENCHES["predict"].measure(suite.Choice())
    models = [job.model for job in asked]
    assert "cnn-gru" in models
    assert not {"simple-cnn", "cnn-gru-published"} & set(models)
    assert {(j.months, j.grid, j.years) for j in asked} == {(1021, (48, 72), 85)}
