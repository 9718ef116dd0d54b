"""A classifier that is judged on what it has seen, or that tells runs apart by what is no variability."""

import numpy as np
import pytest

from emukit.metrics.ensemble import TwoSample, mean_test, two_sample_test

MONTHS = 360
SEASON = np.arange(MONTHS) % 12


def run(seed, scale=1.0, memory=0.5, together=0.6, trend=0.0):
    """(T, 2, 8)."""
    z = np.random.default_rng(seed).normal(size=(MONTHS, 2, 8))
    for t in range(1, MONTHS):
        z[t] = memory * z[t - 1] + np.sqrt(1 - memory**2) * z[t]
    z[:, 1] = together * z[:, 0] + np.sqrt(1 - together**2) * z[:, 1]
    return scale * z + trend * np.arange(MONTHS)[:, None, None] + 3 * np.sin(SEASON)[:, None, None]


def compared(**changed):
    return two_sample_test([(run(i), run(100 + i, **changed)) for i in range(3)], SEASON, 12)


def test_runs_of_one_kind_are_not_told_apart_whatever_their_trend():
    same = compared()
    assert same.low < 0.5 < same.high
    assert same.pairs == 3
    warmer = compared(trend=0.02)
    assert warmer.accuracy == pytest.approx(same.accuracy, abs=1e-9)


@pytest.mark.parametrize("changed", [{"scale": 1.3}, {"scale": 0.75}, {"memory": 0.0}, {"together": 0.0}])
def test_other_variances_memories_and_correlations_are_found_out(changed):
    found = compared(**changed)
    assert found.low > 0.5
    assert found.accuracy > 0.57


def test_labels_do_not_matter():
    pairs = [(run(i), run(100 + i, scale=1.2)) for i in range(2)]
    there, back = (two_sample_test(p, SEASON, 12) for p in (pairs, [(b, a) for a, b in pairs]))
    assert there.accuracy == pytest.approx(back.accuracy, abs=0.01)


def test_noise_is_not_learned_from_the_years_that_are_judged():
    """Two hundred regions for thirty years: a classifier knows every month that it has seen by heart."""
    rng = np.random.default_rng(9)
    found = two_sample_test([tuple(rng.normal(size=(2, MONTHS, 1, 200)))], SEASON, 12)
    assert found.low < 0.5 < found.high
    assert found.accuracy < 0.6


def test_too_few_steps_are_refused_and_periods_are_averaged():
    with pytest.raises(ValueError, match="eight steps"):
        two_sample_test([(run(0)[:7], run(1)[:7])], SEASON[:7], 12)
    with pytest.raises(ValueError, match="pair"):
        two_sample_test([], SEASON, 12)
    mean = mean_test([TwoSample(0.6, 0.5, 0.7, 2), TwoSample(0.5, 0.4, 0.6, 3)])
    assert (mean.accuracy, mean.pairs) == (pytest.approx(0.55), 5)
    assert mean.high - mean.accuracy == pytest.approx(0.1 / np.sqrt(2))
