"""A closure that speaks when it should not, is asked too often, loses water, or draws what its seed does not say."""

from functools import partial

import numpy as np
import pytest
import torch

from emukit.data.protocol import make_split
from emukit.data.store import open_store
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.column_closure import DAYS, RENEWAL, WATER, ColumnClosureEmulator, Columns, _crps, noise_fields
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.errors import ProtocolError, RecipeError
from emukit.metrics.ensemble import crps

GRID = (6, 12)
LAT = -75 + 30.0 * np.arange(6)
AREAS = np.cos(np.deg2rad(LAT))[:, None] * np.ones(GRID)
AREAS /= AREAS.sum()
SMALL = {"rounds": 3, "months": 3, "runs": 2, "hidden": 8, "position": 2, "noise": 2, "seed": 4}


def columns(seed=0, stirred=True, **options):
    torch.manual_seed(seed)
    chosen = {
        "substeps": 4,
        "held": 2,
        "hidden": 8,
        "blocks": 1,
        "position": 2,
        "noise": 3,
        "memory": 2.0,
        "diffusion": 0.1,
    }
    spread = np.stack([np.full(GRID, 1.5), np.full(GRID, 0.8)])
    made = Columns(AREAS, spread, LAT, **(chosen | options))
    if stirred:
        torch.nn.init.normal_(made.closure.decode.weight, std=2.0)
    return made


def given(number=2, noise=3, seed=0):
    draws = torch.Generator().manual_seed(seed)
    random = partial(torch.randn, generator=draws)
    return random(number, 2, *GRID), random(number, 3), random(number, *GRID).abs(), random(number, noise, *GRID)


@pytest.fixture(scope="module")
def climate(demo_store):
    archive = open_store(demo_store)
    split = make_split(archive, "k360")
    return archive, split, (ClimatologyEmulator.fit(archive, split),)


@pytest.fixture(scope="module")
def trained(climate):
    archive, split, bases = climate
    return ColumnClosureEmulator.fit(archive, split, bases, (), **SMALL)


def test_a_closure_that_says_nothing_leaves_the_core_bit_for_bit(climate, trained):
    archive, _, bases = climate
    silent = ColumnClosureEmulator(
        archive.domain, bases, columns_like(trained, zero=True), trained.options, trained.usual, 4
    )
    s = archive["ssp585"]
    np.testing.assert_array_equal(silent.predict_fields(s, 100, 130), bases[0].predict_fields(s, 100, 130))
    assert np.abs(trained.predict_fields(s, 100, 130) - bases[0].predict_fields(s, 100, 130)).max() > 0


def columns_like(emulator, zero=False):
    made = Columns(emulator.grid.weights, emulator.columns.spread.numpy(), emulator.grid.lat, **emulator.options)
    made.load_state_dict(emulator.columns.state_dict())
    if zero:
        torch.nn.init.zeros_(made.closure.decode.weight)
    return made


def test_water_changes_by_evaporation_less_precipitation():
    made, (state, told, rain, noise) = columns(), given()
    with torch.no_grad():
        for _ in range(6):
            after, falls, supply = made.month(state, told, rain, noise)
            # The base's own water is in balance: what is added to evaporation and to precipitation is the rest.
            gain = (after[:, 1] - state[:, 1]).double() / DAYS
            budget = supply.double() - (falls - rain).double()
            areas = torch.tensor(AREAS)
            np.testing.assert_allclose((gain * areas).sum((-2, -1)), (budget * areas).sum((-2, -1)), atol=1e-6)
            # In every column, with what the winds bring.
            np.testing.assert_allclose(gain, budget, atol=2e-6)
            state = after
    assert gain.abs().max() > 1e-3
    assert falls.min() >= 0
    # Where it would rain less than nothing it does not rain: this happens here, and the budget holds all the same.
    assert (falls == 0).any()


