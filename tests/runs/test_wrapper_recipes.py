"""A recipe of emulators made of others that trains something else than it says."""

from __future__ import annotations

from functools import wraps
from pathlib import Path

import numpy as np
import pytest
import torch

from emukit.data.protocol import make_split
from emukit.data.split import Split, leave_out
from emukit.emulators.residual_correction import ResidualCorrection
from emukit.errors import ProtocolError, RecipeError
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.recipes.catalogue import is_random
from emukit.recipes.load import load_recipe
from emukit.recipes.schema import NetworkRecipe, WrapperRecipe, networks_of, parse_recipe
from emukit.runs.fit import prepare
from emukit.runs.run import read_run, train_run
from emukit.training.engine import Execution
from tests.coded import warming_archive


def test_a_base_is_the_shipped_recipe_of_its_name_with_its_own_keys_on_top() -> None:
    recipe = load_recipe("residual-correction")
    assert isinstance(recipe, WrapperRecipe)
    assert recipe.bases[0].recipe.digest == load_recipe("linear").digest
    network = recipe.bases[1].recipe
    plain = load_recipe("cnn-gru")
    assert isinstance(network, NetworkRecipe)
    assert isinstance(plain, NetworkRecipe)
    assert network.targets == plain.targets
    assert network.training.optimizer == plain.training.optimizer
    assert network.loss.tas["mse"] == 1.0
    assert not network.loss.tas.get("time_std")  # a loss table is replaced, not mixed
    assert plain.loss.tas["time_std"] == 0.5
    assert network.training.segments.members == "mean"
    assert networks_of(recipe) == [network]


def test_single_settings_reach_the_base_they_name() -> None:
    words = ("bases.0.recipe=climatology", "bases.1.recipe.training.epochs=2", "bases.1.copies=3", "model.years=7")
    recipe = load_recipe("residual-correction", assignments=words)
    assert isinstance(recipe, WrapperRecipe)
    assert recipe.bases[0].recipe.emulator == "climatology"
    assert [(r.emulator, copy) for r, copy in recipe.parts] == [
        ("climatology", 0),
        ("cnn-gru", 0),
        ("cnn-gru", 1),
        ("cnn-gru", 2),
    ]
    assert networks_of(recipe)[0].training.epochs == 2
    assert recipe.options["years"] == 7


def test_single_settings_reach_the_bases_of_a_base() -> None:
    words = ("bases.0.recipe.bases.1.copies=2", "bases.0.recipe.bases.1.recipe.training.epochs=4")
    inner = load_recipe("best-networks", assignments=words).bases[0].recipe
    assert [(b.recipe.emulator, b.copies) for b in inner.bases] == [("kriging", 1), ("cnn-gru", 2)]
    assert inner.bases[1].recipe.training.epochs == 4
    assert (
        inner.options["length_scale"] == load_recipe("best-networks").bases[0].recipe.options["length_scale"]
    )  # nothing else changed
    # Through a base that is only named, too.
    deeper = load_recipe("best-fast", assignments=("bases.0.recipe.bases.0.recipe=linear",)).bases[0].recipe
    assert deeper.emulator == "additive-gp"
    assert deeper.bases[0].recipe.digest == load_recipe("linear").digest


def test_a_recorded_recipe_is_read_as_it_was(tmp_path: Path) -> None:
    recipe = load_recipe("residual-correction", assignments=("bases.1.recipe.loss.tas={l1=2.0}",))
    again = parse_recipe(recipe.model_dump(mode="json"), "the record")
    assert again.digest == recipe.digest
    assert again.digest != load_recipe("residual-correction").digest
    assert networks_of(again)[0].loss.tas == networks_of(recipe)[0].loss.tas


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("bases.2.recipe=linear",), "no base 2"),
        (("bases.x.recipe=linear",), "no base x"),
        (("bases=linear",), "no base 'linear'"),
        (("bases.0=linear",), "bases.0 to what is not a table"),
        (("bases.0.recipe=3",), "names no emulator"),
        (("bases.0.recipe=nothing",), "unknown emulator 'nothing'"),
        (("bases.0.copies=0",), "wrong setting"),
        (("bases.1.copies=1000000000",), "wrong setting"),
        (("bases.².copies=1",), "no base ²"),
        (("bases.1.recipe=linear",), "every other is a network"),
        (("bases.0.recipe=best-fast",), "variance-matched varies as a run does"),
        (("bases.1.recipe.targets.pr.transform=log1p",), "must take what is negative"),
        (("bases.0.recipe.bases.0.copies=2",), "bases.0 has no bases of its own"),
        (("bases.0.copy=2",), "wrong setting"),
        (("bases.1.recipe.training.epoch=2",), "wrong setting"),
        (("training.epochs=2",), "wrong setting"),
    ],
)
def test_a_base_that_is_none_is_refused(words: tuple[str, ...], match: str) -> None:
    with pytest.raises(RecipeError, match=match):
        load_recipe("residual-correction", assignments=words)


@pytest.mark.parametrize("bases", [{}, {"bases": "linear"}, {"bases": []}, {"bases": [{"copies": 2}]}])
def test_a_wrapper_of_nothing_is_refused(bases: dict[str, object]) -> None:
    with pytest.raises(RecipeError, match=r"what residual-correction wraps|wrong setting"):
        parse_recipe({"emulator": "residual-correction", **bases}, "here")


