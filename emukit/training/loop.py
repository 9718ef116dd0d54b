"""The training loop, readable from top to bottom.

Invariant: the weights after k epochs are a function of settings, seed and data alone, whatever the number of processes
(up to rounding, and except for dropout, whose masks they draw apart). Stopping anywhere, by Ctrl-C or `kill -9`, and
resuming gives on one CPU the same bits as never having stopped.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from emukit.data.sampler import A, Sampler
from emukit.errors import TrainingError
from emukit.metrics import Score
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.training.checkpoint import (
    LAST,
    TrainingState,
    drop_older_best,
    load_best,
    load_checkpoint,
    save_best,
    save_checkpoint,
)
from emukit.training.engine import Engine, learning_rate
from emukit.training.log import LOG, MetricsLog, line_of, recovered
from emukit.training.settings import TrainingSettings
from emukit.training.tracking import mirror


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, and has saved where it stood."""


@dataclass(frozen=True)
class KeptWeights:
    """Which weights are kept where no validation says which are best.

    Attributes:
        epoch: Those after this epoch, counted from one, with which training ends; the schedule may be longer.
        averaged: The averaged ones, if there are any by then.
    """

    epoch: int
    averaged: bool


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training reached.

    Attributes:
        best_epoch: After which epoch, counted from one, the validation score was best, or what was to be kept; the
            weights are in the network now.
        best_average: Whether they are averaged ones.
        epochs: Epochs run.
        seconds: Time it took, over all sessions.
    """

    best_epoch: int
    best_average: bool
    epochs: int
    seconds: float


def train(
    engine: Engine[A],
    sampler: Sampler[A],
    settings: TrainingSettings,
    *,
    seed: int,
    ramp: Callable[[float], float],
    validate: Callable[[], Score],
    folder: Path,
    reporter: Reporter,
    keep: KeptWeights | None = None,
    track: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> TrainingResult:
    """Train a network, or continue with the training whose checkpoint is in `folder`.

    Args:
        engine: Takes the steps; its network holds the best weights in the end.
        sampler: Batches.
        settings: Epochs, optimiser, validation.
        seed: Of the batch order; the weights were drawn by the caller.
        ramp: From epochs done to how far the loss has moved from its warm-up to itself, in [0, 1].
        validate: Scores the network as it stands, in physical units, the same on every process.
        folder: Where `last.pt`, the best weights and `metrics.jsonl` are kept.
        reporter: Shows the progress.
        keep: Ends the training and says which weights are kept, in the place of any validation.
        track: Which tracker mirrors the log.
        about: What it is told of the training, as plain values.

    Raises:
        TrainingError: A loss or gradient is not finite. The last checkpoint and the best weights stay.
        Interrupted: A signal asked to stop; the state is saved.
    """
    comm, average = engine.comm, engine.average
    resumed = (folder / LAST).exists()
    if not resumed and (folder / LOG).exists():
        reporter.say(f"there is no {LAST} in {folder}: training starts from the beginning")
    per_epoch = -(-sampler.steps_per_epoch // settings.accumulate)
    state = load_checkpoint(folder, engine, per_epoch) if resumed else TrainingState(log=[])
    log = comm.main_only(lambda: _log_of(folder, state, reporter))
    steps = settings.epochs * per_epoch
    epochs = keep.epoch if keep else settings.epochs
    validations = -(-epochs // settings.validate_every)
    # The first is the best yet, and after the last there is nothing to be trained.
    if keep is None and settings.schedule == "plateau" and validations < settings.plateau + 2:
        reporter.note(
            f"{validations} validation{'s' if validations > 1 else ''} never lower the learning rate: "
            f"training.plateau = {settings.plateau} takes {settings.plateau + 2} or more"
        )
    clock = time.monotonic()

    def save() -> None:
        nonlocal clock
        now = time.monotonic()
        state.seconds, clock = state.seconds + now - clock, now
        save_checkpoint(folder, state, engine)

    def score() -> Score:
        value = validate()
        engine.distributed.reshard()
        return value

    def judge(score: Score, averaged: bool) -> tuple[dict[str, object], bool]:
        """Keep the weights as they are in the network now if they are the best yet; the score, and whether they are."""
        cost = score.competition.cost
        better = math.isfinite(score.value) and (not state.best_epoch or score.cost < cost(state.best_score))
        if better:
            state.best_score, state.best_epoch, state.best_average = score.value, state.epoch, averaged
            state.best_digest = save_best(folder, state.epoch, engine.network, comm)
        return score.as_dict(), better

    if resumed:
        reporter.say(f"resuming after epoch {state.epoch}, step {state.step} of {per_epoch}")
    with (
        reporter.step("training", epochs * per_epoch, parts=True) as bar,
        mirror(track if log else None, folder / LOG, about or {}) as tracked,
        _stop_requests(comm) as stop,
    ):
        if state.epoch or state.step:
            bar.advance(state.epoch * per_epoch + state.step)
        while state.epoch < epochs and not state.stopped:
            started = time.monotonic()
            engine.network.train()
            batches = sampler.epoch(state.epoch, seed)
            for number in range(state.step, per_epoch):
                group = batches[number * settings.accumulate : (number + 1) * settings.accumulate]
                rate = learning_rate(state.epoch * per_epoch + number, steps, settings, state.halvings)
                ahead = next(iter(batches[(number + 1) * settings.accumulate :]), None)
                done = state.epoch + number / per_epoch
                numbers = engine.step(group, rate, ramp(done), ahead, done)
                if wrong := engine.not_finite(numbers):
                    address = "; ".join(sampler.address(addresses) for addresses in group)
                    raise _not_finite(wrong, state, address, folder)
                if numbers.get("skipped_steps"):
                    # The overflowed gradient of a step that was not taken; a mean must not be lost to it.
                    numbers["gradient_norm"] = 0.0
                for name, value in numbers.items():
                    state.sums[name] = state.sums.get(name, 0.0) + value
                state.step += 1
                bar.advance(1, note=f"epoch {state.epoch + 1}/{epochs} loss {numbers['loss']:.4f}{_best(state)}")
                # Signals and clocks differ between processes; what to do must not.
                stopping = comm.any(stop.is_set())
                if stopping or comm.any(time.monotonic() - clock > 60 * settings.checkpoint_minutes):
                    save()
                if stopping:
                    raise Interrupted
            taken = (state.epoch + 1) * per_epoch
            line: dict[str, Any] = {"epoch": state.epoch + 1, "step": taken}
            line["learning_rate"] = learning_rate(taken - 1, steps, settings, state.halvings)
            line |= _epoch_means(state.sums, per_epoch)
            state.epoch, state.step, state.sums = state.epoch + 1, 0, {}
            average.after_epoch(state.epoch)
            if keep is None and (state.epoch % settings.validate_every == 0 or state.epoch == epochs):
                line["validation"], better = judge(score(), averaged=False)
                if average.ready:
                    with average.in_place():
                        line["validation_average"], also = judge(score(), averaged=True)
                    better |= also
                state.stale = 0 if better else state.stale + 1
                state.stopped = 0 < settings.patience <= state.stale
                if settings.schedule == "plateau" and state.stale and state.stale % settings.plateau == 0:
                    state.halvings += 1
            # The epoch is finished, and its best score has been reported.
            bar.advance(0, note=f"epoch {state.epoch}/{epochs} loss {line['loss']:.4f}{_best(state)}")
            text = line_of(line | {"seconds": round(time.monotonic() - started, 2)})
            if state.log is not None:
                state.log.append(text)
            if log:
                tracked(log.append(text))
            save()
            if comm.main:
                drop_older_best(folder, state.best_epoch)
            if comm.any(stop.is_set()):
                raise Interrupted
    if keep:
        averaged = keep.averaged and average.ready
        with average.in_place() if averaged else nullcontext():
            save_best(folder, keep.epoch, engine.network, comm)
        comm.barrier()
        load_best(folder, keep.epoch, engine.network)
        return TrainingResult(keep.epoch, averaged, state.epoch, state.seconds)
    if state.best_epoch == 0:
        raise TrainingError(
            "no validation score was a finite number",
            found=f"{state.epoch} epochs without one",
            hint="lower --set training.optimizer.learning_rate",
        )
    comm.barrier()
    load_best(folder, state.best_epoch, engine.network)
    return TrainingResult(state.best_epoch, state.best_average, state.epoch, state.seconds)


def _log_of(folder: Path, state: TrainingState, reporter: Reporter) -> MetricsLog:
    """The log of a training, with the lines of the epochs that are done; whatever was lost of it is said."""
    if not state.epoch:
        return MetricsLog(folder / LOG, [])
    lines, wrong = recovered(folder / LOG, state.log, state.epoch)
    if wrong and state.log is not None:
        reporter.say(f"note: {folder / LOG}: {wrong}; written again from {LAST}")
    elif wrong:
        reporter.say(f"note: {folder / LOG}: {wrong}; {LAST} is of an earlier version of emukit and does not hold them")
    else:
        state.log = lines
    return MetricsLog(folder / LOG, lines)


def _epoch_means(sums: dict[str, float], steps: int) -> dict[str, float | None]:
    """An epoch's numbers: of losses the means over all steps, of gradients over those taken, and how many were not."""
    means: dict[str, float | None] = {k: v / steps for k, v in sums.items()}
    if "skipped_steps" in sums:
        skipped = round(sums["skipped_steps"])
        means["skipped_steps"] = skipped
        means["gradient_norm"] = sums["gradient_norm"] / (steps - skipped) if skipped < steps else None
    return means


