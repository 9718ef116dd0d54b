"""`--domain` that starts processes for what cannot be divided, or does nothing without a word."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from emukit.cli.results import _refuse_idle
from emukit.errors import EmukitError
from emukit.recipes.load import load_recipe
from tests import forks


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("cnn-gru-published", "--domain", "2"), "cnn-gru-published cannot be divided in space"),
        (("unet", "--domain", "2", "--devices", "3"), "3 processes cannot share globes in groups of 2"),
        (("unet", "--domain", "1x2", "--devices", "3"), "3 processes cannot share globes in groups of 2"),
        (("unet", "--domain", "0"), "--domain does not say how to divide a globe"),
        (("unet", "--domain", "2x"), "--domain does not say how to divide a globe"),
        (("unet", "--domain", "2x2x2"), "--domain does not say how to divide a globe"),
        (("linear", "--domain", "2"), "--domain would do nothing"),
    ],
)
def test_what_cannot_be_divided_starts_processes(emukit, demo_store, monkeypatch, words, wrong):
    monkeypatch.setattr("emukit.parallel.launch.relaunch", lambda *_: pytest.fail("processes were started"))
    monkeypatch.setattr("emukit.parallel.launch.check_devices", lambda devices: None)
    answer = emukit("train", *words, "--data", demo_store, "--out", "runs/x")
    assert answer.code == 2
    assert wrong in answer.err


def test_domain_alone_starts_as_many_processes(emukit, demo_store, monkeypatch):
    started = []
    monkeypatch.setattr("emukit.parallel.launch.relaunch", lambda words, number: started.append(number) or 0)
    monkeypatch.setattr("emukit.parallel.launch.check_devices", lambda devices: None)
    for words in (("2",), ("2", "--devices", "4"), ("2x3",)):
        assert emukit("train", "unet", "--domain", *words, "--data", demo_store, "--out", "runs/x").code == 0
    assert started == [2, 4, 6]


def test_a_prediction_without_a_network_is_divided(emukit, demo_store, monkeypatch):
    assert emukit("train", "linear", "--data", demo_store, "--out", "runs/linear", "-q").code == 0
    started = []
    monkeypatch.setattr("emukit.parallel.launch.relaunch", lambda words, number: started.append(number) or 2)
    monkeypatch.setattr("emukit.parallel.launch.check_devices", lambda devices: None)
    answer = emukit("predict", "runs/linear", "--scenario", "ssp245", "--domain", "2", "--out", "p.nc")
    assert (answer.code, started) == (2, []), answer.err
    assert "no network whose fields could be divided" in answer.err


@pytest.mark.parametrize(("domain", "rows", "columns"), [("2", 4, 12), ("2x3", 4, 4)])
def test_a_plan_of_a_divided_globe_says_nothing_of_it(emukit, demo_store, domain, rows, columns):
    answer = emukit("plan", "unet", "--data", demo_store, "--domain", domain, "--set", "model.coarsen=0")
    assert answer.code == 0, answer.err
    assert f"one field over {2 if domain == '2' else 6} processes" in answer.out
    lines = [line.split() for line in answer.out.splitlines()]
    assert ["rows", str(rows), "of", "8"] in lines
    assert ["columns", str(columns), "of", "12"] in lines


def test_an_evaluation_divides_what_cannot_be_or_only_seems_to(emukit, demo_store, monkeypatch):
    assert emukit("train", "linear", "--data", demo_store, "--out", "runs/linear", "-q").code == 0
    started = []
    monkeypatch.setattr("emukit.parallel.launch.relaunch", lambda words, number: started.append(number) or 2)
    monkeypatch.setattr("emukit.parallel.launch.check_devices", lambda devices: None)
    answer = emukit("evaluate", "runs/linear", "--domain", "2")
    assert (answer.code, started) == (2, []), answer.err
    assert "no network whose fields could be divided" in answer.err
    answer = emukit("evaluate", "linear", "--data", demo_store, "--seeds", "2", "--domain", "2")
    assert (answer.code, started) == (2, []), answer.err
    assert "--domain" in answer.err


def test_devices_of_an_evaluation_that_would_do_nothing_start_processes(emukit, demo_store, monkeypatch):
    assert emukit("train", "atlas", "--set=base=linear", "--data", demo_store, "--out", "runs/drawn", "-q").code == 0
    started = []
    monkeypatch.setattr("emukit.parallel.launch.relaunch", lambda words, number: started.append(number) or 0)
    monkeypatch.setattr("emukit.parallel.launch.check_devices", lambda devices: None)
    for words, wrong in (
        (("runs/drawn", "--devices", "2"), "--devices would do nothing: it divides realisations"),
        (("runs/drawn", "--members", "4", "--devices", "4", "--domain", "2"), "no network whose fields could be"),
        (("linear", "--data", demo_store, "--seeds", "2", "--devices", "2"), "--devices"),
    ):
        answer = emukit("evaluate", *words)
        assert (answer.code, started) == (2, []), answer.err
        assert wrong in answer.err
    assert emukit("evaluate", "runs/drawn", "--members", "4", "--devices", "3").code == 0
    assert started == [3]
    with monkeypatch.context() as patch:
        patch.setattr("emukit.runs.predict.check_domain", lambda run: None)
        answer = emukit("evaluate", "runs/drawn", "--members", "4", "--devices", "2", "--domain", "4")
        assert (answer.code, started) == (2, [3])
        assert "2 processes cannot share globes in groups of 4" in answer.err
        # They share a globe, and need nothing else to do.
        assert emukit("evaluate", "runs/drawn", "--devices", "2", "--domain", "2").code == 0
    assert started == [3, 2]
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29400"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    answer = emukit("evaluate", "runs/drawn", "--members", "4", "--devices", "3")
    assert answer.code == 2
    assert "2 processes that torchrun started" in answer.err


def test_beginnings_of_forecasts_are_not_taken_for_work_of_several_processes():
    _refuse_idle(SimpleNamespace(recipe=load_recipe("forecast")), None, 2)
    for name in ("transformer", "linear"):
        run = SimpleNamespace(recipe=load_recipe(name))
        with pytest.raises(EmukitError, match="--devices would do nothing"):
            _refuse_idle(run, None, 2)
        _refuse_idle(run, 2, 2)


@pytest.mark.slow
def test_processes_that_share_a_globe_say_something_else_of_a_run_or_all_say_it(
    emukit, demo_store, tmp_path, monkeypatch
):
    settings = ("model.width=4", "model.blocks=1", "training.epochs=1", "training.segments.length=120")
    words = ("train", "local-cnn", "--data", demo_store, "--out", "run", "-q", *(f"--set={s}" for s in settings))
    assert emukit(*words).code == 0
    alone = json.loads(emukit("evaluate", "run", "--format", "json", "-q").out)
    assert emukit("predict", "run", "--scenario", "ssp245", "--out", "alone.nc", "-q").code == 0
    said, started = [], []
    # What a command starts, and that it ends with it, is tested in tests/parallel.
    monkeypatch.setattr("emukit.parallel.launch.relaunch", lambda words, number: started.append((words, number)) or 0)
    for words in (
        ("evaluate", "run", "--format", "json", "--domain", "1x2"),
        ("predict", "run", "--scenario", "ssp245", "--out", "shared.nc", "--domain", "2"),
    ):
        assert emukit(*words, "-q").code == 0
        assert started.pop() == ([*words, "-q"], 2)
        first, second = forks.start_together(tmp_path, 2, *words, "-q", name=words[0])
        assert (first.wait(), second.wait()) == (0, 0), first.err.read_text() + second.err.read_text()
        assert second.out.read_text() == ""
        said.append(first.out.read_text())
    shared = json.loads(said[0])
    assert shared["score"] == pytest.approx(alone["score"], rel=1e-6)
    assert shared["floors"] == alone["floors"]
    assert said[1].splitlines() == ["wrote shared.nc"]
    with xr.open_dataset("alone.nc") as one, xr.open_dataset("shared.nc") as many:
        for variable in ("tas", "pr"):
            spread = float(one[variable].std())
            np.testing.assert_allclose(many[variable], one[variable], rtol=0, atol=1e-5 * spread)
