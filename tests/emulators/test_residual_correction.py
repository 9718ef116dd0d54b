"""A network believed where it was wrong, a residual of months that are held out, a wrapper that loses what it wraps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emukit.data.archive import Archive
from emukit.data.protocol import make_split
from emukit.data.split import Span, leave_out
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.features import ForcingSpace
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.emulators.residual_correction import ResidualCorrection, residual_archive
from emukit.emulators.wrapper import Fold
from emukit.errors import ProtocolError, RecipeError
from tests.coded import warming_archive

FEATURES = ("CO2", "SO2")


class Says(ClimatologyEmulator):
    """Says the same field in every month."""

    def __init__(self, archive: Archive, value: float) -> None:
        super().__init__(archive.domain, np.full((12, 2, *archive.grid.shape), value, np.float32))


@pytest.fixture(scope="module")
def archive() -> Archive:
    return warming_archive()


def shares(archive: Archive, said: float, left: float, **options: float) -> np.ndarray:
    """The share that is found where networks said one number and the anchor left another, everywhere."""
    split = make_split(archive, "k360")
    constant = {}
    for name, scenario in archive.scenarios.items():
        assert scenario.targets is not None
        constant[name] = replace(scenario, targets=np.full_like(scenario.targets, left))
    truth = replace(archive, scenarios=constant)
    bases = (Says(archive, 0.0), Says(archive, said))
    folds = [Fold((span,), bases, split.train) for span in split.train]
    return ResidualCorrection.fit(truth, split, bases, folds, **options).shrinkage


@pytest.mark.parametrize(
    ("said", "left", "share"), [(2.0, 1.0, 0.5), (2.0, 2.0, 1.0), (2.0, 5.0, 1.0), (2.0, -1.0, 0.0), (0.0, 1.0, 0.0)]
)
def test_networks_are_believed_as_far_as_they_were_right(archive, said, left, share) -> None:
    np.testing.assert_allclose(shares(archive, said, left), share, atol=1e-6)


def test_a_cell_is_drawn_to_the_whole_by_the_prior(archive) -> None:
    """One cell where nothing was left, in a field where all that was said was."""
    split = make_split(archive, "k360")
    bases = (Says(archive, 0.0), Says(archive, 1.0))
    constant = {}
    for name, scenario in archive.scenarios.items():
        assert scenario.targets is not None
        targets = np.ones_like(scenario.targets)
        targets[..., 0, 1, 2] = 0.0
        constant[name] = replace(scenario, targets=targets)
    truth = replace(archive, scenarios=constant)
    folds = [Fold((span,), bases, split.train) for span in split.train]
    alone = ResidualCorrection.fit(truth, split, bases, folds, prior=0.0).shrinkage
    assert alone[3, 0, 1, 2] == 0.0
    assert alone[3, 0, 1, 3] == 1.0
    drawn = ResidualCorrection.fit(truth, split, bases, folds, prior=1.0).shrinkage
    whole = 1.0 - archive.grid.weights[1, 2]
    assert drawn[3, 0, 1, 2] == pytest.approx(whole / 2)
    assert drawn[3, 0, 1, 3] == pytest.approx((1 + whole) / 2)
    assert (drawn[:, 1] == 1.0).all()  # the other variable has its own whole


def test_only_the_last_years_of_a_scenario_left_out_count(archive) -> None:
    split = make_split(archive, "loso:ssp126")
    bases = (Says(archive, 0.0), Says(archive, 1.0))
    span = max(split.train, key=len)
    scenario = archive[span.scenario]
    assert scenario.targets is not None
    targets = np.zeros_like(scenario.targets)
    targets[:, span.stop - 24 : span.stop] = 1.0
    truth = replace(archive, scenarios={**archive.scenarios, span.scenario: replace(scenario, targets=targets)})
    folds = [Fold((span,), bases, split.train)]
    assert (ResidualCorrection.fit(truth, split, bases, folds, years=2).shrinkage == 1.0).all()
    np.testing.assert_allclose(ResidualCorrection.fit(truth, split, bases, folds, years=4).shrinkage, 0.5)


def test_share_falls_off_with_the_distance_from_training(archive, tmp_path: Path) -> None:
    split = make_split(archive, "k360")
    bases = (Says(archive, 0.0), Says(archive, 1.0))
    folds = [Fold((span,), bases, split.train) for span in split.train]
    ones = {n: replace(s, targets=np.ones_like(s.targets)) for n, s in archive.scenarios.items()}
    emulator = ResidualCorrection.fit(
        replace(archive, scenarios=ones), split, bases, folds, length_scale=0.5, forcings=FEATURES
    )
    assert (emulator.shrinkage == 1.0).all()  # all that was said was left, where the networks reach
    scenario = archive["ssp245"]
    space = ForcingSpace.fit(archive, split.train, FEATURES)
    gap = np.sqrt(((space.of(scenario, archive.grid)[:, None] - space.points) ** 2).sum(-1)).min(1)
    emulator.save(tmp_path / "saved")
    for e in (emulator, load_emulator(tmp_path / "saved")):
        said = e.predict_fields(scenario, 20, 150)
        np.testing.assert_allclose(said[:, 0, 1, 2], np.exp(-0.5 * (gap[20:150] / 0.5) ** 2), rtol=1e-5)
    far = replace(scenario, forcings={**scenario.forcings, "CO2": scenario.forcings["CO2"] + 1e5})
    assert (emulator.predict_fields(far, 0, 24) == 0.0).all()
    with pytest.raises(RecipeError, match="length_scale is out of range"):
        ResidualCorrection.fit(archive, split, bases, folds, length_scale=0.0)


def test_scenarios_left_out_count_by_their_nearness_to_the_months_their_own_bases_saw(archive) -> None:
    """All that was said was left in one scenario, nothing in the other: the share is the weight of the first."""
    split = make_split(archive, "loso:ssp585")
    bases = (Says(archive, 0.0), Says(archive, 1.0))
    left = {"ssp126": 1.0, "ssp245": 1.0, "ssp370": 0.0, "ssp585": 1.0}
    known = {n: replace(s, targets=np.full_like(s.targets, left[n])) for n, s in archive.scenarios.items()}
    folds, near = [], {}
    for name in dict.fromkeys(s.scenario for s in split.train):
        held_out = tuple(s for s in split.train if s.scenario == name)
        train = leave_out(archive, split, name).train
        folds.append(Fold(held_out, bases, train))
        space = ForcingSpace.fit(archive, train, FEATURES)
        gap = np.sqrt(((space.of(archive[name], archive.grid)[:, None] - space.points) ** 2).sum(-1)).min(1)
        last = held_out[0]
        near[name] = np.exp(-0.5 * (gap / 2.0) ** 2)[max(last.start, last.stop - 60) : last.stop].mean()
    options = {"length_scale": 2.0, "forcings": FEATURES, "years": 5}
    emulator = ResidualCorrection.fit(replace(archive, scenarios=known), split, bases, folds, **options)
    counts = [near[n] * left[n] for n in near]
    expected = sum(counts) / sum(near.values())
    assert not 0.4 < expected < 0.6
    np.testing.assert_allclose(emulator.shrinkage, expected, rtol=1e-5)
    assert emulator.evidence == pytest.approx(near)
    again = emulator.refit(archive, split, bases, (), **options)
    np.testing.assert_array_equal(again.shrinkage, emulator.shrinkage)


def test_members_count_alike_in_the_share(archive) -> None:
    split = make_split(archive, "k360")
    known = {}
    for name, scenario in archive.scenarios.items():
        targets = np.zeros_like(scenario.targets)
        targets[1] = 1.5  # of three members one: the mean is half
        known[name] = replace(scenario, targets=targets)
    bases = (Says(archive, 0.0), Says(archive, 1.0))
    folds = [Fold((span,), bases, split.train) for span in split.train]
    share = ResidualCorrection.fit(replace(archive, scenarios=known), split, bases, folds).shrinkage
    np.testing.assert_allclose(share, 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"years": 0}, "years is out of range"),
        ({"prior": -1.0}, "prior is out of range"),
        ({"length_scale": 0.0}, "length_scale is out of range"),
        ({"length_scale": 1.0, "forcings": ("N2O",)}, "N2O"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_trained(archive, options, match) -> None:
    with pytest.raises((RecipeError, ProtocolError), match=match):
        ResidualCorrection.check(archive, **options)


def test_the_parts_are_added_and_rain_is_not_negative(archive) -> None:
    share = np.zeros((12, 2, *archive.grid.shape), np.float32)
    share[6] = 0.5
    emulator = ResidualCorrection(archive.domain, (Says(archive, 1.0), Says(archive, -2.0), Says(archive, -4.0)), share)
    fields = emulator.predict_fields(archive["ssp585"], 0, 12)
    assert (fields[:6] == 1.0).all()
    assert (fields[6, 0] == 1.0 + 0.5 * -3.0).all()
    assert (fields[6, 1] == 0.0).all()


def test_a_saved_wrapper_is_whole(archive, tmp_path: Path) -> None:
    split = make_split(archive, "k360")
    linear = LinearEmulator.fit(archive, split, features=FEATURES)
    climatology = ClimatologyEmulator.fit(archive, split)
    share = np.random.default_rng(0).random((12, 2, *archive.grid.shape), np.float32)
    inner = ResidualCorrection(archive.domain, (climatology, climatology), share)
    emulator = ResidualCorrection(archive.domain, (linear, inner), share / 2)
    emulator.save(tmp_path / "saved")
    loaded = load_emulator(tmp_path / "saved")
    scenario = archive["ssp245"]
    expected = emulator.predict_fields(scenario, 5, 40)
    np.testing.assert_array_equal(loaded.predict_fields(scenario, 5, 40), expected)
    assert not np.array_equal(linear.predict_fields(scenario, 5, 40), expected)


def test_what_an_anchor_leaves_is_learned_in_training_months_alone(archive) -> None:
    split = make_split(archive, "k360")
    anchor = LinearEmulator.fit(archive, split, features=FEATURES)
    learned = residual_archive(archive, anchor, split.train)
    for span in split.train:
        expected = archive[span.scenario].truth(1, span.start, span.stop) - anchor.predict_fields(
            archive[span.scenario], span.start, span.stop
        )
        np.testing.assert_array_equal(learned[span.scenario].truth(1, span.start, span.stop), expected)
    for span in (*split.validation, *split.scored["test"]):
        with pytest.raises(ProtocolError):
            learned[span.scenario].truth(0, span.start, span.start + 1)
    assert archive["ssp370"].targets is not learned["ssp370"].targets  # the truth itself stays


def test_a_scenario_left_out_is_nowhere_in_the_split(archive) -> None:
    split = make_split(archive, "k360")
    for name in ("ssp126", "ssp370", "ssp585"):
        without = leave_out(archive, split, name)
        assert name not in {s.scenario for s in (*without.train, *without.validation)}
        assert {s.scenario for s in without.train} == {"ssp126", "ssp370", "ssp585"} - {name}
        for v in without.validation:
            whole = max(s.stop for s in split.train if s.scenario == v.scenario)
            assert (v.stop, len(v), v.members) == (whole, archive.card.loso.validation_months, (0,))
            assert all(
                not set(range(s.start, s.stop)) & set(range(v.start, v.stop))
                for s in without.train
                if s.scenario == v.scenario
            )


def test_a_scenario_that_is_all_there_is_cannot_be_left_out(archive) -> None:
    split = make_split(archive, "k360")
    alone = replace(split, train=tuple(s for s in split.train if s.scenario == "ssp126"))
    with pytest.raises(ProtocolError, match="nothing to train on without ssp126"):
        leave_out(archive, alone, "ssp126")
    assert isinstance(leave_out(archive, split, "ssp126").train[0], Span)
