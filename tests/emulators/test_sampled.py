"""Samples that are not weather, change with the months asked for, or know the months that are scored."""

from dataclasses import replace

import numpy as np
import pytest

from emukit.data.demo import DemoClimate
from emukit.data.protocol import make_split
from emukit.data.split import Span, Split
from emukit.data.store import archive_from_dataset
from emukit.emulators.additive_gp import AdditiveGP
from emukit.emulators.base import Emulator
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.emulators.residuals import Residuals, _global_mean, smoother, training_residuals
from emukit.emulators.sampled import NODES, Modes, Sampled, YearBlocks
from emukit.errors import ProtocolError, RecipeError
from emukit.metrics.variability import VariabilityStatistics, rank_histogram
from emukit.recipes.load import load_recipe
from tests.coded import coded_archive, small_grid, warming_archive

FEATURES = ("CO2", "SO2")
KINDS = [{"weather": "blocks"}, {"weather": "blocks", "similar": 0.3}, {"weather": "eof", "modes": 8}]


def sampled(archive, split, **options):
    base = LinearEmulator.fit(archive, split, features=FEATURES)
    options = {"smooth": 15} | ({} if options.get("weather") == "eof" else {"years": 2}) | options
    return Sampled.fit(archive, split, (base,), (), **options)


class Known(Emulator):
    """The forced response itself, so that only weather can be wrong."""

    kind = "known"

    def __init__(self, domain, response):
        super().__init__(domain)
        self.response = response

    def predict_fields(self, scenario, start, stop):
        return self.response[start:stop].astype(np.float32)

    def state(self):
        raise NotImplementedError

    def from_state(self, domain, meta, arrays):
        raise NotImplementedError


@pytest.fixture(scope="module")
def climate():
    archive = warming_archive()
    return archive, make_split(archive, "k360")


@pytest.fixture(scope="module")
def demo():
    """A climate whose weather is known by formula."""
    made = DemoClimate(lat_cells=10, lon_cells=14)
    archive = archive_from_dataset(made.dataset(), source="demo")
    return made, archive, make_split(archive)


@pytest.mark.parametrize("options", KINDS)
def test_month_is_the_same_whichever_months_are_asked_for(climate, options):
    archive, split = climate
    emulator = sampled(archive, split, **options).member(2)
    scenario = archive["ssp245"]
    whole = emulator.predict_fields(scenario, 0, 181)
    for start, stop in ((0, 1), (0, 30), (7, 20), (59, 133), (100, 181), (180, 181)):
        part = emulator.predict_fields(scenario, start, stop)
        # A matrix product of fewer rows may add up in another order.
        np.testing.assert_allclose(part, whole[start:stop], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("options", KINDS)
def test_loaded_emulator_gives_the_same_realisations(climate, tmp_path, options):
    archive, split = climate
    emulator = sampled(archive, split, seed=5, **options).member(1)
    emulator.save(tmp_path / "e")
    loaded = load_emulator(tmp_path / "e")
    for number in (1, 4):
        expected = emulator.member(number).predict_fields(archive["ssp245"], 3, 100)
        np.testing.assert_array_equal(loaded.member(number).predict_fields(archive["ssp245"], 3, 100), expected)
    np.testing.assert_array_equal(
        loaded.predict_fields(archive["ssp245"], 3, 100), emulator.predict_fields(archive["ssp245"], 3, 100)
    )


@pytest.mark.parametrize("options", KINDS)
def test_realisation_is_a_function_of_seed_and_number(climate, options):
    archive, split = climate

    def fields(seed, number):
        return sampled(archive, split, seed=seed, **options).member(number).predict_fields(archive["ssp245"], 0, 181)

    np.testing.assert_array_equal(
        fields(0, 0), sampled(archive, split, **options).predict_fields(archive["ssp245"], 0, 181)
    )
    weather = [fields(s, n) for s, n in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for i in range(4):
        for j in range(i):
            assert (weather[i][:, 0] != weather[j][:, 0]).mean() > 0.5


@pytest.mark.parametrize("options", KINDS)
def test_nothing_fitted_knows_a_month_that_is_scored(options):
    archive = warming_archive()
    split = make_split(archive, "k360")
    before = sampled(archive, split, **options).state()[1]
    for spans in split.scored.values():
        for span in spans:
            archive[span.scenario].targets[:, span.start : span.stop] *= -7
    archive["ssp245"].targets[:] = 1e4
    after = sampled(archive, split, **options).state()[1]
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[k], after[k]) for k in before)


