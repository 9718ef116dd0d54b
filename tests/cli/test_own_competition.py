"""A competition of somebody else's that a command does not know: a number left out, a direction not asked for."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from emukit.competitions.registry import COMPETITIONS, load_competition
from emukit.config import check
from emukit.data.store import open_store
from emukit.files import shipped
from emukit.progress import silent_reporter
from emukit.runs.listing import list_runs
from emukit.runs.run import train_run
from emukit.studies import ablate
from emukit.studies.ablate import StudyData, make_study_plan
from emukit.studies.results import save_result, study_result
from emukit.studies.study import Study
from tests.report import sites

UNITS = {"tas": "K", "pr": "mm/day"}


def own_card(folder, name, competition):
    """The demo's card under another name, with another competition."""
    text = shipped("data_cards", "demo.toml").read_text(encoding="utf-8")
    line = f'competition = "{competition}"' if competition else ""
    text = text.replace('name = "demo"', f'name = "{name}"').replace('competition = "cse151b"', line)
    path = Path(folder, f"{name}.toml")
    path.write_text(text, encoding="utf-8")
    return path


STUDY = {"name": "ridges", "question": "?", "base": "linear", "protocols": "k360", "seeds": 1}


def study_of(archive, folder):
    """A study of two ridges, trained in this process: another would not know the competition of a test."""
    asked = check(Study, STUDY | {"axes": [{"path": "model.ridge", "values": [3000.0]}]}, source="test")
    opened = StudyData(archive, ("--data", "store"))
    plan = make_study_plan(opened, asked, folder, [{}], reporter=silent_reporter())
    for run in plan.distinct():
        train_run(archive, run.recipe, run.folder, protocol="k360", seed=run.seed, reporter=silent_reporter())
    result = study_result(plan, archive, "emukit ablate", silent_reporter())
    save_result(plan, result)
    return plan.folder, result


@pytest.mark.parametrize(
    ("name", "heading", "direction"),
    [("with-mae", "tas.mae", "lower is better"), ("skill", "tas.skill", "higher is better"), ("", "tas.bias", "lower")],
)
def test_a_stranger_s_number_goes_the_whole_way(
    emukit, demo_store, strange, tmp_path, monkeypatch, name, heading, direction
):
    """Train, evaluate, validate, a study, leaderboard and report: one file brought the number."""
    if name:
        # What is drawn is the same for every competition.
        sites.leave_blank(monkeypatch)
    card = own_card(tmp_path, "mine", name)
    data = ("--data", demo_store, "--card", card)
    for ridge in (1, 3000):
        run = f"runs/r{ridge}"
        answer = emukit("train", "linear", *data, "--set", f"model.ridge={ridge}", "--protocol", "k360", "--out", run)
        assert answer.code == 0, answer.err
    shown = emukit("evaluate", "runs/r1", "-q")
    assert direction in shown.out
    kept = json.loads(Path("runs/r1/scores/validation.json").read_text())
    group, _, part = heading.partition(".")
    assert np.isfinite(kept[group][part])
    assert json.loads(Path("runs/r1/run.json").read_text())["data"]["scoring"]["name"] == (name or "generic")
    answer = emukit("evaluate", "linear", *data, "--protocols", "k360", "--seeds", "1", "--out", "v", "-q")
    assert answer.code == 0, answer.err
    assert f"summary ({direction}" in answer.out
    line = json.loads(Path("v/validation.json").read_text())["scored"][0]["lines"]["one run"]
    assert heading in line

    board = emukit("leaderboard", "runs", "--no-published", "--format", "csv", "-q").out
    # Results of another competition are not shown next to it.
    assert emukit("leaderboard", "runs", "--format", "csv", "-q").out == board
    rows = list(csv.DictReader(io.StringIO(board)))
    assert all(r[heading] for r in rows if r["kind"] == "run")
    scores = [float(r["score"]) for r in rows if r["kind"] == "run"]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=name == "skill")
    assert direction in emukit("runs", "runs").out
    # What `runs rm --keep-best` keeps comes first.
    ranked = [run.folder.name for run in list_runs([Path("runs")])]
    assert ranked == [r["name"] for r in rows if r["kind"] == "run"]

    # What a training costs is measured in processes of its own.
    monkeypatch.setattr(ablate, "start_seconds", lambda words, environments: 10.0)
    folder, study = study_of(open_store(demo_store, card=str(card)), Path("ablations"))
    loose = study["results"][0]["rows"][-1]
    assert heading in loose["mean"]
    base, other = study["results"][0]["rows"][0]["mean"]["score"], loose["mean"]["score"]
    assert loose["difference"]["score"]["mean"] == pytest.approx(other - base)
    assert ("better" in loose["sentence"].split(";")[0]) == ((other > base) == (name == "skill"))

    answer = emukit("report", "runs/r1", folder, "--no-published", "--out", "site", "-q")
    assert answer.code == 0, answer.err
    column = competition_column(name, heading)
    page = Path("site/index.html").read_text()
    assert column.heading in page
    assert ("higher is better" in page) == (name == "skill")
    (entry,) = Path("site/entries").glob("r1-*.html")
    assert column.heading in entry.read_text()
    assert heading in Path("site/assets/entries.js").read_text()
    (about,) = Path("site/studies").glob("ridges-*.html")
    assert column.description in about.read_text()


def competition_column(name, heading):
    """How the number is shown."""
    return load_competition(name or "generic", UNITS).by_key[heading]


def test_a_competition_without_a_format_takes_no_submission(emukit, demo_store, tmp_path):
    card = own_card(tmp_path, "mine", "")
    data = ("--data", demo_store, "--card", card)
    trained = emukit("train", "linear", *data, "--out", "runs/a", "-q")
    assert trained.code == 0
    assert "Next: emukit evaluate runs/a" in trained.out
    answer = emukit("submit", "runs/a", "-q")
    assert answer.code == 2
    assert "the competition generic takes no submissions" in answer.err
    assert not Path("submissions").exists()


def test_a_card_that_changes_its_competition_refuses_the_runs_of_the_other(emukit, demo_store, tmp_path):
    """Epochs and folds were selected by another score; a card of before names none, and is told what to write."""
    card = own_card(tmp_path, "mine", "cse151b")
    data = ("--data", demo_store, "--card", card)
    assert emukit("train", "linear", *data, "--out", "runs/a", "-q").code == 0
    own_card(tmp_path, "mine", "")
    answer = emukit("evaluate", "runs/a", "-q")
    assert answer.code == 2
    assert 'competition = "cse151b"' in answer.err


def test_a_run_of_a_competition_that_is_not_installed_is_named(emukit, demo_store, strange, tmp_path, monkeypatch):
    card = own_card(tmp_path, "mine", "skill")
    assert emukit("train", "linear", "--data", demo_store, "--card", card, "--out", "runs/a", "-q").code == 0
    monkeypatch.delitem(COMPETITIONS.built_in, "skill")
    answer = emukit("leaderboard", "runs/a", "-q")
    assert answer.code == 2
    assert "there is no competition skill" in answer.err
