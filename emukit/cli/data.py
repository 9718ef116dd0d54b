"""`emukit data`: look at a store, make the demo climate, show windows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from emukit.cli import commands
from emukit.cli import options as o
from emukit.terminal import echo, open_console

app = o.App(
    cls=commands.Group, help="Check stores, write the demo climate, show forcing windows.", no_args_is_help=True
)

# The spelling of earlier versions, when these commands took the store without --data.
Positional = Annotated[str | None, typer.Argument(metavar="[STORE]", hidden=True, show_default=False)]


def check(
    store: Positional = None,
    data: o.Data = None,
    card: o.Card = None,
    convert: o.Convert = None,
    digests: Annotated[
        bool, typer.Option("--digests", help="Print the [published] table of a data card for these values, too.")
    ] = False,
    quiet: o.Quiet = False,
) -> None:
    """Check a store: what is in it, what is odd, what is hidden; exit with 1 if nothing can be trained on it."""
    from emukit.data.inspect import inspect_store
    from emukit.data.named import DEMO, data_source

    source = data_source(o.one_store(data, store))
    if source == DEMO:
        # The demo climate is made again whenever it is opened; what can be checked is what it writes.
        with TemporaryDirectory() as folder:
            from emukit.data.demo import DemoClimate, write_demo

            written = write_demo(DemoClimate(), Path(folder) / "demo.zarr")
            report = inspect_store(written, card=card, convert=o.conversions(convert), digests=digests)
            report = replace(report, source=DEMO)
    else:
        report = inspect_store(source, card=card, convert=o.conversions(convert), digests=digests)
    for line in report.verdict() if quiet else report.lines():
        echo(line)
    if report.digests is not None:
        echo("\n" + "\n".join(report.digests.toml()))
    if not report.trainable:
        raise typer.Exit(1)


def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, such as demo.zarr.")],
    grid: Annotated[str, typer.Option(help="Latitude x longitude cells.")] = "24x36",
    years: Annotated[int, typer.Option(help="Years from 2015 on; the competition's store has 85, and one month.")] = 85,
    members: Annotated[int, typer.Option(help="Runs that differ only in their weather.")] = 3,
    seed: Annotated[int, typer.Option(help="Another seed makes another planet.")] = 0,
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
    echo(f"wrote {out}: 4 scenarios, {climate.months} months, {members} members, {lat} x {lon} cells")


def windows(
    store: Positional = None,
    data: o.Data = None,
    protocol: o.Protocol = None,
    members: Annotated[str | None, typer.Option(help="Training members, such as 0,1,2.", show_default=False)] = None,
    recipe: Annotated[Path | None, typer.Option(help="Take the inputs of this recipe.", show_default=False)] = None,
    model: Annotated[str, typer.Option(help="Network whose inputs are shown.")] = "cnn-gru",
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="For example inputs.window.history=24.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write frames, windows and targets as Zarr.")] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.png", help="Draw the window of the first validation month, too.", show_default=False
        ),
    ] = None,
    overwrite: o.Overwrite = False,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Show the forcing windows and their seasonal encoding for a split; --out writes them for use elsewhere."""
    from emukit.cli.show import encoding_table, span_table, window_lines
    from emukit.data.export import check_place, windows_dataset, write_windows
    from emukit.data.frames import FrameEncoder
    from emukit.data.protocol import make_split
    from emukit.errors import RecipeError
    from emukit.recipes.load import load_recipe
    from emukit.recipes.schema import NetworkRecipe

    report = o.reporter(quiet)
    chosen = load_recipe(model, recipe, settings or ())
    if not isinstance(chosen, NetworkRecipe):
        raise RecipeError(f"{model} reads no windows", expected="a network", hint="--model cnn-gru")
    if out is not None:
        check_place(out, overwrite)
    if plot is not None:
        from emukit.report.plot import check_window_place, plot_window

        check_window_place(plot, overwrite)
    archive = o.open_named(o.one_store(data, store), card, convert, report)
    split = make_split(archive, protocol, o.member_list(members))
    encoder = FrameEncoder.fit(archive, split.train, chosen.inputs)
    console = open_console()
    console.print(span_table(archive, split, chosen.inputs.window))
    for line in window_lines(archive, split, encoder):
        console.print(line, markup=False, highlight=False)
    if encoder.time.step != "year":
        console.print(encoding_table(encoder))
    if plot is not None:
        plot_window(archive, split, encoder, plot, overwrite)
        echo(f"wrote {plot}")
    if out is not None:
        write_windows(windows_dataset(archive, split, encoder), out, report, overwrite)
        echo(f"wrote {out}")


commands.add(app, check, "emukit data check --data demo")
commands.add(app, demo, "emukit data demo demo.zarr --grid 12x18 --reveal")
commands.add(app, windows, "emukit data windows --data demo --members 0")