@pytest.mark.parametrize("options", KINDS[1:])
def test_an_uncertain_realisation_has_a_forced_response_of_its_own(climate, tmp_path, options):
    archive, split = climate
    own = {"warming": ("CO2", "SO2"), "features": ("SO2",), "indices": (), "forcings": ("CO2", "SO2")}
    base = AdditiveGP.fit(archive, split, (LinearEmulator.fit(archive, split, features=FEATURES),), (), **own)
    own = {"smooth": 15, "seed": 3} | ({} if options.get("weather") == "eof" else {"years": 2}) | options
    plain, wide = (Sampled.fit(archive, split, (base,), (), **own, uncertain=u) for u in (False, True))
    wide.save(tmp_path / "wide")
    loaded, scenario = load_emulator(tmp_path / "wide"), archive["ssp370"]
    assert loaded.uncertain
    for number in (0, 2):
        error = base.draw_error(scenario, 100, 130, np.random.SeedSequence(3, spawn_key=(number,)))
        fields = [e.member(number).predict_fields(scenario, 100, 130)[:, 0] for e in (plain, wide, loaded)]
        np.testing.assert_allclose(fields[1] - fields[0], error[:, 0], atol=1e-3)
        assert np.abs(error[:, 0]).max() > 0.01
        np.testing.assert_array_equal(fields[1], fields[2])


def test_uncertainty_of_a_base_that_knows_none_is_refused(climate):
    archive, split = climate
    with pytest.raises(RecipeError, match="needs a base that knows how far off it may be"):
        sampled(archive, split, uncertain=True)
    with pytest.raises(RecipeError, match="linear does not"):
        load_recipe("sampled", assignments=["model.uncertain=true"])
    assert load_recipe("best-sampled", assignments=["model.uncertain=true"]).options["uncertain"]


@pytest.mark.parametrize("options", KINDS)
def test_pr_is_never_negative_and_the_mean_of_many_is_what_the_base_says(options):
    archive = warming_archive()
    split = make_split(archive, "k360")
    for scenario in archive.values():
        # Rain that is mostly none, with a heavy tail.
        scenario.targets[:, :, 1] = np.maximum(scenario.targets[:, :, 1] - 6, 0) ** 2
    emulator = sampled(archive, split, **options)
    base = emulator.bases[0].predict_fields(archive["ssp245"], 0, 181)
    total = np.zeros(base.shape)
    for number in range(40):
        fields = emulator.member(number).predict_fields(archive["ssp245"], 0, 181)
        assert fields[:, 1].min() >= 0
        assert np.isfinite(fields).all()
        total += fields
    wet = float(base[:, 1].mean())
    assert wet > 0.05
    # Of fifteen years' curvature, straight lines leave some: a tenth of the weather, here.
    assert (total / 40 - base)[:, 0].mean() == pytest.approx(0, abs=0.04)
    assert (total / 40 - base)[:, 1].mean() == pytest.approx(0, abs=0.06 * wet)


def test_rain_beyond_training_varies_as_more_of_the_same_storms_would():
    archive = warming_archive()
    split = make_split(archive, "k360")
    scenario = archive["ssp245"]
    usual = np.mean([archive[s.scenario].targets[:, s.start : s.stop, 1].mean((0, 1)) for s in split.train], axis=0)
    deviations = []
    for factor in (0.25, 1.0, 4.0):
        rain = np.broadcast_to(factor * usual, (181, 1, *usual.shape))
        base = Known(archive.domain, np.concatenate([np.full_like(rain, 280.0), rain], 1))
        emulator = Sampled.fit(archive, split, (base,), (), years=2, smooth=15)
        fields = np.stack([emulator.member(k).predict_fields(scenario, 0, 181)[:, 1] for k in range(4)])
        assert fields.mean() == pytest.approx(rain.mean(), rel=0.01)
        deviations.append((fields - rain[:, 0]).std())
    # In a drier climate in proportion, in a wetter one by the square root of it; seasons of rain blur both a little.
    assert deviations[0] / deviations[1] == pytest.approx(0.25, rel=0.1)
    assert deviations[2] / deviations[1] == pytest.approx(2.0, rel=0.1)


