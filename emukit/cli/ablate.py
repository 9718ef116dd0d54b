"""`emukit ablate`: a study of variants, with seeds, paired differences and resumption."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emukit.cli import options as o
from emukit.terminal import echo, open_console

if TYPE_CHECKING:
    from emukit.data.archive import Archive
    from emukit.progress import Reporter
    from emukit.studies.ablate import PlannedRun, StudyPlan
    from emukit.studies.study import Variant


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    o.add_command(
        app,
        ablate,
        "emukit ablate --list",
        "emukit ablate loss-weights --data demo --seeds 2 --budget 10m --dry-run",
        group=o.TRAIN,
    )


def ablate(
    study: Annotated[
        str | None, typer.Argument(metavar="NAME|FILE.toml", help="A shipped study, or a file.", show_default=False)
    ] = None,
    show: Annotated[bool, typer.Option("--list", help="Say what the shipped studies ask, and stop.")] = False,
    data: o.Data = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            help="Runs of a variant under each protocol. Default: the study's.", min=1, max=1000, show_default=False
        ),
    ] = None,
    protocols: Annotated[
        str | None,
        typer.Option(
            help="With commas, as for `emukit evaluate`. Default: the study's, else the data card's.",
            metavar="NAME,...",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Fit epochs to this time: 30m, 2h. Default: those of the recipes.", show_default=False),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            help="Runs at a time. Default: one for each GPU, else for each core.", min=1, max=256, show_default=False
        ),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            help="Run on a Ray cluster: ray, or ray://HOST:PORT. Data and --out lie where all nodes see them.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the studies, and of the runs they share.")] = Path("ablations"),
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be trained and how long it would take, then stop.")
    ] = False,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed runs again.")] = False,
    format: o.Format = "table",
    markdown: o.Markdown = False,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Train variants of a recipe with several seeds; show which differ from the base, and how sure that is.

    The runs are kept, shared by all studies; the same command continues where it was stopped.
    """
    from emukit.errors import RecipeError

    format = o.chosen_format(format, markdown)
    if show:
        if study:
            raise RecipeError(f"--list shows all studies, with {study} as without", hint="emukit ablate --list")
        _print_list(format)
        return
    if study is None:
        raise RecipeError("no study is named", hint="`emukit ablate --list` shows those that are shipped")
    # A list of studies needs none of these.
    from emukit.cli.watch import Watch
    from emukit.data.opening import data_source
    from emukit.files import exclusive
    from emukit.studies import results as tables
    from emukit.studies.ablate import StudyData, make_study_plan, run_study, write_plan
    from emukit.studies.budget import plan_exists
    from emukit.studies.search import Search, search_study
    from emukit.studies.study import load_study, seconds_of

    chosen = load_study(study)
    if chosen.trials:
        # Whether it can be searched is known before hours of training.
        Search(chosen)
    try:
        seconds_of("1s" if budget is None else budget)
    except ValueError as e:
        raise RecipeError(f"--budget {e}") from None
    reporter = o.reporter(quiet)
    archive = o.open_named(data, card, convert, reporter)
    words = ["--data", data_source(data)]
    for name, values in (("--card", [card] if card else []), ("--convert", convert or [])):
        words += [word for value in values for word in (name, value)]
    # A command that repeats this one elsewhere too: what the environment, or a default, said of the data is said in it.
    given = [] if data else words[:2]
    opened, command = StudyData(archive, tuple(words)), shlex.join(["emukit", *sys.argv[1:], *given])
    with _places(on, jobs) as (execute, workers, environments):
        make = partial(
            make_study_plan,
            opened,
            chosen,
            out,
            environments,
            seeds=seeds,
            protocols=protocols,
            budget=budget,
            workers=workers,
            reporter=reporter,
        )
        plan = make()
        _say_plan(plan, archive, workers, seeds, retry, dry_run, reporter)
        if dry_run:
            return
        with exclusive(plan.folder):
            if plan_exists(plan.folder):
                # Another process may have started the study while this one measured: its epochs are the study's.
                plan = make()
            write_plan(plan, archive, budget, command)

            tried: set[Path] = set()

            def train(trials: Sequence[Variant] = ()) -> StudyPlan:
                known = make(trials=trials) if trials else plan
                to_do = known.to_do(archive, retry, tried)
                with Watch(known, archive, to_do, workers, reporter) as watch:

                    def ended(run: PlannedRun, error: str) -> None:
                        # What fails is not tried in every round of a search.
                        tried.add(run.folder)
                        watch.ended(run, error)

                    run_study(to_do, execute, began=watch.began, ended=ended, look=watch.look)
                return known

            try:
                plan = search_study(chosen, archive, train, plan.folder) if chosen.trials else train()
            except (KeyboardInterrupt, SystemExit) as stop:
                echo("stopped; runs are saved. Continue with the same command", err=True)
                raise typer.Exit(int(stop.code or 0) if isinstance(stop, SystemExit) else 130) from None
            result = tables.study_result(plan, archive, command, reporter)
            found = tables.save_result(plan, result)
    if format == "json":
        echo(json.dumps(result, indent=1))
    elif format != "table":
        echo({"md": tables.markdown, "csv": tables.to_csv}[format](found), nl=False)
    else:
        console = open_console()
        for part in tables.tables(found, console.width):
            console.print(part, highlight=False)
    reporter.say(f"wrote {plan.folder / tables.STUDY_FILE}. Next: emukit report {plan.folder}")
    failed = [r for r in plan.distinct() if r.error() and not r.finished(archive)]
    for run in failed:
        echo(f"failed: {run.variant}, {run.protocol}, seed {run.seed}: {run.log}\n{run.error()}", err=True)
    if failed:
        echo(
            f"{len(failed)} of {len(plan.distinct())} runs failed; fix the study's file and repeat the command, or "
            "try them again as they are: --retry",
            err=True,
        )
        if any(r.variant == plan.study.base_name for r in failed):
            echo(
                f"the base is among them: with another base it is another study, so remove {plan.folder} first",
                err=True,
            )
        raise typer.Exit(1)


