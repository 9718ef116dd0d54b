"""Parts of the years that share a mean, ceilings that are no bound, realisations scored as one."""

import numpy as np
import pytest

from emukit.competitions.climx.parts import detail_tables, ensemble_table, forced_fit, parts_of
from emukit.competitions.climx.score import ClimXScore, crps_efficiency, score_index
from emukit.metrics.extremes import INDICES

YEARS = range(2015, 2045)


@pytest.fixture(scope="module")
def fields():
    """Indices on the lite grid with a response that bends, and weather."""
    rng = np.random.default_rng(4)
    warming = 287 + np.linspace(0, 2, 30) ** 1.5
    steep = rng.normal(3, 1, (15, 12, 18))
    forced = 50 + steep * ((warming - 287) ** 2)[:, None, None, None]
    truth = forced + rng.normal(0, 1, forced.shape)
    return warming, truth, forced + rng.normal(0, 0.5, forced.shape)


def scored(prediction, truth):
    return ClimXScore({n: score_index(truth[:, i], prediction[:, i]) for i, n in enumerate(INDICES)}).value


def test_each_part_is_scored_with_its_own_mean_and_variance(fields):
    warming, truth, said = fields
    by_part, compare, _ = detail_tables(YEARS, warming, said, truth)
    assert by_part.headings == (
        "nNSE, higher is better",
        "2015-2044",
        "2015-2034",
        "2035-2044",
        "forced ceiling",
        "cells",
    )
    wanted = [scored(said, truth), scored(said[:20], truth[:20]), scored(said[20:], truth[20:])]
    assert [float(v) for v in by_part.rows[0][1:4]] == pytest.approx(wanted, abs=1e-4)
    one = score_index(truth[:, 3], said[:, 3])
    row = by_part.rows[4]
    assert (row[0], row[-1]) == ("TR", f"{one.cells:,}")
    assert float(row[1]) == pytest.approx(one.value, abs=1e-4)
    assert dict(compare.rows)["mean of the truth"] == "0.0000"
    assert set(parts_of(range(2015, 2023))) == {"2015-2022"}
    assert list(parts_of(range(2015, 2101))) == ["2015-2100", "2015-2070", "2071-2100"]


def test_forced_ceiling_is_the_least_squares_cubic_and_beats_every_smooth_answer(fields):
    warming, truth, said = fields
    fit = forced_fit(warming, truth)
    plain = np.polynomial.Polynomial.fit(warming, truth[:, 7, 3, 5], 3)(warming)
    np.testing.assert_allclose(fit[:, 7, 3, 5], plain, atol=1e-8)
    by_part, compare, _ = detail_tables(YEARS, warming, said, truth)
    ceiling = float(by_part.rows[0][4])
    assert ceiling == pytest.approx(scored(fit, truth), abs=1e-4)
    assert compare.rows[0][1] == by_part.rows[0][4]
    smooth = 50 + (truth.mean(0) - 50) * (warming - 287)[:, None, None, None]
    assert ceiling > scored(smooth, truth)


def test_a_cubic_through_a_few_years_is_no_ceiling(fields):
    warming, truth, said = fields
    for years, shown in ((3, False), (19, False), (20, True)):
        by_part, compare, _ = detail_tables(YEARS[:years], warming[:years], said[:years], truth[:years])
        assert ("forced ceiling" in by_part.headings) == shown
        assert any("forced ceiling" in name for name, _ in compare.rows) == shown
        assert len(by_part.rows[0]) == len(by_part.headings)


def test_regions_are_sorted_by_the_mean_of_their_indices(fields):
    warming, truth, said = fields
    table = detail_tables(YEARS, warming, said, truth)[2]
    means = [float(row[1]) for row in table.rows]
    assert means == sorted(means)
    assert len(means) == 46
    name, mean, low, high = table.rows[0]
    values = {n: score_index(truth[:, i], said[:, i]).by_region[name] for i, n in enumerate(INDICES)}
    assert float(mean) == pytest.approx(np.mean(list(values.values())), abs=1e-4)
    assert low.split()[0] == min(values, key=values.get)
    assert high.split()[0] == max(values, key=values.get)


def test_realisations_are_scored_together_and_alone(fields):
    _warming, truth, said = fields
    members = np.stack([said, said + 1, said - 1])
    table = ensemble_table(members, truth)
    row = table.rows[1]
    assert row[0] == "TXx"
    wanted = [
        crps_efficiency(truth[:, 0], members[:, :, 0]).value,
        crps_efficiency(truth[:, 0], members[:, :, 0], fair=True).value,
        score_index(truth[:, 0], members[0, :, 0]).value,
        score_index(truth[:, 0], members.mean(0)[:, 0]).value,
    ]
    assert [float(v) for v in row[1:5]] == pytest.approx(wanted, abs=1e-4)
    assert "emukit's reading" in table.headings[1]
