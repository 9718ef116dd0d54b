"""Searches that ask for other trials after an interruption, search by what must not select, or miss the minimum."""

import json
import math

import pytest

from emukit.errors import EmukitError, RecipeError, RunError
from emukit.progress import silent_reporter
from emukit.studies import ablate
from emukit.studies import search as search_module
from emukit.studies.ablate import StudyData, write_plan
from emukit.studies.results import save_result, study_result
from emukit.studies.search import Search, search_study, validation_scores
from emukit.studies.study import Axis, recipe_of
from tests.coded import warming_archive
from tests.studies.test_ablate import TINY, plan_of, study, train

pytest.importorskip("optuna", reason="Optuna is not installed: searches are not tested")

RANGES = {
    "base": "linear",
    "trials": 14,
    "axes": [
        {"path": "model.ridge", "low": 1e-2, "high": 1e6, "log": True},
        {"path": "model.features", "label": "of", "values": [["CO2"], ["CO2", "SO2"]]},
    ],
}


@pytest.fixture(scope="module")
def opened():
    return StudyData(warming_archive(), ("--data", "warming"))


@pytest.fixture(autouse=True)
def _measured(monkeypatch):
    monkeypatch.setattr(ablate, "start_seconds", lambda words, environments: 10.0)
    monkeypatch.setattr(ablate, "TRIED_SECONDS", 0.0)
    monkeypatch.setattr(ablate, "epoch_seconds", lambda archive, recipe, split, comm, threads: 2.0)


def searched(opened, asked, root, stop_after=None, fail=()):
    """A study searched and trained, until so many rounds are over; its plans."""
    plans = []
    write_plan(plan_of(opened, asked, root), opened.archive, None, "emukit ablate ridge")

    def go(trials):
        plan = plan_of(opened, asked, root, trials=trials)
        train(opened, [r for r in plan.runs if r.variant not in fail])
        plans.append(plan)
        if len(plans) == stop_after:
            raise KeyboardInterrupt
        return plan

    try:
        search_study(asked, opened.archive, go, root / asked.name)
    except KeyboardInterrupt:
        assert stop_after
    return plans


def test_trials_are_asked_for_together_and_follow_from_what_is_known(opened, tmp_path):
    asked = study("ridge", **RANGES)
    plans = searched(opened, asked, tmp_path)
    assert [len(p.variants) for p in plans] == [5, 9, 13, 15]
    names = [v.name for v in plans[-1].variants]
    assert names[0] == "base"
    assert [n.partition(":")[0] for n in names[1:]] == [f"trial {i}" for i in range(1, 15)]
    for variant in plans[-1].variants[1:]:
        ridge = variant.settings["model.ridge"]
        assert 1e-2 <= ridge <= 1e6
        assert float(f"{ridge:.4g}") == ridge
        assert recipe_of(variant).options["ridge"] == ridge
        assert variant.settings["model.features"] in (("CO2",), ("CO2", "SO2"))
    spread = [math.log10(v.settings["model.ridge"]) for v in plans[-1].variants[1:]]
    assert max(spread) - min(spread) > 3
    # What is told decides what is asked, once there is enough of it: other scores, other trials.
    told = Search(asked)
    for _ in range(3):
        told.tell({v.name: -math.log(v.settings["model.ridge"]) for v in told.ask()})
    assert [v.name for v in told.ask()] != names[13:]


def test_a_search_that_was_stopped_asks_for_the_same_and_goes_on(opened, tmp_path):
    asked = study("ridge", **RANGES)
    whole = searched(opened, asked, tmp_path / "whole")[-1]
    first = searched(opened, asked, tmp_path / "stopped", stop_after=2)[-1]
    assert [v.name for v in first.variants] == [v.name for v in whole.variants][:9]
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "stopped").rglob("run.json")}
    again = searched(opened, asked, tmp_path / "stopped")[-1]
    assert again.variants == whole.variants
    assert {p: p.stat().st_mtime_ns for p in before} == before
    scores = [validation_scores(p, opened.archive) for p in (again, whole)]
    assert scores[0] == scores[1]


def test_more_trials_go_on_with_those_there_are(opened, tmp_path):
    few = searched(opened, study("ridge", **RANGES | {"trials": 4}), tmp_path)[-1]
    more = searched(opened, study("ridge", **RANGES | {"trials": 6}), tmp_path)[-1]
    assert more.variants[:5] == few.variants
    assert study("ridge", **RANGES).digest == study("ridge", **RANGES | {"trials": 4}).digest
    assert study("ridge", **RANGES).digest != study("ridge", **RANGES | {"together": 2}).digest


