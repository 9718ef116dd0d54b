"""`emukit validate`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from emukit.cli import options as o


def add_commands(app: typer.Typer) -> None:
    """Register this module's command."""
    app.command("validate")(validate)


def validate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="What to train; `emukit models` lists it.")],
    protocols: Annotated[
        str | None,
        typer.Option(
            help="With commas: official, k360, loso:SCENARIO, and loso:all, every scenario that can be left out and "
            "scored. Default: the data card's, and loso:all.",
            metavar="NAME,...",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(help="Runs under each protocol, where a seed decides anything.", min=1)] = 3,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs. Default: runs/validate-MODEL.", show_default=False)
    ] = None,
    data: o.Data = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML recipe laid over the defaults.", show_default=False)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="One setting, repeatable: training.epochs=5.")
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown tables.")] = False,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Train under several protocols and seeds, and show scores, their spread, the floor and the estimated limit.

    The runs are kept, with everything printed in validation.json; the same command goes on where it was stopped.
    """
    from rich.console import Console

    from emukit.errors import TrainingError
    from emukit.experiments.recipe import load_recipe
    from emukit.experiments.run import Opening
    from emukit.experiments.validate import REPORT_FILE
    from emukit.experiments.validate import validate as run_all
    from emukit.parallel.comm import open_comm
    from emukit.report import validation as report

    chosen = load_recipe(model, recipe, settings or ())
    folder = out or Path("runs") / f"validate-{model}"
    reporter = o.reporter(quiet)
    with open_comm() as comm:
        if comm.world > 1:
            raise TrainingError("emukit validate runs in one process", found=f"{comm.world}", hint="without torchrun")
        archive = o.open_named(data, card, convert, reporter)
        try:
            result = run_all(
                archive,
                chosen,
                model,
                folder,
                protocols=protocols,
                seeds=seeds,
                opening=Opening(card, o.conversions(convert)),
                comm=comm,
                command=_train_command(model, data, recipe, settings, card, convert),
                reporter=reporter,
            )
        except KeyboardInterrupt:
            typer.echo(f"stopped; what is in {folder} is kept. Go on with the same command", err=True)
            raise typer.Exit(130) from None
    if markdown:
        typer.echo(report.markdown(result.blocks()))
    else:
        console = Console()
        for table in report.tables(result.blocks()):
            console.print(table)
    for protocol, why in result.not_scored.items():
        typer.echo(f"not scored: {protocol} test, {why}")
    typer.echo(f"wrote {folder / REPORT_FILE}", err=True)


def _train_command(
    model: str,
    data: str | None,
    recipe: Path | None,
    settings: list[str] | None,
    card: str | None,
    convert: list[str] | None,
) -> str:
    """What trains the same recipe on the same data, but for protocol and seed."""
    words = ["emukit", "train", model]
    for name, value in (("--data", data), ("--recipe", recipe), ("--card", card)):
        words += [name, str(value)] if value else []
    for name, values in (("--set", settings), ("--convert", convert)):
        words += [word for value in values or () for word in (name, value)]
    return shlex.join(words)
