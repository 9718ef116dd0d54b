"""ClimX: indices of extremes, the score and the file of a whole submission, training from fields on disk.

Invariant: the input is made up and the same for both sides. Indices are compared with xclim's, which the organisers'
code calls, where it is installed; training from disk with training in memory.
"""

from __future__ import annotations

import importlib.util
import math
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import Figure, Work, compare, measure
from emukit.metrics.extremes import INDICES, VARIABLES, Thresholds, indices_of_year

DAYS, BASE_YEARS, YEARS = 365, 30, 86
LITE, FULL = (12, 18), (192, 288)
FASTER = 10.0
# Of the issue: ten minutes and 2 GB for the indices of a scenario on the full grid.
FULL_SECONDS, FULL_MB = 600.0 / YEARS, 2000.0
SCORE_SECONDS, SCORE_MB = 5.0, 2500.0
FILE_SECONDS = 10.0
# Training on 48 x 72 cells, whose fields take 2.3 GB: libraries, and what is learned.
DISK_GRID, DISK_MB = (48, 72), 900.0

Fields = dict[str, NDArray[np.float32]]


def bench_climx(runs: int = 3) -> list[Figure]:
    """Every figure; several minutes."""
    here = __name__
    out = [_indices(runs)]
    out.append(_alone("ClimX indices, 192 x 288, a year", f"{here}:prepare_full_year", runs, FULL_SECONDS, FULL_MB))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for seed in (0, 1):
            measure(f"{here}:prepare_write", (str(place / f"{seed}.parquet"), str(seed)))
        for ending in ("parquet", "csv"):
            path = str(place / f"written.{ending}")
            out.append(
                _alone(f"ClimX write {ending}", f"{here}:prepare_write", runs, FILE_SECONDS, SCORE_MB, path, "0")
            )
            out.append(_alone(f"ClimX check {ending}", f"{here}:prepare_check", runs, FILE_SECONDS, SCORE_MB, path))
        paths = [str(place / f"{seed}.parquet") for seed in (0, 1)]
        out.append(_alone("ClimX score", f"{here}:prepare_score", runs, SCORE_SECONDS, SCORE_MB, *paths))
        measure(f"{here}:prepare_folder", (folder,))
        disk, memory = f"{here}:prepare_train_disk", f"{here}:prepare_train_memory"
        name = "typical-year from disk, 48 x 72, against memory"
        out.append(compare(name, disk, memory, (folder,), runs=1, faster=0.2, peak_mb=DISK_MB))
    return out


def _indices(runs: int) -> Figure:
    name, ours = "ClimX indices, 12 x 18, 86 years", f"{__name__}:prepare_lite"
    if importlib.util.find_spec("xclim") is None:
        return _alone(f"{name} (xclim is not installed)", ours, runs, 13.3 / FASTER, FULL_MB)
    return compare(f"{name}, against xclim", ours, f"{__name__}:prepare_xclim", (), runs=runs, faster=FASTER)


