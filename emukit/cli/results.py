"""`emukit evaluate`, `emukit predict` and `emukit leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from emukit.cli import options as o


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command("evaluate")(evaluate)
    app.command("predict")(predict)
    app.command("leaderboard")(leaderboard)


def evaluate(
    run: o.RunFolder,
    split: Annotated[str, typer.Option(help="validation, test, or test-all under loso.")] = "validation",
    data: o.TrainedData = None,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Score a run: the six numbers, the score, and the floors and the estimated limit beside them."""
    from rich.console import Console

    from emukit.cli.show import evaluation_table
    from emukit.experiments.evaluate import evaluate as score
    from emukit.experiments.run import read_run, save_evaluation

    report = o.reporter(quiet)
    chosen = read_run(run)
    chosen.refuse_unfinished()
    archive = o.open_for_run(chosen, data, card, convert, report)
    same = archive.digest == chosen.record.data.digest
    for words in chosen.log_problems():
        report.say(f"note: {words}")
    evaluation = score(chosen.emulator(archive), archive, chosen.split(archive), split)
    if same:
        save_evaluation(run, evaluation)
    else:
        report.say("note: other data than it was trained on; the score is shown, not kept in the run")
    Console().print(evaluation_table(run.name, evaluation))


def predict(
    run: o.RunFolder,
    scenario: Annotated[str, typer.Option(help="A scenario of the store.")],
    out: Annotated[Path, typer.Option(help="FILE.nc or FOLDER.zarr.")],
    members: Annotated[
        int | None,
        typer.Option(
            help="Write so many realisations, along a dimension `member`, if the run can draw them.",
            min=1,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    overwrite: o.Overwrite = False,
    data: o.TrainedData = None,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Write tas and pr of a whole scenario with CF attributes, units and provenance."""
    from emukit.experiments.predict import check_place, predict_scenario, write_prediction
    from emukit.experiments.run import read_run

    report = o.reporter(quiet)
    check_place(out, overwrite)
    chosen = read_run(run)
    chosen.refuse_unfinished()
    archive = o.open_for_run(chosen, data, card, convert, report)
    write_prediction(predict_scenario(chosen, archive, scenario, members), out, overwrite)
    typer.echo(f"wrote {out}")


def leaderboard(
    places: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN|submissions/]...", help="Default: runs/ and submissions/ here.")
    ] = None,
    format: Annotated[Literal["table", "md", "csv", "json"], typer.Option(help="How to print.")] = "table",
    published: Annotated[bool, typer.Option(help="Show published results too.")] = True,
) -> None:
    """Rank runs and submissions beside published results and floors, each only against scores of the same months."""
    from rich.console import Console

    from emukit.experiments.table import collect_rows
    from emukit.report import leaderboard as board

    here = [p for p in (Path("runs"), Path("submissions")) if p.is_dir() and any(p.iterdir())]
    rows = collect_rows(places or here, published, lambda why: typer.echo(f"note: left out: {why}", err=True))
    if format == "table":
        console = Console()
        for table in board.tables(rows):
            console.print(table)
    else:
        render = {"md": board.markdown, "csv": board.comma_separated, "json": board.as_json}[format]
        typer.echo(render(rows), nl=False)
