"""Comparisons of runs that pair the wrong seeds, turn a sign, or stand on other months, data or competitions."""

from __future__ import annotations

import csv
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from emukit.data.store import open_store
from emukit.errors import ProtocolError, RunError
from emukit.metrics.competition import Column
from emukit.progress import silent_reporter
from emukit.recipes.load import load_recipe
from emukit.runs.record import Scoring
from emukit.runs.run import Run, read_run, train_run
from emukit.studies import bootstrap
from emukit.studies import compare as comparing
from emukit.studies.bootstrap import Difference
from emukit.studies.compare import PairRow, compare_runs
from tests.cli.conftest import emukit  # noqa: F401


@pytest.fixture(scope="module")
def archive(demo_store):
    return open_store(demo_store)


@pytest.fixture(scope="module")
def trained(archive, tmp_path_factory):
    """Finished runs of two recipes by name, of which each test gets copies."""
    folder = tmp_path_factory.mktemp("compared")
    for name, words in (("weak", ["model.ridge=1e6"]), ("linear", [])):
        train_run(archive, load_recipe("linear", None, words), folder / name, reporter=silent_reporter())
    return folder


@pytest.fixture
def runs(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "runs")
    return {name: read_run(tmp_path / "runs" / name) for name in ("weak", "linear")}


def compare(archive, *runs, name=None):
    return compare_runs(runs, archive, name, silent_reporter())


def with_identity(run: Run, **values: object) -> Run:
    return replace(
        run, record=run.record.model_copy(update={"identity": run.record.identity.model_copy(update=values)})
    )


def test_a_difference_is_that_of_the_kept_scores_with_the_sign_of_the_order(archive, runs):
    weak, linear = runs["weak"], runs["linear"]
    found = compare(archive, weak, linear)
    (pair,) = found.pairs
    kept = [run.evaluation("validation") for run in (weak, linear)]
    for row in pair.rows:
        group, _, key = row.column.key.partition(".")
        a, b = (e["score"] if group == "score" else e[group][key] for e in kept)
        assert (row.first, row.second) == pytest.approx((a, b), rel=1e-6)
        assert row.difference.mean == pytest.approx(b - a, rel=1e-4, abs=1e-9)
        assert row.difference.low < row.difference.mean < row.difference.high
    assert [r.column.key for r in pair.rows] == ["score", *found.competition.keys]
    assert "worse" not in {r.verdict for r in pair.rows[:2]}
    assert pair.sentence.startswith(f"{linear.folder} against {weak.folder}: better by ")
    turned = compare(archive, linear, weak).pairs[0]
    assert turned.rows[0].difference.mean == -pair.rows[0].difference.mean
    assert turned.rows[0].verdict == "worse"
    assert found.years == 10
    assert found.spans == ("ssp370 2090-02..2100-01 member 0",)


def test_the_sums_of_the_years_are_kept_and_not_made_again(archive, runs, monkeypatch):
    before = compare(archive, *runs.values())
    assert all((run.folder / "scores" / "validation-years.npz").exists() for run in runs.values())
    monkeypatch.setattr(bootstrap, "year_moments", None)
    assert compare(archive, *runs.values()).as_dict() == before.as_dict()


@pytest.mark.parametrize(
    ("better", "mean", "verdict"),
    [("lower", -1.0, "better"), ("lower", 1.0, "worse"), ("higher", 1.0, "better"), ("neither", 1.0, "")],
)
def test_the_direction_of_a_number_decides_what_is_better(better, mean, verdict):
    column = Column(key="a.b", heading="", title="", description="", better=better)
    assert PairRow(column, 0.0, mean, Difference(mean, mean - 0.5, mean + 0.5, None)).verdict == verdict
    assert PairRow(column, 0.0, mean, Difference(mean, -2.0, 2.0, None)).verdict == ""


@pytest.fixture
def seeded(runs, monkeypatch):
    """Makes runs of random recipes whose numbers are 10 times the seed, and ``apart`` more in the second recipe."""
    apart = 0.25

    def numbers(run, archive, spans, name):
        value = 10.0 * run.record.identity.seed + apart * (run.record.identity.recipe == "b")
        return np.full((2001, 7), value)

    monkeypatch.setattr(comparing, "numbers_on_years", numbers)
    monkeypatch.setattr(comparing, "is_random", lambda recipe: recipe.get("random", True))

    def make(recipe: str, seed: int, random: bool = True) -> Run:
        folder = runs["linear"].folder.parent / f"{recipe}{seed}"
        shutil.copytree(runs["linear"].folder, folder)
        run = with_identity(replace(runs["linear"], folder=folder), recipe=recipe, seed=seed)
        return replace(run, record=run.record.model_copy(update={"recipe": {"random": random}}))

    return make


def test_seeds_are_paired_by_their_number_not_by_the_order_of_the_words(archive, seeded):
    words = [seeded("a", 2), seeded("a", 0), seeded("b", 1), seeded("b", 0), seeded("a", 1), seeded("b", 2)]
    (pair,) = compare(archive, *words).pairs
    assert pair.seeds == ((0, 0), (1, 1), (2, 2))
    assert pair.rows[0].difference.mean == pytest.approx(0.25)
    assert pair.rows[0].difference.sd == pytest.approx(0.0, abs=1e-12)
    assert pair.rows[0].second == pytest.approx(10.25)
    assert "seeds 0, 1, 2" in pair.first


