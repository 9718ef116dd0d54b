"""Whole commands, timed from outside as a user feels them: interpreter, imports and all.

Invariant: a command and its reference run in turns in fresh processes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from emukit.bench import Figure
from emukit.errors import EmukitError

HELP_SECONDS = 0.3
LINEAR_SECONDS = 20.0


def bench_help(runs: int = 5) -> list[Figure]:
    """`emukit --help`, against the interpreter doing nothing."""
    return [
        _timed("emukit --help", ["-m", "emukit", "--help"], ["-c", "pass"], runs, HELP_SECONDS),
    ]


def bench_linear(store: str, runs: int = 3) -> list[Figure]:
    """`emukit train linear`, from the store to the validation score, against a plain xarray and numpy ridge."""
    with tempfile.TemporaryDirectory() as folder:
        # A run folder is never written over, so every run gets its own.
        ours = ["-m", "emukit", "train", "linear", "-q", "--data", store, "--out", f"{folder}/{{run}}"]
        plain = ["-m", "emukit.bench.plain_ridge", store]
        return [_timed("train linear, store to score", ours, plain, runs, LINEAR_SECONDS)]


def _timed(name: str, ours: Sequence[str], plain: Sequence[str], runs: int, bound: float) -> Figure:
    pairs = [(_run(ours, i), _run(plain, i)) for i in range(runs)]
    value, reference = (statistics.median(p[k][0] for p in pairs) for k in (0, 1))
    peak = max(p[0][1] for p in pairs)
    return Figure(name, value, "s", reference, reference / value, peak, f"under {bound:g} s", value < bound)


def _run(arguments: Sequence[str], number: int) -> tuple[float, float]:
    """Wall seconds and peak resident memory in 1e6 bytes of one process."""
    words = [a.format(run=number) for a in arguments]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        started = time.perf_counter()
        process = subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            log.seek(0)
            raise EmukitError(f"measuring {' '.join(words)} failed", found=log.read().strip()[-2000:])
    # ru_maxrss counts bytes on macOS, kibibytes elsewhere.
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6
