"""The files that a study keeps next to a run folder, and how it names that folder: what was printed, why it failed.

Invariant: whatever lies next to a run folder goes with it, and what is called otherwise is not a run of a study.
"""

from __future__ import annotations

import re
from pathlib import Path

from emukit.errors import RunError
from emukit.files import open_regular
from emukit.runs.record import read_record

# Of the digest of a run's identity: enough to tell millions of runs apart.
HASH_DIGITS = 12
# What is next to a run folder that says why it failed, and how much of that is read.
FAILED = ".failed"
FAILURE_BYTES = 100_000


def failure_of(folder: Path) -> str:
    """Why the run in a folder failed in a study; empty where it did not."""
    path = failure_path(folder)
    if not path.is_file():
        return ""
    try:
        with open_regular(path) as f:
            return f.read(FAILURE_BYTES).decode(errors="replace").strip() or "it failed without a word"
    except FileNotFoundError:
        # It has just been started again.
        return ""
    except OSError as e:
        return f"it failed, and {path} cannot be read ({e.strerror})"


def is_study_run(folder: Path) -> bool:
    """Whether a folder is called as a study calls those of its runs."""
    return bool(re.fullmatch(rf".+-[0-9a-f]{{{HASH_DIGITS}}}", folder.name))


def remove_traces(folder: Path) -> None:
    """Remove what a study wrote next to the folder of one of its runs."""
    if is_study_run(folder):
        for path in (failure_path(folder), log_path(folder)):
            path.unlink(missing_ok=True)


def log_path(folder: Path) -> Path:
    """Where the process of a run writes."""
    return folder.with_name(folder.name + ".log")


def failure_path(folder: Path) -> Path:
    """Where it stands why a run failed."""
    return folder.with_name(folder.name + FAILED)


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder, which is named after what decides its numbers, is whole."""
    try:
        return read_record(folder).state == "finished"
    except RunError:
        return False
