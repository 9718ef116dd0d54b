"""Losses that are not the mean they say they are, or lose a term."""

import numpy as np
import pytest
import torch

from emukit.errors import RecipeError
from emukit.losses.composite import TERMS, CompositeLoss, loss_term
from tests.coded import small_grid

GRID = small_grid()
WEIGHTS = torch.as_tensor(GRID.weights, dtype=torch.float64)


def fields():
    generator = torch.Generator().manual_seed(0)
    shape = (3, 5, 2, *GRID.shape)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) * 2 for _ in range(2))


def area_mean(field):
    return np.sum(field * GRID.weights, (-2, -1))


PLAIN = {
    "mse": lambda p, t: area_mean((p - t) ** 2),
    "l1": lambda p, t: area_mean(np.abs(p - t)),
    "huber": lambda p, t: area_mean(np.where(np.abs(p - t) < 1, (p - t) ** 2 / 2, np.abs(p - t) - 0.5)),
    "time_mean": lambda p, t: np.sqrt(area_mean((p.mean(1) - t.mean(1)) ** 2) + 1e-6) - 1e-3,
    "time_std": lambda p, t: area_mean(np.abs(np.sqrt(p.var(1) + 1e-6) - np.sqrt(t.var(1) + 1e-6))),
}


@pytest.mark.parametrize("name", TERMS)
def test_term_is_that_of_plain_numpy(name):
    p, t = fields()
    expected = np.mean(PLAIN[name](p[:, :, 0].numpy(), t[:, :, 0].numpy()))
    p, t = p[:, :, 0], t[:, :, 0]
    assert float(loss_term(name)(p, t, WEIGHTS)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_those_of_the_values(name):
    p, t = (x[:1, :3, 0] for x in fields())
    assert torch.autograd.gradcheck(lambda x: loss_term(name)(x, t, WEIGHTS), p.clone().requires_grad_())


@pytest.mark.parametrize("name", TERMS)
def test_loss_does_not_depend_on_how_months_are_batched(name):
    p, t = (x[:, :, 0] for x in fields())
    parts = [float(loss_term(name)(p[i : i + 1], t[i : i + 1], WEIGHTS)) for i in range(3)]
    assert np.mean(parts) == pytest.approx(float(loss_term(name)(p, t, WEIGHTS)), rel=1e-12)


def test_total_is_the_weighted_sum_of_the_named_terms():
    p, t = fields()
    loss = CompositeLoss({"tas": {"l1": 0.5, "mse": 2.0}, "pr": {"huber": 3.0, "l1": 0.0}}, ("tas", "pr"), WEIGHTS)
    total, terms = loss(p, t)
    assert set(terms) == {"tas.l1", "tas.mse", "pr.huber"}
    assert float(total) == pytest.approx(float(0.5 * terms["tas.l1"] + 2 * terms["tas.mse"] + 3 * terms["pr.huber"]))
    only_pr = float(loss_term("huber")(p[:, :, 1], t[:, :, 1], WEIGHTS))
    assert float(terms["pr.huber"]) == pytest.approx(only_pr)


@pytest.mark.parametrize("terms", [{}, {"tas": {}}, {"tas": {"mse": 0.0}}, {"tas": {"mze": 1.0}}, {"ts": {"mse": 1.0}}])
def test_loss_without_meaning_is_refused(terms):
    with pytest.raises(RecipeError):
        CompositeLoss(terms, ("tas", "pr"), WEIGHTS)


@pytest.mark.parametrize("name", TERMS)
def test_perfect_prediction_costs_nothing_and_has_a_finite_gradient(name):
    _, t = (x[:, :, 0] for x in fields())
    still = torch.ones_like(t)
    for target in (t, still):
        p = target.clone().requires_grad_()
        value = loss_term(name)(p, target, WEIGHTS)
        value.backward()
        assert float(value.detach()) == pytest.approx(0.0, abs=1e-12)
        assert torch.isfinite(p.grad).all()
