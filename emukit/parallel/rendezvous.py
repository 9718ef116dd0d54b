"""How processes that torchrun started find each other.

Invariant: a process never waits for others without an end, nor deaf to a request to stop; processes of one machine
listen on its loopback interface alone.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from emukit.errors import TrainingError
from emukit.parallel.launch import TORCHRUN, ProcessPlace

# How long they wait for each other at the start: machines of a cluster are not handed out at the same second.
RENDEZVOUS_TIMEOUT = timedelta(minutes=5)
# How long a process waits for the others before it gives up on them. A process that dies is noticed at once by
# torchrun, which ends the rest; this is for one that hangs, and must outlast the slowest thing one does alone.
COLLECTIVE_TIMEOUT = timedelta(minutes=10)
# What Linux and macOS call the interface that no other machine reaches.
LOOPBACK = ("lo", "lo0")


def join_group(place: ProcessPlace, backend: str) -> None:
    """Wait for the other processes, and form a group with them.

    Raises:
        TrainingError: They cannot be reached, or do not come.
    """
    try:
        if place.one_machine:
            _stay_on_loopback()
        if not place.file:
            # A name that nobody knows would be asked for again and again.
            socket.getaddrinfo(place.address, place.port)
        with _signals_that_end():
            store = _store(place)
            # All are awaited here, for the group would wait for them with the patience of later sums.
            store.set(f"emukit/{place.rank}", "here")
            store.wait([f"emukit/{r}" for r in range(place.world)], RENDEZVOUS_TIMEOUT)
            dist.init_process_group(
                backend, store=store, rank=place.rank, world_size=place.world, timeout=COLLECTIVE_TIMEOUT
            )
    except (OSError, RuntimeError, UnicodeError) as e:
        raise TrainingError(
            "the processes that should train together could not connect",
            found=f"{next(iter(str(e).splitlines()), type(e).__name__)} at "
            + (place.file or f"MASTER_ADDR={place.address} MASTER_PORT={place.port}")
            + f", as process {place.rank} of {place.world}",
            expected=f"WORLD_SIZE={place.world} processes that reach that place within {RENDEZVOUS_TIMEOUT.seconds} s",
            hint=f"start all of them, and correct address and port; to train with one: unset {' '.join(TORCHRUN)}",
        ) from e


def _store(place: ProcessPlace) -> Any:
    """Where the processes leave word for each other."""
    if place.file:
        return dist.FileStore(place.file, place.world)  # type: ignore[attr-defined]
    return next(rendezvous("env://", place.rank, place.world, timeout=RENDEZVOUS_TIMEOUT))[0]


def _stay_on_loopback() -> None:
    """Have Gloo and NCCL listen there: by themselves they take an interface of the network."""
    names = [name for _, name in socket.if_nameindex() if name in LOOPBACK]
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        if names:
            os.environ[variable] = names[0]


@contextmanager
def _signals_that_end() -> Iterator[None]:
    """Inside, stop requests end the process as the system does: Python's handlers would wait for torch to return."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {s: signal.getsignal(s) for s in asked if signal.getsignal(s) != signal.SIG_IGN}
    for s in before:
        signal.signal(s, signal.SIG_DFL)
    try:
        yield
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
