"""A trajectory whose gradient is cut, a length that comes too early, a state that is not what was said before."""

import numpy as np
import pytest
import torch
from torch import nn

from emukit.data.sampler import Sample
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext
from emukit.objectives.regression import Regression
from emukit.objectives.rollout import Rollout

LAT = np.array([-60.0, 0.0, 60.0])
# z500 (place 1) and tas (place 0) are states, in this order of channels; pr (place 2) is none.
PLACES, SCALE = [1, 0], [0.5, 2.0, 0.0]


def composite():
    weights = np.cos(np.deg2rad(LAT))[:, None] * np.ones(4)
    context = GridContext(torch.from_numpy(weights / weights.sum()))
    return CompositeLoss({v: {"mse": 1.0} for v in ("tas", "z500", "pr")}, ("tas", "z500", "pr"), context)


class Linear(nn.Module):
    """(S, H, C, Y, X) -> (S, 1, 3, Y, X): not linear, so that a step's gradient depends on the state."""

    def __init__(self, channels, history, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(0.3 * torch.randn(3, channels * history, generator=generator, dtype=torch.float64))

    def forward(self, frames):
        flat = frames.flatten(1, 2)
        return torch.tanh(torch.einsum("vc,scyx->svyx", self.weight, flat))[:, None]


def sample(length=4, history=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randn(2, length + history - 1, 3, 3, 4, generator=generator, dtype=torch.float64)
    targets = torch.randn(2, length, 3, 3, 4, generator=generator, dtype=torch.float64)
    named = {
        "states": torch.tensor(PLACES).expand(2, -1),
        "scale": torch.tensor(SCALE, dtype=torch.float64).expand(2, -1),
    }
    return Sample(frames, targets, named)


def plain_trajectory(network, given, length, history):
    """A step after the other, in numpy-like steps that share nothing with the objective."""
    held = [given.frames[:, i, -2:] for i in range(history)]
    fields = {1: held[-1][:, 0], 0: held[-1][:, 1]}
    start = dict(fields)
    out = []
    for i in range(length):
        window = torch.stack(
            [torch.cat((given.frames[:, i + h, :1], held[-history + h]), 1) for h in range(history)], 1
        )
        said = network(window)[:, 0]
        for v in (0, 1):
            fields[v] = fields[v] + SCALE[v] * said[:, v]
        held.append(torch.stack([fields[1], fields[0]], 1))
        out.append(torch.stack([(fields[0] - start[0]) / SCALE[0], (fields[1] - start[1]) / SCALE[1], said[:, 2]], 1))
    return torch.stack(out, 1)


@pytest.mark.parametrize("history", [1, 2])
def test_trajectory_is_that_of_single_steps(history):
    network, given = Linear(3, history), sample(history=history)
    found = Rollout(None, lengths=[4], boundaries=[]).trajectory_of(network, given, 4)
    torch.testing.assert_close(found, plain_trajectory(network, given, 4, history))


def test_loss_is_of_states_against_true_states_with_area_weights():
    network, given = Linear(3, 2), sample()
    total, terms = Rollout(composite(), lengths=[4], boundaries=[]).loss(network, given)
    said = plain_trajectory(network, given, 4, 2)
    true = given.targets.clone()
    true[:, :, :2] = true[:, :, :2].cumsum(1)
    weights = np.cos(np.deg2rad(LAT))
    weights = torch.from_numpy(weights / weights.sum() / 4)[:, None]
    each = (((said - true) ** 2) * weights).sum((-2, -1)).mean((0, 1))
    assert total.item() == pytest.approx(each.sum().item(), rel=1e-5)
    assert terms["tas.mse"].item() == pytest.approx(each[0].item(), rel=1e-5)
    assert terms["steps"].item() == 4


def test_of_one_step_it_is_the_regression_of_what_changes():
    network, given = Linear(3, 2), sample(length=1)
    one, _ = Rollout(composite(), lengths=[1], boundaries=[]).loss(network, given)
    plain, _ = Regression(composite()).loss(network, given)
    assert one.item() == pytest.approx(plain.item(), rel=1e-6)


def gradient(objective, given):
    network = Linear(3, 2)
    total, _ = objective.loss(network, given)
    total.backward()
    return network.weight.grad.clone(), network


def test_gradient_through_the_whole_trajectory_is_that_of_finite_differences():
    objective, given = Rollout(composite(), lengths=[4], boundaries=[]), sample()
    found, network = gradient(objective, given)

    def loss(weight):
        with torch.no_grad():
            network.weight.copy_(weight)
            said = objective.trajectory_of(network, given, 4)
            true = given.targets.clone()
            true[:, :, :2] = true[:, :, :2].cumsum(1)
            weights = torch.from_numpy(np.cos(np.deg2rad(LAT)))[:, None]
            return float((((said - true) ** 2) * weights).sum() / (weights.sum() * 4 * 8))

    with torch.no_grad():
        weight = network.weight.clone()
        for v in range(3):
            for c in range(6):
                step = torch.zeros_like(weight)
                step[v, c] = 1e-5
                difference = (loss(weight + step) - loss(weight - step)) / 2e-5
                assert found[v, c].item() == pytest.approx(difference, rel=1e-4, abs=1e-6)


def test_checkpointed_gradients_are_the_plain_ones():
    plain, _ = gradient(Rollout(composite(), lengths=[4], boundaries=[]), sample())
    again, _ = gradient(Rollout(composite(), lengths=[4], boundaries=[], checkpoint=True), sample())
    torch.testing.assert_close(plain, again, rtol=1e-10, atol=1e-12)


def test_checkpointing_keeps_less_for_the_gradient():
    kept = {}
    for checkpoint in (False, True):
        sizes = []
        objective = Rollout(composite(), lengths=[4], boundaries=[], checkpoint=checkpoint)
        network = nn.Sequential(Linear(3, 2), nn.Tanh(), nn.Tanh(), nn.Tanh(), nn.Tanh())
        with torch.autograd.graph.saved_tensors_hooks(lambda t, sizes=sizes: sizes.append(t.numel()) or t, lambda t: t):
            objective.loss(network, sample())
        kept[checkpoint] = sum(sizes)
    assert kept[True] < 0.7 * kept[False]


def test_a_length_is_never_used_before_its_boundary():
    objective, given = Rollout(composite(), lengths=[1, 2, 4], boundaries=[1.5, 3]), sample()
    found = []
    for epochs in (0.0, 1.49, 1.5, 2.99, 3.0, 100.0):
        objective.advance(epochs)
        _, terms = objective.loss(Linear(3, 2), given)
        found.append(int(terms["steps"]))
    assert found == [1, 1, 2, 2, 4, 4]
    assert (objective.longest, objective.passes, objective.kept) == (4, 4, 4)
    assert Rollout(None, lengths=[1, 2], boundaries=[1.0], checkpoint=True).kept == 1


def test_noise_moves_the_beginning_by_a_share_of_a_step_and_only_while_training():
    given = sample(length=1)
    given.frames.zero_()
    seen = []

    def network(window):
        seen.append(window[:, :, -2:].clone())
        return torch.zeros(len(window), 1, 3, 3, 4, dtype=torch.float64)

    torch.manual_seed(0)
    objective = Rollout(composite(), lengths=[1], boundaries=[], noise=0.1)
    for _ in range(300):
        objective.loss(network, given)
    spread = torch.stack(seen).std((0, 1, 2, 4, 5))
    np.testing.assert_allclose(spread, [0.1 * SCALE[1], 0.1 * SCALE[0]], rtol=0.05)
    with torch.no_grad():
        objective.loss(network, given)
    assert (seen[-1] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lengths": [1, 2], "boundaries": []}, "one fewer"),
        ({"lengths": [1], "boundaries": [2.0]}, "one fewer"),
        ({"lengths": [2, 2], "boundaries": [1.0]}, "must grow"),
        ({"lengths": [0], "boundaries": []}, "must grow"),
        ({"lengths": [], "boundaries": []}, "must grow"),
        ({"lengths": [1, 2, 3], "boundaries": [2.0, 2.0]}, "must ascend"),
        ({"lengths": [1, 2], "boundaries": [0.0]}, "must ascend"),
        ({"lengths": [1], "boundaries": [], "noise": -1.0}, "noise"),
    ],
)
def test_schedules_that_mean_nothing_are_refused(options, message):
    with pytest.raises(RecipeError, match=message):
        Rollout(None, **options)


def test_a_rollout_goes_on_from_states_within_their_bounds():
    network, given, length = Linear(3, 2), sample(), 3
    unbounded = Rollout(composite(), lengths=[length], boundaries=[])
    shape = given.targets.shape[2:]
    lower, upper = torch.full(shape, -torch.inf), torch.full(shape, torch.inf)
    # tas, at place 0, is the second channel of the states.
    lower[0] = 0.2
    bounds = {"lower": lower.double().expand(2, -1, -1, -1), "upper": upper.double().expand(2, -1, -1, -1)}
    bounded = Sample(given.frames, given.targets, {**given.named, **bounds})
    free = unbounded.trajectory_of(network, given, length)
    said = unbounded.trajectory_of(network, bounded, length)
    # The first step is what was said; the next begins from the bound.
    assert torch.equal(said[:, 0], free[:, 0])
    first = given.frames[:, 1, -1]
    held = [given.frames[:, i, -2:].clone() for i in range(2)]
    change = 0.0
    for i in range(length):
        window = torch.stack([torch.cat((given.frames[:, i + h, :1], held[h - 2]), 1) for h in range(2)], 1)
        step = network(window)[:, 0]
        torch.testing.assert_close(said[:, i, 0], change + step[:, 0])
        tas = torch.clamp(first + SCALE[0] * (change + step[:, 0]), min=0.2)
        change = (tas - first) / SCALE[0]
        held.append(torch.stack((held[-1][:, 0] + SCALE[1] * step[:, 1], tas), 1))


@pytest.mark.parametrize("how", [1, 2])
def test_a_rollout_goes_on_from_states_that_keep_their_means(how):
    """tas is held, by adding or by a factor: written out, with areas, a mean state and a unit of its own."""
    network, given, length = Linear(3, 2), sample(), 3
    areas = torch.cos(torch.deg2rad(torch.from_numpy(LAT)))[:, None].expand(3, 4)
    center = torch.stack([torch.full((3, 4), 5.0), torch.full((3, 4), 280.0) + 10 * areas]).double()
    spread = torch.stack([torch.full((3, 4), 1.0).double(), 2 + areas])
    named = {"held": torch.tensor([0, how]), "areas": areas, "center": center, "spread": spread}
    conserved = Sample(given.frames, given.targets, given.named | {k: v.expand(2, *v.shape) for k, v in named.items()})
    objective = Rollout(composite(), lengths=[length], boundaries=[])

    def mean(values):
        return (values * areas).sum((-2, -1), keepdim=True) / areas.sum()

    first = given.frames[:, 1, -2:]
    held, largest = [given.frames[:, i, -2:] for i in range(2)], 0.0
    budget = mean(center[1] + spread[1] * first[:, 1])
    expected = []
    for i in range(length):
        window = torch.stack([torch.cat((given.frames[:, i + h, :1], held[h - 2]), 1) for h in range(2)], 1)
        step = network(window)[:, 0]
        z500, tas = held[-1][:, 0] + SCALE[1] * step[:, 1], held[-1][:, 1] + SCALE[0] * step[:, 0]
        physical = center[1] + spread[1] * tas
        missed = budget - mean(physical)
        physical = physical + missed if how == 1 else physical * budget / mean(physical)
        largest = max(largest, float(missed.detach().abs().max()))
        tas = (physical - center[1]) / spread[1]
        held.append(torch.stack((z500, tas), 1))
        expected.append(torch.stack(((tas - first[:, 1]) / SCALE[0], (z500 - first[:, 0]) / SCALE[1], step[:, 2]), 1))
    said = []
    keep = objective.trajectory_of
    objective.trajectory_of = lambda *arguments: said.append(keep(*arguments)) or said[-1]
    total, terms = objective.loss(network, conserved)
    torch.testing.assert_close(said[0], torch.stack(expected, 1))
    assert float(terms["conserved.tas"]) == pytest.approx(largest)
    assert largest > 0.05
    # What is learned is learned under the budget.
    free, _ = objective.loss(network, given)
    assert total.item() != pytest.approx(free.item(), rel=1e-3)
    total.backward()
    assert torch.isfinite(network.weight.grad).all()


def test_what_made_up_for_a_bound_is_no_part_of_the_state():
    """A field that is cut at zero has more of it; a factor takes that away, and none is below zero."""
    network, given, length = Linear(3, 2), sample(), 3
    shape = given.targets.shape[2:]
    areas = torch.cos(torch.deg2rad(torch.from_numpy(LAT)))[:, None].expand(3, 4)
    lower, upper = torch.full(shape, -torch.inf), torch.full(shape, torch.inf)
    # tas is 0.5 + a normalised value, and not below zero.
    lower[0] = -0.5
    named = {
        "held": torch.tensor([0, 2]),
        "areas": areas,
        "center": torch.full((2, 3, 4), 0.5).double(),
        "spread": torch.ones(2, 3, 4).double(),
        "lower": lower.double(),
        "upper": upper.double(),
    }
    frames = given.frames.clone()
    frames[:, :, -1] = frames[:, :, -1].clamp(min=-0.5)
    both = Sample(frames, given.targets, given.named | {k: v.expand(2, *v.shape) for k, v in named.items()})
    seen = []

    def watched(window):
        seen.append(window[:, -1, -1].detach() + 0.5)
        return network(window)

    Rollout(composite(), lengths=[length], boundaries=[]).loss(watched, both)
    means = [(s * areas).sum((-2, -1)) / areas.sum() for s in seen]
    for state, value in zip(seen[1:], means[1:], strict=True):
        torch.testing.assert_close(value, means[0])
        assert float(state.min()) >= 0
        assert (state == 0).any()
