"""From a run to a checked submission.

Invariant: a submission folder holds a CSV that passed every check, with the entry that says how to make it again; or
it is not there.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from emukit import provenance
from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.protocol import make_split
from emukit.data.split import Split
from emukit.emulators.climatology import seasonal_reference
from emukit.errors import SubmissionError
from emukit.files import sha256
from emukit.metrics import Competition
from emukit.metrics.competition import StoreFormat
from emukit.outputs import Kind, marked, new_output, refuse_taken, zarr_kind
from emukit.progress import Reporter
from emukit.recipes.describe import recipe_text
from emukit.recipes.names import identity_digest
from emukit.runs.leaderboard import SCORE_FILE, split_name
from emukit.runs.predict import PREDICTION, write_scenario
from emukit.runs.repeat import place, submit_command, training_commands
from emukit.runs.run import Run
from emukit.submission import ENTRY_FILE, Entry, read_entry, write_entry


def _strange(folder: Path) -> str:
    """What in a folder no submission holds."""
    try:
        file = read_entry(folder).csv
        own = {ENTRY_FILE, SCORE_FILE, file, f"{file}.json"}
    except SubmissionError as e:
        return e.what
    strange = [p.name for p in folder.iterdir() if not (p.name in own and p.is_file()) and not _is_store(p)]
    return ", ".join(sorted(strange)[:5])


def _is_store(path: Path) -> bool:
    return path.name == STORE and not zarr_kind(STORE, marked(PREDICTION)).strange(path)


# The fields that a file was computed from.
STORE = "daily.zarr"
KIND = Kind("a submission of `emukit submit`", _strange)


def submit_run(
    run: Run, archive: Archive, folder: Path, packing: str, reporter: Reporter, overwrite: bool = False
) -> Entry:
    """Predict the test span, write and check the CSV, and write the entry.

    Raises:
        SubmissionError: Unknown packing, or the submission fails its own check.
        EmukitError: The folder is taken, or cannot be written.
        RunError: The run has not finished.
    """
    competition = competition_of(archive)
    form = competition.submission
    if form is None:
        raise SubmissionError(
            f"the competition {competition.name} takes no submissions",
            found=f"the data card {archive.card.name}",
            expected="a competition with a submission format",
            hint=f"`emukit predict {shlex.quote(str(run.folder))} --scenario NAME --out FILE.nc` writes the fields "
            "themselves",
        )
    packing = packing or form.packings[0]
    if packing not in form.packings:
        raise SubmissionError(
            f"cannot pack as {packing!r}", expected=", ".join(form.packings), hint=f"--pack {form.packings[0]}"
        )
    refuse_taken(folder, KIND, overwrite)
    split = run.split(archive)
    if isinstance(form, StoreFormat):
        return _submit_store(run, archive, folder, form, packing, reporter, overwrite)
    span = split.test
    emulator = run.emulator(archive)
    if archive.digest != run.record.data.digest:
        reporter.say("note: other forcings or targets than it was trained on; entry.toml says so by the digest")
    far = emulator.warning_of(archive[span.scenario], span.start, span.stop)
    if far:
        reporter.say(f"note: {far}")
    with reporter.step("submission", 3) as step:
        places = competition.places(archive.variables)
        prediction = emulator.predict_fields(archive[span.scenario], span.start, span.stop)[:, places]
        step.advance(note="predicted")
        with new_output(folder, KIND, overwrite) as temporary:
            temporary.mkdir()
            path = temporary / f"submission.{packing}"
            rows = form.write(path, prediction, archive.grid, competition.variables)
            step.advance(note="written")
            reference = seasonal_reference(archive, split)[:, places]
            problems = form.check(path, archive.grid, len(span), competition.variables, reference)
            if problems:
                raise SubmissionError(
                    "the submission fails its own check; nothing was kept",
                    found="; ".join(map(str, problems)),
                    expected="a prediction that looks like a climate",
                    hint=f"look at the run with `emukit evaluate {run.folder}`",
                )
            entry = _entry(run, archive, split, competition, folder, path, rows)
            write_entry(temporary, entry)
            step.advance(note="checked")
    return entry


def _submit_store(
    run: Run, archive: Archive, folder: Path, form: StoreFormat, packing: str, reporter: Reporter, overwrite: bool
) -> Entry:
    """Predict the scenario that the competition hides, keep the fields, and write what is computed from them."""
    competition = competition_of(archive)
    # Whatever a run held out to be judged by, what is handed in is the card's own test.
    split = make_split(archive, archive.card.default_protocol)
    span = split.test
    with reporter.step("submission", 2) as step, new_output(folder, KIND, overwrite) as temporary:
        temporary.mkdir()
        write_scenario(run, archive, span.scenario, temporary / STORE, reporter=reporter)
        step.advance(note="fields written")
        path = temporary / f"submission.{packing}"
        rows = form.write(temporary / STORE, archive, path)
        entry = _entry(run, archive, split, competition, folder, path, rows)
        write_entry(temporary, entry)
        step.advance(note="file written and checked")
    return entry


def _entry(
    run: Run, archive: Archive, split: Split, competition: Competition, folder: Path, path: Path, rows: int
) -> Entry:
    span = split.test
    time = archive[span.scenario].time
    record, form = run.record, competition.submission
    packing = path.name.partition(".")[2]
    options = [] if form and packing == form.packings[0] else ["--pack", packing]
    if archive.digest != record.data.digest:
        options += ["--data", archive.source]
    # A final fit trained on the validation months: no score of them says anything.
    evaluation = None if record.identity.final else run.evaluation("validation")
    return Entry(
        name=folder.name,
        created=provenance.now(),
        emulator=run.recipe.emulator,
        recipe=recipe_text(run.recipe, place),
        protocol=record.identity.protocol,
        scenario=span.scenario,
        first_month=time.text(span.start)[:7],
        last_month=time.text(span.stop - 1)[:7],
        seed=record.identity.seed,
        command=record.command,
        commands=[*training_commands(record, run.folder, run.recipe), submit_command(run, folder, options)],
        run=identity_digest(record.identity.model_dump(mode="json")),
        split=split_name(record.data.benchmark, split.protocol, "test", [span.text(archive)]),
        data_digest=archive.digest,
        emukit_version=provenance.versions()["emukit"],
        git_commit=str(record.sessions[-1].git.get("commit", "")),
        csv=path.name,
        csv_sha256=sha256(path),
        rows=rows,
        competition=competition.name,
        units=dict(competition.units),
        validation={"score": float(evaluation["score"]), **competition.flatten(evaluation)} if evaluation else {},
    )
