"""`emukit train`, `emukit plan` and `emukit models`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emukit.cli import options as o
from emukit.terminal import echo, open_console

if TYPE_CHECKING:
    from emukit.recipes.schema import NetworkRecipe
    from emukit.runs.evaluate import Evaluation
    from emukit.runs.run import Run
    from emukit.training.engine import Execution


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


PrecisionOption = Annotated[
    Precision | None,
    typer.Option("--precision", help="Short for --set training.precision=...", show_default=False),
]


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    o.add_command(
        app,
        train,
        "emukit train linear --data demo --out runs/linear",
        "emukit train downscale --data demo --set coarse=12,18 --set training.epochs=1 --out runs/fine",
        "emukit train cnn-gru --data demo --set training.epochs=2 --out runs/mine",
        group=o.TRAIN,
    )
    o.add_command(app, plan, "emukit plan cnn-gru --data demo --members 0", group=o.TRAIN)
    o.add_command(app, models, "emukit models", "emukit models cnn-gru", group=o.TRAIN)


def train(
    model: o.Model,
    data: o.Data = None,
    members: o.Members = None,
    protocol: o.Protocol = None,
    recipe: o.RecipeFile = None,
    loss: o.Loss = None,
    objective: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Short for --set objective.name=...: regression (one answer), rollout (trajectories, with states), "
            "crps, interpolant or diffusion (realisations).",
            show_default=False,
        ),
    ] = None,
    settings: o.Settings = None,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Seed of weights, dropout and batch order. Default: 0, or that of --final.",
            min=0,
            max=2**63 - 1,
            metavar="N",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder. Default: runs/MODEL-PROTOCOL-sSEED.", show_default=False)
    ] = None,
    fast: o.Fast = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")] = False,
    final: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Train on the validation months too, as long as this finished run found best; its settings, seed, "
            "members, protocol and data are taken where none are given.",
            show_default=False,
        ),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option("--refit", help="Train twice: to select, then once more as --final does, in a folder RUN-final."),
    ] = False,
    devices: Annotated[
        int, typer.Option(help="Number of processes: one per GPU, or one per CPU core without GPUs.", min=1)
    ] = 1,
    domain: o.Domain = "1",
    strategy: Annotated[
        Strategy | None,
        typer.Option(
            help="With several processes, each holds a copy of the network (ddp) or a shard (fsdp). Default: ddp.",
            show_default=False,
        ),
    ] = None,
    precision: PrecisionOption = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the network first.")] = False,
    channels_last: Annotated[
        bool, typer.Option("--channels-last", help="Convolutions with channels innermost: faster on some GPUs.")
    ] = False,
    track: o.Track = None,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Train an emulator, score it on validation, and keep the run."""
    if model == "downscale":
        from emukit.cli.downscale import train_downscale

        train_downscale(
            given={
                "--loss": loss,
                "--fast": fast,
                "--final": final,
                "--refit": refit,
                "--devices": devices > 1,
                "--domain": o.division(domain) != (1, 1),
                "--strategy": strategy,
                "--precision": precision,
                "--compile": compile,
                "--channels-last": channels_last,
                "--track": track,
            },
            data=data,
            members=members,
            protocol=protocol,
            recipe=recipe,
            objective=objective,
            settings=settings,
            seed=seed,
            out=out,
            resume=resume,
            card=card,
            convert=convert,
            quiet=quiet,
        )
        return
    from functools import partial

    from emukit.cli.show import evaluation_block
    from emukit.competitions.registry import competition_of
    from emukit.errors import RecipeError, RunError
    from emukit.parallel.comm import open_comm
    from emukit.parallel.launch import inside_torchrun, relaunch
    from emukit.recipes.load import PARTS, fast_name, load_recipe, objective_path
    from emukit.recipes.schema import GeneratorRecipe, NetworkRecipe, network_paths, networks_of
    from emukit.runs.record import RECORD_FILE, DataArguments
    from emukit.runs.run import FINAL, finished_run, read_run, run_name, train_run
    from emukit.training.engine import Execution
    from emukit.training.tracking import check_tracker, how_to_look

    if refit and final:
        raise RecipeError("--refit and --final are two ways to the same end", hint="leave one of them out")
    model = fast_name(model) if fast else model
    # The options of an objective are known by its name.
    place = objective_path(model) if objective else None
    settings = [*(settings or ()), *([f"{place}={objective}"] if place else [])]
    chosen = load_recipe(model, recipe, settings, loss)
    before = read_run(final) if final else None
    seed = seed if seed is not None else before.record.identity.seed if before else 0
    if before and not any((recipe, settings, loss, objective, precision)):
        if before.recipe.emulator != chosen.emulator:
            raise RecipeError(
                f"{model} is not what the run of --final trained",
                found=f"{before.recipe.emulator} in {final}",
                expected=f"a recipe of the emulator {chosen.emulator}",
                hint=f"name the recipe of the run: emukit train {before.recipe.emulator} --final {final}",
            )
        chosen = before.recipe
    rows, columns = o.division(domain)
    sharing = rows * columns
    if devices == 1 and not inside_torchrun():
        devices = sharing
    execution = Execution(strategy.value if strategy else "ddp", compile, channels_last, track, sharing)
    networks = networks_of(chosen)
    if isinstance(chosen, GeneratorRecipe) and chosen.trains:
        words = [f"{part}.training.precision={precision.value}" for part in PARTS] if precision else []
        chosen, objective, precision = load_recipe(model, recipe, [*settings, *words], loss), None, None
    if not networks:
        given = {
            "--devices": devices > sharing,
            "--domain": sharing > 1,
            "--strategy": strategy,
            "--precision": precision,
            "--objective": objective,
            "--compile": compile,
            "--channels-last": channels_last,
            "--track": track,
        }
        why = "is fitted in closed form"
        if isinstance(chosen, GeneratorRecipe):
            why = "trains its networks in one process" if chosen.trains else "trains no network as it is"
        _refuse_without_networks(model, [name for name, value in given.items() if value], why)
    else:
        if track is not None:
            check_tracker(track)
        short = {
            "precision": ("training.precision", precision and precision.value),
            "objective": ("objective.name", objective),
        }
        own = {option: f"{setting}={value}" for option, (setting, value) in short.items() if value}
        if own and not isinstance(chosen, NetworkRecipe):
            raise RecipeError(
                f"{' and '.join(f'--{option}' for option in own)} does not reach the networks in {model}",
                hint=" ".join(f"--set {path}{setting}" for path in network_paths(chosen) for setting in own.values()),
            )
        if own:
            chosen = load_recipe(model, recipe, [*settings, *own.values()], loss)
            networks = networks_of(chosen)
        # Mistakes that show without the data are said here, once, and not by every process.
        for network in networks:
            _refuse_early(network, execution, devices, data, card)
        if devices > 1 and not inside_torchrun():
            raise typer.Exit(relaunch(sys.argv[1:], devices))
    with open_comm() as comm:
        comm = comm.divided(sharing, columns)
        report = o.reporter(quiet, silent=not comm.main)
        if before:
            archive = o.open_for_run(before, data, card, convert, report, o.reading(chosen, comm))
        else:
            archive = o.open_named(data, card, convert, report, in_full=True, comm=o.reading(chosen, comm))
        data_arguments = DataArguments(card, o.conversions(convert))
        if before and not (data or card or convert):
            data_arguments = DataArguments(before.record.data.card_option, before.record.data.convert)
        # A final fit is one of the protocol and members that were selected for, unless others are named and refused.
        chosen_members = o.member_list(members)
        if before:
            protocol = protocol or before.record.identity.protocol
            chosen_members = chosen_members or before.record.identity.members
        name = run_name(model, protocol or archive.card.default_protocol, seed)
        folder = out or Path("runs") / f"{name}{FINAL if final else ''}"

        def fit(folder: Path, before: Run | None) -> tuple[Run, Evaluation | None]:
            return train_run(
                archive,
                chosen,
                folder,
                protocol=protocol,
                members=chosen_members,
                seed=seed,
                resume=resume,
                data_arguments=data_arguments,
                comm=comm,
                execution=execution,
                final=before,
                reporter=report,
            )

        last = folder.with_name(folder.name + FINAL) if refit else folder
        known = None
        if refit:
            find = partial(finished_run, archive, chosen, protocol=protocol, members=chosen_members, seed=seed)
            known = find(folder)
            if not resume and last.exists() and not (known and find(last, final=known)):
                raise RunError(
                    f"the run folder {last} exists",
                    expected="a new one, or the finished final fit of this run",
                    hint="choose another --out, or --resume",
                )
        try:
            # An interrupted --refit may have been interrupted in its second training.
            known = known if resume else None
            run, evaluation = (known, None) if known else fit(folder, before)
            if refit:
                if comm.main and evaluation:
                    o.print_blocks([evaluation_block(folder.name, evaluation)], "table", None)
                run, evaluation = fit(last, run)
        except KeyboardInterrupt:
            if comm.main:
                saved = (folder / RECORD_FILE).exists()
                echo(
                    f"stopped; {folder} is saved. Continue with the same command and --resume --out {folder}"
                    if saved
                    else "stopped before anything was saved",
                    err=True,
                )
            raise typer.Exit(130) from None
        if comm.main:
            if evaluation:
                o.print_blocks([evaluation_block(last.name, evaluation)], "table", None)
            else:
                echo("final fit: trained on the validation months too, so they score nothing")
            verb = "submit" if competition_of(archive).submission else "evaluate"
            echo(f"run {last}: {run.record.seconds:.0f} s. Next: emukit {verb} {last}")
            if track and (look := how_to_look(track, last)):
                report.say(f"to look at it: {look}")


