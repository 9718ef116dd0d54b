"""What a network is told about season, time of the day and place.

Invariant: an encoding depends on the position in the year or in the day and on the grid alone, never on data, so it
needs no fitting.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.data.time import TimeAxis
from emukit.errors import RecipeError

Field = NDArray[np.float32]
Phase = NDArray[np.float64]


def _sin_lat(grid: Grid) -> NDArray[np.float64]:
    return np.sin(np.deg2rad(grid.lat))[:, None]


def _month(phase: Phase, grid: Grid) -> list[NDArray[np.float64]]:
    return [np.sin(phase), np.cos(phase)]


def _month_latitude(phase: Phase, grid: Grid) -> list[NDArray[np.float64]]:
    return [np.sin(phase) * _sin_lat(grid), np.cos(phase) * _sin_lat(grid)]


def _published(phase: Phase, grid: Grid) -> list[NDArray[np.float64]]:
    lat = np.deg2rad(grid.lat)[:, None]
    return [np.sign(lat) * np.cos(lat) * np.cos(phase)]


def _local_hour(phase: Phase, grid: Grid) -> list[NDArray[np.float64]]:
    local = phase + np.deg2rad(grid.lon)[None, None]
    return [np.sin(local), np.cos(local)]


_Encoding = tuple[tuple[str, ...], Callable[[Phase, Grid], list[NDArray[np.float64]]]]

# name -> (channel names, fields of shape broadcastable to (P, Y, X) for P angles of the year, its beginning zero)
SEASONAL: dict[str, _Encoding] = {
    # Season without place: the network must learn that hemispheres differ.
    "month": (("sin_month", "cos_month"), _month),
    # Times sin(lat): the sign turns at the equator, and the tropics, which have no winter, get little.
    "month-latitude": (("sin_month_lat", "cos_month_lat"), _month_latitude),
    # sign(lat) cos(lat) cos(2 pi (month - 1) / 12), as published by the competition's third place.
    "published": (("published_season",), _published),
}

# The same for angles of the day, midnight at Greenwich zero; for steps shorter than a day.
DAILY: dict[str, _Encoding] = {
    "hour": (("sin_hour", "cos_hour"), _month),
    # Solar time: the sun is highest at the same angle everywhere.
    "local-hour": (("sin_local_hour", "cos_local_hour"), _local_hour),
}
# What is told of the day where nothing is said of it.
DEFAULT_DAILY = "local-hour"

STATIC: dict[str, tuple[tuple[str, ...], Callable[[Grid], list[NDArray[np.float64]]]]] = {
    "lat": (
        ("sin_lat", "cos_lat"),
        lambda g: [np.sin(np.deg2rad(g.lat))[:, None], np.cos(np.deg2rad(g.lat))[:, None]],
    ),
    "lon": (
        ("sin_lon", "cos_lon"),
        lambda g: [np.sin(np.deg2rad(g.lon))[None], np.cos(np.deg2rad(g.lon))[None]],
    ),
}


def seasonal_fields(names: tuple[str, ...], grid: Grid, time: TimeAxis) -> tuple[tuple[str, ...], Field]:
    """Channels of the season, for every position in the year.

    Of months there are 12 positions; of days and hours as many as the year has days; of years one, and no channel, as
    nothing of them would vary.

    Returns:
        Channel names and (P, E, Y, X) float32 fields, January first.
    """
    names = () if time.step == "year" else tuple(n for n in names if n in SEASONAL)
    positions = time.days_of_year if time.minutes else 12 if time.is_monthly else 1
    return _fields(SEASONAL, names, positions, grid)


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
    names = tuple(n for n in names if n in DAILY)
    if names and time.per_day == 1:
        raise RecipeError(
            f"the encoding {names[0]} needs steps shorter than a day",
            found=time.describe(),
            hint="leave it out of inputs.seasonal",
        )
    return _fields(DAILY, names or (DEFAULT_DAILY,) * (time.per_day > 1), time.per_day, grid)


def _fields(
    table: dict[str, _Encoding], names: tuple[str, ...], positions: int, grid: Grid
) -> tuple[tuple[str, ...], Field]:
    phase = (2 * np.pi * np.arange(positions) / positions)[:, None, None]
    channels = tuple(c for n in names for c in table[n][0])
    fields = [np.broadcast_to(f, (positions, *grid.shape)) for n in names for f in table[n][1](phase, grid)]
    stacked = np.stack(fields, 1) if fields else np.zeros((positions, 0, *grid.shape))
    return channels, stacked.astype(np.float32)


def place_fields(names: tuple[str, ...], grid: Grid) -> tuple[tuple[str, ...], Field]:
    """Static channels made from the grid.

    Returns:
        Channel names and (P, Y, X) float32 fields.
    """
    channels = tuple(c for n in names for c in STATIC[n][0])
    fields = [np.broadcast_to(f, grid.shape) for n in names for f in STATIC[n][1](grid)]
    return channels, (np.stack(fields) if fields else np.zeros((0, *grid.shape))).astype(np.float32)
