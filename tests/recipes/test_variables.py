"""Recipes that say nothing of a variable of the data, or something of one that the data do not have."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from emukit.data.card import parse_card
from emukit.errors import RecipeError
from emukit.losses.registry import LOSSES, named_loss
from emukit.recipes.fitting import fit_variables
from emukit.recipes.load import load_recipe
from emukit.recipes.schema import networks_of, parse_recipe
from emukit.training.settings import LossSettings, composite_loss
from tests.coded import warming_archive
from tests.reporters import Said

# Of recipes fitted to tas and pr: what identities of finished runs hold.
DIGESTS = {
    "cnn-gru": "34a5ff8bbcbe3c856d8fbf50244011f5a7038a08358464d9388e387c3478fd36",
    "cnn-gru-published": "dc35c476d63dd2f8b288c1875bffca2955060ee54d920fc80cd6e43c2ab5bea3",
    "simple-cnn": "ba52c14a14b38d79bb853454bf0c1662fccd092d695c00323874e44905461a8e",
    "vit-published": "3bb642bb3a2fa57af4b5f5e537a38ca06bc8fd791104c73134a3f7399d5c30fe",
    "residual-correction": "48c65960d544daed9403ebe98bf823c2c017a0838dc23d41cc7f2c6515c199de",
    "best-fast": "86f872629a04f605d2f4e66910a0c0cff8d383467b1734f0d95774ca8ea8f896",
}


def archive_of(*names: str, **more: object):
    """The warming archive with its variables under other names; a third is the second again."""
    archive = warming_archive()
    tables = archive.card.model_dump()
    tables["targets"] = {v: {**tables["targets"]["pr"], "name": v, **more.get(v, {})} for v in names}  # type: ignore[dict-item]
    for table in tables["targets"].values():
        for key in ("bounds", "standard_name", "long_name", "cell_methods", "colours"):
            if key not in more.get(table["name"], {}):
                del table[key]
    rows = [min(i, 1) for i in range(len(names))]
    scenarios = {k: replace(s, targets=s.targets[:, :, rows]) for k, s in archive.items()}
    return replace(archive, card=parse_card(tables, "tests"), variables=names, scenarios=scenarios)


def fitted(name, archive, *words, said=None, loss=None):
    return fit_variables(load_recipe(name, None, words, loss), archive, said)


# What `additive-gp` did when the runs of these digests were trained.
BEFORE = ("parts=1", "sharpness=2.0", "length_scale=3.0")


@pytest.mark.parametrize("name", DIGESTS)
def test_a_run_trained_before_is_of_another_recipe(name):
    words = [f"bases.0.recipe.model.{s}" for s in BEFORE] if name == "best-fast" else []
    assert fitted(name, archive_of("tas", "pr"), *words).digest == DIGESTS[name]


def test_a_third_variable_has_no_loss_or_the_loss_of_another():
    archive = archive_of("tas", "pr", "huss")
    recipe = fitted("cnn-gru", archive)
    assert recipe.loss.tables == {
        "tas": {"mse": 1.0, "time_std": 0.5},
        "pr": {"mse": 0.5, "time_std": 0.75},
        "huss": {"mse": 1.0, "time_std": 0.5},
    }
    assert fitted("cnn-gru", archive, "loss.huss.mse=3.0").loss.of("huss") == {"mse": 3.0}
    assert fitted("cnn-gru", archive, "loss.default={l1=2.0}").loss.of("huss") == {"l1": 2.0}
    # A record keeps it for the variables of its data, and it is the same again.
    assert "default" not in recipe.model_dump()["loss"]
    assert "default" not in recipe.model_dump()["targets"]
    again = parse_recipe(recipe.model_dump(mode="json"), "a record")
    assert fit_variables(again, archive).model_dump() == recipe.model_dump()
    for loss in LOSSES:
        assert set(fitted("cnn-gru", archive, loss=loss).loss.tables) == set(archive.variables)
        assert any(LossSettings(**named_loss(loss)).default.values())


@pytest.mark.parametrize("words", [("loss.default={}",), ("loss.huss={mse=0.0}",), ("loss.default={mse=0.0}",)])
def test_an_output_without_a_loss_is_trained(words):
    archive = archive_of("tas", "pr", "huss")
    with pytest.raises(RecipeError, match="no term for huss") as caught:
        fitted("cnn-gru", archive, *words)
    assert caught.value.hint == "--set loss.huss.mse=1.0"
    with pytest.raises(RecipeError, match="no term for huss"):
        composite_loss(load_recipe("cnn-gru", None, words).loss, archive, torch.device("cpu"))


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (("loss.hus.mse=1.0",), "loss.hus"),
        (("loss.pr.l1=1.0",), "loss.pr"),
        (("targets.pr.scale=global",), "targets.pr"),
    ],
)
def test_a_setting_of_a_variable_that_is_not_there_is_ignored(words, path):
    with pytest.raises(RecipeError, match=rf"says {path}, and the data have no such variable"):
        fitted("cnn-gru", archive_of("tas"), *words)


def test_what_shipped_recipes_say_of_an_absent_variable_is_refused_or_left_out_in_silence():
    archive, said = archive_of("tas"), Said()
    assert fitted("cnn-gru", archive, said=said).loss.tables == {"tas": {"mse": 1.0, "time_std": 0.5}}
    assert said.lines == ["note: the data have no such variable: without loss.pr"]
    said = Said()
    best = fitted("best-networks", archive, said=said)
    anchored = best.bases[0].recipe
    assert set(anchored.bases[0].recipe.options["noise"]) == {"tas"}
    assert set(anchored.bases[0].recipe.bases[0].recipe.options["strength"]) == {"tas"}
    assert {line.rpartition(" ")[2] for line in said.lines} == {
        "bases.0.recipe.bases.0.recipe.model.noise.pr",
        "bases.0.recipe.bases.0.recipe.bases.0.recipe.model.strength.pr",
        "bases.0.recipe.bases.1.recipe.loss.pr",
    }
    assert fitted("best-fast", archive).options["proportional"] == ()
    # What somebody chose is not left out: the emulator itself refuses it.
    chosen = fitted("kriging", archive, "model.noise.pr=5.0")
    assert chosen.options["noise"]["pr"] == 5.0


def test_a_variable_of_its_own_settings_forgets_the_default_ones():
    recipe = fitted("cnn-gru-published", archive_of("tas", "pr"), "targets.pr.transform=log1p")
    assert recipe.targets.of("pr").model_dump() == {"transform": "log1p", "climatology": "global", "scale": "global"}
    assert recipe.targets.of("tas").model_dump() == {"transform": "none", "climatology": "global", "scale": "global"}


def test_the_card_s_transform_is_not_taken_or_taken_where_values_are_negative():
    archive = archive_of("tas", "pr", pr={"transform": "sqrt"})
    assert fitted("cnn-gru", archive).targets.of("pr").transform == "sqrt"
    assert fitted("cnn-gru", archive, "targets.pr.transform=none").targets.of("pr").transform == "none"
    # What an anchor leaves is negative half of the time.
    (residual,) = networks_of(fitted("residual-correction", archive))
    assert residual.targets.of("pr").transform == "none"
    first, second = networks_of(fitted("residual-correction", archive, "bases.0.recipe=cnn-gru"))
    assert [n.targets.of("pr").transform for n in (first, second)] == ["sqrt", "none"]
    with pytest.raises(RecipeError, match=r"targets\.tas\.transform = log1p is for what is never negative"):
        fitted("cnn-gru", archive, "targets.tas.transform=log1p")


def test_a_default_that_cannot_act_is_trained():
    with pytest.raises(RecipeError, match=r"loss\.huss\.time_std cannot act on segments of one month"):
        fitted("cnn-gru", archive_of("huss"), "loss.tas={mse=1.0}", "loss.pr={mse=1.0}", "training.segments.length=1")


def test_an_unknown_key_of_the_loss_passes_for_a_variable():
    with pytest.raises(RecipeError, match="unknown key aera_weighted"):
        load_recipe("cnn-gru", None, ["loss.aera_weighted=false"])