def test_the_globe_s_rain_varies_as_in_a_run_where_cells_balance_on_another_mean():
    """Rain that only moves from one half of the globe to the other, given to a climate with more of it in one half."""
    archive = warming_archive()
    split = make_split(archive, "k360")
    grid = archive.grid
    half = np.where(np.arange(grid.shape[1]) < grid.shape[1] // 2, 1.0, -1.0)
    rng = np.random.default_rng(2)
    for scenario in archive.values():
        pr = scenario.targets[:, :, 1]
        pr[:] = 3.0 + half * np.clip(rng.standard_normal((*pr.shape[:2], 1, 1)), -2, 2)
    rain = np.full((181, 1, *grid.shape), 3.0) * (1 + 0.5 * half)
    base = Known(archive.domain, np.concatenate([np.full_like(rain, 280.0), rain], 1))
    for options in ({"years": 2}, {"weather": "eof", "modes": 4}):
        emulator = Sampled.fit(archive, split, (base,), (), smooth=15, **options)
        fields = emulator.predict_fields(archive["ssp245"], 0, 181)
        # One half swings by a third of 3 mm/day: on 4.5 and 1.5 the globe would by 0.38 mm/day.
        assert fields[:, 1, :, 0].std() > 0.5
        assert grid.mean(fields[:, 1]).std() < 0.19


def test_the_globe_s_rain_varies_as_in_a_run_whose_own_mean_has_changed():
    """Rain moves between halves of the globe, and balances on the mean of its time, not on the training's."""
    archive = warming_archive()
    split = make_split(archive, "k360")
    grid = archive.grid
    half = np.where(np.arange(grid.shape[1]) < grid.shape[1] // 2, 1.0, -1.0)
    rng, rain = np.random.default_rng(2), {}
    for i, (name, scenario) in enumerate(archive.items()):
        # In half of the scenarios it rains nine times as much in the one half, in the others in the other.
        mean = 5.0 * (1 + (0.8 if i % 2 else -0.8) * half)
        swing = np.clip(rng.standard_normal((3, 181, 1, 1)), -2, 2)
        scenario.targets[:, :, 1] = mean + 0.4 * half * swing + 0.05 * rng.standard_normal((3, 181, 1, 1))
        rain[name] = np.broadcast_to(mean, (181, 1, *grid.shape))
    fields = np.concatenate([np.full_like(rain["ssp245"], 280.0), rain["ssp245"]], 1)
    emulator = Sampled.fit(archive, split, (Known(archive.domain, fields),), (), smooth=15, years=2, similar=1.0)
    runs = np.stack([emulator.member(k).predict_fields(archive["ssp245"], 0, 181)[:, 1] for k in range(12)])
    # That of the runs; on the training's mean the swings would give the globe 0.25 mm/day and more.
    assert grid.mean(runs).std() == pytest.approx(0.05, rel=0.15)
    held = emulator.weather.residuals
    older = Residuals(held.values, held.first, held.month, held.global_mean)
    blocks = YearBlocks(older, 2, 1.0, 0)
    before = Sampled(archive.domain, emulator.bases, blocks, emulator.climatology)
    assert grid.mean(before.predict_fields(archive["ssp245"], 0, 181)[:, 1]).std() > 0.15
    assert Residuals.from_arrays(older.arrays()).globe is None


def rows_that_spell_themselves(runs=(40, 75), first_month=3):
    """Residuals whose values are their row, in both variables; a run begins in April."""
    first = np.cumsum([0, *runs[:-1]])
    row = np.arange(sum(runs))
    values = np.broadcast_to(row[:, None, None, None], (len(row), 2, 2, 3)).astype(np.float16)
    month = np.concatenate([(np.arange(n) + first_month) % 12 for n in runs])
    return Residuals(values, first, month, (row % 1000).astype(np.float32))


def drawn(blocks, scenario, number, global_mean=lambda a, b: 0.0):
    """The residuals of all 121 months."""
    return blocks.residuals.values[blocks.rows(scenario, number, 0, 121, global_mean, small_grid())]


def test_blocks_are_whole_years_of_one_run_in_their_own_season():
    scenario = coded_archive()["ssp245"]  # 121 months from January: the last block begins in a February
    blocks = YearBlocks(rows_that_spell_themselves(), years=2, similar=1.0, seed=0)
    begun = set()
    for number in range(40):
        rows = drawn(blocks, scenario, number)
        assert (rows == rows[:, :1, :1, :1]).all()
        rows = rows[:, 0, 0, 0].astype(int)
        month = blocks.residuals.month[rows]
        np.testing.assert_array_equal(month, scenario.calendar_month)
        for end in range(121, 24, -24):
            assert (np.diff(rows[end - 24 : end]) == 1).all()
            assert not rows[end - 24] < 40 <= rows[end - 1]
            begun.add(rows[end - 24])
    # Every February from which two years of the same run follow, and no other.
    assert begun == {10, 50, 62, 74, 86}


def test_blocks_of_similar_warmth_are_drawn():
    scenario = coded_archive()["ssp245"]
    residuals = rows_that_spell_themselves((400,))
    blocks = YearBlocks(residuals, years=2, similar=0.1, seed=0)
    asked = []

    def global_mean(first, last):
        asked.append((first, last))
        return 200.0

    for number in range(20):
        rows = drawn(blocks, scenario, number, global_mean)[:, 0, 0, 0]
        assert abs(rows[-24:].mean() - 200) <= 24
    assert (97, 121) in asked
    assert (0, 12) in asked  # the first block holds one month: its year is compared, not its season


def test_blocks_of_similar_forcings_are_drawn_among_those_of_similar_warmth():
    """Of rows that are all alike warm, those whose forcing is that of the scenario."""
    scenario = coded_archive()["ssp126"]  # CO2 of its last two years: 97 to 120
    residuals = rows_that_spell_themselves((400,))
    warm = replace(residuals, global_mean=np.full(400, 3.0, np.float32))
    forcings = np.stack([np.arange(400.0)[::-1] / 2, np.zeros(400)], 1).astype(np.float32)
    blocks = YearBlocks(warm, 2, 0.1, 0, ("CO2", "CH4"), forcings)
    for number in range(20):
        rows = drawn(blocks, scenario, number)[:, 0, 0, 0]
        # Its mean is 108.5, which the forcing has about row 182; a tenth of the blocks is three years.
        assert abs(rows[-24:].mean() - 182) <= 24
    # Warmth and forcing pull apart alike where blocks differ as much in both.
    both = YearBlocks(residuals, 2, 0.1, 0, ("CO2",), forcings[:, :1])
    for number in range(20):
        rows = drawn(both, scenario, number, lambda a, b: 382.0)[:, 0, 0, 0]
        assert abs(rows[-24:].mean() - (382 + 182) / 2) <= 24


def test_alike_forcings_are_fitted_saved_and_refused_where_nothing_is_compared(climate, tmp_path):
    archive, split = climate
    emulator = sampled(archive, split, similar=0.2, alike=("SO2", "CO2"))
    held = emulator.weather
    assert held.forcings.shape == (len(held.residuals.values), 2)
    span = split.train[1]
    second = slice(3 * len(split.train[0]) + len(span), 3 * len(split.train[0]) + 2 * len(span))
    np.testing.assert_allclose(held.forcings[second, 1], archive[span.scenario].forcings["CO2"][: span.stop])
    emulator.save(tmp_path / "e")
    fields = [e.predict_fields(archive["ssp245"], 3, 100) for e in (emulator, load_emulator(tmp_path / "e"))]
    np.testing.assert_array_equal(*fields)
    other = sampled(archive, split, similar=0.2).predict_fields(archive["ssp245"], 3, 100)
    assert (fields[0] != other).any()
    for wrong in ({"similar": 1.0}, {"alike": ("SO2", "SO2")}, {"weather": "eof"}):
        with pytest.raises(RecipeError):
            sampled(archive, split, **({"alike": ("SO2",)} | wrong))
    with pytest.raises(ProtocolError, match="N2O"):
        sampled(archive, split, alike=("N2O",))


def test_smoother_keeps_straight_lines_and_nothing_else():
    line = 3.0 + 0.5 * np.arange(30)
    np.testing.assert_allclose(smoother(30, 11) @ line, line)
    np.testing.assert_allclose(smoother(30, 1), np.eye(30))
    np.testing.assert_allclose(smoother(4, 11) @ line[:4], line[:4])
    matrix = smoother(30, 11)
    # A line fitted to eleven years: one eleventh in the middle, by 1/n + 25 / sum of squares at the end.
    assert matrix[15, 15] == pytest.approx(1 / 11)
    assert matrix[0, 0] == pytest.approx(1 / 11 + 25 / 110)
    assert not matrix[0, 11:].any()


@pytest.mark.parametrize(("members", "smooth"), [((0, 1, 2), 1), ((0, 1), 1), ((0, 1, 2), 21), ((0,), 21)])
def test_weather_of_training_runs_is_as_strong_as_the_generator_made_it(demo, members, smooth):
    """Whatever part of it went into the forced response."""
    made, archive, split = demo
    spans = [replace(s, members=members) for s in split.train]
    found = training_residuals(archive, spans, smooth)
    assert found.values.dtype == np.float16
    rain_scale = np.broadcast_to(made.climate.pr_scale, (12, 10, 14))
    strength = np.stack([made.climate.tas_scale, rain_scale], 1)
    for m in (0, 6):
        tas = found.values[found.month == m, 0].astype(float).std(0)
        assert archive.grid.mean(tas / strength[m, 0]) == pytest.approx(1, abs=0.025)
        rain = found.values[found.month == m, 1].astype(float)
        expected = np.sqrt(np.exp(strength[m, 1] ** 2) - 1)
        # Three numbers around their own mean say less about a skewed one: unsmoothed, some of the tail is lost.
        assert archive.grid.mean(rain.std(0) / expected) == pytest.approx(1, abs=0.03 if smooth > 1 else 0.12)
        np.testing.assert_allclose(rain.mean(0), 1, atol=2e-3)
        np.testing.assert_allclose(found.values[found.month == m, 0].astype(float).mean(0), 0, atol=2e-3)


def test_warmth_is_the_smoothed_global_temperature(demo):
    made, archive, split = demo
    span = next(s for s in split.train if s.scenario == "ssp585")
    found = training_residuals(archive, [span], 21)
    expected = archive.grid.mean(made.forced_response("ssp585")[:, 0])
    yearly = expected[: 12 * 85].reshape(85, 12).mean(1)
    global_mean = found.global_mean[: len(span)]
    assert np.abs(global_mean[6 : 12 * 85 : 12] - yearly).max() < 0.25
    np.testing.assert_array_equal(found.global_mean[len(span) : 2 * len(span)], global_mean)


@pytest.mark.parametrize(
    ("options", "length"),
    [({"similar": 1.0}, 0.05), ({"similar": 0.3}, 0.05), ({"weather": "eof", "modes": 200}, 0.25)],
)
def test_sampled_weather_is_not_to_be_told_from_a_run(demo, options, length):
    """Against the hidden scenario's own members, which nothing was fitted on; members differ among each other too.

    The noise of cells alone, which stands for what patterns leave, shortens correlations; here, with large cells, the
    classes of distance make that look like more or less.
    """
    made, archive, split = demo
    scenario, grid = archive["ssp245"], archive.grid
    base = Known(archive.domain, made.forced_response("ssp245"))
    emulator = Sampled.fit(archive, split, (base,), (), **options)
    start, stop = 661, 1021
    month = scenario.calendar_month[start:stop]
    real = made.truth("ssp245")[:, start:stop]
    runs = [VariabilityStatistics.of(r, month, grid) for r in real]
    samples = [emulator.member(i).predict_fields(scenario, start, stop) for i in range(5)]
    found = [VariabilityStatistics.of(s, month, grid) for s in samples]
    among = [runs[0].differences(run, grid) for run in runs[1:]]
    yardstick = {name: np.maximum(*(np.abs(d[name]) for d in among)) for name in among[0]}
    for one in found[:2]:
        differences = runs[0].differences(one, grid)
        assert (differences["std"] < 1.25 * yardstick["std"] + 0.01).all()
        assert (differences["memory"] < 1.25 * yardstick["memory"] + 0.02).all()
        assert (differences["together"] < 1.25 * yardstick["together"] + 0.01).all()
        assert (np.abs(differences["length"]) < length + yardstick["length"]).all()
        assert (np.abs(differences["total_std"]) < 0.04).all()
        assert (differences["seasonal_std"] < 1.25 * yardstick["seasonal_std"] + 0.03).all()
    ranks = rank_histogram(real[0], samples, grid.weights)
    np.testing.assert_allclose(ranks, 1 / 6, atol=0.015)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"smooth": 0}, RecipeError),
        ({"years": 0}, RecipeError),
        ({"modes": 0}, RecipeError),
        ({"similar": 0.0}, RecipeError),
        ({"similar": 1.5}, RecipeError),
        ({"years": 40}, ProtocolError),
    ],
)
def test_options_out_of_range_are_refused(climate, options, error):
    with pytest.raises(error):
        sampled(*climate, **options)


