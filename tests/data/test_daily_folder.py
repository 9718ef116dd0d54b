"""A folder of daily files as ClimX hands them out: what is read of it, and what is refused."""

from __future__ import annotations

import os
import shutil
from contextlib import ExitStack
from dataclasses import replace

import cftime
import netCDF4
import numpy as np
import pytest
import xarray as xr

from emukit.data import daily
from emukit.data.card import load_card, parse_card
from emukit.data.check_report import inspect_folder
from emukit.data.daily import DAYS, open_daily
from emukit.data.daily_archive import outline_of
from emukit.data.daily_folder import is_daily_folder, open_folder
from emukit.data.demo.climx import TRUTH
from emukit.data.demo.daily import AEROSOLS, GASES, VARIABLES
from emukit.data.protocol import make_split, working_protocols
from emukit.data.source import open_source
from emukit.errors import ProtocolError, StoreError
from emukit.files import shipped

HIST = ("climx_demo_hist_train_1.nc", "climx_demo_hist_train_2.nc")
SSP126 = "climx_demo_ssp126_train.nc"
TEST = "climx_demo_test_forcings_ssp245.nc"


def days_of(climate, scenario, variable):
    return np.concatenate([block[variable] for block in climate.blocks(scenario)])


@pytest.fixture
def copied(climx_folder, tmp_path):
    """A copy of some of the files, to be damaged."""

    def copy(*names):
        place = tmp_path / "lite"
        place.mkdir(exist_ok=True)
        for name in names or (SSP126, TEST):
            shutil.copy(climx_folder[0] / name, place / name)
        return place

    return copy


def problems(folder):
    report = inspect_folder(folder)
    return " | ".join(p.text() for p in report.problems)


# --- what is read


def test_days_that_are_lost_where_the_historical_files_are_cut(climx_folder, climx_tiny):
    with open_folder(climx_folder[0]) as folder:
        assert list(folder.scenarios) == ["historical", "ssp126", "ssp245", "ssp370", "ssp585"]
        assert folder.card.name == "climx-lite"
        store = folder.targets("historical")
        assert (store.days, store.years) == (54 * DAYS - 1, range(1961, 2015))
        expected = days_of(climx_tiny, "historical", "tas")
        cut = 27 * DAYS
        np.testing.assert_array_equal(store.read("tas", cut - 3, cut + 4), expected[cut - 3 : cut + 4])
        got = {block.start: block for block in store.blocks("tas")}
        assert list(got) == list(range(0, 54 * DAYS, DAYS))
        np.testing.assert_array_equal(np.concatenate([b.values for b in got.values()]), expected)
        assert len(got[53 * DAYS].values) == DAYS - 1
        assert store.variables == VARIABLES


def test_every_variable_of_every_scenario_is_there(climx_folder, climx_tiny):
    with open_folder(climx_folder[0]) as folder:
        for scenario in ("ssp126", "ssp585"):
            for variable in VARIABLES:
                expected = days_of(climx_tiny, scenario, variable) if variable in ("pr", "sfcWind") else None
                got = folder.targets(scenario).read(variable, 0, 3 * DAYS - 1)
                assert got.shape == (3 * DAYS - 1, 4, 6)
                if expected is not None:
                    np.testing.assert_array_equal(got, expected)


def test_forcings_on_the_axis_of_another_forcing_or_of_the_days(climx_folder, climx_tiny):
    with open_folder(climx_folder[0]) as folder:
        for scenario, first, years in (("historical", 1961, 54), ("ssp245", 2015, 3)):
            for name in GASES:
                forcing = folder.forcing(scenario, name)
                assert (forcing.step, forcing.units, forcing.is_map) == ("year", "", False)
                assert forcing.years.tolist() == list(range(first, first + years))
                np.testing.assert_allclose(forcing.read(), climx_tiny.gas(name, scenario), rtol=1e-6)
            for name in AEROSOLS:
                forcing = folder.forcing(scenario, name)
                assert (forcing.step, forcing.is_map) == ("month", True)
                assert forcing.months.tolist() == list(range(12)) * years
                assert (forcing.years[0], forcing.years[-1]) == (first, first + years - 1)
                month = forcing.read(13, 15)
                np.testing.assert_allclose(month, climx_tiny.aerosol(name, scenario, first + 1)[1:3], rtol=1e-6)
        with pytest.raises(StoreError, match="no forcing CO2_EMISSION"):
            folder.forcing("ssp126", "CO2_EMISSION")


