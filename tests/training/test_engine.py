"""Steps that change with how they are computed: accumulation, precision, averages of weights."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from emukit.data.frames import FrameEncoder, InputSettings, Window
from emukit.data.protocol import make_split
from emukit.data.segments import SegmentSampler, SegmentSettings
from emukit.data.targets import TargetNormalizer, TargetSettings
from emukit.errors import TrainingError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext
from emukit.models.precision import matmul_precision
from emukit.objectives.regression import Regression
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import train_run
from emukit.training.engine import Engine, Execution, WeightAverage, _check_compiler
from emukit.training.log import read_lines
from emukit.training.settings import AverageSettings, OptimizerSettings, TrainingSettings
from tests.coded import changed, warming_archive


class Plain(nn.Module):
    """The mean of a window's frames, mapped by two layers: nothing that depends on the batch it stands in."""

    def __init__(self, channels: int, history: int) -> None:
        super().__init__()
        self.history = history
        self.net = nn.Sequential(nn.Linear(channels, 8), nn.Tanh(), nn.Linear(8, 2))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        window = frames.unfold(1, self.history, 1).mean(-1)
        return self.net(window.movedim(2, -1)).movedim(-1, 2)


def make_source(per_batch: int = 4, length: int = 12) -> SegmentSampler:
    archive = warming_archive()
    split = make_split(archive, "k360")
    encoder = FrameEncoder.fit(archive, split.train, InputSettings(window=Window(history=3)))
    settings = {v: TargetSettings(climatology="cell", scale="cell") for v in ("tas", "pr")}
    normalizer = TargetNormalizer.fit(archive, split.train, settings)
    return SegmentSampler(
        archive, split.train, encoder, normalizer, SegmentSettings(length=length, per_batch=per_batch, members="mean")
    )


def make_engine(
    source: SegmentSampler, execution: Execution | None = None, network: type[Plain] = Plain, **settings: object
) -> Engine:
    torch.manual_seed(0)
    built = network(source.batch(source.epoch(0, 0)[0]).frames.shape[2], 3)
    weights = torch.full((4, 6), 1 / 24)
    loss = CompositeLoss({"tas": {"mse": 1.0}, "pr": {"l1": 1.0}}, ("tas", "pr"), GridContext(weights))
    chosen = TrainingSettings(segments=source.settings, **{"average": AverageSettings(), **settings})
    return Engine(built, source, Regression(loss), chosen, Comm(), execution or Execution())


def parameters(engine: Engine) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in engine.network.parameters()])


def test_accumulated_batches_are_one_large_batch() -> None:
    """Unequal parts: five segments at once, or two, two and one."""
    source = make_source()
    segments = [s for batch in source.epoch(0, 0) for s in batch][:5]
    whole, parts = make_engine(source), make_engine(source)
    at_once = whole.step([segments], 1e-2, 1.0)
    in_parts = parts.step([segments[:2], segments[2:4], segments[4:]], 1e-2, 1.0)
    assert in_parts.keys() == at_once.keys()
    for name, value in at_once.items():
        assert in_parts[name] == pytest.approx(value, rel=1e-5), name
    torch.testing.assert_close(parameters(parts), parameters(whole), rtol=1e-5, atol=1e-7)


def test_an_accumulated_epoch_reads_every_batch_once(tmp_path, monkeypatch) -> None:
    """Eleven batches by threes are four steps, the last of two batches."""
    seen, batches = [], []
    step = Engine.step

    def counted(self, group, *rest):
        batches[:] = self._sampler.epoch(0, 0)
        seen.append(group)
        return step(self, group, *rest)

    monkeypatch.setattr(Engine, "step", counted)
    small = ["model.hidden=8", "model.features=6", "model.width=4", "model.stages=1", "inputs.window.history=3"]
    small += ["training.segments.length=12", "training.segments.per_batch=4", "training.epochs=1"]
    recipe = load_recipe("cnn-gru", None, [*small, "training.accumulate=3"])
    train_run(warming_archive(), recipe, tmp_path / "run", protocol="k360", reporter=Reporter(quiet=True))
    assert [batch for group in seen for batch in group] == batches
    assert {len(group) for group in seen[:-1]} == {3}
    assert 0 < len(seen[-1]) < 3


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_keeps_float32_where_it_must(precision: str) -> None:
    source = make_source()
    engine, exact = make_engine(source, precision=precision), make_engine(source)
    seen = []
    engine.network.net[0].register_forward_hook(lambda m, a, out: seen.append(out.dtype))
    segments = source.epoch(0, 0)[0]
    for _ in range(3):
        mixed, plain = engine.step([segments], 1e-2, 1.0), exact.step([segments], 1e-2, 1.0)
    assert set(seen) == {torch.bfloat16 if precision == "bf16" else torch.float16}
    assert {p.dtype for p in engine.network.parameters()} == {torch.float32}
    assert mixed["loss"] == pytest.approx(plain["loss"], rel=2e-2)
    assert mixed["loss"] != plain["loss"]


