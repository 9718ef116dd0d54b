"""How memory grows with the store: whole processes on demo stores of two sizes, each made for the measurement.

Invariant: a difference of peaks is divided by a difference of arrays, so that the interpreter and its libraries, which
every process holds, count in neither.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from benchmarks import Figure, measure
from benchmarks.command import prepare_command
from benchmarks.store import arrays_mb, prepare_load

GROWTH = 1.2

# (latitudes, longitudes, members): more cells, and more members of the competition's cells.
SIZES = {
    "cells": ((72, 108, 3), (96, 144, 3)),
    "members": ((48, 72, 3), (48, 72, 12)),
}


def bench_memory() -> list[Figure]:
    """Loading, and `emukit train linear` from the store to the score: peak memory that a larger store needs more."""
    out = []
    for what, sizes in SIZES.items():
        points = [_peaks(*size) for size in sizes]
        (small, *fewer), (large, *more) = points
        for name, low, high in zip(("load", "train linear"), fewer, more, strict=True):
            growth = (high - low) / (large - small)
            bound = f"under {GROWTH:g} MB for each MB"
            title = f"{name}: memory for each MB of store, more {what}"
            out.append(Figure(title, growth, "MB", 1.0, math.nan, high, bound, growth < GROWTH))
    return out


def _peaks(lat: int, lon: int, members: int) -> tuple[float, float, float]:
    """Arrays, peak of loading and peak of training, in 1e6 bytes."""
    from emukit.data.demo import DemoClimate, write_demo
    from emukit.progress import Reporter

    with tempfile.TemporaryDirectory() as folder:
        climate = DemoClimate(lat_cells=lat, lon_cells=lon, members=members)
        store = str(write_demo(climate, Path(folder) / "demo.zarr", reporter=Reporter(quiet=True)))
        words = ("train", "linear", "-q", "--data", store, "--protocol", "k360", "--out", f"{folder}/run")
        load = measure(f"{__name__}:{prepare_load.__name__}", [store])
        train = measure(f"{__name__}:{prepare_command.__name__}", words)
        return visible_mb(store), load.peak_mb, train.peak_mb


def visible_mb(store: str) -> float:
    """What a store's arrays take in memory, in 1e6 bytes: hidden scenarios, all zero, take none."""
    from emukit.data.store import open_store

    hidden = sum(s.targets.nbytes for s in open_store(store).values() if s.targets is not None and s.hidden.all())
    return arrays_mb(store) - hidden / 1e6
