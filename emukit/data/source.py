"""Where data comes from: a Zarr folder, a NetCDF file, or a dataset in memory, behind one face, read block by block.

Invariant: zeros and NaN are what is stored. A fill value of zero or NaN masks nothing, for zeros have a meaning here:
they hide a test set. A block follows the store's chunks, so that every chunk is decompressed once and no array is held
twice.
"""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

import cftime
import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray

from emukit.data.chunk_files import READ_ERRORS, REPAIR, ChunkedArray, read_problem
from emukit.data.decode import ROLES, Axes, role
from emukit.errors import StoreError
from emukit.parallel.share import ALONE, Share

NETCDF = (".nc", ".nc4", ".netcdf", ".cdf", ".h5")
EXPECTED = "a Zarr folder (v2 or v3) or a NetCDF file (.nc)"
PACKED = (".zip", ".gz", ".tar", ".tgz")
OR_FOLDER = f"{EXPECTED}, or a folder of ClimX files (*train*.nc)"
# The metadata of one array: Zarr v2's, its attributes, and Zarr v3's.
METADATA = (".zarray", ".zattrs", "zarr.json")
# How chunk files of Zarr v2 are named, and the folder of those of v3.
CHUNK_NAME = re.compile(r"\d+(\.\d+)*|c")
# CF names each calendar; what others call them.
CALENDARS = {
    "standard": ("gregorian",),
    "proleptic_gregorian": (),
    "noleap": ("365_day", "no_leap", "365", "365_days"),
    "360_day": ("360", "360_days", "thirty_day_months", "30_day"),
    "all_leap": ("366_day", "366"),
    "julian": (),
}
# Where chunks do not say how much to read at once: a few megabytes, which stay in the cache.
BLOCK_MONTHS = 120


@dataclass(frozen=True)
class Extent:
    """Scenarios, months and members of one variable, each half open; members are (0, 1) where it has none."""

    scenarios: tuple[int, int]
    months: tuple[int, int]
    members: tuple[int, int]


