"""A kernel that is not what it says, sizes that are not the likeliest, a discrepancy that is forgotten or leaks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import multivariate_normal

from emukit.data.archive import Archive
from emukit.data.protocol import make_split
from emukit.data.split import Span, Split
from emukit.emulators import additive_gp
from emukit.emulators.additive_gp import (
    DISCREPANCY,
    AdditiveGP,
    Points,
    covariance,
    index_weights,
    motion,
    parts_by_noise,
)
from emukit.emulators.base import Emulator
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.emulators.restricted_likelihood import (
    PRIOR_SPREAD,
    Conditioned,
    fit_sizes,
    negative_log_likelihood,
)
from emukit.emulators.seasonal_ridge import orthonormal_season
from emukit.errors import ProtocolError, RecipeError, RunError
from tests.coded import warming_archive

OPTIONS = {"warming": ("CO2", "SO2"), "features": ("SO2",), "indices": ("hemispheres",), "forcings": ("CO2", "SO2")}


@pytest.fixture(scope="module")
def archive() -> Archive:
    return warming_archive()


@pytest.fixture(scope="module")
def split(archive: Archive) -> Split:
    return make_split(archive, "k360")


@pytest.fixture(scope="module")
def base(archive: Archive, split: Split) -> Emulator:
    return ClimatologyEmulator.fit(archive, split)


def fitted(archive: Archive, split: Split, base: Emulator, **options) -> AdditiveGP:
    return AdditiveGP.fit(
        archive, split, (base,), (), **{"length_scale": 3.0, "sharpness": 4.0, "parts": 2, **OPTIONS, **options}
    )


def random_points(rng: np.random.Generator, number: int) -> Points:
    return Points(rng.uniform(0, 85, number), rng.integers(-1, 2, number), {"warming": rng.normal(size=number)})


@pytest.mark.parametrize("kind", ["brownian", "integrated"])
def test_motion_has_the_covariance_of_summed_steps(kind) -> None:
    """White noise summed up once or twice on a fine grid, in closed form by its matrix."""
    steps, years = 1500, 80.0
    sums = np.tril(np.ones((steps, steps))) * np.sqrt(years / steps / 40.0)
    if kind == "integrated":
        sums = np.tril(np.ones((steps, steps))) @ sums * (years / steps / 40.0)
    at = np.array([200, 700, 1499])
    time = (at + 1) * years / steps
    expected = sums[at] @ sums[at].T
    np.testing.assert_allclose(motion(kind, time[:, None], time), expected, rtol=0.02)


def test_discrepancy_belongs_to_one_scenario_and_to_none_that_was_not_shown() -> None:
    points = Points(np.array([10.0, 20.0, 20.0, 20.0]), np.array([0, 0, 1, -1]), {})
    found = covariance(DISCREPANCY, points, points, "brownian")
    expected = np.array([[0.25, 0.25, 0, 0], [0.25, 0.5, 0, 0], [0, 0, 0.5, 0], [0, 0, 0, 0]])
    np.testing.assert_allclose(found, expected)
    for kind in ("brownian", "integrated"):
        own = np.diag(covariance(DISCREPANCY, points, points, kind))
        np.testing.assert_allclose(additive_gp.prior_variance(DISCREPANCY, points, kind), own)


def problem(number: int = 14) -> tuple[NDArray, NDArray, NDArray]:
    """Components, noise and values of three series."""
    rng = np.random.default_rng(3)
    points = random_points(rng, number)
    names = ("warming", DISCREPANCY)
    components = np.stack([covariance(n, points, points, "integrated") for n in names])
    noise = rng.uniform(0.3, 1.0, number)
    return components, noise, rng.normal(size=(number, 3)) + 2.0 * points.columns["warming"][:, None] + 7.0


def plain_likelihood(logs: NDArray, components: NDArray, noise: NDArray, values: NDArray) -> float:
    """Of contrasts: the density of any basis of the values' differences, up to a constant."""
    number = len(noise)
    basis = np.linalg.qr(np.column_stack([np.ones(number), np.eye(number)[:, 1:]]))[0][:, 1:]
    whole = np.tensordot(np.exp(logs), components, 1) + np.diag(noise)
    density = multivariate_normal(np.zeros(number - 1), basis.T @ whole @ basis)
    return float(sum(density.logpdf(basis.T @ v) for v in values.T) - 0.5 * np.sum((logs / PRIOR_SPREAD) ** 2))


