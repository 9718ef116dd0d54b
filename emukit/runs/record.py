"""What a run folder says of itself, checked when it is written and when it is read.

Invariant: a record that can be read is whole; a truncated or edited one is refused with everything that is wrong in it.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emukit import provenance
from emukit.competitions.cse151b import NAME, UNITS
from emukit.competitions.registry import COMPETITIONS, competition_of, load_competition
from emukit.config import describe
from emukit.data.card import CARDS, shipped_cards
from emukit.data.protocol import LOSO
from emukit.errors import RunError
from emukit.files import below, parse_json, read_text, write_text
from emukit.metrics import Competition
from emukit.recipes.catalogue import plugins_of, recipe_digest
from emukit.registry import TARGET, Plugin
from emukit.terminal import one_line
from emukit.training.log import LOG, gaps, read_lines

if TYPE_CHECKING:
    from emukit.data.archive import Archive
    from emukit.data.card import Card
    from emukit.data.split import Split
    from emukit.recipes.schema import Recipe

RECORD_FILE = "run.json"
# What `emukit train downscale` writes instead, and who reads it.
DOWNSCALE_FILE = "downscale.json"
OF_DOWNSCALING = "it holds a run of downscaling, which `emukit evaluate`, `runs`, `report` and `downscale` read"
# Beyond any score.
MOST = 1e9
# A name, a class as module:Name, or a recipe file.
MODEL = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]*|{TARGET.pattern}|[A-Za-z0-9_./~][A-Za-z0-9_./~ -]*\.toml", re.ASCII)
# Options of `emukit train` that say what is trained and how, and write, start or send nothing elsewhere.
VALUED = frozenset(
    f"--{name}"
    for name in (
        "data",
        "members",
        "protocol",
        "recipe",
        "loss",
        "objective",
        "set",
        "seed",
        "final",
        "precision",
        "card",
        "convert",
    )
)
FLAGS = frozenset(["--fast", "--refit", "--compile", "--channels-last", "--quiet", "-q"])


@dataclass(frozen=True)
class DataArguments:
    """How the data was opened, so that it can be opened so again: --card and --convert."""

    card: str | None = None
    convert: Mapping[str, str] | None = None


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Scoring(_Part):
    """By what something was scored; what says nothing of it is older than other competitions.

    Attributes:
        name: Of the competition.
        units: Target variable to its units.
    """

    name: str = NAME
    units: dict[str, str] = UNITS

    @classmethod
    def of(cls, competition: Competition) -> Self:
        """That of a competition."""
        return cls(name=competition.name, units=dict(competition.units))

    @property
    def competition(self) -> Competition:
        """The competition.

        Raises:
            EmukitError: There is none of this name any more, or it scores other variables.
        """
        return load_competition(self.name, self.units)


class DataRecord(_Part):
    """Which data, and how it was opened.

    Attributes:
        source: Absolute path of the store, or ``demo``.
        card: Name of its card.
        card_option: What was given as --card, the path of a file made absolute; None where the card was recognised.
        convert: What was given as --convert.
        benchmark: Scores on stores of one benchmark are ranked together.
        digest: SHA-256 of the values.
        scoring: By what predictions are scored.
    """

    source: str
    card: str
    card_option: str | None
    convert: dict[str, str]
    benchmark: str
    digest: str
    scoring: Scoring = Scoring()


class Identity(_Part):
    """What decides the numbers: a run is resumed only by the same.

    Attributes:
        recipe: Digest of the recipe.
        protocol: The split.
        members: Training members; None for all.
        seed: Seed of weights, dropout and batch order.
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


class PluginRecord(_Part):
    """Something of another package that a run needs, as `emukit.registry.Plugin` says it."""

    kind: str = Field(pattern=r"^[a-z ]+$")
    name: str = Field(pattern=r"^[A-Za-z0-9_.:-]+$")
    target: str = Field(pattern=rf"^{TARGET.pattern}$")
    # They are shown behind `pip install`.
    distribution: str = Field(pattern=r"^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$")
    version: str = Field(pattern=r"^[A-Za-z0-9.!+_-]*$")


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
        needs: What it needs of other packages.
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
    needs: tuple[PluginRecord, ...] = ()

    @property
    def plugins(self) -> tuple[Plugin, ...]:
        """What it needs of other packages."""
        return tuple(Plugin(**part.model_dump()) for part in self.needs)

    def write(self, folder: Path) -> None:
        """Write it into the run folder, atomically."""
        write_text(folder / RECORD_FILE, self.model_dump_json(indent=1))


