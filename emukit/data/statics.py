"""Fields that do not change in time, such as land and orography, read from a store or a file beside it.

Invariant: a field is joined to the grid by its own coordinates, both of them, never by its shape alone.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.decode import Findings, read_axes, role
from emukit.data.grid import Grid

# Degrees: far more than the rounding of single precision, far less than a cell.
_TOLERANCE = 0.05


def static_fields(
    ds: xr.Dataset, grid: Grid, *, leave_out: Collection[str] = (), findings: Findings | None = None
) -> dict[str, NDArray[np.float32]]:
    """Every numeric field of latitude and longitude alone that lies on the grid.

    Args:
        ds: A store, or a file of fields. Latitude may descend and longitude start anywhere.
        grid: Where the fields must lie, to 0.05 degrees.
        leave_out: Variables that are something else.
        findings: Where the reasons go why other such fields cannot be used.

    Returns:
        Name to (Y, X) float32 in the grid's order.
    """
    findings = Findings() if findings is None else findings
    out = {}
    for name, variable in ds.data_vars.items():
        roles = [role(d) for d in variable.dims]
        if name in leave_out or sorted(map(str, roles)) != ["lat", "lon"] or variable.dtype.kind not in "fiub":
            continue
        read = read_axes(ds, str(name), findings, grid)
        if read is None:
            continue
        axes, found = read
        off = max(np.abs(found.lat - grid.lat).max(), np.abs((found.lon - grid.lon + 180) % 360 - 180).max())
        if off > _TOLERANCE:
            findings.refuse(f"{name} lies {off:.3g} degrees off the grid", hint="regrid it first")
            continue
        field = axes.orient(variable.transpose(axes.lat, axes.lon).values)
        out[str(name)] = np.ascontiguousarray(field, np.float32)
    return out
