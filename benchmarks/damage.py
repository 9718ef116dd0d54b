"""Kinds of damage that files meet: disks, copies that stop, editors, and people who mean harm.

Invariant: the same random numbers make the same damage, and a damaged file is a new one: what it was a link of stays
as it was.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

Damage = Callable[[Random, Sequence[Path]], None]
"""Damages one of some files, or two of them."""

# Deeper than any reader follows, longer than Python reads as a number, and larger than any file of emukit may be.
DEPTH = 100_000
DIGITS = 5_000
LARGE_BYTES = 64 << 20

# What decoders obey, and what they may find there.
_CF_ATTRIBUTES = (
    *("units", "calendar", "scale_factor", "add_offset", "missing_value", "valid_range", "bounds"),
    *("coordinates", "grid_mapping", "dtype", "axis", "standard_name", "_Unsigned", "flag_values"),
)
_ODD_ATTRIBUTES: tuple[Any, ...] = (
    "", "x", "days since 0000-00-00", "months since 2015-01-01", "days since 9999-12-31", "360_day", "julian", "degC",
    "kg m-2 s-1", "true", "x" * DIGITS, "\x1b[31m", 0, -1, 2**31 - 1, float("nan"), float("inf"), 1e300, 0.5,
    np.array([1.0, 2.0, 3.0]), np.array([], np.int32),
)  # fmt: skip

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[A-Za-z_]{3,}")


def _put(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _of_one(change: Callable[[Random, bytes], bytes]) -> Damage:
    """The content of one file changed; an empty one gets a byte first."""

    def damage(random: Random, files: Sequence[Path]) -> None:
        path = random.choice(files)
        _put(path, change(random, path.read_bytes() or b"\0"))

    return damage


def _flip(random: Random, content: bytes) -> bytes:
    place = random.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << random.randrange(8)]) + content[place + 1 :]


def _overwrite(random: Random, content: bytes) -> bytes:
    place = random.randrange(len(content))
    return content[:place] + random.randbytes(min(64, len(content) - place)) + content[place + 64 :]


def _zero(random: Random, content: bytes) -> bytes:
    """A block that was never written."""
    place = random.randrange(len(content))
    length = min(4096, len(content) - place)
    return content[:place] + bytes(length) + content[place + length :]


def _repeat(random: Random, content: bytes) -> bytes:
    first, last = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return content[:last] + content[first:last] + content[last:]


def _drop(random: Random, content: bytes) -> bytes:
    first, last = sorted(random.randrange(len(content) + 1) for _ in range(2))
    return content[:first] + content[last:]


def _lines(random: Random, content: bytes) -> bytes:
    """A line lost, doubled or moved."""
    lines = content.splitlines(keepends=True)
    here, there = random.randrange(len(lines)), random.randrange(len(lines))
    line = lines[here]
    match random.randrange(3):
        case 0:
            del lines[here]
        case 1:
            lines.insert(there, line)
        case _:
            lines.insert(there, lines.pop(here))
    return b"".join(lines)


def _numbers(random: Random, content: bytes) -> bytes:
    """Another number where one stands: one that nobody can mean, or one that somebody would like to."""
    other = random.choice(
        ["0", "-1", "1e999", "-1e999", "NaN", "Infinity", "9" * DIGITS, "4294967296", "1e-9", "0.5", '"1"', "null"]
    )
    return _replaced(_NUMBER, random, content, other)


def _words(random: Random, content: bytes) -> bytes:
    """A word in the place of another, or one that there is not."""
    found = _WORD.findall(content.decode("latin-1"))
    return _replaced(_WORD, random, content, random.choice([*found, "other", "true", "../../elsewhere"]))


def _nested(random: Random, content: bytes) -> bytes:
    bracket, close = random.choice([("[", "]"), ('{"a":', "}")])
    deep = bracket * DEPTH + "1" + close * DEPTH
    return _replaced(_NUMBER, random, content, deep)


def _encoded(random: Random, content: bytes) -> bytes:
    """Written by an editor with an encoding of its own, or with a byte that is not of any."""
    text = content.decode("utf-8", errors="replace")
    place = random.randrange(len(content))
    return random.choice(
        [
            text.encode("utf-16"),
            b"\xef\xbb\xbf" + content,
            content[:place] + b"\xe9\xff" + content[place:],
            content[:place] + b"\0" + content[place:],
            content[:place] + "\u202e\x1b[31m".encode() + content[place:],
            content.replace(b"\n", b"\r\n"),
        ]
    )


def _replaced(pattern: re.Pattern[str], random: Random, content: bytes, other: str) -> bytes:
    # latin-1 knows every byte, so what is not text comes back as it was.
    text = content.decode("latin-1")
    found = list(pattern.finditer(text))
    if not found:
        return other.encode("latin-1") + content
    match = random.choice(found)
    return (text[: match.start()] + other + text[match.end() :]).encode("latin-1")


def _delete(random: Random, files: Sequence[Path]) -> None:
    random.choice(files).unlink()


def _exchange(random: Random, files: Sequence[Path]) -> None:
    """Two files, each under the name of the other."""
    one, other = random.sample(files, 2) if len(files) > 1 else (files[0], files[0])
    first, second = one.read_bytes(), other.read_bytes()
    _put(one, second)
    _put(other, first)


def _copy(random: Random, files: Sequence[Path]) -> None:
    """One file under the name of another too."""
    one, other = random.sample(files, 2) if len(files) > 1 else (files[0], files[0])
    _put(other, one.read_bytes())


def _not_a_file(random: Random, files: Sequence[Path]) -> None:
    """What never ends, or is not there, under the name of a file."""
    path = random.choice(files)
    path.unlink()
    match random.randrange(4):
        case 0:
            os.mkfifo(path)
        case 1:
            path.symlink_to("/dev/zero")
        case 2:
            path.symlink_to(path.name)
        case _:
            path.mkdir()


def _large(random: Random, files: Sequence[Path]) -> None:
    """A file with much more after its end."""
    path = random.choice(files)
    _put(path, path.read_bytes())
    with path.open("r+b") as f:
        f.truncate(LARGE_BYTES)


BYTES: Mapping[str, Damage] = {
    "a bit flipped": _of_one(_flip),
    "64 bytes overwritten": _of_one(_overwrite),
    "a block of zeros": _of_one(_zero),
    "cut short": _of_one(lambda random, content: content[: random.randrange(len(content))]),
    "bytes at the end": _of_one(lambda random, content: content + random.randbytes(100)),
    "a part repeated": _of_one(_repeat),
    "a part lost": _of_one(_drop),
    "deleted": _delete,
    "two files exchanged": _exchange,
    "a file copied over another": _copy,
    "not a file": _not_a_file,
    "64 MB long": _large,
}
# Of these, what a single file cannot meet.
TWO_FILES = ("two files exchanged", "a file copied over another")
TEXTS: Mapping[str, Damage] = {
    "a number changed": _of_one(_numbers),
    "a word changed": _of_one(_words),
    "a line lost, doubled or moved": _of_one(_lines),
    "nested deeply": _of_one(_nested),
    "another encoding": _of_one(_encoded),
}


def _metadata(random: Random, files: Sequence[Path]) -> None:
    """A value of a Zarr array's description that cannot be, or is of another array."""
    path = random.choice([p for p in files if p.name in (".zarray", ".zmetadata", "zarr.json")])
    document = json.loads(path.read_text())
    places: list[tuple[dict[str, object], str]] = []
    todo: list[object] = [document]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            places += [
                (item, k) for k in item if k in ("shape", "chunks", "chunk_shape", "dtype", "data_type", "order")
            ]
            places += [(item, k) for k in item if k in ("fill_value", "compressor", "filters", "zarr_format")]
            todo += item.values()
    owner, name = random.choice(places)
    others: dict[str, list[object]] = {
        "shape": [[0], [-1, 2], [1 << 40], [1 << 20, 1 << 20, 1 << 20], "x", []],
        "chunks": [[0], [0, 0, 0, 0, 0], [1 << 40], [-1], []],
        "chunk_shape": [[0], [0, 0, 0, 0, 0], [1 << 40], [-1], []],
        "dtype": ["<f8", "<i2", "|O", "<U9999999", "|V8", 7],
        "data_type": ["float64", "int16", "object", 7],
        "order": ["F", "Z"],
        "fill_value": [0, 1e30, "NaN", "x"],
        "compressor": [None, {"id": "zlib", "level": 1}, {"id": "pickle"}, {"id": "blosc", "cname": "none"}],
        "filters": [[{"id": "pickle"}], [{"id": "json2"}], "x"],
        "zarr_format": [1, 3, "2"],
    }
    owner[name] = random.choice(others[name])
    _put(path, json.dumps(document).encode())