def test_restricted_likelihood_is_that_of_contrasts() -> None:
    components, noise, values = problem()
    products = values @ values.T / values.shape[1]
    asked = [np.array(p) for p in ((0.0, 0.0), (2.0, -3.0), (-1.0, 1.5))]
    plain = [plain_likelihood(p, components, noise, values) for p in asked]
    found = [negative_log_likelihood(p, components, noise, products, values.shape[1])[0] for p in asked]
    np.testing.assert_allclose(np.diff(found), -np.diff(plain), rtol=1e-8)


def test_gradient_is_that_of_finite_differences() -> None:
    components, noise, values = problem()
    products = values @ values.T / values.shape[1]
    at, step = np.array([0.7, -1.2]), 1e-5
    _, slope = negative_log_likelihood(at, components, noise, products, 3.0)
    for j in range(2):
        there = [
            negative_log_likelihood(at + sign * step * np.eye(2)[j], components, noise, products, 3.0)[0]
            for sign in (1, -1)
        ]
        assert slope[j] == pytest.approx((there[0] - there[1]) / (2 * step), rel=1e-5)


def test_sizes_are_the_likeliest_of_a_grid() -> None:
    components, noise, values = problem()
    found = np.log(fit_sizes(components, noise, values @ values.T / values.shape[1], values.shape[1]))
    best = plain_likelihood(found, components, noise, values)
    for a in np.linspace(-6, 6, 25):
        for b in np.linspace(-6, 6, 25):
            assert plain_likelihood(np.array([a, b]), components, noise, values) <= best + 1e-6


