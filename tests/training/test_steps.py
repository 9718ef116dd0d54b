"""Steps that are too long, or that put a number that is not finite into the weights."""

import math

import pytest
import torch

from emukit.data.segments import SegmentSampler
from emukit.errors import TrainingError
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import train_run
from emukit.training.log import read_lines
from tests.coded import warming_archive

SETTINGS = [
    "model.hidden=8",
    "model.features=6",
    "model.width=4",
    "model.stages=1",
    "model.pool_rows=1",
    "model.pool_columns=2",
    "inputs.window.history=3",
    "training.epochs=1",
    "training.segments.length=12",
    "training.segments.per_batch=4",
    "training.optimizer.warmup_steps=3",
]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def steps(monkeypatch):
    """What every optimiser step saw and did."""
    return Steps(monkeypatch)


class Steps:
    """Watches AdamW: the length of the gradient at each step, and the weights after it."""

    def __init__(self, monkeypatch):
        self.norms, self.weights, self.parameters = [], [], []
        real = torch.optim.AdamW.step

        def watched(optimizer, *args, **kwargs):
            self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
            squares = [p.grad.detach().double().square().sum() for p in self.parameters if p.grad is not None]
            self.norms.append(math.sqrt(float(sum(squares))))
            out = real(optimizer, *args, **kwargs)
            self.weights.append([p.detach().clone() for p in self.parameters])
            self.after(len(self.norms))
            return out

        monkeypatch.setattr(torch.optim.AdamW, "step", watched)

    def after(self, count):
        """Replaced by a test that acts after a step."""


def run(folder, *more):
    recipe = load_recipe("cnn-gru", None, [*SETTINGS, *more])
    return train_run(warming_archive(), recipe, folder, protocol="k360", reporter=Reporter(quiet=True))


@pytest.mark.parametrize("longest", [1e-3, 0.05])
def test_no_step_is_taken_on_a_gradient_longer_than_the_limit(tmp_path, steps, longest):
    run(tmp_path / "run", f"training.optimizer.clip_norm={longest}")
    assert len(steps.norms) > 5
    assert max(steps.norms) <= longest * (1 + 1e-5)
    # The gradients were longer than that, and lost nothing but length: the limit was at work, and is logged unclipped.
    assert min(steps.norms) >= longest * 0.99
    assert read_lines(tmp_path / "run" / "metrics.jsonl")[0]["gradient_norm"] > longest


def test_gradient_within_the_limit_is_left_as_it_is(tmp_path, steps):
    run(tmp_path / "run", "training.optimizer.clip_norm=1e6")
    mean = read_lines(tmp_path / "run" / "metrics.jsonl")[0]["gradient_norm"]
    assert sum(steps.norms) / len(steps.norms) == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_batch_that_is_not_finite_leaves_the_weights_of_the_step_before(tmp_path, steps, monkeypatch, value):
    batch, read = SegmentSampler.batch, []

    def poisoned(self, segments, months=None):
        out = batch(self, segments, months)
        read.append(segments)
        if len(read) == 4:
            out.targets[0, 0, 0, 0, 0] = value
        return out

    monkeypatch.setattr(SegmentSampler, "batch", poisoned)
    with pytest.raises(TrainingError, match="epoch 1, step 4"):
        run(tmp_path / "run")
    assert_weights_of_step(steps, 3)


def test_finite_loss_with_a_gradient_that_is_not_leaves_the_weights_of_the_step_before(tmp_path, steps):
    def spoil(count):
        if count == 3:
            steps.parameters[0].register_hook(lambda gradient: gradient * float("inf"))

    steps.after = spoil
    with pytest.raises(TrainingError, match="epoch 1, step 4") as error:
        run(tmp_path / "run")
    assert "gradient_norm = " in str(error.value)
    assert "loss = " not in str(error.value)
    assert_weights_of_step(steps, 3)


def assert_weights_of_step(steps, count):
    assert len(steps.weights) == count
    for now, then in zip(steps.parameters, steps.weights[-1], strict=True):
        assert torch.isfinite(now).all()
        assert torch.equal(now, then)
