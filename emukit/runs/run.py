"""One run: an emulator trained by a recipe on a split, kept in a folder with everything that made it.

Invariant: a run folder belongs to one configuration. It says in `run.json` what it is and how far it came; it is never
written over, and resumed only by the configuration that started it.

    run.json                  what, from what, with what, how far
    metrics.jsonl             one line an epoch
    last.pt                   checkpoint to resume from
    best-EPOCH.safetensors    weights of the best validation score
    emulator/                 the trained emulator, whole
    scores/*.json             one evaluation each
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.protocol import make_split
from emukit.data.split import Split, final_split
from emukit.emulators.base import Emulator
from emukit.emulators.neural import share_globe
from emukit.errors import EmukitError, RunError, TrainingError
from emukit.files import LOCK_FILE, PART, exclusive, inside, write_text
from emukit.parallel.comm import Comm
from emukit.planning.memory import resolve_batch
from emukit.progress import Reporter, silent_reporter
from emukit.recipes.catalogue import check_plugins, model_label, other_versions, plugins_of
from emukit.recipes.fitting import fit_recipe, trained_in
from emukit.recipes.schema import Recipe, parse_recipe
from emukit.runs.evaluate import Evaluation, check_fits, evaluate
from emukit.runs.fit import RefitPolicy, check_selected, load_trained, prepare
from emukit.runs.record import (
    RECORD_FILE,
    DataArguments,
    Identity,
    RunRecord,
    card_digest,
    checked_command,
    log_gaps,
    new_record,
    read_evaluation,
    read_logs,
    read_record,
    session_now,
    slug,
)
from emukit.training.engine import Execution


@dataclass(frozen=True)
class Run:
    """A run folder that was read.

    Attributes:
        folder: Where it is.
        recipe: What was trained.
        record: `run.json`.
    """

    folder: Path
    recipe: Recipe
    record: RunRecord

    def split(self, archive: Archive) -> Split:
        """The split it was trained on, made again on an archive.

        Raises:
            RunError: The archive's card is another, so that what the run trained on might be scored.
        """
        identity = self.record.identity
        if card_digest(archive.card) != identity.card:
            scored = self.record.data.scoring.name
            raise RunError(
                f"the run {self.folder} was trained under another data card",
                found=f"{archive.card.name}, as --card or the store says now",
                expected=f"{self.record.data.card}, unchanged since, with the competition {scored}",
                hint="name the card of the training with --card; a card that named no competition then needs the line "
                f"now: competition = {json.dumps(scored)}",
            )
        split = make_split(archive, identity.protocol, identity.members)
        return final_split(archive, split) if identity.final else split

    def emulator(self, archive: Archive | None = None) -> Emulator:
        """The trained emulator.

        Args:
            archive: Whose grid and variables it must have; None: whatever it was trained on.

        Raises:
            RunError: Training has not finished, or the folder is damaged.
            ProtocolError: The archive has another grid or other variables.
        """
        self.refuse_unfinished()
        emulator = load_trained(self.folder, self.recipe)
        if archive is not None:
            check_fits(emulator, archive)
        return emulator

    def refuse_unfinished(self) -> None:
        """Refuse a run whose emulator is not whole yet.

        Raises:
            RunError: Training has not finished.
        """
        if self.record.state != "finished":
            raise RunError(
                f"the run {self.folder} has not finished",
                found=f"state {self.record.state!r}",
                hint=self.go_on(),
            )

    def go_on(self) -> str:
        """How to continue it: a command, where the record holds one that can be trusted."""
        return _again(self.record, self.folder)

    def other_versions(self) -> list[str]:
        """What it needs of other packages and is installed in another version than it was trained with."""
        return other_versions(self.record.plugins)

    def log_problems(self) -> list[str]:
        """What its logs lack, or what is wrong with them, in words."""
        try:
            return log_gaps(self.record, read_logs(self.folder))
        except RunError as e:
            return [f"{e.what}: {e.found}"]

    def evaluation(self, name: str) -> dict[str, Any]:
        """The stored evaluation of a set.

        Raises:
            RunError: There is none, or it is damaged.
        """
        return read_evaluation(self.folder, name, self.record)


def train_run(
    archive: Archive,
    recipe: Recipe,
    folder: Path,
    *,
    protocol: str | None = None,
    members: Sequence[int] | None = None,
    seed: int = 0,
    resume: bool = False,
    data_arguments: DataArguments | None = None,
    comm: Comm | None = None,
    execution: Execution | None = None,
    command: str | None = None,
    final: Run | None = None,
    reporter: Reporter,
) -> tuple[Run, Evaluation | None]:
    """Train, evaluate on validation, and keep everything in a folder.

    Args:
        archive: The data.
        recipe: What to train.
        folder: The run folder; must be new, or the finished run of the same configuration, which is returned as it is,
            or the interrupted one with `resume`.
        protocol: Split; the card's default when None.
        members: Members to train on; all when None.
        seed: Of initial weights, dropout and batch order.
        resume: Continue an interrupted run.
        data_arguments: How the archive was opened, kept for later commands.
        comm: The processes that train together, each of which makes this call; one alone, on the CPU, when None.
        execution: How training is run on the hardware.
        command: What trains the same, for the record; the command line of this process when None.
        final: The finished run that selected, for a final fit: the validation months train too, and there is no
            evaluation.
        reporter: Shows progress.

    Raises:
        RunError: The folder exists, belongs to another configuration, or another process trains in it; or the run that
            selected is of another configuration.
        EmukitError: The competition of the card does not fit the data.
        ProtocolError: The split cannot be made on this archive.
        TrainingError: The loss is not finite.
    """
    # Refuses data that cannot be scored, before anything is trained.
    if competition_of(archive).derive and archive.share.divided:
        raise TrainingError(
            "numbers of whole years are not scored by processes that each read their own rows",
            found=f"{archive.source}, scored by {competition_of(archive).name}",
            hint="leave --domain out",
        )
    split = make_split(archive, protocol, members)
    comm = comm or Comm()
    if not resume:
        # Trained by this very command before, perhaps as the first part of another one: it is what is wanted.
        done = comm.main_only(
            lambda: finished_run(archive, recipe, folder, protocol=protocol, members=members, seed=seed, final=final)
        )
        if comm.any(done is not None):
            done = done or read_run(folder)
            reporter.say(f"{folder} is finished, of the same recipe, data, protocol and seed: nothing is trained")
            return done, None if final else _evaluated(done.emulator(archive), archive, split, comm)
    going_on = resume and (folder / RECORD_FILE).exists()
    execution = execution or Execution()
    shards = comm.world if execution.strategy == "fsdp" else 1
    recorded = read_run(folder).recipe if going_on else final.recipe if final else None
    recipe = fit_recipe(recipe, archive, split, reporter)
    recipe = resolve_batch(recipe, archive, split, comm, reporter, recorded, shards=shards)
    identity = identity_of(archive, recipe, split, members, seed)
    selected: RefitPolicy | None = None
    if final:
        check_selected(final.folder, final.record.identity, identity)
        identity = identity.model_copy(update={"final": final.record.identity.digest})
        selected = RefitPolicy(final.folder, final.emulator(archive))
        split = final_split(archive, split)
        split = replace(split, notes=(*split.notes, f"selected by: {final.record.command} --out {final.folder}"))
    # One process looks after the folder; the others wait for it, and end with it if it refuses.
    before = comm.main_only(lambda: _existing(folder, identity, resume))
    for note in split.notes:
        reporter.note(note)
    # Everything that can be wrong with recipe and data shows in the preparation, before the folder is made.
    started = time.monotonic()
    finish = prepare(archive, recipe, split, seed, comm, execution, selected)
    made = not folder.exists()
    with ExitStack() as held:

        def hold() -> RunRecord | None:
            held.enter_context(exclusive(folder))
            return _existing(folder, identity, resume)

        known = comm.main_only(hold)
        if known and known.state == "finished" and not (before and before.state == "finished"):
            # Another process has finished it while this one prepared.
            done = read_run(folder)
            return done, None if final else _evaluated(done.emulator(archive), archive, split, comm)
        record = known or new_record(archive, recipe, split, identity, data_arguments, command)
        sessions = (*record.sessions, session_now(comm.world))
        record = record.model_copy(update={"state": "training", "sessions": sessions})
        if comm.main:
            record.write(folder)
        comm.barrier()
        prepared = time.monotonic() - started
        begun = time.monotonic()
        try:
            emulator, outcome = finish(folder, reporter)
        except EmukitError as e:
            if known and isinstance(e, RunError):
                # Its checkpoint cannot be used: no session took place, and the record stays what it was.
                known.write(folder)
            elif not known and comm.main:
                _withdraw(folder, made=made)
            raise
        emulator.trained_in = trained_in(recipe, archive, split)
        emulator.plugins = plugins_of(recipe.model_dump(mode="json"))
        trained = time.monotonic()
        evaluation = None if final else _evaluated(emulator, archive, split, comm)
        # A network counts the sessions before this one too; what is fitted in closed form counts nothing itself.
        seconds = max(outcome.pop("seconds", 0.0), trained - begun) + prepared + time.monotonic() - trained
        record = record.model_copy(update={**outcome, "state": "finished", "seconds": round(seconds, 1)})
        if comm.main:
            logged = {place: lines[-1]["epoch"] for place, lines in read_logs(folder).items() if lines}
            record = record.model_copy(update={"logs": logged})
            emulator.save(folder / "emulator")
            if evaluation:
                save_evaluation(folder, evaluation)
            record.write(folder)
        comm.barrier()
    return Run(folder, recipe, record), evaluation


def _evaluated(emulator: Emulator, archive: Archive, split: Split, comm: Comm) -> Evaluation:
    """What an emulator that every process has scores on validation: by each of them, or by those that share a globe."""
    share_globe(emulator, comm)
    # Months are not dealt out: the references take longest.
    return evaluate(emulator, archive, split, "validation")


def finished_run(
    archive: Archive,
    recipe: Recipe,
    folder: Path,
    *,
    protocol: str | None = None,
    members: Sequence[int] | None = None,
    seed: int = 0,
    final: Run | None = None,
) -> Run | None:
    """The finished run in a folder, if it is one of exactly this configuration, as for `train_run`; else None.

    Raises:
        RunError: The folder's record is damaged.
        ProtocolError: The split cannot be made on this archive.
    """
    if not (folder / RECORD_FILE).exists():
        return None
    run = read_run(folder)
    split = make_split(archive, protocol, members)
    # A number that stands for an automatic batch size is the run's own; everything else is compared.
    recipe = fit_recipe(recipe, archive, split, silent_reporter())
    recipe = resolve_batch(recipe, archive, split, Comm(), silent_reporter(), run.recipe)
    identity = identity_of(archive, recipe, split, members, seed)
    if final:
        identity = identity.model_copy(update={"final": final.record.identity.digest})
    return run if run.record.identity == identity and run.record.state == "finished" else None


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        RunError: It is not a run, is truncated, or is of another format.
        RecipeError: Its recipe does not fit this version of emukit.
    """
    record = read_record(folder)
    return Run(folder, checked_recipe(folder, record), record)


