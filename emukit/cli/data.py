"""`emukit data`: look at a store, make the demo climate, show windows."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from emukit.cli import options as o
from emukit.terminal import echo, open_console

if TYPE_CHECKING:
    from emukit.progress import Reporter


class Like(StrEnum):
    """Layouts of other competitions that the demo climate is written in."""

    LITE = "climx-lite"
    TINY = "climx-tiny"


app = o.App(
    cls=o.CommandGroup, help="Check stores, write the demo climate, show forcing windows.", no_args_is_help=True
)

# The spelling of earlier versions, when these commands took the store without --data.
Positional = Annotated[str | None, typer.Argument(metavar="[STORE]", hidden=True, show_default=False)]


def check(
    store: Positional = None,
    data: o.Data = None,
    card: o.Card = None,
    convert: o.Convert = None,
    digests: Annotated[
        bool,
        typer.Option("--digests", help="Print what the table `published` of a data card says of these values, too."),
    ] = False,
    quiet: o.Quiet = False,
) -> None:
    """Check a store: what is in it, what is odd, what is hidden; exit with 1 if nothing can be trained on it."""
    from emukit.data.check_report import FolderReport, StoreReport, inspect_folder, inspect_store
    from emukit.data.daily_folder import is_daily_folder
    from emukit.data.opening import DEMO, data_source
    from emukit.errors import EmukitError

    source = data_source(o.one_store(data, store))
    if is_daily_folder(source):
        if convert or digests:
            raise EmukitError(
                f"{'--convert' if convert else '--digests'} does not apply to a folder of daily files such as {source}",
                hint="leave it out; units are read from the files",
            )
        report: StoreReport | FolderReport = inspect_folder(source, card, o.reporter(quiet))
    elif source == DEMO:
        # The demo climate is made again whenever it is opened; what can be checked is what it writes.
        with TemporaryDirectory() as folder:
            from emukit.data.demo import DemoClimate, write_demo

            written = write_demo(DemoClimate(), Path(folder) / "demo.zarr")
            found = inspect_store(written, card=card, convert=o.conversions(convert), digests=digests)
            report = replace(found, source=DEMO)
    else:
        report = inspect_store(source, card=card, convert=o.conversions(convert), digests=digests)
    for line in report.verdict() if quiet else report.lines():
        echo(line)
    if isinstance(report, StoreReport) and report.digests is not None:
        echo("\n" + "\n".join(report.digests.toml()))
    if not report.trainable:
        raise typer.Exit(1)


def card(
    store: Positional = None,
    data: o.Data = None,
    name: Annotated[str | None, typer.Option(help="Of the card. Default: after the store.", show_default=False)] = None,
    quiet: o.Quiet = False,
) -> None:
    """Print a draft of a data card for a store: `> mine.toml`, look at what it guessed, then `--card mine.toml`."""
    from emukit.data.draft import draft_card
    from emukit.data.opening import DEMO, data_source

    report = o.reporter(quiet)
    source = data_source(o.one_store(data, store))
    if source != DEMO:
        echo(draft_card(source, report, name), nl=False)
        return
    from emukit.data.demo import DemoClimate, write_demo

    with TemporaryDirectory() as folder:
        written = write_demo(DemoClimate(), Path(folder) / "demo.zarr")
        echo(draft_card(written, report, name), nl=False)


def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder, such as demo.zarr.")],
    like: Annotated[
        Like | None,
        typer.Option(
            help="A daily climate in the layout of ClimX; tiny is for a first look, and needs --years 86 to train.",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(help="Latitude x longitude cells; 24x36, climx-lite 12x18, climx-tiny 4x6.", show_default=False),
    ] = None,
    years: Annotated[
        int | None,
        typer.Option(help="Years from 2015 on; 85 and one month, climx-lite 86, climx-tiny 10.", show_default=False),
    ] = None,
    members: Annotated[
        int | None, typer.Option(help="Runs that differ only in their weather; 3. ClimX has one.", show_default=False)
    ] = None,
    first_year: Annotated[
        int | None,
        typer.Option(help="Of the historical run of --like: climx-lite 1850, climx-tiny 1959.", show_default=False),
    ] = None,
    seed: Annotated[int, typer.Option(help="Another seed makes another planet.")] = 0,
    overwrite: o.Overwrite = False,
    reveal: Annotated[bool, typer.Option("--reveal", help="Write the hidden test targets too.")] = False,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="With --like: write the hidden test targets there.", show_default=False),
    ] = None,
    quiet: o.Quiet = False,
) -> None:
    """Write the demo climate as a Zarr store of the competition's layout, its test scenario hidden by zeros.

    With --like climx-lite it is a daily climate in a folder of NetCDF files as the ClimX competition distributes them.
    """
    from emukit.errors import EmukitError

    cells = _cells(grid) if grid is not None else None
    if like is None:
        wrong = {"--truth": truth, "--first-year": first_year}
    else:
        wrong = {"--members": members, "--reveal": reveal or None}
    given = [name for name, value in wrong.items() if value is not None]
    if given:
        raise EmukitError(
            f"{', '.join(given)} {'needs' if like is None else 'cannot be used with'} --like",
            hint="--like climx-lite" if like is None else "there is one member; --truth FOLDER writes hidden targets",
        )
    report = o.reporter(quiet)
    if like is not None:
        _daily_demo(out, like, cells, years, first_year, seed, truth, overwrite, report)
        return
    from emukit.data.demo import DemoClimate, write_demo

    lat, lon = cells or (24, 36)
    climate = DemoClimate(lat_cells=lat, lon_cells=lon, years=_or(years, 85), members=_or(members, 3), seed=seed)
    write_demo(climate, out, hidden=not reveal, reporter=report, overwrite=overwrite)
    echo(f"wrote {out}: 4 scenarios, {climate.months} months, {climate.members} members, {lat} x {lon} cells")


def _daily_demo(
    out: Path,
    like: Like,
    cells: tuple[int, int] | None,
    years: int | None,
    first_year: int | None,
    seed: int,
    truth: Path | None,
    overwrite: bool,
    report: Reporter,
) -> None:
    from emukit.data.demo.climx import write_climx_demo
    from emukit.data.demo.daily import DailyClimate

    tiny = like is Like.TINY
    lat, lon = cells or ((4, 6) if tiny else (12, 18))
    climate = DailyClimate(
        lat_cells=lat,
        lon_cells=lon,
        first_year=_or(first_year, 1959 if tiny else 1850),
        years=_or(years, 10 if tiny else 86),
        seed=seed,
    )
    files = write_climx_demo(climate, out, truth, report, overwrite=overwrite)
    past, future = climate.span("historical"), climate.span("ssp245")
    echo(
        f"wrote {out}: {len(files)} files, historical {past[0]}-{past[-1]}, 4 scenarios {future[0]}-{future[-1]}, "
        f"{lat} x {lon} cells; the targets of ssp245 are {f'in {truth}' if truth else 'not written (--truth FOLDER)'}"
    )


def _cells(grid: str) -> tuple[int, int]:
    from emukit.errors import EmukitError

    try:
        lat, lon = (int(n) for n in grid.lower().split("x"))
    except ValueError:
        raise EmukitError(f"cannot read --grid {grid!r}", expected="LATxLON", hint="--grid 24x36") from None
    return lat, lon


def _or(given: int | None, otherwise: int) -> int:
    return otherwise if given is None else given


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
    from emukit.data.cf import check_place, windows_dataset, write_windows
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


o.add_command(app, check, "emukit data check --data demo")
o.add_command(app, card, "emukit data card --data demo")
o.add_command(
    app,
    demo,
    "emukit data demo demo.zarr --grid 12x18 --reveal",
    "emukit data demo climx-demo --like climx-lite --truth climx-truth",
)
o.add_command(app, windows, "emukit data windows --data demo --members 0")
