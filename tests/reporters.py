"""A reporter that keeps what it is told."""

from __future__ import annotations

from emukit.progress import Reporter


class Said(Reporter):
    """Keeps every line in `lines`, notes among them, and shows nothing."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Keep it."""
        self.lines.append(text)
