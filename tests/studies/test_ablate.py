"""Studies that train twice, compare what is not the same, or forget what failed."""

import json
import socket
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest

from emukit.competitions.cse151b import cse151b
from emukit.config import check
from emukit.data.split import Span
from emukit.distribution import VERSION
from emukit.errors import ProtocolError, RecipeError, RunError
from emukit.progress import silent_reporter
from emukit.runs import run as run_module
from emukit.runs.evaluate import score_emulator
from emukit.runs.run import train_run
from emukit.studies import ablate
from emukit.studies import results as findings
from emukit.studies.ablate import StudyData, make_study_plan, run_study, write_plan
from emukit.studies.bootstrap import load_years, save_years
from emukit.studies.budget import Cost
from emukit.studies.results import save_result, study_result
from emukit.studies.study import Study, recipe_of
from tests.coded import warming_archive

TINY = {
    "model.hidden": 4,
    "model.features": 3,
    "model.width": 2,
    "model.stages": 1,
    "model.pool_rows": 1,
    "model.pool_columns": 2,
    "inputs.window.history": 2,
    "training.segments.length": 24,
    "training.optimizer.warmup_steps": 0,
    "training.epochs": 1,
}


@pytest.fixture(scope="module")
def opened():
    return StudyData(warming_archive(), ("--data", "warming"))


@pytest.fixture(autouse=True)
def _measured(monkeypatch):
    monkeypatch.setattr(ablate, "start_seconds", lambda words, environments: 10.0)
    monkeypatch.setattr(ablate, "TRIED_SECONDS", 0.0)
    monkeypatch.setattr(ablate, "epoch_seconds", lambda archive, recipe, split, comm, threads: 2.0)


def study(name="ridges", **values):
    given = values or {"base": "linear", "axes": [{"path": "model.ridge", "values": [1.0, 100.0]}]}
    return check(Study, {"name": name, "question": "?", **given}, source="test")


def plan_of(opened, asked, root, **options):
    return make_study_plan(opened, asked, root, [{"OMP_NUM_THREADS": "1"}] * 2, reporter=silent_reporter(), **options)


def train(opened, runs):
    for r in runs:
        if not r.finished(opened.archive):
            options = {"protocol": r.protocol, "seed": r.seed, "members": r.members, "reporter": silent_reporter()}
            train_run(opened.archive, r.recipe, r.folder, **options)


def result_of(opened, plan):
    return study_result(plan, opened.archive, "emukit ablate", silent_reporter())


def test_a_run_is_found_by_what_decides_its_numbers(opened, tmp_path):
    plan = plan_of(opened, study(), tmp_path)
    assert [r.variant for r in plan.runs] == ["base", "ridge=1", "ridge=100"]
    assert len(plan.distinct()) == 3
    assert plan.runs[1].command == (
        "emukit train linear --data warming --set model.ridge=1.0 --protocol official --seed 0"
    )
    # Another study that asks for the same, under another name, shares it; other members do not.
    asked = study(
        "other",
        base="linear",
        variants=[
            {"name": "loose", "settings": {"model.ridge": 1.0}},
            {"name": "one", "members": [0], "settings": {"model.ridge": 1.0}},
        ],
    )
    other = plan_of(opened, asked, tmp_path)
    assert other.runs[0].folder == plan.runs[0].folder
    assert other.runs[1].folder == plan.runs[1].folder
    assert other.runs[2].folder not in {r.folder for r in plan.runs}
    assert other.runs[2].words[-2:] == ("--members", "0")
    # So does a variant that says the default.
    default = plan.runs[0].recipe.options["ridge"]
    same = plan_of(opened, study("x", base="linear", axes=[{"path": "model.ridge", "values": [default]}]), tmp_path)
    assert len(same.runs) == 2
    assert len(same.distinct()) == 1


def test_seeds_only_where_they_decide_something_and_every_variant_before_a_second_seed(opened, tmp_path):
    asked = study(base="linear", variants=[{"name": "net", "recipe": "cnn-gru", "settings": TINY}])
    plan = plan_of(opened, asked, tmp_path, seeds=3)
    assert [(r.variant, r.seed) for r in plan.runs] == [("base", 0), ("net", 0), ("net", 1), ("net", 2)]


