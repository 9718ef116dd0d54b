"""The demo's made-up planet: its grid, continents and mountains, and the Earth's insolation.

Invariant: land and height are functions of the place and the seed, not of the grid: a finer grid shows the same planet.
Insolation depends on latitude and calendar month alone: the orbit is today's in every year and scenario.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.errors import EmukitError

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


Array = NDArray[np.float64]

EARTH_RADIUS_KM = 6371.0

# Land is 29 % of the Earth's surface.
_LAND_SHARE = 0.29
# Made up, by eye: continents of some 15-25 degrees, each of overlapping caps; coasts about 3 degrees wide.
_CONTINENTS = 7
_CAPS = 7
_COAST = 0.05
_POLAR_CAP_RADIUS_KM = 2300.0
_POLAR_CAP_HEIGHT_M = 2600.0


def target_grid(lat_cells: int, lon_cells: int) -> Grid:
    """The cells of tas, pr and rsdt; 48 x 72 gives the competition's `y` and `x`.

    They are means of 4 x 4 cells of a grid like CESM2's, with rows on both poles and longitudes from 0.
    """
    return _grid(lat_cells, lon_cells, 180 / (lat_cells - 0.25), 0.375)


def emission_grid(lat_cells: int, lon_cells: int) -> Grid:
    """The cells of SO2 and BC; 48 x 72 gives the competition's `latitude` and `longitude`, not its `y` and `x`."""
    return _grid(lat_cells, lon_cells, 180 / (lat_cells - 0.5), 0.25)


def _grid(lat_cells: int, lon_cells: int, lat_step: float, first_lon: float) -> Grid:
    rows, columns = np.arange(lat_cells, dtype=np.float64), np.arange(lon_cells, dtype=np.float64)
    return Grid((rows - (lat_cells - 1) / 2) * lat_step, (columns + first_lon) * 360 / lon_cells)


def unit_vectors(grid: Grid) -> Array:
    """(Y, X, 3) points of the unit sphere."""
    return _vector(grid.lat[:, None], grid.lon[None, :])


def gaussian_cap(grid: Grid, centre: Array, radius_km: float) -> Array:
    """(Y, X) a bump of height one around a place on the sphere, exp(-d^2 / 2 r^2) with d the chord."""
    chord2 = 2 - 2 * unit_vectors(grid) @ centre
    return np.asarray(np.exp(-chord2 / 2 * (EARTH_RADIUS_KM / radius_km) ** 2), np.float64)