@contextmanager
def _places(on: str | None, jobs: int | None) -> Iterator[tuple[Callable[..., None], int, list[dict[str, str]]]]:
    """Where runs are trained: what runs jobs there, how many at a time, and processes of this machine to measure by.

    Raises:
        EmukitError: There is no such cluster.
    """
    from emukit.errors import RecipeError
    from emukit.studies.ablate import environments_of
    from emukit.studies.jobs import run_jobs

    if on is None:
        environments = environments_of(jobs)
        yield partial(run_jobs, environments=environments), len(environments), environments
        return
    if jobs:
        raise RecipeError("--jobs is for this machine", found=f"--on {on}", hint="Ray runs as many as it has room for")
    from emukit.studies.jobs import open_cluster

    with open_cluster(on) as cluster:
        # Every place is taken to be like this machine, with the one thread that Ray gives a task where there is no GPU.
        here = environments_of(1) if cluster.gpus else [{"OMP_NUM_THREADS": "1"}]
        yield cluster.run_jobs, cluster.places, here


def _print_list(format: o.Formats) -> None:
    from emukit.studies.study import load_study, study_names

    studies = {name: load_study(name) for name in study_names()}
    rows = [(n, s.base, str(len(s.all_variants()) + s.number_of_trials), s.question) for n, s in studies.items()]
    o.print_rows(("study", "base", "variants", "what it asks"), rows, format)


def _say_plan(
    plan: StudyPlan,
    archive: Archive,
    workers: int,
    seeds: int | None,
    retry: bool,
    every: bool,
    reporter: Reporter,
) -> None:
    """How many runs, how many are done, how long the rest takes; with `every`, each of them, as the result."""
    from emukit.terminal import duration

    def say(text: str) -> None:
        if every:
            echo(text, err=True)
        else:
            reporter.say(text)

    runs = plan.distinct()
    done = [r for r in runs if r.finished(archive)]
    failed = [r for r in runs if r not in done and r.error()]
    left = plan.to_do(archive, retry)
    many = max(map(len, plan.seeds.values()))
    say(
        f"{plan.study.name}: {_count(len(plan.variants), 'variant')}, {_count(many, 'seed')}, "
        f"{', '.join(plan.protocols)}: {_count(len(runs), 'run')}, {len(done)} done, {len(failed)} failed before"
    )
    if plan.saved and plan.saved.changes:
        say(f"note: since the study was started: {plan.saved.changes}")
    if plan.saved and plan.saved.untimed:
        trained = ", and train as many epochs" if any(plan.saved.epochs.values()) else ""
        say(f"note: not timed: {', '.join(plan.saved.untimed)}; they are assumed to cost what the base does{trained}")
    if plan.saved and plan.saved.budget:
        many = sum(plan.saved.runs.values())
        say(
            f"note: epochs are those that were fitted to {plan.saved.budget} and {many} runs when the study was started"
        )
    if seeds and max(map(len, plan.seeds.values())) < seeds:
        say("note: one seed: nothing here is random, so that another one gives the same")
    if plan.not_timed:
        say(
            f"note: not timed, and in no estimate: {', '.join(plan.not_timed)}; `emukit plan MODEL` says what they need"
        )
    closed = [v for v, cost in plan.costs.items() if not cost.epoch and v not in plan.not_timed]
    if closed and every:
        say(f"note: no epochs to time, so that a start alone is counted, the least they take: {', '.join(closed)}")
    for protocol, why in plan.not_scored.items():
        say(f"note: {protocol}: {'validation only' if protocol in plan.protocols else 'left out'}, {why}")
    for variant in plan.variants if every else ():
        cost, epochs = plan.costs.get(variant.name), plan.epochs[variant.name]
        number = epochs or (cost.epochs if cost else None)
        words = [f"{number} epochs"] * (number is not None)
        words += [f"{cost.epoch:.1f} s each"] if cost and cost.epoch else []
        words += [f"{duration(cost.seconds(epochs))} a run"] if cost else []
        say(f"  {variant.name}: {', '.join(words)}")
    for run in runs if every else ():
        state = "done" if run in done else "failed" if run in failed else "to do"
        echo(f"{state:6} {run.folder}  {run.command}")
    if left:
        say(f"{len(left)} to train, {workers} at a time: about {duration(plan.seconds(left, workers))}")
    if plan.study.trials:
        each = [r for r in plan.runs if r.variant == plan.study.base_name]
        trials = plan.study.number_of_trials
        number = trials * len(each)
        seconds = plan.seconds([each[0]] * number, min(workers, plan.study.together * len(each)))
        say(
            f"{_count(trials, 'trial')} searched for besides, {_count(number, 'run')}, some perhaps done: "
            f"about {duration(seconds)}"
        )
        if trials < plan.study.trials:
            say(f"note: {plan.study.trials} trials are wanted, and there are {trials} combinations: each is tried once")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
