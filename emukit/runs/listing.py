"""Runs in folders: what there is, how far each came, and the files that a study keeps next to a run folder.

Invariant: looking changes nothing, and a damaged folder is said to be damaged among those that are not. Whatever lies
next to a run folder goes with it, and what is called otherwise is not a run of a study.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from emukit.errors import EmukitError, RunError
from emukit.files import is_held, open_regular
from emukit.recipes.catalogue import model_name
from emukit.runs.downscale_record import NETWORK, DownscaleRecord, read_downscale_record
from emukit.runs.leaderboard import split_name
from emukit.runs.record import DOWNSCALE_FILE, RECORD_FILE, RunRecord, log_gaps, read_evaluation, read_record
from emukit.training.log import LOG, read_lines

State = Literal["training", "interrupted", "failed", "finished", "damaged"]
STATES: tuple[State, ...] = ("training", "interrupted", "failed", "finished", "damaged")
# Of `st_blocks`, whatever the file system's own are.
BLOCK_BYTES = 512
# What validation says is what selects; the others stand in where it says nothing, as in a final fit.
SETS = ("validation", "held-out", "test", "test-all")
# Of the digest of a run's identity: enough to tell millions of runs apart.
HASH_DIGITS = 12
# What is next to a run folder that says why it failed, and how much of that is read.
FAILED = ".failed"
FAILURE_BYTES = 100_000


@dataclass(frozen=True)
class RunSummary:
    """A run folder, as far as it can be read.

    Attributes:
        folder: Where it is.
        state: ``interrupted`` is a training that no live process on this machine continues; ``failed``, one that a
            study gave up.
        size: Bytes on disk, those of its bases included.
        held: Whether a live process on this machine writes it.
        record: None where it is damaged, or failed before it began, or is one of `downscale`.
        downscale: The record of a downscaling run.
        problem: What is wrong with it, for people; empty where nothing is.
        scores: Set to score, the one that selects first.
        months: Set to what was scored, as the leaderboard names it.
        epoch: The last whole epoch of the network that was trained last; None where there is none.
        epochs: Of how many at most, as far as the recipe says it.
        seconds: Spent in training; of an unfinished run, what its logs hold.
    """

    folder: Path
    state: State
    size: int
    held: bool = False
    record: RunRecord | None = None
    downscale: DownscaleRecord | None = None
    problem: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    months: dict[str, str] = field(default_factory=dict)
    epoch: int | None = None
    epochs: int | None = None
    seconds: float = 0.0

    @property
    def model(self) -> str:
        """The recipe by the name it was trained under, as far as the record tells; else its emulator."""
        if self.downscale:
            return "downscale"
        return model_name(self.record.command, str(self.record.recipe["emulator"])) if self.record else ""

    @property
    def protocol(self) -> str | None:
        """The split; None where no record says it."""
        if self.record:
            return self.record.identity.protocol
        return self.downscale.protocol if self.downscale else None

    @property
    def seed(self) -> int | None:
        """Likewise of the seed."""
        if self.record:
            return self.record.identity.seed
        return self.downscale.seed if self.downscale else None

    @property
    def started(self) -> str | None:
        """When its first session began."""
        if self.record:
            return self.record.sessions[0].started if self.record.sessions else None
        sessions = self.downscale.values["sessions"] if self.downscale else []
        return str(sessions[0].get("started")) if sessions and isinstance(sessions[0], dict) else None

    @property
    def direction(self) -> str:
        """Which way its score is better, in words."""
        return self.record.data.scoring.competition.direction if self.record else "lower is better"

    @property
    def ranked_by(self) -> tuple[str, float] | None:
        """The set that runs of its kind are compared on, and the score there; None where it has none."""
        return next(iter(self.scores.items()), None)

    @property
    def kind(self) -> tuple[str, str] | None:
        """What its score can be compared with: the same model on the same months; None without a score."""
        ranked = self.ranked_by
        return (self.model, self.months[ranked[0]]) if ranked else None


def find_runs(places: Iterable[Path]) -> list[Path]:
    """Every run folder at or below the places, once; what lies within a run, as its bases do, belongs to it.

    Raises:
        RunError: A place is not a folder.
    """
    return _found(places)[0]


def _found(places: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Every run folder at or below the places, and every file that says why a run failed; each once.

    Raises:
        RunError: A place is not a folder.
    """
    runs: dict[str, Path] = {}
    failures: dict[str, Path] = {}
    for place in places:
        if not place.is_dir():
            raise RunError(f"{place} is not a folder", hint="name a run, or a folder of runs")
        for path in _below_place(place):
            # Unlike Path.resolve, which raises where links lead in a circle.
            (failures if path.name.endswith(FAILED) else runs).setdefault(os.path.realpath(path), path)
    return list(runs.values()), list(failures.values())


