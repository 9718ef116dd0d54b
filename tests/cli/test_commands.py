"""Commands that do not do what they say, from the store to the leaderboard."""

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import emukit as api
from tests import forks
from tests.cli.conftest import TINY


def test_help_imports_nothing_heavy():
    """`emukit --help` must stay instant: torch alone takes seconds."""
    code = (
        "import sys; sys.argv = ['emukit', '--help']\n"
        "from emukit.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'xarray', 'pandas', 'sklearn', 'pydantic'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for verb in (
        "train",
        "evaluate",
        "predict",
        "submit",
        "check-submission",
        "score",
        "leaderboard",
        "models",
        "data",
    ):
        assert re.search(rf"\b{verb}\b", done.stdout)


def test_from_store_to_leaderboard(emukit, demo_store, tmp_path):
    """The main job, command by command, each answer checked against the numbers behind it."""
    check = emukit("data", "check", demo_store)
    assert check.code == 0
    assert "ssp245" in check.out
    train = emukit("train", "linear", "--data", demo_store, "--members", "0,1", "--out", "runs/lin")
    assert train.code == 0, train.err
    assert str(demo_store) in train.err
    stored = json.loads(Path("runs/lin/scores/validation.json").read_text())
    evaluate = emukit("evaluate", "runs/lin", "-q")
    assert f"{stored['score']:.4f}" in evaluate.out
    assert "climatology" in evaluate.out
    assert "another run (member 1)" in evaluate.out
    submit = emukit("submit", "runs/lin", "--pack", "csv.gz")
    assert submit.code == 0, submit.err
    assert "69,120 rows" in submit.out
    assert emukit("check-submission", "submissions/lin/submission.csv.gz", "--data", demo_store).code == 0
    # The months of another protocol have as many rows: only the entry next to the CSV knows which it is for.
    for command in (("check-submission", "CSV", "--data", demo_store), ("score", "CSV", demo_store, "--save")):
        words = ["submissions/lin/submission.csv.gz" if w == "CSV" else w for w in command]
        refused = emukit(*words, "--protocol", "k360")
        assert refused.code == 2
        assert "written for another protocol" in refused.err
    score = emukit("score", "submissions/lin/submission.csv.gz", demo_store, "--save")
    assert score.code == 0, score.err
    # The hidden truth that the generator gives must be that of a store which was written unhidden.
    assert emukit("data", "demo", "open.zarr", "--grid", "8x12", "--members", "2", "--reveal").code == 0
    other = emukit("score", "submissions/lin/submission.csv.gz", "open.zarr", "--protocol", "official")
    number = re.search(r"submission\.csv\.gz +([0-9.]+)", score.out).group(1)
    assert number in other.out
    board = emukit("leaderboard", "--format", "json")
    rows = json.loads(board.out)
    kinds = {(r["name"], r["kind"]) for r in rows}
    assert {("lin", "run"), ("lin", "submission"), ("climatology", "reference")} <= kinds
    assert {(r["model"], r["seed"], r["random"]) for r in rows if r["kind"] == "run"} == {("linear", 0, False)}
    run_split = next(r["split"] for r in rows if r["kind"] == "run")
    assert re.match(r"demo 8x12 [0-9a-f]{8} official validation: ssp370 2090-02", run_split)
    assert not [r for r in rows if r["split"] == run_split and r["kind"] == "published"]
    table = list(csv.DictReader(io.StringIO(emukit("leaderboard", "--format", "csv").out)))
    assert len(table) == len(rows)
    assert "| 1 | lin (linear) | run |" in emukit("leaderboard", "--format", "md").out
    assert emukit("leaderboard").code == 0