def new_record(
    archive: Archive,
    recipe: Recipe,
    split: Split,
    identity: Identity,
    data_arguments: DataArguments | None,
    command: str | None,
) -> RunRecord:
    """The record of a run that begins; its sessions are added as they begin.

    Args:
        archive: The data.
        recipe: What is trained.
        split: On which months.
        identity: What decides the numbers.
        data_arguments: How the data was opened.
        command: What begins it; the command of this process when None.
    """
    data_arguments = data_arguments or DataArguments()
    values = recipe.model_dump(mode="json")
    return RunRecord(
        state="training",
        identity=identity,
        recipe=values,
        data=DataRecord(
            # The demo climate is made in memory, and has a name instead of a place.
            source=archive.source if archive.source == "demo" else str(Path(archive.source).absolute()),
            card=archive.card.name,
            card_option=_placed(data_arguments.card),
            convert=dict(data_arguments.convert or {}),
            benchmark=benchmark_of(archive),
            digest=archive.digest,
            scoring=Scoring.of(competition_of(archive)),
        ),
        train=tuple(s.text(archive) for s in split.train),
        scored={name: tuple(s.text(archive) for s in spans) for name, spans in split.scored.items()},
        notes=split.notes,
        command=command or typed_command(),
        sessions=(),
        needs=tuple(PluginRecord(**asdict(p)) for p in (*plugins_of(values), *_card_plugin(archive, data_arguments))),
    )


def _card_plugin(archive: Archive, data_arguments: DataArguments) -> list[Plugin]:
    """The data card and its competition, where they are of another package."""
    named_file = data_arguments.card is not None and data_arguments.card.endswith(".toml")
    name = archive.card.name
    own = CARDS.used([name]) if not named_file and name not in shipped_cards() and name in CARDS.plugins else []
    return [*own, *COMPETITIONS.used([archive.card.competition])]


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
        RunError: There is none, or it is truncated, wrong, or of another format; or its recipe is not the one that
            its identity names.
    """
    path = folder / RECORD_FILE
    try:
        record = RunRecord.model_validate_json(read_text(path))
        found = recipe_digest(record.recipe)
    except OSError as e:
        raise RunError(
            f"{folder} is not a run",
            found=f"no {RECORD_FILE}" if isinstance(e, FileNotFoundError) else f"{RECORD_FILE}: {e.strerror or e}",
            hint=OF_DOWNSCALING if (folder / DOWNSCALE_FILE).exists() else "name a folder that `emukit train` wrote",
        ) from e
    except ValueError as e:
        problems = describe(e) if isinstance(e, ValidationError) else [str(e)]
        raise RunError(
            f"{path} is damaged or of another version of emukit",
            found="\n".join(problems[:10]),
            hint="restore it, use the emukit that wrote it, or train again",
        ) from None
    if found != record.identity.recipe:
        raise RunError(
            f"the recipe in {path} was edited",
            found=f"settings with the digest {found[:12]}",
            expected=f"those that were trained, {record.identity.recipe[:12]}",
            hint="restore it, or train again",
        )
    return record


def slug(protocol: str) -> str:
    """A protocol as part of the name of a folder."""
    return protocol.replace(":", "-").replace(" ", "-")


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
        RunError: It cannot be read, or is not an object.
    """
    try:
        value = parse_json(read_text(path))
    except (OSError, ValueError) as e:
        raise RunError(f"{path} cannot be read", found=str(e), hint=remedy) from e
    if not isinstance(value, dict):
        raise RunError(f"{path} is damaged", found=type(value).__name__, expected="a JSON object", hint=remedy)
    return value


def read_evaluation(folder: Path, name: str, record: RunRecord) -> dict[str, Any]:
    """The evaluation of a set that a run folder keeps.

    Args:
        folder: Of the run.
        name: Of the set.
        record: Of the run, whose months they must be.

    Raises:
        RunError: There is none, or it is damaged.
    """
    remedy = f"emukit evaluate {shlex.quote(str(folder))} --split {shlex.quote(name)}"
    path = folder / "scores" / f"{name}.json"
    evaluation = read_json(path, remedy)
    missing = [k for k in ("set", "spans", "floors") if k not in evaluation]
    if missing:
        raise RunError(f"{path} is damaged", found=f"no {', '.join(missing)}", hint=remedy)
    spans, floors, known = evaluation["spans"], evaluation["floors"], record.scored.get(name)
    if not (isinstance(spans, list) and all(isinstance(s, str) for s in spans) and isinstance(floors, Mapping)):
        raise RunError(f"{path} is damaged", found="months or floors of another form", hint=remedy)
    if evaluation["set"] != name or known not in (None, tuple(spans)):
        raise RunError(
            f"{path} is of other months than it is called after",
            found=f"{evaluation['set']}: {'; '.join(spans)}",
            expected=f"{name}: {'; '.join(known or ())}",
            hint=remedy,
        )
    limit, members = evaluation.get("limit"), evaluation.get("members", {})
    if not (isinstance(members, Mapping) and all(str(m).isdecimal() for m in members)):
        raise RunError(f"{path} is damaged", found="scores of members of another form", hint=remedy)
    for score in (evaluation, *floors.values(), *members.values(), *([limit] if limit is not None else [])):
        check_score(score, record.data.scoring.competition, path, remedy)
    return evaluation


