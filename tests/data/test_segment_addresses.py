"""Batches of neighbours that are none, and epochs that miss or favour months."""

import itertools

import pytest

from emukit.config import check
from emukit.data.frames import Window
from emukit.data.protocol import make_split
from emukit.data.segments import Segment, SegmentAddresses, SegmentSettings
from emukit.data.split import Span
from emukit.errors import RecipeError
from tests.coded import coded_archive


def addresses(hidden=None, **settings):
    archive = coded_archive(hidden=hidden)
    spans = make_split(archive, "k360").train
    return SegmentAddresses.of(archive, spans, Window(history=5), SegmentSettings(**settings))


def test_the_default_cutting_draws_what_it_always_drew():
    """Runs recorded before neighbours existed must resume to the same batches."""
    first = addresses(length=7, per_batch=3, members="random").epoch(3, seed=11)
    assert first[:2] == [
        [Segment(1, 2, 31), Segment(2, 0, 49), Segment(1, 1, 45)],
        [Segment(0, 0, 63), Segment(2, 0, 0), Segment(2, 2, 114)],
    ]


@pytest.mark.parametrize("members", ["mean", "random", "all"])
def test_neighbours_touch_in_one_span(members):
    cut = addresses(length=7, per_batch=4, members=members, mix="scenario", hidden={"ssp126": (30, 40)})
    drawn = set()
    for batch in itertools.chain.from_iterable(cut.epoch(e, seed=1) for e in range(6)):
        assert len({s.span for s in batch}) == 1
        span = cut.spans[batch[0].span]
        assert len(batch) == min(4, len(span) // 7)
        assert [b.start - a.start for a, b in itertools.pairwise(batch)] == [7] * (len(batch) - 1)
        assert span.start <= batch[0].start
        assert batch[-1].start + 7 <= span.stop
        drawn.add(len({s.member for s in batch}))
    # A member is drawn for each segment, not for the batch; one and the same for all otherwise.
    assert (max(drawn) > 1) == (members == "random")


@pytest.mark.parametrize("members", ["mean", "random", "all"])
def test_an_epoch_of_neighbours_holds_every_training_month_and_member(members):
    cut = addresses(length=7, per_batch=4, members=members, mix="scenario", hidden={"ssp126": (30, 40)})
    for epoch in range(6):
        batches = cut.epoch(epoch, seed=2)
        assert len(batches) == cut.steps()
        seen = {
            (s.span, s.member if members == "all" else 0, t)
            for batch in batches
            for s in batch
            for t in range(s.start, s.start + 7)
        }
        copies = [len(s.members) if members == "all" else 1 for s in cut.spans]
        wanted = {(i, m, t) for i, s in enumerate(cut.spans) for m in range(copies[i]) for t in range(s.start, s.stop)}
        assert seen == wanted


def test_neighbours_begin_elsewhere_every_epoch_and_in_another_order():
    cut = addresses(length=7, per_batch=3, mix="scenario")
    assert cut.epoch(0, 0) == cut.epoch(0, 0)
    starts = [{b[0].start for b in cut.epoch(e, 0)} for e in range(3)]
    assert starts[0] != starts[1] != starts[2]
    assert [b[0].span for b in cut.epoch(0, 0)] != sorted(b[0].span for b in cut.epoch(0, 0))


def test_a_span_shorter_than_a_stretch_is_still_trained_on():
    spans = (Span("ssp126", 0, 20, (0,)), Span("ssp585", 0, 100, (0,)))
    cut = SegmentAddresses.of(
        coded_archive(), spans, Window(history=5), SegmentSettings(length=7, per_batch=8, mix="scenario")
    )
    assert {len(b) for b in cut.epoch(0, 0) if b[0].span == 0} == {2}
    assert {len(b) for b in cut.epoch(0, 0) if b[0].span == 1} == {8}


@pytest.mark.parametrize("wrong", [0, -1, "many", 2.0, True])
def test_a_batch_of_nothing_is_refused(wrong):
    with pytest.raises(RecipeError, match="per_batch"):
        check(SegmentSettings, {"per_batch": wrong}, source="test")


def test_an_automatic_batch_size_is_no_number_until_resolved():
    with pytest.raises(RecipeError, match="not a number yet"):
        addresses(per_batch="auto").steps()
