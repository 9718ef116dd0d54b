"""`emukit runs` and `emukit runs rm`, and how runs are shown: as a table, Markdown, CSV or JSON."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

from emukit.cli import options as o
from emukit.terminal import csv_table, duration, echo, markdown_table, markdown_text, one_line, open_console, size

if TYPE_CHECKING:
    from emukit.runs.listing import RunSummary
    from emukit.studies.prune import PrunePlan

KEEP_BEST = "--keep-best"
# Wider than any table of runs.
PIPE_COLUMNS = 400
HEADINGS = ("run", "state", "model", "protocol", "seed", "score", "set", "epoch", "time", "size")
RIGHT = ("seed", "score", "epoch", "time", "size")
# A title says protocol and set.
NARROW = tuple(h for h in HEADINGS if h not in ("run", "protocol", "set"))
RULE = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
# A title is not folded to less.
MIN_TITLE = 60
STYLES = {"training": "green", "interrupted": "yellow", "failed": "red", "damaged": "red"}
VALUES = (
    "folder",
    "state",
    "held",
    "model",
    "protocol",
    "seed",
    "final",
    "set",
    "score",
    "scored",
    "epoch",
    "epochs",
    "seconds",
    "bytes",
    "started",
    "problem",
)


class _ListByDefault(o.CommandGroup):
    """`emukit runs FOLDER` lists, though there are commands below `runs`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] in ("-h", "--help"))
        return super().parse_args(ctx, args if named else ["list", *args])


