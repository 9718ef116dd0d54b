"""Files that a crash, a full disk or a second writer leaves half-written."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from emukit import files
from emukit.errors import EmukitError, RunError
from emukit.files import (
    LOCK_FILE,
    OWNER,
    PART,
    atomic_path,
    exclusive,
    inside,
    is_held,
    open_append,
    parse_json,
    read_text,
    sha256,
    shipped,
    sweep,
    write_text,
)

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


def parts(place):
    return [p for p in place.iterdir() if PART.fullmatch(p.name)]


def kill_in(code, *words):
    """Run code that kills its process; it finds the words in `sys.argv`."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL


KILL = (
    "import os, sys, signal, pathlib\nfrom emukit import files\ndie = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
)


@pytest.mark.parametrize(
    "code",
    [
        "with files.atomic_path(sys.argv[1]) as t:\n    t.write_text('half')\n    die()",
        "with files.atomic_path(sys.argv[1]) as t:\n    t.mkdir(); (t / 'x').write_text('half')\n    die()",
        # Killed before the lock was taken, before the owner had a name, and before there was one.
        "files._taken = die\nfiles.write_text(sys.argv[1], 'x')",
        "files.os.write = die\nfiles.write_text(sys.argv[1], 'x')",
        "files.os.open = die\nfiles.write_text(sys.argv[1], 'x')",
    ],
)
def test_what_a_killed_writer_left_stays_for_ever(tmp_path, code):
    write_text(tmp_path / "a", "old")
    kill_in(KILL + code, tmp_path / "a")
    assert (tmp_path / "a").read_text() == "old"
    (part,) = parts(tmp_path)
    if (part / OWNER).exists() and not (part / OWNER).read_bytes():
        # Of an owner without a name nothing is known but its age.
        os.utime(part, (0, 0))
    write_text(tmp_path / "b", "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_part_of_a_live_writer_is_swept(tmp_path):
    with atomic_path(tmp_path / "a") as temporary:
        temporary.write_text("slow")
        code = "import sys; from emukit.files import write_text; write_text(sys.argv[1], 'fast')"
        subprocess.run([sys.executable, "-c", code, tmp_path / "b"], check=True, timeout=60)
        sweep(tmp_path)
        os.utime(temporary.parent, (0, 0))
        sweep(tmp_path)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a": "slow", "b": "fast"}


def test_a_part_of_another_machine_counts_as_left_behind_after_a_day_alone(tmp_path):
    kill_in(
        f"{KILL}files.socket.gethostname = lambda: 'elsewhere'\nwith files.atomic_path(sys.argv[1]): die()",
        tmp_path / "a",
    )
    sweep(tmp_path)
    (part,) = parts(tmp_path)
    os.utime(part, (0, time.time() - files.STALE_SECONDS - 60))
    sweep(tmp_path)
    assert not parts(tmp_path)


GONE = 1 << 22  # more than any process has as its number


def older(place, name, *, days=2.0):
    """What an earlier version left."""
    path = place / name
    path.mkdir()
    (path / "weights").write_text(name)
    os.utime(path, (0, time.time() - days * 86_400))
    return name


def test_parts_of_earlier_versions_stay_for_ever_or_those_of_others_are_removed(tmp_path):
    left = older(tmp_path, f".a.{GONE}.part")
    kept = {
        older(tmp_path, f".b.{GONE}.part"),
        older(tmp_path, f".a.{os.getpid()}.part"),
        older(tmp_path, f".a.{GONE + 1}.part", days=0.5),
        older(tmp_path, ".a.x.part"),
        older(tmp_path, f"a.{GONE}.part"),
    }
    (tmp_path / f".a.{GONE + 2}.part").symlink_to(tmp_path / f".b.{GONE}.part")
    write_text(tmp_path / "a", "new")
    names = {p.name for p in tmp_path.iterdir()}
    assert names == kept | {"a", f".a.{GONE + 2}.part"}
    assert left not in names
    # A run folder is emukit's own.
    with exclusive(tmp_path):
        assert f".b.{GONE}.part" not in {p.name for p in tmp_path.iterdir()}
        assert (tmp_path / f".a.{os.getpid()}.part").exists()


def test_what_an_earlier_version_had_moved_aside_is_lost_or_takes_the_place_of_what_is_new(tmp_path):
    older(tmp_path, f".a.{GONE}.old")
    older(tmp_path, f".b.{GONE}.old")
    (tmp_path / "b").write_text("new")
    with exclusive(tmp_path):
        assert (tmp_path / "a" / "weights").read_text() == f".a.{GONE}.old"
        assert (tmp_path / "b").read_text() == "new"
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "a", "b"]


