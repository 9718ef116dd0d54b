"""A hybrid that is not its core when it is fresh, asks its closure too often, loses water, or misplaces a state."""

import numpy as np
import pytest
import torch

from emukit.errors import RecipeError
from emukit.models.hybrid import Hybrid, roles_of
from emukit.models.registry import build_network
from emukit.objectives.crps import Crps

GRID = (16, 32)
OUTPUTS = ("olr", "u200", "v200", "u850", "v850", "t500", "t850", "z500", "q850", "ps", "t2m", "W", "pr", "evap")
STATES = OUTPUTS[1:12]
CHANNELS = ("sin_local_hour", "cos_local_hour", *(f"state:{name}" for name in STATES))
ROLES = {
    "u200": "eastward 0.2",
    "v200": "northward 0.2",
    "u850": "eastward 0.835",
    "v850": "northward 0.835",
    "t500": "temperature 0.51",
    "t850": "temperature 0.835",
    "z500": "geopotential 0.51",
    "q850": "humidity 0.835",
    "ps": "pressure",
    "t2m": "temperature 1.0",
    "W": "water",
    "pr": "rain",
    "evap": "evaporation",
}
CENTER = dict(zip(OUTPUTS, (240, 0, 0, 0, 0, 255, 275, 54500, 4e-3, 1e5, 285, 25, 2.6, 2.6), strict=True))
SPREAD = dict(zip(OUTPUTS, (20, 8, 8, 5, 5, 3, 3, 400, 1e-3, 500, 3, 5, 4, 2), strict=True))
LATITUDES = np.rad2deg(np.arcsin(np.polynomial.legendre.leggauss(GRID[0])[0]))


def known(**changed):
    """What a hybrid is told: jets in the mean, warmer tropics, and a mountain."""
    lat = np.deg2rad(LATITUDES)[:, None] * np.ones(GRID)
    lon = 2 * np.pi * np.arange(GRID[1])[None] / GRID[1] * np.ones(GRID)
    center = np.stack([np.full(GRID, CENTER[name], np.float64) for name in OUTPUTS])
    center[OUTPUTS.index("u200")] += 20 * np.sin(2 * lat) ** 2 + 10 * np.cos(lat)
    for name in ("t500", "t850", "t2m"):
        center[OUTPUTS.index(name)] += 15 * np.cos(lat) ** 2 - 10
    center[OUTPUTS.index("ps")] -= 8000 * np.cos(lat) ** 8 * np.cos(lon / 2) ** 8
    values = {
        "outputs": OUTPUTS,
        "channels": CHANNELS,
        "latitudes": LATITUDES,
        "hours": 6.0,
        "center": center,
        "spread": np.stack([np.full(GRID, SPREAD[name], np.float64) for name in OUTPUTS]),
        "change": np.array([0.0, *[0.5] * 11, 0.0, 0.0]),
    }
    return values | changed


def hybrid(seed=0, noise=0, **options):
    torch.manual_seed(seed)
    chosen = {
        "roles": ROLES,
        "truncation": 8,
        "substeps": 4,
        "held": 2,
        "hidden": 8,
        "blocks": 1,
        "width": 4,
        "depth": 1,
    }
    found = build_network(
        "hybrid",
        in_channels=len(CHANNELS) + noise,
        variables=len(OUTPUTS),
        grid=GRID,
        history=1,
        options=chosen | options,
    )
    assert isinstance(found, Hybrid)
    found.know(**known())
    return found


def frames(number=2, seed=0):
    """(S, 1, C, Y, X) smooth anomalies of the size of weather."""
    draws = np.random.default_rng(seed).normal(size=(number, len(CHANNELS), 4, 4, 2))
    x = 2 * np.pi * np.arange(GRID[1]) / GRID[1]
    y = np.deg2rad(LATITUDES)
    fields = sum(
        draws[:, :, k, m, i, None, None] * np.cos(y)[:, None] ** (k + 1) * np.cos(m * y + i)[:, None] * wave(k * x)
        for k in range(4)
        for m in range(4)
        for i, wave in enumerate((np.cos, np.sin))
    )
    return torch.tensor(0.2 * fields[:, None], dtype=torch.float32)


def stirred(found, size=0.3):
    """Other weights than fresh ones, so that encoder, closure and decoder say something."""
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=draws) / max(parameter[0].numel(), 1) ** 0.5)
    return found


