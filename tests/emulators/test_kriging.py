"""A correction that is not that of the Gaussian process, that is extrapolated, or that knows months held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emukit.data.archive import Archive
from emukit.data.protocol import make_split
from emukit.data.split import Span, Split
from emukit.emulators.base import Emulator
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.features import ForcingSpace, years_of
from emukit.emulators.kriging import Kriging
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.errors import ProtocolError, RecipeError
from tests.coded import warming_archive

FORCINGS = ("CO2", "SO2")


@pytest.fixture(scope="module")
def archive() -> Archive:
    return warming_archive()


@pytest.fixture(scope="module")
def split(archive: Archive) -> Split:
    return make_split(archive, "k360")


@pytest.fixture(scope="module")
def base(archive: Archive, split: Split) -> Emulator:
    return ClimatologyEmulator.fit(archive, split)


def kriging(archive: Archive, split: Split, base: Emulator, **options) -> Kriging:
    return Kriging.fit(
        archive, split, (base,), (), **{"forcings": FORCINGS, "noise": {"tas": 2.0, "pr": 5.0}} | options
    )


def test_seasons_are_the_process_of_the_months(archive, split, base) -> None:
    """Against the plain Gaussian process of all months at once, its seasons in the kernel; one span has one member."""
    split = Split(split.protocol, (replace(split.train[0], members=(1,)), *split.train[1:]), split.scored)
    space = ForcingSpace.fit(archive, split.train, FORCINGS)
    phase = 2 * np.pi * np.arange(12) / 12
    waves = np.stack([np.ones(12), *(np.sqrt(2) * f(phase) for f in (np.cos, np.sin))], 1)
    where, months, left, members = [], [], [], []
    for number, (span, a) in enumerate((s, a) for s in split.train for a, _ in years_of(s.start, s.stop)):
        scenario = archive[span.scenario]
        truth = np.mean([scenario.truth(m, a, a + 12) for m in span.members], axis=0)
        left.append(truth - base.predict_fields(scenario, a, a + 12))
        where += [space.points[number]] * 12
        months += [*scenario.calendar_month[a : a + 12]]
        members += [len(span.members)] * 12
    scenario = archive["ssp245"]
    asked = np.arange(100, 118)
    at = space.of(scenario, archive.grid)[asked]

    def kernel(za, ma, zb, mb):
        square = ((np.array(za)[:, None] - np.array(zb)[None]) ** 2).sum(-1)
        return np.exp(-square / 2 / 0.7**2) * (waves[np.array(ma)] @ waves[np.array(mb)].T)

    got = kriging(archive, split, base, length=0.7, harmonics=1).predict_fields(scenario, 100, 118)
    expected = base.predict_fields(scenario, 100, 118).astype(float)
    rest = np.concatenate(left).astype(float)
    for v, noise in enumerate((2.0, 5.0)):
        # A year's mean has a twelfth of a month's noise.
        whole = kernel(where, months, where, months) + np.diag(12 * noise / np.array(members))
        across = kernel(at, scenario.calendar_month[asked], where, months)
        expected[:, v] += np.tensordot(across @ np.linalg.inv(whole), rest[:, v], axes=1)
    np.testing.assert_allclose(got[:, 0], expected[:, 0], atol=2e-4)
    np.testing.assert_allclose(got[:, 1], np.maximum(expected[:, 1], 0), atol=2e-4)
    assert np.abs(got - base.predict_fields(scenario, 100, 118))[:, 0].max() > 0.1


def test_far_from_all_training_years_the_base_speaks_alone(archive, split, base) -> None:
    emulator = kriging(archive, split, base)
    scenario = archive["ssp370"]
    far = replace(scenario, forcings={**scenario.forcings, "CO2": scenario.forcings["CO2"] + 1e5})
    np.testing.assert_array_equal(emulator.predict_fields(far, 0, 60), base.predict_fields(far, 0, 60))
    assert not np.array_equal(emulator.predict_fields(scenario, 0, 60), base.predict_fields(scenario, 0, 60))


def test_nothing_fitted_knows_a_month_that_is_held_out(split, base) -> None:
    archive = warming_archive()
    before = kriging(archive, split, base).state()[1]
    for spans in split.scored.values():
        for span in spans:
            archive[span.scenario].targets[:, span.start : span.stop] *= -7
    archive["ssp245"].targets[:] = 1e4
    after = kriging(archive, split, base).state()[1]
    assert all(np.array_equal(before[k], after[k]) for k in before)
    archive["ssp126"].targets[0, 30] += 1.0
    assert not np.array_equal(kriging(archive, split, base).loads, before["loads"])


def test_month_is_the_same_whichever_months_are_asked_for_and_after_loading(archive, split, tmp_path: Path) -> None:
    base = LinearEmulator.fit(archive, split, features=FORCINGS)
    emulator = kriging(archive, split, base)
    emulator.save(tmp_path / "saved")
    loaded = load_emulator(tmp_path / "saved")
    whole = emulator.predict_fields(archive["ssp245"], 0, 181)
    for start, stop in ((0, 1), (7, 20), (100, 181)):
        part = loaded.predict_fields(archive["ssp245"], start, stop)
        np.testing.assert_allclose(part, whole[start:stop], rtol=1e-5, atol=1e-5)
    assert (whole[:, 1] >= 0).all()


def test_points_are_whole_years_of_training_in_units_of_their_spread(archive, split) -> None:
    space = ForcingSpace.fit(archive, split.train, FORCINGS)
    years = [(s, a, b) for s in split.train for a, b in years_of(s.start, s.stop)]
    assert len(space.points) == len(years)
    assert years[0][1:] == (1, 13)  # 181 months: fifteen years counted from the end, and one month
    raw = np.array([archive[s.scenario].forcings["CO2"][a:b].mean() for s, a, b in years])
    np.testing.assert_allclose(space.points[:, 0], (raw - raw.mean()) / raw.std())
    near = space.kernel_similarity(archive["ssp126"], archive.grid, 0.5)
    at = space.of(archive["ssp126"], archive.grid)
    nearest = np.sqrt(((at[:, None] - space.points) ** 2).sum(-1)).min(1)
    np.testing.assert_allclose(near, np.exp(-0.5 * (nearest / 0.5) ** 2))


def test_what_never_moved_in_training_is_no_division_by_zero(archive, split) -> None:
    still = {n: replace(s, forcings={**s.forcings, "CH4": np.ones(len(s))}) for n, s in archive.scenarios.items()}
    space = ForcingSpace.fit(replace(archive, scenarios=still), split.train, ("CO2", "CH4"))
    assert (space.points[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"length": 0.0}, "length is out of range"),
        ({"noise": {"tas": -1.0}}, r"noise.tas is out of range"),
        ({"noise": {"snow": 1.0}}, "names what is not predicted"),
        ({"harmonics": 7}, "harmonics is out of range"),
        ({"forcings": ()}, "axes of a space"),
        ({"forcings": ("CO2", "CO2")}, "axes of a space"),
        ({"forcings": ("CO2", "N2O")}, "N2O"),
    ],
)
def test_a_wrong_option_is_refused(archive, split, base, options, match) -> None:
    with pytest.raises((RecipeError, ProtocolError), match=match):
        kriging(archive, split, base, **options)


def test_years_that_the_base_cannot_predict_are_left_out(archive, split, base) -> None:
    class Late(ClimatologyEmulator):
        first_month = 30

    late = Late(archive.domain, np.zeros((12, 2, *archive.grid.shape), np.float32))
    points = kriging(archive, split, late).space.points
    assert len(points) == sum((s.stop - max(s.start, 30)) // 12 for s in split.train)
    assert len(points) < len(kriging(archive, split, base).space.points)


def test_correction_below_zero_makes_no_negative_rain(archive, split, base) -> None:
    space = ForcingSpace.fit(archive, split.train, FORCINGS)
    loads = np.full((len(space.points), 5, 2, *archive.grid.shape), -100.0, np.float32)
    said = Kriging(archive.domain, (base,), space, 1.0, loads).predict_fields(archive["ssp126"], 0, 24)
    assert said[:, 1].min() == 0.0
    assert said[:, 0].min() < 0.0


def test_less_than_a_year_of_training_is_refused(archive, split, base) -> None:
    short = Split("short", (Span("ssp126", 0, 11, (0,)),), {})
    with pytest.raises(ProtocolError, match="no whole year"):
        kriging(archive, short, base)