def _attributes(random: Random, files: Sequence[Path]) -> None:
    """An attribute of a NetCDF file that is lost, is not what it was, or was not there."""
    import netCDF4

    path = random.choice(files)
    _put(path, path.read_bytes())
    with netCDF4.Dataset(path, "a") as dataset:
        owner: Any = random.choice([dataset, *dataset.variables.values()])
        there = [name for name in owner.ncattrs() if name != "_FillValue"]
        if there and random.random() < 0.2:
            owner.delncattr(random.choice(there))
            return
        name = random.choice([*there, *_CF_ATTRIBUTES])
        other = random.choice([*_ODD_ATTRIBUTES, *(owner.getncattr(n) for n in there)])
        owner.setncattr(name, other)


def _names(random: Random, files: Sequence[Path]) -> None:
    """A variable or a dimension of a NetCDF file under another name."""
    import netCDF4

    path = random.choice(files)
    _put(path, path.read_bytes())
    with netCDF4.Dataset(path, "a") as dataset:
        if random.random() < 0.5:
            dataset.renameVariable(
                random.choice(list(dataset.variables)), random.choice(["other", "tas2", "Time", "x_"])
            )
        else:
            dataset.renameDimension(random.choice(list(dataset.dimensions)), random.choice(["other", "t2", "lev", "_"]))


