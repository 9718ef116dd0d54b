"""Stores of other variables than the competition's that are refused, trained on chance, or drawn as something else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr

from emukit.data.protocol import make_split
from emukit.data.split import Span
from emukit.emulators.linear import LinearEmulator
from emukit.errors import RecipeError
from emukit.figures.maps import draw_maps
from emukit.progress import silent_reporter
from emukit.recipes.load import load_recipe
from emukit.report.plot_data import collect, error_rows
from emukit.report.variability import compare_variability
from emukit.runs.run import read_run, train_run
from tests.cli.conftest import TINY, emukit  # noqa: F401
from tests.climates import climate_of

CARDS = (("tas",), ("tas", "pr", "huss"))
TINY_WORDS = [word.removeprefix("--set=") for word in TINY]
QUICK = ["training.epochs=1", "training.segments.length=60", "inputs.window.history=3"]


@pytest.fixture(scope="module", params=CARDS, ids="-".join)
def climate(request, demo_store, tmp_path_factory):
    return climate_of(demo_store, tmp_path_factory.mktemp("other"), request.param)


@pytest.fixture(scope="module")
def archive(climate):
    return climate.open()


@pytest.mark.parametrize("name", ["linear", "best-fast", "variance-matched"])
def test_a_shipped_recipe_is_refused_or_leaves_the_bounds(archive, name, tmp_path):
    run, evaluation = train_run(archive, load_recipe(name), tmp_path / "run", reporter=silent_reporter())
    assert evaluation is not None
    # Ten warmer years are known better than by their climatology.
    floor = evaluation.references["climatology"]
    for v in {"tas", "huss"} & set(archive.variables):
        assert evaluation.score[f"{v}.time_mean_rmse"] < floor[f"{v}.time_mean_rmse"]
    emulator = run.emulator(archive)
    fields = emulator.predict_fields(archive["ssp585"], 0, 120)
    for v, variable in enumerate(archive.domain.described):
        assert variable.bounds.lower is None or fields[:, v].min() >= variable.bounds.lower


def test_a_network_has_a_head_without_a_loss(archive, tmp_path):
    recipe = load_recipe("cnn-gru", None, [*TINY_WORDS, *QUICK, "training.epochs=2"])
    folder = tmp_path / "run"
    _, evaluation = train_run(archive, recipe, folder, reporter=silent_reporter())
    assert evaluation is not None
    kept = read_run(folder).recipe
    assert set(kept.loss.tables) == set(archive.variables)
    if "huss" in archive.variables:
        assert kept.loss.of("huss") == {"mse": 1.0, "time_std": 0.5}
        assert kept.loss.of("pr") == {"mse": 0.5, "time_std": 0.75}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for v in archive.variables:
        first, last = (line[f"{v}.mse"] for line in (lines[0], lines[-1]))
        assert last < first


def test_realisations_need_the_competition_s_variables(archive, tmp_path):
    run, _ = train_run(archive, load_recipe("sampled"), tmp_path / "run", reporter=silent_reporter())
    emulator = run.emulator(archive)
    one, other = (emulator.member(n).predict_fields(archive["ssp585"], 360, 480) for n in (0, 1))
    members = archive["ssp585"].targets[:, 360:480]
    for v, variable in enumerate(archive.domain.described):
        assert not np.array_equal(one[:, v], other[:, v])
        assert variable.bounds.lower is None or one[:, v].min() >= 0
        apart = (one[:, v] - other[:, v]).std() / (members[0, :, v] - members[1, :, v]).std()
        assert 0.7 < apart < 1.4


def test_a_command_of_the_whole_way_needs_the_competition_s_variables(emukit, climate, tmp_path):  # noqa: F811
    """Every variable has its numbers and its units, from the check to the file."""
    variables = climate.open().variables
    answer = emukit("data", "check", climate.store, "--card", climate.card)
    assert answer.code == 0
    assert "usable" in answer.out
    for words in (("linear",), ("cnn-gru", *TINY, *(f"--set={word}" for word in QUICK))):
        answer = emukit("train", *words, *climate.words, "--out", words[0])
        assert answer.code == 0, answer.err
        numbers = json.loads((tmp_path / words[0] / "scores" / "validation.json").read_text())
        assert set(variables) <= set(numbers)
    answer = emukit("evaluate", "linear", "--split", "test")
    assert answer.code == 0, answer.err
    answer = emukit("predict", "cnn-gru", "--scenario", "ssp585", "--out", "p.nc")
    assert answer.code == 0, answer.err
    with xr.open_dataset(tmp_path / "p.nc") as ds:
        assert list(ds.data_vars) == list(variables)
        assert ds.tas.attrs["standard_name"] == "air_temperature"
        assert ds.tas.attrs["units"] == "K"
        if "huss" in ds:
            assert ds.huss.attrs["standard_name"] == "specific_humidity"
            assert ds.huss.attrs["units"] == "kg kg-1"
    assert emukit("leaderboard", tmp_path).code == 0


def test_pictures_are_in_the_colours_or_of_the_pairs_of_other_variables(archive):
    emulator = LinearEmulator.fit(archive, make_split(archive))
    shown = collect(emulator, archive, Span("ssp585", 420, 480, (0,)))
    rows = error_rows(shown)
    assert [r.colours for r in rows[::2]] == [v.colours for v in archive.domain.described]
    assert draw_maps(rows, archive.grid, "title", earth=False).axes
    found = compare_variability(shown)
    pairs = [name for name, *_ in found.rows() if "correlation" in name]
    assert pairs == [f"tas with {v} correlation" for v in archive.variables[1:]]
    plain = found.as_dict()["prediction"]["together"]
    assert list(plain) == [f"tas with {v}" for v in archive.variables[1:]]
    if "huss" in archive.variables:
        # Warmer air holds more.
        assert found.members[0]["together"][1] > 0.9


def test_without_a_temperature_what_measures_warming_is_not_refused(demo_store, tmp_path):
    archive = climate_of(demo_store, tmp_path, ("pr",)).open()
    assert archive.domain.temperature is None
    with pytest.raises(RecipeError, match=r"model\.warming needs the near-surface temperature"):
        train_run(archive, load_recipe("anchor"), tmp_path / "anchor", reporter=silent_reporter())
    assert not (tmp_path / "anchor").exists()
    with pytest.raises(RecipeError, match=r"model\.similar compares blocks"):
        train_run(archive, load_recipe("sampled"), tmp_path / "sampled", reporter=silent_reporter())
    recipes = load_recipe("variance-matched"), load_recipe("sampled", None, ["model.similar=1.0"])
    for number, recipe in enumerate(recipes):
        run, _ = train_run(archive, recipe, tmp_path / f"run{number}", reporter=silent_reporter())
        assert run.emulator(archive).predict_fields(archive["ssp126"], 0, 24).min() >= 0


def test_the_temperature_is_known_by_its_name_alone(demo_store, tmp_path):
    """A card may call it anything: the standard name decides."""
    archive = climate_of(demo_store, tmp_path, ("huss", "tas"), tas='standard_name = "surface_temperature"').open()
    assert archive.domain.temperature is None
    named = climate_of(demo_store, tmp_path, ("huss", "tas"), huss='standard_name = "air_temperature"').open()
    assert named.domain.temperature == named.variables.index("huss")
