"""`emukit compare`: whether runs differ, by paired intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emukit.cli import commands
from emukit.cli import options as o
from emukit.terminal import echo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emukit.studies.bootstrap import Difference
    from emukit.studies.compare import Pair, RunComparison
    from emukit.studies.repeated import RepeatedTable

HEADINGS = ("number", "better", "first", "second", "second - first", "95 % interval", "second is")
VALUES = (
    "set", "first", "second", "number", "better", "seeds", "first_mean", "second_mean", "difference", "low", "high",
    "verdict",
)  # fmt: skip


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    commands.add(
        app,
        compare,
        "emukit compare runs/linear runs/mine",
        "emukit compare a/climx-templates b/climx-templates c/climx-templates",
        group=commands.LOOK,
    )


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
    from emukit.studies.repeated import VALUES, repeated_study, value_rows

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
    from emukit.studies.table import both_ends

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
    column = table.competition.by_key["score"]
    echo(f"\n{column.description}; {column.better} is better\n")
    for row in table.rows[1:]:
        echo(f"{'- ' if format == 'md' else ''}{row.variant}: {row.sentence}")


def _seeds(pair: Pair) -> str:
    return ", ".join(str(a) if a == b else f"{a} and {b}" for a, b in pair.seeds)


def _cells(pair: Pair, full: bool) -> list[tuple[str, ...]]:
    from emukit.studies.table import both_ends

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