def test_an_fp16_gradient_is_measured_or_clipped_as_it_was_scaled() -> None:
    """A loss times 65536 has a gradient as many times as long; clipped like that, nothing of it would be left."""
    source = make_source()
    optimizer = OptimizerSettings(clip_norm=1e-2)
    segments, taken = source.epoch(0, 0)[0], []
    half, exact = (make_engine(source, precision=p, optimizer=optimizer) for p in ("fp16", "fp32"))
    half.optimizer.register_step_pre_hook(
        lambda *_: taken.append(math.hypot(*(float(p.grad.norm()) for p in half.network.parameters())))
    )
    scaled, plain = (engine.step([segments], 1e-2, 1.0)["gradient_norm"] for engine in (half, exact))
    assert scaled == pytest.approx(plain, rel=5e-2)
    assert scaled > 2e-2
    assert taken == pytest.approx([1e-2], rel=1e-3)


def test_an_overflowed_fp16_gradient_is_left_out_and_one_that_always_overflows_is_told() -> None:
    source = make_source()
    engine = make_engine(source, precision="fp16", average=AverageSettings(kind="ema"))
    segments = source.epoch(0, 0)[0]
    before = parameters(engine)
    scale = engine.scaler.get_scale()
    bias = engine.network.net[-1].bias
    handle = bias.register_hook(lambda gradient: gradient * float("inf"))
    numbers = engine.step([segments], 1e-2, 1.0)
    assert not math.isfinite(numbers["gradient_norm"])
    assert numbers["skipped_steps"] == 1
    assert engine.average.count == 0
    assert not engine.not_finite(numbers)
    assert torch.equal(parameters(engine), before)
    assert engine.scaler.get_scale() < scale
    for _ in range(40):
        numbers = engine.step([segments], 1e-2, 1.0)
        if engine.not_finite(numbers):
            break
    else:
        pytest.fail("an endless row of skipped steps")
    handle.remove()


@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
def test_compiled_network_takes_other_steps_or_has_other_names(monkeypatch) -> None:
    # The default backend would call a C++ compiler for half a minute; what is tested is what emukit does with one.
    compile, called = nn.Module.compile, []
    monkeypatch.setattr(
        nn.Module, "compile", lambda self: (called.append(type(self)), compile(self, backend="aot_eager"))[1]
    )
    source = make_source()
    compiled, plain = make_engine(source, Execution(compile=True)), make_engine(source)
    assert called == [Plain]
    segments = source.epoch(0, 0)[0]
    for _ in range(2):
        a, b = compiled.step([segments], 1e-2, 1.0), plain.step([segments], 1e-2, 1.0)
    assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
    assert compiled.network.state_dict().keys() == plain.network.state_dict().keys()


@pytest.mark.parametrize("named", [True, False])
def test_a_compiler_that_does_not_run_is_found_out_while_training(monkeypatch, tmp_path, named: bool) -> None:
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CXX", raising=False)
    if named:
        monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(TrainingError, match="C\\+\\+ compiler") as caught:
        _check_compiler()
    assert "does not run" in caught.value.found


def test_compilation_without_a_compiler_is_refused_before_training(monkeypatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(TrainingError, match="C\\+\\+ compiler"):
        make_engine(make_source(), Execution(compile=True))


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_average_of_weights_is_not_their_average(kind: str) -> None:
    """Against the definition, written out; the network keeps its own weights."""
    network = nn.Linear(1, 1)
    settings = AverageSettings(kind=kind, decay=0.5, start=0.5)
    average = WeightAverage(network, settings, epochs=8)
    history, expected = [], None
    for epoch in range(1, 9):
        for _ in range(2):
            nn.init.normal_(network.weight)
            history.append(float(network.weight.detach()))
            average.after_step()
            if kind == "ema":
                decay = min(0.5, (1 + len(history) - 1) / (10 + len(history) - 1))
                expected = history[-1] if expected is None else decay * expected + (1 - decay) * history[-1]
        average.after_epoch(epoch)
    if kind == "swa":
        ends = history[1::2][4:]
        expected = sum(ends) / len(ends)
    own = float(network.weight.detach())
    assert average.ready
    with average.in_place():
        assert float(network.weight.detach()) == pytest.approx(expected, rel=1e-5)
    assert float(network.weight.detach()) == own


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_averaged_weights_go_with_the_running_statistics_of_others(kind: str) -> None:
    """Running statistics of batch normalisation are averaged like weights; their count, a whole number, is not."""
    network = nn.BatchNorm2d(1)
    average = WeightAverage(network, AverageSettings(kind=kind, decay=0.1, start=0.0), epochs=4)
    expected: dict[str, float] = {}
    for epoch in range(1, 5):
        network(torch.randn(2, 1, 3, 3) + epoch)
        average.after_step()
        average.after_epoch(epoch)
        weight = max(0.9, 1 - epoch / (9 + epoch)) if kind == "ema" else 1 / epoch
        for name in ("running_mean", "running_var"):
            now = float(getattr(network, name))
            expected[name] = expected.get(name, now) + weight * (now - expected.get(name, now))
    own = {k: v.clone() for k, v in network.state_dict().items()}
    with average.in_place():
        assert {k: float(getattr(network, k)) for k in expected} == pytest.approx(expected, rel=1e-5)
        assert int(network.num_batches_tracked) == 4
        assert all(float(own[k]) != float(getattr(network, k)) for k in expected)
    assert all(torch.equal(v, own[k]) for k, v in network.state_dict().items())


class Convolved(Plain):
    """The mean of a window's frames, convolved."""

    def __init__(self, channels: int, history: int) -> None:
        super().__init__(channels, history)
        self.net = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.Tanh(), nn.Conv2d(8, 2, 3, padding=1))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        window = frames.unfold(1, self.history, 1).mean(-1)
        return self.net(window.flatten(0, 1)).unflatten(0, window.shape[:2])


