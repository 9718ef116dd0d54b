"""`emukit train` and `emukit models`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from emukit.cli import options as o


class Strategy(StrEnum):
    """How several processes hold the network."""

    ddp = "ddp"
    fsdp = "fsdp"


class Precision(StrEnum):
    """What networks are computed in."""

    fp32 = "fp32"
    tf32 = "tf32"
    bf16 = "bf16"
    fp16 = "fp16"


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
    loss: Annotated[
        str | None,
        typer.Option(
            help="Shipped loss instead of the recipe's: mse, l1, huber, published, metric, decade.",
            metavar="NAME",
            show_default=False,
        ),
    ] = None,
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
    devices: Annotated[
        int, typer.Option(help="Processes to train with: one a GPU, or CPU cores where there is none.", min=1)
    ] = 1,
    strategy: Annotated[
        Strategy, typer.Option(help="Several processes: a copy of the network each, or a shard of it.")
    ] = Strategy.ddp,
    precision: Annotated[
        Precision | None, typer.Option(help="Short for --set training.precision=...", show_default=False)
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the network first.")] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Convolutions with channels innermost: faster on some GPUs.")
    ] = False,
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
    from emukit.parallel.comm import inside_torchrun, open_comm
    from emukit.parallel.launch import relaunch
    from emukit.training.engine import Execution

    if devices > 1 and not inside_torchrun():
        # Mistakes in the recipe show here, once, and not in every process.
        load_recipe(model, recipe, _with_precision(settings, precision), loss)
        raise typer.Exit(relaunch(sys.argv[1:], devices))
    with open_comm() as comm:
        report = o.reporter(quiet, silent=not comm.main)
        chosen = load_recipe(model, recipe, _with_precision(settings, precision), loss)
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
                comm=comm,
                execution=Execution(strategy.value, compile, channels_last),
                reporter=report,
            )
        except KeyboardInterrupt:
            if comm.main:
                saved = (folder / RECORD_FILE).exists()
                typer.echo(
                    f"stopped; {folder} is saved. Go on with the same command and --resume --out {folder}"
                    if saved
                    else "stopped before anything was saved",
                    err=True,
                )
            raise typer.Exit(130) from None
        if comm.main:
            Console().print(evaluation_table(folder.name, evaluation))
            typer.echo(f"run {folder}: {run.record.seconds:.0f} s. Next: emukit submit {folder}")


def _with_precision(settings: list[str] | None, precision: Precision | None) -> list[str]:
    return [*(settings or ()), *([f"training.precision={precision.value}"] if precision else ())]


def models(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", show_default=False)] = None,
) -> None:
    """List what can be trained, with size and what it is good for; with a NAME, every setting and its default."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from emukit.cli.models import SIZES_NOTE, choice_lines, model_rows, setting_rows

    headings = ("setting", "default") if name else ("name", "parameters", "what it is good for")
    table = Table(*headings, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    for row in setting_rows(name) if name else model_rows():
        table.add_row(*row)
    Console().print(table)
    for line in choice_lines(name) if name else (SIZES_NOTE,):
        typer.echo(line)