def test_hidden_targets_that_are_read_or_days_that_are_not_predicted(climx_folder):
    with open_folder(climx_folder[0]) as folder:
        held = folder.scenarios["ssp245"]
        assert (held.targets, held.days, held.years) == (None, 3 * DAYS - 1, range(2015, 2018))
        with pytest.raises(ProtocolError, match="targets of ssp245 are hidden"):
            folder.targets("ssp245")
        with pytest.raises(ProtocolError, match="ssp119"):
            folder.targets("ssp119")


def test_truth_that_is_kept_apart_is_a_daily_store(climx_folder, climx_tiny):
    with ExitStack() as stack:
        store = open_daily([climx_folder[1] / TRUTH], stack)
        np.testing.assert_array_equal(store.read("pr", 0, store.days), days_of(climx_tiny, "ssp245", "pr"))


def test_a_download_named_by_the_folder_that_holds_it(copied, tmp_path):
    place = copied(SSP126)
    assert is_daily_folder(tmp_path)
    with open_folder(tmp_path) as folder:
        assert folder.path == place
    shutil.copytree(place, tmp_path / "full")
    with pytest.raises(StoreError, match="two data sets"), open_folder(tmp_path):
        pass
    assert not is_daily_folder(tmp_path / "nowhere")
    assert not is_daily_folder(place / SSP126)
    with pytest.raises(StoreError, match="no daily files") as e, open_folder(tmp_path / "nowhere"):
        pass
    assert "*train_*.nc" in e.value.expected


def test_a_download_whose_files_are_links_into_a_cache(climx_folder, tmp_path):
    place = tmp_path / "lite"
    place.mkdir()
    (place / SSP126).symlink_to(climx_folder[0] / SSP126)
    with open_folder(place) as folder:
        assert list(folder.scenarios) == ["ssp126"]


# --- the order of reading


def store_in_chunks(tmp_path, chunks, years=12, rows=6, columns=4):
    """A year of few cells whose values are their own address: day, row, column."""
    days = years * DAYS - 1
    t, y, x = np.meshgrid(np.arange(days), np.arange(rows), np.arange(columns), indexing="ij")
    values = (t * 100 + y * 10 + x).astype(np.float32)
    ds = xr.Dataset(
        {"psl": (("time", "lat", "lon"), values, {"units": "Pa"})},
        {
            "time": cftime.num2date(np.arange(days) + 0.5, "days since 2015-01-01", calendar="noleap"),
            "lat": np.linspace(-75, 75, rows),
            "lon": np.arange(columns) * 90.0,
        },
    )
    encoding = {"psl": {"chunksizes": chunks, "zlib": True}} if chunks else {}
    ds.to_netcdf(tmp_path / "one.nc", encoding=encoding)
    return tmp_path / "one.nc", values