def trained_on_validation(protocol: str, name: str, *, final: bool) -> str:
    """Whether the validation months trained, where a scenario is left out; empty elsewhere.

    There they are the last months of the other scenarios: with them, as `--refit` trains, an emulator has seen more.

    Args:
        protocol: Under which it was trained.
        name: Of the set that is scored.
        final: Whether it was a final fit.
    """
    if not protocol.startswith(LOSO) or name == "validation":
        return ""
    return "validation months in training" if final else "validation months not in training"


def check_score(score: Any, competition: Competition, path: Path, remedy: str) -> None:
    """Refuse a kept score that no scorer writes: its numbers are finite, and make the score.

    Args:
        competition: Whose score it is.
        score: Plain values, as `Score.as_dict` gives them.
        path: Where they are from.
        remedy: What to do about wrong ones.

    Raises:
        RunError: Some are missing, not finite, beyond any, negative where no number of the competition can be, or do
            not make the score.
    """
    found: dict[str, Any] = {}
    with suppress(KeyError, TypeError, ValueError, AttributeError):
        found = {"score": score["score"], **competition.flatten(score)}
    lowest = {key: max(column.lowest, -MOST) for key, column in competition.by_key.items()}
    if not found or not all(type(n) in (int, float) and lowest[key] <= n <= MOST for key, n in found.items()):
        raise RunError(
            f"{path} is damaged",
            found="scores that are not numbers, or negative, or beyond any",
            expected="the score and its numbers, finite, and errors not negative",
            hint=remedy,
        )
    # Means over spans and years agree as well: the score is linear in its numbers.
    value = competition.value(found)
    if not math.isclose(value, score["score"], abs_tol=1e-6):
        raise RunError(
            f"{path} is damaged",
            found=f"a score of {score['score']}, where its numbers make {value}",
            hint=remedy,
        )


def benchmark_of(archive: Archive) -> str:
    """The name under which scores on this archive's truth are ranked together.

    Stores with the published values of a card's data set (`emukit.data.published_copy`) hold the same climate, if
    rounded differently, on the grid named. Of any other store nothing is known but its values, so their digest is in
    the name.
    """
    card = archive.card
    cells = f"{archive.grid.shape[0]}x{archive.grid.shape[1]}"
    # Names of before cards named their competition say none.
    cells += "" if card.competition == NAME else f" {card.competition}"
    if archive.published and card.benchmark:
        return f"{card.benchmark} {cells}"
    of = "the layout of " if card.published else ""
    return f"{of}{card.name} {cells} {archive.digest[:8]}"


def card_digest(card: Card) -> str:
    """SHA-256 of a card: its protocols decide what is held out, its competition what selects, bounds what is said."""
    # Cards of before they named their competition were of this one.
    scored = "" if card.competition == NAME else f" {card.competition}"
    return hashlib.sha256((card.deciding + scored).encode()).hexdigest()


def _placed(card: str | None) -> str | None:
    # A record is read from other folders than that in which the training was started.
    return str(Path(card).expanduser().absolute()) if card and card.endswith(".toml") else card


def typed_command() -> str:
    """The command line of this process, as records keep it: without where its run lies."""
    words = ["emukit", *sys.argv[1:]] if Path(sys.argv[0]).name in ("emukit", "__main__.py") else sys.argv
    # Hints add both again.
    kept = [w for i, w in enumerate(words) if w not in ("--resume", "--out") and words[i - 1] != "--out"]
    return shlex.join(w for w in kept if not w.startswith("--out="))


def checked_command(text: str) -> str:
    """An `emukit train` command of a record, every word of it checked and quoted; empty where it is anything else.

    Records come with run folders, and these from anywhere: what is shown to be pasted must train and do nothing else.
    """
    try:
        emukit, train, model, *words = shlex.split(text)
    except ValueError:
        return ""
    if (emukit, train) != ("emukit", "train") or not MODEL.fullmatch(model):
        return ""
    values = iter(words)
    for word in values:
        option, equals, _ = word.partition("=")
        has_value = option in VALUED and (equals or next(values, None) is not None)
        if not has_value and word not in FLAGS:
            return ""
    return shlex.join((emukit, train, model, *words)) if one_line(text) == text else ""
