"""Files and folders that are whole or not there, written and read in places that others may write to.

Invariant: a reader never sees a half-written file, whatever happens to the writer: a crash, Ctrl-C, or a full disk.
Nothing is written through a link. What was killed is swept, and only that: every part file has a live owner or none.

A part is a folder ``.emukit-RANDOM.part`` next to the target, open to its user alone:

    .owner      locked for as long as the writer lives; holds the name of its machine
    NAME        what is being written, and takes the place of NAME in the folder above
    .old/NAME   what stepped aside for it, where the file system cannot exchange two names at once
"""

from __future__ import annotations

import codecs
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader, FileIO
from pathlib import Path
from typing import IO, Any, Literal

from safetensors import SafetensorError

from emukit.errors import EmukitError, RunError, shortage

LOCK_FILE = ".lock"
# Much longer than it takes to see that a lock is free, much shorter than anybody waits.
LOOKING_SECONDS = 0.2
# No text that emukit writes is longer: the log of a training is the longest, and has a kilobyte an epoch at most.
MOST_BYTES = 32 << 20
PART = re.compile(r"\.emukit-[0-9a-f]{16}\.part")
OWNER, OLD = ".owner", ".old"
# What the parts of earlier versions were called: after their target and their process.
OLDER = re.compile(r"\.(?P<target>.+)\.(?P<process>[1-9]\d{0,9})\.(?P<kind>part|old)", re.DOTALL)
# Locks of another machine may not be seen here: what it left counts as left behind only after so long.
STALE_SECONDS = 86_400.0
# Of renameat2(2).
_AT_FDCWD, _NOREPLACE, _EXCHANGE = -100, 1, 2


@contextmanager
def atomic_path(target: Path | str, *, replace: bool = True, durable: bool = False) -> Iterator[Path]:
    """A temporary path that takes the place of `target` (file or folder) when the block ends well.

    When the block raises, or is killed, `target` stays as it was. A link at `target` is replaced, not followed. Files
    have the permissions that the umask leaves, whatever their writer gave them.

    Args:
        target: What is written.
        replace: Whether what is there may be replaced; else it is an error, also where it came while this was written.
        durable: Of a folder: whether every file in it outlives a power cut from the moment when it is in its place, as
            a single file always does.

    Raises:
        EmukitError: The disk is full, the place cannot be written, or there is something that is not to be replaced.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, target.name)
        with _part(target.parent) as (part, mode):
            temporary = part / target.name
            yield temporary
            _finish(temporary, mode, sync=durable or not temporary.is_dir())
            if replace:
                _replace(temporary, target)
            else:
                _put(temporary, target)
    except (OSError, RuntimeError, SafetensorError) as e:
        if isinstance(e, FileExistsError) and not replace:
            raise EmukitError(
                f"{target} exists by now", expected="a path that does not exist", hint="name another place"
            ) from e
        # torch, netCDF4 and safetensors tell of a full disk in errors of their own.
        raise shortage(e) or EmukitError(
            f"cannot write {target}",
            found=getattr(e, "strerror", None) or str(e),
            expected="a writable place with enough free space",
            hint="free space or name another place; nothing was left half-written",
        ) from e


def write_text(target: Path | str, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_text(text, encoding="utf-8")


def open_append(path: Path) -> FileIO:
    """Open a file to append to it, unbuffered; it is made where it is not there.

    Raises:
        OSError: It is a link or something else that is not a file, or cannot be written.
    """
    return FileIO(_opened(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW), "ab")


def open_regular(path: Path | str) -> BufferedReader:
    """Open a file to read it, and nothing else: a FIFO or a device might never end.

    Raises:
        OSError: It is not a regular file, or cannot be read.
    """
    return os.fdopen(_opened(path, os.O_RDONLY), "rb")


def read_text(path: Path | str, most: int = MOST_BYTES) -> str:
    """The text of a file in UTF-8, without a byte-order mark.

    Args:
        path: The file.
        most: Of bytes; more are not read.

    Raises:
        OSError: It is not a regular file, cannot be read, or is longer.
        UnicodeDecodeError: It is in another encoding.
    """
    with open_regular(path) as f:
        content = f.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"longer than {most:,} bytes, as no such file is", str(path))
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UnicodeDecodeError("utf-8", content, 0, 2, "it is in UTF-16: save it as UTF-8")
    # Some editors put a byte-order mark in front.
    return content.decode("utf-8-sig")


def check_regular(path: Path | str) -> None:
    """Refuse to read what is not a file, where a library opens it by its path.

    Raises:
        OSError: It is not a regular file, or not there.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise _not_regular(path)


