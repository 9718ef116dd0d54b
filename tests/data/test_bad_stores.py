"""Every way a store can be wrong is refused by name: what, where, and what to do."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from emukit.data.check_report import inspect_store
from emukit.data.store import archive_from_dataset, open_store, scenario_from_dataset
from emukit.errors import StoreError
from tests.data.stores import FORCINGS, TARGETS, coded_card, coded_dataset, hide, times

CARD = coded_card()


def refused(ds_or_path, *words: str, card=CARD, **options) -> str:
    """Opening fails with one clear error that holds all the words; the report lists the same problem."""
    in_memory = isinstance(ds_or_path, xr.Dataset)
    opening = partial(archive_from_dataset, source="memory") if in_memory else open_store
    with pytest.raises(StoreError) as error:
        opening(ds_or_path, card=card, **options)
    text = str(error.value)
    for word in words:
        assert word in text, text
    if not isinstance(ds_or_path, xr.Dataset):
        report = inspect_store(ds_or_path, card=card, **options)
        assert not report.usable
        assert any(error.value.what == p.what for p in report.problems)
    return text


# --- the container


def test_a_path_that_is_not_there(tmp_path):
    refused(tmp_path / "none.zarr", "no store at", "none.zarr")


def test_an_empty_folder(tmp_path):
    refused(tmp_path, "empty folder")


def test_a_folder_that_is_no_store(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path, "not a store", "notes.txt", ".zgroup")


@pytest.mark.parametrize(("name", "words"), [("a.csv", ".csv"), ("a.zarr.zip", "unpack"), ("plain", "without")])
def test_a_file_of_another_kind(tmp_path, name, words):
    (tmp_path / name).write_text("x")
    refused(tmp_path / name, "not a store", words)


def test_a_remote_store():
    refused("s3://bucket/store.zarr", "remote", "download")


def test_a_netcdf_file_that_is_none(tmp_path):
    (tmp_path / "a.nc").write_text("not netCDF")
    refused(tmp_path / "a.nc", "cannot be opened")


@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_metadata_that_is_not_json(coded_store, kind):
    path = coded_store(kind)
    (path / {"v2": ".zmetadata", "v3": "zarr.json"}[kind]).write_text("{")
    refused(path, "cannot be read")


# --- chunk files


def chunk(path: Path, kind: str, variable: str, *index: int) -> Path:
    parts = ".".join(map(str, index)) if kind == "v2" else "c/" + "/".join(map(str, index))
    file = path / variable / parts
    assert file.exists()
    return file


@pytest.mark.parametrize("kind", ["v2", "v3"])
@pytest.mark.parametrize(
    ("variable", "index"), [("tas", (2, 1, 1, 0, 0)), ("SO2", (1, 3, 0, 0)), ("CO2", (3, 2)), ("time", (0,))]
)
def test_a_missing_chunk_is_named(coded_store, kind, variable, index):
    path = coded_store(kind)
    file = chunk(path, kind, variable, *index)
    file.unlink()
    refused(path, "missing", str(file), "again")


@pytest.mark.parametrize("kind", ["v2", "v3"])
@pytest.mark.parametrize("cut", [0, 20, -1])
def test_a_truncated_chunk_is_named(coded_store, kind, cut):
    path = coded_store(kind)
    file = chunk(path, kind, "pr", 3, 2, 0, 0, 0)
    file.write_bytes(file.read_bytes()[:cut])
    refused(path, "corrupt", str(file), "again")


def test_a_corrupt_chunk_is_named_even_where_the_card_is_looked_for(coded_store):
    path = coded_store("v2", physical())
    file = chunk(path, "v2", "tas", 1, 3, 0, 0, 0)  # the last months of ssp245, which tell the cards apart
    file.write_bytes(b"broken")
    refused(path, "corrupt", str(file), card=None)


def test_a_chunk_of_another_shape_is_named(coded_store):
    path = coded_store("v2")
    file = chunk(path, "v2", "tas", 0, 0, 0, 0, 0)
    shutil.copy(chunk(path, "v2", "CO2", 0, 0), file)
    refused(path, "corrupt", str(file), "values instead of")


def test_a_missing_chunk_is_no_hidden_month_if_other_members_show_it(coded_store):
    path = coded_store("v3", hide(coded_dataset(), "ssp370", 6, 12))  # v3 leaves out chunks of zeros
    assert not (path / "tas" / "c/2/1/0/0/0").exists()
    assert open_store(path, card=CARD)["ssp370"].hidden[6:12].all()
    chunk(path, "v3", "tas", 2, 2, 0, 0, 0).unlink()
    refused(path, "missing", "tas/c/2/2/0/0/0")


@pytest.mark.parametrize("cut", [0, 10, -1])
def test_a_truncated_blosc_chunk_of_zarr_v3_is_named(tmp_path, cut):
    encoding = {v: {"compressors": (zarr.codecs.BloscCodec(cname="lz4"),)} for v in TARGETS}
    coded_dataset().to_zarr(tmp_path / "b.zarr", zarr_format=3, consolidated=False, encoding=encoding)
    file = chunk(tmp_path / "b.zarr", "v3", "tas", 0, 0, 0, 0, 0)
    file.write_bytes(file.read_bytes()[:cut])
    refused(tmp_path / "b.zarr", "corrupt", str(file))


def test_a_truncated_netcdf_file(tmp_path):
    ds = coded_dataset()
    ds.to_netcdf(tmp_path / "a.nc", encoding={v: {"zlib": True, "chunksizes": (1, 6, 1, 4, 6)} for v in TARGETS})
    data = (tmp_path / "a.nc").read_bytes()
    (tmp_path / "a.nc").write_bytes(data[: len(data) // 2])
    refused(tmp_path / "a.nc", "cannot be")


# --- variables, scenarios, members


@pytest.mark.parametrize("variable", [*TARGETS, *FORCINGS])
def test_a_missing_variable(variable):
    refused(coded_dataset().drop_vars(variable), f"variable {variable} is missing", "--card")


def test_no_scenario_coordinate(coded_store):
    refused(coded_dataset().drop_vars("ssp"), "scenario coordinate", "assign_coords")
    refused(coded_store("v2", coded_dataset().isel(ssp=0, drop=True)), "scenario coordinate")


def test_double_scenarios_and_members():
    refused(coded_dataset().assign_coords(ssp=["a", "b", "b", "c"]), "double", "b")
    refused(coded_dataset().assign_coords(member_id=[0, 1, 1]), "member numbers are double")


def test_no_card_fits(tmp_path):
    xr.Dataset({"z500": ("time", [1.0])}).to_zarr(tmp_path / "a.zarr", zarr_format=2)
    refused(tmp_path / "a.zarr", "no data card", "z500", "--card", card=None)


def test_a_dimension_without_meaning():
    refused(coded_dataset().expand_dims(height=[2.0]), "dimensions without one meaning", "height")
    ds = coded_dataset()
    ds["CO2"] = ds.SO2
    refused(ds, "CO2 has dimensions", "(ssp, time)")
    ds = coded_dataset()
    ds["rsdt"] = ds.CO2
    refused(ds, "rsdt has dimensions")


# --- time and grid


def retimed(values) -> xr.Dataset:
    return coded_dataset().assign_coords(time=values)


def test_months_missing_double_or_out_of_order():
    months = times()
    refused(retimed([*months[:5], *times(n=25)[6:]]), "months are missing", "2015-05 is followed by 2015-07")
    refused(retimed([*months[:5], months[4], *months[5:23]]), "a month is double", "2015-05")
    refused(retimed(months[::-1]), "out of order", "2016-12 is followed by 2016-11")


def test_time_that_is_yearly_or_has_no_calendar():
    refused(retimed([t.replace(year=2015 + i, month=1) for i, t in enumerate(times())]), "months are missing")
    refused(retimed(np.arange(24)), "no calendar", "units")
    refused(coded_dataset().drop_vars("time"), "no time coordinate")


def test_a_grid_that_is_irregular_or_not_global():
    refused(coded_dataset().assign_coords(y=[-60.0, -10, 20, 60]), "y is not a regular", "regrid")
    refused(coded_dataset().assign_coords(y=[-1e5, 0, 1e5, 2e5]), "y is not a regular")
    refused(coded_dataset().assign_coords(x=np.arange(6.0)), "x is not a regular")
    refused(coded_dataset().drop_vars("y"), "y has no one-dimensional coordinate")


def test_a_part_of_the_globe():
    north = np.linspace(7.7, 84.3, 4)
    text = refused(coded_dataset().assign_coords(y=north), "y does not reach from pole to pole", "7.7 .. 84.3")
    assert "step" in text
    refused(coded_dataset().assign_coords(y=-north), "y does not reach from pole to pole")
    refused(coded_dataset().assign_coords(y=north[::-1]), "y does not reach from pole to pole")
    refused(coded_dataset().assign_coords(x=30.0 * np.arange(6)), "x is not a regular", "all the way round")
    poles = coded_dataset().assign_coords(y=np.linspace(-90, 90, 4))
    assert archive_from_dataset(poles, source="memory", card=CARD).grid.lat[-1] == 90


def test_emissions_on_another_grid():
    ds = coded_dataset()
    half = ds.SO2[:, :, :, ::2].rename(longitude="lon")
    refused(ds.drop_vars("SO2").assign(SO2=half), "SO2 is on another grid", "4 x 3", "4 x 6")
    refused(ds.assign_coords(latitude=ds.latitude / 10), "half a cell", "latitude")


# --- values


def broken(variable: str, index: tuple[int, ...], value: float) -> xr.Dataset:
    ds = coded_dataset()
    ds[variable][index] = value
    return ds


def test_nan_and_infinity_are_named_by_address():
    refused(broken("tas", (2, 7, 1, 1, 3), np.nan), "tas is NaN", "ssp370", "member 1", "2015-08", "-22.5", "210")
    refused(broken("pr", (0, 0, 0, 0, 0), np.inf), "pr is infinite", "ssp126", "2015-01")
    refused(broken("SO2", (3, 23, 3, 5), np.nan), "SO2 is NaN", "ssp585", "2016-12", "67.5", "330")
    refused(broken("CO2", (1, 2), np.nan), "CO2 is NaN", "ssp245", "2015-03")


def test_a_member_that_has_one_variable_only():
    ds = coded_dataset()
    ds["pr"][1, :, 2] = np.nan
    refused(ds, "pr is NaN", "ssp245, member 2")


def test_months_hidden_in_one_variable_or_one_member():
    ds = coded_dataset()
    ds["pr"][2, 12:] = 0
    refused(ds, "pr is zero everywhere in ssp370", "2016-01", "36 such months")
    ds = coded_dataset()
    for v in TARGETS:
        ds[v][2, 12:, 0] = 0
    refused(ds, "is zero everywhere in ssp370, member 0")


@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_zero_months_that_the_card_does_not_declare_are_lost_not_hidden(coded_store, kind):
    ds = hide(hide(coded_dataset(), "ssp126", 3, 9), "ssp370", 5)  # the card allows ssp370 from month 6 on
    path = coded_store(kind, ds, time=3)  # v3 leaves out chunks of zeros: they are missing too
    report = inspect_store(path, card=CARD)
    text = "\n".join(p.text() for p in report.problems)
    for words in (
        "zero in months of ssp126", "6 such months between 2015-04 and 2015-09", "nothing of ssp126 hidden",
        "zero in months of ssp370", "1 such months between 2015-06 and 2015-06", "2015-07 .. 2016-12 only",
    ):  # fmt: skip
        assert words in text
    assert ("tas/c/0/1/0/0/0 is missing" in text) == (kind == "v3")
    refused(path)
    refused(hide(coded_dataset(), "ssp585", 23), "zero in months of ssp585", "[hidden]", "--card")
    refused(hide(physical(), "ssp370", 12), "zero in months of ssp370", card=COMPETITION)


def test_all_problems_are_listed_not_only_the_first(coded_store):
    ds = broken("SO2", (3, 23, 3, 5), np.nan).drop_vars("CH4")
    ds["pr"][0, 0, 0] = np.inf
    path = coded_store("v2", ds)
    bad = [path / "tas" / "0.1.0.0.0", path / "tas" / "3.1.2.0.0"]
    for file in bad:
        file.write_bytes(b"broken")
    (path / "BC" / "1.1.0.0").unlink()
    report = inspect_store(path, card=CARD)
    text = "\n".join(p.text() for p in report.problems)
    for words in ("CH4 is missing", *map(str, bad), "BC/1.1.0.0 is missing", "SO2 is NaN", "pr is infinite"):
        assert words in text
    assert len(report.problems) == 6
    assert sum(line.startswith(f"  {i}. ") for i in range(1, 7) for line in report.lines()) >= 6
    assert "5 more problems" in refused(path, "data check")


# --- units


def physical(**changes: xr.DataArray) -> xr.Dataset:
    """Plausible values in the competition's units; 24 months of two degrees' seasonal cycle."""
    ds = coded_dataset()
    scale = {"tas": (280.0, 20.0), "pr": (5.0, 4.0), "CO2": (1600.0, 10.0), "CH4": (0.4, 0.1), "SO2": (1e-11, 1e-12),
             "BC": (1e-12, 1e-13), "rsdt": (300.0, 100.0)}  # fmt: skip
    for v, (mean, half) in scale.items():
        spread = ds[v] - ds[v].min()
        ds[v] = mean + half * (2 * spread / spread.max() - 1)
    units = {"tas": "K", "pr": "mm/day", "rsdt": "W/m²"}
    for v, u in units.items():
        ds[v].attrs["units"] = u
    return ds.assign(changes)


COMPETITION = "cse151b-2025"


def test_plausible_values_in_any_spelling_pass():
    ds = physical()
    for v, u in {"tas": "kelvin", "pr": "mm d-1", "SO2": "kg/m^2/s", "CO2": "Gt CO2", "rsdt": "W m**-2"}.items():
        ds[v].attrs["units"] = u
    archive = archive_from_dataset(ds, source="memory", card=COMPETITION)
    assert any("no units attribute: CH4, BC" in n for n in archive.notes)


@pytest.mark.parametrize("stated", ["degC", "°C", "celsius", ""])
def test_degrees_celsius_are_offered_and_converted_only_when_named(stated):
    kelvin = physical()
    ds = kelvin.assign(tas=(kelvin.tas - 273.15).astype(np.float32))
    ds.tas.attrs["units"] = stated
    refused(ds, "tas", "--convert tas=degC" if stated else "--convert tas=UNITS", "degC", card=COMPETITION)
    archive = archive_from_dataset(ds, source="memory", card=COMPETITION, convert={"tas": "degC"})
    expected = kelvin.tas.values[1].transpose(1, 0, 2, 3)
    np.testing.assert_allclose(archive["ssp245"].targets[:, :, 0], expected, atol=1e-4)
    assert any("tas was converted from degC to K" in n for n in archive.notes)


def test_precipitation_per_second_is_offered_by_name():
    ds = physical()
    ds["pr"] = (ds.pr / 86400).drop_attrs()
    refused(ds, "the values of pr cannot be in mm/day", "--convert pr=UNITS", "from kg m-2 s-1,", card=COMPETITION)
    ds["pr"].attrs["units"] = "kg m-2 s-1"
    refused(ds, "pr is not in mm/day", "--convert 'pr=kg m-2 s-1'", card=COMPETITION)
    archive = archive_from_dataset(ds, source="memory", card=COMPETITION, convert={"pr": "kg m-2 s-1"})
    np.testing.assert_allclose(
        archive["ssp126"].targets[2, :, 1], physical().pr.values[0, :, 2].astype(np.float32), rtol=1e-6
    )


def test_a_conversion_keeps_hidden_months_zero():
    ds = physical()
    ds["tas"] = (ds.tas - 273.15).assign_attrs(units="degC")
    ds = hide(ds, "ssp370", 12)
    archive = archive_from_dataset(ds, source="memory", card="cse151b-k360", convert={"tas": "degC"})
    assert archive["ssp370"].hidden[12:].all()
    assert not archive["ssp370"].targets[:, 12:].any()
    assert (archive["ssp370"].targets[:, :12, 0] > 200).all()


def test_a_shared_forcing_is_converted_once():
    ds = physical()
    ds["CH4"] = xr.ones_like(ds.CH4) * 400.0
    archive = archive_from_dataset(ds, source="memory", card=COMPETITION, convert={"CH4": "MtCH4/yr"})
    assert archive["ssp585"].forcings["CH4"][0] == pytest.approx(0.4)


def test_concentrations_are_no_emissions():
    ds = physical(CO2=physical().CO2 * 0.25)
    text = refused(ds, "CO2", "cumulative", "GtCO2", card=COMPETITION)
    assert "--convert CO2=ppm" not in text
    ds["CO2"].attrs["units"] = "ppm"
    refused(ds, "CO2 is not in GtCO2", "ppm", card=COMPETITION)


def test_conversions_that_are_not_needed_not_known_or_contradict():
    refused(physical(), "not needed", card=COMPETITION, convert={"tas": "degC"})
    ds = physical(tas=(physical().tas - 273.15).assign_attrs(units="celsius"))
    refused(ds, "not a known conversion", "degC", card=COMPETITION, convert={"tas": "degF"})
    refused(physical(), "names z500", card=COMPETITION, convert={"z500": "m"})
    ds.tas.attrs["units"] = "degC"
    ds["pr"] = ds.pr / 86400
    ds.pr.attrs["units"] = "m s-1"
    refused(ds, "contradicts", card=COMPETITION, convert={"tas": "degC", "pr": "kg m-2 s-1"})
    hot = (physical().tas * 10).assign_attrs(units="")
    refused(physical(tas=hot), "tas is not in degC either", card=COMPETITION, convert={"tas": "degC"})


# --- forcings for prediction


def test_forcings_for_prediction_are_checked_too():
    ds = coded_dataset()[list(FORCINGS)]
    for bad, words in (
        (ds.isel(ssp=0).drop_vars("SO2"), "SO2 is missing"),
        (ds, "does not hold one scenario"),
        (ds.isel(ssp=0, time=[0, 2]), "months are missing"),
    ):
        with pytest.raises(StoreError, match=words):
            scenario_from_dataset(bad, card=CARD)
    grid = archive_from_dataset(coded_dataset(), source="memory", card=CARD).grid
    other = ds.isel(ssp=0, x=slice(None, None, 2), longitude=slice(None, None, 2))
    with pytest.raises(StoreError, match="another grid"):
        scenario_from_dataset(other, card=CARD, grid=grid)
