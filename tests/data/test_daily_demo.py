"""The generated daily climate: its noise, its response, and the files it is written to."""

from __future__ import annotations

import math

import netCDF4
import numpy as np
import pytest

from emukit.data.daily import DAYS
from emukit.data.demo import daily
from emukit.data.demo.climx import TRUTH, write_climx_demo
from emukit.data.demo.daily import AEROSOLS, GASES, NOISES, VARIABLES, DailyClimate, forcing
from emukit.data.demo.planet import EARTH_RADIUS_KM
from emukit.data.demo.response import make_climate, region_shares
from emukit.data.demo.weather import DailyWeather, NoiseField, wave_factors
from emukit.data.grid import Grid
from emukit.errors import EmukitError, ProtocolError
from emukit.progress import silent_reporter

QUIET = silent_reporter()


@pytest.fixture(scope="module")
def lite():
    return DailyClimate()


# --- noise


@pytest.mark.parametrize("columns", [7, 8])
def test_neighbours_that_are_not_correlated_by_their_distance_on_the_sphere(columns):
    """From pole to pole and across the dateline; the factors multiplied out, wave by wave, with no sample drawn."""
    grid = Grid(np.linspace(-90.0, 90.0, 6), np.arange(columns) * 360.0 / columns)
    lengths = (900.0, 2500.0)
    factors = wave_factors(grid, lengths).astype(np.float64)
    got = np.zeros((6, 6, columns))
    for shift in range(columns):
        for wave in range(columns):
            # Waves beyond the half are the mirror of those below it.
            square = factors[min(wave, columns - wave)] @ factors[min(wave, columns - wave)].T
            got[:, :, shift] += square * math.cos(2 * math.pi * wave * shift / columns) / columns
    for j, k, shift in np.ndindex(6, 6, columns):
        a, b, difference = math.radians(grid.lat[j]), math.radians(grid.lat[k]), 2 * math.pi * shift / columns
        cosine = math.sin(a) * math.sin(b) + math.cos(a) * math.cos(b) * math.cos(difference)
        squared = 2 * max(1 - cosine, 0) * EARTH_RADIUS_KM**2
        expected = sum(math.exp(-squared / (2 * length**2)) for length in lengths) / 2
        assert got[j, k, shift] == pytest.approx(expected, abs=2e-5)


def test_noise_that_forgets_or_swells_from_day_to_day():
    grid = Grid(np.linspace(-60.0, 60.0, 3), np.arange(4) * 90.0)
    memory = np.linspace(0.1, 0.9, 12).reshape(3, 4)
    noises = [NoiseField((1000.0,), memory)] * 3000
    drawn = DailyWeather(np.random.default_rng(0), grid, noises).draw(4).astype(np.float64)
    for day in range(4):
        np.testing.assert_allclose(drawn[:, day].var(0), 1, atol=0.12)
    np.testing.assert_allclose((drawn[:, 3] * drawn[:, 2]).mean(0), memory, atol=0.08)
    np.testing.assert_allclose((drawn[:, 3] * drawn[:, 1]).mean(0), memory**2, atol=0.08)


def test_days_that_depend_on_how_many_are_drawn_at_once():
    grid = Grid(np.linspace(-60.0, 60.0, 4), np.arange(6) * 60.0)
    noises = [NoiseField((1000.0,), 0.7), NoiseField((3000.0, 500.0), 0.2)]
    whole = DailyWeather(np.random.default_rng(3), grid, noises).draw(7)
    parts = DailyWeather(np.random.default_rng(3), grid, noises)
    np.testing.assert_allclose(np.concatenate([parts.draw(n) for n in (1, 4, 2)], axis=1), whole, atol=1e-5)


# --- forced response