def physical(said, sample, place):
    """(S, Y, X) field of an output after a step."""
    values = known()
    center, spread = (torch.tensor(values[k][place]) for k in ("center", "spread"))
    change = float(values["change"][place])
    if not change:
        return center + spread * said[:, 0, place].double()
    before = sample[:, 0, CHANNELS.index(f"state:{OUTPUTS[place]}")].double()
    return center + spread * (before + change * said[:, 0, place].double())


def mean(fields):
    weights = np.cos(np.deg2rad(LATITUDES))[:, None] * np.ones(GRID)
    return (fields.double() * torch.tensor(weights / weights.sum())).sum((-2, -1))


def test_fresh_it_is_its_core_bit_for_bit():
    sample = frames()
    alone, whole = hybrid(closure=False, decoder="none"), hybrid(seed=5)
    with torch.no_grad():
        a, b = alone(sample), whole(sample)
    states = [OUTPUTS.index(name) for name in STATES]
    assert torch.equal(a[:, :, states], b[:, :, states])
    # It is a forecast: it changes states, and not by nothing.
    assert float(a[:, :, OUTPUTS.index("z500")].abs().mean()) > 0.05


def test_the_state_that_the_core_begins_from_is_the_observed_one():
    found, sample = hybrid(divergence=1.0), frames()
    with torch.no_grad():
        state, observed = found.encode(sample[:, 0])
        seen = found.decode(state)
    names = [role.name for role in found.roles]
    for name, error in {"u200": 0.5, "u850": 0.5, "ps": 400.0, "W": 0.5, "z500": 60.0}.items():
        i = names.index(name)
        # What is left is what eight wavenumbers cannot say.
        assert float((seen[i] - observed[i]).abs().mean()) < error, name
    # An anomaly of geopotential is the observed one, whatever the rest of the column is.
    z = names.index("z500")
    moved = sample.clone()
    moved[:, :, CHANNELS.index("state:z500")] += 1.0
    with torch.no_grad():
        lifted = found.decode(found.encode(moved[:, 0])[0])
    torch.testing.assert_close(
        mean(lifted[z] - seen[z]), torch.full((2,), 400.0, dtype=torch.float64), rtol=1e-2, atol=0
    )


@pytest.mark.parametrize(("substeps", "held"), [(4, 1), (4, 2), (4, 4)])
def test_the_closure_is_asked_once_in_so_many_substeps(substeps, held):
    found = hybrid(substeps=substeps, held=held)
    with torch.no_grad():
        found(frames())
    assert found.closure.calls == substeps // held