def _refuse_without_networks(model: str, given: list[str], why: str) -> None:
    """Refuse options that only the training of networks of their own has.

    Raises:
        RecipeError: There are some.
    """
    from emukit.errors import RecipeError

    if given:
        raise RecipeError(
            f"{model} {why}: {' and '.join(given)} would do nothing",
            hint=f"emukit train {model}, without",
        )


def _refuse_early(
    recipe: NetworkRecipe, execution: Execution, devices: int, data: str | None, card: str | None
) -> None:
    """Refuse what cannot be run so, before other processes are started or a store is read.

    Raises:
        TrainingError: The recipe cannot be run so, or not on so many devices.
        RecipeError: The network cannot be built.
        StoreError: There is no store.
    """
    import torch
    from torch import nn

    from emukit.models.registry import NETWORKS, build_network
    from emukit.parallel.comm import check_groups
    from emukit.parallel.domain import check_divisible
    from emukit.parallel.launch import check_devices, check_started, inside_torchrun
    from emukit.training.engine import check_execution

    world, batchnorm = devices, False
    if inside_torchrun():
        world = check_started(devices)
    elif devices > 1:
        check_devices(devices)
        grid = o.grid_shape(data, card)
        if grid:
            with torch.device("meta"):
                network = build_network(
                    recipe.emulator,
                    # The numbers of channels and variables show with the data; what can be built depends on the grid.
                    in_channels=8,
                    variables=2,
                    grid=grid,
                    history=recipe.inputs.window.history,
                    options=recipe.options,
                )
            batchnorm = any(isinstance(m, nn.BatchNorm2d) for m in network.modules())
    if execution.domain > 1:
        check_groups(world, execution.domain)
        check_divisible(recipe.emulator, NETWORKS.load(recipe.emulator))
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    check_execution(recipe.training, execution, world, device_type, batchnorm)


