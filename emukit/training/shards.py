"""The part of a checkpoint that each process writes for itself where the network is sharded.

Invariant: the files of a checkpoint are read as one only if they were written as one: each says which process's it is,
of how many, and after which step.

    last-EPOCH-STEP/rank-R.safetensors    a process's rows of every tensor; the first's also what is not sharded
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from emukit.files import atomic_path
from emukit.parallel.comm import Comm
from emukit.training.state import TrainingState

FOLDER = re.compile(r"last-\d{4,}-\d{6,}")


def shard_folder(state: TrainingState) -> str:
    """Name of the folder of a checkpoint's shards."""
    return f"last-{state.epoch:04d}-{state.step:06d}"


def save_shard(folder: Path, state: TrainingState, tensors: dict[str, Tensor], comm: Comm) -> None:
    """Each process writes its rows of sharded tensors; the first also what is not sharded."""
    mine = {}
    for name, tensor in tensors.items():
        if isinstance(tensor, DTensor):
            mine[f"rows/{name}"] = tensor.to_local().detach().cpu().contiguous()
        elif comm.main:
            mine[f"whole/{name}"] = tensor.detach().cpu().contiguous()
    if comm.main:
        folder.mkdir(parents=True, exist_ok=True)
    comm.barrier()
    with atomic_path(_path(folder, comm.rank)) as temporary:
        save_file(mine, temporary, metadata=_identity(state, comm.rank, comm.world))
    comm.barrier()


def shard_reader(folder: Path, state: TrainingState, world: int) -> tuple[set[str], Callable[[str], Tensor]]:
    """Names of the tensors in the shards of `world` processes, and how one of them is read in full.

    Raises:
        ValueError: A shard belongs to another process or checkpoint.
        SafetensorError: A shard is damaged.
        OSError: A shard is missing.
    """
    # safetensors declares no types for what it returns.
    files: list[Any] = [safe_open(_path(folder, rank), framework="pt") for rank in range(world)]
    for rank, file in enumerate(files):
        found, expected = file.metadata() or {}, _identity(state, rank, world)
        if found != expected:
            raise ValueError(f"{_path(folder, rank)} is the shard of {_words(found)}, not of {_words(expected)}")
    keys = set(files[0].keys())

    def read(name: str) -> Tensor:
        if f"whole/{name}" in keys:
            value: Tensor = files[0].get_tensor(f"whole/{name}")
            return value
        # Sharded by rows, in the order of ranks.
        return torch.cat([f.get_tensor(f"rows/{name}") for f in files])

    return {k.partition("/")[2] for k in keys}, read


def drop_older_shards(run_folder: Path, keep: str | None) -> None:
    """Remove the shards of other checkpoints, and nothing that is not ours."""
    for path in run_folder.iterdir():
        if FOLDER.fullmatch(path.name) and path.is_dir() and not path.is_symlink() and path.name != keep:
            shutil.rmtree(path)


def _path(folder: Path, rank: int) -> Path:
    return folder / f"rank-{rank}.safetensors"


def _identity(state: TrainingState, rank: int, world: int) -> dict[str, str]:
    return {"rank": str(rank), "world": str(world), "epoch": str(state.epoch), "step": str(state.step)}


def _words(identity: dict[str, str]) -> str:
    return ", ".join(f"{k} {v}" for k, v in sorted(identity.items())) or "nobody knows what"
