"""Numbers of weather that do not say what they are named after."""

import numpy as np
import pytest

from emukit.metrics.variability import VariabilityStatistics, anomalies, chance_of_ranks, rank_histogram
from tests.coded import small_grid

MONTH = np.arange(480) % 12


@pytest.fixture(scope="module")
def noise():
    """Seasonal cycle, trend, and red noise of known strength, memory and correlation between the variables."""
    grid = small_grid(12, 18)
    rng = np.random.default_rng(0)
    white = rng.standard_normal((480, 2, *grid.shape))
    red = white.copy()
    for t in range(1, 480):
        red[t] = 0.6 * red[t - 1] + 0.8 * white[t]
    strength = np.where((MONTH < 6)[:, None, None], 2.0, 1.0)
    tas = red[:, 0] * strength
    pr = 0.6 * red[:, 0] + 0.8 * red[:, 1]
    climate = 280 + 10 * np.cos(2 * np.pi * MONTH / 12) + 0.01 * np.arange(480)
    return np.stack([tas + climate[:, None, None], pr + 5], 1), grid


def test_strength_season_memory_and_correlation_are_those_put_in(noise):
    fields, grid = noise
    found = VariabilityStatistics.of(fields, MONTH, grid)
    assert grid.mean(found.std) == pytest.approx([np.sqrt(2.5), 1.0], rel=0.03)
    np.testing.assert_allclose(found.seasonal_std[:6, 0], 2.0, rtol=0.1)
    np.testing.assert_allclose(found.seasonal_std[6:, 0], 1.0, rtol=0.1)
    assert grid.mean(found.memory)[1] == pytest.approx(0.6, abs=0.03)
    # The seasons of tas dilute its correlation with pr: 0.6 E[s] / sqrt(E[s^2]) for strengths s of 1 and 2.
    assert grid.mean(found.together)[0] == pytest.approx(0.6 * 1.5 / np.sqrt(2.5), abs=0.03)


def test_correlation_length_is_that_of_the_generator():
    from emukit.data.demo.planet import Planet
    from emukit.data.demo.weather import weather

    grid = Planet(36, 48, 0).grid
    lengths = []
    for km in (800.0, 1600.0):
        field = weather(np.random.default_rng(1), 480, grid, np.full(grid.shape, 0.2), km, km)
        lengths.append(VariabilityStatistics.of(np.stack([field, field], 1), MONTH, grid).length_km[0])
    # A correlation of exp(-d^2 / 2 L^2) falls to 1/e at L sqrt(2); near the poles the generator's is shorter.
    assert lengths[0] == pytest.approx(800 * np.sqrt(2), rel=0.15)
    assert lengths[1] == pytest.approx(1600 * np.sqrt(2), rel=0.15)


def test_anomalies_know_neither_season_nor_trend(noise):
    fields, _ = noise
    expected = anomalies(fields, MONTH)
    ramp = (np.arange(480) * (1 + MONTH))[:, None, None, None] * 0.1
    np.testing.assert_allclose(anomalies(fields + ramp, MONTH), expected, atol=1e-8)
    assert (expected[MONTH == 7] ** 2).mean() == pytest.approx(1.0, rel=0.03)


def test_differences_are_zero_for_the_same_run_and_name_what_differs(noise):
    fields, grid = noise
    one = VariabilityStatistics.of(fields, MONTH, grid)
    assert all(not value.any() for value in one.differences(one, grid).values())
    wide = fields.copy()
    wide[:, 0] = 280 + 1.5 * (wide[:, 0] - 280)
    found = one.differences(VariabilityStatistics.of(wide, MONTH, grid), grid)
    np.testing.assert_allclose(found["std"], [0.5, 0.0], atol=1e-9)
    np.testing.assert_allclose(found["total_std"], [0.5, 0.0], atol=1e-9)
    np.testing.assert_allclose(found["seasonal_std"], [0.5, 0.0], atol=1e-9)
    np.testing.assert_allclose(found["memory"], 0, atol=1e-9)


def test_rank_histogram_is_flat_for_one_of_many_and_tilted_for_an_outsider():
    rng = np.random.default_rng(2)
    weights = small_grid(6, 8).weights
    runs = rng.standard_normal((5, 400, 2, 6, 8))
    flat = rank_histogram(runs[0], list(runs[1:]), weights)
    np.testing.assert_allclose(flat.sum(0), 1)
    np.testing.assert_allclose(flat, 0.2, atol=0.02)
    outside = rank_histogram(runs[0] + [[[[3.0]], [[0.0]]]], list(runs[1:]), weights)
    assert outside[-1, 0] > 0.8
    assert outside[-1, 1] < 0.25
    tie = rank_histogram(np.zeros((1, 1, 6, 8)), [np.zeros((1, 1, 6, 8)), np.ones((1, 1, 6, 8))], weights)
    np.testing.assert_allclose(tie[:, 0], [0.5, 0.5, 0.0])


def test_ties_are_shared_evenly_among_the_ranks_they_could_have():
    dry, wet = np.zeros((1, 1, 6, 8)), np.ones((1, 1, 6, 8))
    found = rank_histogram(dry, [dry, dry, wet], small_grid(6, 8).weights)
    np.testing.assert_allclose(found[:, 0], [1 / 3, 1 / 3, 1 / 3, 0.0], rtol=1e-6)
    # A desert where every realisation says nothing tells nothing.
    np.testing.assert_allclose(rank_histogram(dry, [dry] * 4, small_grid(6, 8).weights), 0.2, rtol=1e-6)


def test_chance_of_ranks_is_that_of_truths_from_the_same_source():
    weights = small_grid(6, 8).weights
    rng = np.random.default_rng(3)

    def draws(count):
        # Every month the same over the globe, and four months alike: far fewer chances than months and cells.
        return np.repeat(rng.standard_normal((count, 30, 2, 1, 1)), 4, axis=1) * np.ones((6, 8))

    band = np.mean([chance_of_ranks(draws(6), weights) for _ in range(40)], axis=0)
    one = np.stack([rank_histogram(d[0], list(d[1:]), weights) for d in (draws(6) for _ in range(400))])
    np.testing.assert_allclose(band, one.std(0), rtol=0.15)
    # What counting every month and cell as a draw of its own would say.
    assert band.min() > 3 * np.sqrt(1 / 6 * 5 / 6 / (120 * 48))


def test_chance_of_two_that_never_agree_is_all_or_nothing():
    low = np.zeros((5, 1, 6, 8))
    found = chance_of_ranks([low, low + 1], small_grid(6, 8).weights)
    np.testing.assert_allclose(found[:, 0], [0.5, 0.5])
