"""An ensemble score that depends on order, size or how the months were divided; a flat histogram that is not."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from emukit.metrics.ensemble import EnsembleSums, crps, fair_crps, score_ensemble
from emukit.objectives.crps import fair_crps as objective_crps

RNG = np.random.default_rng(5)
WEIGHTS = np.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]])


def ensemble(members=6, steps=40, spread=1.0, seed=0):
    rng = np.random.default_rng(seed)
    shape = (steps, 2, 2, 3)
    return spread * rng.normal(size=(members, *shape)), rng.normal(size=shape)


def scored(x, y):
    return score_ensemble(EnsembleSums.of(x, y), WEIGHTS, ("tas", "pr"))


def test_fair_crps_is_its_double_sum():
    x, y = RNG.normal(size=(7, 11)), RNG.normal(size=11)
    plain = np.abs(x - y).mean(0) - np.abs(x[:, None] - x[None]).sum((0, 1)) / (2 * 7 * 6)
    np.testing.assert_allclose(fair_crps(x, y), plain, rtol=1e-12)
    np.testing.assert_allclose(fair_crps(x[::-1], y), plain, rtol=1e-12)
    np.testing.assert_array_equal(fair_crps(x[:1], y), np.abs(x[0] - y))


@pytest.mark.parametrize("members", [2, 5, 30])
def test_crps_is_not_that_of_scoringrules(members):
    rules = pytest.importorskip("scoringrules", reason="CRPS is NOT compared with scoringrules: pip install it")
    x, y = RNG.gamma(2.0, 3.0, (members, 4, 25)), RNG.gamma(2.0, 3.0, (4, 25))
    # Ties, as of dry days.
    x[:, 0] = np.maximum(x[:, 0] - 5, 0)
    y[0] = np.maximum(y[0] - 5, 0)
    for estimator, fair in (("nrg", False), ("qd", False), ("fair", True), ("pwm", True)):
        theirs = rules.crps_ensemble(y, x, m_axis=0, estimator=estimator, backend="numpy")
        np.testing.assert_allclose(crps(x, y, fair=fair), theirs, rtol=1e-10, atol=1e-12, err_msg=estimator)
    # Of training.
    learnt = objective_crps(torch.from_numpy(x), torch.from_numpy(y))
    fair = rules.crps_ensemble(y, x, m_axis=0, estimator="fair", backend="numpy")
    np.testing.assert_allclose(learnt, fair, rtol=1e-10, atol=1e-12)


def test_sums_of_parts_are_the_sums_of_the_whole():
    x, y = ensemble()
    whole, parts = EnsembleSums.of(x, y), EnsembleSums.of(x[:, :17], y[:17]) + EnsembleSums.of(x[:, 17:], y[17:])
    for name in ("n", "realisations", "crps", "variance", "error", "ranks"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)
    with pytest.raises(ValueError, match="do not add"):
        whole + EnsembleSums.of(x[:3], y)
    with pytest.raises(ValueError, match="must be"):
        EnsembleSums.of(x, y[1:])
    with pytest.raises(ValueError, match="no time steps"):
        score_ensemble(EnsembleSums.zero(3, (2, 2, 3)), WEIGHTS, ("tas", "pr"))


def test_numbers_are_those_of_a_plain_reckoning():
    x, y = ensemble(members=4)
    w = WEIGHTS / WEIGHTS.sum()
    for v, part in enumerate(scored(x, y).values()):
        a, b = x[:, :, v], y[:, v]
        assert part.crps == pytest.approx((fair_crps(a, b).mean(0) * w).sum())
        spread = np.sqrt((a.var(0, ddof=1).mean(0) * w).sum() * 5 / 4)
        error = np.sqrt((((a.mean(0) - b) ** 2).mean(0) * w).sum())
        assert part.spread_over_error == pytest.approx(spread / error)
        rank = (a < b).sum(0)
        assert part.ranks == pytest.approx([((rank == r).mean(0) * w).sum() for r in range(5)])


def test_ensemble_of_the_truths_distribution_is_flat_and_others_are_found_out():
    """Both of the wrong ones, too narrow and too wide, score worse and are bent the other way."""
    found = {s: scored(*ensemble(9, 4000, s, seed=1))["tas"] for s in (0.5, 1.0, 2.0)}
    assert found[1.0].spread_over_error == pytest.approx(1, abs=0.02)
    assert found[1.0].ranks == pytest.approx([0.1] * 10, abs=0.012)
    assert found[0.5].spread_over_error < 0.7 < 1.4 < found[2.0].spread_over_error
    assert found[0.5].ranks[0] > 0.2 > 0.03 > found[2.0].ranks[0]
    assert min(found[0.5].crps, found[2.0].crps) > found[1.0].crps + 0.02
    assert found[1.0].crps == pytest.approx(1 / np.pi**0.5, abs=0.01)


def test_larger_ensemble_of_the_same_distribution_scores_alike():
    few, many = (scored(*ensemble(m, 6000, seed=2))["pr"] for m in (2, 20))
    assert few.crps == pytest.approx(many.crps, abs=0.01)
    assert few.spread_over_error == pytest.approx(many.spread_over_error, abs=0.02)


def test_dry_months_share_their_ranks():
    """Where the truth and most realisations are zero, it is neither the lowest nor the highest of them."""
    x, y = np.zeros((4, 1, 1, 1, 1)), np.zeros((1, 1, 1, 1))
    x[3] = 1.0
    (part,) = score_ensemble(EnsembleSums.of(x, y), np.ones((1, 1)), ("pr",)).values()
    assert part.ranks == pytest.approx([0.25, 0.25, 0.25, 0.25, 0.0])


def test_single_realisation_has_an_absolute_error_and_no_spread():
    x, y = ensemble(members=1)
    part = scored(x, y)["tas"]
    assert part.spread_over_error is None
    assert part.crps == pytest.approx((np.abs(x[0, :, 0] - y[:, 0]).mean(0) * WEIGHTS).sum() / WEIGHTS.sum())


def test_scores_of_a_gaussian_are_the_exact_ones():
    """CRPS of N(0, 1) and 0.6: y (2 Phi(y) - 1) + 2 phi(y) - 1 / sqrt(pi), whatever the number of realisations."""
    y = 0.6
    exact = y * (2 * norm.cdf(y) - 1) + 2 * norm.pdf(y) - 1 / np.pi**0.5
    assert exact == pytest.approx(0.373156, abs=1e-6)
    x = np.random.default_rng(7).normal(size=(5, 200_000))
    assert fair_crps(x, np.full(200_000, y)).mean() == pytest.approx(exact, abs=0.002)
    # Pairs of a realisation with itself make five realisations look worse than they are: by half of E|x - x'| / 5.
    assert crps(x, np.full(200_000, y)).mean() == pytest.approx(exact + 1 / np.pi**0.5 / 5, abs=0.002)
