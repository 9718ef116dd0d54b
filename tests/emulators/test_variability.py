"""Internal variability that is too small, holds the base's mistakes or a forced change, or has seen hidden months."""

from dataclasses import replace

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.data.split import Span
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.variability import Variability, _decade, blocks, estimate_variability, whole_blocks
from emukit.errors import ProtocolError
from emukit.progress import silent_reporter
from emukit.recipes.load import load_recipe
from emukit.runs.run import train_run
from tests.coded import warming_archive

SEASON = 1 + 0.5 * np.cos(2 * np.pi * np.arange(12) / 12)


def climate(members=3, months=961, memory=0.0, variance_trend=0.0, weather=1.0, seed=1):
    """A climate that warms from decade to decade, with weather of variance SEASON^2 exp(growth (warmth - 283 K))."""
    archive = warming_archive(months, members, noise=0.0)
    rng = np.random.default_rng(seed)
    scenarios = {}
    for number, (name, s) in enumerate(archive.scenarios.items()):
        fields = s.targets.astype(np.float64)
        fields[:, :, 1] += 20.0
        global_mean = 281.0 + 0.15 * (1 + number) * (np.arange(months) // 120)
        fields[:, :, 0] += (global_mean - archive.grid.mean(fields[0, :, 0]))[None, :, None, None]
        noise = rng.normal(size=fields.shape)
        for t in range(1, months):
            noise[:, t] = memory * noise[:, t - 1] + np.sqrt(1 - memory**2) * noise[:, t]
        size = weather * SEASON[s.calendar_month] * np.exp(0.5 * variance_trend * (global_mean - 283.0))
        fields += size[None, :, None, None, None] * noise
        scenarios[name] = replace(s, targets=fields.astype(np.float32))
    return replace(archive, scenarios=scenarios)


class Said:
    """A base that says what the first member of an archive does."""

    first_month = 0

    def __init__(self, archive):
        self.archive = archive

    def predict_fields(self, scenario, start, stop):
        return self.archive[scenario.name].targets[0, start:stop]


def without_weather(archive):
    return Said(climate(1, len(archive["ssp126"]), weather=0.0))


def spans(archive, names=("ssp126", "ssp370", "ssp585")):
    return tuple(Span(n, 0, len(archive[n]) - 1, archive[n].members) for n in names)


def test_variance_of_months_is_found_whatever_the_number_of_members():
    for members in (2, 3):
        archive = climate(members)
        found = estimate_variability(archive, spans(archive), without_weather(archive), 120)
        assert found.from_members
        # 3 x 80 years of one or two departures in each cell, 48 cells: two per cent.
        ratio = found.level.mean((1, 2, 3)) / SEASON**2
        np.testing.assert_allclose(ratio, 1.0, atol=0.05)


def test_one_member_falls_back_to_what_the_base_leaves():
    archive = climate(1)
    found = estimate_variability(archive, spans(archive), without_weather(archive), 120)
    assert not found.from_members
    np.testing.assert_allclose(found.level.mean((1, 2, 3)) / SEASON**2, 1.0, atol=0.05)
    whole = np.mean(SEASON**2)
    assert found.time_mean.mean() == pytest.approx(whole / 120, rel=0.15)
    assert found.forced.mean() == pytest.approx(1.0, abs=0.05)


def test_where_some_scenarios_have_several_members_only_those_count():
    archive = climate(3)
    some = spans(archive)
    some = (some[0], replace(some[1], members=(0,)), some[2])
    base = without_weather(archive)
    found = estimate_variability(archive, some, base, 120)
    other = estimate_variability(archive, (some[0], some[2]), base, 120)
    np.testing.assert_array_equal(found.level, other.level)


def test_a_mistake_of_the_base_is_no_variability_where_members_can_be_compared():
    archive = climate(3)
    base = without_weather(archive)
    wrong = Said(base.archive)
    wrong.predict_fields = lambda s, a, b: base.predict_fields(s, a, b) + np.float32(7.0)
    np.testing.assert_allclose(
        estimate_variability(archive, spans(archive), wrong, 120).level,
        estimate_variability(archive, spans(archive), base, 120).level,
        rtol=1e-9,
    )


@pytest.mark.parametrize("members", [1, 3])
def test_means_of_weather_that_lasts_vary_more_than_of_white_noise(members):
    archive = climate(members, memory=0.8)
    found = estimate_variability(archive, spans(archive), without_weather(archive), 120)
    # AR(1): the variance of a mean over many months is (1 + a) / (1 - a) times that of white noise.
    month = np.arange(120) % 12
    lag = np.abs(np.arange(120)[:, None] - np.arange(120))
    expected = np.mean(SEASON[month][:, None] * SEASON[month] * 0.8**lag)
    assert found.time_mean.mean() == pytest.approx(expected, rel=0.2)


def test_standard_deviation_varies_from_run_to_run_as_it_should():
    archive, runs = climate(3), []
    found = estimate_variability(archive, spans(archive), without_weather(archive), 120)
    for seed in range(10):
        more = climate(3, 121, seed=50 + seed)["ssp126"].targets[:, 1:]
        runs.append(more.std(1, dtype=np.float64))
    expected = np.concatenate(runs).var(0, ddof=1)
    assert found.time_std[1].mean() == pytest.approx(expected[1].mean(), rel=0.25)


def test_a_period_longer_than_any_training_span_varies_less():
    archive = climate(3, 121)
    base, some = without_weather(archive), spans(archive)
    short, long = (estimate_variability(archive, some, base, p) for p in (120, 240))
    np.testing.assert_allclose(long.time_mean, short.time_mean / 2, rtol=1e-6)
    np.testing.assert_allclose(long.time_std, short.time_std / 2, rtol=1e-6)


def test_change_with_warming_is_found_and_goes_on_a_little():
    archive = climate(3, variance_trend=0.3)
    found = estimate_variability(archive, spans(archive), without_weather(archive), 120)
    assert found.slope.mean() == pytest.approx(0.3, abs=0.04)
    at, low, high = found.global_mean
    ratio = found.by_season(at + 2.0) / found.by_season(at)
    assert np.median(ratio) == pytest.approx(np.exp(0.6), rel=0.08)
    np.testing.assert_array_equal(found.by_season(high), found.by_season(high + 50.0))
    np.testing.assert_array_equal(found.by_season(low), found.by_season(low - 50.0))


def test_a_drop_of_rain_where_other_scenarios_have_none_does_not_decide_about_all_slopes():
    archive = climate(3, variance_trend=0.3)
    for s in archive.values():
        s.targets[:, :, 1, 2, 3] = 0.0
    archive["ssp126"].targets[1, 100, 1, 2, 3] = 1.0
    found = estimate_variability(archive, spans(archive), without_weather(archive), 120)
    assert np.median(found.slope[:, 1]) == pytest.approx(0.3, abs=0.04)
    assert np.isfinite(found.by_season(286.0)).all()


def test_change_with_warming_that_scenarios_do_not_agree_on_is_dropped():
    archive = climate(3)
    found = estimate_variability(archive, spans(archive), without_weather(archive), 120)
    # A slope fitted to chance is about 0.03 per K; at most a tenth or two of it is believed.
    assert np.abs(found.slope).mean() < 0.01
    lone = estimate_variability(archive, spans(archive, ("ssp585",)), without_weather(archive), 120)
    assert not lone.slope.any()


def test_a_base_that_varies_as_a_run_does_is_not_all_forced():
    archive = climate(3)
    run = Said(climate(3, seed=9))
    found = estimate_variability(archive, spans(archive), run, 120)
    calm = without_weather(archive)
    parts = [
        (calm.predict_fields(archive[n], a, b).var(0), run.predict_fields(archive[n], a, b).var(0))
        for n in ("ssp126", "ssp370", "ssp585")
        for a, b in blocks(0, 960, 120)
    ]
    np.testing.assert_allclose(found.forced, sum(c for c, _ in parts) / sum(r for _, r in parts), atol=0.04)


def test_scored_months_move_nothing():
    archive = warming_archive(481)
    split = make_split(archive, "k360")
    base = LinearEmulator.fit(archive, split, features=("CO2", "SO2"))
    before = estimate_variability(archive, split.train, base, 60).arrays()
    for held in split.scored.values():
        for span in held:
            archive[span.scenario].targets[:, span.start : span.stop] *= -3
    after = estimate_variability(archive, split.train, base, 60).arrays()
    assert all(np.array_equal(before[k], after[k]) for k in before)


def test_arrays_are_the_whole_of_it():
    archive = climate(2, 241)
    found = estimate_variability(archive, spans(archive), without_weather(archive), 120)
    again = Variability.from_arrays(found.arrays())
    np.testing.assert_allclose(again.by_season(284.0), found.by_season(284.0), rtol=1e-5)
    assert again.from_members == found.from_members
    np.testing.assert_array_equal(again.global_mean, found.global_mean)


@pytest.mark.parametrize("length", [1, 59, 60, 61, 119, 120, 179, 180, 181, 1021])
@pytest.mark.parametrize("start", [0, 11])
def test_blocks_are_counted_from_the_end_and_leave_no_month_out(length, start):
    parts = blocks(start, start + length, 120)
    assert [a for a, _ in parts] == [start, *(b for _, b in parts[:-1])]
    assert parts[-1][1] == start + length
    assert all(b - a == 120 for a, b in parts[1:])
    assert len(parts) == 1 or 60 <= parts[0][1] - parts[0][0] < 180
    assert set(whole_blocks(start, start + length, 120)) >= set(parts[1:])
    assert len(whole_blocks(start, start + length, 120)) == length // 120


def twins(archive, scenario="ssp370"):
    copied = archive[scenario].targets.copy()
    copied[2] = copied[0]
    return replace(archive, scenarios={**archive.scenarios, scenario: replace(archive[scenario], targets=copied)})


def test_members_that_are_one_run_do_not_pass_for_runs_that_do_not_vary():
    archive = twins(climate(3, 181))
    base = without_weather(archive)
    with pytest.raises(ProtocolError, match="members 0 and 2 of ssp370 are the same run") as caught:
        estimate_variability(archive, spans(archive), base, 120)
    assert "--members 0,1" in caught.value.hint
    # Where they do not train together, or have a month alone in common, nothing is wrong.
    some = tuple(replace(s, members=(0, 1)) for s in spans(archive))
    assert estimate_variability(archive, some, base, 120).from_members
    begun = climate(3, 181)
    begun["ssp370"].targets[2, 0] = begun["ssp370"].targets[0, 0]
    assert estimate_variability(begun, spans(begun), base, 120).from_members


@pytest.mark.parametrize("name", ["variance-matched", "sampled"])
def test_members_that_are_one_run_are_refused_before_bases_are_trained(name, tmp_path):
    with pytest.raises(ProtocolError, match="are the same run"):
        train_run(
            twins(warming_archive()), load_recipe(name), tmp_path / "r", protocol="k360", reporter=silent_reporter()
        )
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("members", "freedom"), [(1, 10), (2, 10), (3, 20)])
def test_a_decade_counts_by_its_years_and_by_the_members_that_can_differ(members, freedom):
    archive = climate(members, 241)
    found = _decade(archive, Span("ssp126", 0, 120, archive["ssp126"].members), without_weather(archive))
    np.testing.assert_array_equal(found.freedom, np.full(12, freedom))


