"""Checkpoints that are taken for what they are not, or that advise to run the code in them."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from emukit.competitions.cse151b import cse151b
from emukit.errors import RunError
from emukit.metrics import Score
from emukit.parallel.comm import Comm
from emukit.progress import silent_reporter
from emukit.training import loop
from emukit.training.checkpoint import LAST, best_path, load_checkpoint, save_shard, shard_reader
from emukit.training.engine import Engine
from emukit.training.loop import TrainingResult
from emukit.training.settings import AverageSettings
from tests.training.test_engine import make_engine, make_source

SOURCE = make_source()


def scores(*values: float):
    """A validation that gives these scores in turn."""
    given = iter(values)

    def validate() -> Score:
        value = next(given)
        return Score(cse151b(), dict.fromkeys(cse151b().keys, value), 12)

    return validate


def train(
    engine: Engine, folder: Path, validate=None, ramp=lambda epochs: 1.0, seed=0, reporter=None
) -> TrainingResult:
    return loop.train(
        engine,
        SOURCE,
        engine.settings,
        seed=seed,
        ramp=ramp,
        validate=validate or scores(*range(99, 0, -1)),
        folder=folder,
        reporter=reporter or silent_reporter(),
    )


def interrupt_after(engine: Engine, steps: int) -> None:
    """Ask the training to stop while a step is computed."""
    step, taken = engine.step, []

    def counted(*args):
        taken.append(1)
        if len(taken) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*args)

    engine.step = counted


def overflow_above(engine: Engine, scale: float) -> None:
    """Gradients overflow, in one parameter, where the loss scale is greater than this."""
    bias = engine.network.net[-1].bias
    bias.register_hook(lambda g: g * (float("inf") if engine.scaler.get_scale() > scale else 1.0))


def strict_lines(folder: Path) -> list[dict]:
    """The log, where JSON's own words are the only ones allowed."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    text = (folder / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=refuse) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


FP16 = {"epochs": 2, "precision": "fp16", "average": AverageSettings(kind="ema")}
STEPS = SOURCE.steps_per_epoch
# From 65536 down to 4096 the scale is halved four times.
SKIPPED = 4


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Path:
    """The first epoch of two, and three steps; in fp16, with an average, and four skipped steps."""
    folder = tmp_path_factory.mktemp("half")
    engine = make_engine(SOURCE, **FP16)
    overflow_above(engine, 4096)
    interrupt_after(engine, STEPS + 3)
    with pytest.raises(loop.Interrupted):
        train(engine, folder, scores(9, 8))
    return folder


@pytest.fixture
def copy(half: Path, tmp_path: Path) -> Path:
    return shutil.copytree(half, tmp_path / "run")


def resume(folder: Path) -> TrainingResult:
    return train(make_engine(SOURCE, **FP16), folder, scores(7, 6))


def test_an_average_or_the_log_takes_a_step_that_was_not_taken(tmp_path: Path) -> None:
    """Four steps are skipped: the log must stay JSON and count them, and the average see the weights of the others."""
    engine = make_engine(SOURCE, **FP16)
    overflow_above(engine, 4096)
    norms = []
    step = engine.step
    engine.step = lambda *args: norms.append(step(*args)) or norms[-1] | {}
    train(engine, tmp_path)
    first, second = strict_lines(tmp_path)
    assert (first["skipped_steps"], second["skipped_steps"]) == (SKIPPED, 0)
    assert engine.average.count == 2 * STEPS - SKIPPED
    taken = [n["gradient_norm"] for n in norms[SKIPPED:STEPS]]
    assert first["gradient_norm"] == pytest.approx(sum(taken) / len(taken))
    losses = [n["loss"] for n in norms[:STEPS]]
    assert first["loss"] == pytest.approx(sum(losses) / len(losses))


def test_an_epoch_of_skipped_steps_alone_has_no_gradient(tmp_path: Path) -> None:
    engine = make_engine(SOURCE, epochs=1, precision="fp16")
    overflow_above(engine, 4.0)  # from 65536 down to 4: more steps than an epoch has
    train(engine, tmp_path)
    (line,) = strict_lines(tmp_path)
    assert (line["skipped_steps"], line["gradient_norm"]) == (STEPS, None)


def test_a_score_that_is_not_finite_is_no_json(tmp_path: Path) -> None:
    train(make_engine(SOURCE, epochs=2), tmp_path, scores(float("nan"), 1.0))
    first, second = strict_lines(tmp_path)
    assert (first["validation"]["score"], second["validation"]["score"]) == (None, scores(1.0)().value)


