"""What drives the demo climate, and its forced response in closed form.

Invariant: no randomness and no state: a month's expected climate is a formula of the emissions up to that month.

    F_co2 = 5.35 ln(c / 278),  c = 278 + 0.08 CO2              W m-2, CO2 in GtCO2 cumulative
    F_ch4 = 0.036 (sqrt(m) - sqrt(722)),  m = 722 + 2990 CH4   W m-2, CH4 in GtCH4 per year
    F_aer = -0.010 SO2 + 0.020 BC                              W m-2, global totals in Mt per year
    F     = F_co2 + F_ch4 + F_aer

    dU_i/dt = (q_i F - U_i) / d_i      i = fast, slow; F constant through a month; W_i = U_i - U_i(2015-01)

    E[tas] = climatology + P_fast W_fast + P_slow W_slow + A
    E[pr]  = climatology * exp(H (W_fast + W_slow) + 0.06 A)
    A      = sum over regions r of G_so2[r] (SO2_r - SO2_r(2015-01)) + G_bc[r] (BC_r - BC_r(2015-01))

Climatologies, P and H depend on calendar month and cell, G on the cell. P has mean one over area and calendar months
and G has area mean zero, so W_fast + W_slow is the global-mean warming since 2015-01, seasons aside.

Emissions are linear between yearly values of each January and have no seasonal cycle, as in the competition. The
numbers are those of the SSPs in RCMIP 5.1 (Nicholls et al. 2020, doi:10.5194/gmd-13-5175-2020), rounded, every ten
years; in between they are straight lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emukit.data.demo.planet import Planet, gaussian_cap, unit_vectors

Array = NDArray[np.float64]

# CO2: Myhre et al. 1998. The airborne 0.08 ppm per GtCO2 of fossil emissions is a fit to RCMIP 5.1: 401 ppm in 2015
# (400), 1027 ppm in 2100 under ssp585 (1135); it has no sinks, so ssp126 stays higher (501) than there (446).
_CO2_FORCING, _CO2_PPM_0, _AIRBORNE = 5.35, 278.0, 0.08
# CH4: Myhre et al. 1998, without the overlap with N2O; 2990 ppb per GtCH4/yr gives 1840 ppb in 2015 (RCMIP: 1842).
_CH4_FORCING, _CH4_PPB_0, _CH4_PPB = 0.036, 722.0, 2990.0
# Aerosol: -1.0 and +0.2 W m-2 in 2015, near the best estimates of IPCC AR6 WG1 chapter 7.
_SO2_FORCING, _BC_FORCING = -0.010, 0.020
# Two-box response: time scales in years near the CMIP5 mean of Geoffroy et al. 2013 (4.1 and 219); the gains are made
# up so that ssp585 warms by 4.7 K by 2100, close to CESM2's 5.
_SCALES = np.array([4.0, 220.0])
_GAINS = np.array([0.68, 0.62])
# Before 2015 forcing is taken to have grown by e in 45 years; this makes the state of 2015-01 a closed form.
_PAST_GROWTH_YEARS = 45.0
# Local aerosol response: made up, about 1 K of cooling over a region of 30 Mt SO2 per year.
_SO2_LOCAL, _BC_LOCAL = -0.0012, 0.0020
_AEROSOL_RADIUS_KM = 1200.0
_AEROSOL_PR = 0.06
SCENARIOS = ("ssp126", "ssp245", "ssp370", "ssp585")
FIRST_YEAR = 2015
LAST_YEAR = 2100

_ANCHORS = (2015, 2020, 2030, 2040, 2050, 2060, 2070, 2080, 2090, 2100)
# Cumulative fossil CO2 from 1850 to the start of 2015, GtCO2.
_CO2_2015 = 1536.0
# Fossil CO2, GtCO2 per year.
_CO2_RATE = {
    "ssp126": (35.6, 36.6, 34.5, 26.9, 19.7, 13.1, 7.1, -0.8, -6.3, -5.7),
    "ssp245": (35.6, 37.4, 40.6, 42.1, 43.0, 41.7, 37.4, 30.2, 20.6, 14.5),
    "ssp370": (35.6, 40.9, 49.3, 55.3, 60.0, 63.4, 67.0, 70.6, 75.2, 80.1),
    "ssp585": (35.6, 39.8, 50.7, 65.3, 81.2, 100.2, 117.0, 129.8, 131.1, 127.8),
}
# CH4, GtCH4 per year. The store's 2015 value is 0.374, RCMIP's 0.388: the series are RCMIP's times 0.963.
_CH4 = {
    "ssp126": (0.374, 0.335, 0.275, 0.234, 0.203, 0.184, 0.160, 0.134, 0.125, 0.118),
    "ssp245": (0.374, 0.374, 0.385, 0.369, 0.344, 0.317, 0.305, 0.292, 0.288, 0.284),
    "ssp370": (0.374, 0.403, 0.454, 0.497, 0.538, 0.580, 0.623, 0.668, 0.708, 0.749),
    "ssp585": (0.374, 0.383, 0.438, 0.522, 0.568, 0.576, 0.575, 0.548, 0.494, 0.464),
}
# SO2 and BC, Mt per year.
_SO2 = {
    "ssp126": (100.8, 80.1, 51.7, 35.1, 26.7, 22.0, 17.8, 13.3, 10.3, 8.1),
    "ssp245": (100.8, 80.1, 78.9, 66.5, 53.3, 46.0, 41.9, 38.5, 33.2, 30.8),
    "ssp370": (100.8, 98.6, 99.2, 99.6, 99.8, 95.9, 91.9, 87.4, 83.6, 78.2),
    "ssp585": (100.8, 80.2, 71.5, 71.5, 60.4, 63.9, 61.4, 53.3, 41.9, 29.5),
}
_BC = {
    "ssp126": (9.73, 7.78, 5.03, 4.18, 3.61, 3.37, 3.15, 2.75, 2.47, 2.23),
    "ssp245": (9.73, 8.82, 8.02, 7.27, 6.33, 5.54, 4.67, 3.79, 3.02, 2.65),
    "ssp370": (9.73, 10.23, 10.69, 11.01, 10.95, 10.58, 10.20, 9.76, 9.45, 9.11),
    "ssp585": (9.73, 9.42, 8.44, 8.06, 6.90, 6.57, 6.09, 5.42, 4.40, 3.31),
}

# Made up: where the emissions come from. Each industrial region lies on the seed's land inside a latitude band. The
# shares of the global total move linearly from 2015 to 2100, so that the pattern moves while it fades.
# Columns: early industry, late industry, growing industry, biomass burning, ships and aircraft (everywhere at sea).
_BANDS = ((38.0, 58.0), (22.0, 42.0), (-5.0, 25.0), (-22.0, 8.0))
_RADIUS_KM = (1400.0, 1300.0, 1400.0, 1600.0)
_SHARES = {
    "SO2": ((0.28, 0.44, 0.15, 0.03, 0.10), (0.12, 0.20, 0.45, 0.05, 0.18)),
    "BC": ((0.15, 0.33, 0.20, 0.30, 0.02), (0.06, 0.14, 0.37, 0.40, 0.03)),
}

_EARTH_RADIUS_M = 6.371e6
MT_PER_YEAR = 1e9 / (365 * 86400) / (4 * np.pi * _EARTH_RADIUS_M**2)


"""One Mt per year spread evenly over the Earth, in kg m-2 s-1 (365-day years)."""


@dataclass(frozen=True, eq=False)
class Emissions:
    """One scenario's emissions, monthly.

    Attributes:
        co2: (T,) GtCO2 cumulative since 1850.
        ch4: (T,) GtCH4 per year.
        so2: (T, R) Mt per year of each region.
        bc: (T, R) Mt per year of each region.
    """

    co2: Array
    ch4: Array
    so2: Array
    bc: Array


def emissions(scenario: str, years: int) -> Emissions:
    """The series of a scenario from January 2015 for `years` years and one month, T = 12 years + 1."""
    yearly = np.arange(FIRST_YEAR, FIRST_YEAR + years + 1, dtype=float)
    monthly = FIRST_YEAR + np.arange(12 * years + 1) / 12

    rate = np.interp(yearly, _ANCHORS, _CO2_RATE[scenario])
    co2 = _CO2_2015 + np.concatenate([[0.0], np.cumsum((rate[1:] + rate[:-1]) / 2)])
    return Emissions(
        co2=np.interp(monthly, yearly, co2),
        ch4=np.interp(monthly, _ANCHORS, _CH4[scenario]),
        so2=_regional("SO2", monthly, _SO2[scenario]),
        bc=_regional("BC", monthly, _BC[scenario]),
    )


def region_shares(name: str, years: Array) -> Array:
    """(T, R) the share of each region in the global total of ``SO2`` or ``BC``; before 2015 that of 2015.

    Args:
        name: Of the species.
        years: (T,) decimal years.
    """
    start, end = (np.array(share) for share in _SHARES[name])
    progress = np.clip((years - FIRST_YEAR) / (LAST_YEAR - FIRST_YEAR), 0, 1)[:, None]
    return np.asarray(start + (end - start) * progress, np.float64)


def _regional(name: str, monthly: Array, anchors: tuple[float, ...]) -> Array:
    # Yearly shares of yearly totals, so that a region's series too is linear between Januaries.
    yearly = np.arange(FIRST_YEAR, LAST_YEAR + 1, dtype=float)
    regions = np.interp(yearly, _ANCHORS, anchors)[:, None] * region_shares(name, yearly)
    return np.stack([np.interp(monthly, yearly, series) for series in regions.T], axis=1)


def region_patterns(planet: Planet) -> Array:
    """(R, Y, X) where each region emits, on the emission grid's latitudes and longitudes, area mean one."""
    land = planet.land_at(planet.emission_grid)
    patterns = [
        (0.02 + land) * gaussian_cap(planet.emission_grid, planet.land_site(i, band), radius)
        for i, (band, radius) in enumerate(zip(_BANDS, _RADIUS_KM, strict=True))
    ]
    # Ships keep to the busy latitudes; the constant keeps every cell above zero.
    lat = planet.emission_grid.lat[:, None]
    patterns.append(0.1 + (1 - land) * np.exp(-(((lat - 30) / 30) ** 2)))
    return np.stack([p / planet.emission_grid.mean(p) for p in patterns])