def _below_place(place: Path) -> Iterator[Path]:
    try:
        with os.scandir(place) as inside:
            entries = sorted(inside, key=lambda entry: entry.name)
    except OSError:
        # What cannot be looked into is said to be damaged, like what cannot be read.
        yield place
        return
    if any(entry.name in (RECORD_FILE, DOWNSCALE_FILE) for entry in entries):
        yield place
        return
    for entry in entries:
        # Names with a dot in front are parts and leftovers of writers; a link might lead back up.
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _below_place(place / entry.name)
        elif entry.name.endswith(FAILED):
            yield place / entry.name


def list_runs(places: Iterable[Path]) -> list[RunSummary]:
    """Every run, those under way first, then by what their scores can be compared with, best first."""
    folders, failures = _found(places)
    listed = [summarise_run(folder) for folder in folders]
    # A study's runs that failed before there was anything of them to read.
    listed += [run for path in failures if (run := never_started(path.with_suffix("")))]
    return sorted(listed, key=_order)


def never_started(folder: Path) -> RunSummary | None:
    """A study's run that failed before there was anything of it to read; None where it is something else."""
    failure = failure_of(folder) if is_study_run(folder) and not (folder / RECORD_FILE).exists() else ""
    if not failure:
        return None
    return RunSummary(folder, "failed", folder_size(folder), is_held(folder), problem=failure.splitlines()[0])


def _order(listed: RunSummary) -> tuple[int, bool, str, float, str]:
    ranked = listed.ranked_by
    months, cost = listed.protocol or "", 0.0
    if ranked:
        competition = listed.record.data.scoring.competition if listed.record else None
        months, cost = listed.months[ranked[0]], competition.cost(ranked[1]) if competition else ranked[1]
    return STATES.index(listed.state), not ranked, months, cost, str(listed.folder)


def summarise_run(folder: Path) -> RunSummary:
    """A run folder; what is wrong in it is said, not raised."""
    if (folder / DOWNSCALE_FILE).exists() and not (folder / RECORD_FILE).exists():
        return _summarise_downscale(folder)
    inside, held = _below(folder), is_held(folder)
    size = inside.size
    try:
        failure = "" if held else failure_of(folder)
        record = read_record(folder)
        state: State = "training" if held else "failed" if failure else "interrupted"
        state = "finished" if record.state == "finished" else state
        scores, months = _scores(folder, record, inside.scores)
        logs = {place: read_lines(folder / place / LOG) for place in inside.logs}
        epoch, seconds = _progress(inside.logs, logs)
    except EmukitError as e:
        return RunSummary(folder, "damaged", size, held, problem=e.line)
    except (TypeError, ValueError, OverflowError, OSError) as e:
        return RunSummary(folder, "damaged", size, held, problem=f"the scores or the log of {folder} are damaged ({e})")
    if state == "finished":
        epoch, seconds = record.epochs if epoch is None else epoch, record.seconds
    training = record.recipe.get("training")
    epochs = training.get("epochs") if isinstance(training, Mapping) else None
    problem = failure.splitlines()[0] if state == "failed" else ""
    problem = "; ".join([problem] * bool(problem) + log_gaps(record, logs))
    return RunSummary(folder, state, size, held, record, None, problem, scores, months, epoch, epochs, seconds)


