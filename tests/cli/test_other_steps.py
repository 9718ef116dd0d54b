"""Stores of years, days and hours on the way from `data check` to a prediction: what says months, or gets lost."""

import json

import numpy as np
import pytest
import xarray as xr

from tests.cli.conftest import TINY
from tests.other_steps import even_dataset, written, yearly_dataset

SHORT = (*TINY, "--set=training.epochs=1", "--set=training.segments.length=16", '--set=inputs.forcings=["CO2","SO2"]')


@pytest.fixture(scope="module", params=["year", "day", "6h"])
def store(request, tmp_path_factory):
    """The name of a step, and the options that name a store of such steps and its card."""
    make = {
        "year": lambda: (yearly_dataset(), 10),
        "day": lambda: (even_dataset(24, 800), 100),
        "6h": lambda: (even_dataset(6, 1500, "standard"), 80),
    }
    ds, scored = make[request.param]()
    path, card = written(tmp_path_factory.mktemp(request.param), request.param, ds, scored)
    return request.param, ("--data", path, "--card", card)


def test_a_store_is_checked_in_its_own_steps(emukit, store):
    step, (_, path, *card) = store
    answer = emukit("data", "check", path, *card)
    assert answer.code == 0, answer.err
    assert answer.out.rstrip().endswith("usable")
    expected = {
        "year": ("1950 .. 2054, years, calendar noleap", "historical: 65 years, members 0, 1, 2"),
        "day": ("2015-01-01 .. 2017-03-11, days, calendar noleap", "ssp126: 800 days, members 0"),
        "6h": (
            "2015-01-01T00:00 .. 2016-01-10T18:00, steps of 6 h, calendar standard",
            "ssp585: 1500 steps, members 0",
        ),
    }
    for words in expected[step]:
        assert words in answer.out


@pytest.mark.parametrize("model", ["climatology", "linear", "cnn-gru"])
def test_a_run_trains_is_evaluated_and_predicts_its_own_dates(emukit, store, model, tmp_path):
    step, data = store
    settings = SHORT if model == "cnn-gru" else ()
    answer = emukit("train", model, *data, "--out", "run", "-q", *settings)
    assert answer.code == 0, answer.err
    assert emukit("evaluate", "run", *data, "-q").code == 0
    scores = json.loads((tmp_path / "run/scores/validation.json").read_text())
    assert np.isfinite(scores["score"])
    spans = {
        "year": "ssp585 2035..2044 member 0",
        "day": "ssp585 2016-08-24..2016-12-01 member 0",
        "6h": "ssp585 2015-12-02T00:00..2015-12-21T18:00 member 0",
    }
    assert scores["spans"] == [spans[step]]
    for out in ("p.nc", "p.zarr"):
        assert emukit("predict", "run", *data, "--scenario", "ssp585", "--out", out, "-q").code == 0
        with xr.open_dataset(data[1]) as stored, xr.open_dataset(tmp_path / out) as said:
            truth = stored.sel(ssp="ssp585").dropna("time", subset=["CO2"])
            assert said.tas.shape == truth.tas.isel(member_id=0).shape
            assert str(said.time.values[0]) == str(truth.time.values[0])
            assert str(said.time.values[-1]) == str(truth.time.values[-1])
            assert said.time.encoding["calendar"] == truth.time.encoding["calendar"]
            assert np.isfinite(said.pr.values).all()


def test_windows_are_shown_in_their_own_steps(emukit, store):
    step, data = store
    answer = emukit("data", "windows", *data, "--set", 'inputs.forcings=["CO2"]', "--plot", "w.png", "-q")
    assert answer.code == 0, answer.err
    sees = {
        "year": "first validation target ssp585 2035 sees 2024 2025",
        "day": "first validation target ssp585 2016-08-24 sees 2016-08-13",
        "6h": "first validation target ssp585 2015-12-02T00:00 sees 2015-11-29T06:00",
    }
    assert sees[step] in answer.out
    assert ("sin_local_hour" in answer.out) == (step == "6h")
    assert ("cos_month" in answer.out) == (step != "year")
    assert emukit("data", "windows", *data, "--set", 'inputs.forcings=["CO2"]', "--out", "w.zarr", "-q").code == 0
    with xr.open_dataset("w.zarr") as windows:
        assert {"year": "year", "day": "day", "6h": "step"}[step] in windows.coords


def test_leaving_scenarios_out_counts_the_steps_of_the_store(emukit, store):
    step, data = store
    answer = emukit("crossval", "linear", *data, "--out", "cv", "-q")
    if step == "6h":
        assert answer.code == 2
        assert "is left 1260 steps to train on" in answer.err
        assert "expected: 1460 or more: a year" in answer.err
        return
    assert answer.code == 0, answer.err
    first = {"year": "historical 2005..2014", "day": "ssp126 2016-12-02..2017-03-11"}
    assert first[step] in answer.out


def test_a_segment_longer_than_the_record_names_the_longest_that_fits(emukit, tmp_path):
    path, card = written(tmp_path, "year", yearly_dataset(), 10)
    answer = emukit("train", "cnn-gru", "--data", path, "--card", card, "--out", "run", "-q")
    assert answer.code == 2
    assert "no training span is as long as a segment" in answer.err
    assert "--set training.segments.length=65" in answer.err
