"""Places among processes that cannot be, processes that wait for ever, and what the starting command lets through."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta
from logging.handlers import BufferingHandler
from pathlib import Path

import pytest
import torch.distributed as dist
from torch.distributed import launcher
from torch.distributed.elastic.multiprocessing.api import SignalException

from emukit.errors import TrainingError
from emukit.parallel import comm
from emukit.parallel.comm import open_comm
from emukit.parallel.launch import PARENT, RENDEZVOUS_FILE, TORCHRUN, is_main, relaunch, torchrun_place
from tests.parallel.worker import threads

ALONE = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29400"}


@pytest.fixture
def environment(monkeypatch):
    """Set the variables of torchrun: process 0 of 2, and what is said otherwise."""

    def put(**other: str) -> None:
        for name, value in (ALONE | other).items():
            monkeypatch.setenv(name, value)
        for name in ("TORCHELASTIC_USE_AGENT_STORE", "LOCAL_WORLD_SIZE", RENDEZVOUS_FILE):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(comm, "RENDEZVOUS_TIMEOUT", timedelta(seconds=1))

    return put


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "first"),
        ("RANK", "2"),
        ("RANK", "-1"),
        ("WORLD_SIZE", "0"),
        ("WORLD_SIZE", ""),
        ("LOCAL_RANK", "a"),
        ("LOCAL_RANK", "2"),
        ("MASTER_ADDR", ""),
        ("MASTER_PORT", "99999"),
        ("MASTER_PORT", "http"),
    ],
)
def test_a_place_that_cannot_be_is_a_crash_or_a_wait(environment, name, value):
    environment(**{name: value})
    with pytest.raises(TrainingError, match=f"{name}={value}") as refused, open_comm():
        pass
    assert refused.value.expected.endswith(f"wrong: {name}")
    assert "unset RANK" in refused.value.hint
    assert is_main()


def test_a_name_that_nobody_knows_is_waited_for(environment, monkeypatch):
    environment(MASTER_ADDR="nowhere.invalid")
    monkeypatch.setattr(comm, "rendezvous", None)
    with pytest.raises(TrainingError, match=r"could not connect[^$]*MASTER_ADDR=nowhere\.invalid"), open_comm():
        pass


def test_a_port_in_use_is_a_crash(environment):
    with socket.socket() as taken:
        taken.bind(("localhost", 0))
        taken.listen()
        environment(MASTER_PORT=str(taken.getsockname()[1]))
        with pytest.raises(TrainingError, match="could not connect"), open_comm():
            pass


@pytest.mark.parametrize("rank", ["0", "1"])
def test_others_that_do_not_come_are_waited_for_without_end(environment, rank):
    environment(MASTER_PORT=str(free_port()), RANK=rank)
    with pytest.raises(TrainingError, match=f"as process {rank} of 2"), open_comm():
        pass
    assert is_main() == (rank == "0")


def test_one_that_hangs_is_waited_for_without_end(environment, monkeypatch):
    environment(WORLD_SIZE="1", MASTER_PORT=str(free_port()))
    formed = []
    monkeypatch.setattr(comm.dist, "init_process_group", lambda *names, **options: formed.append(options))
    comm.join_group(torchrun_place(), "gloo")
    assert timedelta(minutes=1) < formed[0]["timeout"] < timedelta(hours=1)


@pytest.mark.skipif(not threads(), reason="threads are listed by Linux alone")
def test_what_an_error_left_behind_keeps_the_group_until_the_interpreter_ends(environment):
    """Its traceback would, and what it was met in: a network that is spread holds the group of its processes."""

    def meet_one():
        group = dist.group.WORLD
        # A thread has its name only once it runs.
        until = time.monotonic() + 20
        while not [name for name in threads() if "gloo" in name]:
            assert time.monotonic() < until
            time.sleep(0.01)
        raise ValueError(group.size())

    def say_another():
        try:
            meet_one()
        except ValueError as e:
            # Each in the context of the other: a chain without an end.
            e.__context__ = said = KeyError("of 1")
            raise said from e

    environment(WORLD_SIZE="1", MASTER_PORT=str(free_port()))
    with pytest.raises(KeyError) as caught, open_comm():
        say_another()
    assert not [name for name in threads() if "gloo" in name]
    assert [entry.name for entry in caught.traceback][-1] == "say_another"


def test_a_process_that_hangs_outlives_the_command_that_started_it():
    """Deaf to the request to stop, it is killed."""
    code = (
        "import signal, time; from emukit.parallel import launch\n"
        "launch.GRACE_SECONDS = 0.1\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: print('asked', flush=True))\n"
        "launch.follow_parent()\n"
        "time.sleep(20)"
    )
    # No process has the number zero.
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env=os.environ | {PARENT: "0"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "asked\n")


def test_a_rank_without_torchrun_is_taken_for_one_of_several(monkeypatch):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "1")
    assert is_main()
    with open_comm() as comm:
        assert (comm.rank, comm.world) == (0, 1)


def test_a_process_that_waits_for_others_is_deaf_to_stop_requests():
    code = (
        "import signal, sys; from emukit.parallel.comm import open_comm\n"
        "signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))\n"
        "print('here', flush=True)\n"
        "with open_comm(): pass"
    )
    waiting = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env=os.environ | ALONE | {"RANK": "1", "MASTER_PORT": str(free_port())},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "here\n"
    time.sleep(0.5)
    waiting.send_signal(signal.SIGTERM)
    assert waiting.wait(timeout=10) == -signal.SIGTERM
    waiting.stdout.close()


@pytest.mark.parametrize("nohup", [False, True])
def test_the_engine_logs_beside_what_is_said_or_takes_an_ignored_signal(monkeypatch, nohup):
    for name in (PARENT, "OMP_NUM_THREADS", "TORCHELASTIC_SIGNALS_TO_HANDLE"):
        monkeypatch.delenv(name, raising=False)
    before_it, inside = dict(os.environ), {}

    above, engine = logging.getLogger("torch.distributed"), logging.getLogger("torch.distributed.elastic")
    logged = BufferingHandler(100)
    for logger, handlers in ((above, [logged]), (engine, [])):
        monkeypatch.setattr(logger, "handlers", handlers)
        monkeypatch.setattr(logger, "propagate", logger is engine)

    def stopped(*words: str) -> None:
        logging.getLogger("torch.distributed.elastic.agent.server.api").warning("Received 2 death signal")
        inside.update(os.environ)
        raise SignalException("stopped", signal.SIGINT)

    monkeypatch.setattr(launcher.api, "elastic_launch", lambda config, entry: stopped)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    try:
        assert relaunch(["train"], 2) == 130
    finally:
        signal.signal(signal.SIGHUP, before)
    assert logged.buffer == []
    assert inside[PARENT] == str(os.getpid())
    assert ("SIGHUP" in inside.get("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGHUP")) == (not nohup)
    assert dict(os.environ) == before_it, "what this process starts later takes it for its own"
