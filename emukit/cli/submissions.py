"""`emukit submit`, `emukit check-submission`, `emukit score` and `emukit indices`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from emukit.cli import options as o
from emukit.terminal import echo

if TYPE_CHECKING:
    from emukit.data.archive import Archive
    from emukit.data.split import Split
    from emukit.metrics import Competition, Score
    from emukit.metrics.competition import SubmissionFormat
    from emukit.submission import SubmissionEntry


def add_commands(app: typer.Typer) -> None:
    """Register this module's commands."""
    o.add_command(app, submit, "emukit submit runs/linear --out submissions/linear", group=o.SUBMIT)
    o.add_command(
        app,
        check_submission,
        "emukit check-submission submissions/linear/submission.csv --data demo",
        group=o.SUBMIT,
    )
    o.add_command(app, score, "emukit score submissions/linear/submission.csv --data demo --save", group=o.SUBMIT)
    o.add_command(app, indices, "emukit indices daily.zarr --base historical.nc --out indices.nc", group=o.SUBMIT)


def submit(
    run: o.RunFolder,
    out: Annotated[
        Path | None, typer.Option(help="Entry folder. Default: submissions/RUN.", show_default=False)
    ] = None,
    pack: Annotated[
        str, typer.Option(help="csv, csv.gz or zip; parquet or csv for ClimX. Default: the first.", show_default=False)
    ] = "",
    overwrite: o.Overwrite = False,
    data: o.TrainedData = None,
    card: o.Card = None,
    convert: o.Convert = None,
    quiet: o.Quiet = False,
) -> None:
    """Write the submission of a run's test span, with entry.toml, checked before it is announced."""
    from emukit.runs.run import read_run
    from emukit.runs.submit import submit_run

    report = o.reporter(quiet)
    chosen = read_run(run)
    archive = o.open_for_run(chosen, data, card, convert, report)
    folder = out or Path("submissions") / run.resolve().name
    entry = submit_run(chosen, archive, folder, pack, report, overwrite)
    echo(
        f"wrote and checked {folder / entry.csv}: {entry.rows:,} rows, "
        f"{entry.scenario} {entry.first_month}..{entry.last_month}"
    )


def check_submission(
    csv: Annotated[Path, typer.Argument(metavar="CSV", help=".csv, .csv.gz or .zip; of ClimX .parquet")],
    data: o.Data = None,
    protocol: o.Protocol = None,
    card: o.Card = None,
    convert: o.Convert = None,
    format: o.Format = "table",
    quiet: o.Quiet = False,
) -> None:
    """List every problem of a submission, with line numbers; exit with 1 if there is one.

    A ClimX submission (Parquet, or a CSV that begins with row_id) is recognised, and needs no store.
    """
    from emukit.competitions.climx.parts import is_climx

    if is_climx(csv):
        _refuse_store_options(data, protocol, card, convert)
        _check_climx(csv, format)
        return
    from emukit.data.protocol import make_split
    from emukit.emulators.climatology import seasonal_reference
    from emukit.files import sha256
    from emukit.submission import ENTRY_FILE, Problem, entry_of

    report = o.reporter(quiet)
    archive = o.open_named(data, card, convert, report)
    entry = entry_of(csv)
    split = make_split(archive, _protocol_of(csv, entry, protocol))
    if entry:
        _refuse_other_benchmark(csv, entry, archive, split)
    reference = seasonal_reference(archive, split)
    competition, form = _submission_format(archive)
    reference = reference[:, competition.places(archive.variables)]
    found = form.check(csv, archive.grid, len(split.test), competition.variables, reference)
    if entry and sha256(csv) != entry.csv_sha256:
        found.append(Problem("digest", f"{csv.parent / ENTRY_FILE} is of another CSV: its digest is not this one's"))
    problems = [p for p in found if not p.accepted]
    if format != "table":
        words = [("note" if p.accepted else "problem", p.kind, str(p)) for p in found]
        o.print_rows(("what", "kind", "message"), words, format)
    else:
        for number, problem in enumerate(problems, 1):
            echo(f"{number}. {problem.kind}: {problem}")
        for note in (p for p in found if p.accepted):
            report.say(f"note: {note.kind}: {note}")
        if not problems:
            echo(f"{csv} is good: {split.test.text(archive)}")
    if problems:
        raise typer.Exit(1)


