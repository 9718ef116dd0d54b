"""The one door to the terminal: text made safe to show, and how numbers are said there.

Invariant: whatever a folder is called and whatever a stranger's file says, it is shown and never obeyed. Control
characters, marks that turn the direction of text, and bytes that are not UTF-8 are printed as escapes.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console  # noqa: TID251
    from rich.table import Table

# Unicode's Cc except tab and line feed, lone surrogates, line and paragraph separators, and what turns the direction
# of text (Unicode Standard Annex 9, explicit formatting characters and marks).
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

# What begins or ends something in Markdown; letters, and signs within words, do not.
_MARKUP = re.compile(r"[\\`*{}\[\]|#~]|(?<!\w)_|_(?!\w)")


def printable(text: str) -> str:
    r"""Text with an escape such as ``\x1b`` in the place of every character that a terminal would obey.

    Lines and tabs stay. A byte of a file name that is not UTF-8 becomes ``\xff``.
    """
    return _UNSAFE.sub(_escape, text)


def one_line(text: str) -> str:
    r"""The same on one line: ends of lines become ``\n``, tabs ``\t``."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def markdown_text(text: str) -> str:
    """A name or a note as text in Markdown, in a cell of a table too: no markup, no link and no HTML of its own."""
    return _MARKUP.sub(r"\\\g<0>", escape(one_line(text), quote=False))


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Lines of a Markdown table.

    Args:
        headings: In Markdown, as `markdown_text` makes it of any text.
        rows: Likewise.
        right: Numbers of the columns that are aligned to the right.
    """
    rule = "".join("--:|" if i in right else "---|" for i in range(len(headings)))
    return [f"| {' | '.join(headings)} |", f"|{rule}", *(f"| {' | '.join(row)} |" for row in rows)]


def csv_table(headings: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """A CSV table; None is an empty cell."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([headings, *rows])
    return stream.getvalue()


def terminal_table(title: str = "") -> Table:
    """A table of rich without columns yet, under its title."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Text, not markup: a title may hold brackets.
    name = Text(title) if title else None
    return Table(title=name, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=0, pad_edge=False)


def echo(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print plain text, safe to show.

    Args:
        text: What to print.
        err: On standard error.
        nl: End the line.
    """
    typer.echo(printable(text), err=err, nl=nl)  # noqa: TID251


def open_console(*, stderr: bool = False, width: int | None = None) -> Console:
    """A console for tables and progress that shows nothing a terminal would obey, except what rich itself draws.

    Args:
        stderr: Print on standard error.
        width: Columns; those of the terminal when None.
    """
    # Heavy, and not needed for plain results.
    from rich.console import Console  # noqa: TID251
    from rich.segment import Segment

    class _SafeConsole(Console):
        def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                # Segments of control codes are rich's own: it moves the cursor with them.
                if segment.control or not _UNSAFE.search(segment.text):
                    yield segment
                else:
                    yield Segment(printable(segment.text), segment.style)

    return _SafeConsole(stderr=stderr, width=width)


def duration(seconds: float) -> str:
    """Time in words."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes = seconds / 60
    return (
        f"{minutes:.0f} min"
        if minutes < 120
        else f"{minutes / 60:.1f} h"
        if minutes < 2880
        else f"{minutes / 1440:.1f} days"
    )


def size(amount: float) -> str:
    """Bytes in words, with three digits."""
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:
        # How Python holds a byte of a name that cannot be decoded.
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
