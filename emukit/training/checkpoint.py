"""What training needs to continue as if it had never stopped.

Invariant: `last.pt` is whole and holds, or names the shards that hold, everything the loop's future depends on; loading
it runs no code from the file. Tensors are kept by the network's parameter names and in full shape (shards by rows), so
a training continues with another number of processes, or another strategy, than it began with.

    last.pt                               state, random states and, unless sharded, all tensors
    last-EPOCH-STEP/rank-R.safetensors    with fsdp: each process's rows of every tensor, see `emukit.training.shards`
    best-EPOCH.safetensors                weights of the best validation score, see `emukit.training.best`
"""

from __future__ import annotations

import hashlib
import math
import pickle
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from emukit.config import describe
from emukit.errors import RunError, shortage
from emukit.files import atomic_path, check_regular
from emukit.parallel.comm import Comm
from emukit.parallel.distributed import fill
from emukit.training.best import check_best, drop_older_best, first_line
from emukit.training.engine import Engine
from emukit.training.shards import drop_older_shards, save_shard, shard_folder, shard_reader
from emukit.training.state import Count, TrainingState

LAST = "last.pt"
ADAM = ("step", "exp_avg", "exp_avg_sq")


class _Content(BaseModel):
    """What is in `last.pt`.

    Attributes:
        state: Where the loop stands.
        averaged: States of the weights in their average.
        scaler: Of fp16; empty otherwise.
        rng: State of torch's generator on the CPU, of every process.
        cuda_rng: Likewise on its GPU; empty on CPUs.
        tensors: Everything that training changes, by name, or
        shards: the name of the folder where that is, with
        digests: the digest of every process's file there.
        digest: Of all of the above; empty in checkpoints of earlier versions.
    """

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)

    state: TrainingState
    averaged: Count
    scaler: dict[str, float | int]
    rng: Annotated[list[Tensor], Field(min_length=1)]
    cuda_rng: list[Tensor]
    tensors: dict[str, Tensor] | None = None
    shards: str | None = None
    digests: list[str] = []
    digest: str = ""

    def check(self, engine: Engine[Any], steps_per_epoch: int) -> None:
        """Refuse what no checkpoint of this training can hold.

        Raises:
            ValueError: There is such a thing.
        """
        state = self.state
        state.check_within(engine.settings.epochs, steps_per_epoch)
        if self.averaged > state.epoch * steps_per_epoch + state.step:
            raise ValueError(f"an average of {self.averaged} states, more than there were steps")
        wrong = [r for r in (*self.rng, *self.cuda_rng) if r.dtype != torch.uint8 or r.ndim != 1]
        wrong += [r for r in self.rng if r.shape != torch.get_rng_state().shape]
        if wrong or len(self.cuda_rng) not in (0, len(self.rng)):
            raise ValueError("values that are not random states")
        if (self.tensors is None) == (self.shards is None) or self.shards not in (None, shard_folder(state)):
            raise ValueError(f"shards {self.shards!r}")
        if len(self.digests) != (0 if self.shards is None else len(self.rng)):
            raise ValueError(f"{len(self.digests)} shards of {len(self.rng)} processes")
        expected = engine.scaler.state_dict()
        if self.scaler.keys() != expected.keys():
            raise ValueError("the loss scale of another precision")
        if self.scaler and not (0 < self.scaler["scale"] < math.inf and self.scaler["_growth_tracker"] >= 0):
            raise ValueError(f"the loss scale {self.scaler['scale']}")


def save_checkpoint(folder: Path, state: TrainingState, engine: Engine[Any]) -> None:
    """Write `last.pt`, and shards where the network is sharded, atomically; every process must call it."""
    comm, tensors = engine.comm, _tensors(engine)
    content: dict[str, Any] = {
        "state": state.model_dump(),
        "averaged": engine.average.count,
        "scaler": engine.scaler.state_dict(),
        "rng": comm.gather_bytes(torch.get_rng_state()),
        "cuda_rng": comm.gather_bytes(torch.cuda.get_rng_state(comm.device)) if comm.device.type == "cuda" else [],
    }
    if engine.distributed.sharded:
        content["shards"] = name = shard_folder(state)
        content["digests"] = save_shard(folder / name, tensors, comm)
    else:
        content["tensors"] = tensors
    if comm.main:
        content["digest"] = _digest(content)
        with atomic_path(folder / LAST) as temporary:
            torch.save(content, temporary)
        drop_older_shards(folder, keep=content.get("shards"))
    comm.barrier()


