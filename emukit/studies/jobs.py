"""Commands, several at once: each a process of its own on this machine, or a task of a Ray cluster.

Invariant: a job that ends badly stops no other, and no process outlives the one that started it by more than it takes
to save: not after Ctrl-C, not after SIGTERM, not after `kill -9`. On a cluster a job is run by the same function, and
leaves what it leaves here; Ray only says where and when. A job whose node dies is started again on another, where it
continues from what it had saved. There the folders of the jobs, and the data, lie where every node sees them under the
same path.
"""

from __future__ import annotations

import logging
import os
import queue
import shlex
import socket
import subprocess
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from emukit.distribution import install_hint
from emukit.errors import EmukitError, RunError
from emukit.files import exclusive, open_append, open_regular
from emukit.parallel.launch import GRACE_SECONDS, PARENT, TORCHRUN
from emukit.provenance import now

# Between looks at a process, and at a folder that another one holds.
LOOK_SECONDS = 0.2
# Of what a failed job wrote, so many lines are shown.
TAIL_LINES = 12
# Of its end, so much is looked at.
MOST_BYTES = 1 << 20
# What an address begins with; alone, it is the cluster that RAY_ADDRESS names, or that runs on this machine.
RAY = "ray"
# A job is started again so often when its node, or Ray's own process there, dies.
RETRIES = 10


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        words: The program and its arguments. The process ends itself, saving first, when its parent is gone, as every
            emukit does.
        folder: What it writes; no other process may write there at the same time.
        log: Where its words go.
        done: Whether the work of a folder is done already, perhaps by another process that held it.
    """

    words: tuple[str, ...]
    folder: Path
    log: Path
    done: Callable[[Path], bool]


def slots(jobs: int | None, gpus: Sequence[str], cores: int) -> list[dict[str, str]]:
    """The environments of processes that run at the same time.

    Args:
        jobs: How many; by default one for each GPU, and for each core where there is none.
        gpus: As CUDA_VISIBLE_DEVICES names them; several processes share one where there are more of them.
        cores: Of the processor, whose threads are divided. What the environment says of threads already stands.
    """
    number = jobs or len(gpus) or cores
    threads = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(max(1, cores // number))}
    return [threads | ({"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}) for i in range(number)]


def visible_gpus() -> list[str]:
    """The GPUs of this process, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    number = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named[:number] if named else [str(i) for i in range(number)]


