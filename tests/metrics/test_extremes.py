"""Annual indices of extremes: against the ClimX organisers' numbers, and against a plain day-by-day count."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from emukit.metrics import extremes
from emukit.metrics.extremes import (
    INDICES,
    VARIABLES,
    Thresholds,
    annual_indices,
    day_of_year_quantile,
    quantile_of_days,
)
from tests.golden import climx_fields

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "climx.json").read_text())
CASE = GOLDEN["cases"][0]
SUMS = {"Rx5day", "R95p", "SDII"}
LAST = 15 * 365


@pytest.fixture(scope="module")
def climate(climx_climate):
    assert climx_fields.checksums(climx_climate) == CASE["checksums"]
    return climx_climate


@pytest.fixture(scope="module")
def thresholds(climate):
    base = (climate["hist_years"] >= 1961) & (climate["hist_years"] <= 1990)
    return Thresholds.of({v: climate["hist"][v].reshape(len(base), -1)[base] for v in VARIABLES})


def of_run(run, thresholds):
    """(16, 12, 18) indices: fifteen whole years, then the one without its last day."""
    flat = {v: run[v].reshape(len(run[v]), -1) for v in VARIABLES}
    whole = annual_indices({v: x[:LAST].reshape(15, 365, -1) for v, x in flat.items()}, thresholds)
    short = annual_indices({v: x[None, LAST:] for v, x in flat.items()}, thresholds, flat["pr"][LAST - 4 : LAST])
    return {name: np.concatenate([whole[name], short[name]]).reshape(-1, 12, 18) for name in INDICES}


@pytest.mark.parametrize("part", ["truth", "pred"])
def test_an_index_that_differs_from_the_organisers(climate, thresholds, part):
    mine = of_run(climate[part], thresholds)
    for name in INDICES:
        golden, tolerance = CASE["indices"][name][part], 5e-6 if name in SUMS else 0
        assert mine[name].sum() == pytest.approx(golden["sum"], rel=max(tolerance, 1e-12)), name
        np.testing.assert_allclose(mine[name].mean((1, 2)), golden["by_year"], rtol=max(tolerance, 1e-12), err_msg=name)
        for cell, values in golden["cells"].items():
            i, j = map(int, cell.split(","))
            np.testing.assert_allclose(mine[name][:, i, j], values, rtol=tolerance, atol=0, err_msg=f"{name} {cell}")


@pytest.mark.parametrize(
    ("variable", "golden", "factor"),
    [("tasmax", "tasmax_p90_K", 1), ("tasmin", "tasmin_p10_K", 1), ("pr", "pr_p95_mm_per_day", 86400)],
)
def test_a_percentile_that_differs_from_the_organisers(thresholds, variable, golden, factor):
    mine = getattr(thresholds, variable).reshape(365, 12, 18) * factor
    expected = CASE["thresholds"][golden]
    assert mine.mean() == pytest.approx(expected["mean"], rel=1e-9)
    days = np.array(CASE["thresholds"]["cells_at_dayofyear"]) - 1
    for cell, values in expected["cells"].items():
        i, j = map(int, cell.split(","))
        # The organisers multiply pr by 86400 in float32, before the percentile.
        np.testing.assert_allclose(mine[days, i, j], values, rtol=1e-7, atol=1e-12)


def runs(days):
    """(first, length) of every run of true days."""
    out, length = [], 0
    for i, day in enumerate([*days, False]):
        if day:
            length += 1
        elif length:
            out.append((i - length, length))
            length = 0
    return out


def plain(tas, tasmax, tasmin, mm, p90, p10, p95, before):
    """The indices of one year and cell, read off the definitions day by day."""
    n = len(tas)
    spells = [r for r in runs(tas >= np.float32(278.15)) if r[1] >= 6 and r[0] <= 180]
    season = 0
    if spells:
        # A cold run that began in June counts from 1 July.
        cold = [i for i in range(181, n - 5) if (tas[i : i + 6] < np.float32(278.15)).all()]
        season = (cold[0] if cold else n) - spells[0][0]
    series = np.concatenate([before, mm])
    rainy = mm[mm >= 1]
    return {
        "TXx": tasmax.max(),
        "TNn": tasmin.min(),
        "SU": sum(tasmax > np.float32(298.15)),
        "TR": sum(tasmin > np.float32(293.15)),
        "FD": sum(tasmin < np.float32(273.15)),
        "ID": sum(tasmax < np.float32(273.15)),
        "WSDI": sum(k for _, k in runs(tasmax > p90[:n]) if k >= 6),
        "CSDI": sum(k for _, k in runs(tasmin < p10[:n]) if k >= 6),
        "GSL": season,
        "Rx5day": max(series[i : i + 5].sum(dtype=float) for i in range(len(series) - 4)),
        "CDD": max((k for _, k in runs(mm < 1)), default=0),
        "CWD": max((k for _, k in runs(mm > 1)), default=0),
        "R95p": mm[mm > p95[:n]].sum(dtype=float),
        "R10mm": sum(mm >= 10),
        "SDII": rainy.sum(dtype=float) / len(rainy) if len(rainy) else 0,
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("days", [365, 364])
def test_a_day_counted_where_the_definition_does_not(seed, days):
    rng = np.random.default_rng(seed)
    cells = 5
    season = -12 * np.cos(2 * np.pi * np.arange(days) / 365)[:, None]
    walk = np.cumsum(rng.normal(0, 1.5, (days, cells)), 0)
    tas = (281 + season + walk - walk.mean(0)).astype(np.float32)
    tasmax, tasmin = tas + np.float32(6), tas - np.float32(6)
    pr = (rng.gamma(0.3, 8, (days, cells)) * (rng.random((days, cells)) < 0.6) / 86400).astype(np.float32)
    before = rng.gamma(1, 20, (4, cells)).astype(np.float32) / np.float32(86400)
    t = Thresholds(
        np.repeat(tasmax.mean(0, keepdims=True), 365, 0).astype(float),
        np.repeat(tasmin.mean(0, keepdims=True), 365, 0).astype(float),
        np.full((365, cells), 8 / 86400),
    )
    fields = dict(zip(VARIABLES, (x[None] for x in (tas, tasmax, tasmin, pr)), strict=True))
    mine = annual_indices(fields, t, before)
    factor = np.float32(86400)
    for c in range(cells):
        p95 = t.pr[:, c] * 86400
        expected = plain(
            tas[:, c], tasmax[:, c], tasmin[:, c], pr[:, c] * factor, t.tasmax[:, c], t.tasmin[:, c], p95,
            before[:, c] * factor,
        )  # fmt: skip
        for name in INDICES:
            assert mine[name][0, c] == pytest.approx(expected[name], rel=1e-6), (name, c)


def test_a_cold_spell_of_june_that_ends_a_season_before_july():
    tas = np.full((1, 365, 1), 290, np.float32)
    tas[0, 170:185] = 270  # from June into July: four of its days are in July
    other = {"tasmax": tas, "tasmin": tas, "pr": np.zeros_like(tas)}
    t = Thresholds(np.full((365, 1), 400.0), np.zeros((365, 1)), np.ones((365, 1)))
    assert annual_indices({"tas": tas, **other}, t)["GSL"][0, 0] == 365
    tas[0, 170:188] = 270  # seven days in July
    assert annual_indices({"tas": tas, **other}, t)["GSL"][0, 0] == 181


def test_a_spell_that_crosses_the_new_year():
    tas = np.full((2, 365, 1), 280, np.float32)
    tas[0, -4:] = 300
    tas[1, :4] = 300
    t = Thresholds(np.full((365, 1), 290.0), np.zeros((365, 1)), np.ones((365, 1)))
    found = annual_indices({"tas": tas, "tasmax": tas, "tasmin": tas, "pr": np.zeros_like(tas)}, t)
    assert found["WSDI"].tolist() == [[0], [0]]


def test_rain_of_december_that_is_lost_to_the_first_days_of_january():
    pr = np.zeros((2, 365, 1), np.float32)
    pr[0, -2:] = 30 / 86400
    pr[1, :2] = 20 / 86400
    tas = np.full_like(pr, 280)
    t = Thresholds(np.full((365, 1), 400.0), np.zeros((365, 1)), np.ones((365, 1)))
    fields = {"tas": tas, "tasmax": tas, "tasmin": tas, "pr": pr}
    together = annual_indices(fields, t)["Rx5day"]
    assert together.ravel() == pytest.approx([60, 100], rel=1e-6)
    second = annual_indices({v: x[1:] for v, x in fields.items()}, t, pr[0, -4:])["Rx5day"]
    assert second[0, 0] == together[1, 0]
    # Without the days before, the first four windows are unknown and left out.
    assert annual_indices({v: x[1:] for v, x in fields.items()}, t)["Rx5day"][0, 0] == pytest.approx(40, rel=1e-6)


def test_a_quantile_of_another_type_than_eight():
    rng = np.random.default_rng(0)
    values = rng.normal(0, 1, (30 * 365, 2)).astype(np.float32)
    found = day_of_year_quantile(values, 0.9)
    for day in (0, 1, 180, 363, 364):
        near = [y * 365 + day + k for y in range(30) for k in range(-2, 3) if 0 <= y * 365 + day + k < len(values)]
        expected = np.quantile(values[near].astype(float), 0.9, axis=0, method="median_unbiased")
        np.testing.assert_allclose(found[day], expected, rtol=1e-12)
    with pytest.raises(ValueError, match="whole years"):
        day_of_year_quantile(values[:-1], 0.9)
    values[5, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        day_of_year_quantile(values, 0.9)


@pytest.mark.parametrize("bands", [[slice(0, 12)], [slice(0, 5), slice(5, 12)]])
def test_a_base_period_that_does_not_fit_gives_the_same_and_is_read_once(climate, bands, monkeypatch):
    days = 30 * 365
    values = climate["hist"]["pr"][3 * 365 : 3 * 365 + days]
    asked = []

    def read(start, stop, band):
        asked.append((stop - start) * len(range(*band.indices(12))))
        return values[start:stop, band]

    whole, parts = hashlib.sha256(), hashlib.sha256()
    plain = quantile_of_days(read, days, (12, 18), bands, 0.95, whole.update)
    np.testing.assert_array_equal(plain, day_of_year_quantile(values.reshape(days, -1), 0.95))
    asked.clear()
    monkeypatch.setattr(extremes, "LARGE", 3 * 4 * days * 18)
    np.testing.assert_array_equal(quantile_of_days(read, days, (12, 18), bands, 0.95, parts.update), plain)
    assert sum(asked) == days * 12
    assert max(asked) <= max(365 * 12, days * 7)
    assert parts.hexdigest() == whole.hexdigest() == hashlib.sha256(values.tobytes()).hexdigest()
