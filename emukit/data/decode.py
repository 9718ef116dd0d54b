"""What a store's dimensions and coordinates mean: scenarios, months, members, the grid.

Invariant: what has one meaning is read, whatever its spelling (calendar, direction, order of dimensions); what has
more than one is refused by name. Mistakes are collected, so that `data check` shows all of them.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.archive import Months
from emukit.data.grid import Grid
from emukit.errors import StoreError

# Role of a dimension by its name, in the order emukit holds them.
ROLES = {
    "scenario": ("ssp", "scenario"),
    "time": ("time",),
    "member": ("member_id", "member"),
    "lat": ("y", "lat", "latitude"),
    "lon": ("x", "lon", "longitude"),
}


@dataclass
class Findings:
    """What a look at a store found: problems that forbid its use, and notes on what is odd."""

    problems: list[StoreError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse(self, what: str, *, found: str = "", expected: str = "", hint: str = "") -> None:
        """Record one problem."""
        self.problems.append(StoreError(what, found=found, expected=expected, hint=hint))

    def note(self, sentence: str) -> None:
        """Record one oddity, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def check(self) -> None:
        """Raise the first problem, naming how many more there are.

        Raises:
            StoreError: There is a problem.
        """
        if not self.problems:
            return
        first, more = self.problems[0], len(self.problems) - 1
        if not more:
            raise first
        hint = f"{first.hint}; " if first.hint else ""
        raise StoreError(
            first.what,
            found=first.found,
            expected=first.expected,
            hint=f"{hint}{more} more problem{'s' * (more > 1)}: see `emukit data check`",
        )


@dataclass(frozen=True)
class Axes:
    """The two horizontal dimensions of one variable, and how to bring them to emukit's order.

    Attributes:
        lat: Dimension name of latitude.
        lon: Dimension name of longitude.
        flip: Latitude descends in the store.
        roll: How many cells longitude starts too late for [0, 360) ascending.
    """

    lat: str
    lon: str
    flip: bool
    roll: int

    def orient(self, block: NDArray[np.generic]) -> NDArray[np.generic]:
        """(..., Y, X) in the store's order -> in emukit's order."""
        if self.flip:
            block = block[..., ::-1, :]
        return np.roll(block, self.roll, axis=-1) if self.roll else block


def role(dim: Hashable) -> str | None:
    """The role of a dimension, or None where its name says nothing."""
    return next((r for r, names in ROLES.items() if dim in names), None)


def read_months(ds: xr.Dataset, findings: Findings) -> Months | None:
    """Calendar-free months of the time coordinate, whatever its calendar.

    Returns:
        (T,) `datetime64[M]`, consecutive; None where it is refused.
    """
    if "time" not in ds.coords or ds["time"].ndim != 1 or not ds.sizes["time"]:
        findings.refuse("the store has no time coordinate", found=f"coordinates {_names(ds.coords)}", expected="time")
        return None
    values = ds["time"].values
    if np.issubdtype(values.dtype, np.datetime64):
        if np.isnat(values).any():
            findings.refuse("time holds missing values", found=f"{int(np.isnat(values).sum())} of {len(values)}")
            return None
        months = values.astype("datetime64[M]")
    elif values.dtype == object and hasattr(values[0], "year"):
        months = np.array([(v.year - 1970) * 12 + v.month - 1 for v in values], "int64").astype("datetime64[M]")
    else:
        findings.refuse(
            "the time coordinate has no calendar",
            found=f"{values.dtype} without decodable units: {values[:3]}",
            expected="CF time, for example `days since 2015-01-15` with a calendar",
            hint="give time the attributes units and calendar",
        )
        return None
    steps = np.diff(months.astype(np.int64))
    if (steps == 1).all():
        return months
    i = int(np.flatnonzero(steps != 1)[0])
    kind = {True: "months are out of order", False: "months are missing"}[bool(steps[i] < 0)]
    findings.refuse(
        "the time coordinate is not one value per month: " + ("a month is double" if steps[i] == 0 else kind),
        found=f"{months[i]} is followed by {months[i + 1]} at position {i + 1}",
        expected="each month once, in order, none left out",
        hint="sort, complete or average the data to months first",
    )
    return None


