"""What loaded values must be before anyone may train on them: complete, finite, hidden as declared and as a whole.

Invariant: a refusal names the first place: variable, scenario, member, month, and the cell or the chunk file.

Masks are boolean: (S, T) over S scenarios and T steps, (S, M) over scenarios and M members. Every function reads the
values as loaded, in the card's units, and records what it finds in `findings`; nothing is raised here. Of processes
that share a globe, each looks at its own cells, and all find the same.
"""

from __future__ import annotations

from itertools import combinations
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from emukit.data.card import Card
from emukit.data.chunk_files import REPAIR, Chunk
from emukit.data.decode import Findings
from emukit.data.load import Loaded
from emukit.data.source import Blocks, Source
from emukit.data.store_layout import Layout

Mask: TypeAlias = NDArray[np.bool_]


def held_steps(layout: Layout, loaded: Loaded, findings: Findings) -> Mask:
    """(S, T) False where a scenario has not started or has ended: every variable of it is NaN from there to the edge.

    So scenarios of different lengths, such as a historical one and what follows it, stand in one store.
    """
    held = np.ones((len(layout.names), len(layout.time)), bool)
    targets = [v for v in layout.targets if v not in loaded.broken]
    forcings = [v for v in layout.forcings if v not in loaded.broken]
    if not forcings:
        return held
    for s, name in enumerate(layout.names):
        absent = np.all([np.isnan(loaded.low[v][s]) for v in forcings], axis=0)
        absent &= np.all([np.isnan(loaded.low[v][s]).all(0) for v in targets] or [absent], axis=0)
        there = np.flatnonzero(~absent)
        if not absent.any() or not len(there):
            continue
        outside = np.ones(len(layout.time), bool)
        outside[there[0] : there[-1] + 1] = False
        arrays = [loaded.forcings[v][s][outside] for v in forcings]
        arrays += [loaded.targets[s][:, outside]] if targets else []
        # The extremes of a step are NaN if any value is; a scenario that is not there has none at all.
        if outside.any() and loaded.share.every(all(np.isnan(a).all() for a in arrays)):
            held[s] = ~outside
            findings.note(
                f"{name} holds {layout.time.text(there[0])} .. {layout.time.text(there[-1])} of the store's "
                f"{layout.time.text(0)} .. {layout.time.text(-1)}: all else of it is missing (NaN)"
            )
    return held


def present_members(layout: Layout, loaded: Loaded, held: Mask, findings: Findings) -> Mask:
    """(S, M) False where a member is all NaN in a scenario: it is not there. NaN in a part of it is refused."""
    present = np.ones((len(layout.names), len(layout.members)), bool)
    sound = [v for v in layout.targets if v not in loaded.broken]
    for s, name in enumerate(layout.names):
        for m, member in enumerate(layout.members):
            if any(np.isnan(loaded.low[v][s, m, held[s]]).any() for v in sound):
                present[s, m] = not loaded.share.every(np.isnan(loaded.targets[s][m]).all())
                if not present[s, m]:
                    findings.note(f"member {member} is missing (NaN) in {name}")
    return present


def refuse_not_finite(layout: Layout, loaded: Loaded, present: Mask, held: Mask, findings: Findings) -> None:
    """Record the first NaN or infinite value of each variable, outside absent members and steps."""
    for v, name in enumerate(layout.targets):
        bad = ~np.isfinite(loaded.low[name] + loaded.high[name]) & present[:, :, None] & held[:, None]
        if name in loaded.broken or not bad.any():
            continue
        s, m, t = np.argwhere(bad)[0]
        where = f"{layout.names[s]}, member {layout.members[m]}, {layout.time.text(t)}"
        values = loaded.share.whole(loaded.targets[s][m, t, v])
        _refuse_value(name, where, values, int(bad.sum()), layout, findings)
    for name in layout.forcings:
        bad = ~np.isfinite(loaded.low[name] + loaded.high[name]) & held
        if name in loaded.broken or not bad.any():
            continue
        s, t = np.argwhere(bad)[0]
        where = f"{layout.names[s]}, {layout.time.text(t)}"
        values = np.asarray(loaded.forcings[name][s][t])
        if values.ndim:
            values = loaded.share.whole(values)
        _refuse_value(name, where, values, int(bad.sum()), layout, findings)