def test_what_was_told_is_not_told_otherwise_later(opened, tmp_path):
    """A run that is tried again with success, or more seeds, would have the sampler ask for other trials."""
    asked = study("ridge", **RANGES)
    name = Search(asked).ask()[1].name
    first = searched(opened, asked, tmp_path, fail=[name])[-1]
    path = tmp_path / "ridge" / "search.json"
    told = json.loads(path.read_text())["told"]
    assert [len(r) for r in told] == [4, 4, 4, 2]
    assert told[0][name] is None
    again = searched(opened, asked, tmp_path)
    assert len(again) == 1
    assert again[0].variants == first.variants
    assert validation_scores(again[0], opened.archive)[name] is not None
    assert json.loads(path.read_text())["told"] == told
    for damage in ("{", '{"told": 1}', '{"told": [{"a": "b"}]}', '{"told": [{"a": 1e300}]}'):
        path.write_text(damage)
        with pytest.raises(RunError, match=r"damaged|cannot be read"):
            searched(opened, asked, tmp_path)
    path.write_text(json.dumps({"optuna": "4.0.0", "told": [{"trial 1: ridge=3": 0.5}]}))
    with pytest.raises(RunError, match="other trials") as error:
        searched(opened, asked, tmp_path)
    assert "continue with Optuna 4.0.0, not " in error.value.text()


def test_the_minimum_is_sought():
    """What is asked for last lies nearer the minimum than what was asked for by chance."""
    asked = study("p", base="linear", trials=40, axes=[{"path": "model.ridge", "low": 0.0, "high": 100.0}])
    search, values = Search(asked), []
    while trials := search.ask():
        found = {t.name: t.settings["model.ridge"] for t in trials}
        values += found.values()
        search.tell({name: (x - 10.0) ** 2 for name, x in found.items()})
    off = [abs(x - 10.0) for x in values]
    assert sum(off[-10:]) < sum(off[:10]) / 2


def test_settings_that_do_not_go_together_are_a_failed_trial(opened, tmp_path):
    """Each passes alone; the search continues."""
    axes = [{"path": "training.validate_every", "values": [1, 5]}, {"path": "training.epochs", "values": [5, 3]}]
    asked = study("v", base="cnn-gru", settings=TINY, trials=6, together=2, axes=axes)
    plans = []

    def go(trials):
        plans.append(plan_of(opened, asked, tmp_path, seeds=1, trials=trials))
        return plans[-1]

    write_plan(plan_of(opened, asked, tmp_path, seeds=1), opened.archive, None, "emukit ablate v")
    plan = search_study(asked, opened.archive, go, tmp_path / "v")
    assert len(plans) == 2
    settings = [(v.settings["training.validate_every"], v.settings["training.epochs"]) for v in plan.variants[1:]]
    # All four combinations were asked for, each once.
    assert sorted(settings) == [(1, 3), (1, 5), (5, 5)]


def all_asked(asked, score=lambda settings: 1.0):
    """Names and settings of all trials of a search, told a score each."""
    search, found = Search(asked), {}
    while trials := search.ask():
        found |= {t.name: t.settings for t in trials}
        search.tell({t.name: score(t.settings) for t in trials})
    return found


def test_a_finite_grid_is_asked_for_once_and_whole():
    """The sampler repeats itself: with this seed it asked for CO2+CH4 twice, and never for CO2 alone."""
    three = {"path": "model.features", "values": [["CO2"], ["CO2", "SO2"], ["CO2", "CH4"]]}
    found = all_asked(study("three", base="linear", trials=3, axes=[three]))
    assert [name.partition(":")[0] for name in found] == ["trial 1", "trial 2", "trial 3"]
    assert sorted(list(s["model.features"]) for s in found.values()) == sorted(three["values"])
    # Values of lists and of whole numbers together, one of them written twice; more trials than there are combinations.
    axes = [
        {"path": "model.season", "values": ["month", "harmonics", "month"]},
        {"path": "model.harmonics", "low": 1, "high": 3},
    ]
    for wanted, expected in ((6, 6), (50, 6), (4, 4)):
        asked = study("six", base="linear", trials=wanted, together=1, axes=axes)
        assert asked.number_of_trials == expected
        found = all_asked(asked, lambda s: s["model.harmonics"])
        combinations = {(s["model.season"], s["model.harmonics"]) for s in found.values()}
        assert len(found) == len(combinations) == expected
        assert [name.partition(":")[0] for name in found] == [f"trial {i + 1}" for i in range(expected)]


