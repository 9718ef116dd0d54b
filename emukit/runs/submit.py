"""From a run to a checked submission, with the command lines that make it again.

Invariant: a submission folder holds a CSV that passed every check, with the entry that says how to make it again; or
it is not there. The lines say everything that decided the numbers (recipe, protocol, members, seed, what was trained
before) and where each run goes. Where the data is they say as far as the training was told: what `$EMUKIT_DATA` named
is not written down.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from emukit import provenance
from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.protocol import make_split
from emukit.data.split import Split
from emukit.emulators.climatology import seasonal_reference
from emukit.errors import EmukitError, SubmissionError
from emukit.files import sha256
from emukit.metrics import Competition
from emukit.metrics.competition import StoreFormat
from emukit.outputs import Kind, marked, new_output, refuse_taken, zarr_kind
from emukit.progress import Reporter
from emukit.recipes.catalogue import identity_digest
from emukit.recipes.describe import recipe_text
from emukit.recipes.schema import FinishedRun, Recipe, WrapperRecipe
from emukit.runs.leaderboard import SCORE_FILE, split_name
from emukit.runs.predict import PREDICTION, write_scenario
from emukit.runs.record import RunRecord, checked_command, read_record
from emukit.runs.run import FINAL, Run, checked_recipe
from emukit.submission import ENTRY_FILE, SubmissionEntry, read_entry, write_entry


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
) -> SubmissionEntry:
    """Predict the test span, write and check the file, and write the entry.

    Args:
        run: A finished run.
        archive: The data whose test span is predicted; need not be what the run was trained on.
        folder: The entry folder to make; its name is that of the entry.
        packing: How the file is packed, as its suffix without the dot; empty: the first of the competition's.
        reporter: Where progress goes.
        overwrite: Whether an entry that was written there before is replaced.

    Returns:
        What `entry.toml` says.

    Raises:
        SubmissionError: The competition takes no submissions, unknown packing, or the submission fails its own check.
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
) -> SubmissionEntry:
    """Predict the scenario that the competition hides, keep the fields, and write what is computed from them."""
    competition = competition_of(archive)
    # Whatever a run held out to be judged by, what is handed in is the card's own test.
    split = make_split(archive, archive.card.default_protocol)
    span = split.test
    if form.note and (note := form.note(archive.grid)):
        reporter.say(f"note: {note}")
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
) -> SubmissionEntry:
    span = split.test
    time = archive[span.scenario].time
    record, form = run.record, competition.submission
    packing = path.name.partition(".")[2]
    options = [] if form and packing == form.packings[0] else ["--pack", packing]
    if archive.digest != record.data.digest:
        options += ["--data", archive.source]
    # A final fit trained on the validation months: no score of them says anything.
    evaluation = None if record.identity.final else run.evaluation("validation")
    return SubmissionEntry(
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


# How a training ran, which decides no number; and what the lines say anew.
_HOW = ("--devices", "--strategy", "--track", "--out")
_FLAGS = ("-q", "--quiet", "--resume", "--compile", "--channels-last")
# Where the recipe is kept of a run that no command of `emukit train` is known of.
RECIPE_FILE = "recipe.toml"


def training_commands(record: RunRecord, folder: Path, recipe: Recipe) -> list[str]:
    """What trains a run again, in order, each line once.

    Args:
        record: Of the run.
        folder: Where it lies.
        recipe: What it trained.

    Returns:
        First the runs that its recipe takes as they are, and the one that selected for a final fit; the run itself
        last. Of a run that was not trained by `emukit train`, the line trains ``recipe.toml``, the file that an
        entry holds the text of.
    """
    return list(dict.fromkeys(_lines(record, folder, recipe)))


def _lines(record: RunRecord, folder: Path, recipe: Recipe) -> Iterator[str]:
    for finished in _finished(recipe):
        yield from _lines_of(Path(finished.folder), finished.identity)
    words = _words(record.command)
    own, refitted = place(folder), record.identity.final is not None and "--refit" in words
    identity = record.identity
    selected = _value(words, "--final")
    if identity.final and not refitted and selected:
        yield from _lines_of(Path(selected), identity.final)
    known = {
        "--protocol": identity.protocol,
        "--members": None if identity.members is None else ",".join(map(str, identity.members)),
        "--seed": str(identity.seed),
    }
    for option, value in known.items():
        if value is not None and _value(words, option) is None:
            words += [option, value]
    # The second training of --refit lies next to the first.
    words += ["--out", own.removesuffix(FINAL) if refitted else own]
    yield shlex.join(words)


def _words(command: str) -> list[str]:
    """The words of a command that decide the numbers."""
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    kept: list[str] = []
    skip = False
    for word in words:
        if skip or word in _FLAGS:
            skip = False
        elif word.partition("=")[0] in _HOW:
            skip = "=" not in word
        else:
            kept.append(word)
    return shlex.split(checked_command(shlex.join(kept))) or ["emukit", "train", RECIPE_FILE]


def _value(words: Sequence[str], option: str) -> str | None:
    """What an option is set to last; None where it is not."""
    found = None
    for i, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == option:
            found = value if equals else words[i + 1] if i + 1 < len(words) else None
    return found


def _lines_of(folder: Path, identity: str) -> Iterator[str]:
    """What trains another run again, if it is where it was; else nothing is known of it."""
    with suppress(EmukitError):
        record = read_record(folder)
        if identity in (record.identity.digest, identity_digest(record.identity.model_dump(mode="json"))):
            yield from _lines(record, folder, checked_recipe(folder, record))


def _finished(recipe: Recipe) -> Iterator[FinishedRun]:
    if isinstance(recipe, WrapperRecipe):
        for base in recipe.bases:
            if base.run:
                yield base.run
            else:
                yield from _finished(base.recipe)


def submit_command(run: Run, folder: Path, options: Sequence[str] = ()) -> str:
    """What writes the submission of a run again.

    Args:
        run: The run.
        folder: Of the submission.
        options: Further words.
    """
    own = place(run.folder)
    refitted = run.record.identity.final is not None and "--refit" in _words(run.record.command)
    if refitted:
        own = own.removesuffix(FINAL) + FINAL
    return shlex.join(["emukit", "submit", own, "--out", place(folder), *options])


def place(folder: Path | str) -> str:
    """A folder as a command names it: from the working folder, if it lies there."""
    relative = os.path.relpath(folder)
    return str(folder) if relative.startswith(os.pardir) else relative
