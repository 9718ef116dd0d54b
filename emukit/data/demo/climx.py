"""Write the daily demo climate as a folder in the layout of the ClimX files.

Invariant: files appear together or not at all, and one block of days is in memory at a time. The targets of the test
scenario are in none of the folder's files; they are written to a folder of their own where that is asked for.

The layout is that of the organisers' lite files as far as it is known, what is odd about it included: historical
targets cut in two files, the last 31 December missing, stamps of months that drift, stamps of years computed in another
calendar, emissions in float32 of the historical run and in float64 of scenarios, without units. The exact names of
their files are not known, only the patterns that these names fit.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np

from emukit.data.daily import DAYS
from emukit.data.demo.daily import (
    AEROSOLS,
    BLOCK_DAYS,
    GASES,
    HIDDEN,
    HISTORICAL,
    VARIABLES,
    Array,
    DailyClimate,
    Field,
)
from emukit.data.demo.response import SCENARIOS
from emukit.errors import EmukitError
from emukit.files import read_text
from emukit.outputs import MARK, Kind, marked, netcdf_kind, new_output, refuse_taken
from emukit.progress import Reporter, Step, default_reporter

PREFIX = "climx_demo"
TRUTH = f"{PREFIX}_test_targets_{HIDDEN}.nc"
README = "README.md"
DEMO_MARK = "climx-demo"
_NOTE = """# A generated climate in the layout of ClimX

