"""Realisations scored as if they were one answer, or against the wrong months; a real member that is left out."""

import json
from copy import copy
from dataclasses import astuple

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.data.split import Span
from emukit.emulators.linear import LinearEmulator
from emukit.emulators.sampled import Sampled
from emukit.emulators.variance_matched import VarianceMatched
from emukit.emulators.wrapper import Wrapper
from emukit.errors import ProtocolError, RunError
from emukit.metrics import Moments
from emukit.metrics.ensemble import EnsembleSums, RankCounts, Regions, energy_score, score_ensemble, two_sample_test
from emukit.metrics.variability import Deviations, ZonalPower
from emukit.parallel.comm import Comm
from emukit.progress import Reporter
from emukit.runs.ensemble_scores import Drawing, evaluate_ensemble, save_ensemble
from tests.coded import score_moments, warming_archive

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def made():
    archive = warming_archive(months=181)
    split = make_split(archive, "k360")
    base = LinearEmulator.fit(archive, split)
    return archive, split, base, Sampled.fit(archive, split, (base,), (), years=2, similar=1.0, seed=1)


def test_scores_are_those_of_all_realisations_against_all_members(made, tmp_path):
    archive, split, _, sampled = made
    spans = split.validation
    found = evaluate_ensemble(sampled, archive, spans, 4, QUIET)
    (span,) = spans
    scenario = archive[span.scenario]
    x = np.stack([sampled.member(i).predict_fields(scenario, span.start, span.stop) for i in range(4)])
    truths = [scenario.truth(m, span.start, span.stop) for m in scenario.members]
    sums = EnsembleSums.of(x, truths[0]) + EnsembleSums.of(x, truths[1]) + EnsembleSums.of(x, truths[2])
    plain = score_ensemble(sums, archive.grid.weights, archive.variables)
    assert found.realisations == 4
    for v in archive.variables:
        assert found.parts[v].cells.crps == pytest.approx(plain[v].crps, rel=1e-6)
        assert found.parts[v].cells.ranks == pytest.approx(plain[v].ranks)
    real = EnsembleSums.zero(2, truths[0].shape[1:])
    for m in range(3):
        real += EnsembleSums.of(np.stack([t for k, t in enumerate(truths) if k != m]), truths[m])
    plain = score_ensemble(real, archive.grid.weights, archive.variables)
    assert found.real["pr"].cells.crps == pytest.approx(plain["pr"].crps)
    own = truths[span.members[0]]
    mean = score_moments(Moments.of(x.mean(0), own), archive.grid.weights)
    assert found.mean.value == pytest.approx(mean.value, rel=1e-6)
    assert found.one.value == pytest.approx(score_moments(Moments.of(x[0], own), archive.grid.weights).value, rel=1e-6)
    save_ensemble(tmp_path, "validation", found)
    kept = json.loads((tmp_path / "ensembles" / "validation.json").read_text())
    assert kept["ensemble"]["tas"]["crps"] == found.parts["tas"].cells.crps
    assert kept["mean_of_realisations"]["score"] == found.mean.value


def test_regional_numbers_are_of_all_members_and_of_the_members_each_among_the_others(made):
    archive, _, _, sampled = made
    found = evaluate_ensemble(sampled, archive, (Span("ssp126", 60, 120, (2,)),), 4, QUIET)
    regions, scenario = Regions.of(archive.grid), archive["ssp126"]
    x = np.stack([regions.means(sampled.member(i).predict_fields(scenario, 60, 120)) for i in range(4)])
    y = np.stack([regions.means(scenario.truth(m, 60, 120)) for m in scenario.members])
    own, real = found.parts["pr"].regional, found.real["pr"].regional
    plain = np.mean([energy_score(x[:, :, 1], t[:, 1], regions.area).mean() for t in y])
    assert own.energy == pytest.approx(plain, rel=1e-6)
    plain = [energy_score(np.delete(y[:, :, 1], m, 0), y[m, :, 1], regions.area).mean() for m in range(3)]
    assert real.energy == pytest.approx(np.mean(plain), rel=1e-6)
    block = np.arange(60) // 6
    assert own.flatness == RankCounts.of(x[:, :, 1], list(y[:, :, 1]), block).flatness()
    assert own.by_member[1] == RankCounts.of(x[:, :, 1], [y[1, :, 1]], block).flatness().p
    # All members together would be flat by construction: the one that is scored stands for them.
    assert real.flatness == RankCounts.of(y[:2, :, 1], [y[2, :, 1]], block).flatness()
    assert real.by_member[2] == real.flatness.p
    assert len(set(real.by_member)) == 3
    described = Deviations.of(x, regions.area, 12, ZonalPower.zero(4, 2, archive.grid) + _zonal(sampled, scenario))
    assert found.parts["pr"].variability.memory.mean == pytest.approx(described.memory[:, 1].mean(), rel=1e-5)
    assert found.parts["pr"].variability.annual_variance.low == pytest.approx(
        described.annual_variance[:, 1].min(), rel=1e-5
    )
    truths = np.stack([scenario.truth(m, 60, 120) for m in scenario.members])
    members = Deviations.of(y, regions.area, 12, ZonalPower.of(truths, archive.grid))
    assert found.real["pr"].variability == members.statistics(1, members, own=True)
    assert found.parts["pr"].variability.zonal_spectrum.mean == pytest.approx(
        described.statistics(1, members).zonal_spectrum.mean, rel=1e-5
    )
    pairs = list(zip(y, x[:3], strict=True))
    # The ends of an interval may differ by rounding: accuracies are added up in whatever order.
    assert astuple(found.two_sample) == pytest.approx(astuple(two_sample_test(pairs, scenario.time.season[60:120], 12)))
    among = two_sample_test([(y[0], y[1]), (y[1], y[2]), (y[2], y[0])], scenario.time.season[60:120], 12)
    assert astuple(found.two_sample_real) == pytest.approx(astuple(among))