@pytest.mark.parametrize(
    ("chunks", "memory", "plan"),
    [
        (None, 1 << 28, (1, 6)),  # one day after the other
        ((365, 6, 4), 1 << 28, (1, 6)),
        ((30, 2, 4), 1 << 28, (1, 6)),
        ((12 * 365 - 1, 1, 4), 1 << 28, (12, 6)),  # all rows fit at once
        ((12 * 365 - 1, 2, 4), 4 * 12 * 365 * 4 * 2, (12, 2)),  # a band of one chunk fits
        ((12 * 365 - 1, 2, 4), 4 * 12 * 365 * 4 * 5, (12, 4)),  # two of them
        ((4 * 365, 6, 4), 4 * 365 * 24 * 4, (3, 6)),  # several years at a time: 4 + 8 + 12 + 12 of 12 years unpacked
        ((12 * 365 - 1, 6, 4), 4 * 365 * 24, (1, 6)),  # nothing better fits
    ],
)
def test_files_that_are_unpacked_again_for_every_year(tmp_path, chunks, memory, plan):
    path, values = store_in_chunks(tmp_path, chunks)
    with ExitStack() as stack:
        store = open_daily([path], stack)
        years, rows = store.plan("psl", memory)
        seen = np.full(values.shape, np.nan)
        for block in store.blocks("psl", memory):
            part = seen[block.start : block.start + len(block.values), block.rows]
            assert np.isnan(part).all()
            part[:] = block.values
            assert block.start % DAYS == 0
        np.testing.assert_array_equal(seen, values)
    if chunks == (4 * 365, 6, 4):
        assert (years, rows) == (4, 6)
    else:
        assert (years, rows) == plan


def test_a_block_that_is_larger_than_the_memory_it_was_given(tmp_path):
    path, _ = store_in_chunks(tmp_path, (12 * 365 - 1, 1, 4))
    memory = 4 * 12 * 365 * 4 * 2
    with ExitStack() as stack:
        sizes = [block.values.nbytes for block in open_daily([path], stack).blocks("psl", memory)]
    assert max(sizes) <= memory
    assert len(sizes) == 3


# --- what is odd


def test_oddities_that_nobody_is_told_of(climx_folder):
    odd = "\n".join(inspect_folder(climx_folder[0]).oddities)
    for words in (
        "historical, ssp126, ssp370, ssp585: the 31 December of the last year is missing",
        "stamps of time_year lie at 00:00 and 12:00",
        "historical: stamps of time_month lie on days 16 to 1",
        "ssp126, ssp245, ssp370, ssp585: monthly forcings are float64",
        "no units are stated for CO2_LBC",
        "the grid is 4 x 6, not the 12 x 18",
        "guess: gases are mole fractions",
    ):
        assert words in odd, words


def test_a_base_period_that_ends_in_a_year_without_its_last_day(copied):
    place = copied(*HIST)
    assert not any("base period" in odd for odd in inspect_folder(place).oddities)
    # Until 30 December 1990.
    rewritten(place, HIST[1], lambda ds: ds.isel(time=slice(0, 3 * DAYS - 1)))
    report = inspect_folder(place)
    assert report.problems  # the forcings continue
    for name in HIST:
        rewritten(place, name, lambda ds: ds.isel(time_year=slice(0, 30), time_month=slice(0, 360)))
    report = inspect_folder(place)
    assert not report.problems
    assert any("no scenario holds the base period 1961-1990" in odd for odd in report.oddities)


def test_negative_emissions_and_targets_in_a_file_for_forcings_are_told(copied):
    place = copied(SSP126)
    (place / SSP126).rename(place / "a_test_forcings_ssp245.nc")
    with netCDF4.Dataset(place / "a_test_forcings_ssp245.nc", "a") as ds:
        ds["SO2"][0, 0, 0, 0] = -1.0
        ds["tasmax"][0, 4, 1, 1] = ds["tas"][0, 4, 1, 1] - 5
        ds["CO2_LBC"][:] = 400.0
    report = inspect_folder(place)
    odd = "\n".join(report.oddities)
    assert "emissions hold negative values" in odd
    assert "named for forcings alone holds targets" in odd
    assert "tas is above tasmax on some days of 2015 (1 values" in odd
    assert "CO2_LBC is 400 .. 400: not mol mol-1" in odd
    assert "there is no file of historical" in odd
    assert "no scenario holds the base period 1961-1990" in odd
    assert not report.problems


