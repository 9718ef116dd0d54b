"""Emulators that lose the season of a day, the time of an hour, or a whole year, where steps are not months."""

import itertools
import tomllib

import numpy as np
import pytest
import torch

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive, Scenario
from emukit.data.card import parse_card
from emukit.data.frames import FrameEncoder, InputSettings, Window
from emukit.data.protocol import make_split
from emukit.data.split import Span
from emukit.data.store import archive_from_dataset
from emukit.data.targets import TargetNormalizer, TargetSettings
from emukit.data.time import TimeAxis
from emukit.emulators import linear
from emukit.emulators.climatology import AnnualCycle, ClimatologyEmulator
from emukit.emulators.features import ForcingSpace, feature
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import EMULATORS, load_emulator
from emukit.emulators.variability import _neighbours
from emukit.emulators.variance_matched import VarianceMatched, trend
from emukit.errors import ProtocolError, RecipeError
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import train_run
from emukit.studies.bootstrap import year_moments, years_in
from tests.coded import small_grid
from tests.other_steps import card_text, even_dataset, yearly_dataset

FEATURES = ("CO2",)


def opened(step: str, ds, scored: int) -> Archive:
    names = [str(s) for s in ds.ssp.values]
    return archive_from_dataset(ds, source=step, card=parse_card(tomllib.loads(card_text(step, names, scored)), step))


@pytest.fixture(scope="module")
def years() -> Archive:
    return opened("year", yearly_dataset(), 10)


@pytest.fixture(scope="module")
def days() -> Archive:
    return opened("day", even_dataset(24, 365 * 4), 100)


@pytest.fixture(scope="module")
def hours() -> Archive:
    return opened("6h", even_dataset(6, 2920, "standard"), 100)


def plain_cycle(time: TimeAxis, means: np.ndarray) -> np.ndarray:
    """(T,) piecewise linear through the middles of noleap months, found by asking for the means by least squares."""
    lengths = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
    middle = np.cumsum(lengths) - lengths / 2
    noon = np.arange(365) + 0.5

    def curve(knots):
        return np.interp(noon, [middle[-1] - 365, *middle, middle[0] + 365], [knots[-1], *knots, knots[0]])

    edges = np.cumsum([0, *lengths])
    table = np.array([[curve(k)[a:b].mean() for k in np.eye(12)] for a, b in itertools.pairwise(edges)])
    return curve(np.linalg.lstsq(table, means, rcond=None)[0])[time.day_of_year]


def test_days_follow_the_year_and_keep_the_means_of_months():
    time = TimeAxis("day", 2015 * 365 * 1440, 730, "noleap")
    means = 10 * np.cos(2 * np.pi * (np.arange(12) + 0.5) / 12) + np.arange(12) % 3
    cycle = AnnualCycle.of(time, 0, 730)
    found = cycle.at(cycle.knots(means[:, None]))[:, 0]
    np.testing.assert_allclose(found, plain_cycle(time, means), atol=1e-9)
    np.testing.assert_allclose([found[time.month == m].mean() for m in range(12)], means, atol=1e-9)
    assert np.abs(np.diff(found)).max() < 0.5  # a month's mean instead of it would step by 5


def test_hours_follow_the_year_each_on_its_own():
    time = TimeAxis("6h", 2015 * 365 * 1440, 1460, "noleap")
    means = np.arange(12)[:, None] % 4 + 10.0 * np.arange(4)
    cycle = AnnualCycle.of(time, 0, 1460)
    found = cycle.at(cycle.knots(means.reshape(48, 1)))[:, 0]
    day = TimeAxis("day", 2015 * 365 * 1440, 365, "noleap")
    for h in range(4):
        np.testing.assert_allclose(found[time.step_of_day == h], plain_cycle(day, means[:, h]), atol=1e-9)


