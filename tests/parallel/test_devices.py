"""`emukit train --devices N` that hangs, hides why it ended, cannot be continued, or lets strangers in."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emukit.errors import TrainingError
from emukit.parallel.launch import check_devices
from tests.cli.conftest import TINY
from tests.parallel.sockets import listeners

# A run of many quick epochs: it is still at work when one of its processes is killed.
LONG = [*TINY, "--set=training.epochs=500", "--set=training.checkpoint_minutes=0.001"]


def start(words: list[str], folder: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.Popen(
        [sys.executable, "-m", "emukit", "train", "cnn-gru", *words],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""} | variables,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # Where the tests themselves run under nohup, what they start would ignore its terminal's end too.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )


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


def saved(run: subprocess.Popen[str], checkpoint: Path, after: int = 0) -> None:
    """Wait for a checkpoint, or for a newer one."""
    begun = time.monotonic()
    while not checkpoint.exists() or checkpoint.stat().st_mtime_ns <= after:
        assert run.poll() is None, run.communicate()
        assert time.monotonic() - begun < 120, "no checkpoint after two minutes"
        time.sleep(0.1)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes through /proc")
@pytest.mark.parametrize("together", ["--devices", "--domain"])
def test_a_killed_process_leaves_the_others_waiting(tmp_path: Path, demo_store: Path, together: str) -> None:
    """It must end all within a minute, say which was killed and how to continue; one process alone can continue.

    That one saves and ends when its terminal is closed.
    """
    words = ["--data", str(demo_store), "--out", "run", *LONG]
    run = start([*words, together, "2"], tmp_path)
    checkpoint = tmp_path / "run" / "last.pt"
    saved(run, checkpoint)
    os.kill(process_of_rank(1, run.pid), signal.SIGKILL)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 2
    assert "process 1 of 2 was killed" in said
    assert "SIGKILL" in said
    assert "--resume" in said
    assert "Traceback" not in said
    before = checkpoint.stat().st_mtime_ns
    alone = start([*words, "--resume"], tmp_path)
    saved(alone, checkpoint, before)
    alone.send_signal(signal.SIGHUP)
    _, said = alone.communicate(timeout=60)
    assert alone.returncode == 130
    assert "resuming after epoch" in said
    assert "is saved" in said


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes through /proc")
def test_a_killed_command_leaves_its_processes_training(tmp_path: Path, demo_store: Path) -> None:
    run = start(["--data", str(demo_store), "--out", "run", *LONG, "--devices", "2"], tmp_path)
    saved(run, tmp_path / "run" / "last.pt")
    run.kill()
    # They hold the other end of its pipe until they end.
    _, said = run.communicate(timeout=30)
    assert "stopped; run is saved" in said
    assert "Traceback" not in said


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="sockets are listed by Linux alone")
def test_the_network_reaches_a_training_of_one_machine(tmp_path: Path, demo_store: Path) -> None:
    """What torch listens with there runs what it is sent, as the user."""
    (tmp_path / "temporary").mkdir()
    run = start(
        ["--data", str(demo_store), "--out", "run", *LONG, "--devices", "2"],
        tmp_path,
        TMPDIR=str(tmp_path / "temporary"),
    )
    try:
        saved(run, tmp_path / "run" / "last.pt")
        found = listeners(run.pid)
        (rendezvous,) = (tmp_path / "temporary").glob("emukit-*")
        assert stat.S_IMODE(rendezvous.stat().st_mode) == 0o700
    finally:
        run.terminate()
        run.communicate(timeout=60)
    assert found, "the processes speak with each other: somewhere they listen"
    assert [str(address) for address, _ in found if not address.is_loopback] == []
    left = [path.name for path in (tmp_path / "temporary").iterdir()]
    assert [name for name in left if name.startswith(("emukit", "torchelastic"))] == []


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
    _, said = run.communicate(timeout=120)
    assert run.returncode == code, said
    assert expected in said
    for noise in ("closed by peer", "Traceback", "another of the processes"):
        assert noise not in said


def test_more_devices_than_there_are_is_no_endless_start() -> None:
    with pytest.raises(TrainingError, match="cannot train on 4096 devices"):
        check_devices(4096)


def test_what_the_first_process_refuses_is_said_otherwise_by_the_others(tmp_path: Path, demo_store: Path) -> None:
    """Only the first looks after the folder; it alone speaks, and all end with the exit code of a user's mistake."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").touch()
    run = start(["--data", str(demo_store), "--out", "run", *LONG, "--devices", "2"], tmp_path)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 2, said
    assert said.count("error: ") == 1, said
    assert "the run folder run exists" in said
    for noise in ("internal error", "Traceback", "Exception ignored", "the first process refused"):
        assert noise not in said
