"""The plain way to the indices, the file and the score of ClimX: what emukit's speed is measured against.

As the organisers' tools do it, rebuilt from the definitions: xarray, one index after the other, each over all years at
once in memory; a table of pandas; scores region by region. xclim, which the organisers call, does more checks on its
way and takes longer.

Invariant: nothing of `emukit.metrics` or `emukit.competitions` is used here, so agreement means something.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

DAYS = 365
INTEGERS = ("SU", "TR", "FD", "ID", "WSDI", "CSDI", "GSL", "CDD", "CWD", "R10mm")
ORDER = ("TXx", "TNn", *INTEGERS[:7], "Rx5day", *INTEGERS[7:9], "R95p", "R10mm", "SDII")

Array = NDArray[np.float64]


def labelled(fields: dict[str, NDArray[np.float32]], first_year: int) -> dict[str, xr.DataArray]:
    """Variables on (time, y, x) of whole years of 365 days."""
    stamps = cftime.num2date(np.arange(len(fields["pr"])) + 0.5, f"days since {first_year}-01-01", "noleap")
    time = xr.CFTimeIndex(stamps)  # type: ignore[no-untyped-call]
    return {name: xr.DataArray(values, {"time": time}, ("time", "y", "x"), name) for name, values in fields.items()}


def percentiles(base: dict[str, xr.DataArray]) -> dict[str, xr.DataArray]:
    """Variable to its percentile of each day of the year, (dayofyear, y, x): five days round it, of all years."""
    out = {}
    for name, quantile in (("tasmax", 0.9), ("tasmin", 0.1), ("pr", 0.95)):
        window = base[name].rolling(time=5, center=True).construct("window")
        of_day = []
        for _, sample in window.groupby("time.dayofyear"):
            values = sample.transpose("time", "window", "y", "x").to_numpy()
            values = values.reshape(-1, *values.shape[2:]).astype(np.float64)
            # At the ends of the base period the window is cut off.
            values = values[np.isfinite(values[:, 0, 0])]
            of_day.append(np.quantile(values, quantile, axis=0, method="median_unbiased"))
        out[name] = xr.DataArray(np.stack(of_day), {"dayofyear": np.arange(1, DAYS + 1)}, ("dayofyear", "y", "x"))
    return out


def indices(run: dict[str, xr.DataArray], of: dict[str, xr.DataArray]) -> dict[str, Array]:
    """Index name to (years, Y, X).

    Args:
        run: tas, tasmax, tasmin (K) and pr (kg m-2 s-1) as `labelled` gives them.
        of: As `percentiles`.
    """
    tas, hottest, coldest = run["tas"], run["tasmax"], run["tasmin"]
    mm = run["pr"] * np.float32(86400)

    def count(days: xr.DataArray) -> xr.DataArray:
        return days.resample(time="YS").sum()

    def by_year(days: xr.DataArray, function: Callable[[Any], Any]) -> xr.DataArray:
        return days.resample(time="YS").map(function)

    def above(days: xr.DataArray, name: str, scale: float = 1.0) -> xr.DataArray:
        return days > (of[name] * scale).sel(dayofyear=days.time.dt.dayofyear)

    wet = mm >= 1
    found = {
        "TXx": hottest.resample(time="YS").max(),
        "TNn": coldest.resample(time="YS").min(),
        "SU": count(hottest > 298.15),
        "TR": count(coldest > 293.15),
        "FD": count(coldest < 273.15),
        "ID": count(hottest < 273.15),
        "WSDI": by_year(above(hottest, "tasmax"), _days_in_spells),
        "CSDI": by_year(coldest < of["tasmin"].sel(dayofyear=coldest.time.dt.dayofyear), _days_in_spells),
        "GSL": by_year(tas >= 278.15, _growing_season),
        "Rx5day": mm.astype(np.float64).rolling(time=5).sum().resample(time="YS").max(),
        "CDD": by_year(mm < 1, _longest),
        "CWD": by_year(mm > 1, _longest),
        "R95p": mm.where(above(mm, "pr", 86400.0), 0).astype(np.float64).resample(time="YS").sum(),
        "R10mm": count(mm >= 10),
        "SDII": mm.where(wet, 0).astype(np.float64).resample(time="YS").sum() / np.maximum(count(wet), 1),
    }
    return {name: np.asarray(found[name].transpose("time", "y", "x").to_numpy(), np.float64) for name in ORDER}


def _runs(days: xr.DataArray) -> NDArray[np.int64]:
    """(T, Y, X) of which run of days each is, counted up to that day; 0 on days that do not qualify."""
    qualifies = days.transpose("time", "y", "x").to_numpy()
    total = qualifies.cumsum(0)
    return np.asarray(total - np.maximum.accumulate(np.where(qualifies, 0, total), axis=0))


def _longest(days: xr.DataArray) -> xr.DataArray:
    return xr.DataArray(_runs(days).max(0), dims=("y", "x"))


def _days_in_spells(days: xr.DataArray) -> xr.DataArray:
    run = _runs(days)
    following = np.concatenate([run[1:], np.zeros_like(run[:1])])
    lengths = np.where(following == 0, run, 0)  # on the last day of each run
    return xr.DataArray(np.where(lengths >= 6, lengths, 0).sum(0), dims=("y", "x"))


def _growing_season(warm: xr.DataArray) -> xr.DataArray:
    days = warm.sizes["time"]
    begins = _runs(warm) == 6
    cold = _runs((~warm).isel(time=slice(181, None))) == 6
    first = np.where(begins.any(0), begins.argmax(0) - 5, days)
    last = np.where(cold.any(0), 181 + cold.argmax(0) - 5, days)
    return xr.DataArray(np.where(first <= 180, last - first, 0), dims=("y", "x"))


def write_frame(path: Path, values: dict[str, Array]) -> int:
    """Write a submission of (K, Y, X) indices by pandas; the number of rows."""
    table = pd.DataFrame({name: values[name].ravel() for name in ORDER})
    for name in INTEGERS:
        if np.array_equal(table[name], np.floor(table[name])):
            table[name] = table[name].astype(np.int64)
    table.insert(0, "row_id", np.arange(len(table)))
    if path.suffix == ".parquet":
        table.to_parquet(path, compression="snappy", index=False)
    else:
        table.to_csv(path, index=False, float_format="%.6f")
    return len(table)


def count_problems(path: Path, rows: int | None = None) -> int:
    """How many of the plainest requirements the first rows of a submission miss; of all rows where None."""
    table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, nrows=rows)
    problems = int(list(table.columns) != ["row_id", *ORDER])
    problems += int((table["row_id"] != np.arange(len(table))).any())
    for name in ORDER:
        column = table[name]
        problems += int(column.isna().any()) + int(not np.isfinite(column).all())
        low, high = (150.0, 350.0) if name in ("TXx", "TNn") else (0.0, 365.0 if name in INTEGERS else np.inf)
        problems += int(((column < low) | (column > high)).any())
    return problems


def score_frames(submission: Path, solution: Path, regions: NDArray[np.int64], parts: list[slice]) -> float:
    """Score two files for each part of the years, region by region; the score of the first part.

    Args:
        submission: Parquet.
        solution: Parquet.
        regions: (Y, X) number of each cell's region; negative outside all regions.
        parts: The years of each part, as slices.
    """
    predicted, truth = pd.read_parquet(submission), pd.read_parquet(solution)
    weights = np.cos(np.deg2rad(np.linspace(-90, 90, regions.shape[0])))[:, None] * np.ones(regions.shape)
    totals = []
    for years in parts:
        scores = []
        for name in ORDER:
            g, p = (t[name].to_numpy(np.float64).reshape(-1, *regions.shape)[years] for t in (truth, predicted))
            variance, error = g.var(0), ((g - p) ** 2).mean(0)
            with np.errstate(invalid="ignore", divide="ignore"):
                skill = 1 - error / variance
                efficiency = skill / (2 - skill)
            each = []
            for region in range(int(regions.max()) + 1):
                counted = (regions == region) & (variance > 1e-6)
                if counted.any():
                    each.append(np.average(efficiency[counted], weights=weights[counted]))
            scores.append(np.mean(each))
        totals.append(float(np.mean(scores)))
    return totals[0]