def test_other_precisions_have_no_skipped_steps(tmp_path: Path) -> None:
    train(make_engine(SOURCE, epochs=1, precision="bf16"), tmp_path)
    assert "skipped_steps" not in strict_lines(tmp_path)[0]


def test_a_resumed_fp16_training_forgets_its_loss_scale(tmp_path: Path, half: Path) -> None:
    """Forgotten, the first steps would overflow and be skipped again."""
    runs = []
    resumed = shutil.copytree(half, tmp_path / "resumed")
    for folder, validate in ((tmp_path / "whole", scores(9, 8, 7, 6)), (resumed, scores(7, 6))):
        engine = make_engine(SOURCE, **FP16)
        overflow_above(engine, 4096)
        train(engine, folder, validate)
        best = best_path(folder, 2).read_bytes()
        runs.append((engine.scaler.state_dict(), engine.average.count, best, strict_lines(folder)))
    for a, b in zip(*runs, strict=True):
        assert a == b
    assert runs[0][0]["scale"] == 4096


@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_best_weights_that_are_gone_show_only_when_all_is_trained(copy: Path, damage: str) -> None:
    path = best_path(copy, 1)
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    else:
        save_file({"net.0.weight": torch.zeros(3)}, path)
    engine = make_engine(SOURCE, **FP16)
    engine.step = lambda *args: pytest.fail("trained on")
    with pytest.raises(RunError, match="best-0001") as error:
        train(engine, copy)
    assert "remove the run folder" in str(error.value)


def test_best_weights_are_gone_before_the_checkpoint_names_others(tmp_path: Path, monkeypatch) -> None:
    """A power cut after the second epoch, a better one, and before its checkpoint: the first one's must be there."""
    save = loop.save_checkpoint

    def cut(folder, state, engine):
        if state.epoch == 2:
            raise OSError("power cut")
        save(folder, state, engine)

    monkeypatch.setattr(loop, "save_checkpoint", cut)
    with pytest.raises(OSError, match="power cut"):
        train(make_engine(SOURCE, epochs=2), tmp_path)
    assert best_path(tmp_path, 1).exists()
    monkeypatch.setattr(loop, "save_checkpoint", save)
    assert train(make_engine(SOURCE, epochs=2), tmp_path, scores(1)).best_epoch == 2
    assert not best_path(tmp_path, 1).exists()


def edited(change):
    """A change to `last.pt`, by a path of keys and a value."""
    keys, value = change

    def edit(folder: Path) -> None:
        content = torch.load(folder / LAST, weights_only=True)
        node = content
        for key in keys[:-1]:
            node = node[key]
        if value is None:
            del node[keys[-1]]
        else:
            node[keys[-1]] = value
        # As checkpoints of earlier versions, it has none: what is tried is what else refuses it.
        content.pop("digest", None)
        torch.save(content, folder / LAST)

    return edit


@pytest.mark.parametrize(
    "change",
    [
        (["rng"], []),
        (["rng"], [1]),
        (["rng"], [torch.zeros(3)]),
        (["rng"], [torch.zeros(3, dtype=torch.uint8)]),
        (["rng"], None),
        (["cuda_rng"], [torch.zeros(16, dtype=torch.uint8)] * 2),
        (["world"], 0),
        (["shards"], "../../home"),
        (["digests"], ["0" * 64]),
        (["tensors"], None),
        (["tensors"], [torch.zeros(1)]),
        (["tensors", "network/net.0.bias"], torch.zeros(3)),
        (["tensors", "network/net.0.bias"], torch.zeros(8, dtype=torch.int64)),
        (["tensors", "network/net.0.bias"], None),
        (["averaged"], 10**9),
        (["averaged"], 0),
        (["averaged"], -1),
        (["averaged"], 2.5),
        (["scaler"], {}),
        (["scaler", "scale"], float("nan")),
        (["scaler", "scale"], "large"),
        (["scaler", "_growth_tracker"], -1),
        (["state"], 3),
        (["state", "sums"], [1]),
        (["state", "sums"], {}),
        (["state", "sums", "loss"], float("nan")),
        (["state", "step"], 10**9),
        (["state", "step"], STEPS + 1),
        (["state", "step"], -1),
        (["state", "step"], "3"),
        (["state", "step"], True),
        (["state", "epoch"], 2),
        (["state", "epoch"], 10**9),
        (["state", "best_epoch"], 2),
        (["state", "best_epoch"], 0),
        (["state", "best_score"], float("nan")),
        (["state", "best_score"], float("inf")),
        (["state", "best_average"], 1),
        (["state", "best_digest"], ""),
        (["state", "stale"], 5),
        (["state", "seconds"], float("inf")),
        (["state", "later"], 1),
    ],
    ids=lambda change: f"{'.'.join(change[0])}={str(change[1])[:20]}",
)
def test_a_checkpoint_with_wrong_content_is_believed_or_crashes(copy: Path, change) -> None:
    edited(change)(copy)
    with pytest.raises(RunError, match=r"last\.pt cannot be used") as error:
        resume(copy)
    assert len(str(error.value)) < 1000


