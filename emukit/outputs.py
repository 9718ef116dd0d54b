"""What a command may write over: one rule for every output of every command.

Invariant: what is there stays there, unless it is emukit's own output of the same kind, all of it, and the user said
so with ``--overwrite``. Where there is doubt it is somebody else's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emukit.errors import EmukitError
from emukit.files import atomic_path, check_regular, parse_json, read_text

# The attribute by which stores and NetCDF files say which command wrote them.
MARK = "emukit_output"
_OF_GROUP = frozenset({".zgroup", ".zattrs", ".zmetadata"})
_OF_ARRAY = re.compile(r"\.zarray|\.zattrs|\d+(\.\d+)*")


@dataclass(frozen=True)
class Kind:
    """A kind of output.

    Attributes:
        name: What it is, as it stands in a sentence: ``a report of `emukit report```.
        strange: From a path that exists to what there is not of this kind, in words; empty where all of it is.
        folder: Whether it is a folder, for which an empty one makes room.
    """

    name: str
    strange: Callable[[Path], str]
    folder: bool = True


def refuse_taken(out: Path, kind: Kind, overwrite: bool, option: str = "--out") -> bool:
    """Refuse a place that must not be written to, before anything is computed for it.

    Args:
        out: Where an output is to be.
        kind: What is to be written.
        overwrite: Whether the user said that an output of this kind may be replaced.
        option: What names the place.

    Returns:
        Whether there is something, an empty folder too, that will be replaced.

    Raises:
        EmukitError: There is something that is not to be replaced, or the place cannot be written.
    """
    _refuse_closed(out)
    if not os.path.lexists(out):
        return False
    if kind.folder and out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
        return True
    found = "a link" if out.is_symlink() else kind.strange(out)
    if found:
        raise EmukitError(
            f"{out} exists, and is not {kind.name}",
            found=found,
            expected=f"a new path, or {kind.name} and --overwrite",
            hint=f"name another place with {option}",
        )
    if not overwrite:
        raise EmukitError(
            f"{out} exists",
            found=kind.name,
            expected="a new path",
            hint=f"--overwrite replaces it; or name another place with {option}",
        )
    return True


@contextmanager
def new_output(out: Path, kind: Kind, overwrite: bool) -> Iterator[Path]:
    """As `emukit.files.atomic_path`, where the rule allows it; what has come to the place meanwhile is not replaced.

    Raises:
        EmukitError: As `refuse_taken` and `atomic_path`.
    """
    with atomic_path(out, replace=refuse_taken(out, kind, overwrite)) as temporary:
        yield temporary


def zarr_kind(name: str, own: Callable[[Mapping[str, Any]], bool]) -> Kind:
    """A Zarr v2 store, whose attributes say whether it is of this kind; with nothing in it that is not of a store."""

    def strange(folder: Path) -> str:
        try:
            attributes = parse_json(read_text(folder / ".zattrs"))
        except (OSError, ValueError):
            return "a folder" if folder.is_dir() else "a file"
        if not (isinstance(attributes, dict) and own(attributes)):
            return "a store of another origin"
        for path in folder.iterdir():
            if path.name not in _OF_GROUP and not _is_array(path):
                return path.name
        return ""

    return Kind(name, strange)


def netcdf_kind(name: str, own: Callable[[Mapping[str, Any]], bool]) -> Kind:
    """A NetCDF file, whose attributes say whether it is of this kind."""

    def strange(path: Path) -> str:
        import xarray as xr

        try:
            check_regular(path)
            with xr.open_dataset(path, engine="netcdf4", decode_cf=False) as ds:
                return "" if own(ds.attrs) else "a NetCDF file of another origin"
        except (OSError, ValueError, RuntimeError):
            return "a folder" if path.is_dir() else "a file that is not NetCDF"

    return Kind(name, strange, folder=False)


def json_kind(name: str, keys: Iterable[str]) -> Kind:
    """A file of a JSON object that has these keys."""

    def strange(path: Path) -> str:
        try:
            found = parse_json(read_text(path))
        except (OSError, ValueError):
            return "a folder" if path.is_dir() else "a file that is not JSON"
        return "" if isinstance(found, dict) and set(keys) <= found.keys() else "a JSON file of another origin"

    return Kind(name, strange, folder=False)


def marked(what: str) -> Callable[[Mapping[str, Any]], bool]:
    """Whether attributes hold the mark of a kind."""
    return lambda attributes: attributes.get(MARK) == what


def _is_array(folder: Path) -> bool:
    if folder.is_symlink() or not (folder / ".zarray").is_file():
        return False
    return all(p.is_file() and not p.is_symlink() and _OF_ARRAY.fullmatch(p.name) for p in folder.iterdir())


def _refuse_closed(out: Path) -> None:
    place = next(p for p in out.absolute().parents if p.exists())
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        raise EmukitError(
            f"cannot write {out}",
            found=f"{place} is {'not writable' if place.is_dir() else 'not a folder'}",
            expected="a place that can be written",
            hint="name another place",
        )
