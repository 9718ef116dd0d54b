"""Files that a crash, a full disk or a second writer leaves half-written."""

import errno
import os
from pathlib import Path

import pytest

from emukit.errors import EmukitError
from emukit.files import atomic_path, parse_json, shipped, write_text

# A device that is always full.
FULL = Path("/dev/full")


def test_json_nested_too_deeply_is_no_json():
    with pytest.raises(ValueError, match="too deeply"):
        parse_json("[" * 100_000)
    assert parse_json('{"a": [1]}') == {"a": [1]}


def test_a_crash_leaves_the_old_file_and_no_rest(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")

    class CrashError(Exception): ...

    def write():
        with atomic_path(target) as temporary:
            temporary.write_text("half")
            raise CrashError

    with pytest.raises(CrashError):
        write()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_crash_while_writing_a_folder_leaves_nothing(tmp_path):
    def write():
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / "x").write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_replaced_whole(tmp_path):
    for content in ("one", "two"):
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_full_disk_is_said_plainly_and_leaves_nothing(tmp_path):
    def write():
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(EmukitError, match=os.strerror(errno.ENOSPC)):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")
def test_truly_full_device_is_an_emukit_error(tmp_path):
    with pytest.raises(EmukitError, match="cannot write"), atomic_path(tmp_path / "a"), FULL.open("wb") as f:
        f.write(b"x" * 100_000)


def test_shipped_files_are_found_and_missing_ones_named():
    assert shipped("data_cards", "demo.toml").exists()
    with pytest.raises(EmukitError, match=r"data_cards/none\.toml"):
        shipped("data_cards", "none.toml")
