"""Known data by digest: copies and parts are recognised, changed ones refused by variable and scenario, others not
taken for them."""

from __future__ import annotations

import hashlib
import json
import tomllib

import numpy as np
import pytest
import xarray as xr

from emukit.data import opening, published_copy
from emukit.data.card import DIGESTS_ATTRIBUTE, load_card, parse_card
from emukit.data.check_report import inspect_store
from emukit.data.demo import DemoClimate
from emukit.data.store import archive_from_dataset, open_store
from emukit.errors import StoreError
from emukit.runs.record import benchmark_of, card_digest
from tests.data.stores import FORCINGS, SCENARIOS, TARGETS, coded_card, coded_dataset, hide, times, write_store


def plain_digests(ds: xr.Dataset) -> dict:
    """Digests as the card describes them, the plain way."""
    return {
        v: {
            "dtype": ds[v].dtype.str,
            "scenarios": {
                s: hashlib.sha256(
                    ds[v].sel(ssp=s).transpose("time", "member_id", ..., missing_dims="ignore").values.tobytes()
                ).hexdigest()
                for s in SCENARIOS
            },
        }
        for v in (*TARGETS, *FORCINGS)
    }


def published_dataset() -> xr.Dataset:
    return hide(coded_dataset(), "ssp245", 0)


@pytest.fixture
def card(monkeypatch):
    """A card of the coded data set, hidden ssp245 included, as if it was shipped."""
    ds = published_dataset()
    published = {
        "first_month": "2015-01",
        "months": ds.sizes["time"],
        "members": [0, 1, 2],
        "latitudes": [float(ds.y[0]), float(ds.y[-1])],
        "longitudes": [float(ds.x[0]), float(ds.x[-1])],
        "cells": [ds.sizes["y"], ds.sizes["x"]],
        "digests": plain_digests(ds),
    }
    settings = coded_card().model_dump() | {
        "benchmark": "bench",
        "competition": "cse151b",
        "published": published,
        "oddities": ["a claim"],
    }
    card = parse_card(json.loads(json.dumps(settings)), "tests")
    monkeypatch.setattr(published_copy, "shipped_cards", tuple)
    return card


def refused(ds: xr.Dataset, card, *words: str) -> str:
    with pytest.raises(StoreError) as error:
        archive_from_dataset(ds, source="memory", card=card)
    for word in words:
        assert word in str(error.value), str(error.value)
    return str(error.value)


@pytest.mark.parametrize("kind", ["v2", "v3", "netcdf"])
@pytest.mark.parametrize("turned", [False, True])
def test_a_copy_is_known_whatever_its_container_chunks_and_direction(card, tmp_path, kind, turned):
    ds = published_dataset()
    if turned:
        ds = ds.isel(y=slice(None, None, -1), latitude=slice(None, None, -1)).transpose("member_id", "x", ...)
    path = write_store(ds, tmp_path / "a.nc", kind, time=5, scenario=3, member=2)
    archive = open_store(path, card=card)
    assert archive.published
    assert "by their digests, the values are those of coded" in archive.notes
    assert "a claim" in archive.notes
    assert benchmark_of(archive) == "bench 4x6"


@pytest.mark.parametrize("names", [("ssp126",), ("ssp585", "ssp126"), ("ssp245", "ssp370")])
def test_a_part_of_the_scenarios_is_known_as_a_part(card, names):
    archive = archive_from_dataset(published_dataset().sel(ssp=list(names)), source="memory", card=card)
    assert archive.published
    assert f"by their digests, the values are those of {', '.join(names)}, a part of coded" in archive.notes


