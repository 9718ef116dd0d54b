"""Predictions far from anything that training showed, without a word."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from emukit.data.protocol import make_split
from emukit.data.store import open_store
from emukit.emulators.features import ForcingSpace
from emukit.emulators.registry import load_emulator
from emukit.recipes.fitting import trained_in
from emukit.recipes.load import load_recipe
from tests.coded import warming_archive


def yearly(scenario, grid, names):
    """(N, K) annual global means, with plain loops."""
    rows = []
    for b in range(len(scenario), 11, -12):
        means = []
        for n in names:
            f = np.asarray(scenario.forcings[n][b - 12 : b], float)
            means.append(float(np.mean([np.sum(m * grid.weights) for m in f]) if f.ndim == 3 else f.mean()))
        rows.insert(0, means)
    return np.array(rows)


def test_the_distance_is_that_of_the_farthest_year_in_training_spreads():
    archive = warming_archive()
    split = make_split(archive, "loso:ssp585")
    space = trained_in(load_recipe("linear"), archive, split)
    assert space.names == ("CO2", "SO2", "BC")
    train = []
    for span in split.train:
        assert span.start == 0
        whole = archive[span.scenario]
        cut = {k: v[: span.stop] for k, v in whole.forcings.items()}
        train.append(yearly(replace(whole, time=whole.time[: span.stop], forcings=cut), archive.grid, space.names))
    train = np.concatenate(train)
    spread = np.maximum(train.std(0), 0.01 * np.abs(train.mean(0)))
    wanted = yearly(archive["ssp585"], archive.grid, space.names)
    each = np.sqrt((((wanted[:, None] - train[None]) / spread) ** 2).sum(-1)).min(1)
    found, month = space.farthest(archive["ssp585"], archive.grid, 0, len(archive["ssp585"]))
    assert found == pytest.approx(each.max(), rel=1e-9)
    assert month == len(archive["ssp585"]) - 12 * (len(each) - int(each.argmax())) + 11
    # A training span lies on its own years.
    first = split.train[0]
    on_it = space.farthest(archive[first.scenario], archive.grid, first.start, first.stop)
    assert on_it[0] == pytest.approx(0, abs=1e-9)


def test_what_hardly_moves_in_training_does_not_rule():
    archive = warming_archive()
    split = make_split(archive)
    plain = ForcingSpace.fit(archive, split.train, ["CO2", "rsdt"])
    space = ForcingSpace.of_training(archive, split.train, ["CO2", "rsdt"])
    assert space.scale[1] >= 0.01 * abs(space.center[1])
    assert space.scale[0] == plain.scale[0]
    np.testing.assert_allclose(space.points * space.scale, plain.points * plain.scale)


def test_predict_notes_twice_the_carbon_dioxide_and_keeps_the_distance(emukit, demo_store, linear_run, tmp_path):
    words = ("predict", linear_run, "--scenario", "ssp245")
    near = emukit(*words, "--out", "near.nc")
    assert near.code == 0, near.err
    assert "far outside" not in near.err
    twice = xr.open_zarr(demo_store).load()
    twice["CO2"] = twice["CO2"] * 3.0
    twice["CO2"].attrs = xr.open_zarr(demo_store)["CO2"].attrs
    # Changed on purpose: it is no longer what the demo wrote.
    del twice.attrs["emukit_published"]
    for name in twice.variables:
        twice[name].encoding = {}
    twice.to_zarr("twice.zarr", zarr_format=2)
    far = emukit(*words, "--out", "far.nc", "--data", "twice.zarr")
    assert far.code == 0, far.err
    assert "note: the forcings of ssp245 lie far outside the training" in " ".join(far.err.split())
    kept = {n: xr.open_dataset(f"{n}.nc").attrs for n in ("near", "far")}
    assert kept["near"]["forcing_distance"] < 2 < kept["far"]["forcing_distance"]
    assert kept["far"]["forcing_distance_units"] == "standard deviations over the training years"
    # The same from Python, of an emulator that was saved and loaded.
    emulator, archive = load_emulator(linear_run), open_store(demo_store)
    found = emulator.predict(archive["ssp245"]).attrs
    assert found["forcing_distance"] == pytest.approx(kept["near"]["forcing_distance"])
    # What an older version saved has none, and predicts as before.
    emulator.trained_in = None
    emulator.save(tmp_path / "old")
    older = load_emulator(tmp_path / "old")
    assert older.trained_in is None
    assert "forcing_distance" not in older.predict(archive["ssp245"]).attrs
