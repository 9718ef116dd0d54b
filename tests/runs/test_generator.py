"""Trajectories whose months do not follow from each other, a length that comes too early, a gradient that is cut."""

import numpy as np
import pytest
import torch
from torch import nn

from emukit.emulators.atlas import PREDICTOR, RowSampler
from emukit.errors import ProtocolError, RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext
from emukit.objectives.crps import Crps, fair_crps
from emukit.objectives.rollout import Curriculum
from emukit.recipes.load import load_recipe
from emukit.runs.generator import MonthAfterMonth
from tests.emulators.test_atlas import SMALL, residuals, series_of


@pytest.fixture(scope="module")
def series():
    return series_of(residuals(months=60))


class Tanh(nn.Module):
    """(S, 1, C, y, x) -> (S, 1, 2, y, x): not linear, so that a gradient depends on the month before."""

    def __init__(self, channels, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(0.5 * torch.randn(2, channels, generator=generator))

    def forward(self, frames):
        return torch.tanh(torch.einsum("vc,slcyx->slvyx", self.weight, frames))


def crps(series, **options):
    weights = torch.from_numpy(RowSampler(series, PREDICTOR).weights)
    loss = CompositeLoss({v: {"mse": 1.0} for v in ("tas", "pr")}, ("tas", "pr"), GridContext(weights))
    return Crps(loss, **({"noise": 2} | options))


def trajectories(series, lengths=(3,), boundaries=(), recompute=False, **options):
    return MonthAfterMonth(crps(series, **options), series, Curriculum(lengths, boundaries), recompute)


def network_of(series):
    return Tanh(series.space.block_channels + 2)


def test_of_one_month_it_is_the_crps_of_what_is_drawn(series):
    rows, network = [20, 70, 90], network_of(series)
    torch.manual_seed(4)
    plain, _ = crps(series).loss(network, RowSampler(series, PREDICTOR).batch(rows))
    torch.manual_seed(4)
    objective = trajectories(series, (1, 3), (2.0,))
    objective.advance(1.9)
    found, terms = objective.loss(network, RowSampler(series, PREDICTOR, length=3).batch(rows))
    assert terms["months"] == 1
    assert found.item() == pytest.approx(plain.item(), rel=1e-4)
    objective.advance(2.0)
    assert objective.loss(network, RowSampler(series, PREDICTOR, length=3).batch(rows))[1]["months"] == 3


def test_months_follow_from_what_was_drawn_before(series):
    rows, network, space = [20, 70], network_of(series), series.space
    torch.manual_seed(1)
    found, _ = trajectories(series).loss(network, RowSampler(series, PREDICTOR, length=3).batch(rows))
    torch.manual_seed(1)
    realisations = []
    for _ in range(2):
        blocks = [list(series.blocks[row - 3 : row]) for row in rows]
        for i in range(3):
            noise = torch.randn(2, 1, 2, 2, 3)
            past = torch.stack([torch.stack(b[-3:]) for b in blocks])
            frames = space.block_frames(past, series.setting(np.array(rows) + i))
            drawn = network(torch.cat((frames, noise), 2))[:, 0]
            for b, new in zip(blocks, space.next_blocks(past, drawn), strict=True):
                b.append(new)
        realisations.append(torch.stack([torch.stack(b[3:]) for b in blocks]))
    true = torch.stack([series.blocks[row : row + 3] for row in rows])

    def whitened(fields):
        flat = (fields / torch.from_numpy(space.spread)).flatten(-3) @ torch.from_numpy(series.whitening).T
        return flat.reshape(fields.shape)

    score = fair_crps(torch.stack([whitened(r) for r in realisations]), whitened(true))
    weights = torch.from_numpy(RowSampler(series, PREDICTOR).weights)
    expected = (score * weights).sum((-2, -1)).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


def gradient(series, recompute):
    network, kept = network_of(series), 0

    def count(tensor):
        nonlocal kept
        kept += tensor.numel()
        return tensor

    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        total, _ = trajectories(series, recompute=recompute).loss(
            network, RowSampler(series, PREDICTOR, length=3).batch([20, 70])
        )
    total.backward()
    return network.weight.grad, kept


def test_gradient_goes_through_all_months_with_recomputing_as_without(series):
    plain, whole = gradient(series, recompute=False)
    again, less = gradient(series, recompute=True)
    torch.testing.assert_close(again, plain)
    assert less < whole
    # Along one weight, by differences.
    network, sample = network_of(series), RowSampler(series, PREDICTOR, length=3).batch([20, 70])
    found = []
    for step in (1e-2, -1e-2):
        with torch.no_grad():
            network.weight[0, 0] += step
            torch.manual_seed(2)
            found.append(trajectories(series).loss(network, sample)[0].item())
            network.weight[0, 0] -= step
    assert (found[0] - found[1]) / 2e-2 == pytest.approx(plain[0, 0].item(), rel=0.1, abs=1e-4)


def test_a_trajectory_stays_within_its_run(series):
    sampler = RowSampler(series, PREDICTOR, per_batch=10, length=4)
    rows = {row for batch in sampler.epoch(0, 0) for row in batch}
    # Three months are behind the first and three ahead; a last, smaller batch is left out.
    able = {n for start in (0, 60) for n in range(start + 3, start + 57)}
    assert rows < able
    assert len(rows) == 10 * (len(able) // 10)


def test_a_trajectory_longer_than_every_run_is_refused_before_an_empty_batch(series):
    # Of 60 months three are behind the first.
    assert RowSampler(series, PREDICTOR, length=57).epoch(0, 0)[0]
    with pytest.raises(ProtocolError, match="58 months"):
        RowSampler(series, PREDICTOR, length=58)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("predictor.training.lengths=[1,2]",), "boundaries must be one fewer"),
        (("predictor.training.lengths=[2,1]", "predictor.training.boundaries=[1.0]"), "must grow"),
        (("predictor.training.lengths=[2]", "predictor.objective.name=diffusion"), "scored by the CRPS"),
        (("predictor.training.lengths=[1,2]", "predictor.training.boundaries=[1.0]"), "would never be used"),
        (("predictor.training.recompute=true",), "for trajectories of several months"),
        (("projector.training.lengths=[2]",), "those of a predictor"),
    ],
)
def test_trajectories_that_cannot_be_are_refused(words, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe("atlas", assignments=(*SMALL, "predictor.objective.name=crps", *words))
