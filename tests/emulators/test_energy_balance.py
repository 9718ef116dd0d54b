"""An energy-balance emulator whose globe does not warm as its physics, or that does not survive being saved."""

from dataclasses import replace

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.data.time import TimeAxis
from emukit.emulators.energy_balance import EnergyBalanceEmulator
from emukit.emulators.features import check_feature, feature, forcing_of
from emukit.emulators.forced_balance import CORE, PARAMETERS, Forced
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.errors import ProtocolError, RecipeError
from emukit.physics.calibration import Calibration
from emukit.physics.energy_balance import ch4_forcing, co2_forcing
from emukit.recipes.load import load_recipe
from emukit.report.plot import draw
from emukit.report.plot_data import annual_budget, collect

# What the fit below should find: far from the prior's middle, within its spread.
TRUE = {
    "feedback": 0.8,
    "capacity": [7.5, 90.0],
    "exchange": [0.75],
    "efficacy": 1.1,
    "factors": [0.95, 1.7, 1.4],
    "level": 0.0,
    "rms": 0.0,
}


@pytest.fixture(scope="module")
def split(archive):
    return make_split(archive, "k360")


@pytest.fixture(scope="module")
def made(archive):
    """The demo's forcings, with temperatures that are a pattern times a known energy balance, and no weather."""
    truth = Forced.at(archive["ssp126"], archive.grid, ("CO2", "CH4", "SO2"), Calibration.of(TRUE))
    rng = np.random.default_rng(0)
    pattern = rng.uniform(0.5, 1.5, archive.grid.shape)
    pattern /= archive.grid.mean(pattern[None])[0]
    scenarios = {}
    for name, s in archive.items():
        warming = truth.course(s, archive.grid).surface.numpy()
        season = 5 * np.cos(2 * np.pi * s.calendar_month / 12)
        tas = 287 + season[:, None, None] + warming[:, None, None] * pattern
        targets = s.targets.copy()
        targets[:, :, 0] = tas
        targets[:, s.hidden] = 0
        scenarios[name] = replace(s, targets=targets)
    return replace(archive, scenarios=scenarios), truth, pattern


def test_a_known_energy_balance_is_found_and_extrapolated(made):
    """Trained without ssp585, whose warming is twice that of the others; nothing but the forcings is known of it."""
    archive, truth, pattern = made
    split = make_split(archive, "loso:ssp585")
    assert "ssp585" not in {s.scenario for s in split.train}
    emulator = EnergyBalanceEmulator.fit(archive, split, features=(), least_warming=None, smoothing=0.0)
    months = slice(split.test.start, split.test.stop)
    expected = truth.course(archive["ssp585"], archive.grid).surface.numpy()[months]
    predicted = emulator.predict_fields(archive["ssp585"], months.start, months.stop)[:, 0]
    globe = archive.grid.mean(predicted)
    season = 287 + 5 * np.cos(2 * np.pi * archive["ssp585"].calendar_month[months] / 12)
    assert np.abs(globe - season - expected).max() < 0.15
    assert expected.max() > 3
    cells = predicted.mean(0) - season.mean()
    np.testing.assert_allclose(
        cells / cells.mean(), (expected.mean() * pattern) / (expected.mean() * pattern).mean(), atol=0.05
    )


def test_the_globe_warms_as_the_energy_balance_does(archive, split):
    """With parameters that are given, the training months shape the pattern, and nothing of its global mean."""
    emulator = EnergyBalanceEmulator.fit(
        archive, split, calibration="given", feedback=2.5, features=(), least_warming=None
    )
    s = archive["ssp585"]
    globe = archive.grid.mean(emulator.predict_fields(s, 0, 1020)[:, 0]).reshape(85, 12).mean(1)
    core = emulator.series(CORE, s)[:1020].reshape(85, 12).mean(1)
    np.testing.assert_allclose(globe - globe[0], core - core[0], atol=2e-3)
    numbers = emulator.forced.calibration.numbers
    assert (numbers["feedback"], numbers["factors"]) == (2.5, [0.88, 1.65, 1.1])


def test_calibration_reads_training_months_alone(archive, split):
    scenarios = {}
    for name, s in archive.items():
        targets = s.targets.copy()
        held = [x for spans in split.scored.values() for x in spans if x.scenario == name]
        for span in held:
            targets[:, span.start : span.stop] += 50.0
        scenarios[name] = replace(s, targets=targets)
    changed = replace(archive, scenarios=scenarios)
    a, b = (EnergyBalanceEmulator.fit(x, split).forced.calibration.numbers for x in (archive, changed))
    assert a == b


