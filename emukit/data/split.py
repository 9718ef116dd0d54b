"""Which months train, which select, which are scored.

Invariant: a month that is scored (validation or test) is in no member's training span. Two members of the same month
share its forcing and most of its climate, so holding out one member alone would leak.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive, Scenario
from emukit.data.card import SpanSpec
from emukit.errors import ProtocolError

LOSO = "loso:"
# No protocol, but the mean over all that leave a scenario out.
ALL = LOSO + "all"
HELD_OUT = "held-out"
# How `fold_split` names what it makes, so that `make_split` makes it again.
FOLD = re.compile(r"(.+) without (\S+)( scored)? from (\d{4}-\d{2})")
# A fold that trains on less has not seen every calendar month.
LEAST_MONTHS = 12


@dataclass(frozen=True)
class Span:
    """Consecutive months of one scenario: [start, stop) of the given members."""

    scenario: str
    start: int
    stop: int
    members: tuple[int, ...]

    def __len__(self) -> int:
        return self.stop - self.start

    def text(self, archive: Archive) -> str:
        """For people: `ssp370 2060-02..2070-01 members 0`."""
        months = archive[self.scenario].months
        members = f"member{'s' * (len(self.members) > 1)} {','.join(map(str, self.members))}"
        return f"{self.scenario} {months[self.start]}..{months[self.stop - 1]} {members}"


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


def make_split(archive: Archive, protocol: str | None = None, members: Sequence[int] | None = None) -> Split:
    """Cut an archive into training and scored months.

    Args:
        archive: The data.
        protocol: A protocol of the archive's card, or ``loso:SCENARIO``; or a fold in one of these, by the name that
            `fold_split` gave it. The card's default when None.
        members: Members to train on; all when None. What is scored does not depend on it.

    Raises:
        ProtocolError: Unknown protocol, scenario or member, or nothing visible is left to validate on or to train on.
    """
    protocol = protocol or archive.card.default_protocol
    fold = FOLD.fullmatch(protocol)
    if fold:
        whole, name, scored, month = fold.groups()
        start = _scenario(archive, name, protocol).index(month)
        return fold_split(archive, make_split(archive, whole, members), name, start, whole=bool(scored))
    try:
        split = _cut(archive, protocol, None)
    except ProtocolError as e:
        hint = _advice(archive, e.hint)
        raise ProtocolError(e.what, found=e.found, expected=e.expected, hint=hint) from e
    # The protocol fits the store: what is wrong now is the choice of members, which says itself what to do.
    return split if members is None else _cut(archive, protocol, members)


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
    length = archive.card.loso.validation_months
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
            expected=f"another training scenario of more than {length} months",
            hint="a protocol with more training scenarios",
        )
    name = f"{split.protocol} without {scenario}" + (f" from {archive[scenario].months[start]}" if start else "")
    return Split(name, train, {"validation": validation})


def fold_split(archive: Archive, split: Split, scenario: str, start: int, *, whole: bool) -> Split:
    """A fold of a cross-validation: the split without training months of one scenario, which are scored.

    The set ``held-out`` is a span for each member, whichever of them train.

    Args:
        archive: The data.
        split: Its training spans are divided; nothing else of it is used.
        scenario: What is left out.
        start: The months from here to the end of its last training span are scored.
        whole: Leave out the earlier months too.

    Raises:
        ProtocolError: It is no training month, or less than a year is left to train on.
    """
    last = max((s for s in split.train if s.scenario == scenario), key=lambda s: s.stop, default=None)
    month = archive[scenario].months[start]
    if last is None or not last.start <= start < last.stop:
        raise ProtocolError(
            f"a fold of {split.protocol} cannot score {scenario} from {month} on",
            found=f"training on {', '.join(s.text(archive) for s in split.train)}",
            expected="a month of the last training months of a scenario",
        )
    fold = leave_out(archive, split, scenario, 0 if whole else start)
    held_out = tuple(Span(scenario, start, last.stop, (m,)) for m in archive[scenario].members)
    name = f"{split.protocol} without {scenario}{' scored' if whole else ''} from {month}"
    trained, scored = sum(map(len, fold.train)), last.stop - start
    if trained < LEAST_MONTHS:
        raise ProtocolError(
            f"the fold {name} is left {trained} months to train on",
            found=", ".join(s.text(archive) for s in fold.train),
            expected=f"{LEAST_MONTHS} or more, one of each calendar month",
            hint="score fewer months (emukit crossval --months), or take a store with a longer record",
        )
    notes = fold.notes
    if trained < scored:
        short = f"{name}: trained on {trained} months, fewer than the {scored} that it scores"
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
        train += [Span(name, a, b, members) for a, b in _runs(months)]
    scored = {name: spans for name, spans in split.scored.items() if name != "validation"}
    places = "; ".join(
        f"{s.scenario} {archive[s.scenario].months[s.start]}..{archive[s.scenario].months[s.stop - 1]}"
        for s in split.validation
    )
    note = f"final fit: trained on the validation months {places} too, which score nothing any more"
    return Split(split.protocol, tuple(train), scored, (*split.notes, note))


def working_protocols(archive: Archive) -> list[str]:
    """The protocols that can be cut from an archive: the card's, its default first, then leaving one scenario out."""
    card, working = archive.card, []
    for protocol in dict.fromkeys([card.default_protocol, *card.protocols, *(LOSO + name for name in archive)]):
        try:
            _cut(archive, protocol, None)
        except ProtocolError:
            continue
        working.append(protocol)
    return working


