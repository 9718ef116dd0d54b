"""The horizontal grid and its area weights.

Invariant: area means use cosine-of-latitude weights of the cell centres, as the competition's metric does; longitude
is a circle, so every grid that claims to be global is evenly spaced all the way round.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_SLAB = 120


@dataclass(frozen=True, eq=False)
class Grid:
    """Cell centres of a regular latitude-longitude grid.

    Attributes:
        lat: (Y,) degrees north, ascending.
        lon: (X,) degrees east, ascending, in [0, 360).
    """

    lat: NDArray[np.float64]
    lon: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int]:
        """(Y, X)."""
        return len(self.lat), len(self.lon)

    @property
    def weights(self) -> NDArray[np.float64]:
        """(Y, X) cosine-latitude weights that sum to one."""
        w = np.cos(np.deg2rad(self.lat))[:, None] * np.ones(len(self.lon))
        return np.asarray(w / w.sum(), np.float64)

    def mean(self, field: NDArray[np.floating]) -> NDArray[np.float64]:
        """Area mean over the last two axes, (..., Y, X) -> (...), in float64."""
        return weighted_mean(field, self.weights)

    def __eq__(self, other: object) -> bool:
        """Same cell centres, to a millionth of a degree."""
        if not isinstance(other, Grid):
            return NotImplemented
        if self.shape != other.shape:
            return False
        return bool(np.allclose(self.lat, other.lat, atol=1e-6) and np.allclose(self.lon, other.lon, atol=1e-6))

    def __hash__(self) -> int:
        return hash(self.shape)


def weighted_mean(field: NDArray[np.floating], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over the last two axes times (Y, X) weights, (..., Y, X) -> (...), in float64.

    A float64 copy of fields that fill the memory would double it: long series go ten years at a time.
    """
    if field.ndim > 2 and len(field) > _SLAB:
        parts = [weighted_mean(field[i : i + _SLAB], weights) for i in range(0, len(field), _SLAB)]
        return np.concatenate(parts)
    return np.asarray(np.einsum("...yx,yx->...", np.asarray(field, np.float64), weights))
