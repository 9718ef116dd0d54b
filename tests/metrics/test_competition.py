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
from emukit.metrics import Competition, Metric, Moments, Score, mean_score
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


def small_competition(**changes):
    """One metric that counts and one that is only shown."""
    shown = {"heading": "h", "title": "t", "description": "d", "variable": "tas"}
    metrics = (
        Metric(key="tas.error", function=lambda m, w: (w * m.ee / m.n).sum((-2, -1)), lowest=0.0, **shown),
        Metric(key="tas.bias", function=lambda m, w: (w * (m.p - m.t) / m.n).sum((-2, -1)), better="neither", **shown),
    )
    given = {"name": "n", "title": "t", "units": {"tas": "K"}, "metrics": metrics, "weights": {"tas.error": 2.0}}
    return Competition(**{**given, "description": "d", **changes})


def test_numbers_are_printed_with_their_digits_and_missing_ones_are_empty():
    error, bias = small_competition().columns[1:]
    assert (error.text(1.23456), error.text(-0.0004)) == ("1.235", "-0.000")
    assert (error.text(None), error.text(float("nan"))) == ("", "")
    # Two entries next to each other on a leaderboard mostly differ in the fourth digit.
    assert small_competition().columns[0].text(1.23456) == "1.2346"
    assert (bias.full_heading, error.full_heading) == ("t", "t")


def test_what_is_near_zero_is_the_better_bias_and_its_side_is_not():
    score, error, bias = small_competition().columns
    assert [c.sign for c in (score, error, bias)] == [1, 1, 0]
    assert (error.cost(-2.0), bias.cost(-2.0), bias.cost(2.0)) == (-2.0, 2.0, 2.0)
    higher = small_competition(higher_is_better=True).columns[0]
    assert (higher.sign, higher.cost(3.0), higher.better) == (-1, -3.0, "higher")


def test_a_score_is_at_least_zero_only_where_nothing_counts_backwards():
    """A kept score below it is taken for damaged."""
    assert small_competition().columns[0].lowest == 0.0
    assert small_competition(weights={"tas.error": -1.0}).columns[0].lowest == -np.inf
    assert small_competition(weights={"tas.error": 1.0, "tas.bias": 1.0}).columns[0].lowest == -np.inf


def test_a_number_that_counts_and_is_missing_is_no_score_unless_asked_for():
    strict, lenient = small_competition(), small_competition(skip_missing=True)
    assert np.isnan(strict.value({"tas.bias": 1.0}))
    both = {"weights": {"tas.error": 2.0, "tas.bias": 1.0}}
    assert strict.value({"tas.error": 3.0}) == 6.0
    # What is left is scaled up to the weight of all.
    assert small_competition(skip_missing=True, **both).value({"tas.error": 3.0}) == pytest.approx(9.0)
    arrays = {"tas.error": np.array([3.0, np.nan]), "tas.bias": np.array([1.0, 1.0])}
    np.testing.assert_allclose(small_competition(skip_missing=True, **both).value(arrays), [7.0, 3.0])
    assert np.isnan(lenient.value({"tas.bias": 1.0}))


def test_a_file_without_a_number_that_counts_is_damaged_and_without_another_is_not():
    strict, lenient = small_competition(), small_competition(skip_missing=True)
    for values in ({}, {"tas": {"bias": 1.0}}):
        with pytest.raises(KeyError):
            strict.flatten(values)
    assert strict.flatten({"tas": {"error": 2}}) == {"tas.error": 2.0}
    assert strict.flatten({"tas": {"error": 2, "bias": 1}}) == {"tas.error": 2.0, "tas.bias": 1.0}
    assert lenient.flatten({}) == {}
    score = Score(strict, {"tas.error": 2.0}, 12)
    assert Score.from_dict(strict, score.as_dict()).numbers == score.numbers
    with pytest.raises(ValueError, match="the numbers make 4"):
        Score.from_dict(strict, {**score.as_dict(), "score": 5.0})


def test_a_competition_cannot_be_changed_in_place():
    """Every score of a process shares it."""
    with pytest.raises(AttributeError, match="cannot assign"):
        small_competition().higher_is_better = True
    with pytest.raises(AttributeError, match="cannot assign"):
        small_competition().metrics[0].digits = 9


def test_the_mean_of_scores_holds_what_all_of_them_have():
    one = small_competition()
    scores = [Score(one, {"tas.error": 1.0, "tas.bias": 5.0}, 12), Score(one, {"tas.error": 3.0}, 24)]
    mean = mean_score(scores)
    assert (mean.numbers, mean.months, mean.value) == ({"tas.error": 2.0}, 36, 4.0)


def test_a_score_is_read_by_key_and_area_weights_by_their_shape_alone():
    one = small_competition()
    rng = np.random.default_rng(0)
    truth = rng.normal(280, 5, (12, 1, 3, 4))
    moments = one.moments(truth + rng.normal(0, 1, truth.shape), truth)
    weights = rng.uniform(0.5, 1.5, (3, 4))
    score = one.score(moments, weights, ("tas",))
    assert score["score"] == score.value == 2 * score["tas.error"]
    assert score["tas.error"] == pytest.approx((weights / weights.sum() * moments.ee[0] / 12).sum())
    assert one.score(moments, 7 * weights, ("tas",)).numbers == pytest.approx(score.numbers)


def test_the_direction_and_the_cost_of_a_score_follow_the_competition():
    lower, higher = small_competition(), small_competition(higher_is_better=True)
    assert (lower.direction, higher.direction) == ("lower is better", "higher is better")
    assert (lower.cost(2.0), higher.cost(2.0)) == (2.0, -2.0)
    assert Score(higher, {"tas.error": 3.0}, 1).cost == -6.0


def test_units_stand_in_a_full_heading_and_terms_of_two_kinds_are_refused():
    def size(prediction, truth):
        return np.abs(prediction)

    shown = {"heading": "h", "title": "error", "description": "d", "variable": "tas", "function": lambda m, w: 0.0}
    metrics = [Metric(key=f"tas.{n}", units="K", terms={"size": size}, **shown) for n in ("a", "b")]
    both = small_competition(metrics=tuple(metrics), weights={"tas.a": 1.0})
    assert both.terms == {"size": size}
    assert [c.full_heading for c in both.columns] == ["score", "error, K", "error, K"]
    other = Metric(key="tas.c", terms={"size": lambda p, t: p}, **shown)
    with pytest.raises(ValueError, match=r"tas\.c: another term size"):
        small_competition(metrics=(*metrics, other), weights={"tas.a": 1.0})


def test_without_a_ceiling_of_what_counts_there_is_no_limit():
    runs = np.random.default_rng(0).normal(280, 5, (3, 12, 1, 2, 3))
    assert small_competition().limit(runs, np.ones((2, 3)), ("tas",)) is None
