"""An entry says the same after a round trip, whatever text it holds, and a wrong one lists all its mistakes."""

from __future__ import annotations

import hashlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from emukit.errors import SubmissionError
from emukit.files import sha256
from emukit.submission import ENTRY_FILE, SubmissionEntry, read_entry, write_entry

RECIPE = "[train]\nlearning_rate = 5e-4\nnote = \"three \\\" quotes ''' and \\\\ back\"\n"
ENTRY = SubmissionEntry(
    name="ridge",
    created="2025-06-01T12:00:00+00:00",
    emulator="linear",
    recipe=RECIPE,
    protocol="k360",
    scenario="ssp370",
    first_month="2070-02",
    last_month="2100-01",
    seed=0,
    command="emukit submit runs/ridge --out submissions/ridge",
    split="k360 test: ssp370",
    data_digest="ab12",
    emukit_version="0.1.0",
    git_commit="",
    csv="submission.csv",
    csv_sha256="0" * 64,
    rows=2_488_320,
    validation={"score": 0.777, "tas.monthly_rmse": 1.5, "months": 120},
)


def changed(**values: object) -> SubmissionEntry:
    return SubmissionEntry.model_validate({**ENTRY.model_dump(), **values})


# What a file can hold: no lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=60)
@given(
    name=texts.filter(bool),
    recipe=st.lists(texts, max_size=5).map("\n".join),
    seed=st.integers(-(2**62), 2**62),
    validation=st.dictionaries(texts, st.floats(allow_nan=False), max_size=4),
)
def test_an_entry_reads_back_as_it_was(
    name: str, recipe: str, seed: int, validation: dict[str, float], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("entry")
    entry = changed(name=name, recipe=recipe, seed=seed, validation=validation)
    write_entry(folder, entry)
    assert read_entry(folder) == entry


def test_a_recipe_stays_readable_in_the_file(tmp_path: Path) -> None:
    path = write_entry(tmp_path, ENTRY)
    assert path == tmp_path / ENTRY_FILE
    assert "learning_rate = 5e-4" in path.read_text().splitlines()
    assert tomllib.loads(tomllib.loads(path.read_text())["recipe"])["train"]["learning_rate"] == 5e-4


def test_all_mistakes_of_an_entry_are_listed(tmp_path: Path) -> None:
    path = write_entry(tmp_path, ENTRY)
    text = path.read_text().replace("seed = 0", 'seed = "0"').replace("rows = 2488320", "rows = -1\nextra = 1")
    path.write_text(text.replace("2070-02", "February").replace('protocol = "k360"\n', ""))
    with pytest.raises(SubmissionError) as error:
        read_entry(tmp_path)
    for key in ("seed", "rows", "extra", "first_month", "protocol"):
        assert f"{key}: " in error.value.found


@pytest.mark.parametrize("content", [b"name = ", b"\xff\xfe"])
def test_a_damaged_entry_is_one_clear_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ENTRY_FILE).write_bytes(content)
    with pytest.raises(SubmissionError, match="not TOML"):
        read_entry(tmp_path)


def test_a_folder_without_entry_is_named(tmp_path: Path) -> None:
    with pytest.raises(SubmissionError, match=ENTRY_FILE):
        read_entry(tmp_path)


def test_a_wrong_entry_cannot_be_made() -> None:
    with pytest.raises(ValidationError, match="csv_sha256"):
        changed(csv_sha256="0" * 63)


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"ID,Prediction\n")
    assert sha256(tmp_path / "a.csv") == hashlib.sha256(b"ID,Prediction\n").hexdigest()


def test_an_entry_without_validation_numbers_has_no_empty_table(tmp_path):
    entry = changed(validation={})
    assert "[validation]" not in write_entry(tmp_path, entry).read_text(encoding="utf-8")
    assert read_entry(tmp_path) == entry
