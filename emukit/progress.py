"""How long work tells people where it is.

Invariant: a `Reporter` is passed, never global. On a terminal it draws a rich bar with an estimate of the time left;
elsewhere it prints plain lines that a log file can hold; with `quiet` nothing: what is left of a command is its result,
on standard output, and errors.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from emukit.terminal import one_line, open_console

if TYPE_CHECKING:
    from rich.console import Console  # noqa: TID251


class Step(Protocol):
    """One piece of work that advances."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """`n` more units are done; `note` is shown next to the bar."""


@dataclass
class Reporter:
    """Prints to standard error, so that standard output stays a result one can pipe.

    Attributes:
        quiet: Say nothing at all.
        console: Where to print.
        plain_seconds: Time between progress lines where there is no terminal ..
        part_seconds: .. and between those of work that says itself where a part of it is finished.
    """

    quiet: bool = False
    console: Console = field(default_factory=lambda: open_console(stderr=True))
    plain_seconds: float = 15.0
    part_seconds: float = 600.0
    _noted: set[str] = field(default_factory=set, init=False, repr=False)

    def say(self, text: str) -> None:
        """Print one line, with rich markup off: file names may hold brackets."""
        if not self.quiet:
            self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Say what is to be known of data or recipe: once in a command, however many of its runs find it."""
        if text not in self._noted:
            self._noted.add(text)
            self.say(f"note: {text}")

    @contextmanager
    def step(self, title: str, total: int, *, parts: bool = False) -> Iterator[Step]:
        """Work of `total` units under a title.

        Args:
            title: Of the work.
            total: Its units.
            parts: `advance(0, note)` says that a part is finished: where there is no terminal, a line for each of them.
        """
        if self.quiet:
            yield _SilentStep()
        elif self.console.is_terminal:
            with Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("eta"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", markup=False),
                console=self.console,
            ) as progress:
                task = progress.add_task(one_line(title), total=total, note="")
                yield _BarStep(progress, task)
        else:
            yield _PlainStep(self, title, total, parts)


class _SilentStep:
    def advance(self, n: int = 1, note: str = "") -> None:
        return None


class _BarStep:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def advance(self, n: int = 1, note: str = "") -> None:
        self._progress.update(self._task, advance=n)
        if note:
            self._progress.update(self._task, note=one_line(note))


class _PlainStep:
    def __init__(self, reporter: Reporter, title: str, total: int, parts: bool) -> None:
        self._reporter, self._title, self._total, self._parts = reporter, title, total, parts
        self._seconds = reporter.part_seconds if parts else reporter.plain_seconds
        self._done, self._note = 0, ""
        self._start = self._last = time.monotonic()

    def advance(self, n: int = 1, note: str = "") -> None:
        self._done += n
        self._note = note or self._note
        now = time.monotonic()
        finished = n == 0 if self._parts else self._done >= self._total
        if now - self._last < self._seconds and not finished:
            return
        self._last = now
        left = (now - self._start) / max(self._done, 1) * (self._total - self._done)
        self._reporter.say(
            f"{self._title} {self._done}/{self._total} {now - self._start:.0f}s elapsed, "
            f"{left:.0f}s left {self._note}".rstrip()
        )


def default_reporter(quiet: bool = False) -> Reporter:
    """A reporter on standard error; quiet also when standard error is closed."""
    return Reporter(quiet=quiet or sys.stderr is None)


def silent_reporter() -> Reporter:
    """A reporter that says nothing."""
    return Reporter(quiet=True)
