"""Differences that are not those of the score, and intervals that hold the truth less often than they say."""

import numpy as np
import pytest
from scipy import stats

from emukit.competitions.cse151b import cse151b
from emukit.metrics import Moments
from emukit.studies import bootstrap
from emukit.studies.bootstrap import load_years, save_years, year_moments
from tests.coded import score_moments, warming_archive

SHAPE = (2, 3)
NAMES = ("score", *cse151b().keys)
WEIGHTS = np.array([[1.0], [3.0]]) * np.ones(SHAPE)


def fields_of(rng, years, bias=0.0, stretch=1.0, weather=1.0):
    """(T, V, Y, X) prediction and truth: a season, years of their own, and months of their own."""
    months = 12 * years
    season = np.cos(2 * np.pi * np.arange(months) / 12)[:, None, None, None] * np.array([5.0, 1.0])[None, :, None, None]
    season = season * np.ones((1, 2, *SHAPE))
    own = weather * np.repeat(0.5 * rng.normal(size=(years, 2, 1, 1)), 12, 0) * np.ones((1, 2, *SHAPE))
    truth = season + own + weather * rng.normal(size=(months, 2, *SHAPE)) * np.array([1.0, 0.5])[None, :, None, None]
    return stretch * season + bias, truth


def years_of(prediction, truth):
    return np.stack([Moments.of(prediction[a : a + 12], truth[a : a + 12]).pack() for a in range(0, len(truth), 12)])


def scores_of(years, counts, weights, variables=("tas", "pr")):
    return bootstrap.scores_of(years, counts, weights, variables, cse151b())


def differences(variant, base, years):
    return bootstrap.difference(variant, base, years, NAMES)


def numbers(score):
    return [*score.line().values()]


def test_each_year_once_is_the_score_itself():
    prediction, truth = fields_of(np.random.default_rng(0), 4, 0.3, 1.2)
    found = scores_of(years_of(prediction, truth), np.ones((1, 4), int), WEIGHTS)
    np.testing.assert_allclose(found[0], numbers(score_moments(Moments.of(prediction, truth), WEIGHTS)), rtol=1e-9)


def test_a_draw_is_the_score_of_the_years_drawn_and_order_of_variables_is_kept():
    prediction, truth = fields_of(np.random.default_rng(1), 5, 0.3, 1.2)
    counts = np.array([[2, 0, 1, 0, 2]])
    months = np.concatenate([np.arange(12 * y, 12 * y + 12) for y in (0, 0, 2, 4, 4)])
    expected = numbers(score_moments(Moments.of(prediction[months], truth[months]), WEIGHTS))
    years = years_of(prediction, truth)
    np.testing.assert_allclose(scores_of(years, counts, WEIGHTS)[0], expected, rtol=1e-9)
    turned = scores_of(years[:, :, ::-1], counts, WEIGHTS, ("pr", "tas"))
    np.testing.assert_allclose(turned[0], expected, rtol=1e-9)


def test_many_draws_are_each_their_own():
    years = years_of(*fields_of(np.random.default_rng(2), 3, 0.1))
    counts = bootstrap.resample_years(3, 150)
    together = scores_of(years, counts, WEIGHTS)
    for i in (0, 63, 64, 150):
        np.testing.assert_allclose(together[i], scores_of(years, counts[i : i + 1], WEIGHTS)[0])


def test_draws_are_the_same_every_time_and_of_as_many_years():
    counts = bootstrap.resample_years(10, 300)
    assert (counts[0] == 1).all()
    assert (counts.sum(1) == 10).all()
    assert (counts == bootstrap.resample_years(10, 300)).all()
    # With replacement, a third of the years is left out.
    assert 0.3 < (counts[1:] == 0).mean() < 0.4
    assert (counts != bootstrap.resample_years(10, 300, seed=1)).any()


