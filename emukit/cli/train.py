"""`emukit train` and `emukit models`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emukit.cli import options as o


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command("train")(train)
    app.command("models")(models)


def train(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="What to train; `emukit models` lists it.")],
    data: o.Data = None,
    members: Annotated[
        str | None, typer.Option(help="Members to train on, such as 0,1,2. Default: all.", show_default=False)
    ] = None,
    protocol: o.Protocol = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML recipe laid over the defaults.", show_default=False)] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="One setting, repeatable: training.epochs=5.")
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Of weights, dropout and batch order.", min=0, max=2**63 - 1, metavar="N")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/MODEL-PROTOCOL-sSEED.", show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Train an emulator, score it on validation, and keep the run."""
    from rich.console import Console

    from emukit.cli.show import evaluation_table
    from emukit.experiments.recipe import load_recipe
    from emukit.experiments.record import RECORD_FILE
    from emukit.experiments.run import Opening, train_run

    report = o.reporter(quiet)
    chosen = load_recipe(model, recipe, settings or ())
    archive = o.open_named(data, card, convert, report)
    named = protocol or archive.card.default_protocol
    folder = out or Path("runs") / f"{model}-{named.replace(':', '-')}-s{seed}"
    try:
        run, evaluation = train_run(
            archive,
            chosen,
            folder,
            protocol=protocol,
            members=o.member_list(members),
            seed=seed,
            resume=resume,
            opening=Opening(card, o.conversions(convert)),
            reporter=report,
        )
    except KeyboardInterrupt:
        if (folder / RECORD_FILE).exists():
            typer.echo(f"stopped; {folder} is saved. Go on with the same command and --resume --out {folder}", err=True)
        else:
            typer.echo("stopped before anything was saved", err=True)
        raise typer.Exit(130) from None
    Console().print(evaluation_table(folder.name, evaluation))
    typer.echo(f"run {folder}: {run.record.seconds:.0f} s. Next: emukit submit {folder}")


def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None,
) -> None:
    """List what can be trained, with size and what it is good for; with a NAME, every setting and its default."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from emukit.cli.models import choice_lines, model_rows, setting_rows

    headings = ("setting", "default") if name else ("name", "parameters", "what it is good for")
    table = Table(*headings, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for row in setting_rows(name) if name else model_rows():
        table.add_row(*row)
    Console().print(table)
    if name:
        for line in choice_lines(name):
            typer.echo(line)