def test_random_numbers_begin_again_or_are_alike_where_other_processes_go_on(copy: Path) -> None:
    """One has stopped, two continue: what they draw depends on the seed, on where that was, and on which of them it
    is."""

    def drawn() -> list[float]:
        first = []
        for rank in (0, 1):
            engine = make_engine(SOURCE, **FP16)
            engine.comm = Comm(rank, 2)
            load_checkpoint(copy, engine, STEPS)
            first.append(float(torch.rand(())))
        return first

    values = [float(torch.rand((), generator=torch.Generator().manual_seed(seed))) for seed in (0, 1)]
    values += drawn()
    assert values[2:] == drawn()
    edited((["state", "step"], 4))(copy)
    values += drawn()
    edited((["rng"], [torch.Generator().manual_seed(7).get_state()]))(copy)
    values += drawn()
    assert len(set(values)) == len(values) == 8


@pytest.mark.parametrize("content", [[1], torch.zeros(2), {}, None])
def test_a_checkpoint_of_something_else_is_refused(copy: Path, content) -> None:
    torch.save(content, copy / LAST)
    with pytest.raises(RunError, match="cannot be used"):
        resume(copy)


def test_a_checkpoint_with_code_in_it_is_answered_with_how_to_run_it(copy: Path) -> None:
    mark = copy / "ran"

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(mark),)

    for write in (lambda f: torch.save({"state": Evil()}, f), lambda f: f.write_bytes(pickle.dumps(Evil()))):
        write(copy / LAST)
        with pytest.raises(RunError, match="nothing of it was run") as error:
            resume(copy)
        assert "weights_only" not in str(error.value)
        assert not mark.exists()


@pytest.mark.parametrize("pickled", [b"\x80\x02.", b""], ids=["nothing", "empty"])
def test_a_checkpoint_that_its_reader_stumbles_over_is_refused(copy: Path, pickled: bytes) -> None:
    with zipfile.ZipFile(copy / LAST) as whole:
        parts = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(copy / LAST, "w") as damaged:
        for name, content in parts.items():
            damaged.writestr(name, pickled if name.endswith("data.pkl") else content)
    with pytest.raises(RunError, match="cut short or damaged"):
        resume(copy)


def test_an_unchanged_copy_is_gone_on_with(copy: Path) -> None:
    """What the refusals above would hide: that everything is refused."""
    assert resume(copy).epochs == 2


def test_files_of_others_are_removed_or_in_the_way(copy: Path) -> None:
    (copy / "last-a-b").write_text("mine")
    (copy / "last-2024-notes").mkdir()
    (copy / "best-of.safetensors").write_text("mine")
    (copy / "last-0000-000007").mkdir()
    (copy / "last-0000-000008").write_text("mine")
    resume(copy)
    assert {p.name for p in copy.glob("last-*")} == {"last-a-b", "last-2024-notes", "last-0000-000008"}
    assert (copy / "best-of.safetensors").exists()


class _Killed(BaseException):
    """What no cleaning up catches."""


@pytest.mark.parametrize(
    ("step", "epoch"),
    # Weights are written before the checkpoint that names them, and older ones are removed after it.
    [("save_checkpoint", 2), ("save_checkpoint", 3), ("drop_older_best", 2), ("drop_older_best", 3)],
)
def test_best_weights_of_a_training_that_is_killed_at_an_epoch_s_end_stay_for_ever(tmp_path, monkeypatch, step, epoch):
    real = getattr(loop, step)

    def kill(folder, state, *rest):
        if epoch == (state if step == "drop_older_best" else state.epoch):
            raise _Killed
        real(folder, state, *rest)

    # The third epoch is the last; every one is better than that before.
    costs = {1: 9, 2: 8, 3: 7}
    with monkeypatch.context() as patch:
        patch.setattr(loop, step, kill)
        with pytest.raises(_Killed):
            train(make_engine(SOURCE, epochs=3), tmp_path, scores(*costs.values()))
    left = {p.name for p in tmp_path.glob("best-*")}
    assert left == {best_path(tmp_path, e).name for e in (epoch - 1, epoch)}
    done = epoch if step == "drop_older_best" else epoch - 1
    result = train(make_engine(SOURCE, epochs=3), tmp_path, scores(*(c for e, c in costs.items() if e > done)))
    assert result.best_epoch == 3
    assert list(tmp_path.glob("best-*")) == [best_path(tmp_path, 3)]