def test_forcing_and_warming_are_the_formulas_in_the_docstring():
    """Plain numbers for July of anchor years, where nothing is interpolated but the region's shares."""
    n2o = 328 + (422 - 328) * 35 / 85
    cfc11, cfc12 = 0.81 + (1.00 - 0.81) * 35 / 85, 0.52 + (0.19 - 0.52) * 35 / 85
    by_hand = (
        5.35 * math.log(541 / 284)
        + 0.036 * (math.sqrt(2472) - math.sqrt(808))
        + 0.12 * (math.sqrt(n2o) - math.sqrt(273))
        + 0.25 * cfc11
        + 0.32 * cfc12
        - 0.010 * (99.8 - 4.5)
        + 0.020 * (10.95 - 2.6)
    )
    assert DailyClimate().gas("CO2_LBC", "ssp370")[35] == pytest.approx(541e-6)
    assert DailyClimate().gas("CH4_LBC", "historical")[0] == pytest.approx(808e-9)
    assert forcing("ssp370", np.array([2050.5]))[0] == pytest.approx(by_hand, rel=1e-12)

    months = 1850 + (np.arange(251 * 12) + 0.5) / 12
    force = forcing("ssp370", months)
    boxes = np.zeros((len(months), 2))
    for t in range(1, len(months)):
        for i, (gain, years) in enumerate(((0.42, 4.0), (0.60, 220.0))):
            keep = math.exp(-1 / (12 * years))
            boxes[t, i] = keep * boxes[t - 1, i] + (1 - keep) * gain * force[t]
    at = np.array([1900, 2015, 2080]) - 1850
    expected = boxes[at * 12] - boxes[165 * 12]
    np.testing.assert_allclose(DailyClimate().warming("ssp370", months[at * 12]), expected, atol=1e-12)


def test_scenarios_that_differ_before_they_begin_or_not_afterwards(lite):
    early = np.array([1900.5, 2014.9])
    late = np.array([2099.5])
    warm = {s: lite.warming(s, late).sum() for s in ("ssp126", "ssp245", "ssp370", "ssp585")}
    assert list(warm) == sorted(warm, key=warm.get)
    for scenario in warm:
        np.testing.assert_array_equal(lite.warming(scenario, early), lite.warming("historical", early))
    assert 3 < warm["ssp585"] < 4.5
    assert 0.7 < -lite.warming("ssp245", np.array([1850.5])).sum() < 1.2


def fields_of(climate, warming, years=1, seed=0):
    """A climate's fields on the days of some years at a constant warming, with noise that is white everywhere."""
    day = np.tile(np.arange(DAYS), years)
    cells = climate.lat_cells * climate.lon_cells
    noise = np.random.default_rng(seed).standard_normal((len(NOISES), len(day), cells), dtype=np.float32)
    boxes = np.tile([[0.8 * warming, 0.2 * warming]], (len(day), 1))
    return climate.maps.fields(day, boxes, np.zeros((len(day), cells), np.float32), noise)


def test_rain_whose_mean_is_not_the_climatology_it_was_made_for():
    """Mean of max(0, z + m)^2, summed from a fine grid of z and not from the closed form."""
    climate = DailyClimate(lat_cells=4, lon_cells=6)
    z = np.linspace(-8, 8, 4001)
    weight = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    maps = climate.maps
    mean = (np.maximum(z + maps.threshold[..., None], 0) ** 2 * weight).sum(-1) * np.exp(maps.scale)
    expected = make_climate(climate.planet).pr.reshape(12, -1)
    np.testing.assert_allclose(mean, expected, rtol=1e-4)
    # What the mean gains by 1 K is the pattern's rate, intensity and share of rainy days together.
    shifted = (np.maximum(z + (maps.threshold + 0.01 * maps.wetter)[..., None], 0) ** 2 * weight).sum(-1)
    rate = (shifted / (mean / np.exp(maps.scale)) - 1) / 0.01 + 0.05
    np.testing.assert_allclose(rate, make_climate(climate.planet).wetting.reshape(12, -1), atol=2e-3)


