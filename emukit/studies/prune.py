"""Which runs may go, and their going.

Invariant: what is removed was named, or is behind others of its kind; it is not being written, and nothing that stays
refers to it. A removal that is interrupted leaves a run whole, or no run.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from emukit.errors import EmukitError, RunError
from emukit.files import below, exclusive, parse_json, read_text, remove_folder, sweep
from emukit.recipes.catalogue import identity_digest
from emukit.runs import crossval, protocols
from emukit.runs.listing import RunSummary, find_runs, list_runs, never_started, remove_traces, summarise_run
from emukit.runs.record import DOWNSCALE_FILE, RECORD_FILE, RunRecord, read_record
from emukit.studies.budget import PLAN_FILE
from emukit.submission import ENTRY_FILE, SubmissionEntry, read_entry

SUBMISSIONS = "submissions"
# Results over several runs, in a folder that holds these.
STUDY_FILE = "study.json"
TOGETHER = (protocols.REPORT_FILE, crossval.REPORT_FILE, STUDY_FILE)
BEING_WRITTEN = "another process is writing it"
MAY_GO = "it may go once that folder is removed"


@dataclass(frozen=True)
class PrunePlan:
    """What would go, and what would have gone except for a reason.

    Attributes:
        runs: To be removed.
        kept: Folder to why it stays.
    """

    runs: tuple[RunSummary, ...]
    kept: dict[Path, str]

    @property
    def size(self) -> int:
        """Bytes that removing frees."""
        return sum(run.size for run in self.runs)


def prune_named(folders: Sequence[Path]) -> PrunePlan:
    """The removal of runs that were named.

    Raises:
        RunError: One is not a run or a damaged one, is being written, or something that stays refers to it.
    """
    for folder in folders:
        if folder.is_symlink():
            raise RunError(
                f"{folder} is a link", hint=f"name what it points to, {folder.resolve()}; nothing was removed"
            )
        if (folder / DOWNSCALE_FILE).exists():
            raise RunError(
                f"{folder} is a downscaling run",
                found="something that runs of `downscaled` may be made of",
                expected="runs of emulators",
                hint="remove the folder yourself, if nothing refines with it; nothing was removed",
            )
        if not (folder / RECORD_FILE).exists() and not never_started(folder):
            raise RunError(
                f"{folder} is not a run",
                found=f"no {RECORD_FILE} in it" if folder.is_dir() else "no such folder",
                expected="a folder that `emukit train` wrote",
                hint="`emukit runs` lists what there is; nothing was removed",
            )
    listed = [summarise_run(folder) for folder in find_runs(f for f in folders if (f / RECORD_FILE).exists())]
    failed = {f.resolve(): run for f in folders if (run := never_started(f))}
    listed += failed.values()
    reasons = _reasons_to_stay(listed, [run.folder.resolve().parent for run in listed])
    for run in listed:
        if run.folder in reasons:
            raise RunError(
                f"{run.folder} is not removed", found=reasons[run.folder], hint="leave it out; nothing was removed"
            )
    return PrunePlan(tuple(listed), {})


def prune_all_but_best(places: Sequence[Path], keep: int) -> PrunePlan:
    """The removal of all finished runs but the best of each kind: the same model, scored on the same months.

    Runs without a score are in no ranking, and stay; so does what is being written, or referred to by what stays.

    Raises:
        RunError: A place is not a folder.
    """
    kinds: dict[tuple[str, str], list[RunSummary]] = {}
    for run in list_runs(places):
        # What runs of `downscaled` are made of is not behind them.
        if run.state == "finished" and run.kind and not run.downscale:
            kinds.setdefault(run.kind, []).append(run)
    behind = [run for group in kinds.values() for run in group[keep:]]
    reasons = _reasons_to_stay(behind, [place.resolve() for place in places])
    return PrunePlan(tuple(run for run in behind if run.folder not in reasons), reasons)


def remove(run: RunSummary) -> None:
    """Remove a run: it steps aside under a name that nothing lists, and is then deleted.

    Raises:
        RunError: Another process writes it by now.
        EmukitError: It cannot be removed.
    """
    folder = run.folder.resolve()
    if not folder.is_dir():
        # There never was one, or another removal was faster; to take its lock would make the folder again.
        remove_traces(folder)
        return
    with exclusive(folder):
        try:
            remove_folder(folder)
        except OSError as e:
            raise EmukitError(
                f"cannot remove {run.folder}", found=e.strerror or str(e), hint="look at the permissions of its parent"
            ) from e
    remove_traces(folder)
    sweep(folder.parent)


def _reasons_to_stay(runs: Sequence[RunSummary], places: Sequence[Path]) -> dict[Path, str]:
    """Which of these runs must stay, and why.

    Args:
        runs: About to be removed together.
        places: Where what might refer to them is looked for; next to them, and here, their submissions.
    """
    going = {run.folder.resolve() for run in runs}
    finals = dict(_final_fits(f for f in find_runs(dict.fromkeys(places)) if f.resolve() not in going))
    entries = [*_entries([*places, *(p.parent / SUBMISSIONS for p in places), Path(SUBMISSIONS).resolve()])]
    studies, unknown = _studies_of(places)
    reasons: dict[Path, str] = {}
    for run in runs:
        if run.record is None and run.state == "failed":
            # There is nothing of it that anything could refer to.
            if run.held:
                reasons[run.folder] = BEING_WRITTEN
            continue
        if run.record is None:
            reasons[run.folder] = f"{run.problem}; what refers to it cannot be told"
            continue
        together = [p / name for p in run.folder.resolve().parents for name in TOGETHER if (p / name).exists()]
        together += [studies[run.folder.resolve()]] if run.folder.resolve() in studies else []
        written = [place for place, entry in entries if _is_of(entry, run.record)]
        untold = [study for study in unknown if run.folder.resolve().is_relative_to(study.resolve().parent)]
        within = [path.parent for path in below(run.folder, RECORD_FILE) if path.parent != run.folder]
        if run.held:
            reasons[run.folder] = BEING_WRITTEN
        elif within:
            reasons[run.folder] = f"another run is in it, {within[0]}"
        elif run.record.identity.digest in finals:
            reasons[run.folder] = f"it selected the final fit {finals[run.record.identity.digest]}"
        elif written:
            reasons[run.folder] = f"the submission {written[0]} is of it"
        elif together:
            reasons[run.folder] = f"{together[0]} is about it and others together; {MAY_GO}"
        elif untold:
            reasons[run.folder] = (
                f"which runs the study {untold[0]} is about cannot be told; it has not ended, or is damaged; {MAY_GO}"
            )
    return reasons


def _final_fits(folders: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    """Digest of the identity of what selected a final fit, and where that is; a damaged folder names nothing."""
    for folder in folders:
        with suppress(RunError):
            identity = read_record(folder).identity
            if identity.final:
                yield identity.final, folder


def _entries(places: Iterable[Path]) -> Iterator[tuple[Path, SubmissionEntry]]:
    """Entries at or right below the places; a damaged one names nothing."""
    for place in dict.fromkeys(p for p in places if p.is_dir()):
        for path in (*place.glob(ENTRY_FILE), *sorted(place.glob(f"*/{ENTRY_FILE}"))):
            with suppress(EmukitError):
                yield path.parent, read_entry(path.parent)


def _is_of(entry: SubmissionEntry, record: RunRecord) -> bool:
    """Whether an entry was written from this run, or from one that is the same in all that an entry tells."""
    with suppress(ValueError):
        identity = record.identity
        if entry.run:
            return entry.run == identity_digest(identity.model_dump(mode="json"))
        known = (entry.protocol, entry.seed, entry.command) == (identity.protocol, identity.seed, record.command)
        return known and parse_json(entry.recipe) == record.recipe
    return False


def _studies_of(places: Iterable[Path]) -> tuple[dict[Path, Path], list[Path]]:
    """Run folder to the results of a study that names it; and the studies of which nothing is known.

    Looked for below the places, and next to them. A study that has not ended has a plan, and no results yet.
    """
    near = [path for p in places for path in (p, p.parent)]
    folders = dict.fromkeys(
        path.parent
        for name in (STUDY_FILE, PLAN_FILE)
        for place, below in zip(near, ("**/", "*/") * (len(near) // 2), strict=True)
        for path in place.glob(f"{below}{name}")
    )
    named: dict[Path, Path] = {}
    unknown = []
    for folder in folders:
        study = folder / STUDY_FILE
        try:
            variants = parse_json(read_text(study))["variants"]
            runs = [folder / run["folder"] for variant in variants for run in variant["runs"]]
            named |= {Path(os.path.realpath(run)): study for run in runs}
        except (OSError, ValueError, KeyError, TypeError):
            unknown.append(folder)
    return named, unknown
