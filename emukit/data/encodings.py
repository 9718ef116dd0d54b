"""What a network is told about season, time of the day and place.

Invariant: an encoding depends on the position in the year or in the day and on the grid alone, never on data, so it
needs no fitting.

A new one is a `Cycle` or a `Place` and a line in its table, or a package with an entry point in the group
``emukit.encodings`` (of a cycle) or ``emukit.statics`` (of the place).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.data.time import TimeAxis
from emukit.errors import RecipeError
from emukit.registry import Entry, Registry

Field = NDArray[np.float32]
Phase = NDArray[np.float64]


@dataclass(frozen=True)
class Cycle:
    """Channels of the position in the year, or in the day.

    Attributes:
        channels: Their names.
        fields: From (P, 1, 1) angles and a grid, or some rows and columns of one, to one array for each channel, which
            broadcasts to (P, Y, X). What it says of a cell depends on where that lies, not on the others. The
            angle zero is the beginning of the year, or midnight at Greenwich.
        of: What goes round: ``year``, or ``day`` for steps shorter than one.
    """

    channels: tuple[str, ...]
    fields: Callable[[Phase, Grid], list[NDArray[np.float64]]]
    of: Literal["year", "day"] = "year"


@dataclass(frozen=True)
class Place:
    """Channels that are made from the grid alone.

    Attributes:
        channels: Their names.
        fields: From a grid to one array for each channel, which broadcasts to (Y, X).
    """

    channels: tuple[str, ...]
    fields: Callable[[Grid], list[NDArray[np.float64]]]


def _sin_lat(grid: Grid) -> NDArray[np.float64]:
    return np.sin(np.deg2rad(grid.lat))[:, None]


def _circle(phase: Phase, grid: Grid) -> list[NDArray[np.float64]]:
    return [np.sin(phase), np.cos(phase)]


def _circle_latitude(phase: Phase, grid: Grid) -> list[NDArray[np.float64]]:
    return [np.sin(phase) * _sin_lat(grid), np.cos(phase) * _sin_lat(grid)]


def _published(phase: Phase, grid: Grid) -> list[NDArray[np.float64]]:
    lat = np.deg2rad(grid.lat)[:, None]
    return [np.sign(lat) * np.cos(lat) * np.cos(phase)]


def _local_hour(phase: Phase, grid: Grid) -> list[NDArray[np.float64]]:
    local = phase + np.deg2rad(grid.lon)[None, None]
    return [np.sin(local), np.cos(local)]


MONTH = Cycle(("sin_month", "cos_month"), _circle)
MONTH_LATITUDE = Cycle(("sin_month_lat", "cos_month_lat"), _circle_latitude)
PUBLISHED = Cycle(("published_season",), _published)
HOUR = Cycle(("sin_hour", "cos_hour"), _circle, "day")
LOCAL_HOUR = Cycle(("sin_local_hour", "cos_local_hour"), _local_hour, "day")
LAT = Place(("sin_lat", "cos_lat"), lambda g: [np.sin(np.deg2rad(g.lat))[:, None], np.cos(np.deg2rad(g.lat))[:, None]])
LON = Place(("sin_lon", "cos_lon"), lambda g: [np.sin(np.deg2rad(g.lon))[None], np.cos(np.deg2rad(g.lon))[None]])

# What is told of the day where nothing is said of it.
DEFAULT_DAILY = "local-hour"

CYCLES: Registry[Entry] = Registry(
    "seasonal encoding",
    "emukit.encodings",
    {
        # The network must learn that hemispheres differ.
        "month": Entry("emukit.data.encodings:MONTH", "season without place"),
        # The sign turns at the equator, and the tropics, which have no winter, get little.
        "month-latitude": Entry("emukit.data.encodings:MONTH_LATITUDE", "season times sin(latitude)"),
        # As published by the competition's third place.
        "published": Entry(
            "emukit.data.encodings:PUBLISHED", "sign(latitude) cos(latitude) cos(2 pi (month - 1) / 12)"
        ),
        "hour": Entry("emukit.data.encodings:HOUR", "time of the day at Greenwich"),
        # The sun is highest at the same angle everywhere.
        "local-hour": Entry("emukit.data.encodings:LOCAL_HOUR", "solar time of the day"),
    },
    entry=Entry,
    accepts=lambda found: isinstance(found, Cycle),
    expected="an emukit.data.encodings.Cycle",
)

STATIC: Registry[Entry] = Registry(
    "static encoding",
    "emukit.statics",
    {
        "lat": Entry("emukit.data.encodings:LAT", "sine and cosine of latitude"),
        "lon": Entry("emukit.data.encodings:LON", "sine and cosine of longitude"),
    },
    entry=Entry,
    accepts=lambda found: isinstance(found, Place),
    expected="an emukit.data.encodings.Place",
)


def cycles_of(names: Sequence[str], of: Literal["year", "day"]) -> list[Cycle]:
    """Those of some encodings that go round in a year, or in a day."""
    return [cycle for cycle in (CYCLES.load(n) for n in names) if cycle.of == of]


def seasonal_fields(names: tuple[str, ...], grid: Grid, time: TimeAxis) -> tuple[tuple[str, ...], Field]:
    """Channels of the season, for every position in the year.

    Of months there are 12 positions; of days and hours as many as the year has days; of years one, and no channel, as
    nothing of them would vary.

    Returns:
        Channel names and (P, E, Y, X) float32 fields, January first.
    """
    positions = time.days_of_year if time.minutes else 12 if time.is_monthly else 1
    return _fields([] if time.step == "year" else cycles_of(names, "year"), positions, grid)


def seasonal_positions(time: TimeAxis) -> NDArray[np.int64]:
    """(T,) which of the positions of `seasonal_fields` each step has."""
    return time.day_of_year if time.minutes else time.month


def daily_fields(names: tuple[str, ...], grid: Grid, time: TimeAxis) -> tuple[tuple[str, ...], Field]:
    """Channels of the time of the day, for every step of a day; none where steps are a day or longer.

    Returns:
        Channel names and (Q, D, Y, X) float32 fields, midnight at Greenwich first.

    Raises:
        RecipeError: An encoding of the day is named, and steps are a day or longer.
    """
    named = [n for n in names if CYCLES.load(n).of == "day"]
    if named and time.per_day == 1:
        raise RecipeError(
            f"the encoding {named[0]} needs steps shorter than a day",
            found=time.describe(),
            hint="leave it out of inputs.seasonal",
        )
    return _fields(cycles_of(named or (DEFAULT_DAILY,) * (time.per_day > 1), "day"), time.per_day, grid)


def _fields(cycles: Sequence[Cycle], positions: int, grid: Grid) -> tuple[tuple[str, ...], Field]:
    phase = (2 * np.pi * np.arange(positions) / positions)[:, None, None]
    channels = tuple(c for cycle in cycles for c in cycle.channels)
    fields = [np.broadcast_to(f, (positions, *grid.shape)) for cycle in cycles for f in cycle.fields(phase, grid)]
    stacked = np.stack(fields, 1) if fields else np.zeros((positions, 0, *grid.shape))
    return channels, stacked.astype(np.float32)


def place_fields(names: tuple[str, ...], grid: Grid) -> tuple[tuple[str, ...], Field]:
    """Static channels made from the grid.

    Returns:
        Channel names and (P, Y, X) float32 fields.
    """
    places: list[Place] = [STATIC.load(n) for n in names]
    channels = tuple(c for place in places for c in place.channels)
    fields = [np.broadcast_to(f, grid.shape) for place in places for f in place.fields(grid)]
    return channels, (np.stack(fields) if fields else np.zeros((0, *grid.shape))).astype(np.float32)
