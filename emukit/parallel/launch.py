"""Starting a command again as several processes, and what one of them knows of the others.

Invariant: whatever a process of it ends with, the command that started it ends too, within seconds, with that exit
code; and whatever ends that command, its processes end: none is left waiting or working.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from emukit.errors import EmukitError, TrainingError

TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")

# Exit codes of an `emukit` that said why, or was asked to stop; above 128 too.
SPEAKING = (1, 2)

# Names to a process the one that started it, by its process id.
PARENT = "EMUKIT_PARENT"
# Names to the processes of one machine the file through which they find each other.
RENDEZVOUS_FILE = "EMUKIT_RENDEZVOUS_FILE"
# A process whose parent has gone has this long to save where it stands: several times what a large checkpoint takes.
GRACE_SECONDS = 60.0


class PeerLostError(EmukitError):
    """Another process has ended in the middle of what all do together; what it met is for that one to say."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            "another of the processes has ended",
            found=next(iter(str(error).splitlines()), "")[:200],
            expected="all processes to continue to the end",
            hint="look at what that one said; --resume continues from the last checkpoint",
        )


class ReportedByMainError(EmukitError):
    """The first of several processes refused, and says why; the others end without a word."""

    def __init__(self) -> None:
        super().__init__("the first process refused")


@dataclass(frozen=True)
class ProcessPlace:
    """A process's place among those that torchrun started.

    Attributes:
        rank: Among all, from zero.
        world: How many there are.
        local: Among those of this machine, from zero.
        address: Name or address of the machine where they meet.
        port: Its port.
        one_machine: Whether all of them are on this machine.
        file: Where they meet instead, if `relaunch` started them.
    """

    rank: int
    world: int
    local: int
    address: str
    port: int
    one_machine: bool = False
    file: str = ""


def inside_torchrun() -> bool:
    """Whether torchrun started this process."""
    return all(name in os.environ for name in TORCHRUN)


