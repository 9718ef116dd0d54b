"""Small stores whose steps are years, days or hours, each with a card of its own.

The climate is linear in CO2 by cell and season (and by time of the day), plus noise: what `linear` must find is known.
"""

from __future__ import annotations

from pathlib import Path

import cftime
import numpy as np
import xarray as xr

from tests.coded import small_grid

CARD = """\
name = "{name}"
title = "A climate of {time} steps, for tests"
source = "generated"
licence = "Apache-2.0"
time = "{time}"
scenarios = {scenarios}
default_protocol = "late"

[targets.tas]
units = "K"
range = [150.0, 350.0]
largest = [250.0, 350.0]
what = "near-surface air temperature"

[targets.pr]
units = "mm/day"
range = [-0.001, 1000.0]
largest = [1.0, 1000.0]
what = "precipitation"

[forcings.CO2]
kind = "series"
units = "GtCO2"
range = [0.0, 30000.0]
largest = [10.0, 30000.0]
what = "cumulative fossil CO2 emission"

[forcings.SO2]
units = "kg m-2 s-1"
range = [0.0, 1e-7]
largest = [0.0, 1e-7]
what = "SO2 emission"

[protocols.late]
train = {scenarios}
validation = [{{ scenario = "{last}", member = 0, steps = [-{two}, -{one}] }}]
test = [{{ scenario = "{last}", member = 0, steps = [-{one}, 0] }}]

[loso]
validation_steps = {one}
test_steps = {one}
"""


def card_text(time: str, scenarios: list[str], scored: int) -> str:
    """A card of such a store; validation and test are `scored` steps each, at the end of the last scenario."""
    names = "[" + ", ".join(f'"{s}"' for s in scenarios) + "]"
    return CARD.format(name=f"test-{time}", time=time, scenarios=names, last=scenarios[-1], one=scored, two=2 * scored)


def fields(rng: np.random.Generator, year: np.ndarray, day: np.ndarray, co2: np.ndarray, members: int) -> xr.Dataset:
    """(time, member, y, x) tas and pr of one scenario: `year` and `day` are the fractions of each step, 0 to 1."""
    grid = small_grid()
    y, x = grid.shape
    lat = np.sin(np.deg2rad(grid.lat))
    season = -np.cos(2 * np.pi * (year[:, None] - 0.05)) * lat * 10.0
    sun = -np.cos(2 * np.pi * (day[:, None] + grid.lon / 360.0)) * 3.0
    warming = (co2 - 1000.0) / 1000.0
    pattern = 1.0 + 0.5 * np.abs(lat)[:, None] + np.zeros(x)
    forced = 285.0 - 25.0 * lat[:, None] ** 2 + season[:, :, None] + sun[:, None, :] + warming[:, None, None] * pattern
    noise = rng.normal(size=(len(co2), members, y, x))
    tas = forced[:, None] + 0.3 * noise
    pr = np.maximum(3.0 + 0.2 * warming[:, None, None, None] + 0.3 * rng.normal(size=noise.shape), 0.0)
    return xr.Dataset(
        {
            "tas": (("time", "member_id", "y", "x"), tas.astype(np.float32), {"units": "K"}),
            "pr": (("time", "member_id", "y", "x"), pr.astype(np.float32), {"units": "mm/day"}),
            "CO2": (("time",), co2, {"units": "GtCO2"}),
            "SO2": (
                ("time", "y", "x"),
                np.broadcast_to(1e-11 * (1 + year[:, None, None]), (len(co2), y, x)).astype(np.float32),
                {"units": "kg m-2 s-1"},
            ),
        },
        coords={"member_id": np.arange(members), "y": grid.lat, "x": grid.lon},
    )


def yearly_dataset(first: int = 1950, turn: int = 2015, stop: int = 2055) -> xr.Dataset:
    """historical [first, turn) with three members and ssp585 [turn, stop) with two, NaN where there is none."""
    rng = np.random.default_rng(1)
    parts = {}
    for name, start, end, members in (("historical", first, turn, 3), ("ssp585", turn, stop, 2)):
        years = np.arange(start, end)
        co2 = 500.0 + 10.0 * (years - 1950) + 0.2 * (years - 1950.0) ** 2
        ds = fields(rng, np.zeros(len(years)), np.zeros(len(years)), co2, members)
        parts[name] = ds.assign_coords(time=[cftime.DatetimeNoLeap(int(y), 7, 1) for y in years])
    joined = xr.concat(parts.values(), dim=xr.Variable("ssp", list(parts)), join="outer", combine_attrs="override")
    return joined.sortby("time")


def even_dataset(
    step_hours: int, steps: int, calendar: str = "noleap", scenarios: tuple[str, ...] = ("ssp126", "ssp585")
) -> xr.Dataset:
    """Scenarios of days or hours from 2015-01-01 on, with one member each."""
    rng = np.random.default_rng(2)
    hours = step_hours * np.arange(steps)
    time = cftime.num2date(hours + (12 if step_hours == 24 else 0), "hours since 2015-01-01", calendar=calendar)
    days = {"360_day": 360.0}.get(calendar, 365.0)
    year, day = hours / 24 / days % 1, (hours / 24 % 1 if step_hours < 24 else 0.0 * hours)
    parts = [
        fields(rng, year, day, 1000.0 + (s + 1) * hours / 24 / 365 * 100, 1).assign_coords(time=time)
        for s in range(len(scenarios))
    ]
    return xr.concat(parts, dim=xr.Variable("ssp", list(scenarios)), combine_attrs="override")


def written(folder: Path, time: str, ds: xr.Dataset, scored: int) -> tuple[Path, Path]:
    """The store as Zarr and its card, in a folder."""
    store, card = folder / "store.zarr", folder / "card.toml"
    ds.to_zarr(store, zarr_format=2)
    card.write_text(card_text(time, [str(s) for s in ds.ssp.values], scored))
    return store, card
