"""`emukit plan`: what a training will cost."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emukit.cli import commands
from emukit.cli import options as o
from emukit.cli.train import Precision
from emukit.terminal import open_console


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    commands.add(app, plan, "emukit plan cnn-gru --data demo --members 0", group=commands.TRAIN)


def plan(
    model: o.Model,
    data: o.Data = None,
    members: Annotated[
        str | None, typer.Option(help="Members to train on, such as 0,1,2. Default: all.", show_default=False)
    ] = None,
    protocol: o.Protocol = None,
    recipe: Annotated[Path | None, typer.Option(help="TOML recipe laid over the defaults.", show_default=False)] = None,
    loss: o.Loss = None,
    precision: Annotated[
        Precision | None, typer.Option(help="Short for --set training.precision=...", show_default=False)
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="a.b=c", help="One setting, repeatable: training.epochs=5.")
    ] = None,
    domain: o.Domain = "1",
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Show what a training will cost here in memory and time, which bottleneck comes first, and what to switch on."""
    from emukit.cli.show import cost_table, plan_tables
    from emukit.data.protocol import make_split
    from emukit.parallel.comm import open_comm
    from emukit.planning.daily import daily_plan, is_daily_fit
    from emukit.planning.plan import make_plan
    from emukit.recipes.load import load_recipe

    report = o.reporter(quiet)
    words = [*(settings or ()), *([f"training.precision={precision.value}"] if precision else ())]
    chosen = load_recipe(model, recipe, words, loss)
    archive = o.open_named(data, card, convert, report)
    split = make_split(archive, protocol, o.member_list(members))
    if is_daily_fit(archive, chosen):
        console = open_console()
        console.print(
            cost_table(f"{model}: memory, time and disk", daily_plan(archive, chosen, split)), highlight=False
        )
        return
    with open_comm() as comm:
        made = make_plan(archive, chosen, split, comm, report, o.division(domain))
    console = open_console()
    for part in plan_tables(model, made):
        console.print(part, highlight=False)
