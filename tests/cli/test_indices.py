"""`emukit indices`: from daily files to indices, read a year and a band of rows at a time."""

import json

import cftime
import numpy as np
import pytest
import xarray as xr

from emukit.competitions.climx.indices import (
    Percentiles,
    check_output,
    compute_indices,
    find_percentiles,
    parse_period,
    write_indices,
)
from emukit.data.daily import DAYS, open_daily
from emukit.errors import EmukitError, StoreError
from emukit.metrics.extremes import INDICES, VARIABLES, Thresholds, annual_indices
from emukit.progress import silent_reporter
from tests.golden import climx_fields

QUIET = silent_reporter()
ATTRIBUTES = {"tas": "K", "tasmax": "K", "tasmin": "K", "pr": "kg m-2 s-1"}


def dataset(fields, first_year, **units):
    """Daily fields of the lite grid with the axes of a ClimX file."""
    n = len(fields["tas"])
    start = cftime.DatetimeNoLeap(first_year, 1, 1, 12)
    days = cftime.num2date(np.arange(n) + 0.5, f"days since {first_year}-01-01", calendar="noleap")
    assert days[0] == start
    data = {v: (("forcing_scenario", "time", "lat", "lon"), fields[v][None]) for v in VARIABLES}
    ds = xr.Dataset(data, {"time": days, "lat": climx_fields.LAT, "lon": climx_fields.LON})
    for v in VARIABLES:
        ds[v].attrs["units"] = units.get(v, ATTRIBUTES[v])
    # Forcings lie on axes of their own, and are none of the indices' business.
    ds["CO2_LBC"] = (("forcing_scenario", "time_year"), np.ones((1, 30), np.float32))
    return ds


@pytest.fixture(scope="module")
def files(climx_climate, tmp_path_factory):
    made, folder = climx_climate, tmp_path_factory.mktemp("climx")
    hist = dataset(made["hist"], 1958)
    # Cut in the middle of a year, as the published files are.
    hist.isel(time=slice(0, 4000)).to_netcdf(folder / "b_hist_train_1.nc")
    hist.isel(time=slice(4000, None)).to_netcdf(folder / "a_hist_train_2.nc")
    dataset(made["pred"], 2015).to_netcdf(folder / "pred.nc")
    dataset(made["pred"], 2015).to_zarr(folder / "pred.zarr", zarr_format=2)
    return folder


@pytest.fixture(scope="module")
def base(files):
    return [files / "b_hist_train_1.nc", files / "a_hist_train_2.nc"]


@pytest.fixture(scope="module")
def percentiles(base, files):
    return find_percentiles(base, files / "thresholds.nc", (1961, 1990), QUIET)


def test_indices_that_depend_on_how_the_days_are_stored_or_read(climx_climate, files, percentiles):
    from_files = compute_indices([files / "pred.nc"], percentiles, QUIET)
    from_zarr = compute_indices([files / "pred.zarr"], percentiles, QUIET)
    xr.testing.assert_equal(from_files, from_zarr)
    assert from_files.attrs["daily_sha256"] == from_zarr.attrs["daily_sha256"]

    made = climx_climate
    years = made["hist_years"]
    base = (years >= 1961) & (years <= 1990)
    whole = Thresholds.of({v: made["hist"][v].reshape(len(years), -1)[base] for v in VARIABLES})
    flat = {v: made["pred"][v][: 15 * DAYS].reshape(15, DAYS, -1) for v in VARIABLES}
    expected = annual_indices(flat, whole)
    for name in INDICES:
        assert np.array_equal(from_files[name].values[:15].reshape(15, -1), expected[name]), name
    assert from_files.year.values.tolist() == list(range(2015, 2031))
    assert from_files.TXx.attrs["units"] == "K"


def test_percentiles_that_are_computed_again_though_they_are_kept(files, percentiles):
    kept = find_percentiles([], files / "thresholds.nc", (1961, 1990), QUIET)
    assert kept.base_sha256 == percentiles.base_sha256
    assert np.array_equal(kept.values.pr, percentiles.values.pr)
    with pytest.raises(EmukitError, match="another base period"):
        find_percentiles([], files / "thresholds.nc", (1971, 1990), QUIET)


def test_percentiles_of_nothing(files, base, tmp_path):
    with pytest.raises(EmukitError, match="percentiles of a historical run"):
        find_percentiles([], None, (1961, 1990), QUIET)
    with pytest.raises(StoreError, match="does not hold the base period"):
        find_percentiles(base, None, (1941, 1970), QUIET)
    (tmp_path / "t.nc").write_bytes(b"nothing")
    with pytest.raises(StoreError, match="does not hold percentiles"):
        Percentiles.load(tmp_path / "t.nc")


