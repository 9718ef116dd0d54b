"""A picture of a course whose time runs backwards, whose latitudes are others, or whose drift is another step's."""

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.data.store import open_store
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.trajectory import Persistence
from emukit.report import plot_data
from emukit.report.plot import draw
from emukit.report.plot_data import collect, course, sections
from tests.forecasts import sequence


@pytest.fixture(scope="module")
def trajectory():
    archive = sequence()
    return collect(Persistence(archive.domain), archive, make_split(archive, "forecast").scored["test"][0])


def test_a_trajectory_is_shown_by_longitude_and_day(trajectory, monkeypatch):
    monkeypatch.setattr(plot_data, "LATITUDES", (0, 90))
    found, time, along = sections(trajectory)
    truth = trajectory.members[0]
    archive = trajectory.archive
    rows = archive.grid.lat >= 0
    weights = np.cos(np.deg2rad(archive.grid.lat[rows]))
    expected = np.average(truth[:, 1, rows], axis=1, weights=weights)
    said = np.average(trajectory.predictions[0][:, 1, rows], axis=1, weights=weights)
    (_, true), (_, told) = found[1].panels
    np.testing.assert_allclose(true, expected - expected.mean(0), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(told, said - expected.mean(0), rtol=1e-4, atol=1e-2)
    np.testing.assert_allclose(found[1].apart[1], told - true, atol=1e-6)
    # Persistence says the same at every step.
    assert np.ptp(told, axis=0).max() < 1e-6 < np.ptp(true, axis=0).max()
    np.testing.assert_allclose(time.values, (np.arange(16) + 0.5) / 4)
    np.testing.assert_array_equal(along.values, archive.grid.lon)


def test_global_means_are_those_of_every_step(trajectory):
    panels = course(trajectory)
    assert len(panels) == 3
    expected = trajectory.archive.grid.mean(trajectory.members[0])[:, 2]
    np.testing.assert_allclose(panels[2].curves.members[0], expected)
    np.testing.assert_allclose(panels[2].curves.x, (np.arange(16) + 0.5) / 4)


def test_pictures_of_a_trajectory_hold_what_was_found(trajectory):
    figures, _ = draw(trajectory, "title")
    axes = figures["hovmoeller"].axes
    # Three variables of three panels, and two colour bars each.
    assert len(axes) == 3 * (3 + 2)
    bottom, top = axes[0].get_ylim()
    assert bottom > top
    mesh = axes[0].collections[0]
    np.testing.assert_allclose(mesh.get_array(), sections(trajectory)[0][0].panels[0][1])
    low, high = mesh.get_clim()
    assert low == -high
    assert len(figures["course"].axes) == 4


def test_months_are_shown_by_latitude_and_year(demo_store):
    archive = open_store(demo_store)
    split = make_split(archive, "k360")
    shown = collect(LinearEmulator.fit(archive, split), archive, split.scored["validation"][0])
    found, time, along = sections(shown)
    years = len(shown.span) // 12
    truth = shown.members[shown.span.members[0]][: 12 * years, 0].reshape(years, 12, *archive.grid.shape).mean((1, 3))
    np.testing.assert_allclose(found[0].panels[0][1], truth - truth.mean(0), rtol=1e-3, atol=1e-3)
    # As maps name latitudes, and not -60.
    assert along.ticks is not None
    assert along.ticks[-60.0] == "60°S"
    assert len(time.values) == years
    assert np.diff(time.values) == pytest.approx(np.ones(years - 1))
    np.testing.assert_array_equal(along.values, archive.grid.lat)
    assert course(shown) == []
    assert "course" not in draw(shown, "title")[0]
