"""Submissions: write, check, score, and keep what they say of themselves."""

from emukit.submission.check import check_submission
from emukit.submission.entry import ENTRY_FILE, Entry, read_entry, write_entry
from emukit.submission.ids import Layout, submission_ids
from emukit.submission.problems import Problem
from emukit.submission.read import Columns, read_submission
from emukit.submission.score import score_csv, score_submission
from emukit.submission.write import write_submission

__all__ = [
    "ENTRY_FILE",
    "Columns",
    "Entry",
    "Layout",
    "Problem",
    "check_submission",
    "read_entry",
    "read_submission",
    "score_csv",
    "score_submission",
    "submission_ids",
    "write_entry",
    "write_submission",
]
