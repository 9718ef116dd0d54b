"""Order statistics of other years, days in another order, a template that looks at what it must not."""

import numpy as np
import pytest

from emukit.competitions.climx.score import thresholds_of_archive
from emukit.data.archive import Archive, Scenario
from emukit.data.card import parse_card
from emukit.data.opening import open_data
from emukit.data.protocol import make_split
from emukit.data.split import Span, Split
from emukit.data.time import DAY_MINUTES, TimeAxis
from emukit.emulators.delta_change import DeltaChange
from emukit.emulators.features import feature
from emukit.emulators.typical_year import (
    CANDIDATES,
    TypicalYear,
    Warming,
    _expected,
    _indices_of,
    cells_of_blocks,
    rank_days,
    sort_days,
    training_years,
)
from emukit.errors import ProtocolError, RecipeError, RunError
from emukit.metrics.extremes import INDICES, VARIABLES, annual_indices
from tests.coded import small_grid, warming_archive

GRID = small_grid(2, 3)
YEARS = 8


def card():
    temperature = {"units": "K", "range": [0.0, 400.0], "largest": [0.0, 400.0], "what": "t"}
    rain = {"units": "kg m-2 s-1", "range": [0.0, 1.0], "largest": [0.0, 1.0], "what": "rain"}
    gas = {"units": "1", "kind": "series", "range": [0.0, 1e9], "largest": [0.0, 1e9], "what": "gas"}
    return parse_card(
        {
            "name": "days",
            "title": "Days",
            "source": "tests",
            "licence": "none",
            "time": "day",
            "scenarios": ["low", "high"],
            "targets": {"tas": temperature, "tasmax": temperature, "tasmin": temperature, "pr": rain},
            "forcings": {"CO2": gas},
            "default_protocol": "official",
            "protocols": {
                "official": {
                    "train": ["low", "high"],
                    "validation": [{"scenario": "high", "member": 0, "steps": [-730, -365]}],
                    "test": [{"scenario": "high", "member": 0, "steps": [-365, 0]}],
                }
            },
            "loso": {"validation_steps": 365, "test_steps": 365},
        },
        "tests",
    )


@pytest.fixture(scope="module")
def archive():
    """Days with a season, weather and a trend; the last day of each scenario is missing, as in ClimX."""
    rng = np.random.default_rng(3)
    days = YEARS * 365 - 1
    season = 12 * np.cos(2 * np.pi * np.arange(days) / 365)[:, None, None]
    scenarios = {}
    for name, rate in (("low", 1.0), ("high", 4.0)):
        co2 = 300 + rate * (np.arange(days) // 365)
        warm = 0.2 * (co2 - 300)[:, None, None]
        mean = 285 + season + warm + 3 * rng.normal(size=(days, *GRID.shape))
        spread = 4 + rng.random((2, days, *GRID.shape))
        rain = np.maximum(rng.normal(size=(days, *GRID.shape)), 0) ** 2 * 1e-4 * (1 + 0.05 * warm)
        fields = np.stack([mean, mean + spread[0], mean - spread[1], rain], 1).astype(np.float32)
        time = TimeAxis("day", 2015 * 365 * DAY_MINUTES, days, "noleap")
        scenarios[name] = Scenario(name, time, {"CO2": co2.astype(float)}, (0,), fields[None], np.zeros(days, bool))
    return Archive(card(), "days", GRID, ("tas", "tasmax", "tasmin", "pr"), scenarios)


@pytest.fixture(scope="module")
def fitted(archive):
    return TypicalYear.fit(archive, make_split(archive, "official"), features=("CO2",), ridge=0.0)


def test_training_years_are_whole_and_not_held_out(archive):
    found = [(y.span.scenario, y.year) for y in training_years(archive, make_split(archive, "official"))]
    # The last of `low` lacks a day; the last two of `high` are held out, counted from its end: one day less each.
    assert found == [*(("low", 2015 + i) for i in range(7)), *(("high", 2015 + i) for i in range(5))]


def test_sorted_days_follow_the_straight_line_of_each_rank(archive, fitted):
    split = make_split(archive, "official")
    years = training_years(archive, split)
    ordered = np.stack([np.sort(y.read(archive), axis=0) for y in years]).astype(np.float64)
    series = np.stack([archive[y.span.scenario].forcings["CO2"][y.start : y.stop].mean() for y in years])
    temperature = np.array([GRID.mean(y.read(archive)[:, 0].mean(0, dtype=float)[None])[0] for y in years])
    slope, level = np.polyfit(series, temperature, 1)
    warming = level + slope * series
    design = np.stack([np.ones(len(years)), warming], 1)
    plain = np.linalg.lstsq(design, ordered.reshape(len(years), -1), rcond=None)[0]
    said = fitted.predict_fields(archive["low"], 365, 730)
    wanted = (plain[0] + plain[1] * (level + slope * 301.0)).reshape(365, 4, *GRID.shape)
    wanted = np.maximum.accumulate(wanted, axis=0)
    for v in (0, 3):  # minimum and maximum are kept next to the mean, day by day
        np.testing.assert_allclose(np.sort(said[:, v], axis=0), np.maximum(wanted[:, v], 0), rtol=2e-4, atol=1e-8)


def test_days_are_ordered_as_in_the_year_of_the_median_warming(archive, fitted):
    """That year is known from the forcings alone; ties keep the order of days."""
    name, year = fitted.template.split(",")[0].split()
    start = (int(year) - 2015) * 365
    template = archive[name].truth(0, start, start + 365)
    for n in (0, 4):
        said = fitted.predict_fields(archive["high"], n * 365, (n + 1) * 365)
        # Neighbours whose straight lines cross are given one value.
        order = np.argsort(template[:, 0], axis=0, kind="stable")
        rises = np.diff(np.take_along_axis(said[:, 0], order, axis=0), axis=0)
        assert rises.min() >= 0
        assert (rises > 0).mean() > 0.9


def test_prediction_of_a_day_does_not_depend_on_what_else_is_asked(archive, fitted):
    whole = fitted.predict_fields(archive["high"], 0, len(archive["high"]))
    assert len(whole) == YEARS * 365 - 1
    np.testing.assert_array_equal(fitted.predict_fields(archive["high"], 360, 1100), whole[360:1100])
    again = TypicalYear.from_state(archive.domain, *fitted.state())
    np.testing.assert_array_equal(again.predict_fields(archive["high"], 0, 400), whole[:400])


def test_minimum_mean_and_maximum_of_a_day_are_in_order_and_rain_is_not_negative(archive, fitted):
    said = fitted.predict_fields(archive["high"], 0, 2000)
    assert (said[:, 2] <= said[:, 0]).all()
    assert (said[:, 0] <= said[:, 1]).all()
    assert (said[:, 3] >= 0).all()


def test_validation_months_move_nothing(archive):
    """Other days in the held-out years give the same emulator."""
    split = make_split(archive, "official")
    changed = {}
    for name, scenario in archive.items():
        targets = scenario.targets.copy()
        if name == "high":
            targets[:, -730:] += 50
        changed[name] = Scenario(name, scenario.time, scenario.forcings, (0,), targets, scenario.hidden)
    other = Archive(archive.card, "other", GRID, archive.variables, changed)
    for kind, options in ((TypicalYear, {}), (DeltaChange, {"years": 3, "seed": 1})):
        a, b = (kind.fit(x, split, features=("CO2",), ridge=1.0, **options) for x in (archive, other))
        one, two = (e.predict_fields(archive["high"], 100, 900) for e in (a, b))
        np.testing.assert_array_equal(one, two)


def test_sorting_and_ranking_are_those_of_numpy():
    year = np.random.default_rng(0).integers(0, 40, (365, 2, 11, 3)).astype(np.float32)
    np.testing.assert_array_equal(sort_days(year), np.sort(year, axis=0))
    ranks = rank_days(year)
    np.testing.assert_array_equal(np.sort(ranks, axis=0)[:, 0, 0, 0], np.arange(365))
    back = np.take_along_axis(np.sort(year, axis=0), ranks.astype(int), axis=0)
    np.testing.assert_array_equal(back, year)


def test_delta_change_moves_monthly_means_and_keeps_dry_days(archive):
    split = make_split(archive, "official")
    emulator = DeltaChange.fit(archive, split, years=1, seed=0, features=("CO2",), ridge=0.0)
    assert not emulator.draws
    with pytest.raises(RunError, match="one answer"):
        emulator.member(1)
    early, late = (emulator.predict_fields(archive["high"], n * 365, (n + 1) * 365) for n in (0, 6))
    moved = late[:, 0] - early[:, 0]
    for first, last in ((0, 31), (31, 59), (334, 365)):  # one number for each month and cell
        np.testing.assert_allclose(moved[first:last], np.broadcast_to(moved[first], moved[first:last].shape), atol=1e-3)
    assert GRID.mean(moved.mean(0)[None])[0] == pytest.approx(0.2 * 4 * 6, rel=0.15)
    np.testing.assert_array_equal(late[:, 3] == 0, early[:, 3] == 0)


def test_realisations_of_delta_change_are_days_of_different_years(archive):
    split = make_split(archive, "official")
    emulator = DeltaChange.fit(archive, split, years=6, seed=4, features=("CO2",), ridge=1.0)
    scenario = archive["high"]
    ensemble = emulator.predict_members(scenario, 0, 730, 3)
    assert np.abs(ensemble[0] - ensemble[1]).mean() > 0.5
    np.testing.assert_array_equal(emulator.member(2).predict_fields(scenario, 300, 500), ensemble[2, 300:500])
    again = DeltaChange.from_state(archive.domain, *emulator.state())
    np.testing.assert_array_equal(again.member(1).predict_fields(scenario, 0, 730), ensemble[1])


@pytest.mark.parametrize("kind", [TypicalYear, DeltaChange])
def test_what_has_no_days_of_a_year_is_refused(archive, kind):
    months = warming_archive(months=121)
    options = {"years": 3} if kind is DeltaChange else {}
    with pytest.raises(ProtocolError, match="days of years"):
        kind.check(months, features=("CO2",), ridge=1.0, **options)
    with pytest.raises(RecipeError, match="features is empty"):
        kind.check(archive, features=(), ridge=1.0, **options)
    with pytest.raises(RecipeError, match="ridge"):
        kind.check(archive, features=("CO2",), ridge=-1.0, **options)
    with pytest.raises(ProtocolError, match="SO9"):
        kind.check(archive, features=("SO9",), ridge=1.0, **options)


def test_logarithm_of_a_forcing_is_taken_before_it_is_remembered(archive):
    scenario = archive["high"]
    plain = np.log(scenario.forcings["CO2"])
    np.testing.assert_allclose(feature("log:CO2", scenario, GRID), plain)
    remembered = feature("log:CO2~2", scenario, GRID)
    assert plain[0] == remembered[0]
    assert plain[1000] > remembered[1000] > plain[0]


@pytest.fixture(scope="module")
def climx(climx_folder):
    """An archive with the base period of the percentiles, and a split that holds a scenario out."""
    archive = open_data(str(climx_folder[0]))
    spans = {name: Span(name, 0, len(archive[name]), (0,)) for name in ("historical", "ssp126", "ssp370")}
    return archive, Split("own", (spans["historical"], spans["ssp126"]), {"test": (spans["ssp370"],)})


def test_template_of_a_block_is_the_candidate_whose_indices_are_nearest(climx):
    """A plain reckoning for one cell: every training year as the template, and its distance there."""
    archive, split = climx
    options = {"features": ("log:CO2_LBC",), "ridge": 1.0}
    by_cell = TypicalYear.fit(archive, split, template="cell", **options)
    years = training_years(archive, split)
    step = max(1, len(years) // CANDIDATES)
    warming, explained = Warming.of_training(archive, years, *options.values())
    plain = TypicalYear.fit(archive, split, **options)
    thresholds = thresholds_of_archive(archive)
    places = [archive.variables.index(v) for v in VARIABLES]
    cell = (2, 3)

    def indices(days):
        fields = {n: days[:, p].reshape(1, 365, -1) for n, p in zip(VARIABLES, places, strict=True)}
        found = annual_indices(fields, thresholds)
        return np.array([found[n][0].reshape(archive.grid.shape)[cell] for n in INDICES])

    seen = np.stack([indices(y.read(archive)) for y in years])
    g = explained - warming.mean
    slope = ((g - g.mean())[:, None] * seen).sum(0) / ((g - g.mean()) ** 2).sum()
    levels = np.quantile(g, [0.1, 0.5, 0.9])
    expected = seen.mean(0) + (levels - g.mean())[:, None] * slope
    rain = np.array([n in ("Rx5day", "CDD", "CWD", "R95p", "R10mm", "SDII") for n in INDICES])
    _, scatter, _ = _expected([lambda y=y: y.read(archive) for y in years], g, _indices_of(archive))
    scale = scatter.reshape(15, *archive.grid.shape)[(slice(None), *cell)]
    distances = []
    for year in years[::step]:
        built = np.stack([indices(plain.year_of(float(x), rank_days(year.read(archive)))) for x in levels])
        distances.append((((built - expected) / scale) ** 2).mean(0))
    distances = np.array(distances)
    for group, name in ((rain, "pr"), (~rain, "tasmax")):
        best = years[::step][int(distances[:, group].mean(1).argmin())]
        ranks = rank_days(best.read(archive))[:, archive.variables.index(name)]
        np.testing.assert_array_equal(by_cell._ranks[:, archive.variables.index(name)][:, *cell], ranks[:, *cell])
    assert "chosen by cell" in by_cell.template


def test_blocks_hold_whole_cells_and_one_year_each(climx):
    archive, split = climx
    with pytest.raises(RecipeError, match="is a cell of this grid"):
        TypicalYear.check(archive, features=("CO2_LBC",), ridge=1.0, template="block", block=12.0)
    with pytest.raises(RecipeError, match="only blocks have a size"):
        TypicalYear.check(archive, features=("CO2_LBC",), ridge=1.0, template="global", block=30.0)
    blocks = cells_of_blocks(archive.grid, 90.0)
    assert set(np.bincount(blocks.ravel())) == {2, 4}
    chosen = TypicalYear.fit(archive, split, features=("log:CO2_LBC",), template="block", block=90.0)
    years = {rank_days(y.read(archive)).tobytes(): y for y in training_years(archive, split)}
    found = [np.frombuffer(k, np.uint16).reshape(chosen._ranks.shape) for k in years]
    for block in range(blocks.max() + 1):
        inside = blocks == block
        for v in (archive.variables.index("pr"), archive.variables.index("tasmin")):
            assert any((chosen._ranks[:, v][:, inside] == ranks[:, v][:, inside]).all() for ranks in found)
