"""A study in progress that shows another state than it is in."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from emukit.cli import watch
from emukit.cli.watch import Watch
from emukit.progress import Reporter
from emukit.recipes.load import load_recipe
from emukit.studies.ablate import PlannedRun, StudyPlan
from emukit.studies.budget import Cost
from emukit.studies.study import Study
from tests.coded import coded_archive


@pytest.fixture
def plan(tmp_path):
    asked = Study(name="s", question="?", base="cnn-gru", variants=({"name": "b"}, {"name": "c"}))
    recipe = load_recipe("cnn-gru")
    runs = tuple(
        PlannedRun(v.name, "k360", 0, None, recipe, tmp_path / "runs" / v.name, ("train", "cnn-gru"))
        for v in asked.all_variants()
    )
    costs = {v.name: Cost(10.0, 5.0, 10, 50.0) for v in asked.all_variants()}
    none = dict.fromkeys(costs)
    return StudyPlan(asked, tmp_path / "s", tuple(asked.all_variants()), {}, none, {}, {}, {}, runs, costs)


def watch_of(plan, monkeypatch, terminal):
    monkeypatch.setattr(watch, "score_of", lambda run: "0.4321")
    monkeypatch.setattr(PlannedRun, "finished", lambda run, archive: None)
    monkeypatch.setattr(watch, "REFRESH_SECONDS", 0.0)
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120)
    return Watch(plan, coded_archive(), plan.runs, 2, Reporter(console=console)), out


@pytest.mark.parametrize("terminal", [True, False])
def test_counts_and_time_left(plan, monkeypatch, terminal):
    shown, out = watch_of(plan, monkeypatch, terminal)
    base, b, c = plan.runs
    with shown:
        shown.began(base)
        shown.look()
        shown.began(b)
        shown.ended(base, "")
        assert "base, k360, seed 0: score 0.4321 (1 of 3 done, 1 running" in out.getvalue()
        shown.ended(b, "error: it is broken\n  do: fix it")
        assert "b, k360, seed 0: failed: error: it is broken (1 of 3 done, 0 running, 1 failed" in out.getvalue()
        shown.began(c)
        c.folder.mkdir(parents=True)
        lines = [{"epoch": e, "validation": {"score": s}} for e, s in ((1, 0.9), (2, 0.5), (3, 0.6))]
        (c.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        before = len(out.getvalue())
        shown.look()
        live = out.getvalue()[before:]
        assert ("epoch 3 of 30" in live and "0.6000, best 0.5000" in live) == terminal
        assert ("1 running, 1 failed" in live) == terminal
        shown.ended(c, "")
    assert "2 of 3 done, 0 running, 1 failed)" in out.getvalue()


def test_time_left_is_what_is_planned_for_what_is_left(plan, monkeypatch):
    shown, out = watch_of(plan, monkeypatch, False)
    base, *_ = plan.runs
    # Ended without having started here: another study trained it, which says nothing of the pace.
    shown.ended(base, "")
    # Two runs of a minute on two places.
    assert "60 s left" in out.getvalue()


@pytest.fixture
def clock(monkeypatch):
    """Time that stands still until it is told."""
    now = [0.0]
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: now[0]))
    return now


def log(run, epoch):
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / "metrics.jsonl").write_text(json.dumps({"epoch": epoch}) + "\n")


def test_epochs_that_are_done_are_not_left(plan, monkeypatch, clock):
    """Of a run that went on after an interruption, however short this session has been."""
    shown, out = watch_of(plan, monkeypatch, False)
    base, b, _ = plan.runs
    shown.began(b)
    log(b, 24)
    shown.ended(base, "")
    # A minute each: a fifth of one and one, on two places.
    assert "36 s left" in out.getvalue()


def test_without_a_log_the_clock_says_what_is_left_and_never_less_than_nothing(plan, monkeypatch, clock):
    shown, out = watch_of(plan, monkeypatch, False)
    base, b, _ = plan.runs
    shown.began(b)
    clock[0] = 30.0
    shown.ended(base, "")
    assert "45 s left" in out.getvalue()
    clock[0] = 500.0
    shown.ended(base, "")
    assert "30 s left" in out.getvalue()


def test_the_pace_is_that_of_this_session(plan, monkeypatch, clock):
    shown, out = watch_of(plan, monkeypatch, False)
    base, *_ = plan.runs
    log(base, 27)
    shown.began(base)
    clock[0] = 12.0
    # A tenth of a minute's run took twelve seconds: twice as long as planned, and two runs are left on two places.
    shown.ended(base, "")
    assert "120 s left" in out.getvalue() or "2 min left" in out.getvalue()


def test_what_failed_before_and_is_not_tried_again_is_not_left(plan, monkeypatch):
    shown, out = watch_of(plan, monkeypatch, False)
    shown._to_do = plan.runs[:1]
    shown.began(plan.runs[0])
    shown.ended(plan.runs[0], "")
    assert "(1 of 3 done, 0 running)" in out.getvalue()


def test_quiet_is_quiet(plan, monkeypatch):
    shown, out = watch_of(plan, monkeypatch, True)
    quiet = Watch(plan, coded_archive(), plan.runs, 2, replace(shown._reporter, quiet=True))
    with quiet:
        quiet.began(plan.runs[0])
        quiet.look()
        quiet.ended(plan.runs[0], "error")
    assert out.getvalue() == ""