def test_climatology_of_hours_is_the_mean_of_month_and_time_of_the_day(hours):
    split = make_split(hours)
    said = ClimatologyEmulator.fit(hours, split).predict_fields(hours["ssp126"], 0, 1460)
    time = hours["ssp126"].time[:1460]
    for month, step in ((0, 0), (3, 2), (7, 1)):
        parts = [
            s.truth(0, 0, stop)[(s.time.month[:stop] == month) & (s.time.step_of_day[:stop] == step)]
            for s, stop in ((hours["ssp126"], 2920), (hours["ssp585"], split.train[-1].stop))
        ]
        own = (time.month == month) & (time.step_of_day == step)
        np.testing.assert_allclose(said[own].mean(0), np.concatenate(parts).mean(0), atol=2e-4)
    # The sun stands over other longitudes six hours later.
    tas = said[:, 0].mean(1)
    assert np.corrcoef(tas[0] - tas[:4].mean(0), tas[2] - tas[:4].mean(0))[0, 1] < -0.9


def test_a_record_of_less_than_a_year_has_the_nearest_month_for_the_others():
    archive = opened("6h", even_dataset(6, 4 * 90), 20)
    climate = ClimatologyEmulator.fit(archive, make_split(archive))
    elsewhere = Scenario("later", TimeAxis("6h", 2015 * 365 * 1440, 1460, "noleap"), archive["ssp126"].forcings)
    fields = climate.predict_fields(elsewhere, 0, 1460)
    may, july = (fields[elsewhere.time.month == m].reshape(-1, 4, *fields.shape[1:]).mean(0) for m in (4, 6))
    assert np.isfinite(fields).all()
    # Between March, which is there, and the January after: never beyond what both are.
    assert np.abs(july - may)[:, 0].max() < 5.0


@pytest.mark.parametrize("step", ["years", "days", "hours"])
def test_linear_finds_the_warming_and_the_season(step, request):
    archive = request.getfixturevalue(step)
    split = make_split(archive)
    emulator = LinearEmulator.fit(archive, split, features=FEATURES, ridge=1e-3)
    span = split.validation[0]
    scenario = archive[span.scenario]
    left = scenario.truth(0, span.start, span.stop) - emulator.predict_fields(scenario, span.start, span.stop)
    # Noise of 0.3 K is all that is left; steps of months within the year would leave 0.7 K.
    assert 0.27 < left[:, 0].std() < 0.33
    assert abs(left[:, 0].mean()) < 0.06
    lat = np.abs(np.sin(np.deg2rad(archive.grid.lat)))
    z = emulator._scale[0]
    warming = emulator._response[:, 0, 0].mean(0).mean(1) / z * 1000.0
    np.testing.assert_allclose(warming, 1.0 + 0.5 * lat, rtol=0.3 if step != "years" else 0.05)


def test_linear_of_years_is_ridge_in_its_features(years):
    split = make_split(years)
    emulator = LinearEmulator.fit(years, split, features=("CO2",), ridge=10.0)
    rows = [(years[s.scenario].forcings["CO2"][s.start : s.stop],
             np.mean([years[s.scenario].truth(m, s.start, s.stop)[:, 0, 1, 2] for m in s.members], 0, np.float64),
             np.full(len(s), float(len(s.members)))) for s in split.train]  # fmt: skip
    x, y, w = (np.concatenate(part) for part in zip(*rows, strict=True))
    center = np.average(x, weights=w)
    z = (x - center) / np.sqrt(np.average((x - center) ** 2, weights=w))
    mean = np.average(y, weights=w)
    slope = (w * z * (y - mean)).sum() / ((w * z * z).sum() + 10.0)
    np.testing.assert_allclose(emulator._response[0, 0, 0, 1, 2], slope, rtol=1e-4)
    np.testing.assert_allclose(emulator._intercept[0, 0, 1, 2], mean, rtol=1e-6)


def test_memory_of_years_is_as_long_whatever_the_step(years, days):
    scenario = years["historical"]
    x, out = scenario.forcings["CO2"], []
    for value in x:
        out.append(value if not out else out[-1] + (value - out[-1]) / 10.0)
    np.testing.assert_allclose(feature("CO2~10", scenario, years.grid), out)
    daily = feature("CO2~1", days["ssp585"], days.grid)
    lag = days["ssp585"].forcings["CO2"][-1] - daily[-1]
    rate = np.diff(days["ssp585"].forcings["CO2"])[0] * 365
    assert lag == pytest.approx(rate * (1 - np.exp(-4)), rel=0.01)


