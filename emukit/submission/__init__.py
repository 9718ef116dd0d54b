"""Submissions: write, check, score, and keep what they say of themselves.

Nothing heavy is imported until a name is used: a leaderboard reads thousands of entries and no CSV.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emukit.submission.check import check_submission
    from emukit.submission.entry import ENTRY_FILE, SubmissionEntry, entry_of, read_entry, write_entry
    from emukit.submission.read import CsvColumns, read_submission
    from emukit.submission.rows import Problem, RowLayout, submission_ids, write_submission
    from emukit.submission.score import score_csv, score_submission

_MODULES = {
    "check": ("check_submission",),
    "entry": ("ENTRY_FILE", "SubmissionEntry", "entry_of", "read_entry", "write_entry"),
    "read": ("CsvColumns", "read_submission"),
    "rows": ("Problem", "RowLayout", "submission_ids", "write_submission"),
    "score": ("score_csv", "score_submission"),
}
_NAMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "ENTRY_FILE",
    "CsvColumns",
    "Problem",
    "RowLayout",
    "SubmissionEntry",
    "check_submission",
    "entry_of",
    "read_entry",
    "read_submission",
    "score_csv",
    "score_submission",
    "submission_ids",
    "write_entry",
    "write_submission",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'emukit.submission' has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NAMES[name]}"), name)