def test_a_month_is_the_equations_written_out():
    made, (state, told, rain, noise) = columns(substeps=2, held=1), given(number=1)
    rain = rain + 50.0
    said = []
    made.closure.register_forward_hook(lambda module, inputs, out: said.append(out.detach().double().numpy()[0]))
    with torch.no_grad():
        after, falls, supply = made.month(state, told, rain, noise)
    a, w = state[0].double().numpy()
    total = np.zeros(GRID)
    for part in said:
        padded = np.vstack([np.roll(a[:1], 6, 1), a, np.roll(a[-1:], 6, 1)])
        around = (np.roll(a, 1, 1) + np.roll(a, -1, 1) + padded[2:] + padded[:-2]) / 4
        a = np.exp(-0.25) * a + 0.5 * (1.5 * part[..., 0] + 0.1 * (around - a))
        w = np.exp(-0.5 * DAYS / RENEWAL) * w + 0.5 * WATER * part[..., 1]
        winds = 0.8 * part[..., 3]
        total += 0.5 * (0.8 * part[..., 2] + winds - (winds * AREAS).sum())
    np.testing.assert_allclose(after[0, 0], a, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after[0, 1], w, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(supply[0], total, rtol=1e-4, atol=1e-4)
    expected = rain[0].double().numpy() + total - (w - state[0, 1].double().numpy()) / DAYS
    np.testing.assert_allclose(falls[0], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("substeps", "held"), [(4, 1), (4, 2), (6, 6)])
def test_the_closure_is_asked_once_in_so_many_substeps(substeps, held):
    made = columns(substeps=substeps, held=held)
    made.month(*given())
    assert made.closure.calls == substeps // held


def test_without_memory_a_month_does_not_know_the_one_before():
    made = columns(memory=0.0)
    state, told, rain, noise = given()
    other = state.clone()
    other[:, 0] += 5.0
    with torch.no_grad():
        assert torch.equal(made.month(state, told, rain, noise)[0][:, 0], made.month(other, told, rain, noise)[0][:, 0])
        kept = columns()
        assert not torch.equal(
            kept.month(state, told, rain, noise)[0][:, 0], kept.month(other, told, rain, noise)[0][:, 0]
        )


def test_the_loss_of_two_realisations_is_the_fair_score():
    draws = np.random.default_rng(0)
    said, true = draws.normal(size=(2, 50)), draws.normal(size=50)
    expected = crps(said, true, fair=True)
    np.testing.assert_allclose(_crps(torch.tensor(said), torch.tensor(true)), expected, rtol=1e-12)


def test_training_finds_a_warm_bias_and_a_spread(climate):
    """A base that is two kelvin too cold, about a truth that varies by one."""
    archive, split, _ = climate

    class Cold(LinearEmulator):
        def predict_fields(self, scenario, start, stop):
            out = super().predict_fields(scenario, start, stop)
            out[:, 0] -= 2.0
            return out

    cold = Cold.fit(archive, split)
    found = ColumnClosureEmulator.fit(
        archive, split, (cold,), (), **{**SMALL, "rounds": 40, "memory": 0.3, "learning_rate": 1e-2}
    )
    s = archive[split.train[0].scenario]
    added = found.predict_fields(s, 24, 48)[:, 0] - cold.predict_fields(s, 24, 48)[:, 0]
    truth = s.truth(s.members[0], 24, 48)[:, 0] - cold.predict_fields(s, 24, 48)[:, 0]
    assert archive.grid.mean(added).mean() == pytest.approx(archive.grid.mean(truth).mean(), abs=0.7)
    assert archive.grid.mean(added).mean() > 1.0
    apart = found.member(1).predict_fields(s, 24, 48)[:, 0] - found.predict_fields(s, 24, 48)[:, 0]
    assert apart.std() > 0.2


def test_a_realisation_is_its_seed_and_number_whatever_is_asked(climate, trained):
    archive, _, _ = climate
    s = archive["ssp370"]
    whole = trained.predict_fields(s, 0, 40)
    np.testing.assert_array_equal(trained.predict_fields(s, 20, 30), whole[20:30])
    np.testing.assert_array_equal(trained.member(0).predict_fields(s, 20, 30), whole[20:30])
    assert np.abs(trained.member(1).predict_fields(s, 20, 30) - whole[20:30]).max() > 0
    assert trained.draws


def test_a_scenario_is_run_through_once_and_not_from_its_beginning_for_every_piece(climate, trained):
    """For every 60 months from the first on, a century takes nine times as long."""
    archive, _, _ = climate
    asked = trained.columns.closure.calls
    months = 130
    found = trained.predict(archive["ssp370"], stop=archive["ssp370"].time.text(months - 1), members=1)
    assert found.sizes["time"] == months
    assert trained.columns.closure.calls - asked == months


def test_what_is_saved_predicts_the_same_and_fits_are_repeated(climate, trained, tmp_path):
    archive, split, bases = climate
    trained.save(tmp_path / "emulator")
    again, s = load_emulator(tmp_path / "emulator"), archive["ssp126"]
    expected = trained.predict_fields(s, 100, 120)
    np.testing.assert_array_equal(again.predict_fields(s, 100, 120), expected)
    np.testing.assert_array_equal(again.member(3).predict_fields(s, 0, 5), trained.member(3).predict_fields(s, 0, 5))
    torch.randn(5)
    repeated = ColumnClosureEmulator.fit(archive, split, bases, (), **SMALL)
    np.testing.assert_array_equal(repeated.predict_fields(s, 100, 120), expected)


def test_noise_has_the_length_scales_it_is_said_to_have():
    fields = np.stack([noise_fields(np.random.default_rng(i), 4, (24, 48)) for i in range(40)])
    next_to = [float(np.corrcoef(f.ravel(), np.roll(f, 1, -1).ravel())[0, 1]) for f in fields.swapaxes(0, 1)]
    assert next_to == sorted(next_to, reverse=True)
    assert next_to[0] > 0.9
    assert abs(next_to[3]) < 0.05
    assert fields.std((0, 2, 3)) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"held": 3}, "held"),
        ({"substeps": 0}, "substeps"),
        ({"memory": -1.0}, "memory"),
        ({"diffusion": 9.0}, "diffusion(.|\\n)*from 0 to model.substeps, 4"),
        ({"noise": -1}, "noise"),
    ],
)
def test_values_out_of_their_ranges_are_refused(climate, options, match):
    archive, split, bases = climate
    with pytest.raises(RecipeError, match=match):
        ColumnClosureEmulator.fit(archive, split, bases, (), **options)


def test_spans_that_are_too_short_are_refused(climate):
    archive, split, bases = climate
    with pytest.raises(ProtocolError, match="rollout"):
        ColumnClosureEmulator.fit(archive, split, bases, (), **{**SMALL, "months": 5000})