def test_conditioning_is_generalised_least_squares() -> None:
    """Against a flat mean as one more component of enormous size."""
    components, noise, values = problem()
    covariance_ = np.tensordot([2.0, 0.5], components, 1)
    points = random_points(np.random.default_rng(3), len(noise))
    at = random_points(np.random.default_rng(8), 5)
    names = ("warming", DISCREPANCY)
    across = sum(s * covariance(n, at, points, "integrated") for s, n in zip((2.0, 0.5), names, strict=True))
    prior = sum(s * additive_gp.prior_variance(n, at, "integrated") for s, n in zip((2.0, 0.5), names, strict=True))
    process = Conditioned.on(covariance_, noise)
    weights, mean = process.weights(values)
    large = 1e5
    inverse = np.linalg.inv(covariance_ + large + np.diag(noise))
    np.testing.assert_allclose(mean + across @ weights, (across + large) @ inverse @ values, rtol=1e-4, atol=1e-4)
    expected = prior + large - np.einsum("tn,nm,tm->t", across + large, inverse, across + large)
    np.testing.assert_allclose(process.variance(prior, across), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("part", [0, 1])
def test_response_is_the_process_of_the_coefficients(archive, split, base, part) -> None:
    """Against a plain computation, cell by cell, of what the sizes found for its part say."""
    emulator = fitted(archive, split, base)
    drivers = emulator.drivers
    years = drivers.columns(drivers.years)
    at = drivers.of(archive["ssp370"], archive.grid).part(150, 170)
    season = orthonormal_season(6)
    spans = [(s, a) for s in split.train for a in range(s.stop % 12 + 12 * 0, s.stop, 12)]
    rows = [(s, a) for s, a in spans if a >= s.start and a + 12 <= s.stop]
    assert len(rows) == len(years.time)
    v = 1
    y, x = np.argwhere(emulator.part[v, 0] == part)[1]
    runs = np.array(
        [[archive[s.scenario].truth(m, a, a + 12)[:, v, y, x] for m in range(3)] for s, a in rows], np.float64
    )
    basis = np.stack([season[archive[s.scenario].calendar_month[a : a + 12]] for s, a in rows])
    each = np.einsum("nmt,nth->nmh", runs, basis) / 12
    internal = each.var(1, ddof=1).mean(0)
    np.testing.assert_allclose(emulator.internal[:, v, y, x] ** 2, internal, rtol=1e-4)
    expected = np.zeros(20)
    month = archive["ssp370"].calendar_month[150:170]
    for h, g in enumerate([0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]):
        own = emulator.sizes[v, g, emulator.part[v, g, y, x]]
        sizes = dict(zip(emulator.component_names, own, strict=True))
        among = sum(s * covariance(n, years, years, "integrated") for n, s in sizes.items())
        across = sum(s * covariance(n, at, years, "integrated") for n, s in sizes.items())
        inverse = np.linalg.inv(among + np.eye(len(rows)) / 3)
        values = each[:, :, h].mean(1)
        mean = (inverse @ values).sum() / inverse.sum()
        expected += season[month, h] * (mean + across @ inverse @ (values - mean))
    found = emulator.response(archive["ssp370"], 150, 170)[:, v, y, x]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_parts_hold_equal_areas_from_quiet_to_noisy() -> None:
    rng = np.random.default_rng(5)
    deviation = rng.gamma(2.0, size=(3, 20, 30))
    weights = np.broadcast_to(np.cos(np.linspace(-1.5, 1.5, 20))[:, None], (20, 30))
    found, size = parts_by_noise(deviation, weights, 3), np.sqrt((deviation**2).mean(0))
    for p in range(3):
        assert weights[found == p].sum() / weights.sum() == pytest.approx(1 / 3, abs=0.005)
    assert size[found == 0].max() < size[found == 1].min()
    assert size[found == 1].max() < size[found == 2].min()


def test_sizes_of_a_part_are_of_its_cells_alone(archive, split, base) -> None:
    """Rain of noisy cells that follows the forcings alike in all members moves the sizes of their part alone."""
    plain = fitted(archive, split, base)
    noisy = np.broadcast_to(plain.part[1, 0] == 1, archive.grid.shape)
    scenarios = {}
    for name, scenario in archive.items():
        targets = scenario.targets.copy()
        targets[:, :, 1] += (0.002 * scenario.forcings["CO2"])[:, None, None] * noisy
        scenarios[name] = replace(scenario, targets=targets)
    wetter = fitted(replace(archive, scenarios=scenarios), split, base)
    np.testing.assert_array_equal(wetter.part, plain.part)
    np.testing.assert_allclose(wetter.sizes[0], plain.sizes[0])
    np.testing.assert_allclose(wetter.sizes[1, 0, 0], plain.sizes[1, 0, 0])
    assert wetter.sizes[1, 0, 1, 0] > 2 * plain.sizes[1, 0, 1, 0]


def test_an_emulator_saved_before_there_were_parts_says_what_it_said(archive, split, base) -> None:
    whole = fitted(archive, split, base, parts=1, sharpness=2.0)
    meta, arrays = whole.own_state()
    earlier = {n: a for n, a in arrays.items() if n != "part"} | {"sizes": arrays["sizes"][:, :, 0]}
    meta = {n: value for n, value in meta.items() if n != "sharpness"}
    loaded = AdditiveGP.from_own_state(archive.domain, (base,), meta, earlier)
    for what in ("predict_fields", "uncertainty"):
        expected = getattr(whole, what)(archive["ssp370"], 90, 110)
        np.testing.assert_array_equal(getattr(loaded, what)(archive["ssp370"], 90, 110), expected)


def offset_archive(size: float, months: int = 361) -> Archive:
    """A warming climate in which ssp370 departs more and more from what its forcings explain, everywhere."""
    archive = warming_archive(months=months, noise=0.2)
    scenario = archive["ssp370"]
    drift = size * (np.arange(months) / months)[:, None, None, None]
    targets = scenario.targets + np.asarray(drift * np.array([1.0, 0.0])[:, None, None], np.float32)
    return replace(archive, scenarios={**archive.scenarios, "ssp370": replace(scenario, targets=targets)})


def test_a_departure_of_a_scenario_persists_after_its_last_training_month() -> None:
    archive = offset_archive(2.0)
    split = make_split(archive, "k360")
    base = ClimatologyEmulator.fit(archive, split)
    emulator = fitted(archive, split, base, length_scale=100.0)
    (span,) = split.scored["test"]
    said = emulator.predict_fields(archive["ssp370"], span.start, span.stop)[:, 0]
    truth = archive["ssp370"].targets[:, span.start : span.stop, 0].mean(0)
    error = archive.grid.mean((said - truth).mean(0))
    linear = LinearEmulator.fit(archive, split, features=("CO2", "SO2"))
    forgetful = linear.predict_fields(archive["ssp370"], span.start, span.stop)[:, 0]
    without = archive.grid.mean((forgetful - truth).mean(0))
    # The members' own weather and a departure that began slowly leave some of it.
    assert abs(error) < 0.4 * abs(without)
    # It is no other scenario's: where nothing was shown of the scenario there is none.
    other = emulator.response(archive["ssp245"], span.start, span.stop, only=(DISCREPANCY,))
    assert not other.any()


def test_far_from_all_training_years_the_base_speaks_alone(archive, split, base) -> None:
    emulator = fitted(archive, split, base)
    scenario = archive["ssp370"]
    far = replace(scenario, forcings={**scenario.forcings, "CO2": scenario.forcings["CO2"] + 1e5})
    np.testing.assert_array_equal(emulator.predict_fields(far, 0, 60), base.predict_fields(far, 0, 60))
    distance = emulator.space.distance(scenario, archive.grid)[100:110, None, None, None]
    near = np.exp(-((distance / 3.0) ** emulator.sharpness) / 2)
    expected = near * emulator.response(scenario, 100, 110) + (1 - near) * base.predict_fields(scenario, 100, 110)
    np.testing.assert_allclose(emulator.predict_fields(scenario, 100, 110)[:, 0], expected[:, 0], rtol=1e-5)


def test_saved_and_loaded_it_says_the_same_of_any_months(archive, split, base, tmp_path: Path) -> None:
    emulator = fitted(archive, split, base, discrepancy="brownian")
    emulator.save(tmp_path / "saved")
    loaded = load_emulator(tmp_path / "saved")
    assert isinstance(loaded, AdditiveGP)
    for name in ("ssp245", "ssp370"):
        whole = emulator.predict_fields(archive[name], 0, 181)
        for start, stop in ((0, 1), (7, 20), (100, 181)):
            part = loaded.predict_fields(archive[name], start, stop)
            np.testing.assert_allclose(part, whole[start:stop], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(
            loaded.uncertainty(archive[name], 90, 100), emulator.uncertainty(archive[name], 90, 100)
        )


def test_posterior_spread_covers_the_forced_response() -> None:
    """Over climates that are linear in the forcings, two thirds of the errors are within one standard deviation."""
    inside = []
    for seed in range(8):
        archive = warming_archive(noise=0.5, seed=seed)
        calm = warming_archive(noise=0.0, seed=seed)
        split = make_split(archive, "k360")
        emulator = fitted(archive, split, ClimatologyEmulator.fit(archive, split))
        (span,) = split.scored["test"]
        rows = slice(span.start, span.start + 24)
        said = emulator.response(archive["ssp370"], rows.start, rows.stop)
        known = emulator.uncertainty(archive["ssp370"], rows.start, rows.stop)
        error = said - calm["ssp370"].targets[0, rows]
        inside.append((np.abs(error) < known).mean())
    assert 0.55 < np.mean(inside) < 0.9


def draws(emulator: AdditiveGP, archive: Archive, rows: slice, number: int = 300) -> NDArray:
    """(N, T, V, Y, X) of ssp370."""
    seeds = np.random.SeedSequence(4).spawn(number)
    return np.stack([emulator.draw_error(archive["ssp370"], rows.start, rows.stop, seed) for seed in seeds])


def test_draws_of_the_error_spread_as_the_posterior_says_and_vanish_where_the_base_speaks(archive, split, base) -> None:
    rows = slice(157, 181)
    emulator = fitted(archive, split, base, length_scale=1e6)
    found = draws(emulator, archive, rows)
    # In single months the coefficients of a season go together in the draws, and count apart in the posterior.
    spread = found.std(0) / emulator.uncertainty(archive["ssp370"], rows.start, rows.stop)
    assert spread.mean() == pytest.approx(1.0, abs=0.03)
    assert np.abs(found.mean(0) / found.std(0)).mean() < 0.1
    # In means over years there is no season: every cell, by the quadratic form over all months.
    spread = found.mean(1).std(0) / emulator.explain(archive["ssp370"], rows.start, rows.stop).deviation
    assert spread.mean() == pytest.approx(1.0, abs=0.03)
    assert 0.83 < spread.min() < spread.max() < 1.17
    near = fitted(archive, split, base, length_scale=0.5)
    share = np.exp(-((near.space.distance(archive["ssp370"], archive.grid)[rows] / 0.5) ** near.sharpness) / 2)
    assert share.min() < 0.9
    seed = np.random.SeedSequence(4)
    whole, part = (e.draw_error(archive["ssp370"], rows.start, rows.stop, seed) for e in (emulator, near))
    np.testing.assert_allclose(part, whole * share[:, None, None, None], rtol=1e-4, atol=1e-6)


def test_cells_that_go_together_in_runs_are_wrong_together() -> None:
    archive = warming_archive(noise=0.05)
    rng = np.random.default_rng(2)
    for scenario in archive.values():
        # Tropics and pr of the last row have a state of their own in every run and year.
        state = rng.normal(size=(3, 181)).cumsum(1)[:, :, None] * 0.1
        scenario.targets[:, :, 0, 1:3] += state[..., None].astype(np.float32)
        scenario.targets[:, :, 1, 3] += state.astype(np.float32)
    split = make_split(archive, "k360")
    emulator = fitted(archive, split, ClimatologyEmulator.fit(archive, split))
    found = draws(emulator, archive, slice(168, 180), 200).mean(1)
    together = [np.corrcoef(found[:, 0, 1, 0], other)[0, 1] for other in (found[:, 0, 2, 5], found[:, 1, 3, 2])]
    apart = np.corrcoef(found[:, 0, 0, 0], found[:, 0, 1, 0])[0, 1]
    assert together[0] > 0.9
    assert together[1] > 0.8
    assert abs(apart) < 0.5


def test_a_draw_is_of_its_seed_and_its_months_alone(archive, split, base, tmp_path: Path) -> None:
    emulator = fitted(archive, split, base)
    one, other = np.random.SeedSequence(0, spawn_key=(1,)), np.random.SeedSequence(0, spawn_key=(2,))
    for name in ("ssp245", "ssp370"):
        whole = emulator.draw_error(archive[name], 0, 181, one)
        assert not np.allclose(whole, emulator.draw_error(archive[name], 0, 181, other))
        for start, stop in ((0, 1), (7, 20), (100, 181)):
            part = emulator.draw_error(archive[name], start, stop, one)
            np.testing.assert_allclose(part, whole[start:stop], rtol=1e-4, atol=1e-5)
    emulator.save(tmp_path / "saved")
    loaded = load_emulator(tmp_path / "saved")
    np.testing.assert_array_equal(
        loaded.draw_error(archive["ssp370"], 90, 100, one), emulator.draw_error(archive["ssp370"], 90, 100, one)
    )


def test_an_emulator_of_before_there_were_draws_is_read_and_draws_nothing(archive, split, base) -> None:
    emulator = fitted(archive, split, base)
    own, arrays = emulator.own_state()
    older = {n: a for n, a in arrays.items() if n not in ("patterns", "globe")}
    before = AdditiveGP.from_own_state(archive.domain, (base,), own, older)
    scenario = archive["ssp370"]
    np.testing.assert_array_equal(before.predict_fields(scenario, 0, 30), emulator.predict_fields(scenario, 0, 30))
    assert emulator.knows_error
    assert not before.knows_error
    with pytest.raises(RunError, match="does not know how far off"):
        before.draw_error(scenario, 0, 12, np.random.SeedSequence(0))
    # The mean of a departure is known, and how sure it is is not.
    own["processes"] = {n: {k: v for k, v in p.items() if k != "unit"} for n, p in own["processes"].items()}
    before = AdditiveGP.from_own_state(archive.domain, (base,), own, older)
    found, now = (e.explain(scenario, 0, 12).discrepancies for e in (before, emulator))
    for label, departures in found.items():
        assert np.isnan(departures["ssp126"].deviation).all()
        np.testing.assert_array_equal(departures["ssp126"].mean, now[label]["ssp126"].mean)
        assert np.isfinite(now[label]["ssp126"].deviation).all()


def test_discrepancies_are_those_of_the_processes_with_the_spread_of_their_posterior() -> None:
    archive = offset_archive(2.0)
    split = make_split(archive, "k360")
    emulator = fitted(archive, split, ClimatologyEmulator.fit(archive, split))
    found = emulator.explain(archive["ssp370"], 0, 12).discrepancies
    labels = ["global mean, tas (K)", "hemispheres, tas (K)"]
    labels += ["rest of the global mean, tas (K)", "rest of the global mean, pr (mm/day)"]
    assert list(found) == labels
    months = archive.grid.mean(emulator.response(archive["ssp370"], 0, 360, only=(DISCREPANCY,)))
    for v, label in enumerate(labels[2:]):
        own = found[label]["ssp370"].mean
        np.testing.assert_allclose(own, months[:, v].reshape(30, 12).mean(1), rtol=0.02, atol=2e-3)
    last = max(s.stop for s in split.train if s.scenario == "ssp370")
    assert found[labels[0]]["ssp370"].trained == pytest.approx(2015 + last / 12)
    np.testing.assert_allclose(found[labels[0]]["ssp370"].years, 2015.5 + np.arange(30))
    # Annual global means of single runs: their mean over runs, and their spread about it.
    runs = np.array(
        [
            [archive.grid.mean(archive[s.scenario].truth(m, a, a + 12)[:, 0]).mean(dtype=float) for m in range(3)]
            for s in split.train
            for a in range(s.start + len(s) % 12, s.stop, 12)
        ]
    )
    globe, values = runs.var(1, ddof=1).mean(), runs.mean(1)
    forcings = emulator.drivers.years
    quiet, noisy = (dict(zip(emulator.component_names, s, strict=True)) for s in emulator.sizes[0, 0])
    share = archive.grid.mean((emulator.part[0, 0] == 0).astype(float))
    asked = {
        labels[0]: (forcings, [(1.0, emulator.drivers.processes["warming"].sizes)], "brownian"),
        labels[2]: (emulator.drivers.columns(forcings), [(share, quiet), (1 - share, noisy)], "integrated"),
    }
    at = Points(np.arange(30) + 0.5, np.full(30, emulator.drivers.scenarios.index("ssp370")), {})
    for label, (years, parts, kind) in asked.items():
        deviation = np.zeros(30)
        for part, sizes in parts:
            # A flat mean as one more component of enormous size.
            whole = sum(s * covariance(n, years, years, kind) for n, s in sizes.items()) + 1e5
            inverse = np.linalg.inv(whole + np.diag(emulator.noise))
            across = sizes[DISCREPANCY] * covariance(DISCREPANCY, at, years, kind)
            prior = sizes[DISCREPANCY] * np.diag(covariance(DISCREPANCY, at, at, kind))
            deviation += part * np.sqrt(prior - np.einsum("tn,nm,tm->t", across, inverse, across))
        own = found[label]["ssp370"]
        np.testing.assert_allclose(own.deviation**2, deviation**2 * globe, rtol=3e-3)
        if label == labels[0]:
            np.testing.assert_allclose(own.mean, across @ inverse @ (values - values.mean()), rtol=1e-3, atol=1e-3)
        # Nobody has seen the end: there it is less sure than in the middle of what trained.
        assert own.deviation[-1] > 1.5 * own.deviation[12]
    # It is the scenario that was made to depart that does.
    ends = {name: d.mean[-1] for name, d in found[labels[0]].items()}
    assert max(ends, key=lambda name: abs(ends[name])) == "ssp370"


def test_shares_add_up_and_findings_name_every_component(archive, split, base) -> None:
    emulator = fitted(archive, split, base)
    shares = emulator.shares()
    np.testing.assert_allclose(np.sum([*shares.values()], 0), 1.0, rtol=1e-5)
    assert archive.grid.mean(shares["warming"][0]) > 0.5
    lines = " ".join(emulator.findings(archive, split))
    assert all(n.removeprefix("feature ") in lines for n in emulator.component_names)
    assert all(f"{s.scenario}: discrepancy" in lines for s in split.train)


def test_index_is_the_difference_of_the_means_of_its_boxes(archive) -> None:
    grid = archive.grid
    weights = index_weights("hemispheres", grid)
    field = np.random.default_rng(0).normal(size=grid.shape)
    half = np.cos(np.deg2rad(grid.lat))
    north, south = (np.average(field[rows].mean(1), weights=half[rows]) for rows in (grid.lat > 0, grid.lat < 0))
    assert (weights * field).sum() == pytest.approx(north - south)


def test_an_index_without_a_cell_or_variable_is_left_out(archive, split, base) -> None:
    both = fitted(archive, split, base, indices=("hemispheres", "rain-belt"))
    assert index_weights("rain-belt", archive.grid) is None
    assert both.component_names == fitted(archive, split, base).component_names
    assert "rain-belt" not in both.component_names


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"length_scale": 0.0}, "length_scale is out of range"),
        ({"sharpness": 0.0}, "sharpness is out of range"),
        ({"parts": 0}, "parts is out of range"),
        ({"parts": 25}, "expected: 1 to 24"),
        ({"warming": ()}, "names no forcing"),
        ({"warming": ("CO2", "CO2")}, "names something twice"),
        ({"indices": ("enso",)}, "names no climate index"),
        ({"features": ("N2O",)}, "N2O"),
        ({"forcings": ()}, "axes of a space"),
    ],
)
def test_a_wrong_option_is_refused(archive, split, base, options, match) -> None:
    with pytest.raises((RecipeError, ProtocolError), match=match):
        fitted(archive, split, base, **options)


def test_one_member_is_refused_as_it_shows_no_internal_variability(archive, split, base) -> None:
    lone = replace(split, train=tuple(replace(s, members=(0,)) for s in split.train))
    with pytest.raises(ProtocolError, match="how runs differ"):
        fitted(archive, lone, base)
    with pytest.raises(ProtocolError, match="no whole year"):
        fitted(archive, Split("short", (Span("ssp126", 0, 11, (0, 1)),), {}), base)
