"""Where data comes from: a Zarr folder, a NetCDF file, or a dataset in memory, behind one face.

Invariant: zeros and NaN are what is stored. A fill value of zero or NaN masks nothing, for zeros have a meaning here:
they hide a test set.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from emukit.data.blocks import Blocks
from emukit.data.chunks import READ_ERRORS, REPAIR, ChunkedArray
from emukit.data.decode import Axes
from emukit.errors import StoreError

NETCDF = (".nc", ".nc4", ".netcdf", ".cdf", ".h5")
EXPECTED = "a Zarr folder (v2 or v3) or a NetCDF file (.nc)"


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
    """

    ds: xr.Dataset
    name: str
    kind: str = "dataset in memory"
    path: Path | None = None
    chunked: dict[str, ChunkedArray] = field(default_factory=dict)
    packed: frozenset[str] = frozenset()

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

    Raises:
        StoreError: There is no readable store at `path`.
    """
    text = str(path)
    if "://" in text:
        raise StoreError(f"{text} is remote", found=text.split("://")[0], expected=EXPECTED, hint="download it first")
    path = Path(path).expanduser()
    if not path.exists():
        raise StoreError(f"there is no store at {path}", expected=EXPECTED, hint="check the path, or set EMUKIT_DATA")
    if path.is_file() and path.suffix.lower() not in NETCDF:
        hint = "unpack it first" if path.suffix in (".zip", ".gz", ".tar", ".tgz") else "convert it to one of those"
        raise StoreError(
            f"{path} is not a store",
            found=f"a file {path.suffix or 'without'} extension".replace("a file .", "a file with the extension ."),
            expected=EXPECTED,
            hint=hint,
        )
    source = _open_zarr(path) if path.is_dir() else _open_netcdf(path)
    try:
        yield source
    finally:
        source.ds.close()


def _open_zarr(path: Path) -> Source:
    if not any(path.iterdir()):
        raise StoreError(f"{path} is an empty folder", expected=EXPECTED, hint=REPAIR)
    if not any((path / name).exists() for name in (".zgroup", ".zmetadata", "zarr.json")):
        inside = ", ".join(sorted(p.name for p in path.iterdir())[:5])
        raise StoreError(
            f"{path} is not a store",
            found=f"a folder with {inside}",
            expected=EXPECTED,
            hint="name the folder that holds .zgroup or zarr.json",
        )
    try:
        group = zarr.open_group(path, mode="r")
        chunked = {name: ChunkedArray(array, path) for name, array in group.arrays()}
        consolidated = group.metadata.consolidated_metadata is not None
    except (*READ_ERRORS, KeyError) as e:
        raise _unreadable(path, e) from e
    _refuse_missing_coordinates(chunked)
    _refuse_corrupt_coordinates(chunked)
    ds, packed = _open_dataset(path, engine="zarr", consolidated=consolidated)
    return Source(ds, str(path), f"Zarr v{group.metadata.zarr_format}", path, chunked, packed)


def _open_netcdf(path: Path) -> Source:
    ds, packed = _open_dataset(path, engine="netcdf4")
    return Source(ds, str(path), "NetCDF", path, packed=packed)


def _open_dataset(path: Path, **options: object) -> tuple[xr.Dataset, frozenset[str]]:
    try:
        raw = xr.open_dataset(path, chunks=None, mask_and_scale=False, use_cftime=None, **options)  # type: ignore[arg-type]
        packed = frozenset(str(n) for n, v in raw.variables.items() if _is_packed(v))
        if not packed:
            return raw, packed
        raw.close()
        masks = {str(n): str(n) in packed for n in raw.variables}
        return xr.open_dataset(path, chunks=None, mask_and_scale=masks, **options), packed  # type: ignore[arg-type]
    except (*READ_ERRORS, KeyError, AttributeError) as e:
        raise _unreadable(path, e) from e


def _is_packed(variable: xr.Variable) -> bool:
    if "scale_factor" in variable.attrs or "add_offset" in variable.attrs:
        return True
    if not np.issubdtype(variable.dtype, np.floating):
        return False
    fills = [variable.attrs[k] for k in ("_FillValue", "missing_value") if k in variable.attrs]
    return any(np.isfinite(f) and f != 0 for f in np.atleast_1d(np.asarray(fills, np.float64)).ravel())


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
    # xarray reads coordinates past our checks, and Blosc fills what it cannot read with whatever was in memory.
    for array in chunked.values():
        if array.array.ndim <= 1:
            for chunk in array.all():
                if chunk.file.exists():
                    array.read(chunk)


def _unreadable(path: Path, error: BaseException) -> StoreError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return StoreError(f"{path} cannot be opened", found=lines[0], expected=EXPECTED, hint=REPAIR)
