"""A store decodes to the right key, whatever its container, chunks, calendar and directions."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from emukit.data import opening
from emukit.data.archive import Archive
from emukit.data.card import identify_card
from emukit.data.check_report import inspect_store
from emukit.data.demo import DemoClimate
from emukit.data.store import archive_from_dataset, open_store, scenario_from_dataset
from tests.data.stores import (
    FORCINGS,
    MEMBERS,
    MONTHS,
    SCENARIOS,
    TARGETS,
    X,
    Y,
    coded_card,
    coded_dataset,
    forcing_code,
    hide,
    target_code,
    times,
)

CARD = coded_card()
KINDS = ["v2", "v3", "netcdf"]


def from_memory(ds: xr.Dataset) -> Archive:
    return archive_from_dataset(ds, source="memory", card=CARD)


def assert_coded(archive: Archive) -> None:
    """Every value is where its code says."""
    assert tuple(archive) == SCENARIOS
    assert archive.variables == TARGETS
    m, t, v, y, x = np.ogrid[:MEMBERS, :MONTHS, :2, :Y, :X]
    for s, scenario in enumerate(archive.values()):
        assert scenario.targets is not None
        assert scenario.targets.dtype == np.float32
        np.testing.assert_array_equal(scenario.targets, target_code(s, m, t, v, y, x))
        assert not scenario.hidden.any()
        np.testing.assert_array_equal(scenario.months, np.datetime64("2015-01", "M") + np.arange(MONTHS))
        for k, name in enumerate(FORCINGS):
            got = scenario.forcings[name]
            if name in ("CO2", "CH4"):
                assert got.dtype == np.float64
                np.testing.assert_array_equal(got, forcing_code(k, s, np.arange(MONTHS)))
            else:
                assert got.dtype == np.float32
                code = forcing_code(k, 0 if name == "rsdt" else s, *np.ogrid[:MONTHS, :Y, :X])
                np.testing.assert_array_equal(got, code)
    np.testing.assert_allclose(archive.grid.lat, -67.5 + 45 * np.arange(Y))
    np.testing.assert_allclose(archive.grid.lon, 30 + 60 * np.arange(X))


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_is_found_again_in_every_container(coded_store, kind):
    assert_coded(open_store(coded_store(kind), card=CARD))


@pytest.mark.parametrize(
    "chunks",
    [
        {"time": 1, "member": 3},
        {"time": 5},
        {"time": 24},
        {"time": 24, "scenario": 4, "member": 3},
        {"time": 7, "scenario": 3, "member": 2},
    ],
)
@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_every_value_is_found_again_in_every_chunking(coded_store, kind, chunks):
    assert_coded(open_store(coded_store(kind, **chunks), card=CARD))


def test_chunks_that_cut_the_grid_are_joined(tmp_path):
    encoding = {"tas": {"chunks": (1, 6, 1, 2, 4)}, "SO2": {"chunks": (2, 5, 3, 2)}}
    coded_dataset().to_zarr(tmp_path / "cut.zarr", zarr_format=2, encoding=encoding)
    assert_coded(open_store(tmp_path / "cut.zarr", card=CARD))


def test_the_digest_depends_on_values_not_on_the_container(coded_store):
    digests = {open_store(coded_store(kind), card=CARD).digest for kind in KINDS}
    assert digests == {from_memory(coded_dataset()).digest}
    changed = coded_dataset()
    changed["pr"][3, 23, 2, 3, 5] += 1
    assert from_memory(changed).digest not in digests


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "standard", "julian"])
def test_any_calendar_becomes_the_same_months(coded_store, calendar):
    assert_coded(open_store(coded_store("v2", coded_dataset().assign_coords(time=times(calendar))), card=CARD))


def test_datetime64_at_month_ends_becomes_the_same_months(coded_store):
    ends = (np.datetime64("2015-02", "M") + np.arange(MONTHS)).astype("datetime64[ns]") - np.timedelta64(1, "h")
    assert_coded(open_store(coded_store("v2", coded_dataset().assign_coords(time=ends)), card=CARD))


@pytest.mark.parametrize("dims", [("y",), ("latitude",), ("y", "latitude")])
@pytest.mark.parametrize("kind", KINDS)
def test_descending_latitude_is_flipped_with_its_fields(coded_store, kind, dims):
    ds = coded_dataset().isel({d: slice(None, None, -1) for d in dims})
    assert_coded(open_store(coded_store(kind, ds), card=CARD))


@pytest.mark.parametrize("dims", [("x",), ("longitude",), ("x", "longitude")])
def test_longitudes_from_minus_180_are_rolled_with_their_fields(dims):
    ds = coded_dataset()
    for d in dims:
        ds = ds.assign_coords({d: (ds[d] + 180) % 360 - 180}).sortby(d)
        assert ds[d][0] < 0
    assert_coded(from_memory(ds))


def test_a_field_grid_that_starts_just_west_of_zero_is_joined_to_the_right_column():
    ds = coded_dataset()
    ds = ds.assign_coords(x=ds.x - 29, longitude=(ds.longitude - 29) % 360)  # x 1, 61, ..; longitude 359, 59, ..
    archive = from_memory(ds)
    assert archive["ssp126"].forcings["SO2"][0, 0, 0] == forcing_code(2, 0, 0)


def test_transposed_dimensions_are_read_by_name(coded_store):
    ds = coded_dataset().transpose("x", "longitude", "member_id", "y", "latitude", "time", "ssp")
    assert_coded(from_memory(ds))
    assert_coded(open_store(coded_store("v2", ds), card=CARD))


def test_dimensions_may_have_the_other_common_names():
    ds = coded_dataset()
    for v in ("SO2", "BC"):
        ds[v] = (("ssp", "time", "y", "x"), ds[v].values)
    ds = ds.drop_vars(("latitude", "longitude")).rename(ssp="scenario", member_id="member", y="lat", x="lon")
    assert_coded(from_memory(ds))


def test_packed_netcdf_is_unpacked(tmp_path):
    encoding = {"tas": {"dtype": "i4", "scale_factor": 0.5, "_FillValue": -9999}}
    coded_dataset().to_netcdf(tmp_path / "p.nc", encoding=encoding)
    assert_coded(open_store(tmp_path / "p.nc", card=CARD))


def test_packed_zarr_is_unpacked(tmp_path):
    encoding = {"tas": {"dtype": "i4", "scale_factor": 0.5, "_FillValue": -9999}}
    coded_dataset().to_zarr(tmp_path / "p.zarr", encoding=encoding, zarr_format=2)
    assert_coded(open_store(tmp_path / "p.zarr", card=CARD))


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_months_are_recognised_even_where_the_writer_left_their_chunks_out(coded_store, kind):
    path = coded_store(kind, hide(hide(coded_dataset(), "ssp370", 12), "ssp245", 0))
    assert (path / "tas/c/0/0/0/0/0").exists() > (path / "tas/c/1/0/0/0/0").exists() or kind != "v3"
    archive = open_store(path, card=CARD)
    hidden = [np.flatnonzero(s.hidden) for s in archive.values()]
    assert [len(h) for h in hidden] == [0, MONTHS, 12, 0]
    assert hidden[2][0] == 12


def test_a_fill_value_of_zero_masks_nothing(tmp_path):
    ds = hide(coded_dataset(), "ssp245", 0)
    ds.to_zarr(tmp_path / "z.zarr", zarr_format=2, encoding={v: {"_FillValue": 0.0} for v in TARGETS})
    assert open_store(tmp_path / "z.zarr", card=CARD)["ssp245"].hidden.all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_is_nan_throughout_a_scenario_is_absent_there(coded_store, kind):
    ds = coded_dataset()
    for v in TARGETS:
        ds[v][2, :, 1] = np.nan
    path = coded_store(kind, ds)
    assert (path / "tas/2.0.0.0.0").exists() > (path / "tas/2.0.1.0.0").exists() or kind != "v2"
    archive = open_store(path, card=CARD)
    assert archive["ssp370"].members == (0, 2)
    assert archive["ssp126"].members == (0, 1, 2)
    assert archive["ssp370"].truth(2, 5, 6)[0, 0, 0, 0] == target_code(2, 2, 5, 0)
    assert any("member 1" in n and "ssp370" in n for n in archive.notes)


def test_a_scenario_without_any_member_has_forcings_only():
    ds = coded_dataset()
    for v in TARGETS:
        ds[v][1] = np.nan
    archive = from_memory(ds)
    assert archive["ssp245"].targets is None
    assert archive["ssp245"].members == ()


def test_global_mean_emissions_are_series_and_noted():
    ds = coded_dataset()
    ds["SO2"] = ds.SO2.isel(latitude=0, longitude=0, drop=True)
    archive = from_memory(ds)
    assert archive["ssp585"].forcings["SO2"].shape == (MONTHS,)
    assert archive["ssp585"].forcings["SO2"][3] == forcing_code(2, 3, 3)
    assert any("SO2 is a global series" in n for n in archive.notes)


def test_a_store_without_members_holds_member_zero():
    archive = from_memory(coded_dataset().isel(member_id=1, drop=True))
    assert archive["ssp126"].members == (0,)
    assert archive["ssp126"].truth(0, 0, 1)[0, 0, 0, 0] == target_code(0, 1, 0, 0)


def test_forcings_equal_in_part_are_complete(coded_store):
    ds = coded_dataset()
    ds["rsdt"][2, 20] += 1  # one block of one scenario differs from the first scenario
    archive = open_store(coded_store("v2", ds), card=CARD)
    np.testing.assert_array_equal(archive["ssp370"].forcings["rsdt"], ds.rsdt.values[2])
    np.testing.assert_array_equal(archive["ssp585"].forcings["rsdt"], ds.rsdt.values[3])
    assert archive["ssp585"].forcings["rsdt"] is archive["ssp126"].forcings["rsdt"]


def test_tiny_negative_emissions_are_kept_and_noted():
    ds = coded_dataset()
    ds["BC"][1, 2, 3, 4] = -1e-31
    positive = {k: q.model_copy(update={"largest": (0.0, 1e9)}) for k, q in CARD.forcings.items()}
    archive = archive_from_dataset(ds, source="memory", card=CARD.model_copy(update={"forcings": positive}))
    assert archive["ssp245"].forcings["BC"][2, 3, 4] == np.float32(-1e-31)
    assert any(n.startswith("BC has 1 values below zero, down to -1e-31") for n in archive.notes)


def test_forcings_alone_make_a_scenario_for_prediction():
    ds = coded_dataset()[list(FORCINGS)].isel(ssp=2)
    scenario = scenario_from_dataset(ds, card=CARD)
    assert scenario.name == "ssp370"
    assert scenario.targets is None
    assert scenario.forcings["CO2"][5] == forcing_code(0, 2, 5)
    assert scenario.forcings["BC"][5, 1, 2] == forcing_code(3, 2, 5, 1, 2)
    assert scenario_from_dataset(ds.drop_vars("ssp"), card=CARD, name="mine").name == "mine"
    assert scenario_from_dataset(coded_dataset().isel(ssp=[1]), card=CARD).name == "ssp245"


def test_a_report_says_what_is_hidden_and_that_the_store_is_usable(coded_store):
    report = inspect_store(coded_store("v2", hide(coded_dataset(), "ssp370", 12)), card=CARD)
    assert report.usable
    assert report.scenarios[2].hidden == (("2016-01", "2016-12"),)
    text = "\n".join(report.lines())
    for words in ("Zarr v2", "ssp370", "2016-01 .. 2016-12", "rsdt is the same in every scenario", "noleap"):
        assert words in text
    tas = report.variables[0]
    expected = coded_dataset().tas.values.astype(np.float64)
    expected[2, 12:] = np.nan
    assert (tas.low, tas.high) == (np.nanmin(expected), np.nanmax(expected))
    assert tas.mean == pytest.approx(np.nanmean(expected))


@pytest.mark.real
class TestRealStore:
    @pytest.fixture
    def archive(self, real_archive):
        return real_archive

    def test_shapes_and_hidden_spans(self, archive):
        assert archive.card.name == "cse151b-k360"
        assert archive.default_protocol == "k360"
        assert archive.grid.shape == (48, 72)
        assert (archive.grid.lat[0], archive.grid.lon[0]) == (pytest.approx(-88.586, abs=1e-3), 1.875)
        hidden = {}
        for name, s in archive.items():
            assert s.targets.shape == (3, 1021, 2, 48, 72)
            assert (str(s.months[0]), str(s.months[-1])) == ("2015-01", "2100-01")
            months = s.months[s.hidden]
            hidden[name] = (len(months), str(months[0]), str(months[-1])) if len(months) else None
        assert hidden == {
            "ssp126": None,
            "ssp245": (1021, "2015-01", "2100-01"),
            "ssp370": (360, "2070-02", "2100-01"),
            "ssp585": None,
        }

    def test_values_are_those_that_plain_xarray_reads(self, archive, real_store):
        ds = xr.open_zarr(real_store, chunks=None)
        for s, t, m in ((0, 119, 0), (0, 120, 2), (2, 660, 1), (3, 1020, 2)):
            scenario = archive[SCENARIOS[s]]
            for v, name in enumerate(TARGETS):
                np.testing.assert_array_equal(scenario.targets[m, t, v], ds[name][s, t, m].values)
            for name in ("SO2", "BC", "rsdt"):
                np.testing.assert_array_equal(scenario.forcings[name][t], ds[name][s, t].values.astype(np.float32))
            assert scenario.forcings["CO2"][t] == ds.CO2.values[s, t]

    def test_carbon_dioxide_is_cumulative(self, archive):
        assert archive["ssp126"].forcings["CO2"][0] == pytest.approx(1536, abs=1)
        assert [s.forcings["CO2"][-1] for s in archive.values()] == pytest.approx([2792, 4524, 6764, 9363], abs=1)

    def test_insolation_is_held_once(self, archive):
        assert all(s.forcings["rsdt"] is archive["ssp126"].forcings["rsdt"] for s in archive.values())

    def test_the_card_is_recognised_by_what_is_hidden(self, real_store):
        ds = xr.open_zarr(real_store, chunks=None)
        assert identify_card(ds).name == "cse151b-k360"
        assert identify_card(ds.isel(time=slice(0, 600))).name == "cse151b-2025"


# --- static fields


def with_statics() -> xr.Dataset:
    ds = coded_dataset()
    return ds.assign(
        land=(("y", "x"), np.arange(24.0).reshape(Y, X)),
        orography=(("x", "y"), 100 + np.arange(24).reshape(Y, X).T),
        name=(("y", "x"), np.full((Y, X), "a")),
        mask=(("latitude", "longitude"), np.ones((Y, X))),  # one degree off the targets
        zonal=("y", np.arange(4.0)),
    )


@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_static_fields_are_read_in_the_order_of_the_grid(coded_store, kind):
    ds = with_statics()
    for other in (ds, ds.isel(y=slice(None, None, -1)), ds.assign_coords(x=(ds.x + 180) % 360 - 180).sortby("x")):
        archive = open_store(coded_store(kind, other), card=CARD)
        assert_coded(archive)
        assert sorted(archive.statics) == ["land", "orography"]
        for name, base in (("land", 0), ("orography", 100)):
            assert archive.statics[name].dtype == np.float32
            np.testing.assert_array_equal(archive.statics[name], base + np.arange(24).reshape(Y, X))
        assert "static fields: land, orography" in archive.notes
    assert not any("static" in n for n in from_memory(coded_dataset()).notes)


def test_the_digest_depends_on_static_fields():
    ds = with_statics()
    digests = {from_memory(d).digest for d in (coded_dataset(), ds, ds.assign(land=ds.land + 1))}
    assert len(digests) == 3


def test_a_static_field_that_is_damaged_is_left_out_and_noted(coded_store):
    path = coded_store("v2", with_statics())
    (path / "land" / "0.0").write_bytes(b"broken")
    (path / "orography" / "0.0").unlink()
    archive = open_store(path, card=CARD)
    assert not archive.statics
    assert any("land is left out" in n for n in archive.notes)
    assert any("orography is left out" in n for n in archive.notes)


def test_the_demo_has_its_land_and_orography(monkeypatch):
    climate = DemoClimate(lat_cells=8, lon_cells=12, years=1, members=1)
    monkeypatch.setattr(opening, "DemoClimate", lambda: climate)
    archive = opening.open_data("demo")
    assert sorted(archive.statics) == ["land", "orography"]
    np.testing.assert_array_equal(archive.statics["land"], climate.statics()["land"])
    assert archive["ssp245"].hidden.all()


def test_members_that_are_one_run_are_noted(coded_store):
    ds = coded_dataset()
    for name in TARGETS:
        values = ds[name].values
        values[0, :, 2] = values[0, :, 1]
        # In some months only, and of the other variable not even there.
        values[2, 3:5, 1] = values[2, 3:5, 0]
    ds["tas"].values[2, 3, 1, 2, 2] += 0.5
    hidden = ds.copy(deep=True)
    for name in TARGETS:
        hidden[name].values[1] = 0
    notes = open_store(coded_store(ds=hidden), card=coded_card()).notes
    said = [n for n in notes if "the same run" in n]
    assert said == [
        "members 1 and 2 of ssp126 are the same run in 24 of 24 visible months: internal variability cannot be told "
        "from them",
        "members 0 and 1 of ssp370 are the same run in 1 of 24 visible months: internal variability cannot be told "
        "from them",
    ]
    report = inspect_store(coded_store("v3", ds=hidden), card=coded_card())
    assert set(said) <= set(report.oddities)
    assert report.usable
    assert not [n for n in open_store(coded_store("netcdf"), card=coded_card()).notes if "the same run" in n]
