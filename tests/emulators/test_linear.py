"""A linear emulator that does not find a linear response, leaks, or remembers the future."""

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.features import REGIONS, exponential_memory, feature
from emukit.emulators.linear import LinearEmulator
from emukit.errors import ProtocolError, RecipeError
from emukit.runs.evaluate import score_emulator
from tests.coded import small_grid, warming_archive

FEATURES = ("CO2", "SO2")


@pytest.fixture(scope="module")
def climate():
    archive = warming_archive()
    return archive, make_split(archive, "k360")


@pytest.mark.parametrize(("season", "harmonics"), [("month", 2), ("harmonics", 1)])
def test_known_linear_response_is_recovered(season, harmonics):
    archive = warming_archive(noise=0.0)
    split = make_split(archive, "k360")
    emulator = LinearEmulator.fit(archive, split, features=FEATURES, season=season, harmonics=harmonics, ridge=0.0)
    for name in archive:
        expected = archive[name].targets[0].copy()
        np.maximum(expected[:, 1], 0, out=expected[:, 1])
        np.testing.assert_allclose(emulator.predict_fields(archive[name], 0, len(archive[name])), expected, atol=2e-3)


def test_all_members_at_once_equal_every_member_as_a_row(climate):
    """Against plain numpy: one ridge per cell and calendar month on the rows of all members."""
    archive, split = climate
    emulator = LinearEmulator.fit(archive, split, features=FEATURES, season="month", ridge=60.0)
    rows, month, truth = [], [], []
    for span in split.train:
        s = archive[span.scenario]
        x = np.stack([s.forcings["CO2"], archive.grid.mean(s.forcings["SO2"])], 1)[span.start : span.stop]
        for m in span.members:
            rows.append(x)
            month.append(s.calendar_month[span.start : span.stop])
            truth.append(s.targets[m, span.start : span.stop, 0, 1, 2].astype(np.float64))
    rows, month, truth = np.concatenate(rows), np.concatenate(month), np.concatenate(truth)
    z = (rows - rows.mean(0)) / rows.std(0)
    scenario = archive["ssp370"]
    x = (
        np.stack([scenario.forcings["CO2"], archive.grid.mean(scenario.forcings["SO2"])], 1) - rows.mean(0)
    ) / rows.std(0)
    predicted = emulator.predict_fields(scenario, 0, 24)[:, 0, 1, 2]
    for m in range(12):
        a, y = z[month == m], truth[month == m]
        centred = a - a.mean(0)
        coefficients = np.linalg.solve(centred.T @ centred + 5.0 * np.eye(2), centred.T @ (y - y.mean()))
        expected = y.mean() + (x[m] - a.mean(0)) @ coefficients
        assert predicted[m] == pytest.approx(expected, abs=2e-3)


def test_linear_beats_climatology_where_the_climate_changes(climate):
    archive, split = climate
    linear = score_emulator(LinearEmulator.fit(archive, split, features=FEATURES), archive, split.validation)
    floor = score_emulator(ClimatologyEmulator.fit(archive, split), archive, split.validation)
    assert linear.value < 0.7 * floor.value


def test_climatology_is_the_training_mean_of_each_month(climate):
    archive, split = climate
    emulator = ClimatologyEmulator.fit(archive, split)
    fields = [
        archive[s.scenario].targets[m, s.start : s.stop][archive[s.scenario].calendar_month[s.start : s.stop] == 4]
        for s in split.train
        for m in s.members
    ]
    np.testing.assert_allclose(
        emulator.predict_fields(archive["ssp245"], 16, 17)[0],
        np.concatenate(fields).mean(0, dtype=np.float64),
        rtol=1e-6,
    )


def test_memory_is_the_exponential_filter_and_never_the_future():
    x = np.random.default_rng(0).normal(size=60)
    out, state = [], x[0]
    for value in x:
        state = state + (value - state) / 24.0
        out.append(state)
    np.testing.assert_allclose(exponential_memory(x, 2.0), out)
    y = x.copy()
    y[30:] += 9
    np.testing.assert_array_equal(exponential_memory(y, 2.0)[:30], exponential_memory(x, 2.0)[:30])


