"""`emukit evaluate`, `emukit predict`, `emukit compare` and `emukit leaderboard`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emukit.cli import options as o
from emukit.cli.crossval import Protocols, Seeds, evaluate_recipe
from emukit.terminal import echo, open_console

if TYPE_CHECKING:
    from emukit.metrics.competition import Detail
    from emukit.parallel.comm import Comm
    from emukit.runs.evaluate import Evaluation
    from emukit.runs.run import Run
    from emukit.studies.bootstrap import Difference
    from emukit.studies.compare import Pair, RepeatedTable, RunComparison

HEADINGS = ("number", "better", "first", "second", "second - first", "95 % interval", "second is")
VALUES = (
    "set", "first", "second", "number", "better", "seeds", "first_mean", "second_mean", "difference", "low", "high",
    "verdict",
)  # fmt: skip


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    o.add_command(
        app,
        evaluate,
        "emukit evaluate runs/linear",
        "emukit evaluate runs/linear --format json",
        "emukit evaluate linear --data demo --protocols official,loso:all",
        group=o.LOOK,
    )
    o.add_command(
        app,
        predict,
        "emukit predict runs/linear --scenario ssp245 --out ssp245.nc",
        group=o.LOOK,
    )
    o.add_command(
        app,
        compare,
        "emukit compare runs/linear runs/mine",
        "emukit compare a/climx-templates b/climx-templates c/climx-templates",
        group=o.LOOK,
    )
    o.add_command(app, leaderboard, "emukit leaderboard runs --no-published --format csv", group=o.LOOK)


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
    recipe: o.RecipeFile = None,
    settings: o.Settings = None,
    fast: o.Fast = False,
    track: o.Track = None,
    devices: Annotated[
        int,
        typer.Option(
            help="Processes among which the realisations of --members, and the beginnings of forecasts, are divided: "
            "one per GPU, or one per CPU core without GPUs.",
            min=1,
        ),
    ] = 1,
    domain: o.Domain = "1",
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
    of_model = {"--out": out, "--recipe": recipe, "--set": settings, "--fast": fast, "--track": track}
    asked = {"--protocols": protocols, "--seeds": seeds}
    rows, columns = o.division(domain)
    sharing = rows * columns
    several = {"--devices": devices > 1, "--domain": sharing > 1}
    of_run = {"--split": split, "--members": members, **several}
    if (Path(what) / "downscale.json").exists():
        from emukit.cli.downscale import evaluate_downscale

        evaluate_downscale(
            Path(what),
            given={**of_model, **asked, **several},
            split=split,
            members=members,
            data=data,
            card=card,
            convert=convert,
            format=format,
            quiet=quiet,
        )
        return
    if _is_recipe(what, asked, of_model, of_run):
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
    from emukit.runs.run import read_run

    run = read_run(Path(what))
    run.refuse_unfinished()
    from emukit.parallel.launch import inside_torchrun

    if devices == sharing == 1 and not inside_torchrun():
        _evaluate_run(run, split or "validation", members, None, data, card, convert, format, quiet)
        return
    from emukit.parallel.comm import open_comm

    if devices > sharing:
        _refuse_idle(run, members, devices)
    _start_processes(run, devices, sharing)
    with open_comm() as alone:
        comm = alone.divided(sharing, columns)
        _evaluate_run(run, split or "validation", members, comm, data, card, convert, format, quiet)


def _refuse_idle(run: Run, members: int | None, devices: int) -> None:
    """Refuse processes that would have nothing to do.

    Raises:
        EmukitError: Neither realisations nor forecasts are scored.
    """
    from emukit.errors import EmukitError
    from emukit.recipes.schema import NetworkRecipe

    forecasts = isinstance(run.recipe, NetworkRecipe) and run.recipe.inputs.states
    if members is None and not forecasts:
        raise EmukitError(
            "--devices would do nothing: it divides realisations, and the beginnings of forecasts",
            found=f"--devices {devices}, and no --members",
            hint="leave it out, or --members 20 for a run that draws realisations",
        )


def _start_processes(run: Run, devices: int, sharing: int) -> None:
    """Have several processes do what this one was asked for, unless it is one of them.

    Args:
        run: What they evaluate or predict.
        devices: How many; 1: as many as share a globe.
        sharing: How many of them share a globe.

    Raises:
        RunError: Processes are to share one globe, and the emulator of the run is not a network.
        TrainingError: The network cannot be divided, this machine has too few devices, or torchrun has started others.
        typer.Exit: They have done it.
    """
    from emukit.parallel.comm import check_groups
    from emukit.parallel.launch import check_devices, check_started, inside_torchrun, relaunch
    from emukit.runs.predict import check_domain

    if inside_torchrun():
        check_started(devices)
        return
    if sharing > 1:
        check_domain(run)
    processes = sharing if devices == 1 else devices
    check_groups(processes, sharing)
    check_devices(processes)
    raise typer.Exit(relaunch(sys.argv[1:], processes))


def _evaluate_run(
    chosen: Run,
    split: str,
    members: int | None,
    comm: Comm | None,
    data: str | None,
    card: str | None,
    convert: list[str] | None,
    format: o.Formats,
    quiet: bool,
) -> None:
    """What `emukit evaluate RUN` does: one process, or each of several, of which the first tells."""
    import json

    from emukit.cli.show import (
        ENSEMBLE_HEADINGS,
        FORECAST_HEADINGS,
        ensemble_rows,
        evaluation_block,
        forecast_rows,
    )
    from emukit.competitions.registry import competition_of
    from emukit.emulators.trajectory import Trajectory
    from emukit.runs.ensemble_scores import evaluate_ensemble, save_ensemble
    from emukit.runs.evaluate import detail_tables, ensemble_tables, scored_spans
    from emukit.runs.evaluate import evaluate as score
    from emukit.runs.forecasts import evaluate_forecasts, save_forecasts
    from emukit.runs.run import save_evaluation

    run, main = chosen.folder, comm is None or comm.main
    report = o.reporter(quiet, silent=not main)
    # Scores of realisations are of whole fields.
    reading = o.reading(chosen.recipe, comm) if comm and members is None else None
    archive = o.open_for_run(chosen, data, card, convert, report, reading)
    same = archive.digest == chosen.record.data.digest
    for words in chosen.log_problems():
        report.say(f"note: {words}")
    emulator, months = chosen.emulator(archive), chosen.split(archive)
    if comm:
        from emukit.emulators.neural import share_globe

        share_globe(emulator, comm)
    evaluation = score(emulator, archive, months, split)
    spans = scored_spans(archive, months, split)
    for far in dict.fromkeys(emulator.warning_of(archive[s.scenario], s.start, s.stop) for s in spans):
        if far:
            report.say(f"note: {far}")
    if same and main:
        save_evaluation(run, evaluation)
    elif not same:
        report.say("note: other data than it was trained on; the score is shown, not kept in the run")
    derived = competition_of(archive).derive is not None
    if derived:
        tables = detail_tables(emulator, archive, spans) if format in ("table", "json") else []
        if members is not None:
            tables += ensemble_tables(emulator, archive, spans, members, report, comm)
        if main:
            _print_derived(run.name, evaluation, tables, format)
        return
    forecasts = ensemble = None
    if isinstance(emulator, Trajectory):
        forecasts = evaluate_forecasts(emulator, archive, months, spans, members, report, comm)
    if members is not None:
        ensemble = evaluate_ensemble(emulator, archive, spans, members, report, comm)
    if not main:
        return
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
    domain: o.Domain = "1",
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
    from emukit.runs.predict import check_place, predict_forcings, write_prediction, write_scenario
    from emukit.runs.run import read_run

    if (scenario is None) == (forcings is None):
        raise EmukitError(
            "predict needs a scenario of the store, or forcings of your own",
            found="both" if scenario else "neither",
            hint="--scenario ssp245, or --forcings FILE.nc",
        )
    rows, columns = o.division(domain)
    processes = rows * columns
    check_place(out, overwrite)
    chosen = read_run(run)
    chosen.refuse_unfinished()
    given = {"--data": data, "--card": card, "--convert": convert, "--begin": begin, "--initial": initial}
    idle = [name for name, value in given.items() if value]
    if forcings is not None and idle:
        raise EmukitError(f"{' and '.join(idle)} would do nothing: --forcings needs no store", hint="leave it out")
    if processes > 1:
        _start_processes(chosen, 1, processes)
    with open_comm() as alone:
        comm = alone.divided(processes, columns)
        report = o.reporter(quiet, silent=not comm.main)
        if forcings is not None:
            with open_source(str(forcings)) as opened:
                predicted = predict_forcings(chosen, opened.ds, str(forcings), members, comm=comm, reporter=report)
            comm.main_only(lambda: write_prediction(predicted, out, overwrite))
        else:
            assert scenario is not None
            archive = o.open_for_run(chosen, data, card, convert, report, o.reading(chosen.recipe, comm))
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
        from rich.console import Group

        console = open_console()
        # At once: whoever reads the first line alone, as head does, is no error then.
        console.print(Group(*board.tables(rows, console.width)))
    else:
        render = {"md": board.markdown, "csv": board.to_csv, "json": board.as_json}[format]
        echo(render(rows), nl=False)
        # Its score may be lost: what no number says is said, as the table says it.
        for row in rows:
            if row.kind == "submission" and row.score is None:
                report.note(f"{row.name}: {board.NOT_SCORED}")


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN...",
            help="Run folders, the one to compare with first; or folders of one study on several data sets.",
        ),
    ],
    split: Annotated[
        str | None,
        typer.Option(
            metavar="SET",
            help="validation, test, or test-all under loso. Default: test where it is visible, else validation.",
            show_default=False,
        ),
    ] = None,
    data: o.TrainedData = None,
    card: o.Card = None,
    convert: o.Convert = None,
    format: o.Format = "table",
    quiet: o.Quiet = False,
) -> None:
    """Say whether runs differ: paired differences of every two, with 95 % intervals over seeds and years.

    Runs that differ in their seed alone are taken together, and compared seed by seed. Of a study that was repeated on
    several data sets, such as seeds of a demo climate: the means over these, with Student's t.
    """
    import json

    if any(_is_study(folder) for folder in runs):
        _compare_studies(runs, split, data or card or convert, format, quiet)
        return
    from emukit.runs.run import read_run
    from emukit.studies.compare import check_comparable, compare_runs

    report = o.reporter(quiet)
    chosen = [read_run(folder) for folder in runs]
    check_comparable(chosen)
    archive = o.open_for_run(chosen[0], data, card, convert, report)
    found = compare_runs(chosen, archive, split, report)
    for note in found.notes:
        report.say(f"note: {note}")
    if format == "json":
        echo(json.dumps(found.as_dict(), indent=1))
    elif format == "csv":
        o.print_rows(VALUES, (row for pair in found.pairs for row in _values(found, pair)), format)
    else:
        title = f"{found.protocol} {found.set}: {'; '.join(found.spans)}"
        echo(f"### {title}" if format == "md" else title)
        for pair in found.pairs:
            echo(f"\nfirst: {pair.first}; second: {pair.second}; seeds: {_seeds(pair)}\n")
            o.print_rows(HEADINGS, _cells(pair, full=format == "md"), format)
            echo(f"\n{pair.sentence}" if format == "md" else pair.sentence)


def _is_study(folder: Path) -> bool:
    return (folder / "study.json").is_file()


def _compare_studies(folders: Sequence[Path], split: str | None, data: object, format: o.Formats, quiet: bool) -> None:
    """One study on several data sets, from its kept results: nothing is scored again."""
    import json

    from emukit.errors import RunError
    from emukit.studies.compare import VALUES, repeated_study, value_rows

    other = [str(folder) for folder in folders if not _is_study(folder)]
    if other:
        raise RunError(
            "runs and studies are not compared with each other",
            found=f"{', '.join(other)} without a study.json",
            hint="name runs, or folders of one study on several data sets",
        )
    if data:
        raise RunError(
            "studies are compared by what they kept, and open no data",
            found="--data, --card or --convert",
            hint="leave these options out",
        )
    tables = repeated_study(folders)
    chosen = [table for table in tables if split in (None, table.set)]
    if not chosen:
        raise RunError(
            f"the studies have no set {split!r} in common",
            expected=", ".join(dict.fromkeys(table.set for table in tables)),
            hint="choose one of these with --split",
        )
    report = o.reporter(quiet)
    for note in dict.fromkeys(note for table in chosen for note in table.notes):
        report.say(f"note: left out, {note}")
    if format == "json":
        echo(json.dumps([table.as_dict() for table in chosen], indent=1))
    elif format == "csv":
        o.print_rows(VALUES, (row for table in chosen for row in value_rows(table)), format)
    else:
        for table in chosen:
            _print_study(table, format)


def _print_study(table: RepeatedTable, format: o.Formats) -> None:
    from emukit.studies.bootstrap import both_ends

    def estimate(found: Difference | None, sign: str) -> tuple[str, str]:
        if found is None or found.low is None or found.high is None:
            return "", ""
        return f"{found.mean:{sign}.4f}", " to ".join(both_ends(found.low, found.high, sign=sign))

    title = f"{table.name}, {table.protocol} {table.set}, {len(table.folders)} data sets: {'; '.join(table.folders)}"
    echo(f"### {title}\n" if format == "md" else title)
    numbers = [str(i) for i in range(1, len(table.folders) + 1)]
    headings = ("", *numbers, "mean", "95 % interval", "less base's", "its 95 % interval")
    cells = []
    for row in table.rows:
        score, difference = row.mean["score"], (row.difference or {}).get("score")
        each = (f"{value:.4f}" for value in row.each)
        cells.append((row.variant, *each, *estimate(score, ""), *estimate(difference, "+")))
    o.print_rows(headings, cells, format)
    echo(f"\n{table.competition.by_key['score'].description}\n")
    for row in table.rows[1:]:
        echo(f"{'- ' if format == 'md' else ''}{row.variant}: {row.sentence}")


def _seeds(pair: Pair) -> str:
    return ", ".join(str(a) if a == b else f"{a} and {b}" for a, b in pair.seeds)


def _cells(pair: Pair, full: bool) -> list[tuple[str, ...]]:
    from emukit.studies.bootstrap import both_ends

    rows: list[tuple[str, ...]] = []
    for row in pair.rows:
        d = row.difference
        ends = "" if d.low is None or d.high is None else " to ".join(both_ends(d.low, d.high))
        units = f" {row.column.units}" if row.column.units else ""
        first, second = (row.column.text(value) for value in (row.first, row.second))
        digits = row.column.digits
        rows.append(
            (
                row.column.full_heading if full else row.column.heading + units,
                row.column.better,
                first,
                second,
                f"{d.mean:+.{digits}f}",
                ends,
                row.verdict,
            )
        )
    return rows


def _values(found: RunComparison, pair: Pair) -> list[tuple[str, ...]]:
    return [
        (
            found.set,
            pair.first,
            pair.second,
            row.column.key,
            row.column.better,
            str(len(pair.seeds)),
            repr(row.first),
            repr(row.second),
            repr(row.difference.mean),
            *("" if end is None else repr(end) for end in (row.difference.low, row.difference.high)),
            row.verdict,
        )
        for row in pair.rows
    ]
