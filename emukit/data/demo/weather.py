"""Internal variability: random fields that are smooth on the sphere and remember the month before.

Invariant: at every cell and month the noise is Gaussian with mean zero and variance one, exactly, so that what it
modulates keeps its expected value; longitude is a circle, so the dateline is not a seam.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from emukit.data.demo.planet import EARTH_RADIUS_KM
from emukit.data.grid import Grid


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
