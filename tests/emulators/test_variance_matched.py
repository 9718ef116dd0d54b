"""Predictions matched to a run's variance that vary otherwise than they should, move a mean, or looked ahead."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import norm

from emukit.data.protocol import make_split
from emukit.emulators.calibrated import Calibrated, least_expected_score
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.emulators.variability import Variability
from emukit.emulators.variance_matched import VarianceMatched
from emukit.errors import RecipeError
from emukit.recipes.load import load_recipe
from emukit.runs.evaluate import score_emulator
from tests.coded import warming_archive

KINDS = [VarianceMatched, Calibrated]


def fitted(archive, kind=VarianceMatched, protocol="k360", **options):
    split = make_split(archive, protocol)
    base = LinearEmulator.fit(archive, split, features=("CO2", "SO2"))
    return kind.fit(archive, split, (base,), (), **{"period": 60, "block": 30, **options})


@pytest.fixture(scope="module")
def climate():
    """Much weather, and little rain in some cells."""
    archive = warming_archive(481, noise=1.5)
    for s in archive.values():
        s.targets[:, :, 1] = np.maximum(s.targets[:, :, 1] - 5.8, 0.0)
    return archive


def test_standard_deviation_over_the_period_is_that_of_a_real_run(climate):
    emulator = fitted(climate)
    scenario = climate["ssp245"]
    out = emulator.predict_fields(scenario, 421, 481).std(0, dtype=np.float64)
    runs = scenario.targets[:, 421:].std(1, dtype=np.float64)
    calm = emulator.bases[0].predict_fields(scenario, 421, 481).std(0, dtype=np.float64)
    for v in range(2):
        # One cell of one run misses by 9 per cent of its weather at 60 months; 24 cells and 3 runs by far less.
        assert out[v].mean() == pytest.approx(runs[:, v].mean(), rel=0.05)
        assert calm[v].mean() < 0.95 * runs[:, v].mean()
        assert np.abs(out[v] - runs[:, v]).mean() < 0.75 * np.abs(calm[v] - runs[:, v]).mean()


def test_aim_is_the_mean_standard_deviation_of_drawn_runs():
    """Weather that lasts: neither the variance of a run's mean nor that of its standard deviation can be left out."""
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(4000, 60))
    for t in range(1, 60):
        noise[:, t] = 0.8 * noise[:, t - 1] + 0.6 * noise[:, t]
    forced = 0.7 * np.cos(2 * np.pi * np.arange(60) / 12)
    std = (forced + noise).std(1)
    archive = warming_archive(61)
    field = np.ones((2, *archive.grid.shape))
    months = np.ones((12, *field.shape))
    known = Variability(
        months, 0 * months, np.zeros(3), noise.mean(1).var() * field, std.var() * field, field, from_members=True
    )
    aim = VarianceMatched(archive.domain, (), known, 60, 60).aim(forced.std() * field, months[0])
    np.testing.assert_allclose(aim, std.mean(), rtol=0.005)