def test_years_add_up_and_months_left_over_belong_to_the_last(tmp_path):
    from emukit.data.protocol import make_split
    from emukit.data.split import Span
    from emukit.emulators.climatology import ClimatologyEmulator
    from emukit.runs.evaluate import score_emulator

    archive = warming_archive(181)
    emulator = ClimatologyEmulator.fit(archive, make_split(archive))
    spans = (Span("ssp370", 100, 130, (0,)), Span("ssp126", 3, 10, (1,)))
    years = year_moments(emulator, archive, spans, cse151b())
    assert [y[:, 0, 0, 0, 0].tolist() for y in years] == [[12, 18], [7]]
    each = [scores_of(y, np.ones((1, len(y)), int), archive.grid.weights)[0] for y in years]
    np.testing.assert_allclose(np.mean(each, 0), numbers(score_emulator(emulator, archive, spans)), rtol=1e-9)
    save_years(tmp_path / "scores" / "y.npz", years)
    kept = load_years(tmp_path / "scores" / "y.npz")
    assert all((a == b).all() for a, b in zip(kept, years, strict=True))
    (tmp_path / "scores" / "y.npz").write_bytes((tmp_path / "scores" / "y.npz").read_bytes()[:-100])
    assert load_years(tmp_path / "scores" / "y.npz") is None
    assert load_years(tmp_path / "none.npz") is None


def runs_of(rng, years, pairs, counts, bias, spread):
    """Base and variant, seed by seed, on one truth; a seed moves its prediction as a whole."""
    seed = rng.integers(2**31)
    out = ([], [])
    for _ in range(pairs):
        for kind, own in zip(out, (0.0, bias), strict=True):
            moved = own + spread * rng.normal(size=(1, 2, 1, 1))
            kind.append(scores_of(years_of(*fields_of(np.random.default_rng(seed), years, moved)), counts, WEIGHTS))
    return out


@pytest.mark.parametrize(("pairs", "bias", "spread"), [(3, 0.3, 0.1), (3, 0.0, 0.1), (1, 0.3, 0.0)])
def test_the_interval_holds_the_true_difference_as_often_as_it_says(pairs, bias, spread):
    years, counts = 10, bootstrap.resample_years(10, 300)
    rng = np.random.default_rng(5)
    worlds = [runs_of(rng, years, 1, counts[:1], bias, spread) for _ in range(800)]
    truth = np.mean([v[0][0, 0] - b[0][0, 0] for b, v in worlds])
    held = below = 0
    for _ in range(120):
        base, variant = runs_of(rng, years, pairs, counts, bias, spread)
        found = differences(variant, base, years)["score"]
        held += found.low <= truth <= found.high
        below += found.high < truth
    # Of 120, 95 % is 114 +- 2.4.
    assert held >= 106
    assert below <= 12


def test_seeds_are_paired_not_mixed():
    rng = np.random.default_rng(3)
    counts = bootstrap.resample_years(6, 200)
    base = [scores_of(years_of(*fields_of(np.random.default_rng(9), 6, b)), counts, WEIGHTS) for b in (0.2, 0.5, 0.9)]
    variant = [run + 0.01 + 0.001 * rng.normal() for run in base]
    found = differences(variant, base, 6)["score"]
    assert found.sign == 1
    assert found.mean == pytest.approx(0.01, abs=0.003)
    assert found.sd < 0.003
    mixed = differences(variant[1:] + variant[:1], base, 6)["score"]
    assert mixed.sign == 0
    with pytest.raises(ValueError, match="not paired"):
        differences(variant[:2], base, 6)


def test_a_recipe_is_indistinguishable_from_itself():
    counts = bootstrap.resample_years(6, 200)
    runs = [scores_of(years_of(*fields_of(np.random.default_rng(s), 6, 0.1)), counts, WEIGHTS) for s in range(3)]
    found = differences(runs, runs, 6)
    assert all((d.mean, d.low, d.high, d.sd, d.sign) == (0, 0, 0, 0, 0) for d in found.values())


def test_few_seeds_make_a_wide_interval_and_one_none_of_its_own():
    row = np.zeros((201, 7))
    base = [row] * 3
    variant = [row + x for x in (-0.02, -0.03, -0.04)]
    found = differences(variant, base, 1)["score"]
    # Student: -0.03 +- 4.30 * 0.01 / sqrt(3).
    assert found.mean == pytest.approx(-0.03)
    assert found.low == pytest.approx(-0.0548, abs=0.015)
    assert found.high == pytest.approx(-0.0052, abs=0.015)
    alone = differences(variant[:1], base[:1], 1)["score"]
    assert (alone.low, alone.high, alone.sd, alone.sign) == (None, None, None, 0)


