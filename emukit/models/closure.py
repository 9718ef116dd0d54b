"""A learned closure: what a core leaves out, said of every column from that column alone, and held through some steps.

Invariant: a column's tendencies are a function of its own features. Fresh, they are zero: with an untrained closure a
core is itself, bit for bit. The last layer has no bias, so that nothing is added where the network sees nothing.

As in NeuralGCM (Kochkov et al. 2024, doi:10.1038/s41586-024-07744-y): residual blocks on columns, outputs scaled to
what physics adds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ColumnClosure(nn.Module):
    """Features of columns to tendencies, (..., features) -> (..., outputs).

    Attributes:
        calls: How often it was asked.
    """

    scales: Tensor

    def __init__(self, features: int, scales: Sequence[float], *, hidden: int, blocks: int) -> None:
        """Fresh weights; the last layer is zero.

        Args:
            features: Numbers of a column.
            scales: (outputs,) what one unit of the network is of each output.
            hidden: Width.
            blocks: Residual blocks, each of two layers.
        """
        super().__init__()
        self.encode = nn.Linear(features, hidden)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, hidden)) for _ in range(blocks)
        )
        self.decode = nn.Linear(hidden, len(scales), bias=False)
        nn.init.zeros_(self.decode.weight)
        self.register_buffer("scales", torch.tensor(scales, dtype=torch.float32), persistent=False)
        self.calls = 0

    def forward(self, columns: Tensor) -> Tensor:
        """(..., features) -> (..., outputs)."""
        self.calls += 1
        hidden = self.encode(columns)
        for block in self.blocks:
            hidden = hidden + block(F.gelu(hidden))
        out: Tensor = self.decode(F.gelu(hidden)) * self.scales
        return out
