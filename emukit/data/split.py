"""Which steps of the time axis train, which select, which are scored; and splits made from another.

Invariant: a step that is scored (validation or test) is in no member's training span. Two members of the same step
share its forcing and most of its climate, so holding out one member alone would leak. A split made from another has
less of its training months, to score these, or more, for a last fit. What a fold scores is in the training months of
the split it comes from, or in its validation months, which may select; its test months are never looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive
from emukit.errors import ProtocolError

HELD_OUT = "held-out"
# How `fold_split` names what it makes, so that a protocol of that name is made again.
FOLD = re.compile(r"(.+) without (\S+)( scored)? from (\d{4}(?:-\d{2}){0,2}(?:T\d{2}:\d{2})?)")


@dataclass(frozen=True)
class Span:
    """Consecutive steps of one scenario: [start, stop) of the given members."""

    scenario: str
    start: int
    stop: int
    members: tuple[int, ...]

    def __len__(self) -> int:
        return self.stop - self.start

    def text(self, archive: Archive) -> str:
        """For people: `ssp370 2060-02..2070-01 members 0`."""
        time = archive[self.scenario].time
        members = f"member{'s' * (len(self.members) > 1)} {','.join(map(str, self.members))}"
        return f"{self.scenario} {time.text(self.start)}..{time.text(self.stop - 1)} {members}"


@dataclass(frozen=True)
class Split:
    """Training months and the sets that are scored.

    Attributes:
        protocol: The name users type: ``official``, ``k360``, ``loso:ssp126``.
        train: Spans to fit on.
        scored: Set name (``validation``, ``test``, ``test-all``; ``held-out`` of a fold) to spans; a score over several
            is the mean of theirs.
        notes: What was cut away because the store hides it.
    """

    protocol: str
    train: tuple[Span, ...]
    scored: Mapping[str, tuple[Span, ...]]
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        check_no_leak(self.train, [s for spans in self.scored.values() for s in spans])

    @property
    def validation(self) -> tuple[Span, ...]:
        """What selects: checkpoints, hyper-parameters, ensemble weights.

        Raises:
            ProtocolError: There is none: everything was selected before, and these months train.
        """
        if "validation" not in self.scored:
            raise ProtocolError(
                f"nothing can be selected any more under {self.protocol}",
                found="a final fit, which trains on the validation months",
                expected="all that is selected on validation to be chosen before",
            )
        return self.scored["validation"]

    @property
    def test(self) -> Span:
        """What a submission predicts.

        Raises:
            ProtocolError: There is none: it is a fold, made within the training months of another protocol.
        """
        if "test" not in self.scored:
            raise ProtocolError(
                f"protocol {self.protocol} has no test months",
                found="a fold of a cross-validation, within the training months",
                expected="a protocol to submit for",
                hint="train under the protocol itself",
            )
        return self.scored["test"][0]


def check_no_leak(train: Sequence[Span], held_out: Sequence[Span]) -> None:
    """Refuse a training span that holds a month of a held-out span, whatever the members.

    Raises:
        ProtocolError: There is such a month.
    """
    for t in train:
        for h in held_out:
            if t.scenario == h.scenario and max(t.start, h.start) < min(t.stop, h.stop):
                raise ProtocolError(
                    f"training months of {t.scenario} leak into a held-out span",
                    found=f"training [{t.start}, {t.stop}), held out [{h.start}, {h.stop})",
                    expected="no month in common, for any member",
                )


def is_hidden(archive: Archive, span: Span) -> bool:
    """Whether any month of the span has no visible target."""
    scenario = archive[span.scenario]
    unknown = scenario.targets is None and scenario.stored is None
    return unknown or bool(scenario.hidden[span.start : span.stop].any())


def stretches(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[start, stop) of every stretch of True in a (T,) mask, in order."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def leave_out(archive: Archive, split: Split, scenario: str, start: int = 0) -> Split:
    """The split without training months of one scenario, to see how what is trained on it answers the unseen.

    What selects are the last months of the training spans that are left, as long as those of leaving a scenario out.

    Args:
        archive: The data.
        split: Its training spans are cut.
        scenario: What is left out.
        start: From this month on; as a whole by default.

    Raises:
        ProtocolError: Nothing is left to train on.
    """
    length = archive.card.loso.validation
    kept = [s for s in split.train if s.scenario != scenario or s.start < start]
    left = [replace(s, stop=min(s.stop, start)) if s.scenario == scenario else s for s in kept]
    last = {s.scenario: s.stop for s in left}
    ends = [s for s in left if s.stop == last[s.scenario] and len(s) > length]
    validation = tuple(Span(s.scenario, s.stop - length, s.stop, (s.members[0],)) for s in ends)
    train = tuple(replace(s, stop=s.stop - length) if s in ends else s for s in left)
    if not validation:
        raise ProtocolError(
            f"protocol {split.protocol} leaves nothing to train on without {scenario}",
            found=", ".join(sorted({s.scenario for s in split.train})),
            expected=f"another training scenario of more than {length} {archive.time.unit}s",
            hint="a protocol with more training scenarios",
        )
    name = f"{split.protocol} without {scenario}" + (f" from {archive[scenario].time.text(start)}" if start else "")
    return Split(name, train, {"validation": validation})


def last_scored(split: Split, scenario: str, *, whole: bool) -> int | None:
    """The month after the last that a fold of a scenario scores; None where the scenario does not train.

    Left out as a whole, a scenario is scored as late as its truth may be used: to the end of the validation months that
    follow its last training months.
    """
    stop = max((s.stop for s in split.train if s.scenario == scenario), default=None)
    if not whole or stop is None:
        return stop
    later = (s.stop for s in split.scored.get("validation", ()) if s.scenario == scenario and s.start == stop)
    return max(later, default=stop)


def fold_split(archive: Archive, split: Split, scenario: str, start: int, *, whole: bool) -> Split:
    """A fold of a cross-validation: the split without training months of one scenario, which are scored.

    The set ``held-out`` is a span for each member, whichever of them train.

    Args:
        archive: The data.
        split: Its training spans are divided; nothing else of it is used.
        scenario: What is left out.
        start: The months from here to `last_scored` are scored.
        whole: Leave out the earlier months too.

    Raises:
        ProtocolError: It is not a training month, or less than a year is left to train on.
    """
    last = max((s for s in split.train if s.scenario == scenario), key=lambda s: s.stop, default=None)
    time = archive[scenario].time
    unit, month = time.unit, time.text(start)
    if last is None or not last.start <= start < last.stop:
        raise ProtocolError(
            f"a fold of {split.protocol} cannot score {scenario} from {month} on",
            found=f"training on {', '.join(s.text(archive) for s in split.train)}",
            expected="a month of the last training months of a scenario",
        )
    fold = leave_out(archive, split, scenario, 0 if whole else start)
    stop = last_scored(split, scenario, whole=whole) or last.stop
    held_out = tuple(Span(scenario, start, stop, (m,)) for m in archive[scenario].members)
    name = f"{split.protocol} without {scenario}{' scored' if whole else ''} from {month}"
    trained, scored = sum(map(len, fold.train)), stop - start
    # A fold that trains on less has not seen every season.
    if trained < time.per_year:
        each = ", one of each calendar month" if time.is_monthly else ": a year"
        raise ProtocolError(
            f"the fold {name} is left {trained} {unit}s to train on",
            found=", ".join(s.text(archive) for s in fold.train),
            expected=f"{time.per_year} or more{each}",
            hint=f"score fewer {unit}s (emukit crossval --months), or take a store with a longer record",
        )
    notes = fold.notes
    if trained < scored:
        short = f"{name}: trained on {trained} {unit}s, fewer than the {scored} that it scores"
        notes = (*notes, f"{short}; this says little of a training on all of them")
    return Split(name, fold.train, {**fold.scored, HELD_OUT: held_out}, notes)


def final_split(archive: Archive, split: Split) -> Split:
    """The split with its validation months among those that train: for a last fit, when all is selected.

    They train with the members that train the rest of their scenario, all of them where none of it does; what tests
    stays as it is. There is no validation set.
    """
    train: list[Span] = []
    for name in dict.fromkeys(s.scenario for s in (*split.train, *split.validation)):
        own = [s for s in split.train if s.scenario == name]
        months = np.zeros(len(archive[name]), bool)
        for s in (*own, *(s for s in split.validation if s.scenario == name)):
            months[s.start : s.stop] = True
        members = own[0].members if own else archive[name].members
        train += [Span(name, a, b, members) for a, b in stretches(months)]
    scored = {name: spans for name, spans in split.scored.items() if name != "validation"}
    places = "; ".join(
        f"{s.scenario} {archive[s.scenario].time.text(s.start)}..{archive[s.scenario].time.text(s.stop - 1)}"
        for s in split.validation
    )
    note = f"final fit: trained on the validation {archive.time.unit}s {places} too, which score nothing any more"
    return Split(split.protocol, tuple(train), scored, (*split.notes, note))
