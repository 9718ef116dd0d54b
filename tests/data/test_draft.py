"""Drafts of data cards that do not load, take a forcing for a target, or hold ranges that their own store leaves."""

from __future__ import annotations

import tomllib

import cftime
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from emukit.data.card import load_card
from emukit.data.draft import draft_card, widened
from emukit.data.protocol import make_split, working_protocols
from emukit.data.split import is_hidden
from emukit.data.store import open_store
from emukit.errors import StoreError
from emukit.progress import silent_reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import train_run
from tests.cli.conftest import emukit  # noqa: F401
from tests.climates import climate_of
from tests.other_steps import even_dataset, written, yearly_dataset

FORCINGS = {"CO2", "CH4", "SO2", "BC", "rsdt"}
# Store: its steps, targets, forcings, what is hidden, and what the draft validates and tests.
FOUND = {
    "demo": ("month", {"tas", "pr"}, FORCINGS, {"ssp245": "all"}, "ssp585 2090-02..2100-01", "ssp245 2070-02..2100-01"),
    "tas": ("month", {"tas"}, FORCINGS, {}, "ssp585 2045-02..2050-01", "ssp585 2050-02..2055-01"),
    "year": ("year", {"tas", "pr"}, {"CO2", "SO2"}, {}, "ssp585 2045..2049", "ssp585 2050..2054"),
    "day": ("day", {"tas", "pr"}, {"CO2", "SO2"}, {}, "ssp585 2016-08-24..2016-12-01", "ssp585 2016-12-02..2017-03-11"),
    "6h": ("6h", {"tas", "pr"}, {"CO2", "SO2"}, {}, None, None),
}