def test_units_are_read_and_never_assumed(copied, climx_tiny):
    place = copied(SSP126)
    expected = days_of(climx_tiny, "ssp126", "tas")
    with netCDF4.Dataset(place / SSP126, "a") as ds:
        ds["tas"][:] = ds["tas"][:] - 273.15
        ds["tas"].units = "degC"
        ds["huss"].units = "1"
        ds["psl"][:] = ds["psl"][:] / 100
        ds["psl"].units = "hPa"
        ds["SO2"].units = "kg m-2 s-1"
    with open_folder(place) as folder:
        store = folder.targets("ssp126")
        np.testing.assert_allclose(store.read("tas", 0, DAYS), expected[:DAYS], atol=1e-4)
        assert store.read("psl", 0, 1).min() > 9e4
        assert folder.forcing("ssp126", "SO2").units == "kg m-2 s-1"
    with netCDF4.Dataset(place / SSP126, "a") as ds:
        ds["pr"].units = "inches"
        ds["sfcWind"].delncattr("units")
    said = problems(place)
    assert "pr of" in said
    assert "'inches'" in said


@pytest.mark.parametrize("name", ["SSP126", "ssp1-2.6", b"ssp126"])
def test_spellings_of_a_scenario(copied, name):
    place = copied(SSP126)
    with xr.open_dataset(place / SSP126, decode_times=False) as ds:
        changed = ds.load().assign_coords(forcing_scenario=np.array([name]))
    (place / SSP126).unlink()
    changed.to_netcdf(place / "x_train.nc")
    with open_folder(place) as folder:
        assert list(folder.scenarios) == ["ssp126"]


def test_a_file_that_does_not_say_its_scenario_is_taken_by_its_name(copied):
    place = copied(SSP126)
    with xr.open_dataset(place / SSP126, decode_times=False) as ds:
        ds.load().drop_vars("forcing_scenario").to_netcdf(place / "b_ssp585_train.nc")
    (place / SSP126).rename(place / "x_train.nc")
    report = inspect_folder(place)
    assert list(report.folder.scenarios) == ["ssp126", "ssp585"]
    assert any("by its name it is ssp585" in odd for odd in report.oddities)


# --- what is refused


def rewritten(place, name, change):
    with xr.open_dataset(place / name, decode_times=False) as ds:
        changed = change(ds.load())
    (place / name).unlink()
    changed.to_netcdf(place / name)


def test_forcings_that_were_joined_along_the_days_are_refused(copied):
    """What `open_mfdataset` makes of the historical files."""
    place = copied(SSP126)
    rewritten(place, SSP126, lambda ds: ds.assign(CO2_LBC=ds.CO2_LBC.expand_dims(time=ds.time)))
    assert "CO2_LBC of climx_demo_ssp126_train.nc is spread over the days" in problems(place)


def test_every_problem_of_a_folder_is_listed(copied):
    place = copied(SSP126, TEST, *HIST)
    rewritten(place, SSP126, lambda ds: ds.drop_vars(["huss", "OM_NI"]))
    rewritten(place, TEST, lambda ds: ds.isel(time_year=slice(0, 2)))
    rewritten(place, HIST[1], lambda ds: ds.isel(time=slice(1, None)))
    said = problems(place)
    for words in (
        "huss is missing",
        "forcing OM_NI of ssp126 is missing",
        "of ssp245 covers other years than the other forcings",
        "does not follow the days before it",
    ):
        assert words in said, words
    with pytest.raises(StoreError), open_folder(place):
        pass


def test_months_that_are_left_out_or_come_twice(copied):
    place = copied(SSP126)
    rewritten(place, SSP126, lambda ds: ds.isel(time_month=[*range(5), *range(6, 36)]))
    assert "the months of time_month" in problems(place)
    place = copied(SSP126)
    with netCDF4.Dataset(place / SSP126, "a") as ds:
        ds["time_year"][1] = ds["time_year"][0]
    assert "the years of time_year" in problems(place)


