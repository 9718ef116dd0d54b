"""A store whose rows are read by several processes: another climate, other statistics, or bytes of other processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from emukit.data.demo import DemoClimate, write_demo
from emukit.data.zarr_writer import write_zarr
from emukit.progress import silent_reporter
from tests.parallel.test_domain import EXACT, Found, launch

pytestmark = pytest.mark.long

GRID = (13, 16)
# Of the variables that have rows.
FIELDS = ("tas", "pr", "SO2", "BC", "rsdt")
# Processes, how they divide the globe, and what they read.
READ = (
    (2, (2, 1), "demo.zarr"),
    (2, (2, 1), "rows.zarr"),
    (2, (2, 1), "rows.nc"),
    (4, (2, 2), "demo.zarr"),
    (4, (2, 2), "rows.zarr"),
    (4, (4, 1), "rows.nc"),
)


def by_rows(climate: DemoClimate) -> tuple[xr.Dataset, dict[str, Any]]:
    """From north to south, longitude from -180 on, a row in each chunk, and no compression that hides what is read."""
    ds = climate.dataset()
    turned = ds.isel(y=slice(None, None, -1), latitude=slice(None, None, -1)).roll(x=5, longitude=5, roll_coords=True)
    for x in ("x", "longitude"):
        turned[x] = turned[x].where(np.arange(GRID[1]) >= 5, turned[x] - 360)
    # A row that never varies has no scale of its own, but a part of what is typical of all rows.
    turned["pr"] = turned.pr.where((turned.y > turned.y.min()) | (turned.pr == 0), 0.25)
    time = {"time": {"units": "days since 2015-01-15", "calendar": "noleap", "dtype": "int64"}}
    sizes = {v: {**turned[v].sizes, "y": 1, "latitude": 1, "ssp": 1, "member_id": 1} for v in FIELDS}
    return turned, time | {v: {"chunks": tuple(sizes[v][d] for d in turned[v].dims)} for v in FIELDS}


def make_stores(folder: Path) -> dict[str, str]:
    """The same climate in three containers, and damaged copies."""
    climate = DemoClimate(*GRID, years=30, members=2)
    write_demo(climate, folder / "demo.zarr", reporter=silent_reporter())
    turned, encoding = by_rows(climate)
    for v in FIELDS:
        turned[v].encoding = {}
    plain = {v: {**e, "compressors": None} if v in FIELDS else e for v, e in encoding.items()}
    write_zarr(turned, folder / "rows.zarr", plain)
    files = {v: {"chunksizes": e["chunks"], "contiguous": False} if v in FIELDS else e for v, e in encoding.items()}
    turned.to_netcdf(folder / "rows.nc", encoding=files)
    wrong = turned.copy(deep=True)
    # Of the second process's rows.
    wrong.tas.loc[{"ssp": "ssp126", "member_id": 1}][7, 2, 3] = np.nan
    write_zarr(wrong, folder / "nan.zarr", plain)
    write_zarr(turned, folder / "cut.zarr", plain)
    cut = folder / "cut.zarr/pr/0.0.0.1.0"
    cut.write_bytes(cut.read_bytes()[:-8])
    return {p.name: str(p) for p in folder.iterdir()}


def jobs(stores: dict[str, str]) -> dict[int, dict[str, Any]]:
    def size(path: str) -> int:
        place = Path(path)
        return sum(f.stat().st_size for f in (place.rglob("*") if place.is_dir() else [place]) if f.is_file())

    damaged = {
        f"refused {name}": {"do": "refused", "store": stores[name], "domain": [2, 1]}
        for name in ("nan.zarr", "cut.zarr")
    }
    read: dict[int, dict[str, Any]] = {2: damaged, 4: {}}
    for processes, (rows, columns), name in READ:
        place = {"store": stores[name], "bytes": size(stores[name]), "domain": [rows, columns]}
        read[processes][f"{rows}x{columns} {name}"] = {"do": "read", **place}
    return read


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    folder = tmp_path_factory.mktemp("reading")
    (folder / "stores").mkdir()
    return launch(jobs(make_stores(folder / "stores")), folder)


CASES = [(processes, f"{rows}x{columns} {name}") for processes, (rows, columns), name in READ]


@pytest.mark.parametrize(("processes", "name"), CASES)
def test_rows_of_a_store_are_those_of_another_place(found: Found, processes: int, name: str) -> None:
    """Values bit for bit; the digest of all of them, what is noted, and what is hidden or shared by scenarios."""
    for each in found[processes]:
        assert {k: each[name][k] for k in ("digest", "notes", "values")} == {"digest": 0, "notes": 0, "values": 0}


@pytest.mark.parametrize(("processes", "name"), CASES)
def test_statistics_are_those_of_the_own_rows(found: Found, processes: int, name: str) -> None:
    for each in found[processes]:
        assert max(each[name]["inputs"], each[name]["targets"]) <= EXACT


@pytest.mark.parametrize(("processes", "name"), CASES)
def test_a_score_of_rows_is_another_or_gathers_fields(found: Found, processes: int, name: str) -> None:
    """Of a prediction, of other runs and of climatology; sums over months are all that is put together."""
    for each in found[processes]:
        assert max(each[name]["score"], each[name]["lines"]) <= EXACT
        assert each[name]["linear"] < 1e-6
        assert each[name]["gathered"] == 1


@pytest.mark.parametrize(("processes", "name"), CASES)
def test_a_process_keeps_or_reads_rows_of_others(found: Found, processes: int, name: str) -> None:
    """Of chunks of a row, or slices of NetCDF; a chunk of the whole grid is read by every process."""
    assert sum(each[name]["held"] for each in found[processes]) == pytest.approx(1)
    # Seven of thirteen rows at most, and what all read: metadata, coordinates, series, and messages; to open a file
    # HDF5 reads 4 MB.
    most = -(-GRID[0] // int(name[0])) / GRID[0]
    for each in found[processes]:
        assert each[name]["held"] <= most
        if "rows" in name:
            common = 5_500_000 if name.endswith(".nc") else 1_000_000
            assert 0 < each[name]["read"] <= most * each[name]["stored"] + common


@pytest.mark.parametrize("name", ["nan.zarr", "cut.zarr"])
def test_damage_in_the_rows_of_one_process_is_told_by_another_name(found: Found, name: str) -> None:
    """All of them refuse, with the words of one that reads the whole: the first, which speaks, has not seen it."""
    (alone, together), other = ([each[f"refused {name}"][k] for k in ("alone", "together")] for each in found[2])
    assert other == [alone, together]
    assert alone != "nothing"
    # Rows are named where they were read apart.
    assert together.startswith(alone.splitlines()[0])