def test_the_interval_lies_about_the_difference_that_was_seen():
    """Drawn years have noisier means, which moves the differences of all draws; that is no news of the variant."""
    rng = np.random.default_rng(0)
    variant = np.concatenate([np.full((1, 7), 0.1), 0.05 + 0.005 * rng.normal(size=(2000, 7))])
    found = differences([variant], [np.zeros((2001, 7))], 30)["score"]
    assert found.mean == pytest.approx(0.1)
    assert (found.low + found.high) / 2 == pytest.approx(0.1, abs=0.001)
    # A normal's 95 %, widened from thirty years: 2.05 * sqrt(30 / 29).
    assert found.high - found.low == pytest.approx(2 * 2.05 * 0.005 * np.sqrt(30 / 29), rel=0.08)


def sentence(low, mean, high, seeds=3, drawn=True, years=10, pr_std=0):
    of = {name: bootstrap.Difference(0.0, -1.0, 1.0, 0.1) for name in NAMES}
    of["score"] = bootstrap.Difference(mean, low, high, 0.1)
    if pr_std:
        of["pr.time_stddev_mae"] = bootstrap.Difference(pr_std, pr_std - 0.01, pr_std + 0.01, 0.1)
    return bootstrap.sentence(of, cse151b(), seeds, drawn, years)


def test_sentences():
    assert sentence(-0.033, -0.021, -0.010) == "better by 0.021 (95 % 0.010 to 0.033)"
    assert sentence(0.010, 0.021, 0.033) == "worse by 0.021 (95 % 0.010 to 0.033)"
    assert sentence(-0.01, -0.003, 0.004) == "indistinguishable: -0.003 (95 % -0.010 to +0.004)"
    assert sentence(-0.033, -0.021, -0.010, pr_std=-0.5).endswith("; better in pr std")
    assert sentence(-0.033, -0.021, -0.010, seeds=1).endswith("; one seed: another may differ")
    assert "seed" not in sentence(-0.033, -0.021, -0.010, seeds=1, drawn=False)
    assert sentence(None, -0.021, None, seeds=1, years=1) == (
        "indistinguishable: -0.021 (one run on one year has no interval); one seed: another may differ; "
        "one year: another may differ"
    )


def test_an_end_that_is_not_zero_is_not_printed_as_zero():
    """An interval that holds zero may end near it; one that does not says by how little."""
    assert sentence(0.0002, 0.010, 0.019) == "worse by 0.010 (95 % 0.0002 to 0.0190)"
    assert sentence(-0.019, -0.010, -0.00004) == "better by 0.010 (95 % 0.00004 to 0.01900)"
    assert sentence(0.0001, 0.0003, 0.0006) == "worse by 0.0003 (95 % 0.0001 to 0.0006)"
    assert sentence(-0.0002, 0.010, 0.019) == "indistinguishable: +0.010 (95 % -0.000 to +0.019)"
    assert sentence(0.0, 0.010, 0.019) == "indistinguishable: +0.010 (95 % +0.000 to +0.019)"


def test_an_interval_is_as_wide_as_student_s_t_of_seeds_and_of_years_says():
    """Against the closed form, which the coverage of a hundred trials is too coarse to tell from a third wider."""
    random = np.random.default_rng(0)
    draws = 40_000
    names = len(NAMES)
    # Years alone: draws that scatter normally about another middle than what was seen.
    years = np.concatenate([np.full((1, names), 2.0), 7.0 + random.standard_normal((draws, names))])
    found = differences([years], [np.zeros_like(years)], 10)["score"]
    half = np.sqrt(10 / 9) * stats.t.ppf(0.975, 9)
    assert (found.low, found.high) == (pytest.approx(2 - half, abs=0.04), pytest.approx(2 + half, abs=0.04))
    # Seeds alone.
    seeds = [np.full((draws + 1, names), value) for value in (1.0, 2.0, 6.0)]
    found = differences(seeds, [np.zeros_like(s) for s in seeds], 1)["score"]
    half = stats.t.ppf(0.975, 2) * np.std([1, 2, 6], ddof=1) / np.sqrt(3)
    assert (found.low, found.high) == (pytest.approx(3 - half, rel=0.05), pytest.approx(3 + half, rel=0.05))
