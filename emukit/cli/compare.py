"""`emukit compare`: whether runs differ, by paired intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emukit.cli import commands
from emukit.cli import options as o
from emukit.terminal import echo

if TYPE_CHECKING:
    from emukit.studies.compare import Pair, RunComparison

HEADINGS = ("number", "better", "first", "second", "second - first", "95 % interval", "second is")
VALUES = (
    "set", "first", "second", "number", "better", "seeds", "first_mean", "second_mean", "difference", "low", "high",
    "verdict",
)  # fmt: skip


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    commands.add(app, compare, "emukit compare runs/linear runs/mine", group=commands.LOOK)


def compare(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN RUN...", help="Run folders, the one to compare with first.")
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

    Runs that differ in their seed alone are taken together, and compared seed by seed.
    """
    import json

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