def test_options_of_a_season_are_refused_where_there_is_none(years, days):
    with pytest.raises(RecipeError, match=r"model\.harmonics would do nothing"):
        LinearEmulator.fit(years, make_split(years), features=FEATURES, harmonics=1)
    with pytest.raises(RecipeError, match=r"model\.season = 'month' needs steps of a month"):
        LinearEmulator.fit(days, make_split(days), features=FEATURES, season="month")


@pytest.mark.parametrize("step", ["years", "days"])
def test_variance_of_a_run_is_matched_whatever_the_step(step, request):
    archive = request.getfixturevalue(step)
    split = make_split(archive)
    base = LinearEmulator.fit(archive, split, features=FEATURES, ridge=1e-3)
    matched = VarianceMatched.fit(archive, split, (base,), ())
    scenario, span = archive["ssp585"], split.validation[0]
    whole = [e.predict_fields(scenario, 0, len(scenario))[:, 1].std(0) for e in (base, matched)]
    true = scenario.truth(0, 0, len(scenario))[:, 1].std(0)
    # Precipitation hardly changes: nearly all of its variance is a run's own.
    assert whole[0].mean() < 0.5 * true.mean()
    assert whole[1].mean() == pytest.approx(true.mean(), rel=0.1)
    part = matched.predict_fields(scenario, span.start, span.stop)
    np.testing.assert_array_equal(part, matched.predict_fields(scenario, 0, len(scenario))[span.start : span.stop])


def test_classical_emulators_work_on_years_and_refuse_days_by_name(years, days):
    eof = EMULATORS["eof-regression"].load()
    eof.check_steps(years)
    emulator = eof.fit(years, make_split(years), features=("CO2",), components=2)
    future = years["ssp585"]
    left = future.truth(0, 20, 40) - emulator.predict_fields(future, 20, 40)
    assert abs(left[:, 0].mean()) < 0.15
    with pytest.raises(ProtocolError, match="eof-regression does not know days") as refused:
        eof.check_steps(days)
    assert refused.value.expected == "months or years"


@pytest.mark.parametrize("name", ["kriging", "additive-gp", "residual-correction", "best-sampled", "best-fast"])
def test_what_knows_months_alone_refuses_years_before_it_trains(years, tmp_path, name):
    recipe = load_recipe(name, None, ())
    with pytest.raises(ProtocolError, match="does not know years"):
        train_run(years, recipe, tmp_path / name, reporter=Reporter(quiet=True))
    assert not (tmp_path / name / "emulator").exists()


@pytest.mark.parametrize("step", ["years", "days", "hours"])
def test_a_saved_emulator_predicts_the_same_on_its_own_steps_alone(step, request, tmp_path):
    archive = request.getfixturevalue(step)
    other = request.getfixturevalue("days" if step == "years" else "years")
    emulator = LinearEmulator.fit(archive, make_split(archive), features=FEATURES)
    emulator.save(tmp_path / "e")
    again = load_emulator(tmp_path / "e")
    scenario = archive["ssp585"]
    said = again.predict(scenario)
    np.testing.assert_array_equal(said.tas.values, emulator.predict(scenario).tas.values)
    assert said.time.values[0] == scenario.time.cf_time()[0]
    with pytest.raises(ProtocolError, match="are not those of the training"):
        again.predict(other["ssp585"])


def test_a_scenario_that_follows_another_may_be_predicted_and_a_later_one_not(years):
    emulator = LinearEmulator.fit(years, make_split(years), features=("CO2~10",))
    assert len(emulator.predict(years["historical"]).time) == 65
    assert len(emulator.predict(years["ssp585"], start="2020", stop="2029").time) == 10
    late = years["ssp585"]
    late = Scenario("late", late.time[5:], {k: v[5:] for k, v in late.forcings.items()})
    with pytest.raises(ProtocolError, match="begin too late"):
        emulator.predict(late)


def inputs(**settings) -> InputSettings:
    return InputSettings(forcings=("CO2", "SO2"), **settings)


def test_frames_of_days_tell_the_day_of_the_year(days):
    encoder = FrameEncoder.fit(days, make_split(days).train, inputs(seasonal=("month", "published")))
    frames = encoder.gather(encoder.encode(days["ssp126"]), torch.arange(400)).numpy()
    angle = 2 * np.pi * (np.arange(400) % 365) / 365
    sine = frames[:, encoder.channels.index("sin_month")]
    np.testing.assert_allclose(sine, np.broadcast_to(np.sin(angle)[:, None, None], sine.shape), atol=1e-6)
    lat = np.deg2rad(days.grid.lat)
    season = frames[:, encoder.channels.index("published_season"), :, 0]
    np.testing.assert_allclose(season, np.cos(angle)[:, None] * np.sign(lat) * np.cos(lat), atol=1e-6)