def test_held_through_one_step_tendencies_are_not_held():
    found, sample = stirred(hybrid(substeps=3, held=1)), frames()
    with torch.no_grad():
        begun, _ = found.encode(sample[:, 0])
        ended, gained = found.advance(begun, sample[:, 0])
        now, modal = begun, found._ready().outer.clip_wavenumbers(found._modal(sample[:, 0]))
        sums = torch.zeros_like(gained)
        for _ in range(3):
            tendency = found.tendencies(now, modal)
            now = found._ready().core.step(now, tendency)
            sums = sums + tendency.humidity * 2.0 * (2 * 7.292e-5 * 3600)
    for a, b in zip(ended, now, strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(gained, sums)
    assert gained.abs().max() > 0


def test_water_of_a_held_tendency_is_that_of_all_steps_it_is_held_through():
    found, sample = stirred(hybrid(substeps=3, held=3)), frames()
    with torch.no_grad():
        begun, _ = found.encode(sample[:, 0])
        _, gained = found.advance(begun, sample[:, 0])
        said = found.tendencies(begun, found._ready().outer.clip_wavenumbers(found._modal(sample[:, 0]))).humidity
    torch.testing.assert_close(gained, said * 6.0 * (2 * 7.292e-5 * 3600))


@pytest.mark.parametrize(("decoder", "relaxation"), [("columns", 0.0), ("unet", 0.0), ("unet", 0.2)])
def test_mass_is_kept_and_water_changes_by_evaporation_less_rain(decoder, relaxation):
    found, sample = stirred(hybrid(decoder=decoder, relaxation=relaxation)).eval(), frames(3)
    with torch.no_grad():
        said = found(sample)
    at = {name: OUTPUTS.index(name) for name in ("ps", "W", "pr", "evap")}
    after = {name: physical(said, sample, place) for name, place in at.items()}
    values = known()
    before = {
        name: torch.tensor(values["center"][at[name]])
        + torch.tensor(values["spread"][at[name]]) * sample[:, 0, CHANNELS.index(f"state:{name}")].double()
        for name in ("ps", "W")
    }
    np.testing.assert_allclose(mean(after["ps"]), mean(before["ps"]), rtol=1e-8)
    gain = mean(after["W"]) - mean(before["W"])
    budget = 0.25 * (mean(after["evap"]) - mean(after["pr"]))
    np.testing.assert_allclose(gain, budget, atol=1e-6)
    assert float(budget.abs().min()) > 1e-4
    assert float(after["pr"].min()) >= 0


def test_noise_takes_the_place_of_a_state_or_makes_mass():
    """Realisations of the objective `crps`: fresh, they are what the core says, and no noise changes a budget."""
    sample, objective = frames(3), Crps(None, noise=4)

    def drawn(found, seed):
        draws = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            return objective.predict(found, sample, lambda n: torch.randn(3, 1, n, *GRID, generator=draws))

    states = [OUTPUTS.index(name) for name in STATES]
    fresh, plain = hybrid(noise=4), hybrid()
    with torch.no_grad():
        assert torch.equal(drawn(fresh, 0)[:, :, states], plain(sample)[:, :, states])
    found = stirred(fresh)
    one, other = (drawn(found, seed) for seed in (1, 2))
    z500, place = OUTPUTS.index("z500"), OUTPUTS.index("ps")
    assert float((one - other)[:, :, z500].square().mean().sqrt()) > 0.01
    values = known()
    before = (
        torch.tensor(values["center"][place])
        + torch.tensor(values["spread"][place]) * sample[:, 0, CHANNELS.index("state:ps")].double()
    )
    for said in (one, other):
        np.testing.assert_allclose(mean(physical(said, sample, place)), mean(before), rtol=1e-8)


def test_water_of_a_column_does_not_fall_below_none_and_the_budget_holds_all_the_same():
    found, sample = stirred(hybrid(decoder="columns"), 3.0), frames(3)
    place, values = OUTPUTS.index("W"), known()
    # Columns so dry that what is taken from them is more than they hold.
    sample[:, :, CHANNELS.index("state:W")] = -4.9
    with torch.no_grad():
        said = found(sample)
    water = physical(said, sample, place)
    assert float(water.min()) > -1e-4
    assert float((water < 1e-3).double().mean()) > 0.01
    before = torch.tensor(values["center"][place] + values["spread"][place] * -4.9).expand(3, -1, -1)
    rain, evaporation = (physical(said, sample, OUTPUTS.index(name)) for name in ("pr", "evap"))
    np.testing.assert_allclose(mean(water) - mean(before), 0.25 * (mean(evaporation) - mean(rain)), atol=1e-5)


def test_in_predictions_states_are_drawn_back_to_those_of_training():
    """What lies beyond falls to 1/e in `relaxation_days`, and so does what is left in the global mean."""
    free, held = (stirred(hybrid(**s)).eval() for s in ({}, {"relaxation": 0.5, "relaxation_days": (2.0, 7.0)}))
    sample, values = frames(), known()
    sample[:, :, CHANNELS.index("state:t850")] += 0.6
    with torch.no_grad():
        before, after = free(sample), held(sample)
    for name in ("t850", "z500", "u200", "q850"):
        place = OUTPUTS.index(name)
        spread, usual = (torch.tensor(values[k][place]) for k in ("spread", "center"))
        expected = physical(before, sample, place) - usual
        expected -= (1 - np.exp(-0.25 / 2)) * (expected - expected.clamp(-0.5 * spread, 0.5 * spread))
        expected -= (1 - np.exp(-0.25 / 7)) * mean(expected)[:, None, None]
        found = physical(after, sample, place) - usual
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * SPREAD[name])
        assert float((found - (physical(before, sample, place) - usual)).abs().max()) > 0.01 * SPREAD[name], name


