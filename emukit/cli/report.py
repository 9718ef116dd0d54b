"""`emukit report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emukit.cli import commands
from emukit.cli import options as o
from emukit.terminal import echo

if TYPE_CHECKING:
    from emukit.data.archive import Archive
    from emukit.runs.run import Run


def add_commands(app: typer.Typer) -> None:
    """Register this module's command."""
    commands.add(app, report, "emukit report runs --out report", group=commands.LOOK)


def report(
    places: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[RUN|STUDY|submissions/]...", help="Default: runs/, submissions/ and ablations/ here."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the pages.", metavar="DIR")] = Path("report"),
    published: Annotated[bool, typer.Option(help="Show published results too.")] = True,
    study_runs: Annotated[
        bool, typer.Option(help="Write pages of the runs of studies too; without them a study is a few hundred kB.")
    ] = True,
    overwrite: o.Overwrite = False,
    data: o.TrainedData = None,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Write static pages that open from disk: leaderboard, entries with maps and curves, studies, a comparison of two.

    Pictures are kept in the run folders, so that the next report is a matter of seconds.
    """
    from emukit.report.site import write_report

    reporter = o.reporter(quiet)
    opened: dict[str, Archive] = {}

    def opener(run: Run) -> Archive:
        key = f"{data} {run.record.data.model_dump_json()}"
        if key not in opened:
            # Runs of one store mostly follow each other; two stores at once might not fit into memory.
            opened.clear()
            opened[key] = o.open_for_run(run, data, card, convert, reporter)
        return opened[key]

    here = [p for p in map(Path, ("runs", "submissions", "ablations")) if p.is_dir() and any(p.iterdir())]
    written = write_report(
        places or here, out, opener, reporter, published=published, study_runs=study_runs, overwrite=overwrite
    )
    pages = f"pages of entries: {written.entries}, of studies: {written.studies}; {written.size / 1e6:.1f} MB"
    echo(f"wrote {out / 'index.html'}: {pages}")
    for why, names in written.undrawn.items():
        others = f" and {len(names) - 1} more" if names[1:] else ""
        echo(f"no maps and curves of {names[0]}{others}: {why}")
