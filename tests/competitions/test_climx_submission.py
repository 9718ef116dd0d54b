"""ClimX submissions: what is written is what is read, and every mistake has a sentence of its own."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emukit.competitions.climx.submission import (
    CELLS,
    COLUMNS,
    ROWS,
    check_table,
    read_submission,
    read_table,
    write_submission,
)
from emukit.errors import SubmissionError
from emukit.metrics.extremes import INDICES, UNITS


def lite(seed=0):
    rng = np.random.default_rng(seed)
    shape = (86, 12, 18)
    made = {}
    for name, unit in UNITS.items():
        if unit == "K":
            made[name] = rng.normal(285, 8, shape)
        elif unit == "days":
            made[name] = rng.integers(6, 364, shape).astype(float)
        else:
            made[name] = 1 + rng.gamma(2, 40, shape)
    return made


@pytest.mark.slow
def test_a_submission_that_does_not_read_back(tmp_path):
    indices = lite()
    assert write_submission(tmp_path / "s.parquet", indices) == ROWS
    table = read_table(tmp_path / "s.parquet")
    assert tuple(table.column_names) == COLUMNS
    assert table["SU"].type == pa.int64()
    assert table["TXx"].type == pa.float64()
    # Row by row: year, then latitude, then longitude; each lite cell fills 16 x 16 cells.
    assert table["TXx"][CELLS * 3 + 288 * 40 + 100].as_py() == indices["TXx"][3, 40 // 16, 100 // 16]
    assert table["row_id"][-1].as_py() == ROWS - 1
    read = read_submission(tmp_path / "s.parquet")
    assert np.array_equal(read["R95p"][:, ::16, ::16], indices["R95p"])


@pytest.mark.slow
def test_a_submission_that_is_written_with_missing_values(tmp_path):
    indices = lite()
    indices["SDII"][4, 5, 6] = np.nan
    with pytest.raises(SubmissionError, match="SDII: 256 values are missing"):
        write_submission(tmp_path / "s.parquet", indices)
    assert not list(tmp_path.iterdir())


def test_an_index_that_is_left_out(tmp_path):
    indices = lite()
    del indices["GSL"]
    with pytest.raises(SubmissionError, match="GSL"):
        write_submission(tmp_path / "s.parquet", indices)


def test_a_grid_or_name_that_does_not_fit(tmp_path):
    with pytest.raises(SubmissionError, match="ends in"):
        write_submission(tmp_path / "s.txt", lite())
    with pytest.raises(SubmissionError, match="another shape"):
        write_submission(tmp_path / "s.csv", lite() | {"GSL": np.ones((85, 12, 18))})
    with pytest.raises(SubmissionError, match="another grid"):
        write_submission(tmp_path / "s.csv", lite() | {"GSL": np.ones((86, 13, 18))})


def one(name, values):
    """The sentences about one column, among those about the columns that are not there."""
    problems = check_table(pa.table({name: values}))
    return [p for p in problems if p.startswith((f"{name}:", f"{name} is"))]


@pytest.mark.parametrize(
    ("name", "good", "bad", "sentence"),
    [
        ("TXx", 300.0, 26.85, "degrees Celsius"),
        ("TNn", 250.0, 400.0, "outside 150 to 350 K"),
        ("SU", 365.0, 366.0, "more than 365"),
        ("FD", 3.0, -1.0, "negative"),
        ("WSDI", 6.0, 5.0, "spells of less than 6"),
        ("CSDI", 0.0, 1.0, "spells of less than 6"),
        ("GSL", 1.0, 0.5, "less than a day"),
        ("SDII", 1.0, 0.4, "less than 1 mm/day"),
        ("Rx5day", 0.0, np.inf, "infinite"),
        ("CDD", 12.0, np.nan, "NaN"),
    ],
)
def test_a_value_that_no_climate_has(name, good, bad, sentence):
    values = np.full(1000, good)
    assert one(name, values) == []
    values[700] = bad
    (problem,) = one(name, values)
    assert sentence in problem
    assert "row 700 (2015" in problem


def test_precipitation_in_the_wrong_unit():
    assert one("R95p", np.array([0.0, 0.0, 800.0])) == []
    (problem,) = one("R95p", np.array([0.0, 0.0, 800 / 86400]))
    assert "kg m-2 s-1 instead of mm" in problem


def test_a_last_year_of_365_days():
    values = np.full(ROWS, 364)
    values[: ROWS - CELLS] = 365
    assert one("TR", values) == []
    values[-1] = 365
    (problem,) = one("TR", values)
    assert "365 days in 2100" in problem


def test_rows_that_are_in_another_order():
    ids = np.arange(ROWS)
    ids[[5, 6]] = ids[[6, 5]]
    assert any("does not count 0, 1, 2" in p for p in check_table(pa.table({"row_id": ids})))
    assert any("instead of int64" in p for p in check_table(pa.table({"row_id": ids.astype(float)})))
    assert any("10 rows instead of 4,755,456" in p for p in check_table(pa.table({"row_id": np.arange(10)})))


def test_columns_that_do_not_belong():
    columns = {name: np.zeros(3) for name in reversed(COLUMNS)}
    assert any("another order" in p for p in check_table(pa.table(columns)))
    assert any("'Usage'" in p for p in check_table(pa.table({**columns, "Usage": ["Public"] * 3})))
    assert any("TXx is string" in p for p in check_table(pa.table({**columns, "TXx": ["a"] * 3})))
    missing = check_table(pa.table({"row_id": np.arange(3)}))
    assert sum("is missing" in p for p in missing) == len(INDICES)


def test_a_file_that_is_far_larger_than_a_submission(tmp_path):
    pq.write_table(pa.table({f"c{i}": np.zeros(2) for i in range(40)}), tmp_path / "wide.parquet")
    # Four times the rows, which compress to almost nothing.
    pq.write_table(pa.table({"row_id": np.zeros(4 * ROWS, np.int8)}), tmp_path / "long.parquet")
    for name in ("wide", "long"):
        with pytest.raises(SubmissionError, match="far more than a submission"):
            read_table(tmp_path / f"{name}.parquet")


def test_a_file_that_is_no_table(tmp_path):
    (tmp_path / "s.parquet").write_bytes(b"PAR1 nothing of the kind")
    (tmp_path / "s.csv").write_bytes(b"\xff\xfe\x00")
    for name in ("s.parquet", "s.csv", "absent.parquet"):
        with pytest.raises(SubmissionError):
            read_submission(tmp_path / name)