def test_a_range_and_a_few_values_are_not_asked_for_twice():
    """What the sampler settles on is tried once, not to the end."""
    axes = [{"path": "model.ridge", "low": 1.0, "high": 2.0}, {"path": "model.harmonics", "values": [1, 2]}]
    found = all_asked(study("both", base="linear", trials=120, together=1, axes=axes), lambda s: s["model.ridge"])
    assert len({(s["model.ridge"], s["model.harmonics"]) for s in found.values()}) == len(found) == 120


def test_a_search_that_cannot_begin_is_refused_before_anything_is_written(opened, tmp_path):
    for axis, said in (
        ({"path": "model.rigde", "low": 1.0, "high": 2.0}, "model.rigde"),
        ({"path": "model.ridge", "values": [1.0, "x"]}, "model.ridge"),
    ):
        with pytest.raises(RecipeError) as error:
            plan_of(opened, study("x", base="linear", trials=2, axes=[axis]), tmp_path)
        assert said in error.value.text()
    with pytest.raises(RecipeError, match="a search has one protocol"):
        plan_of(opened, study("x", **RANGES), tmp_path, protocols="official,k360")
    epochs = {"path": "training.epochs", "values": [1, 2]}
    with pytest.raises(RecipeError, match="sets its own") as error:
        plan_of(opened, study("x", base="cnn-gru", settings=TINY, trials=2, axes=[epochs]), tmp_path, budget="1h")
    assert "training.epochs of 'trials'" in error.value.text()


def test_a_score_of_some_seeds_selects_nothing(opened, tmp_path):
    asked = study("n", base="cnn-gru", settings=TINY, trials=1, axes=[{"path": "model.hidden", "values": [5]}])
    write_plan(plan_of(opened, asked, tmp_path), opened.archive, None, "emukit ablate n")
    (trial,) = Search(asked).ask()
    plan = plan_of(opened, asked, tmp_path, seeds=2, trials=[trial])
    train(opened, [r for r in plan.runs if r.variant == trial.name][:1])
    assert validation_scores(plan, opened.archive) == {"base": None, trial.name: None}


def test_a_named_variant_was_not_searched_for(opened, tmp_path):
    better = {"name": "better", "recipe": "linear", "settings": {"model.ridge": 300.0}}
    axes = [{"path": "model.ridge", "values": [1e9]}]
    asked = study("n", base="linear", variants=[better], trials=1, axes=axes)
    plan = searched(opened, asked, tmp_path)[-1]
    scores = validation_scores(plan, opened.archive)
    assert min(scores, key=scores.__getitem__) != plan.variants[-1].name
    assert study_result(plan, opened.archive, "", silent_reporter())["best"] == plan.variants[-1].name


def test_the_best_is_chosen_by_validation_alone_and_said_to_be_flattered(opened, tmp_path, monkeypatch):
    asked = study("ridge", **RANGES | {"trials": 5})
    plan = searched(opened, asked, tmp_path)[-1]
    scores = validation_scores(plan, opened.archive)
    result = study_result(plan, opened.archive, "emukit ablate ridge", silent_reporter())
    trials = {n: s for n, s in scores.items() if n != "base"}
    assert result["best"] == min(trials, key=trials.__getitem__)
    for part in result["results"]:
        rows = {r["variant"]: r for r in part["rows"]}
        assert set(rows) == {v.name for v in plan.variants}
        for name, row in rows.items():
            chosen = "chosen among 5 trials by these months, which flatters it" in row["sentence"]
            assert chosen == (name == result["best"] and part["set"] == "validation")
            assert ("the one chosen" in row["sentence"]) == (name == result["best"] and part["set"] == "test")
            if part["set"] == "validation" and row["mean"]:
                assert row["mean"]["score"] == pytest.approx(scores[name], abs=1e-4)
    assert len(save_result(plan, result)) == 2
    # A test that looks better than it can be chooses nothing.
    for run in plan.runs:
        path = run.folder / "scores" / "test.json"
        path.write_text('{"score": -1.0}')
    assert validation_scores(plan, opened.archive) == scores


def test_a_trial_that_failed_tells_nothing_and_stops_nothing(opened, tmp_path):
    asked = study("ridge", **RANGES | {"trials": 6})
    name = Search(asked).ask()[1].name
    plan = searched(opened, asked, tmp_path, fail=[name])[-1]
    assert len(plan.variants) == 7
    assert validation_scores(plan, opened.archive)[name] is None
    assert study_result(plan, opened.archive, "", silent_reporter())["best"] != name