def load_checkpoint(folder: Path, engine: Engine[Any], steps_per_epoch: int) -> TrainingState:
    """Restore weights, optimiser, average and random state from `last.pt`; what other checkpoints left is removed.

    Args:
        folder: The run folder.
        engine: What is restored.
        steps_per_epoch: Optimiser steps of the training to continue.

    Raises:
        RunError: It is damaged, or belongs to another network or training; or the best weights that it names are
            missing or damaged, which would otherwise show only when all is trained.
    """
    path = folder / LAST
    try:
        content = _read(path)
        content.check(engine, steps_per_epoch)
        state = content.state
        if content.tensors is None:
            names, read = shard_reader(folder / shard_folder(state), content.digests)
        else:
            names, read = set(content.tensors), content.tensors.__getitem__
        _restore(engine, names, read, averaged=content.averaged)
        engine.scaler.load_state_dict(content.scaler)
        _restore_random(content, engine.comm)
    except (RuntimeError, OSError, KeyError, TypeError, ValueError, SafetensorError) as e:
        raise shortage(e) or RunError(
            f"the checkpoint {path} cannot be used",
            found=first_line(e),
            expected="a complete checkpoint of this training",
            hint="remove the run folder and train again",
        ) from e
    if state.best_epoch:
        check_best(folder, state.best_epoch, engine.network, state.best_digest)
    if engine.comm.main:
        # What a kill between two steps of the last save left behind.
        drop_older_shards(folder, keep=content.shards)
        drop_older_best(folder, state.best_epoch)
    return state


def _read(path: Path) -> _Content:
    try:
        # torch writes a checksum for every part, and does not look at it when it reads.
        check_regular(path)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as parts:
                if damaged := parts.testzip():
                    raise ValueError(f"{damaged} in it is damaged")
        content = torch.load(path, map_location="cpu", weights_only=True)
        checked = _Content.model_validate(content)
        if checked.digest and _digest(content) != checked.digest:
            raise ValueError("other tensors or values than were written")
        return checked
    except ValidationError as e:
        raise ValueError("; ".join(describe(e))) from None
    except pickle.UnpicklingError:
        # torch's own message advises to load the file without this protection.
        raise ValueError("something else than tensors and plain values; nothing of it was run") from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, IndexError, AttributeError):
        # What the readers stumble over where bytes are missing or changed.
        raise ValueError("a file that is cut short or damaged") from None


def _digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of everything in a checkpoint: names, types and shapes, and the bytes of tensors."""
    digest = hashlib.sha256()

    def add(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(value, Mapping):
            for key in sorted(value):
                add(f"{name}/{key}", value[key])
        elif isinstance(value, list | tuple):
            for i, item in enumerate(value):
                add(f"{name}/{i}", item)
        else:
            digest.update(f"{name} {value!r}\n".encode())

    add("", {k: v for k, v in content.items() if k != "digest"})
    return digest.hexdigest()


def _tensors(engine: Engine[Any]) -> dict[str, Tensor]:
    """Everything that training changes, by name."""
    out = {f"network/{k}": v.detach() for k, v in engine.network.state_dict().items()}
    for name, parameter in engine.network.named_parameters():
        for key, value in engine.optimizer.state.get(parameter, {}).items():
            out[f"optimizer/{key}/{name}"] = value
    return out | {f"average/{k}": v for k, v in engine.average.tensors.items()}


def _restore(engine: Engine[Any], names: set[str], read: Callable[[str], Tensor], averaged: int) -> None:
    """Fill the engine's tensors with those of a checkpoint."""
    for name, parameter in engine.network.named_parameters():
        if f"optimizer/step/{name}" in names:
            moments = {key: torch.zeros_like(parameter) for key in ADAM[1:]}
            # AdamW keeps its step count on the CPU unless it is fused; it moves it to where it wants it.
            engine.optimizer.state[parameter] = {"step": torch.zeros(()), **moments}
    engine.average.count = averaged
    if averaged:
        engine.average.allocate()
    tensors = _tensors(engine)
    if set(tensors) != names:
        differing = sorted(set(tensors) ^ names)
        raise ValueError(f"other tensors, such as {differing[0]}")
    for name, tensor in tensors.items():
        values = read(name)
        if values.shape != tensor.shape or values.dtype != tensor.dtype:
            raise ValueError(
                f"{name} of shape {tuple(values.shape)} and {values.dtype}, "
                f"not of shape {tuple(tensor.shape)} and {tensor.dtype}"
            )
        fill(tensor, values)


def _restore_random(content: _Content, comm: Comm) -> None:
    cuda = comm.device.type == "cuda"
    if len(content.rng) == comm.world and bool(content.cuda_rng) == cuda:
        # Processes that share a globe draw alike, whichever processes shared one before.
        first = comm.data.rank * comm.domain.world
        torch.set_rng_state(content.rng[first])
        if cuda:
            torch.cuda.set_rng_state(content.cuda_rng[first], comm.device)
        return
    # Another number of processes, or devices of another kind: dropout cannot continue as before, but must not begin
    # again, and must differ between processes.
    state = content.state
    seed = int.from_bytes(bytes(content.rng[0][:8].tolist()), "little")
    torch.manual_seed((seed + 1_000_003 * state.epoch + 1009 * state.step + comm.data.rank) % 2**63)