def test_a_month_does_not_depend_on_which_are_asked_for_or_on_what_comes_later(archive, split):
    emulator = EnergyBalanceEmulator.fit(archive, split)
    s = archive["ssp370"]
    whole = emulator.predict_fields(s, 0, len(s))
    np.testing.assert_allclose(emulator.predict_fields(s, 300, 333), whole[300:333], atol=1e-5)
    later = {**s.forcings, "CO2": np.where(np.arange(len(s)) > 400, 1.2 * s.forcings["CO2"], s.forcings["CO2"])}
    np.testing.assert_allclose(emulator.predict_fields(replace(s, forcings=later), 300, 333), whole[300:333], atol=1e-5)


def test_what_is_saved_predicts_the_same(archive, split, tmp_path):
    emulator = EnergyBalanceEmulator.fit(archive, split, **load_recipe("energy-balance").options)
    emulator.save(tmp_path / "emulator")
    again = load_emulator(tmp_path / "emulator")
    assert isinstance(again, EnergyBalanceEmulator)
    s = archive["ssp245"]
    np.testing.assert_array_equal(again.predict_fields(s, 600, 660), emulator.predict_fields(s, 600, 660))


def test_kinds_that_are_left_out_do_not_act(archive, split):
    emulator = EnergyBalanceEmulator.fit(archive, split, methane=(), aerosol=(), features=(), least_warming=None)
    s = archive["ssp126"]
    terms = emulator.forced.forcing(s, archive.grid)
    assert terms[0].min() > 1.0
    np.testing.assert_array_equal(terms[1:], 0.0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"carbon": (), "methane": (), "aerosol": ()}, "nothing forces"),
        ({"carbon": ("CO2", "CH4")}, "several forcings"),
        ({"capacity": (7.0, 80.0, 90.0)}, "do not fit together"),
        ({"capacity": (), "exchange": ()}, "do not fit together"),
        ({"feedback": 0.0}, "model.feedback is out of range"),
        ({"capacity": (7.0, -1.0)}, "model.capacity is out of range"),
        ({"aerosol_forcing": float("inf")}, "model.aerosol_forcing is out of range"),
        ({"co2_start": 0.0}, "model.co2_start is out of range"),
        ({"features": ("SO2", "SO2")}, "twice"),
        ({"features": (CORE, "SO2")}, "always one"),
        ({"features": ()}, "bounds nothing"),
        ({"harmonics": 7}, "harmonics"),
        ({"ridge": -1.0}, "ridge"),
        ({"smoothing": 1.5}, "smoothing"),
        ({"strength": {"tas": {"warming": 2.0}}}, "has not"),
    ],
)
def test_options_out_of_range_are_refused_before_anything_is_fitted(archive, split, options, match):
    with pytest.raises(RecipeError, match=match):
        EnergyBalanceEmulator.check(archive, **options)


def test_a_forcing_that_is_no_emission_of_carbon_is_refused(archive, split):
    with pytest.raises(ProtocolError, match="no past of emissions"):
        EnergyBalanceEmulator.fit(archive, split, carbon=("CH4",), methane=())


def test_given_parameters_of_one_layer_work(archive, split):
    emulator = EnergyBalanceEmulator.fit(archive, split, capacity=(20.0,), exchange=())
    assert emulator.forced.calibration.balance.layers == 1
    assert np.isfinite(emulator.predict_fields(archive["ssp245"], 0, 12)).all()


def test_the_warming_is_a_feature_of_other_emulators(archive, split):
    """Two scenarios that end apart: what linear explains the global mean by is the default energy balance's warming."""
    s = archive["ssp585"]
    warming = feature(CORE, s, archive.grid)
    forced = Forced.at(s, archive.grid, ("CO2", "CH4", "SO2"), Calibration.of(PARAMETERS))
    np.testing.assert_array_equal(warming, forced.course(s, archive.grid).surface.numpy())
    assert warming[-1] - warming[0] > 1.5 > feature(CORE, archive["ssp126"], archive.grid)[-1] - warming[0]
    assert forcing_of(CORE) == ""
    emulator = LinearEmulator.fit(archive, split, features=(), warming=(CORE,), harmonics=0)
    globe = archive.grid.mean(emulator.predict_fields(s, 0, 1020)[:, 0]).reshape(85, 12).mean(1)
    core = warming[:1020].reshape(85, 12).mean(1)
    assert np.corrcoef(globe, core)[0, 1] > 1 - 1e-6


