"""`emukit indices`: annual indices of extremes from daily fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emukit.cli import commands
from emukit.cli import options as o
from emukit.terminal import echo


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    commands.add(app, indices, "emukit indices daily.zarr --base historical.nc --out indices.nc", group=commands.SUBMIT)


def indices(
    daily: Annotated[
        list[Path], typer.Argument(metavar="DAILY...", help="Zarr store, or NetCDF files that follow each other.")
    ],
    out: Annotated[Path, typer.Option(help="Indices as .nc, or a ClimX submission as .parquet or .csv.")],
    base: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Historical run, for percentiles; repeatable.", show_default=False),
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.nc", help="Keep the percentiles in this file; use them if it is there.", show_default=False
        ),
    ] = None,
    period: Annotated[str, typer.Option(metavar="FIRST-LAST", help="Years of the base period.")] = "1961-1990",
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
) -> None:
    """Compute fifteen annual indices of daily tas, tasmax, tasmin and pr, as ClimX counts them.

    Percentiles come from the base period of a historical run on the same grid.
    """
    from emukit.competitions.climx import indices as work

    report = o.reporter(quiet)
    work.check_output(out, overwrite)
    percentiles = work.find_percentiles(base or (), thresholds, work.parse_period(period), report)
    computed = work.compute_indices(daily, percentiles, report)
    echo(f"wrote {out}: {work.write_indices(computed, out, overwrite)}")