def test_recipe_that_wraps_itself_without_end_is_refused() -> None:
    recipe: dict[str, object] = {"emulator": "linear"}
    for _ in range(400):
        recipe = {"emulator": "ensemble", "bases": [{"recipe": recipe}]}
    with pytest.raises(RecipeError, match="without end"):
        parse_recipe(recipe, "here")


def test_anchor_without_a_network_is_refused() -> None:
    with pytest.raises(RecipeError, match="2 bases or more, not 1"):
        parse_recipe({"emulator": "residual-correction", "bases": [{"recipe": {"emulator": "linear"}}]}, "here")


@pytest.mark.parametrize(
    ("name", "words", "protocol", "match"),
    [
        ("best-networks", ("bases.0.recipe.model.length_scale=-1.0",), "k360", "length_scale is out of range"),
        ("best-networks", ("bases.0.recipe.bases.0.recipe.model.length=-1.0",), "k360", "length is out of range"),
        ("sampled", ("model.years=100",), "k360", "no block of 100 years"),
        ("sampled", ("model.alike=['step:9999:20']",), "k360", "no training block differs"),
        ("residual-correction", (), "one", "there is only one"),
    ],
)
def test_what_a_wrapper_refuses_is_refused_before_its_bases_are_trained(
    tmp_path: Path, name: str, words: tuple[str, ...], protocol: str, match: str
) -> None:
    archive = warming_archive()
    recipe = load_recipe(name, assignments=words)
    split = make_split(archive, "k360")
    if protocol == "one":
        split = Split("one", split.train[:1], split.scored)
    with pytest.raises((RecipeError, ProtocolError), match=match):
        prepare(archive, recipe, split, 0, Comm(), Execution())
    if protocol == "k360":
        with pytest.raises((RecipeError, ProtocolError), match=match):
            train_run(archive, recipe, tmp_path / "run", protocol=protocol, reporter=Reporter(quiet=True))
        assert not (tmp_path / "run").exists()  # so that the corrected command finds its folder free


SMALL = (
    "bases.0.recipe.model.features=['CO2', 'SO2']",
    "bases.1.recipe.model.width=4",
    "bases.1.recipe.model.stages=1",
    "bases.1.recipe.model.hidden=8",
    "bases.1.recipe.model.features=6",
    "bases.1.recipe.model.pool_rows=2",
    "bases.1.recipe.model.pool_columns=3",
    "bases.1.recipe.inputs.forcings=['CO2', 'SO2']",
    "bases.1.recipe.training.epochs=2",
    "bases.1.recipe.training.segments.length=12",
    "bases.1.recipe.training.optimizer.warmup_steps=2",
)


def test_folds_hold_the_months_that_their_own_bases_were_trained_on(tmp_path: Path, monkeypatch) -> None:
    archive, seen = warming_archive(), []
    fit = ResidualCorrection.fit.__func__

    @wraps(fit)
    def watched(cls, a, s, b, folds, **o):
        seen.extend(folds)
        return fit(cls, a, s, b, folds, **o)

    monkeypatch.setattr(ResidualCorrection, "fit", classmethod(watched))
    train_run(
        archive,
        load_recipe("residual-correction", assignments=SMALL),
        tmp_path / "r",
        protocol="k360",
        reporter=Reporter(quiet=True),
    )
    split = make_split(archive, "k360")
    assert [f.held_out[0].scenario for f in seen] == ["ssp126", "ssp370", "ssp585"]
    for fold in seen:
        name = fold.held_out[0].scenario
        assert fold.train == leave_out(archive, split, name).train
        assert name not in {s.scenario for s in fold.train}


def test_seed_of_a_run_grows_another_forest(tmp_path: Path) -> None:
    archive, recipe = warming_archive(), load_recipe("random-forest", assignments=("model.trees=5",))
    assert is_random(recipe.model_dump())
    fields = []
    for seed in (0, 1, 0):
        made, _ = prepare(archive, recipe, make_split(archive, "k360"), seed, Comm(), Execution())(
            tmp_path, Reporter(quiet=True)
        )
        fields.append(made.predict_fields(archive["ssp245"], 0, 24))
    assert (fields[0] == fields[2]).all()
    assert (fields[0] != fields[1]).any()


def test_nothing_that_is_scored_changes_what_is_fitted(tmp_path: Path) -> None:
    """With scrambled validation and test targets other checkpoints are chosen: the last of each network is compared."""
    saved = []
    for scramble in (False, True):
        archive = warming_archive()
        split = make_split(archive, "k360")
        rng = np.random.default_rng(1)
        for span in (s for spans in split.scored.values() for s in spans if scramble):
            targets = archive[span.scenario].targets
            assert targets is not None
            targets[:, span.start : span.stop] = rng.normal(0, 50, targets[:, span.start : span.stop].shape)
        folder = tmp_path / f"{scramble}"
        recipe = load_recipe("residual-correction", assignments=SMALL)
        train_run(archive, recipe, folder, protocol="k360", reporter=Reporter(quiet=True))
        assert read_run(folder).record.state == "finished"
        paths = sorted(folder.glob("*/1-cnn-gru/last.pt"))
        assert [p.parts[-3] for p in paths] == ["bases", "without-ssp126", "without-ssp370", "without-ssp585"]
        saved.append([torch.load(p)["tensors"] for p in paths])
    for before, after in zip(*saved, strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=0)
