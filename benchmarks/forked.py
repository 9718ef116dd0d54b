"""Commands in forks of one process that has imported everything: a hundred cases in the time of a few commands.

Invariant: a command runs as `emukit` runs it, in a process, a folder and with output files of its own; whatever it does
to itself, the process that started it continues, and knows how it ended, what it said, and what it took.
"""

from __future__ import annotations

import os
import resource
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

HANG_SECONDS = 60.0
MEMORY_BYTES = 4 << 30
_LOOK_SECONDS = 0.01
# What the commands under test import; a fork has it already.
IMPORTS = (
    "emukit.cli",
    "emukit.cli.show",
    "emukit.data.opening",
    "emukit.emulators.registry",
    "emukit.runs.evaluate",
    "emukit.planning.plan",
    "emukit.recipes.schema",
    "emukit.runs.leaderboard",
    "emukit.runs.run",
    "emukit.runs.submit",
    "emukit.studies.ablate",
    "emukit.studies.results",
    "emukit.submission.score",
    "netCDF4",
    # Where it is installed, xarray imports it to ask whether an array is one of its.
    "pint",
    "pyarrow.pandas_compat",
    "pyarrow.parquet",
    "scipy.special",
    "torch",
    # Imported by the first step of an optimiser.
    "torch._dynamo",
    "xarray",
)


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: Its exit code; minus the number of the signal that ended it.
        out: What it wrote to standard output.
        err: What it wrote to standard error.
        seconds: From its start to its end.
        peak_bytes: Its highest resident memory, which includes what it was forked with.
        hung: Whether it took more than `HANG_SECONDS` of the processor, or did nothing for so long, and was killed.
    """

    code: int
    out: str
    err: str
    seconds: float
    peak_bytes: int
    hung: bool

    @property
    def greedy(self) -> bool:
        """Whether it took more memory than it may."""
        return self.peak_bytes > MEMORY_BYTES or "there is not enough memory" in self.err

    @property
    def broken(self) -> bool:
        """Whether it ended otherwise than well or with a reason: by a traceback, a mistake of its own, or a signal."""
        failed = "Traceback (most" in self.err or "internal error: " in self.err
        return not self.hung and (failed or self.code not in (0, 1, 2) or (self.code != 0 and not self.out + self.err))


def preload() -> None:
    """Import what commands need; once is enough, and nothing is computed, so that no thread is lost in a fork."""
    for name in IMPORTS:
        if find_spec(name.partition(".")[0]):
            import_module(name)


def command(*words: object) -> Callable[[], None]:
    """A command line, to be called in a fork."""

    def run() -> None:
        sys.argv = ["emukit", *map(str, words)]
        # As `python -m emukit`: from outside, since benches lie below the command line.
        runpy.run_module("emukit", run_name="__main__")

    return run


def in_fork(
    work: Callable[[], object],
    folder: Path,
    *,
    before: Callable[[], None] = lambda: None,
    kill_after: float | None = None,
    kill_all: bool = False,
    hang_seconds: float = HANG_SECONDS,
) -> Ended:
    """Do work in a fork of this process.

    Args:
        work: What to do; `command` makes it of words. SystemExit is its exit code.
        folder: Where it runs, and has its standard output and error, in ``.out`` and ``.err``.
        before: Called in the fork first.
        kill_after: Seconds after which it is killed, as a machine that is lost would.
        kill_all: Whether everything that it started is killed with it.
        hang_seconds: Of the processor, or of doing nothing, after which it counts as hung.
    """
    paths = [folder / ".out", folder / ".err"]
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        _become(work, before, folder, paths)
    hung = False
    busy, moved = 0, started
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            break
        now = time.monotonic()
        ticks = _ticks(pid)
        if ticks != busy:
            busy, moved = ticks, now
        if kill_after is not None and now - started > kill_after:
            (os.killpg if kill_all else os.kill)(pid, signal.SIGKILL)
        elif now - moved > hang_seconds or ticks / os.sysconf("SC_CLK_TCK") > hang_seconds:
            hung = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(_LOOK_SECONDS)
    out, err = (p.read_text(encoding="utf-8", errors="replace") if p.exists() else "" for p in paths)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, out, err, time.monotonic() - started, used.ru_maxrss * 1024, hung)


def _become(work: Callable[[], object], before: Callable[[], None], folder: Path, paths: Sequence[Path]) -> NoReturn:
    """In the fork: be a process of its own, do the work, and end."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        for number, path in zip((1, 2), paths, strict=True):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # Whoever captures output of this process, as pytest does, has put other objects there.
        sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8", closefd=False) for n in (1, 2))
        # What asks for far more than it may gets a refusal, and the machine stays usable.
        most = _address_space() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _one_thread()
        before()
        work()
        code = 0
    except SystemExit as e:
        code = e.code if isinstance(e.code, int) else 0 if e.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _one_thread() -> None:
    """Compute with one thread: those of the process that this one was forked from are not here."""
    import torch

    torch.set_num_threads(1)


def _ticks(pid: int) -> int:
    """Processor time of a process so far, in ticks of the clock."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(words[11]) + int(words[12])


def _address_space() -> int:
    """Bytes of addresses that this process has mapped, most of them never touched."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