def _best(state: TrainingState) -> str:
    return f" best {state.best_score:.4f} (epoch {state.best_epoch})" if state.best_epoch else ""


def _not_finite(wrong: dict[str, float], state: TrainingState, address: str, folder: Path) -> TrainingError:
    kept = "the last good checkpoint is kept" if (folder / LAST).exists() else "there is no checkpoint yet"
    return TrainingError(
        f"training is not finite at epoch {state.epoch + 1}, step {state.step + 1}",
        found=f"{', '.join(f'{k} = {v}' for k, v in wrong.items())} on {address}",
        expected="finite loss, terms and gradient",
        hint="lower --set training.optimizer.learning_rate and train into another --out, or look at those months with "
        f"`emukit data check`; {kept}",
    )


@contextmanager
def _stop_requests(comm: Comm) -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets, so that the state is saved between two steps.

    A second signal acts at once; not so among several processes, where the terminal and torchrun both pass on the
    first, and torchrun ends who does not stop. Outside the main thread, where signals cannot be caught, the event
    stays unset.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    # Under nohup, a closed terminal is not a reason to stop.
    hangup = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    signals = (signal.SIGINT, signal.SIGTERM, *hangup)
    before = [signal.getsignal(s) for s in signals]

    def request(number: int, frame: FrameType | None) -> None:
        event.set()
        if comm.world > 1:
            return
        for s, handler in zip(signals, before, strict=True):
            signal.signal(s, handler)

    for s in signals:
        signal.signal(s, request)
    try:
        yield event
    finally:
        for s, handler in zip(signals, before, strict=True):
            signal.signal(s, handler)
