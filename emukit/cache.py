"""Answers that take seconds and follow from digests, kept between commands in a folder of the user's own.

Invariant: no number depends on the cache. An answer is found by everything that decides it, the code included; what is
damaged, another's, or in a folder that others may write to, is not read but computed again. Nothing is unpickled.

The folder is ``$EMUKIT_CACHE``; where that is not set, ``emukit`` in ``$XDG_CACHE_HOME`` or ``~/.cache``. With
``EMUKIT_CACHE=`` nothing is kept. It may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from emukit.errors import EmukitError
from emukit.files import parse_json, read_text, write_text

ENVIRONMENT = "EMUKIT_CACHE"
# An answer is a few kilobytes; so many are kept, the newest.
MOST_ENTRIES = 512
# Of one answer, in bytes.
MOST_BYTES = 1 << 20


def find_answer(kind: str, key: Mapping[str, Any]) -> Any:
    """The answer that was kept under a key; None if no answer can be trusted.

    Args:
        kind: What is asked, a word.
        key: Plain values, as JSON has them: everything besides the code that decides the answer.
    """
    whole = _whole(kind, key)
    with suppress(OSError, ValueError):
        folder = _folder()
        if folder is None:
            return None
        _refuse_others(folder)
        found = parse_json(read_text(folder / _name(kind, whole), MOST_BYTES))
        if isinstance(found, dict) and found.get("key") == whole:
            return found.get("answer")
    return None


def keep_answer(kind: str, key: Mapping[str, Any], answer: Any) -> None:
    """Keep an answer of plain values; where it cannot be kept, it is computed again next time.

    Two processes that keep the same answer do not disturb each other: each writes a whole file.
    """
    whole = _whole(kind, key)
    with suppress(OSError, EmukitError):
        folder = _folder()
        if folder is None:
            return
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_others(folder)
        write_text(folder / _name(kind, whole), json.dumps({"key": whole, "answer": answer}))
        _drop_oldest(folder)


def _folder() -> Path | None:
    named = os.environ.get(ENVIRONMENT)
    if named is not None:
        return Path(named).expanduser() if named else None
    home = os.environ.get("XDG_CACHE_HOME")
    # Of the XDG Base Directory Specification: a relative path is to be ignored.
    base = Path(home) if home and Path(home).is_absolute() else Path("~/.cache").expanduser()
    return base / "emukit"


def _refuse_others(folder: Path) -> None:
    """Refuse a folder that somebody else could have written to.

    Raises:
        PermissionError: It is a link, another user's, or open to others for writing.
    """
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionError(f"{folder} is not this user's alone")


def _whole(kind: str, key: Mapping[str, Any]) -> dict[str, Any]:
    # As it comes back from JSON, so that both can be compared.
    whole: dict[str, Any] = json.loads(json.dumps({"kind": kind, "code": _code_digest(), **key}))
    return whole


def _name(kind: str, whole: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
    return f"{kind}-{digest[:32]}.json"


@cache
def _code_digest() -> str:
    """What tells this state of the package from another: size and time of each of its modules.

    Their contents would tell the same, and take longer to read than some commands take.
    """
    package = Path(__file__).parent
    digest = hashlib.sha256(str(package).encode())
    for path in sorted(package.rglob("*.py")):
        found = path.stat()
        digest.update(f"{path.relative_to(package)} {found.st_size} {found.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _drop_oldest(folder: Path) -> None:
    with os.scandir(folder) as entries:
        kept = [(e.stat(follow_symlinks=False).st_mtime_ns, e.path) for e in entries if e.name.endswith(".json")]
    for _, path in sorted(kept)[:-MOST_ENTRIES]:
        Path(path).unlink(missing_ok=True)
