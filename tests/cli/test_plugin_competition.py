"""A competition of a package outside emukit, with a card and a file format of its own, that a command does not know."""

import csv
import io
import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from emukit.competitions.registry import COMPETITIONS
from emukit.files import shipped
from tests.cli.test_plugins import install

PAGE = (Path(__file__).parents[2] / "docs" / "competitions.md").read_text(encoding="utf-8")
CODE = "\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
(POINTS,) = [tomllib.loads(text) for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)]


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """The competition of the page and a card that names it, installed; nothing of it is left for other tests."""
    place = tmp_path / "site"
    groups = {**POINTS["project"]["entry-points"], "emukit.cards": {"mylab": "mycompetition:CARD"}}
    place.mkdir()
    own = 'from pathlib import Path\n\nCARD = Path(__file__).with_name("mylab.toml")\n'
    install(place, "mycompetition", "0.1", groups, {"mycompetition": own + CODE})
    text = shipped("data_cards", "demo.toml").read_text(encoding="utf-8")
    text = text.replace('name = "demo"', 'name = "mylab"').replace('competition = "cse151b"', 'competition = "mine"')
    (place / "mylab.toml").write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(place)
    monkeypatch.setattr(COMPETITIONS, "_named", set())
    yield place
    sys.modules.pop("mycompetition", None)


def test_its_run_is_evaluated_ranked_reported_submitted_and_scored(outside, emukit, demo_store, tmp_path, undrawn):
    opened = ("--data", demo_store, "--card", "mylab")
    answer = emukit("train", "linear", *opened, "--out", "runs/m", "-q")
    assert answer.code == 0, answer.err
    assert "Next: emukit submit runs/m" in answer.out
    answer = emukit("evaluate", "runs/m", "--format", "json", "-q")
    assert answer.code == 0, answer.err
    scores = json.loads(answer.out)
    # The page's score: the sum of the mean absolute errors.
    assert scores["score"] == pytest.approx(scores["tas"]["mae"] + scores["pr"]["mae"])
    record = json.loads(Path("runs/m/run.json").read_text())
    assert record["data"]["scoring"]["name"] == "mine"

    answer = emukit("submit", "runs/m", "-q")
    assert answer.code == 0, answer.err
    file = Path("submissions/m/submission.npy")
    assert tomllib.loads(Path("submissions/m/entry.toml").read_text())["competition"] == "mine"
    assert emukit("check-submission", file, *opened, "-q").code == 0
    answer = emukit("predict", "runs/m", "--scenario", "ssp245", "--out", "p.nc", "-q")
    assert answer.code == 0, answer.err
    fields = np.load(file)
    with xr.open_dataset("p.nc") as predicted:
        np.testing.assert_array_equal(predicted.tas.values[-len(fields) :], fields[:, 0])

    # The demo hides ssp245 in a store: a solution file is what an organiser has.
    truth = fields + np.array([1.0, 2.0])[:, None, None]
    np.save("solution.npy", truth)
    answer = emukit("score", file, "solution.npy", "--format", "json", "--save", "-q")
    assert answer.code == 0, answer.err
    (scored,) = json.loads(answer.out)["scores"].values()
    assert scored["score"] == pytest.approx(3.0, abs=1e-4)

    rows = list(csv.DictReader(io.StringIO(emukit("leaderboard", "runs", "submissions", "--format", "csv", "-q").out)))
    assert {r["name"] for r in rows if r["kind"] == "run"} == {"m"}
    assert any(r["tas.mae"] and float(r["score"]) == pytest.approx(3.0, abs=1e-4) for r in rows)
    answer = emukit("report", "runs/m", "submissions", "--out", "pages", "-q")
    assert answer.code == 0, answer.err
    assert "tas error" in Path("pages/index.html").read_text()


def test_a_file_of_another_shape_is_refused_by_its_own_check(outside, emukit, demo_store):
    opened = ("--data", demo_store, "--card", "mylab")
    np.save("short.npy", np.zeros((3, 2, 4, 4)))
    answer = emukit("check-submission", "short.npy", *opened, "-q")
    assert answer.code == 1
    assert "1. shape: fields of shape (3, 2, 4, 4)" in answer.out


def test_without_the_package_its_run_is_refused_by_name_and_listed(outside, emukit, demo_store, monkeypatch):
    assert emukit("train", "linear", "--data", demo_store, "--card", "mylab", "--out", "runs/m", "-q").code == 0
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(outside)])
    sys.modules.pop("mycompetition", None)
    answer = emukit("evaluate", "runs/m", "-q")
    assert answer.code == 2
    assert "mylab" in answer.err or "mine" in answer.err
    assert emukit("runs", "runs").code == 0
    answer = emukit("leaderboard", "runs/m", "-q")
    assert answer.code == 2
    assert "there is no competition mine" in answer.err
    # Among others it is left out.
    assert emukit("train", "climatology", "--data", demo_store, "--out", "runs/c", "-q").code == 0
    answer = emukit("leaderboard", "runs")
    assert answer.code == 0, answer.err
    assert "left out: " in answer.err
    assert "no competition mine" in answer.err
    assert " c " in answer.out
