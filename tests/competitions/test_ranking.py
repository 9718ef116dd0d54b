"""A leaderboard that ranks what cannot be ranked, or hides one's own runs."""

import csv
import io
import json

from rich.console import Console

from emukit.competitions.cse151b import cse151b
from emukit.competitions.ranking import Row, as_json, markdown, ranked, tables, to_csv

NUMBERS = {"tas.monthly_rmse": 1.0}
ROWS = [
    Row("others", "published", "a split", 0.1, {}, note="source | here", competition=cse151b()),
    Row("unscored", "submission", "b split", None, {}, 0, note="not scored here; more", competition=cse151b()),
    Row("worse [bold]", "run", "c split", 0.9, NUMBERS, 1, competition=cse151b()),
    Row("floor", "reference", "c split", 0.5, NUMBERS, competition=cse151b()),
    Row("better", "run", "c split", 0.4, NUMBERS, 0, model="cnn-gru", competition=cse151b()),
    Row("noise ceiling", "limit", "c split", 0.3, NUMBERS, competition=cse151b()),
]


def test_own_scored_splits_come_first_and_are_ranked_apart():
    groups = ranked(ROWS)
    assert list(groups) == ["c split", "b split", "a split"]
    assert [r.name for r in groups["c split"]] == ["noise ceiling", "better", "floor", "worse [bold]"]


def test_floors_limits_and_unscored_rows_take_no_place():
    text = markdown(ROWS)
    assert "| 1 | better (cnn-gru, seed 0) | run | 0.4000 | 1.000 |" in text
    assert "|  | floor | reference |" in text
    assert "|  | noise ceiling | limit | 0.3000 |" in text
    assert "| 2 | worse \\[bold\\] (seed 1) |" in text
    assert "|  | unscored (seed 0) | submission |  |" in text
    assert "source \\| here" in text


def printed(rows, width):
    console = Console(width=width, file=io.StringIO())
    for table in tables(rows, width):
        console.print(table)
    return console.file.getvalue()


def test_terminal_shows_names_as_they_are_and_why_there_is_no_score():
    shown = printed(ROWS, 100)
    assert "worse [bold] (seed 1)" in shown
    assert "unscored (seed 0) (not scored here)" in shown
    assert "reference: floor" in shown
    assert "   noise ceiling" in shown
    assert "--format md" in shown


def test_csv_and_json_hold_every_row():
    assert [r["name"] for r in json.loads(as_json(ROWS))] == [
        r["name"] for r in csv.DictReader(io.StringIO(to_csv(ROWS)))
    ]
    assert len(json.loads(as_json(ROWS))) == len(ROWS)


def test_seed_that_decides_nothing_is_kept_and_not_shown():
    row = Row("lin", "run", "s", 0.5, NUMBERS, 3, model="linear", random=False, competition=cse151b())
    assert "| lin (linear) | run |" in markdown([row])
    assert json.loads(as_json([row]))[0]["seed"] == 3


def test_mean_and_spread_over_members_stand_beside_the_score_where_they_are_known():
    row = Row("a", "run", "s", 0.5, NUMBERS, members=(0.4, 0.5, 0.9), remark="seen less", competition=cse151b())
    rows = [row, Row("old", "run", "s", 0.6, NUMBERS, members=(0.6,), competition=cse151b())]
    lines = markdown(rows).splitlines()
    assert lines[2].endswith(" | mean ± sd over members | note |")
    assert lines[3].count("|") == lines[4].count("|") == lines[5].count("|")
    assert lines[4].startswith("| 1 | a (seen less) | run | 0.5000 | 1.000 |")
    assert lines[4].endswith(" | 0.6000 ± 0.2646 |  |")
    # One member has no spread.
    assert lines[5].endswith(" |  |  |")
    for width in (120, 80, 50):
        shown = printed(rows, width)
        assert "0.6000 ± 0.2646" in shown
        assert max(map(len, shown.splitlines())) <= width
    first, second = csv.DictReader(io.StringIO(to_csv(rows)))
    assert (float(first["members_mean"]), round(float(first["members_sd"]), 4)) == (0.6, 0.2646)
    assert first["remark"] == "seen less"
    assert (second["members_mean"], second["members_sd"]) == ("", "")
    assert json.loads(as_json(rows))[0]["members"] == [0.4, 0.5, 0.9]
    assert "members" not in markdown(ROWS)


def test_a_narrow_terminal_breaks_words_or_hides_that_numbers_are_left_out():
    numbers = {key: 0.5 + i / 10 for i, key in enumerate(cse151b().keys)}
    names = ["variance-matched anchor of all members", "hierarchical-transformer of a team", "climatology"]
    rows = [Row(name, "run", "a split " * 9, 0.5, numbers, random=False, competition=cse151b()) for name in names]
    for width, hidden in ((100, 0), (80, 0), (60, 2), (50, 4)):
        shown = printed(rows, width)
        lines = [line.split() for line in shown.splitlines()]
        assert max(map(len, shown.splitlines())) <= width
        # A title is as wide as the terminal, and no word is on two lines.
        assert lines[0] == ("a split " * 9)[:width].rsplit(" ", 1)[0].split()
        assert {word for name in names for word in name.split()} <= {word for line in lines for word in line}
        row = next(line for line in lines if line[:1] == ["1"])
        assert row[-1] == f"{[*numbers.values()][5 - hidden]:.3f}"
        left = [c.title for c in cse151b().columns[7 - hidden :]] if hidden else []
        told = f"{', '.join(left)}: in a wider terminal, or with --format csv"
        assert (told in " ".join(shown.split())) == ("--format csv" in shown) == bool(hidden)


def test_months_without_any_score_have_empty_columns_or_no_word_on_how_to_get_one():
    shown = printed([row for row in ROWS if row.name == "unscored"], 80)
    assert "RMSE" not in shown
    assert "emukit score CSV --save" in " ".join(shown.split())
    assert "emukit score" not in printed([row for row in ROWS if row.name != "unscored"], 80)