def test_single_run_without_smoothing_tells_no_weather(climate):
    archive, split = climate
    alone = Split(split.protocol, tuple(replace(s, members=(0,)) for s in split.train), split.scored)
    with pytest.raises(ProtocolError, match="weather from forced change"):
        sampled(archive, alone, smooth=1)
    assert sampled(archive, alone, smooth=15).predict_fields(archive["ssp245"], 0, 5).shape == (5, 2, 4, 6)


def test_drying_desert_does_not_make_one_shower_a_flood():
    """Where lines fall to nothing, and below, the factor of a month with rain would have no bound."""
    archive = warming_archive()
    for scenario in archive.values():
        rng = np.random.default_rng(1)
        drying = np.maximum(4 - 0.05 * np.arange(181), 0)[None, :, None, None]
        scenario.targets[:, :, 1] = drying + 0.3 * (rng.random(scenario.targets[:, :, 1].shape) < 0.3)
    found = training_residuals(archive, make_split(archive, "k360").train, 7)
    # No member's month is more than the mean of its cell and month, some 1.2, by 4; a quarter of that mean is least.
    assert found.values[:, 1].max() < 20
    assert found.values[:, 1].min() >= 0


@pytest.mark.real
def test_sampled_run_of_the_real_climate_model_is_not_to_be_told_from_its_members(real_archive, tmp_path):
    """On ten years that nothing was fitted on; with the linear response, whose errors detrending takes away."""
    split = make_split(real_archive, "k360")
    emulator = Sampled.fit(real_archive, split, (LinearEmulator.fit(real_archive, split),), ())
    emulator.save(tmp_path / "e")
    assert sum(p.stat().st_size for p in (tmp_path / "e").iterdir()) < 200e6
    span, grid = split.validation[0], real_archive.grid
    scenario = real_archive[span.scenario]
    month = scenario.calendar_month[span.start : span.stop]
    runs = [VariabilityStatistics.of(scenario.truth(m, span.start, span.stop), month, grid) for m in range(3)]
    one = VariabilityStatistics.of(emulator.predict_fields(scenario, span.start, span.stop), month, grid)
    among = [runs[0].differences(run, grid) for run in runs[1:]]
    found = runs[0].differences(one, grid)
    for name, value in found.items():
        yardstick = np.maximum(*(np.abs(d[name]) for d in among))
        assert (np.abs(value) < 1.25 * yardstick + 0.03).all(), name


