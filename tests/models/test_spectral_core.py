"""A core that does not decay, balance, converge or differentiate as the equations say, or that makes mass."""

import math

import numpy as np
import pytest
import torch

from emukit.errors import RecipeError
from emukit.models import spectral_core
from emukit.models.spectral_core import GEOPOTENTIAL, HOURS, REFERENCE, Fields, SpectralCore, spacing_of

THREE = (0.0, 0.3, 0.7, 1.0)


def core(truncation=8, hours=0.5, **options):
    return SpectralCore(truncation, THREE, hours, dtype=torch.float64, **options)


def noise(found, size=1.0, seed=0):
    """A smooth state of the size of weather."""
    draws = torch.Generator().manual_seed(seed)
    mask = torch.tensor(found.grid.mask)
    total = torch.arange(found.modal[1])
    smooth = mask * torch.where(total < found.modal[1] - 1, 1.0 / (1.0 + total) ** 2, 0.0)

    def one(layers, scale):
        field = size * scale * torch.randn(layers, *found.modal, generator=draws, dtype=torch.float64) * smooth
        field[:, 0, 0] = 0
        return field

    return Fields(one(3, 0.05), one(3, 0.005), one(3, 5.0), one(1, 0.02), one(3, 1e-3))


def test_each_scale_decays_as_its_eigenvalue_says():
    plain, damped = core(diffusion_hours=0), core(diffusion_hours=2.0, diffusion_order=3)
    state = noise(plain)
    before, after = plain.step(state), damped.step(state)
    for total in range(9):
        expected = math.exp(-0.5 / 2.0 * (total * (total + 1) / (8 * 9)) ** 3)
        for name in ("vorticity", "divergence", "temperature", "humidity"):
            np.testing.assert_allclose(
                getattr(after, name)[..., total], expected * getattr(before, name)[..., total], rtol=1e-12
            )
    np.testing.assert_array_equal(after.pressure, before.pressure)


def test_divergence_is_damped_at_every_scale_and_at_the_smallest_besides():
    plain, damped = core(diffusion_hours=0), core(diffusion_hours=0, divergence_hours=(6.0, 0.5))
    state = noise(plain)
    before, after = plain.step(state), damped.step(state)
    for total in range(9):
        expected = math.exp(-0.5 / 6.0 - 0.5 / 0.5 * total * (total + 1) / (8 * 9))
        np.testing.assert_allclose(after.divergence[..., total], expected * before.divergence[..., total], rtol=1e-12)
    for name in ("vorticity", "temperature", "pressure", "humidity"):
        assert torch.equal(getattr(after, name), getattr(before, name))


def test_a_rotating_atmosphere_in_balance_stands_still():
    found = core(diffusion_hours=0, hours=1.0)
    grid, gas = found.grid, found.equations.physics_specs.R
    lat = torch.tensor(grid.latitudes)[None, :].expand(grid.nodal_shape)
    speed = 0.03
    wind = (speed * torch.cos(lat)).expand(3, -1, -1)
    vorticity, divergence = grid.uv_nodal_to_vor_div_modal(wind, torch.zeros_like(wind))
    # R T ln ps = -(Omega a U + U^2 / 2) sin^2 of latitude, with 2 Omega = a = 1.
    log = -(speed + speed**2) / 2 * torch.sin(lat) ** 2 / (gas * REFERENCE)
    zero = torch.zeros_like(vorticity)
    begun = state = Fields(vorticity, divergence, zero, grid.to_modal(log)[None], zero)
    for _ in range(48):
        state = found.step(state)
    for name in Fields._fields:
        torch.testing.assert_close(getattr(state, name), getattr(begun, name), rtol=0, atol=1e-12)
    # The same winds without the balance do not stand still.
    out_of_balance = found.step(begun._replace(pressure=torch.zeros_like(begun.pressure)))
    assert (out_of_balance.divergence - divergence).abs().max() > 1e-4


