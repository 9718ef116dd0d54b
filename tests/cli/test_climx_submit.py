"""A submission that is not of the fields next to it, of another scenario than the hidden one, or not whole."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from emukit.competitions.climx import indices
from emukit.competitions.climx.submission import ROWS, read_submission
from emukit.data import daily_archive
from emukit.data.demo.climx import write_climx_demo
from emukit.data.demo.daily import DailyClimate
from emukit.progress import silent_reporter
from emukit.submission import read_entry
from tests import forks

pytestmark = pytest.mark.long

TRAIN = ("typical-year", "--protocol", "ssp370-2015-2070", "-q")


@pytest.fixture(scope="module")
def century(tmp_path_factory):
    """Files of 2015 to 2100 on few cells, and the hidden truth."""
    place = tmp_path_factory.mktemp("climx-century")
    climate = DailyClimate(lat_cells=4, lon_cells=6, first_year=1961, years=86, seed=2)
    write_climx_demo(climate, place / "lite", place / "truth", silent_reporter())
    return place


@pytest.fixture(autouse=True)
def _kept(century, monkeypatch):
    """As for a user, a command need not derive again what an earlier one did."""
    monkeypatch.setenv("EMUKIT_CACHE", str(century / "kept"))


@pytest.fixture
def trained(emukit, century, tmp_path):
    """What the training of a run said; its copy is the folder `run`."""
    kept, told = century / "run", century / "told"
    if not told.exists():
        answer = emukit("train", *TRAIN, "--data", century / "lite", "--out", kept)
        assert answer.code == 0, answer.err
        told.write_text(answer.out)
    shutil.copytree(kept, tmp_path / "run")
    return told.read_text()


@pytest.mark.slow
def test_submission_is_of_the_daily_fields_next_to_it(emukit, trained):
    assert "WSDI nNSE" in trained
    assert "Next: emukit submit " in trained
    answer = emukit("submit", "run", "--out", "sub")
    assert answer.code == 0, answer.err
    assert "each cell stands for 48 x 48 cells of the leaderboard" in " ".join(answer.err.split())
    folder = Path("sub")
    assert {p.name for p in folder.iterdir()} == {
        "daily.zarr",
        "entry.toml",
        "submission.parquet",
        "submission.parquet.json",
    }
    entry = read_entry(folder)
    assert (entry.scenario, entry.first_month, entry.last_month) == ("ssp245", "2015-01", "2100-12")
    assert (entry.protocol, entry.competition, entry.rows) == ("ssp370-2015-2070", "climx", 86 * 192 * 288)
    with xr.open_zarr(folder / "daily.zarr", chunks=None) as daily:
        hottest = daily.tasmax.groupby("time.year").max().to_numpy()
    found = read_submission(folder / "submission.parquet")["TXx"].reshape(86, 4, 48, 6, 48)
    np.testing.assert_allclose(found[:, :, 0, :, 0], hottest, rtol=1e-6)
    assert (found == found[:, :, :1, :, :1]).all()
    # Written once more only where the user says so, and only over what it wrote.
    assert emukit("submit", "run", "--out", "sub", "-q").code == 2
    (folder / "daily.zarr" / "notes.txt").write_text("mine")
    refused = emukit("submit", "run", "--out", "sub", "--overwrite", "-q")
    assert refused.code == 2
    assert (folder / "daily.zarr" / "notes.txt").exists()
    kept = json.loads((folder / "submission.parquet.json").read_text())
    assert kept["base_period"] == [1961, 1990]


@pytest.mark.slow
def test_fields_on_disk_give_the_run_and_the_submission_of_fields_in_memory(
    emukit, century, trained, tmp_path, monkeypatch
):
    for place in ("run", "stored"):
        if place == "stored":
            monkeypatch.setattr(daily_archive, "MOST_BYTES", 0)
            # Nothing of what was derived from fields in memory.
            monkeypatch.setenv("EMUKIT_CACHE", str(tmp_path / "kept"))
            answer = emukit("train", *TRAIN, "--data", century / "lite", "--out", place)
            assert answer.code == 0, answer.err
        shown = emukit("evaluate", place, "--split", "test", "-q")
        assert shown.code == 0, shown.err
        for told in ("2015-2050", "forced ceiling", "region, lowest first", "organisers' baseline: lps"):
            assert told in shown.out, told
    # The millions of rows that are written of them are tested above.
    monkeypatch.setattr(indices, "write_submission", lambda path, of_years: path.touch() or ROWS)
    assert emukit("submit", "stored", "--out", "sub", "-q").code == 0
    assert emukit("predict", "run", "--scenario", "ssp245", "--out", "held.zarr", "-q").code == 0
    one, two = (read_evaluation_of(tmp_path / place) for place in ("run", "stored"))
    assert two["score"] == pytest.approx(one["score"], abs=1e-9)
    assert two["floors"]["climatology"]["score"] == pytest.approx(one["floors"]["climatology"]["score"], abs=1e-6)
    # What is submitted follows from these fields: see above.
    with (
        xr.open_zarr("held.zarr", chunks=None) as fields,
        xr.open_zarr("sub/daily.zarr", chunks=None) as written,
    ):
        xr.testing.assert_equal(written, fields)
        assert {**written.attrs, "history": "", "training_data": "", "forcing_data": ""} == {
            **fields.attrs,
            "history": "",
            "training_data": "",
            "forcing_data": "",
        }
    planned = emukit("plan", "typical-year", "--data", century / "lite", "-q")
    assert planned.code == 0, planned.err
    assert "read a part at a time" in " ".join(planned.out.split())
    refused = emukit("predict", "stored", "--scenario", "ssp126", "--out", "p.nc", "-q")
    assert refused.code == 2
    assert "--out p.zarr" in refused.err
    assert emukit("train", "climx-nn", "--data", century / "lite", "--out", "l", "-q").code == 2


@pytest.mark.slow
def test_realisations_are_scored_as_an_ensemble(emukit, century, tmp_path):
    words = ("--set", "model.years=3", "--protocol", "ssp370-2015-2070", "--out", "draws", "-q")
    trained = emukit("train", "delta-change", "--data", century / "lite", *words)
    assert trained.code == 0, trained.err
    answer = emukit("evaluate", "draws", "--members", "2", "--format", "json", "-q")
    assert answer.code == 0, answer.err
    told = json.loads(answer.out)
    *_, first, second = told["tables"]
    assert [t["span"].split()[0] for t in (first, second)] == ["ssp126", "ssp585"]
    assert first["headings"][:2] == ["2 realisations", "CRPS score (emukit's reading)"]
    assert -1 <= float(first["rows"][0][1]) <= 1
    # One span's first realisation is what the run itself is scored by.
    singles = [float(t["rows"][0][3]) for t in (first, second)]
    assert sum(singles) / 2 == pytest.approx(told["score"], abs=1e-3)
    words = ("evaluate", "draws", "--members", "2", "--devices", "2", "--format", "json", "-q")
    main, other = forks.start_together(tmp_path, 2, *words)
    assert (main.wait(), other.wait()) == (0, 0), main.err.read_text() + other.err.read_text()
    assert json.loads(main.out.read_text())["tables"] == told["tables"]


def read_evaluation_of(run):
    return json.loads((run / "scores" / "test.json").read_text())