def _values(change: Callable[[Random, NDArray[np.float64]], None]) -> Damage:
    """The values of one of a store's fields changed, and written as they would be by whoever made the store."""

    def damage(random: Random, files: Sequence[Path]) -> None:
        import zarr

        root = Path(os.path.commonpath(files))
        fields = sorted({p.parent for p in files if len(_shape(p.parent)) >= 3})
        # Sunlight is the same at all longitudes and in all scenarios: the next field then.
        for place in random.sample(fields, len(fields)):
            array: Any = zarr.open_group(root, mode="r")[str(place.relative_to(root))]
            values = array[...]
            before = values.copy()
            change(random, values)
            if np.array_equal(values, before, equal_nan=True):
                continue
            # A copy: what is written in place would reach what the files are links of.
            for path in list(place.iterdir()):
                _put(path, path.read_bytes())
            array = zarr.open_group(root, mode="r+")[str(place.relative_to(root))]
            array[...] = values
            return

    return damage


def _shape(folder: Path) -> tuple[int, ...]:
    path = folder / ".zarray"
    return tuple(json.loads(path.read_text())["shape"]) if path.is_file() else ()


def _roll(random: Random, values: NDArray[np.float64]) -> None:
    values[...] = np.roll(values, random.randrange(1, values.shape[-1]), -1)


def _turn(random: Random, values: NDArray[np.float64]) -> None:
    values[...] = values[..., ::-1, :].copy()


def _shift(random: Random, values: NDArray[np.float64]) -> None:
    """Months moved against their stamps; the axis before the cells, or the first where there is no other."""
    axis = max(range(values.ndim), key=lambda i: values.shape[i])
    values[...] = np.roll(values, random.randrange(1, 12), axis)


def _order(random: Random, values: NDArray[np.float64]) -> None:
    """The first axis, of scenarios where there are any, in another order."""
    values[...] = np.roll(values, 1, 0)


def _scale(random: Random, values: NDArray[np.float64]) -> None:
    values *= random.choice([86400.0, 1 / 86400, 1000.0, -1.0])


def _offset(random: Random, values: NDArray[np.float64]) -> None:
    values -= 273.15


def _holes(random: Random, values: NDArray[np.float64]) -> None:
    flat = values.reshape(-1)
    flat[random.sample(range(flat.size), min(20, flat.size))] = random.choice([np.nan, 1e20, np.inf])


NETCDF: Mapping[str, Damage] = {
    "attributes changed": _attributes,
    "variables and dimensions renamed": _names,
}
STORES: Mapping[str, Damage] = {
    "metadata changed": _metadata,
    "rolled in longitude": _values(_roll),
    "turned over in latitude": _values(_turn),
    "months shifted": _values(_shift),
    "scenarios in another order": _values(_order),
    "other units": _values(_scale),
    "degrees Celsius": _values(_offset),
    "holes": _values(_holes),
}


def files_below(folder: Path) -> list[Path]:
    """What can be damaged: every regular file of a folder but its locks, in order."""
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink() and p.name != ".lock")


def linked_copy(source: Path, target: Path) -> None:
    """A copy of a folder whose files are links to the same ones; damage makes new ones."""
    try:
        shutil.copytree(source, target, copy_function=os.link)
    except (OSError, shutil.Error):
        # Another file system, or one without hard links.
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
