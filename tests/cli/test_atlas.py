"""A generator that only Python can train, options that do not reach its networks, scores of one realisation alone."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from emukit.cli.models import generator_size
from emukit.recipes.load import load_recipe
from emukit.recipes.schema import GeneratorRecipe
from emukit.runs.run import read_run
from tests import forks

# Of the transformer and the convolutions of the shipped recipe, on 48 x 72 cells.
PARAMETERS = 453_488

SMALL = (
    "--set=base=linear",
    "--set=predictor.model.patch_rows=1",
    "--set=predictor.model.patch_columns=1",
    "--set=predictor.model.dim=8",
    "--set=predictor.model.heads=1",
    "--set=predictor.model.blocks=1",
    "--set=predictor.training.epochs=1",
    "--set=projector.model.width=2",
    "--set=projector.training.epochs=1",
)


def test_commands_of_a_generator(emukit, demo_store):
    answer = emukit(
        "train", "atlas", "-q", "--objective", "crps", "--set=predictor.objective.noise=2", "--precision", "bf16",
        *SMALL, "--data", demo_store, "--out", "runs/atlas",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    recipe = read_run(Path("runs/atlas")).recipe
    assert (recipe.predictor.training.precision, recipe.projector.training.precision) == ("bf16", "bf16")
    assert recipe.predictor.objective.options["noise"] == 2
    words = ("predict", "runs/atlas", "--scenario", "ssp245", "--data", demo_store)
    assert emukit(*words, "--members", "2", "--out", "many.nc").code == 0
    with xr.open_dataset("many.nc") as many:
        assert dict(many.tas.sizes) == {"member": 2, "time": 1021, "y": 8, "x": 12}
        assert float(abs(many.tas[1] - many.tas[0]).mean()) > 0.1
        assert float(many.pr.min()) >= 0
        assert np.isfinite(many.tas).all()


@pytest.mark.slow
def test_two_processes_say_another_score_of_realisations_or_both_say_it(emukit, demo_store, tmp_path):
    words = ("train", "atlas", "--set=base=linear", "-q", "--data", demo_store, "--out", "drawn")
    assert emukit(*words).code == 0
    words = ("evaluate", "drawn", "--members", "7", "--format", "json", "-q")
    alone = json.loads(emukit(*words).out)
    first, second = forks.start_together(tmp_path, 2, *words, "--devices", "2")
    assert (first.wait(), second.wait()) == (0, 0), first.err.read_text() + second.err.read_text()
    assert second.out.read_text() == ""
    told = json.loads(first.out.read_text())
    assert told["score"] == alone["score"]
    assert told["ensemble"]["realisations"] == 7
    for variable in ("tas", "pr"):
        one, two = (found["ensemble"]["ensemble"][variable] for found in (alone, told))
        for name in ("crps", "spread_over_error", "ranks"):
            assert two[name] == pytest.approx(one[name], rel=1e-12)
    kept = json.loads((tmp_path / "drawn" / "ensembles" / "validation.json").read_text())
    assert kept == told["ensemble"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--devices", "2"), "trains no network as it is: --devices would do nothing"),
        (("--devices", "2", "--objective", "crps"), "trains its networks in one process: --devices would do nothing"),
        (("--precision", "bf16"), "trains no network as it is: --precision would do nothing"),
        (("--objective", "regression"), "draws nothing: crps, interpolant or diffusion"),
        (("--objective", "crsp"), "unknown objective 'crsp'; known: regression, crps"),
        (("--set", "model.block=5"), "one of 2, 4"),
        (("--loss", "l1"), "no loss"),
    ],
)
def test_options_that_a_generator_cannot_take_are_refused(emukit, demo_store, words, said):
    answer = emukit("train", "atlas", *words, "--data", demo_store, "--out", "runs/none")
    assert answer.code == 2
    assert said in " ".join(answer.err.split())


def test_list_of_models_counts_the_networks_of_a_generator(emukit):
    answer = emukit("models", "--format", "csv")
    (line,) = (x for x in answer.out.splitlines() if x.startswith("atlas,"))
    assert "closed form" in line
    Path("mine.toml").write_text('base = "atlas"\n[model]\nlearned = true\n')
    recipe = load_recipe("mine.toml")
    assert isinstance(recipe, GeneratorRecipe)
    assert generator_size(recipe) == PARAMETERS
    assert emukit("plan", "atlas", "--data", "demo").code == 2