def _zonal(emulator, scenario):
    fields = np.stack([emulator.member(i).predict_fields(scenario, 60, 120) for i in range(4)])
    return ZonalPower.of(fields, emulator.grid)


def test_what_runs_from_a_beginning_is_asked_once_for_a_span(made, monkeypatch):
    archive, _, _, sampled = made
    asked = []
    predict = Sampled.predict_fields

    def noted(self, scenario, start, stop):
        asked.append((start, stop))
        return predict(self, scenario, start, stop)

    monkeypatch.setattr(Sampled, "predict_fields", noted)
    monkeypatch.setattr(Sampled, "from_beginning", True)
    monkeypatch.setattr(Sampled, "continues", False)
    evaluate_ensemble(sampled, archive, (Span("ssp126", 30, 120, (0,)),), 2, QUIET)
    assert set(asked) == {(30, 120)}


@pytest.mark.parametrize(("together", "shares"), [(1, [2, 2, 3]), (5, [0, 5, 2])])
def test_processes_are_idle_while_others_draw_what_need_not_be_drawn_side_by_side(made, together, shares):
    emulator = made[-1]

    class Alike(type(emulator)):
        pass

    emulator = copy(emulator)
    emulator.__class__, Alike.from_beginning, Alike.together = Alike, True, together
    assert [Drawing(emulator, 7, Comm(rank, 3)).own for rank in range(3)] == shares


def test_spans_of_several_members_are_drawn_once_and_scored_each(made):
    archive, split, _, sampled = made
    (span,) = split.validation
    both = tuple(Span(span.scenario, span.start, span.stop, (m,)) for m in (0, 2))
    together = evaluate_ensemble(sampled, archive, both, 2, QUIET)
    apart = [evaluate_ensemble(sampled, archive, (s,), 2, QUIET) for s in both]
    assert together.mean.value == pytest.approx(np.mean([a.mean.value for a in apart]))
    assert together.parts == apart[0].parts


def test_emulator_of_one_answer_has_no_ensemble(made):
    archive, split, base, sampled = made
    with pytest.raises(RunError, match="one answer"):
        evaluate_ensemble(base, archive, split.validation, 4, QUIET)
    with pytest.raises(ProtocolError, match="two realisations"):
        evaluate_ensemble(sampled, archive, split.validation, 1, QUIET)
    with pytest.raises(RunError, match="one answer"):
        base.predict_members(archive["ssp245"], 0, 12, 2)
    np.testing.assert_array_equal(
        base.predict_members(archive["ssp245"], 0, 12, 1)[0], base.predict_fields(archive["ssp245"], 0, 12)
    )


def test_wrapper_of_what_draws_draws_too(made):
    archive, split, base, sampled = made

    class Doubled(Wrapper):
        kind = "doubled"
        fit = own_state = from_own_state = None

        def predict_fields(self, scenario, start, stop):
            return 2 * self.bases[0].predict_fields(scenario, start, stop)

    Doubled.__abstractmethods__ = frozenset()
    outer = Doubled(archive.domain, (sampled,))
    assert outer.draws
    assert not Doubled(archive.domain, (base,)).draws
    for i in (0, 2):
        inner = sampled.member(i).predict_fields(archive["ssp245"], 5, 20)
        np.testing.assert_array_equal(outer.member(i).predict_fields(archive["ssp245"], 5, 20), 2 * inner)
    matched = VarianceMatched.fit(archive, split, (base,), ())
    assert not matched.draws
