"""`emukit plot` and `emukit report`: pictures of a run, and pages of many."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emukit.cli import options as o
from emukit.terminal import echo, open_console

if TYPE_CHECKING:
    from emukit.data.archive import Archive
    from emukit.runs.run import Run


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    o.add_command(app, plot, "emukit plot runs/linear", group=o.LOOK)
    o.add_command(app, report, "emukit report runs --out report", group=o.LOOK)


def plot(
    run: o.RunFolder,
    split: Annotated[
        str | None,
        typer.Option(
            help="validation, test, or test-all under loso. Default: validation, and test where its truth is visible.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the pictures. Default: RUN/plots.", metavar="DIR", show_default=False),
    ] = None,
    overwrite: o.Overwrite = False,
    data: o.TrainedData = None,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Draw a run among the members of the climate model: error maps, series, seasons, spectra, ranks (PNG)."""
    from emukit.report.plot import plot_run
    from emukit.report.variability import variability_table
    from emukit.runs.run import read_run

    report = o.reporter(quiet)
    chosen = read_run(run)
    chosen.refuse_unfinished()
    archive = o.open_for_run(chosen, data, card, convert, report)
    for album in plot_run(chosen, archive, split, out, report, overwrite):
        if album.variability:
            open_console().print(variability_table(album.variability, album.title))
        for picture, why in album.left_out.items():
            echo(f"no picture of {picture}: {why}")
        echo(f"wrote {album.folder}: {', '.join(album.files)}")


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
    draw: Annotated[
        int,
        typer.Option(
            min=0,
            help="How many runs have pictures, the best first. A run that is named itself always has them. "
            "A picture that was never drawn takes a fraction of a second.",
        ),
    ] = 12,
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
        places or here,
        out,
        opener,
        reporter,
        published=published,
        study_runs=study_runs,
        draw=draw,
        overwrite=overwrite,
    )
    fine = f", of downscaling runs: {written.downscales}" if written.downscales else ""
    pages = f"pages of entries: {written.entries}, of studies: {written.studies}{fine}; {written.size / 1e6:.1f} MB"
    echo(f"wrote {out / 'index.html'}: {pages}")
    for why, names in written.undrawn.items():
        others = f" and {len(names) - 1} more" if names[1:] else ""
        echo(f"no maps and curves of {names[0]}{others}: {why}")
