"""Fixtures of the data layer's tests."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

from tests.data.stores import coded_dataset, write_store


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Coded stores as they are, each written once: to copy a hundred files takes a tenth of writing them."""
    folder = tmp_path_factory.mktemp("written")

    def find(kind: str) -> Path:
        path = folder / _name(kind)
        return path if path.exists() else write_store(coded_dataset(), path, kind)

    return find


def _name(kind: str) -> str:
    return "store.nc" if kind == "netcdf" else f"store-{kind}.zarr"


@pytest.fixture
def coded_store(tmp_path: Path, written: Callable[[str], Path]) -> Callable[..., Path]:
    """A writer of coded stores: `coded_store(kind="v2", ds=None, **chunks) -> path` (see `tests.data.stores`)."""

    def write(kind: str = "v2", ds: xr.Dataset | None = None, **chunks: int) -> Path:
        path = tmp_path / _name(kind)
        if ds is not None or chunks:
            return write_store(ds if ds is not None else coded_dataset(), path, kind, **chunks)
        if kind == "netcdf":
            return Path(shutil.copy(written(kind), path))
        return Path(shutil.copytree(written(kind), path, dirs_exist_ok=True))

    return write