def test_degrees_celsius_and_mm_that_are_taken_for_kelvin_and_kg(climx_climate, files, percentiles, tmp_path):
    made = climx_climate["pred"]
    other = {v: made[v] - np.float32(273.15) for v in ("tas", "tasmax", "tasmin")} | {"pr": made["pr"] * 86400}
    units = dict.fromkeys(("tas", "tasmax", "tasmin"), "degC") | {"pr": "mm/day"}
    dataset(other, 2015, **units).to_netcdf(tmp_path / "celsius.nc")
    mine = compute_indices([tmp_path / "celsius.nc"], percentiles, QUIET)
    golden = compute_indices([files / "pred.nc"], percentiles, QUIET)
    np.testing.assert_allclose(mine.TXx, golden.TXx, atol=1e-4)
    np.testing.assert_allclose(mine.Rx5day, golden.Rx5day, rtol=1e-5)
    dataset(made, 2015, pr="").to_netcdf(tmp_path / "unitless.nc")
    with pytest.raises(StoreError, match="units that are not known"):
        compute_indices([tmp_path / "unitless.nc"], percentiles, QUIET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.isel(time=slice(10, None)), "begin on 1 January"),
        (lambda ds: ds.drop_vars("tasmax"), "tasmax is missing"),
        (lambda ds: ds.isel(time=[0, 1, 3, 4]), "not consecutive"),
        (lambda ds: ds.isel(lat=slice(0, 6)), "another grid"),
        (lambda ds: ds.isel(lat=slice(None, None, -1)), "do not ascend"),
        (lambda ds: ds.where(ds.lat > -80), "not finite"),
        (lambda ds: xr.concat([ds.expand_dims("member")] * 2, "member"), "more than one field a day"),
    ],
)
def test_daily_files_that_mean_something_else(files, percentiles, tmp_path, change, message):
    with xr.open_dataset(files / "pred.nc", chunks=None) as ds:
        change(ds).to_netcdf(tmp_path / "odd.nc")
    with pytest.raises(StoreError, match=message):
        compute_indices([tmp_path / "odd.nc"], percentiles, QUIET)


def test_files_with_a_gap_or_another_calendar(files, base, tmp_path):
    from contextlib import ExitStack

    with ExitStack() as stack, pytest.raises(StoreError, match="does not follow"):
        open_daily([base[0], files / "pred.nc"], stack)
    with xr.open_dataset(files / "pred.nc", chunks=None, decode_times=False) as ds:
        ds.time.attrs["calendar"] = "standard"
        ds.to_netcdf(tmp_path / "leap.nc")
    with ExitStack() as stack, pytest.raises(StoreError, match="calendar standard"):
        open_daily([tmp_path / "leap.nc"], stack)
    (tmp_path / "broken.nc").write_bytes(b"CDF")
    with ExitStack() as stack, pytest.raises(StoreError, match="cannot read"):
        open_daily([tmp_path / "broken.nc"], stack)


def test_a_submission_of_other_years_than_the_competition_asks(files, percentiles, tmp_path):
    short = compute_indices([files / "pred.nc"], percentiles, QUIET)
    with pytest.raises(EmukitError, match="not a ClimX submission"):
        write_indices(short, tmp_path / "s.parquet")
    assert not list(tmp_path.iterdir())


def test_a_submission_that_does_not_say_which_daily_fields_it_is_of(files, percentiles, tmp_path):
    made = compute_indices([files / "pred.nc"], percentiles, QUIET)
    # Six times the sixteen years, cut to 86: the content does not matter here.
    longer = xr.concat([made] * 6, "year").isel(year=slice(0, 86)).assign_coords(year=range(2015, 2101))
    for name in INDICES:
        if made[name].attrs["units"] == "days":
            longer[name] = longer[name].clip(max=364)
    write_indices(longer.assign_attrs(made.attrs), tmp_path / "s.parquet")
    kept = json.loads((tmp_path / "s.parquet.json").read_text())
    assert kept["daily_sha256"] == made.attrs["daily_sha256"]
    assert kept["base_period"] == [1961, 1990]


def test_an_output_that_replaces_a_file(tmp_path):
    taken = tmp_path / "mine.nc"
    taken.write_text("precious")
    with pytest.raises(EmukitError, match="exists"):
        check_output(taken)
    with pytest.raises(EmukitError, match="ends in"):
        check_output(tmp_path / "x.txt")
    with pytest.raises(EmukitError, match="base period"):
        parse_period("1990-1961")