def test_the_feature_says_which_forcing_is_missing(archive):
    s = archive["ssp585"]
    bare = replace(s, forcings={k: v for k, v in s.forcings.items() if k != "CH4"})
    with pytest.raises(ProtocolError, match="forcing CH4 of the feature 'energy-balance'"):
        check_feature(CORE, bare, archive.grid)


def test_the_budget_that_is_drawn_closes(archive, split):
    """What forces and what is sent back add up to the net flux, which is what the layers take up."""
    emulator = EnergyBalanceEmulator.fit(archive, split)
    span = split.validation[0]
    shown = collect(emulator, archive, span)
    years, panels = annual_budget(shown)
    assert (len(years), years[0]) == (85, 2015.5)
    fluxes, warming = panels["W m-2"], panels["K"]
    assert set(fluxes) == {"CO2", "CH4", "SO2", "sent back", "net"}
    assert (fluxes["CO2"] > 0).all()
    assert (fluxes["SO2"] < 0).all()
    np.testing.assert_allclose(sum(v for n, v in fluxes.items() if n != "net"), fluxes["net"], atol=1e-12)
    capacity = emulator.forced.calibration.balance.capacity.numpy()
    heat = capacity[0] * warming["surface"] + capacity[1] * warming["layer 2"]
    # A year's mean to the next one's: half of the flux of each.
    np.testing.assert_allclose(np.diff(heat), (fluxes["net"][1:] + fluxes["net"][:-1]) / 2, atol=0.02)
    axes = draw(shown, "title")[0]["budget"].axes
    assert [line.get_label() for line in axes[0].get_lines()[1:]] == list(fluxes)
    np.testing.assert_array_equal(axes[1].get_lines()[1].get_ydata(), warming["surface"])


def test_an_emulator_without_an_energy_balance_has_no_budget(archive, split):
    shown = collect(LinearEmulator.fit(archive, split), archive, split.validation[0])
    assert len(annual_budget(shown)[0]) == 0
    assert "budget" not in draw(shown, "title")[0]


def test_a_beginning_whose_air_is_not_known_is_refused(archive, split):
    """The concentrations of 2015 in a scenario of another year would be a warming of its own."""
    emulator = EnergyBalanceEmulator.fit(archive, split)
    s = archive["ssp245"]
    earlier = replace(s, time=TimeAxis("month", s.time.first - 120, len(s)))
    with pytest.raises(ProtocolError, match="is not known"):
        emulator.predict_fields(earlier, 0, 12)
    with pytest.raises(ProtocolError, match="is not known"):
        feature(CORE, earlier, archive.grid)
    moved = replace(archive, scenarios={n: replace(x, time=earlier.time) for n, x in archive.items()})
    with pytest.raises(RecipeError, match="in the air in 2005"):
        EnergyBalanceEmulator.fit(moved, split)
    known = EnergyBalanceEmulator.fit(moved, split, co2_start=379.0, ch4_start=1774.0)
    assert np.isfinite(known.predict_fields(moved["ssp245"], 0, 12)).all()
    terms = known.forced.forcing(moved["ssp245"], archive.grid)[:, 0]
    assert terms[0] == pytest.approx(co2_forcing(np.array(379.0)), rel=1e-9)
    assert terms[1] == ch4_forcing(np.array(1774.0))


def test_years_are_known_as_well_as_months(archive, split):
    """The demo's years: the same globe as of its months, within what a step of a year loses."""
    scenarios = {}
    for name, s in archive.items():
        year = {k: v[:1020].reshape(85, 12, *v.shape[1:]).mean(1) for k, v in s.forcings.items()}
        targets = s.targets[:, :1020].reshape(len(s.members), 85, 12, *s.targets.shape[2:]).mean(2)
        hidden = s.hidden[:1020].reshape(85, 12).any(1)
        scenarios[name] = replace(s, time=TimeAxis("year", 2015, 85), forcings=year, targets=targets, hidden=hidden)
    yearly = replace(archive, scenarios=scenarios)
    train = tuple(replace(x, start=x.start // 12, stop=x.stop // 12) for x in split.train)
    options = {"features": (), "least_warming": None}
    of_years = EnergyBalanceEmulator.fit(yearly, replace(split, train=train), **options)
    of_months = EnergyBalanceEmulator.fit(archive, split, **options)
    a = archive.grid.mean(of_years.predict_fields(yearly["ssp585"], 0, 85)[:, 0])
    b = archive.grid.mean(of_months.predict_fields(archive["ssp585"], 0, 1020)[:, 0]).reshape(85, 12).mean(1)
    np.testing.assert_allclose(a, b, atol=0.05)