def forcing(emitted: Emissions) -> Array:
    """(T,) effective radiative forcing since preindustrial, W m-2."""
    co2 = _CO2_FORCING * np.log1p(_AIRBORNE * emitted.co2 / _CO2_PPM_0)
    ch4 = _CH4_FORCING * (np.sqrt(_CH4_PPB_0 + _CH4_PPB * emitted.ch4) - np.sqrt(_CH4_PPB_0))
    aerosol = _SO2_FORCING * emitted.so2.sum(1) + _BC_FORCING * emitted.bc.sum(1)
    return np.asarray(co2 + ch4 + aerosol, np.float64)


def warming(force: Array) -> Array:
    """(T, 2) global-mean warming since the first month by the fast and the slow box, K.

    Args:
        force: (T,) W m-2, monthly.
    """
    start = _GAINS * force[0] / (1 + _SCALES / _PAST_GROWTH_YEARS)
    decay = np.exp(-1 / (12 * _SCALES))
    boxes = np.empty((len(force), 2))
    boxes[0] = start
    for t in range(1, len(force)):
        boxes[t] = decay * boxes[t - 1] + (1 - decay) * _GAINS * force[t]
    return np.asarray(boxes - start, np.float64)


@dataclass(frozen=True, eq=False)
class Climate:
    """What the formulas above need to know of a planet; (12, Y, X) by calendar month unless said otherwise.

    Attributes:
        tas: Climatology of 2015-01's forcing, K.
        pr: The same, mm/day.
        tas_scale: Standard deviation of internal variability, K.
        pr_scale: Standard deviation of the logarithm of pr, (Y, X).
        tas_memory: Correlation of the noise from month to month, (Y, X).
        pr_memory: The same for pr.
        fast: P_fast, K per K.
        slow: P_slow, K per K.
        wetting: H, per K.
        so2: G_so2, (R, Y, X) K per Mt/yr.
        bc: G_bc, (R, Y, X) K per Mt/yr.
    """

    tas: Array
    pr: Array
    tas_scale: Array
    pr_scale: Array
    tas_memory: Array
    pr_memory: Array
    fast: Array
    slow: Array
    wetting: Array
    so2: Array
    bc: Array

    def expected(self, emitted: Emissions) -> Array:
        """(T, V, Y, X) expected tas (K) and pr (mm/day) under a scenario's emissions, from a January on."""
        boxes = warming(forcing(emitted))
        month = np.arange(len(boxes)) % 12
        # einsum and not a BLAS product, whose order of summation may depend on the number of threads.
        local = np.einsum("tr,ryx->tyx", emitted.so2 - emitted.so2[0], self.so2)
        local += np.einsum("tr,ryx->tyx", emitted.bc - emitted.bc[0], self.bc)
        fast, slow = boxes[:, 0, None, None], boxes[:, 1, None, None]
        out = np.empty((len(month), 2, *self.tas.shape[1:]))
        out[:, 0] = self.tas[month] + self.fast[month] * fast + self.slow[month] * slow + local
        out[:, 1] = self.pr[month] * np.exp(self.wetting[month] * (fast + slow) + _AEROSOL_PR * local)
        return out


