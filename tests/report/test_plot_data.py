"""Pictures of other months, members or amounts than those scored, and hidden months drawn as if they were zero."""

import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.collections import QuadMesh
from rich.console import Console

from emukit.data.archive import Archive
from emukit.data.protocol import make_split
from emukit.data.split import Span
from emukit.emulators.additive_gp import AdditiveGP
from emukit.emulators.base import Emulator
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.sampled import Sampled
from emukit.emulators.trajectory import Persistence
from emukit.emulators.variance_matched import VarianceMatched
from emukit.errors import ProtocolError
from emukit.figures.maps import draw_maps
from emukit.metrics.variability import VariabilityStatistics, rank_histogram
from emukit.progress import silent_reporter
from emukit.report import plot_data
from emukit.report.plot import _place, _visible_sets, draw
from emukit.report.plot_data import (
    annual_means,
    area_means,
    collect,
    discrepancy_panels,
    error_rows,
    hidden_years,
    mean_years,
    power,
    ranks,
    share_rows,
    spread_rows,
    uncertainty_rows,
    year_of,
)
from emukit.report.run_figures import _figures
from emukit.report.site import CAPTIONS
from emukit.report.variability import compare_variability, variability_table
from emukit.runs.evaluate import score_emulator
from tests.coded import coded_archive, small_grid, warming_archive
from tests.forecasts import sequence


class Late(Emulator):
    """Predicts the second member, from the seventh month on."""

    kind = "late"

    def __init__(self, archive: Archive) -> None:
        super().__init__(archive.domain)
        self.archive = archive

    @property
    def first_month(self):
        return 6

    def predict_fields(self, scenario, start, stop):
        assert start >= 6
        return self.archive[scenario.name].targets[1, start:stop].copy()

    def state(self):
        raise NotImplementedError

    @classmethod
    def from_state(cls, domain, meta, arrays):
        raise NotImplementedError


@pytest.fixture(scope="module")
def warming():
    """A climate, what a line says of a span of it, and the span: member 2 is scored."""
    archive = warming_archive()
    span = Span("ssp370", 121, 181, (2,))
    emulator = LinearEmulator.fit(archive, make_split(archive, "k360"))
    return archive, emulator, span, collect(emulator, archive, span)


def test_maps_are_of_the_scored_months_and_member_with_the_numbers_of_the_score(warming):
    archive, emulator, span, shown = warming
    score = score_emulator(emulator, archive, (span,))
    other = score_emulator(Late(archive), archive, (span,))
    rows = error_rows(shown)
    truth = archive["ssp370"].targets[2, 121:181].astype(np.float64)
    prediction = emulator.predict_fields(archive["ssp370"], 121, 181).astype(np.float64)
    assert [r.colours for r in rows] == ["RdBu_r", "RdBu_r", "BrBG", "BrBG"]
    for v, name in enumerate(("tas", "pr")):
        mean, std = rows[2 * v : 2 * v + 2]
        np.testing.assert_allclose(mean.panels[0].error, (prediction - truth).mean(0)[v], atol=1e-9)
        np.testing.assert_allclose(std.panels[0].error, prediction.std(0)[v] - truth.std(0)[v], atol=1e-9)
        bias = archive.grid.mean(mean.panels[0].error)
        title = f"prediction less member 2: RMSE {score[f'{name}.time_mean_rmse']:.3f}, bias {bias:+.3f}"
        assert mean.panels[0].title == title
        assert f"MAE {score[f'{name}.time_stddev_mae']:.3f}, bias " in std.panels[0].title
        # The reference: here another member than 1 would have another title.
        assert mean.panels[1].title.startswith("member 0 less member 2: ")
    late = error_rows(collect(Late(archive), archive, Span("ssp370", 121, 181, (0,))))
    np.testing.assert_array_equal(late[0].panels[0].error, late[0].panels[1].error)
    assert f"RMSE {other['tas.time_mean_rmse']:.3f}" not in late[0].panels[1].title


def test_years_are_calendar_years_with_gaps_where_truth_is_hidden_or_nothing_predicted():
    archive = coded_archive(months=121, hidden={"ssp370": (95, 121)})
    shown = collect(Late(archive), archive, Span("ssp370", 60, 95, (0,)))
    tas, pr = annual_means(shown)
    assert tas.label == "tas (K), global"
    np.testing.assert_allclose(tas.curves.x, 2015.5 + np.arange(10))
    targets = archive["ssp370"].targets
    expected = archive.grid.mean(targets)[:, :120].reshape(3, 10, 12, 2).mean(2)
    for v, panel in enumerate((tas, pr)):
        np.testing.assert_allclose(panel.curves.members[:, :7], expected[:, :7, v])
        assert np.isnan(panel.curves.members[:, 7:]).all()
        assert np.isnan(panel.curves.predictions[0, 0])
        np.testing.assert_allclose(panel.curves.predictions[0, 1:7], expected[1, 1:7, v])
    scenario = archive["ssp370"]
    assert hidden_years(scenario) == [(year_of(scenario, 95), year_of(scenario, 121))]
    assert year_of(scenario, 95) == pytest.approx(2015 + 95 / 12)


def test_years_begin_in_january_whenever_the_scenario_begins():
    archive = coded_archive(months=121)
    later = {
        name: replace(s, time=s.time[3:], targets=s.targets[:, 3:], hidden=s.hidden[3:])
        for name, s in archive.scenarios.items()
    }
    archive = replace(archive, scenarios=later)
    tas, _ = annual_means(collect(Late(archive), archive, Span("ssp126", 60, 110, (0,))))
    assert tas.curves.x[0] == 2016.5
    assert len(tas.curves.x) == 9
    np.testing.assert_allclose(tas.curves.members[0, 0], archive.grid.mean(later["ssp126"].targets[0, 9:21, 0]).mean())


def test_mean_years_are_by_calendar_month_and_band_and_their_errors_from_the_scored_member(warming):
    archive, emulator, _, shown = warming
    tas = mean_years(shown)[0]
    assert [s.place for s in tas] == ["globe", "90°S to 30°S", "30°S to 30°N", "30°N to 90°N"]
    scenario = archive["ssp370"]
    rows = np.arange(121, 181)[scenario.calendar_month[121:181] == 3]
    fields = scenario.targets[:, rows, 0].astype(np.float64).mean(1)
    north = archive.grid.lat >= 30
    weights = archive.grid.weights[north] / archive.grid.weights[north].sum()
    april = (fields[:, north] * weights).sum((1, 2))
    np.testing.assert_allclose(tas[3].cycle.members[:, 3], april[[2, 0, 1]])
    np.testing.assert_allclose(tas[3].errors.members[:, 3], april[[0, 1]] - april[2], atol=1e-9)
    said = emulator.predict_fields(scenario, 121, 181)[rows - 121, 0].astype(np.float64).mean(0)
    expected = (said[north] * weights).sum()
    assert tas[3].cycle.predictions[0, 3] == pytest.approx(expected)
    assert tas[3].errors.predictions[0, 3] == pytest.approx(expected - april[2])
    np.testing.assert_allclose(tas[0].cycle.members[1, 3], archive.grid.mean(fields)[0])


def test_spectra_are_of_anomalies_and_carry_the_unit_of_power(warming):
    *_, shown = warming
    (tas, _) = power(shown)
    assert [p.what for p in tas] == ["monthly, global mean", "monthly, area mean of cells"]
    assert tas[0].label == "tas (K² year)"
    # Seasons of eight degrees are not weather: the noise has a standard deviation of 0.3.
    width = tas[1].curves.x[1] - tas[1].curves.x[0]
    np.testing.assert_allclose(tas[1].curves.members.sum(1) * width, 0.09, rtol=0.3)
    assert tas[1].curves.predictions.shape == (1, len(tas[1].curves.x))
    assert tas[1].curves.predictions.max() < 0.01 * tas[1].curves.members.max()


@pytest.fixture(scope="module")
def sampled(warming):
    archive, emulator, span, _ = warming
    split = make_split(archive, "k360")
    return archive, Sampled.fit(archive, split, [emulator], [], years=2, seed=5), span


def test_ensemble_is_ten_realisations_of_which_the_first_is_the_prediction(sampled):
    archive, emulator, span = sampled
    shown = collect(emulator, archive, span)
    scenario = archive["ssp370"]
    np.testing.assert_array_equal(shown.predictions[0], emulator.predict_fields(scenario, 121, 181))
    assert len(shown.ensemble) == 10
    realisations = [emulator.member(k).predict_fields(scenario, 121, 181) for k in range(10)]
    np.testing.assert_array_equal(shown.ensemble, realisations)
    assert not any(np.array_equal(shown.predictions[10], r) for r in realisations)
    tas, pr = ranks(shown)
    weights = archive.grid.weights
    assert tas.members == [2, 0, 1]
    for v, found in enumerate((tas, pr)):
        for i, m in enumerate(found.members):
            expected = rank_histogram(scenario.targets[m, 121:181], realisations, weights)[:, v]
            np.testing.assert_allclose(found.shares[i], expected)
        assert found.chance.shape == (11,)
        assert (found.chance > 0).all()
    assert annual_means(shown)[0].curves.predictions.shape == (10, 15)
    assert mean_years(shown)[0][0].cycle.predictions.shape == (10, 12)
    assert power(shown)[0][0].curves.predictions.shape[0] == 10
    figures, left_out = draw(shown, "title")
    assert set(figures) == {"maps", "change", "years", "seasons", "spectra", "ranks", "spread", "hovmoeller"}
    assert left_out == {}


def test_maps_of_spread_are_of_realisations_and_members_about_their_own_means(sampled):
    archive, emulator, span = sampled
    shown = collect(emulator, archive, span)
    tas, pr = spread_rows(shown)
    assert (tas.positive, tas.label, pr.label) == (True, "spread of tas (K)", "spread of pr (mm/day)")
    members = archive["ssp370"].targets[:, 121:181].astype(float)
    expected = np.sqrt(members.var(0, ddof=1).mean(0))
    own = np.sqrt(np.stack(shown.ensemble).astype(float).var(0, ddof=1).mean(0))
    for v, row in enumerate((tas, pr)):
        np.testing.assert_allclose(row.panels[0].error, own[v], rtol=1e-6)
        np.testing.assert_allclose(row.panels[1].error, expected[v], rtol=1e-6)
        np.testing.assert_allclose(row.apart.error, own[v] - expected[v], atol=1e-6)
    assert f"{np.sqrt(archive.grid.mean(expected[0] ** 2)):.3f}" in tas.panels[1].title
    figure = draw_maps([tas, pr], archive.grid, "title", earth=False)
    scales = [mesh.norm for axes in figure.axes for mesh in axes.collections if isinstance(mesh, QuadMesh)][:3]
    assert [s.vmin for s in scales] == [0, 0, -scales[2].vmax]
    one = replace(shown, members={2: shown.members[2]})
    assert spread_rows(one) == []
    assert "single member" in draw(one, "title")[1]["spread"]


