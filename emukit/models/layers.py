"""Layers that know the Earth is round, and the recurrence that segments need.

Invariant: every spatial layer of a globe commutes with a roll in longitude (by the stride, where it has one); there is
no seam at the dateline and no wall at the poles. Fields are (..., Y, X), rows from one pole to the other.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emukit.sphere import OnSphere

Poles = Literal["reflect", "replicate"]


class GlobeConv2d(OnSphere):
    """Convolution on the sphere, (B, C, Y, X) -> (B, out, Y, X)."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int = 3, poles: Poles = "reflect") -> None:
        """Fresh weights.

        Args:
            in_channels: C.
            out_channels: Channels of the result.
            kernel: Odd width of the stencil.
            poles: What lies beyond the last row, see `emukit.sphere.Edges`.
        """
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, not {kernel}")
        self.conv = nn.Conv2d(in_channels, out_channels, kernel)
        self.poles: Poles = poles

    def forward(self, fields: Tensor) -> Tensor:
        """(B, C, Y, X) -> (B, out, Y, X)."""
        return self.conv(self.sphere.pad(fields, self.conv.kernel_size[0] // 2, self.poles))  # type: ignore[no-any-return]


class SqueezeExcitation(OnSphere):
    """Scale each channel by a number drawn from all channels' means (Hu et al. 2018, arXiv:1709.01507)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        narrow = max(1, channels // reduction)
        self.squeeze = nn.Linear(channels, narrow)
        self.excite = nn.Linear(narrow, channels)

    def forward(self, fields: Tensor) -> Tensor:
        """(B, C, Y, X) -> the same shape."""
        scale = torch.sigmoid(self.excite(F.relu(self.squeeze(self.sphere.cell_mean(fields)))))
        return fields * scale[..., None, None]


class WindowGRU(nn.Module):
    """The last state, or every state, of a GRU run over every window of a sequence of frames.

    The same function as `nn.GRU` on each window of H frames, but the first layer's input projection, by far the
    largest product where features are many, is computed once per frame and not once per window and frame.
    """

    def __init__(self, features: int, hidden: int, history: int, *, layers: int = 1, dropout: float = 0.0) -> None:
        """Fresh weights, drawn as `nn.GRU` draws them.

        Args:
            features: Width of a frame's feature vector.
            hidden: Width of the state.
            history: H, frames of a window.
            layers: Stacked recurrences.
            dropout: Between layers.
        """
        super().__init__()
        self.history = history
        self.dropout = dropout
        self.input = nn.Linear(features, 3 * hidden)
        self.recurrent = nn.Linear(hidden, 3 * hidden)
        for parameter in (*self.input.parameters(), *self.recurrent.parameters()):
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)
        self.upper: nn.GRU | None = None
        if layers > 1:
            # nn.GRU's own dropout acts between its layers only; the one below it is applied here.
            inner = dropout if layers > 2 else 0.0
            self.upper = nn.GRU(hidden, hidden, layers - 1, batch_first=True, dropout=inner)

    def forward(self, frames: Tensor, every: bool = False) -> Tensor:
        """Run over every window.

        Args:
            frames: (S, L+H-1, features).
            every: Whether the states after every frame of a window are wanted, not the last alone.

        Returns:
            (S, L, hidden), or (S, L, H, hidden) of every state.
        """
        segments, months = frames.shape[0], frames.shape[1] - self.history + 1
        projected = self.input(frames)
        hidden = self.recurrent.in_features
        state = frames.new_zeros(segments * months, hidden)
        states = []
        for step in range(self.history):
            given = projected[:, step : step + months].reshape(segments * months, -1)
            state = self._step(given, state)
            states.append(state)
        if self.upper is None:
            out = torch.stack(states, 1) if every else state
        else:
            sequence = F.dropout(torch.stack(states, 1), self.dropout, self.training)
            upper = self.upper(sequence)[0]
            out = upper if every else upper[:, -1]
        return out.reshape(segments, months, *out.shape[1:])

    def _step(self, given: Tensor, state: Tensor) -> Tensor:
        """One update (Cho et al. 2014, arXiv:1406.1078; gates in the order reset, update, new, as in PyTorch)."""
        from_input, from_state = given.chunk(3, 1), self.recurrent(state).chunk(3, 1)
        reset = torch.sigmoid(from_input[0] + from_state[0])
        update = torch.sigmoid(from_input[1] + from_state[1])
        new = torch.tanh(from_input[2] + reset * from_state[2])
        return new + update * (state - new)


class AttentionPooling(nn.Module):
    """Mean of vectors weighted by a learned score of each, (..., H, features) -> (..., features).

    The simplest form of Bahdanau et al. 2015 (arXiv:1409.0473): the score of a vector depends on that vector alone.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.inner = nn.Linear(features, features)
        self.score = nn.Linear(features, 1, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Weights sum to one over H."""
        weights = torch.softmax(self.score(torch.tanh(self.inner(vectors))), -2)
        return (weights * vectors).sum(-2)