def _alone(name: str, work: str, runs: int, seconds: float, peak_mb: float, *arguments: str) -> Figure:
    done = [measure(work, arguments) for _ in range(runs)]
    value, peak = sorted(d.seconds for d in done)[runs // 2], max(d.peak_mb for d in done)
    bound = f"under {seconds:.2g} s, under {peak_mb:.0f} MB"
    return Figure(name, value, "s", math.nan, math.nan, peak, bound, value < seconds and peak < peak_mb)


def made_up(years: int, shape: tuple[int, int], seed: int) -> Fields:
    """Days with seasons, spells and dry days, (365 years, Y, X)."""
    random, days = np.random.default_rng(seed), DAYS * years
    weather = random.standard_normal((days, *shape), dtype=np.float32)
    for day in range(1, days):
        weather[day] = 0.8 * weather[day - 1] + 0.6 * weather[day]
    mean = 305 - 55 * np.abs(np.linspace(-1, 1, shape[0]))[:, None]
    season = 12 * np.cos(2 * np.pi * np.arange(days) / DAYS)[:, None, None]
    tas = (mean - season * np.linspace(-1, 1, shape[0])[:, None] + 4 * weather).astype(np.float32)
    rain = np.maximum(np.roll(weather, 1, -1), 0) ** 2 * np.float32(8e-5)
    return {"tas": tas, "tasmax": tas + np.float32(4), "tasmin": tas - np.float32(4), "pr": rain}


def prepare_lite() -> Work:
    """Percentiles of thirty years and the indices of 86, as emukit computes them."""
    base, run = made_up(BASE_YEARS, LITE, 0), made_up(YEARS, LITE, 1)

    def work() -> float:
        thresholds = Thresholds.of({n: base[n].reshape(len(base[n]), -1) for n in Thresholds.QUANTILES})
        return _checksum(_by_year(run, thresholds))

    return work


def prepare_full_year() -> Work:
    """The indices of one year of the full grid."""
    year = made_up(1, FULL, 2)
    thresholds = Thresholds(*(np.quantile(year[n], q) * np.ones((DAYS, 1)) for n, q in Thresholds.QUANTILES.items()))
    wide = Thresholds(*(np.repeat(getattr(thresholds, n), FULL[0] * FULL[1], 1) for n in Thresholds.QUANTILES))
    return lambda: _checksum(_by_year(year, wide))


def _by_year(run: Fields, thresholds: Thresholds) -> dict[str, NDArray[np.float64]]:
    years, previous = [], None
    for start in range(0, len(run["pr"]), DAYS):
        year = {n: run[n][start : start + DAYS] for n in VARIABLES}
        years.append(indices_of_year(year, thresholds, previous))
        previous = year["pr"][-4:].reshape(4, -1)
    return {n: np.stack([y[n] for y in years]) for n in INDICES}


def _checksum(found: dict[str, NDArray[np.float64]]) -> float:
    # Each index counts about alike.
    return float(sum(values.mean() / (np.abs(values).max() or 1.0) for values in found.values()))


def prepare_xclim() -> Work:
    """The same by xclim, in memory."""
    warnings.simplefilter("ignore")
    import cftime
    import xarray as xr

    from benchmarks.xclim_indices import by_xclim

    units = {"tas": "K", "tasmax": "K", "tasmin": "K", "pr": "kg m-2 s-1"}

    def arrays(run: Fields, first: int) -> dict[str, Any]:
        stamps = cftime.num2date(np.arange(len(run["pr"])) + 0.5, f"days since {first}-01-01", "noleap")
        time = xr.CFTimeIndex(stamps)  # type: ignore[no-untyped-call]
        return {n: xr.DataArray(run[n], {"time": time}, ("time", "y", "x"), n, {"units": units[n]}) for n in VARIABLES}

    base, run = arrays(made_up(BASE_YEARS, LITE, 0), 1961), arrays(made_up(YEARS, LITE, 1), 2015)
    return lambda: _checksum(by_xclim(base, run))


def prepare_write(path: str, seed: str) -> Work:
    """Write a submission; the answer is its number of rows."""
    from emukit.competitions.climx.submission import write_submission

    return partial(write_submission, path, submission(int(seed)))


def prepare_check(path: str) -> Work:
    """Check a submission; the answer is the number of problems, and one."""
    from emukit.competitions.climx.files import problems_of

    return lambda: 1.0 + len(problems_of(Path(path)))


def prepare_score(path: str, solution: str) -> Work:
    """Score a submission against another, for all parts of the years."""
    from emukit.competitions.climx.files import score_files

    return lambda: next(iter(score_files(Path(path), Path(solution)).parts.values())).value


def submission(seed: int) -> dict[str, NDArray[np.float64]]:
    """Valid indices of 86 years on the full grid, with every digit a float has."""
    from emukit.competitions.climx.submission import COUNTS

    random, place = np.random.default_rng(seed), np.random.default_rng(99).random(FULL)
    out = {}
    for name in INDICES:
        noise = random.random((YEARS, *FULL))
        if name in COUNTS:
            out[name] = np.floor(20 + 100 * place + 30 * noise)
        else:
            out[name] = (280 if name in ("TXx", "TNn") else 5) + 20 * place + 10 * noise
    return out


def prepare_folder(folder: str) -> Work:
    """Write a generated daily climate in the layout of ClimX."""
    from emukit.data.demo.climx import write_climx_demo
    from emukit.data.demo.daily import DailyClimate
    from emukit.progress import silent_reporter

    climate = DailyClimate(lat_cells=DISK_GRID[0], lon_cells=DISK_GRID[1], first_year=1961, years=3, seed=0)
    return lambda: float(len(write_climx_demo(climate, Path(folder) / "climx", None, silent_reporter())))


def prepare_train_disk(folder: str) -> Work:
    """Fit typical-year to a folder that is left on disk."""
    from emukit.data import daily_archive

    daily_archive.MOST_BYTES = 0
    return _train(folder)


def prepare_train_memory(folder: str) -> Work:
    """The same with all fields in memory."""
    return _train(folder)


def _train(folder: str) -> Work:
    def work() -> float:
        from emukit.data.opening import open_data
        from emukit.data.split import Span, Split
        from emukit.emulators.typical_year import TypicalYear

        archive = open_data(str(Path(folder) / "climx"))
        names = ("historical", "ssp126", "ssp370")
        split = Split("all", tuple(Span(n, 0, len(archive[n]), (0,)) for n in names), {})
        fitted = TypicalYear.fit(archive, split, features=("log:CO2_LBC", "SO2"))
        return float(fitted.predict_fields(archive["ssp245"], 0, DAYS).sum(dtype=np.float64))

    return work