def _summarise_downscale(folder: Path) -> RunSummary:
    inside, held = _below(folder), is_held(folder)
    try:
        about = read_downscale_record(folder)
        lines = read_lines(folder / LOG) if "." in inside.logs else []
        epoch, seconds = _progress(inside.logs, dict.fromkeys(inside.logs, lines))
    except EmukitError as e:
        return RunSummary(folder, "damaged", inside.size, held, problem=f"{e.what} ({e.found})" if e.found else e.what)
    except (TypeError, ValueError, OverflowError, OSError) as e:
        return RunSummary(folder, "damaged", inside.size, held, problem=f"the log of {folder} is damaged ({e})")
    state: State = "finished" if about.state == "finished" else "training" if held else "interrupted"
    if state == "finished":
        seconds = about.values["seconds"]
    names = [n for n in SETS if n in about.scores]
    scores = {n: about.scores[n][NETWORK]["score"] for n in names if "score" in about.scores[n][NETWORK]}
    training = about.values["recipe"].get("training")
    epochs = training.get("epochs") if isinstance(training, Mapping) else None
    months = {n: about.months(n) for n in scores}
    return RunSummary(folder, state, inside.size, held, None, about, "", scores, months, epoch, epochs, seconds)


def _scores(folder: Path, record: RunRecord, names: Iterable[str]) -> tuple[dict[str, float], dict[str, str]]:
    scores, months = {}, {}
    for name in sorted(names, key=lambda n: (SETS.index(n) if n in SETS else len(SETS), n)):
        evaluation = read_evaluation(folder, name, record)
        scores[name] = float(evaluation["score"])
        months[name] = split_name(record.data.benchmark, record.identity.protocol, name, evaluation["spans"])
    return scores, months


def _progress(
    changed: Mapping[str, float], logs: Mapping[str, Sequence[Mapping[str, Any]]]
) -> tuple[int | None, float]:
    """The last epoch of the log that was written last, and the seconds of all epochs in all logs."""
    seconds = sum(float(line.get("seconds") or 0.0) for own in logs.values() for line in own)
    last = max(logs, key=lambda place: changed[place], default=None)
    return (logs[last][-1]["epoch"] if last and logs[last] else None), seconds


def folder_size(folder: Path) -> int:
    """Bytes on disk below a folder; a file that goes while they are counted counts nothing."""
    return _below(folder).size


@dataclass
class _Inside:
    """What is below a run folder: bytes on disk, places of logs with their last change, and sets with scores."""

    size: int = 0
    logs: dict[str, float] = field(default_factory=dict)
    scores: list[str] = field(default_factory=list)


def _below(folder: Path) -> _Inside:
    """Everything below a run folder, in one pass; a file that goes meanwhile counts nothing."""
    found, places, scores = _Inside(), [str(folder)], str(folder / "scores")
    while places:
        place = places.pop()
        with suppress(OSError), os.scandir(place) as inside:
            for entry in inside:
                with suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    found.size += about.st_blocks * BLOCK_BYTES
                    if entry.name == LOG:
                        found.logs[Path(place).relative_to(folder).as_posix()] = about.st_mtime
                if place == scores and entry.name.endswith(".json"):
                    found.scores.append(entry.name.removesuffix(".json"))
                if entry.is_dir(follow_symlinks=False):
                    places.append(entry.path)
    return found


def failure_of(folder: Path) -> str:
    """Why the run in a folder failed in a study; empty where it did not."""
    path = failure_path(folder)
    if not path.is_file():
        return ""
    try:
        with open_regular(path) as f:
            return f.read(FAILURE_BYTES).decode(errors="replace").strip() or "it failed without a word"
    except FileNotFoundError:
        # It has just been started again.
        return ""
    except OSError as e:
        return f"it failed, and {path} cannot be read ({e.strerror})"


def is_study_run(folder: Path) -> bool:
    """Whether a folder is called as a study calls those of its runs."""
    return bool(re.fullmatch(rf".+-[0-9a-f]{{{HASH_DIGITS}}}", folder.name))


def remove_traces(folder: Path) -> None:
    """Remove what a study wrote next to the folder of one of its runs."""
    if is_study_run(folder):
        for path in (failure_path(folder), log_path(folder)):
            path.unlink(missing_ok=True)


def log_path(folder: Path) -> Path:
    """Where the process of a run writes."""
    return folder.with_name(folder.name + ".log")


def failure_path(folder: Path) -> Path:
    """Where it stands why a run failed."""
    return folder.with_name(folder.name + FAILED)


def is_finished(folder: Path) -> bool:
    """Whether the run in a folder, which is named after what decides its numbers, is whole."""
    try:
        return read_record(folder).state == "finished"
    except RunError:
        return False