def read_names(ds: xr.Dataset, findings: Findings, default: str | None = None) -> tuple[str, ...] | None:
    """Scenario names, or None where they are refused; `default` where there is no scenario dimension."""
    dim = next((d for d in ROLES["scenario"] if d in ds.dims or d in ds.coords), None)
    if dim is None and default is not None:
        return (default,)
    if dim is None or dim not in ds.coords:
        findings.refuse(
            "the store has no scenario coordinate",
            found=f"dimensions {_names(ds.dims)}; coordinates {_names(ds.coords)}",
            expected="a coordinate ssp with the scenarios' names",
            hint="add it: ds.assign_coords(ssp=[...])",
        )
        return None
    names = tuple(v.decode() if isinstance(v, bytes) else str(v) for v in np.atleast_1d(ds[dim].values))
    double = sorted({n for n in names if names.count(n) > 1})
    if double:
        findings.refuse("scenario names are double", found=", ".join(double), expected="each scenario once")
        return None
    return names


def read_members(ds: xr.Dataset, findings: Findings) -> tuple[int, ...] | None:
    """Member numbers, or None where they are refused; (0,) where there is no member dimension."""
    dim = next((d for d in ROLES["member"] if d in ds.dims), None)
    if dim is None:
        findings.note("the store has no member dimension: its one run is member 0")
        return (0,)
    values = np.atleast_1d(ds[dim].values)  # a dimension without coordinate counts from 0
    if not np.issubdtype(values.dtype, np.integer):
        findings.note(f"members are named {', '.join(map(str, values))}: they are numbered from 0 in this order")
        return tuple(range(len(values)))
    members = tuple(int(v) for v in values)
    if len(set(members)) < len(members) or min(members, default=0) < 0:
        shown = ", ".join(map(str, members))
        findings.refuse("member numbers are double or negative", found=shown, expected="each member once, from 0")
        return None
    return members


def read_axes(ds: xr.Dataset, variable: str, findings: Findings, like: Grid | None = None) -> tuple[Axes, Grid] | None:
    """The horizontal dimensions of a variable and the grid they make in emukit's order, or None where refused.

    Args:
        ds: The store.
        variable: Its variable.
        findings: Where problems go.
        like: The grid of the targets. A field on other coordinates is joined to it by index, if both have the same
            shape and no cell lies more than half a cell away.
    """
    dims = {role(d): str(d) for d in ds[variable].dims}
    lat, lon = (_coordinate(ds, dims[r], findings) for r in ("lat", "lon"))
    if lat is None or lon is None:
        return None
    flip = bool(len(lat) > 1 and lat[1] < lat[0])
    start = np.mod(lon, 360.0) if like is None else np.abs(_circular(lon - like.lon[0]))
    roll = -int(np.argmin(start)) % len(lon)
    grid = Grid(np.asarray(lat[::-1] if flip else lat), np.asarray(np.roll(np.mod(lon, 360.0), roll)))
    if not _regular_lat(dims["lat"], grid.lat, findings) or not _regular_lon(dims["lon"], lon, findings):
        return None
    if like is None and not _reaches_poles(dims["lat"], grid.lat, findings):
        return None
    if like is not None and grid != like and not _joins(variable, dims, grid, like, findings):
        return None
    return Axes(dims["lat"], dims["lon"], flip, roll), grid