def checked_recipe(folder: Path, record: RunRecord) -> Recipe:
    """The recipe of the record of a run folder.

    Raises:
        RunError: It needs a package that is not installed.
        RecipeError: It does not fit this version of emukit.
    """
    check_plugins(record.plugins, f"the run {folder}")
    return parse_recipe(record.recipe, str(folder / RECORD_FILE))


# What the default name of the folder of a final fit ends in.
FINAL = "-final"


def run_name(model: str, protocol: str, seed: int) -> str:
    """The default name of the folder of a run."""
    return f"{model_label(model)}-{slug(protocol)}-s{seed}"


def save_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Keep an evaluation in the run folder.

    Raises:
        EmukitError: It cannot be written, or the folder of the scores is a link.
    """
    write_text(inside(folder, "scores", f"{evaluation.name}.json"), json.dumps(evaluation.as_dict(), indent=1))


def identity_of(archive: Archive, recipe: Recipe, split: Split, members: Sequence[int] | None, seed: int) -> Identity:
    """What decides the numbers of a run: digests of recipe, data, card and split, with members and seed.

    Args:
        archive: The data.
        recipe: What is trained.
        split: Under which.
        members: That train; None: all.
        seed: Of the run.
    """
    everyone = {m for s in archive.values() for m in s.members}
    chosen = None if members is None or set(members) == everyone else tuple(sorted(members))
    return Identity(
        recipe=recipe.digest,
        protocol=split.protocol,
        members=chosen,
        seed=seed,
        data=archive.digest,
        card=card_digest(archive.card),
    )


def _again(record: RunRecord, folder: Path) -> str:
    """How to continue a run; of the second training of --refit, the command names the folder of the first."""
    command = checked_command(record.command)
    refitted = record.identity.final and "--refit" in shlex.split(command)
    place = shlex.quote(str(folder.with_name(folder.name.removesuffix(FINAL)) if refitted else folder))
    return f"{command or 'the command that began it, with'} --resume --out {place}"


def _withdraw(folder: Path, *, made: bool) -> None:
    """Take back a held folder in which nothing was trained yet, so that it is free for the corrected command.

    Args:
        folder: The run folder.
        made: Whether it is this command's.
    """
    files = [p for p in folder.rglob("*") if p.is_symlink() or not p.is_dir()]
    if {p.relative_to(folder) for p in files} <= {Path(RECORD_FILE), Path(LOCK_FILE)}:
        (folder / RECORD_FILE).unlink(missing_ok=True)
        for place in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
            place.rmdir()
        # Last: until then nobody else begins here.
        (folder / LOCK_FILE).unlink()
        if made:
            with suppress(OSError):
                folder.rmdir()


def _existing(folder: Path, identity: Identity, resume: bool) -> RunRecord | None:
    """The record of the run to resume; None where the folder is new."""
    # What a killed writer left makes no run.
    there = (
        [p for p in folder.iterdir() if p.name != LOCK_FILE and not PART.fullmatch(p.name)] if folder.is_dir() else []
    )
    if not there and not folder.is_file():
        return None
    record = read_record(folder) if resume or (folder / RECORD_FILE).exists() else None
    before, now = record.identity.model_dump() if record else {}, identity.model_dump()
    different = [k for k, v in now.items() if before.get(k) != v]
    if record is None or not resume:
        found = f"a run of another {', '.join(different)}" if different else "an interrupted run of this configuration"
        raise RunError(
            f"the run folder {folder} exists",
            found=found if record else "other files",
            expected="a new folder, or a finished run of the same configuration",
            hint="choose another --out" if different or not record else "--resume to continue it, or another --out",
        )
    for path in (*folder.iterdir(), *(folder / "bases").rglob("*")):
        if path.is_symlink() and path.is_dir():
            raise RunError(f"{path} is a link", expected="a folder", hint="remove the link: nothing is written there")
    if different:
        # The command that began it says something else where shipped settings have changed since.
        changed = (
            " (with the emukit that began it, where shipped settings have changed since)"
            if "recipe" in different
            else ""
        )
        raise RunError(
            f"the run {folder} belongs to another configuration",
            found=f"another {', '.join(different)}",
            expected="the configuration that started it",
            hint=f"resume with: {_again(record, folder)}{changed}; or choose another --out",
        )
    return record
