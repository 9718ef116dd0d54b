"""What a user is told where a protocol cannot be cut from a store: only what helps."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from emukit.data.archive import Archive
from emukit.data.protocol import make_split, working_protocols
from emukit.errors import ProtocolError
from tests.coded import coded_archive


def failure(archive: Archive, protocol: str | None = None, members: tuple[int, ...] | None = None) -> ProtocolError:
    with pytest.raises(ProtocolError) as error:
        make_split(archive, protocol, members)
    return error.value


def advised(error: ProtocolError) -> list[str]:
    """The protocols that the hint names."""
    return re.findall(r"loso:ssp\d+|official|k360", error.hint)


def renumbered(members: tuple[int, ...], *names: str) -> Archive:
    """Two members of these numbers, in the scenarios named (in all where none is)."""
    archive = coded_archive(members=2)
    scenarios = {n: replace(s, members=members) if n in names or not names else s for n, s in archive.items()}
    return replace(archive, scenarios=scenarios)


def only(archive: Archive, *names: str) -> Archive:
    return replace(archive, scenarios={n: archive[n] for n in names})


@pytest.mark.parametrize("members", [(1, 2), (5, 7)])
@pytest.mark.parametrize("protocol", [None, "k360", "loso:ssp126"])
@pytest.mark.parametrize("chosen", [None, "all"])
def test_an_absent_scored_member_is_not_a_matter_of_members(members, protocol, chosen):
    error = failure(renumbered(members), protocol, members if chosen else None)
    assert "scores member 0 of" in error.what
    assert "absent" in error.what
    assert error.found == f"members {members[0]}, {members[1]}"
    assert "--members" not in error.hint
    assert "rename member_id" in error.hint
    assert "--card" in error.hint
    assert advised(error) == []


def test_a_member_absent_from_one_scenario_leaves_other_protocols():
    error = failure(renumbered((1, 2), "ssp370"), "official")
    assert "member 0 of ssp370" in error.what
    assert advised(error) == ["loso:ssp370"]
    assert "rename member_id" in error.hint


def test_members_that_are_not_there_are_still_a_matter_of_members():
    assert "--members" in failure(coded_archive(), "official", (0, 9)).hint


@pytest.mark.parametrize("left", [("ssp126", "ssp585"), ("ssp126", "ssp245", "ssp585"), ("ssp370", "ssp585")])
@pytest.mark.parametrize("protocol", [None, "k360", "loso:ssp999"])
def test_an_absent_scenario_is_told_with_protocols_that_work(left, protocol):
    archive = only(coded_archive(), *left)
    error = failure(archive, protocol)
    assert "needs scenario ssp" in error.what
    assert error.found == f"scenarios {', '.join(left)}"
    assert advised(error) == [f"loso:{name}" for name in left]
    for name in advised(error):
        assert make_split(archive, name).train


def test_a_single_scenario_has_no_protocol_and_is_told_so():
    error = failure(only(coded_archive(), "ssp126"))
    assert advised(error) == []
    assert "no protocol of card coded works on this store" in error.hint
    assert "--card" in error.hint
    alone = failure(only(coded_archive(), "ssp126"), "loso:ssp126")
    assert alone.found == "visible targets in ssp126"
    assert alone.hint


def test_hidden_validation_does_not_advise_a_default_that_fails_too():
    archive = coded_archive(hidden={"ssp370": (0, 121)})
    for protocol in (None, "k360"):
        error = failure(archive, protocol)
        assert "hidden" in error.found
        assert set(advised(error)) >= {"loso:ssp126"}
        assert {"official", "k360"}.isdisjoint(advised(error))
        for name in advised(error):
            assert make_split(archive, name).validation


def test_hidden_validation_everywhere_is_told_without_a_protocol():
    archive = coded_archive(hidden=dict.fromkeys(("ssp126", "ssp245", "ssp370", "ssp585"), (0, 121)))
    for protocol in ("official", "k360", "loso:ssp126"):
        error = failure(archive, protocol)
        assert error.found
        assert "visible" in error.hint
        assert advised(error) == []
    assert working_protocols(archive) == []


def test_a_store_too_short_for_one_protocol_is_told_those_that_fit():
    error = failure(coded_archive(months=40), "k360")
    assert "more months" in error.what
    assert advised(error)[0] == "official"


def test_an_unknown_protocol_is_told_those_that_work():
    archive = coded_archive(hidden={"ssp370": (85, 121)})
    error = failure(archive, "k361")
    assert advised(error)[0] == "k360"
    assert "official" not in advised(error)


def test_the_default_protocol_is_advised_first():
    assert working_protocols(coded_archive()) == ["official", "k360", *(f"loso:{n}" for n in coded_archive())]