def test_numbers_are_whole_where_the_ends_are(opened, tmp_path):
    asked = study("n", base="cnn-gru", trials=8, axes=[{"path": "model.hidden", "low": 2, "high": 9}])
    search = Search(asked)
    values = [v.settings["model.hidden"] for v in search.ask() + search.ask()]
    assert all(isinstance(v, int) and 2 <= v <= 9 for v in values)


def test_a_narrow_range_is_searched():
    asked = study("n", base="linear", trials=4, axes=[{"path": "model.ridge", "low": 1000.1, "high": 1000.4}])
    assert len({t.settings["model.ridge"] for t in Search(asked).ask()}) == 4


def test_rounding_never_leads_out_of_a_range():
    axis = Axis(path="a", low=0.123444, high=0.987654)
    assert search_module._value(axis, 0.123444) == 0.123444
    assert search_module._value(axis, 0.987654) == 0.987654
    assert search_module._value(axis, 0.444444) == 0.4444
    assert search_module._value(Axis(path="a", low=1, high=20), 17) == 17
    assert search_module._value(Axis(path="a", values=("x", ["y"])), 1) == ["y"]


def test_trials_train_as_long_as_the_base_within_the_budget(opened, tmp_path):
    asked = study("n", base="cnn-gru", trials=3, axes=[{"path": "model.hidden", "low": 2, "high": 9}])
    plan = plan_of(opened, asked, tmp_path, seeds=2, budget="10m")
    assert plan.seeds == {"base": (0, 1)}
    # Eight runs of 10 s and 2 s an epoch on two places.
    assert plan.epochs == {"base": (1200 - 80) // 16}
    write_plan(plan, opened.archive, "10m", "emukit ablate n")
    assert plan_of(opened, asked, tmp_path, seeds=2).saved.runs == {"base": 8}
    # One trial after the other, with one seed, on many places: no more than one run at a time.
    alone = asked.model_copy(update={"together": 1, "name": "alone"})
    assert plan_of(opened, alone, tmp_path, seeds=1, budget="10m", workers=8).epochs == {"base": (600 - 40) // 8}
    trial = Search(asked).ask()
    later = plan_of(opened, asked, tmp_path, seeds=2, budget="10m", trials=trial)
    assert set(later.epochs.values()) == {70}
    assert later.runs[-1].recipe.training.epochs == 70


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"axes": [{"path": "a", "low": 1.0, "high": 2.0}]}, "needs trials = 20"),
        ({"trials": 3, "variants": [{"name": "a"}]}, "trials search [[axes]]"),
        ({"trials": 3, "axes": [{"path": "a", "low": 2.0, "high": 1.0}]}, "the lower one first"),
        ({"trials": 3, "axes": [{"path": "a", "low": 2.0}]}, "the lower one first"),
        ({"trials": 3, "axes": [{"path": "a", "low": 0.0, "high": 1.0, "log": True}]}, "above zero"),
        ({"trials": 3, "axes": [{"path": "a", "values": [1], "high": 1.0}]}, "values, or low and high"),
        ({"trials": 3, "axes": [{"path": "a", "values": [1], "log": True}]}, "log is for"),
        ({"trials": 3, "axes": [{"path": "a", "low": 1, "high": 10**400}]}, "up to 1e+15"),
        ({"trials": 3, "axes": [{"path": "a", "low": -1.7e308, "high": 1.7e308}]}, "up to 1e+15"),
        ({"trials": 3, "axes": [{"path": "a", "low": 1, "high": 2, "label": "a\nb"}]}, "one line"),
        ({"trials": 3, "axes": [{"path": "a", "values": ["\x1b[31m"]}]}, "one line"),
        ({"trials": 3, "axes": [{"path": "a=5 #", "values": [1]}]}, "not a dotted path"),
        ({"trials": 200, "axes": [{"path": "a", "values": [1]}]}, "less than 200"),
    ],
)
def test_wrong_searches_are_refused(values, said):
    with pytest.raises(RecipeError) as error:
        study("wrong", base="linear", **values)
    assert said in error.value.text()


def test_without_optuna_it_says_what_to_install(opened, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(search_module, "import_module", missing)
    with pytest.raises(EmukitError, match="not installed") as error:
        Search(study("ridge", **RANGES))
    assert "pip install -e '.[search]'" in error.value.text()
