"""Files with flipped or cut bytes, empty dimensions and double columns: refused by name, whole ones accepted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from emukit.data.check_report import inspect_store
from emukit.data.store import open_store
from emukit.errors import StoreError, SubmissionError
from emukit.submission.read import read_submission
from tests.data.stores import SCENARIOS, coded_card, coded_dataset

CARD = coded_card()
# Few chunks, where it does not matter: files cost time.
WHOLE = {"time": 24, "scenario": 4, "member": 3}
COORDINATES = ("ssp", "time", "member_id", "y", "latitude")


def refused(path: Path, *words: str) -> None:
    """Opening and the report give the same one error, which holds all the words."""
    with pytest.raises(StoreError) as error:
        open_store(path, card=CARD)
    for word in words:
        assert word in str(error.value), str(error.value)
    assert error.value.what in [p.what for p in inspect_store(path, card=CARD).problems]


def change(file: Path, start: int, new: bytes) -> None:
    data = file.read_bytes()
    file.write_bytes(data[:start] + new + data[start + len(new) :])


# --- a single member


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("member", [0, 1])
def test_a_store_with_one_member_as_xarray_writes_it_is_whole(tmp_path, zarr_format, member):
    path = tmp_path / "one.zarr"
    coded_dataset().isel(member_id=[member]).to_zarr(path, zarr_format=zarr_format, consolidated=zarr_format == 2)
    assert open_store(path, card=CARD)["ssp126"].members == (member,)


def test_a_single_number_that_is_no_integer_may_not_be_missing(tmp_path):
    path = tmp_path / "one.zarr"
    coded_dataset().isel(ssp=[0]).to_zarr(path, zarr_format=2)
    (path / "ssp" / "0").unlink()
    refused(path, "missing", "ssp/0")


# --- coordinates


@pytest.mark.parametrize("name", COORDINATES)
@pytest.mark.parametrize("keep", [0.5, 0.95])
def test_a_cut_coordinate_is_named_not_read_as_what_was_in_memory(coded_store, name, keep):
    file = coded_store("v2", **WHOLE) / name / "0"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    refused(file.parents[1], f"{name}/0 is corrupt", "its header says", "again")


@pytest.mark.parametrize("name", COORDINATES)
def test_a_coordinate_with_a_flipped_header_is_named(coded_store, name):
    file = coded_store("v2", **WHOLE) / name / "0"
    change(file, 12, b"\xff\xff")
    refused(file.parents[1], f"{name}/0 is corrupt")


@pytest.mark.parametrize("point", [0x110000, 0xFFFFFFCB, 0xD800])
@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_scenario_names_that_are_no_text_are_named(coded_store, kind, point):
    path = coded_store(kind, **WHOLE)
    names = np.array(SCENARIOS)
    names.view(np.uint32)[8] = point
    zarr.open_group(path, mode="r+")["ssp"][:] = names
    refused(path, f"ssp/{'0' if kind == 'v2' else 'c/0'} is corrupt", "not Unicode")


def test_scenario_names_of_any_length_are_read(tmp_path):
    ds = coded_dataset()
    ds["ssp"] = ds.ssp.astype(object)
    ds.to_zarr(tmp_path / "a.zarr", zarr_format=2)
    assert zarr.open_group(tmp_path / "a.zarr")["ssp"].filters
    assert tuple(open_store(tmp_path / "a.zarr", card=CARD)) == SCENARIOS


def test_names_of_any_length_that_are_cut_are_named(tmp_path):
    ds = coded_dataset()
    ds["ssp"] = ds.ssp.astype(object)
    ds.to_zarr(tmp_path / "a.zarr", zarr_format=2, encoding={"ssp": {"compressors": None}})
    file = tmp_path / "a.zarr" / "ssp" / "0"
    file.write_bytes(file.read_bytes()[:-3])
    refused(tmp_path / "a.zarr", "ssp/0 is corrupt")


# --- chunks


@pytest.mark.parametrize("variable", ["tas", "CO2"])
@pytest.mark.parametrize("nbytes", [-1, -32673, 0, 8, 2**31 - 1])
def test_a_blosc_header_that_states_another_size_is_named(coded_store, variable, nbytes):
    path = coded_store("v2", **WHOLE)
    file = next(f for f in sorted((path / variable).iterdir()) if not f.name.startswith("."))
    change(file, 4, nbytes.to_bytes(4, "little", signed=True))
    refused(path, f"{variable}/{file.name} is corrupt", f"says {nbytes} bytes")


def test_a_blosc_header_of_zarr_v3_that_states_another_size_is_named(tmp_path):
    path = tmp_path / "b.zarr"
    codecs = (zarr.codecs.BloscCodec(cname="lz4"),)
    coded_dataset().to_zarr(path, zarr_format=3, consolidated=False, encoding={"tas": {"compressors": codecs}})
    assert open_store(path, card=CARD)
    change(path / "tas/c/0/0/0/0/0", 4, b"\xff\xff\xff\xff")
    refused(path, "tas/c/0/0/0/0/0 is corrupt", "says -1 bytes")


@pytest.mark.parametrize("name", ["tas/0.0.0.0.0", "pr/.zarray", ".zgroup"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_in_the_place_of_a_file_is_read_without_end(coded_store, name, kind):
    store = coded_store("v2", **WHOLE)
    path = store / name
    path.unlink()
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    refused(store, f"{name} is not a file", "a pipe, a socket or a device")


def test_a_pipe_for_a_netcdf_file_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.nc")
    refused(tmp_path / "a.nc", "a.nc is not a file")


@pytest.mark.parametrize("kind", ["v2", "v3"])
def test_a_folder_in_the_place_of_a_chunk_is_a_missing_chunk(coded_store, kind):
    path = coded_store(kind)
    file = path / ("SO2/1.3.0.0" if kind == "v2" else "SO2/c/1/3/0/0")
    file.unlink()
    file.mkdir()
    refused(path, f"the chunk {file} is missing")
    assert len(inspect_store(path, card=CARD).problems) == 1


# --- empty dimensions


@pytest.mark.parametrize("dim", ["ssp", "time", "member_id", "y", "x", "latitude", "longitude"])
@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_an_empty_dimension_is_named(tmp_path, dim, suffix):
    path = tmp_path / f"a.{suffix}"
    ds = coded_dataset().isel({dim: slice(0, 0)})
    ds.to_zarr(path, zarr_format=2) if suffix == "zarr" else ds.to_netcdf(path)
    refused(path, f"dimension {dim} is empty", f"{dim} 0")


def test_no_members_are_named_even_where_the_card_is_looked_for(tmp_path):
    coded_dataset().isel(member_id=slice(0, 0)).to_zarr(tmp_path / "a.zarr", zarr_format=2)
    with pytest.raises(StoreError, match="dimension member_id is empty"):
        open_store(tmp_path / "a.zarr")


def test_an_empty_dimension_of_something_else_does_not_matter(tmp_path):
    ds = coded_dataset()
    ds["stations"] = ("station", np.zeros(0))
    ds.to_zarr(tmp_path / "a.zarr", zarr_format=2)
    assert open_store(tmp_path / "a.zarr", card=CARD)


# --- submissions


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("ID,Prediction,Prediction", "2 columns Prediction"),
        ("ID,ID,Prediction", "2 columns ID"),
        ("ID,p,q", "no column"),
    ],
)
def test_double_or_missing_columns_of_a_submission_are_named(tmp_path, header, words):
    path = tmp_path / "p.csv"
    path.write_text(f"{header}\n1,2,3\n")
    with pytest.raises(SubmissionError, match=words):
        read_submission(path)


def test_other_columns_of_a_submission_do_not_matter(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("note,ID,note,Prediction\nx,a,,1.5\n,b,y,2\n")
    columns = read_submission(path)
    assert (columns.ids.to_pylist(), columns.values.tolist()) == (["a", "b"], [1.5, 2.0])
