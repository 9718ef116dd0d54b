"""Stores of years, days and hours that are read as something else, and scenarios of different lengths."""

import tomllib

import cftime
import numpy as np
import pytest
import xarray as xr

from emukit.data.card import parse_card
from emukit.data.protocol import make_split
from emukit.data.store import archive_from_dataset, open_store
from emukit.errors import StoreError
from tests.data.test_time import settings
from tests.other_steps import card_text, even_dataset, yearly_dataset

DAY, SIX = parse_card(settings("day"), "day"), parse_card(settings("6h"), "6h")
YEAR = parse_card(tomllib.loads(card_text("year", ["historical", "ssp585"], 10)), "year")


def days(stamps: str = "noon", calendar: str = "noleap") -> xr.Dataset:
    """120 days from 2015-01-01 on, stamped within the day or at its end with bounds."""
    ds = even_dataset(24, 120, calendar)
    if stamps == "noon":
        return ds
    midnight = cftime.num2date(np.arange(121), "days since 2015-01-01", calendar=calendar)
    if stamps == "midnight":
        return ds.assign_coords(time=midnight[:-1])
    ds = ds.assign_coords(time=midnight[1:])
    ds.time.attrs["bounds"] = "time_bnds"
    return ds.assign(time_bnds=(("time", "bnds"), np.stack([midnight[:-1], midnight[1:]], 1)))


@pytest.mark.parametrize("stamps", ["noon", "midnight", "end, bounded"])
@pytest.mark.parametrize("calendar", ["noleap", "standard", "360_day"])
def test_days_are_those_that_stamps_or_bounds_lie_in(stamps, calendar):
    time = archive_from_dataset(days(stamps, calendar), source="s", card=DAY)["ssp126"].time
    assert (time.step, time.calendar, len(time)) == ("day", calendar, 120)
    assert (time.text(0), time.position("2015-02-01")) == ("2015-01-01", 30 if calendar == "360_day" else 31)


def test_numpy_dates_are_read_as_cftime_dates_are():
    ds = even_dataset(6, 40, "standard")
    plain = ds.assign_coords(time=np.datetime64("2015-01-01", "ns") + 6 * np.arange(40) * np.timedelta64(1, "h"))
    times = [archive_from_dataset(d, source="s", card=SIX)["ssp126"].time for d in (ds, plain)]
    assert times[0] == times[1]


@pytest.mark.parametrize(
    ("order", "said"),
    [
        ([*range(10), *range(11, 120)], "days are missing"),
        ([*range(10), 9, *range(10, 119)], "a day is double"),
        ([1, 0, *range(2, 120)], "days are out of order"),
    ],
)
def test_days_that_do_not_follow_each_other_are_refused(order, said):
    ds = days().isel(time=order)
    with pytest.raises(StoreError, match=said) as refused:
        archive_from_dataset(ds, source="s", card=DAY)
    assert "is followed by 2015-01-" in refused.value.found


def test_hours_under_a_card_of_days_are_refused():
    with pytest.raises(StoreError, match="not one value every day: stamps lie between them"):
        archive_from_dataset(even_dataset(6, 80), source="s", card=DAY)
    with pytest.raises(StoreError, match="not one value every 6h: steps are missing"):
        archive_from_dataset(days(), source="s", card=SIX)


def test_a_calendar_that_cannot_be_counted_is_refused():
    with pytest.raises(StoreError, match="cannot be counted in the calendar") as refused:
        archive_from_dataset(even_dataset(24, 90, "julian"), source="s", card=DAY)
    assert refused.value.found == "calendar julian"


def test_years_are_read_by_their_bounds_and_gaps_are_refused():
    ds = yearly_dataset().sel(ssp=["ssp585"]).isel(time=slice(65, None))
    edges = np.array([cftime.DatetimeNoLeap(y, 1, 1) for y in range(2015, 2056)])
    ends = ds.assign_coords(time=edges[1:])
    ends.time.attrs["bounds"] = "time_bnds"
    bounded = ends.assign(time_bnds=(("time", "bnds"), np.stack([edges[:-1], edges[1:]], 1)))
    assert archive_from_dataset(bounded, source="s", card=YEAR)["ssp585"].time.text(0) == "2015"
    for wrong, said in (([0, 0, 1], "a year is double"), ([0, 2], "years are missing"), ([1, 0], "out of order")):
        with pytest.raises(StoreError, match=said):
            archive_from_dataset(ds.isel(time=wrong), source="s", card=YEAR)


