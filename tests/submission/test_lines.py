"""Wrong lines that are found by one way of reading and not by another, or that make all others slow."""

import io
import threading

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emukit.submission import check, check_submission, read, read_submission
from emukit.submission import lines as by_columns
from emukit.submission.rows import RowLayout
from tests.submission import plain_lines
from tests.submission.cases import GRID, coded, lines_of, save

MONTHS = 6
LAYOUT = RowLayout.of(GRID, MONTHS)
ROWS = [line.encode() for line in lines_of(coded(MONTHS))[1:]]
HEADERS = (
    *[b"ID,Prediction"] * 4,
    b"Prediction,ID",
    b"id , prediction",
    b"\xef\xbb\xbfID,Prediction",
    b'"ID","Prediction"',
    b"ID,Prediction,more",
    b"ID\xe9,Prediction",
    b"x,y",
    b"x",
    b"",
    ROWS[0],
)
# What a row becomes, of the row, its name, its number and another row.
WRONG = {
    "lost": lambda r, n, v, o: [],
    "another too": lambda r, n, v, o: [r, o],
    "another": lambda r, n, v, o: [o],
    "nan": lambda r, n, v, o: [n + b",nan"],
    "infinite": lambda r, n, v, o: [n + b",-Infinity"],
    "huge": lambda r, n, v, o: [n + b",1e400"],
    "strange": lambda r, n, v, o: [b"x" + r],
    "month": lambda r, n, v, o: [b"t099" + r[4:]],
    "cell": lambda r, n, v, o: [n + b"1," + v],
    "no name": lambda r, n, v, o: [b"," + v],
    "blank": lambda r, n, v, o: [b"", r],
    "half a line end": lambda r, n, v, o: [b"\r", r],
    "a line end inside": lambda r, n, v, o: [r[:10] + b"\r" + r[10:]],
    "wide": lambda r, n, v, o: [r + b",1"] * 3,
    "wide seven times": lambda r, n, v, o: [b"a,b,c,d"] * 7,
    "narrow": lambda r, n, v, o: [n],
    "underscore": lambda r, n, v, o: [n + b",1_0"],
    "spaces": lambda r, n, v, o: [n + b", 1.5 "],
    "plus": lambda r, n, v, o: [n + b",+1.5"],
    "words": lambda r, n, v, o: [r + b" K"],
    "nothing": lambda r, n, v, o: [n + b","],
    "hexadecimal": lambda r, n, v, o: [n + b",0x10"],
    "another script": lambda r, n, v, o: [n + ",\u0661".encode()],
    "letters": lambda r, n, v, o: ["t\xe400".encode() + r[4:]],
    "torn number": lambda r, n, v, o: [n + b",\xff1"],
    "torn name": lambda r, n, v, o: [b"\xff" + r],
    "zero byte": lambda r, n, v, o: [r[:10] + b"\0" + r[10:]],
    "quoted name": lambda r, n, v, o: [b'"' + n + b'",' + v],
    "quoted number": lambda r, n, v, o: [n + b',"' + v + b'"'],
    "quoted row": lambda r, n, v, o: [b'"' + r + b'"'],
    "quote after a space": lambda r, n, v, o: [n + b', "' + v + b'"'],
    "quote over lines": lambda r, n, v, o: [b'"' + r, o + b'"'],
    "quote that stays open": lambda r, n, v, o: [b'"' + r],
    "quote inside": lambda r, n, v, o: [r[:10] + b'"' + r[10:]],
    "doubled quote": lambda r, n, v, o: [b'"a""b",1'],
    "quotes alone": lambda r, n, v, o: [b'"",""'],
    "long": lambda r, n, v, o: [b"x" * 150_000 + r],
}


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    header=st.sampled_from(HEADERS),
    places=st.lists(
        st.tuples(st.integers(0, 10**6), st.sampled_from(sorted(WRONG)), st.integers(0, 10**6)), max_size=6
    ),
    kept=st.sampled_from([1.0, 1.0, 1.0, 0.5, 0.0]),
    times=st.sampled_from([1, 1, 1, 2, 5]),
    end=st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"]),
    last=st.booleans(),
    piece=st.sampled_from([40, 300, 2000, 4 << 20]),
)
@example(b"ID,Prediction", [(3, "quote that stays open", 0)], 1.0, 1, b"\n", True, 300)
@example(b"ID,Prediction", [(70, "quote over lines", 5), (10, "torn name", 0)], 1.0, 1, b"\r\n", False, 300)
@example(b"ID,Prediction", [], 1.0, 5, b"\n", True, 300)
def test_columns_find_what_a_csv_reader_finds(header, places, kept, times, end, last, piece):
    rows = list(ROWS)
    for i, what, j in places:
        row = rows[i % len(rows)] if rows else b"a,1"
        name, _, number = row.partition(b",")
        rows[i % max(len(rows), 1) : i % max(len(rows), 1) + 1] = WRONG[what](row, name, number, ROWS[j % len(ROWS)])
    rows = rows[: int(kept * len(rows))] * times
    data = end.join([header, *rows]) + end * last
    plain = plain_lines.examine(io.BytesIO(data), LAYOUT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "PIECE", piece)
        found = by_columns.examine(io.BytesIO(data), LAYOUT)
    assert found.problems == plain.problems
    np.testing.assert_array_equal(found.values, plain.values)
    np.testing.assert_array_equal(found.lines, plain.lines)
    assert found.stopped == plain.stopped
    # What is no text stands there with a mark in the place of its bytes.
    for ours, theirs in ((found.strange_months, plain.strange_months), (found.strange_cells, plain.strange_cells)):
        assert ours == {name.encode("utf-8", "replace").decode() for name in theirs}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("what", sorted(set(WRONG) - {w for w in WRONG if "quote" in w or w == "long"}))
