"""How fast networks train: against the starter kit's network, to a given score, and what their input costs.

Invariant: what is timed is the training loop that `emukit train` runs, with each network's own recipe, watched from
outside through its reporter.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks import Figure, Measured, Work, measure
from benchmarks.networks import STARTER, Job, made_up_archive, network_recipe, read_job, wait
from emukit.data.archive import Archive
from emukit.data.frames import FrameEncoder
from emukit.data.opening import open_data
from emukit.data.protocol import make_split
from emukit.data.segments import SegmentSampler
from emukit.data.targets import TargetNormalizer
from emukit.errors import EmukitError
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.recipes.schema import NetworkRecipe
from emukit.runs.fit import Finish, prepare
from emukit.training.engine import Execution
from emukit.training.log import read_lines

# The shortest demo climate that has all of its protocol's spans.
YEARS = 31
# Months trained for a figure; the starter kit's network needs a second for each on two cores, so it gets fewer there.
MONTHS = {"cpu": 1200, "cuda": 6000}
STARTER_MONTHS = 8
INPUT_SHARE = 3.0
REACH_SCORE = 0.80


class Enough(BaseException):
    """What was to be seen of a training has been seen. No error: what handles errors must let it pass."""


class Watch(Reporter):
    """A reporter that is told of every training step."""

    def __init__(self, seen: Callable[[int], None]) -> None:
        """`seen` is called after every step with the number of steps so far; it may raise `Enough`."""
        super().__init__(quiet=True)
        self._seen = seen
        self._steps = 0

    @contextmanager
    def step(self, title: str, total: int, *, parts: bool = False) -> Iterator[Watch]:
        """The work watched."""
        yield self

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more steps are done."""
        self._steps += n
        if n:
            self._seen(self._steps)


def bench_training(jobs: Sequence[Job], reference: Job, runs: int) -> list[Figure]:
    """Months trained in a second, with the recipe of each network, against the starter kit's."""
    work = f"{__name__}:prepare_training"
    rounds = [[measure(work, job.words) for job in (reference, *jobs)] for _ in range(runs)]
    plain, *ours = ([_rate(r) for r in runs_of_one] for runs_of_one in zip(*rounds, strict=True))
    memory = [max(r.memory_mb for r in runs_of_one) for runs_of_one in zip(*rounds, strict=True)][1:]
    floor = statistics.median(plain)
    return [
        Figure(f"train {job.label}, against {reference.label}", value, "months/s", floor, value / floor, mb, "", True)
        for job, value, mb in zip(jobs, map(statistics.median, ours), memory, strict=True)
    ]


def bench_input(job: Job, runs: int) -> list[Figure]:
    """The part of a training step that goes into putting its batch together."""
    measured = [measure(f"{__name__}:prepare_input", job.words) for _ in range(runs)]
    share = 100 * statistics.median(m.answer for m in measured)
    settings = network_recipe(job).training.segments
    name = f"batch assembly, share of a training step, {job.label} (S = {settings.per_batch}, L = {settings.length})"
    peak = max(m.memory_mb for m in measured)
    return [Figure(name, share, "%", 100.0, 100 / share, peak, f"under {INPUT_SHARE:g} %", share < INPUT_SHARE)]


def bench_reach(
    store: str, jobs: Sequence[Job], reference: Job, budget: float, score: float = REACH_SCORE
) -> list[Figure]:
    """Time from the first step to a validation score, with the recipe of each network.

    A network that does not reach it counts with the whole budget, even where its recipe ended sooner, and its best
    score is named. There is no ratio of two networks of which neither reached it.
    """
    arguments = (store, str(budget), str(score))
    measured = (measure(f"{__name__}:prepare_reach", (*j.words, *arguments)) for j in (reference, *jobs))
    plain, *ours = (m if m.answer <= score else replace(m, seconds=max(m.seconds, budget)) for m in measured)
    return [
        Figure(
            f"train until {score:.2f}, {_reached(job, m, score)}, against {_reached(reference, plain, score)}",
            m.seconds,
            "s",
            plain.seconds,
            plain.seconds / m.seconds if min(m.answer, plain.answer) <= score else math.nan,
            m.memory_mb,
            f"reached in {budget:g} s",
            m.answer <= score,
        )
        for job, m in zip(jobs, ours, strict=True)
    ]


def training_job(job: Job) -> Job:
    """A network's job on the climate it is trained on."""
    return replace(job, months=MONTHS[torch.device(job.device).type], years=YEARS)


def starter_job(job: Job) -> Job:
    """The starter kit's network where another job's network is; on a CPU in batches that two cores bear."""
    if torch.device(job.device).type != "cpu":
        return replace(job, model=STARTER, settings=())
    small = f"training.segments.per_batch={STARTER_MONTHS}"
    return replace(job, model=STARTER, settings=(small,), months=STARTER_MONTHS)


