"""`emukit evaluate`, `emukit predict` and `emukit leaderboard`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emukit.cli import commands
from emukit.cli import options as o
from emukit.cli.crossval import Protocols, RecipeFile, Seeds, Setting, evaluate_recipe
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
        "emukit evaluate linear --data demo --protocols official,loso:all",
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
    what: Annotated[
        str,
        typer.Argument(
            metavar="RUN|MODEL",
            help="Run folder, as `emukit train` wrote it; or a recipe, as for `emukit train`.",
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            help="Of a RUN: validation, test, or test-all under loso. Default: validation.", show_default=False
        ),
    ] = None,
    members: Annotated[
        int | None,
        typer.Option(
            help="Draw this many realisations and score them as an ensemble, if the run can draw them.",
            min=2,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    protocols: Protocols = None,
    seeds: Seeds = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the runs of a MODEL. Default: runs/evaluate-MODEL.", show_default=False),
    ] = None,
    recipe: RecipeFile = None,
    settings: Setting = None,
    fast: o.Fast = False,
    track: o.Track = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="STORE",
            help="Default: the store a RUN was trained on; for a MODEL $EMUKIT_DATA, else the demo climate.",
            show_default=False,
        ),
    ] = None,
    card: o.Card = None,
    convert: o.Convert = None,
    format: o.Format = "table",
    quiet: o.Quiet = False,
) -> None:
    """Score a run; or, with --protocols or --seeds, train a recipe under several of them and score every run.

    Of a run it shows the score and its numbers, with references and the noise ceiling next to them. Of a recipe it
    shows every protocol, and how far seeds are apart. The runs are kept, with everything printed in validation.json;
    the same command continues where it was stopped.
    """
    import json

    of_model = {"--out": out, "--recipe": recipe, "--set": settings, "--fast": fast, "--track": track}
    asked = {"--protocols": protocols, "--seeds": seeds}
    if (Path(what) / "downscale.json").exists():
        from emukit.cli.downscale import evaluate_downscale

        evaluate_downscale(
            Path(what),
            given={**of_model, **asked},
            split=split,
            members=members,
            data=data,
            card=card,
            convert=convert,
            format=format,
            quiet=quiet,
        )
        return
    if _is_recipe(what, asked, of_model, {"--split": split, "--members": members}):
        evaluate_recipe(
            what,
            protocols=protocols,
            seeds=seeds,
            out=out,
            data=data,
            recipe=recipe,
            settings=settings,
            fast=fast,
            format=format,
            track=track,
            card=card,
            convert=convert,
            quiet=quiet,
        )
        return
    run, split = Path(what), split or "validation"
    from emukit.cli.show import (
        ENSEMBLE_HEADINGS,
        FORECAST_HEADINGS,
        ensemble_rows,
        evaluation_block,
        forecast_rows,
    )
    from emukit.competitions.registry import competition_of
    from emukit.emulators.trajectory import Trajectory
    from emukit.runs.derived import detail_tables, ensemble_tables
    from emukit.runs.ensemble_scores import evaluate_ensemble, save_ensemble
    from emukit.runs.evaluate import evaluate as score
    from emukit.runs.evaluate import scored_spans
    from emukit.runs.forecasts import evaluate_forecasts, save_forecasts
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
    forecasts = ensemble = None
    if isinstance(emulator, Trajectory):
        forecasts = evaluate_forecasts(emulator, archive, months, spans, members, report)
    if members is not None:
        ensemble = evaluate_ensemble(emulator, archive, spans, members, report)
    if same and forecasts:
        save_forecasts(run, evaluation.name, forecasts)
    if same and ensemble:
        save_ensemble(run, evaluation.name, ensemble)
    if format == "json":
        more = {"ensemble": ensemble, "forecasts": forecasts}
        echo(json.dumps(evaluation.as_dict() | {k: v.as_dict() for k, v in more.items() if v}, indent=1))
        return
    o.print_blocks([evaluation_block(run.name, evaluation)], format, None)
    if forecasts:
        rows = list(forecast_rows(forecasts, archive.card))
        # Of trajectories without realisations the last two columns are empty.
        kept = len(FORECAST_HEADINGS) - (0 if any(row[-2] for row in rows) else 2)
        o.print_rows(FORECAST_HEADINGS[:kept], [row[:kept] for row in rows], format)
    if ensemble:
        o.print_rows(ENSEMBLE_HEADINGS, ensemble_rows(ensemble, archive.card), format)


def _is_recipe(
    what: str, asked: Mapping[str, object], of_model: Mapping[str, object], of_run: Mapping[str, object]
) -> bool:
    """Whether a recipe is to be trained and scored, not a finished run scored.

    Args:
        what: The argument.
        asked: Options, by name, without one of which nothing is trained: a misspelt run folder must not cost hours.
        of_model: Further options of a recipe.
        of_run: Options of a run.

    Raises:
        EmukitError: Options of the one were given with the other, or a recipe is named alone.
    """
    from emukit.errors import EmukitError
    from emukit.runs.record import RECORD_FILE

    def given(options: Mapping[str, object]) -> list[str]:
        return [name for name, value in options.items() if value is not None and value is not False and value != []]

    is_run = (Path(what) / RECORD_FILE).exists()
    if is_run or not given(asked):
        from emukit.recipes.catalogue import recipe_names

        idle = given({**asked, **of_model})
        if is_run and idle:
            raise EmukitError(
                f"{', '.join(idle)} would do nothing: {what} is a run, already trained", hint="leave it out"
            )
        named = what.removesuffix("-fast") in recipe_names() or what.endswith(".toml") or ":" in what
        if not is_run and (idle or (named and not Path(what).is_dir())):
            raise EmukitError(
                f"{what} is not a run folder, but may be trained",
                expected="a run folder; or --protocols or --seeds, under which a recipe is trained and scored",
                hint=f"emukit evaluate {what} --protocols official,loso:all",
            )
        return False
    if idle := given(of_run):
        raise EmukitError(
            f"{', '.join(idle)} would do nothing: {what} is trained under each protocol, and scored where it can be",
            hint="leave it out; or `emukit evaluate RUN` with one of the runs that this makes",
        )
    return True


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
    begin: Annotated[
        str | None,
        typer.Option(
            metavar="STEP",
            help="First step of a trajectory, such as 2000-06-29T06. Default: the first test step, or the one after "
            "--initial.",
            show_default=False,
        ),
    ] = None,
    initial: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.nc",
            help="Fields that a trajectory begins from, such as an earlier prediction, which it continues.",
            show_default=False,
        ),
    ] = None,
    domain: o.Domain = 1,
    overwrite: o.Overwrite = False,
    data: o.TrainedData = None,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Write the prediction of a whole scenario with CF attributes, units and provenance."""
    from contextlib import ExitStack

    from emukit.data.source import open_source
    from emukit.errors import EmukitError
    from emukit.parallel.comm import open_comm
    from emukit.parallel.launch import check_devices, inside_torchrun, relaunch
    from emukit.runs.predict import check_domain, check_place, predict_forcings, write_prediction, write_scenario
    from emukit.runs.run import read_run

    if (scenario is None) == (forcings is None):
        raise EmukitError(
            "predict needs a scenario of the store, or forcings of your own",
            found="both" if scenario else "neither",
            hint="--scenario ssp245, or --forcings FILE.nc",
        )
    check_place(out, overwrite)
    chosen = read_run(run)
    chosen.refuse_unfinished()
    given = {"--data": data, "--card": card, "--convert": convert, "--begin": begin, "--initial": initial}
    idle = [name for name, value in given.items() if value]
    if forcings is not None and idle:
        raise EmukitError(f"{' and '.join(idle)} would do nothing: --forcings needs no store", hint="leave it out")
    if domain > 1 and not inside_torchrun():
        check_domain(chosen)
        check_devices(domain)
        raise typer.Exit(relaunch(sys.argv[1:], domain))
    with open_comm() as alone:
        comm = alone.divided(domain)
        report = o.reporter(quiet, silent=not comm.main)
        if forcings is not None:
            with open_source(str(forcings)) as opened:
                predicted = predict_forcings(chosen, opened.ds, str(forcings), members, comm=comm, reporter=report)
            comm.main_only(lambda: write_prediction(predicted, out, overwrite))
        else:
            assert scenario is not None
            archive = o.open_for_run(chosen, data, card, convert, report)
            with ExitStack() as files:
                fields = files.enter_context(open_source(str(initial))).ds if initial else None
                write_scenario(
                    chosen,
                    archive,
                    scenario,
                    out,
                    overwrite,
                    members=members,
                    begin=begin,
                    initial=fields,
                    comm=comm,
                    reporter=report,
                )
        if comm.main:
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

    from emukit.competitions import ranking as board
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