def test_a_wrong_line_does_not_make_the_others_slow(what, end, monkeypatch, tmp_path):
    """Read one by one, 2.5 million rows with one mistake took five seconds."""
    monkeypatch.setattr(by_columns._Table, "one_by_one", lambda *a: pytest.fail("read line by line"))
    name, _, number = ROWS[40].partition(b",")
    rows = [*ROWS[:40], *WRONG[what](ROWS[40], name, number, ROWS[3]), *ROWS[41:]]
    path = tmp_path / "s.csv"
    path.write_bytes(end.join([b"ID,Prediction", *rows]) + end)
    assert bool(check_submission(path, GRID, MONTHS)) == (what not in ("blank", "half a line end", "spaces", "plus"))


@pytest.mark.parametrize("end", [b"\r\n", b"\r"], ids=["CRLF", "CR"])
def test_quoted_names_do_not_make_lines_of_another_end_slow(end, monkeypatch, tmp_path):
    monkeypatch.setattr(by_columns._Table, "one_by_one", lambda *a: pytest.fail("read line by line"))
    path = tmp_path / "s.csv"
    quoted = [b'"' + row.replace(b",", b'",') for row in ROWS]
    path.write_bytes(end.join([b"ID,Prediction", *quoted[:40], b'"x",1', *quoted[40:]]) + end)
    assert [(p.kind, p.rows) for p in check_submission(path, GRID, MONTHS)] == [("unknown", (42,))]


def test_a_good_file_with_the_line_ends_of_old_macs_is_examined_row_by_row(monkeypatch, tmp_path):
    monkeypatch.setattr(check, "examine", lambda *a: pytest.fail("read twice"))
    path = tmp_path / "s.csv"
    path.write_bytes(b"\r".join([b"ID,Prediction", *ROWS]) + b"\r")
    assert not check_submission(path, GRID, MONTHS)


def test_one_stray_quote_is_read_one_by_one_in_its_own_piece(monkeypatch):
    asked = []
    whole = by_columns._Table.one_by_one

    def counted(self, block, *rest):
        asked.append(len(block))
        return whole(self, block, *rest)

    monkeypatch.setattr(by_columns._Table, "one_by_one", counted)
    monkeypatch.setattr(read, "PIECE", 500)
    rows = [*ROWS[:40], ROWS[40] + b'"', *ROWS[41:]]
    data = b"\n".join([b"ID,Prediction", *rows]) + b"\n"
    found = by_columns.examine(io.BytesIO(data), LAYOUT)
    assert [p.kind for p in found.problems] == ["unparsable"]
    assert len(asked) == 1
    assert asked[0] < 600


@pytest.mark.parametrize("name", ["s.csv", "s.csv.gz", "s.zip"])
def test_a_file_is_read_by_no_other_thread(name, monkeypatch, tmp_path):
    """Arrow read ahead in a thread of its own, and one refused file in four aborted the interpreter at its end."""
    from emukit.submission import write_submission

    threads = set()

    class Recorded(read._Bounded):
        def readinto(self, buffer):
            threads.add(threading.get_ident())
            return super().readinto(buffer)

    monkeypatch.setattr(read, "_Bounded", Recorded)
    monkeypatch.setattr(read, "PIECE", 1000)
    write_submission(tmp_path / name, coded(MONTHS), GRID)
    columns = read_submission(tmp_path / name)
    assert columns.ids.equals(LAYOUT.ids)
    np.testing.assert_array_equal(columns.values.astype(np.float32).reshape(coded(MONTHS).shape), coded(MONTHS))
    assert threads == {threading.get_ident()}


def test_the_row_of_a_wrong_number_is_counted_from_the_beginning_of_the_file(monkeypatch, tmp_path):
    monkeypatch.setattr(read, "PIECE", 500)
    rows = [row.decode() for row in ROWS]
    rows[60] += " K"
    path = save(tmp_path / "s.csv", ["ID,Prediction", *rows])
    with pytest.raises(read.SubmissionError) as refused:
        read_submission(path)
    # The header is row 1.
    assert "Row #62:" in refused.value.found
