"""Faults that a campaign does not see, or makes itself; and what a small one finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import netCDF4
import numpy as np
import pytest
import xarray as xr

from benchmarks import forked
from benchmarks.cases import Tally, column_of
from benchmarks.damage import BYTES, NETCDF, STORES, TEXTS, files_below, linked_copy
from benchmarks.faults import check_campaigns
from benchmarks.forked import Ended, in_fork
from emukit.errors import EmukitError

pytestmark = [pytest.mark.long, pytest.mark.skipif(sys.platform != "linux", reason="campaigns of faults need Linux")]

GOOD = Ended(0, "a table\n", "note: usual\n", 1.0, 1 << 28, False)


@pytest.mark.parametrize(
    ("ended", "same", "column"),
    [
        (GOOD, True, "same"),
        (GOOD, False, "silent"),
        (Ended(0, "a table\n", "note: left out x\n", 1.0, 1 << 28, False), False, "said"),
        # Another result is not a note.
        (Ended(0, "another table\n", "note: usual\n", 1.0, 1 << 28, False), False, "silent"),
        (Ended(2, "", "error: a\n", 1.0, 1 << 28, False), False, "refused"),
        (Ended(1, "not usable\n", "", 1.0, 1 << 28, False), False, "refused"),
        (Ended(1, "", "", 1.0, 1 << 28, False), True, "broken"),
        (Ended(1, "", "internal error: KeyError: 'a'\n", 1.0, 1 << 28, False), False, "broken"),
        (Ended(0, "", "Traceback (most recent call last):\n", 1.0, 1 << 28, False), True, "broken"),
        (Ended(-11, "", "", 1.0, 1 << 28, False), True, "broken"),
        (Ended(-9, "", "", 99.0, 1 << 28, True), True, "hung"),
        (Ended(0, "a table\n", "", 1.0, 5 << 30, False), True, "over 4 GB"),
        (Ended(2, "", "error: there is not enough memory, or\n", 1.0, 1 << 28, False), False, "over 4 GB"),
    ],
)
def test_a_fault_is_counted_as_none(ended, same, column):
    assert column_of(ended, GOOD, same) == column


ROOT = Path(__file__).parents[2]


def test_what_data_check_finds_is_counted_as_silence():
    found = Ended(0, "an oddity\n", "", 1.0, 1 << 28, False)
    assert column_of(found, GOOD, False, findings=True) == "said"


def test_a_row_holds_where_something_changed_without_a_word():
    bad = ("silent", "broken")
    assert Tally("store", "a bit flipped", {"same": 3, "refused": 2}, bad).within
    assert not Tally("store", "a bit flipped", {"same": 3, "silent": 1}, bad).within
    row = Tally("store", "a bit flipped", {"same": 3, "silent": 1}, ("broken",))
    assert row.within
    assert row.cells() == ("store", "a bit flipped", "4", "0", "0", "3", "1", "0", "0", "0", "yes")


def fails():
    raise KeyError("a")


def waits():
    time.sleep(600)


def turns():
    while True:
        pass


def asks():
    bytearray(64 << 30)


def test_a_fork_takes_the_tests_with_it_or_hides_how_it_ended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()

    def works():
        print(Path.cwd().name, os.getpid())
        sys.exit(3)

    worked = in_fork(works, tmp_path / "there")
    name, pid = worked.out.split()
    assert (worked.code, name, worked.broken, worked.hung) == (3, "there", True, False)
    assert int(pid) != os.getpid()
    assert Path.cwd() == tmp_path
    assert in_fork(lambda: None, tmp_path).code == 0
    failed = in_fork(fails, tmp_path)
    assert (failed.code, failed.broken) == (1, True)
    assert "KeyError: 'a'" in failed.err
    asked = in_fork(asks, tmp_path)
    assert "MemoryError" in asked.err
    killed = in_fork(waits, tmp_path, kill_after=0.2)
    assert (killed.code, killed.hung) == (-9, False)
    for hanging in (waits, turns):
        hung = in_fork(hanging, tmp_path, hang_seconds=0.5)
        assert (hung.code, hung.hung) == (-9, True)
    assert forked.HANG_SECONDS == 60
    assert forked.MEMORY_BYTES == 4 * 1024**3


@pytest.fixture
def text_folder(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.json").write_text('{"name": "one",\n "score": 0.25,\n "more": [1, 2, 3]}\n')
    (folder / "b.toml").write_text('name = "two"\nscore = 0.5\n\n[table]\nvalue = 7\n')
    return folder


def seen(folder):
    """What stands under every name: bytes, or of what is not a file its kind."""
    found = {}
    for path in sorted(folder.rglob("*")):
        regular = path.is_file() and not path.is_symlink()
        found[str(path.relative_to(folder))] = path.read_bytes() if regular else oct(path.lstat().st_mode)
    return found


@pytest.mark.parametrize("kind", [*BYTES, *TEXTS])
def test_damage_is_another_every_time_or_reaches_the_original(text_folder, tmp_path, kind):
    before, results = seen(text_folder), []
    for number in (0, 0, 1, 2, 3, 4):
        copy = tmp_path / f"copy-{len(results)}"
        linked_copy(text_folder, copy)
        {**BYTES, **TEXTS}[kind](Random(f"{kind} {number}"), files_below(copy))
        results.append(seen(copy))
    assert seen(text_folder) == before
    assert results[0] == results[1]
    assert any(result != before for result in results)


@pytest.mark.parametrize("kind", [*STORES])
def test_damage_of_a_store_changes_nothing_or_reaches_the_original(demo_store, tmp_path, kind):
    before = seen(demo_store)
    linked_copy(demo_store, tmp_path / "copy.zarr")
    STORES[kind](Random(kind), files_below(tmp_path / "copy.zarr"))
    assert seen(demo_store) == before
    assert seen(tmp_path / "copy.zarr") != before


@pytest.mark.parametrize("kind", [*NETCDF])
def test_damage_of_netcdf_metadata_leaves_a_file_that_opens(tmp_path, kind):
    (tmp_path / "whole").mkdir()
    fields = {"tas": (("time", "y"), np.arange(6.0).reshape(3, 2), {"units": "K"})}
    xr.Dataset(fields, {"time": [0, 1, 2]}, {"title": "small"}).to_netcdf(tmp_path / "whole" / "store.nc")
    before, described = seen(tmp_path / "whole"), set()
    for number in range(12):
        copy = tmp_path / f"copy-{number}"
        linked_copy(tmp_path / "whole", copy)
        NETCDF[kind](Random(f"{kind} {number}"), files_below(copy))
        with netCDF4.Dataset(copy / "store.nc") as dataset:
            dataset.set_auto_maskandscale(False)
            described.add(repr([dataset, *dataset.variables.values(), *dataset.dimensions]))
            assert sorted(v[:].size for v in dataset.variables.values()) == [3, 6]
    assert seen(tmp_path / "whole") == before
    assert len(described) > 4


def test_a_campaign_that_there_is_not_runs_none(tmp_path):
    with pytest.raises(EmukitError, match="unknown campaign storms"):
        check_campaigns(None, ["storms"])
    with pytest.raises(EmukitError, match="cannot be damaged"):
        check_campaigns(str(tmp_path / "none.zarr"), [])


def test_kills_and_damaged_files_do_something_else_than_is_said(tmp_path):
    """All campaigns in small; `python -m benchmarks faults` runs them in large."""
    words = ["faults", "--cases", "3", "--seed", "12", "--format", "json", "-q"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", *words],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    rows = json.loads(done.stdout)
    assert {row["campaign"] for row in rows} >= {"train, killed", "ablate, killed", "store", "killed run", "recipe"}
    assert all(row["holds"] == "yes" for row in rows)
    assert sum(int(row["cases"]) for row in rows) == 3 * len({row["campaign"] for row in rows})
    # What torch caches there is its own.
    assert [p for p in tmp_path.iterdir() if not p.name.startswith("torchinductor")] == [], "campaigns clear up"