def _advice(archive: Archive, otherwise: str) -> str:
    working = working_protocols(archive)
    if not working:
        nothing = f"no protocol of card {archive.card.name} works on this store"
        return f"{otherwise}; {nothing}" if otherwise else nothing
    others = f" (or {', '.join(working[1:])})" if working[1:] else ""
    return f"use --protocol {working[0]}{others}" + (f", or {otherwise}" if otherwise else "")


def _cut(archive: Archive, protocol: str, members: Sequence[int] | None) -> Split:
    notes: list[str] = []
    train_names, scored = _loso(archive, protocol) if protocol.startswith(LOSO) else _from_card(archive, protocol)
    scored["validation"] = _visible_only(archive, scored["validation"], notes)
    if not scored["validation"]:
        raise ProtocolError(
            f"protocol {protocol} has no visible validation month in this store",
            found="; ".join(notes) or _visible_text(archive),
            expected="validation months whose targets are in the store",
            hint="use a store whose validation targets are visible",
        )
    for s in scored["validation"]:
        _require_member(archive, s, protocol)
    held_out = [s for spans in scored.values() for s in spans]
    train = [s for name in train_names for s in _training_spans(archive, name, protocol, held_out, members, notes)]
    if not train:
        raise ProtocolError(
            f"protocol {protocol} leaves no month to train on",
            found="; ".join(notes) or _visible_text(archive),
            expected="visible months that are not scored",
            hint="use a store with more visible months",
        )
    return Split(protocol, tuple(train), {k: tuple(v) for k, v in scored.items()}, tuple(notes))


def _visible_text(archive: Archive) -> str:
    return f"visible targets in {', '.join(n for n in archive if not archive[n].hidden.all()) or 'no scenario'}"


def _require_member(archive: Archive, span: Span, protocol: str) -> None:
    # Not the choice of --members: which member is scored is the protocol's, so that scores compare.
    member, there = span.members[0], archive[span.scenario].members
    if member not in there:
        raise ProtocolError(
            f"protocol {protocol} scores member {member} of {span.scenario}, which is absent",
            found=f"members {', '.join(map(str, there)) or 'none'}",
            expected=f"member {member} in {span.scenario}",
            hint=f"rename member_id in the store so that one is {member}, or bring a data card of your own, "
            "whose protocols name another member, with --card FILE.toml",
        )


