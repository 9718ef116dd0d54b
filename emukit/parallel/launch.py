"""Starting a command again as several processes.

Invariant: whatever a process of it ends with, the command that started it ends too, within seconds, with that exit
code; no process is left waiting.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from emukit.errors import TrainingError


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
            f"cannot train on {devices} devices",
            found=f"{have} {kind}",
            expected=f"--devices {have} or fewer",
            hint="on a cluster: torchrun --nnodes N --nproc-per-node M -m emukit train ...",
        )


def relaunch(arguments: Sequence[str], devices: int) -> int:
    """Run `emukit ARGUMENTS` as several processes under torchrun's engine.

    Args:
        arguments: Words of the command line.
        devices: How many processes.

    Returns:
        The exit code: zero, or that of the first process that failed, which has said why.

    Raises:
        TrainingError: A process was killed, or this machine has too few devices.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    check_devices(devices)
    # Processes that each took all cores would only get in each other's way.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    # What it logs of a failure is said below, once and shorter.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=f"emukit-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "emukit", *arguments)
    except ChildFailedError as e:
        rank, failure = e.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        raise TrainingError(
            f"process {rank} of {devices} was killed",
            found=f"signal {-failure.exitcode} ({signal.Signals(-failure.exitcode).name})",
            expected="all processes to end by themselves; the others were stopped",
            hint="--resume goes on from the last checkpoint; a process that is killed often ran out of memory",
        ) from e
    except SignalException as e:
        return 128 + int(e.sigval)
    return 0