def test_a_bit_that_flips_in_a_tensor_is_trained_on(copy: Path) -> None:
    """What the weights are is nobody's knowledge: a changed one looks like any other."""
    content = bytearray((copy / LAST).read_bytes())
    with zipfile.ZipFile(copy / LAST) as parts:
        largest = parts.read(max(parts.infolist(), key=lambda part: part.file_size))
    content[content.index(largest) + 5] ^= 1
    (copy / LAST).write_bytes(content)
    with pytest.raises(RunError, match=r"last\.pt cannot be used\n.*data/\d+ in it is damaged"):
        resume(copy)


def test_a_bit_that_flips_in_the_best_weights_becomes_the_emulator(copy: Path) -> None:
    (best,) = copy.glob("best-*.safetensors")
    content = bytearray(best.read_bytes())
    content[-3] ^= 1
    best.write_bytes(content)
    with pytest.raises(RunError, match=r"best-\d+\.safetensors cannot be used"):
        resume(copy)


def test_a_shard_of_another_process_or_checkpoint_is_taken(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Comm, "barrier", lambda self: None)
    monkeypatch.setattr(Comm, "gather_bytes", lambda self, values: [values])
    digests = {
        name: [save_shard(tmp_path / name, {"a": torch.full((2,), value + r)}, Comm(r, 3))[0] for r in range(3)]
        for name, value in (("mine", 5.0), ("other", 7.0))
    }
    names, read = shard_reader(tmp_path / "mine", digests["mine"])
    assert names == {"a"}
    assert read("a").tolist() == [5.0, 5.0]
    one, two = (tmp_path / "mine" / f"rank-{r}.safetensors" for r in (0, 1))
    kept = one.read_bytes()
    shutil.copy(tmp_path / "other" / one.name, one)
    with pytest.raises(ValueError, match=r"rank-0\.safetensors is damaged, or another checkpoint's"):
        shard_reader(tmp_path / "mine", digests["mine"])
    one.write_bytes(two.read_bytes())
    with pytest.raises(ValueError, match=r"rank-0\.safetensors is damaged, or another checkpoint's"):
        shard_reader(tmp_path / "mine", digests["mine"])
    one.write_bytes(bytes([*kept[:-1], kept[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"rank-0\.safetensors is damaged, or another checkpoint's"):
        shard_reader(tmp_path / "mine", digests["mine"])
    one.unlink()
    with pytest.raises(FileNotFoundError):
        shard_reader(tmp_path / "mine", digests["mine"])


def test_an_average_that_gets_better_does_not_keep_training_going(tmp_path: Path) -> None:
    """The weights' own scores stand still; the average's fall: patience must not run out."""
    engine = make_engine(SOURCE, epochs=5, patience=2, average=AverageSettings(kind="ema"))
    result = train(engine, tmp_path, scores(9, 8, 9, 7, 9, 6, 9, 5, 9, 4))
    assert (result.epochs, result.best_epoch, result.best_average) == (5, 5, True)


def test_the_ramp_of_the_loss_stands_still_within_an_epoch(tmp_path: Path) -> None:
    engine, asked, used = make_engine(SOURCE, epochs=2), [], []
    step = engine.step
    engine.step = lambda group, rate, ramp, *more: used.append(ramp) or step(group, rate, ramp, *more)
    train(engine, tmp_path, ramp=lambda epochs: asked.append(epochs) or epochs / 2)
    assert asked == pytest.approx([n / STEPS for n in range(2 * STEPS)])
    assert used == [a / 2 for a in asked]


def test_a_checkpoint_with_another_tensor_than_was_written_is_refused(copy: Path) -> None:
    path = copy / LAST
    content = torch.load(path, weights_only=True)
    assert len(content["digest"]) == 64
    name = next(k for k in content["tensors"] if k.startswith("network/"))
    content["tensors"][name].view(-1)[0] += 1e-3
    torch.save(content, path)
    with pytest.raises(RunError) as error:
        load_checkpoint(copy, make_engine(SOURCE), STEPS)
    assert "other tensors or values than were written" in error.value.found
    assert str(path) in error.value.what
