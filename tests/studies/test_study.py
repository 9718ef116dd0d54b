"""Study files that ask something else than they say, or fail after hours instead of at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emukit.config import check, parse_assignments
from emukit.errors import RecipeError
from emukit.recipes.schema import networks_of
from emukit.studies.study import (
    Study,
    assignments,
    epoch_paths,
    load_study,
    recipe_of,
    seconds_of,
    study_names,
    toml_value,
)

STUDIES = {
    "anchor",
    "architecture",
    "climx-networks",
    "climx-templates",
    "estimators",
    "loss-weights",
    "members",
    "rollout-length",
    "seasonal-encoding",
    "target-transform",
    "variability",
    "window-length",
}


def study(**values):
    return check(Study, {"question": "?", "base": "linear", **values}, source="test")


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_every_variant_of_a_shipped_study_can_be_trained(name):
    found = load_study(name)
    assert found.name == name
    digests = {}
    for variant in found.all_variants():
        recipe = recipe_of(variant)
        assert (recipe.digest, variant.members) not in digests, f"{variant.name} is {digests[recipe.digest]} again"
        digests[recipe.digest, variant.members] = variant.name
        fitted = recipe_of(variant, 9)
        assert all(n.training.epochs == 9 for n in networks_of(fitted))


def test_all_shipped_studies_are_listed():
    assert set(study_names()) == STUDIES


def test_axes_are_combined_and_the_base_does_not_stand_twice():
    found = study(
        settings={"model.ridge": 30.0},
        variants=[{"name": "plain"} | {"settings": {"model.features": ["CO2"]}}],
        axes=[
            {"path": "model.ridge", "values": [1.0, 30.0]},
            {"path": "model.features", "label": "", "values": [["CO2"]]},
        ],
    )
    names = [v.name for v in found.all_variants()]
    assert names == ["base", "plain", "ridge=1 =CO2", "ridge=30 =CO2"]
    again = study(settings={"model.ridge": 30.0}, axes=[{"path": "model.ridge", "values": [1.0, 30.0]}])
    assert [v.name for v in again.all_variants()] == ["base", "ridge=1"]


def test_settings_of_the_study_are_for_its_base_alone():
    found = study(
        settings={"model.ridge": 30.0},
        variants=[{"name": "a", "settings": {"model.features": ["CO2"]}}, {"name": "b", "recipe": "climatology"}],
    )
    base, a, b = found.all_variants()
    assert base.settings == {"model.ridge": 30.0}
    assert a.settings == {"model.ridge": 30.0, "model.features": ("CO2",)}
    assert (b.recipe, b.settings) == ("climatology", {})
    assert recipe_of(a).options["ridge"] == 30.0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "has [[variants]], or [[axes]]"),
        ({"variants": [{"name": "base"}]}, "several variants are called base"),
        ({"variants": [{"name": "a"}, {"name": "a"}]}, "several variants are called a"),
        ({"variants": [{"name": "a", "setings": {}}], "sed": 1}, "sed: unknown key"),
        ({"variants": [{"name": "a", "members": [0, 0]}]}, "each once"),
        ({"variants": [{"name": "a\nb"}]}, "one line"),
        ({"settings": {"model": {"ridge": 1.0}}}, '"model.ridge" ='),
        ({"variants": [{"name": "a", "settings": {"training. epochs": 7}}]}, "not a dotted path"),
        ({"axes": [{"path": "model.ridge ", "values": [1]}]}, "not a dotted path"),
        ({"name": ".x", "variants": [{"name": "a"}]}, "no dot first"),
        ({"axes": [{"path": "a", "values": ["\x00"]}]}, "one line"),
        ({"axes": [{"path": "a", "values": []}]}, "axes.0.values"),
        ({"axes": [{"path": "a", "values": [*range(15)]}, {"path": "b", "values": [*range(15)]}]}, "225 variants"),
        ({"variants": [{"name": "a"}], "budget": "soon"}, "not a time"),
        ({"variants": [{"name": "a"}], "name": "../escape"}, "name"),
        ({"variants": [{"name": "a"}], "seeds": 0}, "seeds"),
    ],
)
def test_mistakes_in_a_study_are_told(values, said):
    with pytest.raises(RecipeError) as error:
        study(**values)
    assert said in error.value.text()


def test_a_wrong_setting_names_its_variant():
    found = study(variants=[{"name": "steep", "settings": {"model.slope": 1.0}}])
    with pytest.raises(RecipeError, match="variant 'steep'"):
        recipe_of(found.all_variants()[1])


def test_unknown_study_is_no_file():
    with pytest.raises(RecipeError, match="there is no study 'loss-weight'"):
        load_study("loss-weight")


def test_epochs_reach_every_network_in_a_wrapper():
    found = load_study("variability")
    matched = next(v for v in found.all_variants() if v.recipe == "variance-matched")
    assert epoch_paths(recipe_of(matched)) == ["bases.0.recipe.training.epochs"]
    nested = study(base="ensemble", variants=[{"name": "a", "settings": {"bases.0.copies": 2}}])
    assert [n.training.epochs for n in networks_of(recipe_of(nested.all_variants()[1], 3))] == [3, 3]
    assert assignments(study(variants=[{"name": "a"}]).all_variants()[1], 3) == []


def test_a_study_is_the_same_as_long_as_it_compares_the_same():
    variants = [{"name": "a", "settings": {"model.ridge": 1.0}}]
    first = study(variants=variants)
    assert study(variants=variants, question="!", seeds=7, protocols="k360").digest == first.digest
    # A variant is compared with the base alone, so that another one makes no other study.
    assert study(variants=[{"name": "a", "settings": {"model.ridge": 2.0}}]).digest == first.digest
    assert study(variants=variants, match="cost").digest != first.digest
    assert study(variants=variants, settings={"model.ridge": 2.0}).digest != first.digest
    assert study(variants=variants, base_members=[0]).digest != first.digest


PLAIN = st.one_of(
    st.booleans(), st.integers(-(10**9), 10**9), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=8)
)


@given(
    st.recursive(
        PLAIN,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(st.text(min_size=1, max_size=5), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_a_value_comes_back_from_its_word(value):
    assert parse_assignments([f"a.b={toml_value(value)}"]) == {"a": {"b": value}}


def test_times():
    assert [seconds_of(t) for t in ("90s", "30m", "1.5h", "2d")] == [90, 1800, 5400, 172800]
    for wrong in ("", "30", "0m", "-1h", "1y"):
        with pytest.raises(ValueError, match="is not a time"):
            seconds_of(wrong)


@pytest.mark.parametrize("name", ["", ".", "..", "runs", "a/b", "b c", "x" * 101])
def test_a_name_that_is_no_folder_of_its_own_is_refused(name):
    with pytest.raises(RecipeError, match="name"):
        check(Study, {"name": name, "question": "?", "base": "linear", "variants": [{"name": "a"}]}, source="test")


def test_a_setting_varied_by_two_axes_is_refused():
    axes = [{"path": "model.ridge", "values": [1.0, 2.0]}, {"path": "model.ridge", "values": [3.0]}]
    with pytest.raises(RecipeError, match="same path"):
        check(Study, {"name": "s", "question": "?", "base": "linear", "axes": axes}, source="test")
