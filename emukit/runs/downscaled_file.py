"""Coarse fields in a file, fine fields in a Zarr store: any length in constant memory, and resumable.

Invariant: a store that has its name is whole. What is being written lies next to it in ``.NAME.partial``, with a count
of the steps that are done; the same command continues there, and gives the numbers it would have given at once.

    progress.json    what the work is, and how many steps are done
    store            the store
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.chunk_files import READ_ERRORS, read_problem
from emukit.data.coarsen import in_context
from emukit.data.decode import Axes, Findings, read_axes, read_time
from emukit.data.grid import Grid
from emukit.data.source import open_source
from emukit.data.time import TimeAxis
from emukit.data.units import same_units
from emukit.emulators.neural_downscaler import NeuralDownscaler
from emukit.errors import EmukitError, RunError, StoreError
from emukit.files import LOCK_FILE, PART, exclusive, parse_json, read_text, remove_folder, write_text
from emukit.outputs import MARK, marked, refuse_taken, zarr_kind
from emukit.progress import Reporter

DOWNSCALED = "downscaled"
KIND = zarr_kind("what `emukit downscale` wrote", marked(DOWNSCALED))
PROGRESS, STORE = "progress.json", "store"
# What zarr calls a chunk that it has not written to its end.
_TORN = re.compile(r".*\.[0-9a-f]{32}\.partial")
# Bytes of fine fields, in double precision, that are computed together at most; one step at least.
_PART_BYTES = 64 << 20


@dataclass(frozen=True)
class Region:
    """A box of latitudes and longitudes, degrees; longitudes go eastward and may cross any meridian."""

    south: float
    north: float
    west: float
    east: float

    @classmethod
    def parse(cls, text: str) -> Region:
        """``LAT0,LAT1,LON0,LON1``.

        Raises:
            EmukitError: It is something else.
        """
        try:
            south, north, west, east = (float(word) for word in text.split(","))
        except ValueError:
            south = north = west = east = float("nan")
        if not (-90 <= south < north <= 90 and np.isfinite([west, east]).all() and west != east):
            raise EmukitError(
                f"cannot read --region {text!r}",
                expected="LAT0,LAT1,LON0,LON1 in degrees, LAT0 below LAT1, LON0 west of LON1",
                hint="--region 35,72,-12,42",
            )
        return cls(south, north, west, east)

    def cells(self, downscaler: NeuralDownscaler) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows and columns of the fine grid whose middles are inside.

        Raises:
            EmukitError: None is.
        """
        grid = downscaler.domain.grid
        rows = np.flatnonzero((grid.lat >= self.south) & (grid.lat <= self.north))
        width = (self.east - self.west) % 360.0 or 360.0
        offset = (grid.lon - self.west) % 360.0
        inside = np.flatnonzero(offset <= width)
        columns = inside[np.argsort(offset[inside])]
        if not len(rows) or not len(columns):
            raise EmukitError("no cell of the fine grid is in the region", hint="name a larger --region")
        return rows, columns


@dataclass(frozen=True)
class CoarseFile:
    """A file of fields, seen but not read.

    Attributes:
        dataset: Open.
        variables: Names, in the order of the downscaler's.
        axes: How fields lie.
        time: The steps.
        fine: Whether fields are on the fine grid, and are coarsened first.
    """

    dataset: xr.Dataset
    variables: tuple[str, ...]
    axes: Axes
    time: TimeAxis
    fine: bool

    def read(self, downscaler: NeuralDownscaler, part: slice) -> NDArray[np.float64]:
        """(T, (1 + 2 context) V, y, x) coarse fields of some steps, with those of the steps that its `context` reads.

        Raises:
            StoreError: They cannot be read, or are not finite.
        """
        context = downscaler.context
        first, last = max(part.start - context, 0), min(part.stop + context, len(self.time))
        fields = []
        for name in self.variables:
            lazy = self.dataset[name].isel(time=slice(first, last)).transpose("time", self.axes.lat, self.axes.lon)
            try:
                fields.append(self.axes.orient(lazy.values))
            except READ_ERRORS as e:
                raise read_problem(f"{name} cannot be read", e) from e
        out = np.stack(fields, 1).astype(np.float64)
        if not np.isfinite(out).all():
            wrong = int(np.flatnonzero(~np.isfinite(out).all((1, 2, 3)))[0]) + first
            raise StoreError(
                f"coarse fields are not finite at {self.time.text(wrong)}",
                expected="a number in every cell",
                hint="fill what is missing first",
            )
        coarse = downscaler.coarsening.down(out) if self.fine else out
        return np.asarray(in_context(coarse, context)[part.start - first : part.stop - first])


