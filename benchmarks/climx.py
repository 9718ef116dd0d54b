"""ClimX: indices of extremes, the score and the file of a whole submission, training from fields on disk.

Invariant: the input is made up and the same for both sides. Indices, files and scores are compared with the plain way
to them (`benchmarks.plain_climx`), indices with xclim's besides, which the organisers' code calls, where it is
installed; training from disk with training in memory.
"""

from __future__ import annotations

import importlib.util
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
# The plain way is leaner than xclim, which checks units and calendars on its way.
FASTER_THAN_PLAIN = 3.0
# A tenth of what the organisers' code took for these indices.
LITE_SECONDS = 1.33
# What the plain way does of a full-grid year, and of a CSV of 86 years: the rest is counted, as it takes minutes.
PLAIN_ROWS, PLAIN_YEARS = 24, 4
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
    name, lite = "ClimX indices, 12 x 18, 86 years", f"{here}:prepare_lite"
    bounds: dict[str, Any] = {"runs": runs, "seconds": LITE_SECONDS, "peak_mb": FULL_MB}
    out = [compare(name, lite, f"{here}:prepare_lite_plain", (), faster=FASTER_THAN_PLAIN, **bounds)]
    if importlib.util.find_spec("xclim") is not None:
        out.append(compare(f"{name}, against xclim", lite, f"{here}:prepare_xclim", (), faster=FASTER, **bounds))
    out.append(
        compare(
            "ClimX indices, 192 x 288, a year",
            f"{here}:prepare_full_year",
            f"{here}:prepare_full_year_plain",
            (),
            runs=runs,
            seconds=FULL_SECONDS,
            peak_mb=FULL_MB,
            scale=FULL[0] / PLAIN_ROWS,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for seed in (0, 1):
            measure(f"{here}:prepare_write", (str(place / f"{seed}.parquet"), str(seed)))
        file_bounds: dict[str, Any] = {"runs": runs, "seconds": FILE_SECONDS, "peak_mb": SCORE_MB}
        for ending, scale in (("parquet", 1.0), ("csv", YEARS / PLAIN_YEARS)):
            path = str(place / f"written.{ending}")
            for what, arguments in (("write", (path, "0")), ("check", (path,))):
                work = f"{here}:prepare_{what}"
                out.append(
                    compare(f"ClimX {what} {ending}", work, f"{work}_plain", arguments, scale=scale, **file_bounds)
                )
                # What the plain writer left is a shorter file.
                measure(f"{here}:prepare_write", (path, "0"))
        paths = [str(place / f"{seed}.parquet") for seed in (0, 1)]
        score = f"{here}:prepare_score", f"{here}:prepare_score_plain"
        out.append(compare("ClimX score", *score, paths, runs=runs, seconds=SCORE_SECONDS, peak_mb=SCORE_MB))
        measure(f"{here}:prepare_folder", (folder,))
        disk, memory = f"{here}:prepare_train_disk", f"{here}:prepare_train_memory"
        name = "typical-year from disk, 48 x 72, against memory"
        out.append(compare(name, disk, memory, (folder,), runs=1, faster=0.2, peak_mb=DISK_MB))
    return out


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
    return lambda: _checksum({n: values[:, :PLAIN_ROWS] for n, values in _by_year(year, wide).items()})


def prepare_full_year_plain() -> Work:
    """The same of some of its rows."""
    import xarray as xr

    from benchmarks import plain_climx

    year = made_up(1, FULL, 2)
    of = {
        n: xr.DataArray(
            np.full((DAYS, PLAIN_ROWS, FULL[1]), np.quantile(year[n], q)),
            {"dayofyear": np.arange(1, DAYS + 1)},
            ("dayofyear", "y", "x"),
        )
        for n, q in Thresholds.QUANTILES.items()
    }
    run = plain_climx.labelled({n: values[:, :PLAIN_ROWS] for n, values in year.items()}, 2015)
    return lambda: _checksum(plain_climx.indices(run, of))


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


def prepare_lite_plain() -> Work:
    """The same by xarray, one index after the other."""
    from benchmarks import plain_climx

    base = plain_climx.labelled(made_up(BASE_YEARS, LITE, 0), 1961)
    run = plain_climx.labelled(made_up(YEARS, LITE, 1), 2015)
    return lambda: _checksum(plain_climx.indices(run, plain_climx.percentiles(base)))


def prepare_xclim() -> Work:
    """The same by xclim, in memory."""
    warnings.simplefilter("ignore")
    from benchmarks.plain_climx import labelled
    from benchmarks.xclim_indices import by_xclim

    units = {"tas": "K", "tasmax": "K", "tasmin": "K", "pr": "kg m-2 s-1"}

    def arrays(run: Fields, first: int) -> dict[str, Any]:
        return {n: days.assign_attrs(units=units[n]) for n, days in labelled(run, first).items()}

    base, run = arrays(made_up(BASE_YEARS, LITE, 0), 1961), arrays(made_up(YEARS, LITE, 1), 2015)
    return lambda: _checksum(by_xclim(base, run))


def prepare_write(path: str, seed: str) -> Work:
    """Write a submission; the answer is its number of rows."""
    from emukit.competitions.climx.submission import write_submission

    return partial(write_submission, path, submission(int(seed)))


def prepare_write_plain(path: str, seed: str) -> Work:
    """Write it by pandas, a CSV of its first years; the answer is the number of rows of all of it."""
    from benchmarks.plain_climx import write_frame

    years = YEARS if path.endswith(".parquet") else PLAIN_YEARS
    values = {name: field[:years] for name, field in submission(int(seed)).items()}
    return lambda: write_frame(Path(path), values) * YEARS / years


def prepare_check(path: str) -> Work:
    """Check a submission; the answer is the number of problems, and one."""
    from emukit.competitions.climx.parts import problems_of

    return lambda: 1.0 + len(problems_of(Path(path)))


def prepare_check_plain(path: str) -> Work:
    """Check it by pandas, a CSV by its first years."""
    from benchmarks.plain_climx import count_problems

    return lambda: 1.0 + count_problems(Path(path), PLAIN_YEARS * FULL[0] * FULL[1])


def prepare_score(path: str, solution: str) -> Work:
    """Score a submission against another, for all parts of the years."""
    from emukit.competitions.climx.parts import score_files

    return lambda: next(iter(score_files(Path(path), Path(solution)).parts.values())).value


def prepare_score_plain(path: str, solution: str) -> Work:
    """The same, region by region."""
    from benchmarks.plain_climx import score_frames
    from emukit.competitions.climx.parts import PARTS
    from emukit.competitions.climx.score import regions

    return lambda: score_frames(Path(path), Path(solution), regions().cells, [*PARTS.values()])


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
