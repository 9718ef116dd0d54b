"""A study's tables that drop a spread, or that a variant's name breaks."""

import io

import pytest
from rich.console import Console

from emukit.competitions.cse151b import cse151b
from emukit.competitions.generic import competition
from emukit.studies.results import DIFFERENCE, StudyTable, markdown, tables, to_csv

COLUMNS = ("score", *cse151b().keys)
# Every mean and spread tells its column.
MEAN = {c: 0.5 + i / 100 for i, c in enumerate(COLUMNS)}
SD = {c: 0.001 + i / 1000 for i, c in enumerate(COLUMNS)}
BASE = {"variant": "a|b`*", "seeds": [0, 1], "mean": MEAN, "sd": SD, "difference": None, "sentence": "the base"}
LOWER = {c: {"mean": -0.02, "low": -0.03, "high": -0.01, "sd": 0.002} for c in COLUMNS}
OTHER = {
    "variant": "[red]x",
    "seeds": [0],
    "mean": MEAN,
    "sd": None,
    "difference": LOWER,
    "sentence": "better by 0.020",
}
WAITING = {"variant": "w", "seeds": [], "mean": None, "sd": None, "difference": None, "sentence": "no run has finished"}
STUDIES = [StudyTable("s, k360 validation", cse151b(), (BASE, OTHER, WAITING), {"reference: another run": MEAN})]


def test_every_number_has_its_spread_and_the_score_its_interval():
    text = markdown(STUDIES)
    header, _, base, other, waiting, floor = [line for line in text.splitlines() if line.startswith("|")]
    cells = [c.strip() for c in base.replace("\\|", "").strip("|").split("|")]
    assert len(cells) == header.count("|") - 1
    assert cells[2] == "0.5000 (±0.0010)"
    assert cells[3:9] == [f"{0.51 + i / 100:.3f} (±{0.002 + i / 1000:.3f})" for i in range(6)]
    assert other.endswith("| -0.0200 (-0.030 to -0.010) |")
    assert "±" not in other
    assert waiting.replace(" ", "") == "|w|0|||||||||"
    assert floor.startswith("| *reference: another run* |  | 0.5000 | 0.510 |")
    out = Console(width=130, record=True, file=io.StringIO())
    for part in tables(STUDIES, 130):
        out.print(part)
    shown = out.export_text()
    for column in COLUMNS[1:]:
        assert f"{MEAN[column]:.3f}" in shown
        assert f"±{SD[column]:.3f}" in shown
    assert "-0.030 to" in shown
    assert "-0.010" in shown
    assert "[red]x: better by 0.020" in shown


def test_a_table_of_many_numbers_has_a_line_for_each():
    """Side by side nobody can read them as text."""
    many = competition(dict.fromkeys("abc", "K"))
    keys = [c.key for c in many.columns]
    base = {**BASE, "mean": {k: i / 10 for i, k in enumerate(keys)}, "sd": None}
    other = {**base, "variant": "b", "seeds": [0], "mean": {k: i / 5 for i, k in enumerate(keys)}}
    text = markdown([StudyTable("s", many, (base, other), {"limit": base["mean"]})])
    heads, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    assert heads == "|  | a\\|b\\`\\* | b | *limit* |"
    assert lines[0] == "| seeds | 2 | 1 |  |"
    assert len(lines) == 1 + len(keys) + 1
    titles = [c.full_heading for c in many.columns]
    for i in (3, 7, 15):
        assert lines[1 + i] == f"| {titles[i]} | {i / 10:.3f} | {i / 5:.3f} | {i / 10:.3f} |"


def test_errors_of_a_small_unit_are_not_printed_as_zero():
    """Three decimals of humidity in kg kg-1 tell no variant from another."""
    small = competition({"a": "kg kg-1"})
    keys = [c.key for c in small.columns[1:]]
    rows = tuple({**BASE, "mean": {"score": 0.5, **dict.fromkeys(keys, x)}, "sd": None} for x in (0.00137, 0.00041))
    text = markdown([StudyTable("s", small, rows, {"limit": {"score": 0.5, **dict.fromkeys(keys, 0.0002)}})])
    *_, more, less, limit = [line for line in text.splitlines() if line.startswith("|")]
    assert "| 0.5000 | 0.00137 |" in more
    assert "| 0.5000 | 0.00041 |" in less
    assert "| 0.5000 | 0.00020 |" in limit


def test_a_difference_without_an_interval_has_none():
    """One run on one year."""
    unknown = {c: {"mean": -0.02, "low": None, "high": None, "sd": None} for c in COLUMNS}
    study = StudyTable("s", cse151b(), (BASE, {**OTHER, "difference": unknown}), {})
    assert "| -0.0200 |" in markdown([study])
    assert tables([study], 80)


def test_the_column_of_the_difference_has_one_name_and_an_end_that_is_not_zero_is_not_printed_as_zero():
    near = {c: {"mean": 0.01, "low": 0.0002, "high": 0.019, "sd": None} for c in COLUMNS}
    study = StudyTable("s", cse151b(), (BASE, {**OTHER, "difference": near}), {})
    text = markdown([study])
    assert f"| {DIFFERENCE} |\n" in text
    assert "| +0.0100 (+0.0002 to +0.0190) |" in text
    out = Console(width=130, record=True, file=io.StringIO())
    for part in tables([study], 80):
        out.print(part)
    shown = out.export_text()
    assert all(word in shown for word in DIFFERENCE.split())
    assert "+0.0002 to" in shown


def test_a_name_means_nothing_in_markdown():
    text = markdown(STUDIES)
    assert "| a\\|b\\`\\* | 2 |" in text
    assert "- \\[red\\]x: better by 0.020" in text


@pytest.mark.parametrize("number", cse151b().keys)
def test_csv_has_every_number_with_spread_and_interval(number):
    (line,) = [x for x in to_csv(STUDIES).splitlines() if f"a|b`*,{number}," in x]
    assert line.split(",")[-6:] == ["2", str(MEAN[number]), str(SD[number]), "", "", ""]
    (line,) = [x for x in to_csv(STUDIES).splitlines() if f"[red]x,{number}," in x]
    assert line.split(",")[-6:] == ["1", str(MEAN[number]), "", "-0.02", "-0.03", "-0.01"]