def test_patterns_keep_distribution_memory_and_mean_of_what_they_were_fitted_to():
    """Noise of cells alone, of which one pattern catches next to nothing: skewed and remembering in both variables."""
    rng = np.random.default_rng(3)
    grid, months = small_grid(), 12 * 150
    red = rng.standard_normal((months, 2, *grid.shape))
    for t in range(1, months):
        red[t] = 0.7 * red[t - 1] + np.sqrt(1 - 0.49) * red[t]
    month = np.arange(months) % 12
    values = np.where(month < 6, 2.0, 1.0)[:, None, None, None] * red
    values[:, 1] = np.exp(1.2 * red[:, 1] - 0.72)  # mean one
    first, global_mean = np.array([0]), np.zeros(months, np.float32)
    residuals = Residuals(values.astype(np.float16), first, month, global_mean)
    modes = Modes.fit(residuals, grid, (False, True), modes=1, seed=0)
    scenario = coded_archive(months=121)["ssp245"]
    drawn = np.stack([modes.sample(scenario, k, 0, 121) for k in range(60)])
    assert drawn[:, scenario.calendar_month < 6, 0].std() == pytest.approx(2.0, rel=0.05)
    assert drawn[:, scenario.calendar_month >= 6, 0].std() == pytest.approx(1.0, rel=0.05)
    score = np.log(np.maximum(drawn[:, :, 1], 1e-3))
    score = (score - score.mean()) / score.std()
    assert (score[:, 1:] * score[:, :-1]).mean() == pytest.approx(0.7, abs=0.03)
    assert drawn[:, :, 1].mean() == pytest.approx(1.0, abs=0.03)
    rain = np.sort(drawn[:, :, 1].ravel())
    real = np.sort(values[:, 1].ravel())
    for share in (0.05, 0.5, 0.95):
        assert rain[int(share * len(rain))] == pytest.approx(real[int(share * len(real))], rel=0.08)
    fine = np.random.default_rng(5).standard_normal(50_000)
    tables = modes.quantiles[0, :, 1].reshape(len(NODES), -1).T.astype(float)
    np.testing.assert_allclose([np.interp(fine, NODES, table).mean() for table in tables], 1.0, atol=0.025)


