"""Little memory, or few threads, that is said to be a mistake of emukit, or ends it in the middle."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import threading

import pytest
import torch

from emukit import cli
from emukit.errors import EmukitError, ShortageError, StoreError, shortage
from emukit.files import atomic_path
from emukit.parallel import threads

NO_THREAD = RuntimeError("can't start new thread")


def torch_refuses() -> Exception:
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60, dtype=torch.uint8)
    return refused.value


@pytest.mark.parametrize(
    "error",
    [
        NO_THREAD,
        MemoryError(),
        OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
        BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)),
        torch_refuses(),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_shortage_is_said_to_be_a_mistake_of_emukit(error, monkeypatch, capsys):
    def command(**words):
        raise error

    monkeypatch.setattr(cli, "app", command)
    monkeypatch.setattr(sys, "argv", ["emukit"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert said.startswith("error: there is not enough memory, or too few threads or processes are allowed\n")
    assert "ulimit -a" in said
    assert "internal error" not in said


def test_another_error_is_taken_for_a_shortage():
    for error in (ValueError("a wrong value"), FileNotFoundError(errno.ENOENT, "no file"), StoreError("out of memory")):
        assert shortage(error) is None


def test_a_thread_that_does_not_start_is_taken_for_a_full_disk(tmp_path):
    with pytest.raises(ShortageError), atomic_path(tmp_path / "a"):
        raise NO_THREAD
    with pytest.raises(EmukitError, match="free space"), atomic_path(tmp_path / "a"):
        raise RuntimeError("NetCDF: HDF error")


@pytest.fixture
def few_threads(monkeypatch):
    """So many threads can live at a time, and no more."""

    def put(most: int) -> None:
        living: list[int] = []
        start, join = threading.Thread.start, threading.Thread.join

        def started(self):
            if len(living) >= most:
                raise NO_THREAD
            living.append(1)
            start(self)

        def joined(self, timeout=None):
            join(self, timeout)
            living.pop()

        monkeypatch.setattr(threading.Thread, "start", started)
        monkeypatch.setattr(threading.Thread, "join", joined)

    return put


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_pool_that_cannot_start_does_not_do_its_work(few_threads, most):
    few_threads(most)
    with threads.open_pool(2) as pool:
        assert list(pool.map(lambda n: n * n, range(5))) == [0, 1, 4, 9, 16]
        failed = pool.submit(int, "x")
        with pytest.raises(ValueError, match="invalid literal"):
            failed.result()


def test_libraries_start_threads_where_there_are_none(few_threads, monkeypatch):
    for name in threads.LIBRARIES:
        monkeypatch.delenv(name, raising=False)
    threads.spare_threads()
    assert not [name for name in threads.LIBRARIES if name in os.environ]
    few_threads(2)
    for name in threads.LIBRARIES:
        monkeypatch.setenv(name, "8")
    threads.spare_threads()
    assert [os.environ[name] for name in threads.LIBRARIES] == ["1", "1"]


@pytest.mark.skipif(sys.platform != "linux", reason="limits of address space hold on Linux")
def test_a_command_under_a_limit_of_memory_says_something_else(tmp_path, demo_store):
    """Enough for Python, too little for torch and the store."""
    done = subprocess.run(
        [sys.executable, "-m", "emukit", "train", "linear", "--data", str(demo_store), "--out", "run", "-q"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (500 << 20, 500 << 20)),
    )
    assert done.returncode == 2, done.stderr
    assert "there is not enough memory" in done.stderr
    assert not (tmp_path / "run").exists()