def test_epochs_are_fitted_once_and_kept(opened, tmp_path):
    asked = study(base="cnn-gru", settings=TINY, variants=[{"name": "linear", "recipe": "linear"}])
    plan = plan_of(opened, asked, tmp_path, seeds=2, budget="60s")
    # Two workers, 120 s; three runs start, two of them train: 90 s of 2 s for each of two.
    assert plan.epochs == {"base": 22, "linear": None}
    assert plan.runs[0].recipe.training.epochs == 22
    assert "training.epochs=22" in plan.runs[0].words
    assert plan.costs == {"base": Cost(10.0, 2.0, 1, 2.0), "linear": Cost(10.0, 0.0, None, 0.0)}
    write_plan(plan, opened.archive, "60s", "emukit ablate x --budget 60s")
    again = plan_of(opened, asked, tmp_path, seeds=3)
    assert again.epochs == plan.epochs
    assert again.runs[0].folder == plan.runs[0].folder
    assert plan_of(opened, asked, tmp_path, budget="60s").epochs == plan.epochs
    with pytest.raises(RunError, match="another study") as error:
        plan_of(opened, asked, tmp_path, budget="2h")
    assert "another budget" in error.value.text()
    # What a folder holds is shown to nobody as a command to paste.
    assert "emukit ablate x --budget 60s" not in error.value.text()
    changed = study(
        base="cnn-gru", settings={**TINY, "model.hidden": 5}, variants=[{"name": "linear", "recipe": "linear"}]
    )
    with pytest.raises(RunError) as error:
        plan_of(opened, changed, tmp_path)
    assert "another base, match or search: changed: 'base'" in error.value.text()
    assert (again.saved.budget, again.saved.runs) == ("60s", {"base": 2, "linear": 1})
    other = StudyData(warming_archive(seed=1), opened.words)
    with pytest.raises(RunError) as error:
        plan_of(other, asked, tmp_path)
    assert "another data" in error.value.text()
    # Whatever is wrong in the file, it is refused; and it is never written again.
    before = (plan.folder / "plan.json").read_text()
    write_plan(replace(plan, epochs={"base": 1, "linear": None}), opened.archive, "2h", "emukit ablate y")
    assert (plan.folder / "plan.json").read_text() == before
    kept = json.loads(before)
    cost = kept["costs"]["base"]
    for change in (
        {"costs": 1},
        {"epochs": {"base": 0, "linear": None}},
        {"epochs": {"base": True, "linear": None}},
        {"epochs": {"base": "x", "linear": None}},
        {"epochs": {"base": 10**30, "linear": None}},
        {"costs": {**kept["costs"], "base": {**cost, "start": "a"}}},
        {"costs": {**kept["costs"], "base": {**cost, "start": float("nan")}}},
        {"costs": {**kept["costs"], "base": {**cost, "epoch": -1}}},
        {"runs": {"base": float("inf"), "linear": 1}},
        {"budget": ["x"]},
        {"budget": "x"},
        {"runs": {}},
        {"runs": []},
        {"epochs": {"base": None, "linear": None}},
        {"epochs": {"base": 22, "linear": 3}},
        {"variants": None},
        {"variants": {}},
        {"format": 1},
        {"card": "x"},
    ):
        (plan.folder / "plan.json").write_text(json.dumps({**kept, **change}))
        with pytest.raises(RunError, match="another study"):
            plan_of(opened, asked, tmp_path)


def test_a_variant_that_failed_cannot_be_mended(opened, tmp_path):
    """What comes to a study, or is another now, trains the epochs that were fitted when it was started."""
    variants = [{"name": "wide", "settings": {"model.hidden": 5}}, {"name": "linear", "recipe": "linear"}]
    plan = plan_of(opened, study(base="cnn-gru", settings=TINY, variants=variants), tmp_path, budget="60s")
    write_plan(plan, opened.archive, "60s", "emukit ablate x --budget 60s")
    variants[0] = {"name": "wide", "settings": {"model.hidden": 6}}
    variants[1] = {"name": "climatology", "recipe": "climatology"}
    variants.append({"name": "deep", "settings": {"model.stages": 2}})
    again = plan_of(opened, study(base="cnn-gru", settings=TINY, variants=variants), tmp_path)
    fitted = plan.epochs["base"]
    assert again.epochs == {"base": fitted, "wide": fitted, "climatology": None, "deep": fitted}
    assert [r.folder for r in again.runs if r.variant == "base"] == [r.folder for r in plan.runs if r.variant == "base"]
    assert again.recipes["wide"].options["hidden"] == 6
    assert again.costs["deep"] == plan.costs["base"]
    assert again.costs["climatology"] == Cost(10.0, 0.0, None, 0.0)
    assert again.saved.changes == "new: 'climatology', 'deep'; gone: 'linear'; changed: 'wide'"
    assert again.saved.untimed == ["climatology", "deep", "wide"]
    members = plan_of(
        opened,
        study(base="cnn-gru", settings=TINY, variants=[{"name": "linear", "recipe": "linear", "members": [0]}]),
        tmp_path,
    )
    assert members.saved.untimed == ["linear"]
    own = study(base="cnn-gru", settings=TINY, variants=[{"name": "long", "settings": {"training.epochs": 99}}])
    with pytest.raises(RecipeError, match="a variant sets its own"):
        plan_of(opened, own, tmp_path)


