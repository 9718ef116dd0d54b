"""Recipes whose mistakes end in a traceback, or in an answer that does not name what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from emukit.errors import RecipeError
from emukit.recipes.catalogue import recipe_names
from emukit.recipes.load import load_recipe
from emukit.recipes.schema import NetworkRecipe


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


def test_a_setting_cannot_make_a_recipe_another_emulators() -> None:
    with pytest.raises(RecipeError, match="another emulator") as caught:
        load_recipe("cnn-gru", assignments=("emulator=unet",))
    assert caught.value.hint == "emukit train unet"
    assert load_recipe("cnn-gru", assignments=("emulator=cnn-gru",)).emulator == "cnn-gru"


@pytest.mark.parametrize(
    ("words", "tas"),
    [
        (("loss.tas={l1=1.0}",), {"l1"}),
        (("loss.tas.l1=1.0",), {"mse", "time_std", "l1"}),
        (("loss={tas={l1=1.0}}",), {"l1"}),
        (("loss.tas={l1=1.0}", "loss.pr.dice=2.0"), {"l1"}),
    ],
)
def test_a_whole_loss_table_replaces_the_recipe_s(words: tuple[str, ...], tas: set[str]) -> None:
    recipe = load_recipe("cnn-gru", assignments=words)
    assert isinstance(recipe, NetworkRecipe)
    assert {name for name, weight in recipe.loss.tas.items() if weight} == tas
    assert {"mse", "time_std"} <= {name for name, weight in recipe.loss.pr.items() if weight}
