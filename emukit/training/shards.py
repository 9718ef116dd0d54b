"""The part of a checkpoint that each process writes for itself where the network is sharded.

Invariant: the files of a checkpoint are read as one only if they were written as one, and are as they were written:
`last.pt` holds the digest of each.

    last-EPOCH-STEP/rank-R.safetensors    a process's rows of every tensor; the first's also what is not sharded
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from emukit.files import atomic_path, inside, sha256
from emukit.parallel.comm import Comm
from emukit.parallel.distributed import is_sharded
from emukit.training.state import TrainingState

FOLDER = re.compile(r"last-\d{4,}-\d{6,}")


def shard_folder(state: TrainingState) -> str:
    """Name of the folder of a checkpoint's shards."""
    return f"last-{state.epoch:04d}-{state.step:06d}"


def save_shard(folder: Path, tensors: dict[str, Tensor], comm: Comm) -> list[str]:
    """Each process writes its rows of sharded tensors; the first also what is not sharded.

    Returns:
        The digest of every process's file, in the order of ranks.
    """
    mine = {}
    for name, tensor in tensors.items():
        if is_sharded(tensor):
            mine[f"rows/{name}"] = tensor.to_local().detach().cpu().contiguous()
        elif comm.main:
            mine[f"whole/{name}"] = tensor.detach().cpu().contiguous()
    if comm.main:
        folder.mkdir(parents=True, exist_ok=True)
    comm.barrier()
    with atomic_path(inside(folder.parent, folder.name, _path(folder, comm.rank).name)) as temporary:
        save_file(mine, temporary)
    digest = bytearray.fromhex(sha256(_path(folder, comm.rank)))
    return [bytes(d.tolist()).hex() for d in comm.gather_bytes(torch.frombuffer(digest, dtype=torch.uint8))]


def shard_reader(folder: Path, digests: Sequence[str]) -> tuple[set[str], Callable[[str], Tensor]]:
    """Names of the tensors in the shards of a checkpoint, and how one of them is read in full.

    Args:
        folder: Where the shards are.
        digests: What `save_shard` gave.

    Raises:
        ValueError: A shard is damaged, or belongs to another process or checkpoint.
        OSError: A shard is missing.
    """
    paths = [_path(folder, rank) for rank in range(len(digests))]
    for path, digest in zip(paths, digests, strict=True):
        if sha256(path) != digest:
            raise ValueError(f"{path} is damaged, or another checkpoint's")
    # safetensors declares no types for what it returns.
    files: list[Any] = [safe_open(path, framework="pt") for path in paths]
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
