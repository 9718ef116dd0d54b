"""`emukit ablate` from a file to a table; what is killed continues, and what is done is not done again."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from emukit.studies import ablate, jobs
from tests import forks

STUDY = """
question = "how stiff?"
base = "linear"

[[axes]]
path = "model.ridge"
values = [300.0]

[[variants]]
name = "nothing learned"
recipe = "climatology"

[[variants]]
name = "no such feature"
settings = { "model.features" = ["CO2", "dust"] }
"""

# Score; and its difference to the base, with the interval.
GOLDEN = {
    "base": (0.5701,),
    "ridge=300": (0.5569, -0.0132, -0.0181, -0.0076),
    "nothing learned": (2.3885, 1.8184, 1.7507, 1.8761),
}


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(ablate, "start_seconds", lambda words, environments: 10.0)
    monkeypatch.setattr(ablate, "TRIED_SECONDS", 0.0)


@pytest.fixture
def _forked(monkeypatch):
    """Runs are forks: that each is a command of its own shows where a study is killed, and in tests/studies."""
    if sys.platform == "linux":
        monkeypatch.setattr(jobs, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": forks.Popen}))


@pytest.fixture
def file():
    Path("stiff.toml").write_text(STUDY)
    return "stiff.toml"


@pytest.mark.usefixtures("_forked")
def test_from_a_file_to_a_table(emukit, demo_store, file):
    """The numbers are those of the demo climate; they change only with what is computed."""
    words = ("ablate", file, "--data", demo_store, "--jobs", "2")
    answer = emukit(*words)
    # One of them cannot be trained: the others are, and it is said.
    assert answer.code == 1, answer.err
    assert "1 of 4 runs failed; fix the study's file and repeat the command" in answer.err
    assert "Next: emukit report ablations/stiff" in answer.err
    assert "forcing dust of the feature 'dust'" in answer.err
    kept = json.loads(Path("ablations/stiff/study.json").read_text())
    rows = {r["variant"]: r for r in kept["results"][0]["rows"]}
    for name, (score, *difference) in GOLDEN.items():
        row = rows[name]
        assert row["mean"]["score"] == pytest.approx(score, abs=2e-4)
        found = [row["difference"]["score"][k] for k in ("mean", "low", "high")] if difference else []
        assert found == pytest.approx(difference, abs=2e-4)
    assert rows["ridge=300"]["sentence"] == (
        "better by 0.013 (95 % 0.008 to 0.018); better in tas month, tas mean, tas std, pr month, pr mean; "
        "worse in pr std"
    )
    assert f"ridge=300: {rows['ridge=300']['sentence']}" in " ".join(answer.out.split())
    assert f"{rows['base']['mean']['score']:.4f}" in answer.out
    runs = {v["name"]: v["runs"][0] for v in kept["variants"]}
    assert {n: r["state"] for n, r in runs.items()} == dict.fromkeys(runs, "finished") | {"no such feature": "failed"}
    record = Path("ablations/stiff", runs["ridge=300"]["folder"], "run.json")
    first = json.loads(record.read_text())
    assert first["command"] == runs["ridge=300"]["command"]
    # Again: nothing is trained, the table is the same, the failure still stands.
    table = Path("ablations/stiff/table.md").read_bytes()
    again = emukit(*words, "--markdown", "-q")
    assert again.code == 1
    assert table.decode() in again.out
    assert Path("ablations/stiff/table.md").read_bytes() == table
    assert json.loads(record.read_text()) == first
    shown = emukit(*words, "--dry-run")
    assert shown.code == 0
    assert "4 runs, 3 done, 1 failed before" in shown.err
    assert "1 to train" not in shown.err
    assert "1 to train" in emukit(*words, "--dry-run", "--retry").err
    # What failed is fixed in the file, and the study continues with what it has.
    Path(file).write_text(STUDY.replace('"dust"', '"BC"').replace("no such feature", "two features"))
    mended = emukit(*words)
    assert mended.code == 0, mended.err
    assert "note: since the study was started: new: 'two features'; gone: 'no such feature'\n" in mended.err
    assert "note: not timed: two features; they are assumed to cost what the base does\n" in mended.err
    kept = json.loads(Path("ablations/stiff/study.json").read_text())
    assert [v["name"] for v in kept["variants"]] == ["base", "nothing learned", "two features", "ridge=300"]
    assert {r["state"] for v in kept["variants"] for r in v["runs"]} == {"finished"}
    assert json.loads(record.read_text()) == first
    assert {r["variant"]: r for r in kept["results"][0]["rows"]}["ridge=300"] == rows["ridge=300"]


@pytest.mark.usefixtures("_forked")
def test_a_base_that_failed_is_mended_as_the_message_says(emukit, demo_store):
    text = 'question = "?"\nbase = "linear"\n[settings]\n"model.features" = ["dust"]\n'
    text += '[[axes]]\npath = "model.ridge"\nvalues = [3.0]\n'
    Path("dusty.toml").write_text(text)
    words = ("ablate", "dusty.toml", "--data", demo_store, "--jobs", "1")
    answer = emukit(*words)
    assert answer.code == 1
    assert "with another base it is another study, so remove ablations/dusty first" in answer.err
    Path("dusty.toml").write_text(text.replace("dust", "BC"))
    assert emukit(*words).code == 2
    shutil.rmtree("ablations/dusty")
    assert emukit(*words).code == 0


def test_what_is_shown_before_it_is_trained(emukit, demo_store, file):
    answer = emukit("ablate", file, "--data", demo_store, "--dry-run", "--protocols", "official,k360")
    assert answer.code == 0, answer.err
    assert "4 variants, 1 seed, official, k360: 8 runs, 0 done" in answer.err
    assert "8 to train" in answer.err
    # What is not timed is not passed off as measured.
    assert "a start alone is counted, the least they take: base, nothing learned, " in answer.err
    assert answer.out.count("emukit train linear") == 6
    assert "note: one seed" not in answer.err
    assert "note: one seed: nothing" in emukit("ablate", file, "--data", demo_store, "--dry-run", "--seeds", "3").err
    assert not Path("ablations").exists()


def test_the_shipped_studies_are_listed(emukit):
    answer = emukit("ablate", "--list")
    assert answer.code == 0
    for name in ("loss-weights", "seasonal-encoding", "anchor"):
        assert name in answer.out


def test_mistakes_are_told_before_anything_is_trained(emukit, demo_store, file):
    for words, said in (
        ((), "no study is named"),
        (("anchor", "--list"), "--list shows all studies"),
        (("--markdown", "--format", "csv"), "two formats"),
        (("nothing",), "there is no study 'nothing'"),
        ((file, "--budget", "soon"), "not a time"),
        ((file, "--budget", ""), "not a time"),
        ((file, "--protocols", "nowhere"), "nowhere"),
        ((file, "--protocols", ""), "empty name"),
        (("none.toml",), "cannot read"),
    ):
        answer = emukit("ablate", *words, "--data", demo_store)
        assert answer.code == 2, words
        assert said in answer.err
    Path("bad.toml").write_text(STUDY.replace("model.features", "model.feature"))
    answer = emukit("ablate", "bad.toml", "--data", demo_store)
    assert answer.code == 2
    assert "variant 'no such feature'" in answer.err
    assert not Path("ablations").exists()


def test_a_killed_study_goes_on_and_trains_nothing_twice(emukit, demo_store):
    """The training that it leaves behind saves and ends; the one that is started again waits for it."""
    tiny = {
        "model.hidden": 4,
        "model.features": 3,
        "model.width": 2,
        "model.stages": 1,
        "model.pool_rows": 1,
        "model.pool_columns": 2,
        "inputs.window.history": 2,
        "training.epochs": 12,
    }
    settings = "\n".join(f'"{k}" = {v}' for k, v in tiny.items())
    Path("k.toml").write_text(
        f'question = "?"\nbase = "cnn-gru"\n[settings]\n{settings}\n[[variants]]\nname = "linear"\nrecipe = "linear"\n'
    )
    words = ["ablate", "k.toml", "--data", str(demo_store), "--jobs", "1", "--seeds", "1", "-q"]
    # As the command does, but that what a run takes is not measured.
    code = f"""
