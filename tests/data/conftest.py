"""Fixtures of the data layer's tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import xarray as xr

from tests.data.stores import coded_dataset, write_store


@pytest.fixture
def coded_store(tmp_path: Path) -> Callable[..., Path]:
    """A writer of coded stores: `coded_store(kind="v2", ds=None, **chunks) -> path` (see `tests.data.stores`)."""

    def write(kind: str = "v2", ds: xr.Dataset | None = None, **chunks: int) -> Path:
        name = "store.nc" if kind == "netcdf" else f"store-{kind}.zarr"
        return write_store(ds if ds is not None else coded_dataset(), tmp_path / name, kind, **chunks)

    return write
