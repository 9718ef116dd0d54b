"""What training needs to continue as if it had never stopped.

Invariant: `last.pt` is whole and holds, or names the shards that hold, everything the loop's future depends on; loading
it runs no code from the file. Tensors are kept by the network's parameter names and in full shape (shards by rows), so
a training continues with another number of processes, or another strategy, than it began with. The files of a
checkpoint are read as one only if they were written as one, and are as they were written: `last.pt` holds the digest of
each. A state that was read is one that the loop could have been in; what it does next need check nothing.

    last.pt                               state, random states and, unless sharded, all tensors
    last-EPOCH-STEP/rank-R.safetensors    with fsdp: a process's rows of every tensor; of the first, all else
    best-EPOCH.safetensors                weights of the best validation score

The weights of the best score are removed only when a checkpoint that names others is written: checkpoint and weights
cannot disagree.
"""

from __future__ import annotations

import hashlib
import math
import pickle
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from emukit.config import describe
from emukit.errors import RunError, shortage
from emukit.files import atomic_path, check_regular, inside, parse_json, sha256
from emukit.parallel.comm import Comm
from emukit.parallel.distributed import fill, is_sharded, whole
from emukit.training.engine import Engine

LAST = "last.pt"
ADAM = ("step", "exp_avg", "exp_avg_sq")
FOLDER = re.compile(r"last-\d{4,}-\d{6,}")
Count = Annotated[int, Field(ge=0)]
BEST = re.compile(r"best-\d{4,}\.safetensors")


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


class TrainingState(BaseModel):
    """Where the loop stands.

    Attributes:
        epoch: Epoch under way, from zero; equal to the number of finished ones.
        step: Steps done in it.
        best_score: The best validation score so far; infinite before there is one.
        best_epoch: The epoch, counted from one, after which it was reached.
        best_average: Whether averaged weights reached it.
        best_digest: SHA-256 of their file, on the process that wrote it.
        stale: Validations since.
        halvings: How often the learning rate was halved on a plateau.
        sums: Loss terms of the epoch under way, summed over its steps.
        stopped: Whether early stopping has ended the training.
        seconds: Time spent so far, over all sessions.
        log: The lines of the finished epochs in `metrics.jsonl`; None in checkpoints of earlier versions.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    epoch: Count = 0
    step: Count = 0
    best_score: float = math.inf
    best_epoch: Count = 0
    best_average: bool = False
    best_digest: str = ""
    stale: Count = 0
    halvings: Count = 0
    sums: dict[str, FiniteFloat] = Field(default_factory=dict)
    stopped: bool = False
    seconds: FiniteFloat = Field(0.0, ge=0)
    log: list[str] | None = None

    def check_within(self, epochs: int, steps_per_epoch: int) -> None:
        """Refuse a state that a training of this length never comes to.

        Raises:
            ValueError: It is beyond the end, of an epoch or of the training.
        """
        if self.epoch > epochs or self.step > (steps_per_epoch if self.epoch < epochs else 0):
            raise ValueError(
                f"epoch {self.epoch}, step {self.step} of a training of {epochs} epochs of {steps_per_epoch} steps"
            )

    @model_validator(mode="after")
    def _could_be(self) -> Self:
        if max(self.best_epoch, self.stale) > self.epoch:
            raise ValueError(f"best epoch {self.best_epoch} and {self.stale} validations since, in epoch {self.epoch}")
        if self.halvings > self.epoch:
            raise ValueError(f"a learning rate that was halved {self.halvings} times, in epoch {self.epoch}")
        if math.isfinite(self.best_score) != (self.best_epoch > 0):
            raise ValueError(f"best score {self.best_score} in epoch {self.best_epoch}")
        if bool(self.best_digest) != (self.best_epoch > 0):
            raise ValueError(f"a digest {self.best_digest!r} of the weights of epoch {self.best_epoch}")
        if bool(self.sums) != (self.step > 0):
            raise ValueError(f"sums of {len(self.sums)} terms after {self.step} steps")
        if self.log is not None and (
            len(self.log) != self.epoch or any(_epoch(line) != epoch for epoch, line in enumerate(self.log, 1))
        ):
            raise ValueError(f"a log of other epochs than 1 to {self.epoch}")
        return self


def _epoch(line: str) -> object:
    value = parse_json(line)
    return value.get("epoch") if isinstance(value, dict) else None


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