def inside(folder: Path, *names: str) -> Path:
    """The path of a file or folder that is about to be written inside a run folder.

    Raises:
        RunError: A folder between is a link: it would be written elsewhere.
    """
    path = folder.joinpath(*names)
    for between in path.parents:
        if between == folder:
            return path
        if between.is_symlink():
            raise RunError(
                f"{between} is a link", expected="a folder", hint="remove the link: nothing is written there"
            )
    raise ValueError(f"{path} is not inside {folder}")


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a folder, made where it is not there, against every other process on this machine.

    What killed processes left in it is swept.

    Raises:
        RunError: Another process holds it, or its lock is not a file.
        EmukitError: It cannot be made or locked.
    """
    path = folder / LOCK_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileIO(_opened(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW), "r+")
    except OSError as e:
        if path.is_symlink() or e.errno == errno.EINVAL:
            raise RunError(f"{path} is not a file", expected="the lock of the folder", hint=f"remove {path}") from e
        raise EmukitError(f"cannot write {folder}", found=e.strerror or str(e), hint="name another place") from e
    with lock:
        try:
            if not _taken(lock):
                # Somebody may only have been looking, for a moment.
                time.sleep(LOOKING_SECONDS)
            # Who held it may have taken the folder back, and this lock with it.
            if not _taken(lock) or os.fstat(lock.fileno()).st_nlink == 0:
                raise RunError(f"another process is writing {folder}", hint="wait for it, or choose another --out")
        except OSError as e:
            raise EmukitError(
                f"cannot lock {path}", found=e.strerror or str(e), hint="name a place whose file system has locks"
            ) from e
        sweep(folder, None)
        yield


def is_held(folder: Path) -> bool:
    """Whether a process on this machine holds a folder, as `exclusive` does."""
    try:
        with FileIO(_opened(folder / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW)) as lock:
            return not _taken(lock, fcntl.LOCK_SH)
    except OSError:
        return False


def sweep(place: Path, target: str | None = "") -> None:
    """Remove what killed writers left in a folder; what one of them had moved aside goes back into its place.

    Args:
        place: The folder.
        target: What is about to be written there. Parts of earlier versions are known by their names alone, which other
            programs may use too: only those of this target are removed; all of them in a folder that is emukit's own
            (None).
    """
    with suppress(OSError), os.scandir(place) as entries:
        for path in [Path(e.path) for e in entries if e.name.endswith((".part", ".old"))]:
            with suppress(OSError):
                if PART.fullmatch(path.name):
                    _sweep_part(path)
                elif (older := OLDER.fullmatch(path.name)) and target in (None, older["target"]):
                    _sweep_older(path, older)


def remove_folder(folder: Path) -> None:
    """Remove a folder: it steps aside into a part, and is then deleted. A kill between leaves it whole, or none.

    Raises:
        OSError: It cannot be moved.
    """
    with _part(folder.parent) as (part, _):
        folder.rename(part / folder.name)


def below(folder: Path, pattern: str) -> list[Path]:
    """Everything below a folder whose name fits a pattern, sorted; parts and whatever else is hidden is left out."""
    return sorted(p for p in folder.rglob(pattern) if not any(n.startswith(".") for n in p.relative_to(folder).parts))


def sha256(path: Path | str) -> str:
    """The SHA-256 digest of a file, in hexadecimal.

    Raises:
        OSError: It is not a regular file, or cannot be read.
    """
    with open_regular(path) as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def parse_json(text: str) -> Any:
    """The value that a JSON text holds.

    Raises:
        json.JSONDecodeError: It is not JSON, nested deeper than can be read, or holds a number of thousands of digits.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except (RecursionError, ValueError) as e:
        # A whole number of thousands of digits is a plain ValueError.
        what = "nested too deeply" if isinstance(e, RecursionError) else "a number of too many digits"
        raise json.JSONDecodeError(what, text[:50], 0) from None


def _opened(path: Path | str, flags: int) -> int:
    """A descriptor of a regular file.

    Raises:
        OSError: It is something else, or cannot be opened so.
    """
    # Without O_NONBLOCK a FIFO is waited for before anything can be said of it.
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise _not_regular(path)


def _not_regular(path: Path | str) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))