def _refuse_value(
    name: str, where: str, values: NDArray[np.floating], steps: int, layout: Layout, findings: Findings
) -> None:
    bad: Mask = np.atleast_1d(np.logical_not(np.isfinite(values)))
    if values.ndim == 2:
        y, x = np.argwhere(bad)[0]
        where += f", lat {layout.grid.lat[y]:.2f}, lon {layout.grid.lon[x]:.2f}"
    kind = "NaN" if np.isnan(values).any() else "infinite"
    findings.refuse(
        f"{name} is {kind} at {where}",
        found=f"{int(bad.sum())} such cells in that {layout.time.unit}; {steps} {layout.time.unit}s with any",
        expected="finite values (a member that is NaN throughout a scenario counts as not there)",
        hint="complete the data; if the file is a copy, compare it with the original",
    )


def hidden_steps(layout: Layout, loaded: Loaded, present: Mask) -> Mask:
    """(S, T) True where every target of every member is zero; nowhere where no target could be read."""
    zeros = _zero(layout, loaded)
    hidden: Mask = np.full((len(layout.names), len(layout.time)), bool(zeros))
    hidden[~np.asarray(present.any(axis=1))] = False
    for zero in zeros.values():
        # An absent member hides nothing and shows nothing.
        hidden &= (zero | ~present[:, :, None]).all(axis=1)
    return hidden


def undeclared(card: Card, layout: Layout, hidden: Mask, held: Mask) -> Mask:
    """(S, T) True where a step is zero that the card does not allow to be hidden: lost, not hidden."""
    lost = hidden.copy()
    for s, name in enumerate(layout.names):
        lost[s, _may_hide(card, name, held[s])] = False
    return lost


def _may_hide(card: Card, name: str, held: Mask) -> slice:
    """The steps of the store in which a scenario may be hidden; offsets count from its own end."""
    steps = np.flatnonzero(held)
    allowed = card.may_hide(name, len(steps))
    return slice(steps[0] + allowed.start, steps[0] + allowed.stop)


def refuse_lost(card: Card, layout: Layout, lost: Mask, held: Mask, findings: Findings) -> None:
    """Record each scenario with steps of zeros that its card does not declare hidden."""
    unit = layout.time.unit
    for s in np.flatnonzero(lost.any(axis=1)):
        name, steps = layout.names[s], np.flatnonzero(lost[s])
        allowed = layout.time[_may_hide(card, name, held[s])]
        findings.refuse(
            f"every target is zero in {unit}s of {name} that are not declared hidden",
            found=f"{len(steps)} such {unit}s between {layout.time.text(steps[0])} and {layout.time.text(steps[-1])}",
            expected=f"zeros in {allowed.text(0)} .. {allowed.text(-1)} only, the {unit}s that card {card.name} "
            "declares hidden"
            if len(allowed)
            else f"no zeros: card {card.name} declares nothing of {name} hidden",
            hint="restore them, or list them under [hidden] in a card of your own and name it with --card",
        )


def refuse_partly_hidden(layout: Layout, loaded: Loaded, present: Mask, hidden: Mask, findings: Findings) -> None:
    """Record steps that are zero in some targets or members only: hidden, or lost?"""
    unit = layout.time.unit
    for v, zero in _zero(layout, loaded).items():
        partly = zero & present[:, :, None] & ~hidden[:, None, :]
        if partly.any():
            s, m, t = np.argwhere(partly)[0]
            findings.refuse(
                f"{v} is zero everywhere in {layout.names[s]}, member {layout.members[m]}, {layout.time.text(t)}, "
                f"but other targets or members of that {unit} are not",
                found=f"{int(partly.sum())} such {unit}s",
                expected=f"a hidden {unit} is zero in every target and every member",
                hint=f"decide which it is: hide the {unit} in all of them, or supply its values",
            )


def _zero(layout: Layout, loaded: Loaded) -> dict[str, Mask]:
    return {v: (loaded.low[v] == 0) & (loaded.high[v] == 0) for v in layout.targets if v not in loaded.broken}


