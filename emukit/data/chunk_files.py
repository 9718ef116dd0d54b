"""The chunk files of a Zarr array: which are there, and what each one holds.

Invariant: Zarr reads a chunk that is not there as its fill value; here a missing or broken chunk is known by its file.
"""

from __future__ import annotations

import itertools
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs.blosc import Blosc
from numpy.typing import NDArray
from zarr.codecs import BloscCodec
from zarr.core.metadata import ArrayV2Metadata

from emukit.errors import StoreError

# What codecs, containers and their readers raise on bytes and metadata that are not theirs: a chunk of size zero is a
# ZeroDivisionError, a missing key a KeyError, a size without end a MemoryError; SystemError is Python's for one below
# zero.
READ_ERRORS = (
    ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, LookupError, MemoryError, OSError,
    RuntimeError, SystemError, TypeError, ValueError, zlib.error,
)  # fmt: skip
REPAIR = "download or copy the store again"
# A store ten times the competition's has some ten thousand; to look for a million files takes seconds.
MOST_CHUNKS = 1_000_000


@dataclass(frozen=True)
class Chunk:
    """One chunk: its file, and the part of the array it holds."""

    file: Path
    slices: tuple[slice, ...]


class ChunkedArray:
    """One array of a Zarr group in a local folder, read chunk by chunk.

    Zarr v2 chunks are decompressed here, without the copies that `zarr.Array` makes: this is what keeps loading near
    the cost of decompression. Zarr v3 has codec pipelines (shards, checksums), which are zarr's to run.
    """

    def __init__(self, array: zarr.Array[Any], root: Path) -> None:
        self.array, self.folder = array, root / array.path
        self.chunk: tuple[int, ...] = array.shards or array.chunks
        if any(c < 1 for c in self.chunk):
            raise ValueError(f"chunks of {self.chunk} values")
        self._counts = [-(-n // c) for n, c in zip(array.shape, self.chunk, strict=True)]
        if min(self._counts, default=0) < 0 or prod(self._counts) > MOST_CHUNKS:
            raise ValueError(f"{array.shape} values in chunks of {self.chunk}: {prod(self._counts)} files")
        last = array.compressors[-1:]
        self._blosc = array.shards is None and isinstance(next(iter(last), None), Blosc | BloscCodec)
        # How many bytes Blosc gives back, where it is the only codec and every value has the same size.
        plain = not array.filters and len(array.compressors) == 1 and array.dtype.kind in "biufcmMSUV"
        self._nbytes = prod(self.chunk) * array.dtype.itemsize if plain else None

    def at(self, coords: tuple[int, ...]) -> Chunk:
        """The chunk of these chunk coordinates."""
        slices = tuple(
            slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(coords, self.chunk, self.array.shape, strict=True)
        )
        return Chunk(self.folder / self.array.metadata.encode_chunk_key(coords), slices)

    def all(self) -> Iterator[Chunk]:
        """Every chunk that the array's shape asks for."""
        return map(self.at, itertools.product(*map(range, self._counts)))

    def missing(self) -> list[Chunk]:
        """Chunks without a file; a folder in its place is not one, and zarr reads it as the fill value too.

        Raises:
            StoreError: The array's folder may not be looked into.
        """
        try:
            return [c for c in self.all() if not c.file.is_file()]
        except OSError as e:
            raise read_problem(f"{self.folder} cannot be read", e) from e

    def read(self, chunk: Chunk) -> NDArray[Any]:
        """The values of one chunk, cut to the array's edge.

        Raises:
            StoreError: The chunk's file cannot be read or decompressed.
        """
        try:
            values = self._decode(chunk)
            if values.dtype.kind in "UTO":
                _check_text(values)
            return values
        except READ_ERRORS as e:
            if isinstance(e, OSError) and e.errno:
                raise read_problem(f"the chunk {chunk.file} cannot be read", e) from e
            size = chunk.file.stat().st_size if chunk.file.exists() else 0
            raise read_problem(f"the chunk {chunk.file} is corrupt", e, f"{size} bytes: ") from e

    def _decode(self, chunk: Chunk) -> NDArray[Any]:
        if isinstance(self.array.metadata, ArrayV2Metadata):
            return self._decode_v2(self.array.metadata, chunk)
        if self._blosc and chunk.file.exists():
            with chunk.file.open("rb") as f:
                _check_blosc(f.read(16), chunk.file.stat().st_size, self._nbytes)
        return np.asarray(self.array[chunk.slices])

    def _decode_v2(self, metadata: ArrayV2Metadata, chunk: Chunk) -> NDArray[Any]:
        cut = tuple(slice(0, s.stop - s.start) for s in chunk.slices)
        try:
            data: Any = chunk.file.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return np.full([s.stop for s in cut], metadata.fill_value, self.array.dtype)
        if self._blosc:
            _check_blosc(data, len(data), self._nbytes)
        for codec in (metadata.compressor, *reversed(metadata.filters or ())):
            if codec is not None:
                data = codec.decode(data)
        # Text of any length comes out of its filter as objects; all else is bytes still.
        is_text = isinstance(data, np.ndarray) and data.dtype.hasobject
        values = data if is_text else np.frombuffer(data, metadata.dtype.to_native_dtype())
        if values.size != prod(self.chunk):
            raise ValueError(f"it holds {values.size} values instead of {prod(self.chunk)}")
        return values.reshape(self.chunk, order=metadata.order)[cut]


def read_problem(what: str, error: BaseException, found: str = "") -> StoreError:
    """What could not be read, with the remedy of its cause: a right, the disk, memory, or another copy.

    Args:
        what: What is wrong, as a sentence without a full stop.
        error: What the reader raised.
        found: Put before what the error says.
    """
    system = next((e for e in _causes(error) if isinstance(e, OSError) and e.errno and e.errno > 0), None)
    if isinstance(system, PermissionError):
        return StoreError(
            what, found=f"no permission to read {system.filename or 'it'}", hint="`chmod -R u+rX`, or ask its owner"
        )
    if system is not None and not isinstance(system, FileNotFoundError | NotADirectoryError | IsADirectoryError):
        return StoreError(
            what, found=system.strerror or str(system), hint="look at the disk or the network drive, then try again"
        )
    if isinstance(error, MemoryError):
        return StoreError(
            what, found="more values than fit into memory", hint="a machine with more memory, or a smaller store"
        )
    return StoreError(what, found=found + _first_line(error), hint=REPAIR)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _check_blosc(header: bytes, size: int, nbytes: int | None) -> None:
    # Blosc's decoder believes its header: the size in bytes 12-15, past the end of a file that was cut, and how much
    # comes out in bytes 4-7, a signed number that may be below zero or more than the decoder then fills.
    stated = int.from_bytes(header[12:16], "little")
    if len(header) < 16 or stated != size:
        raise ValueError(f"its header says {stated} bytes")
    unpacked = int.from_bytes(header[4:8], "little", signed=True)
    if unpacked < 0 or nbytes not in (None, unpacked):
        raise ValueError(
            f"its header says {unpacked} bytes of values instead of {'some' if nbytes is None else nbytes}"
        )


def _check_text(values: NDArray[Any]) -> None:
    # NumPy takes any four bytes for a character, and what makes an index of them fails in its own ways.
    if values.dtype.kind == "U":
        points = np.ascontiguousarray(values.ravel(), values.dtype.newbyteorder("=")).view(np.uint32)
        if (points > sys.maxunicode).any() or ((points >= 0xD800) & (points < 0xE000)).any():
            raise ValueError("it holds text that is not Unicode")
    else:
        for value in values.ravel().tolist():
            str(value).encode("utf-8")


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