def score(
    csv: Annotated[Path, typer.Argument(metavar="CSV")],
    truth: Annotated[
        str | None,
        typer.Argument(
            metavar="SOLUTION", help="Solution CSV. Default: the store of --data has the truth.", show_default=False
        ),
    ] = None,
    data: o.Data = None,
    protocol: o.Protocol = None,
    save: Annotated[bool, typer.Option("--save", help="Keep score.json next to the CSV, for the leaderboard.")] = False,
    overwrite: o.Overwrite = False,
    card: o.Card = None,
    convert: o.Convert = None,
    format: o.Format = "table",
    quiet: o.Quiet = False,
) -> None:
    """Score a submission: the official score, its numbers, and what another run and a perfect emulator score.

    A ClimX submission (Parquet, or a CSV that begins with row_id) is scored against a solution in the same layout.
    """
    from emukit.competitions.climx.parts import is_climx

    if is_climx(csv):
        _refuse_store_options(data, protocol, card, convert)
        _score_climx(csv, truth, format, save)
        return
    from emukit.cli.show import score_block
    from emukit.errors import SubmissionError
    from emukit.files import sha256
    from emukit.runs import leaderboard as table
    from emukit.runs.record import Scoring
    from emukit.submission import ENTRY_FILE, entry_of

    report = o.reporter(quiet)
    entry = entry_of(csv)
    if entry and csv.is_file() and (digest := sha256(csv)) != entry.csv_sha256:
        raise SubmissionError(
            f"{csv} is not the CSV that {csv.parent / ENTRY_FILE} is of",
            found=f"SHA-256 {digest}",
            expected=entry.csv_sha256,
            hint="write it again with emukit submit, or score it in a folder without that entry",
        )
    if truth and truth.endswith(_solutions(entry)):
        if data:
            raise SubmissionError(
                "the truth is named twice", found=f"{truth} and --data {data}", hint="leave one of them out"
            )
        # A solution says nothing of the card; the entry next to the CSV does.
        named = Scoring(name=entry.competition, units=entry.units) if entry and entry.units else Scoring()
        form = _format_of(named.competition)
        result, split_name = form.score_files(csv, Path(truth)), f"solution {Path(truth).name} {sha256(truth)[:8]}"
        lines: dict[str, Score] = {}
        report.say("note: a solution holds one run: what a score is worth, a store says (--data STORE)")
    else:
        # Two files are scored without what reads stores and emulators.
        from emukit.data.opening import span_truth
        from emukit.data.protocol import make_split
        from emukit.runs.evaluate import reference_scores
        from emukit.runs.record import benchmark_of

        archive = o.open_named(o.one_store(data, truth), card, convert, report)
        split = make_split(archive, _protocol_of(csv, entry, protocol))
        competition, form = _submission_format(archive)
        fields = span_truth(archive, split.test)[:, competition.places(archive.variables)]
        result = form.score_fields(csv, fields, archive.grid)
        split_name = table.split_name(benchmark_of(archive), split.protocol, "test", [split.test.text(archive)])
        lines = reference_scores(archive, (split.test,))
    scores = {csv.name: result, **lines}
    values = {"split": split_name, "scores": {name: s.as_dict() for name, s in scores.items()}}
    o.print_blocks([score_block(split_name, scores)], format, values)
    if save:
        kept = {"split": split_name, "csv_sha256": sha256(csv), **result.as_dict()}
        kept["competition"] = Scoring.of(result.competition).model_dump()
        place = csv.parent / table.SCORE_FILE
        table.save_score(place, kept, overwrite)
        report.say(f"wrote {place}")


def _solutions(entry: SubmissionEntry | None) -> tuple[str, ...]:
    """How a file ends that is a solution, not a store: as those of emukit do, or as the entry's competition has it."""
    own: tuple[str, ...] = ()
    if entry and entry.units:
        from emukit.competitions.registry import load_competition

        form = load_competition(entry.competition, entry.units).submission
        own = tuple(f".{packing}" for packing in form.packings) if form else ()
    return (".csv", ".csv.gz", ".zip", *own)


def _submission_format(archive: Archive) -> tuple[Competition, SubmissionFormat]:
    """The competition of some data, and the file that it takes."""
    from emukit.competitions.registry import competition_of

    competition = competition_of(archive)
    return competition, _format_of(competition)


def _format_of(competition: Competition) -> SubmissionFormat:
    from emukit.errors import SubmissionError
    from emukit.metrics.competition import SubmissionFormat

    if not isinstance(competition.submission, SubmissionFormat):
        raise SubmissionError(
            f"the competition {competition.name} takes no such file",
            expected="a ClimX file in .parquet, or in .csv that begins with row_id; or data of a card whose "
            "competition has a submission format",
            hint="name another file, other data with --data, or another card with --card",
        )
    return competition.submission