@pytest.mark.parametrize("out", ["p.nc", "p.zarr"])
def test_prediction_file_says_what_it_is(emukit, linear_run, demo_store, out):
    answer = emukit("predict", linear_run, "--scenario", "ssp245", "--out", out)
    assert answer.code == 0, answer.err
    with xr.open_dataset(out, engine="netcdf4") if out.endswith(".nc") else xr.open_zarr(out, chunks=None) as ds:
        assert ds.tas.sizes == {"time": 1021, "y": 8, "x": 12}
        assert (ds.tas.attrs["units"], ds.pr.attrs["units"]) == ("K", "mm/day")
        assert ds.tas.attrs["standard_name"] == "air_temperature"
        assert "emukit" in ds.attrs["history"]
        assert ds.attrs["Conventions"].startswith("CF")
        archive = api.open_store(demo_store)
        fields = api.load_emulator(linear_run).predict_fields(archive["ssp245"], 0, 1021)
        np.testing.assert_array_equal(ds.tas.values, fields[:, 0])


def test_windows_are_shown_and_written(emukit, demo_store):
    answer = emukit("data", "windows", demo_store, "--set", "inputs.window.history=6", "--out", "w.zarr")
    assert answer.code == 0, answer.err
    assert "first validation target ssp370 2090-02 sees 2089-09 2089-10 2089-11 2089-12 2090-01 2090-02" in re.sub(
        r"\s+", " ", answer.out
    )
    ds = xr.open_zarr("w.zarr", chunks=None)
    validation = np.flatnonzero(ds["set"].values == "validation")
    assert len(validation) == 120
    w = validation[0]
    assert ds.month.values[ds.window_frames.values[w]].tolist()[-1] == "2090-02"
    assert ds.scenario.values[ds.window_frames.values[w]].tolist() == ["ssp370"] * 6
    archive = api.open_store(demo_store)
    truth = archive["ssp370"].truth(0, 901, 902)[0]
    np.testing.assert_array_equal(ds.targets.values[ds.target_frame.values[w], 0], truth)
    test = np.flatnonzero(ds["set"].values == "test")
    assert np.isnan(ds.targets.values[ds.target_frame.values[test]]).all()


def test_network_trains_resumes_and_refuses_to_overwrite(emukit, demo_store):
    words = ("train", "cnn-gru", "--data", demo_store, "--members", "0,1", "--out", "runs/net", *TINY)
    first = emukit(*words)
    assert first.code == 0, first.err
    assert "2/" not in first.out
    assert len(Path("runs/net/metrics.jsonl").read_text().splitlines()) == 2
    again = emukit(*words)
    assert again.code == 0
    assert "nothing is trained" in again.err
    other = emukit(*words, "--seed", "5")
    assert other.code == 2
    assert "runs/net exists" in other.err
    assert emukit(*words, "--resume").code == 0
    longer = emukit(*words[:-2], "--set=training.epochs=3", "--resume")
    assert longer.code == 2
    assert "another recipe" in longer.err


def test_killed_run_resumes_to_the_same_weights(emukit, demo_store, tmp_path):
    """SIGKILL in the middle of training, as a lost machine would."""
    words = ["train", "cnn-gru", "--data", str(demo_store), "-q", *TINY, "--set=training.checkpoint_minutes=0.0001"]
    whole = emukit(*words, "--out", "whole")
    assert whole.code == 0, whole.err
    # Sums come out alike in another process where as many threads make them.
    started = forks.start(tmp_path, *words, "--out", "killed", OMP_NUM_THREADS=str(torch.get_num_threads()))
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    started.signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert json.loads((tmp_path / "killed" / "run.json").read_text())["state"] == "training"
    resumed = emukit(*words, "--out", "killed", "--resume")
    assert resumed.code == 0, resumed.err
    arrays = [(tmp_path / n / "emulator" / "arrays.safetensors").read_bytes() for n in ("whole", "killed")]
    assert arrays[0] == arrays[1]