def test_folders_of_others_that_are_called_like_parts_are_swept(tmp_path):
    mine = tmp_path / ".emukit-0123456789abcdef.part"
    mine.mkdir()
    (mine / OWNER).write_text("")
    (mine / "thesis").write_text("mine")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "letters").write_text("mine")
    (tmp_path / ".emukit-0123456789abcdee.part").symlink_to(victim)
    sweep(tmp_path)
    assert (mine / "thesis").exists()
    assert (victim / "letters").exists()


@pytest.mark.parametrize("exchanges", [True, False])
@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_kill_between_two_renames_leaves_nothing_in_place(tmp_path, exchanges, moment):
    """Of a folder, whether the file system can exchange two names or not."""
    target = tmp_path / "folder"
    target.mkdir()
    (target / "old").write_text("")
    code = KILL
    if not exchanges:
        code += "files._renameat2 = lambda *a: False\n"
    if moment == "before":
        code += "files._replace = die\n"
    elif moment == "after":
        code += "files._discard = die\n"
    elif exchanges:
        code += "call = files._renameat2\nfiles._renameat2 = lambda *a: call(*a) and die()\n"
    else:
        code += "rename = pathlib.Path.rename\npathlib.Path.rename = lambda *a: rename(*a) and die()\n"
    code += "with files.atomic_path(sys.argv[1]) as t:\n    t.mkdir(); (t / 'new').write_text('')"
    kill_in(code, target)
    assert len(parts(tmp_path)) == 1
    sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
    assert [p.name for p in target.iterdir()] in (["old"], ["new"])


def test_a_folder_is_replaced_whole_where_names_cannot_be_exchanged(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_renameat2", lambda *words: False)
    test_a_folder_is_replaced_whole(tmp_path)
    with (
        pytest.raises(EmukitError, match="exists by now"),
        atomic_path(tmp_path / "folder", replace=False) as temporary,
    ):
        temporary.mkdir()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["two"]


@pytest.mark.parametrize("folder", [True, False])
def test_what_came_while_it_was_written_is_replaced(tmp_path, folder):
    target = tmp_path / "a"

    def write():
        with atomic_path(target, replace=False) as temporary:
            temporary.mkdir() if folder else temporary.write_text("ours")
            target.write_text("theirs")

    with pytest.raises(EmukitError, match="exists by now"):
        write()
    assert target.read_text() == "theirs"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_in_the_place_of_a_target_is_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "a").symlink_to(victim)
    write_text(tmp_path / "a", "new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "a").is_symlink()
    (tmp_path / "log").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        open_append(tmp_path / "log")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run = tmp_path / "run"
    run.mkdir()
    (run / "scores").symlink_to(elsewhere)
    with pytest.raises(RunError, match="scores is a link"):
        inside(run, "scores", "validation.json")
    assert inside(run, "plots", "a") == run / "plots" / "a"


def test_names_of_parts_can_be_told_beforehand(tmp_path):
    names = set()
    for _ in range(2):
        with atomic_path(tmp_path / "a") as temporary:
            temporary.write_text("")
            names.add(temporary.parent.name)
            assert stat.S_IMODE(temporary.parent.stat().st_mode) == 0o700
    assert len(names) == 2


def test_a_lock_that_is_a_link_empties_its_target(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / LOCK_FILE).symlink_to(victim)
    with pytest.raises(RunError, match="is not a file"), exclusive(tmp_path):
        pass
    assert victim.read_text() == "precious"
    assert not is_held(tmp_path)


def test_a_folder_that_was_taken_back_meanwhile_is_held(tmp_path, monkeypatch):
    """Another process would make a new lock in it, and both would write."""
    taken = files._taken

    def late(lock, *kind):
        (tmp_path / LOCK_FILE).unlink(missing_ok=True)
        return taken(lock, *kind)

    monkeypatch.setattr(files, "_taken", late)
    with pytest.raises(RunError, match="another process is writing"), exclusive(tmp_path):
        pass


def test_a_lock_that_is_a_fifo_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / LOCK_FILE)
    with pytest.raises(RunError, match="is not a file"), exclusive(tmp_path):
        pass
    assert not is_held(tmp_path)


@pytest.mark.parametrize("read", [read_text, sha256])
def test_a_fifo_or_a_device_is_read(tmp_path, read):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("fifo", "endless"):
        with pytest.raises(OSError, match="not a regular file"):
            read(tmp_path / name)


def test_an_endless_file_fills_memory(tmp_path):
    with (tmp_path / "a").open("wb") as f:
        f.truncate(1 << 40)
    with pytest.raises(OSError, match="longer than"):
        read_text(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"\xef\xbb\xbfx = 1")
    assert read_text(tmp_path / "b") == "x = 1"


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_weights_cannot_be_read_by_those_who_may(tmp_path, mask):
    before = os.umask(mask)
    try:
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            save_file({"a": np.zeros(2)}, temporary / "arrays.safetensors")
        write_text(tmp_path / "text", "")
    finally:
        os.umask(before)
    for path in (tmp_path / "text", tmp_path / "folder" / "arrays.safetensors"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask
