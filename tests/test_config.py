"""Settings that pass although they are wrong, or fail one at a time."""

import pytest
from pydantic import Field

from emukit.config import Settings, check, merge, options_of, parse_assignments, read_toml
from emukit.errors import RecipeError


class Inner(Settings):
    size: int = Field(3, ge=1)
    names: tuple[str, ...] = ()


class Outer(Settings):
    inner: Inner = Inner()
    rate: float = 0.1


def test_all_mistakes_are_listed_with_their_paths():
    with pytest.raises(RecipeError) as error:
        check(Outer, {"inner": {"size": "3", "colour": 1}, "rate": "fast", "speed": 2}, source="mine.toml")
    text = str(error.value)
    for path in (
        "inner.size",
        "inner.colour: unknown key",
        "rate",
        "speed: unknown key",
        "4 wrong settings",
        "mine.toml",
    ):
        assert path in text


def test_numbers_are_not_made_of_words_or_flags():
    for wrong in ("3", True, 3.0):
        with pytest.raises(RecipeError):
            check(Outer, {"inner": {"size": wrong}}, source="x")


def test_lists_of_toml_become_frozen_tuples():
    settings = check(Outer, {"inner": {"names": ["a", "b"]}}, source="x")
    assert settings.inner.names == ("a", "b")
    with pytest.raises(Exception, match="frozen"):
        settings.rate = 3


def test_assignments_are_toml_values_and_otherwise_text():
    words = ["a.b=3", "a.c=5e-4", "d=[1, 2]", "e=true", "f=cell-month", 'g="x"']
    assert parse_assignments(words) == {"a": {"b": 3, "c": 5e-4}, "d": [1, 2], "e": True, "f": "cell-month", "g": "x"}


@pytest.mark.parametrize("words", [["abc"], ["=3"], ["a..b=3"], ["a=3", "a.b=4"], ["a.b=4", "a=3", "a.c=3"]])
def test_assignments_that_mean_nothing_are_refused(words):
    with pytest.raises(RecipeError):
        parse_assignments(words)


def test_merge_lays_tables_over_tables_and_changes_neither():
    base, over = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}}
    assert merge(base, over) == {"a": {"b": 5, "c": 2}, "d": 3}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}


def test_signature_is_what_users_may_set():
    def build(*, channels: int, width: int = 8, kind: str = "x") -> None: ...

    options = options_of(build, context=("channels",))
    assert options().model_dump() == {"width": 8, "kind": "x"}
    with pytest.raises(RecipeError, match="channels: unknown key"):
        check(options, {"channels": 3}, source="x")


@pytest.mark.parametrize("content", [b"a = ", b"\xff\xfe"])
def test_file_that_is_not_toml_is_refused(tmp_path, content):
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match="not TOML"):
        read_toml(path)
    with pytest.raises(RecipeError, match="cannot read"):
        read_toml(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "9" * 5000, "not TOML"),
        ("a = 0x" + "f" * 5000, "64 bits"),
        (f"a = {2**63}", "64 bits"),
        ("a = " + "[" * 300 + "]" * 300, "nested too deeply"),
        ("a = " + "[" * 100_000, "nested too deeply"),
    ],
)
def test_values_that_nothing_can_hold_are_no_toml(tmp_path, text, said):
    path = tmp_path / "a.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as error:
        read_toml(path)
    assert said in error.value.text()
    assert isinstance(parse_assignments([text.replace(" ", "")])["a"], str)


def test_a_long_value_is_cut_in_a_message():
    class Two(Settings):
        a: int

    with pytest.raises(RecipeError) as error:
        check(Two, {"a": "x" * 100_000}, source="s")
    assert len(error.value.text()) < 1000
