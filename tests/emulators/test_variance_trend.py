"""Slopes of variability that are of other months, other decades or other bounds than they are said to be."""

from dataclasses import replace

import numpy as np
import pytest

from emukit.emulators.variability import (
    Decade,
    _slope,
    believed_slope,
    change,
    global_mean_range,
    level_at_middle,
)
from tests.coded import small_grid

GRID = small_grid(2, 3)
SHAPE = (2, *GRID.shape)
# By calendar month: variance, and change of its logarithm per K.
LEVEL = 1.0 + np.arange(12) / 6
RATE = 0.1 + 0.03 * np.arange(12)


def decade(global_mean, variance, freedom=20.0, scenario="a"):
    """A decade whose every variable and cell has the same (12,) variance."""
    fields = np.broadcast_to(np.asarray(variance, float)[:, None, None, None], (12, *SHAPE)).copy()
    one = np.ones(SHAPE)
    return Decade(scenario, global_mean, fields, np.full(12, freedom), one, one, fields)


def test_range_is_half_of_the_warmings_wider_and_its_middle_counts_years():
    found = global_mean_range([decade(280.0, LEVEL, 20.0), decade(284.0, LEVEL, 10.0)])
    np.testing.assert_allclose(found, [(2 * 280 + 284) / 3, 278.0, 286.0])


def test_change_is_never_more_than_fourfold():
    np.testing.assert_allclose(change(np.array([0.1, 5.0, -5.0, 0.0]), 2.0), [np.exp(0.2), 4.0, 0.25, 1.0])


def test_slope_is_that_of_each_month_with_its_two_neighbours():
    rng = np.random.default_rng(0)
    warmths, freedoms = [280.0, 280.7, 281.9, 284.0], [20.0, 10.0, 30.0, 20.0]
    logs = rng.normal(size=(4, 12))
    found = _slope([decade(w, np.exp(x), f) for w, x, f in zip(warmths, logs, freedoms, strict=True)])
    middle = np.average(warmths, weights=freedoms)
    for m in range(12):
        product = square = 0.0
        for near in (m - 1, m, (m + 1) % 12):
            mean = np.average(logs[:, near], weights=freedoms)
            for w, x, f in zip(warmths, logs[:, near], freedoms, strict=True):
                product += f * (w - middle) * (x - mean)
                square += f * (w - middle) ** 2
        np.testing.assert_allclose(found[m], product / square)


@pytest.mark.parametrize(("apart", "there"), [(0.15, False), (0.25, True)])
def test_a_tenth_of_a_degree_is_no_warming(apart, there):
    # Two decades are half as far from their mean as from each other.
    found = _slope([decade(280.0, LEVEL), decade(280.0 + apart, LEVEL * np.exp(apart))])
    np.testing.assert_allclose(found, 1.0 if there else 0.0)


def test_month_without_variance_counts_as_a_thousandth_of_the_mean():
    dry = LEVEL.copy()
    dry[:] = 0.0
    found = _slope([decade(280.0, dry), decade(281.0, np.full(12, 2.0))])
    np.testing.assert_allclose(found, np.log(2.0) - np.log(1e-3))


def test_level_is_what_the_decades_say_of_the_middle():
    slope = np.broadcast_to(RATE[:, None, None, None], (12, *SHAPE))
    decades = [decade(w, LEVEL * np.exp(RATE * (w - 282.0)), f) for w, f in ((280.0, 10.0), (283.0, 20.0))]
    # The middle, by years: 282 K.
    np.testing.assert_allclose(level_at_middle(decades, slope)[:, 0, 0, 0], LEVEL)


def warming(scenario, rates, sign=1.0):
    return [decade(w, LEVEL * np.exp(sign * rates * (w - 282.0)), 20.0, scenario) for w in (280.0, 281.0, 282.0, 284.0)]


def test_a_slope_is_believed_as_far_as_scenarios_bear_it_out():
    rates = np.full(12, 0.3)
    agreed = believed_slope([*warming("a", rates), *warming("b", rates)], GRID)
    np.testing.assert_allclose(agreed, 0.3)
    # Of two that say the opposite nothing is left; of one alone nobody knows.
    np.testing.assert_allclose(
        believed_slope([*warming("a", rates), *warming("b", rates, -1.0)], GRID), 0.0, atol=1e-12
    )
    np.testing.assert_allclose(believed_slope(warming("a", rates), GRID), 0.0)


def test_what_goes_further_than_the_others_is_expected_at_the_end_of_their_range():
    # Two degrees were seen: slopes hold up to one beyond, 283 K, and a decade at 290 K is taken for one there.
    cool = [decade(w, LEVEL * np.exp(0.3 * (w - 281.0)), 20.0, "a") for w in (280.0, 281.0, 282.0)]
    far = decade(290.0, LEVEL * np.exp(0.3 * (283.0 - 281.0)), 20.0, "b")
    together = believed_slope([*cool, far], GRID)
    np.testing.assert_allclose(together, _slope([*cool, far]))


def test_no_scenario_bears_out_what_it_said_itself():
    # The first has three times the years: the slope of both together is its own, in part, and would foretell it.
    loud = [replace(d, freedom=3 * d.freedom) for d in warming("a", np.full(12, 0.3))]
    both = [*loud, *warming("b", np.full(12, 0.3), -1.0)]
    assert (_slope(both) > 0.1).all()
    np.testing.assert_allclose(believed_slope(both, GRID), 0.0, atol=1e-12)


def test_variables_are_believed_one_by_one():
    rates = np.full(12, 0.3)
    decades = [*warming("a", rates), *warming("b", rates)]
    for d in decades[4:]:
        d.variance[:, 1] = (LEVEL * np.exp(-0.3 * (d.global_mean - 282.0)))[:, None, None]
    found = believed_slope(decades, GRID)
    np.testing.assert_allclose(found[:, 0], 0.3)
    np.testing.assert_allclose(found[:, 1], 0.0, atol=1e-12)