def look_at(dataset: xr.Dataset, source: str, downscaler: NeuralDownscaler) -> CoarseFile:
    """Find a downscaler's coarse fields in a dataset.

    Args:
        dataset: With the variables on time, latitude and longitude.
        source: Where it is from, for messages.
        downscaler: Whose grids and variables they must have.

    Raises:
        StoreError: A variable is missing, has other units or dimensions, or is on another grid.
    """
    domain, findings = downscaler.domain, Findings()
    missing = [v for v in domain.variables if v not in dataset]
    if missing:
        raise StoreError(
            f"{source} lacks {', '.join(missing)}",
            found=", ".join(map(str, dataset.data_vars)),
            expected=", ".join(domain.variables),
        )
    found = None
    for variable in domain.described:
        array = dataset[variable.name]
        if "time" not in array.dims or array.ndim != 3:
            others = [f"{d}=0" for d in array.dims[:-2] if d != "time"]
            raise StoreError(
                f"{variable.name} of {source} is not one field for each step",
                found=f"dimensions {', '.join(map(str, array.dims))}",
                expected="time, latitude, longitude",
                hint=f"choose one of each first: ds.isel({', '.join(others)})"
                + (", or `emukit predict` without --members" if "member" in array.dims else "")
                if others
                else "",
            )
        if array.dtype.kind not in "iuf":
            raise StoreError(
                f"{variable.name} of {source} does not hold numbers",
                found=str(array.dtype),
                expected="real numbers in every cell",
                hint="write it again as floats",
            )
        stated = str(array.attrs.get("units", variable.units))
        if not (stated in variable.spellings or same_units(stated, variable.units)):
            raise StoreError(
                f"{variable.name} of {source} is in other units", found=stated, expected=variable.units,
                hint="convert it first",
            )  # fmt: skip
        found = read_axes(dataset, variable.name, findings)
        findings.check()
    assert found is not None
    axes, grid = found
    coarse, fine = downscaler.coarsening.grid, domain.grid
    close = [g.shape == grid.shape and _same(g.lat, grid.lat) and _same(g.lon, grid.lon) for g in (coarse, fine)]
    if not any(close):
        raise StoreError(
            f"the fields of {source} are on another grid",
            found=_in_words(grid),
            expected=f"{_in_words(coarse)}; or the fine grid, {_in_words(fine)}",
            hint="average them onto that grid first",
        )
    time = read_time(dataset, domain.time.step, findings)
    findings.check()
    assert time is not None
    if not time.same_steps(domain.time):
        raise StoreError(
            f"the steps of {source} are not those of the training",
            found=time.describe(),
            expected=domain.time.describe(),
        )
    return CoarseFile(dataset, domain.variables, axes, time, fine=not close[0])


def _in_words(grid: Grid) -> str:
    (rows, columns), lat, lon = grid.shape, grid.lat[0], grid.lon[0]
    return f"{rows} x {columns} cells from latitude {lat:.2f}, longitude {lon:.2f}"


def _same(a: NDArray[np.float64], b: NDArray[np.float64]) -> bool:
    # Coarse cells of rounded coordinates are still the same cells.
    return bool(np.abs((a - b + 180) % 360 - 180).max() < 0.05)


