"""The competition's store layout, as an xarray dataset.

Invariant: names, order of dimensions, dtypes and coordinates are those of the UCSD CSE 151B 2025 store, its oddities
included: emissions have other latitudes and longitudes than the targets, and `lat`, `lon` have dims (x, y).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.grid import Grid

_TAS = {"long_name": "Near-Surface Air Temperature", "standard_name": "air_temperature", "units": "K"}
_PR = {"long_name": "Precipitation", "standard_name": "lwe_precipitation_rate", "units": "mm/day"}
_RSDT = {
    "long_name": "TOA Incident Shortwave Radiation",
    "standard_name": "toa_incoming_shortwave_flux",
    "positive": "down",
    "units": "W/m²",
}
_SO2 = {"long_name": "Sulfur dioxide emissions", "units": "kg m-2 s-1"}
_BC = {"long_name": "Black carbon emissions", "units": "kg m-2 s-1"}
_CO2 = {"long_name": "Cumulative fossil CO2 emissions since 1850", "units": "GtCO2"}
_CH4 = {"long_name": "Methane emissions", "units": "GtCH4/yr"}
_Y = {"axis": "Y", "standard_name": "latitude", "units": "degrees_north"}
_X = {"axis": "X", "standard_name": "longitude", "units": "degrees_east"}


@dataclass(frozen=True, eq=False)
class Fields:
    """The variables of a store, S scenarios by T months by M members.

    Attributes:
        tas: (S, T, M, Y, X) float32, K.
        pr: (S, T, M, Y, X) float32, mm/day.
        rsdt: (S, T, Y, X) float32, W m-2.
        so2: (S, T, Y, X) float64, kg m-2 s-1.
        bc: (S, T, Y, X) float64, kg m-2 s-1.
        co2: (S, T) float64, GtCO2.
        ch4: (S, T) float64, GtCH4 per year.
    """

    tas: NDArray[np.float32]
    pr: NDArray[np.float32]
    rsdt: NDArray[np.float32]
    so2: NDArray[np.float64]
    bc: NDArray[np.float64]
    co2: NDArray[np.float64]
    ch4: NDArray[np.float64]


def noleap_months(first_year: int, months: int) -> list[cftime.DatetimeNoLeap]:
    """The 15th of every month from January of `first_year`, (T,)."""
    return [cftime.DatetimeNoLeap(first_year + i // 12, i % 12 + 1, 15, has_year_zero=True) for i in range(months)]


def competition_dataset(
    fields: Fields,
    scenarios: tuple[str, ...],
    first_year: int,
    grid: Grid,
    emission_grid: Grid,
    attrs: Mapping[str, str],
) -> xr.Dataset:
    """Put the fields into the competition's layout.

    Args:
        fields: The values.
        scenarios: Names of the S axis.
        first_year: The first month is its January.
        grid: Target cells, `y` and `x`.
        emission_grid: Emission cells, `latitude` and `longitude`.
        attrs: Attributes of the dataset.
    """
    target, emission = ("ssp", "time", "member_id", "y", "x"), ("ssp", "time", "latitude", "longitude")
    months, members = fields.tas.shape[1:3]
    return xr.Dataset(
        {
            "BC": (emission, fields.bc, _BC),
            "CH4": (("ssp", "time"), fields.ch4, _CH4),
            "CO2": (("ssp", "time"), fields.co2, _CO2),
            "SO2": (emission, fields.so2, _SO2),
            "pr": (target, fields.pr, _PR),
            "rsdt": (("ssp", "time", "y", "x"), fields.rsdt, _RSDT),
            "tas": (target, fields.tas, _TAS),
        },
        coords={
            "ssp": np.array(scenarios, "<U6"),
            "time": noleap_months(first_year, months),
            "member_id": np.arange(members, dtype=np.int64),
            "y": ("y", grid.lat, _Y),
            "x": ("x", grid.lon, _X),
            "lat": (("x", "y"), np.tile(grid.lat, (len(grid.lon), 1))),
            "lon": (("x", "y"), np.tile(grid.lon[:, None], (1, len(grid.lat)))),
            "latitude": ("latitude", emission_grid.lat, {"units": "degrees"}),
            "longitude": ("longitude", emission_grid.lon),
        },
        attrs=dict(attrs),
    )
