"""Daily internal variability: Gaussian fields on the sphere that remember the days before.

Invariant: at every cell and day each field has mean zero and variance one. Where its memory is the same everywhere, two
cells are correlated by the chord between them alone: neither the dateline nor a pole is a seam.

A grid whose longitudes are even has a covariance that is block-circulant in longitude: each zonal wave is drawn by
itself, with the factor of a (Y, Y) matrix, which is exact and fits in memory on any grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emukit.data.demo.planet import EARTH_RADIUS_KM, unit_vectors
from emukit.data.grid import Grid

Field = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Noise:
    """One field of noise.

    Attributes:
        lengths_km: Its covariance is the mean of exp(-d^2 / 2 L^2) over these lengths L, d the chord.
        memory: Correlation from one day to the next, a number or (Y, X), in [0, 1).
    """

    lengths_km: tuple[float, ...]
    memory: float | NDArray[np.float64]


class DailyWeather:
    """Draws all fields of noise together, a block of days at a time.

    z(t) = memory z(t - 1) + sqrt(1 - memory^2) e(t), with e white in time; the first day is drawn from the stationary
    distribution.

    Args:
        rng: The source of randomness; it is consumed day by day.
        grid: Where; its longitudes are evenly spaced all the way round.
        noises: F fields.
    """

    def __init__(self, rng: np.random.Generator, grid: Grid, noises: Sequence[Noise]) -> None:
        self._rng, self._grid = rng, grid
        known = {n.lengths_km: wave_factors(grid, n.lengths_km) for n in noises}
        self._factors = np.stack([known[n.lengths_km] for n in noises])
        memory = np.stack([np.broadcast_to(n.memory, grid.shape) for n in noises])
        self._keep, self._fresh = memory.astype(np.float32), np.sqrt(1 - memory**2).astype(np.float32)
        self._state: Field | None = None

    def draw(self, days: int) -> Field:
        """(F, days, Y, X) the fields of the next days."""
        white = self._rng.standard_normal((days, len(self._factors), *self._grid.shape), dtype=np.float32)
        spectrum = np.fft.rfft(white, axis=-1).astype(np.complex64).transpose(1, 3, 2, 0)
        # Real factors: the two halves of a complex number are two columns of one real product.
        columns = np.ascontiguousarray(spectrum).view(np.float32)
        coloured = np.ascontiguousarray(self._factors @ columns).view(np.complex64)
        fields = np.fft.irfft(coloured.transpose(3, 0, 2, 1), n=self._grid.shape[1], axis=-1).astype(np.float32)
        state = self._state
        for day in fields:
            if state is None:
                state = day.copy()
                continue
            state *= self._keep
            day *= self._fresh
            state += day
            day[:] = state
        self._state = state
        return fields.transpose(1, 0, 2, 3)


def wave_factors(grid: Grid, lengths_km: Sequence[float]) -> Field:
    """(K, Y, Y) for each zonal wave a factor L of its covariance, L L^T, on a grid's rows.

    Args:
        grid: Y rows, X columns; K = X // 2 + 1 waves.
        lengths_km: As in `Noise`.
    """
    points = unit_vectors(grid)
    factors = np.empty((len(grid.lon) // 2 + 1, len(grid.lat), len(grid.lat)))
    covariance = np.empty((len(grid.lat), len(grid.lat), len(grid.lon)))
    for row, place in enumerate(points[:, 0]):
        squared = np.maximum(2 - 2 * points @ place, 0) * EARTH_RADIUS_KM**2
        covariance[row] = np.mean([np.exp(-squared / (2 * length**2)) for length in lengths_km], axis=0)
    for wave, matrix in enumerate(np.moveaxis(np.fft.rfft(covariance, axis=-1).real, -1, 0)):
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        factors[wave] = vectors * np.sqrt(np.maximum(values, 0))
    return factors.astype(np.float32)
