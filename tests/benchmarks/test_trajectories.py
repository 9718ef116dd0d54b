"""A closure whose cost is measured on something else than its core, or a rollout that saves no memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from benchmarks import Measured, trajectories
from emukit.errors import EmukitError
from emukit.models.hybrid import Hybrid
from tests.benchmarks.test_networks import run_here

SMALL = ("16", "32", "8")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps of a few cells, in this process."""
    for module in ("benchmarks", "benchmarks.trajectories"):
        monkeypatch.setattr(f"{module}.measure", run_here)
    for name, value in (("SIZE", SMALL), ("STEPS", 2), ("ROLLOUT", 2), ("MONTHS", 24), ("CELLS", (8, 12))):
        monkeypatch.setattr(trajectories, name, value)


def test_a_year_costs_what_its_steps_do(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"prepare_steps": 4.0, "prepare_core_steps": 1.0, "prepare_months": 3.0, "prepare_base_months": 1.0}

    def known(work: str, arguments: Sequence[str]) -> Measured:
        found = run_here(work, arguments)
        # A process whose peak is behind it does not grow any more.
        answer = 0.0 if work.endswith("prepare_growth") else found.answer
        return Measured(seconds.get(work.split(":")[1], 1.0), found.peak_mb, answer, 1)

    for module in ("benchmarks", "benchmarks.trajectories"):
        monkeypatch.setattr(f"{module}.measure", known)
    steps, gradient, memory, months = trajectories.bench_trajectories(1)
    # Two steps of six hours in four seconds.
    assert (steps.value, steps.reference, steps.ratio) == (0.5, 2.0, 0.25)
    assert steps.name.endswith("2920 s a simulated year")
    assert months.name.endswith("1500 ms a simulated year")
    assert months.ratio == pytest.approx(1 / 3)
    assert gradient.ratio == 1.0
    assert math.isnan(memory.ratio)


def test_a_hybrid_that_is_not_its_core_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Hybrid.forward

    def other(network: Hybrid, frames: torch.Tensor) -> torch.Tensor:
        return 1.1 * decode(network, frames)

    monkeypatch.setattr(Hybrid, "forward", other)
    with pytest.raises(EmukitError, match=r"answers of .*prepare_steps and its reference differ"):
        trajectories.bench_trajectories(1)


def test_both_gradients_are_of_the_whole_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = trajectories.prepare_kept(*SMALL)()
    assert kept == pytest.approx(trajectories.prepare_recomputed(*SMALL)(), rel=1e-5)
    monkeypatch.setattr(trajectories, "ROLLOUT", 1)
    assert not math.isclose(kept, trajectories.prepare_kept(*SMALL)(), rel_tol=1e-2)


def test_a_rollout_that_computes_again_keeps_less_for_the_gradient() -> None:
    """Counted, tensor by tensor, because peaks of a process that has done other things say nothing."""

    def kept(again: bool) -> int:
        storages: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        gradient = trajectories._rollout(*SMALL, again=again)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            gradient()
        return sum(storages.values())

    assert kept(again=True) < kept(again=False)
