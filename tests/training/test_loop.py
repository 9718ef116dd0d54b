"""Training that a crash, a signal or a bad batch changes, loses or hides."""

import io
import itertools
import json
import os
import signal
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from emukit.competitions.cse151b import cse151b
from emukit.errors import RunError, TrainingError
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import read_run, train_run
from emukit.training import loop
from emukit.training.checkpoint import LAST
from emukit.training.engine import learning_rate, make_optimizer
from emukit.training.log import read_lines
from emukit.training.settings import AverageSettings, OptimizerSettings, TrainingSettings
from tests.coded import changed, warming_archive
from tests.reporters import Said
from tests.training.test_checkpoint import SOURCE, STEPS, interrupt_after, scores, strict_lines, train
from tests.training.test_engine import make_engine, parameters

SETTINGS = [
    "model.hidden=8",
    "model.features=6",
    "model.width=4",
    "model.stages=1",
    "model.pool_rows=1",
    "model.pool_columns=2",
    "model.dropout=0.2",
    "inputs.window.history=3",
    "training.epochs=3",
    "training.segments.length=12",
    "training.segments.per_batch=4",
    "training.optimizer.warmup_steps=3",
]
QUIET = Reporter(quiet=True)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(*more):
    return load_recipe("cnn-gru", None, [*SETTINGS, *more])


def run(folder, *more, resume=False, archive=None, seed=0):
    archive = archive or warming_archive()
    return train_run(archive, recipe(*more), folder, protocol="k360", seed=seed, resume=resume, reporter=QUIET)


def weights(folder):
    return (folder / "emulator" / "arrays.safetensors").read_bytes()


def numbers(folder):
    """The record of every epoch, except for the time it took."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(folder / "metrics.jsonl")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("whole") / "run"
    run(folder)
    return folder


@pytest.mark.parametrize("stop_at", [1, 7, 13, 26])
def test_interrupted_and_resumed_run_is_bit_for_bit_the_whole_one(tmp_path, whole, monkeypatch, request, stop_at):
    """A signal after any step: within an epoch, at its last step, in a later one."""
    count = 0
    step = torch.optim.AdamW.step

    def counted(self, *args, **kwargs):
        nonlocal count
        count += 1
        if count == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args, **kwargs)

    # In the background of a shell, Python starts with SIGINT ignored, and without this handler.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))
    monkeypatch.setattr(torch.optim.AdamW, "step", counted)
    with pytest.raises(loop.Interrupted):
        run(tmp_path / "run")
    assert count == stop_at
    assert read_run(tmp_path / "run").record.state == "training"
    torch.manual_seed(99)  # what happened in between must not matter
    run(tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(whole)
    assert numbers(tmp_path / "run") == numbers(whole)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_crash_between_log_and_checkpoint_does_not_count_an_epoch_twice(tmp_path, whole, monkeypatch):
    save = loop.save_checkpoint

    def crash(folder, state, *rest):
        if state.epoch == 2:
            raise OSError("power cut")
        save(folder, state, *rest)

    monkeypatch.setattr(loop, "save_checkpoint", crash)
    with pytest.raises(OSError, match="power cut"):
        run(tmp_path / "run")
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) == 2
    monkeypatch.setattr(loop, "save_checkpoint", save)
    run(tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(whole)
    assert numbers(tmp_path / "run") == numbers(whole)


def test_best_epoch_is_kept_not_the_last(tmp_path, monkeypatch):
    """Scores that worsen after the first epoch: the emulator must hold the first epoch's weights."""
    from emukit.runs import fit as module

    real, calls, kept = module.score_emulator, [], []

    def worsening(emulator, archive, spans, comm):
        score = real(emulator, archive, spans, comm)
        if not calls:
            kept.append({k: v.clone() for k, v in emulator.network.state_dict().items()})
        calls.append(score)
        return changed(score, lambda key, value: value + len(calls) * key.endswith("monthly_rmse"))

    monkeypatch.setattr(module, "score_emulator", worsening)
    finished, _ = run(tmp_path / "run")
    assert finished.record.best_epoch == 1
    network = finished.emulator(warming_archive()).network.state_dict()
    assert all(torch.equal(network[k], v) for k, v in kept[0].items())


