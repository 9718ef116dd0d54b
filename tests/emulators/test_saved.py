"""Saved emulators that predict something else, or fail late when damaged."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from emukit.data.frames import FrameEncoder, InputSettings, Window
from emukit.data.protocol import make_split
from emukit.data.targets import TargetNormalizer, TargetSettings
from emukit.emulators.base import FORMAT, head_digest, read_saved, write_saved
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.neural import NeuralEmulator
from emukit.emulators.registry import load_emulator
from emukit.errors import RunError
from emukit.models.registry import build_network
from tests.coded import warming_archive

OPTIONS = {"hidden": 8, "features": 6, "width": 4, "stages": 1, "pool_rows": 1, "pool_columns": 2}


def neural(archive, split, **inputs):
    encoder = FrameEncoder.fit(archive, split.train, InputSettings(**inputs))
    normalizer = TargetNormalizer.fit(archive, split.train, {"pr": TargetSettings(transform="sqrt")})
    network = build_network(
        "cnn-gru",
        in_channels=len(encoder.channels),
        variables=2,
        grid=archive.grid.shape,
        history=encoder.settings.window.history,
        options=OPTIONS,
    )
    return NeuralEmulator(archive.domain, "cnn-gru", OPTIONS, network, encoder, normalizer)


@pytest.fixture(scope="module")
def climate():
    archive = warming_archive()
    return archive, make_split(archive, "k360")


@pytest.mark.parametrize("kind", ["climatology", "linear", "neural"])
def test_loaded_emulator_predicts_the_same_bits(climate, tmp_path, kind):
    archive, split = climate
    emulator = {
        "climatology": lambda: ClimatologyEmulator.fit(archive, split),
        "linear": lambda: LinearEmulator.fit(archive, split),
        "neural": lambda: neural(archive, split),
    }[kind]()
    emulator.save(tmp_path / "e")
    loaded = load_emulator(tmp_path / "e")
    scenario = archive["ssp245"]
    np.testing.assert_array_equal(loaded.predict_fields(scenario, 3, 40), emulator.predict_fields(scenario, 3, 40))
    assert loaded.grid == archive.grid
    assert loaded.variables == ("tas", "pr")


@pytest.mark.parametrize("target_month", ["included", "excluded"])
def test_month_depends_on_its_own_window_and_nothing_else(climate, target_month):
    archive, split = climate
    window = Window(history=4, target_month=target_month)
    emulator = neural(archive, split, window=window)
    scenario, target = archive["ssp126"], 50
    before = emulator.predict_fields(scenario, 0, 100)
    seen = set(window.frames(target, 1, 181).tolist())
    for month in range(40, 60):
        forcings = {k: v.copy() for k, v in scenario.forcings.items()}
        forcings["SO2"][month] += 5.0
        changed = type(scenario)(scenario.name, scenario.time, forcings)
        after = emulator.predict_fields(changed, 0, 100)[target]
        assert (not np.allclose(after, before[target], atol=1e-6)) == (month in seen)


def test_rain_that_a_network_says_is_never_negative(climate):
    """Without a transform nothing else bounds it; what is a residual may be negative."""
    archive, split = climate
    emulator = neural(archive, split)
    emulator.normalizer = TargetNormalizer.fit(archive, split.train, {})
    with torch.no_grad():
        for parameter in emulator.network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    emulator.residual = True
    free = emulator.predict_fields(archive["ssp245"], 0, 60)
    assert free[:, 1].min() < -1
    emulator.residual = False
    held = emulator.predict_fields(archive["ssp245"], 0, 60)
    np.testing.assert_array_equal(held[:, 1], np.maximum(free[:, 1], 0))
    np.testing.assert_array_equal(held[:, 0], free[:, 0])


def test_a_scenario_is_encoded_once_while_it_stays_as_it_is(climate, monkeypatch):
    archive, split = climate
    emulator = neural(archive, split)
    seen = []
    encode = emulator.encoder.encode
    monkeypatch.setattr(emulator.encoder, "encode", lambda s, *device: seen.append(s.name) or encode(s, *device))
    plain = emulator.predict_fields(archive["ssp245"], 0, 20)
    with emulator.keeping_frames():
        for _ in range(3):
            np.testing.assert_array_equal(emulator.predict_fields(archive["ssp245"], 0, 20), plain)
        emulator.predict_fields(archive["ssp126"], 0, 20)
    assert seen == ["ssp245", "ssp245", "ssp126"]
    # Afterwards nobody promises that forcings are not edited in place.
    emulator.predict_fields(archive["ssp126"], 0, 20)
    assert seen[3:] == ["ssp126"]


def test_prediction_does_not_depend_on_how_many_months_are_asked_for(climate):
    archive, split = climate
    emulator = neural(archive, split)
    whole = emulator.predict_fields(archive["ssp245"], 0, 181)
    for start, stop in ((0, 1), (7, 20), (59, 62), (100, 181)):
        part = emulator.predict_fields(archive["ssp245"], start, stop)
        np.testing.assert_allclose(part, whole[start:stop], rtol=1e-5, atol=1e-5)


def test_xarray_in_and_out_gives_the_same_fields(climate, tmp_path):
    from emukit.data.demo import DemoClimate
    from emukit.data.store import archive_from_dataset

    dataset = DemoClimate(lat_cells=8, lon_cells=12, members=1).dataset()
    archive = archive_from_dataset(dataset, source="demo")
    emulator = LinearEmulator.fit(archive, make_split(archive))
    forcings = dataset[["CO2", "CH4", "SO2", "BC", "rsdt"]].sel(ssp="ssp245")
    out = emulator.predict(forcings, start="2030-03", stop="2031-02")
    assert isinstance(out, xr.Dataset)
    assert out.sizes == {"time": 12, "y": 8, "x": 12}
    assert (out.tas.attrs["units"], out.pr.attrs["units"]) == ("K", "mm/day")
    first = archive["ssp245"].index("2030-03")
    np.testing.assert_array_equal(out.tas, emulator.predict_fields(archive["ssp245"], first, first + 12)[:, 0])
    assert str(out.time.values[0]).startswith("2030-03-15")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / "arrays.safetensors").unlink(), "no trained emulator"),
        (lambda f: (f / "arrays.safetensors").write_bytes((f / "arrays.safetensors").read_bytes()[:200]), "damaged"),
        (lambda f: (f / "emulator.json").write_text("{"), "damaged"),
        (lambda f: (f / "emulator.json").write_text("[]"), "another format"),
        (lambda f: edit(f, "format", 99), "another format"),
        (lambda f: edit(f, "kind", "oracle"), "does not fit"),
        (lambda f: edit(f, "meta", {}), "does not fit"),
        (lambda f: edit(f, "meta", None), "does not fit"),
        (lambda f: edit(f, "kind", ["neural"]), "does not fit"),
        (lambda f: replace_in(f, '"history": 12', '"history": 13'), "values in emulator.json with another SHA-256"),
    ],
)
def test_damaged_emulator_is_refused_by_name(climate, tmp_path, damage, words):
    archive, split = climate
    neural(archive, split).save(tmp_path / "e")
    damage(tmp_path / "e")
    with pytest.raises(RunError, match=words):
        load_emulator(tmp_path / "e")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"options": {**OPTIONS, "poles": "foo"}}, "poles"),
        ({"options": {**OPTIONS, "hidden": "8"}}, "hidden"),
        ({"options": {**OPTIONS, "hidden": 8.0}}, "hidden"),
        ({"options": {**OPTIONS, "hidden": 0}}, "cannot build cnn-gru"),
        ({"options": {**OPTIONS, "hidden": 9}}, "size mismatch"),
        ({"options": {**OPTIONS, "oracle": True}}, "oracle: unknown key"),
        ({"options": {**OPTIONS, "history": 3}}, "history: unknown key"),
        ({"options": [8]}, "options"),
        ({"options": None}, "options"),
        ({"network": "oracle"}, "unknown network 'oracle'"),
    ],
    ids=str,
)
def test_edited_options_are_another_climate_or_a_message_that_names_no_folder(climate, tmp_path, changes, words):
    archive, split = climate
    neural(archive, split).save(tmp_path / "e")
    meta = json.loads((tmp_path / "e" / "emulator.json").read_text())["meta"]
    edit(tmp_path / "e", "meta", meta | changes)
    with pytest.raises(RunError, match=words) as error:
        load_emulator(tmp_path / "e")
    assert str(tmp_path / "e") in str(error.value)
    assert "train it again" in error.value.hint
    assert "--set" not in str(error.value)


def test_options_of_a_loaded_emulator_are_those_of_the_saved_one(climate, tmp_path):
    archive, split = climate
    neural(archive, split).save(tmp_path / "e")
    assert load_emulator(tmp_path / "e").options == OPTIONS


def replace_in(folder, old, new):
    path = folder / "emulator.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def edit(folder, key, value):
    path = folder / "emulator.json"
    head = {**json.loads(path.read_text()), key: value}
    path.write_text(json.dumps(head | {"head_sha256": head_digest(head)}))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel does not tell peaks of memory")
def test_loading_does_not_hold_an_emulator_twice(tmp_path):
    """A typical year of the full ClimX grid has 1.4 GB: the file, mapped, stood in memory beside its arrays."""
    size = 48 << 20
    write_saved(tmp_path / "big", {"format": FORMAT}, {"x": np.ones(size // 4, np.float32)})

    def memory(what: str) -> int:
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
        return int(line.split()[1]) << 10

    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this process may not ask for its peak of memory")
    before = memory("VmRSS")
    _, arrays = read_saved(tmp_path / "big")
    assert memory("VmHWM") - before < 1.4 * size
    assert arrays["x"].sum() == size // 4
