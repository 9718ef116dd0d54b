"""Runs in folders: what there is, and how far each came.

Invariant: looking changes nothing, and a damaged folder is said to be damaged among those that are not.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from emukit.errors import EmukitError, RunError
from emukit.experiments.recipe import FAST
from emukit.experiments.recipe_kinds import NetworkRecipe, recipe_names
from emukit.experiments.record import RECORD_FILE, RunRecord, log_gaps, read_logs
from emukit.experiments.run import Run, read_run
from emukit.experiments.run_traces import FAILED, failure_of, is_study_run
from emukit.experiments.table import split_name
from emukit.files import is_held
from emukit.training.log import LOG

State = Literal["training", "interrupted", "failed", "finished", "damaged"]
STATES: tuple[State, ...] = ("training", "interrupted", "failed", "finished", "damaged")
# Of `st_blocks`, whatever the file system's own are.
BLOCK_BYTES = 512
# What validation says is what selects; the others stand in where it says nothing, as in a final fit.
SETS = ("validation", "held-out", "test", "test-all")


@dataclass(frozen=True)
class Listed:
    """A run folder, as far as it can be read.

    Attributes:
        folder: Where it is.
        state: ``interrupted`` is a training that no live process on this machine goes on with; ``failed``, one that a
            study gave up.
        size: Bytes on disk, those of its bases included.
        held: Whether a live process on this machine writes it.
        run: None where it is damaged, or failed before it began.
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
    run: Run | None = None
    problem: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    months: dict[str, str] = field(default_factory=dict)
    epoch: int | None = None
    epochs: int | None = None
    seconds: float = 0.0

    @property
    def model(self) -> str:
        """The recipe by the name it was trained under, as far as the record tells; else its emulator."""
        return model_name(self.run.record) if self.run else ""

    @property
    def ranked_by(self) -> tuple[str, float] | None:
        """The set that runs of its kind are compared on, and the score there; None where it has none."""
        return next(iter(self.scores.items()), None)

    @property
    def kind(self) -> tuple[str, str] | None:
        """What its score can be compared with: the same model on the same months; None without a score."""
        ranked = self.ranked_by
        return (self.model, self.months[ranked[0]]) if ranked else None


def model_name(record: RunRecord) -> str:
    """The recipe that `emukit train` named, where the record's command is such; else the emulator."""
    words: list[str] = []
    with suppress(ValueError):
        words = shlex.split(record.command)
    if "train" in words[:2] and words[-1] != "train":
        name = words[words.index("train") + 1]
        name += FAST if "--fast" in words else ""
        if name in recipe_names():
            return name
    return str(record.recipe["emulator"])


def find_runs(places: Iterable[Path]) -> list[Path]:
    """Every run folder at or below the places, once; what lies within a run, as its bases do, belongs to it.

    Raises:
        RunError: A place is no folder.
    """
    found: dict[Path, Path] = {}
    for place in places:
        if not place.is_dir():
            raise RunError(f"{place} is no folder", hint="name a run, or a folder of runs")
        for folder in _runs_below(place):
            found.setdefault(folder.resolve(), folder)
    return list(found.values())


def _runs_below(place: Path) -> Iterator[Path]:
    try:
        below = None if (place / RECORD_FILE).exists() else sorted(place.iterdir())
    except OSError:
        # What cannot be looked into is said to be damaged, like what cannot be read.
        below = None
    if below is None:
        yield place
        return
    # Names with a dot in front are parts and leftovers of writers; a link might lead back up.
    for inside in below:
        if inside.is_dir() and not inside.is_symlink() and not inside.name.startswith("."):
            yield from _runs_below(inside)


def list_runs(places: Iterable[Path]) -> list[Listed]:
    """Every run, those under way first, then by what their scores can be compared with, best first."""
    places = list(places)
    listed = [look_at(folder) for folder in find_runs(places)]
    listed += failed_at_once(places)
    return sorted(listed, key=_order)


def failed_at_once(places: Iterable[Path]) -> list[Listed]:
    """A study's runs that failed before there was anything of them to read."""
    found: dict[Path, Listed] = {}
    for place in places:
        for path in sorted(place.rglob(f"*{FAILED}")):
            folder = path.with_suffix("")
            hidden = any(part.startswith(".") for part in path.relative_to(place).parts)
            if not hidden and folder.resolve() not in found and (run := never_begun(folder)):
                found[folder.resolve()] = run
    return list(found.values())


def never_begun(folder: Path) -> Listed | None:
    """A study's run that failed before there was anything of it to read; None where it is something else."""
    failure = failure_of(folder) if is_study_run(folder) and not (folder / RECORD_FILE).exists() else ""
    if not failure:
        return None
    return Listed(folder, "failed", folder_size(folder), is_held(folder), problem=failure.splitlines()[0])


def _order(listed: Listed) -> tuple[int, bool, str, float, str]:
    ranked = listed.ranked_by
    protocol = listed.run.record.identity.protocol if listed.run else ""
    months, score = (listed.months[ranked[0]], ranked[1]) if ranked else (protocol, 0.0)
    return STATES.index(listed.state), not ranked, months, score, str(listed.folder)


def look_at(folder: Path) -> Listed:
    """A run folder; what is wrong in it is said, not raised."""
    size, held = folder_size(folder), is_held(folder)
    try:
        failure = "" if held else failure_of(folder)
        run = read_run(folder)
        state: State = "training" if held else "failed" if failure else "interrupted"
        state = "finished" if run.record.state == "finished" else state
        scores, months = _scores(run)
        logs = read_logs(folder)
        epoch, seconds = _progress(folder, logs)
    except EmukitError as e:
        found = e.found.splitlines()[0].strip() if e.found else ""
        return Listed(folder, "damaged", size, held, problem=f"{e.what} ({found})" if found else e.what)
    except (TypeError, ValueError, OverflowError, OSError) as e:
        return Listed(folder, "damaged", size, held, problem=f"the scores or the log of {folder} are damaged ({e})")
    if state == "finished":
        epoch, seconds = run.record.epochs if epoch is None else epoch, run.record.seconds
    epochs = run.recipe.training.epochs if isinstance(run.recipe, NetworkRecipe) else None
    problem = failure.splitlines()[0] if state == "failed" else ""
    problem = "; ".join([problem] * bool(problem) + log_gaps(run.record, logs))
    return Listed(folder, state, size, held, run, problem, scores, months, epoch, epochs, seconds)


def _scores(run: Run) -> tuple[dict[str, float], dict[str, str]]:
    record, scores, months = run.record, {}, {}
    names = {path.stem for path in (run.folder / "scores").glob("*.json")}
    for name in sorted(names, key=lambda n: (SETS.index(n) if n in SETS else len(SETS), n)):
        evaluation = run.evaluation(name)
        scores[name] = float(evaluation["score"])
        months[name] = split_name(record.data.benchmark, record.identity.protocol, name, evaluation["spans"])
    return scores, months


def _progress(folder: Path, logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> tuple[int | None, float]:
    """The last epoch of the log that was written last, and the seconds of all epochs in all logs."""
    seconds = sum(float(line.get("seconds") or 0.0) for own in logs.values() for line in own)
    last = max(logs, key=lambda place: (folder / place / LOG).stat().st_mtime, default=None)
    return (logs[last][-1]["epoch"] if last and logs[last] else None), seconds


def folder_size(folder: Path) -> int:
    """Bytes on disk below a folder; a file that goes while they are counted counts nothing."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.lstat().st_blocks * BLOCK_BYTES
    return total
