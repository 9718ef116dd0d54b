"""The training loop, readable from top to bottom.

Invariant: the weights after k epochs are a function of settings, seed and data alone. Stopping anywhere, by Ctrl-C or
`kill -9`, and resuming gives on one CPU the same bits as never having stopped.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from emukit.data.segments import SegmentSource
from emukit.errors import TrainingError
from emukit.losses.composite import CompositeLoss
from emukit.metrics import Score
from emukit.progress import Reporter
from emukit.training import optim
from emukit.training.checkpoint import (
    LAST,
    TrainingState,
    drop_older_best,
    load_best,
    load_checkpoint,
    save_best,
    save_checkpoint,
)
from emukit.training.log import MetricsLog
from emukit.training.settings import TrainingSettings


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop, and has saved where it stood."""


@dataclass(frozen=True)
class TrainingResult:
    """What a finished training reached.

    Attributes:
        best_score: Lowest validation score.
        best_epoch: After which epoch, counted from one; its weights are in the network now.
        epochs: Epochs run.
        seconds: Time it took, over all sessions.
    """

    best_score: float
    best_epoch: int
    epochs: int
    seconds: float


def train(
    network: nn.Module,
    source: SegmentSource,
    loss: CompositeLoss,
    settings: TrainingSettings,
    *,
    seed: int,
    validate: Callable[[], Score],
    folder: Path,
    reporter: Reporter,
) -> TrainingResult:
    """Train a network, or go on with the training whose checkpoint is in `folder`.

    Args:
        network: Freshly built, on its device; holds the best weights in the end.
        source: Batches.
        loss: Of normalised fields.
        settings: Epochs, optimiser, validation.
        seed: Of the batch order; the weights were drawn by the caller.
        validate: Scores the network as it stands, in physical units.
        folder: Where `last.pt`, the best weights and `metrics.jsonl` are kept.
        reporter: Shows the progress.

    Raises:
        TrainingError: A loss or gradient is not finite. The last checkpoint and the best weights stay.
        Interrupted: A signal asked to stop; the state is saved.
    """
    optimizer = optim.make_optimizer(network, settings.optimizer)
    resumed = (folder / LAST).exists()
    state = load_checkpoint(folder, network, optimizer) if resumed else TrainingState()
    log = MetricsLog(folder / "metrics.jsonl", keep_epochs=state.epoch)
    per_epoch = source.steps_per_epoch
    steps = settings.epochs * per_epoch
    clock = time.monotonic()

    def save() -> None:
        nonlocal clock
        now = time.monotonic()
        state.seconds, clock = state.seconds + now - clock, now
        save_checkpoint(folder, state, network, optimizer)

    if resumed:
        reporter.say(f"resuming after epoch {state.epoch}, step {state.step} of {per_epoch}")
    with reporter.step("training", steps) as bar, _stop_requests() as stop:
        bar.advance(state.epoch * per_epoch + state.step)
        while state.epoch < settings.epochs and not state.stopped:
            started = time.monotonic()
            network.train()
            batches = source.epoch(state.epoch, seed)
            for segments in batches[state.step :]:
                rate = optim.learning_rate(state.epoch * per_epoch + state.step, steps, settings.optimizer)
                optim.set_learning_rate(optimizer, rate)
                batch = source.batch(segments)
                total, terms = loss(network(batch.frames), batch.targets)
                optimizer.zero_grad(set_to_none=True)
                total.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(network.parameters(), settings.optimizer.clip_norm)
                values = {"loss": total, "gradient_norm": norm, **terms}
                numbers = {k: float(v.detach()) for k, v in values.items()}
                if not all(map(math.isfinite, numbers.values())):
                    raise _not_finite(numbers, state, source.address(segments), folder)
                optimizer.step()
                for name, value in numbers.items():
                    state.sums[name] = state.sums.get(name, 0.0) + value
                state.step += 1
                bar.advance(
                    1, note=f"epoch {state.epoch + 1}/{settings.epochs} loss {numbers['loss']:.4f}{_best(state)}"
                )
                if stop.is_set():
                    save()
                    raise Interrupted
                if time.monotonic() - clock > 60 * settings.checkpoint_minutes:
                    save()
            done = (state.epoch + 1) * per_epoch
            line: dict[str, Any] = {"epoch": state.epoch + 1, "step": done}
            line["learning_rate"] = optim.learning_rate(done - 1, steps, settings.optimizer)
            line |= {k: v / per_epoch for k, v in state.sums.items()}
            state.epoch, state.step, state.sums = state.epoch + 1, 0, {}
            if state.epoch % settings.validate_every == 0 or state.epoch == settings.epochs:
                score = validate()
                line["validation"] = score.as_dict()
                if score.value < state.best_score:
                    state.best_score, state.best_epoch, state.stale = score.value, state.epoch, 0
                    save_best(folder, state.epoch, network)
                else:
                    state.stale += 1
                    state.stopped = 0 < settings.patience <= state.stale
            log.append(line | {"seconds": round(time.monotonic() - started, 2)})
            save()
            drop_older_best(folder, state.best_epoch)
            if stop.is_set():
                raise Interrupted
    if state.best_epoch == 0:
        raise TrainingError(
            "no validation score was a finite number",
            found=f"{state.epoch} epochs without one",
            hint="lower --set training.optimizer.learning_rate",
        )
    load_best(folder, state.best_epoch, network)
    return TrainingResult(state.best_score, state.best_epoch, state.epoch, state.seconds)


def _best(state: TrainingState) -> str:
    return f" best {state.best_score:.4f} (epoch {state.best_epoch})" if state.best_epoch else ""


def _not_finite(numbers: dict[str, float], state: TrainingState, address: str, folder: Path) -> TrainingError:
    kept = "the last good checkpoint is kept" if (folder / LAST).exists() else "there is no checkpoint yet"
    wrong = ", ".join(f"{k} = {v}" for k, v in numbers.items() if not math.isfinite(v))
    return TrainingError(
        f"training is not finite at epoch {state.epoch + 1}, step {state.step + 1}",
        found=f"{wrong} on {address}",
        expected="finite loss, terms and gradient",
        hint="lower --set training.optimizer.learning_rate and train into another --out, or look at those months with "
        f"`emukit data check`; {kept}",
    )


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets, so that the state is saved between two steps.

    A second signal acts at once. Outside the main thread, where signals cannot be caught, the event stays unset.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(s) for s in signals]

    def request(number: int, frame: FrameType | None) -> None:
        event.set()
        for s, handler in zip(signals, before, strict=True):
            signal.signal(s, handler)

    for s in signals:
        signal.signal(s, request)
    try:
        yield event
    finally:
        for s, handler in zip(signals, before, strict=True):
            signal.signal(s, handler)