def _taken(lock: IO[Any] | FileIO | int, kind: int = fcntl.LOCK_EX) -> bool:
    """Whether a lock could be taken.

    Raises:
        OSError: The file system has none.
    """
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _part(place: Path) -> Iterator[tuple[Path, int]]:
    """A new part in a folder, removed in the end; and the permissions that the umask leaves a file there."""
    part, owner = _new_part(place)
    try:
        yield part, stat.S_IMODE(os.fstat(owner).st_mode)
    finally:
        try:
            _discard(part)
        finally:
            os.close(owner)


def _new_part(place: Path) -> tuple[Path, int]:
    while True:
        part = place / f".emukit-{secrets.token_hex(8)}.part"
        part.mkdir(0o700)
        try:
            owner = os.open(part / OWNER, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            # Swept while it was empty.
            continue
        try:
            os.write(owner, socket.gethostname().encode())
            try:
                # A sweeper may have been faster, and has removed it then.
                held = _taken(owner) and os.fstat(owner).st_nlink > 0
            except OSError:
                # Without locks nothing is swept either.
                held = True
            if held:
                return part, owner
        except BaseException:
            os.close(owner)
            _discard(part)
            raise
        os.close(owner)


def _sweep_part(part: Path) -> None:
    found = part.lstat()
    # Ours are closed to other users, so only we can have put anything into them.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        return
    try:
        owner = FileIO(_opened(part / OWNER, os.O_RDWR | os.O_NOFOLLOW), "r+")
    except FileNotFoundError:
        # Its writer was killed before it wrote anything, or has not done so yet, and will take another.
        part.rmdir()
        return
    with owner:
        here = owner.read(300) == socket.gethostname().encode()
        if _taken(owner) and (here or time.time() - found.st_mtime > STALE_SECONDS):
            _discard(part)


def _sweep_older(path: Path, older: re.Match[str]) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
        return
    # Of a process of another machine nothing is known but how long it has written nothing.
    if time.time() - found.st_mtime <= STALE_SECONDS or _is_alive(int(older["process"])):
        return
    target = path.with_name(older["target"])
    if older["kind"] == "old" and not os.path.lexists(target):
        path.rename(target)
    else:
        _remove(path)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _discard(part: Path) -> None:
    """Remove a part; what had stepped aside in it goes back, unless something has taken its place."""
    old = part / OLD
    for kept in old.iterdir() if old.is_dir() else ():
        if not os.path.lexists(part.parent / kept.name):
            kept.rename(part.parent / kept.name)
    with suppress(OSError):
        # The owner goes last: a part without one cannot be told from one that begins.
        for path in [p for p in part.iterdir() if p.name != OWNER]:
            _remove(path)
        if [p.name for p in part.iterdir()] in ([], [OWNER]):
            (part / OWNER).unlink(missing_ok=True)
            part.rmdir()


def _finish(written: Path, mode: int, sync: bool) -> None:
    """Give what was written its permissions, and have it on disk where that is asked."""
    for path in written.rglob("*") if written.is_dir() else (written,):
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            continue
        if stat.S_IMODE(found.st_mode) != mode:
            path.chmod(mode)
        if sync:
            with path.open("rb") as f:
                os.fsync(f.fileno())


def _replace(temporary: Path, target: Path) -> None:
    if not temporary.is_dir():
        temporary.replace(target)
        return
    # rename(2) cannot replace a folder that is not empty: both change places, or the old one steps aside first.
    try:
        if _renameat2(temporary, target, _EXCHANGE):
            return
    except FileNotFoundError:
        _put(temporary, target)
        return
    if os.path.lexists(target):
        old = temporary.with_name(OLD)
        old.mkdir()
        target.rename(old / target.name)
    temporary.rename(target)


def _put(temporary: Path, target: Path) -> None:
    """Put a file or folder where nothing is.

    Raises:
        FileExistsError: There is something.
    """
    if not _renameat2(temporary, target, _NOREPLACE):
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        temporary.rename(target)


def _renameat2(source: Path, target: Path, flag: int) -> bool:
    """Rename as a flag says; False where the system or the file system cannot.

    Raises:
        OSError: It can, and there is another reason.
    """
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    with suppress(OSError):
        path.unlink(missing_ok=True)


def shipped(kind: Literal["baselines", "data_cards"], name: str) -> Path:
    """A file or folder that emukit brings along.

    In an installed wheel it lies inside the package under ``shipped``; in a checkout, next to the package.

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
        hint="install emukit-climate again, from its checkout",
    )
