"""Options that do nothing and are taken all the same; or recipes that worked and are refused."""

import inspect

import pytest

from emukit.data.protocol import make_split
from emukit.emulators.registry import EMULATORS
from emukit.errors import RecipeError
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.recipes.catalogue import recipe_digest, recipe_names
from emukit.recipes.load import load_recipe
from emukit.recipes.schema import WrapperRecipe
from emukit.runs.fit import prepare
from emukit.runs.run import read_run, train_run
from emukit.training.engine import Execution
from tests.coded import warming_archive

QUIET = Reporter(quiet=True)
IDLE = [
    ("linear", ["warming_ridge=3.0"], "model.warming names no series"),
    ("linear", ["season=month", "harmonics=3"], "every calendar month is fitted alone"),
    ("residual-correction", ["forcings=['CO2']"], "no distance is measured"),
    ("sampled", ["weather=eof", "years=7"], "weather is made from patterns"),
    ("sampled", ["weather=eof", "similar=0.5"], "weather is made from patterns"),
    ("sampled", ["modes=20"], "weather comes in blocks"),
    ("random-forest", ["detrend=none", "ridge=2.0"], "there is no line"),
    ("gaussian-process", ["detrend=none", "ridge=2.0"], "there is no line"),
]


@pytest.fixture(scope="module")
def archive():
    return warming_archive()


def prepared(archive, recipe):
    return prepare(archive, recipe, make_split(archive, "k360"), 0, Comm(), Execution())


@pytest.mark.parametrize(("name", "words", "why"), IDLE)
def test_option_without_effect_is_refused_before_anything_is_trained(archive, name, words, why, tmp_path):
    recipe = load_recipe(name, assignments=[f"model.{w}" for w in words])
    with pytest.raises(RecipeError, match="would do nothing") as caught:
        prepared(archive, recipe)
    error, option = caught.value, words[-1].split("=")[0]
    assert error.what.startswith(f"model.{option} ")
    assert why in error.found
    assert words[-1].split("=")[1].strip("[]") in error.found
    assert repr(inspect.signature(EMULATORS[name].load().fit).parameters[option].default) in error.expected
    assert error.hint.startswith("leave it out, or ")


@pytest.mark.parametrize(("name", "words", "why"), IDLE)
def test_option_at_its_default_is_let_by(archive, name, words, why):
    option = words[-1].split("=")[0]
    default = inspect.signature(EMULATORS[name].load().fit).parameters[option].default
    recipe = load_recipe(name, assignments=[f"model.{w}" for w in words[:-1]])
    assert recipe.options[option] == default
    kind = EMULATORS[name].load()
    if isinstance(recipe, WrapperRecipe):
        kind.check(archive, **recipe.options)
    else:
        features = {} if name == "linear" else {"components": 3}
        kind.fit(archive, make_split(archive, "k360"), **{**recipe.options, "features": ("CO2",), **features})


def test_no_shipped_recipe_holds_an_option_without_effect(archive):
    def wrappers(recipe):
        if isinstance(recipe, WrapperRecipe):
            yield recipe
            for base in recipe.bases:
                yield from wrappers(base.recipe)

    found = [recipe for name in recipe_names() for recipe in wrappers(load_recipe(name))]
    assert len(found) > 5
    # Of a downscaler that is not named yet there is nothing to check.
    for recipe in (r for r in found if r.emulator != "downscaled"):
        # Blocks of four cells do not divide this grid.
        options = recipe.options | ({"block": 2} if recipe.emulator == "atlas" else {})
        EMULATORS[recipe.emulator].load().check(archive, **options)


def test_run_folder_from_before_is_read(archive, tmp_path):
    run, _ = train_run(archive, load_recipe("linear"), tmp_path / "run", protocol="k360", reporter=QUIET)
    old = run.recipe.model_dump(mode="json")
    old["model"]["warming_ridge"] = 3.0
    identity = run.record.identity.model_copy(update={"recipe": recipe_digest(old)})
    record = run.record.model_copy(update={"recipe": old, "identity": identity})
    record.write(tmp_path / "run")
    again = read_run(tmp_path / "run")
    assert again.recipe.options == {**run.recipe.options, "warming_ridge": 3.0}
    assert again.emulator(archive).kind == "linear"
