"""The notebook's door to the score: as many checks as the door of a CSV, and the same number."""

from __future__ import annotations

import numpy as np
import pytest

import emukit as api
from emukit.data.card import load_card
from emukit.data.cf import fields_to_dataset
from emukit.data.grid import Grid
from emukit.data.time import TimeAxis
from emukit.errors import EmukitError, SubmissionError
from emukit.metrics import Moments
from emukit.submission import write_submission
from tests.coded import score_moments, small_grid
from tests.submission.cases import score_csv, score_submission

GRID = small_grid()
MONTHS = np.arange("2090-02", "2092-02", dtype="datetime64[M]")


def fields(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    shape = (len(MONTHS), *GRID.shape)
    return np.stack([280 + 10 * rng.standard_normal(shape), rng.gamma(0.7, 4.0, shape)], 1).astype(np.float32)


VARIABLES = tuple(load_card("cse151b-2025").targets.values())
TRUTH, PREDICTION = (
    fields_to_dataset(fields(seed), TimeAxis.monthly(MONTHS), GRID, VARIABLES, "ssp370") for seed in (0, 1)
)
SCORE = score_moments(Moments.of(fields(1), fields(0)), GRID.weights).value


def refused(prediction, truth, *words: str) -> None:
    with pytest.raises(EmukitError) as error:
        api.score(prediction, truth)
    for word in words:
        assert word in str(error.value), str(error.value)


@pytest.mark.parametrize(("lat", "lon"), [("y", "x"), ("lat", "lon"), ("latitude", "longitude")])
def test_one_number_whatever_the_names_and_the_order_of_dimensions(lat, lon):
    p = PREDICTION.rename(y=lat, x=lon).transpose(lon, "time", lat)
    assert api.score(p, TRUTH).value == pytest.approx(SCORE, rel=1e-12)
    assert api.score(p, TRUTH.rename(y=lat, x=lon)).value == pytest.approx(SCORE, rel=1e-12)


def test_months_of_another_calendar_are_the_same_months():
    standard = PREDICTION.assign_coords(time=MONTHS.astype("datetime64[ns]") + np.timedelta64(10, "D"))
    assert api.score(standard, TRUTH).value == pytest.approx(SCORE, rel=1e-12)
    refused(standard.shift(time=1).isel(time=slice(1, None)), TRUTH, "differ along time", "23 from 2090-03")


@pytest.mark.parametrize("units", ["kelvin", "degK", "K"])
def test_spellings_of_the_units_are_the_units(units):
    p = PREDICTION.assign(tas=PREDICTION.tas.assign_attrs(units=units), pr=PREDICTION.pr.assign_attrs(units="mm d-1"))
    assert api.score(p, TRUTH).value == pytest.approx(SCORE, rel=1e-12)


@pytest.mark.parametrize("which", ["prediction", "truth"])
def test_other_units_are_refused_by_name(which):
    for variable, units, change in (
        ("tas", "degC", lambda a: a - 273.15),
        ("pr", "kg m-2 s-1", lambda a: a / 86400),
    ):
        for stated in (units, ""):
            ds = {"prediction": PREDICTION, "truth": TRUTH}
            values = change(TRUTH[variable]).drop_attrs().assign_attrs({"units": stated} if stated else {})
            ds[which] = ds[which].assign({variable: values})
            refused(ds["prediction"], ds["truth"], f"{variable} of the {which}", units if stated else "no units attri")


def test_a_truth_whose_units_attribute_is_wrong_is_refused_and_a_bad_prediction_is_scored():
    celsius = TRUTH.assign(tas=(TRUTH.tas - 273.15).assign_attrs(units="K"))
    refused(PREDICTION, celsius, "the values of tas of the truth cannot be in K")
    cold = PREDICTION.assign(tas=(PREDICTION.tas - 273.15).assign_attrs(units="K"))
    assert api.score(cold, TRUTH).value > 100


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_value_that_is_not_finite_is_named_with_its_address(value, which):
    pair = [PREDICTION.copy(deep=True), TRUTH.copy(deep=True)]
    pair[which]["pr"].values[3, 1, 2] = value
    refused(
        *pair, "the prediction" if which == 0 else "the truth", "1 NaN or infinite", "pr, 2090-05, lat -22.50, lon 150"
    )


def test_a_hidden_truth_is_no_truth():
    refused(PREDICTION, TRUTH * 0, "the truth is hidden", "24 months")
    part = TRUTH.copy(deep=True)
    part["tas"].values[5] = 0
    refused(PREDICTION, part, "the truth is hidden", "1 months", "2090-07")


def test_members_and_scenarios_are_refused_with_what_to_do():
    members = PREDICTION.expand_dims(member=3)
    refused(members, TRUTH, "member, 3 long", "ds.isel(member=0)", "ds.mean('member'")
    assert api.score(members.mean("member", keep_attrs=True), TRUTH).value == pytest.approx(SCORE, rel=1e-6)
    refused(PREDICTION, TRUTH.expand_dims(ssp=["ssp370"]), "ssp, 1 long", "ds.isel(ssp=0)")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        (lambda ds: ds.isel(time=0), "no dimension of time"),
        (lambda ds: ds.drop_vars("y"), "no coordinate y"),
        (lambda ds: ds.drop_vars("pr"), "lacks pr"),
        (lambda ds: ds.isel(time=slice(0)), "time is empty"),
        (lambda ds: ds.tas, "not a dataset"),
        (lambda ds: ds.assign_coords(y=ds.y * 2), "not a latitude"),
        (lambda ds: ds.assign_coords(x=list("abcdef")), "not in degrees"),
        (lambda ds: ds.assign(tas=ds.tas.astype(str)), "not numeric"),
        (lambda ds: ds.assign(tas=ds.tas.rename(y="lat")), "on different dimensions"),
        (lambda ds: ds.isel(y=slice(None, None, -1)), "differ along y"),
    ],
)
def test_what_cannot_be_scored_is_an_error_with_a_name(broken, words):
    refused(broken(PREDICTION), TRUTH, words)
    if words not in ("differ along y",):
        refused(PREDICTION, broken(TRUTH), words)


def test_the_two_doors_give_one_number_and_one_refusal(tmp_path):
    grid = Grid(np.round(GRID.lat, 2), np.round(GRID.lon, 2))
    write_submission(tmp_path / "p.csv", fields(1), grid)
    write_submission(tmp_path / "t.csv", fields(0), grid)
    assert score_csv(tmp_path / "p.csv", tmp_path / "t.csv").value == pytest.approx(SCORE, rel=1e-6)
    hidden = fields(0)
    hidden[3, 0] = 0
    with pytest.raises(SubmissionError, match="the truth is hidden") as error:
        score_submission(tmp_path / "p.csv", hidden, grid)
    assert "t003_tas_-67.50_30.00" in str(error.value)
    hidden[3, 0, 1, 1] = np.nan
    with pytest.raises(SubmissionError, match="the truth has values that are not finite") as error:
        score_submission(tmp_path / "p.csv", hidden, grid)
    assert "t003_tas_-22.50_90.00" in str(error.value)
