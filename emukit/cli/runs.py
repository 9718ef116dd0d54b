"""`emukit runs` and `emukit runs rm`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from emukit.cli import commands
from emukit.cli import options as o
from emukit.terminal import echo, open_console, size

if TYPE_CHECKING:
    from emukit.studies.prune import PrunePlan

KEEP_BEST = "--keep-best"
# Wider than any table of runs.
PIPE_COLUMNS = 400


class _ListByDefault(commands.Group):
    """`emukit runs FOLDER` lists, though there are commands below `runs`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] in ("-h", "--help"))
        return super().parse_args(ctx, args if named else ["list", *args])


class _OneByDefault(commands.Command):
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
    from emukit.cli import runs_table
    from emukit.runs.listing import list_runs

    runs = list_runs(places or _here())
    if format != "table":
        render = {"md": runs_table.markdown, "csv": runs_table.to_csv, "json": runs_table.as_json}[format]
        echo(render(runs), nl=False)
    else:
        console = open_console()
        if not console.is_terminal and "COLUMNS" not in os.environ:
            # Into a pipe or a file names go whole, so that they can be copied.
            console = open_console(width=PIPE_COLUMNS)
        for table in runs_table.tables(runs, console.width):
            console.print(table, highlight=False, soft_wrap=True)
        if not quiet:
            echo(runs_table.together(runs))
    for line in runs_table.problem_lines(runs):
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
    """Where runs are, where nobody says."""
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


commands.add(app, list_, "emukit runs", "emukit runs runs --format json", name="list")
commands.add(app, rm, "emukit runs rm --keep-best 1 --dry-run", cls=_OneByDefault)
