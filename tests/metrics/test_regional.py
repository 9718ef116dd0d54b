"""A p-value that takes months for independent; an energy score that is no CRPS of a region; ranks that get lost."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from emukit.data.grid import Grid
from emukit.metrics.ensemble import RankCounts, Regions, energy_score, fair_crps, time_blocks

AREA = np.array([0.5, 0.3, 0.2])


def series(rng, lead, steps, regions=6, memory=0.7):
    """Normal numbers with a memory from step to step and a correlation between regions."""
    mix = np.eye(regions) + 0.5
    z = rng.normal(size=(*lead, steps, regions)) @ (mix / np.sqrt((mix**2).sum(0)))
    for t in range(1, steps):
        z[..., t, :] = memory * z[..., t - 1, :] + np.sqrt(1 - memory**2) * z[..., t, :]
    return z


def test_regions_divide_the_globe():
    grid = Grid(np.linspace(-88, 88, 45), np.arange(0.0, 360, 5))
    regions = Regions.of(grid)
    assert len(regions.names) == 36
    assert regions.names[0] == "90S..60S 0..60E"
    np.testing.assert_allclose(regions.weights.sum((1, 2)), 1)
    field = np.random.default_rng(0).normal(size=(2, *grid.shape))
    np.testing.assert_allclose(regions.means(field) @ regions.area, grid.mean(field), atol=1e-12)
    # A plain mean of the cells of one box.
    rows, columns = (grid.lat >= 30) & (grid.lat < 60), grid.lon < 60
    weights = np.cos(np.deg2rad(grid.lat[rows]))[:, None] * np.ones(columns.sum())
    box = regions.names.index("30N..60N 0..60E")
    assert regions.means(field)[1, box] == pytest.approx(np.average(field[1][rows][:, columns], weights=weights))
    few = Regions.of(Grid(np.array([-45.0, 45.0]), np.array([0.0, 180.0])))
    assert few.names == ("60S..30S 0..60E", "60S..30S 180..240E", "30N..60N 0..60E", "30N..60N 180..240E")


def test_energy_score_is_its_double_sum_and_in_one_region_the_fair_crps():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(5, 70, 3)), rng.normal(size=(70, 3))

    def norm(d):
        return np.sqrt((d**2 * AREA).sum(-1))

    plain = norm(x - y).mean(0) - norm(x[:, None] - x[None]).sum((0, 1)) / (2 * 5 * 4)
    np.testing.assert_allclose(energy_score(x, y, AREA), plain, rtol=1e-12)
    np.testing.assert_allclose(energy_score(x[::-1], y, 7 * AREA), plain, rtol=1e-12)
    one = energy_score(x[..., :1], y[..., :1], np.ones(1))
    np.testing.assert_allclose(one, fair_crps(x[..., 0], y[..., 0]), rtol=1e-12)
    np.testing.assert_allclose(energy_score(x[:1], y, AREA), norm(x[0] - y))


def test_energy_score_of_a_gaussian_is_the_exact_one():
    """E|x - y| / 2 of two draws with a variance of one in each of three regions: a chi distribution."""
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(20, 20_000, 3)), rng.normal(size=(20_000, 3))
    exact = np.sqrt(2 / 3) * stats.chi(3).mean() / 2
    assert energy_score(x, y, np.ones(3)).mean() == pytest.approx(exact, rel=0.01)


def test_energy_score_finds_regions_that_do_not_vary_together():
    """The CRPS of each region is the same; regions of the truth share half of their variance."""
    rng = np.random.default_rng(3)
    right = series(rng, (10,), 4000, 6, 0.0)
    apart = right.copy()
    for r in range(6):
        apart[..., r] = np.roll(right[..., r], 50 * r, axis=1)
    truth = series(rng, (), 4000, 6, 0.0)
    own, wrong = (energy_score(x, truth, np.ones(6)).mean() for x in (right, apart))
    assert wrong > own * 1.005
    assert fair_crps(apart, truth).mean() == pytest.approx(fair_crps(right, truth).mean(), rel=0.005)


def test_ranks_are_counted_once_each_and_ties_shared():
    rng = np.random.default_rng(4)
    x, y = rng.integers(0, 3, (6, 40, 2)).astype(float), rng.integers(0, 3, (40, 2)).astype(float)
    found = RankCounts.of(x, [y], np.arange(40) // 10)
    assert found.counts.shape == (4, 2, 7)
    np.testing.assert_allclose(found.counts.sum(-1), 10)
    plain = np.zeros((4, 2, 7))
    for t in range(40):
        for r in range(2):
            below, tied = int((x[:, t, r] < y[t, r]).sum()), int((x[:, t, r] == y[t, r]).sum())
            plain[t // 10, r, below : below + tied + 1] += 1 / (tied + 1)
    np.testing.assert_allclose(found.counts, plain)
    # Twenty-six ranks in ten classes of two or three.
    many = RankCounts.of(rng.normal(size=(25, 40, 2)), [y], np.arange(40) // 10)
    assert many.chances.sum() == pytest.approx(1)
    assert set((many.chances * 26).round(9)) == {2, 3}
    both = many + many
    assert both.counts.shape == (8, 2, 10)
    assert both.flatness().shares == pytest.approx(many.flatness().shares)
    with pytest.raises(ValueError, match="do not add"):
        many + found


def test_p_value_is_right_for_months_that_depend_on_each_other():
    """Independent counts would reject a truth that is one of the realisations in most of the trials."""
    rng, steps = np.random.default_rng(5), 360
    block = time_blocks(steps, 12)
    assert list(np.bincount(block)) == [36] * 10
    found, naive = [], []
    for _ in range(120):
        counts = RankCounts.of(series(rng, (15,), steps), [series(rng, (), steps)], block)
        found.append(counts.flatness())
        total, expected = counts.counts.sum((0, 1)), steps * 6 * counts.chances
        naive.append(stats.chi2.sf(((total - expected) ** 2 / expected).sum(), len(total) - 1))
    p = np.array([f.p for f in found])
    assert (p < 0.05).mean() <= 0.11
    assert 0.35 < (p < 0.5).mean() < 0.7
    assert (np.array(naive) < 0.05).mean() > 0.5
    # Worth far fewer than the 2160 values that were counted.
    assert 150 < np.mean([f.effective for f in found]) < 900
    assert np.mean([f.rejected for f in found]) < 0.12


def test_ensembles_too_narrow_and_too_wide_are_not_flat():
    rng = np.random.default_rng(6)
    x, y = series(rng, (20,), 1200), series(rng, (), 1200)
    block = time_blocks(1200, 12)
    assert RankCounts.of(x, [y], block).flatness().p > 0.05
    narrow, wide = (RankCounts.of(x * s, [y], block).flatness() for s in (0.6, 1.6))
    assert max(narrow.p, wide.p) < 1e-3
    assert narrow.shares[0] > 0.15 > 0.06 > wide.shares[0]
    assert narrow.rejected == 1.0
    few = RankCounts.of(x[:, :30], [y[:30]], np.arange(30) // 10).flatness()
    assert few.p is None


def test_each_member_of_cesm1_is_flat_among_the_others_and_one_of_larger_variance_is_not(real_data):
    """1920-2100, monthly, over 14 boxes: 40 real runs. At 5 %, two of forty are rejected by chance."""
    with xr.open_dataset(real_data / "cesm1le_regions_monthly_rcp85.nc") as dataset:
        runs = {v: dataset[v].transpose("member", "time", "region").values[:, -1140:] for v in ("ts", "pr")}
    for x in runs.values():
        block = time_blocks(x.shape[1], 12)
        flat, scaled = [], []
        for m in range(0, 36, 3):
            rest = np.delete(x, m, 0)
            flat.append(RankCounts.of(rest, [x[m]], block).flatness().p)
            larger = rest.mean(0) + (x[m] - rest.mean(0)) * np.sqrt(1.2)
            scaled.append(RankCounts.of(rest, [larger], block).flatness().p)
        assert np.median(flat) > 0.2
        assert (np.array(flat) < 0.05).sum() <= 2
        assert (np.array(scaled) < 0.05).sum() >= 11
