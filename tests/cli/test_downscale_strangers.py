"""Fields, folders and interruptions that `emukit downscale` must refuse or survive, never with an internal error."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import load_file

from emukit.emulators.base import write_saved
from tests.cli.test_downscale import SMALL


@pytest.fixture(scope="module")
def trained(demo_store, tmp_path_factory):
    """A downscaler, and one year of fields on its fine grid."""
    from emukit.data.store import open_store
    from emukit.progress import Reporter
    from emukit.recipes.downscale import load_downscale
    from emukit.runs.downscale import train_downscaler

    place = tmp_path_factory.mktemp("downscaler")
    archive = open_store(demo_store)
    recipe = load_downscale(None, [word.removeprefix("--set=") for word in SMALL])
    train_downscaler(archive, recipe, place / "fine", reporter=Reporter(quiet=True))
    scenario = archive["ssp126"]
    data = {
        v.name: (("time", "lat", "lon"), scenario.truth(0, 0, 12)[:, i], {"units": v.units})
        for i, v in enumerate(archive.domain.described)
    }
    coords = {"time": scenario.time[0:12].cf_time(), "lat": archive.grid.lat, "lon": archive.grid.lon}
    return place / "fine", xr.Dataset(data, coords=coords)


def _with(fields, change):
    fields = fields.copy(deep=True)
    change(fields)
    return fields


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda d: d.update({"tas": d.tas.astype(str)}), "does not hold numbers"),
        (lambda d: d.tas.__setitem__((7, 0, 0), np.nan), "not finite at 2015-08"),
        (lambda d: d.update({"tas": d.tas.astype("f8") * 1e300}), "fine fields"),
    ],
)
def test_fields_without_a_fine_answer_are_refused_and_leave_nothing(emukit, trained, tmp_path, change, found):
    run, fields = trained
    _with(fields, change).to_netcdf("x.nc")
    answer = emukit("downscale", run, "x.nc", "--out", "o.zarr", "-q")
    assert answer.code == 2
    assert found in answer.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.nc"]


def test_a_hidden_folder_of_somebody_else_is_not_removed(emukit, trained, tmp_path):
    run, fields = trained
    fields.to_netcdf("x.nc")
    mine = tmp_path / ".o.zarr.partial" / "store"
    mine.mkdir(parents=True)
    (mine / "thesis").write_text("1")
    answer = emukit("downscale", run, "x.nc", "--out", "o.zarr", "-q")
    assert answer.code == 2
    assert "is not what an interrupted" in answer.err
    assert (mine / "thesis").read_text() == "1"
    shutil.rmtree(mine.parent)
    (tmp_path / "elsewhere").mkdir()
    mine.parent.symlink_to(tmp_path / "elsewhere")
    answer = emukit("downscale", run, "x.nc", "--out", "o.zarr", "-q")
    assert answer.code == 2
    assert "a link" in answer.err
    assert not any((tmp_path / "elsewhere").iterdir())


def _files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def interrupted(emukit, trained, tmp_path, monkeypatch):
    """A partial store whose writer was killed after its second part."""
    from emukit.runs import downscaled_file

    run, fields = trained
    rows, columns = fields.sizes["lat"], fields.sizes["lon"]
    monkeypatch.setattr(downscaled_file, "_PART_BYTES", 8 * rows * columns * 2 * 3)
    fields.to_netcdf("x.nc")
    command = ("downscale", run, "x.nc", "--out", "o.zarr", "-q")
    assert emukit(*command).code == 0
    whole = _files(tmp_path / "o.zarr")
    (tmp_path / "o.zarr").rename("kept")
    read, calls = downscaled_file.CoarseFile.read, []

    def killed(self, *arguments):
        calls.append(1)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return read(self, *arguments)

    with monkeypatch.context() as m:
        m.setattr(downscaled_file.CoarseFile, "read", killed)
        emukit(*command)
    partial = tmp_path / ".o.zarr.partial"
    assert json.loads((partial / "progress.json").read_text())["done"] == 6
    return command, partial, whole, tmp_path / "o.zarr"


def test_a_torn_chunk_does_not_reach_the_finished_store(emukit, interrupted):
    command, partial, whole, out = interrupted
    (partial / "store" / "tas" / f"2.0.{'a' * 32}.partial").write_bytes(b"half")
    assert emukit(*command).code == 0
    assert _files(out) == whole


def test_a_partial_store_that_lost_an_array_or_itself_is_begun_again(emukit, interrupted):
    command, partial, whole, out = interrupted
    shutil.rmtree(partial / "store" / "tas")
    assert emukit(*command).code == 0
    assert _files(out) == whole
    # As a command leaves it that is killed once its store has got its name.
    partial.mkdir()
    (partial / "progress.json").write_text('{"work": "x", "done": 12}')
    assert emukit(*command, "--overwrite").code == 0
    assert _files(out) == whole
    assert not partial.exists()


@pytest.mark.parametrize("done", ['"x"', "-1", "5", "1e30", "null", "true", "99999999999999999999"])
def test_progress_of_a_stranger_is_refused(emukit, interrupted, done):
    command, partial, _, out = interrupted
    progress = json.loads((partial / "progress.json").read_text())
    (partial / "progress.json").write_text(f'{{"work": "{progress["work"]}", "done": {done}}}')
    answer = emukit(*command)
    assert answer.code == 2
    assert "is damaged" in answer.err
    assert not out.exists()


def test_steps_of_two_versions_of_a_file_do_not_meet_in_a_store(emukit, interrupted, trained):
    command, _, _, out = interrupted
    (trained[1] + 1.0).assign(
        {v: (trained[1][v] + 1.0).assign_attrs(trained[1][v].attrs) for v in trained[1]}
    ).to_netcdf("x.nc")
    answer = emukit(*command)
    assert answer.code == 2
    assert "another one" in answer.err
    assert not out.exists()


def _set(place, value):
    *above, last = place.split("/")

    def change(head, arrays):
        for key in above:
            head = head[key]
        head[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("coarse", {}),
        _set("variables", [1, 2]),
        _set("variables", []),
        _set("first_month", 10**30),
        _set("meta/blocks/size", [10**9, 10**9]),
        _set("meta/overlap", -1),
        _set("meta/options/width", 10**9),
        _set("meta/objective/name", "os:system"),
        _set("meta/time", {"step": "day", "calendar": "noleap"}),
        lambda head, arrays: arrays.update(statics=arrays["statics"][:, :3]),
        lambda head, arrays: arrays.update({"fine.scale": arrays["fine.scale"][:1]}),
        lambda head, arrays: arrays.update({"passed.center": arrays["passed.center"] * np.nan}),
        lambda head, arrays: arrays.update({"network.head.bias": arrays["network.head.bias"] * np.inf}),
    ],
)
def test_an_edited_downscaler_is_refused(emukit, trained, tmp_path, change):
    run, fields = trained
    fields.to_netcdf("x.nc")
    head = json.loads((run / "emulator" / "emulator.json").read_text())
    arrays = load_file(run / "emulator" / "arrays.safetensors")
    change(head, arrays)
    shutil.copytree(run, "edited")
    shutil.rmtree("edited/emulator")
    # Whoever edits a folder can write its digests anew.
    write_saved(tmp_path / "edited" / "emulator", head, arrays)
    answer = emukit("downscale", "edited", "x.nc", "--out", "o.zarr", "-q")
    assert answer.code == 2, answer.err
    assert "does not fit" in answer.err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["edited", "x.nc"]


@pytest.mark.parametrize("scores", [{"validation": 5}, {"validation": {}}, {"validation": {"gain": {"tas": "x"}}}])
def test_edited_scores_of_a_downscaling_run_are_refused(emukit, trained, demo_store, scores):
    shutil.copytree(trained[0], "edited")
    record = json.loads((trained[0] / "downscale.json").read_text())
    Path("edited/downscale.json").write_text(json.dumps({**record, "scores": scores}))
    answer = emukit("train", "downscale", "--data", demo_store, *SMALL, "--out", "edited", "-q")
    assert answer.code == 2
    assert "was edited" in answer.err


@pytest.mark.parametrize("words", [("--objective", "rollout"), ("--domain", "2")])
def test_options_that_blocks_do_not_have_are_refused(emukit, demo_store, words):
    answer = emukit("train", "downscale", "--data", demo_store, *words)
    assert answer.code == 2
    assert words[1] in answer.err or words[0] in answer.err
