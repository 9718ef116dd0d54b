"""Files and folders that are whole or not there.

Invariant: a reader never sees a half-written file, whatever happens to the writer: a crash, Ctrl-C, or a full disk.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from safetensors import SafetensorError

from emukit.errors import EmukitError


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


def write_text(target: Path | str, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _replace_folder(temporary: Path, target: Path) -> None:
    # rename(2) cannot replace a folder that is not empty, so the old one steps aside first.
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.replace(old)
    temporary.replace(target)
    _remove(old)


def _remove(path: Path) -> None:
    # A writer with threads of its own (Zarr) may still be putting files into a folder that is being removed.
    for _ in range(20):
        if not path.is_dir():
            break
        shutil.rmtree(path, ignore_errors=True)
        time.sleep(0.05 if path.exists() else 0.0)
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
