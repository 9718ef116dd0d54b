"""What a written submission must be: the right rows, every bit of every number, whole or not there."""

from __future__ import annotations

import gzip
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from emukit.data.grid import Grid
from emukit.errors import EmukitError, SubmissionError
from emukit.submission import RowLayout, read_submission, submission_ids, write_submission
from emukit.submission.score import arrange
from tests.submission.cases import GRID, coded, lines_of


def test_rows_stand_in_the_order_time_variable_lat_lon(tmp_path: Path) -> None:
    prediction = coded()
    rows = write_submission(tmp_path / "a.csv", prediction, GRID)
    written = (tmp_path / "a.csv").read_text().splitlines()
    expected = lines_of(prediction)
    assert rows == len(expected) - 1
    assert [line.split(",")[0] for line in written] == [line.split(",")[0] for line in expected]
    values = pd.read_csv(tmp_path / "a.csv")["Prediction"].to_numpy(np.float32)
    np.testing.assert_array_equal(values, prediction.ravel())


def test_the_id_of_the_competition_is_reproduced() -> None:
    edge = 88.58638743455498
    grid = Grid(np.linspace(-edge, edge, 48), 1.875 + 5.0 * np.arange(72))
    ids = submission_ids(grid, 360)
    assert len(ids) == 2_488_320
    # 1.875 is written 1.88 and 356.875 356.88: halves go to the even digit, as Python formats them.
    assert ids[0].as_py() == "t000_tas_-88.59_1.88"
    assert ids[72 * 48].as_py() == "t000_pr_-88.59_1.88"
    assert ids[len(ids) - 1].as_py() == "t359_pr_88.59_356.88"


def test_a_half_goes_to_the_even_digit_in_an_id() -> None:
    ids = submission_ids(Grid(np.array([0.0]), np.array([1.125, 1.375])), 1, ("tas",))
    assert ids.to_pylist() == ["t000_tas_0.00_1.12", "t000_tas_0.00_1.38"]


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, Grid]:
    months, y, x = draw(st.integers(1, 14)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    lat = sorted(draw(st.sets(st.integers(-9000, 9000), min_size=y, max_size=y)))
    lon = sorted(draw(st.sets(st.integers(0, 35999), min_size=x, max_size=x)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    floats = st.floats(allow_nan=False, allow_infinity=False, width=32 if dtype is np.float32 else 64)
    fields = draw(st_numpy.arrays(dtype, (months, 2, y, x), elements=floats))
    return fields, Grid(np.array(lat) / 100, np.array(lon) / 100)


@settings(max_examples=60)
@given(case=predictions(), ending=st.sampled_from([".csv", ".csv.gz", ".zip"]))
def test_every_bit_of_every_number_comes_back(
    case: tuple[np.ndarray, Grid], ending: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    prediction, grid = case
    path = tmp_path_factory.mktemp("round") / f"entry{ending}"
    write_submission(path, prediction, grid)
    columns = read_submission(path)
    assert columns.ids.equals(submission_ids(grid, len(prediction)))
    back = columns.values.astype(prediction.dtype).reshape(prediction.shape)
    np.testing.assert_array_equal(back.view(np.uint8), prediction.view(np.uint8))
    fields = arrange(columns, RowLayout.of(grid, len(prediction)), "x")
    np.testing.assert_array_equal(fields, prediction.astype(str).astype(np.float64))


def test_a_number_is_written_no_longer_than_its_float_needs(tmp_path: Path) -> None:
    prediction = np.full((1, 2, *GRID.shape), 247.13, np.float32)
    write_submission(tmp_path / "a.csv", prediction, GRID)
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == "t000_tas_-60.00_1.88,247.13"


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".zip"])
def test_equal_predictions_give_equal_bytes(tmp_path: Path, ending: str) -> None:
    for folder in ("first", "second"):
        write_submission(tmp_path / folder / f"a{ending}", coded(), GRID)
        time.sleep(1.1 if ending != ".csv" and folder == "first" else 0)  # a time stamp of gzip counts seconds
    assert (tmp_path / "first" / f"a{ending}").read_bytes() == (tmp_path / "second" / f"a{ending}").read_bytes()


def test_packed_files_hold_the_plain_one(tmp_path: Path) -> None:
    for ending in (".csv", ".csv.gz", ".zip", ".csv.zip"):
        write_submission(tmp_path / f"a{ending}", coded(), GRID)
    plain = (tmp_path / "a.csv").read_bytes()
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()) == plain
    # The fourth byte of gzip is its flags: none, so no name of a temporary file.
    assert (tmp_path / "a.csv.gz").read_bytes()[3] == 0
    for name in ("a.zip", "a.csv.zip"):
        with zipfile.ZipFile(tmp_path / name) as archive:
            assert archive.namelist() == ["a.csv"]
            assert archive.testzip() is None
            assert archive.read("a.csv") == plain
            assert archive.infolist()[0].external_attr >> 16 == 0o644  # others may read what unzip makes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: np.where(p == p[3, 1, 2, 0], np.nan, p).astype(np.float32), "t003_pr_60.00_1.88"),
        (lambda p: np.where(p == p[0, 0, 0, 1], np.inf, p).astype(np.float32), "1 NaN or infinite"),
        (lambda p: p[:, :1], "shape"),
        (lambda p: p.transpose(0, 1, 3, 2), "shape"),
        (lambda p: p[0], "shape"),
        (lambda p: p[:0], "between 1 and 1000"),
        (lambda p: p.astype(np.float16), "float16"),
        (lambda p: p.astype(np.int64), "int64"),
        (lambda p: np.zeros((1001, 2, 3, 4), np.float32), "1001 months"),
    ],
)
def test_what_cannot_be_a_submission_is_refused_and_nothing_written(tmp_path: Path, change, message: str) -> None:
    (tmp_path / "a.csv").write_text("the old one")
    with pytest.raises(SubmissionError, match=message):
        write_submission(tmp_path / "a.csv", change(coded()), GRID)
    assert [p.name for p in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "the old one"


def test_a_name_that_tells_no_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=r"\.csv\.gz"):
        write_submission(tmp_path / "a.parquet", coded(), GRID)


def test_cells_that_would_share_an_id_are_refused(tmp_path: Path) -> None:
    fine = Grid(np.array([0.001, 0.002]), np.array([0.0, 180.0]))
    with pytest.raises(SubmissionError, match="ID of its own"):
        write_submission(tmp_path / "a.csv", np.zeros((1, 2, 2, 2), np.float32), fine)


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EmukitError, match="No space left"):
        write_submission(tmp_path / "a.csv.gz", coded(), GRID)
    assert list(tmp_path.iterdir()) == []


def test_a_view_with_strides_is_written_in_index_order(tmp_path: Path) -> None:
    stored = np.ascontiguousarray(coded().transpose(1, 2, 3, 0))
    write_submission(tmp_path / "view.csv", stored.transpose(3, 0, 1, 2), GRID)
    write_submission(tmp_path / "own.csv", coded(), GRID)
    assert (tmp_path / "view.csv").read_bytes() == (tmp_path / "own.csv").read_bytes()


def test_writing_needs_no_torch() -> None:
    code = "import emukit.submission, sys; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