class _OneByDefault(o.Command):
    """`--keep-best` without a number keeps one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for place in [i for i, word in enumerate(args) if word == KEEP_BEST][::-1]:
            if not (place + 1 < len(args) and args[place + 1].lstrip("-").isdigit()):
                args = [*args[: place + 1], "1", *args[place + 1 :]]
        return super().parse_args(ctx, args)


app = o.App(
    cls=_ListByDefault,
    help="List runs: state, score, seed, time and size on disk; `emukit runs rm` removes some.",
)


def list_(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER]...", help="Runs, or folders of such. Default: runs/ and ablations/.", show_default=False
        ),
    ] = None,
    format: o.Format = "table",
    quiet: o.Quiet = False,
) -> None:
    """List runs: those under way first, then by what their scores can be compared with, best first."""
    from emukit.runs.listing import list_runs

    runs = list_runs(places or _here())
    if format != "table":
        render = {"md": markdown, "csv": to_csv, "json": as_json}[format]
        echo(render(runs), nl=False)
    else:
        console = open_console()
        if not console.is_terminal and "COLUMNS" not in os.environ:
            # Into a pipe or a file names go whole, so that they can be copied.
            console = open_console(width=PIPE_COLUMNS)
        for table in tables(runs, console.width):
            console.print(table, highlight=False, soft_wrap=True)
        if not quiet:
            echo(together(runs))
    for line in problem_lines(runs):
        echo(line, err=True)


def rm(
    places: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Runs; with --keep-best folders of runs, by default runs/ and ablations/.",
            show_default=False,
        ),
    ] = None,
    keep_best: Annotated[
        int | None,
        typer.Option(
            KEEP_BEST,
            help="Remove all finished runs but the N best (1) of each model on the same months.",
            min=1,
            metavar="[N]",
            show_default=False,
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be removed, then stop.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    quiet: o.Quiet = False,
) -> None:
    """Remove runs; not one that is being written, or that a final fit, a submission or a study refers to."""
    from emukit.errors import RunError
    from emukit.studies.prune import PrunePlan, prune_all_but_best, prune_named, remove

    if keep_best is None and not places:
        raise RunError("emukit runs rm needs runs, or --keep-best", hint="`emukit runs` lists them")

    def chosen() -> PrunePlan:
        return prune_named(places or ()) if keep_best is None else prune_all_but_best(places or _here(), keep_best)

    plan = chosen()
    asks = not (dry_run or yes or sys.stdin.isatty())
    if dry_run or asks or not quiet:
        _say(plan, "would remove" if dry_run or asks else "remove")
    if dry_run or not plan.runs:
        return
    if not yes:
        if asks:
            raise RunError("emukit runs rm asks before it removes, and there is no terminal", hint="--yes or --dry-run")
        if not typer.confirm(f"remove {_count(plan)}?"):
            echo("nothing was removed")
            return
        # Whoever was asked took their time: something may have started to need a run meanwhile.
        shown, now = {run.folder for run in plan.runs}, chosen()
        for run in plan.runs:
            if run.folder in now.kept:
                echo(f"keep   {run.folder}: {now.kept[run.folder]}")
        plan = PrunePlan(tuple(run for run in now.runs if run.folder in shown), now.kept)
    for run in plan.runs:
        remove(run)
    echo(f"removed {_count(plan)}, {size(plan.size)}")


def _here() -> list[Path]:
    """Where runs are by default."""
    return [p for p in (Path("runs"), Path("ablations")) if p.is_dir()]


def _say(plan: PrunePlan, verb: str) -> None:
    """What goes with its size, and what stays though it is behind."""

    for run in plan.runs:
        score = f", {run.ranked_by[0]} {run.ranked_by[1]:.4f}" if run.ranked_by else ""
        echo(f"{verb} {run.folder}: {run.state}{score}, {size(run.size)}")
    for folder, why in plan.kept.items():
        echo(f"keep   {folder}: {why}")
    if plan.runs:
        echo(f"together {_count(plan)}, {size(plan.size)}")
    else:
        echo("nothing to remove")


def _count(plan: PrunePlan) -> str:
    return f"{len(plan.runs)} run{'s' if len(plan.runs) != 1 else ''}"


def tables(runs: Sequence[RunSummary], width: int) -> list[Text]:
    """One table for all that can be compared, and for what has no score; one line a run.

    Args:
        runs: In the order in which they are shown.
        width: Columns that there are; the names of runs are folded to what the others leave.
    """
    return [_table(title, list(group), width) for title, group in groupby(runs, _title)]


def _table(title: str, runs: Sequence[RunSummary], width: int) -> Text:
    # A table of rich takes a millisecond a row, and there may be thousands.
    shown = [HEADINGS.index(heading) for heading in ("run", *NARROW)]
    rows = [[one_line(cells[i]) for i in shown] for cells in map(_cells, runs)]
    widths = [max(map(cell_len, column)) for column in zip(("run", *NARROW), *rows, strict=True)]
    left = max(width - sum(widths[1:]) - len(NARROW), len("run"))
    widths[0] = min(widths[0], left)

    def line(cells: Sequence[str]) -> str:
        return " ".join(
            " " * (w - cell_len(cell)) + cell if heading in RIGHT else set_cell_size(cell, w)
            for heading, cell, w in zip(("run", *NARROW), cells, widths, strict=True)
        ).rstrip()

    total = sum(widths) + len(widths) - 1
    text = Text("\n".join(wrap(one_line(title), max(total, MIN_TITLE))) + "\n\n", style="bold")
    text = Text.assemble(text, f"{line(('run', *NARROW))}\n{RULE * total}\n")
    for run, (name, *cells) in zip(runs, rows, strict=True):
        first, *more = chop_cells(name, widths[0]) or [""]
        text.append("\n".join([line([first, *cells]), *more]) + "\n", STYLES.get(run.state))
    return text


def _title(run: RunSummary) -> str:
    if run.protocol is None:
        return "failed before anything was trained" if run.state == "failed" else "damaged"
    if run.state != "finished":
        return f"{run.protocol}, not finished"
    ranked = run.ranked_by
    if ranked is None:
        return f"{run.protocol}, no score"
    return f"{run.months[ranked[0]]} ({run.direction})"


def markdown(runs: Sequence[RunSummary]) -> str:
    """A Markdown table."""
    rows = ([markdown_text(cell) for cell in _cells(run)] for run in runs)
    return "\n".join(markdown_table(HEADINGS, rows, right=[HEADINGS.index(h) for h in RIGHT])) + "\n"


def to_csv(runs: Sequence[RunSummary]) -> str:
    """A CSV table of plain values."""
    return csv_table(VALUES, (map(_values(run).get, VALUES) for run in runs))


def as_json(runs: Sequence[RunSummary]) -> str:
    """Plain values, with the score of every set."""
    return json.dumps([_values(run) | {"scores": run.scores} for run in runs], indent=1) + "\n"


def together(runs: Sequence[RunSummary]) -> str:
    """How many, and what they take on disk."""
    return f"{len(runs)} run{'s' if len(runs) != 1 else ''}, {size(sum(run.size for run in runs))}"


def problem_lines(runs: Sequence[RunSummary]) -> list[str]:
    """What is wrong with folders that are damaged, or failed."""
    return [f"{run.state}: {run.folder}: {run.problem}" for run in runs if run.problem]


def _values(run: RunSummary) -> dict[str, Any]:
    record, ranked = run.record, run.ranked_by
    return {
        "folder": str(run.folder),
        "state": run.state,
        "held": run.held,
        "model": run.model,
        "protocol": run.protocol,
        "seed": run.seed,
        "final": bool(record.identity.final) if record else None,
        "set": ranked[0] if ranked else None,
        "score": ranked[1] if ranked else None,
        "scored": run.months[ranked[0]] if ranked else None,
        "epoch": run.epoch,
        "epochs": run.epochs,
        "seconds": round(run.seconds, 1),
        "bytes": run.size,
        "started": run.started,
        "problem": run.problem,
    }


def _cells(run: RunSummary) -> tuple[str, ...]:
    values = _values(run)
    state = run.state + (", in use" if run.held and run.state != "training" else "")
    name = f"{run.folder}{' (final fit)' if values['final'] else ''}"
    epoch = "" if run.epoch is None else f"{run.epoch}/{run.epochs}" if run.epochs else str(run.epoch)
    score = "" if values["score"] is None else f"{values['score']:.4f}"
    seed = "" if values["seed"] is None else str(values["seed"])
    time = duration(run.seconds) if run.protocol is not None else ""
    return (
        name,
        state,
        run.model,
        values["protocol"] or "",
        seed,
        score,
        values["set"] or "",
        epoch,
        time,
        size(run.size),
    )


o.add_command(app, list_, "emukit runs", "emukit runs runs --format json", name="list")
o.add_command(app, rm, "emukit runs rm --keep-best 1 --dry-run", cls=_OneByDefault)