import sys
from emukit.studies import ablate
from emukit.cli import main
ablate.start_seconds, ablate.TRIED_SECONDS = (lambda words, environments: 10.0), 0.0
sys.argv = {["emukit", *words]!r}
main()
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([p for p in sys.path if p])}
    log = Path("ablations/runs")
    with subprocess.Popen([sys.executable, "-c", code], env=environment, stderr=subprocess.DEVNULL) as killed:
        try:
            _wait(lambda: any(p.read_text().count("\n") > 1 for p in log.glob("cnn-gru-*/metrics.jsonl")))
        finally:
            killed.kill()
    (path,) = log.glob("cnn-gru-*/run.json")
    assert json.loads(path.read_text())["state"] == "training"
    before = json.loads(Path("ablations/k/plan.json").read_text())
    answer = emukit(*words)
    assert answer.code == 0, answer.err
    assert json.loads(Path("ablations/k/plan.json").read_text()) == before
    record = json.loads(path.read_text())
    assert (record["state"], len(record["sessions"])) == ("finished", 2)
    epochs = [json.loads(line)["epoch"] for line in (path.parent / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [*range(1, 13)]
    assert len([*log.glob("*/run.json")]) == 2


@pytest.mark.usefixtures("_forked")
def test_a_search_from_a_file_to_a_table(emukit, demo_store):
    pytest.importorskip("optuna", reason="Optuna is not installed: searches are not tested")
    Path("ridge.toml").write_text(
        'question = "how stiff?"\nbase = "linear"\ntrials = 2\ntogether = 1\n'
        '[[axes]]\npath = "model.ridge"\nlow = 1.0\nhigh = 1e4\nlog = true\n'
    )
    words = ("ablate", "ridge.toml", "--data", demo_store, "--jobs", "1")
    dry = emukit(*words, "--dry-run")
    assert dry.code == 0, dry.err
    assert "2 trials searched for besides, 2 runs" in dry.err
    answer = emukit(*words, "--markdown")
    assert answer.code == 0, answer.err
    assert answer.out.count("| trial ") == 2
    assert "chosen among 2 trials by these months" in answer.out
    again = emukit(*words, "--markdown")
    assert again.out == answer.out
    assert len([*Path("ablations/runs").glob("*/run.json")]) == 3


def _wait(condition, seconds=400):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
