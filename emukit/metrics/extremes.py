"""Annual indices of extremes from daily temperature and precipitation.

Every index is one number for a calendar year and cell. Invariant: the only thing that one year hands to the next is
its last four days of precipitation, so years can be streamed in order and a field of any size fits.

Definitions: Expert Team on Climate Change Detection and Indices (ETCCDI), in the form in which the ClimX competition
counts them: spells never cross 31 December, and percentiles take dry days along. Percentile thresholds are quantiles
of Hyndman and Fan's type 8 (The American Statistician, 1996) in a five-day window round each day of the year.

Dimension letters: N days of a series, D days of one year, K years, C cells.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from emukit.data.daily import DAYS, SECONDS_PER_DAY, DailyStore
from emukit.errors import StoreError

FREEZING, GROWING, TROPICAL_NIGHT, SUMMER_DAY = 273.15, 278.15, 293.15, 298.15  # K
WET_DAY, HEAVY_DAY = 1.0, 10.0  # mm/day
SPELL = 6
RAIN_WINDOW = 5
FIRST_OF_JULY = 181
# Bytes of the base period that are together in memory.
LARGE = 512 << 20

UNITS = {
    "TXx": "K",
    "TNn": "K",
    "SU": "days",
    "TR": "days",
    "FD": "days",
    "ID": "days",
    "WSDI": "days",
    "CSDI": "days",
    "GSL": "days",
    "Rx5day": "mm",
    "CDD": "days",
    "CWD": "days",
    "R95p": "mm",
    "R10mm": "days",
    "SDII": "mm/day",
}
INDICES = tuple(UNITS)
VARIABLES = ("tas", "tasmax", "tasmin", "pr")

Fields = NDArray[np.float32]
Index = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Percentiles of a base period for each day of the year.

    Attributes:
        tasmax: (365, C) 90th percentile of tasmax in K.
        tasmin: (365, C) 10th percentile of tasmin in K.
        pr: (365, C) 95th percentile of pr in kg m-2 s-1, dry days included.
    """

    tasmax: Index
    tasmin: Index
    pr: Index

    QUANTILES: ClassVar[Mapping[str, float]] = {"tasmax": 0.9, "tasmin": 0.1, "pr": 0.95}

    @classmethod
    def of(cls, base: Mapping[str, Fields]) -> Thresholds:
        """Thresholds of a base period.

        Args:
            base: tasmax, tasmin and pr of whole years, (N, C) float32 each.

        Raises:
            ValueError: The days are not whole years, or a value is not finite.
        """
        return cls(**{name: day_of_year_quantile(base[name], q) for name, q in cls.QUANTILES.items()})


def day_of_year_quantile(values: Fields, quantile: float, window: int = 5) -> Index:
    """A quantile for each day of the year, over all years and a window of days round it.

    The window crosses from one year into the next; at the two ends of the series it is cut off.

    Args:
        values: (N, C) float32, whole years of 365 days.
        quantile: Between 0 and 1.
        window: An odd number of days.

    Returns:
        (365, C) float64: type 8 of Hyndman and Fan, linear between neighbours.

    Raises:
        ValueError: The days are not whole years, or a value is not finite.
    """
    n, cells = values.shape
    if n == 0 or n % DAYS:
        raise ValueError(f"{n} days are not whole years of {DAYS}")
    if not np.isfinite(values).all():
        raise ValueError("a value of the base period is not finite")
    half = window // 2
    series = np.ascontiguousarray(values.T)
    out = np.empty((DAYS, cells))
    around = np.arange(-half, half + 1)
    first_days = np.arange(0, n, DAYS)
    for day in range(DAYS):
        days = (first_days[:, None] + day + around).ravel()
        sample = np.sort(series[:, days[(days >= 0) & (days < n)]], axis=1)
        size = sample.shape[1]
        # Position of the quantile among the sorted values, counted from zero.
        position = min(max(size * quantile + (1 + quantile) / 3 - 1, 0.0), size - 1.0)
        low = int(position)
        below, above = (sample[:, i].astype(np.float64) for i in (low, min(low + 1, size - 1)))
        out[day] = below + (position - low) * (above - below)
    return out


