"""Noise that is removed too fast, at wrong levels or by wrong weights: compared with a Gaussian, known exactly."""

import pytest
import torch

from emukit.data.sampler import Sample
from emukit.errors import RecipeError
from emukit.losses.composite import CompositeLoss
from emukit.losses.grid_context import GridContext
from emukit.objectives.base import AddressedNoise
from emukit.objectives.diffusion import Diffusion, dpm_solver, heun, noise_levels
from emukit.recipes.load import load_recipe

MEAN, DEVIATION = 0.4, 0.8
LOSS = CompositeLoss({"tas": {"mse": 1.0}, "pr": {"mse": 1.0}}, ("tas", "pr"), GridContext(torch.full((2, 3), 1 / 6)))


def exact(noisy, level):
    """The mean of N(MEAN, DEVIATION^2), given it with noise."""
    return (DEVIATION**2 * noisy + level**2 * MEAN) / (DEVIATION**2 + level**2)


def spread(solve, largest):
    """Mean and standard deviation of what a solver makes of N(0, largest^2): it is affine, so two points tell it."""
    zero, one = solve(torch.tensor([0.0, largest], dtype=torch.float64)).tolist()
    return zero, one - zero


def test_levels_are_those_of_the_paper():
    levels = noise_levels(18)
    assert (len(levels), levels[-1]) == (19, 0.0)
    torch.testing.assert_close(levels[[0, 17]], torch.tensor([80.0, 0.002], dtype=torch.float64))
    root = levels[:-1] ** (1 / 7)
    torch.testing.assert_close(root.diff(), root.diff()[:1].expand(17))
    torch.testing.assert_close(noise_levels(3, 1.0, 5.0, rho=1.0), torch.tensor([5.0, 3, 1, 0], dtype=torch.float64))
    assert noise_levels(1).tolist() == pytest.approx([80.0, 0.0])


@pytest.mark.parametrize(
    ("steps", "by_heun", "by_dpm"), [(10, 0.952, 0.928), (20, 0.830, 0.834), (40, 0.807, 0.807), (80, 0.802, 0.802)]
)
def test_steps_give_the_spread_that_they_give_a_gaussian(steps, by_heun, by_dpm):
    levels = noise_levels(steps)
    for solver, wanted in ((heun, by_heun), (dpm_solver, by_dpm)):
        mean, deviation = spread(lambda start, s=solver: s(exact, start, levels), 80.0)
        assert (mean, deviation) == (pytest.approx(MEAN, abs=0.005), pytest.approx(wanted, abs=0.0006))


def test_half_the_calls_give_the_same_spread():
    calls = []

    def counted(noisy, level):
        calls.append(float(level))
        return exact(noisy, level)

    dpm_solver(counted, torch.zeros(1), noise_levels(20))
    assert len(calls) == 20
    heun(counted, torch.zeros(1), noise_levels(20))
    assert len(calls) == 20 + 39


@pytest.mark.parametrize("solver", [heun, dpm_solver])
def test_solvers_are_of_second_order(solver):
    """Half the steps, a quarter of the error."""

    def deviation(steps):
        return spread(lambda start: solver(exact, start, noise_levels(steps, 0.5, 2.0)), 2.0)[1]

    # The last step, to zero, is the denoiser's own; what is left of it is the limit of many steps.
    errors = [deviation(steps) - deviation(2048) for steps in (16, 32, 64)]
    assert all(3.2 < errors[i] / errors[i + 1] < 5.0 for i in (0, 1)), errors


@pytest.mark.parametrize(("steps", "wanted"), [(10, 1.073), (20, 0.878), (40, 0.831)])
def test_few_steps_with_churn_spread_too_far(steps, wanted):
    g = torch.Generator().manual_seed(0)
    start = 80 * torch.randn(60_000, generator=g)
    drawn = heun(exact, start, noise_levels(steps), churn=40.0, draws=lambda i: torch.randn(start.shape, generator=g))
    assert (float(drawn.mean()), float(drawn.std())) == (
        pytest.approx(MEAN, abs=0.02),
        pytest.approx(wanted, abs=0.012),
    )


def noise_for(objective_seed, samples=1, months=2, first=0):
    return AddressedNoise(objective_seed, range(first, first + samples), [range(months)] * samples, (months, 2, 2, 3))


def gaussian_network(deviation=DEVIATION, mean=MEAN, data=1.0):
    """The network that makes the preconditioned denoiser exact for a Gaussian."""

    def forward(frames, scaled, fourth_log):
        level = (4 * fourth_log)[..., None, None, None].exp()
        total = level**2 + data**2
        noisy = scaled * total.sqrt()
        best = (deviation**2 * noisy + level**2 * mean) / (deviation**2 + level**2)
        return (best - data**2 / total * noisy) * total.sqrt() / (level * data)

    return forward


