"""A trajectory from another beginning than was asked for; states that reach a recipe, a run or a file no more."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from emukit.data.time import TimeAxis
from tests.forecasts import STEPS, VARIABLES, card, sequence

RECIPE = """
emulator = "unet"
[model]
width = 4
depth = 1
coarsen = 0
linear = 0
window = "channels"
local = false
[inputs]
states = ["tas", "z500"]
window = { history = 2 }
[loss]
default = { mse = 1.0 }
tas = { mse = 1.0 }
pr = { mse = 1.0 }
[training]
epochs = 2
[training.segments]
length = 2
per_batch = 8
members = "all"
[objective]
name = "rollout"
lengths = [1, 2]
boundaries = [1.0]
"""


@pytest.fixture
def store(tmp_path):
    """The sequence as a file without scenario and member, and its card."""
    archive = sequence()
    control = archive["control"]
    units = {v: card().targets[v].units for v in VARIABLES}
    data = {v: (("time", "lat", "lon"), control.targets[0, :, i], {"units": units[v]}) for i, v in enumerate(VARIABLES)}
    coords = {"time": control.time.cf_time(), "lat": archive.grid.lat, "lon": archive.grid.lon}
    xr.Dataset(data, coords=coords).to_netcdf(tmp_path / "s.nc")
    (tmp_path / "c.toml").write_text("\n".join(_toml(card())))
    (tmp_path / "r.toml").write_text(RECIPE)
    return "--data", tmp_path / "s.nc", "--card", tmp_path / "c.toml"


def _toml(of):
    yield f'name = "{of.name}"\ntitle = "t"\nsource = "s"\nlicence = "l"\ntime = "6h"'
    yield 'scenarios = ["control"]\ndefault_protocol = "forecast"'
    for name, v in of.targets.items():
        yield f'[targets.{name}]\nunits = "{v.units}"\nrange = [-1e6, 1e6]\nlargest = [0.0, 1e6]\nwhat = "w"'
    yield '[protocols.forecast]\ntrain = ["control"]\nvalidation = [{ scenario = "control", steps = [-32, -16] }]'
    yield 'test = [{ scenario = "control", steps = [-16, 0] }]\n[loso]\nvalidation_steps = 16\ntest_steps = 16'


def test_a_network_is_trained_on_its_own_states_scored_by_lead_and_continued(emukit, store):
    answer = emukit("train", "r.toml", *store, "--out", "run", "-q")
    assert answer.code == 0, answer.err
    log = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["steps"] for line in log] == [1.0, 2.0]
    shown = json.loads(emukit("evaluate", "run", "--split", "test", "--format", "json", "-q").out)
    assert shown["forecasts"] == json.loads(Path("run/forecasts/test.json").read_text())
    assert list(shown["forecasts"]["scores"]["z500"]) == ["6 h", "1 day", "3 days"]
    table = emukit("evaluate", "run", "--split", "test", "-q").out
    assert "persistence" in table
    assert emukit("predict", "run", "--scenario", "control", "--out", "a.nc", "-q").code == 0
    time = TimeAxis("6h", 6 * 60 * 4, STEPS)
    with xr.open_dataset("a.nc") as whole:
        # From the first test step on.
        assert whole.sizes["time"] == 16
        assert str(whole.time.values[0])[:13] == time.text(STEPS - 16)[:13]
        whole.isel(time=slice(0, 6)).to_netcdf("part.nc")
        words = ("predict", "run", "--scenario", "control", "--initial", "part.nc", "--out", "b.nc", "-q")
        assert emukit(*words).code == 0
        with xr.open_dataset("b.nc") as rest:
            assert rest.sizes["time"] == 10
            np.testing.assert_allclose(rest.z500, whole.z500[6:], rtol=1e-4)
            np.testing.assert_allclose(rest.pr, whole.pr[6:], atol=1e-2)
    begin = time.text(30)
    assert emukit("predict", "run", "--scenario", "control", "--begin", begin, "--out", "c.nc", "-q").code == 0
    with xr.open_dataset("c.nc") as early:
        assert early.sizes["time"] == STEPS - 30
    refused = emukit("predict", "run", "--scenario", "control", "--begin", time.text(1), "--out", "d.nc", "-q")
    assert refused.code == 2
    assert "are not known" in refused.err
    assert not Path("d.nc").exists()


def test_persistence_and_climatology_are_references_and_linear_says_why_it_is_none(emukit, store):
    for name in ("persistence", "climatology"):
        assert emukit("train", name, *store, "--out", name, "-q").code == 0
    shown = json.loads(emukit("evaluate", "persistence", "--split", "test", "--format", "json", "-q").out)
    own = shown["forecasts"]["scores"]["tas"]["6 h"]
    assert own["rmse"] == own["persistence"]
    refused = emukit("train", "linear", *store, "--out", "linear", "-q")
    assert refused.code == 2
    assert "have no forcings" in refused.err
    assert "inputs.states" in refused.err
    refused = emukit(
        "predict", "climatology", "--scenario", "control", "--begin", "1970-01-05T00", "--out", "x.nc", "-q"
    )
    assert refused.code == 2
    assert "does not run from a beginning" in refused.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("inputs.states=[]", "needs a forcing, or a state|inputs.states must name some"),
        ("training.segments.length=3", "they must be the same"),
        ("objective.boundaries=[2.0]", "would never be used"),
        ("training.segments.members=random", "must be all"),
        ('inputs.states=["huss"]', "names huss"),
        ("targets.tas.climatology=cell-month", "jump from one season"),
    ],
)
def test_states_that_cannot_be_are_refused_before_a_folder_is_made(emukit, store, change, message):
    import re

    answer = emukit("train", "r.toml", *store, "--out", "run", "-q", "--set", change)
    assert answer.code == 2
    assert re.search(message, answer.err)
    assert not Path("run").exists()
