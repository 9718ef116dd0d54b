"""A generated daily climate in the terms of ClimX: seven variables, historical and scenarios, from a seed.

Invariant: tasmin <= tas <= tasmax and pr >= 0 on every day. Each scenario has its own stream of random numbers: what
one holds does not depend on which others are made, and fewer years of it are the first of more.

The forced response is that of two boxes under concentrations and aerosol emissions, seen through the patterns of the
monthly demo climate (`emukit.data.demo.response`), with the years before 2015 added:

    F    = 5.35 ln(CO2 / CO2_0) + 0.036 (sqrt CH4 - sqrt CH4_0) + 0.12 (sqrt N2O - sqrt N2O_0)
           + 0.25 CFC11eq + 0.32 CFC12 - 0.010 SO2 + 0.020 BC            W m-2; ppm, ppb, ppb, ppb, ppb, Mt/yr, Mt/yr
    dU_i/dt = (q_i F - U_i) / d_i,  W_i = U_i - U_i(2015),  W = W_fast + W_slow
    A    = local response to the change of SO2 and BC since 2015

    tas  = climatology + P_fast W_fast + P_slow W_slow + A + s (1 + 0.02 summer W) (1.5 z_synoptic + 0.65 z_slow)
    pr   = a exp(0.05 W + 0.06 A) max(0, z_rain + m)^2                   m by season, cell and W

The square of a censored Gaussian is skewed and leaves days without rain. Its intensity grows by 5 % per K everywhere;
what the mean is to change beyond that, the share of rainy days does, to first order. Rainy days have a smaller diurnal
range, lower pressure and moister air; they are cool in summer and mild in winter. Numbers without a source are chosen
by eye so that maps and series look like those of a climate model.

The same settings give the same numbers on one machine, numpy and BLAS.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from emukit.data.daily import DAYS, SECONDS_PER_DAY
from emukit.data.demo.planet import Planet, refuse_settings
from emukit.data.demo.response import (
    FIRST_YEAR,
    LAST_YEAR,
    MT_PER_YEAR,
    SCENARIOS,
    Climate,
    make_climate,
    region_patterns,
    region_shares,
)
from emukit.data.demo.weather import DailyWeather, NoiseField
from emukit.data.grid import Grid
from emukit.errors import ProtocolError

Array = NDArray[np.float64]
Field = NDArray[np.float32]

GENERATOR = 1
"""Version of the formulas, raised with any change of a number."""

VARIABLES = ("tas", "tasmax", "tasmin", "pr", "huss", "psl", "sfcWind")
HISTORICAL = "historical"
HIDDEN = "ssp245"
GASES = ("CO2_LBC", "N2O_LBC", "CH4_LBC", "CFC11eq_LBC", "CF2CL2_LBC")
AEROSOLS = ("BC_AX", "BC_N", "SO2", "SO4_PR", "OM_NI")

# The full grid of NorESM2-MM; coarser grids are means of blocks of its cells.
FULL_ROWS, FULL_COLUMNS = 192, 288
# Whole years are five blocks; the memory of a block of the full grid is about 0.1 GB a field.
BLOCK_DAYS = 73
_BOUNDS = {
    "lat_cells": (4, FULL_ROWS),
    "lon_cells": (4, FULL_COLUMNS),
    "first_year": (1850, 1961),
    "years": (2, LAST_YEAR - FIRST_YEAR + 1),
    "seed": (0, 2**63 - 1),
}

# Concentrations (ppm, ppb) and emissions (Mt/yr) of RCMIP 5.1 (Nicholls et al. 2020, doi:10.5194/gmd-13-5175-2020),
# rounded, on 1 July of these years; straight lines in between.
_PAST = (1850, 1860, 1870, 1880, 1890, 1900, 1910, 1920, 1930, 1940, 1950, 1960, 1970, 1980, 1990, 2000, 2010)
_FUTURE = (2015, 2020, 2030, 2040, 2050, 2060, 2070, 2080, 2090, 2100)
_HISTORY: dict[str, tuple[float, ...]] = {
    "CO2": (284, 286, 287, 290, 293, 296, 299, 304, 307, 311, 313, 317, 325, 339, 354, 369, 389),
    "CH4": (808, 822, 852, 869, 896, 926, 975, 1025, 1073, 1120, 1164, 1264, 1411, 1585, 1717, 1778, 1808),
    "SO2": (4.5, 5.8, 7.8, 10.9, 15.4, 22.7, 34.2, 37.5, 41.5, 50.2, 58.2, 85.8, 122.9, 137.4, 134.0, 111.1, 116.3),
    "BC": (2.6, 2.6, 2.8, 2.9, 3.2, 3.4, 3.8, 3.8, 3.9, 4.0, 4.3, 5.3, 5.5, 6.6, 7.5, 7.5, 9.7),
}
_SSP: dict[str, dict[str, tuple[float, ...]]] = {
    "CO2": {
        "ssp126": (400, 414, 440, 458, 469, 474, 473, 467, 457, 446),
        "ssp245": (400, 414, 444, 475, 507, 537, 564, 585, 598, 603),
        "ssp370": (400, 415, 451, 493, 541, 593, 652, 716, 787, 867),
        "ssp585": (400, 415, 452, 500, 563, 643, 744, 864, 998, 1135),
    },
    "CH4": {
        "ssp126": (1842, 1888, 1810, 1663, 1519, 1402, 1299, 1197, 1112, 1056),
        "ssp245": (1842, 1911, 2002, 2045, 2020, 1942, 1854, 1779, 1719, 1683),
        "ssp370": (1842, 1921, 2099, 2289, 2472, 2655, 2840, 3028, 3208, 3372),
        "ssp585": (1842, 1907, 2018, 2209, 2446, 2613, 2670, 2652, 2549, 2415),
    },
    "SO2": {
        "ssp126": (100.8, 80.1, 51.7, 35.1, 26.7, 22.0, 17.8, 13.3, 10.3, 8.1),
        "ssp245": (100.8, 80.1, 78.9, 66.5, 53.3, 46.0, 41.9, 38.5, 33.2, 30.8),
        "ssp370": (100.8, 98.6, 99.2, 99.6, 99.8, 95.9, 91.9, 87.4, 83.6, 78.2),
        "ssp585": (100.8, 80.2, 71.5, 71.5, 60.4, 63.9, 61.4, 53.3, 41.9, 29.5),
    },
    "BC": {
        "ssp126": (9.73, 7.78, 5.03, 4.18, 3.61, 3.37, 3.15, 2.75, 2.47, 2.23),
        "ssp245": (9.73, 8.82, 8.02, 7.27, 6.33, 5.54, 4.67, 3.79, 3.02, 2.65),
        "ssp370": (9.73, 10.23, 10.69, 11.01, 10.95, 10.58, 10.20, 9.76, 9.45, 9.11),
        "ssp585": (9.73, 9.42, 8.44, 8.06, 6.90, 6.57, 6.09, 5.42, 4.40, 3.31),
    },
}
# Made up, of the size of CMIP6's: ppb at (year, value); the last value by scenario.
_N2O = ((1850, 1950, 2015, 2100), (273, 289, 328))
_N2O_2100 = {"ssp126": 354, "ssp245": 377, "ssp370": 422, "ssp585": 392}
_CFC11EQ = ((1950, 1990, 2015, 2100), (0.0, 0.65, 0.81))
_CFC11EQ_2100 = {"ssp126": 0.60, "ssp245": 0.85, "ssp370": 1.00, "ssp585": 0.90}
_CFC12 = ((1950, 2000, 2015, 2100), (0.0, 0.54, 0.52, 0.19))
# Myhre et al. 1998 without overlaps; CFCs 0.25 and 0.32 W m-2 per ppb; aerosol as in the monthly demo climate.
_CO2, _CH4, _N2O_FORCING, _CFC = 5.35, 0.036, 0.12, (0.25, 0.32)
_SO2_FORCING, _BC_FORCING = -0.010, 0.020
# Time scales in years near the CMIP5 mean of Geoffroy et al. 2013; gains for a model of low sensitivity: 3.7 K of
# warming from 2015 to 2100 under ssp585.
_SCALES, _GAINS = np.array([4.0, 220.0]), np.array([0.42, 0.60])

# Emissions in molecules per cm2 and second, the unit of CAM's emission files, from Mt per year of SO2 and BC.
_AVOGADRO, _CM2 = 6.02214076e23, 1e-4
_MOLES = {"BC_AX": 0.012, "BC_N": 0.012, "SO2": 0.064, "SO4_PR": 0.115, "OM_NI": 0.012}  # kg
# Share of the parent's emission: primary sulphate is 2.5 % of SO2, organic matter four times black carbon.
_PARENT = {
    "BC_AX": ("BC", 0.1),
    "BC_N": ("BC", 0.9),
    "SO2": ("SO2", 0.975),
    "SO4_PR": ("SO2", 0.025),
    "OM_NI": ("BC", 4.0),
}
# Where a region emits less than this share of its mean, it emits nothing: inventories have cells of exactly zero.
_NOTHING = 0.3
# Biomass burning, the fourth region, peaks in September.
_BURNING, _BURNING_SEASON = 3, 0.8

_INTENSITY, _AEROSOL_PR = 0.05, 0.06  # per K
_SUMMER_SPREAD = 0.02  # per K
_SYNOPTIC, _SLOW = 1.5, 0.65  # of the standard deviation of a month
_RAIN_SLOW = 0.25  # share of the slow noise in the rain's
_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True)
class DailyPlanet(Planet):
    """The demo's planet on the grid of ClimX, or on means of blocks of its cells; emissions are on the same cells."""

    @cached_property
    def grid(self) -> Grid:
        """(Y, X) rows from pole to pole for 192, longitudes from 0 for 288."""
        step = 180 / (FULL_ROWS - 1) * FULL_ROWS / self.lat_cells
        lat = (np.arange(self.lat_cells, dtype=np.float64) - (self.lat_cells - 1) / 2) * step
        width = 360 / self.lon_cells
        lon = (np.arange(self.lon_cells, dtype=np.float64) + 0.5) * width - 180 / FULL_COLUMNS
        return Grid(lat, lon)

    @cached_property
    def emission_grid(self) -> Grid:
        """As `grid`."""
        return self.grid


