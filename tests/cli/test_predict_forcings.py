"""Forcings of one's own that need a store, are read as a scenario of it, or answered by another one's."""

import numpy as np
import pytest
import xarray as xr

import emukit as api
from emukit.errors import EmukitError


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


def test_an_experiment_without_a_forcing_is_said_to_be_in_other_units(emukit, linear_run, own, demo_store):
    """Zero is zero in all units; a store in which a forcing is zero throughout has lost it."""
    with xr.open_dataset(own) as forcings:
        without = forcings.load()
    without["CO2"] = (0 * without.CO2).assign_attrs(without.CO2.attrs)
    without.to_netcdf("without.nc")
    answer = emukit("predict", linear_run, "--forcings", "without.nc", "--out", "p.nc")
    assert answer.code == 0, answer.err
    with xr.open_dataset("p.nc") as said, xr.open_dataset(own) as asked:
        expected = api.predict(api.load_run(linear_run), asked)
        assert float((expected.tas - said.tas)[-120:].mean()) > 1
    store = xr.open_zarr(demo_store, chunks=None).load()
    for variable in store.variables.values():
        variable.encoding.clear()
    del store.attrs["emukit_published"]
    store["CO2"] = (0 * store.CO2).assign_attrs(store.CO2.attrs)
    store.to_netcdf("lost.nc")
    with pytest.raises(EmukitError, match="CO2 cannot be in GtCO2"):
        api.open_store("lost.nc")


def test_forcings_that_begin_late_are_told_in_words_of_python(emukit, linear_run, own):
    with xr.open_dataset(own) as forcings:
        forcings.isel(time=slice(60, None)).to_netcdf("late.nc")
    answer = emukit("predict", linear_run, "--forcings", "late.nc", "--out", "p.nc")
    assert answer.code == 2
    assert "let them begin in 2015-01" in answer.err
    assert "start and stop" not in answer.err


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
