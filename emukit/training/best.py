"""The weights of the best validation score.

Invariant: the file's name holds the epoch, and it is removed only when a checkpoint that names another is written:
checkpoint and weights cannot disagree.

    best-EPOCH.safetensors
"""

from __future__ import annotations

import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from emukit.errors import RunError, shortage
from emukit.files import atomic_path, check_regular, sha256
from emukit.parallel.comm import Comm
from emukit.parallel.distributed import fill, whole

BEST = re.compile(r"best-\d{4,}\.safetensors")


def best_path(folder: Path, epoch: int) -> Path:
    """Where the weights of the best epoch are. Its name holds the epoch: checkpoint and weights cannot disagree."""
    return folder / f"best-{epoch:04d}.safetensors"


def save_best(folder: Path, epoch: int, network: nn.Module, comm: Comm) -> str:
    """Write the weights of the best validation score so far, atomically; every process must call it.

    Args:
        folder: Of the run.
        epoch: That reached the score; part of the file's name.
        network: Whose weights they are.
        comm: This process among those that train.

    Returns:
        The digest of the file, on the first process; nothing on the others.
    """
    weights = {}
    for name, tensor in network.state_dict().items():
        full = whole(tensor.detach())
        if comm.main:
            weights[name] = full.cpu().contiguous()
    if comm.main:
        with atomic_path(best_path(folder, epoch)) as temporary:
            save_file(weights, temporary)
        return sha256(best_path(folder, epoch))
    return ""


def drop_older_best(folder: Path, epoch: int) -> None:
    """Remove the weights of other epochs; called once the checkpoint that names this one is written."""
    for path in folder.iterdir():
        if BEST.fullmatch(path.name) and path.is_file() and path != best_path(folder, epoch):
            path.unlink()


def check_best(folder: Path, epoch: int, network: nn.Module, digest: str) -> None:
    """Refuse best weights that are not those that were written, or that `load_best` could not load.

    Args:
        folder: Of the run.
        epoch: That reached the score.
        network: Into which they would be loaded.
        digest: SHA-256 of the file when it was written.

    Raises:
        RunError: They are missing or damaged, or another network's.
    """
    path = best_path(folder, epoch)
    try:
        # Not a FIFO, and not a device: the digest reads files alone.
        if sha256(path) != digest:
            raise ValueError("a file that is damaged, or another training's")
        with safe_open(path, framework="pt") as file:
            names: list[str] = file.keys()
            found = {name: tuple(file.get_slice(name).get_shape()) for name in names}
        expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        if found != expected:
            raise ValueError("the weights of another network")
    except (OSError, ValueError, SafetensorError) as e:
        raise _no_best(path, e) from e


def load_best(folder: Path, epoch: int, network: nn.Module) -> None:
    """Put the best weights into a network, sharded or not.

    Raises:
        RunError: They are missing or damaged.
    """
    path = best_path(folder, epoch)
    try:
        check_regular(path)
        weights = load_file(path)
        for name, tensor in network.state_dict().items():
            fill(tensor, weights[name])
    except (OSError, RuntimeError, KeyError, SafetensorError) as e:
        raise shortage(e) or _no_best(path, e) from e


def first_line(error: Exception) -> str:
    """Enough of an error for one line of a message."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


def _no_best(path: Path, error: Exception) -> RunError:
    return RunError(
        f"the best weights {path} cannot be used",
        found=first_line(error),
        expected="the whole file that the checkpoint next to it names",
        hint="restore the file, or remove the run folder and train again",
    )