def test_strength_is_right_where_patterns_go_together_in_one_season_alone():
    """Drawn with their correlation over the whole year, they would be too weak in summer and too strong in winter."""
    rng = np.random.default_rng(4)
    grid, months = small_grid(), 12 * 150
    one, other, noise = rng.standard_normal((3, months, 8))
    month = np.arange(months) % 12
    summer = (month < 6)[:, None]
    one, other = one[:, :1], np.where(summer, one[:, :1], other[:, :1])
    both = np.where(summer, one, noise)
    field = np.concatenate([one + 0.1 * noise, other - 0.1 * noise, both], 1).reshape(months, 1, *grid.shape)
    values = np.concatenate([field, np.exp(0.3 * field)], 1).astype(np.float16)
    residuals = Residuals(values, np.array([0]), month, np.zeros(months, np.float32))
    modes = Modes.fit(residuals, grid, (False, True), modes=2, seed=0)
    scenario = coded_archive(months=121)["ssp245"]
    drawn = np.concatenate([modes.sample(scenario, k, 0, 121)[:120] for k in range(60)])
    month = np.tile(np.arange(12), 600)
    for season in (month < 6, month >= 6):
        expected = values[np.resize(season, months), 0].astype(float).std(0)
        np.testing.assert_allclose(drawn[season, 0].std(0), expected, rtol=0.08)


