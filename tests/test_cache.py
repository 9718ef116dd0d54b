"""A cache that changes a number: an answer to another question, of another code, damaged, or from a stranger."""

import json
import os
import threading
from pathlib import Path

import pytest

from emukit import cache
from emukit.cache import ENVIRONMENT, find_answer, keep_answer

KEY = {"data": "abc", "spans": [["ssp126", 0, 12, [0, 1]]]}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_answer_comes_back_for_its_own_key_alone(folder):
    keep_answer("score", KEY, {"value": 0.1 + 0.2})
    assert find_answer("score", KEY) == {"value": 0.1 + 0.2}
    assert find_answer("score", KEY | {"data": "abd"}) is None
    assert find_answer("limit", KEY) is None
    assert folder.stat().st_mode & 0o777 == 0o700


def test_other_code_has_other_answers(folder, monkeypatch):
    keep_answer("score", KEY, 1)
    monkeypatch.setattr(cache, "_code_digest", lambda: "changed")
    assert find_answer("score", KEY) is None


def test_an_edited_module_is_other_code(monkeypatch, tmp_path):
    (tmp_path / "cache.py").write_text("one = 1\n")
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "cache.py"))
    digest = cache._code_digest.__wrapped__
    before = digest()
    (tmp_path / "cache.py").write_text("one = 2\n")
    os.utime(tmp_path / "cache.py", ns=(1, 1))
    assert digest() != before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"key": {}, "answer": 2}', b"[" * 100_000])
def test_what_is_damaged_is_computed_again(folder, content):
    keep_answer("score", KEY, 1)
    (path,) = folder.iterdir()
    path.write_bytes(content)
    assert find_answer("score", KEY) is None
    keep_answer("score", KEY, 1)
    assert find_answer("score", KEY) == 1


def test_an_answer_under_another_name_is_not_taken(folder):
    """A file says which question it answers: a name alone can be copied."""
    keep_answer("score", KEY, 1)
    (path,) = folder.iterdir()
    keep_answer("score", KEY | {"data": "abd"}, 2)
    (other,) = set(folder.iterdir()) - {path}
    other.write_bytes(path.read_bytes())
    assert find_answer("score", KEY | {"data": "abd"}) is None


def test_a_folder_that_others_may_write_to_is_not_read(folder):
    keep_answer("score", KEY, 1)
    folder.chmod(0o777)
    assert find_answer("score", KEY) is None
    keep_answer("limit", KEY, 2)
    assert len(list(folder.iterdir())) == 1
    folder.chmod(0o700)
    assert find_answer("score", KEY) == 1


def test_a_link_in_the_place_of_the_folder_is_not_followed(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    folder.symlink_to(tmp_path / "elsewhere")
    keep_answer("score", KEY, 1)
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert find_answer("score", KEY) is None


def test_an_endless_file_is_not_waited_for(folder):
    keep_answer("score", KEY, 1)
    (path,) = folder.iterdir()
    path.unlink()
    os.mkfifo(path)
    assert find_answer("score", KEY) is None


def test_nothing_is_kept_where_nothing_may_be(monkeypatch, tmp_path):
    monkeypatch.setenv(ENVIRONMENT, "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_answer("score", KEY, 1)
    assert find_answer("score", KEY) is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "file" / "cache"))
    keep_answer("score", KEY, 1)
    assert find_answer("score", KEY) is None


def test_the_folder_is_where_the_system_says(monkeypatch, tmp_path):
    monkeypatch.delenv(ENVIRONMENT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    keep_answer("score", KEY, 1)
    assert [p.name for p in tmp_path.iterdir()] == ["emukit"]
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    keep_answer("score", KEY, 1)
    assert (tmp_path / ".cache" / "emukit").is_dir()
    assert not Path("relative").exists()


def test_only_the_newest_stay(folder, monkeypatch):
    monkeypatch.setattr(cache, "MOST_ENTRIES", 3)
    for number in range(6):
        keep_answer("score", {"number": number}, number)
        for at, path in enumerate(sorted(folder.iterdir(), key=lambda p: json.loads(p.read_text())["answer"])):
            os.utime(path, ns=(at, at))
    assert [find_answer("score", {"number": n}) for n in range(6)] == [None, None, None, 3, 4, 5]


def test_two_at_once_leave_a_whole_answer(folder):
    def keep():
        for _ in range(30):
            keep_answer("score", KEY, [1.0] * 100)

    threads = [threading.Thread(target=keep) for _ in range(2)]
    for thread in threads:
        thread.start()
    seen = [find_answer("score", KEY) for _ in range(100)]
    for thread in threads:
        thread.join()
    assert all(answer in (None, [1.0] * 100) for answer in seen)
    assert find_answer("score", KEY) == [1.0] * 100
    assert len(list(folder.iterdir())) == 1
