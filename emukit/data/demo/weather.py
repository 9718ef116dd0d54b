"""Internal variability of the demo: Gaussian fields on the sphere that remember the month, or the days, before.

Invariant: at every cell and step the noise is Gaussian with mean zero and variance one, exactly, so that what it
modulates keeps its expected value. Longitude is a circle, so the dateline is not a seam. Of days whose memory is the
same everywhere, two cells are correlated by the chord between them alone, and a pole is no seam either.

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


def weather(
    rng: np.random.Generator,
    months: int,
    grid: Grid,
    memory: NDArray[np.float64],
    lat_km: float,
    lon_km: float,
) -> NDArray[np.float32]:
    """A stationary first-order autoregressive field with spatial correlation.

    z(t) = memory z(t - 1) + sqrt(1 - memory^2) e(t), with e smoothed white noise, correlated like
    exp(-d^2 / 2 length^2) north to south and, on the circle, west to east.

    Args:
        rng: The source of randomness; it is consumed month by month.
        months: T.
        grid: Where.
        memory: (Y, X) correlation from one month to the next, in [0, 1).
        lat_km: Correlation length along meridians.
        lon_km: Correlation length along parallels.

    Returns:
        (T, Y, X) float32.
    """
    white = rng.standard_normal((months, *grid.shape), dtype=np.float32)
    innovation = _smooth_lon(_smooth_lat(white, grid, lat_km), grid, lon_km)
    persistence, amplitude = memory.astype(np.float32), np.sqrt(1 - memory**2).astype(np.float32)
    # The first month is drawn from the stationary distribution: it is smoothed noise as it stands.
    for t in range(1, months):
        innovation[t] = persistence * innovation[t - 1] + amplitude * innovation[t]
    return innovation


def _smooth_lat(white: NDArray[np.float32], grid: Grid, length_km: float) -> NDArray[np.float32]:
    distance = np.deg2rad(grid.lat[:, None] - grid.lat[None, :]) * EARTH_RADIUS_KM / length_km
    # A kernel of width L / sqrt(2) gives white noise a correlation of width L; unit rows keep the variance at one.
    kernel = np.exp(-(distance**2))
    kernel[kernel < 1e-4] = 0
    kernel /= np.sqrt((kernel**2).sum(1, keepdims=True))
    out = np.zeros_like(white)
    # Row by row and not as a matrix product: its order of summation would depend on the number of threads.
    for j, row in enumerate(kernel.astype(np.float32)):
        for i in np.flatnonzero(row):
            out[:, j] += row[i] * white[:, i]
    return out


def _smooth_lon(field: NDArray[np.float32], grid: Grid, length_km: float) -> NDArray[np.float32]:
    cells = len(grid.lon)
    # Near the poles the same distance is many degrees: at most one radian, or a whole ring would become one number.
    angle = np.minimum(length_km / (EARTH_RADIUS_KM * np.cos(np.deg2rad(grid.lat))), 1.0)
    wave = np.arange(cells // 2 + 1)
    response = np.exp(-((angle[:, None] * wave) ** 2) / 4)
    # Parseval: every wave but the first and, of an even number, the last stands for two.
    twice = np.where((wave == 0) | (2 * wave == cells), 1.0, 2.0)
    response *= np.sqrt(cells / (twice * response**2).sum(1, keepdims=True))
    spectrum = np.fft.rfft(field, axis=-1)
    spectrum *= response
    return np.fft.irfft(spectrum, n=cells, axis=-1).astype(np.float32)


@dataclass(frozen=True, eq=False)
class NoiseField:
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

    def __init__(self, rng: np.random.Generator, grid: Grid, noises: Sequence[NoiseField]) -> None:
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
        lengths_km: As in `NoiseField`.
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
