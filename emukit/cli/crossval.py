"""`emukit crossval`, and `emukit evaluate` of a recipe: scores that choose among recipes, and what they are worth."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emukit.cli import options as o
from emukit.terminal import echo, open_console

if TYPE_CHECKING:
    from emukit.parallel.comm import Comm

Protocols = Annotated[
    str | None,
    typer.Option(
        "--protocols",
        help="Train a MODEL under these, with commas: official, k360, loso:SCENARIO, and loso:all, every scenario that "
        "can be left out and scored. Default: the data card's, and loso:all.",
        metavar="NAME,...",
        show_default=False,
    ),
]
# Two say nothing of how far seeds are apart.
SEEDS = 3
Seeds = Annotated[
    int | None,
    typer.Option(
        "--seeds",
        help=f"Runs of a MODEL under each protocol, where the seed changes anything. Default: {SEEDS}.",
        metavar="N",
        min=1,
        max=1000,
        show_default=False,
    ),
]


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command(hidden=True, cls=o.Command)(validate)
    o.add_command(app, crossval, "emukit crossval linear climatology --data demo", group=o.TRAIN)


def validate(
    model: o.Model,
    protocols: Protocols = None,
    seeds: Seeds = None,
    out: Annotated[Path | None, typer.Option(show_default=False)] = None,
    data: o.Data = None,
    recipe: o.RecipeFile = None,
    settings: o.Settings = None,
    fast: o.Fast = False,
    format: o.Format = "table",
    markdown: o.Markdown = False,
    track: o.Track = None,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """The earlier spelling of `emukit evaluate MODEL --protocols ...`."""
    from emukit.recipes.catalogue import model_label
    from emukit.recipes.load import fast_name

    o.reporter(quiet).say("note: `emukit validate` is now `emukit evaluate MODEL --protocols ...`")
    evaluate_recipe(
        model,
        protocols=protocols,
        seeds=seeds,
        # Where it always wrote: the same command continues what it began.
        out=out or Path("runs") / f"validate-{model_label(fast_name(model) if fast else model)}",
        data=data,
        recipe=recipe,
        settings=settings,
        fast=fast,
        format=o.chosen_format(format, markdown),
        track=track,
        card=card,
        convert=convert,
        quiet=quiet,
    )


def evaluate_recipe(
    model: str,
    *,
    protocols: str | None,
    seeds: int | None,
    out: Path | None,
    data: str | None,
    recipe: Path | None,
    settings: list[str] | None,
    fast: bool,
    format: o.Formats,
    track: str | None,
    card: str | None,
    convert: list[str] | None,
    quiet: bool,
) -> None:
    """Train a recipe under several protocols and seeds, and show the scores: `emukit evaluate MODEL`."""
    from emukit.errors import RecipeError
    from emukit.recipes.catalogue import model_label
    from emukit.recipes.load import fast_name, load_recipe
    from emukit.recipes.schema import networks_of
    from emukit.runs.protocols import REPORT_FILE
    from emukit.runs.protocols import evaluate_recipe as run_all
    from emukit.runs.record import DataArguments
    from emukit.runs.score_tables import summary_markdown, summary_table
    from emukit.training.engine import Execution
    from emukit.training.tracking import check_tracker

    model = fast_name(model) if fast else model
    chosen = load_recipe(model, recipe, settings or ())
    if track is not None:
        if not networks_of(chosen):
            raise RecipeError(f"{model} is fitted in closed form: --track would do nothing", hint="leave it out")
        check_tracker(track)
    folder = out or Path("runs") / f"evaluate-{model_label(model)}"
    reporter = o.reporter(quiet)
    with _alone("evaluate", folder) as comm:
        result = run_all(
            o.open_named(data, card, convert, reporter),
            chosen,
            model,
            folder,
            protocols=protocols,
            seeds=SEEDS if seeds is None else seeds,
            data_arguments=DataArguments(card, o.conversions(convert)),
            comm=comm,
            execution=Execution(track=track),
            command=_train_command(model, data, recipe, settings, card, convert),
            reporter=reporter,
        )
    o.print_blocks(result.blocks(), format, result.as_dict())
    title = f"{result.model}: summary ({result.competition.direction})"
    if format == "md":
        echo(summary_markdown(title, result.summary()))
    if format == "table":
        open_console().print(summary_table(title, result.summary()))
        for protocol, why in result.not_scored.items():
            echo(f"not scored: {protocol} test, {why}")
    reporter.say(f"wrote {folder / REPORT_FILE}")


def crossval(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="What to train, and what to compare with it: names of `emukit models`, recipe files, or module:Class.",
        ),
    ],
    protocol: o.Protocol = None,
    months: Annotated[
        int | None,
        typer.Option(
            help="How many a fold scores at most. Default: as many as a protocol that leaves a scenario out.",
            min=1,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of all runs.", min=0, max=2**63 - 1, metavar="N")] = 0,
    bound: Annotated[
        float,
        typer.Option(
            help="Folds whose forcings lie up to this many training spreads from the training ask for interpolation, "
            "the others for extrapolation.",
            min=0.0,
            metavar="SPREADS",
        ),
    ] = 2.5,
    out: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs/crossval"),
    data: o.Data = None,
    recipe: o.RecipeFile = None,
    settings: o.Settings = None,
    fast: o.Fast = False,
    format: o.Format = "table",
    markdown: o.Markdown = False,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Score recipes on scenarios left out, on later parts left out, and on validation months: for selection.

    Every score is the mean over members; the distance of a fold is that of its forcings from its training, in training
    spreads. Interpolation and extrapolation are averaged and ranked apart. Test months are never used. The runs are
    kept, with all scores in crossval.json; the same command continues where it was stopped. Of several recipes it shows
    the means, and the differences to the first.
    """
    from emukit.errors import RecipeError
    from emukit.recipes.load import fast_name, load_recipe
    from emukit.runs.crossval import REPORT_FILE, compare
    from emukit.runs.record import DataArguments

    format = o.chosen_format(format, markdown)
    if len(models) > 1 and (recipe or settings):
        raise RecipeError(
            "--set and --recipe are of one recipe",
            found=f"{len(models)} recipes: {', '.join(models)}",
            hint="cross-validate it alone, under the same --out",
        )
    if len(set(models)) < len(models):
        raise RecipeError("a recipe is named twice", found=" ".join(models), expected="each once")
    names = [fast_name(model) if fast else model for model in models]
    chosen = {name: load_recipe(name, recipe, settings or ()) for name in names}
    reporter = o.reporter(quiet)
    with _alone("crossval", out) as comm:
        result = compare(
            o.open_named(data, card, convert, reporter),
            chosen,
            out,
            protocol=protocol,
            months=months,
            seed=seed,
            bound=bound,
            data_arguments=DataArguments(card, o.conversions(convert)),
            comm=comm,
            commands={m: _train_command(m, data, recipe, settings, card, convert) for m in names},
            reporter=reporter,
        )
    o.print_blocks(result.blocks(), format, result.as_dict())
    for note in result.notes:
        reporter.say(f"note: {note}")
    reporter.say(f"wrote {out / REPORT_FILE}")


@contextmanager
def _alone(verb: str, folder: Path) -> Iterator[Comm]:
    """This process, which computes alone; Ctrl-C ends it with what to do next.

    Raises:
        TrainingError: It is one of several.
    """
    from emukit.errors import TrainingError
    from emukit.parallel.comm import open_comm

    with open_comm() as comm:
        if comm.world > 1:
            raise TrainingError(f"emukit {verb} runs in one process", found=f"{comm.world}", hint="without torchrun")
        try:
            yield comm
        except KeyboardInterrupt:
            echo(f"stopped; what is in {folder} is kept. Continue with the same command", err=True)
            raise typer.Exit(130) from None


def _train_command(
    model: str,
    data: str | None,
    recipe: Path | None,
    settings: list[str] | None,
    card: str | None,
    convert: list[str] | None,
) -> str:
    """What trains the same recipe on the same data, except for protocol and seed."""
    words = ["emukit", "train", model]
    for name, value in (("--data", data), ("--recipe", recipe), ("--card", card)):
        words += [name, str(value)] if value else []
    for name, values in (("--set", settings), ("--convert", convert)):
        words += [word for value in values or () for word in (name, value)]
    return shlex.join(words)
