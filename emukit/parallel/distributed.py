"""Spreading one network over processes: copies of it (DDP) or shards of it (FSDP2), and batch norms over all of them.

Invariant: the network keeps its parameter names, so checkpoints and emulators do not depend on how it was trained.
Gradients come out as the sum over processes of what each computed, and statistics of a batch are those of the whole
batch. PyTorch's own `SyncBatchNorm` does this on accelerators only; `GlobalBatchNorm2d` does on any device.
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

from emukit.parallel.comm import Comm, SumBoth

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


class GlobalBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose statistics are over all processes; parameters and buffers have the same names.

    Attributes:
        copies: Processes that hold the same batch, where it was too short to be dealt out.
    """

    copies = 1

    def forward(self, fields: Tensor) -> Tensor:
        """(B, C, Y, X) -> the same shape."""
        if not self.training or not self.track_running_stats:
            return super().forward(fields)
        count = fields.numel() // fields.shape[1]
        # At least in float32 also where the fields are half as precise: differences from the mean need it.
        wide = fields.to(torch.promote_types(fields.dtype, torch.float32))
        variance, mean = (v.double() for v in torch.var_mean(wide, (0, 2, 3), correction=0))
        # One reduction: sums, sums of squares and the count, in float64 because the variance is their difference.
        local = torch.cat((count * mean, count * (variance + mean.square()), mean.new_tensor([count])))
        summed: Tensor = SumBoth.apply(local, None)  # type: ignore[no-untyped-call]
        channels = fields.shape[1]
        total = summed[-1].detach()
        mean = summed[:channels] / total
        variance = (summed[channels:-1] / total - mean.square()).clamp_min(0)
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            momentum = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
            independent = total / self.copies
            unbiased = variance * independent / (independent - 1)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum)
        scale = torch.rsqrt(variance + self.eps).to(wide.dtype)[:, None, None]
        normal = (wide - mean.to(wide.dtype)[:, None, None]) * scale
        return torch.addcmul(self.bias[:, None, None], normal, self.weight[:, None, None]).to(fields.dtype)


def synchronise(network: nn.Module, comm: Comm) -> bool:
    """Replace every `nn.BatchNorm2d` in place, keeping its parameters, where there are several processes.

    Returns:
        Whether the network has any batch normalisation.
    """
    found = False
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if not isinstance(child, nn.BatchNorm2d):
                continue
            found = True
            if comm.world == 1:
                continue
            new = GlobalBatchNorm2d(child.num_features, child.eps, child.momentum, device="meta")
            new.weight, new.bias = child.weight, child.bias
            new.running_mean, new.running_var = child.running_mean, child.running_var
            new.num_batches_tracked = child.num_batches_tracked
            new.train(child.training)
            setattr(module, name, new)
    return found


@contextmanager
def replicated(network: nn.Module, copies: int) -> Iterator[None]:
    """Inside, every process computes the same batch: its values count once in unbiased variances."""
    layers = [m for m in network.modules() if isinstance(m, GlobalBatchNorm2d)]
    for layer in layers:
        layer.copies = copies
    try:
        yield
    finally:
        for layer in layers:
            layer.copies = 1
