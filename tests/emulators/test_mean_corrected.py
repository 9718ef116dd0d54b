"""An emulator whose global mean is not the one it was given, or whose pattern is."""

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.data.store import open_store
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.mean_corrected import MeanCorrected
from emukit.emulators.registry import load_emulator
from emukit.errors import RecipeError


@pytest.fixture(scope="module")
def climate(demo_store):
    archive = open_store(demo_store)
    split = make_split(archive, "k360")
    return archive, split, (LinearEmulator.fit(archive, split), ClimatologyEmulator.fit(archive, split))


def test_global_means_are_the_second_bases_and_patterns_the_firsts(climate):
    archive, split, bases = climate
    emulator = MeanCorrected.fit(archive, split, bases, (), how={"tas": "add", "pr": "multiply"})
    s = archive["ssp585"]
    out, (first, second) = emulator.predict_fields(s, 900, 960), (b.predict_fields(s, 900, 960) for b in bases)
    np.testing.assert_allclose(archive.grid.mean(out), archive.grid.mean(second), rtol=1e-6)
    apart = out[:, 0] - first[:, 0]
    # Thousandths of a kelvin, where float32 has steps of 3e-5 K: the same everywhere, and not nothing.
    assert np.ptp(apart, axis=(1, 2)).max() < 2e-4
    assert np.abs(apart.mean((1, 2))).min() > 0.5
    ratio = out[:, 1] / np.where(first[:, 1] > 0.01, first[:, 1], np.nan)
    assert np.nanmax(np.nanstd(ratio, (1, 2))) < 1e-5
    alone = MeanCorrected.fit(archive, split, bases, ()).predict_fields(s, 900, 960)
    np.testing.assert_array_equal(alone[:, 1], first[:, 1])
    np.testing.assert_array_equal(alone[:, 0], out[:, 0])


def test_what_was_added_is_found(climate):
    archive, split, bases = climate
    emulator = MeanCorrected.fit(archive, split, bases, ())
    lines = emulator.findings(archive, split)
    assert len(lines) == len(split.train)
    span = split.train[0]
    first, second = (archive.grid.mean(b.predict_fields(archive[span.scenario], span.start, span.stop)) for b in bases)
    added = (second - first)[:, 0]
    assert f"tas {added.mean():+.3f} in the mean, {np.abs(added).max():.3f} at most" in lines[0]


def test_what_is_saved_predicts_the_same(climate, tmp_path):
    archive, split, bases = climate
    emulator = MeanCorrected.fit(archive, split, bases, (), how={"pr": "multiply"})
    emulator.save(tmp_path / "emulator")
    again, s = load_emulator(tmp_path / "emulator"), archive["ssp126"]
    np.testing.assert_array_equal(again.predict_fields(s, 100, 130), emulator.predict_fields(s, 100, 130))


def test_what_is_not_predicted_is_refused(climate):
    archive, split, bases = climate
    with pytest.raises(RecipeError, match="not predicted"):
        MeanCorrected.fit(archive, split, bases, (), how={"huss": "add"})
    with pytest.raises(RecipeError, match="no global mean"):
        MeanCorrected.fit(archive, split, bases, (), how={})