def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="One of them, or a recipe file, in full.", show_default=False),
    ] = None,
    toml: Annotated[bool, typer.Option("--toml", help="Print a recipe file of NAME, to edit and train.")] = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print a JSON schema of recipe files of NAME, for editors.")
    ] = False,
    format: o.Format = "table",
    quiet: o.Quiet = False,
) -> None:
    """List what can be trained, with size and what it is good for; with a NAME, every setting and what it means."""
    import json

    from emukit.cli.models import SIZES_NOTE, choice_lines, model_rows, plugin_lines, setting_rows
    from emukit.errors import RecipeError
    from emukit.losses.registry import loss_lines

    if (toml or schema) and (name is None or (toml and schema) or format != "table"):
        raise RecipeError(
            "--toml and --schema each print one thing, of one NAME", hint="emukit models cnn-gru --toml > mine.toml"
        )
    if (toml or schema) and name == "downscale":
        raise RecipeError(
            "downscale has no recipe file or schema to print",
            hint="set what `emukit models downscale` lists with --set, or in a TOML file for --recipe",
        )
    if toml or schema:
        from emukit.recipes.describe import recipe_schema, recipe_toml

        assert name is not None
        echo(recipe_toml(name) if toml else json.dumps(recipe_schema(name), indent=1), nl=not toml)
        return
    headings = ("setting", "default", "form", "meaning") if name else ("name", "parameters", "what it is good for")
    o.print_rows(headings, setting_rows(name) if name else model_rows(), format)
    if format == "table" and not quiet:
        fine = "fine fields from coarse ones: emukit train downscale (docs/downscaling.md)"
        notes = (SIZES_NOTE, fine, *plugin_lines(), "losses for --loss:", *(f"  {x}" for x in loss_lines()))
        for line in choice_lines(name) if name else notes:
            echo(line)


def plan(
    model: o.Model,
    data: o.Data = None,
    members: o.Members = None,
    protocol: o.Protocol = None,
    recipe: o.RecipeFile = None,
    loss: o.Loss = None,
    precision: PrecisionOption = None,
    settings: o.Settings = None,
    domain: o.Domain = "1",
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Show what a training will cost here in memory and time, which bottleneck comes first, and what to switch on."""
    from emukit.cli.show import cost_table, plan_tables
    from emukit.data.protocol import make_split
    from emukit.errors import EmukitError
    from emukit.parallel.comm import open_comm
    from emukit.planning.plan import daily_plan, is_daily_fit, make_plan
    from emukit.recipes.load import load_recipe

    report = o.reporter(quiet)
    words = [*(settings or ()), *([f"training.precision={precision.value}"] if precision else ())]
    chosen = load_recipe(model, recipe, words, loss)
    archive = o.open_named(data, card, convert, report)
    daily = is_daily_fit(archive, chosen)
    if daily and o.division(domain) != (1, 1):
        raise EmukitError(
            f"--domain would do nothing: {model} has no network whose fields could be divided", hint="leave it out"
        )
    split = make_split(archive, protocol, o.member_list(members))
    if daily:
        parts: Iterable[object] = [cost_table(f"{model}: memory, time and disk", daily_plan(archive, chosen, split))]
    else:
        with open_comm() as comm:
            parts = plan_tables(model, make_plan(archive, chosen, split, comm, report, o.division(domain)))
    console = open_console()
    for part in parts:
        console.print(part, highlight=False)