def annual_indices(
    fields: Mapping[str, Fields], thresholds: Thresholds, previous: Fields | None = None
) -> dict[str, Index]:
    """The fifteen indices of consecutive years of the same length.

    Args:
        fields: tas, tasmax, tasmin in K and pr in kg m-2 s-1, (K, D, C) float32 each; D is 365, or less where days
            at the end of the only year are missing.
        thresholds: Percentiles of the base period.
        previous: (4, C) pr of the four days before the first; None at the beginning of a series, whose first windows
            of five days are then left out.

    Returns:
        Index name to (K, C) float64, in the units of `UNITS`.
    """
    tas, tasmax, tasmin, pr = (fields[name] for name in VARIABLES)
    days = tas.shape[1]
    mm = pr * np.float32(SECONDS_PER_DAY)
    wet = mm >= WET_DAY
    very_wet = mm > (thresholds.pr[:days] * SECONDS_PER_DAY)
    out = {
        "TXx": tasmax.max(1),
        "TNn": tasmin.min(1),
        "SU": _count(tasmax > SUMMER_DAY),
        "TR": _count(tasmin > TROPICAL_NIGHT),
        "FD": _count(tasmin < FREEZING),
        "ID": _count(tasmax < FREEZING),
        "WSDI": _count(_in_spells(tasmax > thresholds.tasmax[:days])),
        "CSDI": _count(_in_spells(tasmin < thresholds.tasmin[:days])),
        "GSL": _growing_season(tas),
        "Rx5day": _largest_window(mm, None if previous is None else previous * np.float32(SECONDS_PER_DAY)),
        "CDD": _longest_run(mm < WET_DAY),
        "CWD": _longest_run(mm > WET_DAY),
        "R95p": _sum_where(mm, very_wet),
        "R10mm": _count(mm >= HEAVY_DAY),
        "SDII": _sum_where(mm, wet) / np.maximum(_count(wet), 1),
    }
    return {name: np.asarray(out[name], np.float64) for name in INDICES}


def thresholds_of(store: DailyStore, first_year: int, last_year: int) -> tuple[Thresholds, str]:
    """Percentiles of a base period.

    Args:
        store: The historical run.
        first_year: First year of the base period.
        last_year: Last year, included.

    Returns:
        Thresholds on (365, Y X), and the SHA-256 of the values they are made of: tasmax, tasmin and pr, one after the
        other, each day by day.

    Raises:
        StoreError: The store does not hold these years, or cannot be read.
    """
    start, stop = (first_year - store.first_year) * DAYS, (last_year + 1 - store.first_year) * DAYS
    if start < 0 or stop > store.days:
        raise StoreError(
            f"{store.source} does not hold the base period",
            found=f"{store.years[0]} to {store.years[-1]}",
            expected=f"whole years from {first_year} to {last_year}",
            hint="name the historical run's files with --base",
        )
    digest, found = hashlib.sha256(), {}
    for name, quantile in Thresholds.QUANTILES.items():
        rows = store.plan(name)[1]
        bands = [slice(row, min(row + rows, store.grid.shape[0])) for row in range(0, store.grid.shape[0], rows)]

        def read(first: int, last: int, band: slice, name: str = name) -> Fields:
            return store.read(name, start + first, start + last, band)

        found[name] = quantile_of_days(read, stop - start, store.grid.shape, bands, quantile, digest.update)
    return Thresholds(**found), digest.hexdigest()