@pytest.mark.parametrize("options", [{}, {"solver": "heun"}, {"solver": "heun", "churn": 1.0}, {"deviation": 0.5}])
def test_realisations_of_an_exact_network_have_its_distribution(options):
    objective = Diffusion(None, steps=40, **options)
    frames = torch.zeros(400, 2, 1, 2, 3)
    network = gaussian_network(data=objective.deviation)
    drawn = objective.predict(network, frames, noise_for(1, samples=400))
    assert drawn.shape == (400, 2, 2, 2, 3)
    assert float(drawn.mean()) == pytest.approx(MEAN, abs=0.05)
    assert float(drawn.std()) == pytest.approx(0.806, abs=0.02)


def test_realisation_is_a_function_of_seed_number_and_step_alone():
    objective, network = Diffusion(None, steps=4, solver="heun", churn=1.0), gaussian_network()

    def drawn(seed=1, samples=3, months=4, first=0):
        frames = torch.zeros(samples, months, 1, 2, 3)
        return objective.predict(network, frames, noise_for(seed, samples, months, first))

    whole = drawn()
    torch.testing.assert_close(drawn(samples=1, first=2)[0], whole[2])
    torch.testing.assert_close(drawn(months=2), whole[:, :2])
    assert not torch.allclose(drawn(seed=2), whole)
    assert not torch.allclose(whole[0], whole[1])


def test_loss_of_a_network_is_the_weighted_error_of_what_it_denoises():
    """Of zeros for a network, D is c_skip (y + n); by hand, from the same numbers."""
    objective = Diffusion(LOSS, log_mean=-0.5, log_deviation=0.7, deviation=2.0)
    y = torch.randn(3, 4, 2, 2, 3)
    torch.manual_seed(5)
    total, terms = objective.loss(
        lambda f, noisy, level: torch.zeros_like(noisy), Sample(torch.zeros(3, 4, 1, 2, 3), y)
    )
    torch.manual_seed(5)
    s = (-0.5 + 0.7 * torch.randn(3, 4)).exp()[..., None, None, None]
    n = s * torch.randn_like(y)
    error = ((s**2 + 4) / (2 * s) ** 2) * (4 / (s**2 + 4) * (y + n) - y) ** 2
    torch.testing.assert_close(total, error.mean())
    torch.testing.assert_close(terms["pr.denoising"], error[:, :, 1].mean())


def test_best_network_has_the_smallest_loss():
    objective, torch_y = Diffusion(LOSS), torch.Generator().manual_seed(0)
    sample = Sample(torch.zeros(300, 4, 1, 2, 3), MEAN + DEVIATION * torch.randn(300, 4, 2, 2, 3, generator=torch_y))

    def loss(**of):
        torch.manual_seed(1)
        return float(objective.loss(gaussian_network(**of), sample)[0])

    best = loss()
    assert best < min(loss(deviation=0.7), loss(deviation=0.9), loss(mean=0.3), loss(mean=0.5))


def test_network_is_given_unit_variance_and_a_fourth_of_the_logarithm():
    objective, seen = Diffusion(LOSS), {}

    def forward(frames, noisy, level):
        seen.update(noisy=noisy, level=level)
        return noisy

    torch.manual_seed(0)
    objective.loss(forward, Sample(torch.zeros(500, 2, 1, 2, 3), torch.randn(500, 2, 2, 2, 3)))
    assert float(seen["noisy"].std()) == pytest.approx(1, abs=0.02)
    assert float(seen["level"].mean()) == pytest.approx(-1.2 / 4, abs=0.04)
    assert float(seen["level"].std()) == pytest.approx(1.2 / 4, abs=0.02)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"steps": 0}, "steps is out of range"),
        ({"deviation": 0.0}, "deviation is out of range"),
        ({"largest": 0.01}, "not above objective.smallest"),
        ({"churn": 1.0}, "with the solver dpm"),
        ({"churn": -1.0, "solver": "heun"}, "churn cannot be"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, said):
    with pytest.raises(RecipeError) as caught:
        Diffusion(None, **options)
    assert said in f"{caught.value.what} {caught.value.found}"


@pytest.mark.parametrize("name", ["diffusion", "interpolant"])
def test_network_that_takes_no_level_is_refused_with_the_recipe(name):
    single = ("training.segments.members=all", f"objective.name={name}")
    with pytest.raises(RecipeError, match="needs a network that takes a noisy field and its level, such as dit"):
        load_recipe("cnn-gru", assignments=single)
    assert load_recipe("dit", assignments=single).objective.name == name
    with pytest.raises(RecipeError, match="learns from single runs"):
        load_recipe("dit", assignments=("training.segments.members=mean", f"objective.name={name}"))