@pytest.fixture(scope="module")
def submissions(tmp_path_factory):
    """A truth with a trend, and a submission that misses by noise, on the lite grid."""
    from emukit.competitions.climx.submission import write_submission
    from emukit.metrics.extremes import UNITS

    folder, rng = tmp_path_factory.mktemp("submissions"), np.random.default_rng(5)
    trend = np.linspace(0, 1, 86)[:, None, None]
    truth, prediction = {}, {}
    for name, unit in UNITS.items():
        centre = 280 if unit == "K" else 100
        truth[name] = np.round(centre + 8 * trend + rng.normal(0, 3, (86, 12, 18)), 3)
        prediction[name] = np.round(centre + 8 * trend + rng.normal(0, 3, (86, 12, 18)), 3)
    write_submission(folder / "truth.parquet", truth)
    write_submission(folder / "mine.parquet", prediction)
    return folder, truth, prediction


def test_a_climx_score_of_other_numbers_than_the_file_holds(emukit, submissions):
    from emukit.competitions.climx.score import ClimXScore, score_index

    folder, truth, prediction = submissions
    answer = emukit("score", folder / "mine.parquet", folder / "truth.parquet", "--format", "json")
    assert answer.code == 0, answer.err
    rows = json.loads(answer.out)
    late = {n: score_index(truth[n][56:], prediction[n][56:]) for n in INDICES}
    assert float(rows[0]["2071-2100"]) == pytest.approx(ClimXScore(late).value, abs=1e-4)
    assert float(rows[1]["2071-2100"]) == pytest.approx(late["TXx"].value, abs=1e-4)
    assert rows[1]["cells"] == "27,871"
    # The same years against themselves: the exact answer.
    same = json.loads(emukit("score", folder / "truth.parquet", folder / "truth.parquet", "--format", "json").out)
    assert float(same[0]["2015-2100"]) == 1.0


def test_a_climx_submission_that_is_checked_as_another_competition_s(emukit, submissions):
    folder, _, _ = submissions
    answer = emukit("check-submission", folder / "mine.parquet")
    assert answer.code == 0
    assert "valid ClimX submission" in answer.out
    wrong = folder / "wrong.csv"
    wrong.write_text("row_id,TXx\n0,28.5\n")
    answer = emukit("check-submission", wrong)
    assert answer.code == 1
    assert "column TNn is missing" in answer.out
    assert "degrees Celsius" in answer.out
    assert emukit("score", folder / "mine.parquet").code == 2


def test_a_split_of_a_solution_that_is_not_scored_by_itself(submissions):
    import pyarrow as pa
    import pyarrow.parquet as pq

    from emukit.competitions.climx.parts import score_files
    from emukit.competitions.climx.submission import CELLS, read_table

    folder, truth, prediction = submissions
    words = np.repeat(np.where(np.arange(86) < 30, "Public", "Private"), CELLS)
    table = read_table(folder / "truth.parquet").append_column("Usage", pa.array(words).dictionary_encode())
    pq.write_table(table, folder / "solution.parquet")
    scored = score_files(folder / "mine.parquet", folder / "solution.parquet")
    assert set(scored.parts) == {"Public", "Private"}
    from emukit.competitions.climx.score import score_index

    expected = score_index(truth["TNn"][:30], prediction["TNn"][:30])
    assert scored.parts["Public"].indices["TNn"].value == pytest.approx(expected.value, abs=1e-12)


def test_indices_that_replace_a_file_of_another_origin(files, percentiles, tmp_path):
    made = compute_indices([files / "pred.nc"], percentiles, QUIET)
    write_indices(made, tmp_path / "i.nc")
    with pytest.raises(EmukitError, match="exists"):
        write_indices(made, tmp_path / "i.nc")
    write_indices(made, tmp_path / "i.nc", overwrite=True)
    with pytest.raises(EmukitError, match="not a file of `emukit indices`"):
        check_output(files / "pred.nc", overwrite=True)
    (tmp_path / "s.csv").write_text("a,b\n")
    with pytest.raises(EmukitError, match="not a submission"):
        check_output(tmp_path / "s.csv", overwrite=True)


def test_an_option_about_a_store_that_does_nothing_for_climx(emukit, submissions):
    folder, _, _ = submissions
    for words in (("--data", "demo"), ("--protocol", "k360"), ("--convert", "tas=degC")):
        for command in (("check-submission",), ("score", folder / "truth.parquet")):
            answer = emukit(command[0], folder / "mine.parquet", *command[1:], *words)
            assert answer.code == 2
            assert words[0] in answer.err