def test_weather_that_a_judge_of_emulators_could_not_use(lite):
    """Dry days and skewed rain by climate, diurnal ranges, seasons by latitude: what indices of extremes are about."""
    fields = fields_of(lite, 0.0, years=4)
    shape = (4, DAYS, *lite.planet.grid.shape)
    mm = fields["pr"].reshape(shape) * 86400
    tas, high, low = (fields[v].reshape(shape) for v in ("tas", "tasmax", "tasmin"))
    lat, land = lite.planet.grid.lat, lite.planet.land
    assert (low <= tas).all()
    assert (tas <= high).all()
    assert (mm >= 0).all()
    dry = (mm == 0).mean((0, 1))
    tropics, subtropics = np.abs(lat) < 10, (np.abs(lat) > 20) & (np.abs(lat) < 30)
    assert dry[tropics].mean() + 0.15 < dry[subtropics].mean()
    assert 0.3 < dry.mean() < 0.8
    assert dry.max() > 0.9
    wet = mm[mm > 1]
    assert np.median(wet) < 0.75 * wet.mean()
    middle = np.abs(lat) < 50
    ranges = (high - low).mean((0, 1))
    assert ranges[middle][land[middle] > 0.9].mean() > 2 * ranges[middle][land[middle] < 0.1].mean()
    north, south = lat > 45, lat < -45
    january, july = tas[:, :31].mean((0, 1)), tas[:, 181:212].mean((0, 1))
    assert july[north].mean() > january[north].mean() + 5
    assert january[south].mean() > july[south].mean() + 3
    # Rainy summer days are cool, and their range is small.
    cell = np.argwhere((land > 0.9) & (dry > 0.3) & (dry < 0.8) & north[:, None])[0]
    summer = (slice(None), slice(170, 230), *cell)
    raining = mm[summer] > 1
    assert tas[summer][~raining].mean() > tas[summer][raining].mean() + 0.5
    assert (high - low)[summer][~raining].mean() > 1.1 * (high - low)[summer][raining].mean()
    # Never above saturation at sea level, after Bolton (1980); dry where it rains little.
    celsius, sea = tas - 273.15, lite.planet.orography < 50
    vapour = 611.2 * np.exp(17.67 * celsius / (celsius + 243.5))
    relative = fields["huss"].reshape(shape) / (0.622 * vapour / (101000 - 0.378 * vapour))
    assert relative[..., sea].min() > 0.05
    assert 0.9 < relative[..., sea].max() < 1.0
    desert = (dry > 0.75) & (land > 0.9) & middle[:, None]
    assert relative[..., desert].mean() < relative[..., sea].mean() - 0.05
    # Rain comes with low pressure.
    low = fields["psl"].reshape(shape)
    assert low[mm > 5].mean() < low[mm == 0].mean()


def test_a_response_that_every_line_in_warming_would_fit(lite):
    cold, warm, warmer = (
        {v: f.reshape(DAYS, *lite.planet.grid.shape) for v, f in fields_of(lite, w).items()} for w in (0.0, 2.0, 4.0)
    )
    lat, land = lite.planet.grid.lat, lite.planet.land
    change = (warmer["tas"] - cold["tas"]).mean(0)
    assert lite.planet.grid.mean(change) == pytest.approx(4, abs=0.2)
    middle = np.abs(lat) < 50
    assert change[middle][land[middle] > 0.9].mean() > 1.1 * change[middle][land[middle] < 0.1].mean()
    assert change[lat > 70].mean() > 1.5 * lite.planet.grid.mean(change)
    rain = np.log(warmer["pr"].mean(0) / cold["pr"].mean(0)) / 4
    assert rain[np.abs(lat) < 8].mean() > 0.01
    assert rain[(np.abs(lat) > 22) & (np.abs(lat) < 32)].mean() < -0.01
    first, second = (warm["pr"] - cold["pr"]).mean(0), (warmer["pr"] - warm["pr"]).mean(0)
    assert np.abs(second - first).mean() > 0.05 * np.abs(first).mean()


