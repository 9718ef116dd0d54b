"""Samples that are no weather, change with the months asked for, or know the months that are scored."""

from dataclasses import replace

import numpy as np
import pytest

from emukit.data.demo import DemoClimate
from emukit.data.split import Split, make_split
from emukit.data.store import archive_from_dataset
from emukit.emulators.base import Emulator
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.emulators.residuals import Residuals, smoother, training_residuals
from emukit.emulators.sampled import Blocks, Sampled
from emukit.errors import ProtocolError, RecipeError
from emukit.metrics.weather import Weather, rank_histogram
from tests.coded import coded_archive, warming_archive

FEATURES = ("CO2", "SO2")
KINDS = [{"weather": "blocks"}, {"weather": "blocks", "similar": 0.3}, {"weather": "eof", "modes": 8}]


def sampled(archive, split, **options):
    base = LinearEmulator.fit(archive, split, features=FEATURES)
    options = {"years": 2, "smooth": 15} | options
    return Sampled.fit(archive, split, (base,), (), **options)


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


def rows_that_spell_themselves(runs=(40, 75), first_month=3):
    """Residuals whose values are their row, in both variables; a run begins in April."""
    first = np.cumsum([0, *runs[:-1]])
    row = np.arange(sum(runs))
    values = np.broadcast_to(row[:, None, None, None], (len(row), 2, 2, 3)).astype(np.float16)
    month = np.concatenate([(np.arange(n) + first_month) % 12 for n in runs])
    return Residuals(values, first, month, (row % 1000).astype(np.float32))


def test_blocks_are_whole_years_of_one_run_in_their_own_season():
    scenario = coded_archive()["ssp245"]  # 121 months from January: the last block begins in a February
    blocks = Blocks(rows_that_spell_themselves(), years=2, similar=1.0, seed=0)
    begun = set()
    for number in range(40):
        rows = blocks.sample(scenario, number, 0, 121, lambda a, b: 0.0)
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
    blocks = Blocks(residuals, years=2, similar=0.1, seed=0)
    asked = []

    def warmth(first, last):
        asked.append((first, last))
        return 200.0

    for number in range(20):
        rows = blocks.sample(scenario, number, 0, 121, warmth)[:, 0, 0, 0]
        assert abs(rows[-24:].mean() - 200) <= 24
    assert (97, 121) in asked
    assert (0, 12) in asked  # the first block holds one month: its year is compared, not its season


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
    warmth = found.warmth[: len(span)]
    assert np.abs(warmth[6 : 12 * 85 : 12] - yearly).max() < 0.25
    np.testing.assert_array_equal(found.warmth[len(span) : 2 * len(span)], warmth)


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
    runs = [Weather.of(r, month, grid) for r in real]
    samples = [emulator.member(i).predict_fields(scenario, start, stop) for i in range(5)]
    found = [Weather.of(s, month, grid) for s in samples]
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