def _refuse_store_options(data: str | None, protocol: str | None, card: str | None, convert: list[str] | None) -> None:
    """A ClimX submission is read without a store: options that are about one would do nothing."""
    from emukit.errors import SubmissionError

    given = {"--data": data, "--protocol": protocol, "--card": card, "--convert": convert}
    named = [option for option, value in given.items() if value]
    if named:
        raise SubmissionError(
            "a ClimX submission needs no store", found=", ".join(named), hint="leave these options out"
        )


def _check_climx(path: Path, format: o.Formats) -> None:
    from emukit.competitions.climx.parts import problems_of

    problems = problems_of(path)
    if format != "table":
        o.print_rows(("message",), [(problem,) for problem in problems], format)
    else:
        for number, problem in enumerate(problems, 1):
            echo(f"{number}. {problem}")
        if not problems:
            echo(f"{path} is a valid ClimX submission")
    if problems:
        raise typer.Exit(1)


def _score_climx(path: Path, solution: str | None, format: o.Formats, save: bool) -> None:
    from emukit.competitions.climx.parts import REFERENCES, score_files
    from emukit.errors import SubmissionError

    if solution is None or save:
        raise SubmissionError(
            "a ClimX submission is scored against a solution file alone, and no score is kept",
            found="--save" if save else "no solution",
            hint=f"emukit score {path.name} SOLUTION.parquet",
        )
    scored = score_files(path, Path(solution))
    o.print_rows(scored.headings(), scored.rows(), format)
    if format == "table":
        o.print_rows(("to compare with", "nNSE"), [(n, f"{v:.4f}") for n, v in REFERENCES.items()], format)


def _protocol_of(csv: Path, entry: SubmissionEntry | None, protocol: str | None) -> str | None:
    """The protocol of the entry next to a CSV, where there is one: the months of another would fit its rows as well.

    Raises:
        SubmissionError: Another is named.
    """
    from emukit.errors import SubmissionError
    from emukit.submission import ENTRY_FILE

    if entry is None:
        return protocol
    if protocol not in (None, entry.protocol):
        raise SubmissionError(
            f"{csv} was written for another protocol",
            found=f"--protocol {protocol}",
            expected=f"{entry.protocol}: {entry.scenario} {entry.first_month}..{entry.last_month}, "
            f"as {csv.parent / ENTRY_FILE} says",
            hint="leave --protocol out",
        )
    return entry.protocol


def _refuse_other_benchmark(csv: Path, entry: SubmissionEntry, archive: Archive, split: Split) -> None:
    """Refuse to check a submission against a grid and months that are not its own.

    Raises:
        SubmissionError: The entry next to the CSV is of another benchmark.
    """
    from emukit.errors import SubmissionError
    from emukit.runs.leaderboard import split_name
    from emukit.runs.record import benchmark_of
    from emukit.submission import ENTRY_FILE

    here = split_name(benchmark_of(archive), split.protocol, "test", [split.test.text(archive)])
    # Stores that no card knows by digest have their own in the name: one that shows the hidden months has another.
    mine, theirs = (re.sub(r" [0-9a-f]{8}(?= \S+ test: )", "", name) for name in (entry.split, here))
    # What was submitted from other data than it was trained on is named after the training, with its own digest.
    if mine != theirs and entry.data_digest != archive.digest:
        raise SubmissionError(
            f"{csv} is not of the store {archive.source}",
            found=here,
            expected=f"{entry.split}, as {csv.parent / ENTRY_FILE} says",
            hint="name the store that it was written from with --data",
        )


def indices(
    daily: Annotated[
        list[Path], typer.Argument(metavar="DAILY...", help="Zarr store, or NetCDF files that follow each other.")
    ],
    out: Annotated[Path, typer.Option(help="Indices as .nc, or a ClimX submission as .parquet or .csv.")],
    base: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Historical run, for percentiles; repeatable.", show_default=False),
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.nc", help="Keep the percentiles in this file; use them if it is there.", show_default=False
        ),
    ] = None,
    period: Annotated[str, typer.Option(metavar="FIRST-LAST", help="Years of the base period.")] = "1961-1990",
    overwrite: o.Overwrite = False,
    quiet: o.Quiet = False,
) -> None:
    """Compute fifteen annual indices of daily tas, tasmax, tasmin and pr, as ClimX counts them.

    Percentiles come from the base period of a historical run on the same grid.
    """
    from emukit.competitions.climx import indices as work

    report = o.reporter(quiet)
    work.check_output(out, overwrite)
    percentiles = work.find_percentiles(base or (), thresholds, work.parse_period(period), report)
    computed = work.compute_indices(daily, percentiles, report)
    echo(f"wrote {out}: {work.write_indices(computed, out, overwrite)}")
