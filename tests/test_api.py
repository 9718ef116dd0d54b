"""A notebook of the docs that does not run, names that are promised and missing, forcings that are not one's own."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

import emukit
from emukit.data.demo import DemoClimate, write_demo
from emukit.errors import ProtocolError, RunError, StoreError

DOCS = Path(__file__).parents[1] / "docs" / "notebook.md"


@pytest.fixture(scope="module")
def notebook(tmp_path_factory):
    """The names that the page's code leaves behind."""
    folder = tmp_path_factory.mktemp("notebook")
    write_demo(DemoClimate(lat_cells=8, lon_cells=12, years=45, members=2), folder / "demo.zarr")
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    lines = [line for line in code.splitlines() if line and not line.startswith("#")]
    assert len(lines) <= 25
    names: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(plt, "show", lambda: None)
        exec(compile(code, str(DOCS), "exec"), names)
        (line,) = plt.gca().lines
        names["drawn"] = line.get_ydata()
        plt.close("all")
    # The page names folders relative to that in which it runs.
    names["run"] = emukit.load_run(folder / "runs" / "notebook")
    return names


@pytest.mark.slow
def test_notebook_of_the_docs_asks_what_if(notebook):
    """Less CO2 than in the scenario is cooler, and the more so the later; before 2030 nothing changes."""
    cooler = notebook["cooler"]
    assert cooler.sizes["time"] == 481
    assert np.abs(cooler.sel(time=slice(None, "2029-12"))).max() < 1e-3
    assert cooler.sel(time="2054").mean() < -0.3
    np.testing.assert_allclose(notebook["drawn"], cooler.groupby("time.year").mean())
    assert notebook["scores"].score.months == 120


def test_every_name_is_documented_and_there():
    table = set(re.findall(r"`(\w+)`", "\n".join(x for x in DOCS.read_text().splitlines() if x.startswith("| `"))))
    assert set(emukit.__all__) <= table
    for name in emukit.__all__:
        assert callable(getattr(emukit, name))
        assert getattr(emukit, name).__doc__.strip()
    assert "linear" in emukit.list_recipes()


def test_forcings_are_those_of_the_archive(notebook):
    archive, run = notebook["archive"], notebook["run"]
    forcings = emukit.forcings(archive, "ssp585")
    assert set(forcings.data_vars) == set(archive["ssp585"].forcings)
    assert forcings.CO2.attrs["units"] == archive.card.forcings["CO2"].units
    whole = emukit.predict(run, archive["ssp585"])
    xr.testing.assert_allclose(emukit.predict(run, forcings).drop_attrs(), whole.drop_attrs())
    assert emukit.predict(run, forcings).attrs["scenario"] == "ssp585"
    part = emukit.predict(run, forcings, start="2040-01", stop="2040-12")
    np.testing.assert_array_equal(part.tas, whole.tas.sel(time="2040"))
    with pytest.raises(ProtocolError, match="ssp999"):
        emukit.forcings(archive, "ssp999")


def test_what_a_run_cannot_answer_is_refused(notebook):
    run, forcings = notebook["run"], notebook["forcings"]
    with pytest.raises(RunError, match="one answer"):
        emukit.predict(run, forcings, members=3)
    with pytest.raises(StoreError, match="CO2"):
        emukit.predict(run, forcings.drop_vars("CO2"))
    with pytest.raises(StoreError, match="regular global axis"):
        emukit.predict(run, forcings.isel(x=slice(0, 4)))
    recipe = emukit.load_recipe("linear")
    with pytest.raises(ValueError, match="load_recipe"):
        emukit.train(notebook["archive"], recipe, "nowhere", settings={"model.ridge": 1.0})


def test_finished_run_of_the_same_settings_is_taken(notebook, tmp_path):
    archive, run = notebook["archive"], notebook["run"]
    folder = tmp_path / "run"
    first = emukit.train(archive, emukit.load_recipe("linear", settings={"model.ridge": 10.0}), folder)
    assert first.record.identity == run.record.identity
    before = (folder / "run.json").stat().st_mtime_ns
    emukit.train(archive, "linear", folder, settings={"model.ridge": 10.0})
    assert (folder / "run.json").stat().st_mtime_ns == before
    assert emukit.load_run(folder).record.identity == run.record.identity
