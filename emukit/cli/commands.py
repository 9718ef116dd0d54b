"""How commands are registered, so that their help looks alike: groups, examples, and flags without a type.

Invariant: the examples work on the demo climate as they stand, one after the other where one needs what another wrote.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# The groups of `emukit --help`, in the order of their first commands.
TRAIN, LOOK, SUBMIT, DATA = "Train and select", "Look and compare", "Submit", "Data and machine"


def _without_type(parameters: list[Any]) -> list[Any]:
    """The parameters; flags say nothing of a type, since they take no value."""
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


class Command(TyperCommand):
    """A command whose flags are shown as flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type(super().get_params(ctx))


class Group(TyperGroup):
    """A group whose flags are shown as flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type(super().get_params(ctx))


def add(
    app: typer.Typer,
    function: Callable[..., None],
    *examples: str,
    name: str | None = None,
    group: str | None = None,
    cls: type[Command] = Command,
) -> None:
    """Register a command.

    Args:
        app: Where.
        function: What it calls; its name, with hyphens, is that of the command.
        examples: Command lines that the help ends with.
        name: Of the command, where it is not the function's.
        group: Of the commands in `emukit --help`.
        cls: A command that reads its line in a way of its own.
    """
    # The help joins single lines: every example is a paragraph. A backslash keeps brackets from being read as markup.
    shown = [example.replace("[", r"\[") for example in examples]
    epilog = "\n\n".join(["Examples:", *(f"  {example}" for example in shown)]) if shown else None
    app.command(name, cls=cls, rich_help_panel=group, epilog=epilog, help=_paragraphs(function.__doc__))(function)


def _paragraphs(doc: str | None) -> str:
    """A docstring with each paragraph on one line: the help would keep the ends of lines after the first paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in inspect.cleandoc(doc or "").split("\n\n"))
