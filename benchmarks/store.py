"""How long a store takes to load, against reading and decompressing its chunks alone.

Invariant: the reference does nothing that can be left out: it reads every chunk file of a Zarr v2 store, decompresses
it, and throws the bytes away.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numcodecs import get_codec

from benchmarks import Figure, Work, compare

SLOWER = 1.5
MEMORY = 2.0


def bench_store(path: str | Path, runs: int = 7) -> list[Figure]:
    """Load a Zarr v2 store into checked arrays; held to 1.5 times the reference and to twice the arrays' size."""
    return [
        compare(
            "load store",
            f"{__name__}:prepare_load",
            f"{__name__}:prepare_decompress",
            (str(path),),
            runs=runs,
            faster=1 / SLOWER,
            peak_mb=MEMORY * arrays_mb(path),
        )
    ]


def arrays_mb(path: str | Path) -> float:
    """Size of the loaded arrays in 1e6 bytes; what scenarios share counts once."""
    from emukit.data.store import open_store

    scenarios = open_store(path).values()
    arrays = {id(a): a for s in scenarios for a in (s.targets, *s.forcings.values()) if a is not None}
    return sum(a.nbytes for a in arrays.values()) / 1e6


def prepare_load(path: str) -> Work:
    """emukit's loader; the answer is the sum of the CO2 series."""
    from emukit.data.source import open_source
    from emukit.data.store import open_store

    with open_source(path):  # imports what opening needs; no value is read
        pass

    return lambda: float(sum(s.forcings["CO2"].sum() for s in open_store(path).values()))


def prepare_decompress(path: str) -> Work:
    """Every chunk read and decompressed; the answer is the sum of the CO2 series."""
    return lambda: decompress(Path(path))


def decompress(store: Path) -> float:
    """Read and decompress every chunk of every array of a Zarr v2 store, one after the other."""
    total = 0.0
    for metadata in sorted(store.glob("*/.zarray")):
        settings = json.loads(metadata.read_text())
        codec = get_codec(settings["compressor"])
        for chunk in metadata.parent.iterdir():
            if chunk.name.startswith("."):
                continue
            data = codec.decode(chunk.read_bytes())
            if metadata.parent.name == "CO2":
                total += float(np.frombuffer(data, settings["dtype"]).sum())
    return total
