"""`model.size`: which source wins, and what a record keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from emukit.cli.models import choice_lines
from emukit.errors import RecipeError
from emukit.models.registry import NETWORKS
from emukit.recipes.load import load_recipe, sizes_of
from emukit.recipes.schema import parse_recipe

LARGE = sizes_of("transformer")["large"]


def written(folder: Path, text: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", NETWORKS.built_in)
def test_every_preset_of_every_network_is_a_valid_recipe_with_its_numbers(name: str) -> None:
    for size, options in sizes_of(name).items():
        recipe = load_recipe(name, assignments=(f"model.size={size}",))
        assert recipe.options == load_recipe(name).options | options
        assert "size" not in recipe.options


def test_a_preset_is_laid_over_the_shipped_recipe_and_under_settings_of_the_same_command() -> None:
    for words in (["model.size=large", "model.dim=256"], ["model.dim=256", "model.size=large"]):
        assert load_recipe("transformer", assignments=words).options == (
            load_recipe("transformer").options | LARGE | {"dim": 256}
        )


def test_a_preset_in_a_file_is_laid_under_the_files_own_settings(tmp_path: Path) -> None:
    file = written(tmp_path, '[model]\nsize = "large"\nheads = 8\n')
    assert load_recipe("transformer", file).options == load_recipe("transformer").options | LARGE | {"heads": 8}


def test_a_preset_of_the_command_overrides_the_files_settings(tmp_path: Path) -> None:
    file = written(tmp_path, "[model]\ndim = 48\nlinear = 5\n")
    options = load_recipe("transformer", file, ("model.size=large",)).options
    assert (options["dim"], options["linear"]) == (LARGE["dim"], 5)


def test_a_setting_of_the_command_overrides_the_files_preset(tmp_path: Path) -> None:
    file = written(tmp_path, '[model]\nsize = "large"\n')
    assert load_recipe("transformer", file, ("model.dim=256",)).options["dim"] == 256


def test_the_default_size_changes_nothing(tmp_path: Path) -> None:
    file = written(tmp_path, "[model]\ndim = 48\n")
    sized = load_recipe("transformer", file, ("model.size=default",))
    assert sized.digest == load_recipe("transformer", file).digest
    assert load_recipe("linear", assignments=("model.size=default",)).digest == load_recipe("linear").digest


def test_a_run_with_a_preset_is_the_run_with_its_numbers() -> None:
    sized = load_recipe("transformer", assignments=("model.size=large",))
    spelled = load_recipe("transformer", assignments=[f"model.{k}={v}" for k, v in LARGE.items()])
    assert sized.digest == spelled.digest
    assert parse_recipe(sized.model_dump(mode="json"), "record").digest == sized.digest


@pytest.mark.parametrize(("name", "value"), [("transformer", "huge"), ("transformer", "3"), ("linear", "large")])
def test_an_unknown_size_is_refused_with_the_known_ones(name: str, value: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(name, assignments=(f"model.size={value}",))
    assert caught.value.expected == ", ".join(sizes_of(name))


def test_sizes_are_listed_with_their_parameters() -> None:
    first = next(choice_lines("transformer"))
    assert first.startswith("model.size: default (1,577,344 parameters), large (3")
    assert not any(line.startswith("model.size") for line in choice_lines("linear"))
