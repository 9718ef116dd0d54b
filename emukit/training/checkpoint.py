"""What training needs to go on as if it had never stopped.

Invariant: `last.pt` is whole and holds, or names the shards that hold, everything the loop's future depends on; loading
it runs no code from the file. Tensors are kept by the network's parameter names and in full shape (shards by rows), so
a training goes on with another number of processes, or another strategy, than it began with.

    last.pt                          state, random states and, unless sharded, all tensors
    last-EPOCH-STEP/rank-R.safetensors    with fsdp: each process's rows of every tensor
    best-EPOCH.safetensors           weights of the best validation score
"""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from emukit.errors import RunError
from emukit.files import atomic_path
from emukit.parallel.comm import Comm
from emukit.parallel.spread import fill, whole
from emukit.training.engine import Engine

LAST = "last.pt"
ADAM = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class TrainingState:
    """Where the loop stands.

    Attributes:
        epoch: Epoch under way, from zero; equal to the number of finished ones.
        step: Steps done in it.
        best_score: Lowest validation score so far.
        best_epoch: The epoch, counted from one, after which it was reached.
        best_average: Whether averaged weights reached it.
        stale: Validations since.
        sums: Loss terms of the epoch under way, summed over its steps.
        stopped: Whether early stopping has ended the training.
        seconds: Time spent so far, over all sessions.
    """

    epoch: int = 0
    step: int = 0
    best_score: float = float("inf")
    best_epoch: int = 0
    best_average: bool = False
    stale: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    stopped: bool = False
    seconds: float = 0.0


def save_checkpoint(folder: Path, state: TrainingState, engine: Engine) -> None:
    """Write `last.pt`, and shards where the network is sharded, atomically; every process must call it."""
    comm, tensors = engine.comm, _tensors(engine)
    content: dict[str, Any] = {
        "state": asdict(state),
        "averaged": engine.average.count,
        "scaler": engine.scaler.state_dict(),
        "rng": comm.gather_bytes(torch.get_rng_state()),
        "cuda_rng": comm.gather_bytes(torch.cuda.get_rng_state(comm.device)) if comm.device.type == "cuda" else [],
    }
    if engine.spread.sharded:
        content["shards"] = name = f"last-{state.epoch:04d}-{state.step:06d}"
        content["world"] = comm.world
        _save_shard(folder / name, tensors, comm)
    else:
        content["tensors"] = tensors
    if comm.main:
        with atomic_path(folder / LAST) as temporary:
            torch.save(content, temporary)
        for path in folder.glob("last-*-*"):
            if path.name != content.get("shards"):
                shutil.rmtree(path)
    comm.barrier()


def load_checkpoint(folder: Path, engine: Engine) -> TrainingState:
    """Restore weights, optimiser, average and random state from `last.pt`.

    Raises:
        RunError: It is damaged, or belongs to another network.
    """
    path = folder / LAST
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        state = TrainingState(**content["state"])
        names, read = _reader(folder, content)
        _restore(engine, names, read, averaged=content["averaged"])
        engine.scaler.load_state_dict(content["scaler"])
        _restore_random(content, state, engine.comm)
    except (
        RuntimeError,
        OSError,
        KeyError,
        TypeError,
        ValueError,
        EOFError,
        SafetensorError,
        pickle.UnpicklingError,
    ) as e:
        raise RunError(
            f"the checkpoint {path} cannot be used",
            found=_first_line(e),
            expected="a whole checkpoint of this very network",
            hint="remove the run folder and train again",
        ) from e
    return state


def best_path(folder: Path, epoch: int) -> Path:
    """Where the weights of the best epoch are. Its name holds the epoch: checkpoint and weights cannot disagree."""
    return folder / f"best-{epoch:04d}.safetensors"


def save_best(folder: Path, epoch: int, network: nn.Module, comm: Comm) -> None:
    """Write the weights of the best validation score so far, atomically; every process must call it."""
    weights = {}
    for name, tensor in network.state_dict().items():
        full = whole(tensor.detach())
        if comm.main:
            weights[name] = full.cpu().contiguous()
    if comm.main:
        with atomic_path(best_path(folder, epoch)) as temporary:
            save_file(weights, temporary)


def drop_older_best(folder: Path, epoch: int) -> None:
    """Remove the weights of other epochs; called once the checkpoint that names this one is written."""
    for path in folder.glob("best-*.safetensors"):
        if path != best_path(folder, epoch):
            path.unlink()


def load_best(folder: Path, epoch: int, network: nn.Module) -> None:
    """Put the best weights into a network, sharded or not.

    Raises:
        RunError: They are missing or damaged.
    """
    path = best_path(folder, epoch)
    try:
        weights = load_file(path)
        for name, tensor in network.state_dict().items():
            fill(tensor, weights[name])
    except (OSError, RuntimeError, KeyError, SafetensorError) as e:
        raise RunError(
            f"the best weights {path} cannot be used",
            found=_first_line(e),
            hint="remove the run folder and train again",
        ) from e


def _tensors(engine: Engine) -> dict[str, Tensor]:
    """Everything that training changes, by name."""
    out = {f"network/{k}": v.detach() for k, v in engine.network.state_dict().items()}
    for name, parameter in engine.network.named_parameters():
        for key, value in engine.optimizer.state.get(parameter, {}).items():
            out[f"optimizer/{key}/{name}"] = value
    return out | {f"average/{k}": v for k, v in engine.average.tensors.items()}


def _restore(engine: Engine, names: set[str], read: Callable[[str], Tensor], averaged: int) -> None:
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
        if values.shape != tensor.shape:
            raise ValueError(f"{name} of shape {tuple(values.shape)}, not {tuple(tensor.shape)}")
        fill(tensor, values)


def _save_shard(folder: Path, tensors: dict[str, Tensor], comm: Comm) -> None:
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
    with atomic_path(folder / f"rank-{comm.rank}.safetensors") as temporary:
        save_file(mine, temporary)
    comm.barrier()


def _reader(folder: Path, content: dict[str, Any]) -> tuple[set[str], Callable[[str], Tensor]]:
    """Names of a checkpoint's tensors, and how one of them is read in full."""
    if "shards" not in content:
        tensors: dict[str, Tensor] = content["tensors"]
        return set(tensors), tensors.__getitem__
    paths = [folder / content["shards"] / f"rank-{r}.safetensors" for r in range(content["world"])]
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


def _restore_random(content: dict[str, Any], state: TrainingState, comm: Comm) -> None:
    cuda = comm.device.type == "cuda"
    if len(content["rng"]) == comm.world and bool(content["cuda_rng"]) == cuda:
        torch.set_rng_state(content["rng"][comm.rank])
        if cuda:
            torch.cuda.set_rng_state(content["cuda_rng"][comm.rank], comm.device)
        return
    # Another number of processes, or devices of another kind: dropout cannot go on as before, but must not begin again,
    # and must differ between processes.
    seed = int.from_bytes(bytes(content["rng"][0][:8].tolist()), "little")
    torch.manual_seed((seed + 1_000_003 * state.epoch + 1009 * state.step + comm.rank) % 2**63)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