def test_ctrl_c_saves_and_says_how_to_go_on(demo_store, tmp_path):
    words = ["train", "cnn-gru", "--data", str(demo_store), *TINY, "--set=training.epochs=500", "--out", "run"]
    started = forks.start(tmp_path, *words)
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    started.signal(signal.SIGINT)
    assert started.wait() == 130
    err = started.err.read_text()
    assert "--resume" in err
    assert "Traceback" not in err


def test_settings_can_be_read_and_typed_on_a_narrow_terminal(emukit, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = emukit("models", "mean-corrected").out
    assert "…" not in shown
    assert "Sequence" not in emukit("models", "forecast").out
    downscale = {row["setting"] for row in json.loads(emukit("models", "downscale", "--format", "json").out)}
    assert {"coarse.grid", "blocks.size", "training.epochs", "model.width"} <= downscale
    assert not any(path.startswith(("training.segments", "training.accumulate")) for path in downscale)
    assert "emukit models downscale" in emukit("models", "downscale", "--toml").err
    # The help joins the lines of every paragraph, not of the first alone.
    assert "Of a recipe it shows every protocol" in " ".join(emukit("evaluate", "--help").out.split())
    assert not any(line.rstrip().endswith("Of a recipe it") for line in emukit("evaluate", "--help").out.splitlines())


def test_models_lists_sizes_and_settings(emukit):
    listed = emukit("models")
    assert listed.code == 0
    for word in ("climatology", "linear", "cnn-gru", "cnn-gru-published", "352,878,672"):
        assert word in listed.out
    settings = emukit("models", "cnn-gru")
    for word in ("training.epochs", "inputs.window.history", "model.hidden", "targets.default.transform", "loss.tas"):
        assert word in settings.out


def test_demo_is_used_and_named_where_no_data_is_given(emukit, monkeypatch, demo_store):
    monkeypatch.setenv("EMUKIT_DATA", str(demo_store))
    answer = emukit("train", "climatology", "--out", "runs/a")
    assert answer.code == 0
    assert "$EMUKIT_DATA" in answer.err
    monkeypatch.delenv("EMUKIT_DATA")
    answer = emukit("train", "climatology", "--out", "runs/b")
    assert answer.code == 0
    assert "data: demo" in answer.err
    # What is odd about it stands in its card.
    assert "note: " not in answer.err
    assert json.loads(Path("runs/b/run.json").read_text())["data"]["card"] == "demo"


def test_every_shipped_recipe_is_valid():
    from emukit.files import shipped
    from emukit.recipes.load import load_recipe

    recipes = [p.stem for p in shipped("baselines", ".").glob("*.toml") if p.stem != "published"]
    assert recipes
    for name in recipes:
        assert load_recipe(name).emulator


@pytest.mark.real
def test_linear_on_the_real_store_reaches_the_reference(emukit, real_store):
    answer = emukit("train", "linear", "--data", real_store, "--out", "runs/linear", "-q")
    assert answer.code == 0, answer.err
    evaluation = json.loads(Path("runs/linear/scores/validation.json").read_text())
    assert evaluation["spans"] == ["ssp370 2060-02..2070-01 member 0"]
    assert evaluation["score"] < 0.75
    assert evaluation["floors"]["another run (member 1)"]["score"] == pytest.approx(0.62886, abs=1e-4)
    submit = emukit("submit", "runs/linear", "-q")
    assert submit.code == 0, submit.err
    assert "2,488,320 rows, ssp370 2070-02..2100-01" in submit.out


def test_terminated_writer_leaves_nothing(tmp_path):
    """SIGTERM, as a batch system sends it, in the middle of writing a store."""
    # Large enough that writing takes seconds: the signal must come before its end.
    started = forks.start(tmp_path, "data", "demo", "big.zarr", "--grid", "64x96")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".emukit-*.part/big.zarr")) and time.monotonic() < deadline:
        time.sleep(0.01)
    started.signal(signal.SIGTERM)
    assert (started.wait(), list(tmp_path.iterdir())) == (128 + signal.SIGTERM, [])
