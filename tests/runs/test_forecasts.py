"""Leads that are a step off, errors next to another truth, beginnings that read what they predict."""

import json

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.data.split import Span
from emukit.data.time import TimeAxis
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.emulators.trajectory import Persistence
from emukit.errors import ProtocolError
from emukit.metrics.ensemble import fair_crps
from emukit.progress import Reporter
from emukit.runs.fit import selecting_spans
from emukit.runs.forecasts import evaluate_forecasts, leads_of, save_forecasts
from tests.forecasts import sequence

ARCHIVE = sequence()
SPLIT = make_split(ARCHIVE, "forecast")
CONTROL = ARCHIVE["control"]
QUIET = Reporter(quiet=True)
TEST = SPLIT.scored["test"]


class Knowing(Persistence):
    """Says what happens, and a constant more; its realisations differ by one."""

    more = 0.5

    @property
    def draws(self):
        return True

    def member(self, number):
        one = Knowing(self.domain)
        one.more = 0.5 + number
        return one

    def forecast(self, scenario, starts, steps):
        return np.stack([scenario.targets[0, s : s + steps] for s in starts]) + np.float32(self.more)


def scored(emulator, members=None, spans=TEST):
    return evaluate_forecasts(emulator, ARCHIVE, SPLIT, spans, members, QUIET)


def test_leads_are_days_of_hours_and_steps_of_the_rest():
    assert leads_of(TimeAxis("6h", 0, 1), 16) == {"6 h": 1, "1 day": 4, "3 days": 12}
    assert leads_of(TimeAxis("day", 0, 1), 10) == {"1 day": 1, "3 days": 3, "5 days": 5, "10 days": 10}
    assert leads_of(TimeAxis("month", 0, 1), 6) == {"1 month": 1, "3 months": 3, "6 months": 6}


def test_persistence_is_its_own_reference_and_errors_are_those_of_its_lead():
    found = scored(Persistence(ARCHIVE.domain))
    (span,) = TEST
    # A day apart; of a trajectory of three days, two begin early enough.
    starts = [56, 60, 64, 68]
    assert (found.beginnings, found.realisations) == (4, 1)
    climatology = ClimatologyEmulator.fit(ARCHIVE, SPLIT)
    for words, lead in found.leads.items():
        own = [s for s in starts if s + lead <= span.stop]
        for v, name in enumerate(ARCHIVE.variables):
            truth = [CONTROL.targets[0, s + lead - 1, v].astype(float) for s in own]
            still = [CONTROL.targets[0, s - 1, v] for s in own]
            usual = [climatology.predict_fields(CONTROL, s + lead - 1, s + lead)[0, v] for s in own]

            def rmse(said, truth=truth):
                return np.mean([np.sqrt(ARCHIVE.grid.mean((a - b) ** 2)) for a, b in zip(said, truth, strict=True)])

            numbers = found.scores[name][words]
            assert numbers.rmse == numbers.persistence == pytest.approx(rmse(still), rel=1e-6)
            assert numbers.climatology == pytest.approx(rmse(usual), rel=1e-6)
            assert numbers.crps is numbers.climatology_crps is None


def test_realisations_are_scored_by_their_mean_and_their_distribution(tmp_path):
    found = scored(Knowing(ARCHIVE.domain), members=3)
    number = found.scores["z500"]["1 day"]
    assert number.rmse == pytest.approx(1.5, rel=1e-4)
    assert number.crps == pytest.approx(fair_crps(np.array([0.5, 1.5, 2.5]), np.array(0.0)), rel=1e-3)
    assert number.climatology_crps > number.crps
    save_forecasts(tmp_path, "test", found)
    kept = json.loads((tmp_path / "forecasts" / "test.json").read_text())
    assert kept["scores"]["z500"]["1 day"]["crps"] == number.crps
    assert kept["leads"] == {"6 h": 1, "1 day": 4, "3 days": 12}


def test_climatological_distribution_is_of_training_steps():
    changed = sequence()
    changed["control"].targets[0, 40:] += 1000
    found = evaluate_forecasts(Knowing(changed.domain), changed, SPLIT, TEST, 2, QUIET)
    assert found.scores["z500"]["6 h"].climatology_crps == pytest.approx(1000, rel=0.5)
    assert found.scores["z500"]["6 h"].climatology == pytest.approx(1000, rel=0.2)


def test_what_does_not_begin_makes_no_forecast():
    with pytest.raises(ProtocolError, match="makes no forecasts"):
        scored(ClimatologyEmulator.fit(ARCHIVE, SPLIT))
    with pytest.raises(ProtocolError, match="too few"):
        scored(Persistence(ARCHIVE.domain), spans=(Span("control", 60, 60, (0,)),))


def test_weights_of_trajectories_are_selected_by_a_day_from_each_beginning_and_others_as_ever():
    pieces = selecting_spans(Persistence(ARCHIVE.domain), ARCHIVE, SPLIT)
    assert [(p.start, p.stop) for p in pieces] == [(40, 44), (44, 48), (48, 52), (52, 56)]
    assert selecting_spans(ClimatologyEmulator.fit(ARCHIVE, SPLIT), ARCHIVE, SPLIT) == SPLIT.validation