def torchrun_place() -> ProcessPlace:
    """What torchrun says of this process in its environment.

    Raises:
        TrainingError: A variable is not a number, or out of range.
    """
    found = {name: os.environ[name] for name in TORCHRUN}
    numbers = {k: int(v) for k, v in found.items() if k != "MASTER_ADDR" and v.isascii() and v.isdigit()}
    rank, world, local, port = (numbers.get(k, -1) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"))
    wrong = {
        "RANK": rank < 0 or rank >= world > 0,
        "WORLD_SIZE": world < 1,
        "LOCAL_RANK": local < 0 or local >= world > 0,
        "MASTER_ADDR": not found["MASTER_ADDR"],
        "MASTER_PORT": not 0 < port < 2**16,
    }
    if any(wrong.values()):
        raise TrainingError(
            "the environment names a place among several processes that cannot be",
            found=", ".join(f"{k}={found[k]}" for k in TORCHRUN),
            expected="as torchrun sets them: 0 <= RANK, LOCAL_RANK < WORLD_SIZE, a host, a port below 65536; wrong: "
            + ", ".join(k for k, v in wrong.items() if v),
            hint=f"start it with torchrun or --devices; to train with one process: unset {' '.join(TORCHRUN)}",
        )
    one_machine = os.environ.get("LOCAL_WORLD_SIZE") == found["WORLD_SIZE"]
    return ProcessPlace(
        rank, world, local, found["MASTER_ADDR"], port, one_machine, os.environ.get(RENDEZVOUS_FILE, "")
    )


def is_main() -> bool:
    """Whether this process is the one that says what all of them met; alone where the environment is wrong."""
    try:
        return not inside_torchrun() or torchrun_place().rank == 0
    except TrainingError:
        return True


def follow_parent() -> None:
    """Where `relaunch` started this process: end with the one that did, saving first, even if that one was killed."""
    # A command that this process starts has another parent, and must not take this one's for its own.
    parent = os.environ.pop(PARENT, "")
    if not parent.isdigit():
        return

    def watch() -> None:
        while os.getppid() == int(parent):
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        # It hangs, perhaps in a sum with a process that has ended; Python's own handlers would wait with it.
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def check_devices(devices: int) -> None:
    """Refuse more processes than this machine has GPUs, or cores where it has none.

    Raises:
        TrainingError: There are too few.
    """
    import torch

    gpus = torch.cuda.device_count()
    have, kind = (gpus, "GPUs") if gpus else (os.cpu_count() or 1, "processor cores")
    if devices > have:
        raise TrainingError(
            f"cannot start {devices} processes, each with a device of its own",
            found=f"{have} {kind}",
            expected=f"--devices {have} or fewer",
            hint="on a cluster: torchrun --nnodes N --nproc-per-node M -m emukit ...",
        )


def check_started(devices: int) -> int:
    """How many processes torchrun started, of which this is one.

    Args:
        devices: How many were asked for; 1: as many as there are.

    Raises:
        TrainingError: Another number was asked for.
    """
    world = torchrun_place().world
    if devices not in (1, world):
        raise TrainingError(
            f"--devices {devices} under torchrun would do nothing",
            found=f"{world} processes that torchrun started",
            expected=f"--devices {world}, or none",
            hint="leave --devices out, or start without torchrun",
        )
    return world


def relaunch(arguments: Sequence[str], devices: int) -> int:
    """Run `emukit ARGUMENTS` as several processes under torchrun's engine.

    They meet through a file that only this user can reach. A port would be open to the network: torch's key-value
    server listens on all interfaces, and torchrun's own way to meet unpickles what it finds there.

    Args:
        arguments: Words of the command line.
        devices: How many processes.

    Returns:
        The exit code: zero, or that of the first process that failed, which has said why.

    Raises:
        TrainingError: A process was killed.
    """
    from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    environment = {
        PARENT: str(os.getpid()),
        # Without it the engine opens a server of its own next to the file.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        # Processes that each took all cores would only get in each other's way.
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices))),
    }
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        # Under nohup the engine must not take what is to be ignored.
        asked = os.environ.get("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGQUIT")
        environment["TORCHELASTIC_SIGNALS_TO_HANDLE"] = asked
    # What it logs of a failure is said below, once and shorter. Its loggers have levels of their own, so that one set
    # here would not reach them.
    engine = logging.getLogger("torch.distributed.elastic")
    engine.addHandler(logging.NullHandler())
    engine.propagate = False
    try:
        # It is made for this user alone; the engine's notes of failures go there too, and are removed with it.
        with tempfile.TemporaryDirectory(prefix="emukit-", ignore_cleanup_errors=True) as rendezvous_folder:
            environment[RENDEZVOUS_FILE] = str(Path(rendezvous_folder, "processes"))
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=devices,
                run_id=f"emukit-{os.getpid()}",
                rdzv_backend="c10d",
                rdzv_endpoint=str(Path(rendezvous_folder, "engine")),
                rdzv_configs={"store_type": "file"},
                local_addr="localhost",
                max_restarts=0,
                monitor_interval=0.2,
                logs_specs=DefaultLogsSpecs(log_dir=rendezvous_folder),
            )
            with _environment(environment):
                elastic_launch(config, sys.executable)("-m", "emukit", *arguments)
    except ChildFailedError as e:
        rank, failure = e.get_first_failure()
        if failure.exitcode in SPEAKING or failure.exitcode > 128:
            return failure.exitcode
        if failure.exitcode > 0:
            raise TrainingError(
                f"process {rank} of {devices} ended without a word",
                found=f"exit code {failure.exitcode}",
                expected="all processes to end by themselves; the others were stopped",
                hint="--resume continues from the last checkpoint; `emukit --debug train ...` shows more",
            ) from e
        raise TrainingError(
            f"process {rank} of {devices} was killed",
            found=f"signal {-failure.exitcode} ({signal.Signals(-failure.exitcode).name})",
            expected="all processes to end by themselves; the others were stopped",
            hint="--resume continues from the last checkpoint; a process that is killed often ran out of memory",
        ) from e
    except SignalException as e:
        return 128 + int(e.sigval)
    return 0


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Inside, these variables are set, for processes to inherit: torchrun's engine takes them from nowhere else."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
