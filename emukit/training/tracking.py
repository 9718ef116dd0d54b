"""Other people's pages for the record of a training: TensorBoard, Weights & Biases.

Invariant: `metrics.jsonl` is the record, and a tracker mirrors it: every epoch that stands there, once. What a resume
takes back from the record, or finds in it from before anybody tracked, is made good in the mirror.

A tracker is one function, from the folder of a training, the lines of its log and what the training is to a context in
which further lines are sent; and one line in the table, or a package with an entry point in the group
``emukit.trackers``.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from emukit.distribution import install_hint
from emukit.errors import RunError, TrainingError
from emukit.files import inside, parse_json, read_text, write_text
from emukit.registry import Entry, Registry
from emukit.training.log import read_lines

# How long wandb may take to say whether a key is good.
LOGIN_SECONDS = 30

Line = Mapping[str, Any]
Send = Callable[[Line], None]


@contextmanager
def tensorboard(folder: Path, lines: Sequence[Line], about: Mapping[str, Any]) -> Iterator[Send]:
    """Event files in `tensorboard/`, made again from the log whenever a training continues.

    So there are no events of epochs that a resume took back; `tensorboard --logdir runs` shows all trainings.
    """
    from torch.utils.tensorboard import SummaryWriter

    # What is called so must not lead elsewhere.
    place = inside(folder, "tensorboard", "events").parent
    for old in place.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(place)) as writer:
        # As code: what is not Markdown must not be read as such.
        writer.add_text("about", "    " + json.dumps(about, indent=1).replace("\n", "\n    "))

        def send(line: Line) -> None:
            for name, value in scalars(line).items():
                writer.add_scalar(name, value, line["step"])
            writer.flush()

        for line in lines:
            send(line)
        yield send


@contextmanager
def wandb(folder: Path, lines: Sequence[Line], about: Mapping[str, Any]) -> Iterator[Send]:
    """A run of the project `emukit` in `wandb/`, which continues under its id; WANDB_MODE=offline needs no network.

    What was sent cannot be taken back: an epoch that is trained again after a crash is not sent again.

    Raises:
        TrainingError: wandb cannot start: nobody is logged in, or there is no network.
        RunError: The folder `wandb` is a link.
    """
    import wandb as package

    kept = folder / "wandb.json"
    inside(folder, "wandb", "run")
    known = _read_sent(kept)
    identity, sent = known or (secrets.token_hex(4), 0)
    try:
        run = package.init(
            project=os.environ.get("WANDB_PROJECT", "emukit"),
            id=identity,
            name=_name(folder),
            dir=str(folder),
            config=dict(about),
            resume="allow" if known else None,
            settings=package.Settings(silent=True, console="off", disable_git=True, save_code=False),
        )
    except package.Error as e:
        raise _cannot_begin(e) from e

    def send(line: Line) -> None:
        nonlocal sent
        if line["epoch"] > sent:
            run.log(scalars(line), step=line["step"])
            sent = line["epoch"]
            write_text(kept, json.dumps({"id": identity, "epochs": sent}))

    try:
        for line in lines:
            send(line)
        yield send
    except BaseException:
        run.finish(exit_code=1)
        raise
    run.finish()


def _wandb_login() -> None:
    """Refuse wandb where no user is logged in and it is not in offline mode."""
    import wandb as package

    try:
        # Nobody is asked for a key: several processes would ask at once.
        online = package.setup().settings.mode in ("online", "shared", "run")
        if online and not package.login(prompt=False, timeout=LOGIN_SECONDS):
            raise package.Error("no API key")
    # A mode that there is not is a ValueError.
    except (package.Error, ValueError) as e:
        raise _cannot_begin(e) from e


def _cannot_begin(error: Exception) -> TrainingError:
    return TrainingError(
        "wandb cannot start",
        found=" ".join(str(error).split()),
        expected="a login and a network, or neither with WANDB_MODE=offline",
        hint="wandb login; or WANDB_MODE=offline now, and `wandb sync` later",
    )


@dataclass(frozen=True)
class Tracker:
    """A page for the record of a training.

    Attributes:
        mirror: From the folder of a training, the lines of its log and what is trained, as plain values, to a context
            in which further lines are sent.
        look: How what was sent is looked at, with ``{folder}`` in the place of the folder of the training.
        package: The module that it needs; empty where it needs none.
        ready: Refuses, by a `TrainingError`, what must be so before it can begin.
    """

    mirror: Callable[[Path, Sequence[Line], Mapping[str, Any]], AbstractContextManager[Send]]
    look: str = ""
    package: str = ""
    ready: Callable[[], None] | None = None


TENSORBOARD = Tracker(tensorboard, "tensorboard --logdir {folder}", "tensorboard")
WANDB = Tracker(
    wandb,
    "the page that wandb names, or after WANDB_MODE=offline: wandb sync {folder}/wandb/offline-run-*",
    "wandb",
    _wandb_login,
)
TRACKERS: Registry[Entry] = Registry(
    "tracker",
    "emukit.trackers",
    {
        "tensorboard": Entry("emukit.training.tracking:TENSORBOARD", "event files next to the log"),
        "wandb": Entry("emukit.training.tracking:WANDB", "a page at Weights & Biases"),
    },
    entry=Entry,
    accepts=lambda found: isinstance(found, Tracker),
    expected="an emukit.training.tracking.Tracker",
    error=TrainingError,
)


def how_to_look(name: str, folder: Path) -> str:
    """How what a tracker was sent is looked at; empty where it does not say."""
    tracker: Tracker = TRACKERS.load(name)
    return tracker.look.format(folder=folder)


def check_tracker(name: str) -> None:
    """Refuse a tracker that could not be used, before anything is trained.

    Raises:
        TrainingError: There is none of that name, its package is missing, or it waits for a login.
    """
    # Only a command names a tracker.
    TRACKERS.admit(name)
    tracker: Tracker = TRACKERS.load(name)
    if tracker.package and find_spec(tracker.package) is None:
        raise TrainingError(
            f"--track {name} needs a package that is not installed",
            found=f"no module {tracker.package}",
            hint=install_hint(name) if name in TRACKERS.built_in else f"install {tracker.package}",
        )
    if tracker.ready:
        tracker.ready()


@contextmanager
def mirror(tracker: str | None, log: Path, about: Mapping[str, Any]) -> Iterator[Send]:
    """Mirror a log: what stands in it already, then every line that is sent.

    Args:
        tracker: Of `TRACKERS`; None: nothing is mirrored.
        log: `metrics.jsonl`, in the folder of the training.
        about: What is trained, as plain values.

    Raises:
        TrainingError: The tracker cannot be used.
    """
    if tracker is None:
        yield lambda line: None
        return
    check_tracker(tracker)
    chosen: Tracker = TRACKERS.load(tracker)
    with chosen.mirror(log.parent, read_lines(log), about) as send:
        yield send


def scalars(line: Line) -> dict[str, float]:
    """The numbers of a line by name, those in tables as ``validation/score``; what is null is left out."""
    out: dict[str, float] = {}
    for name, value in line.items():
        if isinstance(value, Mapping):
            out |= {f"{name}/{inner}": number for inner, number in scalars(value).items()}
        elif isinstance(value, int | float) and name != "step":
            out[name] = value
    return out


def _name(folder: Path) -> str:
    """The folder as seen from here, where it lies below."""
    here = os.path.relpath(folder)
    return folder.absolute().name if here.startswith("..") else here


def _read_sent(path: Path) -> tuple[str, int] | None:
    """The id of a run, and how many epochs were sent of it.

    Raises:
        RunError: The file is damaged.
    """
    if not path.exists():
        return None
    try:
        kept = parse_json(read_text(path))
        return str(kept["id"]), int(kept["epochs"])
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise RunError(f"{path} is damaged", found=repr(e), hint="remove it; a new run of wandb begins then") from e