def test_frames_of_hours_tell_the_suns_hour_unless_another_is_named(hours):
    train = make_split(hours).train
    encoder = FrameEncoder.fit(hours, train, inputs(seasonal=("month",)))
    assert encoder.channels[2:6] == ("sin_month", "cos_month", "sin_local_hour", "cos_local_hour")
    frames = encoder.gather(encoder.encode(hours["ssp126"]), torch.arange(8)).numpy()
    local = 2 * np.pi * (np.arange(8)[:, None] / 4 + hours.grid.lon / 360)
    np.testing.assert_allclose(frames[:, 5, 0], np.cos(local), atol=1e-6)
    np.testing.assert_allclose(frames[:, 4, 3], np.sin(local), atol=1e-6)
    greenwich = FrameEncoder.fit(hours, train, inputs(seasonal=("month", "hour")))
    assert greenwich.channels[2:6] == ("sin_month", "cos_month", "sin_hour", "cos_hour")
    saved = FrameEncoder.from_state(*encoder.state(), hours.grid)
    assert saved.channels == encoder.channels


def test_encodings_that_would_tell_nothing_are_left_out_or_refused(years, days):
    encoder = FrameEncoder.fit(years, make_split(years).train, inputs())
    assert encoder.channels == ("SO2", "CO2", "sin_lat", "cos_lat", "sin_lon", "cos_lon")
    with pytest.raises(RecipeError, match="needs steps shorter than a day"):
        FrameEncoder.fit(days, make_split(days).train, inputs(seasonal=("local-hour",)))


@pytest.mark.parametrize("step", ["years", "days", "hours"])
def test_frames_in_a_row_are_the_frames_one_by_one(step, request):
    archive = request.getfixturevalue(step)
    encoder = FrameEncoder.fit(archive, make_split(archive).train, inputs())
    encoded = encoder.encode(archive["ssp585"])
    one_by_one = encoder.gather(encoded, torch.arange(7, 30))
    torch.testing.assert_close(encoder.gather_run(encoded, 7, torch.empty_like(one_by_one)), one_by_one, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("step", "length", "seen"),
    [("day", 800, 364), ("6h", 3000, 1459), ("6h", 100, 3), ("year", 50, 0), ("day", 100, 0), ("month", 50, 11)],
)
def test_before_the_first_step_stands_the_first_year_or_day_again(step, length, seen):
    time = TimeAxis(step, 540 if step in ("month", "year") else 2015 * 365 * 1440, length, "noleap")
    assert Window(history=3).frames(0, 2, length, time)[1:].tolist() == [seen, 0, 1]


@pytest.mark.parametrize("step", ["years", "days", "hours"])
def test_targets_are_normalised_by_season_and_back(step, request):
    archive = request.getfixturevalue(step)
    span = Span("ssp585", 0, len(archive["ssp585"]) - 20, (0,))
    normalizer = TargetNormalizer.fit(
        archive, [span], {"tas": TargetSettings(climatology="cell-month", scale="cell-month")}
    )
    fields, time = archive["ssp585"].truth(0, 0, len(span)), archive["ssp585"].time
    season = time.season[: len(span)]
    normal = normalizer.forward(fields, season)
    np.testing.assert_allclose(normalizer.inverse(normal, season), fields, rtol=1e-5)
    for group in np.unique(season):
        assert np.abs(normal[season == group, 0].mean(0)).max() < 2e-3
        assert normal[season == group, 0].std(0) == pytest.approx(np.ones(archive.grid.shape), abs=2e-3)


def test_long_records_are_normalised_as_short_ones_are(days):
    normalizer = TargetNormalizer.fit(days, [Span("ssp126", 0, 1460, (0,))], {})
    fields = np.tile(days["ssp126"].truth(0, 0, 730), (4, 1, 1, 1))
    season = np.tile(days["ssp126"].time.season[:730], 4)
    whole = normalizer.forward(fields, season)
    np.testing.assert_array_equal(whole[730:1460], whole[:730])
    np.testing.assert_array_equal(whole[2190:], normalizer.forward(fields[2190:], season[2190:]))


