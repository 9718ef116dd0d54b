"""Processes that meet as those of torchrun do, as forks of one that has imported everything."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from importlib import import_module

from emukit.parallel.launch import RENDEZVOUS_FILE

# What a training imports when its first step is taken.
LATE = ("torch._dynamo", "torch.distributed.nn", "torch.distributed.fsdp", "torch.distributed.tensor")


def run_together(processes: int, act: Callable[[], None], rendezvous: str) -> None:
    """Do something in so many processes, and wait for them; one alone is not told of others.

    Args:
        processes: How many.
        act: What each of them does.
        rendezvous: The file through which they meet.

    Raises:
        SystemExit: One of them failed.
    """
    for name in LATE:
        import_module(name)
    running = {_fork(rank, processes, act, rendezvous) for rank in range(processes)}
    while running:
        ended, status = os.wait()
        running.discard(ended)
        if status:
            # The others would wait for it.
            for other in running:
                os.kill(other, signal.SIGKILL)
            sys.exit(f"one of {processes} processes failed")


def _fork(rank: int, processes: int, act: Callable[[], None], rendezvous: str) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if processes > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
            os.environ |= {k: str(v) for k, v in place.items()}
            os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": "29400", RENDEZVOUS_FILE: rendezvous}
        act()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)
