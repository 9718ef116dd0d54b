"""How fast the pages of many runs are written, and how much room they take.

Invariant: every entry is a run of its own with all its pictures; what is timed reads and writes all of them. The
reference draws the pictures again, as it is without those that run folders keep.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks import Figure, Work, compare
from benchmarks.command import time_command
from emukit.data.archive import Archive
from emukit.data.opening import DEMO, open_data
from emukit.progress import silent_reporter
from emukit.recipes.load import load_recipe
from emukit.report.run_figures import FOLDER
from emukit.report.site import Report, write_report
from emukit.runs.run import train_run

ENTRIES = 200
SECONDS = 2.0
# As the whole command; its own reading of the store and imports included.
MANY, MANY_SECONDS = 1000, 60.0
FOLDER_MB = 30.0
# Entries whose pictures the reference draws; its time is multiplied by how many times fewer they are.
DRAWN = 4
# A network, for its learning curves and terms of the loss; a small one, for its weights are on no page.
SMALL = ("model.hidden=8", "model.features=6", "model.width=4", "inputs.window.history=3", "training.epochs=2")


def bench_report(entries: int = ENTRIES, runs: int = 3, many: int = MANY) -> list[Figure]:
    """Write a report of runs whose pictures are kept, against drawing these; and, as a command, one of very many."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        first = root / "runs" / "0000"
        archive = open_data(DEMO)
        train_run(archive, load_recipe("cnn-gru", None, SMALL), first, reporter=silent_reporter())
        # What is kept of the first is kept of its copies.
        _write(root / "runs", root / "report", archive)
        for number in range(1, entries):
            shutil.copytree(first, root / "runs" / f"{number:04d}")
        figure = compare(
            f"report of {entries} runs",
            f"{__name__}:prepare_kept",
            f"{__name__}:prepare_drawn",
            (folder, str(min(entries, DRAWN))),
            runs=runs,
            seconds=SECONDS,
            scale=entries / min(entries, DRAWN),
        )
        size = sum(p.stat().st_size for p in (root / "report").rglob("*") if p.is_file()) / 1e6
        for number in range(entries, many):
            shutil.copytree(first, root / "runs" / f"{number:04d}")
        kept = _command(f"emukit report, {many:,} runs", "runs", folder)
        for number in range(many):
            ignored = shutil.ignore_patterns(FOLDER)
            shutil.copytree(first, root / "undrawn" / f"{number:04d}", ignore=ignored)
        undrawn = _command(f"emukit report, {many:,} runs that keep no pictures", "undrawn", folder)
    bound = f"{figure.bound}, under {FOLDER_MB:g} MB on disk ({size:.1f})"
    return [replace(figure, bound=bound, within=figure.within and size < FOLDER_MB), kept, undrawn]


def _command(name: str, runs: str, folder: str) -> Figure:
    """A report of a folder of runs as the command writes it, next to reading all their files."""
    words = ["report", runs, "--out", f"of-{runs}", "--overwrite", "-q"]
    plain = ["-c", f"import pathlib; [p.read_bytes() for p in pathlib.Path('{runs}').rglob('*') if p.is_file()]"]
    return time_command(name, words, plain, 1, MANY_SECONDS, folder)


def prepare_kept(folder: str, drawn: str) -> Work:
    """The report of all runs, from the pictures they keep; the answer is how many pictures an entry has."""
    archive = open_data(DEMO)
    return lambda: _pictures(_write(Path(folder, "runs"), Path(folder, "report"), archive))


def prepare_drawn(folder: str, drawn: str) -> Work:
    """The report of some of them, which keep no pictures."""
    archive = open_data(DEMO)
    some = Path(folder, "drawn")
    shutil.rmtree(some, ignore_errors=True)
    for run in sorted(Path(folder, "runs").iterdir())[: int(drawn)]:
        shutil.copytree(run, some / run.name, ignore=shutil.ignore_patterns(FOLDER))
    return lambda: _pictures(_write(some, Path(folder, "report-drawn"), archive))


def _write(runs: Path, out: Path, archive: Archive) -> Report:
    return write_report([runs], out, lambda run: archive, silent_reporter(), overwrite=True)


def _pictures(report: Report) -> float:
    """How many pictures an entry has, next to the one that all have together: another run of the climate model."""
    own = [p for p in report.folder.glob("pictures/*/*.webp") if p.stem != "another_run"]
    return len(own) / report.entries
