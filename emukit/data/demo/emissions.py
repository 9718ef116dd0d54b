"""What drives the demo climate: global emission series and the regions they come from.

Invariant: series are linear between yearly values of each January and have no seasonal cycle, as in the competition.

The numbers are those of the SSPs in RCMIP 5.1 (Nicholls et al. 2020, doi:10.5194/gmd-13-5175-2020), rounded, every ten
years; in between they are straight lines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emukit.data.demo.planet import Planet, gaussian_cap

Array = NDArray[np.float64]

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
