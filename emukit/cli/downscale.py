"""`emukit downscale`, and what `emukit train downscale` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from emukit.cli import options as o
from emukit.terminal import echo


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    o.add_command(
        app,
        downscale,
        "emukit downscale runs/fine coarse.nc --out fine.zarr",
        "emukit downscale runs/fine coarse.nc --out europe.zarr --region 35,72,-12,42 --members 10",
        group=o.LOOK,
    )


def downscale(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `emukit train downscale` wrote.")],
    fields: Annotated[
        Path, typer.Argument(metavar="FIELDS", help="NetCDF or Zarr of coarse fields on (time, latitude, longitude).")
    ],
    out: Annotated[Path, typer.Option(metavar="FINE.zarr", help="Where the fine fields are written.")],
    members: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Draw so many realisations. Default: one field.", show_default=False),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(metavar="LAT0,LAT1,LON0,LON1", help="A box, in degrees. Default: the globe.", show_default=False),
    ] = None,
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
) -> None:
    """Make fine fields of coarse ones, with a run of `emukit train downscale`.

    The same command continues where it was interrupted.
    """
    from emukit.runs.downscale import read_downscale_run
    from emukit.runs.downscaled_file import Region, downscale_file

    box = Region.parse(region) if region else None
    chosen = read_downscale_run(run)
    about = f"emukit downscale, {chosen.command or 'a run of emukit train downscale'}"
    steps = downscale_file(
        chosen.downscaler(),
        fields,
        out,
        members=members,
        region=box,
        overwrite=overwrite,
        about=about,
        reporter=o.reporter(quiet),
    )
    echo(f"wrote {out}: {steps} steps")


def train_downscale(
    *,
    given: Mapping[str, object],
    data: str | None,
    members: str | None,
    protocol: str | None,
    recipe: Path | None,
    objective: str | None,
    settings: list[str] | None,
    seed: int | None,
    out: Path | None,
    resume: bool,
    card: str | None,
    convert: list[str] | None,
    quiet: bool,
) -> None:
    """What `emukit train downscale` does; options as there.

    Args:
        given: Options that downscaling does not have, by name; those that are set are refused.
    """
    from emukit.errors import RecipeError
    from emukit.recipes.downscale import DOWNSCALE, load_downscale
    from emukit.runs.downscale import refuse_large, train_downscaler
    from emukit.runs.record import RECORD_FILE, DataArguments, slug, typed_command

    wrong = [name for name, value in given.items() if value]
    if wrong:
        raise RecipeError(
            f"{DOWNSCALE} has no {' and '.join(wrong)}",
            expected="--data, --protocol, --members, --recipe, --objective, --set, --seed, --out, --resume",
            hint=f"emukit train {DOWNSCALE}, without",
        )
    chosen = load_downscale(recipe, settings or (), objective)
    report = o.reporter(quiet)
    layout = o.layout_of(data, card)
    if layout:
        refuse_large(chosen, len(layout.targets), layout.grid, layout.time.seasons)
    archive = o.open_named(data, card, convert, report, in_full=True)
    seed = seed or 0
    folder = out or Path("runs") / f"{DOWNSCALE}-{slug(protocol or archive.default_protocol)}-s{seed}"
    if (folder / RECORD_FILE).exists():
        raise RecipeError(f"{folder} is a run of another kind", hint="choose another --out")
    try:
        run = train_downscaler(
            archive,
            chosen,
            folder,
            protocol=protocol,
            members=o.member_list(members),
            seed=seed,
            resume=resume,
            data_arguments=DataArguments(card, o.conversions(convert)),
            command=typed_command(),
            reporter=report,
        )
    except KeyboardInterrupt:
        echo(f"stopped; continue with the same command and --resume --out {folder}", err=True)
        raise typer.Exit(130) from None
    for name, scores in run.record["scores"].items():
        print_scores(name, scores, {v: archive.card.targets[v].units for v in archive.variables})
    echo(f"run {folder}: {run.record['seconds']:.0f} s. Next: emukit downscale {folder} COARSE.nc --out FINE.zarr")


def evaluate_downscale(
    run: Path,
    *,
    given: Mapping[str, object],
    split: str | None,
    members: int | None,
    data: str | None,
    card: str | None,
    convert: list[str] | None,
    format: str,
    quiet: bool,
) -> None:
    """What `emukit evaluate` does with a downscaling run; options as there.

    Args:
        given: Options that a run does not have, by name; those that are set are refused.
    """
    import json

    from emukit.errors import EmukitError
    from emukit.runs.downscale import evaluate_run, read_downscale_run

    wrong = [name for name, value in given.items() if value]
    if format in ("md", "csv"):
        wrong.append(f"--format {format}")
    if wrong:
        raise EmukitError(
            f"a downscaling run is not evaluated with {' and '.join(wrong)}",
            found=str(run),
            expected="--split, --members, --data, --card, --convert, --format table or json",
            hint=f"emukit evaluate {run}, without",
        )
    report, chosen, name = o.reporter(quiet), read_downscale_run(run), split or "validation"
    chosen.refuse_unfinished()
    known = chosen.record["data"]
    conversion = convert or [f"{k}={v}" for k, v in dict(known.get("convert") or {}).items()]
    archive = o.open_named(data or str(known["source"]), card or known.get("card"), conversion, report)
    scores = evaluate_run(chosen, archive, name, members, report)
    if format == "json":
        echo(json.dumps({"set": name, "scores": scores}, indent=1))
        return
    print_scores(name, scores, {v: archive.card.targets[v].units for v in archive.variables})


def print_scores(name: str, scores: Mapping[str, Any], units: Mapping[str, str]) -> None:
    """The tables of a set: for each variable a row for each downscaler, the baselines always among them.

    Errors are in one table, texture and tails and what is said of realisations in another: together they are wider than
    a terminal.
    """
    from emukit.metrics.downscaling import COLUMNS, TEXTURE

    gain = scores["gain"]
    known = [c for c in COLUMNS if any(k.endswith(f".{c}") for own in scores.values() for k in own)]
    for title, columns in (
        (name, [c for c in known if c not in TEXTURE]),
        (f"{name}: texture", [c for c in known if c in TEXTURE]),
    ):
        _print_table(title, columns, scores, units)
    said = ", ".join(f"{v} {g:+.1%}" for v, g in gain.items())
    echo(f"MAE below that of the best baseline: {said}")


def _print_table(title: str, columns: Sequence[str], scores: Mapping[str, Any], units: Mapping[str, str]) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from emukit.metrics.downscaling import COLUMNS, texts_of
    from emukit.terminal import open_console

    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False, collapse_padding=True)
    # A label is folded before a number is cut.
    table.add_column(title, min_width=16)
    for column in columns:
        heading = COLUMNS[column][0]
        table.add_column(heading, justify="right", no_wrap=True, min_width=max(7, len(heading)))
    for variable in scores["gain"]:
        table.add_row(Text(f"{variable}, {units[variable]}"))
        for label, numbers in texts_of({k: own for k, own in scores.items() if k != "gain"}, variable, columns).items():
            table.add_row(Text(f"- {label}"), *numbers)
    open_console().print(table)
