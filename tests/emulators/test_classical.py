"""Classical emulators that miss a known response, differ from scikit-learn, leak, or stop warming unannounced."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor

from emukit.data.protocol import make_split
from emukit.data.split import Span, Split
from emukit.emulators import gaussian_process, random_forest
from emukit.emulators.components import EofRegression, fit_basis
from emukit.emulators.gaussian_process import GaussianProcess, _fit_one
from emukit.emulators.random_forest import RandomForest, forest_arrays, walk
from emukit.emulators.registry import EMULATORS, load_emulator
from emukit.errors import ProtocolError, RecipeError
from tests.coded import coded_archive, warming_archive

FEATURES = ("CO2", "SO2")
OPTIONS = {
    "eof-regression": {"features": FEATURES, "components": 3},
    "gaussian-process": {"features": FEATURES, "components": 3, "restarts": 0},
    "random-forest": {"features": FEATURES, "components": 3, "trees": 20},
}
KINDS = tuple(OPTIONS)


def fit(kind, archive, split, **options):
    return EMULATORS[kind].load().fit(archive, split, **{**OPTIONS[kind], **options})


@pytest.fixture(scope="module")
def climate():
    archive = warming_archive()
    return archive, make_split(archive, "k360")


@pytest.fixture(scope="module")
def fitted(climate):
    return {kind: fit(kind, *climate) for kind in KINDS}


def bent_archive():
    """The linear climate without noise, plus a wave in CO2: a bend that no line follows."""
    archive = warming_archive(noise=0.0)
    for scenario in archive.values():
        wave = 3.0 * np.sin(scenario.forcings["CO2"] / 300.0)
        scenario.targets[:, :, 0] += wave[:, None, None].astype(np.float32)
    return archive


def error(emulator, archive, name, start, stop):
    """Root mean square error of tas over months and cells, against the mean of all members."""
    truth = archive[name].targets[:, start:stop].mean(0)
    return float(np.sqrt(((emulator.predict_fields(archive[name], start, stop) - truth)[:, 0] ** 2).mean()))


@pytest.mark.parametrize("kind", KINDS)
def test_known_linear_response_of_an_unseen_scenario_is_recovered(kind):
    archive = warming_archive(noise=0.0)
    emulator = fit(kind, archive, make_split(archive, "loso:ssp370"), ridge=0.0)
    last = slice(121, 181)
    expected = archive["ssp370"].targets[0, last].mean(0)
    predicted = emulator.predict_fields(archive["ssp370"], 121, 181).mean(0)
    change = expected - archive["ssp370"].targets[0, :60].mean(0)
    assert np.abs(change[0]).mean() > 0.6
    np.testing.assert_allclose(predicted, expected, atol=0.02)


@pytest.mark.parametrize(
    ("kind", "detrend", "share"),
    [
        ("gaussian-process", "linear", 0.25),
        ("gaussian-process", "none", 0.25),
        ("random-forest", "linear", 0.4),
        ("random-forest", "none", 0.8),
    ],
)
def test_bend_that_no_line_follows_is_found(kind, detrend, share):
    archive = bent_archive()
    split = make_split(archive, "k360")
    straight = error(fit("eof-regression", archive, split), archive, "ssp245", 0, 96)
    options = {"leaf": 1, "tried": 1.0, "trees": 50} if kind == "random-forest" else {}
    assert straight > 1.5
    # Measured 0.12, 0.12, 0.21 and 0.69: few trees of few years are coarse where they carry the trend as well.
    assert error(fit(kind, archive, split, detrend=detrend, **options), archive, "ssp245", 0, 96) < share * straight


def test_patterns_are_the_weighted_principal_components_of_whole_years(climate):
    """Against a plain singular value decomposition of all members' years as rows."""
    archive, split = climate
    split = replace(split, train=tuple(replace(s, members=s.members[i:]) for i, s in enumerate(split.train)))
    basis, years = fit_basis(archive, split, FEATURES, 4)
    rows, members = [], []
    for span in split.train:
        mean = np.mean([archive[span.scenario].truth(m, span.start, span.stop) for m in span.members], 0)
        rows.append(mean[: len(span) // 12 * 12].reshape(-1, 12, *mean.shape[1:]).astype(np.float64))
        members += [len(span.members)] * len(rows[-1])
    rows, members = np.concatenate(rows), np.array(members)
    np.testing.assert_array_equal(years.weights, members)
    repeated = np.repeat(rows, members, axis=0)  # a member's weight is a row
    np.testing.assert_allclose(basis.climate, repeated.mean(0), rtol=1e-5)
    area = np.sqrt(archive.grid.weights / 12)
    for v in range(2):
        departures = (repeated[:, :, v] - repeated[:, :, v].mean(0)) * area
        left, size, right = np.linalg.svd(departures.reshape(len(repeated), -1), full_matrices=False)
        found = (basis.patterns[v] * area).reshape(4, -1)
        np.testing.assert_allclose(np.abs(found @ right[:4].T), np.eye(4), atol=1e-4)
        amounts = np.repeat(years.amounts[:, v], members, axis=0)
        np.testing.assert_allclose(np.abs(amounts), np.abs(left[:, :4] * size[:4]), atol=1e-3)


def test_years_begin_with_january_wherever_a_span_begins():
    archive = coded_archive()
    split = Split("odd", (Span("ssp126", 5, 40, (0, 1, 2)), Span("ssp585", 7, 18, (0,))), {})
    basis, years = fit_basis(archive, split, ("CO2",), 1)
    assert len(years.weights) == 2  # 35 months hold two years, 11 none
    scenario = archive["ssp126"]
    for m in range(12):
        months = [t for t in range(5, 29) if scenario.calendar_month[t] == m]
        np.testing.assert_allclose(basis.climate[m], scenario.targets[:, months].mean((0, 1)), rtol=1e-6)
    assert basis.center == pytest.approx([np.arange(5, 29).mean()])


def test_too_short_training_spans_are_refused_by_name():
    archive = coded_archive()
    with pytest.raises(ProtocolError, match="no whole training year"):
        fit_basis(archive, Split("short", (Span("ssp126", 0, 11, (0,)),), {}), ("CO2",), 1)


@pytest.mark.parametrize("components", [1, 3])
def test_forest_equals_the_one_of_scikit_learn(climate, monkeypatch, components):
    grown = []

    class Recorded(RandomForestRegressor):
        def fit(self, *args):
            grown.append(super().fit(*args))
            return self

    monkeypatch.setattr(random_forest, "RandomForestRegressor", Recorded)
    emulator = fit("random-forest", *climate, components=components, leaf=2, detrend="none")
    z = np.random.default_rng(0).normal(0, 2, (300, 2))
    expected = np.stack([forest.predict(z).reshape(300, -1) for forest in grown], 1)
    assert expected[:, 0, 0].std() > 0.1
    np.testing.assert_allclose(emulator.departure(z), expected, rtol=1e-12, atol=1e-14)


def test_inputs_at_a_threshold_go_where_scikit_learn_sends_them():
    rng = np.random.default_rng(1)
    x = rng.integers(0, 8, (200, 3)) / 7.0
    forest = RandomForestRegressor(10, max_depth=6, random_state=0).fit(x, rng.normal(size=(200, 2)))
    arrays = forest_arrays(forest)
    edges = np.stack([rng.choice(arrays["threshold"], 500) for _ in range(3)], 1)
    for inputs in (x, edges, edges.astype(np.float32).astype(np.float64), np.full((1, 3), 1e9)):
        np.testing.assert_allclose(walk(arrays, inputs), forest.predict(inputs), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("detrend", ["linear", "none"])
def test_gaussian_process_equals_the_one_of_scikit_learn(climate, monkeypatch, detrend):
    made = []

    class Recorded(GaussianProcessRegressor):
        def fit(self, x, y):
            made.append(super().fit(x, y))
            return self

    monkeypatch.setattr(gaussian_process, "GaussianProcessRegressor", Recorded)
    archive, split = climate
    emulator = fit("gaussian-process", archive, split, detrend=detrend)
    _, years = fit_basis(archive, split, FEATURES, 3)
    left = years.amounts - np.einsum("nf,fvk->nvk", years.z, emulator.trend)
    z = np.random.default_rng(0).normal(0, 2, (50, 2))
    expected = np.stack([process.predict(z) for process in made], 1).reshape(50, 2, 3) * left.std(0)
    np.testing.assert_allclose(emulator.departure(z), expected, rtol=1e-9, atol=1e-12)


def test_component_without_any_departure_gets_no_process():
    archive = warming_archive(noise=0.0)
    for scenario in archive.values():
        scenario.targets[:, :, 1] = 3.0
    emulator = fit("gaussian-process", archive, make_split(archive, "k360"))
    np.testing.assert_array_equal(emulator.predict_fields(archive["ssp245"], 0, 30)[:, 1], 3.0)


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_emulator_predicts_the_same_bits(kind, climate, fitted, tmp_path):
    scenario = climate[0]["ssp245"]
    fitted[kind].save(tmp_path / "e")
    loaded = load_emulator(tmp_path / "e")
    assert type(loaded) is type(fitted[kind])
    np.testing.assert_array_equal(loaded.predict_fields(scenario, 3, 60), fitted[kind].predict_fields(scenario, 3, 60))


@pytest.mark.parametrize("kind", KINDS)
def test_month_depends_on_its_own_past_and_not_on_what_is_asked_for(kind, climate, fitted):
    scenario = climate[0]["ssp585"]
    whole = fitted[kind].predict_fields(scenario, 0, 181)
    np.testing.assert_allclose(fitted[kind].predict_fields(scenario, 7, 20), whole[7:20], rtol=1e-6)
    later = {k: v.copy() for k, v in scenario.forcings.items()}
    for values in later.values():
        values[100:] *= 3
    changed = fitted[kind].predict_fields(replace(scenario, forcings=later), 0, 181)
    np.testing.assert_allclose(changed[:100], whole[:100], rtol=1e-6)
    assert np.abs(changed[100:] - whole[100:]).max() > 0.1


def beyond(archive, factor):
    """A scenario whose CO2 rises to `factor` times ssp585's rise, under the aerosols of ssp585's last month."""
    scenario = archive["ssp585"]
    co2 = scenario.forcings["CO2"]
    rise = co2[0] + factor * (co2[-1] - co2[0]) * np.linspace(0, 1, len(co2))
    still = {k: np.broadcast_to(v[-1:], v.shape) for k, v in scenario.forcings.items()}
    return replace(scenario, forcings={**still, "CO2": rise})


@pytest.mark.parametrize("kind", ["gaussian-process", "random-forest"])
def test_linear_part_goes_on_beyond_the_training_forcings(kind, climate, fitted):
    scenario = beyond(climate[0], 6.0)
    lines = fitted["eof-regression"].predict_fields(scenario, 169, 181)[:, 0].mean(0)
    predicted = fitted[kind].predict_fields(scenario, 169, 181)[:, 0].mean(0)
    warming = lines - fitted["eof-regression"].basis.climate[:, 0].mean(0)
    assert warming.mean() > 5
    assert np.abs(predicted - lines).max() < 0.05 * warming.mean()


def test_without_a_linear_part_a_forest_stands_still_and_a_process_returns(climate):
    archive, split = climate
    scenario = beyond(archive, 20.0)
    forest = fit("random-forest", archive, split, detrend="none").predict_fields(scenario, 108, 181)[:, 0]
    np.testing.assert_allclose(forest[12:24], forest[60:72])
    process = fit("gaussian-process", archive, split, detrend="none")
    far = process.departure(np.array([[1e6, 0.0]]))
    np.testing.assert_allclose(far, 0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_precipitation_is_never_negative(kind, climate, fitted):
    assert fitted[kind].predict_fields(beyond(climate[0], -1000.0), 0, 181)[:, 1].min() == 0


@pytest.mark.parametrize(
    ("kind", "options", "refused", "words"),
    [
        ("eof-regression", {"features": ()}, RecipeError, "names no feature"),
        ("eof-regression", {"features": ("CO2", "CO2")}, RecipeError, "twice"),
        ("gaussian-process", {"features": ("CO2~x",)}, RecipeError, "cannot read"),
        ("random-forest", {"features": ("N2O",)}, ProtocolError, "N2O"),
        ("random-forest", {"features": ("SO2@atlantis",)}, RecipeError, "region"),
        ("eof-regression", {"components": 0}, RecipeError, "components"),
        ("eof-regression", {"components": 99}, RecipeError, "components"),
        ("gaussian-process", {"ridge": -1.0}, RecipeError, "ridge"),
        ("gaussian-process", {"restarts": -1}, RecipeError, "restarts"),
        ("random-forest", {"trees": 0}, RecipeError, "trees"),
        ("random-forest", {"leaf": 0}, RecipeError, "leaf"),
        ("random-forest", {"tried": 0.0}, RecipeError, "tried"),
        ("random-forest", {"tried": 1.5}, RecipeError, "tried"),
        ("random-forest", {"seed": -1}, RecipeError, "seed"),
    ],
)
def test_options_that_mean_nothing_are_refused(climate, kind, options, refused, words):
    with pytest.raises(refused, match=words):
        fit(kind, *climate, **options)


def test_seed_of_the_forest_decides_its_trees(climate, fitted):
    again, other = (fit("random-forest", *climate, seed=seed).state()[1] for seed in (0, 1))
    first = fitted["random-forest"].state()[1]
    assert all(np.array_equal(first[k], again[k]) for k in first)
    assert not np.array_equal(first["learned.tas.value"], other["learned.tas.value"])


def test_known_response_of_the_demo_climate_is_found():
    """The demo's forced response is known in closed form; its members hold weather as strong as a real model's."""
    from emukit.data.demo import DemoClimate
    from emukit.data.store import archive_from_dataset

    climate = DemoClimate(lat_cells=6, lon_cells=9)
    archive = archive_from_dataset(climate.dataset(), source="demo")
    split = make_split(archive)
    response = climate.forced_response("ssp370")
    change = response[901:].mean(0) - response[:120].mean(0)
    for emulator in (
        EofRegression.fit(archive, split),
        GaussianProcess.fit(archive, split, features=("CO2~10", "SO2"), components=2, restarts=0),
        RandomForest.fit(archive, split, trees=30),
    ):
        wrong = emulator.predict_fields(archive["ssp370"], 901, 1021).mean(0) - response[901:].mean(0)
        rms = np.sqrt(archive.grid.mean(wrong**2) / archive.grid.mean(change**2))
        assert rms[0] < 0.1, emulator.kind
        assert rms[1] < 0.4, emulator.kind


def test_no_process_follows_jumps_within_a_standard_deviation_of_its_feature():
    z = np.linspace(-2, 2, 60)[:, None]
    _, length, _ = _fit_one(z, np.sign(np.sin(3 * z[:, 0] + 0.3)), 0)
    # Free to choose, it would take 0.28.
    assert float(length) == pytest.approx(1.0)
