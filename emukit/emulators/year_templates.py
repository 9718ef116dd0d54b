"""Which training year orders the days of a typical year, block by block, by what annual indices come out.

Invariant: a template is chosen on training years alone. It looks at the indices that a competition scores: that is a
choice made for the score, and the emulator says so. It never bends a daily value; only the order of days differs.

For every candidate year the typical year is built at three warmings, with the candidate's order of days, and its
indices are compared with what training years lead to expect of them. The nearest candidate is taken for each block (or
cell), for temperatures and for everything else apart, so that a day is of one year inside a block and a group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from emukit.competitions.climx.derive import thresholds_of_archive
from emukit.data.archive import Archive
from emukit.data.grid import Grid
from emukit.errors import ProtocolError
from emukit.metrics.extremes import INDICES, UNITS, VARIABLES, annual_indices

Array = NDArray[np.float64]
Field = NDArray[np.float32]

# Candidates: their indices at three warmings take as long as three years of indices each.
CANDIDATES = 60
# Indices of precipitation; the others are of temperatures.
_RAIN = tuple(name for name in INDICES if UNITS[name].startswith("mm") or name in ("CDD", "CWD", "R10mm"))
GROUPS: tuple[tuple[str, ...], ...] = (tuple(n for n in INDICES if n not in _RAIN), _RAIN)


def cells_of_blocks(grid: Grid, degrees: float) -> NDArray[np.int64]:
    """(Y, X) number of the block of so many degrees each way in which a cell's centre lies."""
    rows = np.floor((grid.lat + 90.0) / degrees).astype(np.int64)
    columns = np.floor((grid.lon % 360.0) / degrees).astype(np.int64)
    numbers = rows[:, None] * (int(360.0 / degrees) + 1) + columns[None]
    return np.asarray(np.unique(numbers, return_inverse=True)[1].reshape(grid.shape), np.int64)


def choose_templates(
    archive: Archive,
    years: Sequence[Callable[[], Field]],
    warming: Array,
    build: Callable[[float, NDArray[np.uint16]], Field],
    rank: Callable[[Field], NDArray[np.uint16]],
    blocks: NDArray[np.int64],
) -> NDArray[np.uint16]:
    """The order of days, put together from the best candidate of every block and group of variables.

    Args:
        archive: Daily data with the base period of the percentiles.
        years: Each returns the (365, V, Y, X) days of a training year.
        warming: (N,) K above the mean of training.
        build: From a warming and (365, V, Y, X) ranks to the typical year with this order of days.
        rank: From days to their ranks.
        blocks: (Y, X) number of each cell's block.

    Returns:
        (365, V, Y, X) ranks.

    Raises:
        ProtocolError: A variable of the indices is missing, or there is no base period.
    """
    missing = [v for v in VARIABLES if v not in archive.variables]
    if missing:
        raise ProtocolError(
            "a template by indices needs the variables that these are computed from",
            found=f"no {', '.join(missing)}",
            hint="--set model.template=global",
        )
    indices = _indices_of(archive)
    expected, scatter, levels = _expected(years, warming, indices)
    step = max(1, len(years) // CANDIDATES)
    temperatures = [archive.card.targets[v].standard_name == "air_temperature" for v in archive.variables]
    number = int(blocks.max()) + 1
    weights = archive.grid.weights.ravel()
    area = np.bincount(blocks.ravel(), weights=weights, minlength=number)
    best = np.full((len(GROUPS), number), np.inf)
    chosen: NDArray[np.uint16] | None = None
    for year in years[::step]:
        ranks = rank(year())
        found = np.stack([indices(build(float(level), ranks)) for level in levels])
        distance = ((found - expected) / scatter) ** 2
        chosen = ranks.copy() if chosen is None else chosen
        for g, names in enumerate(GROUPS):
            of_group = distance[:, [INDICES.index(n) for n in names]].mean((0, 1))
            of_block = np.bincount(blocks.ravel(), weights=weights * of_group, minlength=number) / area
            better = (of_block < best[g])[blocks]
            best[g] = np.minimum(best[g], of_block)
            for v, temperature in enumerate(temperatures):
                if temperature == (g == 0):
                    chosen[:, v][:, better] = ranks[:, v][:, better]
    assert chosen is not None
    return chosen


def _indices_of(archive: Archive) -> Callable[[Field], Array]:
    """From (365, V, Y, X) days to (15, Y X) indices; what the year before leaves over is left out."""
    thresholds = thresholds_of_archive(archive)
    places = [archive.variables.index(v) for v in VARIABLES]

    def indices(days: Field) -> Array:
        fields = {n: days[:, p].reshape(1, len(days), -1) for n, p in zip(VARIABLES, places, strict=True)}
        found = annual_indices(fields, thresholds)
        return np.stack([found[name][0] for name in INDICES])

    return indices


def _expected(
    years: Sequence[Callable[[], Field]], warming: Array, indices: Callable[[Field], Array]
) -> tuple[Array, Array, Array]:
    """(3, 15, C) indices expected at three warmings, (15, C) their scatter about it, (3,) the warmings."""
    found = np.stack([indices(year()) for year in years])
    centred = warming - warming.mean()
    spread = float((centred**2).sum())
    mean = found.mean(0)
    slope = np.tensordot(centred, found, 1) / spread if spread > 0 else np.zeros_like(mean)
    residual = found - mean - centred[:, None, None] * slope
    scatter = np.sqrt((residual**2).mean(0))
    # An index that never varies in a cell (frost in the tropics) is met exactly, or is a day's length off.
    scatter = np.maximum(scatter, 0.1 * np.maximum(np.median(scatter, axis=-1, keepdims=True), 1e-3))
    levels = np.quantile(warming, [0.1, 0.5, 0.9])
    return mean + (levels - warming.mean())[:, None, None] * slope, scatter, levels