def test_historical_forcings_that_are_cut_like_the_days(copied, climx_tiny):
    place = copied(*HIST)
    for name, part in zip(HIST, (slice(0, 20), slice(20, 54)), strict=True):
        months = slice(12 * part.start, 12 * part.stop)
        rewritten(place, name, lambda ds, part=part, months=months: ds.isel(time_year=part, time_month=months))
    with open_folder(place) as folder:
        gas, map_ = folder.forcing("historical", "CH4_LBC"), folder.forcing("historical", "BC_N")
        np.testing.assert_allclose(gas.read(), climx_tiny.gas("CH4_LBC", "historical"), rtol=1e-6)
        across = map_.read(12 * 20 - 1, 12 * 20 + 1)
        before, after = (climx_tiny.aerosol("BC_N", "historical", year) for year in (1980, 1981))
        np.testing.assert_allclose(across, np.stack([before[11], after[0]]), rtol=1e-6)
    rewritten(place, HIST[1], lambda ds: ds.isel(time_year=slice(1, None)))
    assert "parts of CO2_LBC that do not follow each other" in problems(place)


@pytest.mark.parametrize(
    ("stamps", "units", "said"),
    [
        (np.array([0.0, np.nan, 2.0]), "days since 2015-01-01", "1 of 3 missing"),
        (np.array([126, 127, -128], np.int8), "days since 2015-01-01", "not consecutive"),
        (np.array([2.0, 1.0, 0.0]), "days since 2015-01-01", "each day once, in order"),
        (np.array([0.0, 1.0, 1.0]), "days since 2015-01-01", "2015-01-02 00:00:00, then 2015-01-02"),
        (np.array([0.0, 1.0, 2.0]), "hours since 2015-01-01", "not consecutive"),
        (np.array([0.0, 1.0, 2.0]), None, "no attribute units"),
    ],
)
def test_stamps_that_are_not_a_day_apart_or_no_dates(stamps, units, said):
    attributes = {"calendar": "noleap"} | ({"units": units} if units else {})
    ds = xr.Dataset(coords={"time": ("time", stamps, attributes)})
    with pytest.raises(StoreError) as e:
        daily._first_day(ds, "f.nc")
    assert said in e.value.text()
    assert e.value.hint


def test_values_that_are_no_weather_are_refused(copied):
    place = copied(SSP126)
    with netCDF4.Dataset(place / SSP126, "a") as ds:
        ds["tasmin"][0, 10] = 20.0
        ds["tas"][:] = 0.0
        ds["pr"][0, 3, 0, 0] = np.nan
        ds["N2O_LBC"][0, 0] = np.inf
    said = problems(place)
    for words in (
        "tasmin holds values that it cannot have in K",
        "tas of ssp126 is zero",
        "pr of climx_demo_ssp126_train.nc is not finite everywhere",
        "N2O_LBC is not finite everywhere (ssp126)",
    ):
        assert words in said, words


def test_files_that_are_damaged_or_are_no_files(copied):
    place = copied(SSP126, TEST, HIST[0])
    (place / "a_train.nc").write_bytes(b"not netcdf")
    os.mkfifo(place / "b_train.nc")
    (place / "c_train.nc").symlink_to(place / "nowhere")
    os.truncate(place / HIST[0], 30_000)
    said = problems(place)
    for name in ("a_train.nc", "b_train.nc", "c_train.nc", HIST[0]):
        assert f"cannot read {place / name}" in said, name


def test_an_interrupted_download_or_a_pointer_to_a_file_is_told_apart(copied):
    place = copied(SSP126, TEST, HIST[0])
    os.truncate(place / HIST[0], 30_000)
    (place / "a_train.nc").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    found = {p.what: p for p in inspect_folder(place).problems}
    cut, pointer = found[f"cannot read {place / HIST[0]}"], found[f"cannot read {place / 'a_train.nc'}"]
    assert "30,000 bytes" in cut.found
    assert "download it again" in cut.hint
    assert "a pointer of Git LFS" in pointer.found


