"""`emukit data`: look at a store, make the demo climate, show windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from emukit.cli import options as o

app = o.App(help="Check stores, write the demo climate, show forcing windows.", no_args_is_help=True)


@app.command("check")
def check(
    store: Annotated[str, typer.Argument(metavar="STORE", help="Zarr or NetCDF store, or 'demo'.")],
    card: o.Card = None,
    convert: o.Convert = None,
) -> None:
    """Say what is in a store, what is odd, what is hidden; exit 1 with a numbered list if it cannot be used."""
    from emukit.data.inspect import inspect_store
    from emukit.data.named import DEMO

    if store == DEMO:
        # The demo climate is made anew whenever it is opened; what can be checked is what it writes.
        with TemporaryDirectory() as folder:
            from emukit.data.demo import DemoClimate, write_demo

            written = write_demo(DemoClimate(), Path(folder) / "demo.zarr")
            report = replace(inspect_store(written, card=card, convert=o.conversions(convert)), source=DEMO)
    else:
        report = inspect_store(store, card=card, convert=o.conversions(convert))
    for line in report.lines():
        typer.echo(line)
    if report.problems:
        raise typer.Exit(1)


@app.command("demo")
def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, such as demo.zarr.")],
    grid: Annotated[str, typer.Option(help="Latitude x longitude cells.")] = "24x36",
    years: Annotated[int, typer.Option(help="From 2015; the competition's store has 85, and one month.")] = 85,
    members: Annotated[int, typer.Option(help="Runs that differ in their weather alone.")] = 3,
    seed: Annotated[int, typer.Option(help="Another seed is another planet.")] = 0,
    overwrite: o.Overwrite = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Write the hidden test targets too.")] = False,
    quiet: o.Quiet = False,
) -> None:
    """Write the demo climate as a Zarr store of the competition's layout, its test scenario hidden by zeros."""
    from emukit.data.demo import DemoClimate, write_demo
    from emukit.errors import EmukitError

    try:
        lat, lon = (int(n) for n in grid.lower().split("x"))
    except ValueError:
        raise EmukitError(f"cannot read --grid {grid!r}", expected="LATxLON", hint="--grid 24x36") from None
    climate = DemoClimate(lat_cells=lat, lon_cells=lon, years=years, members=members, seed=seed)
    write_demo(climate, out, hidden=not reveal, reporter=o.reporter(quiet), overwrite=overwrite)
    typer.echo(f"wrote {out}: 4 scenarios, {climate.months} months, {members} members, {lat} x {lon} cells")


@app.command("windows")
def windows(
    store: Annotated[
        str | None,
        typer.Argument(
            metavar="[STORE]",
            help="Zarr or NetCDF store, or 'demo'. Default: $EMUKIT_DATA, else the demo climate.",
            show_default=False,
        ),
    ] = None,
    protocol: o.Protocol = None,
    members: Annotated[str | None, typer.Option(help="Training members, such as 0,1,2.", show_default=False)] = None,
    recipe: Annotated[Path | None, typer.Option(help="Take the inputs of this recipe.", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="Network whose inputs are shown.")] = "cnn-gru",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="For example inputs.window.history=24.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write frames, windows and targets as Zarr.")] = None,
    overwrite: o.Overwrite = False,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Show the forcing windows and their seasonal encoding for a split; --out writes them for use elsewhere."""
    from rich.console import Console

    from emukit.cli.show import encoding_table, span_table, window_lines
    from emukit.data.export import check_place, windows_dataset, write_windows
    from emukit.data.frames import FrameEncoder
    from emukit.data.protocol import make_split
    from emukit.errors import RecipeError
    from emukit.experiments.recipe import load_recipe
    from emukit.experiments.recipe_kinds import NetworkRecipe

    report = o.reporter(quiet)
    chosen = load_recipe(model, recipe, settings or ())
    if not isinstance(chosen, NetworkRecipe):
        raise RecipeError(f"{model} reads no windows", expected="a network", hint="--model cnn-gru")
    if out is not None:
        check_place(out, overwrite)
    archive = o.open_named(store, card, convert, report)
    split = make_split(archive, protocol, o.member_list(members))
    encoder = FrameEncoder.fit(archive, split.train, chosen.inputs)
    console = Console()
    console.print(span_table(archive, split, chosen.inputs.window))
    for line in window_lines(archive, split, encoder):
        console.print(line, markup=False, highlight=False)
    console.print(encoding_table(encoder))
    if out is not None:
        write_windows(windows_dataset(archive, split, encoder), out, report, overwrite)
        typer.echo(f"wrote {out}")
