"""What can be wrong with a submission, as values.

Invariant: however many rows are wrong, a `Problem` stays small: a count, and the first few rows as examples.
"""

from __future__ import annotations

from dataclasses import dataclass, field

EXAMPLES = 5


@dataclass(frozen=True)
class Problem:
    """One way in which a submission is wrong.

    Attributes:
        kind: A word for programs: ``missing``, ``duplicate``, ``shifted`` ..; `check_submission` lists them.
        message: A sentence for people, without row numbers.
        rows: Line numbers in the CSV of the first few wrong rows; the header is line 1.
        count: How many rows are wrong; 0 where the file as a whole is.
        accepted: The competition accepts such a file all the same: this is a note.
    """

    kind: str
    message: str
    rows: tuple[int, ...] = ()
    count: int = 0
    accepted: bool = False

    def __str__(self) -> str:
        if not self.rows:
            return self.message
        more = ", ..." if self.count > len(self.rows) else ""
        return f"{self.message} (line{'s' * (self.count > 1)} {', '.join(map(str, self.rows))}{more})"


@dataclass
class Tally:
    """Counts wrong rows of one kind while a file is read.

    Attributes:
        kind: The kind of the problem it becomes.
        what: The message after the count, for example "rows are not finite".
        accepted: Whether the competition accepts such rows.
    """

    kind: str
    what: str
    accepted: bool = False
    count: int = 0
    rows: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    def add(self, line: int, text: str) -> None:
        """One more wrong row, and what stands in it."""
        self.count += 1
        if len(self.rows) < EXAMPLES:
            self.rows.append(line)
            self.texts.append(text if len(text) <= 40 else f"{text[:37]}...")

    def problems(self) -> list[Problem]:
        """The problem it adds up to; none where nothing was added."""
        if not self.count:
            return []
        message = f"{self.count} {self.what}, for example {self.texts[0]!r}"
        return [Problem(self.kind, message, tuple(self.rows), self.count, self.accepted)]