def test_variance_in_proportion_to_the_mean_follows_it() -> None:
    """Variance of pr is its mean times a number of the cell; of tas it is not, and stays what it was."""
    archive = warming_archive(961, 3, noise=0.0)
    rng = np.random.default_rng(5)
    factor = rng.uniform(0.5, 2.0, archive.grid.shape)
    scenarios, forced = {}, {}
    for number, (name, s) in enumerate(archive.scenarios.items()):
        calm = s.targets.astype(np.float64)
        calm[:, :, 1] = (
            10.0 + 3.0 * SEASON[s.calendar_month][:, None, None] + 0.01 * number * np.arange(961)[:, None, None]
        )
        noise = rng.normal(size=calm.shape)
        noise[:, :, 1] *= np.sqrt(factor * calm[:, :, 1])
        scenarios[name] = replace(s, targets=(calm + noise).astype(np.float32))
        forced[name] = replace(s, targets=calm.astype(np.float32))
    archive, base = replace(archive, scenarios=scenarios), Said(replace(archive, scenarios=forced))
    plain = estimate_variability(archive, spans(archive), base, 120)
    found = estimate_variability(archive, spans(archive), base, 120, ("pr",))
    again = Variability.from_arrays(found.arrays())
    wet = np.full((12, 2, *archive.grid.shape), 24.0)
    for known in (found, again):
        variance = known.by_season(known.global_mean[0], wet)
        ratio = variance[:, 1] / (24.0 * factor)
        assert ratio.mean() == pytest.approx(1.0, abs=0.03)
        np.testing.assert_allclose(variance[:, 0], plain.by_season(plain.global_mean[0], wet)[:, 0], rtol=1e-6)
    # Without it the variance of wetter months is that of the usual ones.
    assert (plain.by_season(plain.global_mean[0], wet)[:, 1] / (24.0 * factor)).mean() < 0.9
