"""Transforms that do not come back, or leave a number no network can learn."""

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.data.targets import TargetNormalizer, TargetSettings
from tests.coded import warming_archive


@pytest.fixture(scope="module")
def climate():
    archive = warming_archive()
    return archive, make_split(archive, "k360")


@pytest.mark.parametrize("transform", ["none", "log1p", "sqrt", "cbrt", "yeo-johnson"])
@pytest.mark.parametrize("group", ["global", "cell", "cell-month"])
def test_inverse_gives_back_what_went_in(climate, transform, group):
    archive, split = climate
    pr = TargetSettings(transform=transform, climatology=group, scale=group)
    normalizer = TargetNormalizer.fit(archive, split.train, {"pr": pr})
    scenario = archive["ssp370"]
    fields = np.maximum(scenario.targets[1], 0)
    back = normalizer.inverse(normalizer.forward(fields, scenario.calendar_month), scenario.calendar_month)
    np.testing.assert_allclose(back, fields, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("transform", ["none", "log1p", "sqrt", "cbrt", "yeo-johnson"])
def test_inverse_of_any_network_output_is_finite(climate, transform):
    archive, split = climate
    normalizer = TargetNormalizer.fit(archive, split.train, {"pr": TargetSettings(transform=transform)})
    wild = np.array([-1e4, -10, 0, 10, 1e4])[:, None, None, None] * np.ones((1, 2, *archive.grid.shape))
    assert np.isfinite(normalizer.inverse(wild, np.arange(5))).all()


def test_training_months_become_standard_anomalies(climate):
    """Against plain numpy: climatology by cell and calendar month, scale by cell, over all members and spans."""
    archive, split = climate
    anomalies = TargetSettings(climatology="cell-month")
    normalizer = TargetNormalizer.fit(archive, split.train, dict.fromkeys(archive.variables, anomalies))
    values, month = [], []
    for span in split.train:
        for m in span.members:
            values.append(archive[span.scenario].targets[m, span.start : span.stop].astype(np.float64))
            month.append(archive[span.scenario].calendar_month[span.start : span.stop])
    values, month = np.concatenate(values), np.concatenate(month)
    anomaly = values.copy()
    for m in range(12):
        anomaly[month == m] -= values[month == m].mean(0)
    expected = anomaly / np.sqrt((anomaly**2).mean(0))
    np.testing.assert_allclose(normalizer.forward(values, month), expected, atol=2e-4)


def test_cell_that_never_varies_does_not_divide_by_zero():
    archive = warming_archive()
    for scenario in archive.values():
        scenario.targets[:, :, 1, 0, 0] = 0.0
    split = make_split(archive, "k360")
    normalizer = TargetNormalizer.fit(archive, split.train, {"pr": TargetSettings(scale="cell-month")})
    scenario = archive["ssp126"]
    out = normalizer.forward(scenario.targets[0], scenario.calendar_month)
    assert np.isfinite(out).all()
    assert np.abs(out[:, 1, 0, 0]).max() == 0


@pytest.mark.parametrize("amplitude", [0.0, 1e-9, 1e-4])
def test_a_desert_cell_counts_a_thousand_times_at_most(amplitude):
    """Rain that hardly varies in training is divided by a thousandth of the typical scale, not by its own."""
    archive = warming_archive()
    for scenario in archive.values():
        noise = np.random.default_rng(0).normal(size=scenario.targets.shape[:2])
        scenario.targets[:, :, 1, 0, 0] = amplitude * noise
    split = make_split(archive, "k360")
    normalizer = TargetNormalizer.fit(archive, split.train, {"pr": TargetSettings(climatology="cell", scale="cell")})
    values = np.concatenate(
        [archive[s.scenario].targets[m, s.start : s.stop, 1] for s in split.train for m in s.members]
    )
    typical = np.median(np.std(values.astype(np.float64), axis=0))
    center = np.mean(values[:, 0, 0], dtype=np.float64)
    fields = np.zeros((1, 2, *archive.grid.shape))
    # A millimetre a day in a cell where it never rains.
    fields[0, 1, 0, 0] = 1.0
    out = normalizer.forward(fields, np.zeros(1, np.int64))
    assert out[0, 1, 0, 0] == pytest.approx((1.0 - center) / max(1e-3 * typical, amplitude), rel=0.1)


def test_saved_normalizer_is_the_same(climate):
    archive, split = climate
    settings = {"pr": TargetSettings(transform="yeo-johnson"), "tas": TargetSettings(scale="global")}
    one = TargetNormalizer.fit(archive, split.train, settings)
    two = TargetNormalizer.from_state(*one.state())
    fields, month = archive["ssp126"].targets[0], archive["ssp126"].calendar_month
    np.testing.assert_array_equal(one.forward(fields, month), two.forward(fields, month))
