"""`emukit evaluate`, `emukit predict` and `emukit leaderboard`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emukit.cli import commands
from emukit.cli import options as o
from emukit.terminal import echo, open_console

if TYPE_CHECKING:
    from emukit.metrics.competition import Detail
    from emukit.runs.evaluate import Evaluation


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    commands.add(
        app,
        evaluate,
        "emukit evaluate runs/linear",
        "emukit evaluate runs/linear --format json",
        group=commands.LOOK,
    )
    commands.add(
        app,
        predict,
        "emukit predict runs/linear --scenario ssp245 --out ssp245.nc",
        group=commands.LOOK,
    )
    commands.add(app, leaderboard, "emukit leaderboard runs --no-published --format csv", group=commands.LOOK)


def evaluate(
    run: o.RunFolder,
    split: Annotated[str, typer.Option(help="validation, test, or test-all under loso.")] = "validation",
    members: Annotated[
        int | None,
        typer.Option(
            help="Draw this many realisations and score them as an ensemble, if the run can draw them.",
            min=2,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    data: o.TrainedData = None,
    card: o.Card = None,
    convert: o.Convert = None,
    format: o.Format = "table",
    quiet: o.Quiet = False,
) -> None:
    """Score a run: the score and its numbers, with references and the noise ceiling next to them."""
    import json

    from emukit.cli.show import ENSEMBLE_HEADINGS, ensemble_rows, evaluation_block
    from emukit.competitions.registry import competition_of
    from emukit.runs.derived import detail_tables, ensemble_tables
    from emukit.runs.ensemble import evaluate_ensemble, save_ensemble
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
    derived = competition_of(archive).derive is not None
    if derived:
        tables = detail_tables(emulator, archive, spans) if format in ("table", "json") else []
        if members is not None:
            tables += ensemble_tables(emulator, archive, spans, members, report)
        _print_derived(run.name, evaluation, tables, format)
        return
    if members is None:
        o.print_blocks([evaluation_block(run.name, evaluation)], format, evaluation.as_dict())
        return
    ensemble = evaluate_ensemble(emulator, archive, spans, members, report)
    if same:
        save_ensemble(run, evaluation.name, ensemble)
    if format == "json":
        echo(json.dumps({**evaluation.as_dict(), "ensemble": ensemble.as_dict()}, indent=1))
        return
    o.print_blocks([evaluation_block(run.name, evaluation)], format, None)
    o.print_rows(ENSEMBLE_HEADINGS, ensemble_rows(ensemble, archive.card), format)


def _print_derived(name: str, evaluation: Evaluation, tables: Sequence[tuple[str, Detail]], format: o.Formats) -> None:
    """A score of what is derived from years, and further tables; these are shown, not kept."""
    import json

    from emukit.cli.show import evaluation_block

    if format == "json":
        further = [{"span": span, **asdict(table)} for span, table in tables]
        echo(json.dumps({**evaluation.as_dict(), "tables": further}, indent=1))
        return
    o.print_blocks([evaluation_block(name, evaluation)], format, None)
    for span, table in tables:
        if format == "table":
            echo(span)
        o.print_rows(table.headings, table.rows[: table.most or None], format)


def predict(
    run: o.RunFolder,
    out: Annotated[Path, typer.Option(help="FILE.nc or FOLDER.zarr.")],
    scenario: Annotated[str | None, typer.Option(help="A scenario of the store.", show_default=False)] = None,
    forcings: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.nc",
            help="Forcings of your own, in the place of a scenario of the store: NetCDF or Zarr, without any target.",
            show_default=False,
        ),
    ] = None,
    members: Annotated[
        int | None,
        typer.Option(
            help="Write this many realisations, along a dimension `member`, if the run can draw them.",
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
    """Write the prediction of a whole scenario with CF attributes, units and provenance."""
    from emukit.data.source import open_source
    from emukit.errors import EmukitError
    from emukit.runs.predict import check_place, predict_forcings, write_prediction, write_scenario
    from emukit.runs.run import read_run

    if (scenario is None) == (forcings is None):
        raise EmukitError(
            "predict needs a scenario of the store, or forcings of your own",
            found="both" if scenario else "neither",
            hint="--scenario ssp245, or --forcings FILE.nc",
        )
    report = o.reporter(quiet)
    check_place(out, overwrite)
    chosen = read_run(run)
    chosen.refuse_unfinished()
    if forcings is not None:
        given = {"--data": data, "--card": card, "--convert": convert}
        idle = [name for name, value in given.items() if value]
        if idle:
            raise EmukitError(f"{' and '.join(idle)} would do nothing: --forcings needs no store", hint="leave it out")
        with open_source(str(forcings)) as opened:
            write_prediction(
                predict_forcings(chosen, opened.ds, str(forcings), members, reporter=report), out, overwrite
            )
    else:
        assert scenario is not None
        archive = o.open_for_run(chosen, data, card, convert, report)
        write_scenario(chosen, archive, scenario, out, overwrite, members=members, reporter=report)
    echo(f"wrote {out}")


def leaderboard(
    places: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN|submissions/]...", help="Default: runs/ and submissions/ here.")
    ] = None,
    published: Annotated[bool, typer.Option(help="Show published results too.")] = True,
    format: o.Format = "table",
    quiet: o.Quiet = False,
) -> None:
    """Rank runs and submissions next to published results and references, each only against the same months."""

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
        render = {"md": board.markdown, "csv": board.to_csv, "json": board.as_json}[format]
        echo(render(rows), nl=False)