def quantile_of_days(
    read: Callable[[int, int, slice], Fields],
    days: int,
    shape: tuple[int, int],
    bands: Sequence[slice],
    quantile: float,
    seen: Callable[[memoryview], None],
) -> Index:
    """`day_of_year_quantile` of fields that need not fit into memory; each value is read once.

    All years of a cell are needed at once, and files are mostly cut into years. So a large base period goes through a
    temporary file, unpacked: 2.4 GB for thirty years of 192 x 288 cells. `TMPDIR` says where.

    Args:
        read: From first day, day after the last and rows to (D, rows, X) float32.
        days: Of the base period, whole years.
        shape: (Y, X).
        bands: Rows in the order in which they are read fastest; one band: years are.
        quantile: Between 0 and 1.
        seen: Called with all values, day by day: a digest's `update`.

    Returns:
        (365, Y X).
    """
    size, row = 4 * days * shape[0] * shape[1], 4 * shape[1]
    if size <= LARGE:
        values = np.concatenate([read(0, days, band) for band in bands], axis=1)
        seen(np.ascontiguousarray(values).data)
        return day_of_year_quantile(values.reshape(days, -1), quantile)
    out = np.empty((DAYS, shape[0] * shape[1]))
    at_once = max(1, LARGE // (days * row))
    with tempfile.TemporaryFile() as file:
        place = file.fileno()
        for band, first in itertools.product(bands, range(0, days, DAYS) if len(bands) == 1 else (0,)):
            last = min(first + DAYS, days) if len(bands) == 1 else days
            values = read(first, last, band)
            top = band.indices(shape[0])[0]
            for day, field in enumerate(values, first):
                _write_all(place, np.ascontiguousarray(field).data.cast("B"), (day * shape[0] + top) * row)
        for day in range(0, days, DAYS):
            year = np.empty((min(DAYS, days - day), *shape), np.float32)
            _read_all(place, year.data.cast("B"), day * shape[0] * row)
            seen(year.data)
        for top in range(0, shape[0], at_once):
            part = np.empty((days, min(at_once, shape[0] - top), shape[1]), np.float32)
            for day in range(days):
                _read_all(place, part[day].data.cast("B"), (day * shape[0] + top) * row)
            cells = slice(top * shape[1], top * shape[1] + part[0].size)
            out[:, cells] = day_of_year_quantile(part.reshape(days, -1), quantile)
    return out


def _write_all(file: int, values: memoryview, at: int) -> None:
    try:
        while values:
            done = os.pwrite(file, values, at)
            values, at = values[done:], at + done
    except OSError as e:
        raise StoreError(
            "the base period cannot be unpacked into a temporary file",
            found=e.strerror or str(e),
            hint="name a folder with room for 3 GB: TMPDIR=FOLDER",
        ) from e


def _read_all(file: int, values: memoryview, at: int) -> None:
    while values:
        done = os.preadv(file, [values], at)
        if not done:
            raise StoreError("the temporary file of the base period was cut short", hint="try again")
        values, at = values[done:], at + done


def indices_by_year(
    store: DailyStore, thresholds: Thresholds, seen: Callable[[memoryview], None]
) -> Iterator[tuple[int, dict[str, Index]]]:
    """The fifteen indices, a year at a time.

    Args:
        store: tas, tasmax, tasmin and pr.
        thresholds: (365, Y X) percentiles on the store's grid.
        seen: Called with the daily values, year by year and in the order of `VARIABLES`: a digest's `update`.

    Yields:
        The year, and index name to (Y, X).

    Raises:
        StoreError: A variable is missing or cannot be read.
    """
    previous: NDArray[np.float32] | None = None
    for year in store.years:
        start = (year - store.first_year) * DAYS
        stop = min(start + DAYS, store.days)
        fields = {name: store.read(name, start, stop) for name in VARIABLES}
        for values in fields.values():
            seen(np.ascontiguousarray(values).data)
        yield year, indices_of_year(fields, thresholds, previous)
        previous = fields["pr"][-4:].reshape(4, -1)


def indices_of_year(
    fields: Mapping[str, Fields], thresholds: Thresholds, previous: Fields | None, cells_at_once: int = 4608
) -> dict[str, Index]:
    """The fifteen indices of one year of maps.

    Args:
        fields: (D, Y, X) of each of `VARIABLES`.
        thresholds: On (365, Y X).
        previous: (4, Y X) pr of the four days before, as in `annual_indices`.
        cells_at_once: Bounds the memory; the numbers do not depend on it.

    Returns:
        Index name to (Y, X).
    """
    days, *shape = fields["pr"].shape
    flat = {name: fields[name].reshape(1, days, -1) for name in VARIABLES}
    cells = flat["pr"].shape[2]
    out = {name: np.empty(cells) for name in INDICES}
    for low in range(0, cells, cells_at_once):
        part = slice(low, low + cells_at_once)
        percentiles = Thresholds(*(getattr(thresholds, name)[:, part] for name in Thresholds.QUANTILES))
        before = None if previous is None else previous[:, part]
        found = annual_indices({n: f[:, :, part] for n, f in flat.items()}, percentiles, before)
        for name in INDICES:
            out[name][part] = found[name][0]
    return {name: values.reshape(shape) for name, values in out.items()}


def _count(days: NDArray[np.bool_]) -> NDArray[np.integer]:
    return np.asarray(days.sum(1, dtype=np.int16))


def _sum_where(mm: Fields, days: NDArray[np.bool_]) -> Index:
    return np.asarray((mm * days).sum(1, dtype=np.float64))


def _starts(days: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(K, D - 5, C) whether a spell of six days in a row begins on a day."""
    n = days.shape[1] - SPELL + 1
    starts = days[:, :n].copy()
    for i in range(1, SPELL):
        starts &= days[:, i : n + i]
    return starts


def _in_spells(days: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(K, D, C) whether a day lies in a spell of at least six."""
    starts = _starts(days)
    inside = np.zeros_like(days)
    for i in range(SPELL):
        inside[:, i : i + starts.shape[1]] |= starts
    return inside


def _longest_run(days: NDArray[np.bool_]) -> NDArray[np.integer]:
    run = np.zeros((days.shape[0], days.shape[2]), np.int16)
    longest = run.copy()
    for day in range(days.shape[1]):
        run += 1
        run *= days[:, day]
        np.maximum(longest, run, out=longest)
    return longest


def _largest_window(mm: Fields, previous: Fields | None) -> Index:
    """(K, C) largest sum of five days in a row that ends in a year."""
    years, days, cells = mm.shape
    lead = RAIN_WINDOW - 1
    before = np.full((lead, cells), -np.inf) if previous is None else previous
    series = np.concatenate([before, mm.reshape(years * days, cells)])
    sums = series[lead:].astype(np.float64)
    for i in range(lead):
        sums += series[i : i + len(sums)]
    return np.asarray(sums.reshape(years, days, cells).max(1))


def _growing_season(tas: Fields) -> NDArray[np.integer]:
    """(K, C) days from the first warm spell of the first half-year to the first cold spell of the second."""
    days = tas.shape[1]
    warm = tas >= GROWING
    begins = _starts(warm)[:, :FIRST_OF_JULY]
    ends = _starts(~warm)[:, FIRST_OF_JULY:]
    begin = begins.argmax(1)
    end = np.where(ends.any(1), FIRST_OF_JULY + ends.argmax(1), days)
    return np.where(begins.any(1), end - begin, 0)