def _joins(variable: str, dims: dict[str | None, str], grid: Grid, like: Grid, findings: Findings) -> bool:
    names = f"{dims['lat']}/{dims['lon']}"
    if grid.shape != like.shape:
        findings.refuse(
            f"{variable} is on another grid than the targets",
            found=f"{names} of {grid.shape[0]} x {grid.shape[1]} cells",
            expected=f"{like.shape[0]} x {like.shape[1]} cells",
            hint="regrid it to the targets' grid",
        )
        return False
    off_lat, off_lon = np.abs(grid.lat - like.lat), np.abs(_circular(grid.lon - like.lon))
    half_lat, half_lon = (180.0 / np.array(like.shape) * [0.5, 1.0]) * 1.05
    if off_lat.max() > half_lat or off_lon.max() > half_lon:
        findings.refuse(
            f"{variable} lies more than half a cell off the targets' grid",
            found=f"{names} off by up to {off_lat.max():.3g} and {off_lon.max():.3g} degrees",
            expected=f"at most {half_lat:.3g} and {half_lon:.3g}, so that joining by index is right",
            hint="regrid it to the targets' grid",
        )
        return False
    findings.note(
        f"{names} of the emissions are not the targets' coordinates (off by up to {off_lat.max():.2f} and "
        f"{off_lon.max():.2f} degrees): joined by index"
    )
    return True


def _coordinate(ds: xr.Dataset, dim: str, findings: Findings) -> NDArray[np.float64] | None:
    if dim not in ds.coords or ds[dim].ndim != 1:
        findings.refuse(
            f"dimension {dim} has no one-dimensional coordinate",
            found=f"coordinates {_names(ds.coords)}",
            expected=f"{dim}({dim}) in degrees",
            hint="regular latitude-longitude grids only; regrid first",
        )
        return None
    return np.asarray(ds[dim].values, np.float64)


def _circular(degrees: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((degrees + 180.0) % 360.0 - 180.0)


def _regular_lat(name: str, lat: NDArray[np.float64], findings: Findings) -> bool:
    steps = np.diff(lat)
    # Gaussian latitudes differ from even spacing by up to a percent, next to the poles.
    if np.isfinite(lat).all() and np.abs(lat).max() <= 90 and (not len(steps) or _even(steps, 0.02)):
        return True
    return _refuse_axis(name, lat, findings)


def _regular_lon(name: str, lon: NDArray[np.float64], findings: Findings) -> bool:
    steps = np.mod(np.diff(lon), 360.0)
    if np.isfinite(lon).all() and (not len(steps) or _even(np.append(steps, 360.0 / len(lon)), 1e-3)):
        return True
    return _refuse_axis(name, lon, findings)


def _reaches_poles(name: str, lat: NDArray[np.float64], findings: Findings) -> bool:
    # Models fold fields across the poles: the first and last row must be the ones next to them. Half a step away is
    # usual, none where the pole is a row; one and a half is a grid cut short by a row at each pole.
    step = float(np.diff(lat).mean()) if len(lat) > 1 else 180.0
    if lat[0] + 90.0 <= 1.5 * step + 1e-6 and 90.0 - lat[-1] <= 1.5 * step + 1e-6:
        return True
    findings.refuse(
        f"{name} does not reach from pole to pole",
        found=f"{lat[0]:g} .. {lat[-1]:g}, steps of {step:g}",
        expected="the whole globe: first and last latitude within one and a half steps of the poles",
        hint="take the data before it was cut to a region",
    )
    return False


def _even(steps: NDArray[np.float64], tolerance: float) -> bool:
    return bool(steps.min() > 0 and np.allclose(steps, np.median(steps), rtol=tolerance))


def _refuse_axis(name: str, values: NDArray[np.float64], findings: Findings) -> bool:
    steps = np.diff(values)
    findings.refuse(
        f"{name} is not a regular global axis in degrees",
        found=f"{values.min():g} .. {values.max():g}, steps {steps.min():g} .. {steps.max():g}",
        expected="evenly spaced latitudes within -90..90; longitudes evenly spaced all the way round",
        hint="regrid the data to a regular global grid first",
    )
    return False


def _names(names: object) -> str:
    return ", ".join(str(n) for n in names) or "none"  # type: ignore[attr-defined]
