"""Published baselines that are not what was published: another shift, another line, days of other years."""

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from emukit.data.opening import open_data
from emukit.data.split import Span, Split
from emukit.emulators.climx_baselines import (
    ClimxClimatology,
    ClimxPatternScaling,
    daily_series,
    spline_of_months,
)
from emukit.errors import ProtocolError
from tests.coded import warming_archive


@pytest.fixture(scope="module")
def archive(climx_folder):
    return open_data(str(climx_folder[0]))


@pytest.fixture(scope="module")
def split(archive):
    spans = {n: Span(n, 0, len(archive[n]), (0,)) for n in ("historical", "ssp126", "ssp370", "ssp585")}
    train = (spans["historical"], spans["ssp126"], spans["ssp585"])
    return Split("own", train, {"validation": (spans["ssp370"],)})


def monthly_means(archive, values):
    month = archive["historical"].time.month
    return np.stack([values[month == m].mean(0, dtype=np.float64) for m in range(12)])


def test_means_lie_on_the_first_day_or_in_the_middle_of_their_months():
    first, middle = spline_of_months("first"), spline_of_months("middle")
    np.testing.assert_allclose(first[0], np.eye(12)[0], atol=1e-12)
    np.testing.assert_allclose(first[181], np.eye(12)[6], atol=1e-12)  # 1 July
    np.testing.assert_allclose(middle[15], np.eye(12)[0], atol=1e-12)  # 16 January, of 31 days
    np.testing.assert_allclose(first.sum(1), 1, atol=1e-12)
    # A wave of a year, through its means on the first of each month, comes half a month early.
    wave = np.cos(2 * np.pi * (np.arange(12) + 0.5) / 12)
    assert np.argmin(first @ wave) == pytest.approx(np.argmin(middle @ wave) - 15, abs=1.5)
    # December goes over into January without a step.
    assert abs((first @ wave)[0] - (first @ wave)[-1]) < 0.02


def test_climatology_is_that_of_the_historical_run_alone(archive, split):
    fitted = ClimxClimatology.fit(archive, split)
    means = monthly_means(archive, archive["historical"].truth(0, 0, len(archive["historical"])))
    starts = np.cumsum([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
    plain = CubicSpline(starts, np.concatenate([means, means[:1]]), bc_type="periodic")(np.arange(365))
    said = fitted.predict_fields(archive["ssp245"], 200, 900)
    np.testing.assert_allclose(said[:, :3], plain[(200 + np.arange(700)) % 365][:, :3], rtol=1e-6)
    again = ClimxClimatology.from_state(archive.domain, *fitted.state())
    np.testing.assert_array_equal(again.predict_fields(archive["ssp245"], 200, 900), said)
    assert (said[:, 3] >= 0).all()


def test_pattern_scaling_is_two_straight_lines_in_every_cell(archive, split):
    """A plain fit by numpy in one cell, of a temperature and of rain in its logarithm."""
    fitted = ClimxPatternScaling.fit(archive, split, knots="middle")
    names, cell = archive.variables, (2, 3)
    shares = spline_of_months("middle")
    hist = archive["historical"].truth(0, 0, len(archive["historical"]))

    def space(v, x):
        return np.log10(np.maximum(x, 0).astype(np.float64) + 1e-6) if v in ("pr", "huss") else x.astype(np.float64)

    tas = names.index("tas")
    normal = shares @ monthly_means(archive, hist[:, tas]).reshape(12, -1)
    warm, co2 = [], []
    for name in ("ssp126", "ssp585"):
        scenario = archive[name]
        departure = scenario.truth(0, 0, len(scenario))[:, tas].reshape(len(scenario), -1)
        departure = departure - normal[scenario.time.day_of_year]
        warm.append(archive.grid.mean(departure.reshape(-1, *archive.grid.shape)))
        co2.append(daily_series(scenario, "CO2_LBC"))
    warm, co2 = np.concatenate(warm), np.concatenate(co2)
    steep, level = np.polyfit(co2, warm, 1)
    target = archive["ssp370"]
    said = fitted.predict_fields(target, 0, 800)
    expected = level + steep * daily_series(target, "CO2_LBC")[:800]
    for v in ("tasmax", "pr"):
        i = names.index(v)
        own = shares @ monthly_means(archive, space(v, hist[:, i, *cell]))
        days = [archive[n].truth(0, 0, len(archive[n]))[:, i, *cell] for n in ("ssp126", "ssp585")]
        day = np.concatenate([archive[n].time.day_of_year for n in ("ssp126", "ssp585")])
        b, a = np.polyfit(warm, space(v, np.concatenate(days)) - own[day], 1)
        wanted = own[target.time.day_of_year[:800]] + a + b * expected
        wanted = np.maximum(10**wanted - 1e-6, 0) if v == "pr" else wanted
        np.testing.assert_allclose(said[:, i, *cell], wanted, rtol=2e-5, atol=1e-11, err_msg=v)
    again = ClimxPatternScaling.from_state(archive.domain, *fitted.state())
    np.testing.assert_array_equal(again.predict_fields(target, 300, 500), said[300:500])


def test_yearly_series_is_interpolated_and_goes_on_at_both_ends(archive):
    scenario = archive["ssp585"]
    series = daily_series(scenario, "CO2_LBC")
    yearly = scenario.forcings["CO2_LBC"][::365]
    assert series[182] == pytest.approx(yearly[0])
    assert series[365 + 182] == pytest.approx(yearly[1])
    np.testing.assert_allclose(np.diff(series[:540]), (yearly[1] - yearly[0]) / 365)
    np.testing.assert_allclose(np.diff(series[560:]), (yearly[2] - yearly[1]) / 365)


def test_other_steps_and_splits_without_a_historical_run_are_refused(archive, split):
    months = warming_archive(months=121)
    for kind in (ClimxClimatology, ClimxPatternScaling):
        with pytest.raises(ProtocolError, match="days of years"):
            kind.check(months, forcing="CO2_LBC")
        with pytest.raises(ProtocolError, match="historical run, no day of which trains"):
            kind.fit(archive, Split("own", split.train[1:], {}))
    with pytest.raises(ProtocolError, match="scenarios after the historical run"):
        ClimxPatternScaling.fit(archive, Split("own", split.train[:1], {}))
    with pytest.raises(ProtocolError, match="CO9"):
        ClimxPatternScaling.fit(archive, split, forcing="CO9")