def downscale_file(
    downscaler: NeuralDownscaler,
    fields: Path,
    out: Path,
    *,
    members: int | None = None,
    region: Region | None = None,
    overwrite: bool = False,
    about: str = "",
    reporter: Reporter,
) -> int:
    """Downscale a file into a Zarr store.

    Args:
        downscaler: A trained one.
        fields: NetCDF or Zarr with the variables on (time, latitude, longitude), on the coarse grid; or on the fine
            grid, from which they are coarsened first.
        out: A new store, ending in ``.zarr``.
        members: Realisations, along a dimension ``member``; None: one, without it.
        region: A part of the globe; the same numbers as its part of the whole.
        overwrite: Whether a store that this function wrote may be replaced.
        about: How it was made, for the store's attribute `history`.
        reporter: Shows progress.

    Returns:
        Steps written.

    Raises:
        RunError: Realisations are asked of a downscaler that draws none, or the partial store is of other work.
        StoreError: The fields do not fit.
        EmukitError: The place is taken.
    """
    if members is not None and not downscaler.draws:
        raise RunError(
            "this downscaler has one answer, not an ensemble",
            expected="one trained with --objective crps or another that draws realisations",
            hint="leave out --members",
        )
    if out.suffix != ".zarr":
        raise RunError(f"cannot tell the format of {out}", found=out.suffix or "no suffix", expected=".zarr")
    refuse_taken(out, KIND, overwrite)
    grid = downscaler.domain.grid
    rows, columns = (np.arange(n) for n in grid.shape)
    if region is not None:
        rows, columns = region.cells(downscaler)
    partial = out.with_name(f".{out.name}.partial")
    _refuse_strange(partial)
    with open_source(fields) as source:
        file = look_at(source.ds, str(fields), downscaler)
        if file.fine:
            reporter.say(f"note: {fields} is on the fine grid: its fields are coarsened first")
        cells = len(rows) * len(columns)
        steps = max(1, min(48, _PART_BYTES // (8 * cells * len(file.variables))))
        lon = _eastward(grid.lon[columns], region.west if region else float(grid.lon[0]))
        fine = _FineStore(downscaler, file, rows, columns, lon, members, steps)
        work = fine.digest(_stamp(fields))
        with exclusive(partial):
            done = _begin(partial, work, fine, about)
            arrays = _arrays(partial / STORE, file.variables)
            with reporter.step(f"downscaling to {out}", len(file.time)) as bar, _removed_when_refused(partial):
                bar.advance(done)
                for first in range(done, len(file.time), steps):
                    part = slice(first, min(first + steps, len(file.time)))
                    coarse, time = file.read(downscaler, part), file.time[part]
                    for number in range(members or 1):
                        said = _single(downscaler.fields(coarse, time, rows, columns, number), time, str(fields))
                        for v, array in enumerate(arrays):
                            if members is None:
                                array[part] = said[:, v]
                            else:
                                array[number, part] = said[:, v]
                    write_text(partial / PROGRESS, json.dumps({"work": work, "done": part.stop}))
                    bar.advance(part.stop - part.start)
        if refuse_taken(out, KIND, overwrite):
            remove_folder(out)
        (partial / STORE).rename(out)
        remove_folder(partial)
    return len(file.time)


@contextmanager
def _removed_when_refused(partial: Path) -> Iterator[None]:
    """Keep a partial store of fields that can never be finished from being left behind."""
    try:
        yield
    except StoreError:
        remove_folder(partial)
        raise


def _single(said: NDArray[np.float64], time: TimeAxis, source: str) -> NDArray[np.float32]:
    """Fine fields in single precision.

    Raises:
        StoreError: They are not finite, which those of finite and plausible fields are.
    """
    with np.errstate(over="ignore"):
        out = said.astype(np.float32)
    finite = np.isfinite(out).all((1, 2, 3))
    if not finite.all():
        raise StoreError(
            f"the fine fields of {source} are not finite at {time.text(int(np.argmin(finite)))}",
            found="numbers beyond single precision, or none",
            expected="coarse fields as large as those of the training, and a whole downscaler",
            hint="look at the fields, and at the scores of the run",
        )
    return out


def _stamp(fields: Path) -> str:
    """A path with size and time of what lies there: numbers of two versions of a file never meet in one store."""
    place = fields.absolute()
    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    seen = [(str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files]
    return hashlib.sha256(json.dumps([str(place), seen]).encode()).hexdigest()


def _refuse_strange(partial: Path) -> None:
    """Refuse a place for the partial store that holds what an interrupted command does not leave.

    Raises:
        EmukitError: It does.
    """
    if not os.path.lexists(partial):
        return
    found = "a link" if partial.is_symlink() else "" if partial.is_dir() else "a file"
    if not found:
        names = {p.name for p in partial.iterdir() if not PART.fullmatch(p.name)}
        strange = sorted(names - {LOCK_FILE, PROGRESS, STORE})
        # Progress is written before the store.
        strange += [STORE] if STORE in names and PROGRESS not in names else []
        strange += [n for n in (PROGRESS, STORE) if (partial / n).is_symlink()]
        found = ", ".join(strange)
    if found:
        raise EmukitError(
            f"{partial} is not what an interrupted `emukit downscale` left",
            found=found,
            expected=f"{PROGRESS} and the store that it is of, or nothing",
            hint="move it away, or name another --out",
        )


@dataclass(frozen=True, eq=False)
class _FineStore:
    """What a store of fine fields holds.

    Attributes:
        downscaler: Makes them.
        file: Of the coarse fields.
        rows: Of the fine grid.
        columns: Of the fine grid, eastward.
        lon: Longitudes of the columns, as the region counts them.
        members: E, realisations along a dimension of their own; None: one, without that dimension.
        steps: Time steps that are written at once, which is how long a chunk is.
    """

    downscaler: NeuralDownscaler
    file: CoarseFile
    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    lon: NDArray[np.float64]
    members: int | None
    steps: int

    def digest(self, source: str) -> str:
        """SHA-256 of what decides the numbers of the store; of the coarse fields it knows their `source` alone."""
        sha = hashlib.sha256()
        meta, arrays = self.downscaler.state()
        plain = [meta, source, self.members, self.steps, repr(self.file.time)]
        sha.update(json.dumps(plain, sort_keys=True).encode())
        for name in sorted(arrays):
            sha.update(name.encode() + np.ascontiguousarray(arrays[name]).tobytes())
        sha.update(self.rows.tobytes() + self.columns.tobytes() + self.lon.tobytes())
        return sha.hexdigest()


def _begin(partial: Path, work: str, fine: _FineStore, about: str) -> int:
    """Make the empty store, or find how many steps of the same work are done."""
    path, store = partial / PROGRESS, partial / STORE
    # Without a store it was killed after its store had got its name, and there is nothing to continue.
    if path.exists() and store.exists():
        done = _done(path, work, len(fine.file.time), fine.steps)
        if done and not _sweep_torn(store, fine.file.variables):
            return done
    if store.exists():
        # Its writer was killed before the first step was done, or somebody has changed it since.
        remove_folder(store)
    write_text(path, json.dumps({"work": work, "done": 0}))
    _make_store(store, fine, about)
    return 0


def _done(path: Path, work: str, length: int, steps: int) -> int:
    """Steps that an interrupted command has written.

    Raises:
        RunError: It was another one, or somebody has changed what it left.
    """
    try:
        progress: Any = parse_json(read_text(path))
    except (OSError, ValueError) as e:
        raise RunError(f"{path} is damaged", found=str(e), hint=f"remove {path.parent}, and begin again") from e
    if not isinstance(progress, dict) or progress.get("work") != work:
        raise RunError(
            f"{path.parent} is what an interrupted command left, and it was another one",
            expected="the same run, fields, members and region",
            hint="remove it, or name another --out",
        )
    done = progress.get("done")
    if type(done) is not int or not (done == length or (0 <= done < length and done % steps == 0)):
        raise RunError(
            f"{path} is damaged",
            found=f"done {done!r}",
            expected=f"a number of steps up to {length}",
            hint=f"remove {path.parent}, and begin again",
        )
    return done


def _sweep_torn(store: Path, variables: Sequence[str]) -> str:
    """Remove chunks that a killed writer had not finished; what else there is that a store does not have, in words."""
    for array in (store / name for name in variables):
        if array.is_dir() and not array.is_symlink():
            for torn in array.iterdir():
                if _TORN.fullmatch(torn.name):
                    torn.unlink()
    missing = [name for name in variables if not (store / name / ".zarray").is_file()]
    return KIND.strange(store) or ", ".join(missing)


def _make_store(folder: Path, fine: _FineStore, about: str) -> None:
    import zarr

    grid, rows, members = fine.downscaler.domain.grid, fine.rows, fine.members
    time = fine.file.time
    coords: dict[str, Any] = {
        "time": ("time", time.cf_time(), {"standard_name": "time", "axis": "T"}),
        "y": ("y", grid.lat[rows], {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
        "x": ("x", fine.lon, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
    }
    if members is not None:
        coords["member"] = ("member", np.arange(members), {"standard_name": "realization"})
    attributes = {"Conventions": "CF-1.11", "source": "emukit downscaler", "history": about, MARK: DOWNSCALED}
    xr.Dataset(coords=coords, attrs=attributes).to_zarr(folder, mode="w-", zarr_format=2, consolidated=False)
    group = zarr.open_group(folder, mode="a", zarr_format=2)
    dims: Sequence[str] = ("time", "y", "x") if members is None else ("member", "time", "y", "x")
    sizes = {"member": members or 1, "time": len(time), "y": len(rows), "x": len(fine.columns)}
    pieces = sizes | {"member": 1, "time": min(fine.steps, len(time))}
    for variable in fine.downscaler.domain.described:
        group.create_array(
            variable.name,
            shape=tuple(sizes[d] for d in dims),
            chunks=tuple(pieces[d] for d in dims),
            dtype="float32",
            fill_value=np.nan,
            attributes={**variable.attributes, "_ARRAY_DIMENSIONS": list(dims)},
        )
    zarr.consolidate_metadata(folder, zarr_format=2)


def _eastward(lon: NDArray[np.float64], west: float) -> NDArray[np.float64]:
    """Longitudes that rise from `west` on, also over the prime meridian."""
    return np.asarray(west + (lon - west) % 360.0)


def _arrays(folder: Path, variables: Sequence[str]) -> list[Any]:
    import zarr

    group = zarr.open_group(folder, mode="r+", zarr_format=2)
    return [group[name] for name in variables]