@pytest.fixture(scope="module", params=FOUND)
def store(request, demo_store, tmp_path_factory):
    """The name of a store, and where it is."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "demo":
        return "demo", demo_store
    if request.param == "tas":
        return "tas", climate_of(demo_store, folder, ("tas",)).store
    ds = {
        "year": yearly_dataset,
        "day": lambda: even_dataset(24, 800),
        "6h": lambda: even_dataset(6, 1500, "standard"),
    }[request.param]()
    return request.param, written(folder, request.param, ds, 10)[0]


def draft(store, folder, name=None):
    path = folder / "mine.toml"
    path.write_text(draft_card(store, silent_reporter(), name), encoding="utf-8")
    return path


def test_a_draft_trains_as_it_stands(store, tmp_path):
    kind, place = store
    step, targets, forcings, hidden, validation, test = FOUND[kind]
    path = draft(place, tmp_path)
    card = load_card(path)
    assert (card.time, set(card.targets), set(card.forcings)) == (step, targets, forcings)
    assert dict(card.hidden) == hidden
    assert card.competition == "generic"
    archive = open_store(place, card=str(path))
    split = make_split(archive)
    if validation:
        assert [s.text(archive) for s in split.scored["validation"]] == [f"{validation} member 0"]
        assert split.test.text(archive) == f"{test} member 0"
        assert is_hidden(archive, split.test) == bool(hidden)
        assert len(working_protocols(archive)) > 1
    run, evaluation = train_run(archive, load_recipe("linear"), tmp_path / "run", reporter=silent_reporter())
    assert evaluation is not None
    assert np.isfinite(evaluation.score.value)
    assert run.record.data.scoring.name == "generic"


def test_units_are_the_store_s_with_the_spellings_that_are_known(demo_store, tmp_path):
    card = load_card(draft(demo_store, tmp_path))
    stored = xr.open_zarr(demo_store)
    assert {v: q.units for v, q in card.quantities.items()} == {v: stored[v].attrs["units"] for v in card.quantities}
    assert "mm d-1" in card.targets["pr"].spellings
    assert card.targets["pr"].units not in card.targets["pr"].spellings
    assert card.targets["pr"].bounds.lower == 0.0
    # Another card's name would stand for other data.
    assert load_card(draft(demo_store, tmp_path, "mine")).name == "mine"


finite = st.floats(-1e12, 1e12, allow_nan=False).filter(lambda x: x == 0 or abs(x) > 1e-12)


@given(finite, finite)
def test_ranges_hold_what_was_seen_and_more(a, b):
    low, high = sorted((a, b))
    (lower, upper), (least, most) = widened(low, high, never_below_zero=low >= 0)
    room = (high - low) / 2 or abs(high) / 2 or 1.0
    assert lower <= low
    assert upper >= high + 0.99 * room
    assert least <= high <= most
    assert low < 0 or lower >= 0


def test_a_range_tells_kelvin_from_celsius_and_a_day_from_a_second():
    (low, high), (least, _) = widened(216.0, 310.0, never_below_zero=True)
    assert low > 310.0 - 273.15
    assert high < 400.0
    (_, most), (least, _) = widened(0.0, 40.0, never_below_zero=True)
    assert least > 40.0 / 86400
    assert most < 40.0 * 86400
    assert widened(1e-11, 1e-11, never_below_zero=True)[0] == (5e-12, 1.5e-11)


def test_hidden_steps_are_found_zero_or_missing(tmp_path):
    ds = yearly_dataset().load()
    late = ds.time.dt.year >= 2043
    for v in ("tas", "pr"):
        ds[v] = ds[v].where(ds[v].isnull() | ~((ds.ssp == "ssp585") & late), 0.0)
    ds.to_zarr(tmp_path / "zeros.zarr", zarr_format=2)
    card = load_card(draft(tmp_path / "zeros.zarr", tmp_path))
    assert dict(card.hidden) == {"ssp585": (-12, 0)}
    assert card.protocols["late"].test[0].offsets == (-12, 0)
    assert card.protocols["late"].validation[0].offsets == (-15, -12)
    # A scenario without any target.
    ds = yearly_dataset().load()
    for v in ("tas", "pr"):
        ds[v] = ds[v].where(ds.ssp != "ssp585")
    ds.to_zarr(tmp_path / "missing.zarr", zarr_format=2)
    path = draft(tmp_path / "missing.zarr", tmp_path)
    card = load_card(path)
    assert dict(card.hidden) == {"ssp585": "all"}
    assert card.protocols["late"].train == ["historical"]
    assert make_split(open_store(tmp_path / "missing.zarr", card=str(path))).scored["validation"]


def test_the_first_member_that_is_there_is_scored(tmp_path):
    ds = yearly_dataset().assign_coords(member_id=[4, 7, 9])
    ds.to_zarr(tmp_path / "s.zarr", zarr_format=2)
    card = load_card(draft(tmp_path / "s.zarr", tmp_path))
    assert card.protocols["late"].validation[0].member == 4


def test_what_is_no_variable_of_a_card_is_left_out_and_said(tmp_path):
    ds = yearly_dataset()
    ds["ua"] = (("time", "plev", "y", "x"), np.zeros((ds.sizes["time"], 2, *ds.tas.shape[-2:]), np.float32))
    ds["orog"] = (("y", "x"), np.ones(ds.tas.shape[-2:], np.float32))
    ds["xyz"] = ds.tas.mean("member_id", keep_attrs=True)
    ds["odd one"] = (ds.pr * 2).drop_attrs()
    ds.to_zarr(tmp_path / "s.zarr", zarr_format=2)
    text = draft_card(tmp_path / "s.zarr", silent_reporter())
    values = tomllib.loads(text)
    assert "# Left out: ua: its dimension plev" in text
    assert "# Left out: orog: a static field" in text
    assert set(values["targets"]) == {"tas", "pr", "odd one"}
    assert set(values["forcings"]) == {"CO2", "SO2", "xyz"}
    assert values["targets"]["odd one"]["units"] == "unknown"
    assert 'units = "unknown"  # TODO: the store states none' in text


def test_fields_that_cmip_does_not_know_are_targets_where_there_are_no_others(tmp_path):
    ds = yearly_dataset().isel(member_id=0, drop=True).rename(tas="surface heat")[["surface heat", "CO2"]]
    ds.to_zarr(tmp_path / "s.zarr", zarr_format=2)
    text = draft_card(tmp_path / "s.zarr", silent_reporter())
    assert set(tomllib.loads(text)["targets"]) == {"surface heat"}
    assert "Guessed to be a target: nothing in the store is a known output" in text


def test_what_a_store_says_of_itself_is_kept(tmp_path):
    ds = yearly_dataset()
    ds.attrs = {"title": 'A "good"\nstore', "license": "CC0"}
    ds.tas.attrs |= {"standard_name": "surface_temperature", "cell_methods": "time: maximum", "long_name": "warmth"}
    ds.to_zarr(tmp_path / "s.zarr", zarr_format=2)
    card = load_card(draft(tmp_path / "s.zarr", tmp_path))
    assert (card.title, card.licence) == ('A "good" store', "CC0")
    tas = card.targets["tas"]
    assert (tas.standard_name, tas.cell_methods, tas.what) == ("surface_temperature", "time: maximum", "warmth")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda ds: ds[["tas", "pr"]], "nothing to predict from"),
        (lambda ds: ds[["CO2"]], "nothing to predict:"),
        (lambda ds: ds.assign(tas=ds.tas.where(ds.time.dt.year != 1960)), "tas is NaN at historical"),
        (lambda ds: ds.isel(time=[0, 2, 3, 4]), "years are missing"),
        (lambda ds: ds.assign(tas=ds.tas * 0, pr=ds.pr * 0), "every target is zero or missing"),
    ],
    ids=["no forcings", "no targets", "holes", "gaps", "all hidden"],
)
def test_a_store_that_no_card_would_open_is_refused(tmp_path, change, words):
    change(yearly_dataset().load()).to_zarr(tmp_path / "s.zarr", zarr_format=2)
    with pytest.raises(StoreError, match=words):
        draft_card(tmp_path / "s.zarr", silent_reporter())


def test_a_store_of_one_scenario_without_a_name_gets_a_name_to_be_looked_at(tmp_path):
    yearly_dataset().load().isel(ssp=0, drop=True).to_zarr(tmp_path / "s.zarr", zarr_format=2)
    text = draft_card(tmp_path / "s.zarr", silent_reporter())
    assert 'scenarios = ["scenario"]  # TODO: the store does not say' in text.splitlines()
    (tmp_path / "mine.toml").write_text(text)
    opened = open_store(tmp_path / "s.zarr", card=str(tmp_path / "mine.toml"))
    assert list(opened) == ["scenario"]


def test_steps_that_emukit_does_not_know_are_named(tmp_path):
    ds = even_dataset(24, 40)
    week = [cftime.DatetimeNoLeap(2015, 1, 1) + 7 * i * (ds.time.values[1] - ds.time.values[0]) for i in range(40)]
    ds.assign_coords(time=week).to_zarr(tmp_path / "s.zarr", zarr_format=2)
    with pytest.raises(StoreError, match="steps of time are none that emukit knows") as error:
        draft_card(tmp_path / "s.zarr", silent_reporter())
    assert "7 days" in error.value.found


def test_the_command_prints_a_card_and_nothing_else(emukit, demo_store, tmp_path):  # noqa: F811
    answer = emukit("data", "card", demo_store)
    assert answer.code == 0
    (tmp_path / "mine.toml").write_text(answer.out)
    assert load_card(tmp_path / "mine.toml").time == "month"
    assert emukit("data", "check", "--data", demo_store, "--card", "mine.toml").out.rstrip().endswith("usable")
    missing = emukit("data", "card", "--data", tmp_path / "nowhere.zarr")
    assert (missing.code, missing.out) == (2, "")


def test_netcdf_is_drafted_like_zarr(tmp_path):
    ds = yearly_dataset()
    ds.to_netcdf(tmp_path / "s.nc")
    ds.to_zarr(tmp_path / "s.zarr", zarr_format=2)
    assert draft_card(tmp_path / "s.nc", silent_reporter()) == draft_card(tmp_path / "s.zarr", silent_reporter())