def test_what_a_response_is_made_of_is_shown_of_the_months_and_by_component(warming):
    archive, anchor, span, plain = warming
    assert plain.explanation is None
    assert not {"uncertainty", "discrepancy", "shares"} & draw(plain, "title")[0].keys()
    split = make_split(archive, "k360")
    own = {"warming": ("CO2", "SO2"), "features": ("SO2",), "indices": ("hemispheres",), "forcings": ("CO2", "SO2")}
    base = AdditiveGP.fit(archive, split, (anchor,), (), **own)
    # A wrapper is explained by what it wraps.
    emulator = VarianceMatched.fit(archive, split, (base,), ())
    shown = collect(emulator, archive, span)
    explained = shown.explanation
    rows = share_rows(shown, explained)
    assert {row.label for row in rows} == {"warming", "hemispheres", "SO2", "discrepancy"}
    shares = base.shares()
    means = [archive.grid.mean(shares[n if n in shares else f"feature {n}"]) for n in (row.label for row in rows)]
    assert [m.mean() for m in means] == sorted([m.mean() for m in means], reverse=True)
    for row, mean in zip(rows, means, strict=True):
        name = row.label if row.label in shares else f"feature {row.label}"
        for v, panel in enumerate(row.panels):
            np.testing.assert_allclose(panel.error, shares[name][v], rtol=1e-6)
            assert panel.title == f"{archive.variables[v]}: {100 * mean[v]:.1f} % of the area mean"
        assert row.positive
    members = archive["ssp370"].targets[:, 121:181].astype(float).mean(1)
    error = np.abs(emulator.predict_fields(archive["ssp370"], 121, 181).mean(0, dtype=float) - members.mean(0))
    for v, row in enumerate(uncertainty_rows(shown, explained)):
        np.testing.assert_allclose(row.panels[0].error, explained.deviation[v])
        np.testing.assert_allclose(row.panels[1].error, error[v], rtol=1e-5)
        assert f"{np.sqrt(archive.grid.mean(error[v] ** 2)):.3f}" in row.panels[1].title
        assert "mean of 3 members" in row.panels[1].title
    panels = discrepancy_panels(explained)
    assert [label for label, _ in panels] == list(explained.discrepancies)
    label, last = panels[-1]
    assert label == "rest of the global mean, pr (mm/day)"
    assert list(last) == [s.scenario for s in split.train]
    np.testing.assert_array_equal(last["ssp370"].mean, explained.discrepancies[label]["ssp370"].mean)
    figures, left_out = draw(shown, "title")
    assert {"uncertainty", "discrepancy", "shares"} <= figures.keys()
    assert not {"uncertainty", "discrepancy", "shares"} & left_out.keys()
    # The pages show the same, each with a caption and what it says in words.
    pages = _figures(shown, "title")
    assert {"uncertainty", "discrepancy", "shares"} <= pages.keys() & CAPTIONS.keys()
    assert all(row.label in pages["shares"][1] for row in rows)
    assert "ssp126, ssp370, ssp585" in pages["discrepancy"][1]


def test_weather_is_compared_as_members_are_with_each_other(warming):
    archive, _, _, shown = warming
    grid, month = archive.grid, archive["ssp370"].calendar_month[121:181]
    members = [VariabilityStatistics.of(archive["ssp370"].targets[m, 121:181], month, grid) for m in range(3)]
    prediction = VariabilityStatistics.of(shown.predictions[0], month, grid)
    found = compare_variability(shown)
    mean = np.mean([m.differences(prediction, grid)["memory"] for m in members], axis=0)
    np.testing.assert_allclose(found.difference["memory"], mean)
    std = np.mean([grid.mean(prediction.std) / grid.mean(m.std) - 1 for m in members], axis=0)
    np.testing.assert_allclose(found.difference["total_std"], std)
    assert (std < -0.5).all()
    pairs = [a.differences(b, grid)["length"] for a in members for b in members if a is not b]
    np.testing.assert_allclose(found.between_members["length"], np.mean(np.abs(pairs), axis=0))
    assert (found.between_members["length"] > 0).all()
    np.testing.assert_allclose(found.members[1]["total_std"], grid.mean(members[1].std))
    plain = found.as_dict()
    assert plain["members"]["2"]["length"]["pr"] == members[2].length_km[1]
    assert plain["difference from a member"]["together"] == found.difference["together"][0]
    rows = {name: cells for name, *cells in found.rows()}
    assert len(rows) == 11
    stds = [grid.mean(m.std)[0] for m in members]
    assert rows["tas std"][1:3] == [f"{min(stds):.3f}..{max(stds):.3f}", f"{grid.mean(prediction.std)[0]:.3f}"]
    assert rows["tas std"][3] == f"{100 * std[0]:+.1f} %"
    assert rows["pr memory"][3] == f"{mean[1]:.3f}"
    assert (rows["tas length"][0], rows["tas with pr correlation"][0]) == ("km", "")
    assert rows["tas std, cell by cell"][1:3] == ["", ""]


def test_length_beyond_what_is_measured_is_no_number(warming):
    shown = warming[3]
    # One series for all cells: the correlation falls nowhere.
    same = np.random.default_rng(3).normal(size=(*shown.predictions[0].shape[:2], 1, 1)).astype(np.float32)
    flat = replace(shown, predictions=[np.broadcast_to(same + 9, shown.predictions[0].shape)])
    found = compare_variability(flat)
    assert np.isinf(found.prediction["length"]).all()
    assert 5000 < found.measured_km <= 6000
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    said = f"> {100 * int(found.measured_km / 100)}"
    assert plain["prediction"]["length"] == {"tas": said, "pr": said}
    assert plain["difference from a member"]["length"] == {"tas": None, "pr": None}
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(variability_table(found, "t"))
    (line,) = [text for text in console.export_text().splitlines() if "tas length" in text]
    members = "..".join(f"{f(m['length'][0] for m in found.members.values()):.0f}" for f in (min, max))
    between = f"{100 * found.between_members['length'][0]:.1f}"
    assert line.split() == ["tas", "length", "km", members, *said.split(), "?", between, "%"]


