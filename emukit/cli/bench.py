"""`emukit bench`."""

from __future__ import annotations

from typing import Annotated

import typer

from emukit.cli import options as o


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command("bench")(bench)


def bench(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Which; all when none.")] = None,
    data: o.Data = None,
    runs: Annotated[int, typer.Option(help="Measurements of each, of which the median is shown.", min=1)] = 3,
) -> None:
    """Measure emukit against plain references in the same run: medians and peak memory."""
    from rich.console import Console

    from emukit.bench.suite import figure_table, run_suite
    from emukit.data.named import data_source
    from emukit.experiments.provenance import machine

    figures = run_suite(names or (), data_source(data), runs, o.reporter(False))
    where = machine()
    Console().print(figure_table(figures, f"{where['processor']}, {where['cores']} cores, medians of {runs}"))
    if not all(f.within for f in figures):
        raise typer.Exit(1)