def run_jobs(
    jobs: Sequence[Job],
    *,
    environments: Sequence[Mapping[str, str]],
    began: Callable[[int], None],
    ended: Callable[[int, str], None],
    look: Callable[[], None],
) -> None:
    """Run commands, as many at a time as there are environments, in their order.

    Args:
        jobs: What to run.
        environments: Laid over this process's own, one for each process at a time.
        began: Called with the number of a job when its process starts.
        ended: Called with its number and, where it failed, what it said last; else with nothing.
        look: Called a few times a second.

    Raises:
        KeyboardInterrupt: Ctrl-C; like every other exception, once the processes have saved and ended.
    """
    free: queue.SimpleQueue[Mapping[str, str]] = queue.SimpleQueue()
    for environment in environments:
        free.put(environment)
    started: queue.SimpleQueue[int] = queue.SimpleQueue()
    stop = threading.Event()

    def work(number: int) -> str:
        environment = free.get()
        try:
            return run_job(jobs[number], environment, stop, lambda: started.put(number))
        except (EmukitError, OSError) as e:
            # A folder or a log that cannot be used: the other jobs continue.
            return e.text() if isinstance(e, EmukitError) else str(e)
        finally:
            free.put(environment)

    pool = ThreadPoolExecutor(len(environments), "jobs")
    try:
        running: dict[Future[str], int] = {pool.submit(work, i): i for i in range(len(jobs))}
        while running:
            done, _ = wait(running, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            while not started.empty():
                began(started.get())
            for future in done:
                ended(running.pop(future), future.result())
            look()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


def run_job(job: Job, environment: Mapping[str, str], stop: threading.Event, began: Callable[[], None]) -> str:
    """Run one command, here; a folder that another process holds is waited for.

    Args:
        job: What to run.
        environment: Laid over this process's own.
        stop: When it is set, the command's process is asked to end.
        began: Called when the process starts.

    Returns:
        What it said last, where it failed; else nothing.
    """
    while not stop.is_set():
        # A process that a killed study left behind saves and ends within seconds; one of another study may continue.
        if not _held(job.folder):
            if job.done(job.folder):
                return ""
            job.log.parent.mkdir(parents=True, exist_ok=True)
            with open_append(job.log) as log:
                log.write(f"{now()} {socket.gethostname()}: {shlex.join(job.words)}\n".encode())
            said = job.log.stat().st_size
            code = _process(job, environment, stop, began)
            if code == 0 or stop.is_set():
                return ""
            # Another process may have done it meanwhile, and have had the folder when this one wanted it.
            if not _held(job.folder):
                return "" if job.done(job.folder) else _words(job.log, said, code)
        time.sleep(LOOK_SECONDS)
    return ""


def _process(job: Job, environment: Mapping[str, str], stop: threading.Event, began: Callable[[], None]) -> int:
    """The exit code of the command's process, which is asked to end when all are to stop."""
    inherited = {k: v for k, v in os.environ.items() if k not in TORCHRUN}
    with open_append(job.log) as log:
        process = subprocess.Popen(
            job.words,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            # With it the process ends, saving first, when this one is gone.
            env={**inherited, **environment, PARENT: str(os.getpid())},
            # A Ctrl-C reaches it through this process alone: the second of two signals would not let it save.
            process_group=0,
        )
        try:
            began()
            while not stop.is_set():
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(LOOK_SECONDS)
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
    return process.wait()


def _held(folder: Path) -> bool:
    """Whether another process writes into a folder."""
    try:
        with exclusive(folder):
            return False
    except RunError:
        return True


def _words(log: Path, start: int, code: int) -> str:
    """The end of a log, of what was written into it from a byte on."""
    with open_regular(log) as f:
        f.seek(max(start, log.stat().st_size - MOST_BYTES))
        text = f.read(MOST_BYTES).decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    if code < 0:
        lines.append(f"killed by signal {-code}; a process that is killed often ran out of memory")
    # From the last message on, where emukit gave one.
    last = max((i for i, line in enumerate(lines) if line.startswith("error: ")), default=0)
    return "\n".join(lines[max(last, len(lines) - TAIL_LINES) :]) or f"exit code {code}, without a word"


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that this process is connected with.

    Attributes:
        ray: The package.
        gpus: Of each job: one where the cluster has any, else none.
        places: Jobs at a time.
    """

    ray: Any
    gpus: int
    places: int

    def run_jobs(
        self,
        jobs: Sequence[Job],
        *,
        began: Callable[[int], None],
        ended: Callable[[int, str], None],
        look: Callable[[], None],
    ) -> None:
        """Run commands on the cluster, as the function `run_jobs` does on this machine.

        Raises:
            KeyboardInterrupt: Ctrl-C; like every other exception, once the jobs were asked to save and end.
        """
        here = str(Path.cwd())
        task = self.ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=RETRIES)(_work)
        running = {task.remote(job, here): i for i, job in enumerate(jobs)}
        # A job is started where its log has grown.
        waiting = {i: _length(job) for i, job in enumerate(jobs)}
        try:
            while running:
                done, _ = self.ray.wait([*running], num_returns=len(running), timeout=LOOK_SECONDS)
                for i in [i for i, length in waiting.items() if _length(jobs[i]) > length]:
                    del waiting[i]
                    began(i)
                for future in done:
                    number = running.pop(future)
                    waiting.pop(number, None)
                    try:
                        error = self.ray.get(future)
                    except self.ray.exceptions.RayError as e:
                        error = str(e)
                    ended(number, error)
                look()
        finally:
            for future in running:
                self.ray.cancel(future)
            # They save meanwhile.
            self.ray.wait([*running], num_returns=len(running), timeout=60) if running else None


@contextmanager
def open_cluster(address: str) -> Iterator[Cluster]:
    """Connect with a cluster.

    Args:
        address: ``ray``, or ``ray://HOST:PORT`` of a cluster's client server.

    Raises:
        EmukitError: It is no such address, Ray is not installed, or there is no cluster there.
    """
    if address != RAY and not address.startswith(f"{RAY}://"):
        raise EmukitError(f"cannot run on {address!r}", expected="ray, or ray://HOST:PORT", hint="--on ray")
    try:
        ray = import_module("ray")
    except ImportError:
        raise EmukitError("Ray is not installed", hint=install_hint("ray")) from None
    try:
        with warnings.catch_warnings():
            # What is wrong is said below.
            warnings.simplefilter("ignore", UserWarning)
            ray.init("auto" if address == RAY else address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as e:
        raise EmukitError(
            f"there is no Ray cluster at {address}",
            found=next(iter(str(e).splitlines()), type(e).__name__),
            hint="start one with `ray start --head`, or name another; one that asks for a token: RAY_AUTH_MODE=token",
        ) from e
    try:
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0))
        yield Cluster(ray, min(1, gpus), max(1, gpus or int(resources.get("CPU", 1))))
    finally:
        ray.shutdown()


def _work(job: Job, place: str) -> str:
    """Run a job in the folder that this command runs in."""
    os.chdir(place)
    return run_job(job, {}, threading.Event(), lambda: None)


def _length(job: Job) -> int:
    return job.log.stat().st_size if job.log.exists() else 0
