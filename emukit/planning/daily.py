"""What a fit to daily fields will cost: `emukit plan` of typical-year, delta-change and other closed forms.

Invariant: time is that of one year of one variable, read, sorted, predicted and packed here, times how often that is
done; memory and disk follow from the sizes of arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numcodecs import Blosc

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.residency import host_free
from emukit.data.split import Split
from emukit.emulators.registry import EMULATORS
from emukit.emulators.typical_year import DAYS, TrainingYear, regress_sorted, training_years
from emukit.errors import ProtocolError
from emukit.metrics.extremes import VARIABLES, Thresholds, indices_of_year, quantile_of_days
from emukit.recipes.schema import NetworkRecipe, Recipe, WrapperRecipe
from emukit.terminal import duration, size

# Of typical-year: float32 level and slope, and uint16 ranks, for every sorted day of every cell and variable.
LEARNED_BYTES = 10
# Copies of a year of one variable that are alive together while it is read, sorted and ranked; and the libraries.
# Measured: 2.3 GB in all on 192 x 288 cells and 7 variables, whose learned arrays are 1.4 GB.
COPIES, LIBRARIES = 8, 400 << 20
# Of percentiles.
BASE_YEARS = 30
# Of fields in memory: what they take until the run is validated, its references included. Measured on the lite files.
UNTIL_VALIDATED = 1.7


def is_daily_fit(archive: Archive, recipe: Recipe) -> bool:
    """Whether a recipe is an emulator that is fitted to days a year at a time."""
    if isinstance(recipe, NetworkRecipe | WrapperRecipe) or archive.time.step != "day":
        return False
    return bool(EMULATORS[recipe.emulator].load().streams)


def daily_plan(archive: Archive, recipe: Recipe, split: Split) -> Iterator[tuple[str, str, str]]:
    """What, how much, and a remark, a line each.

    Args:
        archive: Daily data, in memory or on disk.
        recipe: As `is_daily_fit` has it.
        split: Its training spans.

    Raises:
        ProtocolError: No whole year trains.
    """
    years = training_years(archive, split)
    if not years:
        raise ProtocolError("the training spans hold no whole year", hint="choose another protocol")
    cells, variables = archive.grid.weights.size, len(archive.variables)
    year, span = 4 * DAYS * cells, split.test
    files = [p for p in Path(archive.source).expanduser().rglob("*.nc") if p.is_file()]
    held = sum(len(s) for s in archive.values() if s.targets is not None or s.stored is not None)
    raw = 4 * held * cells * variables
    where = "on disk, read a part at a time" if archive.on_disk else "in memory"
    yield "data", size(raw), f"of {size(sum(p.stat().st_size for p in files))} in files; {where}"
    yield "training", f"{len(years):,} years", f"of {variables} variables on {cells:,} cells"
    took = _timed(archive, years[0])
    seconds = (took.read + took.sort) * len(years) * variables
    share = f"one year of one variable took {duration(took.read + took.sort)}, most of it reading"
    yield "time", duration(seconds), f"{share if archive.on_disk else share.partition(',')[0]}; one process"
    if competition_of(archive).derive:
        scored = sum(math.ceil(len(s) / DAYS) for s in split.scored.get("validation", ()))
        # The run and, the first time, the climatology that stands beside its score.
        passes = 2 * scored * (variables * (took.read + took.predict) + 2 * took.indices)
        base = BASE_YEARS * len(Thresholds.QUANTILES) * took.read + took.percentiles
        yield (
            "validation",
            duration(passes + base),
            f"{scored} years; {duration(base)} of it percentiles of {BASE_YEARS} years; `evaluate` takes as long again",
        )
        written = math.ceil(len(span) / DAYS) * (variables * (took.predict + 1.5 * took.pack) + took.indices) + base
        yield "submitting", duration(written), "days predicted and written, read again, and their indices"
    if archive.on_disk:
        yield "digest", size(sum(p.stat().st_size for p in files)), "of files are read once more, the first time"
    learned = LEARNED_BYTES * DAYS * cells * variables
    if recipe.emulator == "delta-change":
        learned = int(recipe.options["years"]) * year * variables
    elif recipe.emulator != "typical-year":
        learned = 8 * 12 * cells * variables
    needed = learned + COPIES * year + LIBRARIES
    if not archive.on_disk:
        maps = sum(4 * len(s) * cells for s in archive.values() for f in s.forcings.values() if f.ndim == 3)
        needed += int(UNTIL_VALIDATED * (raw + maps))
    verdict = "fits" if needed < host_free() else "DOES NOT FIT"
    yield "memory", size(needed), f"{verdict} into {size(host_free())} that are free"
    yield "run", size(learned), "on disk"
    fields = 4 * len(span) * cells * variables
    rows = math.ceil(len(span) / DAYS) * 192 * 288
    yield (
        "submission",
        size(fields),
        f"of daily fields before compression, and about {size(rows * 54)} for {rows:,} rows",
    )


@dataclass(frozen=True)
class _Seconds:
    """What one year of one variable takes to be read, sorted, predicted and packed; and its indices, and percentiles.

    Attributes:
        read, sort, predict, pack: Seconds for a variable and a year.
        indices: For a year, of all variables that they need.
        percentiles: For all of them, without reading.
    """

    read: float
    sort: float
    predict: float
    pack: float
    indices: float
    percentiles: float


def _timed(archive: Archive, year: TrainingYear) -> _Seconds:
    """Reading, of two years the second, as the first one opens what it reads; then what is done with the days."""
    band = archive.bands[0]
    share = len(range(*band.indices(archive.grid.shape[0]))) / archive.grid.shape[0]
    read = 0.0
    for variable in (0, len(archive.variables) - 1):
        begun = perf_counter()
        values = year.values(archive, variable, band)
        read = perf_counter() - begun
    if len(archive.bands) > 1:
        # A band is read with all of its years.
        read /= max(len(archive[year.span.scenario]) / DAYS, 1.0)
    cells = values[0].size
    ranks = np.broadcast_to(np.arange(DAYS)[:, None, None], values.shape)
    nowhere = Thresholds(*(np.zeros((DAYS, cells)) for _ in Thresholds.QUANTILES))
    row = np.zeros((BASE_YEARS * DAYS, 1, values.shape[2]), np.float32)
    steps: list[Callable[[], object]] = [
        lambda: regress_sorted(iter([values]), np.zeros(1)),
        # As typical-year does it, which takes longer than others.
        lambda: np.take_along_axis(np.maximum.accumulate(values + values * np.float32(0.5), axis=0), ranks, axis=0),
        lambda: Blosc(cname="lz4").encode(np.ascontiguousarray(values)),
        lambda: indices_of_year(dict.fromkeys(VARIABLES, values), nowhere, None),
        lambda: quantile_of_days(
            lambda a, b, _: row[a:b], len(row), row.shape[1:], (slice(None),), 0.9, lambda _: None
        ),
    ]
    took = []
    for step in steps:
        begun = perf_counter()
        step()
        took.append(perf_counter() - begun)
    sort, predict, pack, indices, percentiles = took
    rows = len(Thresholds.QUANTILES) * archive.grid.shape[0]
    return _Seconds(read / share, sort / share, predict / share, pack / share, indices / share, rows * percentiles)