class Blocks:
    """One variable, readable in regions.

    Args:
        name: Its name.
        variable: Its values, lazy or in memory; any order of dimensions.
        axes: Its horizontal dimensions, or None for a global series.
        chunked: Its chunk files, where its values are those of a Zarr array on disk.
    """

    def __init__(
        self, name: str, variable: xr.Variable, axes: Axes | None, chunked: ChunkedArray | None = None
    ) -> None:
        self.name, self.variable, self.axes = name, variable, axes
        self.dims = {role(d): d for d in variable.dims}
        stored = variable.encoding.get("preferred_chunks") or {}
        self._chunk: dict[Any, int] = {d: int(c) for d, c in stored.items() if d in variable.dims}
        if chunked:
            self._chunk = dict(zip(variable.dims, chunked.chunk, strict=True))
        # A chunk that holds part of the grid cannot be oriented alone: such a variable goes through xarray.
        whole = all(self._chunk.get(d, 0) >= variable.sizes[d] for r, d in self.dims.items() if r in ("lat", "lon"))
        self._chunked = chunked if whole else None

    def _cuts(self, what: str, default: int) -> list[tuple[int, int]]:
        dim = self.dims.get(what)
        if dim is None:
            return [(0, 1)]
        n, step = self.variable.sizes[dim], self._chunk.get(dim, default)
        if not self._chunked:
            step *= max(1, default // step)
        return [(i, min(i + step, n)) for i in range(0, n, step)]

    def regions(self) -> Iterator[Extent]:
        """Regions that cover the variable, each a whole number of chunks."""
        for scenarios in self._cuts("scenario", 1):
            for months in self._cuts("time", BLOCK_MONTHS):
                for members in self._cuts("member", 1):
                    yield Extent(scenarios, months, members)

    def read(self, region: Extent, share: Share = ALONE) -> NDArray[Any]:
        """(S, T, M, [y, x]) of a region, oriented as emukit's grid; a view where the data is in memory.

        Args:
            region: Scenarios, months and members.
            share: Which cells are read. A chunk that holds cells of several processes is read by each of them.

        Raises:
            StoreError: The region cannot be read.
        """
        spans = {"scenario": region.scenarios, "time": region.months, "member": region.members}
        index = {self.dims[r]: slice(*span) for r, span in spans.items() if r in self.dims}
        if self._chunked:
            coords = tuple(index[d].start // self._chunk[d] if d in index else 0 for d in self.variable.dims)
            block = self._chunked.read(self._chunked.at(coords))
        elif self.axes and share.divided:
            block = self._read_part(index, self.axes, share)
        else:
            block = self._read_lazily(index)
        order = [r for r in ROLES if r in self.dims]
        block = block.transpose([self.variable.dims.index(self.dims[r]) for r in order])
        missing = tuple(i for i, r in enumerate(("scenario", "time", "member")) if r not in self.dims)
        block = np.expand_dims(block, missing)
        if self.axes is None:
            return block
        if self._chunked or not share.divided:
            return share.own(self.axes.orient(block))
        # Columns were read in emukit's order.
        return block[..., ::-1, :] if self.axes.flip else block

    def _read_part(self, index: dict[Any, slice], axes: Axes, share: Share) -> NDArray[Any]:
        """The rows and columns of a process, rows in the order of the store."""
        sizes = self.variable.sizes
        rows, columns = axes.stored(share.rows, share.columns, (sizes[axes.lat], sizes[axes.lon]))
        # Those that go round the end of the store come with all between: no chunk is read twice.
        west, east = int(columns.min()), int(columns.max()) + 1
        block = self._read_lazily({**index, axes.lat: rows, axes.lon: slice(west, east)})
        if len(columns) == east - west and columns[0] == west:
            return block
        return block.take(columns - west, self.variable.dims.index(axes.lon))

    def _read_lazily(self, index: dict[Any, slice]) -> NDArray[Any]:
        try:
            return np.asarray(self.variable.isel(index).values)
        except READ_ERRORS as e:
            where = ", ".join(f"{d} {s.start}..{s.stop - 1}" for d, s in index.items())
            raise read_problem(f"{self.name} cannot be read at {where}", e) from e


@dataclass(frozen=True)
class Source:
    """A dataset and, for Zarr on disk, the chunk files of its arrays.

    Attributes:
        ds: The dataset, lazy or in memory.
        name: Where it is from, for people.
        kind: ``Zarr v2``, ``Zarr v3``, ``NetCDF`` or ``dataset in memory``.
        path: The folder or file, or None in memory.
        chunked: Array name to its chunk files.
        packed: Arrays whose stored values are scaled or masked, so that chunks do not hold the values themselves.
        notes: What is odd about how it is written, one sentence each.
    """

    ds: xr.Dataset
    name: str
    kind: str = "dataset in memory"
    path: Path | None = None
    chunked: dict[str, ChunkedArray] = field(default_factory=dict)
    packed: frozenset[str] = frozenset()
    notes: tuple[str, ...] = ()

    def blocks(self, variable: str, axes: Axes | None) -> Blocks:
        """The variable, readable block by block."""
        chunked = None if variable in self.packed else self.chunked.get(variable)
        return Blocks(variable, self.ds.variables[variable], axes, chunked)

    @property
    def bytes_on_disk(self) -> int:
        """Size of the folder or file; zero in memory."""
        if self.path is None:
            return 0
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(f.stat().st_size for f in files if f.is_file())


@contextmanager
def open_source(path: str | Path) -> Iterator[Source]:
    """A store on disk as a lazy source, closed when the block ends.

    Args:
        path: A folder or file; a ``file://`` address is one too.

    Raises:
        StoreError: There is no readable store at `path`.
    """
    path = _local(str(path))
    try:
        # The libraries' warnings are about what is checked or noted here, in words for people who did not write them.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            source = _open(path)
    except OSError as e:
        raise read_problem(f"{path} cannot be opened", e) from e
    try:
        yield source
    finally:
        source.ds.close()


def _local(text: str) -> Path:
    if text.startswith("file:"):
        # `Path` makes one slash of two.
        address = urlsplit(text)
        if address.netloc in ("", "localhost"):
            return Path(url2pathname(address.path))
    if "://" in text:
        raise StoreError(f"{text} is remote", found=text.split("://")[0], expected=EXPECTED, hint="download it first")
    return Path(text).expanduser()


def _open(path: Path) -> Source:
    if not path.exists():
        raise StoreError(
            f"there is no store at {path}", expected=OR_FOLDER, hint="check the path; commands take it with --data PATH"
        )
    strange = next(_not_files(path), None)
    if strange:
        raise StoreError(
            f"{strange} is not a file",
            found="a pipe, a socket or a device",
            expected=EXPECTED,
            hint="remove it, and " + REPAIR,
        )
    if path.is_dir():
        return _open_zarr(path)
    if path.suffix.lower() not in NETCDF:
        raise StoreError(
            f"{path} is not a store",
            found=f"a file with the extension {path.suffix}" if path.suffix else "a file without extension",
            expected=EXPECTED,
            hint="unpack it first"
            if path.suffix.lower() in PACKED
            else "convert it to one of those; a NetCDF file of another name is read when it ends in .nc",
        )
    return _open_netcdf(path)


def _not_files(path: Path) -> Iterator[Path]:
    """What is neither a file nor a folder, at a path or below it: reading it might never end."""
    if not path.is_dir():
        if not path.is_file():
            yield path
        return
    with os.scandir(path) as entries:
        for entry in entries:
            # A link to nothing is a file that is missing, and told as one. Links to folders may lead round in a circle.
            if entry.is_dir(follow_symlinks=False):
                yield from _not_files(Path(entry.path))
            elif not (entry.is_file() or entry.is_dir()) and Path(entry.path).exists():
                yield Path(entry.path)


def _open_zarr(path: Path) -> Source:
    _refuse_without_metadata(path)
    consolidated, notes = _consolidated(path)
    chunked: dict[str, ChunkedArray] = {}
    try:
        group = zarr.open_group(path, mode="r", use_consolidated=consolidated)
        for name, array in group.arrays():
            chunked[name] = ChunkedArray(array, path)
        version = group.metadata.zarr_format
    except READ_ERRORS as e:
        raise _unreadable(path, e, chunked) from e
    _refuse_missing_coordinates(chunked)
    _refuse_corrupt_coordinates(chunked)
    ds, packed, more = _open_dataset(path, chunked, engine="zarr", consolidated=consolidated)
    return Source(ds, str(path), f"Zarr v{version}", path, chunked, packed, (*notes, *more))


def _refuse_without_metadata(path: Path) -> None:
    inside = sorted(path.iterdir())
    if not inside:
        raise StoreError(f"{path} is an empty folder", expected=OR_FOLDER, hint=REPAIR)
    if any((path / name).exists() for name in (".zgroup", ".zmetadata", "zarr.json")):
        return
    folders = [p for p in inside if p.is_dir()]
    described = [f for p in folders for f in (p / ".zarray", p / "zarr.json") if f.exists()]
    chunks = [f for p in folders for f in p.iterdir() if CHUNK_NAME.fullmatch(f.name)]
    if described or chunks:
        there = (described or chunks)[0]
        lost = "zarr.json" if there.name in ("zarr.json", "c") else ".zgroup" if described else ".zgroup and .zarray"
        raise StoreError(
            f"{path} has lost its {lost}",
            found=f"{there.relative_to(path)}, and no {lost} with it",
            expected="the folder as it was written, with the files that describe its arrays",
            hint="names that begin with a dot are hidden, and some copies leave them out: copy the folder as a whole, "
            "with `cp -r`, `rsync -a` or `tar`",
        )
    raise StoreError(
        f"{path} is not a store",
        found=f"a folder with {', '.join(p.name for p in inside[:5])}",
        expected=OR_FOLDER,
        hint=_folder_hint(path, inside),
    )


def _folder_hint(path: Path, inside: list[Path]) -> str:
    """What to do about a folder that is no store: a download lies deeper in it, or packed."""
    deeper = next((p for depth in (1, 2, 3) for p in path.glob("*/" * depth + "*train*.nc")), None)
    if deeper:
        return f"name {deeper.parent}, where {deeper.name} lies"
    packed = next((p for p in inside if p.suffix.lower() in PACKED), None)
    if packed:
        return f"unpack {packed.name} first"
    return "name the folder that holds .zgroup or zarr.json, or the files as they were downloaded"


def _consolidated(path: Path) -> tuple[bool, tuple[str, ...]]:
    """Whether to read the metadata that a store keeps of all its arrays together, and what is odd about it.

    It is a copy, made when the store was written: what was appended since stands in each array's own.

    Raises:
        StoreError: Metadata cannot be read, or some array has a description of its own, another not, and they differ.
    """
    together = _kept_together(path)
    if together is None:
        return False, ()
    own = {
        f"{folder.name}/{name}": _json(folder / name)
        for folder in path.iterdir()
        if folder.is_dir()
        for name in METADATA
        if (folder / name).is_file()
    }
    own |= {".zattrs": _json(path / ".zattrs")} if (path / ".zattrs").is_file() else {}
    # Groups inside the store, and attributes that are written only where there are some, describe no array.
    keys = {k for k in {**together, **own} if k.count("/") <= 1 and not k.endswith(".zgroup")}
    differ = sorted(k for k in keys if _plain(k, together.get(k)) != _plain(k, own.get(k)))
    lost = [k for k in differ if k not in own and not k.endswith(".zattrs") and (path / k).parent.is_dir()]
    if set(differ) == {*lost, *(k for k in differ if k.endswith(".zattrs") and k not in own)}:
        # All that the arrays say of themselves agrees; of the others this is the only description.
        return True, ()
    names = ", ".join(dict.fromkeys(k.split("/")[0] for k in differ))
    where = ".zmetadata" if (path / ".zmetadata").exists() else "the consolidated metadata in zarr.json"
    if lost:
        raise StoreError(
            f"{path} describes its arrays twice, and not alike",
            found=f"{where} differs from the arrays' own metadata of {names}; {', '.join(lost)} is missing",
            expected="one description",
            hint=REPAIR,
        )
    return False, (
        f"{where} is older than the arrays' own metadata of {names}, which are read: the store was changed without "
        "consolidating it again",
    )


def _kept_together(path: Path) -> dict[str, Any] | None:
    """Consolidated metadata by the path of the file that each part is a copy of; None where there are none."""
    v2 = path / ".zmetadata"
    if (path / "zarr.json").exists():
        kept = _json(path / "zarr.json").get("consolidated_metadata")
        parts = kept.get("metadata") if isinstance(kept, dict) else None
        return {f"{k}/zarr.json": v for k, v in parts.items()} if isinstance(parts, dict) else None
    parts = _json(v2).get("metadata") if v2.exists() else None
    return parts if isinstance(parts, dict) else None


def _json(file: Path) -> dict[str, Any]:
    try:
        # Numbers are compared: 0 and 0.0 are one fill value.
        value = json.loads(file.read_text(encoding="utf-8"), parse_int=float)
    except (ValueError, RecursionError) as e:
        raise StoreError(f"{file} cannot be read", found=f"not JSON: {e}", expected="metadata", hint=REPAIR) from e
    if not isinstance(value, dict):
        raise StoreError(f"{file} cannot be read", found=type(value).__name__, expected="metadata", hint=REPAIR)
    return value


def _plain(key: str, value: Any) -> str:
    """Metadata as text that is the same where they mean the same."""
    if isinstance(value, dict):
        # What Zarr writes or leaves out at will.
        usual: dict[str, Any] = {"dimension_separator": "."} if key.endswith(".zarray") else {}
        value = {k: v for k, v in {**usual, **value}.items() if k != "consolidated_metadata" or v is not None}
    return json.dumps(value or {}, sort_keys=True)


def _open_netcdf(path: Path) -> Source:
    ds, packed, notes = _open_dataset(path, {}, engine="netcdf4")
    return Source(ds, str(path), "NetCDF", path, packed=packed, notes=notes)


def _open_dataset(
    path: Path, chunked: dict[str, ChunkedArray], **options: Any
) -> tuple[xr.Dataset, frozenset[str], tuple[str, ...]]:
    try:
        raw = xr.open_dataset(path, chunks=None, mask_and_scale=False, use_cftime=None, **options)
        packed = frozenset(str(n) for n, v in raw.variables.items() if _is_packed(v))
        notes = tuple(_note_fills(raw, packed))
        if not packed:
            return raw, packed, notes
        raw.close()
        masks = {str(n): str(n) in packed for n in raw.variables}
        return xr.open_dataset(path, chunks=None, mask_and_scale=masks, **options), packed, notes
    except READ_ERRORS as e:
        raise _time_problem(path, options) or _unreadable(path, e, chunked) from e


def _fills(variable: xr.Variable) -> list[float]:
    fills = [variable.attrs[k] for k in ("_FillValue", "missing_value") if k in variable.attrs]
    return [f for fill in fills for f in np.atleast_1d(np.asarray(fill, np.float64)).ravel()]


def _is_packed(variable: xr.Variable) -> bool:
    if "scale_factor" in variable.attrs or "add_offset" in variable.attrs:
        return True
    if not np.issubdtype(variable.dtype, np.floating):
        return False
    return any(np.isfinite(f) and f != 0 for f in _fills(variable))


def _note_fills(raw: xr.Dataset, packed: Iterable[str]) -> Iterator[str]:
    for name in sorted(packed):
        fills = dict.fromkeys(f"{f:g}" for f in _fills(raw.variables[name]))
        if len(fills) > 1:
            yield f"{name} states several fill values ({', '.join(fills)}): each is read as a missing value"


def _refuse_missing_coordinates(chunked: dict[str, ChunkedArray]) -> None:
    # A missing coordinate chunk reads as zeros or NaN: every later message would be about the wrong thing.
    for name, array in chunked.items():
        if array.array.shape == (1,) and _fills_with_zero(array.array):
            continue
        if array.array.ndim == 1 and (missing := array.missing()):
            raise StoreError(f"the chunk {missing[0].file} is missing", found=f"no coordinate {name}", hint=REPAIR)


def _fills_with_zero(array: zarr.Array[Any]) -> bool:
    # Zarr leaves out a chunk that holds its fill value alone: a single member 0 is written as no chunk at all. Where
    # a v2 array of integers states no fill value, that is zero.
    return bool(array.fill_value == 0) or (array.fill_value is None and array.dtype.kind in "iu")


def _refuse_corrupt_coordinates(chunked: dict[str, ChunkedArray]) -> None:
    # xarray reads coordinates past our checks, and Blosc fills what it cannot read with whatever was in memory. The
    # bounds of time are two-dimensional, and decide which months there are.
    time = chunked.get("time")
    bounds = {str(time.array.attrs.get(k)) for k in ("bounds", "climatology")} if time else set()
    for name, array in chunked.items():
        if array.array.ndim <= 1 or name in bounds:
            for chunk in array.all():
                if chunk.file.exists():
                    array.read(chunk)


def _time_problem(path: Path, options: dict[str, Any]) -> StoreError | None:
    """The variable whose dates cannot be decoded, if it is that which keeps a store from opening."""
    try:
        with xr.open_dataset(path, chunks=None, decode_times=False, mask_and_scale=False, **options) as raw:
            dated = {str(n): v.attrs for n, v in raw.variables.items() if " since " in str(v.attrs.get("units"))}
    except READ_ERRORS:
        return None
    for name, attrs in dated.items():
        units, calendar = str(attrs["units"]), str(attrs.get("calendar", "standard"))
        try:
            cftime.num2date(0, units, calendar)
        except READ_ERRORS as e:
            hints = []
            if calendar.lower() not in {c for known, also in CALENDARS.items() for c in (known, *also[:1])}:
                meant = next((c for c, also in CALENDARS.items() if calendar.lower() in also), None)
                hints.append(f"set its calendar to {meant or 'one of ' + ', '.join(CALENDARS)}")
            if not units.lower().startswith(("day", "hour", "minute", "second")):
                hints.append(f"write it in days: `{units.split()[0]} since` cannot be decoded, months differ in length")
            return StoreError(
                f"the dates of {name} cannot be decoded",
                found=f"units {units!r}, calendar {calendar!r}: {str(e).splitlines()[0]}",
                expected="CF time, for example `days since 2015-01-15` with calendar noleap",
                hint="; ".join(hints) or "correct its attributes units and calendar",
            )
    return None


def _unreadable(path: Path, error: BaseException, chunked: dict[str, ChunkedArray]) -> StoreError:
    dims = {name: _dims(array.array) for name, array in chunked.items()}
    nameless = [name for name, named in dims.items() if named is None or len(named) != chunked[name].array.ndim]
    if nameless:
        return StoreError(
            f"the arrays of {path} have no names of dimensions",
            found=f"{', '.join(nameless)} without a name for each dimension",
            expected="_ARRAY_DIMENSIONS in .zattrs (Zarr v2), or dimension_names in zarr.json (v3)",
            hint="write the store with xarray, or add these attributes to every array",
        )
    sizes: dict[str, dict[int, list[str]]] = {}
    for name, named in dims.items():
        for dim, size in zip(named or (), chunked[name].array.shape, strict=True):
            sizes.setdefault(dim, {}).setdefault(size, []).append(name)
    for dim, by_size in sizes.items():
        if len(by_size) > 1:
            return StoreError(
                f"the arrays of {path} differ in the length of {dim}",
                found="; ".join(f"{size} in {', '.join(names)}" for size, names in sorted(by_size.items())),
                expected=f"one length of {dim} in every array",
                hint=f"an append along {dim} that left out arrays, or was cut short, does this: append those too, or "
                "write the store again from its sources",
            )
    problem = read_problem(f"{path} cannot be opened", error)
    return StoreError(problem.what, found=problem.found, expected=EXPECTED, hint=problem.hint)


def _dims(array: zarr.Array[Any]) -> tuple[str, ...] | None:
    """The names of an array's dimensions; None where there are none, and for strings of characters one too many."""
    names: Any = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return tuple(map(str, names)) if isinstance(names, list | tuple) else () if not array.ndim else None
