"""Every error a user can cause, in one shape.

Invariant: an `EmukitError` says what was wrong, what was found, what was expected and what to do next. The command
line prints it and exits with code 2; anything else that escapes is a bug of emukit.
"""

from __future__ import annotations

import errno

from emukit.terminal import printable


class EmukitError(Exception):
    """An error the user can fix.

    Args:
        what: What was wrong, as a sentence without a full stop.
        found: What was found.
        expected: What would have been right.
        hint: What to do next: a command or an edit.
    """

    def __init__(self, what: str, *, found: str = "", expected: str = "", hint: str = "") -> None:
        self.what = what
        self.found = found
        self.expected = expected
        self.hint = hint
        super().__init__(self.text())

    @property
    def line(self) -> str:
        """What was wrong and the first line of what was found, in one line."""
        found = self.found.splitlines()[0].strip() if self.found else ""
        return f"{self.what} ({found})" if found else self.what

    def text(self) -> str:
        """The message in lines, safe to show: what, then found, expected and what to do where they are known.

        What has several lines stands behind the label of the first: a name cannot write a line ``do:`` of its own.
        """
        parts = (("", self.what), ("found:", self.found), ("expected:", self.expected), ("do:", self.hint))
        return "\n".join(_labelled(label, text) for label, text in parts if text or not label)


def _labelled(label: str, text: str) -> str:
    first, *more = printable(text).split("\n")
    # Lines that were indented before they came here stand where the others do.
    return "\n".join([f"  {label:<10}{first}" if label else first, *(f"{'':12}{line.strip()}" for line in more)])


class StoreError(EmukitError):
    """A data store that cannot be read, or has no single meaning."""


class ProtocolError(EmukitError):
    """A scenario, member, span or protocol that is not there, is hidden, or leaks."""


class RecipeError(EmukitError):
    """A recipe or setting with unknown, mistyped or contradictory keys."""


class RunError(EmukitError):
    """A run folder that exists, is missing, truncated, or belongs to another configuration."""


class SubmissionError(EmukitError):
    """A submission file that the competition would reject or score wrongly."""


class TrainingError(EmukitError):
    """Training that cannot continue: a loss that is not finite."""


class ShortageError(EmukitError):
    """The machine has refused memory, a thread or a process."""


# What Python, torch, the HDF5 and NetCDF libraries and the loader of shared libraries say in errors of no kind of their
# own where memory, threads or processes have run out.
_SHORT = (
    "can't start new thread",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "memory allocation",
    "out of memory",
    "failed to map segment",
    "std::bad_alloc",
)


def shortage(error: Exception) -> ShortageError | None:
    """What to say of an error that means that memory, threads or processes have run out; None for any other."""
    refused = isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN)
    if isinstance(error, EmukitError) or not (
        isinstance(error, MemoryError) or refused or any(words in str(error).lower() for words in _SHORT)
    ):
        return None
    return ShortageError(
        "there is not enough memory, or too few threads or processes are allowed",
        found=next(iter(str(error).splitlines()), "")[:200] or type(error).__name__,
        expected="more than that for this command and its data",
        hint="close other programs, raise the limits (ulimit -a; a job's --mem), or set OMP_NUM_THREADS=1",
    )