def _scenario(archive: Archive, name: str, protocol: str) -> Scenario:
    if name not in archive:
        raise ProtocolError(
            f"protocol {protocol} needs scenario {name}, which is not in {archive.source}",
            found=f"scenarios {', '.join(archive)}",
            expected=f"a store with {name}, or a protocol without",
            hint=f"use a store with {name}, or a data card of your own with --card FILE.toml",
        )
    return archive[name]


def is_hidden(archive: Archive, span: Span) -> bool:
    """Whether any month of the span has no visible target."""
    scenario = archive[span.scenario]
    return scenario.targets is None or bool(scenario.hidden[span.start : span.stop].any())


def _from_card(archive: Archive, protocol: str) -> tuple[list[str], dict[str, list[Span]]]:
    specs = archive.card.protocols
    if protocol not in specs:
        raise ProtocolError(
            f"protocol {protocol} is not known for {archive.card.name}",
            found=protocol,
            expected=f"{', '.join(specs)} or {LOSO}SCENARIO with one of {', '.join(archive)}",
        )
    spec = specs[protocol]
    scored = {
        "validation": [_resolve(archive, s, protocol) for s in spec.validation],
        "test": [_resolve(archive, s, protocol) for s in spec.test],
    }
    return list(spec.train), scored


def _loso(archive: Archive, protocol: str) -> tuple[list[str], dict[str, list[Span]]]:
    left_out = protocol.removeprefix(LOSO)
    scenario = _scenario(archive, left_out, protocol)
    others = [name for name in archive if name != left_out and not archive[name].hidden.all()]
    lengths = archive.card.loso
    scored = {
        "validation": [
            _resolve(archive, SpanSpec(scenario=n, member=0, months=(-lengths.validation_months, 0)), protocol)
            for n in others
        ],
        "test": [_resolve(archive, SpanSpec(scenario=left_out, member=0, months=(-lengths.test_months, 0)), protocol)],
        "test-all": [Span(left_out, 0, len(scenario), (0,))],
    }
    return others, scored


def _resolve(archive: Archive, spec: SpanSpec, protocol: str) -> Span:
    n = len(_scenario(archive, spec.scenario, protocol))
    start, stop = n + spec.months[0], n + spec.months[1]
    if start < 0:
        raise ProtocolError(
            f"protocol {protocol} needs more months than the store has",
            found=f"{spec.scenario} with {n} months",
            expected=f"at least {-spec.months[0]}",
            hint="use a longer store",
        )
    return Span(spec.scenario, start, stop, (spec.member,))


def _runs(mask: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[start, stop) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def _visible_only(archive: Archive, spans: Sequence[Span], notes: list[str]) -> list[Span]:
    out = []
    for span in spans:
        scenario = archive[span.scenario]
        visible = np.zeros(len(scenario), bool)
        visible[span.start : span.stop] = ~scenario.hidden[span.start : span.stop]
        runs = _runs(visible)
        if runs != [(span.start, span.stop)]:
            notes.append(f"validation {span.text(archive)}: hidden in this store, {int(visible.sum())} months left")
        out += [Span(span.scenario, a, b, span.members) for a, b in runs]
    return out


def _training_spans(
    archive: Archive,
    name: str,
    protocol: str,
    held_out: Sequence[Span],
    members: Sequence[int] | None,
    notes: list[str],
) -> list[Span]:
    scenario = _scenario(archive, name, protocol)
    known = {m for s in archive.values() for m in s.members}
    for m in members or ():
        if m not in known:
            scenario.member_index(m)  # raises, naming the members there are
    chosen = tuple(m for m in scenario.members if members is None or m in members)
    free = ~scenario.hidden
    if scenario.hidden.any():
        notes.append(f"training {name}: {int(scenario.hidden.sum())} hidden months left out")
    for h in held_out:
        if h.scenario == name:
            free[h.start : h.stop] = False
    if not chosen:
        notes.append(f"training {name}: none of the chosen members is there")
        return []
    return [Span(name, a, b, chosen) for a, b in _runs(free)]