@pytest.mark.parametrize(("force", "order"), [(lambda x: -x, 3.0), (lambda x: -torch.sin(x), 2.0)])
def test_errors_of_the_explicit_scheme_fall_with_the_third_power_of_a_linear_step(force, order):
    """Its coefficients meet the conditions of third order for linear equations alone: sum b c^2 is 7/18, not 1/3."""
    from dinosaur_torch.time_integration import ImplicitExplicitODE, imex_rk_sil3

    def explicit(y):
        return torch.stack((y[1], force(y[0])))

    pendulum = ImplicitExplicitODE.from_functions(explicit, torch.zeros_like, lambda y, step: y)

    def end(steps):
        y, step = torch.tensor([1.0, 0.0], dtype=torch.float64), imex_rk_sil3(pendulum, 2.0 / steps)
        for _ in range(steps):
            y = step(y)
        return y

    true = end(2048)
    errors = [float((end(n) - true).norm()) for n in (64, 128)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.15)


def test_errors_of_the_core_fall_at_least_with_the_second_power_of_its_step():
    def end(steps):
        found = core(hours=6.0 / steps, diffusion_hours=0, truncation=6)
        state = noise(found)
        for _ in range(steps):
            state = found.step(state)
        return torch.cat((state.vorticity, state.divergence, state.temperature / 1000))

    true = end(96)
    errors = [float((end(n) - true).norm()) for n in (6, 12)]
    assert math.log2(errors[0] / errors[1]) > 1.8


def test_gradients_through_sixty_steps_are_those_of_finite_differences():
    found = core(truncation=4, hours=1.0)
    state = noise(found, seed=3)

    def loss(factor):
        now = state._replace(temperature=state.temperature * factor, vorticity=state.vorticity * factor)
        for _ in range(60):
            now = found.step(now)
        return (now.vorticity**2).sum() * 1e3 + (now.temperature**2).sum()

    factor = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(factor), factor)
    with torch.no_grad():
        step = 1e-5
        expected = (loss(factor + step) - loss(factor - step)) / (2 * step)
    assert float(gradient) == pytest.approx(float(expected), rel=1e-6)


def test_a_held_tendency_adds_itself_times_the_step():
    found = core(diffusion_hours=0)
    zero = torch.zeros(3, *found.modal, dtype=torch.float64)
    rest = Fields(zero, zero, zero, zero[:1], zero)
    # Warmth and humidity that are the same everywhere act on nothing else.
    heat = zero.clone()
    heat[:, 0, 0] = 2.0
    after = found.step(rest, Fields(zero, zero, heat, zero[:1], 3 * heat))
    torch.testing.assert_close(after.temperature, heat * (0.5 / HOURS))
    torch.testing.assert_close(after.humidity, 3 * heat * (0.5 / HOURS))
    assert not after.vorticity.any()
    assert not after.pressure.any()


def test_without_tendencies_a_step_is_that_of_the_package_bit_for_bit():
    from dinosaur_torch.primitive_equations import State
    from dinosaur_torch.time_integration import imex_rk_sil3

    found = core(diffusion_hours=0)
    state = noise(found)
    plain = imex_rk_sil3(found.equations, 0.5 / HOURS)(State(*state[:4], {"humidity": state.humidity}))
    after = found.step(state)
    assert torch.equal(after.vorticity, plain.vorticity)
    assert torch.equal(after.temperature, plain.temperature_variation)
    assert torch.equal(after.pressure, plain.log_surface_pressure)


def test_an_isothermal_atmosphere_is_as_high_as_its_temperature_says():
    found = core()
    gas = found.equations.physics_specs.R
    height = found.geopotential(torch.full((3, 1, 1), 250.0, dtype=torch.float64))[:, 0, 0]
    torch.testing.assert_close(height, -gas * 250.0 * torch.log(found.sigma))
    assert float(height[0]) * GEOPOTENTIAL == pytest.approx(286.857 * 250 * -math.log(0.15), rel=1e-4)


def test_tables_follow_to_another_precision():
    found = core().float()
    state = Fields(*(f.float() for f in noise(found)))
    found.warm()
    assert found.step(state).vorticity.dtype == torch.float32


def test_latitudes_that_have_no_weights_are_refused():
    gauss = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(12)[0]))
    assert spacing_of(gauss) == "gauss"
    assert spacing_of(-90 + 15 * (np.arange(12) + 0.5)) == "equiangular"
    # On a pole the winds of the transforms are not finite.
    for latitudes in (np.linspace(-80, 80, 12), np.linspace(-90, 90, 13)):
        with pytest.raises(RecipeError, match="latitudes"):
            spacing_of(latitudes)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(spectral_core.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install -e '\.\[core\]'"):
        SpectralCore(4, THREE, 1.0)
