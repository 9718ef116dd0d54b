"""Damage that no digest knows but physics sees; and what is odd, idealised or short without being wrong."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from emukit.data import store
from emukit.data.demo import DemoClimate
from emukit.data.demo.planet import monthly_insolation
from emukit.data.physics import season_fit, warmest_month
from emukit.data.store import archive_from_dataset, open_store
from emukit.errors import StoreError

CLIMATE = DemoClimate(lat_cells=8, lon_cells=12, years=45, members=2, seed=4)
# What is said of every demo, whole or not.
USUAL = ("joined by index", "whole number of years", "static fields", "the same in every scenario")


@pytest.fixture(scope="module")
def whole() -> xr.Dataset:
    statics = {name: (("y", "x"), field) for name, field in CLIMATE.statics().items()}
    return CLIMATE.dataset().assign(statics)


def said(ds: xr.Dataset) -> list[str]:
    archive = archive_from_dataset(ds, source="memory")
    return [n for n in archive.notes if n not in archive.card.oddities and not any(u in n for u in USUAL)]


def changed(ds: xr.Dataset, name: str, values: np.ndarray) -> xr.Dataset:
    return ds.assign({name: (ds[name].dims, values.astype(ds[name].dtype), ds[name].attrs)})


def refused(ds: xr.Dataset, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        archive_from_dataset(ds, source="memory")


def test_nothing_is_said_of_a_climate_that_is_whole(whole):
    assert said(whole) == []


@pytest.mark.parametrize("shift", [2, 4, 6, -3])
def test_insolation_of_other_months_or_of_the_other_hemisphere_is_refused(whole, shift):
    refused(changed(whole, "rsdt", np.roll(whole.rsdt.values, shift, 1)), "rsdt of ssp126 has the seasons of other")
    refused(changed(whole, "rsdt", whole.rsdt.values[:, :, ::-1]), "rsdt of ssp126 has the seasons of other months")


@pytest.mark.parametrize(("shift", "word"), [(1, "earlier"), (-1, "later")])
def test_insolation_a_month_off_is_said(whole, shift, word):
    assert f"seasons of a month {word}" in said(changed(whole, "rsdt", np.roll(whole.rsdt.values, shift, 1)))[0]


def test_a_span_of_insolation_unlike_other_years_is_said(whole):
    values = whole.rsdt.values.copy()
    values[:, 24:36] = values[:, 24:36, ::-1]
    assert any(
        "differs from other years in 12 months, the first 2017-01" in n for n in said(changed(whole, "rsdt", values))
    )


@pytest.mark.parametrize("shift", [4, 6, -4])
def test_temperature_of_other_months_or_of_the_other_hemisphere_is_refused(whole, shift):
    tas = whole.tas.values
    refused(
        changed(whole, "tas", np.where(tas == 0, 0, np.roll(tas, shift, 1))), "tas of ssp126, member 0 has the seas"
    )
    refused(changed(whole, "tas", tas[:, :, :, ::-1]), "tas of ssp126, member 0 has the seasons of other months")


def test_poles_warmer_than_the_tropics_are_refused(whole):
    # Rows exchanged by pairs within each hemisphere, so that the seasons stay where they are.
    tas = whole.tas.values[:, :, :, [3, 2, 1, 0, 7, 6, 5, 4]]
    refused(changed(whole, "tas", tas), "warmer at the north pole than in the tropics")


@pytest.mark.parametrize(("name", "change", "words"), [
    ("tas", lambda a: np.where(a > 0, a - 25, a), "the global mean of tas is"),
    ("pr", lambda a: a * 4, "the global mean of pr is"),
])  # fmt: skip
def test_global_means_unlike_the_earths_are_said(whole, name, change, words):
    assert any(words in n and "usual on Earth" in n for n in said(changed(whole, name, change(whole[name].values))))


def test_a_span_from_another_time_is_said_as_a_jump(whole):
    tas = whole.tas.values.copy()
    tas[3, 36:60, 1] = tas[3, 36:60, 1, ::-1]  # a chunk upside down
    notes = said(changed(whole, "tas", tas))
    assert any("tas jumps from one year to the next" in n and "2018-01 of ssp585, member 1" in n for n in notes)


def test_months_that_hold_other_months_are_said(whole):
    pr = whole.pr.values.copy()
    pr[2, 120:144, 0] = pr[0, 24:48, 1]
    assert [n for n in said(changed(whole, "pr", pr)) if "repeats" in n] == [
        "pr repeats itself in 24 months: 2025-01 of ssp370, member 0 is 2017-01 of ssp126, member 1"
    ]


def test_scenarios_whose_warming_contradicts_their_emissions_are_said(whole):
    tas = whole.tas.values.copy()
    tas[[0, 3]] = tas[[3, 0]]
    notes = said(changed(whole, "tas", tas))
    assert any("tas of ssp126 ends" in n and "warmer than that of ssp585, which has more CO2" in n for n in notes)


@pytest.mark.parametrize("cells", [3, 6, -3])
def test_longitudes_rolled_against_the_land_are_said(whole, cells):
    notes = said(changed(whole, "tas", np.roll(whole.tas.values, cells, -1)))
    assert len([n for n in notes if "lie on the store's land only when moved" in n]) == 1
    assert not [n for n in said(whole.drop_vars("land").roll(x=cells, roll_coords=False)) if "land" in n]


@pytest.mark.parametrize("settings", [
    {"lat_cells": 4, "lon_cells": 4, "years": 1, "members": 1},
    {"lat_cells": 5, "lon_cells": 7, "years": 3, "members": 2, "seed": 9},
    {"lat_cells": 24, "lon_cells": 4, "years": 6, "members": 1, "seed": 2},
])  # fmt: skip
def test_small_demos_are_whole(settings):
    assert said(DemoClimate(**settings).dataset()) == []


@pytest.mark.parametrize("idealised", ["isothermal", "no season", "no insolation's season", "half a year", "no land"])
def test_idealised_and_short_climates_open(whole, idealised):
    ds, tas = whole, whole.tas.values
    if idealised == "isothermal":
        ds = changed(ds, "tas", np.where(tas > 0, 288.0 + 1e-3 * np.random.default_rng(0).normal(size=tas.shape), 0))
    elif idealised == "no season":
        ds = changed(ds, "tas", np.where(tas > 0, tas.mean(1, keepdims=True), 0))
    elif idealised == "no insolation's season":
        ds = changed(ds, "rsdt", np.broadcast_to(ds.rsdt.values.mean(1, keepdims=True), ds.rsdt.shape))
    elif idealised == "half a year":
        ds = ds.isel(time=slice(0, 6))
    else:
        ds = changed(ds, "land", np.zeros(ds.land.shape))
    assert archive_from_dataset(ds, source="memory").variables == ("tas", "pr")


def test_the_fit_of_seasons_counts_months():
    lat = np.linspace(-85, 85, 18)
    for late in range(12):
        assert season_fit(np.roll(monthly_insolation(lat), late, 0), lat)[0] == late
    month, amplitude = warmest_month(3 * np.cos(2 * np.pi * (np.arange(12) - 6.5) / 12))
    assert (month, amplitude) == pytest.approx((6.5, 3.0))


@pytest.mark.real
def test_physics_holds_for_the_competitions_model(real_store, real_archive, monkeypatch):
    monkeypatch.setattr(store, "known_copies", lambda *_: [])
    unknown = open_store(real_store)
    assert not unknown.published
    more = set(unknown.notes) - set(real_archive.notes)
    assert len(more) == 1
    assert "in the layout of cse151b-k360" in more.pop()


@pytest.mark.real
@pytest.mark.parametrize("experiment", ["abrupt-4xCO2", "1pctCO2", "historical", "piControl", "ssp126"])
def test_physics_holds_for_another_climate_model(real_store, experiment):
    folder = real_store.parent / "access-esm1-5_10deg"
    files = {v: sorted(folder.glob(f"{v}_Amon_*_{experiment}_*.nc")) for v in ("tas", "rsdt")}
    if not files["tas"]:
        pytest.skip(f"there is no {folder.name} next to the store")
    for name, paths in files.items():
        for path in paths:
            with xr.open_dataset(path, decode_times=False) as ds:  # all begin in January
                lat, zonal = ds.lat.values, ds[name].mean("lon").values.astype(np.float64)
            year = zonal[: len(zonal) // 12 * 12].reshape(-1, 12, len(lat)).mean(0)
            if name == "rsdt":
                late, fit = season_fit(year, lat)
                assert (late, fit > 0.999) == (0, True)
                continue
            weights = np.cos(np.deg2rad(lat))
            north, south, globe = (np.where(w, weights, 0) for w in (lat >= 30, lat <= -30, lat <= 90))
            month, amplitude = warmest_month(year @ (north / north.sum() - south / south.sum()))
            assert abs(month - 6.5) < 1
            assert amplitude > 10
            assert 270 < (year @ globe).mean() / globe.sum() < 310