def test_channels_last_is_another_network_or_nothing() -> None:
    source = make_source()
    engines = [make_engine(source, Execution(channels_last=last), network=Convolved) for last in (False, True)]
    layouts = [e.network.net[0].weight.is_contiguous(memory_format=torch.channels_last) for e in engines]
    assert layouts == [False, True]
    seen = []
    engines[1].network.net[0].register_forward_hook(
        lambda module, arguments, out: seen.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    for segments in source.epoch(0, 0)[:2]:
        plain, last = (engine.step([segments], 1e-2, 1.0) for engine in engines)
        assert last == pytest.approx(plain, rel=1e-5)
    assert all(seen)
    torch.testing.assert_close(parameters(engines[1]), parameters(engines[0]), rtol=1e-5, atol=1e-5)


def test_without_an_average_nothing_is_kept_or_scored() -> None:
    network = nn.Linear(1, 1)
    average = WeightAverage(network, AverageSettings(), epochs=2)
    average.after_step()
    average.after_epoch(1)
    assert not average.ready
    assert not average.tensors


def test_the_average_is_kept_only_where_it_scores_better(tmp_path, monkeypatch) -> None:
    """Scores in turn of weights and average; the emulator must hold the weights of the lowest one."""
    from emukit.runs import fit as module

    real, kept = module.score_emulator, []
    given = iter([9.0, 8.0, 7.0, 5.0, 6.0, 6.5])

    def scored(emulator, *rest):
        score = real(emulator, *rest)
        kept.append({k: v.clone() for k, v in emulator.network.state_dict().items()})
        wanted = next(given)
        return changed(score, lambda key, value: wanted)

    monkeypatch.setattr(module, "score_emulator", scored)
    small = ["model.hidden=8", "model.features=6", "model.width=4", "model.stages=1", "inputs.window.history=3"]
    small += ["training.segments.length=12", "training.segments.per_batch=4", "training.epochs=3"]
    recipe = load_recipe("cnn-gru", None, [*small, "training.average.kind=ema"])
    archive = warming_archive()
    run, _ = train_run(archive, recipe, tmp_path / "run", protocol="k360", reporter=Reporter(quiet=True))
    assert (run.record.best_epoch, run.record.best_average) == (2, True)
    network = run.emulator(archive).network.state_dict()
    assert all(torch.equal(network[k], v) for k, v in kept[3].items())
    assert any(not torch.equal(kept[2][k], v) for k, v in kept[3].items())
    lines = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert all("validation_average" in line for line in lines)


def test_float32_is_rounded_to_tf32_only_where_asked_for() -> None:
    matmul, convolution = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, convolution.allow_tf32
    with matmul_precision("tf32"):
        assert (matmul.allow_tf32, convolution.allow_tf32) == (True, True)
        with matmul_precision("fp32"):
            assert (matmul.allow_tf32, convolution.allow_tf32) == (False, False)
    assert (matmul.allow_tf32, convolution.allow_tf32) == before


@pytest.mark.parametrize(("precision", "rounded"), [("fp32", False), ("tf32", True)])
def test_a_training_rounds_to_tf32_otherwise_than_asked_for(tmp_path, monkeypatch, precision, rounded) -> None:
    seen = []

    def first(*arguments):
        seen.extend([torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32])
        raise TrainingError("that is enough")

    monkeypatch.setattr(Engine, "step", first)
    small = ["model.hidden=8", "model.features=6", "model.width=4", "model.stages=1", "inputs.window.history=3"]
    small += ["training.segments.length=12", "training.segments.per_batch=4", f"training.precision={precision}"]
    recipe = load_recipe("cnn-gru", None, small)
    with pytest.raises(TrainingError, match="enough"):
        train_run(warming_archive(), recipe, tmp_path / "run", protocol="k360", reporter=Reporter(quiet=True))
    assert seen == [rounded, rounded]
