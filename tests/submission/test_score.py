"""The official number, whatever the order of the rows, and a refusal wherever rows do not match."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from benchmarks.references import score_by_merge
from emukit.data.grid import Grid
from emukit.errors import SubmissionError
from emukit.metrics import Moments
from emukit.submission import RowLayout, write_submission
from tests.coded import score_moments
from tests.submission.cases import GRID, coded, lines_of, save, score_csv, score_submission

GOLDEN_FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((GOLDEN_FOLDER / "competition_metric.json").read_text())["cases"]


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"seed{c['seed']}")
def test_golden_cases_of_the_official_scorer(tmp_path: Path, case: dict) -> None:
    rng, shape = np.random.default_rng(case["seed"]), tuple(case["shape"])
    tas = 280 + 10 * rng.standard_normal(shape)
    pr = rng.gamma(0.7, 4.0, shape)
    tas_predicted = tas + rng.standard_normal(shape)
    pr_predicted = np.maximum(pr + rng.standard_normal(shape), 0)
    truth, prediction = np.stack([tas, pr], 1), np.stack([tas_predicted, pr_predicted], 1)
    grid = Grid(np.array(case["lat"]), np.array(case["lon"]))
    write_submission(tmp_path / "p.csv", prediction, grid)
    write_submission(tmp_path / "t.csv", truth, grid)
    assert score_csv(tmp_path / "p.csv", tmp_path / "t.csv").value == pytest.approx(case["official_score"], rel=1e-9)
    assert score_submission(tmp_path / "p.csv", truth, grid).value == pytest.approx(case["official_score"], rel=1e-9)
    exact = score_moments(Moments.of(prediction, truth), grid.weights)
    for variable, parts in case["parts"].items():
        for name, value in parts.items():
            assert exact[f"{variable}.{name}"] == pytest.approx(value, rel=1e-9)


def test_latitudes_are_rounded_as_in_the_ids(tmp_path: Path) -> None:
    grid = Grid(np.array([-80.004, 10.004, 80.004]), np.array([0.0, 180.0]))
    rng = np.random.default_rng(5)
    truth = 280 + rng.standard_normal((24, 2, 3, 2))
    prediction = truth + rng.standard_normal(truth.shape)
    write_submission(tmp_path / "p.csv", prediction, grid)
    write_submission(tmp_path / "t.csv", truth, grid)
    rounded = Grid(np.array([-80.0, 10.0, 80.0]), grid.lon)
    moments = Moments.of(prediction, truth)
    official, exact = (score_moments(moments, g.weights).value for g in (rounded, grid))
    assert abs(official / exact - 1) > 1e-7
    assert score_csv(tmp_path / "p.csv", tmp_path / "t.csv").value == pytest.approx(official, rel=1e-12)
    assert score_submission(tmp_path / "p.csv", truth, grid).value == pytest.approx(official, rel=1e-12)


def shuffled(lines: list[str], seed: int) -> list[str]:
    rows = lines[1:]
    random.Random(seed).shuffle(rows)
    return [lines[0], *rows]


def test_rows_in_any_order_give_the_same_number(tmp_path: Path) -> None:
    truth = coded()
    prediction = truth + np.random.default_rng(1).standard_normal(truth.shape)
    submission, solution = save(tmp_path / "p.csv", lines_of(prediction)), save(tmp_path / "t.csv", lines_of(truth))
    mixed_submission = save(tmp_path / "pm.csv", shuffled(lines_of(prediction), 1))
    mixed_solution = save(tmp_path / "tm.csv", shuffled(lines_of(truth), 2))
    expected = score_by_merge(submission, solution)
    for p in (submission, mixed_submission):
        for t in (solution, mixed_solution):
            assert score_csv(p, t).value == pytest.approx(expected, rel=1e-12)
        assert score_submission(p, truth, GRID).value == pytest.approx(expected, rel=1e-7)
    assert score_csv(submission, solution).months == 24


def test_csv_and_array_truth_give_one_number_in_float32(tmp_path: Path) -> None:
    truth = coded()
    prediction = (truth + np.random.default_rng(2).standard_normal(truth.shape)).astype(np.float32)
    write_submission(tmp_path / "p.csv", prediction, GRID)
    write_submission(tmp_path / "t.csv", truth, GRID)
    by_csv = score_csv(tmp_path / "p.csv", tmp_path / "t.csv").value
    assert score_submission(tmp_path / "p.csv", truth, GRID).value == pytest.approx(by_csv, rel=1e-6)


def test_other_columns_of_a_solution_are_ignored(tmp_path: Path) -> None:
    truth = coded()
    plain = save(tmp_path / "t.csv", lines_of(truth))
    header, *rows = lines_of(truth)
    usage = save(tmp_path / "u.csv", [f"{header},Usage", *(f"{row},Public" for row in rows)])
    submission = save(tmp_path / "p.csv", lines_of(truth + 1))
    assert score_csv(submission, usage) == score_csv(submission, plain)


@pytest.mark.parametrize("ending", [".csv.gz", ".zip"])
def test_packed_files_are_scored_alike(tmp_path: Path, ending: str) -> None:
    truth, prediction = coded(), coded() + np.float32(0.5)
    write_submission(tmp_path / f"p{ending}", prediction, GRID)
    write_submission(tmp_path / "p.csv", prediction, GRID)
    packed = score_submission(tmp_path / f"p{ending}", truth, GRID)
    assert packed == score_submission(tmp_path / "p.csv", truth, GRID)


MISMATCHES = {
    "missing": (lambda s: [*s[:7], *s[8:]], "1 missing IDs, for example t000_tas_1.8._181.88"),
    "unknown": (
        lambda s: [*s[:5], "t000_tas_9.99_1.88,3.0", *s[6:]],
        "1 missing IDs, .*; 1 unknown IDs, for example t000_tas_9.99_1.88",
    ),
    "unknown cell": (
        lambda s: [*s[:75], "t003_tas_9.99_1.88,3.0", *s[76:]],
        "1 missing IDs, .*; 1 unknown IDs, for example t003_tas_9.99_1.88\n",
    ),
    "repeated": (lambda s: [*s, s[3]], "1 repeated IDs, for example t000_tas_-60.00_181.88"),
    "month": (lambda s: s[:-24], "24 missing IDs, for example t023_tas_-60.00_1.88"),
    "shift": (lambda s: [s[0], *lines_of(coded(), first=1)[1:]], "24 missing .* t000_tas.*; 24 unknown .* t024_tas"),
}


@pytest.mark.parametrize("name", MISMATCHES)
def test_ids_that_do_not_match_are_counted_and_named(tmp_path: Path, name: str) -> None:
    change, message = MISMATCHES[name]
    submission = save(tmp_path / "p.csv", change(lines_of(coded())))
    solution = save(tmp_path / "t.csv", lines_of(coded()))
    with pytest.raises(SubmissionError, match=message):
        score_csv(submission, solution)
    with pytest.raises(SubmissionError, match=message):
        score_submission(submission, coded(), GRID)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_value_that_is_not_finite_gives_no_score(tmp_path: Path, number: str) -> None:
    lines = lines_of(coded())
    lines[4] = lines[4].split(",")[0] + "," + number
    submission = save(tmp_path / "p.csv", lines)
    with pytest.raises(SubmissionError, match=r"1 NaN or infinite, the first at t000_tas_-60\.00_271\.88"):
        score_submission(submission, coded(), GRID)
    with pytest.raises(SubmissionError, match="not finite"):
        score_csv(save(tmp_path / "t.csv", lines_of(coded())), submission)


@pytest.mark.parametrize("number", ["", "NA", "five", "1,5"])
def test_a_value_that_is_no_number_gives_no_score(tmp_path: Path, number: str) -> None:
    lines = lines_of(coded())
    lines[4] = lines[4].split(",")[0] + "," + number
    with pytest.raises(SubmissionError, match="cannot be read as a submission") as error:
        score_submission(save(tmp_path / "p.csv", lines), coded(), GRID)
    assert "check-submission" in error.value.hint


def test_columns_of_other_names_give_no_score(tmp_path: Path) -> None:
    lines = lines_of(coded())
    for header in ("id,value", "ID,prediction", lines[1]):
        path = save(tmp_path / "p.csv", [header, *lines[1:]])
        with pytest.raises(SubmissionError, match="cannot be read as a submission"):
            score_submission(path, coded(), GRID)


def test_a_hidden_truth_gives_no_score(tmp_path: Path) -> None:
    submission = save(tmp_path / "p.csv", lines_of(coded()))
    truth = coded()
    truth[20:] = 0
    with pytest.raises(SubmissionError, match="hidden"):
        score_submission(submission, truth, GRID)
    with pytest.raises(SubmissionError, match="hidden"):
        score_csv(submission, save(tmp_path / "t.csv", lines_of(truth)))


def test_a_truth_that_is_not_finite_gives_no_score(tmp_path: Path) -> None:
    submission = save(tmp_path / "p.csv", lines_of(coded()))
    truth = coded()
    truth[3, 1, 0, 0] = np.nan
    with pytest.raises(SubmissionError, match="the truth has values that are not finite"):
        score_submission(submission, truth, GRID)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        (lines_of(coded(), first=1)[1:], "count up from t000"),
        (lines_of(coded())[1:-1], "full block"),
        (["t000_tas_x,1"], "another form"),
        (["t000_tas_0_1,1"], "another form"),
        (["t000_rain_0.00_1.00,1"], "not a solution of UCSD CSE 151B"),
    ],
)
def test_a_solution_that_is_none_is_refused(tmp_path: Path, rows: list[str], message: str) -> None:
    solution = save(tmp_path / "t.csv", ["ID,Prediction", *rows])
    with pytest.raises(SubmissionError, match=message):
        score_csv(save(tmp_path / "p.csv", lines_of(coded())), solution)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"nowhere\.csv"):
        score_submission(tmp_path / "nowhere.csv", coded(), GRID)


def test_a_layout_read_off_shuffled_ids_is_the_layout() -> None:
    # Neither sorts as text as it does as a number.
    layout = RowLayout.of(Grid(np.array([-60.0, -5.0, 60.0]), np.array([5.0, 95.0, 185.0])), 24)
    ids = layout.ids.take(np.random.default_rng(0).permutation(layout.size))
    found = RowLayout.from_ids(ids)
    assert (found.months, set(found.variables), found.lat, found.lon) == (24, {"tas", "pr"}, layout.lat, layout.lon)


def test_positions_are_those_of_the_order_and_minus_one_elsewhere() -> None:
    layout = RowLayout.of(GRID, 24)
    ids = layout.ids.to_pylist()
    asked = [ids[500], "t024" + ids[1][4:], "t003_tas_9.99_1.88", "", "t000", "é" * 30, ids[0]]
    assert layout.positions(pa.chunked_array([asked])).tolist() == [500, -1, -1, -1, -1, -1, 0]
    assert layout.id_at(500) == ids[500]


@pytest.mark.real
@pytest.mark.parametrize(
    ("span", "ssp", "start", "stop"),
    [("ssp370 2060-02..2070-01 (120 months)", 2, 541, 661), ("ssp585 last 360 months", 3, 661, 1021)],
)
def test_golden_scores_of_a_real_run(
    real_store: Path, tmp_path: Path, span: str, ssp: int, start: int, stop: int
) -> None:
    zarr = pytest.importorskip("zarr")
    store = zarr.open_group(real_store, mode="r")
    grid = Grid(np.asarray(store["y"]), np.asarray(store["x"]))
    truth, prediction = (np.stack([store[v][ssp, start:stop, m] for v in ("tas", "pr")], 1) for m in (0, 1))
    golden = json.loads((GOLDEN_FOLDER / "real_store_member1_vs_member0.json").read_text())[span]
    write_submission(tmp_path / "p.csv", prediction, grid)
    score = score_submission(tmp_path / "p.csv", truth, grid)
    assert score.value == pytest.approx(golden["official_score"], rel=1e-9)
    assert score.months == stop - start
    exact = score_moments(Moments.of(prediction, truth), grid.weights)
    for variable, parts in golden["parts"].items():
        for name, value in parts.items():
            assert exact[f"{variable}.{name}"] == pytest.approx(value, rel=1e-9)
    write_submission(tmp_path / "t.csv", truth, grid)
    by_csv = score_csv(tmp_path / "p.csv", tmp_path / "t.csv").value
    assert by_csv == pytest.approx(golden["official_score"], rel=1e-9)


def test_the_plain_reference_is_the_official_scorer(tmp_path: Path) -> None:
    case = GOLDEN[0]
    rng, shape = np.random.default_rng(case["seed"]), tuple(case["shape"])
    tas, pr = 280 + 10 * rng.standard_normal(shape), rng.gamma(0.7, 4.0, shape)
    prediction = np.stack([tas + rng.standard_normal(shape), np.maximum(pr + rng.standard_normal(shape), 0)], 1)
    grid = Grid(np.array(case["lat"]), np.array(case["lon"]))
    submission = save(tmp_path / "p.csv", lines_of(prediction, grid))
    solution = save(tmp_path / "t.csv", lines_of(np.stack([tas, pr], 1), grid))
    assert score_by_merge(submission, solution) == pytest.approx(case["official_score"], rel=1e-9)
    assert len(pd.read_csv(submission)) == prediction.size
