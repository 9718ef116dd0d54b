"""What a store's dimensions and coordinates mean: scenarios, the time axis, members, the grid.

Invariant: what has one meaning is read, whatever its spelling (calendar, direction, order of dimensions); what has
more than one is refused by name. Mistakes are collected, so that `data check` shows all of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.card import Card, scenario_names, text_of
from emukit.data.chunk_files import READ_ERRORS
from emukit.data.grid import Grid
from emukit.data.time import MONTH_LENGTHS, SAME, Months, TimeAxis
from emukit.errors import StoreError

# Role of a dimension by its name, in the order emukit holds them.
ROLES = {
    "scenario": ("ssp", "scenario"),
    "time": ("time",),
    "member": ("member_id", "member"),
    "lat": ("y", "lat", "latitude"),
    "lon": ("x", "lon", "longitude"),
}


# Days between the bounds of a month: February may end with its last day, not with March.
SHORTEST_MONTH, LONGEST_MONTH = 26.0, 32.0


@dataclass
class Findings:
    """What a look at a store found: problems that forbid its use, and notes on what is odd."""

    problems: list[StoreError] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse(self, what: str, *, found: str = "", expected: str = "", hint: str = "") -> None:
        """Record one problem, once: several variables may share what is wrong."""
        problem = StoreError(what, found=found, expected=expected, hint=hint)
        if problem.text() not in [p.text() for p in self.problems]:
            self.problems.append(problem)

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

    def stored(self, rows: slice, columns: slice, grid: tuple[int, int]) -> tuple[slice, NDArray[np.int64]]:
        """Where some rows and columns of emukit's order stand in the store; columns may go round its end.

        Args:
            rows: From first to last, in emukit's order.
            columns: Likewise.
            grid: (Y, X) of all cells.
        """
        (south, north, _), places = rows.indices(grid[0]), np.arange(grid[1])[columns]
        found = slice(grid[0] - north, grid[0] - south) if self.flip else slice(south, north)
        return found, (places - self.roll) % grid[1]


def role(dim: Hashable) -> str | None:
    """The role of a dimension, or None where its name says nothing."""
    return next((r for r, names in ROLES.items() if dim in names), None)


def read_time(ds: xr.Dataset, step: str, findings: Findings) -> TimeAxis | None:
    """The time axis: calendar-free months or years, or days or hours in the store's calendar.

    Where time has bounds (CF conventions, 7.1 and 7.4), each step is that in which the middle of its bounds lies: a
    stamp may stand at either end of them. Without bounds it is the step in which the stamp lies.

    Args:
        ds: The store.
        step: Of its card: ``month``, ``year``, ``day``, ``6h``.
        findings: Where problems go.

    Returns:
        None where it is refused.
    """
    if step == "month":
        months = _read_months(ds, findings)
        return None if months is None else TimeAxis.monthly(months)
    values = _read_stamps(ds, findings)
    if values is None:
        return None
    if not _are_dates(values):
        _refuse_no_calendar(values, findings)
        return None
    bounds = _bounds_of(ds)
    if bounds is not None:
        ends = _read_bounds(ds, bounds, findings)
        if ends is None:
            return None
        values = ends[:, 0] + (ends[:, 1] - ends[:, 0]) // 2
    return _years(values, findings) if step == "year" else _even_steps(values, step, read_calendar(ds), findings)


def _years(values: NDArray[Any], findings: Findings) -> TimeAxis | None:
    months = _months_of(values)
    years = (np.zeros(0) if months is None else months).astype(np.int64) // 12 + 1970
    steps = np.diff(years)
    if (steps == 1).all():
        return TimeAxis("year", int(years[0]), len(years))
    i = int(np.flatnonzero(steps != 1)[0])
    kind = "a year is double" if steps[i] == 0 else "years are out of order" if steps[i] < 0 else "years are missing"
    findings.refuse(
        f"the time coordinate is not one value per year: {kind}",
        found=f"{years[i]} is followed by {years[i + 1]} at position {i + 1}",
        expected='each year once, in order, none left out, as the card says time = "year"',
        hint="sort, complete or average the data to years first, or say in the card what its steps are",
    )
    return None


def _even_steps(values: NDArray[Any], step: str, calendar: str, findings: Findings) -> TimeAxis | None:
    calendar = SAME.get(calendar, calendar)
    if calendar not in ("standard", *MONTH_LENGTHS):
        findings.refuse(
            "days and hours cannot be counted in the calendar of time",
            found=f"calendar {calendar}",
            expected=", ".join(("standard", *MONTH_LENGTHS)),
            hint="convert the time coordinate: ds.convert_calendar('noleap')",
        )
        return None
    if np.issubdtype(values.dtype, np.datetime64):
        minutes = values.astype("datetime64[m]").astype(np.int64)
    else:
        origin = "1970-01-01" if calendar == "standard" else "0000-01-01"
        with_zero: dict[str, Any] = {} if calendar == "standard" else {"has_year_zero": True}
        count = cftime.date2num(values, f"minutes since {origin}", calendar=calendar, **with_zero)
        minutes = np.asarray(count, np.int64)
    axis = TimeAxis(step, int(minutes[0]), len(minutes), calendar)
    wrong = np.flatnonzero(np.diff(minutes) != axis.minutes)
    if not len(wrong):
        return axis
    i = int(wrong[0])
    apart = int(minutes[i + 1] - minutes[i])
    kind = (
        f"a {axis.unit} is double" if apart == 0
        else f"{axis.unit}s are out of order" if apart < 0
        else f"{axis.unit}s are missing" if apart % axis.minutes == 0
        else "stamps lie between them"
    )  # fmt: skip
    findings.refuse(
        f"the time coordinate is not one value every {step}: {kind}",
        found=f"{values[i]} is followed by {values[i + 1]} at position {i + 1}",
        expected=f'each step of the card\'s time = "{step}" once, in order, none left out',
        hint="sort, complete or average the data first, or say in the card what its steps are",
    )
    return None


def _read_stamps(ds: xr.Dataset, findings: Findings) -> NDArray[Any] | None:
    """The (T,) values of the time coordinate, none of them missing; None where that is refused."""
    if "time" not in ds.coords or ds["time"].ndim != 1 or not ds.sizes["time"]:
        findings.refuse("the store has no time coordinate", found=f"coordinates {_names(ds.coords)}", expected="time")
        return None
    values = ds["time"].values
    if (missing := int(np.sum(xr.DataArray(values).isnull().values))) and _are_dates(values):
        findings.refuse("time holds missing values", found=f"{missing} of {len(values)}")
        return None
    return np.asarray(values)


def _refuse_no_calendar(values: NDArray[Any], findings: Findings) -> None:
    findings.refuse(
        "the time coordinate has no calendar",
        found=f"{values.dtype} without decodable units: {values[:3]}",
        expected="CF time, for example `days since 2015-01-15` with a calendar",
        hint="give time the attributes units and calendar",
    )


def _bounds_of(ds: xr.Dataset) -> str | None:
    """The name of the bounds of time, where there are some."""
    return next((str(n) for k in ("bounds", "climatology") if (n := _attribute(ds["time"], k)) in ds.variables), None)


def _read_months(ds: xr.Dataset, findings: Findings) -> Months | None:
    """(T,) consecutive `datetime64[M]`; None where they are refused."""
    values = _read_stamps(ds, findings)
    if values is None:
        return None
    months = _months_of(values)
    if months is None:
        _refuse_no_calendar(values, findings)
        return None
    bounds = _bounds_of(ds)
    if bounds is None:
        _note_edges(values, months, findings)
    else:
        bounded = _months_by_bounds(ds, bounds, findings)
        if bounded is None:
            return None
        if (bounded != months).any():
            findings.note(
                f"stamps of time lie outside the months of its bounds: months are read by {bounds}, {bounded[0]} "
                f".. {bounded[-1]}, not by the stamps, {months[0]} .. {months[-1]}"
            )
        months = bounded
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


def read_calendar(ds: xr.Dataset) -> str:
    """The calendar of the time coordinate, as CF names it."""
    time = ds["time"]
    return str(getattr(time.values.flat[0], "calendar", "") or time.encoding.get("calendar", "standard"))


def _are_dates(values: NDArray[Any]) -> bool:
    if np.issubdtype(values.dtype, np.datetime64):
        return True
    return values.dtype == object and any(hasattr(v, "year") for v in values.flat)


def _months_of(dates: NDArray[Any]) -> Months | None:
    """The month in which each date lies, of the same shape; None where they are not dates."""
    if np.issubdtype(dates.dtype, np.datetime64):
        return dates.astype("datetime64[M]")
    if dates.dtype != object or not all(hasattr(v, "year") for v in dates.flat):
        return None
    months = [(v.year - 1970) * 12 + v.month - 1 for v in dates.flat]
    return np.array(months, "int64").astype("datetime64[M]").reshape(dates.shape)


def _attribute(variable: xr.DataArray, name: str) -> str | None:
    value = variable.attrs.get(name, variable.encoding.get(name))
    return value if isinstance(value, str) else None


def _read_bounds(ds: xr.Dataset, name: str, findings: Findings) -> NDArray[Any] | None:
    """(T, 2) the dates between which each step lies; None where they are refused."""
    bounds = ds[name]
    hint = f"correct {name}, or remove it and the attribute of time that names it"
    if bounds.dims[:1] != ("time",) or bounds.shape[1:] != (2,):
        shape = ", ".join(f"{d} {n}" for d, n in bounds.sizes.items())
        findings.refuse(f"{name} does not bound time", found=f"({shape})", expected="(time, 2)", hint=hint)
        return None
    try:
        ends = bounds.values
    except READ_ERRORS as e:
        findings.refuse(f"{name}, the bounds of time, cannot be read", found=str(e), hint=hint)
        return None
    if xr.DataArray(ends).isnull().any() or not _are_dates(ends):
        findings.refuse(
            f"{name} does not bound time", found=f"{ends[0]}", expected="two dates for each step", hint=hint
        )
        return None
    return np.asarray(ends)


def _months_by_bounds(ds: xr.Dataset, name: str, findings: Findings) -> Months | None:
    """(T,) the months that the bounds of time enclose; None where they enclose none, or others than single months."""
    hint = f"correct {name}, or remove it and the attribute of time that names it"
    ends = _read_bounds(ds, name, findings)
    if ends is None:
        return None
    length = ends[:, 1] - ends[:, 0]
    days = np.array([v / timedelta(days=1) for v in length.astype("timedelta64[us]").astype(object)])
    odd = np.flatnonzero((days < SHORTEST_MONTH) | (days > LONGEST_MONTH))
    if len(odd):
        i = odd[0]
        findings.refuse(
            f"{name} does not bound single months",
            found=f"{ends[i, 0]} .. {ends[i, 1]}, {days[i]:g} days",
            expected="from the first to the last day of one month",
            hint=f"average the data to months first, or {hint}",
        )
        return None
    return _months_of(ends[:, 0] + length // 2)


def _note_edges(stamps: NDArray[Any], months: Months, findings: Findings) -> None:
    # A mean is often stamped at the end of its month, which is the first instant of the next one.
    day = np.timedelta64(1, "D") if np.issubdtype(stamps.dtype, np.datetime64) else timedelta(days=1)
    first, last = (np.asarray(_months_of(stamps + step)) != months for step in (-day, day))
    if (first | last).all():
        which = "first" if first.all() else "last" if last.all() else "first or last"
        findings.note(
            f"every stamp of time is the {which} day of a month, and no bounds say which month is meant: each is read "
            "as the month in which it lies"
        )


def read_names(ds: xr.Dataset, card: Card, findings: Findings, default: str | None = None) -> tuple[str, ...] | None:
    """Scenario names as the card spells them, or None where they are refused.

    Args:
        ds: The store.
        card: Whose scenarios are recognised in other spellings.
        findings: Where problems and other spellings go.
        default: The name where there is no scenario dimension.
    """
    dim = next((d for d in ROLES["scenario"] if d in ds.dims or d in ds.coords), None)
    if dim is None and default is not None:
        return (default,)
    if dim is None or dim not in ds.coords or ds[dim].dims not in ((), (dim,)):
        findings.refuse(
            "the store has no scenario coordinate",
            found=f"dimensions {_names(ds.dims)}; coordinates {_names(ds.coords)}",
            expected="a coordinate ssp with the scenarios' names",
            hint="add it: ds.assign_coords(ssp=[...])",
        )
        return None
    written = [text_of(v) for v in np.atleast_1d(ds[dim].values).tolist()]
    names = scenario_names(written, card.scenarios)
    other = [f"{a} as {b}" for a, b in zip(written, names, strict=True) if a != b]
    if other:
        findings.note(f"scenarios are spelled otherwise than in card {card.name}: {', '.join(other)}")
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
        named = ", ".join(map(text_of, values.tolist()))
        findings.note(f"members are named {named}: they are numbered from 0 in this order")
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
    if ds[dim].dtype.kind not in "fiu":
        found = f"{dim} of {ds[dim].dtype}"
        findings.refuse(
            f"dimension {dim} has no coordinate in degrees", found=found, expected=f"{dim}({dim}) in degrees"
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


def _names(names: Iterable[Hashable]) -> str:
    return ", ".join(str(n) for n in names) or "none"
