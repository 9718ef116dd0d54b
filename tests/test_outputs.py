"""Outputs that replace what is not theirs, or what nobody said may go."""

import json
import os

import pytest
import xarray as xr

from emukit.errors import EmukitError
from emukit.outputs import MARK, json_kind, marked, new_output, refuse_taken, zarr_kind

STORE = zarr_kind("a store of a test", marked("test"))
SCORE = json_kind("a score of a test", ("score",))


def write_store(out, overwrite=False, what="test"):
    with new_output(out, STORE, overwrite) as temporary:
        xr.Dataset({"a": ("x", [1.0, 2.0])}, attrs={MARK: what}).to_zarr(temporary, zarr_format=2)


def test_own_output_is_replaced_only_when_that_is_said(tmp_path):
    out = tmp_path / "s.zarr"
    write_store(out)
    before = out.stat().st_ino
    with pytest.raises(EmukitError, match="--overwrite replaces it"):
        write_store(out)
    assert out.stat().st_ino == before
    write_store(out, overwrite=True)
    assert out.stat().st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["s.zarr"]


def test_what_is_added_to_an_own_store_goes_with_it(tmp_path):
    out = tmp_path / "s.zarr"
    for place in ("notes.txt", "a/notes.txt"):
        write_store(out, overwrite=True)
        (out / place).write_text("mine")
        with pytest.raises(EmukitError, match="is not a store of a test"):
            write_store(out, overwrite=True)
        assert (out / place).read_text() == "mine"
        (out / place).unlink()


@pytest.mark.parametrize("other", ["another command's", "unmarked", "file", "folder", "link", "dangling", "fifo"])
def test_what_is_of_another_kind_is_replaced(tmp_path, other):
    out, precious = tmp_path / "s.zarr", tmp_path / "precious"
    precious.mkdir()
    (precious / "letters").write_text("mine")
    match other:
        case "another command's" | "unmarked":
            xr.Dataset({"a": ("x", [1.0])}, attrs={MARK: "other"} if other != "unmarked" else {}).to_zarr(
                out, zarr_format=2
            )
        case "file":
            out.write_text("mine")
        case "folder":
            precious.rename(out)
        case "link":
            write_store(tmp_path / "own.zarr")
            out.symlink_to(tmp_path / "own.zarr")
        case "dangling":
            out.symlink_to(tmp_path / "nowhere")
        case "fifo":
            os.mkfifo(out)
    before = sorted(str(p) for p in tmp_path.rglob("*"))
    with pytest.raises(EmukitError, match="exists, and is not a store of a test"):
        write_store(out, overwrite=True)
    assert sorted(str(p) for p in tmp_path.rglob("*")) == before


def test_an_empty_folder_makes_room_for_a_folder_alone(tmp_path):
    (tmp_path / "s").mkdir()
    write_store(tmp_path / "s")
    (tmp_path / "f").mkdir()
    with pytest.raises(EmukitError, match="is not a score of a test"):
        refuse_taken(tmp_path / "f", SCORE, overwrite=True)


@pytest.mark.parametrize("text", ["{}", "[]", "mine", "[" * 100_000])
def test_json_of_others_is_replaced(tmp_path, text):
    out = tmp_path / "score.json"
    out.write_text(text)
    with pytest.raises(EmukitError, match="is not a score of a test"):
        refuse_taken(out, SCORE, overwrite=True)
    out.write_text(json.dumps({"score": 1}))
    assert refuse_taken(out, SCORE, overwrite=True)


def test_what_came_meanwhile_is_replaced(tmp_path):
    out = tmp_path / "score.json"

    def write():
        with new_output(out, SCORE, overwrite=True) as temporary:
            temporary.write_text("{}")
            out.write_text("mine")

    with pytest.raises(EmukitError, match="exists by now"):
        write()
    assert out.read_text() == "mine"
