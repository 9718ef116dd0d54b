"""A hybrid that is trained without being told what its frames are, or that says something else once it is saved."""

import numpy as np
import pytest

from emukit.data.archive import Archive, Scenario
from emukit.data.card import load_card
from emukit.data.time import TimeAxis
from emukit.errors import RecipeError
from emukit.progress import silent_reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import read_run, train_run
from tests.coded import small_grid
from tests.models.test_hybrid import CENTER, SPREAD

STEPS = 170
SMALL = (
    "model.truncation=6",
    "model.boundaries=[0.0, 0.35, 0.66, 1.0]",
    "model.substeps=2",
    "model.hidden=4",
    "model.blocks=1",
    "model.width=4",
    "model.depth=1",
    "training.epochs=1",
    "training.validate_every=1",
    "training.segments.length=2",
    "objective.lengths=[1, 2]",
    "objective.boundaries=[0.5]",
    # Three layers hold no level of 835 hPa that is not also their middle.
    'model.roles={u200="eastward 0.2", v200="northward 0.2", u850="eastward 0.83", v850="northward 0.83", '
    't500="temperature 0.51", t850="temperature 0.83", z500="geopotential 0.51", ps="pressure", W="water", '
    'pr="rain", evap="evaporation"}',
)


@pytest.fixture(scope="module")
def archive():
    card, grid, rng = load_card("speedy-6h"), small_grid(12, 24), np.random.default_rng(0)
    names = tuple(card.targets)
    lat, lon = np.deg2rad(grid.lat)[:, None], np.deg2rad(grid.lon)[None]
    moving = np.stack([np.cos(lat) ** 2 * np.cos(2 * lon - 0.2 * t) for t in range(STEPS)])
    fields = np.empty((1, STEPS, len(names), *grid.shape), np.float32)
    for v, name in enumerate(names):
        noise = 0.1 * rng.normal(size=moving.shape) * np.cos(lat)
        fields[0, :, v] = CENTER[name] + SPREAD[name] * (rng.choice([-1, 1]) * moving + noise)
    scenario = Scenario("control", TimeAxis("6h", 0, STEPS), {}, (0,), fields, np.zeros(STEPS, bool))
    return Archive(card, "a sequence", grid, names, {"control": scenario})


@pytest.mark.slow
def test_a_run_knows_its_data_and_forecasts_the_same_once_it_is_read(archive, tmp_path):
    recipe = load_recipe("hybrid", assignments=SMALL)
    run, _ = train_run(archive, recipe, tmp_path / "run", reporter=silent_reporter())
    emulator = read_run(tmp_path / "run").emulator(archive)
    network, names = emulator.network, list(archive.variables)
    np.testing.assert_allclose(network.latitudes, archive.grid.lat)
    assert float(network.hours) == 6.0
    truth = archive["control"].targets[0, :10]
    np.testing.assert_allclose(network.center[names.index("z500")], truth[:, names.index("z500")].mean(0), rtol=1e-5)
    places = {role.name: place for role, place in zip(network.roles, network.places.tolist(), strict=True)}
    assert places == {name: names.index(name) for name in places}
    said = emulator.predict_fields(archive["control"], 50, 53)
    np.testing.assert_array_equal(run.emulator(archive).predict_fields(archive["control"], 50, 53), said)
    assert np.isfinite(said).all()
    pressure, before = said[:, names.index("ps")], archive["control"].targets[0, 49, names.index("ps")]
    np.testing.assert_allclose(archive.grid.mean(pressure), archive.grid.mean(before), rtol=1e-6)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("targets.z500.climatology=cell-month",), "season"),
        (("targets.pr.transform=log1p",), "line"),
        (('inputs.states=["u200", "v200", "t500"]',), "model.roles|states"),
    ],
)
def test_recipes_that_a_core_cannot_read_are_refused(archive, tmp_path, words, match):
    recipe = load_recipe("hybrid", assignments=(*SMALL, *words))
    with pytest.raises(RecipeError, match=match):
        train_run(archive, recipe, tmp_path / "run", reporter=silent_reporter())
