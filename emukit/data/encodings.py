"""What a network is told about season and place.

Invariant: an encoding depends on the calendar month and the grid alone, never on data, so it needs no fitting.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid

Field = NDArray[np.float32]


def _phase() -> NDArray[np.float64]:
    """(12, 1, 1) angle of each calendar month, January zero."""
    return (2 * np.pi * np.arange(12) / 12)[:, None, None]


def _sin_lat(grid: Grid) -> NDArray[np.float64]:
    return np.sin(np.deg2rad(grid.lat))[:, None]


def _month(grid: Grid) -> list[NDArray[np.float64]]:
    return [np.sin(_phase()), np.cos(_phase())]


def _month_latitude(grid: Grid) -> list[NDArray[np.float64]]:
    return [np.sin(_phase()) * _sin_lat(grid), np.cos(_phase()) * _sin_lat(grid)]


def _published(grid: Grid) -> list[NDArray[np.float64]]:
    lat = np.deg2rad(grid.lat)[:, None]
    return [np.sign(lat) * np.cos(lat) * np.cos(_phase())]


# name -> (channel names, fields of shape broadcastable to (12, Y, X))
SEASONAL: dict[str, tuple[tuple[str, ...], Callable[[Grid], list[NDArray[np.float64]]]]] = {
    # Season without place: the network must learn that hemispheres differ.
    "month": (("sin_month", "cos_month"), _month),
    # Times sin(lat): the sign turns at the equator, and the tropics, which have no winter, get little.
    "month-latitude": (("sin_month_lat", "cos_month_lat"), _month_latitude),
    # sign(lat) cos(lat) cos(2 pi (month - 1) / 12), as published by the competition's third place.
    "published": (("published_season",), _published),
}

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


def seasonal_fields(names: tuple[str, ...], grid: Grid) -> tuple[tuple[str, ...], Field]:
    """Seasonal channels for every calendar month.

    Returns:
        Channel names and (12, E, Y, X) float32 fields, January first.
    """
    channels = tuple(c for n in names for c in SEASONAL[n][0])
    fields = [np.broadcast_to(f, (12, *grid.shape)) for n in names for f in SEASONAL[n][1](grid)]
    stacked = np.stack(fields, 1) if fields else np.zeros((12, 0, *grid.shape))
    return channels, stacked.astype(np.float32)


def place_fields(names: tuple[str, ...], grid: Grid) -> tuple[tuple[str, ...], Field]:
    """Static channels made from the grid.

    Returns:
        Channel names and (P, Y, X) float32 fields.
    """
    channels = tuple(c for n in names for c in STATIC[n][0])
    fields = [np.broadcast_to(f, grid.shape) for n in names for f in STATIC[n][1](grid)]
    return channels, (np.stack(fields) if fields else np.zeros((0, *grid.shape))).astype(np.float32)