def test_a_network_escapes_a_budget_that_was_fitted_to_none(opened, tmp_path):
    variants = [{"name": "stiff", "settings": {"model.ridge": 9.0}}]
    plan = plan_of(opened, study(base="linear", variants=variants), tmp_path, budget="60s")
    write_plan(plan, opened.archive, "60s", "emukit ablate x --budget 60s")
    variants.append({"name": "climatology", "recipe": "climatology"})
    assert plan_of(opened, study(base="linear", variants=variants), tmp_path).epochs["climatology"] is None
    variants.append({"name": "net", "recipe": "cnn-gru", "settings": TINY})
    with pytest.raises(RunError, match="fitted to no network"):
        plan_of(opened, study(base="linear", variants=variants), tmp_path)


def test_a_network_beside_others_takes_the_epochs_of_a_base_without_any(opened, tmp_path):
    small = {path: value for path, value in TINY.items() if path != "training.epochs"}
    variants = [{"name": "net", "recipe": "cnn-gru", "settings": small}]
    plan = plan_of(opened, study(base="linear", variants=variants), tmp_path, budget="60s")
    write_plan(plan, opened.archive, "60s", "emukit ablate x --budget 60s")
    variants.append({"name": "other", "recipe": "cnn-gru", "settings": {**small, "model.hidden": 5}})
    again = plan_of(opened, study(base="linear", variants=variants), tmp_path)
    assert again.epochs["other"] == plan.epochs["net"] > 1


def test_without_a_budget_a_new_variant_may_not_set_its_epochs(opened, tmp_path):
    variants = [{"name": "a", "settings": {"model.hidden": 5}}]
    write_plan(
        plan_of(opened, study(base="cnn-gru", settings=TINY, variants=variants), tmp_path), opened.archive, None, "x"
    )
    variants.append({"name": "long", "settings": {"training.epochs": 3}})
    again = plan_of(opened, study(base="cnn-gru", settings=TINY, variants=variants), tmp_path)
    assert again.recipes["long"].training.epochs == 3


def test_a_variant_of_a_cost_that_nobody_measured_is_matched(opened, tmp_path):
    variants = [{"name": "wide", "settings": {"model.hidden": 5}}]
    plan = plan_of(opened, study(base="cnn-gru", settings=TINY, variants=variants, match="cost"), tmp_path)
    write_plan(plan, opened.archive, None, "emukit ablate x")
    variants[0]["settings"] = {"model.hidden": 6}
    with pytest.raises(RunError, match="cost to be matched: changed: 'wide'"):
        plan_of(opened, study(base="cnn-gru", settings=TINY, variants=variants, match="cost"), tmp_path)


def test_of_several_wrong_variants_only_the_first_is_named(opened, tmp_path):
    variants = [{"name": n, "settings": {f"model.{n}": 1}} for n in ("a", "b")]
    with pytest.raises(RecipeError, match="2 of 3 variants are wrong") as error:
        plan_of(opened, study(base="linear", variants=variants), tmp_path)
    assert "model.a: unknown key" in error.value.text()
    assert "model.b: unknown key" in error.value.text()


def test_a_run_of_the_base_is_called_after_a_variant_that_is_the_same(opened, tmp_path):
    default = recipe_of(study(base="linear", variants=[{"name": "x"}]).all_variants()[0]).options["ridge"]
    asked = study(
        base="linear",
        variants=[{"name": "one", "settings": {"model.ridge": 1.0}}],
        axes=[{"path": "model.ridge", "values": [default]}],
    )
    assert [r.variant for r in plan_of(opened, asked, tmp_path).distinct()] == ["base", "one"]


