"""`python -m benchmarks`, from the root of a checkout: measure emukit against plain references, or count faults.

Invariant: nothing here is part of the installed package; whoever measures has a checkout.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from benchmarks import suite
from benchmarks.cases import Tally
from emukit.cli import options as o
from emukit.data.opening import data_source
from emukit.errors import EmukitError
from emukit.provenance import machine
from emukit.terminal import echo, open_console

app = o.App(add_completion=False, pretty_exceptions_enable=False)


@app.command(cls=o.Command)
def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...",
            help="By default help, commands, write, score, store, linear, report, predict and input: about a quarter "
            "of an hour on two cores, and store and linear only with --data. By name alone: segments (a network "
            "against itself by window), train (against the starter kit's), reach (the time to a score; hours), "
            "memory (how it grows with the store), divided (one field over two processes), trajectories (learned "
            "closures against their cores; needs the extra core), downscaling (blocks, and a large map stitched of "
            "them), realisations (training atlas and drawing, only with --data), climx (indices, submissions, training "
            "from disk), device (precision and segment lengths against the roofline; meant for a GPU) and faults "
            "(kills, damaged files; hours).",
        ),
    ] = None,
    data: o.Data = None,
    runs: Annotated[
        int | None,
        typer.Option(
            help="Measurements of each, of which the median is shown. Default: 3; reach trains each network once.",
            min=1,
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", metavar="NAME", help="Network to measure, repeatable. Default: the bench's own."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="One setting of its recipe: model.width=16.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda. Default: cuda where there is one.", show_default=False)
    ] = None,
    budget: Annotated[
        float | None, typer.Option(help="Seconds a network may train in reach. Default: 1200.", show_default=False)
    ] = None,
    cases: Annotated[
        int | None, typer.Option(help="Cases of each campaign of faults. Default: 100.", min=1, show_default=False)
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the faults that are drawn. Default: 0.", min=0, show_default=False)
    ] = None,
    campaign: Annotated[
        list[str] | None,
        typer.Option("--campaign", metavar="NAME", help="Campaign of faults, repeatable. Default: all."),
    ] = None,
    format: o.Format = "table",
    markdown: o.Markdown = False,
    quiet: o.Quiet = False,
) -> None:
    """Measure emukit against plain references in the same run: medians and peak memory; or count faults."""
    format = o.chosen_format(format, markdown)
    choice = suite.Choice(
        data_source(data),
        runs,
        tuple(model or ()),
        tuple(settings or ()),
        device,
        budget,
        cases,
        seed,
        tuple(campaign or ()),
    )
    rows = suite.run_suite(names or (), choice, o.reporter(quiet))
    where = machine()
    accelerator = "" if where["accelerator"] == "none" else f", {where['accelerator']}"
    repeats: dict[tuple[str, ...], str] = {
        ("reach",): "one training each",
        ("faults",): f"drawn with the seed {choice.seed or 0}",
    }
    repeated = repeats.get(tuple(sorted(set(names or ()))), f"medians of {choice.repeats}")
    title = f"{where['processor']}, {where['cores']} cores{accelerator}, {repeated}"
    if format == "md":
        echo(suite.markdown(rows, title))
    elif format == "table":
        for table in suite.tables(rows, title):
            open_console().print(table)
    else:
        for headings, lines in suite.records(rows):
            o.print_rows(headings, lines, format)
    for tally in (row for row in rows if isinstance(row, Tally)):
        for example in tally.examples:
            echo(f"{tally.campaign}, {tally.kind}, {example}", err=True)
    if not all(row.within for row in rows):
        raise typer.Exit(1)


def main() -> None:
    """Run the command; a mistake ends in one message and exit code 2."""
    try:
        app(prog_name="python -m benchmarks")
    except EmukitError as e:
        echo(f"error: {e.text()}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
