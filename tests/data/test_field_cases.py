"""What stores and cards from elsewhere broke: a stamp taken for a month, stale metadata, a guess offered as advice."""

from __future__ import annotations

import codecs
import json
import random
from pathlib import Path

import cftime
import numpy as np
import pytest
import xarray as xr

from emukit.config import read_toml
from emukit.data.card import load_card
from emukit.data.check_report import StoreReport, inspect_store
from emukit.data.store import archive_from_dataset, open_store
from emukit.errors import RecipeError, StoreError
from emukit.files import shipped
from tests.data.stores import MONTHS, SCENARIOS, coded_card, coded_dataset, write_store
from tests.data.test_bad_stores import COMPETITION, physical, refused

CARD = coded_card()
WHOLE = {"time": 24, "scenario": 4, "member": 3}


def firsts(n: int) -> list[cftime.datetime]:
    return [cftime.DatetimeNoLeap(2015 + i // 12, i % 12 + 1, 1) for i in range(n)]


def stamped_at_the_end(ends: np.ndarray | None = None) -> xr.Dataset:
    start, end = firsts(MONTHS), firsts(MONTHS + 1)[1:]
    ds = coded_dataset().assign_coords(time=end)
    ds["time"].attrs["bounds"] = "time_bnds"
    both = np.array([start, end], dtype=object).T if ends is None else ends
    return ds.assign(time_bnds=(("time", "nbnd"), both))


def problems(report: StoreReport) -> str:
    return "\n".join(p.text() for p in report.problems)


# --- months


def test_stamps_at_the_end_of_their_bounds_are_not_read_one_month_late(tmp_path):
    middle = archive_from_dataset(coded_dataset(), source="memory", card=CARD)
    ds = stamped_at_the_end()
    ds["time"].encoding["units"] = "days since 2015-01-01"
    ds.to_netcdf(tmp_path / "end.nc")
    archive = open_store(tmp_path / "end.nc", card=CARD)
    assert str(archive["ssp126"].months[0]) == "2015-01"
    assert archive.digest == middle.digest
    assert any("read by time_bnds, 2015-01 .. 2016-12" in n for n in archive.notes)


def test_bounds_that_enclose_no_single_month_are_named():
    years = np.array([firsts(MONTHS), firsts(MONTHS + 12)[12:]], dtype=object).T
    refused(stamped_at_the_end(years), "time_bnds does not bound single months", "365 days")
    refused(stamped_at_the_end(np.full((MONTHS, 2), np.nan)), "time_bnds does not bound time")


def test_stamps_on_the_edge_of_months_without_bounds_are_noted():
    for stamps, word in (
        (firsts(MONTHS), "first"),
        ([t - np.timedelta64(1, "D").item() for t in firsts(25)[1:]], "last"),
    ):
        archive = archive_from_dataset(coded_dataset().assign_coords(time=stamps), source="memory", card=CARD)
        assert any(f"is the {word} day of a month" in n for n in archive.notes)
        assert str(archive["ssp126"].months[0]) == "2015-01"
    notes = archive_from_dataset(coded_dataset(), source="memory", card=CARD).notes
    assert not any("every stamp" in n for n in notes)


# --- metadata kept twice


@pytest.mark.filterwarnings("ignore:Consolidated metadata:zarr.errors.ZarrUserWarning")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_store_grown_without_consolidating_is_not_read_short(tmp_path, zarr_format):
    ds, path = coded_dataset(), tmp_path / "s.zarr"
    ds.isel(time=slice(0, 18)).to_zarr(path, zarr_format=zarr_format, consolidated=True)
    if zarr_format == 2:
        ds.isel(time=slice(18, None)).to_zarr(path, append_dim="time", consolidated=False)
    else:
        kept = json.loads((path / "zarr.json").read_text())
        ds.isel(time=slice(18, None)).to_zarr(path, append_dim="time", consolidated=True)
        (path / "zarr.json").write_text(json.dumps(kept))
    archive = open_store(path, card=CARD)
    assert len(archive["ssp126"]) == MONTHS
    assert any("older than the arrays' own metadata of" in n for n in archive.notes)


def test_metadata_that_is_only_kept_together_is_read(coded_store):
    path = coded_store("v2", **WHOLE)
    for file in path.glob("*/.z*"):
        file.unlink()
    assert len(open_store(path, card=CARD)["ssp126"]) == MONTHS


# --- units


def ppm(units: str) -> xr.Dataset:
    ds = physical()
    return ds.assign(CO2=(ds.CO2 / 10 + 250).assign_attrs(units=units))


@pytest.mark.parametrize("units", ["GtCO2", ""])
def test_a_concentration_is_not_offered_as_carbon(units):
    assert "--convert CO2=GtC" not in refused(ppm(units), "CO2 cannot be in GtCO2", card=COMPETITION)


def test_a_conversion_that_the_units_attribute_contradicts_is_refused():
    refused(ppm("GtCO2"), "--convert CO2=GtC contradicts", "'GtCO2'", card=COMPETITION, convert={"CO2": "GtC"})


@pytest.mark.parametrize(("units", "factor"), [("kg m-2 day-1", 1.0), ("mm/month", 31.0), ("kg/(m2*s)", 1 / 86400)])
def test_precipitation_in_usual_units_is_converted_by_its_calendar(units, factor):
    ds = physical()
    days = xr.DataArray(ds.time.dt.days_in_month.values / 31.0 if "month" in units else np.ones(MONTHS), dims="time")
    stored = ds.assign(pr=(ds.pr * days * factor).assign_attrs(units=units))
    convert = {"pr": units if "/(" not in units else "kg m-2 s-1"}
    archive = archive_from_dataset(stored, source="memory", card=COMPETITION, convert=convert)
    expected = ds.pr.values[0].transpose(1, 0, 2, 3)
    np.testing.assert_allclose(archive["ssp126"].targets[:, :, 1], expected, rtol=1e-6)


# --- what has nothing to check


def test_targets_that_cannot_be_looked_at_are_not_called_zero(coded_store):
    path = coded_store("netcdf", coded_dataset().rename(member_id="realization"))
    assert "is zero" not in problems(inspect_store(path, card=CARD))


def test_targets_that_cannot_be_read_are_not_called_zero(coded_store):
    path = coded_store("v2", **WHOLE)
    for name in ("tas", "pr"):
        (path / name / "0.0.0.0.0").write_bytes(b"broken")
    report = inspect_store(path, card=CARD)
    assert len(report.problems) == 2
    assert "is zero" not in problems(report)


# --- names, cards, recipes


@pytest.mark.parametrize("spelling", ["SSP{}{}{}", "ssp{}-{}.{}", "SSP{}_{}{}"])
def test_scenarios_in_another_spelling_are_recognised(tmp_path, spelling):
    ds = physical().assign_coords(ssp=[spelling.format(*n[3:]) for n in SCENARIOS])
    assert tuple(archive_from_dataset(ds, source="memory")) == SCENARIOS


def test_names_as_bytes_are_recognised():
    ds = physical().assign_coords(ssp=np.array(SCENARIOS, "S6"), member_id=np.array(["r1", "r2", "r3"], "S2"))
    archive = archive_from_dataset(ds, source="memory")
    assert tuple(archive) == SCENARIOS
    assert any("members are named r1, r2, r3:" in n for n in archive.notes)


def test_a_byte_order_mark_is_skipped_and_utf_16_is_named(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(codecs.BOM_UTF8 + b"a = 1\n")
    assert read_toml(path) == {"a": 1}
    text = shipped("data_cards", "cse151b-k360.toml").read_bytes()
    path.write_bytes(codecs.BOM_UTF8 + text)
    assert load_card(path).name == "cse151b-k360"
    path.write_text("a = 1\n", encoding="utf-16")
    for read, error in ((read_toml, RecipeError), (load_card, StoreError)):
        with pytest.raises(error, match="UTF-16"):
            read(path)


# --- each cause has its own remedy


def test_dates_that_cannot_be_decoded_are_named(tmp_path):
    for units, calendar, words in (
        ("days since 2015-01-01", "THIRTY_DAY_MONTHS", "set its calendar to 360_day"),
        ("months since 2015-01-01", "noleap", "write it in days"),
    ):
        time = ("time", np.arange(MONTHS) * 30.0, {"units": units, "calendar": calendar})
        coded_dataset().drop_vars("time").assign_coords(time=time).to_netcdf(tmp_path / "a.nc")
        refused(tmp_path / "a.nc", "the dates of time cannot be decoded", words)


def test_arrays_without_names_or_of_two_lengths_are_named(tmp_path, coded_store):
    ds = coded_dataset()
    ds.isel(time=slice(0, 12)).to_zarr(tmp_path / "l.zarr", zarr_format=2)
    ds.isel(time=slice(12, None)).drop_vars(["rsdt", "CO2"]).to_zarr(tmp_path / "l.zarr", append_dim="time")
    refused(tmp_path / "l.zarr", "differ in the length of time", "12 in CO2, rsdt", "24 in BC")
    path = coded_store("v2", **WHOLE)
    (path / ".zmetadata").unlink()
    (path / "tas" / ".zattrs").write_text("{}")
    refused(path, "no names of dimensions", "tas without")


def test_hidden_files_lost_in_copying_are_named(coded_store):
    path = coded_store("v2", **WHOLE)
    for file in path.glob(".z*"):
        file.unlink()
    refused(path, "has lost its .zgroup", "BC/.zarray", "hidden")
    for file in path.glob("*/.z*"):
        file.unlink()
    refused(path, "has lost its .zgroup and .zarray")


def test_several_fill_values_are_noted_and_warn_nobody(tmp_path):
    ds = coded_dataset()
    ds["tas"].attrs["missing_value"] = np.float64(-999.0)
    ds["tas"].encoding["_FillValue"] = np.float32(1e20)
    ds.to_netcdf(tmp_path / "a.nc")
    archive = open_store(tmp_path / "a.nc", card=CARD)
    assert any("tas states several fill values (1e+20, -999)" in n for n in archive.notes)


def test_a_file_address_is_a_path(coded_store):
    path = coded_store("v2", **WHOLE)
    assert open_store(f"file://{path}", card=CARD).digest == open_store(path, card=CARD).digest


def test_a_file_of_an_odd_name_is_described(tmp_path):
    (tmp_path / "x.nc.1").write_text("")
    assert "a file with the extension .1\n" in refused(tmp_path / "x.nc.1", "not a store")


# --- malformed metadata


def test_a_target_without_members_beside_one_with_them_is_named():
    ds = coded_dataset()
    refused(ds.assign(tas=ds.tas.isel(member_id=0, drop=True)), "tas has dimensions without one meaning", "member_id")


def test_a_chunk_of_size_zero_is_named(coded_store):
    path = coded_store("v3", **WHOLE)
    file = path / "x" / "zarr.json"
    text = json.loads(file.read_text())
    text["chunk_grid"]["configuration"]["chunk_shape"] = [0]
    file.write_text(json.dumps(text))
    refused(path, "cannot be opened")


ODD = (
    0,
    -1,
    7,
    2**40,
    1.5,
    "",
    "x",
    "NaN",
    None,
    [],
    {},
    [0],
    [-3],
    [2**40],
    [None],
    ["time", "time"],
    "<f8",
    "|S4",
    True,
)


def places(value: object, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for k, v in inner for p in places(v, (*path, k)))] if path or inner else []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_damaged_metadata_always_end_in_a_report(tmp_path, kind):
    rng = random.Random(12)
    ds = coded_dataset().isel(time=slice(0, 3), member_id=[0])
    for v in ds.variables.values():
        v.encoding = {}
    path = write_store(ds, tmp_path / "s.zarr", kind, **WHOLE)
    (path / ".zmetadata").unlink(missing_ok=True)
    files = sorted(f for f in path.rglob("*") if f.name in (".zarray", ".zattrs", "zarr.json", ".zgroup"))
    for _ in range(60):
        file: Path = rng.choice(files)
        whole = file.read_text()
        value = json.loads(whole)
        where = [p for p in places(value) if p]
        if not where:
            continue
        *way, last = rng.choice(where)
        node = value
        for key in way:
            node = node[key]
        if rng.random() < 0.3 and isinstance(node, dict):
            del node[last]
        else:
            node[last] = rng.choice(ODD)
        file.write_text(json.dumps(value))
        report = inspect_store(path, card=CARD)  # anything but a report is a fault of emukit
        assert list(report.lines()), (file, where)
        file.write_text(whole)
