"""`emukit submit`, `emukit check-submission` and `emukit score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emukit.cli import options as o


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    app.command("submit")(submit)
    app.command("check-submission")(check_submission)
    app.command("score")(score)


def submit(
    run: o.RunFolder,
    out: Annotated[
        Path | None, typer.Option(help="Entry folder. Default: submissions/RUN.", show_default=False)
    ] = None,
    pack: Annotated[str, typer.Option(help="csv, csv.gz or zip.")] = "csv",
    overwrite: o.Overwrite = False,
    data: o.TrainedData = None,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Write the submission of a run's test span, with entry.toml, checked before it is announced."""
    from emukit.experiments.run import read_run
    from emukit.experiments.submit import submit_run

    report = o.reporter(quiet)
    chosen = read_run(run)
    archive = o.open_for_run(chosen, data, card, convert, report)
    folder = out or Path("submissions") / run.resolve().name
    entry = submit_run(chosen, archive, folder, pack, report, overwrite)
    typer.echo(
        f"wrote and checked {folder / entry.csv}: {entry.rows:,} rows, "
        f"{entry.scenario} {entry.first_month}..{entry.last_month}"
    )


def check_submission(
    csv: Annotated[Path, typer.Argument(metavar="CSV", help=".csv, .csv.gz or .zip")],
    data: o.Data = None,
    protocol: o.Protocol = None,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Name every way in which a submission is wrong, with line numbers; exit 1 if there is one."""
    from emukit.data.protocol import make_split
    from emukit.experiments.submit import seasonal_reference
    from emukit.submission import check_submission as check

    report = o.reporter(quiet)
    archive = o.open_named(data, card, convert, report)
    split = make_split(archive, _protocol_of(csv, protocol))
    reference = seasonal_reference(archive, split)
    problems = check(csv, archive.grid, len(split.test), archive.variables, reference)
    for number, problem in enumerate(problems, 1):
        typer.echo(f"{number}. {problem.kind}: {problem}")
    if problems:
        raise typer.Exit(1)
    typer.echo(f"{csv} is good: {split.test.text(archive)}")


def score(
    csv: Annotated[Path, typer.Argument(metavar="CSV")],
    truth: Annotated[str, typer.Argument(metavar="TRUTH", help="Solution CSV, or a store (or 'demo') and --protocol.")],
    protocol: o.Protocol = None,
    save: Annotated[bool, typer.Option("--save", help="Keep score.json beside the CSV, for the leaderboard.")] = False,
    overwrite: o.Overwrite = False,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Score a submission: the official number and its six parts."""
    from rich.console import Console

    from emukit.cli.show import score_table
    from emukit.data.named import span_truth
    from emukit.data.protocol import make_split
    from emukit.experiments import table
    from emukit.experiments.record import benchmark_of
    from emukit.files import sha256
    from emukit.submission import score_csv, score_submission

    report = o.reporter(quiet)
    if truth.endswith((".csv", ".csv.gz", ".zip")):
        result, split_name = score_csv(csv, truth), f"solution {Path(truth).name} {sha256(truth)[:8]}"
    else:
        archive = o.open_named(truth, card, convert, report)
        split = make_split(archive, _protocol_of(csv, protocol))
        result = score_submission(csv, span_truth(archive, split.test), archive.grid)
        split_name = table.split_name(benchmark_of(archive), split.protocol, "test", [split.test.text(archive)])
    Console().print(score_table(f"{split_name} (lower is better)", {csv.name: result}))
    if save:
        kept = {"split": split_name, "csv_sha256": sha256(csv), **result.as_dict()}
        place = csv.parent / table.SCORE_FILE
        table.save_score(place, kept, overwrite)
        typer.echo(f"wrote {place}")


def _protocol_of(csv: Path, protocol: str | None) -> str | None:
    """The protocol of the entry beside a CSV, where there is one: the months of another would fit its rows as well.

    Raises:
        SubmissionError: Another is named.
    """
    from emukit.errors import SubmissionError
    from emukit.submission import ENTRY_FILE, read_entry

    path = csv.parent / ENTRY_FILE
    if not path.exists():
        return protocol
    entry = read_entry(csv.parent)
    if entry.csv != csv.name:
        return protocol
    if protocol not in (None, entry.protocol):
        raise SubmissionError(
            f"{csv} was written for another protocol",
            found=f"--protocol {protocol}",
            expected=f"{entry.protocol}: {entry.scenario} {entry.first_month}..{entry.last_month}, as {path} says",
            hint="leave --protocol out",
        )
    return entry.protocol