@dataclass(frozen=True)
class Planet:
    """The geography that a seed makes, seen on a grid.

    Attributes:
        lat_cells: Y.
        lon_cells: X.
        seed: Fixes continents, mountains and industrial sites.
    """

    lat_cells: int
    lon_cells: int
    seed: int

    @cached_property
    def grid(self) -> Grid:
        """The grid of the targets."""
        return target_grid(self.lat_cells, self.lon_cells)

    @cached_property
    def emission_grid(self) -> Grid:
        """The grid of SO2 and BC, joined to the targets' by index."""
        return emission_grid(self.lat_cells, self.lon_cells)

    @cached_property
    def land(self) -> Array:
        """(Y, X) land fraction, 0..1, smooth at the coasts."""
        return self.land_at(self.grid)

    @cached_property
    def orography(self) -> Array:
        """(Y, X) height of the surface in metres, zero at sea."""
        # Peaks level off at 4000 m, as cells of hundreds of kilometres do.
        height = 300.0 + 3700.0 * np.tanh(0.7 * self._caps(self.grid, 1) ** 2)
        polar = _POLAR_CAP_HEIGHT_M * gaussian_cap(self.grid, _vector(-90.0, 0.0), _POLAR_CAP_RADIUS_KM)
        return np.asarray(self.land * (height + polar), np.float64)

    @cached_property
    def insolation(self) -> Array:
        """(12, Y) W m-2."""
        return monthly_insolation(self.grid.lat)

    def land_at(self, grid: Grid) -> Array:
        """(Y, X) land fraction on any grid."""
        return _sigmoid((self._height(grid) - self._sea_level) / _COAST)

    def land_site(self, index: int, band: tuple[float, float]) -> Array:
        """(3,) a place on land inside a latitude band; the site `index` does not depend on the others."""
        grid = emission_grid(90, 180)
        inside = (grid.lat >= band[0]) & (grid.lat <= band[1])
        land = self.land_at(grid)[inside].ravel()
        # Sites keep to the interior of land; a band without land takes its least watery cells.
        candidates = np.flatnonzero(land >= min(0.9, float(np.quantile(land, 0.98))))
        chosen = self._generator(2, index).choice(candidates)
        return np.asarray(unit_vectors(grid)[inside].reshape(-1, 3)[chosen], np.float64)

    def waves(self, index: int) -> Array:
        """(Y, X) a smooth field of zonal waves 1 to 3 between -1 and 1, zero at the poles: longitudes differ."""
        phases = self._generator(3, index).uniform(0, 2 * np.pi, (2, 3))
        lat, lon = np.deg2rad(self.grid.lat)[:, None], np.deg2rad(self.grid.lon)[None, :]
        total = sum(np.cos(k * lon + phases[0, k - 1] + np.sin(2 * lat + phases[1, k - 1])) / k for k in (1, 2, 3))
        return np.asarray(np.cos(lat) ** 2 * total / (1 + 1 / 2 + 1 / 3), np.float64)

    @cached_property
    def _sea_level(self) -> float:
        # A fixed reference grid: the level, like the land, must not depend on the grid in use.
        grid = emission_grid(90, 180)
        height, weights = self._height(grid).ravel(), grid.weights.ravel()
        order = np.argsort(height, kind="stable")
        return float(height[order][np.searchsorted(np.cumsum(weights[order]), 1 - _LAND_SHARE)])

    def _height(self, grid: Grid) -> Array:
        return self._caps(grid, 0) + 2 * gaussian_cap(grid, _vector(-90.0, 0.0), _POLAR_CAP_RADIUS_KM * 0.6)

    def _caps(self, grid: Grid, kind: int) -> Array:
        """Continents (kind 0) or mountains on them (kind 1) as sums of caps around the same centres."""
        centres = self._centres
        rng = self._generator(1, kind)
        spread, smallest, largest = ((0.30, 700.0, 1700.0), (0.25, 300.0, 700.0))[kind]
        total = np.zeros(grid.shape)
        for centre in np.repeat(centres, _CAPS, axis=0):
            place = centre + spread * rng.standard_normal(3)
            height, radius = rng.uniform(0.3, 1.0), rng.uniform(smallest, largest)
            total += height * gaussian_cap(grid, place / np.linalg.norm(place), radius)
        return total

    @cached_property
    def _centres(self) -> Array:
        """(K, 3) continents kept apart: each is the candidate farthest from those before, more of them in the north."""
        rng = self._generator(0)
        chosen = [_vector(-90.0, 0.0)]
        for _ in range(_CONTINENTS):
            lat = np.rad2deg(np.arcsin(rng.uniform(-0.4, 0.95, 12)))
            candidates = _vector(lat, rng.uniform(0, 360, 12))
            nearest = (candidates @ np.stack(chosen).T).max(1)
            chosen.append(candidates[nearest.argmin()])
        return np.stack(chosen[1:])

    def _generator(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(0, *key)))


def _vector(lat: Array | float, lon: Array | float) -> Array:
    phi, lam = np.broadcast_arrays(np.deg2rad(lat), np.deg2rad(lon))
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], axis=-1)


def _sigmoid(z: Array) -> Array:
    return np.asarray(0.5 * (1 + np.tanh(z / 2)), np.float64)


def refuse_settings(what: str, values: Mapping[str, object], bounds: Mapping[str, tuple[int, int]]) -> None:
    """Refuse settings of a made-up climate that are not whole numbers inside their bounds.

    Raises:
        EmukitError: Some are not; all of them are listed.
    """
    wrong = {
        name: (low, high)
        for name, (low, high) in bounds.items()
        if type(value := values[name]) is not int or not low <= value <= high
    }
    if wrong:
        raise EmukitError(
            f"{what} cannot be made with these settings",
            found=", ".join(f"{name} = {values[name]!r}" for name in wrong),
            expected=", ".join(f"{name} a whole number {low} .. {high}" for name, (low, high) in wrong.items()),
            hint="change the settings named",
        )