def test_one_changed_bit_is_refused_by_variable_and_scenario(card):
    for name in (*TARGETS, *FORCINGS):
        ds = published_dataset()
        bits = ds[name].values[2].reshape(-1).view(f"u{ds[name].dtype.itemsize}")
        bits[bits.size // 2] ^= 1
        text = refused(ds, card, "a changed copy of coded", f"other values: {name} of ssp370", "--card FILE.toml")
        assert text.count(" of ssp") == 1


def test_exchanged_scenarios_are_refused_by_what_they_hold(card):
    ds = published_dataset()
    values = ds.tas.values
    values[[0, 3]] = values[[3, 0]]
    refused(ds, card, "tas of ssp126 holds what was published as tas of ssp585", "tas of ssp585 holds")
    # Every variable of both: the names are exchanged. Nothing is where it should be, and yet it is this data.
    ds = published_dataset().sel(ssp=["ssp126", "ssp585"]).assign_coords(ssp=["ssp585", "ssp126"])
    refused(ds, card, "tas of ssp585 holds what was published as tas of ssp126")


@pytest.mark.parametrize("change", ["rolled", "flipped", "swapped months", "swapped members", "all rolled"])
def test_values_in_the_wrong_place_are_refused(card, change):
    ds = published_dataset()
    if change == "rolled":
        ds["pr"].values[:] = np.roll(ds.pr.values, 1, -1)
    elif change == "flipped":
        ds["SO2"].values[:] = ds.SO2.values[:, :, ::-1].copy()
    elif change == "swapped months":
        ds["tas"].values[0, [3, 9]] = ds.tas.values[0, [9, 3]]
    elif change == "swapped members":
        ds["tas"].values[0] = ds.tas.values[0][:, [1, 0, 2]]
    else:  # every target has other digests; the forcings are most of the data set
        for name in TARGETS:
            ds[name].values[:] = np.roll(ds[name].values, 1, -1)
    refused(ds, card, "a changed copy of coded")


def test_other_coordinates_under_published_values_are_refused(card):
    ds = published_dataset()
    refused(ds.assign_coords(time=times(n=25)[1:]), card, "time begins in 2015-02")
    refused(ds.assign_coords(x=ds.x + 25.0, longitude=ds.longitude + 25.0), card, "longitude runs 55.000")


def test_another_climate_in_the_layout_is_not_the_data_set(card):
    ds = published_dataset()
    for name in (*TARGETS, "SO2", "BC", "rsdt"):  # CO2 and CH4 are those of every model of a scenario
        ds[name] = ds[name] * 1.25
    archive = archive_from_dataset(ds, source="memory", card=card)
    assert not archive.published
    assert benchmark_of(archive).startswith("the layout of coded 4x6 ")
    assert any("in the layout of coded" in n for n in archive.notes)
    assert "a claim" not in archive.notes


def test_fewer_members_or_months_are_no_damage_and_not_ranked(card):
    for ds in (published_dataset().isel(member_id=[0, 2]), published_dataset().isel(time=slice(0, 20))):
        archive = archive_from_dataset(ds, source="memory", card=card)
        assert not archive.published
        assert benchmark_of(archive).startswith("the layout of coded")
    fewer = archive_from_dataset(published_dataset().isel(member_id=[0, 2]), source="memory", card=card)
    assert any("CO2, CH4, SO2, BC, rsdt are those of coded; nothing is known of tas" in n for n in fewer.notes)


def test_a_truth_that_was_not_published_is_not_known(card):
    archive = archive_from_dataset(coded_dataset(), source="memory", card=card)
    assert not archive.published
    assert any("nothing is known of tas of ssp245, pr of ssp245" in n for n in archive.notes)


def test_a_card_without_digests_says_that_the_data_are_ones_own(card):
    own = card.model_copy(update={"published": None, "name": "own"})
    ds = published_dataset()
    ds["tas"].values[0, 0, 0, 0, 0] += 1
    archive = archive_from_dataset(ds, source="memory", card=own)
    assert benchmark_of(archive).startswith("own 4x6 ")  # never among those of the benchmark that it names


def test_the_printed_table_is_the_plain_digests(card, tmp_path):
    path = write_store(published_dataset(), tmp_path / "a.zarr", "v2", time=5, member=2)
    table = tomllib.loads("\n".join(inspect_store(path, card=coded_card(), digests=True).digests.toml()))
    assert parse_card(coded_card().model_dump() | table, "tests").published == card.published


def test_digests_in_a_card_do_not_change_what_old_runs_recorded(card):
    assert card_digest(card) == card_digest(card.model_copy(update={"published": None}))
    assert "published" not in card.model_dump_json()


def test_shipped_digests_have_the_competitions_shape():
    for name in ("cse151b-2025", "cse151b-k360"):
        published = load_card(name).published
        assert (published.months, published.cells, published.members) == (1021, (48, 72), [0, 1, 2])
        assert all(len(d.scenarios) == 4 for d in published.digests.values())
        zeros = hashlib.sha256(bytes(4 * 1021 * 3 * 48 * 72)).hexdigest()
        assert {published.digests[v].scenarios["ssp245"] for v in TARGETS} == {zeros}
    assert load_card("demo").published is None


# --- stores that hold their own digests


def test_a_demo_store_that_changed_is_refused(demo_store, tmp_path):
    ds = xr.open_zarr(demo_store).load()
    assert ds.attrs[DIGESTS_ATTRIBUTE]
    assert archive_from_dataset(ds, source="memory")["ssp126"].targets is not None
    assert archive_from_dataset(ds.sel(ssp=["ssp585"]), source="memory")
    ds["pr"].values[0, 100, 1, 2, 3] *= 2
    with pytest.raises(StoreError, match="not as emukit wrote it") as error:
        archive_from_dataset(ds, source="memory")
    assert "other values: pr of ssp126" in str(error.value)
    assert DIGESTS_ATTRIBUTE in error.value.hint
    del ds.attrs[DIGESTS_ATTRIBUTE]
    assert archive_from_dataset(ds, source="memory")


def test_damaged_digests_are_named(demo_store):
    ds = xr.open_zarr(demo_store).assign_attrs({DIGESTS_ATTRIBUTE: '{"months": "x"}'})
    with pytest.raises(StoreError, match="emukit_published is damaged"):
        archive_from_dataset(ds, source="memory")


def test_the_demo_in_memory_is_never_refused(monkeypatch):
    climate = DemoClimate(lat_cells=4, lon_cells=4, years=1, members=1)
    monkeypatch.setattr(opening, "DemoClimate", lambda: climate)
    assert opening.open_data("demo").card.name == "demo"


# --- the competition's own


@pytest.mark.real
def test_the_real_store_is_known_and_its_parts_are(real_store, real_archive):
    assert real_archive.published
    assert benchmark_of(real_archive) == "cse151b 48x72"
    assert any(n.startswith("values are rounded") for n in real_archive.notes)
    ds = xr.open_zarr(real_store, chunks=None)
    part = archive_from_dataset(ds.sel(ssp=["ssp126", "ssp585"]), source="memory")
    assert (part.card.name, part.published) == ("cse151b-k360", True)
    assert any("ssp126, ssp585, a part of cse151b-k360" in n for n in part.notes)


@pytest.mark.real
def test_damage_to_the_real_store_is_refused(real_store):
    ds = xr.open_zarr(real_store, chunks=None)[[*TARGETS, *FORCINGS]].sel(ssp=["ssp126", "ssp585"]).load()
    tas = ds.tas.values.copy()
    for change, words in (
        (lambda: np.roll(tas, 3, -1), "other values: tas of ssp126, tas of ssp585"),
        (lambda: tas[::-1], "tas of ssp126 holds what was published as tas of ssp585"),
        (lambda: np.concatenate([tas[:, 24:48], tas[:, :24], tas[:, 48:]], 1), "other values: tas of ssp126"),
    ):
        with pytest.raises(StoreError, match="a changed copy of cse151b-k360") as error:
            archive_from_dataset(ds.assign(tas=(ds.tas.dims, change())), source="memory")
        assert words in str(error.value)
