"""Forcings of one's own that need a store, are read as a scenario of it, or answered by another one's."""

import numpy as np
import pytest
import xarray as xr

import emukit as api


@pytest.fixture
def own(tmp_path, demo_store):
    """The forcings of ssp585 with less CO2, as a file without any target."""
    forcings = api.forcings(api.open_store(demo_store), "ssp585")
    forcings["CO2"] = forcings.CO2.clip(max=4000.0).assign_attrs(forcings.CO2.attrs)
    forcings.attrs = {}
    path = tmp_path / "own path.nc"
    forcings.to_netcdf(path)
    return path


def test_own_forcings_are_answered_without_the_store(emukit, linear_run, demo_store, own, monkeypatch):
    def refuse(*words, **named):
        raise AssertionError("the store was opened")

    monkeypatch.setattr("emukit.cli.options.open_for_run", refuse)
    answer = emukit("predict", linear_run, "--forcings", own, "--out", "p.nc")
    assert answer.code == 0, answer.err
    archive = api.open_store(demo_store)
    with xr.open_dataset("p.nc") as said, xr.open_dataset(own) as asked:
        expected = api.predict(api.load_run(linear_run), asked)
        np.testing.assert_allclose(said.tas, expected.tas, rtol=1e-6)
        assert said.attrs["scenario"] == "own path"
        assert said.attrs["forcing_data"].startswith(f"{own} (")
        assert said.attrs["title"] == "linear emulation of own path"
        usual = api.load_emulator(linear_run).predict(archive["ssp585"])
        assert float((usual.tas - said.tas)[-120:].mean()) > 0.1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "found:    neither"),
        (("--scenario", "ssp245", "--forcings", "OWN"), "found:    both"),
        (("--forcings", "OWN", "--data", "demo"), "--data would do nothing"),
        (("--forcings", "nowhere.nc"), "nowhere.nc"),
    ],
)
def test_forcings_that_are_not_one_thing_are_refused(emukit, linear_run, own, words, said, tmp_path):
    answer = emukit("predict", linear_run, "--out", "p.nc", *(own if w == "OWN" else w for w in words))
    assert answer.code == 2
    assert said in answer.err
    assert not (tmp_path / "p.nc").exists()


def test_final_fit_reads_the_settings_of_its_run(emukit, demo_store):
    words = ("--data", demo_store, "--protocol", "k360", "--members", "1", "--seed", "3")
    assert emukit("train", "linear", "--set", "model.ridge=7", *words, "--out", "runs/a", "-q").code == 0
    answer = emukit("train", "linear", "--final", "runs/a", "--out", "runs/b", "-q")
    assert answer.code == 0, answer.err
    first, last = (api.load_run(f"runs/{name}").record for name in "ab")
    assert last.recipe == first.recipe
    assert (last.identity.seed, last.identity.members, last.identity.protocol) == (3, (1,), "k360")
    assert last.identity.data == first.identity.data
    assert last.identity.final
    other = emukit("train", "climatology", "--final", "runs/a", "--out", "runs/c")
    assert other.code == 2
    assert "climatology is not what the run of --final trained" in other.err