def test_a_column_that_is_drawn_back_evaporates_what_it_gains():
    free, held = (stirred(hybrid(relaxation=r, decoder="none")).eval() for r in (0.0, 0.1))
    sample = frames()
    with torch.no_grad():
        before, after = free(sample), held(sample)
    water, rain, more = (
        physical(after, sample, place) - physical(before, sample, place)
        for place in (OUTPUTS.index(name) for name in ("W", "pr", "evap"))
    )
    assert float(rain.abs().max()) == 0
    # Up to the factor that holds the global mean, which here changes every column by nearly as much.
    assert float((water - 0.25 * more).abs().max()) < 0.05 * float(water.abs().max())
    assert float(water.abs().max()) > 0.05


def test_training_is_not_drawn_back():
    free, held, sample = stirred(hybrid()), stirred(hybrid(relaxation=0.1)), frames()
    assert free.training
    with torch.no_grad():
        assert torch.equal(free(sample), held(sample))
        assert not torch.equal(free.eval()(sample), held.eval()(sample))


def test_every_weight_learns_and_gradients_are_those_of_finite_differences():
    found, sample = stirred(hybrid(), 0.1), frames()
    loss = found(sample).square().mean()
    loss.backward()
    for label, parameter in found.named_parameters():
        assert parameter.grad is not None, label
        assert torch.isfinite(parameter.grad).all(), label
        assert parameter.grad.any(), label
    weight, step = found.closure.decode.weight, 1e-1
    direction = weight.grad / weight.grad.norm()
    with torch.no_grad():
        weight += step * direction
        up = float(found(sample).square().mean())
        weight -= 2 * step * direction
        down = float(found(sample).square().mean())
    assert (up - down) / (2 * step) == pytest.approx(float(weight.grad.norm()), rel=2e-2)


def test_a_copy_and_saved_weights_say_the_same():
    from copy import deepcopy

    found, sample = stirred(hybrid()), frames()
    with torch.no_grad():
        expected = found(sample)
        again = build_network(
            "hybrid",
            in_channels=len(CHANNELS),
            variables=len(OUTPUTS),
            grid=GRID,
            history=1,
            options={"roles": ROLES, "truncation": 8, "hidden": 8, "blocks": 1, "width": 4, "depth": 1},
        )
        again.load_state_dict(found.state_dict())
        assert torch.equal(again(sample), expected)
        assert torch.equal(deepcopy(found)(sample), expected)


def test_training_goes_on_after_a_prediction():
    found, sample = hybrid(), frames()
    found.forget()
    with torch.inference_mode():
        found(sample)
    found(sample).sum().backward()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"outputs": OUTPUTS[:-1]}, "evap"),
        ({"channels": CHANNELS[:-1]}, "W"),
        ({"latitudes": np.linspace(-80, 80, GRID[0])}, "latitudes"),
    ],
)
def test_data_that_do_not_fit_are_refused(changed, match):
    with pytest.raises(RecipeError, match=match):
        hybrid().know(**known(**changed))


def test_a_core_without_winds_is_refused():
    with pytest.raises(RecipeError, match="northward"):
        hybrid(roles={name: text for name, text in ROLES.items() if name != "v200"})


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"held": 3}, "held"),
        ({"relaxation": -1.0}, "relaxation must be zero or more, not -1"),
        ({"relaxation": 2.0, "relaxation_days": (0.0, 5.0)}, "relaxation_days must be above zero, not 0, 5"),
        ({"relaxation": 0.0, "relaxation_days": (2.0, 5.0)}, "relaxation_days would do nothing: relaxation is 0"),
        ({"truncation": 40}, "truncation"),
        ({"boundaries": [0.0, 0.5]}, "boundaries"),
        ({"roles": {"u200": "westward 0.2"}}, "u200"),
        ({"roles": {"u200": "eastward"}}, "u200"),
        ({"roles": {"ps": "pressure 1.0"}}, "ps"),
        ({"roles": {"u200": "eastward 0.65"}, "boundaries": [0.0, 0.5, 1.0]}, "no layer"),
    ],
)
def test_sizes_and_roles_that_cannot_be_are_refused_by_name(options, match):
    with pytest.raises(RecipeError, match=match):
        hybrid(**options)


def test_roles_say_kind_and_level():
    assert roles_of({"a": "eastward 0.2", "b": "water"}) == (("a", "eastward", 0.2), ("b", "water", None))
