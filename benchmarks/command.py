"""Whole commands, timed from outside as a user feels them: interpreter, imports and all.

Invariant: a command and its reference run in turns in fresh processes, started as the installed `emukit` is. What is
held to a bound is the processor's time, which other programs on the machine change little.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import Figure, Work, measure
from benchmarks.submission import MONTHS, grid, noise_climate
from emukit.errors import EmukitError

HELP_SECONDS = 0.3
LIST_SECONDS = 1.0
SCORE_SECONDS = 2.0
LINEAR_SECONDS = 4.0
# Folders, and how long a list of them may take.
RUNS, RUNS_SECONDS = 2000, 3.0
ENTRIES, ENTRIES_SECONDS = 5000, 4.0

# As the script that pip installs does, which once imported more than `python -m emukit`.
_COMMAND = ("-c", "from emukit_climate import main; main()")
_NOTHING = ("-c", "pass")
# What has to be read of many folders, read and no more.
_READ_JSON = "import json, pathlib, sys; [json.loads(p.read_text()) for p in pathlib.Path(sys.argv[1]).rglob('*.json')]"
_READ_TOML = (
    "import pathlib, sys, tomllib; [tomllib.loads(p.read_text()) for p in pathlib.Path(sys.argv[1]).rglob('*.toml')]"
)


def bench_help(runs: int = 5) -> list[Figure]:
    """`emukit --help`, against the interpreter doing nothing."""
    return [time_command("emukit --help", ["--help"], _NOTHING, runs, HELP_SECONDS)]


def bench_commands(runs: int = 3, folders: int = RUNS, entries: int = ENTRIES, months: int = MONTHS) -> list[Figure]:
    """What lists and looks up, against the interpreter doing nothing, or reading the same files; and two CSVs scored.

    Args:
        runs: Measurements of each.
        folders: Runs that are listed, copies of one that is trained for it.
        entries: Submissions that are ranked, likewise.
        months: Of each of the two submissions that are scored against each other.
    """
    out = []
    for words in (["runs"], ["leaderboard"], ["models"], ["ablate", "--list"], ["check-submission", "--help"]):
        with tempfile.TemporaryDirectory() as empty:
            # Once before: what is kept for the next time is not kept yet.
            _cpu_seconds([*_COMMAND, *words], 0, empty)
            out.append(time_command(f"emukit {' '.join(words)}", words, _NOTHING, runs, LIST_SECONDS, empty))
    with tempfile.TemporaryDirectory() as place:
        _make_folders(Path(place), folders, entries)
        name = f"emukit runs, {folders:,} folders"
        out.append(time_command(name, ["runs", "runs"], ["-c", _READ_JSON, "runs"], runs, RUNS_SECONDS, place))
        name = f"emukit leaderboard, {entries:,} entries"
        plain = ["-c", _READ_TOML, "entries"]
        out.append(time_command(name, ["leaderboard", "entries"], plain, runs, ENTRIES_SECONDS, place))
    return [*out, _score(runs, months)]


def _score(runs: int, months: int) -> Figure:
    """Two submissions of the competition's grid, against reading their bytes."""
    from emukit.submission import write_submission

    with tempfile.TemporaryDirectory() as place:
        for seed, name in enumerate(("solution.csv", "mine.csv")):
            write_submission(Path(place) / name, noise_climate(months, seed), grid())
        plain = ["-c", "import pathlib; [pathlib.Path(n).read_bytes() for n in ('mine.csv', 'solution.csv')]"]
        words = ["score", "mine.csv", "solution.csv", "-q"]
        return time_command(f"emukit score, two CSVs of {months} months", words, plain, runs, SCORE_SECONDS, place)


def _make_folders(place: Path, folders: int, entries: int) -> None:
    """A run and a scored entry, and as many copies of each."""
    for words in (
        ["train", "linear", "--data", "demo", "--out", "one", "-q"],
        ["submit", "one", "--out", "entry", "-q"],
        ["score", "entry/submission.csv", "--data", "demo", "--save", "-q"],
    ):
        _cpu_seconds([*_COMMAND, *words], 0, place)
    copy_folders(place, folders, entries)


def copy_folders(place: Path, folders: int, entries: int) -> None:
    """Copies of the run `one`, with a seed each, and of `entry`, with a name each; without weights and CSV."""
    record = json.loads((place / "one" / "run.json").read_text(encoding="utf-8"))
    for number in range(folders):
        folder = place / "runs" / f"{number:05d}"
        shutil.copytree(place / "one", folder, ignore=shutil.ignore_patterns("*.safetensors"))
        record["identity"]["seed"] = number
        (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    entry = (place / "entry" / "entry.toml").read_text(encoding="utf-8")
    for number in range(entries):
        folder = place / "entries" / f"{number:05d}"
        shutil.copytree(place / "entry", folder, ignore=shutil.ignore_patterns("*.csv"))
        # One line of the leaderboard each: entries of one name and score would share theirs.
        named = entry.replace('name = "entry"', f'name = "entry {number}"', 1)
        (folder / "entry.toml").write_text(named, encoding="utf-8")


def bench_linear(store: str, runs: int = 3) -> list[Figure]:
    """`emukit train linear`, from the store to the validation score, against a plain xarray and numpy ridge."""
    with tempfile.TemporaryDirectory() as folder:
        # A run folder is never written over, so every run gets its own.
        ours = ["train", "linear", "-q", "--data", store, "--out", f"{folder}/{{run}}"]
        plain = ["-m", "benchmarks.plain_ridge", store]
        return [time_command("train linear, store to score", ours, plain, runs, LINEAR_SECONDS)]


def prepare_command_in(place: str, *words: str) -> Work:
    """The same in a folder."""
    os.chdir(place)
    return prepare_command(*words)


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


def time_command(
    name: str, words: Sequence[str], plain: Sequence[str], runs: int, bound: float, place: str = "."
) -> Figure:
    """Processor seconds of whole processes; the peak of memory in one more, which reports it from inside.

    Args:
        name: Of the figure.
        words: Of the command; ``{run}`` is a number of its own for each measurement.
        plain: Arguments of the interpreter that does the reference.
        runs: Measurements of each.
        bound: Seconds.
        place: The folder to run in.
    """
    pairs = [(_cpu_seconds([*_COMMAND, *words], i, place), _cpu_seconds(plain, i, place)) for i in range(runs)]
    value, reference = (statistics.median(p[k] for p in pairs) for k in (0, 1))
    inside = [place, *(w.format(run="memory") for w in words)]
    peak = measure(f"{__name__}:{prepare_command_in.__name__}", inside).peak_mb
    return Figure(name, value, "s", reference, reference / value, peak, f"under {bound:g} s of CPU", value < bound)


def _cpu_seconds(arguments: Sequence[str], number: int, place: str | Path) -> float:
    """Processor seconds of one process, its own and the system's for it."""
    words = [a.format(run=number) if "{run}" in a else a for a in arguments]
    root = str(Path(__file__).parents[1])
    paths = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.DEVNULL,
            stderr=said,
            env=os.environ | {"PYTHONPATH": paths},
            cwd=place,
        )
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            found = said.read().decode(errors="replace").strip()[-2000:]
            raise EmukitError(f"measuring {' '.join(words)} failed", found=found)
    return used.ru_utime + used.ru_stime
