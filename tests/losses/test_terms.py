"""Loss terms that are not what their formula says, cannot be followed downhill, or depend on who computes them."""

import threading

import numpy as np
import pytest
import torch

from emukit.errors import RecipeError
from emukit.losses import texture
from emukit.losses.composite import CompositeLoss, build_term
from emukit.losses.grid_context import GridContext, local_mean
from emukit.losses.registry import TERMS
from tests.coded import small_grid
from tests.losses.plain import PLAIN

PADDINGS = ("circular", "zero")


def context(padding="circular", rows=4, columns=6, dtype=torch.float64):
    return GridContext(torch.as_tensor(small_grid(rows, columns).weights, dtype=dtype), padding)


def fields(segments=3, months=5, rows=4, columns=6):
    generator = torch.Generator().manual_seed(0)
    shape = (segments, months, rows, columns)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) * 2 for _ in range(2))


@pytest.mark.parametrize("grid", [(4, 6), (5, 7)])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", TERMS.built_in)
def test_term_is_that_of_plain_numpy(name, padding, grid):
    p, t = fields(2, 3, *grid)
    ground = context(padding, *grid)
    expected = PLAIN[name](p.numpy(), t.numpy(), ground.weights.numpy(), padding)
    # The floor of 1e-12 takes a millionth from a root.
    tolerance = {"rmse": 2e-6, "time_mean": 2e-6, "hessian": 2e-6}.get(name, 1e-11)
    assert float(build_term(name, ground)(p, t, local_mean)) == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", TERMS.built_in)
def test_gradients_are_those_of_the_values(name, padding):
    p, t = fields(2, 3)
    term = build_term(name, context(padding))
    assert torch.autograd.gradcheck(lambda x: term(x, t, local_mean), p.clone().requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", TERMS.built_in)
def test_perfect_prediction_costs_nothing_and_has_a_finite_gradient(name, padding, dtype):
    _, t = fields()
    term = build_term(name, context(padding, dtype=dtype))
    for target in (t.to(dtype), torch.ones_like(t, dtype=dtype), torch.zeros_like(t, dtype=dtype)):
        p = target.clone().requires_grad_()
        value = term(p, target, local_mean)
        value.backward()
        assert float(value.detach()) == pytest.approx(0.0, abs=1e-12 if dtype == torch.float64 else 1e-6)
        assert torch.isfinite(p.grad).all()


@pytest.mark.parametrize("name", TERMS.built_in)
def test_parts_of_a_batch_on_two_processes_give_what_the_whole_gives(name):
    """Two uneven parts, each of which sees the other only through the means it takes."""
    p, t = fields(segments=5)
    term = build_term(name, context())
    meeting, left = threading.Barrier(2, timeout=20), {}

    def mean_of(rank):
        def mean(values):
            left[rank] = values.detach()
            meeting.wait()
            both = torch.cat([left[0], left[1]]).mean()
            meeting.wait()
            return both

        return mean

    parts, values = (slice(0, 1), slice(1, 5)), {}

    def work(rank):
        values[rank] = float(term(p[parts[rank]], t[parts[rank]], mean_of(rank)))

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    whole = float(term(p, t, local_mean))
    assert values[0] == values[1] == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", TERMS.built_in)
def test_dateline_is_no_seam(name):
    """Turning both fields turns no circular loss, wherever the map was cut. The polar warp is of the map."""
    p, t = fields(rows=8, columns=12)
    term = build_term(name, context(rows=8, columns=12))
    turned = float(term(p.roll(5, -1), t.roll(5, -1), local_mean))
    same = turned == pytest.approx(float(term(p, t, local_mean)), rel=1e-12)
    assert same == (name != "polar")


@pytest.mark.parametrize("name", TERMS.built_in)
def test_errors_where_no_area_is_cost_nothing(name):
    """The northern half has no area: an error in its last row is beyond every stencil of a southern cell."""
    weights = torch.ones(12, 6, dtype=torch.float64)
    weights[6:] = 0
    term = build_term(name, GridContext(weights / weights.sum()))
    _, t = fields(rows=12)
    north, south = t.clone(), t.clone()
    north[..., 11, :] += torch.arange(30.0).view(1, 5, 6)
    south[..., 0, :] += torch.arange(30.0).view(1, 5, 6)
    assert float(term(north, t, local_mean)) == pytest.approx(0.0, abs=1e-12)
    assert float(term(south, t, local_mean)) > 0.01


@pytest.mark.parametrize("name", TERMS.built_in)
@pytest.mark.parametrize(("built", "given"), [(torch.float32, torch.float64), (torch.float64, torch.float32)])
def test_fields_of_another_precision_than_the_weights_keep_theirs(name, built, given):
    p, t = fields()
    value = build_term(name, context(dtype=built))(p.to(given), t.to(given), local_mean)
    assert value.dtype == given
    assert float(value) == pytest.approx(float(build_term(name, context())(p, t, local_mean)), rel=2e-5)


def test_kernel_bank_and_warp_are_built_once(monkeypatch):
    built = []
    for module, function in ((texture, "gabor_bank"), (texture, "polar_grid")):
        original = getattr(module, function)
        monkeypatch.setattr(module, function, lambda *a, f=original, n=function: (built.append(n), f(*a))[1])
    loss = CompositeLoss({v: {"gabor": 1.0, "polar": 1.0} for v in ("tas", "pr")}, ("tas", "pr"), context())
    batch = torch.stack(fields(), 2)
    for _ in range(3):
        loss(batch, batch + 1)
    assert sorted(built) == ["gabor_bank", "polar_grid"]


def test_bank_is_filtered_alike_in_chunks_and_whole(monkeypatch):
    p, t = fields(segments=2, months=12)
    values = []
    for chunk in (1, 5, 24, 100):
        monkeypatch.setattr(texture, "CHUNK", chunk)
        values.append(float(build_term("gabor", context())(p, t, local_mean)))
    np.testing.assert_allclose(values, values[0], rtol=1e-12)


@pytest.mark.parametrize("name", ["gabor", "ssim"])
def test_grid_narrower_than_a_stencil_is_refused(name):
    small = GridContext(torch.full((2, 8), 1 / 16, dtype=torch.float64))
    with pytest.raises(RecipeError, match="too small"):
        build_term(name, small)
    p, t = fields(rows=2, columns=8)
    wide = build_term(name, GridContext(small.weights, "zero"))
    assert float(wide(p, t, local_mean)) > 0
