"""Monthly insolation at the top of the atmosphere, from the orbit.

Invariant: it depends on latitude and calendar month alone: the orbit is today's in every year and scenario.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
"""A year of 365 days, as in the competition's noleap calendar."""

# Total solar irradiance of the CMIP6 forcing, mean of 1850-1873 (Matthes et al. 2017).
_SOLAR_CONSTANT = 1360.75
# Present orbit (Berger 1978); the longitude is that of perihelion from the moving vernal equinox, plus 180 degrees.
_ECCENTRICITY = 0.0167
_OBLIQUITY = np.deg2rad(23.44)
_PERIHELION = np.deg2rad(102.9 + 180.0)
_EQUINOX_DAY = 79.5


def daily_insolation(lat: NDArray[np.float64], day: NDArray[np.float64]) -> NDArray[np.float64]:
    """Daily mean insolation on a horizontal surface, Berger (1978), J. Atmos. Sci. 35, 2362.

    Q = S/pi (a/r)^2 (h sin(lat) sin(dec) + cos(lat) cos(dec) sin(h)), with h the hour angle of sunset.

    Args:
        lat: (Y,) degrees north.
        day: (D,) days since 1 January 00:00 of a 365-day year.

    Returns:
        (D, Y) W m-2.
    """
    e = _ECCENTRICITY
    beta = np.sqrt(1 - e**2)

    # Mean longitude at the equinox, then uniform in time, then back to the true longitude: the equation of centre.
    mean0 = 2 * (
        (e / 2 + e**3 / 8) * (1 + beta) * np.sin(_PERIHELION) - e**2 / 4 * (0.5 + beta) * np.sin(2 * _PERIHELION)
    )
    mean = mean0 + (day - _EQUINOX_DAY) * 2 * np.pi / 365
    anomaly = mean - _PERIHELION
    longitude = mean + (2 * e - e**3 / 4) * np.sin(anomaly) + 5 / 4 * e**2 * np.sin(2 * anomaly)

    inverse_distance = (1 + e * np.cos(longitude - _PERIHELION)) / (1 - e**2)
    declination = np.arcsin(np.sin(_OBLIQUITY) * np.sin(longitude))[:, None]
    phi = np.deg2rad(lat)[None, :]
    hour = np.arccos(np.clip(-np.tan(phi) * np.tan(declination), -1, 1))
    flux = hour * np.sin(phi) * np.sin(declination) + np.cos(phi) * np.cos(declination) * np.sin(hour)
    return np.asarray(_SOLAR_CONSTANT / np.pi * inverse_distance[:, None] ** 2 * flux, np.float64)


def monthly_insolation(lat: NDArray[np.float64]) -> NDArray[np.float64]:
    """Month means of cell means, (12, Y) W m-2.

    A cell's mean is that of four rows inside it: the polar night has an edge that one row in the middle would misplace.

    Args:
        lat: (Y,) degrees north of evenly spaced cell centres.
    """
    step = lat[1] - lat[0]
    rows = (lat[:, None] + step * (np.arange(4) - 1.5) / 4).ravel()
    # The tangent of a latitude that rounding puts beyond the pole has the wrong sign.
    rows = np.clip(rows, -89.999, 89.999)
    days = np.arange(365, dtype=np.float64) + 0.5
    daily = daily_insolation(rows, days).reshape(365, len(lat), 4).mean(2)
    edges = np.concatenate([[0], np.cumsum(MONTH_DAYS)])
    return np.stack([daily[a:b].mean(0) for a, b in pairwise(edges)])
