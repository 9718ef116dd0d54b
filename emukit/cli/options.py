"""What commands share: how they are registered, options that mean and say the same, and how results are printed.

Invariant: the examples of a command work on the demo climate as they stand, one after the other where one needs what
another wrote.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from emukit.errors import EmukitError, StoreError
from emukit.losses.registry import loss_names
from emukit.terminal import csv_table, echo, markdown_table, markdown_text, open_console, terminal_table

if TYPE_CHECKING:
    from emukit.data.archive import Archive
    from emukit.data.store_layout import Layout
    from emukit.parallel.comm import Comm
    from emukit.progress import Reporter
    from emukit.recipes.schema import Recipe
    from emukit.runs.run import Run
    from emukit.runs.score_tables import ScoreTable

F = TypeVar("F", bound=Callable[..., Any])

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A name of `emukit models`, the path of a recipe file, or a class as module:Name."
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="STORE",
        help="Zarr or NetCDF store, folder of ClimX files, or 'demo'. Default: $EMUKIT_DATA, else the demo climate.",
        show_default=False,
    ),
]
TrainedData = Annotated[
    str | None,
    typer.Option("--data", metavar="STORE", help="Default: the store it was trained on.", show_default=False),
]
Protocol = Annotated[
    str | None,
    typer.Option(
        "--protocol",
        help="One of the data card (`emukit data check` lists them) or loso:SCENARIO. Default: the card's.",
        show_default=False,
    ),
]
Card = Annotated[
    str | None, typer.Option("--card", help="Data card by name or TOML path. Default: recognised.", show_default=False)
]
Convert = Annotated[
    list[str] | None,
    typer.Option(
        "--convert", metavar="VAR=UNITS", help="The store holds VAR in UNITS: convert it.", show_default=False
    ),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="a.b=c", help="One setting, repeatable: training.epochs=5.")
]
RecipeFile = Annotated[
    Path | None, typer.Option("--recipe", help="TOML recipe laid over the defaults.", show_default=False)
]
Members = Annotated[
    str | None,
    typer.Option("--members", help="Members to train on, such as 0,1,2. Default: all.", show_default=False),
]
Domain = Annotated[
    str,
    typer.Option(
        "--domain",
        help="Processes that share one globe, each with some of its rows: for fields too large for one device. 2x3: "
        "rows are divided over two, and each row over three. Without torchrun, and without --devices where a command "
        "has it, as many processes are started.",
        metavar="N|NxM",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only: no progress, no notes.")]
Fast = Annotated[bool, typer.Option("--fast", help="Use the shipped recipe MODEL-fast, which takes less time.")]
Track = Annotated[
    str | None,
    typer.Option(
        "--track",
        metavar="NAME",
        help="Mirror the log of the training in tensorboard or wandb: pip install -e '.[NAME]'.",
        show_default=False,
    ),
]
Loss = Annotated[
    str | None,
    typer.Option(
        "--loss",
        metavar="NAME",
        help=f"Shipped loss instead of the recipe's: {', '.join(loss_names())}. "
        "`emukit models` says which terms each has.",
        show_default=False,
    ),
]
Formats = Literal["table", "md", "csv", "json"]
Format = Annotated[Formats, typer.Option("--format", help="How to print the result.")]
# The spelling of earlier versions.
Markdown = Annotated[bool, typer.Option("--markdown", hidden=True, help="As --format md.")]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what this command wrote there before; nothing else is replaced.")
]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, as `emukit train` wrote it.")]
# The groups of `emukit --help`, in the order of their first commands.
TRAIN, LOOK, SUBMIT, DATA = "Train and select", "Look and compare", "Submit", "Data and machine"


class App(typer.Typer):
    """Commands all of whose words may begin with ``~``, the home folder.

    A shell expands it only at the beginning of a word, and leaves ``--out=~/runs`` as it is. No value but a path begins
    so, whether it is a path alone or may be a name too, as with --data and --card.
    """

    def command(self, *words: Any, **options: Any) -> Callable[[F], F]:
        """As `typer.Typer.command`."""
        register = super().command(*words, **options)

        def at_home(function: F) -> F:
            @wraps(function)
            def call(**values: object) -> object:
                return function(**{name: expanded(value) for name, value in values.items()})

            register(call)
            return function

        return at_home


def division(domain: str) -> tuple[int, int]:
    """What --domain says: over how many processes rows are divided, and each row.

    Raises:
        EmukitError: It says something else.
    """
    words = domain.lower().split("x")
    if len(words) > 2 or not all(w.isascii() and w.isdigit() and 0 < int(w) < 10**6 for w in words):
        raise EmukitError(
            "--domain does not say how to divide a globe",
            found=domain,
            expected="a number of processes, each with some of the rows, or two: 2x3 divides each row over three, too",
            hint="--domain 2",
        )
    return int(words[0]), int(words[1]) if len(words) > 1 else 1


def expanded(value: Any) -> Any:
    """A path, or what may be one, or several, with the home folder in the place of ``~``."""
    if isinstance(value, list | tuple):
        return type(value)(map(expanded, value))
    if isinstance(value, str | Path) and str(value).startswith("~"):
        # Where there is no such user, it is the name of a folder.
        with suppress(RuntimeError):
            return type(value)(Path(value).expanduser())
    return value


def reporter(quiet: bool, silent: bool = False) -> Reporter:
    """Progress on standard error; nothing at all where it is silent: one of several processes speaks for all."""
    from emukit.progress import default_reporter

    return default_reporter(quiet or silent)


def chosen_format(format: Formats, markdown: bool) -> Formats:
    """The format that is asked for, by the option or by its earlier spelling.

    Raises:
        EmukitError: Two are.
    """
    if markdown and format not in ("table", "md"):
        raise EmukitError(f"--markdown and --format {format} are two formats", hint="leave --markdown out")
    return "md" if markdown else format


def one_store(named: str | None, positional: str | None) -> str | None:
    """The store of --data, or as earlier versions took it, without the option.

    Raises:
        EmukitError: Both are given.
    """
    if named is not None and positional is not None:
        raise EmukitError("the store is named twice", found=f"{positional} and --data {named}", hint="--data alone")
    return positional if named is None else named


def print_blocks(blocks: Sequence[ScoreTable], format: Formats, values: Any) -> None:
    """Print tables of scores; as JSON, the values that they are made of."""
    from emukit.runs import score_tables

    if format == "table":
        from rich.console import Group

        console = open_console()
        # At once: whoever reads the first line alone, as head does, is no error then.
        console.print(Group(*score_tables.tables(blocks, console.width)))
    elif format == "json":
        echo(json.dumps(values, indent=1))
    else:
        render = {"md": score_tables.markdown, "csv": score_tables.to_csv}[format]
        echo(render(blocks), nl=False)


def print_rows(headings: Sequence[str], rows: Iterable[Sequence[str]], format: Formats) -> None:
    """Print a table of texts."""
    rows = [tuple(row) for row in rows]
    if format == "json":
        echo(json.dumps([dict(zip(headings, row, strict=True)) for row in rows], indent=1))
    elif format == "csv":
        echo(csv_table(headings, rows), nl=False)
    elif format == "md":
        echo("\n".join(markdown_table(headings, ([markdown_text(cell) for cell in row] for row in rows))))
    else:
        from rich.text import Text

        table, console = terminal_table(), open_console()
        for i, heading in enumerate(headings):
            cells = [row[i] for row in rows if row[i]]
            # A name that is cut off could not be typed, and one on two lines not be found.
            named = i == 0 and max(map(len, cells), default=0) <= console.width // 2
            right = bool(cells) and all(map(_is_number, cells))
            table.add_column(heading, overflow="fold", justify="right" if right else "left", no_wrap=named)
        for row in rows:
            # Text, not markup: a name may hold brackets.
            table.add_row(*map(Text, row))
        console.print(table)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", ""))
    except ValueError:
        return False
    return True


def open_named(
    named: str | None,
    card: str | None,
    convert: list[str] | None,
    report: Reporter,
    *,
    in_full: bool = False,
    comm: Comm | None = None,
) -> Archive:
    """Open the store that a command names, and say which it is, and that it is odd; with `in_full` how.

    Of processes that share a globe (`comm`) each reads its own cells.
    """
    from emukit.data.opening import ENVIRONMENT, data_source, open_data

    source = data_source(named)
    why = "" if named else f" (from ${ENVIRONMENT})" if source != "demo" else " (no --data, no $EMUKIT_DATA)"
    report.say(f"data: {source}{why}")
    archive = open_data(source, card=card, convert=conversions(convert), reporter=report, comm=comm)
    _say_oddities(archive, report, in_full)
    return archive


def _say_oddities(archive: Archive, report: Reporter, in_full: bool) -> None:
    """What is odd in the data: in full where they are trained on, elsewhere where that is told."""
    from emukit.data.opening import oddities

    found = oddities(archive)
    if in_full:
        for sentence in found:
            report.note(sentence)
    elif found:
        # Not how many: the check reads values too, and lists what the card says next to what it found.
        report.note("the data are odd in places: `emukit data check` lists them")


def layout_of(named: str | None, card: str | None) -> Layout | None:
    """The axes of the store that a command names, without reading its fields; None where they are not understood.

    Of a folder of daily files, and of the demo climate, they are known once they are open.

    Raises:
        StoreError: There is no readable store, or no card for it.
    """
    from emukit.data.card import identify_card, load_card
    from emukit.data.daily_folder import is_daily_folder
    from emukit.data.decode import Findings
    from emukit.data.opening import DEMO, data_source
    from emukit.data.source import open_source
    from emukit.data.store_layout import read_layout

    source = data_source(named)
    if source == DEMO or is_daily_folder(source):
        return None
    with open_source(source) as opened:
        return read_layout(opened.ds, load_card(card) if card else identify_card(opened.ds), Findings())


def grid_shape(named: str | None, card: str | None) -> tuple[int, int] | None:
    """(Y, X) as `layout_of` has it, and that of the demo climate."""
    from emukit.data.demo import DemoClimate
    from emukit.data.opening import DEMO, data_source

    if data_source(named) == DEMO:
        return DemoClimate().planet.grid.shape
    layout = layout_of(named, card)
    return layout.grid.shape if layout else None


def reading(recipe: Recipe, comm: Comm) -> Comm | None:
    """The processes that share a globe where each needs its own cells alone: for networks, not for wrappers."""
    from emukit.recipes.schema import NetworkRecipe

    return comm.domain if isinstance(recipe, NetworkRecipe) and not recipe.inputs.states else None


def open_for_run(
    run: Run,
    named: str | None,
    card: str | None,
    convert: list[str] | None,
    report: Reporter,
    comm: Comm | None = None,
) -> Archive:
    """Open the store that a command names, else the one the run was trained on, as it was opened then.

    Where that is gone, `$EMUKIT_DATA` takes its place. Of processes that share a globe (`comm`) each reads its own
    cells.

    Raises:
        StoreError: There is no such store, or it cannot be read.
    """
    from emukit.data.opening import DEMO, ENVIRONMENT, open_data

    data = run.record.data
    source, why = named or data.source, "" if named else " (recorded in the run)"
    if not named and source != DEMO and not Path(source).exists():
        source, why = os.environ.get(ENVIRONMENT, ""), f" (from ${ENVIRONMENT}; {data.source} is gone)"
        if not source:
            raise StoreError(
                f"the store that {run.folder} was trained on is no longer there",
                found=f"nothing at {data.source}",
                hint=f"name it with --data PATH, or set {ENVIRONMENT} to its path",
            )
    report.say(f"data: {source}{why}")
    kept = conversions(convert) if convert or named else data.convert
    archive = open_data(source, card=card or data.card_option, convert=kept, reporter=report, comm=comm)
    _say_oddities(archive, report, in_full=False)
    if archive.digest != data.digest:
        report.note("its values are not those that the run was trained on")
    for line in run.other_versions():
        report.note(line)
    return archive


def conversions(words: list[str] | None) -> dict[str, str]:
    """`VAR=UNITS` words as a mapping.

    Raises:
        EmukitError: A word has another form.
    """
    out = {}
    for word in words or ():
        name, equals, units = word.partition("=")
        if not (name and equals and units):
            raise EmukitError(f"cannot read --convert {word!r}", expected="VAR=UNITS", hint="--convert tas=degC")
        out[name] = units
    return out


def member_list(text: str | None) -> tuple[int, ...] | None:
    """`0,1,2` as numbers, None as None.

    Raises:
        EmukitError: Something else, or a member named twice.
    """
    if text is None:
        return None
    try:
        members = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise EmukitError(
            f"cannot read --members {text!r}", expected="numbers with commas", hint="--members 0,1,2"
        ) from None
    if len(set(members)) < len(members):
        raise EmukitError(f"--members {text} names a member twice", expected="each once")
    return members


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


class CommandGroup(TyperGroup):
    """A group whose flags are shown as flags."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_type(super().get_params(ctx))


def add_command(
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
