"""A half-written store that is removed, and comes back because Zarr was still writing."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from zarr.core import sync
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore

from emukit.data.zarr_writer import _StoppableStore, write_zarr

COUNTED = xr.Dataset({"counted": (("time", "x"), np.arange(240.0).reshape(60, 4))})
ENCODING = {"counted": {"chunks": (1, 4)}}


def test_nothing_is_written_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The waiting thread is interrupted with chunks under way and others still to come."""
    put = LocalStore.set

    async def slowly(self: LocalStore, key: str, value: Any) -> None:
        if "counted/" in key and not key.endswith((".zarray", ".zattrs")):
            await asyncio.sleep(0.01 * int(key.split("/")[1].split(".")[0]))
        await put(self, key, value)

    monkeypatch.setattr(LocalStore, "set", slowly)
    folder = tmp_path / "store"

    wait = sync.wait

    def until_interrupted(futures: Any, **options: Any) -> Any:
        while not (folder / "counted" / "2.0").exists():
            done, waiting = wait(futures, timeout=0.01)
            if done:
                return done, waiting
        raise KeyboardInterrupt

    monkeypatch.setattr(sync, "wait", until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_zarr(COUNTED, folder, ENCODING)
    assert (folder / "counted" / "2.0").exists()
    shutil.rmtree(folder)
    time.sleep(0.8)
    assert not folder.exists()
    assert sync._get_loop().is_running()  # others can write on


def test_every_way_of_writing_is_stopped(tmp_path: Path) -> None:
    """Zarr sets most keys, and a few only where there is nothing yet."""
    store, value = _StoppableStore(tmp_path), default_buffer_prototype().buffer.from_bytes(b"1")

    async def write() -> None:
        await store.set("a", value)
        await store.set_if_not_exists("b", value)
        store.stop()
        for put in (store.set, store.set_if_not_exists):
            with pytest.raises(InterruptedError):
                await put("c", value)

    asyncio.run(write())
    assert {p.name for p in tmp_path.iterdir()} == {"a", "b"}


def test_what_is_written_is_what_was_given(tmp_path: Path) -> None:
    write_zarr(COUNTED, tmp_path / "store", ENCODING)
    assert len(list((tmp_path / "store" / "counted").glob("*.0"))) == 60
    xr.testing.assert_identical(xr.open_zarr(tmp_path / "store").load(), COUNTED)


def test_a_folder_that_is_there_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "note").write_text("mine")
    with pytest.raises(FileExistsError):
        write_zarr(COUNTED, tmp_path / "store", ENCODING)
    assert (tmp_path / "store" / "note").read_text() == "mine"
