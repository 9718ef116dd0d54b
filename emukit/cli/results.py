"""`emukit evaluate`, `emukit predict` and `emukit leaderboard`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emukit.cli import commands
from emukit.cli import options as o
from emukit.terminal import echo, open_console


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    commands.add(
        app,
        evaluate,
        "emukit evaluate runs/linear",
        "emukit evaluate runs/linear --format json",
        group=commands.LOOK,
    )
    commands.add(app, predict, "emukit predict runs/linear --scenario ssp245 --out ssp245.nc", group=commands.LOOK)
    commands.add(app, leaderboard, "emukit leaderboard runs --no-published --format csv", group=commands.LOOK)


def evaluate(
    run: o.RunFolder,
    split: Annotated[str, typer.Option(help="validation, test, or test-all under loso.")] = "validation",
    data: o.TrainedData = None,
    card: o.Card = None,
    convert: o.Convert = None,
    format: o.Format = "table",
    quiet: o.Quiet = False,
) -> None:
    """Score a run: the score and its numbers, with references and the estimated limit beside them."""
    from emukit.cli.show import evaluation_block
    from emukit.runs.evaluate import evaluate as score
    from emukit.runs.evaluate import scored_spans
    from emukit.runs.run import read_run, save_evaluation

    report = o.reporter(quiet)
    chosen = read_run(run)
    chosen.refuse_unfinished()
    archive = o.open_for_run(chosen, data, card, convert, report)
    same = archive.digest == chosen.record.data.digest
    for words in chosen.log_problems():
        report.say(f"note: {words}")
    emulator, months = chosen.emulator(archive), chosen.split(archive)
    evaluation = score(emulator, archive, months, split)
    spans = scored_spans(archive, months, split)
    for far in dict.fromkeys(emulator.warning_of(archive[s.scenario], s.start, s.stop) for s in spans):
        if far:
            report.say(f"note: {far}")
    if same:
        save_evaluation(run, evaluation)
    else:
        report.say("note: other data than it was trained on; the score is shown, not kept in the run")
    o.print_blocks([evaluation_block(run.name, evaluation)], format, evaluation.as_dict())


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
    from emukit.runs.predict import check_place, predict_scenario, write_prediction
    from emukit.runs.run import read_run

    report = o.reporter(quiet)
    check_place(out, overwrite)
    chosen = read_run(run)
    chosen.refuse_unfinished()
    archive = o.open_for_run(chosen, data, card, convert, report)
    predicted = predict_scenario(chosen, archive, scenario, members, reporter=report)
    write_prediction(predicted, out, overwrite)
    echo(f"wrote {out}")


def leaderboard(
    places: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN|submissions/]...", help="Default: runs/ and submissions/ here.")
    ] = None,
    published: Annotated[bool, typer.Option(help="Show published results too.")] = True,
    format: o.Format = "table",
    quiet: o.Quiet = False,
) -> None:
    """Rank runs and submissions beside published results and references, each only against the same months."""

    from emukit.competitions import leaderboard as board
    from emukit.runs.leaderboard import collect_rows

    report = o.reporter(quiet)
    here = [p for p in (Path("runs"), Path("submissions")) if p.is_dir() and any(p.iterdir())]
    rows = collect_rows(places or here, published, lambda why: report.say(f"note: left out: {why}"))
    if format == "table":
        console = open_console()
        for table in board.tables(rows):
            console.print(table)
    else:
        render = {"md": board.markdown, "csv": board.comma_separated, "json": board.as_json}[format]
        echo(render(rows), nl=False)
