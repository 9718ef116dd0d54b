"""Commands in processes of their own, forked from one that has imported what commands import.

`python -m emukit` spends seconds of a core on imports, which a fork has. The process that is forked has computed
nothing, so no thread of it is missing in a fork.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO

from benchmarks.forked import IMPORTS, command
from emukit.parallel.launch import PARENT, RENDEZVOUS_FILE

_SERVED = multiprocessing.get_context("forkserver")
_SERVED.set_forkserver_preload([*IMPORTS])


@dataclass(frozen=True)
class Started:
    """A command that runs.

    Attributes:
        process: Its process.
        out: The file that holds its standard output.
        err: Likewise.
    """

    process: BaseProcess
    out: Path
    err: Path

    def wait(self, seconds: float = 240.0) -> int:
        """Its exit code; minus the number of a signal that ended it."""
        self.process.join(seconds)
        code = self.process.exitcode
        assert code is not None, f"still running after {seconds:g} s: {self.err.read_text()}"
        return code

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self.process.exitcode is None

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process.pid
        os.kill(self.process.pid, number)


def start(folder: Path, *words: object, name: str = "command", **environment: str) -> Started:
    """Start `emukit WORDS`, with one thread unless OMP_NUM_THREADS says otherwise.

    Args:
        folder: Where it runs.
        words: Of the command line.
        name: Of this one among several; its output is next to the folder, in files called after both.
        environment: Variables that it has besides.
    """
    out, err = (folder.with_name(f"{folder.name}-{name}.{kind}") for kind in ("out", "err"))
    given = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return Started(_forked(folder, [str(w) for w in words], out, err, given), out, err)


def start_together(folder: Path, processes: int, *words: object, name: str = "command") -> list[Started]:
    """Start `emukit WORDS` as several processes that find each other, as `emukit.parallel.launch.relaunch` does."""
    world = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "CUDA_VISIBLE_DEVICES": ""}
    world |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29400"}
    world[RENDEZVOUS_FILE] = str(folder.with_name(f"{folder.name}-{name}-rendezvous"))
    return [
        start(folder, *words, name=f"{name}-{rank}", RANK=str(rank), LOCAL_RANK=str(rank), **world)
        for rank in range(processes)
    ]


class Popen:
    """In the place of `subprocess.Popen` for `python -m emukit WORDS` with one file of output, or a pipe of errors.

    Its parent is not the process that starts it, so it cannot be told to end with that one. Linux alone says what its
    output is called.
    """

    def __init__(
        self, words: Sequence[str], *, env: Mapping[str, str], stdout: IO[bytes] | int, stderr: int, **_: object
    ) -> None:
        assert list(words[:3]) == [sys.executable, "-m", "emukit"]
        given = {"OMP_NUM_THREADS": "1"} | {k: v for k, v in env.items() if k != PARENT}
        if isinstance(stdout, int):
            assert (stdout, stderr) == (subprocess.DEVNULL, subprocess.PIPE)
            number, name = tempfile.mkstemp()
            os.close(number)
            out, self._err = Path(os.devnull), Path(name)
        else:
            out = self._err = Path(f"/proc/self/fd/{stdout.fileno()}").readlink()
        self._process = _forked(Path.cwd(), list(words[3:]), out, self._err, given)

    @property
    def returncode(self) -> int | None:
        """As `poll`."""
        return self.poll()

    def communicate(self) -> tuple[None, str]:
        """Wait for its end; what would have come from the pipe of its standard error."""
        self.wait()
        said = self._err.read_text()
        self._err.unlink()
        return None, said

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float | None = None) -> int:
        """Its exit code.

        Raises:
            subprocess.TimeoutExpired: It still runs.
        """
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("emukit", seconds or 0.0)
        return self._process.exitcode

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def kill(self) -> None:
        """End it."""
        self._process.kill()


def _forked(folder: Path, words: list[str], out: Path, err: Path, environment: Mapping[str, str]) -> BaseProcess:
    process = _SERVED.Process(target=_become, args=(folder, words, out, err, environment))
    process.start()
    return process


def _become(folder: Path, words: list[str], out: Path, err: Path, environment: Mapping[str, str]) -> None:
    import torch

    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    os.environ.clear()
    os.environ.update(environment)
    # Whoever has asked for it before knows where it was.
    tempfile.tempdir = None
    # Where the tests themselves run under nohup, it would ignore the end of its terminal too.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    os.chdir(folder)
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    command(*words)()
