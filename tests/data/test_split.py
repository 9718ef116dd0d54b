"""What goes wrong when months are cut: leaks, hidden zeros in training, silent emptiness."""

from dataclasses import replace

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.data.split import Span, Split
from emukit.errors import ProtocolError
from tests.coded import coded_archive


def training_months(split, name):
    return {t for s in split.train if s.scenario == name for t in range(s.start, s.stop)}


@pytest.mark.parametrize("protocol", ["official", "k360", "loso:ssp126", "loso:ssp585"])
def test_no_scored_month_is_trained_on_by_any_member(protocol):
    split = make_split(coded_archive(), protocol)
    for spans in split.scored.values():
        for span in spans:
            assert not training_months(split, span.scenario) & set(range(span.start, span.stop))


def test_members_of_a_held_out_month_count_as_a_leak():
    held = Span("ssp370", 100, 112, (0,))
    with pytest.raises(ProtocolError, match="leak"):
        Split("mine", (Span("ssp370", 0, 101, (1, 2)),), {"validation": (held,)})


def test_official_trains_on_all_months_but_the_held_out_ones():
    split = make_split(coded_archive(months=121), "official")
    assert training_months(split, "ssp126") == set(range(121))
    assert training_months(split, "ssp370") == set(range(109))
    assert training_months(split, "ssp245") == set()
    assert split.validation == (Span("ssp370", 109, 121, (0,)),)
    assert split.test == Span("ssp245", 85, 121, (0,))


def test_k360_keeps_validation_before_test():
    split = make_split(coded_archive(months=121), "k360")
    assert (split.validation[0].start, split.validation[0].stop, split.test.start) == (73, 85, 85)
    assert training_months(split, "ssp370") == set(range(73))


def test_hidden_months_are_never_trained_on():
    split = make_split(coded_archive(hidden={"ssp585": (50, 60), "ssp245": (0, 121)}), "official")
    assert training_months(split, "ssp585") == set(range(121)) - set(range(50, 60))
    assert any("ssp585" in note and "10 hidden" in note for note in split.notes)


def test_validation_that_is_hidden_is_refused_with_the_protocol_to_use():
    archive = coded_archive(hidden={"ssp370": (85, 121)})
    archive = replace(archive, card=archive.card.model_copy(update={"default_protocol": "k360"}))
    with pytest.raises(ProtocolError, match="--protocol k360"):
        make_split(archive, "official")


def test_partly_hidden_validation_is_cut_and_said():
    split = make_split(coded_archive(hidden={"ssp370": (115, 121)}), "official")
    assert split.validation == (Span("ssp370", 109, 115, (0,)),)
    assert any("6 months left" in note for note in split.notes)


def test_loso_never_sees_the_left_out_scenario():
    split = make_split(coded_archive(hidden={"ssp245": (0, 121)}), "loso:ssp126")
    assert {s.scenario for s in split.train} == {"ssp370", "ssp585"}
    assert {s.scenario for s in split.validation} == {"ssp370", "ssp585"}
    assert split.scored["test-all"] == (Span("ssp126", 0, 121, (0,)),)


@pytest.mark.parametrize(
    ("protocol", "members", "words"),
    [("k361", None, "official, k360 or loso"), ("loso:ssp999", None, "ssp999"), ("official", (0, 7), "member 7")],
)
def test_unknown_names_are_refused_with_those_that_exist(protocol, members, words):
    with pytest.raises(ProtocolError, match=words):
        make_split(coded_archive(), protocol, members)


def test_store_too_short_for_a_protocol_is_refused():
    with pytest.raises(ProtocolError, match="more months than the store has"):
        make_split(coded_archive(months=40), "k360")


def test_members_chosen_for_training_do_not_change_what_is_scored():
    archive = coded_archive()
    one, all_ = make_split(archive, "k360", (1,)), make_split(archive, "k360")
    assert one.scored == all_.scored
    assert {s.members for s in one.train} == {(1,)}
    assert {s.members for s in all_.train} == {(0, 1, 2)}


@pytest.mark.real
def test_real_store_is_split_as_published(real_archive):
    split = make_split(real_archive, "k360")
    assert [s.text(real_archive) for s in split.validation] == ["ssp370 2060-02..2070-01 member 0"]
    assert split.test.text(real_archive) == "ssp370 2070-02..2100-01 member 0"
    assert "ssp370 2015-01..2060-01 members 0,1,2" in [s.text(real_archive) for s in split.train]
    with pytest.raises(ProtocolError, match="use --protocol k360"):
        make_split(real_archive, "official")
    hidden = real_archive["ssp370"].hidden
    assert np.flatnonzero(hidden).tolist() == list(range(661, 1021))
