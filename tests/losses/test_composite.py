"""Composite losses that lose a term, or change with the network's precision; warm-ups that never end."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss, build_term
from emukit.losses.grid_context import GridContext, local_mean
from emukit.losses.registry import LOSSES
from emukit.losses.texture import gabor_bank
from tests.coded import small_grid

GRID = small_grid()
SPACE = GridContext(torch.as_tensor(GRID.weights, dtype=torch.float64))
VARIABLES = ("tas", "pr")
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "losses.json").read_text())


def fields():
    generator = torch.Generator().manual_seed(0)
    shape = (3, 5, 2, *GRID.shape)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) * 2 for _ in range(2))


@pytest.fixture(scope="module")
def golden_fields():
    """The inputs of the golden values: two segments of one month, no area weights, zero padding."""
    rng = np.random.default_rng(7)
    p, t = (torch.as_tensor(rng.standard_normal((2, 2, 48, 72)))[:, None] for _ in range(2))
    return p, t, GridContext(torch.full((48, 72), 1 / (48 * 72), dtype=torch.float64), "zero")


@pytest.mark.parametrize(
    ("term", "variable", "key"),
    [
        ("l1", 0, "l1_tas"),
        ("gabor", 0, "gabor_l1_tas_zero_padding"),
        ("dice", 1, "dice_pr"),
        ("mse", 1, "mse_pr"),
    ],
)
def test_published_term_has_its_golden_value(golden_fields, term, variable, key):
    p, t, ground = golden_fields
    value = build_term(term, ground)(p[:, :, variable], t[:, :, variable], local_mean)
    assert float(value) == pytest.approx(GOLDEN[key], rel=1e-6)


def test_published_composite_has_its_golden_value(golden_fields):
    p, t, ground = golden_fields
    published = LOSSES["published"]
    assert published["tas"] == GOLDEN["tas_weights"]
    for variables, key in ((("tas",), "tas_full_l1_gabor_hessian_polar"), (VARIABLES, "third_place_composite")):
        loss = CompositeLoss({v: published[v] for v in variables}, VARIABLES, ground)
        assert float(loss(p, t)[0]) == pytest.approx(GOLDEN[key], rel=1e-6)


def test_gabor_bank_is_the_published_one():
    bank, golden = gabor_bank(), GOLDEN["gabor_bank"]
    assert bank.shape == (golden["n"], golden["kernel_size"], golden["kernel_size"])
    assert float(bank.sum()) == pytest.approx(golden["sum_all"], rel=1e-6)
    assert float(bank.square().sum()) == pytest.approx(golden["sum_sq"], rel=1e-6)
    np.testing.assert_allclose(bank[0, 3], golden["first_kernel_row3"], atol=1e-7)


def test_total_is_the_weighted_sum_of_the_named_terms():
    p, t = fields()
    loss = CompositeLoss({"tas": {"l1": 0.5, "mse": 2.0}, "pr": {"huber": 3.0, "l1": 0.0}}, VARIABLES, SPACE)
    total, terms = loss(p, t)
    assert set(terms) == {"tas.l1", "tas.mse", "pr.huber"}
    assert float(total) == pytest.approx(float(0.5 * terms["tas.l1"] + 2 * terms["tas.mse"] + 3 * terms["pr.huber"]))
    only_pr = float(build_term("huber", SPACE)(p[:, :, 1], t[:, :, 1], local_mean))
    assert float(terms["pr.huber"]) == pytest.approx(only_pr)


@pytest.mark.parametrize("terms", [{}, {"tas": {}}, {"tas": {"mse": 0.0}}, {"tas": {"mze": 1.0}}, {"ts": {"mse": 1.0}}])
def test_loss_without_meaning_is_refused(terms):
    with pytest.raises(RecipeError):
        CompositeLoss(terms, VARIABLES, SPACE)


@pytest.mark.parametrize("ramp", [0.0, 0.25, 1.0])
def test_ramp_leads_from_l1_to_the_terms(ramp):
    """Value and gradient; a variable without terms has no warm-up, and the terms are reported all the way."""
    p, t = fields()
    p.requires_grad_()
    loss = CompositeLoss({"pr": {"rmse": 2.0, "time_std": 1.0}, "tas": {}}, VARIABLES, SPACE)
    rmse, std, l1 = (build_term(n, SPACE)(p[:, :, 1], t[:, :, 1], local_mean) for n in ("rmse", "time_std", "l1"))
    expected = ramp * (2 * rmse + std) + (1 - ramp) * l1
    total, terms = loss(p, t, ramp=ramp)
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-14)
    gradients = [torch.autograd.grad(value, p, retain_graph=True)[0] for value in (total, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-12, atol=0)
    assert float(terms["pr.rmse"]) == float(rmse.detach())
    assert float(terms["pr.time_std"]) == float(std.detach())
    assert set(terms) == {"pr.rmse", "pr.time_std"} | ({"pr.warmup"} if ramp < 1 else set())
    if ramp < 1:
        assert float(terms["pr.warmup"]) == pytest.approx((1 - ramp) * float(l1.detach()), rel=1e-14)


def test_means_are_taken_where_the_caller_says():
    p, t = fields()
    loss = CompositeLoss({"tas": {"l1": 1.0}, "pr": {"dice": 1.0}}, VARIABLES, SPACE)
    seen = []

    def mean(values):
        seen.append(tuple(values.shape))
        return values.mean()

    loss(p, t, ramp=0.5, mean=mean)
    assert seen == [(3,)] * 5


def test_loss_of_half_precision_fields_is_computed_in_single_precision():
    p, t = fields()
    loss = CompositeLoss({v: {"gabor": 1.0, "hessian": 1.0} for v in VARIABLES}, VARIABLES, SPACE)
    half = p.bfloat16().requires_grad_()
    expected = loss(half.detach().float(), t.float())[0]
    with torch.autocast("cpu", torch.bfloat16):
        total = loss(half, t.float())[0]
    assert total.dtype == torch.float32
    assert float(total.detach()) == float(expected)
    total.backward()
    assert torch.isfinite(half.grad).all()