def test_seeds_without_a_partner_are_left_out_and_named(archive, seeded):
    found = compare(archive, seeded("a", 0), seeded("a", 1), seeded("b", 1), seeded("b", 3))
    (pair,) = found.pairs
    assert pair.seeds == ((1, 1),)
    assert pair.rows[0].difference.mean == pytest.approx(0.25)
    assert any("seed 0 has no partner" in note for note in found.notes)
    assert any("seed 3 has no partner" in note for note in found.notes)
    assert "one seed: another may differ" in pair.sentence


def test_a_run_without_chance_stands_beside_each_seed(archive, seeded):
    found = compare(archive, seeded("b", 0, random=False), seeded("a", 1), seeded("a", 2))
    assert found.pairs[0].seeds == ((0, 1), (0, 2))
    assert not any("partner" in note for note in found.notes)


def test_several_seeds_that_share_none_are_refused(archive, seeded):
    with pytest.raises(RunError, match="share no seed"):
        compare(archive, seeded("a", 0), seeded("a", 1), seeded("b", 2), seeded("b", 3))
    assert compare(archive, seeded("c", 0), seeded("d", 1)).pairs[0].seeds == ((0, 1),)


def test_every_two_of_three_are_compared(archive, seeded):
    found = compare(archive, seeded("a", 0), seeded("b", 0), seeded("c", 0))
    assert [(p.first[-2:], p.second[-2:]) for p in found.pairs] == [("a0", "b0"), ("a0", "c0"), ("b0", "c0")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"protocol": "k360"}, "another protocol"),
        ({"data": "0" * 64}, "another data"),
        ({"card": "0" * 64}, "another data card"),
    ],
    ids=["protocol", "data", "card"],
)
def test_runs_of_something_else_are_refused_by_name(archive, runs, change, words):
    other = with_identity(runs["weak"], **change)
    with pytest.raises(RunError, match=f"(?m)cannot be compared: {words}$") as error:
        compare(archive, runs["linear"], other)
    assert str(next(iter(change.values())))[:12] in error.value.found


def test_runs_of_another_competition_or_of_other_months_are_refused(archive, runs):
    linear, weak = runs["linear"], runs["weak"]
    data = weak.record.data.model_copy(update={"scoring": Scoring(name="generic", units={"tas": "K", "pr": "mm/day"})})
    with pytest.raises(RunError, match="another competition"):
        compare(archive, linear, replace(weak, record=weak.record.model_copy(update={"data": data})))
    # As a final fit has it.
    with pytest.raises(RunError, match="other steps") as error:
        compare(archive, linear, replace(weak, record=weak.record.model_copy(update={"scored": {}})))
    assert "it was trained on them" in error.value.found


def test_a_run_with_itself_a_copy_or_nothing_is_refused(archive, runs, tmp_path):
    linear = runs["linear"]
    with pytest.raises(RunError, match="is named twice"):
        compare(archive, linear, linear)
    shutil.copytree(linear.folder, tmp_path / "copy")
    with pytest.raises(RunError, match="are the same run"):
        compare(archive, linear, read_run(tmp_path / "copy"))
    with pytest.raises(RunError, match="differ in their seed alone"):
        compare(archive, linear, with_identity(read_run(tmp_path / "copy"), seed=1))
    with pytest.raises(RunError, match="nothing to be compared with"):
        compare(archive, linear)
    unfinished = replace(runs["weak"], record=runs["weak"].record.model_copy(update={"state": "training"}))
    with pytest.raises(RunError, match="has not finished"):
        compare(archive, linear, unfinished)


def test_a_hidden_test_is_refused_where_it_is_asked_for(archive, runs):
    assert compare(archive, *runs.values()).set == "validation"
    with pytest.raises(ProtocolError, match="are hidden"):
        compare(archive, *runs.values(), name="test")


def test_a_visible_test_is_what_is_compared(archive, tmp_path):
    runs = [
        train_run(
            archive,
            load_recipe("linear", None, words),
            tmp_path / str(number),
            protocol="loso:ssp126",
            reporter=silent_reporter(),
        )[0]
        for number, words in enumerate(([], ["model.ridge=1e6"]))
    ]
    found = compare(archive, *runs)
    assert (found.set, found.years) == ("test", 30)
    assert compare(archive, *runs, name="validation").set == "validation"


def test_formats_say_the_same(emukit, runs):  # noqa: F811
    words = ("compare", runs["weak"].folder, runs["linear"].folder, "-q", "--format")
    plain = json.loads(emukit(*words, "json").out)
    numbers = plain["pairs"][0]["numbers"]
    rows = list(csv.DictReader(io.StringIO(emukit(*words, "csv").out)))
    assert [row["number"] for row in rows] == list(numbers)
    assert float(rows[0]["low"]) == numbers["score"]["difference"]["low"]
    for format in ("table", "md"):
        shown = emukit(*words, format).out
        assert plain["pairs"][0]["sentence"] in shown
        assert f"{numbers['score']['difference']['mean']:+.4f}" in shown
    answer = emukit("compare", runs["weak"].folder)
    assert answer.code == 2
    assert "emukit compare RUN RUN" in answer.err