@dataclass(frozen=True)
class DailyClimate:
    """A daily climate of a historical run and four scenarios from 2015 on.

    Attributes:
        lat_cells: Y, 4..192; 12 of the lite files.
        lon_cells: X, 4..288; 18 of the lite files.
        first_year: Of the historical run, 1850..1961: the base period 1961-1990 is always there. It ends in 2014.
        years: Of each scenario, 2..86.
        seed: Fixes the planet and the weather.

    Raises:
        EmukitError: A setting is not a whole number inside its bounds; all of them are listed.
    """

    lat_cells: int = 12
    lon_cells: int = 18
    first_year: int = 1850
    years: int = LAST_YEAR - FIRST_YEAR + 1
    seed: int = 0

    def __post_init__(self) -> None:
        refuse_settings("the daily demo climate", {name: getattr(self, name) for name in _BOUNDS}, _BOUNDS)

    @property
    def settings(self) -> dict[str, int]:
        """All that fixes the numbers."""
        return {"generator": GENERATOR, **{f.name: getattr(self, f.name) for f in fields(self)}}

    @cached_property
    def planet(self) -> DailyPlanet:
        """Grid, land and mountains."""
        return DailyPlanet(self.lat_cells, self.lon_cells, self.seed)

    def span(self, scenario: str) -> range:
        """The years of a scenario.

        Raises:
            ProtocolError: There is no such scenario.
        """
        _known(scenario)
        return (
            range(self.first_year, FIRST_YEAR) if scenario == HISTORICAL else range(FIRST_YEAR, FIRST_YEAR + self.years)
        )

    def days(self, scenario: str) -> int:
        """Days of a scenario: whole years of 365 days without the last 31 December.

        Raises:
            ProtocolError: There is no such scenario.
        """
        return len(self.span(scenario)) * DAYS - 1

    def gas(self, name: str, scenario: str) -> Array:
        """(years,) mole fraction of one of `GASES`, each year's mean.

        Raises:
            ProtocolError: There is no such scenario.
        """
        return _concentration(name, scenario, np.array(self.span(scenario), float)) * (
            1e-6 if name == "CO2_LBC" else 1e-9
        )

    def aerosol(self, name: str, scenario: str, year: int) -> Array:
        """(12, Y, X) emission of one of `AEROSOLS` in the months of a year, molecules cm-2 s-1.

        Raises:
            ProtocolError: There is no such scenario.
        """
        parent, share = _PARENT[name]
        months = year + (np.arange(12) + 0.5) / 12
        regions = _regions(parent, _known(scenario), months)
        if name == "OM_NI":
            regions[:, _BURNING] *= 1 + _BURNING_SEASON * np.cos(2 * np.pi * (np.arange(12) - 8) / 12)
        flux = share * MT_PER_YEAR * _CM2 * _AVOGADRO / _MOLES[name]
        return np.asarray(np.einsum("tr,ryx->tyx", regions, self._sources) * flux, np.float64)

    def warming(self, scenario: str, years: Array) -> Array:
        """(T, 2) global-mean warming since 2015 by the fast and the slow box, K.

        Args:
            scenario: Its concentrations and emissions; of a time before 2015 all have the same.
            years: (T,) decimal years.

        Raises:
            ProtocolError: There is no such scenario.
        """
        months = 1850 + (np.arange((LAST_YEAR + 1 - 1850) * 12) + 0.5) / 12
        force = forcing(scenario, months)
        decay = np.exp(-1 / (12 * _SCALES))
        boxes = np.zeros((len(months), 2))
        for t in range(1, len(months)):
            boxes[t] = decay * boxes[t - 1] + (1 - decay) * _GAINS * force[t]
        boxes -= boxes[(FIRST_YEAR - 1850) * 12]
        return np.stack([np.interp(years, months, box) for box in boxes.T], axis=1)

    def blocks(self, scenario: str) -> Iterator[dict[str, Field]]:
        """The days of a scenario in order, `BLOCK_DAYS` at a time, the last block a day shorter.

        Yields:
            Variable to (D, Y, X): tas, tasmax, tasmin in K, pr in kg m-2 s-1, huss in kg/kg, psl in Pa, sfcWind in m/s.

        Raises:
            ProtocolError: There is no such scenario.
        """
        index = (HISTORICAL, *SCENARIOS).index(_known(scenario))
        maps = self.maps
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(3, index)))
        weather = DailyWeather(rng, self.planet.grid, maps.noises(self.planet.land))
        total = self.days(scenario)
        day = np.arange(-(-total // BLOCK_DAYS) * BLOCK_DAYS)
        time = self.span(scenario)[0] + (day + 0.5) / DAYS
        warming = self.warming(scenario, time)
        so2, bc = (_regions(n, scenario, time) - _regions(n, scenario, _NOW) for n in ("SO2", "BC"))
        for first in range(0, total, BLOCK_DAYS):
            part = slice(first, first + BLOCK_DAYS)
            local = np.einsum("tr,rc->tc", so2[part], maps.so2) + np.einsum("tr,rc->tc", bc[part], maps.bc)
            noise = weather.draw(BLOCK_DAYS).reshape(len(NOISES), BLOCK_DAYS, -1)
            fields = maps.fields(day[part] % DAYS, warming[part], local.astype(np.float32), noise)
            kept = min(BLOCK_DAYS, total - first)
            yield {name: values[:kept].reshape(kept, *self.planet.grid.shape) for name, values in fields.items()}

    @cached_property
    def _sources(self) -> Array:
        """(R, Y, X) where each region emits; zero where it is next to nothing."""
        patterns = region_patterns(self.planet)
        return np.where(patterns < _NOTHING, 0.0, patterns)

    @cached_property
    def maps(self) -> DailyMaps:
        """Climatologies, patterns and noise levels."""
        return DailyMaps.of(self.planet, make_climate(self.planet))


_NOW = np.array([float(FIRST_YEAR)])
NOISES = ("air", "slow", "rain", "range", "pressure", "wind", "moisture")
# Lengths in km: fronts and heat waves, the seasons' anomalies, showers and rain bands, clouds, highs and lows.
_LENGTHS = {
    "air": (700.0, 1800.0),
    "slow": (3500.0,),
    "rain": (350.0, 1100.0),
    "range": (900.0,),
    "pressure": (1800.0,),
    "wind": (900.0,),
    "moisture": (900.0,),
}


@dataclass(frozen=True, eq=False)
class DailyMaps:
    """What the formulas need to know of a planet; (12, C) by calendar month unless said otherwise, C = Y X.

    Attributes:
        tas: Climatology of 2015, K.
        fast: P_fast, K per K.
        slow: P_slow, K per K.
        spread: Standard deviation of monthly means of tas, K.
        summer: 1 in a place's summer, -1 in its winter, near 0 where there are no seasons.
        threshold: m of 2015.
        wetter: Change of m per K.
        scale: Logarithm of a, a in mm/day.
        diurnal: tasmax - tasmin of a dry day, K.
        aridity: 0 wet to 1 desert.
        so2: (R, C) K per Mt/yr.
        bc: (R, C) K per Mt/yr.
        land: (C,).
        pressure: (C,) mean sea level pressure, Pa.
        pressure_spread: (C,) Pa.
        surface: (C,) mean surface pressure, Pa.
        wind: (C,) m/s.
    """

    tas: Field
    fast: Field
    slow: Field
    spread: Field
    summer: Field
    threshold: Field
    wetter: Field
    scale: Field
    diurnal: Field
    aridity: Field
    so2: Array
    bc: Array
    land: Field
    pressure: Field
    pressure_spread: Field
    surface: Field
    wind: Field

    @classmethod
    def of(cls, planet: DailyPlanet, climate: Climate) -> DailyMaps:
        """The maps of a planet."""
        lat, land = planet.grid.lat[:, None], planet.land
        season = climate.tas - climate.tas.mean(0)
        summer = season / np.maximum(np.abs(season).max(0), 3.0)
        rain = climate.pr
        # From nearly no rainy day in a desert to nine of ten in the wettest tropics.
        threshold = -1.5 + 1.05 * np.log1p(rain)
        mean, slope = _censored(threshold)
        aridity = np.exp(-rain / 0.9)
        sun = planet.insolation[:, :, None] / 400
        diurnal = 1.5 + land * (3 + 9 * np.exp(-rain / 2)) * (0.35 + 0.65 * np.minimum(sun, 1))
        polar = np.exp(-(((np.abs(lat) - 60) / 12) ** 2))
        pressure = 101300 + 700 * np.exp(-(((np.abs(lat) - 30) / 12) ** 2)) - np.where(lat < 0, 2200, 900) * polar
        tracks = np.exp(-(((np.abs(lat) - 50) / 18) ** 2))
        monthly = {
            "tas": climate.tas,
            "fast": climate.fast,
            "slow": climate.slow,
            "spread": climate.tas_scale,
            "summer": summer,
            "threshold": threshold,
            "wetter": (climate.wetting - _INTENSITY) * mean / slope,
            "scale": np.log(rain / mean),
            "diurnal": diurnal,
            "aridity": aridity,
        }
        constant = {
            "land": land,
            "pressure": pressure * np.ones_like(land),
            "pressure_spread": (200 + 900 * np.sin(np.deg2rad(lat)) ** 2) * np.ones_like(land),
            "surface": 101000 * np.exp(-planet.orography / 8000),
            "wind": (3 + 3.5 * (1 - land)) * (0.8 + 0.5 * tracks),
        }
        return cls(
            **{name: np.ascontiguousarray(m, np.float32).reshape(12, -1) for name, m in monthly.items()},
            **{name: np.ascontiguousarray(m, np.float32).ravel() for name, m in constant.items()},
            so2=climate.so2.reshape(len(climate.so2), -1),
            bc=climate.bc.reshape(len(climate.bc), -1),
        )

    def noises(self, land: Array) -> list[NoiseField]:
        """The fields of noise, in the order of `NOISES`; days resemble each other more at sea."""
        memory: Mapping[str, float | Array] = {
            "air": 0.88 - 0.13 * land,
            "slow": 0.985,
            "rain": 0.50,
            "range": 0.40,
            "pressure": 0.75,
            "wind": 0.50,
            "moisture": 0.60,
        }
        return [NoiseField(_LENGTHS[name], memory[name]) for name in NOISES]

    def fields(self, day: NDArray[np.int64], warming: Array, local: Field, noise: Field) -> dict[str, Field]:
        """Variable to (D, C).

        Args:
            day: (D,) of the year, from 0.
            warming: (D, 2) of the boxes, K.
            local: (D, C) A, K.
            noise: (F, D, C) in the order of `NOISES`.
        """
        weights = _month_weights()[day]

        def today(months: Field) -> Field:
            return np.asarray(weights @ months)

        air, slow, rain, spread, pressure, wind, moisture = noise
        fast_box, slow_box = (warming[:, i, None].astype(np.float32) for i in (0, 1))
        total = fast_box + slow_box
        summer = today(self.summer)

        rain = np.float32(math.sqrt(1 - _RAIN_SLOW**2)) * rain + np.float32(_RAIN_SLOW) * slow
        excess = np.maximum(rain + today(self.threshold) + today(self.wetter) * total, 0)
        mm = np.exp(today(self.scale) + np.float32(_INTENSITY) * total + np.float32(_AEROSOL_PR) * local) * excess**2
        wetness = excess / (1 + excess)

        coupling = np.float32(-0.25) * summer
        air = np.sqrt(1 - coupling**2) * air + coupling * rain
        tas = today(self.tas) + today(self.fast) * fast_box + today(self.slow) * slow_box + local
        swing = today(self.spread) * np.exp(np.float32(_SUMMER_SPREAD) * summer * total)
        tas += swing * (np.float32(_SYNOPTIC) * air + np.float32(_SLOW) * slow)

        diurnal = today(self.diurnal) * (1 - np.float32(0.45) * wetness * self.land) * np.exp(np.float32(0.22) * spread)
        above = np.clip(np.float32(0.52) + np.float32(0.04) * moisture, 0.3, 0.7)

        humidity = np.float32(0.74) + np.float32(0.16) * wetness - np.float32(0.3) * today(self.aridity) * self.land
        humidity = np.clip(humidity + np.float32(0.06) * moisture, 0.08, 0.98)
        low = np.sqrt(np.float32(0.84)) * pressure - np.float32(0.4) * rain
        return {
            "tas": tas,
            "tasmax": tas + above * diurnal,
            "tasmin": tas - (1 - above) * diurnal,
            "pr": mm / np.float32(SECONDS_PER_DAY),
            "huss": humidity * _saturation(tas, self.surface),
            "psl": self.pressure + self.pressure_spread * low,
            "sfcWind": self.wind * np.exp(np.float32(0.35) * wind - np.float32(0.06)),
        }


def forcing(scenario: str, years: Array) -> Array:
    """(T,) effective radiative forcing since 1850, W m-2.

    Args:
        scenario: One of the SSPs, or ``historical``.
        years: (T,) decimal years.

    Raises:
        ProtocolError: There is no such scenario.
    """
    # Yearly values stand for the middle of their year.
    at = years - 0.5
    co2, ch4, n2o = (_concentration(f"{gas}_LBC", scenario, at) for gas in ("CO2", "CH4", "N2O"))
    greenhouse = _CO2 * np.log(co2 / _HISTORY["CO2"][0])
    greenhouse += _CH4 * (np.sqrt(ch4) - math.sqrt(_HISTORY["CH4"][0]))
    greenhouse += _N2O_FORCING * (np.sqrt(n2o) - math.sqrt(_N2O[1][0]))
    greenhouse += _CFC[0] * _concentration("CFC11eq_LBC", scenario, at)
    greenhouse += _CFC[1] * _concentration("CF2CL2_LBC", scenario, at)
    so2, bc = (_total(name, scenario, at) - _HISTORY[name][0] for name in ("SO2", "BC"))
    return np.asarray(greenhouse + _SO2_FORCING * so2 + _BC_FORCING * bc, np.float64)


def _known(scenario: str) -> str:
    if scenario not in (HISTORICAL, *SCENARIOS):
        raise ProtocolError(
            f"scenario {scenario} is not in the daily demo climate",
            found=f"scenarios {', '.join((HISTORICAL, *SCENARIOS))}",
            hint="choose one of those",
        )
    return scenario


def _future(scenario: str) -> str:
    # The historical run ends before the scenarios differ.
    return HIDDEN if _known(scenario) == HISTORICAL else scenario


def _total(name: str, scenario: str, years: Array) -> Array:
    """(T,) a series of RCMIP in the middle of these years."""
    values = [*_HISTORY[name], *_SSP[name][_future(scenario)]]
    return np.asarray(np.interp(years, [*_PAST, *_FUTURE], values), np.float64)


def _concentration(gas: str, scenario: str, years: Array) -> Array:
    """(T,) ppm of CO2, ppb of the others, in the middle of these years."""
    future = _future(scenario)
    if gas in ("CO2_LBC", "CH4_LBC"):
        return _total(gas.removesuffix("_LBC"), scenario, years)
    if gas == "N2O_LBC":
        return np.interp(years, _N2O[0], (*_N2O[1], _N2O_2100[future]))
    if gas == "CFC11eq_LBC":
        return np.interp(years, _CFC11EQ[0], (*_CFC11EQ[1], _CFC11EQ_2100[future]))
    return np.interp(years, *_CFC12)


def _regions(name: str, scenario: str, years: Array) -> Array:
    """(T, R) Mt per year of each region."""
    return np.asarray(_total(name, scenario, years - 0.5)[:, None] * region_shares(name, years), np.float64)


def _censored(threshold: Array) -> tuple[Array, Array]:
    """Mean of max(0, z + m)^2, z standard normal, and its derivative by m."""
    density = np.exp(-(threshold**2) / 2) / math.sqrt(2 * math.pi)
    below = 0.5 * (1 + np.vectorize(math.erf, otypes=[np.float64])(threshold / math.sqrt(2)))
    mean, slope = (1 + threshold**2) * below + threshold * density, 2 * (density + threshold * below)
    return np.asarray(mean, np.float64), np.asarray(slope, np.float64)


@lru_cache
def _month_weights() -> Field:
    """(365, 12) weights of the months on each day: straight lines between the middles of months."""
    edges = np.concatenate([[0], np.cumsum(_MONTH_DAYS)])
    middle = (edges[1:] + edges[:-1]) / 2
    days = np.arange(DAYS) + 0.5
    return np.stack([np.interp(days, middle, unit, period=DAYS) for unit in np.eye(12)], 1).astype(np.float32)


def _saturation(tas: Field, pressure: Field) -> Field:
    """Saturation specific humidity in kg/kg over water; Alduchov and Eskridge 1996, J. Appl. Meteorol. 35, 601."""
    celsius = tas - np.float32(273.15)
    vapour = np.float32(610.94) * np.exp(np.float32(17.625) * celsius / (celsius + np.float32(243.04)))
    return np.asarray(np.float32(0.622) * vapour / (pressure - np.float32(0.378) * vapour))
