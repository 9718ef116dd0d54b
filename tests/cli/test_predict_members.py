"""An ensemble that is none, or that an emulator without weather pretends to have."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import emukit as api
from emukit import outputs
from emukit.emulators.sampled import Sampled
from emukit.runs import evaluate

WORDS = ("train", "sampled", "-q", "--set=model.years=3")


@pytest.fixture
def sampled_run(emukit, demo_store):
    answer = emukit(*WORDS, "--data", demo_store, "--out", "runs/sampled")
    assert answer.code == 0, answer.err
    return "runs/sampled"


@pytest.mark.parametrize("out", ["p.nc", "p.zarr"])
def test_ensemble_has_a_member_dimension_of_realisations(emukit, sampled_run, demo_store, out):
    answer = emukit("predict", sampled_run, "--scenario", "ssp245", "--members", "3", "--out", out)
    assert answer.code == 0, answer.err
    emulator, scenario = api.load_emulator(sampled_run), api.open_store(demo_store)["ssp245"]
    with xr.open_dataset(out, engine="netcdf4") if out.endswith(".nc") else xr.open_zarr(out, chunks=None) as ds:
        assert dict(ds.tas.sizes) == {"member": 3, "time": 1021, "y": 8, "x": 12}
        assert ds.member.values.tolist() == [0, 1, 2]
        assert ds.member.attrs["standard_name"] == "realization"
        assert (ds.pr.attrs["units"], ds.attrs["seed"]) == ("mm/day", 0)
        for number in range(3):
            fields = emulator.member(number).predict_fields(scenario, 0, 1021)
            np.testing.assert_array_equal(ds.tas.values[number], fields[:, 0])
            np.testing.assert_array_equal(ds.pr.values[number], fields[:, 1])
        assert (ds.tas.values[0] != ds.tas.values[1]).mean() > 0.9


def test_prediction_without_members_is_the_first_realisation(emukit, sampled_run):
    assert emukit("predict", sampled_run, "--scenario", "ssp245", "--out", "one.nc").code == 0
    assert emukit("predict", sampled_run, "--scenario", "ssp245", "--members", "1", "--out", "many.nc").code == 0
    with xr.open_dataset("one.nc") as one, xr.open_dataset("many.nc") as many:
        assert dict(one.tas.sizes) == {"time": 1021, "y": 8, "x": 12}
        np.testing.assert_array_equal(one.tas, many.tas[0])


def test_emulator_with_one_answer_refuses_an_ensemble(emukit, linear_run):
    answer = emukit("predict", linear_run, "--scenario", "ssp245", "--members", "3", "--out", "p.nc")
    assert answer.code == 2
    for words in ("one answer", "linear", "emukit train best-sampled", "leave out --members"):
        assert words in answer.err
    assert emukit("predict", linear_run, "--scenario", "ssp245", "--members", "0", "--out", "p.nc").code == 2


def test_seed_of_a_run_is_the_seed_of_its_weather(emukit, sampled_run, demo_store):
    again = emukit(*WORDS, "--data", demo_store, "--seed", "1", "--out", "runs/other")
    assert again.code == 0, again.err
    scenario = api.open_store(demo_store)["ssp245"]
    first, other = (api.load_emulator(f"runs/{n}").predict_fields(scenario, 0, 60) for n in ("sampled", "other"))
    assert (first[:, 0] != other[:, 0]).mean() > 0.9
    refused = emukit(*WORDS, "--data", demo_store, "--set=model.seed=3", "--out", "runs/third")
    assert refused.code == 2
    assert "model.seed" in refused.err


def test_more_realisations_than_memory_holds_are_refused_before_one_is_drawn(
    emukit, sampled_run, demo_store, monkeypatch
):
    def member(self, number):
        raise AssertionError("drawn")

    words = ("predict", sampled_run, "--scenario", "ssp245", "--out", "p.nc", "--members")
    monkeypatch.setattr(Sampled, "member", member)
    absurd = emukit(*words, 10**15)
    assert absurd.code == 2
    # 1021 months of two variables on 96 cells, in float32, and twice.
    each = 2 * 4 * 1021 * 2 * 96
    monkeypatch.setattr(evaluate, "host_free", lambda: 3.5 * each / 0.8)
    answer = emukit(*words, 4)
    assert answer.code == 2
    for part in ("4 realisations do not fit", "6.27 MB, 1.57 MB for each", "up to 5.49 MB", "--members 3"):
        assert part in answer.err
    monkeypatch.setattr(evaluate, "host_free", lambda: each / 2)
    assert "--members" not in emukit(*words, 1).err
    assert not Path("p.nc").exists()


def test_more_realisations_than_memory_holds_are_not_scored_for_hours(emukit, sampled_run, demo_store, monkeypatch):
    def member(self, number):
        raise AssertionError("drawn")

    monkeypatch.setattr(Sampled, "member", member)
    answer = emukit("evaluate", sampled_run, "--members", 10**15)
    assert answer.code == 2
    assert "realisations do not fit into memory" in answer.err


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("p.txt", "cannot tell the format"),
        ("there.zarr", "exists"),
        ("there.nc", "exists"),
        ("file/p.nc", "not a folder"),
    ],
)
def test_place_that_cannot_be_written_is_refused_before_anything_is_read(emukit, out, message):
    Path("there.zarr/mine").mkdir(parents=True)
    Path("there.nc").mkdir()
    Path("file").touch()
    # Not even the run is there.
    answer = emukit("predict", "nowhere", "--scenario", "ssp245", "--out", out)
    assert answer.code == 2
    assert message in answer.err


def test_folder_without_permission_is_refused_before_anything_is_read(emukit, monkeypatch):
    # Root may write everywhere, so the permission is taken away where it is asked for.
    monkeypatch.setattr(outputs.os, "access", lambda place, mode: Path(place).name != "locked")
    Path("locked").mkdir()
    answer = emukit("predict", "nowhere", "--scenario", "ssp245", "--out", "locked/new/p.nc")
    assert answer.code == 2
    assert "locked is not writable" in answer.err


def test_ensemble_is_scored_from_the_command_line_beside_the_climate_model(emukit, sampled_run):
    answer = emukit("evaluate", sampled_run, "--members", "3", "--format", "json", "-q")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert json.loads((Path(sampled_run) / "ensembles" / "validation.json").read_text()) == found["ensemble"]
    assert found["ensemble"]["realisations"] == 3
    assert found["ensemble"]["one_realisation"]["score"] == pytest.approx(found["score"])
    shown = " ".join(emukit("evaluate", sampled_run, "--members", "3", "-q").out.split())
    for variable, unit in (("tas", "K"), ("pr", "mm/day")):
        own, real = (found["ensemble"][part][variable]["crps"] for part in ("ensemble", "climate_model"))
        assert f"{variable} fair CRPS, {unit} {own:.3f} {real:.3f}" in shown


def test_leaderboard_says_what_the_ensemble_scored_and_refuses_a_damaged_one(emukit, sampled_run):
    assert emukit("evaluate", sampled_run, "--members", "3", "-q").code == 0
    path = Path(sampled_run) / "ensembles" / "validation.json"
    found = json.loads(path.read_text())
    rows = json.loads(emukit("leaderboard", sampled_run, "--no-published", "--format", "json").out)
    (own,) = (row for row in rows if row["kind"] == "run" and "validation" in row["split"])
    crps, real = (found[part]["tas"]["crps"] for part in ("ensemble", "climate_model"))
    assert own["note"].startswith(f"ensemble of 3: fair CRPS tas {crps:.3f} (members {real:.3f}), spread over error ")
    del found["ensemble"]["pr"]["crps"]
    path.write_text(json.dumps(found))
    answer = emukit("leaderboard", sampled_run)
    assert answer.code == 2
    assert "ensembles/validation.json is damaged" in answer.err
    path.unlink()


def test_ensemble_score_of_one_answer_is_refused(emukit, linear_run):
    answer = emukit("evaluate", linear_run, "--members", "3", "-q")
    assert answer.code == 2
    assert "one answer" in answer.err
    assert emukit("evaluate", linear_run, "--members", "1").code == 2


def test_objective_reaches_a_network_and_nothing_else(emukit, demo_store):
    refused = emukit("train", "linear", "--objective", "crps", "--data", demo_store)
    assert refused.code == 2
    assert "--objective" in refused.err
    words = (
        "train",
        "simple-cnn",
        "--data",
        demo_store,
        "--objective",
        "crps",
        "--set",
        "training.segments.members=all",
    )
    small = ("model.width=4", "model.depth=1", "training.epochs=1", "training.segments.length=60")
    answer = emukit(*words, *(f"--set={s}" for s in (*small, "inputs.window.history=2")), "--out", "runs/crps")
    assert answer.code == 0, answer.err
    assert "objective: crps (realisations 2, noise 4, regional 0.0)" in answer.err
    assert json.loads(Path("runs/crps/run.json").read_text())["recipe"]["objective"]["name"] == "crps"
    assert emukit("predict", "runs/crps", "--scenario", "ssp245", "--members", "2", "--out", "e.nc", "-q").code == 0
    with xr.open_dataset("e.nc") as ds:
        assert float(np.abs(ds.tas[0] - ds.tas[1]).mean()) > 0