def test_a_download_that_lies_deeper_or_packed_is_pointed_at(copied, tmp_path):
    copied(SSP126, TEST)
    bundle = tmp_path / "bundle"
    (bundle / "climx").mkdir(parents=True)
    (tmp_path / "lite").rename(bundle / "climx" / "lite")
    with pytest.raises(StoreError) as caught, open_source(bundle):
        pass
    assert str(bundle / "climx" / "lite") in caught.value.hint
    packed = tmp_path / "packed"
    packed.mkdir()
    (packed / "climx.zip").write_bytes(b"")
    with pytest.raises(StoreError, match="not a store") as caught, open_source(packed):
        pass
    assert "unpack climx.zip" in caught.value.hint


def test_names_that_obey_a_terminal(copied):
    place = copied(SSP126)
    (place / "\x1b[31m_train.nc").write_bytes(b"")
    assert "\x1b" not in problems(place)


def test_files_that_ask_for_more_memory_than_any_climate(copied, monkeypatch):
    place = copied(SSP126)
    monkeypatch.setattr(daily, "MOST_CHUNK_BYTES", 1000)
    assert "chunks that are too large to read" in problems(place)
    monkeypatch.undo()
    monkeypatch.setattr(daily, "MOST_CELLS", 20)
    assert "is too large" in problems(place)
    monkeypatch.undo()
    monkeypatch.setattr(daily, "MOST_DAYS", 1000)
    assert "is too long" in problems(place)
    monkeypatch.undo()
    for i in range(120):
        (place / f"{i}_train.nc").touch()
    assert "too many files" in problems(place)


def test_another_grid_in_one_of_the_files(copied):
    place = copied(SSP126, TEST)
    rewritten(place, TEST, lambda ds: ds.assign_coords(lon=ds.lon + 1))
    assert f"{TEST} is on another grid" in problems(place)


def test_a_card_of_one_store_is_refused(climx_folder):
    with pytest.raises(StoreError, match="describes one store"), open_folder(climx_folder[0], "demo"):
        pass


# --- the cards


def test_cards_of_the_full_and_the_lite_files_differ_in_their_cells_alone():
    lite, full = (load_card(name) for name in ("climx-lite", "climx"))
    assert (lite.daily.cells, full.daily.cells) == ((12, 18), (192, 288))
    same = {"name", "title", "source", "oddities", "daily"}
    assert lite.model_dump(exclude=same) == full.model_dump(exclude=same)
    assert lite.daily.model_copy(update={"cells": full.daily.cells}) == full.daily
    assert tuple(lite.targets) == VARIABLES
    assert tuple(lite.forcings) == (*GASES, *AEROSOLS)
    assert lite.daily.base_period == (1961, 1990)
    assert lite.hidden == {"ssp245": "all"}
    assert lite.time == "day"


