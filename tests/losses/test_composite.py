"""Losses that are not the mean they say they are, or lose a term."""

import numpy as np
import pytest
import torch
from coded import small_grid

from emukit.errors import RecipeError
from emukit.losses.composite import TERMS, CompositeLoss, loss_term

GRID = small_grid()
WEIGHTS = torch.as_tensor(GRID.weights, dtype=torch.float64)


def fields():
    generator = torch.Generator().manual_seed(0)
    shape = (3, 5, 2, *GRID.shape)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) * 2 for _ in range(2))


PLAIN = {
    "mse": lambda e: e**2,
    "l1": np.abs,
    "huber": lambda e: np.where(np.abs(e) < 1, e**2 / 2, np.abs(e) - 0.5),
}


@pytest.mark.parametrize("name", TERMS)
def test_term_is_the_area_mean_of_plain_numpy(name):
    p, t = fields()
    expected = np.mean(np.sum(PLAIN[name]((p - t).numpy()) * GRID.weights, (-2, -1)))
    assert float(loss_term(name)(p, t, WEIGHTS)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", TERMS)
def test_gradients_are_those_of_the_values(name):
    p, t = (x[:1, :1, 0] for x in fields())
    assert torch.autograd.gradcheck(lambda x: loss_term(name)(x, t, WEIGHTS), p.clone().requires_grad_())


@pytest.mark.parametrize("name", TERMS)
def test_loss_does_not_depend_on_how_months_are_batched(name):
    p, t = fields()
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
