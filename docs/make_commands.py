"""Writes docs/commands.md: every command with its arguments, options and examples, read from the commands themselves.

Invariant: the page says what `--help` says. A test compares it with what this script would write.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperGroup

from emukit.cli import app

PAGE = Path(__file__).with_name("commands.md")
INTRODUCTION = """\
# Commands

Every command with its arguments and options, as `--help` shows them. `make docs` writes this page from the commands
themselves. [guide.md](guide.md) shows them by task. `emukit --version` prints the version. `--debug`, anywhere on the
line, shows a traceback with an error. `emukit --install-completion` completes commands and options in your shell.
"""


def commands(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands below one that have none below themselves and are not hidden, each with its words."""
    if not isinstance(command, TyperGroup):
        yield words, command
        return
    for name, below in command.commands.items():
        # Hidden are the spellings of earlier versions.
        if not below.hidden:
            yield from commands(below, (*words, name))


def cell(text: str) -> str:
    """A text for one cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def hints_of(command: Any) -> dict[str, Any]:
    """Parameter to its annotation: (type, what it says of itself)."""
    hints = get_type_hints(command.callback, include_extras=True)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Annotated}


def type_text(kind: Any) -> str:
    """What a value of a type looks like."""
    if get_origin(kind) is Literal:
        return "/".join(get_args(kind))
    inner = [k for k in get_args(kind) if k is not type(None)]
    if inner:
        return type_text(inner[0])
    if isinstance(kind, type) and issubclass(kind, Enum):
        return "/".join(str(choice.value) for choice in kind)
    return {str: "TEXT", int: "N", float: "NUMBER", Path: "PATH"}.get(kind, getattr(kind, "__name__", "VALUE").upper())


def value_of(parameter: Any, kind: Any, info: Any) -> str:
    """What an option takes; nothing for a flag."""
    if getattr(parameter, "is_flag", False):
        return ""
    low, high = info.min, info.max
    # The largest seed is the largest number that a record holds: of no interest here.
    limits = f" from {low}" if low is not None else ""
    limits += f" to {high}" if high is not None and high < 2**31 else ""
    return f"`{cell(parameter.metavar or type_text(kind))}`{limits}"


def default_of(parameter: Any) -> str:
    """The default, where there is one to show."""
    if parameter.required:
        return "required"
    value = parameter.default
    if getattr(parameter, "is_flag", False):
        return f"`{parameter.opts[0]}`" if value and parameter.secondary_opts else ""
    if value is None or value == [] or value == () or callable(value):
        return ""
    return f"`{getattr(value, 'value', value)}`"


def argument_name(parameter: Any) -> str:
    """An argument as the usage line names it."""
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.nargs == 1 or name.endswith("...") else f"{name}..."


def rows(parameters: list[Any], command: Any) -> Iterator[str]:
    """A line of a table for each parameter."""
    hints = hints_of(command)
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            name, value = f"`{cell(argument_name(parameter))}`", ""
        else:
            name = ", ".join(f"`{o}`" for o in (*parameter.opts, *parameter.secondary_opts))
            kind, info = hints[parameter.name][:2]
            value = value_of(parameter, kind, info)
        yield f"| {name} | {value} | {default_of(parameter)} | {cell(parameter.help or '')} |"


def section(words: tuple[str, ...], command: Any) -> str:
    """The part of the page about one command."""
    context = typer.Context(command, info_name=" ".join(words))
    shown = [p for p in command.get_params(context) if not getattr(p, "hidden", False) and p.name != "help"]
    arguments = [p for p in shown if p.param_type_name == "argument"]
    ordered = [*arguments, *(p for p in shown if p not in arguments)]
    usage = " ".join(["[OPTIONS]", *map(argument_name, arguments)])
    paragraphs = [" ".join(p.split()) for p in (command.help or "").split("\n\n")]
    examples = re.findall(r"^ *(emukit .*)$", (command.epilog or "").replace("\\[", "["), re.MULTILINE)
    table = ["| | takes | default | |", "|---|---|---|---|", *rows(ordered, command)]
    return "\n\n".join(
        [
            f"## {' '.join(words)}",
            *paragraphs,
            f"    {' '.join(words)} {usage}",
            "\n".join(table),
            "\n".join(["Examples:", "", *(f"    {e}" for e in examples)]),
        ]
    )


def page() -> str:
    """The whole page."""
    root: Any = typer.main.get_command(app)
    known = list(commands(root, ("emukit",)))
    groups: dict[str, list[str]] = {}
    for words, _ in known:
        top = root.commands[words[1]]
        link = f"[`{' '.join(words[1:])}`](#{'-'.join(words)})"
        groups.setdefault(str(getattr(top, "rich_help_panel", None) or ""), []).append(link)
    index = "\n".join(f"- {group}: {', '.join(links)}" for group, links in groups.items())
    return "\n\n".join([INTRODUCTION.rstrip(), index, *(section(words, command) for words, command in known)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
