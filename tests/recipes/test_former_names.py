"""Recipes, runs and saved emulators of earlier versions that a renaming would refuse, or read as another recipe."""

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.features import ForcingSpace
from emukit.emulators.registry import build_emulator
from emukit.emulators.residual_correction import Decay, ResidualCorrection
from emukit.emulators.sampled import Sampled
from emukit.errors import RecipeError
from emukit.recipes.catalogue import is_random, model_name, recipe_digest
from emukit.recipes.downscale import load_downscale
from emukit.recipes.load import load_recipe
from emukit.recipes.schema import parse_recipe
from tests.coded import warming_archive

# Written by the last version that had the earlier names.
LENGTH_SCALE_OF_TWO = "dd54dfdc215db5a6557d1c7463bc379105367193ab666901fb6b5a6f7a97ab44"
BEST_NETWORKS = "b119c49336ef4bba857320df09ccb76d4db31cc43e7a9c71b36adb0a0b22eaae"
# By the last version whose interpolant had no option `gaussian`.
INTERPOLANT_OF_DIT = "be0bf280e0a07b03a87db2e092b45d617aa14cf97937aa8df54cd5a68266c5fc"
INTERPOLANT_OF_DOWNSCALE = "94f9b2a9b5758b2180d292cb623adf6f70e3648da018ad87b66a197d78421c68"
# By the last version whose hybrid had no option `relaxation`.
HYBRID = "febee693e09f355d0558ebe9a781e5e11299e7b76b4771c25e2e5cbbc472c399"
ADDITIVE_GP_OF_FIVE = "df87c0339270ddd5243454223f1bb8179c5f7fac9d826b6b4cbd74efe117e9e9"


@pytest.mark.parametrize("name", ["anchored", "residual-correction"])
@pytest.mark.parametrize("option", ["reach", "length_scale"])
def test_either_name_on_the_command_line_is_the_same_recipe(name, option):
    recipe = load_recipe(name, None, (f"model.{option}=2.0",))
    assert (recipe.emulator, recipe.options["length_scale"]) == ("residual-correction", 2.0)
    assert recipe.digest == LENGTH_SCALE_OF_TWO


@pytest.mark.parametrize("option", ["reach", "length_scale"])
def test_options_of_bases_have_either_name(option):
    assert load_recipe("best-networks").digest == BEST_NETWORKS
    assert load_recipe("best-networks", None, (f"bases.0.recipe.model.{option}=1.0",)).digest == BEST_NETWORKS
    other = load_recipe("best-networks", None, (f"bases.0.recipe.model.{option}=3.0",))
    assert other.bases[0].recipe.options["length_scale"] == 3.0
    settings = (f"model.{option}=5.0", "model.parts=1", "model.sharpness=2.0")
    assert load_recipe("additive-gp", None, settings).digest == ADDITIVE_GP_OF_FIVE


def test_a_hybrid_of_before_states_were_drawn_back_is_the_same_recipe():
    assert load_recipe("hybrid", None, ("model.relaxation=0.0",)).digest == HYBRID
    assert load_recipe("hybrid").digest != HYBRID


def test_recipe_files_of_earlier_versions_are_read(tmp_path):
    old = tmp_path / "old.toml"
    for text, mine in (
        ('emulator = "anchored"\n[model]\nreach = 2.0\n', str(old)),
        ('base = "anchored"\n[model]\nreach = 2.0\n', str(old)),
    ):
        old.write_text(text)
        assert load_recipe(mine).digest == LENGTH_SCALE_OF_TWO
    old.write_text('emulator = "anchored"\n[model]\nreach = 2.0\n')
    assert load_recipe("residual-correction", old).digest == LENGTH_SCALE_OF_TWO
    old.write_text('emulator = "sampled"\n[[bases]]\n[bases.recipe]\nemulator = "anchored"\nmodel = { reach = 2.0 }\n')
    (base,) = load_recipe(str(old)).bases
    assert base.recipe.digest == LENGTH_SCALE_OF_TWO


def old_record():
    """The plain recipe as the last version with the earlier names wrote it into run.json."""
    values = load_recipe("residual-correction", None, ("model.length_scale=2.0",)).model_dump(mode="json")
    model = {("reach" if k == "length_scale" else k): v for k, v in values["model"].items()}
    return {**values, "emulator": "anchored", "model": model}


