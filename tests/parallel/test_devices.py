"""`emukit train --devices N` that hangs, hides why it ended, or cannot be gone on with."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emukit.errors import TrainingError
from emukit.parallel.launch import check_devices
from tests.cli.conftest import TINY

# A run of many quick epochs: it is still at work when one of its processes is killed.
LONG = [*TINY, "--set=training.epochs=500", "--set=training.checkpoint_minutes=0.001"]


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return subprocess.Popen(
        [sys.executable, "-m", "emukit", "train", "cnn-gru", *words],
        cwd=folder,
        env=environment | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
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


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes through /proc")
def test_a_killed_process_leaves_the_others_waiting(tmp_path: Path, demo_store: Path) -> None:
    """It must end all within a minute, say which was killed and how to go on; one process alone can go on."""
    words = ["--data", str(demo_store), "--out", "run", *LONG]
    run = start([*words, "--devices", "2"], tmp_path)
    checkpoint = tmp_path / "run" / "last.pt"
    begun = time.monotonic()
    while not checkpoint.exists():
        assert run.poll() is None, run.communicate()
        assert time.monotonic() - begun < 120, "no checkpoint after two minutes"
        time.sleep(0.1)
    os.kill(process_of_rank(1, run.pid), signal.SIGKILL)
    _, said = run.communicate(timeout=60)
    assert run.returncode == 2
    assert "process 1 of 2 was killed" in said
    assert "SIGKILL" in said
    assert "--resume" in said
    assert "Traceback" not in said
    alone = start([*words, "--resume"], tmp_path)
    begun = time.monotonic()
    before = checkpoint.stat().st_mtime_ns
    while checkpoint.stat().st_mtime_ns == before:
        assert alone.poll() is None, alone.communicate()
        assert time.monotonic() - begun < 120, "the resumed run wrote nothing"
        time.sleep(0.1)
    alone.send_signal(signal.SIGINT)
    _, said = alone.communicate(timeout=60)
    assert alone.returncode == 130
    assert "resuming after epoch" in said


def test_more_devices_than_there_are_is_no_endless_start() -> None:
    with pytest.raises(TrainingError, match="cannot train on 4096 devices"):
        check_devices(4096)


def test_mistakes_are_said_once_and_not_by_every_process(tmp_path: Path, demo_store: Path) -> None:
    """What only the data shows is met by both processes; one speaks, with the exit code of a user's mistake."""
    run = start(["--data", str(demo_store), "--protocol", "loso:ssp999", "--devices", "2"], tmp_path)
    _, said = run.communicate(timeout=120)
    assert run.returncode == 2, said
    assert said.count("error: ") == 1, said