def test_warmth_of_a_month_is_of_the_year_around_it():
    archive = warming_archive()
    scenario = archive["ssp126"]
    steady = np.zeros_like(scenario.targets)
    steady[:, :, 0] = np.arange(len(scenario), dtype=np.float32)[:, None, None]
    steady = replace(archive, scenarios={**archive.scenarios, "ssp126": replace(scenario, targets=steady)})
    for smooth in (1, 5):
        found = _global_mean(steady, Span("ssp126", 12, 132, (0, 1, 2)), smooth)
        # Before the middle of the first year, and after that of the last, nothing is known but those years.
        np.testing.assert_allclose(found, 12 + np.clip(np.arange(120), 5.5, 113.5), rtol=1e-5)


def test_blocks_fit_where_the_longest_run_holds_one_from_any_calendar_month():
    """Nine years and eleven months hold a block of nine years from any calendar month; a month less does not."""
    archive = warming_archive(months=12 * 9 + 11)
    options = {"weather": "blocks", "smooth": 15, "years": 9, "alike": ()}
    whole, short = (Span("ssp126", start, len(archive["ssp126"]), (0, 1, 2)) for start in (0, 1))
    Sampled.check_training(archive, [whole], **options)
    with pytest.raises(ProtocolError, match="no block of 9 years from any calendar month") as caught:
        Sampled.check_training(archive, [short], **options)
    assert caught.value.hint == "--set model.years=8"