def refuse_missing_chunks(
    card: Card,
    source: Source,
    layout: Layout,
    loaded: Loaded,
    present: Mask,
    hidden: Mask,
    held: Mask,
    findings: Findings,
) -> set[str]:
    """Record chunks without a file, except those that would hold hidden or absent steps or absent members only.

    Writers may leave out chunks that hold nothing but the fill value; a forcing's chunk is needed wherever its scenario
    is there. Where no target could be read, a step that the card allows to be hidden may be.

    Returns:
        The variables with a missing chunk.
    """
    out: set[str] = set()
    if not _zero(layout, loaded):
        hidden = hidden.copy()
        for s, scenario in enumerate(layout.names):
            hidden[s, _may_hide(card, scenario, held[s])] = True
    for name, axes in {**layout.targets, **layout.forcings}.items():
        if name not in source.chunked:
            continue
        missing = source.chunked[name].missing()
        if missing:
            blocks, target = source.blocks(name, axes), name in layout.targets
            nothing = (~present if target else present & False), ((hidden if target else hidden & False) | ~held)
            missing = [c for c in missing if not _holds_nothing(blocks, c, *nothing)]
        if missing:
            out.add(name)
            findings.refuse(
                f"the chunk {missing[0].file} is missing",
                found=f"{len(missing)} of the chunks of {name} are not there: they would read as a fill value",
                expected="every chunk, or none where a whole member is absent or "
                f"a {layout.time.unit} is hidden in every target",
                hint=f"{REPAIR}; if it is meant, write the store with write_empty_chunks=True",
            )
    return out


def _holds_nothing(blocks: Blocks, chunk: Chunk, absent: Mask, empty: Mask) -> bool:
    cut = {r: chunk.slices[blocks.variable.dims.index(d)] for r, d in blocks.dims.items()}
    whole = slice(None)
    s, m, t = (cut.get(r, whole) for r in ("scenario", "member", "time"))
    return bool((absent[s, m][:, :, None] | empty[s, t][:, None, :]).all())


def note_negatives(card: Card, layout: Layout, loaded: Loaded, findings: Findings) -> None:
    """Note values below zero in forcings that cannot be: tiny ones come from interpolation, and are kept."""
    for name in layout.forcings:
        low = loaded.low[name]
        if name in loaded.broken or not (low < 0).any() or card.forcings[name].largest[0] < 0:
            continue
        own = sum(int((a[low[s] < 0] < 0).sum()) for s, a in enumerate(loaded.forcings[name]))
        count = own if layout.forcings[name] is None else int(loaded.share.sum(own))
        findings.note(f"{name} has {count} values below zero, down to {np.nanmin(low):.2g}: kept as they are")


def note_shared(layout: Layout, loaded: Loaded, findings: Findings) -> None:
    """Note forcings that are the same in every scenario."""
    for name, arrays in loaded.forcings.items():
        if len(arrays) > 1 and name not in loaded.broken and all(a is arrays[0] for a in arrays):
            findings.note(f"{name} is the same in every scenario")


def note_same_members(layout: Layout, loaded: Loaded, present: Mask, hidden: Mask, findings: Findings) -> None:
    """Note members with steps in which every target is the same: copies, which tell nothing of how runs differ."""
    sound = [v for v in layout.targets if v not in loaded.broken]
    for s, name in enumerate(layout.names) if sound else ():
        there = np.flatnonzero(present[s])
        for a, b in combinations(there, 2):
            # Two runs hardly share the extremes of a month, so that few fields have to be compared.
            same = ~hidden[s]
            for v in sound:
                same = same & (loaded.low[v][s, a] == loaded.low[v][s, b])
                same &= loaded.high[v][s, a] == loaded.high[v][s, b]
            numbers = [list(layout.targets).index(v) for v in sound]
            fields = loaded.targets[s]
            equal = [np.array_equal(fields[a, t, numbers], fields[b, t, numbers]) for t in np.flatnonzero(same)]
            count = int(loaded.share.every(equal).sum()) if equal else 0
            if count:
                findings.note(
                    f"members {layout.members[a]} and {layout.members[b]} of {name} are the same run in {count} of "
                    f"{int((~hidden[s]).sum())} visible {layout.time.unit}s: internal variability cannot be told "
                    "from them"
                )