def test_aerosols_that_cool_no_place_or_dry_none(lite):
    plain = fields_of(lite, 1.0)
    day, cells = np.arange(DAYS), 12 * 18
    noise = np.random.default_rng(0).standard_normal((len(NOISES), DAYS, cells), dtype=np.float32)
    cooler = lite.maps.fields(day, np.tile([[0.8, 0.2]], (DAYS, 1)), np.full((DAYS, cells), -1, np.float32), noise)
    np.testing.assert_allclose(cooler["tas"], plain["tas"] - 1, atol=1e-3)
    np.testing.assert_allclose(cooler["pr"], plain["pr"] * np.exp(-0.06), rtol=1e-4)


def test_summers_whose_swings_do_not_grow(lite):
    cold, warm = (fields_of(lite, w, years=6)["tas"].reshape(6, DAYS, 12, 18) for w in (0.0, 4.0))
    ratio = warm.std(0).mean(-1) / cold.std(0).mean(-1)
    assert ratio[185:210, 9].mean() == pytest.approx(np.exp(0.02 * 4), abs=0.02)
    assert ratio[5:30, 9].mean() == pytest.approx(np.exp(-0.02 * 4), abs=0.02)


class Still:
    """Weather without any noise."""

    def __init__(self, rng, grid, noises):
        self.shape = (len(noises), *grid.shape)

    def draw(self, days):
        return np.zeros((self.shape[0], days, *self.shape[1:]), np.float32)


def test_days_whose_forcing_is_that_of_another_day_or_region(monkeypatch):
    """tas without weather is climatology, patterns of two boxes and local cooling: a cell and a day by hand."""
    monkeypatch.setattr(daily, "DailyWeather", Still)
    climate = DailyClimate(lat_cells=4, lon_cells=6, first_year=1961, years=30)
    tas = blocks(climate, "ssp126")["tas"]
    maps = make_climate(climate.planet)
    y, x, year, day = 2, 3, 25, 196  # 16 July 2040, the middle of the month
    at = np.array([2015 + year + (day + 0.5) / 365])

    def total(name, anchors, when):
        return np.interp(when - 0.5, (2015, 2020, 2030, 2040, 2050), anchors) * region_shares(name, when)

    now = np.array([2015.0])
    local = 0.0
    for name, anchors, before, kernel in (
        ("SO2", (100.8, 80.1, 51.7, 35.1, 26.7), 116.3 + (100.8 - 116.3) * 4.5 / 5, maps.so2),
        ("BC", (9.73, 7.78, 5.03, 4.18, 3.61), 9.7 + (9.73 - 9.7) * 4.5 / 5, maps.bc),
    ):
        change = total(name, anchors, at) - before * region_shares(name, now)[0]
        local += float((change * kernel[:, y, x]).sum())
    fast, slow = climate.warming("ssp126", at)[0]
    expected = maps.tas[6, y, x] + maps.fast[6, y, x] * fast + maps.slow[6, y, x] * slow + local
    assert tas[365 * year + day, y, x] == pytest.approx(expected, abs=2e-3)
    assert abs(local) > 0.01


# --- the generator


def test_a_seed_that_gives_other_numbers_or_years_that_change_earlier_ones(climx_tiny):
    longer = DailyClimate(**{**{k: v for k, v in climx_tiny.settings.items() if k != "generator"}, "years": 4})
    made, again = blocks(climx_tiny, "ssp126"), blocks(longer, "ssp126")
    for name, values in made.items():
        assert len(values) == 3 * DAYS - 1
        np.testing.assert_array_equal(values, again[name][: 3 * DAYS - 1])
    other = DailyClimate(lat_cells=4, lon_cells=6, first_year=1961, years=2, seed=6)
    assert not np.array_equal(blocks(other, "ssp126")["pr"], made["pr"][: 2 * DAYS - 1])
    assert not np.array_equal(blocks(climx_tiny, "ssp370")["psl"], made["psl"])


def blocks(climate, scenario):
    made = list(climate.blocks(scenario))
    return {name: np.concatenate([block[name] for block in made]) for name in VARIABLES}


