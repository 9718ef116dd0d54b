"""What training needs to go on as if it had never stopped.

Invariant: `last.pt` is whole and holds everything the loop's future depends on; loading it runs no code from the file.
"""

from __future__ import annotations

import pickle
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from emukit.errors import RunError
from emukit.files import atomic_path

LAST = "last.pt"


@dataclass
class TrainingState:
    """Where the loop stands.

    Attributes:
        epoch: Epoch under way, from zero; equal to the number of finished ones.
        step: Steps done in it.
        best_score: Lowest validation score so far.
        best_epoch: The epoch, counted from one, after which it was reached.
        stale: Validations since.
        sums: Loss terms of the epoch under way, summed over its steps.
        stopped: Whether early stopping has ended the training.
        seconds: Time spent so far, over all sessions.
    """

    epoch: int = 0
    step: int = 0
    best_score: float = float("inf")
    best_epoch: int = 0
    stale: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    stopped: bool = False
    seconds: float = 0.0


def save_checkpoint(folder: Path, state: TrainingState, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write `last.pt` atomically."""
    content: dict[str, Any] = {
        "state": asdict(state),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "rng": torch.get_rng_state(),
        "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    with atomic_path(folder / LAST) as temporary:
        torch.save(content, temporary)


def load_checkpoint(folder: Path, network: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Restore network, optimiser and random state from `last.pt`.

    Raises:
        RunError: It is damaged, or belongs to another network.
    """
    path = folder / LAST
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        network.load_state_dict(content["network"])
        optimizer.load_state_dict(content["optimizer"])
        torch.set_rng_state(content["rng"])
        if content["cuda_rng"] and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(content["cuda_rng"])
        return TrainingState(**content["state"])
    except (RuntimeError, OSError, KeyError, TypeError, ValueError, EOFError, pickle.UnpicklingError) as e:
        raise RunError(
            f"the checkpoint {path} cannot be used",
            found=_first_line(e),
            expected="a whole checkpoint of this very network",
            hint="remove the run folder and train again",
        ) from e


def best_path(folder: Path, epoch: int) -> Path:
    """Where the weights of the best epoch are. Its name holds the epoch: checkpoint and weights cannot disagree."""
    return folder / f"best-{epoch:04d}.safetensors"


def save_best(folder: Path, epoch: int, network: nn.Module) -> None:
    """Write the weights of the best validation score so far, atomically."""
    with atomic_path(best_path(folder, epoch)) as temporary:
        save_file({k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}, temporary)


def drop_older_best(folder: Path, epoch: int) -> None:
    """Remove the weights of other epochs; called once the checkpoint that names this one is written."""
    for path in folder.glob("best-*.safetensors"):
        if path != best_path(folder, epoch):
            path.unlink()


def load_best(folder: Path, epoch: int, network: nn.Module) -> None:
    """Put the best weights into the network.

    Raises:
        RunError: They are missing or damaged.
    """
    path = best_path(folder, epoch)
    try:
        network.load_state_dict(load_file(path))
    except (OSError, RuntimeError, SafetensorError) as e:
        raise RunError(
            f"the best weights {path} cannot be used",
            found=_first_line(e),
            hint="remove the run folder and train again",
        ) from e


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
