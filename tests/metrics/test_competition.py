"""A score that is not the competition's, or depends on how the months were divided."""

import itertools
import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emukit.data.grid import Grid
from emukit.metrics import Moments
from tests.coded import score_moments, small_grid

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "competition_metric.json").read_text())["cases"]


def golden_fields(case):
    """As the golden file says they were made."""
    rng = np.random.default_rng(case["seed"])
    shape = tuple(case["shape"])
    truth_tas = 280 + 10 * rng.standard_normal(shape)
    truth_pr = rng.gamma(0.7, 4.0, shape)
    tas = truth_tas + rng.standard_normal(shape)
    pr = np.maximum(truth_pr + rng.standard_normal(shape), 0)
    return np.stack([tas, pr], 1), np.stack([truth_tas, truth_pr], 1)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"seed{c['seed']}")
def test_golden_cases(case):
    moments = Moments.of(*golden_fields(case))
    score = score_moments(moments, Grid(np.array(case["lat"]), np.array(case["lon"])).weights)
    for v, parts in case["parts"].items():
        for name, value in parts.items():
            assert score[f"{v}.{name}"] == pytest.approx(value, rel=1e-9)
    rounded = Grid(np.round(case["lat"], 2), np.array(case["lon"]))
    assert score_moments(moments, rounded.weights).value == pytest.approx(case["official_score"], abs=1e-12)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.randoms(use_true_random=False))
def test_score_does_not_depend_on_partition_or_order(lengths, random):
    grid = small_grid()
    rng = np.random.default_rng(0)
    n = sum(lengths)
    truth = 280 + rng.normal(size=(n, 2, *grid.shape))
    prediction = truth + rng.normal(size=truth.shape)
    whole = score_moments(Moments.of(prediction, truth), grid.weights)
    order = list(range(n))
    random.shuffle(order)
    edges = np.cumsum([0, *lengths])
    parts = [Moments.of(prediction[order[a:b]], truth[order[a:b]]) for a, b in itertools.pairwise(edges)]
    total = Moments.zero(truth.shape[1:])
    for p in parts:
        total = total + p
    assert score_moments(total, grid.weights).value == pytest.approx(whole.value, rel=1e-10)
    assert total.n == n


def test_float32_fields_are_summed_in_float64():
    """A sum of squares of 280 K fields in float32 errs by 0.25 K in the standard deviation."""
    grid = small_grid()
    truth = (280 + 0.5 * np.random.default_rng(1).normal(size=(360, 2, *grid.shape))).astype(np.float32)
    still = np.broadcast_to(truth.mean(0, dtype=np.float64), truth.shape).astype(np.float32)
    score = score_moments(Moments.of(still, truth), grid.weights)
    spread = grid.mean(truth.astype(np.float64).std(0))
    assert score["tas.time_stddev_mae"] == pytest.approx(spread[0], rel=1e-6)


def test_a_notebook_that_shows_a_score_shows_its_numbers_and_not_every_function_of_its_competition():
    fields = np.ones((3, 2, 4, 6))
    shown = repr(score_moments(Moments.of(fields, fields), small_grid().weights[:4, :6]))
    assert "Competition('cse151b')" in shown
    assert "tas.time_mean_rmse" in shown
    assert len(shown) < 500


def test_no_months_is_no_score():
    with pytest.raises(ValueError, match="no months"):
        score_moments(Moments.zero((2, 4, 6)), small_grid().weights)


def test_months_and_fields_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="must both be"):
        Moments.of(np.zeros((3, 2, 4, 6)), np.zeros((4, 2, 4, 6)))


def test_every_sum_is_added():
    a = Moments.of(np.ones((2, 1, 2, 2)), np.full((2, 1, 2, 2), 3.0))
    total = a + a
    for f in (f for f in fields(Moments) if f.name != "more"):
        np.testing.assert_array_equal(getattr(total, f.name), 2 * np.asarray(getattr(a, f.name)))


@pytest.mark.real
def test_another_real_run_scores_as_golden(real_archive):
    golden = json.loads((GOLDEN / "real_store_member1_vs_member0.json").read_text())
    spans = {
        "ssp370 2060-02..2070-01 (120 months)": ("ssp370", 541, 661),
        "ssp585 last 360 months": ("ssp585", 661, 1021),
    }
    rounded = Grid(np.round(real_archive.grid.lat, 2), real_archive.grid.lon)
    for name, (scenario, start, stop) in spans.items():
        s = real_archive[scenario]
        moments = Moments.of(s.truth(1, start, stop), s.truth(0, start, stop))
        score = score_moments(moments, real_archive.grid.weights)
        for v, parts in golden[name]["parts"].items():
            for part, value in parts.items():
                assert score[f"{v}.{part}"] == pytest.approx(value, rel=1e-6)
        assert score_moments(moments, rounded.weights).value == pytest.approx(golden[name]["official_score"], abs=1e-7)