def test_regions_wrap_through_greenwich(climate):
    archive, _ = climate
    scenario, grid = archive["ssp126"], small_grid(36, 72)
    field = np.zeros((3, *grid.shape), np.float32)
    field[:, (grid.lat > 35) & (grid.lat < 70)] = ((grid.lon >= 350) | (grid.lon <= 40)).astype(np.float32)
    fake = type(scenario)("x", scenario.time[:3], {"SO2": field})
    np.testing.assert_allclose(feature("SO2@europe", fake, grid), 1.0)
    assert feature("SO2@africa", fake, grid)[0] < 0.2
    assert all(len(box) == 4 for box in REGIONS.values())


@pytest.mark.parametrize(
    ("features", "error"),
    [
        ((), RecipeError),
        (("CO2~x",), RecipeError),
        (("N2O",), ProtocolError),
        (("SO2@atlantis",), RecipeError),
        (("CO2@europe",), ProtocolError),
    ],
)
def test_features_that_do_not_exist_are_refused(climate, features, error):
    with pytest.raises(error):
        LinearEmulator.fit(*climate, features=features)


def test_precipitation_is_never_negative():
    # Its own climate: others read the shared one.
    archive = warming_archive()
    split = make_split(archive, "k360")
    for scenario in archive.values():
        scenario.forcings["CO2"][-1] = 1e6
    emulator = LinearEmulator.fit(archive, split, features=FEATURES)
    assert emulator.predict_fields(archive["ssp585"], 0, 181)[:, 1].min() >= 0


def test_known_response_of_the_demo_climate_is_found():
    """The demo's forced response is known in closed form; its members hold weather as strong as a real model's."""
    from emukit.data.demo import DemoClimate
    from emukit.data.store import archive_from_dataset

    climate = DemoClimate(lat_cells=12, lon_cells=18)
    archive = archive_from_dataset(climate.dataset(), source="demo")
    emulator = LinearEmulator.fit(archive, make_split(archive))
    response = climate.forced_response("ssp370")
    predicted = emulator.predict_fields(archive["ssp370"], 0, 1021)
    change = response[901:].mean(0) - response[:120].mean(0)
    error = predicted[901:].mean(0) - response[901:].mean(0)
    rms = np.sqrt(archive.grid.mean(error**2) / archive.grid.mean(change**2))
    # Measured 0.043 and 0.19; climatology has 0.55 and 0.6 here.
    assert rms[0] < 0.08
    assert rms[1] < 0.3
    found = predicted[901:, 0].mean(0) - predicted[:120, 0].mean(0)
    assert np.corrcoef(found.ravel(), change[0].ravel())[0, 1] > 0.99


def test_smoothing_is_the_mean_over_nine_cells_and_wraps_in_longitude_alone():
    archive = warming_archive()
    split = make_split(archive, "k360")
    sharp, smooth = (LinearEmulator.fit(archive, split, features=("CO2",), smoothing=s) for s in (0.0, 0.4))
    before, after = sharp.state()[1]["response"], smooth.state()[1]["response"]
    rows, columns = archive.grid.shape
    for y in range(rows):
        for x in range(columns):
            near = [
                before[..., min(max(y + i, 0), rows - 1), (x + j) % columns] for i in (-1, 0, 1) for j in (-1, 0, 1)
            ]
            expected = 0.6 * before[..., y, x] + 0.4 * np.mean(near, axis=0)
            np.testing.assert_allclose(after[..., y, x], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(sharp.state()[1]["intercept"], smooth.state()[1]["intercept"])
    with pytest.raises(RecipeError, match="smoothing is out of range"):
        LinearEmulator.fit(archive, split, features=("CO2",), smoothing=1.5)