def test_settings_out_of_bounds_are_all_named():
    with pytest.raises(EmukitError, match="cannot be made") as e:
        DailyClimate(lat_cells=2, years=87, first_year=1962, seed=-1)
    for name in ("lat_cells", "years", "first_year", "seed"):
        assert name in e.value.found
    with pytest.raises(ProtocolError, match="ssp119"):
        DailyClimate().days("ssp119")


def test_grids_are_those_of_the_full_and_the_lite_files():
    full, lite = (DailyClimate(*cells).planet.grid for cells in ((192, 288), (12, 18)))
    np.testing.assert_allclose(full.lat, np.linspace(-90, 90, 192), atol=1e-12)
    np.testing.assert_allclose(full.lon, np.arange(288) * 1.25, atol=1e-12)
    np.testing.assert_allclose(lite.lat, np.linspace(-90, 90, 192).reshape(12, 16).mean(1), atol=1e-12)
    np.testing.assert_allclose(lite.lon, (np.arange(288) * 1.25).reshape(18, 16).mean(1), atol=1e-12)


# --- the files


def test_files_that_are_not_laid_out_as_the_organisers_are(climx_folder, climx_tiny):
    folder, truth = climx_folder
    assert sorted(p.name for p in folder.glob("*.nc")) == [
        "climx_demo_hist_train_1.nc",
        "climx_demo_hist_train_2.nc",
        "climx_demo_ssp126_train.nc",
        "climx_demo_ssp370_train.nc",
        "climx_demo_ssp585_train.nc",
        "climx_demo_test_forcings_ssp245.nc",
    ]
    days = {"hist_train_1": 27 * DAYS, "hist_train_2": 27 * DAYS - 1, "ssp126_train": 3 * DAYS - 1}
    for file, count in days.items():
        with netCDF4.Dataset(folder / f"climx_demo_{file}.nc") as ds:
            years = 54 if "hist" in file else 3
            for name in VARIABLES:
                assert ds[name].dimensions == ("forcing_scenario", "time", "lat", "lon")
                assert (ds[name].dtype, ds[name].shape) == (np.float32, (1, count, 4, 6))
            for name in GASES:
                assert (ds[name].dimensions, ds[name].shape) == (("forcing_scenario", "time_year"), (1, years))
                assert "units" not in ds[name].ncattrs()
            for name in AEROSOLS:
                assert ds[name].dimensions == ("forcing_scenario", "time_month", "lat", "lon")
                assert ds[name].dtype == (np.float32 if "hist" in file else np.float64)
                assert ds[name].shape == (1, 12 * years, 4, 6)
            assert ds["forcing_scenario"][0] == ("historical" if "hist" in file else "ssp126")
            stamps = [dates(ds, axis) for axis in ("time", "time_year", "time_month")]
            assert all(d.hour == 12 for d in stamps[0])
            assert {(d.month, d.day) for d in stamps[1]} == {(7, 2)}
            leap = [d.year for d in stamps[1] if d.hour == 0]
            assert leap == [y for y in (range(1961, 2015) if "hist" in file else range(2015, 2018)) if y % 4 == 0]
            months = [(d.year, d.month) for d in stamps[2]]
            assert months == [(y, m) for y in range(months[0][0], months[-1][0] + 1) for m in range(1, 13)]
            assert len(months) == 12 * years
            found = {d.day for d in stamps[2]}
            assert found == {15} if "ssp" in file else len(found) > 1
            last = stamps[0][-1]
            assert (last.month, last.day) == ((12, 31) if file == "hist_train_1" else (12, 30))
    with netCDF4.Dataset(folder / "climx_demo_test_forcings_ssp245.nc") as ds:
        assert not set(VARIABLES) & set(ds.variables)
        assert set(GASES) | set(AEROSOLS) <= set(ds.variables)
        written = np.asarray(ds["SO2"])[0, 12:24]
        np.testing.assert_array_equal(written, climx_tiny.aerosol("SO2", "ssp245", 2016))
    with netCDF4.Dataset(truth / TRUTH) as ds:
        hidden = blocks(climx_tiny, "ssp245")
        for name in VARIABLES:
            np.testing.assert_array_equal(np.asarray(ds[name])[0], hidden[name])


