"""The ClimX score against the organisers' scorer, and emukit's reading of an ensemble's."""

import json
from pathlib import Path

import numpy as np
import pytest

from emukit.competitions.climx.score import ClimXScore, crps_efficiency, expand, regions, score_index
from emukit.metrics.ensemble import crps
from tests.golden import climx_fields

CASE = json.loads((Path(__file__).parents[1] / "golden" / "climx.json").read_text())["cases"][0]


@pytest.fixture(scope="module")
def scores():
    return {name: score_index(*pair) for name, pair in climx_fields.score_case(CASE["seed"]).items()}


def test_a_score_that_differs_from_the_organisers(scores):
    golden = CASE["score_case"]
    assert ClimXScore(scores).value == pytest.approx(golden["total"], abs=1e-9)
    for name, score in scores.items():
        assert score.value == pytest.approx(golden["per_column"][name], abs=1e-9)
        assert score.cells == golden["valid_land_cells"][name]
        np.testing.assert_allclose(list(score.by_region.values()), list(golden["per_region"][name].values()), atol=1e-9)


def test_regions_that_lost_cells():
    where = regions()
    assert len(where.names) == 46
    assert (where.cells >= 0).sum() == 27871
    # Greenland and Iceland lie north, East Antarctica south.
    rows = np.linspace(-90, 90, 192)
    assert rows[(where.cells == where.names.index("GIC")).any(1)].min() > 50
    assert rows[(where.cells == where.names.index("EAN")).any(1)].max() < -60


def test_a_lite_field_that_scores_otherwise_than_its_cells_repeated():
    rng = np.random.default_rng(3)
    truth = rng.normal(0, 1, (12, 12, 18))
    prediction = truth + rng.normal(0, 0.7, truth.shape)
    lite, full = score_index(truth, prediction), score_index(expand(truth), expand(prediction))
    assert lite.value == pytest.approx(full.value, abs=1e-12)
    assert lite.cells == full.cells
    assert dict(lite.by_region) == pytest.approx(dict(full.by_region), abs=1e-12)
    with pytest.raises(ValueError, match="does not divide"):
        expand(np.zeros((3, 13, 18)))


def test_a_constant_index_that_is_given_a_score():
    truth = np.full((5, 12, 18), 365.0)
    score = score_index(truth, truth)
    assert score.value is None
    assert score.cells == 0
    assert ClimXScore({"GSL": score}).value == 0.0


def test_a_value_that_is_not_finite():
    truth = np.random.default_rng(0).normal(0, 1, (5, 12, 18))
    broken = truth.copy()
    broken[2, 3, 4] = np.inf
    with pytest.raises(ValueError, match="finite"):
        score_index(truth, broken)
    with pytest.raises(ValueError, match="must both be"):
        score_index(truth, truth[:4])


def test_a_crps_that_differs_from_its_definition():
    golden = CASE["crps"]
    rng = np.random.default_rng(2000 + CASE["seed"])
    truth = rng.normal(0, 1, 40)
    members = 0.3 * truth + rng.normal(0, 1, (7, 40))
    assert crps(members, truth).mean() == pytest.approx(golden["ensemble_mean"], abs=1e-12)
    assert crps(members, truth, fair=True).mean() == pytest.approx(golden["fair_mean"], abs=1e-12)
    assert crps(members[::-1], truth) == pytest.approx(crps(members, truth), abs=1e-14)
    assert crps(members[:1], truth) == pytest.approx(np.abs(members[0] - truth), abs=1e-14)
    with pytest.raises(ValueError, match="two members"):
        crps(members[:1], truth, fair=True)


def test_an_ensemble_efficiency_that_differs_from_the_golden_one():
    golden = CASE["crps"]
    rng = np.random.default_rng(2000 + CASE["seed"])
    truth = rng.normal(0, 1, 40)
    members = 0.3 * truth + rng.normal(0, 1, (7, 40))
    spread = np.ones((12, 18))
    g, m = truth[:, None, None] * spread, members[..., None, None] * spread
    assert crps_efficiency(g, m).value == pytest.approx(golden["normalised"]["ensemble"], abs=1e-12)
    assert crps_efficiency(g, m, fair=True).value == pytest.approx(golden["normalised"]["fair"], abs=1e-12)
