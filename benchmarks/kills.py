"""Commands that are killed, and continued: at random moments, and before everything that they do to files.

Invariant: nothing of emukit's own is made for it. A fork watches the audit events of its interpreter, and ends itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

from benchmarks.cases import ALWAYS_BAD, STORE, Tally, case_folder, column_of, expect_well, last_words, must
from benchmarks.forked import Ended, command, in_fork
from emukit.files import parse_json

# A network that trains in seconds and still has everything that a checkpoint holds.
NETWORK = (
    *("model.hidden=4", "model.features=4", "model.width=4", "model.stages=1", "model.pool_rows=1"),
    *("model.pool_columns=2", "model.dropout=0.1", "inputs.window.history=2", "training.epochs=3"),
    *("training.segments.length=60", "training.segments.per_batch=8"),
)


@dataclass
class _Moment:
    """Counts events on files, and kills at one.

    Attributes:
        folder: Events below it count.
        at: The event before which the process is killed, from one; never when zero.
        count: Of events so far.
    """

    folder: Path
    at: int
    count: int = field(default=0)

    def event(self, path: Any) -> None:
        """Something is about to happen to a path, or to a file that is open."""
        if path is None or self.folder in [at := Path(os.fsdecode(path)).absolute(), *at.parents]:
            self.count += 1
            if self.count == self.at:
                os.kill(os.getpid(), signal.SIGKILL)


_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_ON_PATHS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")


def _watch(folder: str, at: int = 0) -> _Moment:
    """Have a moment see every change of files below a folder that Python makes in this process, before it is made."""
    moment = _Moment(Path(folder).absolute(), at)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and arguments[2] and arguments[2] & _WRITING
        if (opened or event in _ON_PATHS) and not isinstance(arguments[0], int):
            moment.event(arguments[0])

    sys.addaudithook(hook)
    sync = os.fsync

    def synced(file: Any) -> None:
        moment.event(None)
        sync(file)

    # Of what Python does to files this alone has no audit event.
    os.fsync = synced  # type: ignore[assignment]
    return moment


def counted(words: Sequence[str], folder: str) -> Callable[[], None]:
    """A command that leaves the number of its events in a file ``events``."""

    def work() -> None:
        _fork_jobs()
        moment = _watch(folder)
        must(command(*words))
        Path("events").write_text(str(moment.count))

    return work


def killed(words: Sequence[str], folder: str, at: int) -> Callable[[], None]:
    """A command that is killed before one of its events; never when that is zero."""

    def work() -> None:
        _fork_jobs()
        _watch(folder, at)
        command(*words)()

    return work


def training(folder: str) -> tuple[str, ...]:
    settings = (word for setting in NETWORK for word in ("--set", setting))
    return ("train", "cnn-gru", "--data", STORE, "--protocol", "k360", "--out", folder, "-q", *settings)


def trained(folder: Path) -> dict[str, str]:
    """What a training left, except times: digests of weights, the epochs of its log, and the names of its files."""
    log = [parse_json(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [{k: v for k, v in line.items() if k != "seconds"} for line in log]
    left = {str(p.relative_to(folder)): "" for p in sorted(folder.rglob("*")) if p.is_file()}
    tensors = (folder / "emulator" / "arrays.safetensors").read_bytes()
    return left | {"log": str(epochs), "weights": sha256(tensors).hexdigest()}


def _studied(folder: Path) -> dict[str, str]:
    """What a study left, except times: digests of the weights and scores of its runs, and the names of its files."""
    left = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes() if path.name in ("arrays.safetensors", "validation.json") else b""
        left[str(path.relative_to(folder))] = sha256(content).hexdigest()
    return left


ABLATE = ("ablate", "study/study.toml", "--data", STORE, "--out", "ablations", "--seeds", "1", "--jobs", "2", "-q")


@dataclass(frozen=True)
class Killing:
    """A command that is killed, and continued.

    Attributes:
        name: What is killed.
        words: The command.
        more: What is added to continue.
        folder: Where it writes.
        left: What it left there, except times.
    """

    name: str
    words: tuple[str, ...]
    more: tuple[str, ...]
    folder: str
    left: Callable[[Path], dict[str, str]]

    def run(self, whole: Path, place: Path, cases: int, seed: int) -> list[Tally]:
        """Kill it before its file events, at random moments, and twice; each end is compared with the unkilled one."""
        with case_folder(whole, place):
            unkilled = in_fork(counted(self.words, self.folder), place)
            expect_well(unkilled)
            events = int((place / "events").read_text())
            (place / "events").unlink()
            expected = self._end(place)
        kinds = ("before a file event", "at a random moment", "twice")
        counts: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
        examples: dict[str, list[str]] = {kind: [] for kind in kinds}
        each = max(1, cases // len(kinds))
        for number in range(each * len(kinds)):
            kind = kinds[number % len(kinds)]
            random = Random(f"{seed} {self.name} {kind} {number}")
            at = 1 + number // len(kinds) * events // each
            with case_folder(whole, place):
                if kind == "at a random moment":
                    moment = random.uniform(0, unkilled.seconds)
                    everything = random.random() < 0.5
                    in_fork(killed(self.words, self.folder, 0), place, kill_after=moment, kill_all=everything)
                    what = f"after {moment:.2f} of {unkilled.seconds:.2f} s{', all processes' if everything else ''}"
                else:
                    in_fork(killed(self.words, self.folder, at), place)
                    what = f"before event {at} of {events}"
                if kind == "twice":
                    again = random.randrange(1, events)
                    in_fork(killed((*self.words, *self.more), self.folder, again), place)
                    what += f", continuing before event {again}"
                ended = self._go_on(place)
                column = column_of(ended, unkilled, ended.code != 0 or self._end(place) == expected)
                if column in ("silent", "said"):
                    found = self._end(place)
                    differ = [k for k in found.keys() | expected.keys() if found.get(k) != expected.get(k)]
                    what += f", differs in {', '.join(sorted(differ))}"
                    column = "silent" if differ else "same"
            counts[kind][column] += 1
            if column != "same" and len(examples[kind]) < 5:
                examples[kind].append(f"case {number}: {column}: {what}: {last_words(ended)}")
        bad = ("refused", "silent", *ALWAYS_BAD)
        return [Tally(self.name, k, counts[k], bad, tuple(examples[k])) for k in kinds]

    def _go_on(self, place: Path) -> Ended:
        """As a user would: continue, or begin where there is nothing to continue."""
        ended = in_fork(killed((*self.words, *self.more), self.folder, 0), place)
        if ended.code == 2 and self.more and not (place / self.folder / "run.json").exists():
            ended = in_fork(killed(self.words, self.folder, 0), place)
        return ended

    def _end(self, place: Path) -> dict[str, str]:
        """What is there in the end, with what was left next to the folder."""
        beside = {p.name: "" for p in place.iterdir() if p.name.startswith(".") and p.name not in (".out", ".err")}
        return self.left(place / self.folder) | beside


KILLS = (
    Killing("train, killed", training("killed"), ("--resume",), "killed", trained),
    Killing("ablate, killed", ABLATE, ("--retry",), "ablations", _studied),
)


class _ForkedProcess:
    """What a study starts a run with here: a fork, in the place of `subprocess.Popen`."""

    def __init__(self, words: Sequence[str], stdout: Any, env: Mapping[str, str], **_: object) -> None:
        self._pid = os.fork()
        self._code: int | None = None
        if self._pid == 0:
            code = 1
            try:
                for number in (1, 2):
                    os.dup2(stdout.fileno(), number)
                # As on exec: what is inherited may hold the lock of a folder for longer than who took it.
                os.closerange(3, os.sysconf("SC_OPEN_MAX"))
                os.environ.clear()
                os.environ.update(env)
                # The words before are Python's, and the name of the package.
                command(*words[3:])()
            except SystemExit as e:
                code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)

    def poll(self) -> int | None:
        if self._code is None:
            done, status = os.waitpid(self._pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if done else None
        return self._code

    def wait(self, timeout: float = float("inf")) -> int:
        started = time.monotonic()
        while self.poll() is None:
            if time.monotonic() - started > timeout:
                raise subprocess.TimeoutExpired("a fork", timeout)
            time.sleep(0.01)
        assert self._code is not None
        return self._code

    def terminate(self) -> None:
        os.kill(self._pid, signal.SIGTERM)

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)


def _fork_jobs() -> None:
    """Have a study fork its runs, and not try how long a process takes to start."""
    from emukit.studies import ablate, jobs

    forking = SimpleNamespace(
        Popen=_ForkedProcess,
        DEVNULL=subprocess.DEVNULL,
        STDOUT=subprocess.STDOUT,
        TimeoutExpired=subprocess.TimeoutExpired,
    )
    jobs.subprocess = forking  # type: ignore[attr-defined, assignment]
    ablate.start_seconds = lambda words, environments: 10.0  # type: ignore[attr-defined]
