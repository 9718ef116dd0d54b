"""A second sampler, and an emulator that runs from a beginning: what the trainer and the evaluation must allow."""

from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from emukit.competitions.cse151b import cse151b
from emukit.data.sampler import Sample
from emukit.data.split import Span
from emukit.emulators.base import Emulator
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext
from emukit.metrics import Score
from emukit.objectives.regression import Regression
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.runs.evaluate import score_emulator
from emukit.training.engine import Engine, Execution
from emukit.training.loop import train
from emukit.training.settings import TrainingSettings
from tests.coded import warming_archive


class Block(NamedTuple):
    """A block of a map: first step, first row and first column, periodic in longitude."""

    start: int
    row: int
    column: int


@dataclass
class Blocks:
    """Random blocks of fields (T, 1, Y, X) whose target is twice the frame: not segments of a scenario."""

    fields: torch.Tensor
    size: tuple[int, int] = (2, 3)
    length: int = 4
    steps_per_epoch: int = 6
    read: list[int] = field(default_factory=list)

    def epoch(self, epoch, seed):
        rng = np.random.default_rng([seed, epoch])
        (steps, _, rows, columns) = self.fields.shape
        return [
            [Block(*map(int, rng.integers([steps - self.length, rows - self.size[0] + 1, columns]))) for _ in range(5)]
            for _ in range(self.steps_per_epoch)
        ]

    def batch(self, addresses, steps=None):
        cut = []
        for a in addresses:
            columns = (a.column + torch.arange(self.size[1])) % self.fields.shape[-1]
            piece = self.fields[a.start : a.start + self.length, :, a.row : a.row + self.size[0]]
            cut.append(piece[..., columns])
        frames = torch.stack(cut)
        self.read.append(len(addresses))
        return Sample(frames, 2 * frames, {"row": torch.tensor([a.row for a in addresses])})

    def prefetch(self, addresses, steps=None):
        pass

    def address(self, addresses):
        return ", ".join(map(str, addresses))


def test_network_learns_from_blocks_of_a_map(tmp_path):
    torch.manual_seed(0)
    blocks = Blocks(torch.randn(40, 1, 6, 8))

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, frames):
            return self.weight * frames

    network = Scale()
    loss = CompositeLoss({"tas": {"mse": 1.0}}, ("tas",), GridContext(torch.full((2, 3), 1 / 6)))
    settings = TrainingSettings.model_validate(
        {"epochs": 8, "optimizer": {"learning_rate": 0.2, "warmup_steps": 0, "weight_decay": 0.0}}
    )
    engine = Engine(network, blocks, Regression(loss), settings, Comm(), Execution())

    def validate():
        wrong = abs(float(network.weight.detach()) - 2)
        return Score(cse151b(), dict.fromkeys(cse151b().keys, wrong), 1)

    result = train(
        engine,
        blocks,
        settings,
        seed=0,
        ramp=lambda done: 1.0,
        validate=validate,
        folder=tmp_path,
        reporter=Reporter(quiet=True),
    )
    assert result.epochs == 8
    assert blocks.read == [5] * 48
    assert float(network.weight.detach()) == pytest.approx(2, abs=0.1)


class Walk(Emulator):
    """A trajectory: each month is the last one and half of what its CO2 rose; it cannot begin in the middle."""

    kind = "walk"
    from_beginning = True

    def __init__(self, domain):
        super().__init__(domain)
        self.begun = []

    def predict_fields(self, scenario, start, stop):
        self.begun.append((scenario.name, start, stop))
        state = np.full((len(self.variables), *self.grid.shape), 280.0)
        out, co2 = [], scenario.forcings["CO2"]
        for t in range(stop):
            state = state + 0.5 * (co2[t] - co2[max(t - 1, 0)])
            out.append(state)
        return np.stack(out[start:]).astype(np.float32)

    def state(self):
        return {}, {}

    @classmethod
    def from_state(cls, domain, meta, arrays):
        return cls(domain)


class Pair(Comm):
    """One of two processes: what it would sum with the other is written down, or taken from what the other wrote."""

    notes: list

    def sum(self, values):
        if self.rank == 1:
            self.notes.append(np.asarray(values).copy())
            return values
        return np.asarray(values) + self.notes.pop(0)


@pytest.mark.parametrize("spans", [1, 3])
def test_trajectory_is_divided_by_scenario_and_never_within(spans):
    archive = warming_archive(months=121)
    chosen = tuple(Span(name, 20, 110, (0,)) for name in ("ssp126", "ssp245", "ssp370")[:spans])
    alone = score_emulator(Walk(archive.domain), archive, chosen)
    notes = []
    begun, scores = [], []
    for rank in (1, 0):
        comm = Pair(rank, 2)
        object.__setattr__(comm, "notes", notes)
        walk = Walk(archive.domain)
        # Alone with its own part the second process may have no month to score; the sums are complete by then.
        with suppress(ValueError):
            scores.append(score_emulator(walk, archive, chosen, comm))
        begun += walk.begun
    assert scores[-1].value == pytest.approx(alone.value, rel=1e-12)
    assert all((start, stop) == (20, 110) for _, start, stop in begun)
    assert {name for name, _, _ in begun} == {s.scenario for s in chosen}
