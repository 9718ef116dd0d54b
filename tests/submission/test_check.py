"""Every way in which a submission can be wrong has a name, a count and line numbers; a good one has no problem."""

from __future__ import annotations

import gzip
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emukit.data.grid import Grid
from emukit.errors import SubmissionError
from emukit.submission import Problem, check_submission, write_submission
from tests.submission.cases import CELLS, GRID, MONTHS, coded, lines_of, save

Lines = list[str]


def check(path: Path, **changes: object) -> list[Problem]:
    return check_submission(path, **{"grid": GRID, "months": MONTHS, **changes})


def kinds(problems: list[Problem]) -> list[str]:
    return [problem.kind for problem in problems]


def renamed(lines: Lines, at: int, **parts: str) -> Lines:
    name, number = lines[at].split(",")
    return [*lines[:at], f"{parts.get('name', name)},{parts.get('number', number)}", *lines[at + 1 :]]


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".zip"])
def test_a_written_submission_has_no_problem(tmp_path: Path, ending: str) -> None:
    write_submission(tmp_path / f"a{ending}", coded(), GRID)
    assert check(tmp_path / f"a{ending}", reference=coded()) == []


GOOD: dict[str, Callable[[Lines], bytes]] = {
    "windows line ends": lambda s: "\r\n".join([*s, ""]).encode(),
    "no last line end": lambda s: "\n".join(s).encode(),
    "blank last line": lambda s: "\n".join([*s, "", ""]).encode(),
    "blank line inside": lambda s: "\n".join([*s[:9], "", *s[9:], ""]).encode(),
    "quoted ids": lambda s: "\n".join([s[0], *('"' + row.replace(",", '",') for row in s[1:]), ""]).encode(),
    "quoted all": lambda s: "\n".join(['"' + row.replace(",", '","') + '"' for row in s] + [""]).encode(),
    "exponents": lambda s: "\n".join(
        [s[0], *(f"{r.split(',')[0]},{float(r.split(',')[1]):.9e}" for r in s[1:])]
    ).encode(),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_readers_of_csv_accept_is_accepted(tmp_path: Path, name: str) -> None:
    (tmp_path / "a.csv").write_bytes(GOOD[name](lines_of(coded())))
    assert check(tmp_path / "a.csv", reference=coded()) == []


# change of the lines -> kind, rows, count; every problem that must be named, in order
WRONG: dict[str, tuple[Callable[[Lines], Lines], list[tuple[str, tuple[int, ...], int]]]] = {
    "missing row": (lambda s: [*s[:30], *s[31:]], [("missing", (), 1)]),
    "repeated row": (lambda s: [*s[:30], s[29], *s[30:]], [("duplicate", (31,), 1)]),
    "repeated row far away": (lambda s: [*s, s[5]], [("duplicate", (578,), 1)]),
    "extra row": (lambda s: [*s, "t000_tas_-60.00_2.88,250"], [("grid", (), 0), ("unknown", (578,), 1)]),
    "nonsense id": (lambda s: renamed(s, 7, name="what"), [("missing", (), 1), ("unknown", (8,), 1)]),
    "id with space": (
        lambda s: renamed(s, 7, name=" " + s[7].split(",")[0]),
        [("missing", (), 1), ("unknown", (8,), 1)],
    ),
    "two rows swapped": (lambda s: [*s[:10], s[11], s[10], *s[12:]], [("misordered", (12,), 1)]),
    "NaN": (lambda s: renamed(s, 20, number="nan"), [("non_finite", (21,), 1)]),
    "infinity": (lambda s: renamed(renamed(s, 20, number="-inf"), 3, number="Infinity"), [("non_finite", (4, 21), 2)]),
    "no number": (lambda s: renamed(s, 20, number=""), [("unparsable", (21,), 1)]),
    "a word": (lambda s: renamed(s, 20, number="warm"), [("unparsable", (21,), 1)]),
    "digits of Python alone": (lambda s: renamed(s, 20, number="2_80.0"), [("unparsable", (21,), 1)]),
    "digits of another script": (lambda s: renamed(s, 20, number="٢٨٠"), [("unparsable", (21,), 1)]),
    "a comma in the number": (lambda s: renamed(s, 20, number="280,5"), [("missing", (), 1), ("malformed", (21,), 1)]),
    "one column": (lambda s: [*s[:20], s[20].split(",")[0], *s[21:]], [("missing", (), 1), ("malformed", (21,), 1)]),
    "header in other words": (lambda s: ["id,value", *s[1:]], [("header", (1,), 1)]),
    "header in small letters": (lambda s: ["id,prediction", *s[1:]], [("header", (1,), 1)]),
    "no header": (lambda s: s[1:], [("header", (1,), 1)]),
    "columns swapped": (lambda s: [",".join(reversed(row.split(","))) for row in s], [("header", (1,), 1)]),
    "an index column": (
        lambda s: [f"{i}," * (i > 0) + "," * (i == 0) + row for i, row in enumerate(s)],
        [("header", (1,), 1)],
    ),
    "semicolons": (lambda s: [row.replace(",", ";") for row in s], [("header", (1,), 1)]),
    "empty": (lambda s: [], [("empty", (), 0)]),
    "header alone": (lambda s: s[:1], [("empty", (), 0)]),
    "too few months": (lambda s: s[: 1 + 12 * CELLS], [("month_count", (), 0), ("missing", (), 12 * CELLS)]),
    "too many months": (
        lambda s: lines_of(coded(25)),
        [("month_count", (), 0), ("unknown", tuple(range(578, 583)), CELLS)],
    ),
    "months counted from one": (
        lambda s: lines_of(coded(), first=1),
        [("month_labels", (), 0), ("missing", (), CELLS), ("unknown", tuple(range(554, 559)), CELLS)],
    ),
    "a month left out": (
        lambda s: [*s[: 1 + 5 * CELLS], *s[1 + 6 * CELLS :]],
        [("month_count", (), 0), ("missing", (), CELLS)],
    ),
    "the first month and another left out": (
        lambda s: [s[0], *s[1 + CELLS : 1 + 5 * CELLS], *s[1 + 6 * CELLS :]],
        [("month_count", (), 0), ("missing", (), 2 * CELLS)],
    ),
    "the last row first": (lambda s: [s[0], s[-1], *s[1:-1]], [("misordered", (3,), 1)]),
    "cut off in a month": (lambda s: s[:300], [("month_count", (), 0), ("truncated", (300,), 1), ("missing", (), 277)]),
    "cut off in a row": (
        lambda s: [*s[:570], s[570][:9]],
        [("truncated", (570,), 1), ("missing", (), 7), ("malformed", (571,), 1)],
    ),
    "another variable": (
        lambda s: [row.replace("_tas_", "_ts_") for row in s],
        [("variables", (), 0), ("missing", (), 288), ("unknown", (2, 3, 4, 5, 6), 288)],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_named_with_its_lines(tmp_path: Path, name: str) -> None:
    change, expected = WRONG[name]
    path = save(tmp_path / "a.csv", change(lines_of(coded())))
    problems = check(path)
    expected = [(kind, tuple(rows), count) for kind, rows, count in expected]
    assert [(p.kind, p.rows, p.count) for p in problems if p.kind != "tas_range"] == expected
    assert all(p.message and str(p).startswith(p.message) for p in problems)


def test_line_numbers_count_blank_lines(tmp_path: Path) -> None:
    lines = renamed(lines_of(coded()), 20, number="nan")
    assert check(save(tmp_path / "a.csv", [*lines[:5], "", "", *lines[5:]]))[0].rows == (23,)


def test_line_numbers_of_impossible_values_count_blank_lines_too(tmp_path: Path) -> None:
    lines = renamed(lines_of(coded()), 3, number="9000")
    assert check(save(tmp_path / "a.csv", lines))[0].rows == (4,)
    assert check(save(tmp_path / "a.csv", [lines[0], "", *lines[1:]]))[0].rows == (5,)


def test_another_grid_is_named_before_its_rows(tmp_path: Path) -> None:
    other = Grid(GRID.lat, np.array([-178.125, -88.125, 1.875, 91.875]))
    write_submission(tmp_path / "a.csv", coded(), other)
    problems = check(tmp_path / "a.csv")
    assert kinds(problems) == ["grid", "missing", "unknown"]
    assert "2 lon values are not of the grid, -178.12 .. -88.12" in problems[0].message


def test_a_grid_with_no_cell_in_common_is_named(tmp_path: Path) -> None:
    write_submission(tmp_path / "a.csv", coded(), Grid(GRID.lat + 1, GRID.lon + 1))
    problems = check(tmp_path / "a.csv")
    assert kinds(problems) == ["grid", "grid", "missing", "unknown"]
    assert problems[2].count == problems[3].count == MONTHS * CELLS


def test_however_many_rows_are_wrong_a_problem_stays_small(tmp_path: Path) -> None:
    lines = lines_of(coded())
    path = save(tmp_path / "a.csv", [lines[0], *("x" * 5000 + row for row in lines[1:])])
    for problem in check(path):
        assert len(problem.rows) <= 5
        assert len(str(problem)) < 300


def test_a_problem_is_printed_with_the_lines_it_has() -> None:
    assert str(Problem("grid", "another grid")) == "another grid"
    assert str(Problem("unknown", "1 row", (7,), 1)) == "1 row (line 7)"
    assert str(Problem("unknown", "9 rows", (7, 8), 9)) == "9 rows (lines 7, 8, ...)"


def test_shuffled_rows_are_one_problem(tmp_path: Path) -> None:
    header, *rows = lines_of(coded())
    random.Random(0).shuffle(rows)
    problems = check(save(tmp_path / "a.csv", [header, *rows]), reference=coded())
    assert [(p.kind, p.accepted) for p in problems] == [("misordered", True)]


def test_a_byte_order_mark_is_named_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + "\n".join(lines_of(coded())).encode())
    problems = check(tmp_path / "a.csv")
    assert [(p.kind, p.rows) for p in problems] == [("encoding", (1,))]


def test_bytes_that_are_no_utf8_are_named_with_their_line(tmp_path: Path) -> None:
    lines = [line.encode() for line in lines_of(coded())]
    lines[9] = b"t000_tas_\xb0_1.88,280"
    lines[11] = lines[11] + b"\xb0"
    (tmp_path / "a.csv").write_bytes(b"\n".join(lines))
    problems = {p.kind: p for p in check(tmp_path / "a.csv")}
    assert set(problems) == {"missing", "encoding"}
    assert problems["encoding"].rows == (10, 12)


def test_utf16_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes("\n".join(lines_of(coded())).encode("utf-16"))
    assert "header" in kinds(check(tmp_path / "a.csv"))


def test_a_quote_left_open_is_named(tmp_path: Path) -> None:
    lines = lines_of(coded(360))
    lines[3] = '"' + lines[3]
    problems = check(save(tmp_path / "a.csv", lines), months=360)
    assert any(p.kind == "malformed" and p.rows for p in problems)


def packed(path: Path) -> Path:
    write_submission(path, coded(), GRID)
    return path


def test_a_packed_file_that_was_cut_is_named(tmp_path: Path) -> None:
    for ending in (".csv.gz", ".zip"):
        path = packed(tmp_path / f"a{ending}")
        path.write_bytes(path.read_bytes()[:-200])
        assert kinds(check(path)) == ["unreadable"]


def test_a_packed_file_with_a_flipped_byte_is_named(tmp_path: Path) -> None:
    for ending in (".csv.gz", ".zip"):
        path = packed(tmp_path / f"a{ending}")
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        assert "unreadable" in kinds(check(path))


def test_a_packed_file_under_a_plain_name_is_named(tmp_path: Path) -> None:
    path = packed(tmp_path / "a.csv.gz").rename(tmp_path / "a.csv")
    problems = check(path)
    assert kinds(problems) == ["unreadable"]
    assert "not what its name says" in problems[0].message
    plain = save(tmp_path / "b.zip", lines_of(coded()))
    assert kinds(check(plain)) == ["unreadable"]


def test_an_archive_must_hold_one_csv(tmp_path: Path) -> None:
    text = "\n".join(lines_of(coded()))
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("a.csv", text)
        archive.writestr("b.csv", text)
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        archive.writestr("a.csv", text)
        archive.writestr("__MACOSX/._a.csv", "shadow")
    assert kinds(check(tmp_path / "two.zip")) == ["unreadable"]
    assert check(tmp_path / "mac.zip") == []


@pytest.mark.parametrize(("place", "value", "word"), [(8, 1, "password"), (10, 9, "unpacked")])
def test_an_archive_that_python_cannot_open_is_named(tmp_path: Path, place: int, value: int, word: str) -> None:
    """A password, or a compression method that zipfile does not know: flags and method of both its headers."""
    path = packed(tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + place] = value
    content[content.index(b"PK\x03\x04") + place - 2] = value
    path.write_bytes(content)
    (problem,) = check(path)
    assert problem.kind == "unreadable"
    assert word in problem.message


def test_gzip_of_any_writer_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress("\n".join(lines_of(coded())).encode()))
    assert check(tmp_path / "a.csv.gz") == []


def test_a_file_that_is_not_there_or_has_no_known_name_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match="no submission"):
        check(tmp_path / "a.csv")
    with pytest.raises(SubmissionError, match="not a name"):
        check(save(tmp_path / "a.txt", lines_of(coded())))


@settings(max_examples=40)
@given(data=st.data())
def test_every_single_change_of_a_good_file_is_noticed_or_harmless(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Any byte outside the numbers, replaced by any other, gives a problem; the check never fails itself."""
    good = ("\n".join(lines_of(coded(2))) + "\n").encode()
    at = data.draw(st.integers(0, len(good) - 1))
    start, comma = good.rfind(b"\n", 0, at) + 1, good.find(b",", good.rfind(b"\n", 0, at) + 1)
    changed = bytearray(good)
    changed[at] = data.draw(st.integers(0, 255).filter(lambda b: b != good[at]))
    path = tmp_path_factory.mktemp("byte") / "a.csv"
    path.write_bytes(changed)
    problems = check(path, months=2)
    if start <= at <= comma and changed[at] not in b'"':
        assert problems
