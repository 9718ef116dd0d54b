"""Submissions that unpack to what fills a memory, or whose rows say another thing in columns than line by line."""

from __future__ import annotations

import gzip
import io
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emukit.errors import SubmissionError
from emukit.submission import check_submission, read_submission
from emukit.submission.lines import examine, examine_columns
from emukit.submission.read import TooLongError
from emukit.submission.rows import RowLayout
from tests.submission.cases import GRID, MONTHS, coded, lines_of, save, score_csv, score_submission

ROW = b"t000_tas_-60.00_1.88,1\n"
LAYOUT = RowLayout.of(GRID, MONTHS)


def packed(folder: Path, content: bytes, packing: str) -> Path:
    path = folder / f"bomb.{packing}"
    if packing == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("p.csv", content)
    else:
        path.write_bytes(gzip.compress(content) if packing == "csv.gz" else content)
    return path


BOMBS = {
    "rows": b"ID,Prediction\n" + ROW * 1_000_000,
    "one line": b"ID,Prediction\n" + b"x" * 30_000_000,
    "blank lines": b"ID,Prediction\n" + b"\n" * 30_000_000,
    "long IDs": b"ID,Prediction\n" + (b"x" * 100_000 + b",1\n") * 300,
    "columns": b"ID,Prediction\n" + b"," * 30_000_000,
    "an open quote": b'ID,Prediction\n"' + b"a\n" * 15_000_000,
    "header": b"I" * 30_000_000,
}


@pytest.mark.parametrize("packing", ["csv", "csv.gz", "zip"])
@pytest.mark.parametrize("bomb", BOMBS)
def test_what_holds_more_than_a_submission_can_fills_no_memory(tmp_path: Path, bomb: str, packing: str) -> None:
    path = packed(tmp_path, BOMBS[bomb], packing)
    tracemalloc.start()
    try:
        with pytest.raises(SubmissionError):
            score_submission(path, coded(), GRID)
        problems = check_submission(path, GRID, MONTHS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert {p.kind for p in problems} & {"too_long", "malformed", "unreadable", "header"}
    assert peak < 25e6


def test_a_solution_of_the_same_ids_again_and_again_is_left_early(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("emukit.submission.read.UNASKED_ROWS", 100_000)
    solution = packed(tmp_path, BOMBS["rows"], "csv")
    with pytest.raises(TooLongError, match="again and again"):
        score_csv(save(tmp_path / "p.csv", lines_of(coded())), solution)


def test_a_file_that_holds_everything_twice_is_told_so(tmp_path: Path) -> None:
    lines = lines_of(coded())
    problems = check_submission(save(tmp_path / "p.csv", lines + lines[1:]), GRID, MONTHS)
    assert [(p.kind, p.count) for p in problems] == [("duplicate", LAYOUT.size)]
    thrice = lines_of(coded(), GRID) + 3 * lines[1:]
    (problem,) = check_submission(save(tmp_path / "q.csv", thrice), GRID, MONTHS)
    assert problem.kind == "too_long"
    assert "reading stopped" in problem.message


@pytest.mark.parametrize("header", [b"ID\xe9,Prediction", b"\xff\xfeID,Prediction", b'"ID,Prediction'])
def test_a_header_that_is_not_text_is_named(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(header + b"\n" + ROW)
    with pytest.raises(SubmissionError, match=r"p\.csv cannot be read"):
        read_submission(path)
    assert check_submission(path, GRID, MONTHS)


@settings(max_examples=60)
@given(data=st.data())
def test_columns_and_lines_find_the_same(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    _, *rows = lines_of(coded(12))
    layout = RowLayout.of(GRID, 12)
    for _ in range(data.draw(st.integers(1, 8))):
        i, j = (data.draw(st.integers(0, len(rows) - 1)) for _ in range(2))
        name, value = rows[i].split(",")
        rows[i : i + 1] = data.draw(
            st.sampled_from(
                [
                    [],
                    [rows[i], rows[j]],
                    [f"{name},nan"],
                    [f"{name},inf"],
                    [f"x{name},{value}"],
                    [f"t099{name[4:]},{value}"],
                    [f"{name}1,{value}"],
                    [rows[j]],
                    [f",{value}"],
                ]
            )
        )
    path = save(tmp_path_factory.mktemp("p") / "p.csv", ["ID,Prediction", *rows])
    by_line = examine(io.BytesIO(path.read_bytes()), layout)
    by_column = examine_columns(read_submission(path, skip_blank_lines=False), layout)
    assert by_column.problems == by_line.problems
    np.testing.assert_array_equal(by_column.values, by_line.values)
    np.testing.assert_array_equal(by_column.lines, by_line.lines)
    assert by_column.strange_months == by_line.strange_months
    assert by_column.strange_cells == by_line.strange_cells
