"""Daily fields on disk, read a block of years or a band of rows at a time, whichever their chunks favour.

Invariant: nothing reads a whole scenario. Files are opened one by one and joined along time alone, so forcings on
other axes in the same files are never spread over the days.

Years have 365 days (calendar ``noleap``). The days of a store are consecutive and begin on 1 January; days may be
missing at its end alone (the ClimX files lack their last 31 December).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cftime
import netCDF4
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.errors import StoreError
from emukit.files import check_regular

DAYS = 365
SECONDS_PER_DAY = 86400.0
LAT_NAMES, LON_NAMES = ("lat", "latitude", "y"), ("lon", "longitude", "x")
# The units that days are handed out in.
UNITS = {
    "tas": "K",
    "tasmax": "K",
    "tasmin": "K",
    "pr": "kg m-2 s-1",
    "huss": "kg kg-1",
    "psl": "Pa",
    "sfcWind": "m s-1",
}
# Factor and offset from known units to those.
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
    "kg kg-1": {
        "kg kg-1": (1.0, 0.0),
        "kg/kg": (1.0, 0.0),
        "1": (1.0, 0.0),
        "g kg-1": (1e-3, 0.0),
        "g/kg": (1e-3, 0.0),
    },
    "Pa": {"Pa": (1.0, 0.0), "hPa": (100.0, 0.0), "mbar": (100.0, 0.0)},
    "m s-1": {"m s-1": (1.0, 0.0), "m/s": (1.0, 0.0)},
}
# Bounds of what a file may ask for: four times the cells of the ClimX grid in each direction, a thousand years, and
# what one chunk may unpack to, whatever little of it is wanted.
MOST_CELLS, MOST_DAYS, MOST_CHUNK_BYTES = 16 * 192 * 288, 1000 * DAYS, 1 << 30
# Of one block of days, in float32.
BLOCK_BYTES = 256 << 20
# Of unpacked chunks that the library keeps for each variable of each file.
CHUNK_CACHE = 4 << 20
# How the text begins that stands for a large file in a clone without Git LFS.
LFS = b"version https://git-lfs"
# Reading more than this times the days that are wanted is avoided where it can be.
MOST_REREAD = 1.5
READ_ERRORS = (OSError, ValueError, KeyError, RuntimeError, TypeError)


@dataclass(frozen=True, eq=False)
class _Part:
    """One file: its first day, counted from the first of the store, and how many it has."""

    ds: xr.Dataset
    first: int
    days: int


@dataclass(frozen=True, eq=False)
class DayBlock:
    """Some days of some rows of a variable.

    Attributes:
        start: First day, counted from the first of the store; a 1 January.
        rows: Rows of the grid.
        values: (D, rows, X): whole years, the last of which may lack days at its end.
    """

    start: int
    rows: slice
    values: NDArray[np.float32]


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

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of `UNITS` that every file holds."""
        return tuple(name for name in UNITS if all(name in part.ds.data_vars for part in self._parts))

    def check(self, variable: str) -> None:
        """Refuse a variable that cannot be read, without reading any value of it.

        Raises:
            StoreError: In some file it is missing, in unknown units, has other dimensions or chunks that are too large.
        """
        for part in self._parts:
            array, _, _ = self._variable(part.ds, variable)
            _conversion(array, variable, self.source)
            self._chunk(part.ds, variable)

    def chunks(self, variable: str) -> tuple[int, int] | None:
        """How many days and how many rows are packed together, in the file where it is most; None if nothing is.

        Raises:
            StoreError: The variable is missing, or one chunk of it is too large to unpack.
        """
        found = [chunk for part in self._parts if (chunk := self._chunk(part.ds, variable)) is not None]
        return (max(c[0] for c in found), max(c[1] for c in found)) if found else None

    def blocks(self, variable: str, memory: int = BLOCK_BYTES) -> Iterator[DayBlock]:
        """All values of a variable, each day and row once, in the order that reads the files fastest.

        A year at a time of all rows; or some rows of all days, where chunks hold many days of few rows; or several
        years at a time, where they hold many days of all rows.

        Args:
            variable: Its name.
            memory: Bytes of a block; a single year or a single band of chunks may be larger.

        Raises:
            StoreError: As `read`.
        """
        years, rows = self.plan(variable, memory)
        for row in range(0, self.grid.shape[0], rows):
            band = slice(row, min(row + rows, self.grid.shape[0]))
            for start in range(0, self.days, years * DAYS):
                yield DayBlock(start, band, self.read(variable, start, min(start + years * DAYS, self.days), band))

    def plan(self, variable: str, memory: int = BLOCK_BYTES) -> tuple[int, int]:
        """How many years and how many rows `blocks` reads at a time.

        Raises:
            StoreError: As `chunks`.
        """
        chunk = self.chunks(variable)
        all_rows, columns = self.grid.shape
        if chunk is None:
            return 1, all_rows
        packed_days, packed_rows = chunk
        bands = memory // (4 * self.days * columns * packed_rows) * packed_rows
        best = (float("inf"), 1)
        for years in range(1, max(memory // (4 * DAYS * columns * all_rows), 1) + 1):
            reread = _reread(self.days, years * DAYS, packed_days)
            best = min(best, (reread, years))
            if reread <= MOST_REREAD:
                return years, all_rows
            if years >= len(self.years):
                break
        return (len(self.years), min(bands, all_rows)) if bands else (best[1], all_rows)

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
        array, lat, lon = self._variable(ds, variable)
        factor, offset = _conversion(array, variable, self.source)
        array = array.isel({lat: rows, "time": slice(low, high)})
        self._chunk(ds, variable)
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

    def _variable(self, ds: xr.Dataset, variable: str) -> tuple[xr.DataArray, str, str]:
        """The variable, and the names of its latitudes and longitudes."""
        if variable not in ds:
            raise StoreError(f"{variable} is missing in {self.source}", found=", ".join(map(str, ds.data_vars)))
        array = ds[variable]
        try:
            lat, lon = _named(array.dims, LAT_NAMES), _named(array.dims, LON_NAMES)
            _named(array.dims, ("time",))
        except KeyError as e:
            raise StoreError(
                f"{variable} of {self.source} is not a daily field",
                found=f"dimensions {', '.join(map(str, array.dims))}",
                expected="time, lat and lon",
            ) from e
        return array, lat, lon

    def _chunk(self, ds: xr.Dataset, variable: str) -> tuple[int, int] | None:
        array, lat, _ = self._variable(ds, variable)
        chunk = check_chunk(array, f"{variable} of {self.source}")
        return (chunk["time"], chunk[lat]) if chunk else None


def check_chunk(array: xr.DataArray, name: str) -> dict[str, int]:
    """How many steps of each dimension are packed together; empty where nothing is.

    Raises:
        StoreError: One chunk is too large to unpack.
    """
    chunk = array.encoding.get("chunksizes") or array.encoding.get("chunks")
    if chunk is None:
        return {}
    size = int(np.prod([float(n) for n in chunk])) * array.dtype.itemsize
    if size > MOST_CHUNK_BYTES:
        raise StoreError(
            f"{name} is packed in chunks that are too large to read",
            found=f"{size / 1e9:.1f} GB in one chunk",
            expected=f"at most {MOST_CHUNK_BYTES / 1e9:.1f} GB",
            hint="write the files again with smaller chunks, a year of days for example",
        )
    return dict(zip(map(str, array.dims), map(int, chunk), strict=True))


def _reread(days: int, step: int, packed: int) -> float:
    """How many days are unpacked for each one wanted, where `step` days are read at a time, packed so many together."""
    starts = np.arange(0, days, step)
    stops = np.minimum(starts + step, days)
    unpacked = np.minimum(-(-stops // packed) * packed, days) - starts // packed * packed
    return float(unpacked.sum() / days)


def open_daily(paths: Sequence[Path | str], stack: ExitStack) -> DailyStore:
    """Open one Zarr store or NetCDF file, or several that follow each other in time.

    Args:
        paths: The files, in any order.
        stack: Closes them.

    Raises:
        StoreError: A file cannot be read, has another calendar or grid, or the days are not consecutive from a
            1 January on.
    """
    return join_days([(open_file(Path(p), stack), str(p)) for p in paths])


def join_days(files: Sequence[tuple[xr.Dataset, str]]) -> DailyStore:
    """The days of open datasets, each with its name for messages, in any order.

    Raises:
        StoreError: One has another calendar or grid, or the days are not consecutive from a 1 January on.
    """
    opened = sorted(((_first_day(ds, name), ds, name) for ds, name in files), key=lambda one: one[0])
    first, _, first_name = opened[0]
    grid = read_grid(*opened[0][1:])
    if first % DAYS:
        raise StoreError(
            f"{first_name} does not begin on 1 January",
            found=f"day {first % DAYS + 1} of year {first // DAYS}",
            hint="pass whole years",
        )
    parts: list[_Part] = []
    for day, ds, name in opened:
        begin, expected = day - first, sum(part.days for part in parts)
        if begin != expected:
            raise StoreError(
                f"{name} does not follow the days before it",
                found=f"its first day is {begin - expected:+d} days from where they end",
                hint="pass files without gaps or overlaps",
            )
        if read_grid(ds, name) != grid:
            raise StoreError(f"{name} is on another grid than {first_name}")
        parts.append(_Part(ds, begin, ds.sizes["time"]))
    source = ", ".join(name for _, _, name in opened)
    return DailyStore(source, parts, grid, first // DAYS)


def open_file(path: Path, stack: ExitStack) -> xr.Dataset:
    """A Zarr store or NetCDF file, lazy, times as they are stored.

    Args:
        path: A folder, or a regular file.
        stack: Closes it.

    Raises:
        StoreError: It cannot be read.
    """
    try:
        if not path.is_dir():
            check_regular(path)
        engine: Any = "zarr" if path.is_dir() else "netcdf4"
        # HDF5 keeps chunks of every variable it has read: by default 1.3 GB of seven variables in four files.
        netCDF4.set_chunk_cache(CHUNK_CACHE)
        return stack.enter_context(xr.open_dataset(path, engine=engine, chunks=None, decode_times=False))
    except READ_ERRORS as e:
        found, hint = str(e).splitlines()[0], ""
        if path.is_file():
            size = path.stat().st_size
            if _is_pointer(path):
                found, hint = (
                    "a pointer of Git LFS, not the file itself",
                    "run `git lfs pull`, or download the file again",
                )
            else:
                found += f", {size:,} bytes"
                hint = "an interrupted download reads so: compare the size with the source's, and download it again"
        raise StoreError(f"cannot read {path}", found=found, expected="Zarr or NetCDF", hint=hint) from e


def _is_pointer(path: Path) -> bool:
    """Whether a file is what a clone without Git LFS leaves in the place of a large file."""
    try:
        with path.open("rb") as f:
            return f.read(len(LFS)) == LFS
    except OSError:
        return False


def _first_day(ds: xr.Dataset, name: str) -> int:
    """Days from 1 January of year 0 to the first of a file; refuses what are not consecutive days of 365-day years."""
    if "time" not in ds.variables or ds.sizes.get("time", 0) == 0:
        raise StoreError(f"{name} has no time axis", found=", ".join(map(str, ds.dims)))
    if ds.sizes["time"] > MOST_DAYS:
        raise StoreError(f"{name} is too long", found=f"{ds.sizes['time']:,} days", expected=f"at most {MOST_DAYS:,}")
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
        # Small whole numbers would begin again from below, as if the days went on.
        values, units = time.values.astype(np.float64), str(time.attrs["units"])
        if missing := int(np.isnan(values).sum()):
            raise ValueError(f"{missing:,} of {values.size:,} missing")
        # Where all are a day apart, as usual, the first tells the others; tens of thousands of dates take a while.
        even = units.startswith("days ") and values.ndim == 1 and bool((np.diff(values) == 1).all())
        stamps = cftime.num2date(values[:1] if even else values, units, calendar="noleap")
        days = np.array([s.year * DAYS + s.dayofyr - 1 for s in np.atleast_1d(stamps)])
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError) as e:
        raise StoreError(
            f"the time stamps of {name} cannot be read",
            found="no attribute units" if isinstance(e, KeyError) else str(e),
            expected="one number a day, in units such as days since 2015-01-01",
            hint="correct the variable time of the file, or download it again",
        ) from e
    if (np.diff(days) != 1).any():
        at = int((np.diff(days) != 1).argmax())
        raise StoreError(
            f"the days of {name} are not consecutive",
            found=f"{stamps[at]}, then {stamps[at + 1]}",
            expected="each day once, in order, none left out",
            hint="sort or complete the file, or download it again",
        )
    return int(days[0])


def read_grid(ds: xr.Dataset, name: str) -> Grid:
    """The grid of a dataset.

    Raises:
        StoreError: It has none, one that is too large, or one whose axes do not ascend.
    """
    cells = [ds.sizes[d] for names in (LAT_NAMES, LON_NAMES) for d in names if d in ds.dims]
    if np.prod(cells) > MOST_CELLS:
        raise StoreError(f"the grid of {name} is too large", found=f"{cells}", expected=f"at most {MOST_CELLS:,} cells")
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
    wanted = UNITS.get(variable)
    if wanted is None:
        raise StoreError(f"{variable} is not a daily variable that emukit reads", expected=", ".join(UNITS))
    units = array.attrs.get("units")
    if units not in CONVERSIONS[wanted]:
        raise StoreError(
            f"{variable} of {source} is in units that are not known",
            found=repr(units),
            expected=", ".join(CONVERSIONS[wanted]),
            hint="set its units attribute to what the values are in",
        )
    return CONVERSIONS[wanted][units]
