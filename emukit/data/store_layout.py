"""The layout of a store: which of the card's variables it holds, over which scenarios, members, steps and cells.

Invariant: a variable is usable, or there is a problem that names it. A field that does not change in time, such as land
or orography, is joined to the grid by its own coordinates, both of them, never by its shape alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.card import Card
from emukit.data.chunk_files import READ_ERRORS
from emukit.data.decode import ROLES, Axes, Findings, read_axes, read_members, read_names, read_time, role
from emukit.data.grid import Grid
from emukit.data.source import Source
from emukit.data.time import Months, TimeAxis
from emukit.data.variable import Variable

# Degrees: far more than the rounding of single precision, far less than a cell.
_TOLERANCE = 0.05


@dataclass(frozen=True)
class Layout:
    """What the axes of a store mean.

    Attributes:
        names: Scenarios.
        members: Member numbers.
        time: The T steps of the store, which a scenario may hold a part of.
        grid: The targets' grid; of the forcing fields where there are no targets.
        targets: Usable target variables and their horizontal axes.
        forcings: Usable forcings and their horizontal axes, None for a global series.
    """

    names: tuple[str, ...]
    members: tuple[int, ...]
    time: TimeAxis
    grid: Grid
    targets: Mapping[str, Axes]
    forcings: Mapping[str, Axes | None]

    @property
    def months(self) -> Months:
        """(T,) `datetime64[M]` of a store of months."""
        return self.time.months


def read_layout(
    ds: xr.Dataset, card: Card, findings: Findings, *, with_targets: bool = True, default_scenario: str | None = None
) -> Layout | None:
    """The meaning of the store's axes; problems go to `findings`, and None comes back where nothing can be read."""
    if _refuse_empty(ds, card, findings):
        return None
    names, time = read_names(ds, card, findings, default_scenario), read_time(ds, card.time, findings)
    members = read_members(ds, findings) if with_targets else ()
    wanted = card.quantities if with_targets else card.forcings
    usable = {v: q for v, q in wanted.items() if _has_dims(ds, v, q, card, findings)}
    axes: dict[str, Axes | None] = {}
    grid: Grid | None = None
    # The targets' grid is the grid; without targets, that of a field which is not joined to it by index.
    for v in sorted(usable, key=lambda v: (v not in card.targets, card.quantities[v].kind == "either")):
        if not {role(d) for d in ds[v].dims} >= {"lat", "lon"}:
            axes[v] = None
            continue
        read = read_axes(ds, v, findings, grid)
        if read is not None:
            axes[v] = read[0]
            grid = grid or read[1]
    if names is None or time is None or members is None or grid is None:
        return None
    _note_rest(time, findings)
    _note_scenarios(names, card, findings)
    targets = {v: a for v in card.targets if (a := axes.get(v)) is not None}
    return Layout(names, members, time, grid, targets, {v: axes[v] for v in card.forcings if v in axes})


def _refuse_empty(ds: xr.Dataset, card: Card, findings: Findings) -> bool:
    used = {d for v in card.quantities if v in ds for d in ds[v].dims}
    empty = [str(d) for d, n in ds.sizes.items() if not n and (d in used or role(d))]
    for dim in empty:
        findings.refuse(
            f"dimension {dim} is empty",
            found=", ".join(f"{d} {n}" for d, n in ds.sizes.items()),
            expected=f"at least one {dim}",
            hint="write the store again: what was selected from it was nothing",
        )
    return bool(empty)


def _has_dims(ds: xr.Dataset, v: str, quantity: Variable, card: Card, findings: Findings) -> bool:
    if v not in ds:
        findings.refuse(
            f"variable {v} is missing",
            found=f"variables {', '.join(map(str, ds.data_vars)) or 'none'}",
            expected=f"those of card {card.name}: {', '.join(card.quantities)}",
            hint="add it, or name another card with --card",
        )
        return False
    dims, roles = ds[v].dims, [role(d) for d in ds[v].dims]
    is_target = v in card.targets
    required = {"time"} | ({"lat", "lon"} if quantity.kind == "field" else set())
    allowed = {"scenario", "time"} | ({"member"} if is_target else set())
    allowed |= {"lat", "lon"} if quantity.kind != "series" else set()
    if is_target and any(role(d) == "scenario" for d in ds.dims):
        required.add("scenario")
    if is_target and any(role(d) == "member" for t in card.targets if t in ds for d in ds[t].dims):
        required.add("member")
    half_field = len({"lat", "lon"} & set(roles)) == 1
    if not required <= set(roles) or not set(roles) <= allowed or len(set(roles)) < len(roles) or half_field:
        shape = {"field": "(ssp, time, y, x)", "series": "(ssp, time)", "either": "(ssp, time, y, x) or (ssp, time)"}
        findings.refuse(
            f"{v} has dimensions without one meaning",
            found=f"({', '.join(map(str, dims))})",
            expected="(ssp, time, member_id, y, x)" if is_target else shape[quantity.kind],
            hint="rename or drop dimensions; any order is fine",
        )
        return False
    for r in ("scenario", "member"):
        mine = next((d for d in dims if role(d) == r), None)
        meant = next((d for d in ROLES[r] if d in ds.dims), None)
        if mine is not None and mine != meant:
            findings.refuse(
                f"{v} has another {r} dimension than the store",
                found=f"{mine} of {v}, and {meant} next to it",
                expected=f"one {r} dimension",
                hint=f"rename or drop one of them: ds.rename({mine}={meant!r})",
            )
            return False
    if quantity.kind == "either" and "lat" not in roles:
        findings.note(f"{v} is a global series in this store, a field in the competition's")
    if ds[v].dtype.kind not in "fiu":
        findings.refuse(f"{v} is not numeric", found=str(ds[v].dtype), expected="floating point")
        return False
    return True


def _note_rest(time: TimeAxis, findings: Findings) -> None:
    # Years of the standard calendar differ in length.
    years, rest = divmod(len(time), time.per_year)
    if rest and not (time.minutes and time.calendar == "standard"):
        findings.note(
            f"{len(time)} {time.unit}s = {years} * {time.per_year} + {rest}: {time.text(0)} .. {time.text(-1)} is not "
            "a whole number of years"
        )


def _note_scenarios(names: tuple[str, ...], card: Card, findings: Findings) -> None:
    absent = [s for s in card.scenarios if s not in names]
    if absent and len(names) > 1:
        findings.note(f"scenarios of card {card.name} that are not in the store: {', '.join(absent)}")
    unknown = [s for s in names if s not in card.scenarios]
    if unknown:
        findings.note(f"scenarios that card {card.name} does not know: {', '.join(unknown)}")


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
