"""Stores in the competition's layout whose every value spells its own address.

A target's value is 1 + (((scenario * M + member) * T + month) * V + variable) * cells + cell; a forcing's is
100000 * (its number + 1) + (scenario * T + month) * cells + cell. All are integers below 2^24, exact in float32.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cftime
import numpy as np
import xarray as xr

from emukit.data.card import Card, load_card

SCENARIOS = ("ssp126", "ssp245", "ssp370", "ssp585")
MEMBERS, MONTHS, Y, X = 3, 24, 4, 6
TARGETS = ("tas", "pr")
FORCINGS = ("CO2", "CH4", "SO2", "BC", "rsdt")
CELLS = Y * X


def coded_card() -> Card:
    """The competition's card with any value plausible; ssp245 and the last 18 months of ssp370 may be hidden."""
    card = load_card("cse151b-2025")
    loose = {"range": (-1e9, 1e9), "largest": (-1e9, 1e9), "physics": ""}
    return card.model_copy(
        update={
            "name": "coded",
            "hidden": {"ssp245": "all", "ssp370": (-18, 0)},
            "oddities": [],
            "targets": {k: q.model_copy(update=loose) for k, q in card.targets.items()},
            "forcings": {k: q.model_copy(update=loose) for k, q in card.forcings.items()},
        }
    )


def target_code(scenario: Any, member: Any, month: Any, variable: Any, y: Any = 0, x: Any = 0) -> Any:
    """The value of one target cell."""
    return 1 + (((scenario * MEMBERS + member) * MONTHS + month) * 2 + variable) * CELLS + y * X + x


def forcing_code(number: Any, scenario: Any, month: Any, y: Any = 0, x: Any = 0) -> Any:
    """The value of one forcing cell; its number is its place in `FORCINGS`."""
    return 100000 * (number + 1) + (scenario * MONTHS + month) * CELLS + y * X + x


def times(calendar: str = "noleap", n: int = MONTHS) -> list[cftime.datetime]:
    """The 15th of n months from 2015-01."""
    return [cftime.datetime(2015 + i // 12, 1 + i % 12, 15, calendar=calendar) for i in range(n)]


def coded_dataset() -> xr.Dataset:
    """A coded dataset in memory: dimensions, coordinates and oddities of the competition's store, nothing hidden."""
    s, t, m, y, x = np.ogrid[: len(SCENARIOS), :MONTHS, :MEMBERS, :Y, :X]
    lat, lon = -67.5 + 45.0 * np.arange(Y), 30.0 + 60.0 * np.arange(X)
    ds = xr.Dataset(
        coords={
            "ssp": np.array(SCENARIOS),
            "time": times(),
            "member_id": np.arange(MEMBERS),
            "y": lat,
            "x": lon,
            "latitude": lat - 1.0,
            "longitude": lon - 2.0,
        }
    )
    for v, name in enumerate(TARGETS):
        ds[name] = (("ssp", "time", "member_id", "y", "x"), target_code(s, m, t, v, y, x).astype(np.float32))
    for k, name in enumerate(FORCINGS):
        values = forcing_code(k, s, t, y, x)[:, :, 0].astype(np.float64)
        if name in ("CO2", "CH4"):
            ds[name] = (("ssp", "time"), values[:, :, 0, 0])
        elif name == "rsdt":  # the same in every scenario, as in the competition's store
            ds[name] = (("ssp", "time", "y", "x"), np.repeat(values[:1], len(SCENARIOS), 0).astype(np.float32))
        else:
            ds[name] = (("ssp", "time", "latitude", "longitude"), values)
    return ds


def hide(ds: xr.Dataset, scenario: str, start: int, stop: int | None = None) -> xr.Dataset:
    """A copy whose targets of months [start, stop) of a scenario are zero."""
    ds = ds.copy(deep=True)
    for name in TARGETS:
        ds[name][SCENARIOS.index(scenario), start:stop] = 0.0
    return ds


def write_store(
    ds: xr.Dataset, path: Path, kind: str = "v2", *, time: int = 6, scenario: int = 1, member: int = 1
) -> Path:
    """Write as Zarr ``v2`` or ``v3`` with these chunks, or as ``netcdf``.

    Chunks that hold nothing but the fill value (NaN in v2, zero in v3) are left out, as many writers do.
    """
    if kind == "netcdf":
        ds.to_netcdf(path, engine="netcdf4")
        return path
    sizes = {"ssp": scenario, "time": time, "member_id": member}
    encoding: dict[str, dict[str, Any]] = {
        v: {"chunks": tuple(min(sizes.get(str(d), 10**6), ds.sizes[d]) for d in ds[v].dims)}
        for v in (*TARGETS, *FORCINGS)
        if v in ds
    }
    if kind == "v3":
        for settings in encoding.values():
            settings["fill_value"] = 0.0
    ds.to_zarr(
        path,
        zarr_format=2 if kind == "v2" else 3,
        encoding=encoding,
        consolidated=kind == "v2",
        write_empty_chunks=False,
        mode="w",
    )
    return path
