"""What a run folder says of itself, checked when it is written and when it is read.

Invariant: a record that can be read is whole; a truncated or edited one is refused with everything that is wrong in it.
"""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emukit.config import describe
from emukit.data.archive import Archive
from emukit.data.card import Card
from emukit.data.named import DEMO
from emukit.data.split import Split
from emukit.errors import RunError
from emukit.experiments import provenance
from emukit.experiments.recipe_kinds import Recipe
from emukit.files import below, parse_json, read_text, write_text
from emukit.training.log import LOG, gaps, read_lines

RECORD_FILE = "run.json"


@dataclass(frozen=True)
class Opening:
    """How the data was opened, so that it can be opened so again: --card and --convert."""

    card: str | None = None
    convert: Mapping[str, str] | None = None


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class DataRecord(_Part):
    """Which data, and how it was opened.

    Attributes:
        source: Absolute path of the store, or ``demo``.
        card: Name of its card.
        card_option: What was given as --card, None where the card was recognised.
        convert: What was given as --convert.
        benchmark: Scores on stores of one benchmark are ranked together.
        digest: SHA-256 of the values.
    """

    source: str
    card: str
    card_option: str | None
    convert: dict[str, str]
    benchmark: str
    digest: str


class Identity(_Part):
    """What decides the numbers: a run is resumed only by the same.

    Attributes:
        recipe: Digest of the recipe.
        protocol: The split.
        members: Training members; None for all.
        seed: Of weights, dropout and batch order.
        data: Digest of the values.
        card: Digest of the card, whose protocols cut the split.
        final: Of a final fit, which trains on the validation months too: digest of the identity of the run that
            selected; None for all others.
    """

    recipe: str
    protocol: str
    members: tuple[int, ...] | None
    seed: int
    data: str
    card: str
    final: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of it all."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Session(_Part):
    """Under what one session of training ran."""

    started: str
    versions: dict[str, str]
    git: dict[str, str | bool]
    machine: dict[str, str | int]


class RunRecord(_Part):
    """`run.json`.

    Attributes:
        state: ``training`` until the emulator is whole.
        recipe: The recipe as plain values.
        train, scored: The split in words.
        command: What began it.
        seconds: Time spent, over all sessions.
        sessions: One for the start and each resume.
        parameters: Of all finished networks together, None where there is none.
        epochs, best_epoch: Of a single finished network.
        best_average: Whether its weights are an average.
        findings: What fitting a wrapper found, in words.
        logs: Place of each log in the folder to its number of epochs, of a finished run.
    """

    format: Literal[1] = 1
    state: Literal["training", "finished"]
    identity: Identity
    recipe: dict[str, Any]
    data: DataRecord
    train: tuple[str, ...]
    scored: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]
    command: str
    seconds: float = Field(0.0, ge=0.0, allow_inf_nan=False)
    sessions: tuple[Session, ...]
    parameters: int | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    best_average: bool | None = None
    findings: tuple[str, ...] = ()
    logs: dict[str, int] = {}

    def write(self, folder: Path) -> None:
        """Write it into the run folder, atomically."""
        write_text(folder / RECORD_FILE, self.model_dump_json(indent=1))


def new_record(
    archive: Archive,
    recipe: Recipe,
    split: Split,
    identity: Identity,
    opening: Opening | None,
    command: str | None,
) -> RunRecord:
    """The record of a run that begins; its sessions are added as they begin.

    Args:
        archive: The data.
        recipe: What is trained.
        split: On which months.
        identity: What decides the numbers.
        opening: How the data was opened.
        command: What begins it; the command of this process when None.
    """
    opening = opening or Opening()
    return RunRecord(
        state="training",
        identity=identity,
        recipe=recipe.model_dump(mode="json"),
        data=DataRecord(
            source=archive.source if archive.source == DEMO else str(Path(archive.source).absolute()),
            card=archive.card.name,
            card_option=opening.card,
            convert=dict(opening.convert or {}),
            benchmark=benchmark_of(archive),
            digest=archive.digest,
        ),
        train=tuple(s.text(archive) for s in split.train),
        scored={name: tuple(s.text(archive) for s in spans) for name, spans in split.scored.items()},
        notes=split.notes,
        command=command or _command(),
        sessions=(),
    )


def session_now(processes: int) -> Session:
    """A session of so many processes that begins now, on this machine, with these versions."""
    return Session(
        started=provenance.now(),
        versions=provenance.versions(),
        git=provenance.git_state(),
        machine=provenance.machine() | {"processes": processes},
    )


def read_record(folder: Path) -> RunRecord:
    """Read the record of a run folder.

    Raises:
        RunError: There is none, or it is truncated, wrong, or of another format.
    """
    path = folder / RECORD_FILE
    try:
        return RunRecord.model_validate_json(read_text(path))
    except OSError as e:
        raise RunError(
            f"{folder} is not a run",
            found=f"no {RECORD_FILE}" if isinstance(e, FileNotFoundError) else f"{RECORD_FILE}: {e.strerror or e}",
            hint="name a folder that `emukit train` wrote",
        ) from e
    except (ValidationError, UnicodeDecodeError) as e:
        problems = describe(e) if isinstance(e, ValidationError) else [str(e)]
        raise RunError(
            f"{path} is damaged or of another version of emukit",
            found="\n            ".join(problems[:10]),
            hint="restore it, use the emukit that wrote it, or train again",
        ) from None


def read_logs(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """The logs of a run and of what it is made of, by their places in its folder, such as ``.`` and ``bases/0-unet``.

    Raises:
        RunError: One is damaged.
    """
    return {p.parent.relative_to(folder).as_posix(): read_lines(p) for p in below(folder, LOG)}


def log_gaps(record: RunRecord, logs: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """What the logs of a run lack, in words.

    Args:
        record: Of the run.
        logs: As `read_logs` gives them.
    """
    # Records of earlier versions tell the epochs of a single network.
    counted = record.logs or ({} if record.epochs is None else {".": record.epochs})
    known = counted if record.state == "finished" else {}
    places = dict.fromkeys([*known, *logs])
    found = {place: gaps(logs.get(place, ()), known.get(place)) for place in places}
    return [f"{Path(place, LOG)}: {words}" for place, words in found.items() if words]


def read_json(path: Path, remedy: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: It cannot be read, or is no object.
    """
    try:
        value = parse_json(read_text(path))
    except (OSError, ValueError) as e:
        raise RunError(f"{path} cannot be read", found=str(e), hint=remedy) from e
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged", found=type(value).__name__, expected="a JSON object", hint=remedy)
    return value


def benchmark_of(archive: Archive) -> str:
    """The name under which scores on this archive's truth are ranked together.

    Stores of a card that declares a benchmark hold the same climate, if rounded differently, on the grid named. Of any
    other store nothing is known but its values, so their digest is the name.
    """
    card = archive.card
    cells = f"{archive.grid.shape[0]}x{archive.grid.shape[1]}"
    return f"{card.benchmark} {cells}" if card.benchmark else f"{card.name} {cells} {archive.digest[:8]}"


def card_digest(card: Card) -> str:
    """SHA-256 of a card: its protocols decide what is held out."""
    return hashlib.sha256(card.model_dump_json().encode()).hexdigest()


def _command() -> str:
    words = ["emukit", *sys.argv[1:]] if Path(sys.argv[0]).name in ("emukit", "__main__.py") else sys.argv
    # Hints add both again.
    kept = [w for i, w in enumerate(words) if w not in ("--resume", "--out") and words[i - 1] != "--out"]
    return shlex.join(w for w in kept if not w.startswith("--out="))