def test_a_split_of_days_counts_days():
    grid = small_grid()
    time = TimeAxis("day", 2015 * 365 * 1440, 730, "noleap")
    fields = np.ones((1, 730, 2, *grid.shape), np.float32)
    card = parse_card(tomllib.loads(card_text("day", ["ssp126", "ssp585"], 100)), "c")
    scenarios = {
        n: Scenario(n, time, {"CO2": np.arange(730.0)}, (0,), fields, np.zeros(730, bool)) for n in ("ssp126", "ssp585")
    }
    archive = Archive(card, "s", grid, ("tas", "pr"), scenarios)
    split = make_split(archive)
    assert split.validation[0].text(archive) == "ssp585 2016-06-15..2016-09-22 member 0"
    assert make_split(archive, "loso:ssp126").test.text(archive) == "ssp126 2016-09-23..2016-12-31 member 0"


def test_a_logistic_ramp_stands_at_its_year_whatever_the_step(years, days):
    yearly = feature("step:2035:10", years["ssp585"], years.grid)
    assert yearly[20] == pytest.approx(0.5)
    assert yearly[25] == pytest.approx(1 / (1 + np.exp(-2.0)))
    daily = feature("step:2017:2", days["ssp126"], days.grid)
    assert daily[730] == pytest.approx(0.5)
    assert daily[730 + 365] == pytest.approx(1 / (1 + np.exp(-2.0)))


def test_training_years_are_years_whatever_the_step(years, days):
    for archive, number in ((years, 65 + 20), (days, 4 + 3)):
        train = make_split(archive).train
        space = ForcingSpace.of_training(archive, train, ("CO2",))
        assert len(space.points) == number
        last = train[-1]
        year = archive.time.per_year
        series = archive[last.scenario].forcings["CO2"][last.stop - year : last.stop].mean()
        np.testing.assert_allclose(space.points[-1], (series - space.center) / space.scale)
        assert (
            space.farthest(archive["ssp585"], archive.grid, 0, len(archive["ssp585"]))[1] % year
            == (len(archive["ssp585"]) - 1) % year
        )


def test_cells_of_long_records_are_fitted_in_parts_as_together(days, monkeypatch):
    split = make_split(days)
    whole = LinearEmulator.fit(days, split, features=FEATURES)
    monkeypatch.setattr(linear, "BLOCK_VALUES", 50_000)
    parts = LinearEmulator.fit(days, split, features=FEATURES)
    np.testing.assert_allclose(parts._intercept, whole._intercept, rtol=1e-6)
    np.testing.assert_allclose(parts._response, whole._response, rtol=1e-4, atol=1e-6)


def test_neighbours_of_a_season_are_months_at_the_same_time_of_the_day():
    seasons = np.arange(48.0)
    found = _neighbours(seasons)
    assert found[9] == 9 + 5 + 13
    assert found[1] == 1 + 5 + 45
    assert _neighbours(np.arange(12.0))[3] == 3 + 2 + 4


@pytest.mark.parametrize("step", ["years", "days"])
def test_sums_of_the_bootstrap_are_of_years(step, request):
    archive = request.getfixturevalue(step)
    emulator = ClimatologyEmulator.fit(archive, make_split(archive))
    span = Span("ssp585", 0, 2 * archive.time.per_year + archive.time.per_year // 3, (0,))
    (sums,) = year_moments(emulator, archive, [span], competition_of(archive))
    assert len(sums) == years_in(span, archive) == 2
    year = archive.time.per_year
    np.testing.assert_array_equal(sums[:, 0].mean((1, 2, 3)), [year, len(span) - year])
    truth = archive["ssp585"].truth(0, 0, year).sum(0, dtype=np.float64)
    np.testing.assert_allclose(sums[0, 2], truth, rtol=1e-6)


def test_trend_of_days_is_that_of_whole_years():
    t = np.arange(3 * 365 + 100.0)
    season = 10 * np.sin(2 * np.pi * t / 365)
    line = trend((0.01 * t + season)[:, None], 365)[:, 0]
    np.testing.assert_allclose(np.diff(line), 0.01, atol=1e-9)