def test_the_best_epoch_is_the_highest_where_higher_is_better(tmp_path, monkeypatch):
    from emukit.runs import fit as module

    real, calls = module.score_emulator, []
    upward = replace(cse151b(), higher_is_better=True)

    def rising(*args):
        calls.append(1)
        score = changed(real(*args), lambda key, value: -9.0 + len(calls))
        return replace(score, competition=upward)

    monkeypatch.setattr(module, "score_emulator", rising)
    finished, _ = run(tmp_path / "run")
    assert finished.record.best_epoch == finished.record.epochs > 1


def test_early_stopping_stops_and_resume_does_not_start_again(tmp_path, monkeypatch):
    from emukit.runs import fit as module

    real, calls = module.score_emulator, []

    def worsening(*args):
        calls.append(1)
        score = real(*args)
        return changed(score, lambda key, value: (value + 10 * len(calls)) * key.endswith("monthly_rmse"))

    monkeypatch.setattr(module, "score_emulator", worsening)
    first, _ = run(tmp_path / "run", "training.epochs=9", "training.patience=2")
    assert first.record.epochs == 3
    again, _ = run(tmp_path / "run", "training.epochs=9", "training.patience=2", resume=True)
    assert again.record.epochs == 3


def test_not_finite_loss_names_the_batch_and_keeps_the_checkpoint(tmp_path, monkeypatch):
    archive = warming_archive()
    from emukit.data.segments import SegmentSampler

    batch = SegmentSampler.batch
    steps = []

    def poisoned(self, segments, months=None):
        out = batch(self, segments, months)
        steps.append(segments)
        if len(steps) == self.steps_per_epoch + 2:
            out.targets[0, 0, 0, 0, 0] = float("nan")
            self.poisoned = self.address(segments)
        return out

    monkeypatch.setattr(SegmentSampler, "batch", poisoned)
    with pytest.raises(TrainingError, match="epoch 2, step 2") as error:
        run(tmp_path / "run", archive=archive)
    assert "ssp" in str(error.value)
    assert "2015-" in str(error.value) or "20" in str(error.value)
    assert (tmp_path / "run" / LAST).exists()
    assert len(read_lines(tmp_path / "run" / "metrics.jsonl")) == 1


def test_existing_run_is_refused_and_another_configuration_is_not_resumed(tmp_path, whole):
    with pytest.raises(RunError, match="exists"):
        run(whole, seed=5)
    with pytest.raises(RunError, match="another recipe"):
        run(whole, "training.optimizer.learning_rate=0.5", resume=True)
    with pytest.raises(RunError, match="another seed"):
        run(whole, resume=True, seed=5)
    with pytest.raises(RunError, match="another data"):
        run(whole, resume=True, archive=warming_archive(seed=4))


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 nonsense", None])
def test_damaged_checkpoint_is_refused(tmp_path, whole, damage):
    import shutil

    folder = tmp_path / "run"
    shutil.copytree(whole, folder)
    content = (folder / LAST).read_bytes()
    (folder / LAST).write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(RunError, match="cannot be used"):
        run(folder, resume=True)


def test_pickled_code_in_a_checkpoint_is_not_run(tmp_path, whole):
    import pickle
    import shutil

    folder, mark = tmp_path / "run", tmp_path / "ran"
    shutil.copytree(whole, folder)

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    (folder / LAST).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RunError):
        run(folder, resume=True)
    assert not mark.exists()


def test_other_seed_is_another_run_and_the_same_seed_the_same(tmp_path, whole):
    run(tmp_path / "same")
    run(tmp_path / "other", seed=1)
    assert weights(tmp_path / "same") == weights(whole)
    assert weights(tmp_path / "other") != weights(whole)


