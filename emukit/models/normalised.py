"""Convolutions on a flat earth that batch normalisation follows, as the published networks have them.

Invariant: such a convolution's bias is there, and stays what it was drawn as. Batch normalisation takes away whatever
it adds, so its gradient is zero; computed, it is rounding noise, which AdamW would scale up to steps of the learning
rate. The running means would follow it, and two machines, or two numbers of processes, validate different networks.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from emukit.sphere import OnSphere


class NormalisedConv2d(nn.Conv2d, OnSphere):
    """`nn.Conv2d` before `nn.BatchNorm2d`: while training, the gradient of the bias is zero, not nearly zero."""

    def forward(self, fields: Tensor) -> Tensor:
        """(B, C, Y, X) -> (B, out, Y', X')."""
        return self.sphere.convolve(fields, self, _without_gradient(self.bias, self.training))


class NormalisedConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`, unpadded, before a normalised convolution without edges, which takes its bias away."""

    def forward(self, fields: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, Y, X) -> (B, out, Y', X')."""
        bias = _without_gradient(self.bias, self.training)
        return F.conv_transpose2d(fields, self.weight, bias, self.stride)


def _without_gradient(bias: Tensor | None, training: bool) -> Tensor | None:
    # Not detached alone: a parameter without any gradient stops processes that wait for all of them.
    return bias.detach() + 0.0 * bias if training and bias is not None else bias


def normalised_convolution(in_channels: int, out_channels: int, *, kernel: int = 3, stride: int = 1) -> list[nn.Module]:
    """A convolution with zeros beyond the edges, and its batch normalisation.

    Args:
        in_channels: C.
        out_channels: Channels of the result.
        kernel: Odd width of the stencil.
        stride: Cells from one stencil to the next; of an odd number of cells 2 keeps the larger half.
    """
    conv = NormalisedConv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2)
    return [conv, nn.BatchNorm2d(out_channels)]