def test_a_block_varies_as_its_own_months_and_warmth_say(climate):
    """Against the formula cell by cell: months that differ, a block of no whole year, a base that says too much."""
    archive = warming_archive(121)
    base = LinearEmulator.fit(archive, make_split(archive, "k360"), features=("CO2", "SO2"))
    rng = np.random.default_rng(3)
    shape = (2, *archive.grid.shape)
    level, slope = rng.uniform(20, 90, (12, *shape)), rng.uniform(-0.3, 0.3, (12, *shape))
    global_mean, forced = np.array([279.0, 270.0, 290.0]), rng.uniform(0.3, 1.0, shape)
    mean, std = rng.uniform(0, 0.5, shape), rng.uniform(0, 0.5, shape)
    known = Variability(level, slope, global_mean, mean, std, forced, from_members=True)
    scenario = archive["ssp370"]
    said = base.predict_fields(scenario, 103, 121).astype(float)
    out = VarianceMatched(archive.domain, (base,), known, 60, 18).predict_fields(scenario, 103, 121)
    months = scenario.calendar_month[103:121]
    globe = np.mean([archive.grid.mean(f) for f in said[:, 0]])
    for y, x in ((0, 0), (1, 3), (3, 5)):
        monthly = [level[m, 0, y, x] * np.exp(slope[m, 0, y, x] * (globe - 279.0)) for m in months]
        own = forced[0, y, x] * said[:, 0, y, x].var()
        variance = own + np.mean(monthly) - mean[0, y, x] - std[0, y, x]
        assert out[:, 0, y, x].std() == pytest.approx(np.sqrt(variance), rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_means_of_blocks_are_the_base_s_and_rain_is_never_negative(climate, kind):
    emulator = fitted(climate, kind)
    for name in ("ssp126", "ssp245"):
        out = emulator.predict_fields(climate[name], 0, 481)
        said = emulator.bases[0].predict_fields(climate[name], 0, 481)
        assert out[:, 1].min() >= 0
        assert (out[:, 1] == 0).any()
        for stop in (481, 451, 421, 61):
            np.testing.assert_allclose(out[stop - 30 : stop].mean(0), said[stop - 30 : stop].mean(0), rtol=1e-5)


def test_the_next_block_begins_with_no_step_back():
    """A base that warms evenly: stretched about the block's mean it would fall back at every boundary."""
    archive = warming_archive(481, noise=1.5)
    emulator = fitted(archive, block=60, period=60)
    said = emulator.bases[0].predict_fields(archive["ssp585"], 1, 481)
    out = emulator.predict_fields(archive["ssp585"], 1, 481)
    yearly = [archive.grid.mean(f.reshape(40, 12, 2, *archive.grid.shape).mean(1)) for f in (said, out)]
    said_steps, steps = (np.diff(y[:, 0]) for y in yearly)
    np.testing.assert_allclose(steps, said_steps, atol=0.15 * np.abs(said_steps).max())


@pytest.mark.parametrize("kind", KINDS)
def test_a_month_does_not_depend_on_the_months_asked_for(climate, kind):
    emulator = fitted(climate, kind)
    whole = emulator.predict_fields(climate["ssp370"], 0, 481)
    for start, stop in ((0, 1), (7, 20), (420, 422), (100, 481), (450, 481)):
        np.testing.assert_array_equal(emulator.predict_fields(climate["ssp370"], start, stop), whole[start:stop])


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_end_where_the_scored_months_do(climate, kind):
    """Validation and test spans of every protocol end at the scenario's end or whole blocks before it."""
    emulator = fitted(climate, kind, block=36, period=36)
    scenario = climate["ssp370"]
    internal = np.median(emulator.variability.level, 0)
    out = emulator.predict_fields(scenario, 445, 481).std(0, dtype=np.float64)
    said = emulator.bases[0].predict_fields(scenario, 445, 481).std(0, dtype=np.float64)
    np.testing.assert_allclose((out**2 - said**2)[0], internal[0], rtol=0.15)


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_scored_months_move_nothing(kind, members):
    archive = warming_archive(481, members)
    before = fitted(archive, kind).state()[1]
    for spans in make_split(archive, "k360").scored.values():
        for span in spans:
            archive[span.scenario].targets[:, span.start : span.stop] *= -3
    after = fitted(archive, kind).state()[1]
    assert all(np.array_equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("kind", KINDS)
def test_loaded_predicts_the_same_as_saved(climate, kind, tmp_path):
    emulator = fitted(climate, kind)
    emulator.save(tmp_path / "e")
    loaded = load_emulator(tmp_path / "e")
    assert type(loaded) is kind
    assert (loaded.period, loaded.block) == (60, 30)
    np.testing.assert_allclose(
        loaded.predict_fields(climate["ssp245"], 3, 90),
        emulator.predict_fields(climate["ssp245"], 3, 90),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_with_one_member_works_and_is_said_to_have_one(kind):
    several, one = warming_archive(481, 3, noise=1.0), warming_archive(481, 1, noise=1.0)
    emulator, other = fitted(one, kind), fitted(several, kind)
    assert any("one member" in note for note in emulator.notes)
    assert not other.notes
    out = emulator.predict_fields(one["ssp245"], 421, 481).std(0, dtype=np.float64)
    expected = other.predict_fields(several["ssp245"], 421, 481).std(0, dtype=np.float64)
    assert out.mean((1, 2)) == pytest.approx(expected.mean((1, 2)), rel=0.06)


def test_without_warming_variability_is_the_same_in_every_climate(climate):
    steady = fitted(climate, warming=False).variability
    np.testing.assert_array_equal(steady.by_season(280.0), steady.by_season(290.0))


@pytest.mark.parametrize("block", [11, 61])
def test_blocks_that_cannot_be_are_refused(climate, block):
    with pytest.raises(RecipeError, match=r"model\.block"):
        fitted(climate, block=block)


@pytest.mark.parametrize("name", ["variance-matched", "calibrated"])
def test_shipped_recipes_wrap_linear(name):
    recipe = load_recipe(name)
    assert [(part.emulator, copy) for part, copy in recipe.parts] == [("linear", 0)]


def a_case(seed):
    rng = np.random.default_rng(seed)
    calm = rng.uniform(0.1, 1.0, (2, 3))
    matched = calm + rng.uniform(0.0, 1.5, (2, 3))
    spread, left = rng.uniform(0.02, 0.5, (2, 3)), rng.uniform(0.1, 4.0, (2, 3))
    area = rng.uniform(0.5, 1.0, (2, 3))
    return calm, matched, spread, left, area / area.sum()


def expected_score(std, calm, matched, spread, left, area, price):
    z = (std - matched) / spread
    off = spread * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z))
    return price * np.sqrt(np.sum(area * (left + (std - calm) ** 2))) + np.sum(area * off)


@pytest.mark.parametrize("price", [0.1, 0.1 / 0.75, 1.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_calibration_finds_the_least_expected_score_that_a_search_over_all_cells_finds(seed, price):
    case = a_case(seed)
    found = least_expected_score(*case, price)
    search = minimize(
        lambda x: expected_score(x.reshape(2, 3), *case, price), case[0].ravel(), method="Powell", tol=1e-12
    )
    assert expected_score(found, *case, price) <= search.fun + 1e-8
    np.testing.assert_allclose(found.ravel(), search.x, atol=2e-3)
    assert (found <= case[1] + 1e-9).all()
    assert (found >= case[0] - 1e-9).all()


def test_expected_score_is_what_drawn_truths_score_on_average():
    """The formula that calibration minimises, against months of drawn truths and the metric's own arithmetic."""
    rng = np.random.default_rng(3)
    months, draws, cells = 120, 400, 6
    forced = 2.0 * np.cos(2 * np.pi * np.arange(months) / 12)[:, None] * rng.uniform(0.2, 1.0, cells)
    size = rng.uniform(0.5, 1.5, cells)
    truths = forced + size * rng.normal(size=(draws, months, cells))
    truths -= truths.mean(1, keepdims=True)
    calm, std_t = forced.std(0), truths.std(1)
    area = np.full(cells, 1 / cells)
    case = (calm, std_t.mean(0), std_t.std(0), size**2 * (1 - 1 / months), area)

    def drawn(std):
        p = forced * std / calm
        monthly = np.sqrt(np.mean((p - truths) ** 2, (1, 2))).mean()
        return 0.3 * monthly + np.abs(p.std(0) - std_t).mean()

    best = least_expected_score(*case, 0.3)
    for std in (calm, std_t.mean(0), best):
        assert expected_score(std, *case, 0.3) == pytest.approx(drawn(std), rel=0.005)
    assert drawn(best) < drawn(std_t.mean(0)) - 1e-4
    assert drawn(best) < drawn(calm)


def test_calibrated_lies_between_the_base_and_the_variance_matched(climate):
    matched, calibrated = fitted(climate), fitted(climate, Calibrated)
    std = [e.predict_fields(climate["ssp245"], 451, 481).std(0) for e in (matched.bases[0], calibrated, matched)]
    assert (std[1] <= std[2] * 1.0001).all()
    assert (std[1] >= std[0] * 0.98).all()
    assert 1e-4 < 1 - np.mean(std[1] / std[2]) < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_a_climate_without_weather_is_left_as_it_is(kind):
    # A thousandth of the usual: members that are the same are refused.
    archive = warming_archive(241, noise=3e-4)
    emulator = fitted(archive, kind)
    out = emulator.predict_fields(archive["ssp245"], 0, 241)
    said = emulator.bases[0].predict_fields(archive["ssp245"], 0, 241)
    np.testing.assert_allclose(out, said, atol=0.02)


@pytest.mark.real
def test_real_climate_is_matched(real_archive):
    """Measured 0.4730 and 0.4736; linear has 0.7310 here, another run of the climate model 0.575 and 0.629."""
    split = make_split(real_archive, "k360")
    matched = VarianceMatched.fit(real_archive, split, (LinearEmulator.fit(real_archive, split),), ())
    calibrated = Calibrated(matched.domain, matched.bases, matched.variability, matched.period, matched.block)
    for emulator in (matched, calibrated):
        score = score_emulator(emulator, real_archive, split.validation)
        assert score.value == pytest.approx(0.473, abs=0.003)
        assert score["pr.time_stddev_mae"] < 0.145
