"""Predictions as datasets that other tools understand: CF names, units, bounds of meaning.

Invariant: what is written says what it is: units, standard names, calendar, and where it came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data.archive import Archive
from emukit.data.grid import Grid
from emukit.data.time import TimeAxis
from emukit.data.variable import Variable
from emukit.errors import ProtocolError


def fields_to_dataset(
    fields: NDArray[np.floating],
    time: TimeAxis,
    grid: Grid,
    variables: Sequence[Variable],
    scenario: str,
    provenance: Mapping[str, str] | None = None,
) -> xr.Dataset:
    """A CF dataset of predicted fields.

    Args:
        fields: (T, V, Y, X) in physical units.
        time: Their T steps. Months are written as their 15th and years as 1 July, in the noleap calendar as the
            competition's store has it; days and hours as their stamps, in their own.
        grid: Their grid.
        variables: What is along V.
        scenario: Name of the scenario.
        provenance: More global attributes.
    """
    return xr.Dataset(
        {v.name: (("time", "y", "x"), fields[:, i], v.attributes) for i, v in enumerate(variables)},
        coords={
            "time": ("time", time.cf_time(), {"standard_name": "time", "axis": "T"}),
            "y": ("y", grid.lat, {"standard_name": "latitude", "units": "degrees_north", "axis": "Y"}),
            "x": ("x", grid.lon, {"standard_name": "longitude", "units": "degrees_east", "axis": "X"}),
        },
        attrs={"Conventions": "CF-1.11", "scenario": scenario, "source": "emukit emulator", **(provenance or {})},
    )


def truth_dataset(
    archive: Archive, scenario: str, member: int = 0, start: str | None = None, stop: str | None = None
) -> xr.Dataset:
    """What the climate model said, in the form of a prediction.

    Args:
        archive: An opened store.
        scenario: Name of the scenario.
        member: Ensemble member.
        start: First step, such as ``2060-02``; the scenario's first when None.
        stop: Last step, included; the scenario's last when None.

    Raises:
        ProtocolError: No such scenario, member or step, or the steps are hidden.
    """
    chosen = archive[scenario]
    first = chosen.index(start) if start else 0
    last = chosen.index(stop) + 1 if stop else len(chosen)
    if first >= last:
        unit = chosen.time.unit
        raise ProtocolError(f"no {unit}s from {start} to {stop}", hint=f"name a first {unit} before the last")
    fields = chosen.truth(member, first, last)
    source = {"source": f"{archive.card.name}, member {member}"}
    return fields_to_dataset(fields, chosen.time[first:last], archive.grid, archive.domain.described, scenario, source)


def forcings_dataset(archive: Archive, scenario: str) -> xr.Dataset:
    """The forcings of a scenario, to be changed and handed to a prediction: what if CO2 followed another path?

    Args:
        archive: An opened store.
        scenario: Name of the scenario.

    Returns:
        A dataset with each forcing on time, or on (time, y, x), in the units of the data card.

    Raises:
        ProtocolError: There is no such scenario.
    """
    chosen = archive[scenario]
    empty = np.empty((len(chosen), 0, *archive.grid.shape), np.float32)
    frame = fields_to_dataset(empty, chosen.time, archive.grid, (), scenario)
    fields = {
        name: (("time", "y", "x")[: values.ndim], values, {"units": archive.card.forcings[name].units})
        for name, values in chosen.forcings.items()
    }
    return frame.assign(fields).assign_attrs(source=f"{archive.card.name}, forcings")
