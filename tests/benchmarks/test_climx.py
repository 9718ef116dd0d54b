"""Indices and scores of ClimX that differ from the plain way to them, which knows nothing of emukit."""

import numpy as np
import pytest

from benchmarks import climx, plain_climx
from emukit.competitions.climx.score import SHAPE, ClimXScore, regions, score_index
from emukit.competitions.climx.submission import COUNTS
from emukit.metrics.extremes import INDICES, Thresholds


@pytest.fixture(scope="module")
def both():
    """Indices of five years by emukit, and the plain way."""
    base, run = climx.made_up(30, (4, 3), 0), climx.made_up(5, (4, 3), 1)
    # Cells without rain, without warm days, without cold ones.
    run["pr"][:, 0, 0] = 0
    run["tas"][:, 1, 0] = 200
    run["tas"][:, 2, 0] = 300
    thresholds = Thresholds.of({n: base[n].reshape(len(base[n]), -1) for n in Thresholds.QUANTILES})
    of = plain_climx.percentiles(plain_climx.labelled(base, 1961))
    for name in Thresholds.QUANTILES:
        np.testing.assert_allclose(getattr(thresholds, name), of[name].values.reshape(365, -1), rtol=1e-12)
    return climx._by_year(run, thresholds), plain_climx.indices(plain_climx.labelled(run, 2015), of)


@pytest.mark.parametrize("index", INDICES)
def test_an_index_that_is_not_what_its_definition_says(both, index):
    ours, plain = (values[index] for values in both)
    assert ours.std() > 0
    if index in COUNTS:
        np.testing.assert_array_equal(ours, plain)
    else:
        np.testing.assert_allclose(ours, plain, rtol=1e-6)


def test_scores_of_a_file_that_are_not_region_by_region_means(tmp_path):
    years = slice(0, 6)
    paths, fields = [], []
    for seed in (0, 1):
        values = {name: field[years] for name, field in climx.submission(seed).items()}
        values["GSL"][:, 100:] = 365.0  # varies nowhere
        fields.append(values)
        paths.append(tmp_path / f"{seed}.parquet")
        plain_climx.write_frame(paths[-1], values)
        assert plain_climx.count_problems(paths[-1]) == 0
    for part in (slice(0, 6), slice(2, 6)):
        plain = plain_climx.score_frames(*paths, regions().cells, [part])
        ours = ClimXScore({n: score_index(fields[1][n][part], fields[0][n][part]) for n in INDICES})
        assert ours.value == pytest.approx(plain, abs=1e-12)
    fields[0]["SU"][3, 5, 7] = np.nan
    plain_climx.write_frame(paths[0], fields[0])
    assert plain_climx.count_problems(paths[0]) == 2
    assert fields[0]["SU"].shape[1:] == SHAPE