def test_without_a_budget_recipes_keep_their_epochs(opened, tmp_path):
    asked = study(base="cnn-gru", settings=TINY, variants=[{"name": "long", "settings": {"training.epochs": 3}}])
    plan = plan_of(opened, asked, tmp_path)
    assert [r.recipe.training.epochs for r in plan.runs[:2]] == [1, 3]
    assert plan.seconds(plan.runs[:2], 1) == 12 + 16
    # A budget would give the longer one no more than the others.
    with pytest.raises(RecipeError, match="sets its own") as error:
        plan_of(opened, asked, tmp_path, budget="1h")
    assert "training.epochs of 'long'" in error.value.text()
    with pytest.raises(RecipeError, match="too small"):
        plan_of(
            opened,
            study(base="cnn-gru", settings=TINY, variants=[{"name": "x", "recipe": "linear"}]),
            tmp_path,
            budget="1s",
        )


def test_what_cannot_be_timed_does_not_escape_a_budget(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(ablate, "epoch_seconds", lambda archive, recipe, split, comm, threads: None)
    asked = study(base="linear", variants=[{"name": "net", "recipe": "cnn-gru", "settings": TINY}])
    plan = plan_of(opened, asked, tmp_path)
    assert plan.not_timed == ("net",)
    assert plan.costs["net"] == Cost(10.0, 0.0, 1, 0.0)
    with pytest.raises(RecipeError, match="could not be measured") as error:
        plan_of(opened, asked, tmp_path, budget="1h")
    assert "net" in error.value.text()
    same = study(base="cnn-gru", settings=TINY, match="cost", variants=[{"name": "x", "recipe": "linear"}])
    with pytest.raises(RecipeError, match="could not be measured"):
        plan_of(opened, same, tmp_path)


def test_epochs_beside_other_trainings_take_longer(opened, tmp_path, monkeypatch):
    """By as much as those of the quickest network do; where its epochs are long, nobody waits for them."""
    monkeypatch.setattr(ablate, "TRIED_SECONDS", 20.0)
    monkeypatch.setattr(
        ablate, "epoch_seconds", lambda archive, recipe, split, comm, threads: float(recipe.model.hidden)
    )
    tried = []

    def together(words, environments):
        tried.append((words, len(environments)))
        return 5.0

    monkeypatch.setattr(ablate, "epoch_seconds_together", together)
    wide = {"name": "wide", "settings": {"model.hidden": 40}}
    closed = {"name": "closed", "recipe": "linear"}
    plan = plan_of(opened, study(base="cnn-gru", settings=TINY, variants=[wide, closed]), tmp_path)
    assert {v: (c.epoch, c.own) for v, c in plan.costs.items()} == {
        "base": (5.0, 5.0),
        "wide": (50.0, 50.0),
        "closed": (0.0, 0.0),
    }
    ((words, processes),) = tried
    assert processes == 2
    assert words[-5:] == ("training.epochs=2", "--protocol", "official", "--seed", "0")
    assert "model.hidden=4" in words
    monkeypatch.setattr(ablate, "TRIED_SECONDS", 3.0)
    assert plan_of(opened, study(base="cnn-gru", settings=TINY, variants=[wide]), tmp_path).costs["base"].epoch == 4.0
    assert len(tried) == 1


def test_members_are_timed_apart_and_those_that_are_not_there_refused(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(
        ablate, "epoch_seconds", lambda archive, recipe, split, comm, threads: float(len(split.train[0].members))
    )
    asked = study(base="cnn-gru", settings=TINY, variants=[{"name": "one", "members": [0]}])
    assert {v: c.epoch for v, c in plan_of(opened, asked, tmp_path).costs.items()} == {"base": 3.0, "one": 1.0}
    with pytest.raises(ProtocolError, match="variant 'far'") as error:
        plan_of(opened, study(base="linear", variants=[{"name": "far", "members": [99]}]), tmp_path)
    assert "fix the study's file" in error.value.text()


def test_cost_is_matched_to_the_base_without_a_budget(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(
        ablate, "epoch_seconds", lambda archive, recipe, split, comm, threads: 2.0 * recipe.model.hidden
    )
    asked = study(
        base="cnn-gru",
        settings={**TINY, "training.epochs": 10},
        match="cost",
        variants=[{"name": "wide", "settings": {"model.hidden": 8}}],
    )
    assert plan_of(opened, asked, tmp_path).epochs == {"base": 10, "wide": 5}


def test_numbers_are_those_of_the_runs_and_differences_of_seeds_that_both_have(opened, tmp_path):
    archive = opened.archive
    settings = {k: v for k, v in TINY.items() if k != "training.epochs"} | {"training.epochs": 1}
    asked = study(base="cnn-gru", settings=settings, variants=[{"name": "linear", "recipe": "linear"}])
    plan = plan_of(opened, asked, tmp_path, seeds=3, protocols="official,k360")
    official = [r for r in plan.runs if r.protocol == "official"]
    train(opened, official[:-1])
    result = result_of(opened, plan)
    shown = {(r["protocol"], r["set"]): r for r in result["results"]}
    assert set(shown) == {("official", "validation"), ("official", "test"), ("k360", "validation"), ("k360", "test")}
    for name in ("validation", "test"):
        part = shown["official", name]
        base, linear = part["rows"]
        assert (base["variant"], base["seeds"], base["difference"], base["sentence"]) == (
            "base",
            [0, 1],
            None,
            "the base",
        )
        whole = [r.finished(archive) for r in official[:-1]]
        scores = [score_emulator(w.emulator(archive), archive, w.split(archive).scored[name]).line() for w in whole]
        assert base["mean"] == pytest.approx({k: (scores[0][k] + scores[2][k]) / 2 for k in scores[0]})
        assert linear["mean"] == pytest.approx(scores[1])
        assert linear["sd"] is None
        # The one run of what no seed decides stands next to each seed of the base.
        difference = linear["difference"]["score"]
        assert difference["mean"] == pytest.approx(linear["mean"]["score"] - base["mean"]["score"])
        assert difference["sd"] == pytest.approx(abs(scores[0]["score"] - scores[2]["score"]) / 2**0.5)
        assert difference["low"] < difference["mean"] < difference["high"]
        assert part["floor"]["score"] > 0
        assert part["limit"]["score"] > 0
    assert [row["sentence"] for row in shown["k360", "test"]["rows"]] == ["no run has finished"] * 2
    states = {r["state"] for v in result["variants"] for r in v["runs"] if r["protocol"] == "k360"}
    assert states == {"waiting"}
    json.dumps(result, allow_nan=False)
    (together,) = result["trained_with"]
    assert together.startswith(f"emukit {VERSION}")
    assert f"torch {version('torch')}" in together
    # What is kept of the years is read, not made again.
    again = result_of(opened, plan)
    assert again["results"] == result["results"]


def test_scenarios_left_out_have_a_mean_of_the_runs_that_all_of_them_have(opened, tmp_path):
    plan = plan_of(opened, study(), tmp_path, protocols="loso:all")
    train(opened, [r for r in plan.runs if not (r.variant == "ridge=100" and r.protocol == "loso:ssp585")])
    *each, mean = result_of(opened, plan)["results"]
    assert (mean["protocol"], mean["set"]) == ("loso:all", "test")
    tests = [r for r in each if r["set"] == "test"]
    assert len(tests) == 4
    assert mean["months"] == [m for r in tests for m in r["months"]]
    assert mean["floor"]["score"] == pytest.approx(np.mean([r["floor"]["score"] for r in tests]))
    base, loose, strict = mean["rows"]
    assert base["mean"]["pr.time_mean_rmse"] == pytest.approx(
        np.mean([r["rows"][0]["mean"]["pr.time_mean_rmse"] for r in tests])
    )
    assert loose["difference"]["score"]["mean"] == pytest.approx(
        np.mean([r["rows"][1]["difference"]["score"]["mean"] for r in tests])
    )
    assert strict["sentence"] == "no run has finished"


def test_years_are_drawn_from_as_many_as_the_shortest_span_has(opened, tmp_path, monkeypatch):
    """More would make the interval narrower than the months allow."""
    plan = plan_of(opened, study(), tmp_path)
    train(opened, plan.runs[:2])
    seen, known = [], findings.bootstrap.difference

    def difference(variant, base, years, names):
        seen.append(years)
        return known(variant, base, years, names)

    monkeypatch.setattr(findings.bootstrap, "difference", difference)
    spans = [Span("ssp370", 24, 24 + months, (0,)) for months in (36, 24, 48)]
    monkeypatch.setattr(findings, "scored_spans", lambda archive, split, name: spans)
    result_of(opened, plan)
    assert set(seen) == {2}
    seen.clear()
    found = {v.name: [np.ones((3, 7))] for v in plan.variants}
    part = {"months": ["m"], "floor": None, "limit": None}
    findings._mean_result(plan, cse151b(), [(part, found, 7), (part, found, 5), (part, found, 6)])
    assert set(seen) == {5}


def test_a_failed_run_is_shown_and_tried_again_only_when_asked(opened, tmp_path):
    plan = plan_of(opened, study(), tmp_path)
    tried, wrong = [], {1}

    def execute(jobs, *, began, ended, look):
        for number, job in enumerate(jobs):
            began(number)
            tried.append(job.folder)
            index = [r.folder for r in plan.runs].index(job.folder)
            if index in wrong:
                ended(number, "error: too steep\n  do:       less")
            else:
                train(opened, [plan.runs[index]])
                ended(number, "")

    said = []

    def go(retry=False):
        run_study(
            plan.to_do(opened.archive, retry),
            execute,
            began=lambda run: None,
            ended=lambda run, error: said.append((run.variant, error)),
            look=lambda: None,
        )
        return result_of(opened, plan)["variants"]

    variants = go()
    assert tried == [r.folder for r in plan.runs]
    assert [v["runs"][0]["state"] for v in variants] == ["finished", "failed", "finished"]
    assert variants[1]["runs"][0]["error"].startswith("error: too steep")
    assert ("ridge=1", "error: too steep\n  do:       less") in said
    tried.clear()
    assert [v["runs"][0]["state"] for v in go()] == ["finished", "failed", "finished"]
    assert tried == []
    # What is stopped before it is started again has still failed.
    to_do = plan.to_do(opened.archive, True)
    run_study(to_do, lambda jobs, **_: None, began=print, ended=print, look=print)
    assert plan.runs[1].error() == "error: too steep\n  do:       less"
    assert plan.to_do(opened.archive, True, [plan.runs[1].folder]) == plan.to_do(opened.archive, False) == []
    wrong.clear()
    assert [v["runs"][0]["state"] for v in go(retry=True)] == ["finished"] * 3
    assert tried == [plan.runs[1].folder]
    assert not plan.runs[1].failure.exists()


def test_a_job_is_the_command_that_the_record_names(opened, tmp_path):
    plan, jobs = plan_of(opened, study(), tmp_path), []
    to_do = plan.to_do(opened.archive, False)
    run_study(to_do, lambda found, **_: jobs.extend(found), began=print, ended=print, look=print)
    assert [j.words[3:] for j in jobs] == [(*r.words, "--out", str(r.folder), "--resume") for r in plan.runs]
    assert jobs[0].words[1:3] == ("-m", "emukit")
    assert not jobs[0].done(jobs[0].folder)
    train(opened, plan.runs[:1])
    assert jobs[0].done(jobs[0].folder)


def test_a_variant_that_is_the_base_is_said_to_be_it(opened, tmp_path):
    """An axis with the base's own value among its values: a difference of nothing is not a finding."""
    asked = study(
        base="linear", axes=[], variants=[{"name": "again"}, {"name": "other", "settings": {"model.ridge": 7}}]
    )
    plan = plan_of(opened, asked, tmp_path)
    train(opened, plan.distinct())
    for result in result_of(opened, plan)["results"]:
        base, again, other = result["rows"]
        assert (again["sentence"], again["difference"]) == ("the same run as base", None)
        assert again["mean"] == base["mean"]
        assert other["difference"]


def test_tables_hold_what_is_kept(opened, tmp_path):
    plan = plan_of(opened, study(), tmp_path)
    train(opened, plan.runs[:2])
    result = result_of(opened, plan)
    save_result(plan, result)
    kept = json.loads((plan.folder / findings.STUDY_FILE).read_text())
    assert kept == result
    rows = {r["variant"]: r for r in kept["results"][0]["rows"]}
    table = (plan.folder / "table.md").read_text()
    assert f"| base | 1 | {rows['base']['mean']['score']:.4f} |" in table
    score = rows["ridge=1"]["difference"]["score"]
    assert f"| {score['mean']:+.4f} ({score['low']:+.3f} to {score['high']:+.3f}) |" in table
    assert f"- ridge=1: {rows['ridge=1']['sentence']}" in table
    assert "- ridge=100: no run has finished" in table
    lines = (plan.folder / "table.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 7 * len(kept["results"])
    assert kept["variants"][0]["runs"][0]["folder"].startswith("../runs/linear-")
    assert (plan.folder / kept["variants"][0]["runs"][0]["folder"] / "run.json").exists()


def test_a_damaged_run_is_no_finished_one(opened, tmp_path):
    plan = plan_of(opened, study(), tmp_path)
    train(opened, plan.runs[:1])
    (plan.runs[0].folder / "run.json").write_text("{")
    assert plan.runs[0].finished(opened.archive) is None
    assert replace(plan, runs=plan.runs[:1]).distinct() == [plan.runs[0]]


def test_what_has_no_seeds_stands_beside_every_seed_of_the_other():
    a, b, c = (np.full((3, 7), x) for x in (1.0, 2.0, 3.0))
    assert [(v[0, 0], o[0, 0]) for v, o in findings._pairs([a, b], [c])] == [(1, 3), (2, 3)]
    assert [(v[0, 0], o[0, 0]) for v, o in findings._pairs([c], [a, None, b])] == [(3, 1), (3, 2)]
    assert [(v[0, 0], o[0, 0]) for v, o in findings._pairs([a, None, c], [None, b, b])] == [(3, 2)]


@pytest.mark.parametrize("how", ["fewer years", "another run's", "not a number"])
def test_years_that_are_not_those_of_the_run_are_made_again(opened, tmp_path, how):
    plan = plan_of(opened, study(), tmp_path)
    train(opened, plan.distinct())
    before = study_result(plan, opened.archive, "", silent_reporter())
    one, other = (r.folder / "scores" / "validation-years.npz" for r in plan.distinct()[:2])
    kept = load_years(one)
    save_years(
        one, {"fewer years": [kept[0][:1]], "another run's": load_years(other), "not a number": [kept[0] * np.nan]}[how]
    )
    after = study_result(plan, opened.archive, "", silent_reporter())
    assert after["results"] == before["results"]
    np.testing.assert_array_equal(load_years(one)[0], kept[0])


def test_a_failure_without_words_is_a_failure(opened, tmp_path):
    plan = plan_of(opened, study(), tmp_path)
    failed = plan.distinct()[0]
    failed.failure.parent.mkdir(parents=True)
    failed.failure.touch()
    assert failed.error()


def test_closed_form_variants_give_their_time_to_nobody(opened, tmp_path):
    """All at the cost of the base: the base itself trains as its recipe says."""
    variants = [{"name": "linear", "recipe": "linear"}, {"name": "climatology", "recipe": "climatology"}]
    asked = study(base="cnn-gru", settings=TINY | {"training.epochs": 40}, variants=variants, match="cost")
    assert plan_of(opened, asked, tmp_path).epochs == {"base": 40, "linear": None, "climatology": None}
    with pytest.raises(RecipeError, match="the base has none"):
        plan_of(opened, study(match="cost", base="linear", variants=[{"name": "x", "recipe": "climatology"}]), tmp_path)


def test_what_another_process_finished_meanwhile_is_not_trained_again(opened, tmp_path, monkeypatch):
    """Between its first look at the folder and the lock a run is prepared, which takes seconds."""
    planned = plan_of(opened, study(), tmp_path).distinct()[0]
    options = {"protocol": planned.protocol, "resume": True, "reporter": silent_reporter()}
    prepare, others = run_module.prepare, []

    def slow(*args):
        made = prepare(*args)
        if not others:
            others.append(None)
            others.append(train_run(opened.archive, planned.recipe, planned.folder, **options))
        return made

    monkeypatch.setattr(run_module, "prepare", slow)
    run, evaluation = train_run(opened.archive, planned.recipe, planned.folder, **options)
    assert len(run.record.sessions) == 1
    assert run.record == others[1][0].record
    assert evaluation.score == others[1][1].score


@pytest.mark.parametrize("inside", ["..", ".", "scores"])
def test_parts_that_a_killed_study_left_are_swept_where_nothing_is_written_again(opened, tmp_path, inside):
    plan = plan_of(opened, study(), tmp_path)
    (folder, *_) = [r.folder for r in plan.runs]
    part = folder / inside / ".emukit-0123456789abcdef.part"
    part.mkdir(parents=True, mode=0o700)
    (part / ".owner").write_text(socket.gethostname())
    write_plan(plan, opened.archive, None, "emukit ablate x")
    assert not part.exists()
