"""Protocols by name: an archive cut into the steps of its time axis that train, that select, and that are scored.

Invariant: what is scored depends on the protocol and the archive alone, not on the members that are chosen to train.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emukit.data.archive import Archive, Scenario
from emukit.data.card import GENERIC, SpanSpec
from emukit.data.split import FOLD, Span, Split, fold_split, is_hidden, stretches
from emukit.errors import ProtocolError

LOSO = "loso:"
# No protocol, but the mean over all that leave a scenario out.
ALL = LOSO + "all"
# The scenario whose years are the base period of percentiles (`emukit.data.card.DailyFiles`).
HISTORICAL = "historical"


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


def working_protocols(archive: Archive) -> list[str]:
    """The protocols that can be cut from an archive: the card's, its default first, then leaving one scenario out.

    A scenario whose last months are hidden is not offered to be left out.
    """
    card, working = archive.card, []
    for protocol in dict.fromkeys([card.default_protocol, *card.protocols, *(LOSO + name for name in archive)]):
        try:
            split = _cut(archive, protocol, None)
        except ProtocolError:
            continue
        # What is hidden is predicted under the card's own protocols; left out, it would be scored by nothing.
        if not protocol.startswith(LOSO) or not any(is_hidden(archive, span) for span in split.scored["test"]):
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
            f"protocol {protocol} has no visible validation {archive.time.unit} in this store",
            found="; ".join(notes) or _visible_text(archive),
            expected=f"validation {archive.time.unit}s whose targets are in the store",
            hint="use a store whose validation targets are visible",
        )
    for s in scored["validation"]:
        _require_member(archive, s, protocol)
    held_out = [s for spans in scored.values() for s in spans]
    _refuse_base_period(archive, protocol, held_out)
    train = [s for name in train_names for s in _training_spans(archive, name, protocol, held_out, members, notes)]
    if not train:
        raise ProtocolError(
            f"protocol {protocol} leaves no {archive.time.unit} to train on",
            found="; ".join(notes) or _visible_text(archive),
            expected=f"visible {archive.time.unit}s that are not scored",
            hint=f"use a store with more visible {archive.time.unit}s",
        )
    return Split(protocol, tuple(train), {k: tuple(v) for k, v in scored.items()}, tuple(notes))


def _refuse_base_period(archive: Archive, protocol: str, held_out: Sequence[Span]) -> None:
    """Years that give the percentiles of indices are training data: all must be there, and none may be scored."""
    if archive.card.daily is None:
        return
    first, last = archive.card.daily.base_period
    past = archive[HISTORICAL].time.year if HISTORICAL in archive else np.zeros(0, int)
    whole = (last + 1 - first) * archive.time.per_year
    # What is scored as it is needs no percentiles.
    if archive.card.competition != GENERIC and ((past >= first) & (past <= last)).sum() != whole:
        raise ProtocolError(
            f"protocol {protocol} lacks the years of the percentiles that its score is computed with",
            found=_visible_text(archive),
            expected=f"all {archive.time.unit}s of {first} to {last} in a scenario {HISTORICAL}",
            hint=f"add the files of {HISTORICAL}",
        )
    for span in held_out:
        year = archive[span.scenario].time.year
        if span.scenario == HISTORICAL and year[span.start] <= last and year[span.stop - 1] >= first:
            raise ProtocolError(
                f"protocol {protocol} holds out years of the percentiles that its score is computed with",
                found=f"{first} to {last} of {HISTORICAL}",
                expected="these years in training",
                hint="leave another scenario out",
            )


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
            _resolve(archive, SpanSpec(scenario=n, member=0, steps=(-lengths.validation, 0)), protocol) for n in others
        ],
        "test": [_resolve(archive, SpanSpec(scenario=left_out, member=0, steps=(-lengths.test, 0)), protocol)],
        "test-all": [Span(left_out, 0, len(scenario), (0,))],
    }
    return others, scored


def _resolve(archive: Archive, spec: SpanSpec, protocol: str) -> Span:
    scenario = _scenario(archive, spec.scenario, protocol)
    n, unit = len(scenario), scenario.time.unit
    start, stop = n + spec.offsets[0], n + spec.offsets[1]
    if start < 0:
        raise ProtocolError(
            f"protocol {protocol} needs more {unit}s than the store has",
            found=f"{spec.scenario} with {n} {unit}s",
            expected=f"at least {-spec.offsets[0]}",
            hint="use a longer store",
        )
    return Span(spec.scenario, start, stop, (spec.member,))


def _visible_only(archive: Archive, spans: Sequence[Span], notes: list[str]) -> list[Span]:
    out = []
    for span in spans:
        scenario = archive[span.scenario]
        visible = np.zeros(len(scenario), bool)
        visible[span.start : span.stop] = ~scenario.hidden[span.start : span.stop]
        runs = stretches(visible)
        if runs != [(span.start, span.stop)]:
            left = f"{int(visible.sum())} {scenario.time.unit}s left"
            notes.append(f"validation {span.text(archive)}: hidden in this store, {left}")
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
        notes.append(f"training {name}: {int(scenario.hidden.sum())} hidden {scenario.time.unit}s left out")
    for h in held_out:
        if h.scenario == name:
            free[h.start : h.stop] = False
    if not chosen:
        notes.append(f"training {name}: none of the chosen members is there")
        return []
    return [Span(name, a, b, chosen) for a, b in stretches(free)]
