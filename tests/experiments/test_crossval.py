"""Cross-validation that shows a fold what it scores, or looks outside the training months."""

import numpy as np
import pytest

from emukit.data.split import Span, make_split
from emukit.emulators.linear import LinearEmulator
from emukit.errors import ProtocolError
from emukit.experiments.crossval import HELD_OUT, blocked_folds, cross_validate
from emukit.experiments.evaluate import score_emulator
from tests.coded import coded_archive, warming_archive

FEATURES = ("CO2", "SO2")


def months(spans, name):
    return {t for s in spans if s.scenario == name for t in range(s.start, s.stop)}


@pytest.mark.parametrize("protocol", ["official", "k360", "loso:ssp126"])
def test_folds_score_training_months_they_do_not_train_on(protocol):
    archive = coded_archive(hidden={"ssp245": (0, 121)})
    split = make_split(archive, protocol)
    names = {s.scenario for s in split.train}
    folds = blocked_folds(archive, split)
    assert len(folds) == 2 * len(names)
    for fold in folds.values():
        held_out = fold.scored[HELD_OUT]
        assert {s.members for s in held_out} == {(0,), (1,), (2,)}
        assert len({(s.scenario, s.start, s.stop) for s in held_out}) == 1
        for name in names:
            shown = months(fold.train, name) | months(fold.validation, name)
            assert shown <= months(split.train, name)
            assert not shown & months(held_out, name)
            assert months(held_out, name) <= months(split.train, name)


def test_a_fold_without_the_later_part_keeps_the_earlier():
    archive = coded_archive()
    folds = blocked_folds(archive, make_split(archive, "k360"), months=30)
    whole, later = folds["without ssp370"], folds["without ssp370 from 2018-08"]
    assert months(whole.train, "ssp370") == set()
    # 43 months are left, of which the last 12 select.
    assert months(later.train, "ssp370") == set(range(31))
    assert later.scored[HELD_OUT] == whole.scored[HELD_OUT] == tuple(Span("ssp370", 43, 73, (m,)) for m in range(3))


def test_nothing_outside_the_training_months_moves_a_score():
    archive = warming_archive()
    split = make_split(archive, "k360")

    def value():
        folds = blocked_folds(archive, split)
        return cross_validate(
            archive, folds, lambda name, fold: LinearEmulator.fit(archive, fold, features=FEATURES)
        ).as_dict()

    before = value()
    for spans in split.scored.values():
        for span in spans:
            archive[span.scenario].targets[:, span.start : span.stop] += 1000
    archive["ssp245"].targets[:] += 1000
    assert value() == before


def test_score_is_the_mean_over_members_and_folds():
    archive = warming_archive()
    split = make_split(archive, "k360")
    folds = blocked_folds(archive, split, later=False)
    fitted = {name: LinearEmulator.fit(archive, fold, features=FEATURES) for name, fold in folds.items()}
    result = cross_validate(archive, folds, lambda name, fold: fitted[name])
    expected = [
        score_emulator(fitted[name], archive, (span,)).value
        for name, fold in folds.items()
        for span in fold.scored[HELD_OUT]
    ]
    assert len(expected) == 9
    assert result.mean.value == pytest.approx(np.mean(expected))
    assert result.folds["without ssp126"].value == pytest.approx(np.mean(expected[:3]))


def test_too_few_months_to_leave_some_out_are_refused():
    archive = coded_archive()
    split = make_split(archive, "loso:ssp126")
    alone = type(split)("mine", tuple(s for s in split.train if s.scenario == "ssp370"), {"validation": ()})
    with pytest.raises(ProtocolError, match="too few months"):
        blocked_folds(archive, alone, months=200)
