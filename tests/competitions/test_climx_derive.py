"""Indices of other years or other thresholds than the files', spans that cut a year, a folder that is read wrongly."""

from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest

from emukit.competitions.climx.indices import compute_indices, compute_percentiles
from emukit.competitions.climx.score import base_percentiles, derive_indices
from emukit.competitions.registry import competition_of
from emukit.data.card import CardProtocol
from emukit.data.daily import open_daily
from emukit.data.opening import open_data
from emukit.data.protocol import make_split
from emukit.data.split import Span, Split
from emukit.emulators.typical_year import TypicalYear
from emukit.errors import ProtocolError
from emukit.metrics.extremes import INDICES
from emukit.progress import Reporter
from emukit.runs.evaluate import score_emulator

QUIET = Reporter(quiet=True)


@pytest.fixture(scope="module")
def opened(climx_folder):
    return open_data(str(climx_folder[0])), climx_folder[0]


def files(folder, pattern):
    return sorted(folder.glob(pattern))


def test_archive_holds_what_the_files_hold(opened):
    archive, folder = opened
    assert archive.time.step == "day"
    with ExitStack() as stack:
        store = open_daily(files(folder, "*hist_train*"), stack)
        days = store.read("tasmax", 0, store.days)
    v = archive.variables.index("tasmax")
    np.testing.assert_array_equal(archive["historical"].truth(0, 0, len(days))[:, v], days)
    assert archive["historical"].time.text(0) == f"{store.first_year}-01-01"
    hidden = archive["ssp245"]
    assert hidden.hidden.all()
    with pytest.raises(ProtocolError, match="not known"):
        hidden.truth(0, 0, 365)


def test_forcing_of_a_year_or_a_month_is_that_of_its_days(opened):
    scenario = opened[0]["ssp585"]
    co2, sulphur = scenario.forcings["CO2_LBC"], scenario.forcings["SO2"]
    for values, groups in ((co2, scenario.time.year), (sulphur, scenario.time.year * 12 + scenario.time.month)):
        changes = np.flatnonzero(np.diff(groups))
        inside = np.setdiff1d(np.arange(len(values) - 1), changes)
        assert (values[inside + 1] == values[inside]).all()
        assert (values[changes + 1] != values[changes]).reshape(len(changes), -1).any(1).all()


def test_derived_indices_are_those_of_the_files(opened):
    """The same fields by way of the archive, and by way of `emukit indices`."""
    archive, folder = opened
    period = archive.card.daily.base_period
    percentiles = compute_percentiles(files(folder, "*hist_train*"), tuple(period), QUIET)
    plain = compute_indices(files(folder, "*ssp370*"), percentiles, QUIET)
    scenario = archive["ssp370"]
    derive = derive_indices(archive, "ssp370", 0, len(scenario))
    found = derive(scenario.truth(0, 0, len(scenario)))
    assert found.shape == (len(plain.year), 15, *archive.grid.shape)
    for i, name in enumerate(INDICES):
        np.testing.assert_array_equal(found[:, i], plain[name].to_numpy(), err_msg=name)
    assert base_percentiles(archive)[1] == tuple(period)


@pytest.mark.parametrize(("start", "stop"), [(1, 365), (0, 364), (0, 366)])
def test_span_that_cuts_a_year_is_refused(opened, start, stop):
    with pytest.raises(ProtocolError, match="whole years"):
        derive_indices(opened[0], "ssp370", start, stop)


def test_score_of_an_emulator_is_that_of_its_indices(opened):
    archive, _ = opened
    whole = {name: Span(name, 0, len(archive[name]), (0,)) for name in ("historical", "ssp126", "ssp370")}
    span = whole["ssp370"]
    split = Split("own", (whole["historical"], whole["ssp126"]), {"test": (span,)})
    emulator = TypicalYear.fit(archive, split, features=("log:CO2_LBC",))
    found = score_emulator(emulator, archive, (span,))
    assert found.competition.name == "climx"
    assert set(found.numbers) <= {f"{name}.nnse" for name in INDICES}
    competition = competition_of(archive)
    derive = derive_indices(archive, "ssp370", span.start, span.stop)
    truth = archive["ssp370"].truth(0, span.start, span.stop)
    said = emulator.predict_fields(archive["ssp370"], span.start, span.stop)
    moments = competition.moments(derive(said), derive(truth))
    plain = competition.score(moments, archive.grid.weights, competition.variables)
    assert found.value == pytest.approx(plain.value)
    assert found.months == len(np.unique(archive["ssp370"].time.year[span.start : span.stop]))
    perfect = competition.score(
        competition.moments(derive(truth), derive(truth)), archive.grid.weights, competition.variables
    )
    assert perfect.value == pytest.approx(1)


def test_years_of_the_percentiles_are_not_held_out(opened):
    """All years of the historical run but those of the base period may be scored."""
    archive, _ = opened
    cut = {"train": ["historical", "ssp126", "ssp370"], "validation": [], "test": []}
    days = len(archive["historical"])
    for first, refused in ((1990, True), (1991, False)):
        steps = [(first - 1961) * 365 - days, 0]
        spans = [{"scenario": "historical", "member": 0, "steps": steps}]
        protocol = CardProtocol.model_validate(cut | {"validation": spans, "test": spans})
        card = archive.card.model_copy(update={"protocols": {"own": protocol}})
        own = replace(archive, card=card)
        if refused:
            with pytest.raises(ProtocolError, match="holds out years of the percentiles"):
                make_split(own, "own")
        else:
            assert make_split(own, "own").validation[0].scenario == "historical"


def test_scored_years_move_no_threshold(opened):
    archive, _ = opened
    plain = base_percentiles(archive)[0]
    scenarios = dict(archive.scenarios)
    for name in ("ssp126", "ssp370", "ssp585"):
        scenarios[name] = replace(archive[name], targets=archive[name].targets + 5)
    moved = base_percentiles(replace(archive, scenarios=scenarios))[0]
    for variable in ("tasmax", "tasmin", "pr"):
        np.testing.assert_array_equal(getattr(moved, variable), getattr(plain, variable))


def test_percentiles_are_computed_for_every_span_or_taken_from_another_base_period(opened):
    archive, _ = opened
    plain = base_percentiles(archive)
    assert base_percentiles(archive) is plain
    daily = archive.card.daily.model_copy(update={"base_period": (1962, 1975)})
    other = replace(archive, card=archive.card.model_copy(update={"daily": daily}))
    assert other.digest == archive.digest
    values, period, digest = base_percentiles(other)
    assert period == (1962, 1975)
    assert digest != plain[2]
    assert (values.tasmax != plain[0].tasmax).mean() > 0.9