def test_a_record_of_an_earlier_version_keeps_its_digest():
    values = old_record()
    assert recipe_digest(values) == LENGTH_SCALE_OF_TWO
    assert parse_recipe(values, "a record").digest == LENGTH_SCALE_OF_TWO
    assert is_random(values)
    assert model_name("emukit train anchored --data demo", "anchored") == "residual-correction"
    assert model_name("emukit train mine.toml", "anchored") == "residual-correction"
    inner = {"emulator": "variance-matched", "bases": [{"recipe": values, "copies": 1}], "model": {}}
    assert parse_recipe(inner, "a record").bases[0].recipe.digest == LENGTH_SCALE_OF_TWO
    new = {**inner, "bases": [{"recipe": parse_recipe(values, "a record").model_dump(mode="json"), "copies": 1}]}
    assert recipe_digest(new) == recipe_digest(inner)


@pytest.mark.parametrize(("name", "path"), [("dit", "objective"), ("atlas", "predictor.objective")])
def test_a_record_with_an_interpolant_of_an_earlier_version_keeps_its_digest(name, path):
    """A run of before there was `gaussian` would be refused when it is resumed, and trained again by its study."""
    recipe = load_recipe(name, None, (f"{path}.name=interpolant",))
    values = recipe.model_dump(mode="json")
    table = values["predictor"]["objective"] if name == "atlas" else values["objective"]
    assert (table["name"], "gaussian" in table) == ("interpolant", False)
    assert parse_recipe(values, "a record").digest == recipe.digest
    assert name != "dit" or recipe.digest == INTERPOLANT_OF_DIT
    other = load_recipe(name, None, (f"{path}.name=interpolant", f"{path}.gaussian=true"))
    assert parse_recipe(other.model_dump(mode="json"), "a record").digest == other.digest != recipe.digest


def test_a_downscaling_recipe_with_an_interpolant_of_an_earlier_version_keeps_its_digest():
    before = ("conditions.context=0", "conditions.root=sqrt", "conditions.calibrate=false")
    assert load_downscale(None, before, "interpolant").digest == INTERPOLANT_OF_DOWNSCALE
    later = load_downscale(None, (*before, "objective.gaussian=true"), "interpolant")
    assert later.objective.options["gaussian"]
    assert later.digest != INTERPOLANT_OF_DOWNSCALE


def test_a_name_that_never_was_is_still_refused():
    for words in (("model.reach=2.0",), ("model.lengthscale=2.0",)):
        with pytest.raises(RecipeError, match=words[0].partition("=")[0]):
            load_recipe("kriging", None, words)


def as_before(values, names):
    """State with its keys, at any depth, as an earlier version called them."""
    if not isinstance(values, dict):
        return values
    return {names.get(k.rpartition("/")[2], k): as_before(v, names) for k, v in values.items()}


def test_a_saved_residual_correction_of_an_earlier_version_predicts_the_same_bits():
    archive = warming_archive()
    split = make_split(archive, "k360")
    base = ClimatologyEmulator.fit(archive, split)
    other = ClimatologyEmulator(archive.domain, np.full((12, 2, *archive.grid.shape), 3.0, np.float32))
    factor = np.random.default_rng(0).random((12, 2, *archive.grid.shape), np.float32)
    decay = Decay(ForcingSpace.fit(archive, split.train, ("CO2", "SO2")), 0.7)
    emulator = ResidualCorrection(archive.domain, (base, other), factor, decay, {"ssp126": 1.0})
    meta, arrays = emulator.state()
    old_meta = as_before(meta, {"length_scale": "reach"})
    old_arrays = as_before(arrays, {"shrinkage": "share"})
    assert old_meta != meta
    assert old_arrays.keys() != arrays.keys()
    loaded = build_emulator("anchored", archive.domain, old_meta, old_arrays)
    assert loaded.kind == "residual-correction"
    scenario = archive["ssp245"]
    np.testing.assert_array_equal(loaded.predict_fields(scenario, 0, 60), emulator.predict_fields(scenario, 0, 60))


def test_saved_patterns_of_an_earlier_version_give_the_same_realisations():
    archive = warming_archive()
    split = make_split(archive, "k360")
    base = ClimatologyEmulator.fit(archive, split)
    emulator = Sampled.fit(archive, split, (base,), (), weather="eof", modes=3, smooth=1)
    meta, arrays = emulator.state()
    names = {
        "amplitude": "strength",
        "propagator": "memory",
        "innovation": "fresh",
        "local_autocorrelation": "local_memory",
    }
    old = as_before(arrays, names)
    assert {*names.values()} <= old.keys()
    loaded = build_emulator("sampled", archive.domain, meta, old)
    scenario = archive["ssp245"]
    np.testing.assert_array_equal(loaded.predict_fields(scenario, 0, 60), emulator.predict_fields(scenario, 0, 60))
