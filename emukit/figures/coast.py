"""Where the Earth's coasts are, to read maps by.

Invariant: lines run from 0 to 360 degrees east like the maps, and none crosses the prime meridian, where a map ends.
The lines are those of Natural Earth (public domain); the file next to this module says which edition and how
simplified.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("coastline.json")
TENTHS = 10


@cache
def coastline() -> tuple[NDArray[np.float64], ...]:
    """Lines as (N, 2) longitudes and latitudes in degrees."""
    plain = json.loads(FILE.read_text(encoding="utf-8"))
    lines = [np.array(line, np.float64).reshape(-1, 2) / TENTHS for line in plain["lines"]]
    return tuple(part for line in lines for part in _east_of_greenwich(line))


def _east_of_greenwich(line: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """A line from -180 to 180 degrees as lines from 0 to 360, cut where it crosses the prime meridian."""
    lon, lat = line[:, 0] % 360.0, line[:, 1]
    parts: list[list[tuple[float, float]]] = [[(float(lon[0]), float(lat[0]))]]
    for i in range(1, len(line)):
        step = lon[i] - lon[i - 1]
        if abs(step) > 180.0:
            eastward = step < 0
            here, there = (360.0, 0.0) if eastward else (0.0, 360.0)
            # The way round the back of the globe is never the shorter one.
            share = (here - lon[i - 1]) / (step + (360.0 if eastward else -360.0))
            crossing = float(lat[i - 1] + share * (lat[i] - lat[i - 1]))
            parts[-1].append((here, crossing))
            parts.append([(there, crossing)])
        parts[-1].append((float(lon[i]), float(lat[i])))
    return [np.array(part) for part in parts if len(part) > 1]
