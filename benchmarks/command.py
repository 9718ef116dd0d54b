"""Whole commands, timed from outside as a user feels them: interpreter, imports and all.

Invariant: a command and its reference run in turns in fresh processes.
"""

from __future__ import annotations

import contextlib
import io
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from benchmarks import Figure, Work, measure
from emukit.errors import EmukitError

HELP_SECONDS = 0.3
LINEAR_SECONDS = 20.0


def bench_help(runs: int = 5) -> list[Figure]:
    """`emukit --help`, against the interpreter doing nothing."""
    return [
        _timed("emukit --help", ["--help"], ["-c", "pass"], runs, HELP_SECONDS),
    ]


def bench_linear(store: str, runs: int = 3) -> list[Figure]:
    """`emukit train linear`, from the store to the validation score, against a plain xarray and numpy ridge."""
    with tempfile.TemporaryDirectory() as folder:
        # A run folder is never written over, so every run gets its own.
        ours = ["train", "linear", "-q", "--data", store, "--out", f"{folder}/{{run}}"]
        plain = ["-m", "benchmarks.plain_ridge", store]
        return [_timed("train linear, store to score", ours, plain, runs, LINEAR_SECONDS)]


def prepare_command(*words: str) -> Work:
    """emukit's command line in this process, its output thrown away; the answer is its exit code."""

    def work() -> float:
        sys.argv = ["emukit", *words]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                runpy.run_module("emukit", run_name="__main__")
            except SystemExit as e:
                return float(e.code or 0)
        return 0.0

    return work


def _timed(name: str, words: Sequence[str], plain: Sequence[str], runs: int, bound: float) -> Figure:
    """Time in processes of their own, as users have them; the peak in one more, which reports it from inside."""
    pairs = [(_run(["-m", "emukit", *words], i), _run(plain, i)) for i in range(runs)]
    value, reference = (statistics.median(p[k] for p in pairs) for k in (0, 1))
    peak = measure(f"{__name__}:prepare_command", [w.format(run="memory") for w in words]).peak_mb
    return Figure(name, value, "s", reference, reference / value, peak, f"under {bound:g} s", value < bound)


def _run(arguments: Sequence[str], number: int) -> float:
    """Wall seconds of one process."""
    words = [a.format(run=number) for a in arguments]
    started = time.perf_counter()
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise EmukitError(f"measuring {' '.join(words)} failed", found=done.stderr.strip()[-2000:])
    return seconds
