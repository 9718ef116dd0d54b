"""Batch normalisation over the batches of all processes together.

Invariant: on several processes the statistics are those of the whole batch, as one process would compute them.
PyTorch's own `SyncBatchNorm` does this on accelerators only; this one does on any device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from emukit.parallel.comm import Comm, SumBoth


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
