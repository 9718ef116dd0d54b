"""What a network is told about season and place.

Invariant: an encoding depends on the calendar month and the grid alone, never on data, so it needs no fitting.

A new one is an `Encoding` and a line in its table, or a package with an entry point in the group ``emukit.encodings``
(of the season) or ``emukit.statics`` (of the place).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.registry import Entry, Registry

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


@dataclass(frozen=True)
class Encoding:
    """Channels that are made from the grid.

    Attributes:
        channels: Their names.
        fields: From a grid to one array for each channel, which broadcasts to (12, Y, X), January first, of a seasonal
            encoding, and to (Y, X) of one of the place.
    """

    channels: tuple[str, ...]
    fields: Callable[[Grid], list[NDArray[np.float64]]]


MONTH = Encoding(("sin_month", "cos_month"), _month)
MONTH_LATITUDE = Encoding(("sin_month_lat", "cos_month_lat"), _month_latitude)
PUBLISHED = Encoding(("published_season",), _published)
LAT = Encoding(
    ("sin_lat", "cos_lat"), lambda g: [np.sin(np.deg2rad(g.lat))[:, None], np.cos(np.deg2rad(g.lat))[:, None]]
)
LON = Encoding(("sin_lon", "cos_lon"), lambda g: [np.sin(np.deg2rad(g.lon))[None], np.cos(np.deg2rad(g.lon))[None]])


def _is_encoding(found: object) -> bool:
    return isinstance(found, Encoding)


SEASONAL: Registry[Entry] = Registry(
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
    },
    entry=Entry,
    accepts=_is_encoding,
    expected="an emukit.data.encodings.Encoding",
)

STATIC: Registry[Entry] = Registry(
    "static encoding",
    "emukit.statics",
    {
        "lat": Entry("emukit.data.encodings:LAT", "sine and cosine of latitude"),
        "lon": Entry("emukit.data.encodings:LON", "sine and cosine of longitude"),
    },
    entry=Entry,
    accepts=_is_encoding,
    expected="an emukit.data.encodings.Encoding",
)


def seasonal_fields(names: tuple[str, ...], grid: Grid) -> tuple[tuple[str, ...], Field]:
    """Seasonal channels for every calendar month.

    Returns:
        Channel names and (12, E, Y, X) float32 fields, January first.
    """
    encodings: list[Encoding] = [SEASONAL.load(n) for n in names]
    channels = tuple(c for e in encodings for c in e.channels)
    fields = [np.broadcast_to(f, (12, *grid.shape)) for e in encodings for f in e.fields(grid)]
    stacked = np.stack(fields, 1) if fields else np.zeros((12, 0, *grid.shape))
    return channels, stacked.astype(np.float32)


def place_fields(names: tuple[str, ...], grid: Grid) -> tuple[tuple[str, ...], Field]:
    """Static channels made from the grid.

    Returns:
        Channel names and (P, Y, X) float32 fields.
    """
    encodings: list[Encoding] = [STATIC.load(n) for n in names]
    channels = tuple(c for e in encodings for c in e.channels)
    fields = [np.broadcast_to(f, grid.shape) for e in encodings for f in e.fields(grid)]
    return channels, (np.stack(fields) if fields else np.zeros((0, *grid.shape))).astype(np.float32)
