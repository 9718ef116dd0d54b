"""Keys of a study that its page forgets, and studies there that are none."""

import json
import re
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from emukit.studies.study import Axis, Study, Variant, load_study, recipe_of, refuse_untrainable

DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "studies.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
# Key, with the table it is in before it, to what is said of its default.
KEYS = {
    "".join(names): default.strip()
    for *names, default in re.findall(r"^\| (`\[\[\w+\]\]` )?`(\w+)` \|[^|]*\|([^|]*)\|[^|]*\|$", PAGE, re.MULTILINE)
}


def test_every_key_has_its_line_with_its_default():
    tables = {"": Study, "`[[variants]]` ": Variant, "`[[axes]]` ": Axis}
    fields = {before + key: field for before, model in tables.items() for key, field in model.model_fields.items()}
    assert set(KEYS) == set(fields)
    for key, field in fields.items():
        # A study without a name is called as its file is.
        if key != "name" and field.default is PydanticUndefined and field.default_factory is None:
            assert KEYS[key] == "required", key
        elif field.default and field.default is not PydanticUndefined:
            assert KEYS[key] == f"`{json.dumps(field.default)}`", key


def test_every_kind_of_study_is_shown():
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("text", BLOCKS)
def test_every_study_shown_can_be_trained_and_has_the_variants_told(text, tmp_path):
    (tmp_path / "shown.toml").write_text(text)
    study = load_study(str(tmp_path / "shown.toml"))
    refuse_untrainable(study)
    for variant in study.all_variants():
        recipe_of(variant)
        assert variant.name == "base" or variant.name in PAGE.replace(text, "").replace("\n", " "), variant.name


def test_sentences_quoted_are_those_of_the_studies():
    told = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "ablations").glob("*/table.md"))
    quoted = re.findall(r"`([^`]*\(95 %[^`]*)`", re.sub(r"\n *", " ", PAGE))
    assert quoted
    assert all(f"- {sentence}\n" in told for sentence in quoted)
