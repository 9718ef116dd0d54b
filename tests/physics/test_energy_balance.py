"""An energy balance that makes or loses heat, answers a step inexactly, or has wrong gradients."""

from math import exp

import numpy as np
import pytest
import torch

from emukit.physics.energy_balance import EnergyBalance

TWO = (1.13, (7.3, 106.0), (0.73,), 1.28)
THREE = (0.9, (4.0, 12.0, 90.0), (2.0, 0.6), 1.4)


def balance(parameters=TWO):
    return EnergyBalance.of(*parameters)


def wandering(steps, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=steps).cumsum() * 0.2 + 1.0)


def small_steps(parameters, forcing, years, pieces=4000):
    """Temperatures after one step of constant forcing, and their mean, by the classical Runge-Kutta method."""
    feedback, capacity, exchange, efficacy = parameters
    layers = len(capacity)

    def slope(t):
        flow = [exchange[i] * (t[i] - t[i + 1]) for i in range(layers - 1)]
        into = [forcing - feedback * t[0], *([0.0] * (layers - 1))]
        for i, f in enumerate(flow):
            into[i] -= f * (efficacy if i == layers - 2 else 1.0)
            into[i + 1] += f
        return np.array(into) / np.array(capacity)

    t, h, total = np.zeros(layers), years / pieces, np.zeros(layers)
    for _ in range(pieces):
        k1 = slope(t)
        k2 = slope(t + h / 2 * k1)
        k3 = slope(t + h / 2 * k2)
        k4 = slope(t + h * k3)
        middle = t + h / 4 * (k1 + k2)
        after = t + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        total += h / 6 * (t + 4 * middle + after)
        t = after
    return t, total / years


@pytest.mark.parametrize("parameters", [TWO, THREE], ids=["two", "three"])
def test_a_long_step_is_as_exact_as_many_short_ones(parameters):
    end, mean = balance(parameters).step(torch.zeros(len(parameters[1]), dtype=torch.float64), torch.tensor(3.7), 20.0)
    by_hand, mean_by_hand = small_steps(parameters, 3.7, 20.0)
    np.testing.assert_allclose(end, by_hand, atol=1e-7)
    np.testing.assert_allclose(mean, mean_by_hand, atol=1e-6)


def test_one_layer_decays_and_settles_as_on_paper():
    one = EnergyBalance.of(1.2, (9.0,), ())
    warm = one.run(torch.zeros(30, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64))
    np.testing.assert_allclose(warm.end[:, 0], [2 * exp(-1.2 * t / 9) for t in range(1, 31)], rtol=1e-12)
    forced = one.run(torch.full((30,), 3.0, dtype=torch.float64))
    np.testing.assert_allclose(forced.end[:, 0], [2.5 * (1 - exp(-1.2 * t / 9)) for t in range(1, 31)], rtol=1e-12)


@pytest.mark.parametrize("parameters", [TWO, THREE], ids=["two", "three"])
def test_a_constant_forcing_warms_in_the_end_by_itself_over_the_feedback(parameters):
    b = balance(parameters)
    late = b.run(torch.full((1500,), 3.7, dtype=torch.float64), years=20.0)
    np.testing.assert_allclose(late.end[-1], 3.7 / parameters[0], rtol=1e-9)
    assert abs(float(late.flux[-1])) < 1e-8


@pytest.mark.parametrize("years", [1 / 12, 1.0, 7.0])
@pytest.mark.parametrize("parameters", [TWO, THREE], ids=["two", "three"])
def test_heat_content_changes_by_the_net_flux(parameters, years):
    b = balance(parameters)
    start = torch.linspace(1.0, 0.2, len(parameters[1]), dtype=torch.float64)
    course = b.run(wandering(200), start, years)
    heat = b.heat(torch.cat([start[None], course.end]))
    np.testing.assert_allclose(np.diff(heat), years * course.flux, atol=1e-10)


@pytest.mark.parametrize("parameters", [TWO, THREE], ids=["two", "three"])
def test_steps_one_by_one_are_those_of_a_whole_run(parameters):
    b, forcing = balance(parameters), wandering(37)
    state = torch.linspace(0.5, 0.1, len(parameters[1]), dtype=torch.float64)
    course = b.run(forcing, state, 0.5)
    for t in range(37):
        state, mean = b.step(state, forcing[t], 0.5)
        np.testing.assert_allclose(course.mean[t], mean, atol=1e-13)
        np.testing.assert_allclose(course.end[t], state, atol=1e-13)


def test_blocks_of_a_long_run_join():
    """A run longer than one block of its convolution is that of two, the second from where the first ended."""
    b, forcing = balance(), wandering(2500)
    whole = b.run(forcing, years=1 / 12)
    rest = b.run(forcing[1000:], whole.end[999], 1 / 12)
    np.testing.assert_allclose(whole.mean[1000:], rest.mean, atol=1e-11)


def test_a_forcing_that_grew_for_ever_leaves_what_a_long_past_does():
    b, rate = balance(), 1 / 40
    past = torch.arange(-3000, 0, dtype=torch.float64) / 5
    # The mean of the exponential over each step.
    forcing = 2.0 * torch.exp(rate * past) * (exp(rate / 5) - 1) / (rate / 5)
    np.testing.assert_allclose(b.grown(2.0, rate), b.run(forcing, years=1 / 5).end[-1], rtol=1e-4)


def test_gradients_through_sixty_steps_are_finite_differences():
    values = torch.tensor([1.13, 7.3, 106.0, 0.73, 1.28], dtype=torch.float64)
    forcing = wandering(60)

    def loss(v):
        b, state = EnergyBalance(v[0], v[1:3], v[3:4], v[4]), torch.zeros(2, dtype=torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        for t in range(60):
            state, mean = b.step(state, forcing[t])
            total = total + mean[0] ** 2 + b.flux(mean, forcing[t])
        return total

    held = values.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(held), held)
    for i in range(5):
        h = 1e-5 * float(values[i])
        step = torch.zeros(5, dtype=torch.float64)
        step[i] = h
        difference = (float(loss(values + step)) - float(loss(values - step))) / (2 * h)
        assert float(gradient[i]) == pytest.approx(difference, rel=1e-6)
    # A gradient of zero everywhere would equal a loss that ignores its parameters.
    assert (gradient.abs() > 1e-3).all()
