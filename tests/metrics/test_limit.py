"""A limit that no emulator could reach, or that a real one would be told to have passed."""

import math

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.metrics import Moments
from emukit.metrics.limit import Ceiling, ceilings_of, mean_left
from emukit.metrics.standard import relative_rmse, step_rmse
from emukit.runs.evaluate import noise_ceiling
from tests.coded import limit_score, score_moments

MONTHS, CELLS = 60, (10, 30)
RUNS = 36


@pytest.fixture(scope="module")
def climate():
    """The forced response, and runs with weather of months and of whole runs; (R, T, V, Y, X)."""
    rng = np.random.default_rng(0)
    t = np.arange(MONTHS)[:, None, None]
    forced = rng.uniform(0.0, 3.0, CELLS) * np.cos(2 * np.pi * t / 12) + rng.uniform(0, 1, CELLS) * t / MONTHS
    size = np.stack([rng.uniform(0.5, 2.0, CELLS), rng.uniform(0.1, 0.5, CELLS)])
    forced = np.stack([forced, 0.1 * forced], 1) + np.array([280.0, 3.0])[:, None, None]
    runs = forced + size * rng.normal(size=(RUNS, MONTHS, 2, *CELLS))
    runs += 0.3 * size * rng.normal(size=(RUNS, 1, 2, *CELLS))
    weights = np.broadcast_to(np.cos(np.linspace(-1.5, 1.5, CELLS[0]))[:, None], CELLS)
    return forced, runs, weights


def numbers(score):
    return np.array([*score.numbers.values()])


def test_three_runs_tell_what_the_perfect_emulator_scores_on_any_run(climate):
    """The perfect emulator is made here of what no one knows: the forced response, and the mean spread of all runs."""
    forced, runs, weights = climate
    mean = forced.mean(0)
    perfect = mean + (forced - mean) * runs.std(1).mean(0) / forced.std(0)
    reached = np.mean([numbers(score_moments(Moments.of(perfect, run), weights)) for run in runs], 0)
    estimates = [numbers(limit_score(runs[i : i + 3], weights)) for i in range(0, RUNS, 3)]
    np.testing.assert_allclose(np.mean(estimates, 0), reached, rtol=0.02)
    # A single estimate is near enough to be of use.
    np.testing.assert_allclose(estimates[0], reached, rtol=0.15)


def test_weather_of_one_pattern_has_the_root_of_one_run_and_not_the_larger_one_of_a_pooled_variance():
    """A run's time mean is off by a pattern times a standard normal number: the mean of its size is sqrt(2 / pi).

    The root of the variance of three runs would be 0.886 on average, that of many of them one.
    """
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=(1, 4, 6))
    pattern /= np.sqrt((pattern**2).mean())
    known = Ceiling((mean_left,), math.sqrt)
    sets = rng.normal(size=(4000, 3, 1, 1, 1, 1)) * pattern
    found = np.mean([ceilings_of(np.repeat(runs, 2, 1), np.ones((4, 6)), 0, [known]) for runs in sets])
    assert found == pytest.approx(math.sqrt(2 / math.pi), rel=0.02)


def test_three_runs_tell_it_where_the_weather_of_the_globe_goes_together():
    """Every number of a climate with two patterns that decades remember, whose forced response and spread are known."""
    rng = np.random.default_rng(1)
    sets, months, cells = 300, 48, (4, 6)
    t = np.arange(months)[:, None, None]
    forced = rng.uniform(1.0, 3.0, cells) * np.cos(2 * np.pi * t / 12) + rng.uniform(0, 1, cells) * t / months
    forced = np.stack([forced, 0.5 * forced], 1)
    patterns = rng.normal(size=(2, 2, *cells))
    slow = rng.normal(size=(3 * sets, 1, 2)) + 0.5 * rng.normal(size=(3 * sets, months, 2))
    runs = forced + 0.3 * np.tensordot(slow, patterns, 1) + 0.5 * rng.normal(size=(3 * sets, months, 2, *cells))
    weights, mean = np.ones(cells), forced.mean(0)
    perfect = mean + (forced - mean) * runs.std(1).mean(0) / forced.std(0)
    reached = np.mean([numbers(score_moments(Moments.of(perfect, run), weights)) for run in runs], 0)
    found = [numbers(limit_score(runs[i : i + 3], weights)) for i in range(0, 3 * sets, 3)]
    np.testing.assert_allclose(np.mean(found, 0), reached, rtol=0.015)


def test_a_ratio_of_pairs_is_that_of_the_runs():
    """Relative errors divide by what the same two runs vary: where all vary by one, by one."""
    rng = np.random.default_rng(2)
    runs = rng.normal(size=(4, 600, 1, 3, 4))
    relative = relative_rmse("tas").ceiling
    step = step_rmse("tas", "K").ceiling
    shares, steps = ceilings_of(runs, np.ones((3, 4)), 0, [relative, step])
    # Without a forced response nothing can be known: the error is the weather, and what is made up to vary like it.
    assert shares == pytest.approx(steps / runs.std(1).mean(), rel=0.01)


def test_limit_is_below_what_another_run_scores(climate):
    _, runs, weights = climate
    other = score_moments(Moments.of(runs[1], runs[0]), weights)
    assert limit_score(runs[:3], weights).value < 0.75 * other.value


def test_order_and_number_of_runs_do_not_move_it(climate):
    _, runs, weights = climate
    np.testing.assert_allclose(numbers(limit_score(runs[2::-1], weights)), numbers(limit_score(runs[:3], weights)))
    pairs = np.mean([numbers(limit_score(runs[i : i + 2], weights)) for i in range(0, RUNS, 2)], 0)
    np.testing.assert_allclose(numbers(limit_score(runs, weights)), pairs, rtol=0.02)


def test_runs_without_weather_can_be_met_exactly(climate):
    forced, _, weights = climate
    assert limit_score(np.stack([forced, forced]), weights).value == pytest.approx(0.0, abs=1e-9)


def test_one_run_gives_none(climate):
    _, runs, weights = climate
    with pytest.raises(ValueError, match="two runs"):
        limit_score(runs[:1], weights)


@pytest.mark.real
def test_real_limits_are_the_published_ones(real_archive):
    """0.44 on ten years, 0.31 to 0.33 on thirty, as found with other code."""
    decade = noise_ceiling(real_archive, make_split(real_archive, "k360").validation)
    assert decade.value == pytest.approx(0.44, abs=0.03)
    for scenario in ("ssp126", "ssp585"):
        split = make_split(real_archive, f"loso:{scenario}")
        assert 0.28 < noise_ceiling(real_archive, split.scored["test"]).value < 0.40
