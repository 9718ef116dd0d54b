"""Write a dataset as Zarr, and stop when told to.

Invariant: once `write_zarr` has ended, however it ended, nothing writes into the folder any more, so that whoever
removes a half-written one removes all of it.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr
from zarr.core.buffer import Buffer
from zarr.storage import LocalStore


def write_zarr(
    dataset: xr.Dataset, folder: Path, encoding: Mapping[Hashable, Any], consolidated: bool | None = None
) -> None:
    """Write a Zarr v2 store into a folder that is not there yet.

    A missing chunk must mean a damaged store: none is left out for holding fill values alone.

    Args:
        dataset: What to write.
        folder: Where.
        encoding: By variable, as `xarray.Dataset.to_zarr` takes it.
        consolidated: See there.
    """
    store = _StoppableStore(folder)
    try:
        dataset.to_zarr(
            store, mode="w-", zarr_format=2, consolidated=consolidated, write_empty_chunks=True, encoding=encoding
        )
    except BaseException:
        store.stop()
        raise


def append_zarr(dataset: xr.Dataset, folder: Path, dimension: str) -> None:
    """Continue a store of `write_zarr` along a dimension, with the encodings that it has.

    Args:
        dataset: What follows; of the same variables.
        folder: The store.
        dimension: Such as ``time``.
    """
    store = _StoppableStore(folder)
    try:
        dataset.to_zarr(store, mode="a", append_dim=dimension, zarr_format=2, write_empty_chunks=True)
    except BaseException:
        store.stop()
        raise


class _StoppableStore(LocalStore):
    """A folder whose pending writes can be called off.

    Zarr writes chunks from an event loop of its own, which knows nothing of an exception in the thread that waits for
    it, such as Ctrl-C, and continues.
    """

    def __init__(self, root: Path | str, *, read_only: bool = False) -> None:
        super().__init__(root, read_only=read_only)
        self._changed = threading.Condition()
        self._writing = 0
        self._stopped = False

    async def set(self, key: str, value: Buffer) -> None:
        with self._under_way():
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        with self._under_way():
            await super().set_if_not_exists(key, value)

    @contextmanager
    def _under_way(self) -> Iterator[None]:
        with self._changed:
            if self._stopped:
                raise InterruptedError(f"writing {self.root} was stopped")
            self._writing += 1
        try:
            yield
        finally:
            with self._changed:
                self._writing -= 1
                self._changed.notify_all()

    def stop(self) -> None:
        """Refuse every further write, and wait for those under way."""
        with self._changed:
            self._stopped = True
            self._changed.wait_for(lambda: self._writing == 0)