def prepare_training(words: str) -> Work:
    """Whole steps of training on a made-up climate; the answer is the number of months trained."""
    job = read_job(words)
    archive = made_up_archive(job)
    recipe = network_recipe(job)
    per_step = _months_per_step(recipe)
    steps = math.ceil(job.months / per_step)
    finish = _trainer(archive, recipe, job)
    _watched(finish, lambda step: _stop(True))  # the first step loads libraries

    def work() -> float:
        done = _watched(finish, lambda step: _stop(step >= steps))
        wait(job.device)
        return float(done * per_step)

    return work


def prepare_input(words: str) -> Work:
    """Steps of training, and after each a batch put together once more; the answer is the ratio of the medians."""
    job = read_job(words)
    archive = made_up_archive(job)
    recipe = network_recipe(job)
    steps = math.ceil(job.months / _months_per_step(recipe))
    finish = _trainer(archive, recipe, job)
    source = _source(archive, recipe, job.device)
    batches = source.epoch(0, 0)

    def work() -> float:
        step_seconds: list[float] = []
        batch_seconds: list[float] = []
        last = math.nan

        def seen(step: int) -> None:
            nonlocal last
            wait(job.device)  # what the optimiser left in the queue is the step's
            now = time.perf_counter()
            step_seconds.append(now - last)
            source.batch(batches[step % len(batches)])
            wait(job.device)
            last = time.perf_counter()
            batch_seconds.append(last - now)
            _stop(step > steps)

        _watched(finish, seen)
        # The first step has no beginning that was seen, and loads libraries.
        return statistics.median(batch_seconds[1:]) / statistics.median(step_seconds[1:])

    return work


def prepare_reach(words: str, store: str, budget: str, score: str) -> Work:
    """Training until a validation score, or the end of the budget; the answer is the best score."""
    job = read_job(words)
    archive = open_data(store)
    finish = _trainer(archive, network_recipe(job), job)

    def work() -> float:
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "metrics.jsonl"
            started, size, best = time.perf_counter(), 0, math.inf

            def seen(step: int) -> None:
                nonlocal size, best
                if log.stat().st_size != size:
                    size, best = log.stat().st_size, best_score(log)
                _stop(best <= float(score) or time.perf_counter() - started > float(budget))

            with suppress(Enough):
                finish(Path(folder), Watch(seen))
            return best_score(log)

    return work


def best_score(log: Path) -> float:
    """The lowest validation score of a training's log, of weights or their average; infinite where there is none."""
    kinds = ("validation", "validation_average")
    scores = (line[kind]["score"] for line in read_lines(log) for kind in kinds if kind in line)
    # One that was not finite is null.
    return min((s for s in scores if s is not None), default=math.inf)


def _watched(finish: Callable[[Path, Reporter], object], seen: Callable[[int], None]) -> int:
    """Train until `seen` has had enough; the number of steps."""
    done = 0

    def count(step: int) -> None:
        nonlocal done
        done = step
        seen(step)

    with tempfile.TemporaryDirectory() as folder:
        try:
            finish(Path(folder), Watch(count))
        except Enough:
            return done
    raise EmukitError(f"the training ended after {done} steps, before it was measured", hint="more training.epochs")


def _stop(enough: bool) -> None:
    if enough:
        raise Enough


def _trainer(archive: Archive, recipe: NetworkRecipe, job: Job) -> Finish:
    return prepare(archive, recipe, make_split(archive), 0, Comm(device=torch.device(job.device)), Execution())


def _months_per_step(recipe: NetworkRecipe) -> int:
    segments = recipe.training.segments
    return segments.length * segments.batch_size * recipe.training.accumulate


def _source(archive: Archive, recipe: NetworkRecipe, device: str) -> SegmentSampler:
    """The batches that the training reads, made once more."""
    spans = make_split(archive).train
    encoder = FrameEncoder.fit(archive, spans, recipe.inputs)
    normalizer = TargetNormalizer.fit(archive, spans, {v: recipe.targets.of(v) for v in archive.variables})
    return SegmentSampler(archive, spans, encoder, normalizer, recipe.training.segments, device)


def _rate(measured: Measured) -> float:
    return measured.answer / measured.seconds


def _reached(job: Job, measured: Measured, score: float) -> str:
    if measured.answer <= score:
        return f"{job.label} {measured.answer:.3f}"
    best = f"best {measured.answer:.3f}" if math.isfinite(measured.answer) else "no epoch finished"
    return f"{job.label} not reached in {measured.seconds:.0f} s, {best}"
