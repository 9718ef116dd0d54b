"""`emukit plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emukit.cli import commands
from emukit.cli import options as o
from emukit.terminal import echo, open_console


def add_commands(app: typer.Typer) -> None:
    """Register this module's command."""
    commands.add(app, plot, "emukit plot runs/linear", group=commands.LOOK)


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
    from emukit.figures.variability import weather_table
    from emukit.report.plot import plot_run
    from emukit.runs.run import read_run

    report = o.reporter(quiet)
    chosen = read_run(run)
    chosen.refuse_unfinished()
    archive = o.open_for_run(chosen, data, card, convert, report)
    for album in plot_run(chosen, archive, split, out, report, overwrite):
        if album.weather:
            open_console().print(weather_table(album.weather.lines(), album.title))
        for picture, why in album.left_out.items():
            echo(f"no picture of {picture}: {why}")
        echo(f"wrote {album.folder}: {', '.join(album.files)}")
