"""A training speed of something that is not the training, or a score that was not reached."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import Measured, training
from benchmarks.networks import Job
from emukit.data.segments import SegmentSampler
from emukit.errors import EmukitError
from tests.benchmarks.test_networks import SMALL, in_this_process, made_once  # noqa: F401

SETTINGS = (*SMALL, "training.segments.length=24", "training.segments.per_batch=2")
JOB = Job("cnn-gru", SETTINGS, months=96, grid=(8, 12), years=31)


def test_the_steps_timed_are_the_loop_s_own(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = 0
    step = torch.optim.AdamW.step

    def count(self: Any, *args: Any) -> Any:
        nonlocal steps
        steps += 1
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", count)
    assert training.prepare_training(*JOB.words)() == 96
    assert steps == 1 + 96 / (24 * 2)  # and one before the clock starts


def test_a_training_that_ends_before_it_is_measured_is_an_error() -> None:
    job = replace(JOB, settings=(*SETTINGS, "training.epochs=1"), months=100_000)
    with pytest.raises(EmukitError, match="the training ended after"):
        training.prepare_training(*job.words)()


def test_months_in_a_second_are_held_against_the_starter_s(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"simple-cnn": iter([8.0, 80.0, 4.0]), "cnn-gru": iter([2.0, 1.0, 4.0])}
    order: list[str] = []

    def fake(work: str, words: tuple[str]) -> Measured:
        job = training.read_job(*words)
        order.append(job.model)
        return Measured(next(seconds[job.model]), 100.0 + len(order), float(job.months), 1)

    monkeypatch.setattr(training, "measure", fake)
    reference = training.starter_job(JOB)
    (figure,) = training.bench_training([JOB], reference, 3)
    assert order == ["simple-cnn", "cnn-gru"] * 3
    assert (figure.value, figure.reference, figure.ratio) == (48.0, 1.0, 48.0)
    assert (figure.unit, figure.peak_mb) == ("months/s", 106.0)


def test_a_slow_input_path_shows_and_breaks_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    (quick,) = training.bench_input(JOB, 1)
    batch = SegmentSampler.batch

    def slow(self: SegmentSampler, *args: Any, **options: Any) -> Any:
        time.sleep(0.2)
        return batch(self, *args, **options)

    monkeypatch.setattr(SegmentSampler, "batch", slow)
    (figure,) = training.bench_input(JOB, 1)
    # Nearly all of a step; other work on the machine takes its part of it.
    assert 20 < figure.value < 150
    assert quick.value < figure.value
    assert not figure.within
    assert "S = 2, L = 24" in figure.name


def test_work_that_the_step_left_in_the_queue_is_the_step_s(monkeypatch: pytest.MonkeyPatch) -> None:
    queued: list[float] = []
    step = torch.optim.AdamW.step

    def leave(self: Any, *args: Any) -> Any:
        queued.append(0.3)
        return step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", leave)
    monkeypatch.setattr(training, "wait", lambda device: [time.sleep(queued.pop()) for _ in list(queued)])
    assert training.prepare_input(*JOB.words)() < 0.2


@pytest.fixture
def small_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "open_data", lambda store: made_once(JOB))


@pytest.mark.usefixtures("small_store")
def test_training_ends_with_the_first_score_that_is_low_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: set[int] = set()
    epoch = SegmentSampler.epoch

    def count(self: SegmentSampler, number: int, seed: int) -> Any:
        epochs.add(number)
        return epoch(self, number, seed)

    monkeypatch.setattr(SegmentSampler, "epoch", count)
    best = training.prepare_reach(*JOB.words, "store", "60", "50")()
    assert 0.1 < best <= 50
    assert epochs == {0, 1}  # the score of the first is seen with the next step


def test_a_score_that_is_not_reached_is_said_not_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    # convlstm's recipe ends before the budget.
    answers = {"cnn-gru": (30.0, 0.79), "convlstm": (60.0, 0.95), "simple-cnn": (90.0, math.inf)}

    def fake(work: str, words: tuple[str, ...]) -> Measured:
        seconds, answer = answers[training.read_job(words[0]).model]
        return Measured(seconds, 1.0, answer, 1)

    monkeypatch.setattr(training, "measure", fake)
    jobs = [Job("cnn-gru"), Job("convlstm")]
    reached, missed = training.bench_reach("store", jobs, Job("simple-cnn"), 90.0)
    assert (reached.within, reached.ratio) == (True, 3.0)
    assert "cnn-gru 0.790" in reached.name
    assert "simple-cnn not reached in 90 s, no epoch finished" in reached.name
    assert not missed.within
    assert "convlstm not reached in 90 s, best 0.950" in missed.name
    assert missed.value == 90.0
    assert math.isnan(missed.ratio)
    assert missed.cells()[3] == "-"
    answers["simple-cnn"] = (45.0, 0.80)
    assert training.bench_reach("store", jobs, Job("simple-cnn"), 90.0)[1].ratio == 0.5


@pytest.mark.usefixtures("small_store")
def test_the_budget_ends_a_training() -> None:
    assert training.prepare_reach(*JOB.words, "store", "0", "0.1")() == math.inf
