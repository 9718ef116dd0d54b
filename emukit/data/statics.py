"""Fields that do not change in time, such as land and orography, read from a store or a file next to it.

Invariant: a field is joined to the grid by its own coordinates, both of them, never by its shape alone.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.chunk_files import READ_ERRORS
from emukit.data.decode import Findings, read_axes, role
from emukit.data.grid import Grid
from emukit.data.source import Source

# Degrees: far more than the rounding of single precision, far less than a cell.
_TOLERANCE = 0.05


def file_statics(ds: xr.Dataset, grid: Grid, findings: Findings) -> dict[str, NDArray[np.float32]]:
    """Every numeric field of latitude and longitude alone, in the grid's order.

    Args:
        ds: The fields; latitude may descend, longitude may start anywhere.
        grid: Where the fields must lie, to 0.05 degrees.
        findings: A field that does not lie there becomes a problem here.

    Returns:
        Name to (Y, X) float32.
    """
    fields = {name: _static_field(ds, name, grid, findings) for name in _candidates(ds)}
    return {name: field for name, field in fields.items() if field is not None}


def store_statics(
    source: Source, grid: Grid, quantities: Collection[str], findings: Findings
) -> dict[str, NDArray[np.float32]]:
    """The static fields of a store that lie on its grid, named in a note; others are none.

    A field with a missing or corrupt chunk is left out and noted: only who asks for it needs it.

    Args:
        source: The store.
        grid: The targets' grid.
        quantities: The card's variables, which are not static fields.
        findings: Where the notes go.

    Returns:
        Name to (Y, X) float32 in the grid's order.
    """
    out = {}
    for name in _candidates(source.ds):
        if name in quantities:
            continue
        if name in source.chunked and source.chunked[name].missing():
            findings.note(f"{name} is left out: a chunk of it is missing")
            continue
        try:
            field = _static_field(source.ds, name, grid, Findings())
        except READ_ERRORS:
            findings.note(f"{name} is left out: it cannot be read")
            continue
        if field is not None:
            out[name] = field
    if out:
        findings.note(f"static fields: {', '.join(out)}")
    return out


def _static_field(ds: xr.Dataset, name: str, grid: Grid, findings: Findings) -> NDArray[np.float32] | None:
    """One field of latitude and longitude, (Y, X) in the grid's order; None and a problem where it is not on it."""
    read = read_axes(ds, name, findings, grid)
    if read is None:
        return None
    axes, found = read
    off = max(np.abs(found.lat - grid.lat).max(), np.abs((found.lon - grid.lon + 180) % 360 - 180).max())
    if off > _TOLERANCE:
        findings.refuse(f"{name} lies {off:.3g} degrees off the grid", hint="regrid it first")
        return None
    return np.ascontiguousarray(axes.orient(ds[name].transpose(axes.lat, axes.lon).values), np.float32)


def _candidates(ds: xr.Dataset) -> list[str]:
    numeric = {str(n): v for n, v in ds.data_vars.items() if v.dtype.kind in "fiub"}
    return [n for n, v in sorted(numeric.items()) if v.ndim == 2 and {role(d) for d in v.dims} == {"lat", "lon"}]
