"""What networks share that are given a noisy field and the level of its noise next to the frames.

Invariant: a target month sees the frames of its own window and its own noisy field, and nothing else. Without a noisy
field the network is asked with zeros at level zero, so that regression and the CRPS can train it too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Wave numbers of a level, from 1 to this one: times run from 0 to 1, a fourth of the logarithm of a noise from -2 to 2.
HIGHEST = 64.0
WAVES = 16


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


def modulated(fields: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Layer normalisation without weights of its own, then scaled and shifted, (B, N, D) and (B, D)."""
    return F.layer_norm(fields, fields.shape[-1:]) * (1 + scale[:, None]) + shift[:, None]
