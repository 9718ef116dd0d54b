"""`emukit train --devices N` that hangs, hides why it ended, cannot be continued, or lets strangers in."""

from __future__ import annotations

import os
import signal
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from emukit.errors import TrainingError
from emukit.parallel.launch import check_devices
from tests import forks
from tests.cli.conftest import TINY
from tests.forks import Started
from tests.parallel.sockets import family, listeners

pytestmark = pytest.mark.long

# A run of many quick epochs: it is still at work when one of its processes is killed.
LONG = [*TINY, "--set=training.epochs=500", "--set=training.checkpoint_minutes=0.001"]


def start(words: list[str], folder: Path, **variables: str) -> Started:
    """The command, whose processes are none of ours: they are started as a user's are."""
    return forks.start(folder, "train", "cnn-gru", *words, **({"CUDA_VISIBLE_DEVICES": ""} | variables))


def process_of_rank(rank: int, parent: int) -> int:
    """The process that torchrun's engine started with a rank, by its environment."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                status, environment = (entry / "stat").read_text(), (entry / "environ").read_bytes()
            except OSError:
                continue
            is_child = int(status.rpartition(")")[2].split()[1]) == parent
            if is_child and f"RANK={rank}".encode() in environment.split(b"\0"):
                return int(entry.name)
    raise LookupError(f"no process of rank {rank}")


def ended(pid: int) -> bool:
    """Whether a process has ended, if nobody has asked how, too."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def saved(run: Started, checkpoint: Path, after: int = 0) -> None:
    """Wait for a checkpoint, or for a newer one."""
    begun = time.monotonic()
    while not checkpoint.exists() or checkpoint.stat().st_mtime_ns <= after:
        assert run.running, run.err.read_text()
        assert time.monotonic() - begun < 120, "no checkpoint after two minutes"
        time.sleep(0.1)


@dataclass
class Killed:
    """A training of which one of two processes was killed.

    Attributes:
        folder: Where it ran.
        words: Of the command, without the processes.
        code: Its exit code.
        said: What it said.
        listened: Addresses on which it listened.
        mode: Of the folder in which the processes met.
        left: Names of what it left in the folder of temporary files.
    """

    folder: Path
    words: list[str]
    code: int
    said: str
    listened: list[str]
    mode: int
    left: list[str]


@pytest.fixture(scope="module", params=["--devices", "--domain"])
def killed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, demo_store: Path) -> Killed:
    if not (Path("/proc/self/environ").exists() and Path("/proc/net/tcp").exists()):
        pytest.skip("finds processes and sockets through /proc")
    folder = tmp_path_factory.mktemp("killed")
    temporary = folder / "temporary"
    temporary.mkdir()
    words = ["--data", str(demo_store), "--out", "run", *LONG]
    run = start([*words, request.param, "2"], folder, TMPDIR=str(temporary))
    assert run.process.pid
    try:
        saved(run, folder / "run" / "last.pt")
        listened = [str(address) for address, _ in listeners(run.process.pid) if not address.is_loopback]
        assert listeners(run.process.pid), "the processes speak with each other: somewhere they listen"
        (rendezvous,) = temporary.glob("emukit-*")
        mode = stat.S_IMODE(rendezvous.stat().st_mode)
        os.kill(process_of_rank(1, run.process.pid), signal.SIGKILL)
        code = run.wait(60)
    finally:
        if run.running:
            run.signal(signal.SIGTERM)
    left = [path.name for path in temporary.iterdir()]
    return Killed(folder, words, code, run.err.read_text(), listened, mode, left)


def test_a_killed_process_leaves_the_others_waiting(killed: Killed) -> None:
    """It must end all within a minute, and say which was killed and how to continue."""
    assert killed.code == 2
    assert "process 1 of 2 was killed" in killed.said
    assert "SIGKILL" in killed.said
    assert "--resume" in killed.said
    assert "Traceback" not in killed.said


def test_what_two_processes_began_is_lost_to_one(killed: Killed) -> None:
    """It saves and ends when its terminal is closed."""
    checkpoint = killed.folder / "run" / "last.pt"
    before = checkpoint.stat().st_mtime_ns
    alone = start([*killed.words, "--resume"], killed.folder, name="alone")
    saved(alone, checkpoint, before)
    alone.signal(signal.SIGHUP)
    assert alone.wait(60) == 130
    said = alone.err.read_text()
    assert "resuming after epoch" in said
    assert "is saved" in said


def test_the_network_reaches_a_training_of_one_machine(killed: Killed) -> None:
    """What torch listens with there runs what it is sent, as the user."""
    assert killed.listened == []
    assert killed.mode == 0o700
    assert [name for name in killed.left if name.startswith(("emukit", "torchelastic"))] == []


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes through /proc")
def test_a_killed_command_leaves_its_processes_training(tmp_path: Path, demo_store: Path) -> None:
    run = start(["--data", str(demo_store), "--out", "run", *LONG, "--devices", "2"], tmp_path)
    assert run.process.pid
    saved(run, tmp_path / "run" / "last.pt")
    _, *processes = family(run.process.pid)
    run.signal(signal.SIGKILL)
    begun = time.monotonic()
    while not all(map(ended, processes)):
        assert time.monotonic() - begun < 30
        time.sleep(0.1)
    assert len(processes) >= 2
    said = run.err.read_text()
    assert "stopped; run is saved" in said
    assert "Traceback" not in said


# What Python runs at its start, if it lies on its path: the training of one process fails at its third step.
FAILS = """
import importlib.abc, os, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "emukit.training.loop":
            sys.meta_path.remove(self)
            from emukit.training.engine import Engine
            step, steps = Engine.step, []

            def failing(self, *args, **options):
                steps.append(1)
                if len(steps) == 3:
                    {failure}
                return step(self, *args, **options)

            Engine.step = failing

if os.environ.get("RANK") == "1":
    sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize(
    ("failure", "code", "expected"),
    [
        ("raise RuntimeError('its own memory')", 1, "internal error: RuntimeError: its own memory"),
        ("os._exit(7)", 2, "process 1 of 2 ended without a word\n  found:    exit code 7"),
    ],
)
def test_a_process_that_fails_is_blamed_on_another_or_hidden(
    tmp_path: Path, demo_store: Path, monkeypatch: pytest.MonkeyPatch, failure: str, code: int, expected: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAILS.replace("{failure}", failure))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    run = start(["--data", str(demo_store), "--out", "run", *LONG, "--devices", "2"], tmp_path)
    found, said = run.wait(120), run.err.read_text()
    assert found == code, said
    assert expected in said
    for noise in ("closed by peer", "Traceback", "another of the processes"):
        assert noise not in said


def test_more_devices_than_there_are_is_no_endless_start() -> None:
    with pytest.raises(TrainingError, match="cannot start 4096 processes"):
        check_devices(4096)


def test_what_the_first_process_refuses_is_said_otherwise_by_the_others(tmp_path: Path, demo_store: Path) -> None:
    """Only the first looks after the folder; it alone speaks, and all end with the exit code of a user's mistake."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    run = start(["--data", str(demo_store), "--out", "run", *LONG, "--devices", "2"], tmp_path)
    found, said = run.wait(120), run.err.read_text()
    assert found == 2, said
    assert said.count("error: ") == 1, said
    assert "the run folder run exists" in said
    for noise in ("internal error", "Traceback", "Exception ignored", "the first process refused"):
        assert noise not in said
