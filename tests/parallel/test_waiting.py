"""OpenMP's threads that spin, and take the time of whom they wait for."""

import json
import os
import subprocess
import sys

import pytest

SHOW = "import emukit, json, os; print(json.dumps([os.environ.get(n) for n in ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT')]))"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ["PASSIVE", None]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", None]),
        ({"GOMP_SPINCOUNT": "1000"}, [None, "1000"]),
    ],
)
def test_threads_spin_unless_the_user_says_otherwise(said, expected):
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env=environment | said, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == expected


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP on Linux")
def test_torch_does_not_hear_of_it():
    """What the runtime itself took from the environment: it prints it when torch loads it."""
    code = "import emukit, torch; torch.zeros(1)"
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "GOMP_SPINCOUNT = '0'" in done.stderr, done.stderr
