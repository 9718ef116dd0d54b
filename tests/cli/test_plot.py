"""Pictures that are missing, half written, of other data, or that a command refuses without saying why."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from PIL import Image

from emukit.report import plot

# In the least time; what is drawn is tested without the command line.
QUICK = {"maps.png", "variability.json"}


@pytest.fixture
def quick(monkeypatch):
    """One small picture in the place of all, for tests of where pictures go."""
    monkeypatch.setattr(plot, "draw", lambda shown, title: ({"maps": Figure((2, 2))}, {}))


def names(folder):
    return {p.name for p in Path(folder).iterdir()}


def test_every_visible_set_has_its_folder_in_the_run(emukit, demo_store, quick):
    assert emukit("train", "linear", "-q", "--data", demo_store, "--protocol", "k360", "--out", "r").code == 0
    answer = emukit("plot", "r")
    assert answer.code == 0, answer.err
    assert names("r/plots") == {"validation-ssp370", "test-ssp370"}
    for folder in Path("r/plots").iterdir():
        assert names(folder) == QUICK
        found = json.loads((folder / "variability.json").read_text())
        assert found["title"].startswith(f"r, {folder.name.partition('-')[0]}: ssp370 ")
        assert set(found["members"]) == {"0", "1"}
        assert found["difference from a member"]["total_std"]["tas"] < -0.5
    assert answer.out.count("tas std, cell by cell") == 2
    assert "wrote r/plots/test-ssp370: maps.png, variability.json" in answer.out


def test_all_pictures_of_realisations_are_whole(emukit, demo_store):
    words = ("train", "sampled", "-q", "--set=model.years=3", "--data", demo_store, "--protocol", "loso:ssp126")
    assert emukit(*words, "--out", "s").code == 0
    answer = emukit("plot", "s", "--split", "test", "--out", "pictures", "-q")
    assert answer.code == 0, answer.err
    assert names("pictures") == {"test-ssp126"}
    folder = Path("pictures/test-ssp126")
    assert names(folder) == {
        "maps.png",
        "change.png",
        "years.png",
        "seasons.png",
        "spectra.png",
        "ranks.png",
        "spread.png",
        "hovmoeller.png",
        "variability.json",
    }
    for picture in folder.glob("*.png"):
        with Image.open(picture) as image:
            image.load()
            assert 700 <= image.width <= 1400
            assert np.asarray(image.convert("L")).std() > 5
            assert image.text["Title"].startswith("s, test: ssp126 ")
            assert image.text["Description"].startswith("data ")
    assert "no picture" not in answer.out
    assert not Path("s/plots").exists()


def test_emulator_with_one_answer_has_no_ranks_and_is_told_so(emukit, linear_run, monkeypatch):
    monkeypatch.setattr(plot, "write_png", lambda figure, path, about: path.write_bytes(b""))
    answer = emukit("plot", linear_run, "--split", "validation", "--out", "o", "-q")
    assert answer.code == 0, answer.err
    assert names(next(Path("o").iterdir())) == {
        "maps.png",
        "change.png",
        "years.png",
        "seasons.png",
        "spectra.png",
        "hovmoeller.png",
        "variability.json",
    }
    assert "no picture of ranks: the emulator has one answer" in answer.out
    assert "emukit train sampled" in answer.out


def test_hidden_truth_is_left_out_and_refused_when_asked_for(emukit, demo_store, quick):
    assert emukit("train", "linear", "-q", "--data", demo_store, "--protocol", "official", "--out", "r").code == 0
    answer = emukit("plot", "r")
    assert answer.code == 0, answer.err
    assert names("r/plots") == {"validation-ssp370"}
    assert names("r/plots/validation-ssp370") == QUICK
    assert "no pictures of test: the truth of ssp245" in answer.err
    refused = emukit("plot", "r", "--split", "test", "-q")
    assert refused.code == 2
    for words in ("hidden", "found:", "expected:", "do:"):
        assert words in refused.err
    unknown = emukit("plot", "r", "--split", "training", "-q")
    assert unknown.code == 2
    assert "no set 'training'" in unknown.err


def test_final_fit_whose_test_is_hidden_has_nothing_to_show(emukit, demo_store, quick):
    words = ("train", "linear", "-q", "--data", demo_store, "--protocol", "official")
    assert emukit(*words, "--out", "r").code == 0
    assert emukit(*words, "--final", "r", "--out", "f").code == 0
    answer = emukit("plot", "f", "-q")
    assert answer.code == 2
    assert "nothing visible to compare with under official" in answer.err
    assert "do:" in answer.err
    assert not Path("f/plots").exists()


def test_no_run_and_an_unfinished_one_are_refused(emukit, linear_run):
    missing = emukit("plot", "nowhere")
    assert missing.code == 2
    assert "nowhere is not a run" in missing.err
    record = json.loads((linear_run / "run.json").read_text())
    Path("half").mkdir()
    # Seen before the store is read, which here is not even there any more.
    gone = {**record["data"], "source": "/nowhere.zarr"}
    Path("half/run.json").write_text(json.dumps({**record, "state": "training", "data": gone}))
    unfinished = emukit("plot", "half")
    assert unfinished.code == 2
    assert "has not finished" in unfinished.err
    assert "--resume" in unfinished.err


def test_other_data_needs_a_place_of_its_own(emukit, linear_run, quick):
    assert emukit("data", "demo", "other.zarr", "--grid", "8x12", "--members", "2", "--seed", "9").code == 0
    answer = emukit("plot", linear_run, "--data", "other.zarr", "-q")
    assert answer.code == 2
    assert "not kept in the run" in answer.err
    assert "--out DIR" in answer.err
    assert not (linear_run / "plots").exists()
    assert emukit("plot", linear_run, "--data", "other.zarr", "--out", "o", "-q").code == 0
    assert emukit("data", "demo", "small.zarr", "--grid", "6x10", "--members", "2").code == 0
    grid = emukit("plot", linear_run, "--data", "small.zarr", "--out", "o", "-q")
    assert grid.code == 2
    assert "another grid" in grid.err


def test_store_without_a_variable_is_refused(emukit, linear_run, demo_store):
    with xr.open_zarr(demo_store, chunks=None) as ds:
        ds.drop_vars("pr").to_zarr("dry.zarr", zarr_format=2)
    answer = emukit("plot", linear_run, "--data", "dry.zarr", "--out", "o", "-q")
    assert answer.code == 2
    assert "pr is missing" in answer.err
    assert not Path("o").exists()


def test_files_of_others_are_not_replaced_and_own_ones_are(emukit, linear_run, quick):
    words = ("plot", linear_run, "--split", "validation", "-q", "--out", "o")
    assert emukit(*words).code == 0
    (folder,) = Path("o").iterdir()
    assert "--overwrite replaces it" in emukit(*words).err
    before = (folder / "maps.png").stat().st_ino
    # As earlier versions called it.
    (folder / "variability.json").rename(folder / "weather.json")
    assert emukit(*words, "--overwrite").code == 0
    assert (folder / "maps.png").stat().st_ino != before
    assert names(folder) == QUICK
    # Another's file, and another's picture under a name of ours.
    for name in ("notes.txt", "maps.png"):
        (folder / name).write_text("mine")
        answer = emukit(*words, "--overwrite")
        assert answer.code == 2
        assert name in answer.err
        assert (folder / name).read_text() == "mine"
        (folder / "notes.txt").unlink(missing_ok=True)
    Path("file").write_text("")
    assert "cannot write" in emukit("plot", linear_run, "--split", "validation", "-q", "--out", "file").err


def test_failure_leaves_no_half_folder(emukit, linear_run, monkeypatch):
    def full(figure, path, about):
        if path.name == "seasons.png":
            raise OSError(28, "No space left on device")
        path.write_bytes(b"whole")

    monkeypatch.setattr(plot, "write_png", full)
    answer = emukit("plot", linear_run, "--split", "validation", "-q", "--out", "o")
    assert answer.code == 2
    assert "No space left on device" in answer.err
    assert not any(Path("o").iterdir())


@pytest.mark.real
def test_numbers_on_the_maps_are_those_of_the_evaluation(emukit, real_store):
    words = ("train", "linear", "-q", "--data", real_store, "--protocol", "k360", "--out", "r")
    assert emukit(*words).code == 0
    from emukit.data.store import open_store
    from emukit.report.plot_data import collect, error_rows
    from emukit.runs.run import read_run

    run, archive = read_run(Path("r")), open_store(real_store)
    shown = collect(run.emulator(archive), archive, run.split(archive).validation[0])
    scores = json.loads(Path("r/scores/validation.json").read_text())
    found = [row.panels[0].title.partition(": ")[2].partition(",")[0] for row in error_rows(shown)]
    assert found == [
        f"{word} {scores[v][part]:.3f}"
        for v in ("tas", "pr")
        for word, part in (("RMSE", "time_mean_rmse"), ("MAE", "time_stddev_mae"))
    ]
