"""Spreading one network over processes: copies of it (DDP) or shards of it (FSDP2).

Invariant: the network keeps its parameter names, so checkpoints and emulators do not depend on how it was trained.
Gradients come out as the sum over processes of what each computed.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Literal, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from emukit.parallel.comm import Comm

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

Strategy = Literal["ddp", "fsdp"]


class DistributedNetwork:
    """A network on its processes.

    Attributes:
        network: The network itself; its parameters are sharded with `fsdp`.
        comm: The processes.
        sharded: Whether its parameters are.
    """

    def __init__(self, network: nn.Module, comm: Comm, strategy: Strategy) -> None:
        """Wrap a network that is the same on every process, wherever it is now.

        A network to be sharded is best on the CPU: block by block it comes to the device, of each only a shard stays.
        """
        self.network = network
        self.comm = comm
        self.sharded = comm.world > 1 and strategy == "fsdp"
        self._call: nn.Module = network
        if comm.world == 1:
            network.to(comm.device)
            return
        if self.sharded:
            # Nearly a second to import, and of use to several processes alone.
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            # Our networks never change in place what a block returns, a view or not.
            warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
            mesh = init_device_mesh(comm.device.type, (comm.world,))
            # torch caches every mesh for good, and a mesh of recent versions holds its groups, by a name of its own.
            comm.on_close.callback(getattr(mesh, "_pg_registry", {}).clear)
            # Blocks are gathered one after another, so that never the whole network is on one device at once.
            blocks = getattr(network, "BLOCKS", ())
            for module in network.modules():
                if module is not network and blocks and isinstance(module, blocks):
                    fully_shard(module, mesh=mesh)
            fully_shard(network, mesh=mesh)
            return
        network.to(comm.device)
        self._call = DistributedDataParallel(
            network,
            device_ids=[comm.device.index] if comm.device.type == "cuda" else None,
            gradient_as_bucket_view=True,
        )

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's forward."""
        return self._call(*inputs)  # type: ignore[no-any-return]

    @contextmanager
    def accumulating(self, last: bool) -> Iterator[None]:
        """Around forward and backward of one of several batches of a step: only the last speaks with the others."""
        if self.sharded:
            sharded = cast("FSDPModule", self.network)
            sharded.set_requires_gradient_sync(last)
            sharded.set_is_last_backward(last)
            yield
            return
        quiet = isinstance(self._call, DistributedDataParallel) and not last
        with cast(DistributedDataParallel, self._call).no_sync() if quiet else nullcontext():
            yield

    def reshard(self) -> None:
        """Give gathered parameters back: FSDP2 keeps the outermost ones after a forward without a backward."""
        if self.sharded:
            from torch.distributed.fsdp import FSDPModule

            for module in self.network.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()

    def backward(self, loss: Tensor) -> None:
        """Gradients of a loss of which each process holds its own part's derivative."""
        # Both wrappers average over processes; the derivative of the whole is the sum. Processes that share a globe all
        # hold the loss of all its rows, and their sums add up the gradients of all of them: they count once.
        (loss * self.comm.data.world).backward()  # type: ignore[no-untyped-call]


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether a tensor is in shards on several processes; none is before torch's module of such tensors is imported."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """A tensor in full, gathered where it is sharded; every process must ask."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def fill(target: Tensor, values: Tensor) -> None:
    """Put full values into a tensor, each process its shard where it is sharded."""
    with torch.no_grad():
        if is_sharded(target):
            from torch.distributed.tensor import distribute_tensor

            full = values.to(target.device, target.dtype)
            target.copy_(distribute_tensor(full, target.device_mesh, target.placements, src_data_rank=None))
        else:
            target.copy_(values)