def test_spans_of_the_cards_that_are_not_whole_years():
    """31,389 days from 2015 on: 2015-2070 ends 31 December 2070; the last 20 years have a day less."""
    card = load_card("climx")
    spans = [span for p in card.protocols.values() for span in (*p.validation, *p.test)]
    years = set()
    for span in spans:
        start, stop = 31389 + span.offsets[0], 31389 + span.offsets[1]
        assert start % DAYS == 0
        assert stop % DAYS == 0 or stop == 31389
        years.add((span.scenario, 2015 + start // DAYS, 2014 + -(-stop // DAYS)))
    assert years == {
        ("ssp370", 2015, 2070),
        ("ssp245", 2015, 2100),
        ("ssp126", 2081, 2100),
        ("ssp585", 2081, 2100),
    }
    assert (31389 - card.loso.validation, card.loso.test) == (66 * DAYS, 31389)


def test_a_card_of_daily_files_that_counts_months():
    settings = load_card("climx").model_dump()
    files = {"cells": [4, 6], "train": ["*.nc"], "base_period": [1961, 1990], "carried": ["hurs"]}
    with pytest.raises(StoreError) as e:
        parse_card({**settings, "time": "year", "daily": files}, "mine.toml")
    assert "time: year, where files are daily" in e.value.found
    assert "hurs is not a target" in e.value.found


@pytest.mark.parametrize("name", ["climx", "climx-lite"])
def test_pages_say_what_is_a_guess_and_under_which_licence(name):
    page = shipped("data_cards", f"{name}.md").read_text(encoding="utf-8")
    assert "Guess:" in page
    assert "isp-uv-es/ClimX" in page
    assert load_card(name).licence.count("CC BY-SA 4.0") == 1


def test_protocols_of_a_full_folder_are_those_of_its_card(climx_folder):
    """Of three years no span of 20 or 56 can be cut, and nothing may be promised to whoever trains; of 86 all can."""
    report = inspect_folder(climx_folder[0])
    assert report.protocols == ()
    assert not report.trainable
    folder = report.folder
    whole = {name: replace(held, days=86 * DAYS - 1) for name, held in folder.scenarios.items()}
    loso = ("loso:ssp126", "loso:ssp370", "loso:ssp585")

    def working(scenarios):
        return tuple(working_protocols(outline_of(replace(folder, scenarios=scenarios), "folder")))

    assert working(whole) == ("official", "ssp370-2015-2070", *loso)
    cut = whole | {"ssp126": replace(whole["ssp126"], days=20 * DAYS)}
    assert working(cut) == ("official", "ssp370-2015-2070", *loso[1:])
    cut["ssp585"] = replace(whole["ssp585"], days=19 * DAYS)
    assert working(cut) == ("official",)
    # Without the years of the percentiles nothing can be scored, whatever else is there.
    lost = {name: held for name, held in whole.items() if name != "historical"}
    assert working(lost) == ()
    assert working(whole | {"historical": replace(whole["historical"], days=29 * DAYS)}) == ()
    other = replace(folder, card=folder.card.model_copy(update={"competition": "generic"}), scenarios=lost)
    assert tuple(working_protocols(outline_of(other, "folder"))) == loso
    with pytest.raises(ProtocolError, match="lacks the years of the percentiles") as e:
        make_split(outline_of(replace(folder, scenarios=lost), "folder"), "loso:ssp126")
    assert e.value.expected == "all days of 1961 to 1990 in a scenario historical"


@pytest.mark.parametrize(
    ("values", "units", "found"),
    [
        (np.arange(0, 800, 2.0), "days since 1850-01-01", "1850-01-01 00:00:00, then 1850-01-03 00:00:00"),
        (np.arange(400.0), "hours since 1850-01-01", "1850-01-01 00:00:00, then 1850-01-01 01:00:00"),
        (np.arange(400.0)[::-1], "days since 1850-01-01", "1851-02-04 00:00:00, then 1851-02-03 00:00:00"),
        (np.r_[0.0:9, 8.0:20], "days since 1850-01-01", "1850-01-09 00:00:00, then 1850-01-09 00:00:00"),
    ],
)
def test_stamps_that_are_not_those_of_days_in_a_row_are_taken_for_them(values, units, found):
    """Of days in a row one stamp alone is made a date, and then no date shows that they are not."""
    time = ("time", values, {"units": units, "calendar": "noleap"})
    with pytest.raises(StoreError, match=r"the days of f\.nc are not consecutive") as e:
        daily._first_day(xr.Dataset(coords={"time": time}), "f.nc")
    assert e.value.found == found


@pytest.mark.parametrize(("first", "units"), [(0.5, "days since 1850-01-02"), (12.0, "hours since 1850-01-02")])
def test_days_in_a_row_begin_on_another_day_in_other_units(first, units):
    step = 1 if units.startswith("days") else 24
    time = ("time", first + step * np.arange(800.0), {"units": units, "calendar": "noleap"})
    assert daily._first_day(xr.Dataset(coords={"time": time}), "f.nc") == 1850 * DAYS + 1