def make_climate(planet: Planet) -> Climate:
    """The climate of a planet. Every number here is made up to look like CESM2's fields at a glance."""
    lat = planet.grid.lat[:, None]
    land = planet.land
    ice = _step(np.abs(lat), 70, 7)
    # How much a place's temperature swings: land, and the frozen sea, which insulates like land.
    continental = np.maximum(land, 0.55 * ice)
    season = _seasonal_swing(planet, continental)
    # -1 in a place's summer, 1 in its winter, 0 where there are no seasons.
    winter = -season / np.maximum(np.abs(season).max(0), 3.0)
    # The latitude of the thermal equator follows the land's summer more than the sea's.
    sun = np.sin(2 * np.pi * (np.arange(12) - 4.0) / 12)[:, None, None]
    thermal_equator = 2.0 * (1 - land) + 3.0 * planet.waves(0) + sun * (5 + 8 * land)

    sine = np.abs(np.sin(np.deg2rad(lat)))
    antarctic = _step(-lat, 68, 6) * land
    tas = 301.5 - 44.5 * sine**2.6 + 1.5 * planet.waves(1) - 6.0e-3 * planet.orography - 6.0 * antarctic + season
    tas_scale = 0.42 + 0.4 * sine**2 + continental * (0.25 + sine**2 * (1.6 + 1.0 * winter) * (1 - 0.25 * antarctic))
    tas_memory = 0.22 + (1 - continental) * (0.22 + 0.32 * np.exp(-((lat / 20) ** 2)))

    pr = _rain(planet, thermal_equator, winter)
    dry = np.exp(-pr.mean(0) / 0.8)
    pr_scale = 0.26 + 0.24 * np.exp(-((lat / 22) ** 2)) + 0.3 * dry
    pr_memory = 0.05 + 0.25 * np.exp(-((lat / 12) ** 2)) * (1 - 0.5 * land)

    arctic, southern = _step(lat, 64, 14), _step(-lat, 52, 10)
    fast = 1 + 0.35 * land + 1.7 * arctic * (1 + 0.7 * winter) - 0.45 * southern * (1 - land) + 0.15 * planet.waves(2)
    slow = 1 + 0.15 * land + 1.1 * arctic * (1 + 0.4 * winter) + 0.8 * southern + 0.15 * planet.waves(3)
    wetting = (
        0.017
        + 0.035 * np.exp(-(((lat - thermal_equator) / 8) ** 2))
        - 0.055 * np.exp(-(((np.abs(lat - thermal_equator) - 24) / 8) ** 2))
        + 0.04 * _step(np.abs(lat), 55, 5) * (1 + 0.3 * winter)
        + 0.02 * planet.waves(4)
    )
    spread = _spread(planet, region_patterns(planet))
    return Climate(
        tas=tas,
        pr=pr,
        tas_scale=tas_scale,
        pr_scale=pr_scale,
        tas_memory=tas_memory,
        pr_memory=pr_memory,
        fast=fast / planet.grid.mean(fast).mean(),
        slow=slow / planet.grid.mean(slow).mean(),
        wetting=wetting,
        so2=_SO2_LOCAL * spread,
        bc=_BC_LOCAL * spread,
    )


