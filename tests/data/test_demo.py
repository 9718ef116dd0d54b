"""The demo climate: its layout, its truth, its statistics."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from zarr.storage import LocalStore

import emukit.data.demo.climate as climate_module
from emukit.data import opening
from emukit.data.demo import HIDDEN, SCENARIOS, DemoClimate, demo_from_attrs, write_demo
from emukit.data.demo.planet import Planet
from emukit.data.demo.response import MT_PER_YEAR, forcing, region_patterns, warming
from emukit.data.demo.weather import weather
from emukit.errors import EmukitError, ProtocolError, StoreError
from emukit.files import shipped
from emukit.metrics.moments import Moments
from emukit.progress import Reporter
from tests.coded import score_moments

TARGET, EMISSION = ("ssp", "time", "member_id", "y", "x"), ("ssp", "time", "latitude", "longitude")
LAYOUT = {
    "tas": (TARGET, "<f4"),
    "pr": (TARGET, "<f4"),
    "rsdt": (("ssp", "time", "y", "x"), "<f4"),
    "SO2": (EMISSION, "<f8"),
    "BC": (EMISSION, "<f8"),
    "CO2": (("ssp", "time"), "<f8"),
    "CH4": (("ssp", "time"), "<f8"),
    "ssp": (("ssp",), "<U6"),
    "time": (("time",), "|O"),
    "member_id": (("member_id",), "<i8"),
    "y": (("y",), "<f8"),
    "x": (("x",), "<f8"),
    "latitude": (("latitude",), "<f8"),
    "longitude": (("longitude",), "<f8"),
    "lat": (("x", "y"), "<f8"),
    "lon": (("x", "y"), "<f8"),
}
GOLDEN = [253.251, 6.47938, 295.496, 0.159688]
QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def default() -> DemoClimate:
    return DemoClimate()


@pytest.fixture(scope="module")
def small() -> DemoClimate:
    return DemoClimate(lat_cells=8, lon_cells=12, years=3, members=2, seed=5)


def layout(dataset: xr.Dataset) -> dict[str, tuple[tuple[str, ...], str]]:
    return {str(name): (v.dims, v.dtype.str) for name, v in dataset.variables.items()}


# The layout


def test_layout_is_the_competitions() -> None:
    d = DemoClimate(48, 72, years=1, members=3).dataset()
    assert layout(d) == LAYOUT
    assert d.sizes == {"ssp": 4, "time": 13, "member_id": 3, "y": 48, "x": 72, "latitude": 48, "longitude": 72}
    np.testing.assert_allclose(d.y[[0, 1, -1]], [-88.58638743, -84.81675393, 88.58638743], atol=1e-8)
    np.testing.assert_allclose(d.x[[0, 1, -1]], [1.875, 6.875, 356.875])
    np.testing.assert_allclose(d.latitude[[0, 1, -1]], [-89.05263158, -85.26315789, 89.05263158], atol=1e-8)
    np.testing.assert_allclose(d.longitude[[0, 1, -1]], [1.25, 6.25, 356.25])
    np.testing.assert_array_equal(d.lat.values, np.broadcast_to(d.y.values, (72, 48)))
    np.testing.assert_array_equal(d.lon.values.T, np.broadcast_to(d.x.values, (48, 72)))


def test_default_has_the_competitions_months_and_units(default: DemoClimate) -> None:
    assert default.months == 1021
    d = DemoClimate(4, 4, members=1).dataset()
    assert [str(t)[:10] for t in d.time.values[[0, 1, 1019, 1020]]] == [
        "2015-01-15",
        "2015-02-15",
        "2099-12-15",
        "2100-01-15",
    ]
    assert {t.calendar for t in d.time.values} == {"noleap"}
    assert list(d.ssp.values) == ["ssp126", "ssp245", "ssp370", "ssp585"]
    units = {name: d[name].attrs["units"] for name in d.data_vars}
    assert units == {
        "tas": "K",
        "pr": "mm/day",
        "rsdt": "W/m²",
        "SO2": "kg m-2 s-1",
        "BC": "kg m-2 s-1",
        "CO2": "GtCO2",
        "CH4": "GtCH4/yr",
    }


@pytest.mark.real
def test_layout_and_insolation_match_the_real_store(real_store: Path) -> None:
    d, real = DemoClimate(48, 72, years=1).dataset(), xr.open_zarr(real_store)
    assert layout(d) == layout(real)
    for name in ("y", "x", "latitude", "longitude", "lat", "member_id"):
        np.testing.assert_allclose(d[name].values, real[name].values, atol=1e-9)
    # The real `lon` says 91.875 for x = 1.875: its first longitude was 360 when four were averaged. Not imitated.
    np.testing.assert_allclose(d.lon.values[1:], real.lon.values[1:], atol=1e-9)
    assert list(d.ssp.values) == list(real.ssp.values)
    assert list(d.time.values) == list(real.time.values[:13])
    for name, variable in real.variables.items():
        if "units" in variable.attrs:
            assert d[name].attrs["units"] == variable.attrs["units"], name
    real_mean = real.rsdt.values[0, :12].mean(-1)
    np.testing.assert_allclose(d.rsdt.values[0, :12, :, 0], real_mean, atol=0.4)


# The store


def test_written_store_reads_back_whole(tmp_path: Path, small: DemoClimate) -> None:
    path = write_demo(small, tmp_path / "demo.zarr", reporter=QUIET)
    assert (path / ".zmetadata").is_file()
    assert not (path / "zarr.json").exists()
    with xr.open_zarr(path, consolidated=True) as d:
        expected, found = small.dataset(), d.load()
        assert json.loads(found.attrs.pop("emukit_published"))["members"] == [0, 1]
        xr.testing.assert_identical(found, expected)
        assert layout(d) == LAYOUT
        assert demo_from_attrs(d.attrs) == small
        assert d.tas.encoding["chunks"] == (1, 37, 1, 8, 12)
    assert [p.name for p in tmp_path.iterdir()] == ["demo.zarr"]


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_existing_output_is_refused_and_left_alone(tmp_path: Path, small: DemoClimate, kind: str) -> None:
    out = tmp_path / "out"
    if kind == "folder":
        out.mkdir()
        (out / "thesis").write_text("mine")
    elif kind == "file":
        out.write_text("mine")
    else:
        out.symlink_to(tmp_path / "nowhere")
    with pytest.raises(EmukitError, match="exists, and is not a store of `emukit data demo`"):
        write_demo(small, out, reporter=QUIET)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert kind != "folder" or (out / "thesis").read_text() == "mine"
    assert kind != "file" or out.read_text() == "mine"


def test_full_disk_leaves_nothing_behind(tmp_path: Path, small: DemoClimate, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_written(self: xr.Dataset, store: LocalStore, **_: object) -> None:
        store.root.mkdir()
        (store.root / ".zmetadata").write_text("{")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", half_written)
    with pytest.raises(EmukitError, match="No space left"):
        write_demo(small, tmp_path / "demo.zarr", reporter=QUIET)
    assert list(tmp_path.iterdir()) == []


# The truth behind the hidden scenario


@pytest.mark.slow
def test_hidden_targets_are_zero_and_their_truth_is_what_is_not_hidden(small: DemoClimate) -> None:
    hidden, shown = small.dataset(), small.dataset(hidden=False)
    for scenario in SCENARIOS:
        a, b = hidden.sel(ssp=scenario), shown.sel(ssp=scenario)
        truth = demo_from_attrs(hidden.attrs).truth(scenario)
        assert truth.dtype == np.float32
        for v, name in enumerate(("tas", "pr")):
            np.testing.assert_array_equal(truth[:, :, v], b[name].transpose("member_id", "time", "y", "x"))
            assert (a[name] == 0).all() if scenario in HIDDEN else a[name].identical(b[name])
        for name in ("rsdt", "SO2", "BC", "CO2", "CH4"):
            assert a[name].identical(b[name])
    assert HIDDEN == ("ssp245",)


def changed(attrs: dict[str, object], **settings: object) -> dict[str, object]:
    old = json.loads(str(attrs["demo_settings"]))
    kept = {name: value for name, value in {**old, **settings}.items() if value is not None}
    return {**attrs, "demo_settings": json.dumps(kept)}


def test_attributes_of_another_climate_are_refused(small: DemoClimate, monkeypatch: pytest.MonkeyPatch) -> None:
    attrs = dict(small.dataset().attrs)
    with pytest.raises(StoreError, match="another version"):
        demo_from_attrs(changed(attrs, generator=2, tilt=3))
    for broken in (
        {},
        {**attrs, "emukit_card": "cse151b-2025"},
        {**attrs, "demo_settings": "{"},
        {**attrs, "demo_settings": "[1]"},
        changed(attrs, seed=None),
        changed(attrs, generator=None),
        changed(attrs, tilt=3),
    ):
        with pytest.raises(StoreError, match="does not say"):
            demo_from_attrs(broken)
    with pytest.raises(EmukitError, match="members = 0"):
        demo_from_attrs(changed(attrs, members=0))
    monkeypatch.setattr(climate_module, "_stream_check", lambda: 1)
    with pytest.raises(StoreError, match="other random numbers"):
        demo_from_attrs(attrs)


def test_numbers_of_this_generator_have_not_changed() -> None:
    """Where this fails on purpose, raise GENERATOR: truths made again would not be those that stores were made with."""
    climate = DemoClimate(8, 12, years=2, members=2, seed=7)
    truth = climate.truth("ssp245")
    picked = truth[[0, 0, 1, 1], [0, 24, 11, 24], [0, 1, 0, 1], [0, 3, 4, 7], [0, 11, 6, 2]]
    np.testing.assert_allclose(picked, GOLDEN, rtol=2e-5)
    assert json.loads(climate.dataset().attrs["demo_settings"])["generator"] == 1


def test_bad_settings_are_all_named() -> None:
    with pytest.raises(EmukitError) as e:
        DemoClimate(lat_cells=1, years=86, members=True, seed=-1)
    for name in ("lat_cells = 1", "years = 86", "members = True", "seed = -1"):
        assert name in e.value.found
    with pytest.raises(ProtocolError, match="ssp119"):
        DemoClimate().truth("ssp119")


# Seeds


def test_a_seed_fixes_every_bit_and_members_are_a_prefix(small: DemoClimate) -> None:
    same = DemoClimate(8, 12, years=3, members=2, seed=5)
    more = DemoClimate(8, 12, years=3, members=3, seed=5)
    same.truth("ssp126")  # what was made before must not matter
    for scenario in ("ssp585", "ssp245"):
        truth = small.truth(scenario)
        np.testing.assert_array_equal(truth, same.truth(scenario))
        np.testing.assert_array_equal(truth, more.truth(scenario)[:2])
        np.testing.assert_array_equal(small.forced_response(scenario), more.forced_response(scenario))


def test_another_seed_member_or_scenario_has_other_weather(small: DemoClimate) -> None:
    def noise(climate: DemoClimate, scenario: str, member: int) -> np.ndarray:
        anomaly = climate.truth(scenario)[member, :, 0] - climate.forced_response(scenario)[:, 0]
        return (anomaly / climate.climate.tas_scale[np.arange(climate.months) % 12]).ravel()

    other = DemoClimate(8, 12, years=3, members=2, seed=6)
    runs = [noise(small, "ssp126", 0), noise(small, "ssp126", 1), noise(small, "ssp585", 0), noise(other, "ssp126", 0)]
    correlation = np.corrcoef(runs)
    assert abs(correlation[~np.eye(4, dtype=bool)]).max() < 0.2
    assert abs(other.statics()["land"] - small.statics()["land"]).max() > 0.5


# Statistics


def test_members_scatter_around_the_forced_response() -> None:
    climate = DemoClimate(8, 12, years=4, members=60, seed=2)
    c, month = climate.climate, np.arange(climate.months) % 12
    truth, expected = climate.truth("ssp585").astype(np.float64), climate.forced_response("ssp585")
    spread = np.stack([c.tas_scale[month], expected[:, 1] * np.sqrt(np.expm1(c.pr_scale**2))], axis=1)
    z = (truth.mean(0) - expected) / (spread / np.sqrt(climate.members))
    # 49 months x 96 cells of correlated standard normals: some 1000 independent ones, so 0.03 is one standard error
    # of the mean and 0.045 of the mean square; pr without its mean-one factor is off by 3.
    assert abs(z.mean((0, 2, 3))).max() < 0.12
    assert abs((z**2).mean((0, 2, 3)) - 1).max() < 0.2
    assert abs(z.mean(0)).max() < 5


def test_weather_has_unit_variance_and_the_memory_and_lengths_asked_for() -> None:
    grid = Planet(12, 36, 0).grid
    memory = np.linspace(0, 0.8, 12 * 36).reshape(12, 36)
    z = weather(np.random.default_rng(0), 6000, grid, memory, 2000.0, 1500.0).astype(np.float64)
    assert z.dtype == np.float64
    assert abs(z.std(0) - 1).max() < 0.09
    lag = (z[1:] * z[:-1]).mean(0)
    assert abs(lag - memory).max() < 0.09
    z = weather(np.random.default_rng(1), 3000, grid, np.zeros((12, 36)), 2000.0, 1500.0)
    radius = 6371.0
    east = (z[:, 6] * np.roll(z[:, 6], -2, axis=-1)).mean()
    distance = radius * np.cos(np.deg2rad(grid.lat[6])) * np.deg2rad(20)
    assert east == pytest.approx(np.exp(-((distance / 1500) ** 2) / 2), abs=0.03)
    north = (z[:, 5] * z[:, 6]).mean()
    distance = radius * np.deg2rad(grid.lat[6] - grid.lat[5])
    assert north == pytest.approx(np.exp(-((distance / 2000) ** 2) / 2), abs=0.03)


def test_the_dateline_is_no_seam() -> None:
    climate = DemoClimate(16, 96, years=1, members=1, seed=3)
    c, planet = climate.climate, climate.planet
    fields = [c.tas, c.pr, c.tas_scale, c.pr_scale, c.fast, c.slow, c.wetting, c.so2, planet.land, planet.orography]
    fields += [planet.waves(i) for i in range(7)]
    fields.append(region_patterns(planet))
    for i, field in enumerate(fields):
        step = abs(np.diff(field, axis=-1, append=field[..., :1])).reshape(-1, 96).max(0)
        assert step[-1] <= step[:-1].max() * 1.02, i
    # Rows of noise: neighbours across the dateline are as alike as any others.
    z = weather(np.random.default_rng(4), 800, planet.grid, np.zeros((16, 96)), 1000.0, 1000.0)
    alike = (z * np.roll(z, -1, axis=-1)).mean(0)
    assert abs(alike[:, -1] - alike.mean(1)).max() < 0.1
    assert alike[8].mean() > 0.9


def test_a_finer_grid_shows_the_same_planet() -> None:
    coarse, fine = Planet(24, 36, 1), Planet(96, 144, 1)
    for a, b, tolerance in ((coarse.land, fine.land, 0.08), (coarse.orography, fine.orography, 120.0)):
        blocks = b.reshape(24, 4, 36, 4).mean((1, 3))
        assert abs(a - blocks).mean() < tolerance
    np.testing.assert_array_equal(coarse.land_at(fine.grid), fine.land)
    assert coarse.grid.mean(coarse.land) == pytest.approx(0.29, abs=0.02)
    assert (coarse.land[0] > 0.99).all()


def test_tropical_rain_is_skewed_and_never_negative(default: DemoClimate) -> None:
    pr = default.truth("ssp126")[:, :1020, 1]
    assert pr.min() > 0
    tropics = abs(default.planet.grid.lat) < 20
    month = pr.reshape(3, 85, 12, *pr.shape[2:])[..., tropics, :].astype(np.float64)
    anomaly = month - month.mean((0, 1))
    skewness = (anomaly**3).mean((0, 1)) / (anomaly**2).mean((0, 1)) ** 1.5
    assert 1.0 < skewness.mean() < 2.5


# The forced response


def test_a_step_of_forcing_is_answered_by_two_exponentials() -> None:
    force = np.full(1201, 4.0)
    force[0] = 2.0
    years = np.arange(1201) / 12
    for box, (gain, scale) in enumerate(((0.68, 4.0), (0.62, 220.0))):
        start = gain * 2.0 / (1 + scale / 45)
        analytic = gain * 4.0 + (start - gain * 4.0) * np.exp(-years / scale)
        np.testing.assert_allclose(warming(force)[:, box], analytic - start, atol=1e-12)


def test_forcing_of_2015_is_the_formulas(default: DemoClimate) -> None:
    # By hand, from CO2 1536, CH4 0.374, SO2 100.8, BC 9.73.
    co2 = 5.35 * np.log((278 + 0.08 * 1536) / 278)
    ch4 = 0.036 * (np.sqrt(722 + 2990 * 0.374) - np.sqrt(722))
    for scenario in SCENARIOS:
        force = forcing(default.emissions(scenario))
        assert force[0] == pytest.approx(co2 + ch4 - 1.008 + 0.1946, abs=1e-9)


def test_global_warming_is_that_of_the_boxes_and_of_the_scenario(default: DemoClimate) -> None:
    c, grid = default.climate, default.planet.grid
    for pattern in (c.fast, c.slow):
        assert grid.mean(pattern).mean() == pytest.approx(1, abs=1e-12)
    assert abs(grid.mean(c.so2)).max() < 1e-12
    final = {}
    for scenario in SCENARIOS:
        boxes = warming(forcing(default.emissions(scenario)))
        tas = grid.mean(default.forced_response(scenario)[:, 0])
        by_hand = sum(
            (grid.mean(p)[np.arange(1021) % 12] * boxes[:, i] for i, p in enumerate((c.fast, c.slow))),
            grid.mean(c.tas)[np.arange(1021) % 12],
        )
        np.testing.assert_allclose(tas, by_hand, atol=1e-9)
        final[scenario] = boxes[-1].sum()
    assert final == pytest.approx({"ssp126": 1.77, "ssp245": 2.73, "ssp370": 3.73, "ssp585": 4.69}, abs=0.01)


def test_one_cell_follows_the_documented_formula(default: DemoClimate) -> None:
    c, e = default.climate, default.emissions("ssp370")
    boxes, expected = warming(forcing(e)), default.forced_response("ssp370")
    for t, y, x in ((0, 3, 4), (500, 18, 30), (1020, 12, 0)):
        m = t % 12
        aerosol = sum(
            c.so2[r, y, x] * (e.so2[t, r] - e.so2[0, r]) + c.bc[r, y, x] * (e.bc[t, r] - e.bc[0, r]) for r in range(5)
        )
        tas = c.tas[m, y, x] + c.fast[m, y, x] * boxes[t, 0] + c.slow[m, y, x] * boxes[t, 1] + aerosol
        pr = c.pr[m, y, x] * np.exp(c.wetting[m, y, x] * boxes[t].sum() + 0.06 * aerosol)
        np.testing.assert_allclose(expected[t, :, y, x], [tas, pr], rtol=1e-12)


def test_the_climate_looks_like_one(default: DemoClimate) -> None:
    grid, land = default.planet.grid, default.planet.land
    response = default.forced_response("ssp585")
    first, last = (response[s].reshape(10, 12, 2, 24, 36).mean(0) for s in (slice(120), slice(900, 1020)))
    change = (last - first)[:, 0].mean(0)
    mean = grid.mean(change)
    lat = grid.lat
    assert change[lat > 70].mean() > 2 * mean  # polar amplification
    middle = abs(lat) < 50
    assert change[middle][land[middle] > 0.9].mean() > 1.15 * change[middle][land[middle] < 0.1].mean()
    winter, summer = (last - first)[[0, 6], 0][:, lat > 70]
    assert winter.mean() > 1.3 * summer.mean()
    wetter = np.log(grid.mean(last[:, 1].mean(0)) / grid.mean(first[:, 1].mean(0))) / mean
    assert 0.015 < wetter < 0.035  # hydrological sensitivity, per K
    belt = (first[:, 1] * (abs(lat) < 25)[:, None]).sum(2)
    centre = (belt * lat).sum(1) / belt.sum(1)
    assert centre[7] - centre[1] > 5  # the rain belt follows the sun
    assert grid.mean(first[:, 0]).mean() == pytest.approx(288, abs=2)
    assert grid.mean(first[:, 1]).mean() == pytest.approx(2.8, abs=0.4)
    noise = default.climate.tas_scale
    north = (lat > 45) & (lat < 65)
    assert noise[0][north][land[north] > 0.9].mean() > 1.4 * noise[6][north][land[north] > 0.9].mean()
    assert noise[:, north][:, land[north] > 0.9].mean() > 1.4 * noise[:, north][:, land[north] < 0.1].mean()


def test_there_is_something_to_learn(default: DemoClimate) -> None:
    """Last decade of ssp370: another run is far better than the climatology of the rest, which is worse than one."""
    truth = {s: default.truth(s) for s in ("ssp126", "ssp370", "ssp585")}
    fit = [truth["ssp126"], truth["ssp585"], truth["ssp370"][:, :-121]]
    clim = np.stack([np.concatenate([t[:, m::12].mean(0) for t in fit]).mean(0) for m in range(12)])
    target = truth["ssp370"][0, -120:]

    def score(prediction: np.ndarray) -> float:
        return score_moments(Moments.of(prediction, target), default.planet.grid.weights).value

    climatology = score(clim[np.arange(901, 1021) % 12])
    another_run, known = score(truth["ssp370"][1, -120:]), score(default.forced_response("ssp370")[-120:])
    assert climatology > 1
    assert another_run < 0.7
    assert known < 0.7


# Forcings


def test_emissions_integrate_to_the_totals_and_have_no_season(default: DemoClimate) -> None:
    d = DemoClimate(12, 18, years=85, members=1).dataset()
    area = 4 * np.pi * 6.371e6**2
    weights = np.cos(np.deg2rad(d.latitude.values))[:, None] * np.ones(18)
    for name, first, last in (("SO2", 100.8e9, 78.2e9), ("BC", 9.73e9, 9.11e9)):
        field = d[name].sel(ssp="ssp370").values
        total = (field * weights / weights.sum()).sum((1, 2)) * area * 365 * 86400
        np.testing.assert_allclose(total[[0, 1020]], [first, last], rtol=1e-9)
        assert field.min() > 0
        # Straight lines from January to January: no bend inside a year.
        bend = abs(np.diff(field, 2, axis=0)).max((1, 2)) / field.max()
        assert bend[np.arange(1019) % 12 != 11].max() < 1e-9
        centre = ((field * weights) * d.latitude.values[:, None]).sum((1, 2)) / (field * weights).sum((1, 2))
        assert centre[0] - centre[-1] > 3  # emissions move towards the equator
    assert MT_PER_YEAR * area * 365 * 86400 == pytest.approx(1e9)
    np.testing.assert_allclose(d.CO2.values[:, 0], 1536)
    np.testing.assert_allclose(d.CO2.values[:, -1], [2792, 4524, 6764, 9363], rtol=0.01)
    np.testing.assert_allclose(d.CH4.values[:, 0], 0.374)


def test_insolation_is_the_orbits(small: DemoClimate) -> None:
    rsdt = DemoClimate(36, 4, years=2, members=1).dataset().rsdt.values
    assert (rsdt == rsdt[:1]).all()
    np.testing.assert_array_equal(rsdt[:, 12:24], rsdt[:, :12])
    assert (rsdt == rsdt[..., :1]).all()
    assert rsdt.min() == 0
    lat = np.deg2rad(DemoClimate(36, 4).planet.grid.lat)
    days = np.array([31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31])
    year = (rsdt[0, :12, :, 0] * days[:, None]).sum(0) / 365
    assert (year * np.cos(lat)).sum() / np.cos(lat).sum() == pytest.approx(1360.75 / 4, rel=2e-3)
    # Perihelion in early January: the south's summer is brighter than the north's.
    assert rsdt[0, 11, 0, 0] > 1.05 * rsdt[0, 5, -1, 0]


@pytest.mark.slow
def test_demo_is_opened_by_the_card_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small) -> None:
    """A card was ignored without a word, so a run was scored by another competition than its owner asked for."""
    monkeypatch.setattr(opening, "DemoClimate", lambda: small)
    own = tmp_path / "mine.toml"
    text = shipped("data_cards", "demo.toml").read_text(encoding="utf-8")
    own.write_text(text.replace('name = "demo"', 'name = "mine"').replace('competition = "cse151b"', ""))
    archive = opening.open_data("demo", card=str(own))
    assert (archive.card.name, archive.card.competition) == ("mine", "generic")
    assert opening.open_data("demo").card.name == "demo"
    with pytest.raises(EmukitError, match=r"nowhere\.toml"):
        opening.open_data("demo", card="nowhere.toml")
    # The demo holds K: a conversion that says otherwise is not passed over either.
    with pytest.raises(EmukitError, match="tas"):
        opening.open_data("demo", convert={"tas": "degC"})
