"""Files and folders that are whole or not there.

Invariant: a reader never sees a half-written file, whatever happens to the writer: a crash, Ctrl-C, or a full disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, TextIO

from safetensors import SafetensorError

from emukit.errors import EmukitError, RunError

LOCK_FILE = ".lock"
# A part file of a process that is gone and that nobody touched for this long is a leftover of a crash.
STALE_SECONDS = 3600.0
# Much longer than it takes to see that a lock is free, much shorter than anybody waits.
LOOKING_SECONDS = 0.2


@contextmanager
def atomic_path(target: Path | str) -> Iterator[Path]:
    """A temporary sibling that takes the place of `target` (file or folder) when the block ends well.

    When the block raises, the sibling is removed and `target` stays as it was.

    Raises:
        EmukitError: The disk is full, or the place cannot be written.
    """
    target = Path(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
        yield temporary
        if temporary.is_dir():
            _replace_folder(temporary, target)
        else:
            with temporary.open("rb") as f:
                os.fsync(f.fileno())
            temporary.replace(target)
    except (OSError, RuntimeError, SafetensorError) as e:
        # torch, netCDF4 and safetensors tell of a full disk in errors of their own.
        _remove(temporary)
        raise EmukitError(
            f"cannot write {target}",
            found=getattr(e, "strerror", None) or str(e),
            expected="a writable place with enough free space",
            hint="free space or name another place; nothing was left half-written",
        ) from e
    except BaseException:
        _remove(temporary)
        raise


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder, made where it is not there, against every other process on this machine.

    Raises:
        RunError: Another process holds it.
        EmukitError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK_FILE).open("w")
    except OSError as e:
        raise EmukitError(f"cannot write {folder}", found=e.strerror or str(e), hint="name another place") from e
    with lock:
        if not _taken(lock):
            # Somebody may only have been looking, for a moment.
            time.sleep(LOOKING_SECONDS)
            if not _taken(lock):
                raise RunError(f"another process is writing {folder}", hint="wait for it, or choose another --out")
        yield


def is_held(folder: Path) -> bool:
    """Whether a process on this machine holds a folder, as `exclusive` does."""
    try:
        lock = (folder / LOCK_FILE).open("r")
    except OSError:
        return False
    with lock:
        return not _taken(lock)


def _taken(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def sha256(path: Path | str) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with Path(path).open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def parse_json(text: str) -> Any:
    """The value that a JSON text holds.

    Raises:
        json.JSONDecodeError: It is none, is nested deeper than can be read, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as e:
        # A whole number of thousands of digits is a plain ValueError.
        what = "nested too deeply" if isinstance(e, RecursionError) else "a number of too many digits"
        raise json.JSONDecodeError(what, text[:50], 0) from None


def write_text(target: Path | str, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _sweep(target: Path) -> None:
    """Remove what a killed process left beside the target."""
    prefix = f".{target.name}."
    for path in target.parent.iterdir():
        pid = path.name.removeprefix(prefix).removesuffix(".part")
        if not (path.name.startswith(prefix) and path.name.endswith(".part") and pid.isdigit()):
            continue
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_SECONDS and not _alive(int(pid)):
                _remove(path)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _replace_folder(temporary: Path, target: Path) -> None:
    # rename(2) cannot replace a folder that is not empty, so the old one steps aside first.
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.replace(old)
    temporary.replace(target)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)


def shipped(kind: Literal["baselines", "data_cards"], name: str) -> Path:
    """A file or folder that emukit brings along.

    In an installed wheel it lies inside the package under ``shipped``; in a checkout, beside the package.

    Args:
        kind: Which of the two folders.
        name: The path inside it, for example ``published.toml``.

    Raises:
        EmukitError: It is in neither place.
    """
    package = Path(__file__).parent
    places = [package / "shipped" / kind / name, package.parent / kind / name]
    for place in places:
        if place.exists():
            return place
    raise EmukitError(
        f"emukit's own file {kind}/{name} is missing",
        found=f"neither {places[0]} nor {places[1]}",
        expected="the file that every checkout and wheel of emukit holds",
        hint="install emukit again",
    )