def _seasonal_swing(planet: Planet, continental: Array) -> Array:
    """(12, Y, X) seasonal cycle of tas, K: land and mixed layer as leaky heat reservoirs under the sun.

    Each harmonic of the insolation is answered with gain / (1 + i omega tau): tau is 1 month on land and 2.5 at sea.
    """
    harmonics = np.fft.rfft(planet.insolation, axis=0)
    harmonics[0] = 0
    omega = 2 * np.pi * np.arange(len(harmonics))[:, None] / 12
    land, sea = (
        np.fft.irfft(harmonics * gain / (1 + 1j * omega * tau), n=12, axis=0)[:, :, None]
        for gain, tau in ((0.085, 1.0), (0.042, 2.5))
    )
    # The far north and south reflect much of their summer sun.
    bright = 1 - 0.3 * _step(np.abs(planet.grid.lat)[:, None], 66, 6)
    return np.asarray(bright * (continental * land + (1 - continental) * sea), np.float64)


def _rain(planet: Planet, thermal_equator: Array, winter: Array) -> Array:
    """(12, Y, X) mm/day: tropical rain belt, storm tracks, dry subtropics, drier inland and uphill wetter."""
    lat, land = planet.grid.lat[:, None], planet.land
    belt = (6.5 + 4.5 * planet.waves(5)) * np.exp(-(((lat - thermal_equator) / 9) ** 2))
    tracks = (3.2 + 2.4 * planet.waves(6)) * np.exp(-(((np.abs(lat) - 46) / 13) ** 2)) * (1 + 0.35 * winter)
    background = 0.3 + 1.8 * np.exp(-((lat / 45) ** 2)) * (1 - 0.75 * land)
    inland = 1 - 0.35 * land * (1 - np.exp(-((lat / 12) ** 2)))
    uphill = 1 + 0.25 * np.minimum(planet.orography / 1500, 1)
    return np.asarray((belt + tracks + background) * inland * uphill, np.float64)


def _spread(planet: Planet, patterns: Array) -> Array:
    """(R, Y, X) emission patterns carried about by the wind, on the target cells, area mean zero.

    Emissions are joined to the target cells by index, as in the competition's store.
    """
    grid = planet.grid
    area = grid.weights[:, :1]
    # The kernel depends on the two latitudes and the difference of longitudes: one ring of weights per pair of rows.
    source = np.fft.rfft(patterns * area, axis=-1)
    spread = np.empty_like(patterns)
    for j, row in enumerate(unit_vectors(grid)[:, 0]):
        kernel = gaussian_cap(grid, row, _AEROSOL_RADIUS_KM)
        ring = np.fft.rfft(kernel, axis=-1)
        spread[:, j] = np.fft.irfft(np.einsum("rjk,jk->rk", source, ring), n=len(grid.lon), axis=-1)
        spread[:, j] /= (kernel * area).sum()
    return spread - grid.mean(spread)[:, None, None]


def _step(value: Array, middle: float, width: float) -> Array:
    """A smooth step from 0 to 1."""
    return np.asarray(0.5 * (1 + np.tanh((value - middle) / width)), np.float64)
