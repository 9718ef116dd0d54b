"""What networks are built of: layers that know the Earth is round, recurrences, levels of noise, and checks of sizes.

Invariant: every spatial layer of a globe commutes with a roll in longitude (by the stride, where it has one); there is
no seam at the dateline and no wall at the poles. Fields are (..., Y, X), rows from one pole to the other. A check of a
size costs nothing, however large the number that is checked.

The published networks have convolutions on a flat earth that batch normalisation follows. The bias of such a
convolution stays what it was drawn as: batch normalisation takes away whatever it adds, so its gradient is zero.
Computed, it is rounding noise, which AdamW would scale up to steps of the learning rate. The running means would follow
it, and two machines, or two numbers of processes, would validate different networks.

Networks that are given a noisy field see, for a target month, the frames of its own window and its own noisy field, and
nothing else. Without a noisy field they are asked with zeros at level zero, so that regression and the CRPS can train
them too.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emukit.sphere import OnSphere

Poles = Literal["reflect", "replicate"]
# Beyond it a network is a mistake, and takes minutes to be built even without storage.
MOST_BLOCKS = 200
# Wave numbers of a level, from 1 to this one: times run from 0 to 1, a fourth of the logarithm of a noise from -2 to 2.
HIGHEST = 64.0
WAVES = 16


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


def check_sizes(least: int, most: int | None = None, /, **sizes: int) -> None:
    """Refuse the first size that is out of range.

    Args:
        least: Smallest value allowed.
        most: Largest one; None for no limit.
        sizes: Options by name.

    Raises:
        ValueError: Names the option and its value.
    """
    for name, value in sizes.items():
        if value < least or (most is not None and value > most):
            wanted = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ValueError(f"{name} must be {wanted}, not {value}")


def check_halvings(grid: tuple[int, int], times: int) -> None:
    """Refuse more halvings of a grid than leave it two cells each way before the last.

    Raises:
        ValueError: A halving would find a side of a single cell.
    """
    if times > (min(grid) - 1).bit_length():
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} cells cannot be halved {times} times")


class LevelEmbedding(nn.Module):
    """A number to features, (B,) -> (B, features)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2 * WAVES, features), nn.SiLU(), nn.Linear(features, features))

    def forward(self, level: Tensor) -> Tensor:
        """Waves of the level, mixed."""
        waves = HIGHEST ** torch.linspace(0, 1, WAVES, device=level.device, dtype=level.dtype)
        angle = level[:, None] * waves
        return self.layers(torch.cat((angle.cos(), angle.sin()), 1))  # type: ignore[no-any-return]


def stacked_windows(frames: Tensor, history: int) -> Tensor:
    """The frames of each window as channels, the oldest first, (S, L+H-1, C, Y, X) -> (S L, H C, Y, X)."""
    windows = frames.unfold(1, history, 1).movedim(-1, 2)
    return windows.flatten(2, 3).flatten(0, 1)


def asked(
    frames: Tensor, history: int, variables: int, noisy: Tensor | None, level: Tensor | None
) -> tuple[Tensor, ...]:
    """What a network computes with, target months one by one.

    Args:
        frames: (S, L+H-1, C, Y, X).
        history: H.
        variables: V.
        noisy: (S, L, V, Y, X); None for zeros.
        level: (S, L); None for zeros.

    Returns:
        (S L, H C, Y, X) windows, (S L, V, Y, X) noisy fields, and (S L,) levels.
    """
    windows = stacked_windows(frames, history)
    shape = (len(windows), variables, *windows.shape[-2:])
    fields = windows.new_zeros(shape) if noisy is None else noisy.reshape(shape).to(windows.dtype)
    levels = windows.new_zeros(len(windows)) if level is None else level.reshape(-1).to(windows.dtype)
    return windows, fields, levels


# Scales the initial weights of heads that predict what noisy fields or regressions leave. Unscaled they add noise that
# training has to remove first: in dit a third of the variance of the targets, in denoising-unet 7 %. If targets are
# hardly predictable, training ends before that. With weights of zero all realisations would begin equal, and no
# gradient of the CRPS would drive them apart.
FAINT = 0.1


def faint(heads: nn.ModuleList) -> nn.ModuleList:
    """Heads with their fresh weights made small, in place, so that an answer begins close to zero."""
    with torch.no_grad():
        for weights in heads.parameters():
            weights.mul_(FAINT)
    return heads


def modulated(fields: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer normalisation without weights of its own, then scaled and shifted, (B, N, D) and (B, D)."""
    return F.layer_norm(fields, fields.shape[-1:]) * (1 + scale[:, None]) + shift[:, None]
