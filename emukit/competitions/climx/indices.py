"""From daily fields to annual indices of extremes, as NetCDF or as a ClimX submission.

Invariant: indices are only ever computed from daily fields, and what is written names these by their SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from emukit import provenance
from emukit.competitions.climx.score import base_percentiles
from emukit.competitions.climx.submission import FIRST_YEAR, LAST_YEAR, ROWS, write_submission
from emukit.data.archive import Archive
from emukit.data.daily import DAYS, open_daily
from emukit.data.grid import Grid
from emukit.errors import EmukitError, StoreError
from emukit.files import atomic_path, parse_json, read_text, sha256, write_text
from emukit.metrics.extremes import INDICES, UNITS, VARIABLES, Thresholds, indices_by_year, thresholds_of
from emukit.outputs import MARK, Kind, marked, netcdf_kind, new_output, refuse_taken
from emukit.progress import Reporter

INDICES_MARK = "indices"

LONG_NAMES = {
    "TXx": "annual maximum of daily maximum temperature",
    "TNn": "annual minimum of daily minimum temperature",
    "SU": "summer days: maximum above 25 degC",
    "TR": "tropical nights: minimum above 20 degC",
    "FD": "frost days: minimum below 0 degC",
    "ID": "icing days: maximum below 0 degC",
    "WSDI": "days in warm spells: at least six in a row above the 90th percentile of tasmax",
    "CSDI": "days in cold spells: at least six in a row below the 10th percentile of tasmin",
    "GSL": "growing season length: from six days in a row of at least 5 degC to six below, after 1 July",
    "Rx5day": "largest precipitation of five days in a row",
    "CDD": "longest run of days below 1 mm",
    "CWD": "longest run of days above 1 mm",
    "R95p": "precipitation on days above the 95th percentile",
    "R10mm": "days of at least 10 mm",
    "SDII": "mean precipitation of days of at least 1 mm",
}


@dataclass(frozen=True, eq=False)
class Percentiles:
    """Thresholds on a grid, and what they were computed from.

    Attributes:
        values: On (365, Y X).
        grid: The grid of these cells.
        period: First and last year of the base period.
        base_sha256: Digest of the daily values of the base period.
    """

    values: Thresholds
    grid: Grid
    period: tuple[int, int]
    base_sha256: str

    def save(self, path: Path) -> None:
        """Write as NetCDF."""
        shape = (DAYS, *self.grid.shape)
        fields = {
            name: (("dayofyear", "lat", "lon"), getattr(self.values, name).reshape(shape))
            for name in Thresholds.QUANTILES
        }
        coords = {"dayofyear": np.arange(1, DAYS + 1), "lat": self.grid.lat, "lon": self.grid.lon}
        attributes = {"base_period": list(self.period), "base_sha256": self.base_sha256}
        with atomic_path(path) as temporary:
            xr.Dataset(fields, coords, attributes).to_netcdf(temporary)

    @classmethod
    def load(cls, path: Path) -> Percentiles:
        """The inverse of `save`.

        Raises:
            StoreError: The file is missing, or holds something else.
        """
        try:
            with xr.open_dataset(path, engine="netcdf4", chunks=None) as ds:
                values = Thresholds(**{n: ds[n].to_numpy().reshape(DAYS, -1) for n in Thresholds.QUANTILES})
                first, last = (int(year) for year in ds.attrs["base_period"])
                return cls(values, Grid(ds.lat.to_numpy(), ds.lon.to_numpy()), (first, last), ds.attrs["base_sha256"])
        except (OSError, KeyError, ValueError, TypeError, AttributeError) as e:
            raise StoreError(
                f"{path} does not hold percentiles", found=str(e).splitlines()[0], hint="compute them again with --base"
            ) from e


def check_output(out: Path, overwrite: bool = False) -> None:
    """Refuse a place that `write_indices` could not write to, before anything is computed for it.

    Raises:
        EmukitError: The ending is not one that it writes, or the place is taken.
    """
    refuse_taken(out, _kind(out), overwrite)


def _kind(out: Path) -> Kind:
    ending = out.suffix.lower()
    if ending == ".nc":
        return netcdf_kind("a file of `emukit indices`", marked(INDICES_MARK))
    if ending in (".parquet", ".csv"):
        return Kind("a submission of `emukit indices`", _strange_submission, folder=False)
    raise EmukitError(f"cannot tell what to write to {out}", expected="a name that ends in .nc, .parquet or .csv")


def _strange_submission(path: Path) -> str:
    try:
        kept = parse_json(read_text(_origin(path)))
        own = isinstance(kept, dict) and kept.get("sha256") == sha256(path)
    except (OSError, ValueError):
        own = False
    return "" if own else "a folder" if path.is_dir() else "a file of another origin"


def _origin(submission: Path) -> Path:
    """Where the digests of a submission are kept."""
    return submission.with_name(f"{submission.name}.json")


def parse_period(text: str) -> tuple[int, int]:
    """``1961-1990`` as two years.

    Raises:
        EmukitError: It is something else.
    """
    first, _, last = text.partition("-")
    if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise EmukitError(f"cannot read the base period {text!r}", expected="FIRST-LAST", hint="--period 1961-1990")
    return int(first), int(last)


def find_percentiles(base: Sequence[Path], kept: Path | None, period: tuple[int, int], report: Reporter) -> Percentiles:
    """Percentiles from the file that keeps them where it exists, else computed, and kept there.

    Raises:
        EmukitError: There is neither a file nor a historical run, or the file is of another period.
        StoreError: The historical run cannot be read.
    """
    if kept is not None and kept.exists():
        found = Percentiles.load(kept)
        if found.period != period:
            raise EmukitError(
                f"{kept} holds percentiles of another base period",
                found=f"{found.period[0]}-{found.period[1]}",
                expected=f"{period[0]}-{period[1]}",
                hint="name another --thresholds file, or the --period of this one",
            )
        report.say(f"percentiles: from {kept}{', --base is not read' if base else ''}")
        return found
    if not base:
        raise EmukitError(
            "WSDI, CSDI and R95p need percentiles of a historical run",
            hint="--base HISTORICAL.nc, repeated for each of its files",
        )
    computed = compute_percentiles(base, period, report)
    if kept is not None:
        computed.save(kept)
    return computed


def compute_percentiles(paths: Sequence[Path], period: tuple[int, int], report: Reporter) -> Percentiles:
    """Percentiles of the base period of a historical run.

    Raises:
        StoreError: The files cannot be read, or do not hold the period.
    """
    with ExitStack() as stack:
        store = open_daily(paths, stack)
        report.say(f"percentiles: {period[0]}-{period[1]} of {store.source}")
        values, digest = thresholds_of(store, *period)
        return Percentiles(values, store.grid, period, digest)


def compute_indices(paths: Sequence[Path], percentiles: Percentiles, report: Reporter) -> xr.Dataset:
    """The fifteen annual indices of a daily store.

    Args:
        paths: One Zarr store, or NetCDF files that follow each other in time.
        percentiles: Of the base period, on the same grid.
        report: Shows the years as they pass.

    Returns:
        The indices on (year, lat, lon) in float64, with the digests of the daily values and of the base period.

    Raises:
        StoreError: The files cannot be read, lack a variable, or are on another grid.
    """
    with ExitStack() as stack:
        store = open_daily(paths, stack)
        if store.grid != percentiles.grid:
            raise StoreError(
                f"{store.source} is on another grid than the percentiles",
                found=f"{store.grid.shape}",
                expected=f"{percentiles.grid.shape}",
                hint="compute percentiles from a historical run on the same grid",
            )
        digest = hashlib.sha256(" ".join(VARIABLES).encode())
        out = {name: np.empty((len(store.years), *store.grid.shape)) for name in INDICES}
        with report.step("indices", len(store.years)) as step:
            for i, (year, values) in enumerate(indices_by_year(store, percentiles.values, digest.update)):
                for name in INDICES:
                    out[name][i] = values[name]
                step.advance(note=str(year))
    coords = {"year": list(store.years), "lat": store.grid.lat, "lon": store.grid.lon}
    data = {n: (("year", "lat", "lon"), out[n], {"units": UNITS[n], "long_name": LONG_NAMES[n]}) for n in INDICES}
    return xr.Dataset(
        data,
        coords,
        {
            "history": f"{provenance.now()} emukit indices",
            "daily_sha256": digest.hexdigest(),
            "base_sha256": percentiles.base_sha256,
            "base_period": list(percentiles.period),
        },
    )


def submission_from_store(store: Path, archive: Archive, out: Path) -> int:
    """Write the submission of a daily store that was predicted, with percentiles of the data it was trained on.

    Args:
        store: Daily fields of 2015 to 2100.
        archive: The training data, with the base period of the historical run.
        out: ``.parquet`` or ``.csv``.

    Returns:
        The number of rows.

    Raises:
        EmukitError: The years are others, or the competition would refuse the content.
    """
    values, period, digest = base_percentiles(archive)
    report = Reporter(quiet=True)
    indices = compute_indices([store], Percentiles(values, archive.grid, period, digest), report)
    write_indices(indices, out)
    return ROWS


def write_indices(indices: xr.Dataset, out: Path, overwrite: bool = False) -> str:
    """Write indices by the ending of the name: ``.nc``, or a ClimX submission in ``.parquet`` or ``.csv``.

    A submission gets ``NAME.json`` next to it: its own digest, and those of the daily fields and the base period.

    Returns:
        What was written, in words.

    Raises:
        EmukitError: The ending is another, the place is taken, or the content is not a valid submission.
    """
    if out.suffix.lower() == ".nc":
        with new_output(out, _kind(out), overwrite) as temporary:
            indices.assign_attrs({MARK: INDICES_MARK}).to_netcdf(temporary)
        return f"{len(INDICES)} indices, {indices.year.values[0]} to {indices.year.values[-1]}"
    years = (int(indices.year.values[0]), int(indices.year.values[-1]))
    if years != (FIRST_YEAR, LAST_YEAR):
        raise EmukitError(
            "these years are not a ClimX submission's",
            found=f"{years[0]} to {years[1]}",
            expected=f"{FIRST_YEAR} to {LAST_YEAR}",
            hint="name a file that ends in .nc to keep indices of other years",
        )
    check_output(out, overwrite)
    rows = write_submission(out, {name: indices[name].to_numpy() for name in INDICES})
    kept = {"sha256": sha256(out), **{k: _plain(v) for k, v in indices.attrs.items()}}
    write_text(_origin(out), json.dumps(kept, indent=1))
    return f"{rows:,} rows of {len(INDICES)} indices"


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value
