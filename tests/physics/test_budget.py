"""A corrector that does not close a budget, or hides what it took to close it."""

import numpy as np
import pytest
import torch

from emukit.errors import RecipeError
from emukit.physics.budget import BudgetCorrector, StateBudgets

LAT = torch.deg2rad(torch.linspace(-88, 88, 12, dtype=torch.float64))
AREAS = torch.cos(LAT)[:, None].expand(12, 18)


def fields(seed=0, dtype=torch.float32):
    rng = np.random.default_rng(seed)
    values = np.stack(
        [rng.normal(280, 15, (5, 12, 18)), rng.gamma(0.3, 4, (5, 12, 18)), rng.normal(size=(5, 12, 18))], 1
    )
    values[:, 1, :3] = 0
    return torch.as_tensor(values, dtype=dtype)


def mean(values):
    """By plain numpy."""
    areas = AREAS.numpy()
    return (values.detach().numpy().astype(float) * areas).sum((-2, -1)) / areas.sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_budgets_close_and_the_rest_is_left_alone(dtype):
    held = BudgetCorrector(AREAS, ("tas", "pr", "other"), {"tas": "add", "pr": "multiply"})
    before, budgets = fields(dtype=dtype), {"tas": torch.linspace(285, 289, 5), "pr": torch.linspace(2.5, 3.5, 5)}
    after = held(before, budgets)
    for v, name in enumerate(("tas", "pr")):
        np.testing.assert_allclose(mean(after[:, v]), budgets[name].double(), rtol=1e-12)
    assert torch.equal(after[:, 2], before[:, 2].double())
    # What is added is the same everywhere, and a factor keeps dry cells dry.
    shift = after[:, 0] - before[:, 0].double()
    assert float((shift - shift[:, :1, :1]).abs().max()) < 1e-10
    assert (after[:, 1, :3] == 0).all()
    assert (after[:, 1] >= 0).all()


def test_what_was_added_is_counted_until_it_is_reset():
    held = BudgetCorrector(AREAS, ("tas", "pr", "other"), {"other": "add"})
    before = fields()
    start = torch.as_tensor(mean(before[:, 2]))
    held(before, {"other": start + torch.tensor([0.1, 0.2, 0.3, -0.4, 0.1])})
    held(before[:1], {"other": start[:1] - 0.6})
    assert held.added()["other"] == pytest.approx({"mean": (0.3 - 0.6) / 6, "largest": 0.6})
    held.reset()
    assert held.added()["other"] == {"mean": 0.0, "largest": 0.0}


def test_gradients_pass_through_and_do_not_reach_the_global_mean():
    """Additive: a change of the mean is undone, so that only the pattern has a gradient."""
    held, x = BudgetCorrector(AREAS, ("tas",), {"tas": "add"}), fields()[:, :1].double().requires_grad_()
    toward = torch.as_tensor(np.random.default_rng(1).normal(size=(5, 1, 12, 18)))
    (held(x, {"tas": torch.full((5,), 288.0)}) * toward).sum().backward()
    assert float(x.grad.sum((-2, -1)).abs().max()) < 1e-12 * float(x.grad.abs().sum())
    assert float(x.grad.abs().max()) > 0.1
    assert torch.autograd.gradcheck(
        lambda y: BudgetCorrector(AREAS[:3, :4], ("pr",), {"pr": "multiply"})(y, {"pr": torch.tensor([2.0])}),
        torch.rand(1, 1, 3, 4, dtype=torch.float64, requires_grad=True),
    )


def test_what_cannot_be_held_is_refused():
    with pytest.raises(RecipeError, match="not there"):
        BudgetCorrector(AREAS, ("tas",), {"pr": "add"})
    held = BudgetCorrector(AREAS, ("tas", "pr", "other"), {"pr": "multiply"})
    with pytest.raises(RecipeError, match="missing"):
        held(fields(), {"tas": torch.zeros(5)})
    with pytest.raises(RecipeError, match="by a factor"):
        held(fields(), {"pr": torch.full((5,), -1.0)})
    with pytest.raises(RecipeError, match="by a factor"):
        held(torch.zeros(5, 3, 12, 18), {"pr": torch.ones(5)})


def test_nothing_stays_nothing_where_there_is_none():
    held = BudgetCorrector(AREAS, ("pr",), {"pr": "multiply"})
    assert (held(torch.zeros(2, 1, 12, 18), {"pr": torch.zeros(2)}) == 0).all()


def test_a_mean_of_one_is_brought_to_zero_and_none_to_one_is_refused():
    held = BudgetCorrector(AREAS, ("pr",), {"pr": "multiply"})
    assert (held(torch.ones(2, 1, 12, 18), {"pr": torch.zeros(2)}) == 0).all()
    with pytest.raises(RecipeError, match="by a factor"):
        held(torch.zeros(2, 1, 12, 18), {"pr": torch.ones(2)})


def test_a_field_that_has_its_mean_of_zero_is_left_as_it_is():
    held = BudgetCorrector(AREAS, ("pr",), {"pr": "multiply"})
    balanced = torch.zeros(1, 1, 12, 18)
    balanced[..., 5, 3], balanced[..., 5, 4] = 2.0, -2.0
    assert torch.equal(held(balanced, {"pr": torch.zeros(1)}), balanced.double())


def test_states_keep_the_means_that_they_began_with_and_others_their_bits():
    center = torch.stack([250 + 40 * torch.cos(LAT)[:, None].expand(12, 18), torch.full((12, 18), 3.0).double()])
    spread = torch.stack([1 + torch.sin(LAT)[:, None].expand(12, 18) ** 2, torch.full((12, 18), 2.0).double()])
    draws = torch.Generator().manual_seed(0)
    begun, ended = (torch.randn(5, 2, 12, 18, generator=draws) for _ in range(2))
    for how, name, place in (("add", "tas", 0), ("multiply", "tas", 0), ("multiply", "q", 1)):
        held = StateBudgets(AREAS, ("tas", "q"), {name: how}, center, spread)
        found = held.hold(ended, held.budgets(begun))
        physical = [center + spread * x.double() for x in (begun, ended, found)]
        np.testing.assert_allclose(mean(physical[2][:, place]), mean(physical[0][:, place]), rtol=1e-7)
        assert torch.equal(found[:, 1 - place], ended[:, 1 - place])
        moved = physical[2][:, place] - physical[1][:, place]
        if how == "multiply":
            moved = physical[2][:, place] / physical[1][:, place]
        wrong = (moved - moved[:, :1, :1]).abs()
        assert float(wrong[physical[1][:, place].abs() > 0.1].max()) < 1e-4
        missed = mean(physical[0][:, place]) - mean(physical[1][:, place])
        assert held.corrector.added()[name]["largest"] == pytest.approx(np.abs(missed).max(), rel=1e-6)
