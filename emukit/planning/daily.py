"""What a fit to daily fields will cost: `emukit plan` of typical-year, delta-change and other closed forms.

Invariant: time is that of one year of one variable, read and sorted here, times how often that is done; memory and disk
follow from the sizes of arrays.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from emukit.data.archive import Archive
from emukit.data.residency import host_free
from emukit.data.split import Split
from emukit.emulators.registry import EMULATORS
from emukit.emulators.typical_year import DAYS, TrainingYear, regress_sorted, training_years
from emukit.errors import ProtocolError
from emukit.recipes.schema import NetworkRecipe, Recipe, WrapperRecipe
from emukit.terminal import duration, size

# Of typical-year: float32 level and slope, and uint16 ranks, for every sorted day of every cell and variable.
LEARNED_BYTES = 10
# Copies of a year of one variable that are alive together while it is read, sorted and ranked; and the libraries.
# Measured: 2.3 GB in all on 192 x 288 cells and 7 variables, whose learned arrays are 1.4 GB.
COPIES, LIBRARIES = 8, 400 << 20
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
    seconds = _timed(archive, years[0]) * len(years) * variables
    share = f"one year of one variable took {duration(seconds / len(years) / variables)}, most of it reading"
    yield "time", duration(seconds), f"{share if archive.on_disk else share.partition(',')[0]}; one process"
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


def _timed(archive: Archive, year: TrainingYear) -> float:
    """Seconds for one year of one variable: the second of two, as the first one opens what it reads."""
    band = archive.bands[0]
    share = len(range(*band.indices(archive.grid.shape[0]))) / archive.grid.shape[0]
    read = sort = 0.0
    for variable in (0, len(archive.variables) - 1):
        begun = time.perf_counter()
        values = year.values(archive, variable, band)
        read, begun = time.perf_counter() - begun, time.perf_counter()
        regress_sorted(iter([values]), np.zeros(1))
        sort = time.perf_counter() - begun
    if len(archive.bands) > 1:
        # A band is read with all of its years.
        read /= max(len(archive[year.span.scenario]) / DAYS, 1.0)
    return (read + sort) / share