`emukit data demo --like climx-lite` made these files. Nothing in them was observed, simulated by a climate model or
released by the organisers of ClimX. Licence: Apache-2.0, as emukit.
"""
_UNITS = {
    "tas": ("K", "air_temperature", "daily mean near-surface air temperature"),
    "tasmax": ("K", "air_temperature", "daily maximum near-surface air temperature"),
    "tasmin": ("K", "air_temperature", "daily minimum near-surface air temperature"),
    "pr": ("kg m-2 s-1", "precipitation_flux", "precipitation"),
    "huss": ("kg/kg", "specific_humidity", "near-surface specific humidity"),
    "psl": ("Pa", "air_pressure_at_mean_sea_level", "sea level pressure"),
    "sfcWind": ("m/s", "wind_speed", "near-surface wind speed"),
}
# Larger chunks would make a reader of one cell unpack too much, smaller ones a reader of one year seek too much.
_CHUNK_BYTES = 4 << 20
# The months of 1850-2014 in the organisers' files: from 1850-01-17 to 2014-12-18, taken to be evenly spaced.
_FIRST_STAMP, _MONTH_STEP = 16.0, 60195 / 1979
_FILE = netcdf_kind("a file of `emukit data demo`", marked(DEMO_MARK))


def _strange(folder: Path) -> str:
    if not folder.is_dir():
        return "a file"
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            return f"{path.name}, a link"
        if path.name == README:
            try:
                own = read_text(path) == _NOTE
            except (OSError, ValueError):
                own = False
            found = "" if own else "another text"
        else:
            found = _FILE.strange(path)
        if found:
            return f"{path.name}, {found}"
    return ""


KIND = Kind("a folder of `emukit data demo --like climx-lite`", _strange)


@dataclass(frozen=True)
class _File:
    """One file: some whole blocks of the days of a scenario, and all of its forcings."""

    name: str
    scenario: str
    first_block: int
    last_block: int
    targets: bool = True
    forcings: bool = True


def write_climx_demo(
    climate: DailyClimate,
    out: Path | str,
    truth: Path | str | None = None,
    reporter: Reporter | None = None,
    *,
    overwrite: bool = False,
) -> list[str]:
    """Write the folder, file by file.

    Args:
        climate: What to write.
        out: The folder to make.
        truth: Where the daily targets of ssp245 go, in a folder of their own; None: they are not written.
        reporter: Where progress goes; standard error by default.
        overwrite: Whether what this function wrote there before may be replaced.

    Returns:
        The names of the files in `out`, in the order in which they were written.

    Raises:
        EmukitError: A place is taken, lies inside the other, or cannot be written.
    """
    out = Path(out)
    targets = [(out, _files(climate))]
    if truth is not None:
        truth = Path(truth)
        # Resolved: a link on the way would let the truth in among the files that hide it.
        if _inside(truth, out) or _inside(out, truth):
            raise EmukitError(
                "the truth would lie among the files that hide it",
                found=f"{truth} and {out}",
                expected="two folders, neither inside the other",
                hint="name another --truth",
            )
        blocks = -(-climate.days(HIDDEN) // BLOCK_DAYS)
        targets.append((truth, [_File(TRUTH, HIDDEN, 0, blocks, forcings=False)]))
    for folder, option in ((out, "OUT"), (truth, "--truth")):
        if folder is not None:
            refuse_taken(folder, KIND, overwrite, option)
    total = sum(f.last_block - f.first_block for _, files in targets for f in files if f.targets)
    with ExitStack() as stack:
        step = stack.enter_context((reporter or default_reporter()).step("daily demo climate", total))
        for folder, files in targets:
            temporary = stack.enter_context(new_output(folder, KIND, overwrite))
            temporary.mkdir()
            (temporary / README).write_text(_NOTE, encoding="utf-8")
            for scenario in dict.fromkeys(f.scenario for f in files):
                _write_scenario(climate, temporary, [f for f in files if f.scenario == scenario], step)
    return [f.name for f in targets[0][1]]


def _inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _files(climate: DailyClimate) -> list[_File]:
    blocks = {s: -(-climate.days(s) // BLOCK_DAYS) for s in (HISTORICAL, *SCENARIOS)}
    # The published files are cut after 82 of 165 years.
    half = len(climate.span(HISTORICAL)) // 2 * (DAYS // BLOCK_DAYS)
    files = [
        _File(f"{PREFIX}_hist_train_1.nc", HISTORICAL, 0, half),
        _File(f"{PREFIX}_hist_train_2.nc", HISTORICAL, half, blocks[HISTORICAL]),
    ]
    files += [_File(f"{PREFIX}_{s}_train.nc", s, 0, blocks[s]) for s in SCENARIOS if s != HIDDEN]
    return [*files, _File(f"{PREFIX}_test_forcings_{HIDDEN}.nc", HIDDEN, 0, 0, targets=False)]


def _write_scenario(climate: DailyClimate, folder: Path, files: Sequence[_File], step: Step) -> None:
    blocks = climate.blocks(files[0].scenario)
    for file in files:
        with _created(folder / file.name, climate, file.scenario) as ds:
            if file.forcings:
                _write_forcings(ds, climate, file.scenario)
            if file.targets:
                _write_targets(ds, climate, file, blocks, step)


@contextmanager
def _created(path: Path, climate: DailyClimate, scenario: str) -> Iterator[Any]:
    """A new NetCDF-4 file with what every file has."""
    with netCDF4.Dataset(os.fspath(path), "w", format="NETCDF4", clobber=False) as ds:
        ds.setncatts(
            {
                "title": "Generated daily climate in the layout of ClimX",
                "source": "emukit daily demo climate: made up, not a climate model",
                "license": "Apache-2.0",
                "demo_settings": json.dumps(climate.settings),
                MARK: DEMO_MARK,
            }
        )
        grid = climate.planet.grid
        ds.createDimension("forcing_scenario", 1)
        ds.createVariable("forcing_scenario", str, ("forcing_scenario",))[0] = scenario
        for name, values, units in (("lat", grid.lat, "degrees_north"), ("lon", grid.lon, "degrees_east")):
            ds.createDimension(name, len(values))
            axis = ds.createVariable(name, "f8", (name,))
            axis.setncatts({"units": units, "standard_name": "latitude" if name == "lat" else "longitude"})
            axis[:] = values
        yield ds


def _write_forcings(ds: Any, climate: DailyClimate, scenario: str) -> None:
    span, kind = climate.span(scenario), "f4" if scenario == HISTORICAL else "f8"
    _time(ds, "time_year", span[0], _year_stamps(span))
    _time(ds, "time_month", span[0], _month_stamps(scenario, len(span)))
    for name in GASES:
        ds.createVariable(name, "f4", ("forcing_scenario", "time_year"))[0] = climate.gas(name, scenario)
    cells = climate.planet.grid.shape
    for name in AEROSOLS:
        field = ds.createVariable(
            name,
            kind,
            ("forcing_scenario", "time_month", "lat", "lon"),
            zlib=True,
            complevel=1,
            chunksizes=(1, 12, *cells),
        )
        for i, year in enumerate(span):
            field[0, 12 * i : 12 * (i + 1)] = climate.aerosol(name, scenario, year)


def _write_targets(ds: Any, climate: DailyClimate, file: _File, blocks: Iterator[dict[str, Field]], step: Step) -> None:
    first = file.first_block * BLOCK_DAYS
    days = min(file.last_block * BLOCK_DAYS, climate.days(file.scenario)) - first
    _time(ds, "time", climate.span(file.scenario)[0], first + np.arange(days) + 0.5)
    rows, columns = climate.planet.grid.shape
    chunk = (1, min(days, max(_CHUNK_BYTES // (4 * rows * columns), 1), DAYS), rows, columns)
    fields = {}
    for name in VARIABLES:
        units, standard, long = _UNITS[name]
        fields[name] = ds.createVariable(
            name, "f4", ("forcing_scenario", "time", "lat", "lon"), zlib=True, complevel=1, chunksizes=chunk
        )
        fields[name].setncatts({"units": units, "standard_name": standard, "long_name": long})
    done = 0
    for _ in range(file.last_block - file.first_block):
        block = next(blocks)
        size = len(block["tas"])
        for name, values in block.items():
            fields[name][0, done : done + size] = values
        done += size
        step.advance(note=file.scenario)


def _time(ds: Any, name: str, first_year: int, days: Any) -> None:
    ds.createDimension(name, len(days))
    axis = ds.createVariable(name, "f8", (name,))
    axis.setncatts({"units": f"days since {first_year}-01-01 00:00:00", "calendar": "noleap", "standard_name": "time"})
    axis[:] = days


def _year_stamps(span: range) -> Array:
    """The middle of each year in the ordinary calendar, as the same date in noleap: 2 July, 12:00 or 00:00."""
    leap = np.array([year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) for year in span])
    return np.asarray(np.arange(len(span)) * DAYS + np.where(leap, 182.0, 182.5), np.float64)


def _month_stamps(scenario: str, years: int) -> Array:
    """The 15th of each month of a scenario; even steps that drift against the months of the historical run."""
    if scenario == HISTORICAL:
        return np.asarray(_FIRST_STAMP + np.arange(12 * years) * _MONTH_STEP, np.float64)
    starts = np.cumsum([0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30])
    return np.asarray((np.arange(years)[:, None] * DAYS + starts + 14).ravel(), np.float64)
