"""Jobs as tasks of a Ray cluster.

Invariant: a job is run by the same function as on one machine, and leaves what it leaves there; Ray only says where and
when. A job whose node dies is started again on another, where it continues from what it had saved.

The folders of the jobs, and the data, lie where every node sees them under the same path.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from emukit.distribution import install_hint
from emukit.errors import EmukitError
from emukit.studies.jobs import LOOK_SECONDS, Job, run_job

# What an address begins with; alone, it is the cluster that RAY_ADDRESS names, or that runs on this machine.
RAY = "ray"
# A job is started again so often when its node, or Ray's own process there, dies.
RETRIES = 10


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
        """Run commands on the cluster, as `emukit.studies.jobs.run_jobs` does on this machine.

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
