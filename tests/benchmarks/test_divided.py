"""A divided globe that is timed while it computes something else."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import Figure

ROOT = Path(__file__).parents[2]
# The bench starts eleven processes, each of which imports torch. Here they are forks of one that has computed nothing
# yet, and has imported what the first step of an optimiser imports.
CODE = """
import json, multiprocessing, subprocess, sys
import torch._dynamo, torch.distributed.nn
from dataclasses import asdict
from pathlib import Path
import benchmarks
from benchmarks import Measured, child, divided
from benchmarks.forked import in_fork

class Started(multiprocessing.get_context("fork").Process):
    def __init__(self, words):
        super().__init__(target=divided.accompany, args=words[3:])
        self.start()

    wait = multiprocessing.Process.join

def measure(work, arguments):
    ended = in_fork(lambda: child.main(work, *arguments), Path.cwd())
    if ended.code:
        sys.exit(ended.err)
    return Measured(**json.loads(ended.out), runs=1)

divided.GRIDS, divided.DIVISIONS = ((16, 16),), ((1, 2),)
divided.measure = benchmarks.measure = measure
subprocess.Popen = Started
print(json.dumps([asdict(figure) for figure in divided.bench_divided(1)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="processes are forked")
def test_two_processes_are_timed_for_another_loss(tmp_path: Path) -> None:
    """`compare` refuses answers that differ; a share is one of the whole time."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    step, share, kept, peak, read = (Figure(**figure) for figure in json.loads(done.stdout))
    assert step.value > 0
    assert step.reference > 0
    assert 0 < share.value < 100
    assert math.isnan(share.ratio)
    # On a globe this small a halo is no small part of what is kept.
    assert kept.reference / 2 < kept.value < kept.reference
    assert peak.value > 0
    # What half of so little takes does not show in a peak.
    assert read.name.endswith("16 x 16, 1 x 2 processes")
    assert math.isfinite(read.value)