def test_one_member_has_no_other_run_and_no_second_map():
    archive = warming_archive(members=1)
    split = make_split(archive, "k360")
    emulator = LinearEmulator.fit(archive, split)
    shown = collect(emulator, archive, split.validation[0])
    assert all(len(row.panels) == 1 for row in error_rows(shown))
    figures, left_out = draw(shown, "title")
    assert set(figures) == {"maps", "change", "years", "seasons", "hovmoeller"}
    assert "24 months are too few" in left_out["spectra"]
    assert "one answer" in left_out["ranks"]
    assert "one answer" in left_out["spread"]
    longer = compare_variability(collect(emulator, archive, Span("ssp370", 0, 120, (0,))))
    assert longer.between_members is None
    assert longer.as_dict()["difference between two members"] is None
    assert {between for *_, between in longer.rows()} == {""}


def test_default_is_every_set_whose_truth_is_visible():
    archive = coded_archive(hidden={"ssp370": (85, 121)})
    split = make_split(archive, "k360")
    assert list(_visible_sets(archive, split, silent_reporter())) == ["validation"]
    assert list(_visible_sets(coded_archive(), make_split(coded_archive(), "k360"), silent_reporter())) == [
        "validation",
        "test",
    ]
    only_test = SimpleNamespace(protocol="k360", scored={"test": split.scored["test"]})
    with pytest.raises(ProtocolError, match="nothing visible to compare with under k360") as caught:
        _visible_sets(archive, only_test, silent_reporter())
    assert "test, ssp370 2022-02..2025-01 member 0, is hidden" in caught.value.found


def test_every_span_of_a_set_has_a_folder_of_its_own():
    archive = coded_archive()
    spans = (Span("ssp126", 0, 12, (0,)), Span("ssp126", 24, 36, (0,)), Span("ssp370", 0, 12, (0,)))
    places = [_place(archive, "validation", s, spans) for s in spans]
    assert places == ["validation-ssp126-2015-01", "validation-ssp126-2017-01", "validation-ssp370"]


def test_a_trajectory_is_shown_from_the_beginning_that_is_scored():
    archive = sequence()
    (span,) = make_split(archive, "forecast").scored["test"]
    emulator = Persistence(archive.domain)
    shown = collect(emulator, archive, span)
    np.testing.assert_array_equal(shown.predictions[0], archive["control"].targets[0, [span.start - 1] * len(span)])
    assert np.isnan(shown.global_predictions[0, : span.start]).all()
    assert np.isfinite(shown.global_predictions[0, span.start : span.stop]).all()


def test_errors_of_precipitation_in_si_units_are_not_zero_in_words():
    grid = small_grid()
    assert area_means(np.full(grid.shape, -2.5e-6), grid, squared=True) == "RMSE 2.50e-06, bias -2.50e-06"
    assert area_means(np.full(grid.shape, 0.25), grid, squared=False) == "MAE 0.250, bias +0.250"
    assert area_means(np.zeros(grid.shape), grid, squared=True) == "RMSE 0.000, bias +0.000"


@pytest.mark.parametrize(("steps", "each"), [(1000, 1), (1001, 2), (2500, 3)])
def test_decades_of_days_are_drawn_one_by_one_or_as_some_of_them(steps, each):
    """Means of so many days that a picture is no wider than a page; one of each would be its own weather."""
    values = np.random.default_rng(0).normal(size=(steps, 3))
    found = plot_data._thinned(values)
    expected = [values[i : i + each].mean(0) for i in range(0, steps - each + 1, each)]
    np.testing.assert_allclose(found, expected)
    assert len(found) <= 1000
    assert plot_data._means_of(steps, "day") == ("" if each == 1 else f", means of {each} days")
