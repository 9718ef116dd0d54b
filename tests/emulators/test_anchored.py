"""A network believed where it was wrong, a residual of months that are held out, a wrapper that loses what it wraps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emukit.data.archive import Archive
from emukit.data.split import Span, leave_out, make_split
from emukit.emulators.anchored import Anchored, residual_archive
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.registry import load_emulator
from emukit.emulators.wrapper import Fold
from emukit.errors import ProtocolError
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
    return Anchored.fit(truth, split, bases, folds, **options).share


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
    alone = Anchored.fit(truth, split, bases, folds, prior=0.0).share
    assert alone[3, 0, 1, 2] == 0.0
    assert alone[3, 0, 1, 3] == 1.0
    drawn = Anchored.fit(truth, split, bases, folds, prior=1.0).share
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
    assert (Anchored.fit(truth, split, bases, folds, years=2).share == 1.0).all()
    np.testing.assert_allclose(Anchored.fit(truth, split, bases, folds, years=4).share, 0.5)


def test_the_parts_are_added_and_rain_is_not_negative(archive) -> None:
    share = np.zeros((12, 2, *archive.grid.shape), np.float32)
    share[6] = 0.5
    emulator = Anchored(archive.domain, (Says(archive, 1.0), Says(archive, -2.0), Says(archive, -4.0)), share)
    fields = emulator.predict_fields(archive["ssp585"], 0, 12)
    assert (fields[:6] == 1.0).all()
    assert (fields[6, 0] == 1.0 + 0.5 * -3.0).all()
    assert (fields[6, 1] == 0.0).all()


def test_a_saved_wrapper_is_whole(archive, tmp_path: Path) -> None:
    split = make_split(archive, "k360")
    linear = LinearEmulator.fit(archive, split, features=FEATURES)
    climatology = ClimatologyEmulator.fit(archive, split)
    share = np.random.default_rng(0).random((12, 2, *archive.grid.shape), np.float32)
    inner = Anchored(archive.domain, (climatology, climatology), share)
    emulator = Anchored(archive.domain, (linear, inner), share / 2)
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