def test_emissions_that_are_never_zero_or_lose_their_season(lite):
    sulphur, organic = (lite.aerosol(name, "ssp370", 2060) for name in ("SO2", "OM_NI"))
    assert 0.02 < (sulphur == 0).mean() < 0.5
    np.testing.assert_allclose(sulphur[8], sulphur[2], rtol=2e-2)
    assert organic[8].mean() > 1.2 * organic[2].mean()
    # Before 2015 regions have the shares of 2015.
    np.testing.assert_array_equal(region_shares("BC", np.array([1900.0])), region_shares("BC", np.array([2015.0])))
    # Primary sulphate is 2.5 % of the sulphur, in molecules of another mass.
    ratio = lite.aerosol("SO4_PR", "ssp370", 2060)[0].sum() / sulphur[0].sum()
    assert ratio == pytest.approx(0.025 / 0.975 * 0.064 / 0.115)


def test_stamps_of_months_drift_from_17_january_1850_to_18_december_2014():
    stamps = daily_stamps(165)
    assert stamps[0] == (1850, 1, 17)
    assert stamps[-1] == (2014, 12, 18)
    assert [(y, m) for y, m, _ in stamps] == [(y, m) for y in range(1850, 2015) for m in range(1, 13)]


def daily_stamps(years):
    from emukit.data.demo.climx import _month_stamps

    days = _month_stamps(daily.HISTORICAL, years)
    made = netCDF4.num2date(days, "days since 1850-01-01", calendar="noleap")
    return [(d.year, d.month, d.day) for d in made]


def dates(ds, axis):
    return netCDF4.num2date(ds[axis][:], ds[axis].units, calendar=ds[axis].calendar)


def test_a_folder_with_something_of_somebody_else_is_not_replaced(climx_tiny, tmp_path):
    small = DailyClimate(lat_cells=4, lon_cells=4, first_year=1961, years=2)
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.nc").write_text("mine")
    with pytest.raises(EmukitError, match="is not a folder of"):
        write_climx_demo(small, out, reporter=QUIET, overwrite=True)
    (out / "notes.nc").unlink()
    (out / "README.md").write_text("mine")
    with pytest.raises(EmukitError, match="is not a folder of"):
        write_climx_demo(small, out, reporter=QUIET, overwrite=True)
    (out / "README.md").unlink()
    (out / "climx_demo_ssp126_train.nc").symlink_to(tmp_path / "elsewhere.nc")
    with pytest.raises(EmukitError, match="is not a folder of") as e:
        write_climx_demo(small, out, reporter=QUIET, overwrite=True)
    assert "a link" in e.value.found
    assert not (tmp_path / "elsewhere.nc").exists()


def test_a_folder_of_the_demo_is_replaced_only_when_asked_and_only_whole(climx_folder, tmp_path, monkeypatch):
    import shutil

    out = tmp_path / "out"
    shutil.copytree(climx_folder[0], out)
    small = DailyClimate(lat_cells=4, lon_cells=4, first_year=1961, years=2)
    with pytest.raises(EmukitError, match="--overwrite"):
        write_climx_demo(small, out, reporter=QUIET)
    monkeypatch.setattr(DailyClimate, "blocks", broken)
    with pytest.raises(KeyboardInterrupt):
        write_climx_demo(small, out, tmp_path / "truth", reporter=QUIET, overwrite=True)
    # What was there is still whole, and nothing else was left.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    assert (out / "climx_demo_ssp585_train.nc").stat().st_size > 0


def broken(self, scenario):
    raise KeyboardInterrupt
    yield


@pytest.mark.parametrize("place", ["out/truth", "out", "."])
def test_the_truth_among_the_files_that_hide_it_is_refused(place, tmp_path):
    small = DailyClimate(lat_cells=4, lon_cells=4, first_year=1961, years=2)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(EmukitError, match="among the files that hide it"):
        write_climx_demo(small, tmp_path / "out", tmp_path / "link" / place, reporter=QUIET)
    assert not (tmp_path / "out").exists()
