"""Threads where only a few can be started: under a limit of processes or of memory.

Invariant: work that is given to a pool is done, by fewer threads where that many do not start, at worst by none.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

# Of the libraries that compute: torch and scikit-learn have OpenMP, numpy OpenBLAS.
LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def startable(wanted: int) -> int:
    """How many threads can be started, up to a number; those that were tried have ended."""
    started: list[threading.Thread] = []
    end = threading.Event()
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=end.wait, daemon=True)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError):
        pass
    finally:
        end.set()
        for thread in started:
            thread.join()
    return len(started)


def spare_threads() -> None:
    """Where threads are scarce, have numpy and torch compute with one each; before they are imported.

    They end the process where a thread does not start, and cannot be caught at it.
    """
    cores = os.cpu_count() or 1
    # OpenMP and OpenBLAS start one for each core, torch as many again for gradients, and emukit a few.
    wanted = 3 * cores + 4
    if startable(wanted) < wanted:
        os.environ.update(dict.fromkeys(LIBRARIES, "1"))


@contextmanager
def open_pool(threads: int, name: str = "") -> Iterator[Executor]:
    """A pool of as many threads as can be started, up to a number; work is done at once where none can."""
    able = startable(threads)
    with ThreadPoolExecutor(able, name) if able else _Here() as pool:
        yield pool


class _Here(Executor):
    """Does what it is given in the thread that gives it."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as e:
            future.set_exception(e)
        return future
