"""Daily fields on disk, read a block of years or a band of rows at a time.

Invariant: nothing reads a whole scenario. Files are opened one by one and joined along time alone, so forcings on
other axes in the same files are never spread over the days.

Years have 365 days (calendar ``noleap``). The days of a store are consecutive and begin on 1 January; days may be
missing at its end alone (the ClimX files lack their last 31 December).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.errors import StoreError

DAYS = 365
SECONDS_PER_DAY = 86400.0
LAT_NAMES, LON_NAMES = ("lat", "latitude", "y"), ("lon", "longitude", "x")
# Factor and offset from known units to those of the indices: K for temperatures, kg m-2 s-1 for precipitation.
CONVERSIONS = {
    "K": {"K": (1.0, 0.0), "kelvin": (1.0, 0.0), "degC": (1.0, 273.15), "celsius": (1.0, 273.15)},
    "kg m-2 s-1": {
        "kg m-2 s-1": (1.0, 0.0),
        "kg/m2/s": (1.0, 0.0),
        "mm s-1": (1.0, 0.0),
        "mm/s": (1.0, 0.0),
        "mm/day": (1.0 / SECONDS_PER_DAY, 0.0),
        "mm d-1": (1.0 / SECONDS_PER_DAY, 0.0),
        "mm day-1": (1.0 / SECONDS_PER_DAY, 0.0),
        "kg m-2 day-1": (1.0 / SECONDS_PER_DAY, 0.0),
    },
}
READ_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError)


@dataclass(frozen=True, eq=False)
class _Part:
    """One file: its first day, counted from the first of the store, and how many it has."""

    ds: xr.Dataset
    first: int
    days: int


class DailyStore:
    """Consecutive days of several variables, in one or several files.

    Attributes:
        source: What it was opened from, for messages.
        grid: The grid of every field.
        first_year: The year of the first day.
        days: How many days there are.
    """

    def __init__(self, source: str, parts: Sequence[_Part], grid: Grid, first_year: int) -> None:
        self.source, self._parts, self.grid, self.first_year = source, tuple(parts), grid, first_year
        self.days = sum(part.days for part in parts)

    @property
    def years(self) -> range:
        """The years, the last of which may lack days at its end."""
        return range(self.first_year, self.first_year + -(-self.days // DAYS))

    def read(self, variable: str, start: int, stop: int, rows: slice = slice(None)) -> NDArray[np.float32]:
        """(stop - start, Y, X) days [start, stop) of a variable, in K or kg m-2 s-1.

        Raises:
            StoreError: The variable is missing, in other units, or not finite; or a file cannot be read.
        """
        blocks = []
        for part in self._parts:
            low, high = max(start - part.first, 0), min(stop - part.first, part.days)
            if low < high:
                blocks.append(self._read_part(part.ds, variable, low, high, rows))
        out = np.concatenate(blocks) if len(blocks) > 1 else blocks[0]
        bad = ~np.isfinite(out)
        if bad.any():
            day = int(bad.any((1, 2)).argmax()) + start
            raise StoreError(
                f"{variable} of {self.source} is not finite everywhere",
                found=f"{int(bad.sum())} missing values, the first on day {day % DAYS + 1} of "
                f"{self.first_year + day // DAYS}",
                expected="a number on every day in every cell",
            )
        return out

    def _read_part(self, ds: xr.Dataset, variable: str, low: int, high: int, rows: slice) -> NDArray[np.float32]:
        if variable not in ds:
            raise StoreError(f"{variable} is missing in {self.source}", found=", ".join(map(str, ds.data_vars)))
        factor, offset = _conversion(ds[variable], variable, self.source)
        array = ds[variable]
        lat, lon = _named(array.dims, LAT_NAMES), _named(array.dims, LON_NAMES)
        array = array.isel({lat: rows, "time": slice(low, high)})
        others = [d for d in array.dims if d not in ("time", lat, lon)]
        if any(array.sizes[d] != 1 for d in others):
            raise StoreError(
                f"{variable} of {self.source} has more than one field a day",
                found=", ".join(f"{d} of {array.sizes[d]}" for d in others),
                expected="time, lat and lon",
                hint="select one scenario and member",
            )
        try:
            values = array.isel(dict.fromkeys(others, 0)).transpose("time", lat, lon).to_numpy()
        except READ_ERRORS as e:
            raise StoreError(f"cannot read {variable} of {self.source}", found=str(e).splitlines()[0]) from e
        if (factor, offset) != (1.0, 0.0):
            values = values.astype(np.float64) * factor + offset
        return np.asarray(values, np.float32)


def open_daily(paths: Sequence[Path | str], stack: ExitStack) -> DailyStore:
    """Open one Zarr store or NetCDF file, or several that follow each other in time.

    Args:
        paths: The files, in any order.
        stack: Closes them.

    Raises:
        StoreError: A file cannot be read, has another calendar or grid, or the days are not consecutive from a
            1 January on.
    """
    opened = sorted(((_open(Path(p), stack), str(p)) for p in paths), key=lambda pair: _first_day(*pair))
    source = ", ".join(name for _, name in opened)
    parts: list[_Part] = []
    first = _first_day(*opened[0])
    grid = _grid(*opened[0])
    if first % DAYS:
        raise StoreError(f"{opened[0][1]} does not begin on 1 January", hint="pass whole years")
    for ds, name in opened:
        begin, days = _first_day(ds, name) - first, ds.sizes["time"]
        expected = sum(part.days for part in parts)
        if begin != expected:
            raise StoreError(
                f"{name} does not follow the days before it",
                found=f"its first day is {begin - expected:+d} days from where they end",
                hint="pass files without gaps or overlaps",
            )
        if _grid(ds, name) != grid:
            raise StoreError(f"{name} is on another grid than {opened[0][1]}")
        parts.append(_Part(ds, begin, days))
    return DailyStore(source, parts, grid, first // DAYS)


def _open(path: Path, stack: ExitStack) -> xr.Dataset:
    try:
        engine: Any = "zarr" if path.is_dir() else "netcdf4"
        ds = stack.enter_context(xr.open_dataset(path, engine=engine, chunks=None, decode_times=False))
    except READ_ERRORS as e:
        raise StoreError(f"cannot read {path}", found=str(e).splitlines()[0], expected="Zarr or NetCDF") from e
    if "time" not in ds.variables or ds.sizes.get("time", 0) == 0:
        raise StoreError(f"{path} has no time axis", found=", ".join(map(str, ds.dims)))
    return ds


def _first_day(ds: xr.Dataset, name: str) -> int:
    """Days from 1 January of year 0 to the first of a file; refuses what are not consecutive days of 365-day years."""
    time = ds["time"]
    calendar = str(time.attrs.get("calendar", "standard"))
    if calendar not in ("noleap", "365_day"):
        raise StoreError(
            f"{name} has years of another length",
            found=f"calendar {calendar}",
            expected="noleap",
            hint="leave out 29 February and set the calendar to noleap",
        )
    try:
        stamps = cftime.num2date(time.values, str(time.attrs["units"]), calendar="noleap")
        days = np.array([s.year * DAYS + s.dayofyr - 1 for s in np.atleast_1d(stamps)])
    except (KeyError, ValueError, TypeError, AttributeError) as e:
        raise StoreError(f"the time stamps of {name} cannot be read", found=str(e)) from e
    if (np.diff(days) != 1).any():
        at = int((np.diff(days) != 1).argmax())
        raise StoreError(f"the days of {name} are not consecutive", found=f"{stamps[at]}, then {stamps[at + 1]}")
    return int(days[0])


def _grid(ds: xr.Dataset, name: str) -> Grid:
    try:
        lat, lon = (ds[_named(ds.dims, names)].to_numpy().astype(np.float64) for names in (LAT_NAMES, LON_NAMES))
    except (KeyError, ValueError, TypeError) as e:
        raise StoreError(f"{name} has no latitudes and longitudes", found=", ".join(map(str, ds.dims))) from e
    if (np.diff(lat) <= 0).any() or (np.diff(lon) <= 0).any():
        raise StoreError(
            f"the axes of {name} do not ascend", expected="latitude from south to north, longitude from 0 east"
        )
    return Grid(lat, lon)


def _named(dims: Any, names: Sequence[str]) -> str:
    found = [name for name in names if name in dims]
    if not found:
        raise KeyError(names[0])
    return found[0]


def _conversion(array: xr.DataArray, variable: str, source: str) -> tuple[float, float]:
    wanted = "kg m-2 s-1" if variable == "pr" else "K"
    units = array.attrs.get("units")
    if units not in CONVERSIONS[wanted]:
        raise StoreError(
            f"{variable} of {source} is in units that are not known",
            found=repr(units),
            expected=", ".join(CONVERSIONS[wanted]),
            hint="set its units attribute to what the values are in",
        )
    return CONVERSIONS[wanted][units]