def test_scenarios_of_different_lengths_keep_their_own_steps_and_members():
    ds = yearly_dataset()
    archive = archive_from_dataset(ds, source="s", card=YEAR)
    historical, future = archive["historical"], archive["ssp585"]
    assert (historical.time.text(0), historical.time.text(-1), future.time.text(0)) == ("1950", "2014", "2015")
    assert (historical.members, future.members) == ((0, 1, 2), (0, 1))
    for scenario, part in ((historical, slice(0, 65)), (future, slice(65, 105))):
        stored = ds.sel(ssp=scenario.name).isel(time=part)
        np.testing.assert_array_equal(scenario.forcings["CO2"], stored.CO2.values)
        np.testing.assert_array_equal(scenario.truth(1, 0, len(scenario))[:, 0], stored.tas.values[:, 1])
        assert len(scenario.hidden) == len(scenario)
    # Offsets count from each scenario's own end, and what an emulator remembers begins with the later scenario.
    split = make_split(archive, "late")
    assert (split.validation[0].text(archive), split.test.text(archive)) == (
        "ssp585 2035..2044 member 0",
        "ssp585 2045..2054 member 0",
    )
    assert archive.domain.time.text(0) == "2015"


@pytest.mark.parametrize(("name", "first", "length"), [("historical", 0, 65), ("ssp585", 65, 40)])
def test_hidden_steps_count_from_the_end_of_their_scenario(name, first, length):
    ds = yearly_dataset()
    for v in ("tas", "pr"):
        members = ds.member_id[: 3 if name == "historical" else 2]
        at = {"ssp": name, "member_id": members, "time": ds.time[first + length - 5 : first + length]}
        ds[v].loc[at] = 0.0
    hides = parse_card({**YEAR.model_dump(mode="json"), "hidden": {name: [-5, 0]}}, "hides")
    hidden = archive_from_dataset(ds, source="s", card=hides)[name].hidden
    assert np.flatnonzero(hidden).tolist() == [*range(length - 5, length)]
    late = parse_card({**YEAR.model_dump(mode="json"), "hidden": {name: [-4, 0]}}, "late")
    with pytest.raises(StoreError, match=f"zero in years of {name} that are not declared hidden") as refused:
        archive_from_dataset(ds, source="s", card=late)
    last = 1950 + first + length - 1
    assert f"between {last - 4} and {last - 4}" in refused.value.found
    assert f"zeros in {last - 3} .. {last} only" in refused.value.expected


@pytest.mark.parametrize("name", ["tas", "CO2"])
def test_what_is_missing_in_some_variables_alone_is_refused(name):
    ds = yearly_dataset()
    ds[name].loc[{"ssp": "historical", "time": ds.time[64]}] = np.nan
    with pytest.raises(StoreError, match=rf"{name} is NaN at historical(, member 0)?, 2014"):
        archive_from_dataset(ds, source="s", card=YEAR)
    inside = yearly_dataset()
    for v in ("tas", "pr", "CO2", "SO2"):
        inside[v].loc[{"ssp": "historical", "time": ds.time[30]}] = np.nan
    with pytest.raises(StoreError, match=r"is NaN at historical(, member 0)?, 1980"):
        archive_from_dataset(inside, source="s", card=YEAR)


def test_chunks_that_hold_no_step_of_a_scenario_may_be_left_out(tmp_path):
    ds = yearly_dataset()
    chunks = {
        v: {"chunks": tuple(5 if d == "time" else 1 if d == "ssp" else n for d, n in ds[v].sizes.items())} for v in ds
    }
    ds.to_zarr(tmp_path / "s.zarr", encoding=chunks, zarr_format=2)
    assert not (tmp_path / "s.zarr/CO2/1.0").exists()
    assert len(open_store(tmp_path / "s.zarr", card=YEAR)["ssp585"]) == 40
    (tmp_path / "s.zarr/CO2/1.20").unlink()
    with pytest.raises(StoreError, match=r"CO2/1.20 is missing"):
        open_store(tmp_path / "s.zarr", card=YEAR)


def test_amounts_a_month_are_divided_by_the_days_of_the_month_that_a_day_is_in():
    ds, plain = even_dataset(24, 120), even_dataset(24, 120).pr
    lengths = np.repeat([31, 28, 31, 30], [31, 28, 31, 30]).astype(np.float32)[:, None, None, None]
    ds["pr"] = ds.pr.copy(data=plain.values * lengths).assign_attrs(units="mm/month")
    archive = archive_from_dataset(ds, source="s", card=DAY, convert={"pr": "mm/month"})
    np.testing.assert_allclose(archive["ssp126"].targets[0, :, 1], plain.values[0, :, 0], rtol=1e-6)


def test_a_digest_tells_calendars_and_steps_apart():
    noleap, standard = (
        archive_from_dataset(days(calendar=c), source="s", card=DAY).digest for c in ("noleap", "standard")
    )
    assert noleap != standard


def test_an_unknown_step_of_a_card_file_is_named(tmp_path):
    card = tmp_path / "card.toml"
    card.write_text(card_text("5h", ["ssp126", "ssp585"], 30))
    with pytest.raises(StoreError) as refused:
        archive_from_dataset(days(), source="s", card=str(card))
    assert (
        "time: Value error, must be month, day, year, or hours that divide a day, such as 6h, not '5h'"
        in refused.value.found
    )