def test_record_says_what_and_from_what(whole):
    record = json.loads((whole / "run.json").read_text())
    assert record["state"] == "finished"
    assert record["parameters"] == sum(v.size for k, v in _arrays(whole).items() if k.startswith("network."))
    assert {"torch", "numpy", "emukit", "python"} <= set(record["sessions"][0]["versions"])
    assert record["scored"]["validation"] == ["ssp370 2023-02..2025-01 member 0"]
    assert len(record["data"]["digest"]) == 64


def _arrays(folder):
    from safetensors.numpy import load_file

    return load_file(folder / "emulator" / "arrays.safetensors")


def test_learning_rate_warms_up_peaks_and_ends_where_it_should():
    optimizer = OptimizerSettings(learning_rate=1.0, final_learning_rate=0.1, warmup_steps=4)
    settings = TrainingSettings(optimizer=optimizer)
    rates = [learning_rate(s, 20, settings) for s in range(20)]
    np.testing.assert_allclose(rates[:5], [0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in itertools.pairwise(rates[4:]))


def test_a_rate_that_is_halved_again_and_again_ends_at_the_final_one():
    optimizer = OptimizerSettings(learning_rate=1.0, final_learning_rate=0.1, warmup_steps=4)
    settings = TrainingSettings(schedule="plateau", optimizer=optimizer)
    assert [learning_rate(10, 20, settings, n) for n in range(6)] == [1.0, 0.5, 0.25, 0.125, 0.1, 0.1]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_optimiser_steps_with_another_rate_than_the_schedule(tmp_path, accumulate):
    """The rate of every step, over the end of an epoch; the log has that of each epoch's last."""
    settings = OptimizerSettings(learning_rate=1e-2, final_learning_rate=1e-4, warmup_steps=3)
    engine = make_engine(SOURCE, epochs=2, optimizer=settings, accumulate=accumulate)
    used = []
    engine.optimizer.register_step_pre_hook(lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"]))
    train(engine, tmp_path)
    per_epoch = -(-STEPS // accumulate)
    assert used == [learning_rate(s, 2 * per_epoch, engine.settings) for s in range(2 * per_epoch)]
    assert [used[0], used[2], used[-1]] == pytest.approx([1e-2 / 3, 1e-2, 1e-4])
    assert [line["learning_rate"] for line in strict_lines(tmp_path)] == [used[per_epoch - 1], used[-1]]


# Scores of ten epochs, and the rate that each is trained with where two validations without a better one halve it:
# written down by hand, from 0.08 to the floor of 0.01.
PLATEAU_SCORES = (5.0, 4.0, 6.0, 4.0, 3.0, 3.0, 3.0, 3.0, 3.0, 9.0)
PLATEAU_RATES = [0.08, 0.08, 0.08, 0.08, 0.04, 0.04, 0.04, 0.02, 0.02, 0.01]


@pytest.mark.parametrize("stop_at", [0, 1, 7 * STEPS, 7 * STEPS + 1, 8 * STEPS])
def test_a_plateau_lowers_the_rate_too_early_too_late_or_otherwise_after_a_resume(tmp_path, stop_at):
    settings = {
        "epochs": 10,
        "schedule": "plateau",
        "plateau": 2,
        "optimizer": OptimizerSettings(learning_rate=0.08, final_learning_rate=0.01, warmup_steps=0),
        "average": AverageSettings(kind="none"),
    }
    engine = make_engine(SOURCE, **settings)
    validate = scores(*PLATEAU_SCORES)
    if stop_at:
        interrupt_after(engine, stop_at)
        with pytest.raises(loop.Interrupted):
            train(engine, tmp_path, validate=validate)
        engine = make_engine(SOURCE, **settings)
    train(engine, tmp_path, validate=validate)
    assert [line["learning_rate"] for line in strict_lines(tmp_path)] == PLATEAU_RATES


@pytest.mark.parametrize(("epochs", "every", "said"), [(3, 1, True), (4, 1, False), (6, 2, True), (7, 2, False)])
def test_a_plateau_that_cannot_come_is_waited_for_in_silence(tmp_path, epochs, every, said):
    """Scores that never get better lower the rate exactly where nothing is said."""
    optimizer = OptimizerSettings(learning_rate=0.08, final_learning_rate=0.01, warmup_steps=0)
    engine = make_engine(
        SOURCE,
        epochs=epochs,
        validate_every=every,
        schedule="plateau",
        plateau=2,
        optimizer=optimizer,
        average=AverageSettings(kind="none"),
    )
    reporter = Said()
    train(engine, tmp_path, validate=scores(*range(1, 9)), reporter=reporter)
    rates = {line["learning_rate"] for line in strict_lines(tmp_path)}
    assert rates == ({0.08} if said else {0.08, 0.04})
    assert sum("never lower the learning rate" in line for line in reporter.lines) == said


def test_a_schedule_that_nobody_chose_changes_the_digest_of_a_recipe():
    assert not {"schedule", "plateau"} & TrainingSettings().model_dump().keys()
    assert {"schedule", "plateau"} <= TrainingSettings(schedule="plateau").model_dump().keys()
    with pytest.raises(ValueError, match="stops the training before"):
        TrainingSettings(schedule="plateau", patience=5)
    with pytest.raises(ValueError, match="plateau counts only with"):
        TrainingSettings(plateau=3)


def test_an_epoch_has_the_batches_of_another_or_of_another_seed(tmp_path):
    engine, taken = make_engine(SOURCE, epochs=3), []
    step = engine.step
    engine.step = lambda group, *rest: taken.extend(group) or step(group, *rest)
    train(engine, tmp_path, seed=5)
    epochs = [SOURCE.epoch(e, 5) for e in range(3)]
    assert taken == [batch for epoch in epochs for batch in epoch]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_an_epoch_is_validated_that_should_not_be_or_the_last_is_not(tmp_path):
    engine, at = make_engine(SOURCE, epochs=5, validate_every=2), []
    steps, validate = [], scores(3, 2, 1)
    engine.optimizer.register_step_pre_hook(lambda *_: steps.append(1))
    result = train(engine, tmp_path, lambda: at.append(len(steps) / STEPS) or validate())
    assert at == [2, 4, 5]
    assert [line["epoch"] for line in strict_lines(tmp_path) if "validation" in line] == at
    assert result.best_epoch == 5


def test_hours_of_an_epoch_are_lost_to_a_crash(tmp_path, monkeypatch):
    """A checkpoint whenever more than a minute has passed since the last, of whichever kind; none more often."""
    engine, clock, saved = make_engine(SOURCE, epochs=2, checkpoint_minutes=1.0), [1000.0], []
    step, save = engine.step, loop.save_checkpoint

    def slow(*args):
        clock[0] += 25
        return step(*args)

    def noted(folder, state, *rest):
        saved.append((state.epoch, state.step))
        save(folder, state, *rest)

    engine.step = slow
    monkeypatch.setattr(loop, "save_checkpoint", noted)
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    result = train(engine, tmp_path)
    within = range(3, STEPS + 1, 3)
    assert len(within) > 1
    assert saved == [*((0, s) for s in within), (1, 0), *((1, s) for s in within), (2, 0)]
    assert result.seconds == 25 * 2 * STEPS


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_stop_request_during_validation_is_forgotten(tmp_path, epoch):
    """Of an epoch within and of the last: all is saved, and what continues has nothing of it to do again."""
    engine, validate, calls = make_engine(SOURCE, epochs=2), scores(9, 8), []

    def signalled():
        calls.append(1)
        if len(calls) == epoch:
            os.kill(os.getpid(), signal.SIGINT)
        return validate()

    with pytest.raises(loop.Interrupted):
        train(engine, tmp_path, signalled)
    assert len(calls) == len(strict_lines(tmp_path)) == epoch
    again, steps = make_engine(SOURCE, epochs=2), []
    again.optimizer.register_step_pre_hook(lambda *_: steps.append(1))
    assert train(again, tmp_path, validate).best_epoch == 2
    assert len(steps) == (2 - epoch) * STEPS


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_stop_request_at_the_last_step_waits_for_the_validation(tmp_path, epoch):
    """A validation can take long; it is done when the training continues."""
    engine = make_engine(SOURCE, epochs=2)
    interrupt_after(engine, epoch * STEPS)
    given = scores(9, 8)
    calls = []
    with pytest.raises(loop.Interrupted):
        train(engine, tmp_path, lambda: calls.append(1) or given())
    assert len(calls) == epoch - 1
    again, steps = make_engine(SOURCE, epochs=2), []
    again.optimizer.register_step_pre_hook(lambda *_: steps.append(1))
    assert train(again, tmp_path, given).best_epoch == 2
    assert len(steps) == (2 - epoch) * STEPS


def test_the_average_begins_with_another_epoch_than_asked_for(tmp_path):
    """Of four epochs the last two; an average of one epoch is not scored."""
    engine = make_engine(SOURCE, epochs=4, average=AverageSettings(kind="swa", start=0.5))
    seen, validate = [], scores(9, 8, 7, 6, 5)
    train(engine, tmp_path, lambda: seen.append(parameters(engine)) or validate())
    assert ["validation_average" in line for line in strict_lines(tmp_path)] == [False, False, False, True]
    assert engine.average.count == 2
    torch.testing.assert_close(seen[4], (seen[2] + seen[3]) / 2)
    assert not torch.allclose(seen[2], seen[3])


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_batch_is_not_read_ahead(tmp_path, accumulate):
    """Every batch of an epoch but the first is asked for just before the one in front of it, and never again."""
    engine, calls = make_engine(SOURCE, epochs=1, accumulate=accumulate), []
    source = SimpleNamespace(
        length=SOURCE.length,
        prefetch=lambda *key: calls.append(("ahead", key)),
        batch=lambda *key: calls.append(("now", key)) or SOURCE.batch(*key),
    )
    engine._sampler = source
    train(engine, tmp_path)
    keys = [(batch, None) for batch in SOURCE.epoch(0, 0)]
    turns = [call for pair in itertools.pairwise(keys) for call in (("ahead", pair[1]), ("now", pair[0]))]
    assert calls == [*turns, ("now", keys[-1])]


def test_biases_are_not_decayed():
    network = torch.nn.Linear(3, 2)
    groups = make_optimizer(network, OptimizerSettings(weight_decay=0.3)).param_groups
    decay = {id(p): g["weight_decay"] for g in groups for p in g["params"]}
    assert (decay[id(network.weight)], decay[id(network.bias)]) == (0.3, 0.0)


def test_signals_are_left_alone_outside_the_main_thread():
    seen = []

    def body():
        with loop._stop_requests(Comm()) as event:
            seen.append(event.is_set())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_log_has_one_line_for_each_epoch(tmp_path):
    said = io.StringIO()
    reporter = Reporter(console=Console(file=said, width=200), plain_seconds=0.0)
    train_run(warming_archive(), recipe(), tmp_path / "r", protocol="k360", seed=0, reporter=reporter)
    lines = [line for line in said.getvalue().splitlines() if line.startswith("training ")]
    assert [line.partition("epoch ")[2].split()[0] for line in lines] == ["1/3", "2/3", "3/3"]
    assert "loss: tas " in said.getvalue()


def test_the_last_line_shows_the_best_score_before_the_last(tmp_path):
    said = io.StringIO()
    reporter = Reporter(console=Console(file=said, width=200), plain_seconds=1e9)
    train_run(warming_archive(), recipe(), tmp_path / "r", protocol="k360", seed=0, reporter=reporter)
    last = [line for line in said.getvalue().splitlines() if "epoch 3/3" in line][-1]
    best = {line["epoch"]: line["validation"]["score"] for line in read_lines(tmp_path / "r" / "metrics.jsonl")}
    epoch = min(best, key=best.get)
    assert epoch == 3  # or the line before says the same
    assert last.endswith(f"best {best[epoch]:.4f} (epoch {epoch})"), said.getvalue()
