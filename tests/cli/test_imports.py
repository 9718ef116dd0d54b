"""A command that imports what it does not need, and takes seconds for what should be instant.

Seconds are measured by `python -m benchmarks commands`; what they are spent on is counted here, without a clock.
"""

import json
import subprocess
import sys

import numpy as np
import pytest

from emukit.cli import models
from emukit.data.grid import Grid
from emukit.submission import write_submission

HEAVY = {"torch", "xarray", "pandas", "sklearn", "zarr", "kornia", "matplotlib", "scipy.stats", "scipy.signal", "ray"}
# What training a network takes, or several processes, and a closed form does not.
UNUSED = {"sklearn", "scipy.stats", "scipy.signal", "torch.distributed.fsdp", "torch.distributed.tensor", "kornia"}

_CODE = """
import json, sys
import emukit_climate
for words in json.loads(sys.argv[1]):
    sys.argv = ["emukit", *words]
    try:
        emukit_climate.main()
    except SystemExit as e:
        assert not e.code, (words, e.code)
print("imported", json.dumps(sorted(sys.modules)))
"""


def imported(folder, *commands):
    """The modules that commands import, one after the other in one process, started as a user starts it."""
    words = [sys.executable, "-c", _CODE, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.rpartition("imported ")[2]))


@pytest.fixture
def runs(tmp_path, linear_run):
    """A folder `runs` with a run in it."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linear").symlink_to(linear_run)
    return tmp_path


def test_what_lists_imports_nothing_heavy(runs, monkeypatch):
    monkeypatch.setenv("EMUKIT_CACHE", str(runs / "cache"))
    # The sizes of networks are counted once for a state of the code.
    assert len(list(models.model_rows())) > 10
    commands = (["--help"], ["check-submission", "--help"], ["train", "--help"], ["ablate", "--list"], ["models"])
    found = imported(runs, *commands, ["runs"], ["leaderboard"], ["leaderboard", "--format", "json"])
    assert found & HEAVY == set()


def test_scoring_two_files_needs_neither_stores_nor_networks(tmp_path):
    grid = Grid(np.array([-45.0, 45.0]), np.array([0.0, 120.0, 240.0]))
    fields = np.random.default_rng(0).uniform(1.0, 300.0, (12, 2, 2, 3)).astype(np.float32)
    for name in ("solution.csv", "mine.csv"):
        write_submission(tmp_path / name, fields, grid)
    found = imported(tmp_path, ["score", "mine.csv", "solution.csv"])
    assert found & {"torch", "sklearn", "zarr", "kornia", "matplotlib", "scipy.stats"} == set()


def test_training_in_closed_form_imports_nothing_of_networks(tmp_path, demo_store):
    found = imported(tmp_path, ["train", "linear", "--data", str(demo_store), "--out", "run", "-q"])
    assert found & UNUSED == set()
