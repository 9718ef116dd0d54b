"""Recipes whose mistakes end in a traceback, or in an answer that does not name what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from emukit.errors import RecipeError
from emukit.experiments.recipe import load_recipe, recipe_names


@pytest.mark.parametrize("table", ["loss", "model", "training", "inputs", "targets"])
def test_a_table_that_is_a_number_is_refused(table: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(f"{table} = 3\n")
    with pytest.raises(RecipeError, match=table):
        load_recipe("cnn-gru", path)


@pytest.mark.parametrize(("name", "meant"), [("unet-publishd", "unet-published"), ("CNN-GRU", "cnn-gru")])
def test_an_unknown_name_is_answered_with_all_there_are_and_the_closest(name: str, meant: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name)
    assert caught.value.expected.split(", ") == list(recipe_names())
    assert {"unet-published", "vit-published", "linear", "transformer"} <= set(recipe_names())
    assert caught.value.hint.startswith(f"did you mean {meant}?")
