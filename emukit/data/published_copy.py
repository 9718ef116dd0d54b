"""Whether a store's values are those of a published data set, told by digests.

Invariant: a layout is not an identity. Only a store all of whose visible targets have the published digests is the data
set; one that holds most of it and something else is refused, by variable and scenario; any other is a store in its
layout, of which nothing is said that was not measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import xarray as xr
from pydantic import ValidationError

from emukit.config import describe
from emukit.data.card import DIGESTS_ATTRIBUTE, Card, Digests, Published, load_card, shipped_cards
from emukit.data.decode import Findings
from emukit.data.load import Loaded, zeros_digest
from emukit.data.store_layout import Layout

# Degrees: far less than a cell, more than the rounding of single precision.
_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Known:
    """A published copy that a store may hold: of a card, or what the store itself says that it holds (no card)."""

    name: str
    published: Published
    card: Card | None = None


@dataclass(frozen=True)
class PublishedIdentity:
    """What a store's values are known to be.

    Attributes:
        card: The card whose data set they are, whole or in part; None where they are not, or only in their forcings.
        recognised: Whether digests say so of every visible target.
    """

    card: Card | None = None
    recognised: bool = False


@dataclass
class _Comparison:
    """How a store compares with one known copy, by (variable, scenario)."""

    known: Known
    same: list[tuple[str, str]] = field(default_factory=list)
    moved: dict[tuple[str, str], str] = field(default_factory=dict)
    other: list[tuple[str, str]] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    axes: list[str] = field(default_factory=list)

    def evidence(self, targets: Collection[str]) -> tuple[int, int]:
        """Digests of the copy that the store holds somewhere: of targets, of all."""
        there = [*self.same, *self.moved]
        return sum(v in targets for v, _ in there), len(there)

    def is_it(self, targets: Collection[str]) -> bool:
        """Whether the store holds this copy: one of its targets, which no two climates share, or most of it."""
        of_targets, of_all = self.evidence(targets)
        return of_targets > 0 or of_all > len(self.other)


def known_copies(ds: xr.Dataset, card: Card, named: bool, findings: Findings) -> list[Known]:
    """The published copies to compare a store with.

    Args:
        ds: The store; its attribute `emukit_published` holds its own digests where emukit wrote it.
        card: Its card.
        named: Whether the user named the card: one without digests then says that the data are not the published ones.
        findings: Where it goes that the attribute is damaged.
    """
    copies = []
    if card.published or not named:
        cards = {c.name: c for c in (*map(load_card, shipped_cards()), card)}
        copies += [Known(c.name, c.published, c) for c in cards.values() if c.published]
    if DIGESTS_ATTRIBUTE in ds.attrs:
        try:
            copies.append(Known("", Published.model_validate_json(str(ds.attrs[DIGESTS_ATTRIBUTE]))))
        except ValidationError as e:
            findings.refuse(
                f"the store's attribute {DIGESTS_ATTRIBUTE} is damaged",
                found="; ".join(describe(e)[:3]),
                expected="the digests that `emukit data demo` wrote",
                hint="write the store again; if it was changed on purpose, remove the attribute",
            )
    return copies


def comparable(known: Known, layout: Layout, ds: xr.Dataset, converted: Collection[str] = ()) -> Mapping[str, Digests]:
    """The variables of a store that have the shape and type of the published ones, so that digests can be compared."""
    published = known.published
    if len(layout.time) != published.months or layout.grid.shape != published.cells:
        return {}
    return {
        v: digests
        for v, digests in published.digests.items()
        if (v in layout.targets or v in layout.forcings)
        and v not in converted
        and ds[v].dtype.newbyteorder("<").str == digests.dtype
        and (v not in layout.targets or layout.members == tuple(published.members))
    }


def identify(
    card: Card, copies: Sequence[Known], layout: Layout, loaded: Loaded, ds: xr.Dataset,
    converted: Collection[str], findings: Findings,
) -> PublishedIdentity:  # fmt: skip
    """What the loaded values of a store are; a damaged copy of known data goes to `findings` as a problem.

    Args:
        card: The card of its layout.
        copies: What it is compared with.
        layout: What its axes mean.
        loaded: Its values, with digests of what is `comparable`.
        ds: The store.
        converted: Variables whose units are converted: their digests are not the published ones.
        findings: Where problems and notes go.
    """
    compared = [_compare(k, layout, loaded, comparable(k, layout, ds, converted)) for k in copies]
    own = next((c for c in compared if c.known.card is None), None)
    if own is not None and own.is_it(layout.targets):
        _refuse_changed(own, findings)
    published = [c for c in compared if c.known.card is not None]
    best = max(published, key=lambda c: c.evidence(layout.targets), default=None)
    if best is not None and best.evidence(layout.targets)[1] and best.is_it(layout.targets):
        _refuse_changed(best, findings)
        whole = not best.unknown and bool(best.evidence(layout.targets)[0])
        findings.note(_sentence(best, layout, whole))
        return PublishedIdentity(best.known.card if whole else None, whole)
    if card.published:
        findings.note(
            f"this is a store in the layout of {card.name}, not a copy of its published values: scores on it are "
            "ranked apart, and what is known of the published values is not said of these"
        )
    return PublishedIdentity()


def _compare(known: Known, layout: Layout, loaded: Loaded, variables: Mapping[str, Digests]) -> _Comparison:
    out = _Comparison(known)
    for v in (*layout.targets, *layout.forcings):
        theirs = variables[v].scenarios if v in variables and v in loaded.digests else {}
        scenario_of = {digest: s for s, digest in theirs.items()}
        rows, columns = layout.grid.shape
        size = len(layout.members) * len(layout.time) * rows * columns
        hidden = zeros_digest(size) if v in layout.targets and theirs else ""
        for s, name in enumerate(layout.names):
            mine = loaded.digests[v][s] if theirs else ""
            if mine and mine == hidden == theirs.get(name):
                continue  # zeros tell nothing
            if name not in theirs or theirs[name] == hidden:
                out.unknown += [(v, name)] if v in layout.targets else []
            elif mine == theirs[name]:
                out.same.append((v, name))
            elif mine in scenario_of and mine != hidden:
                out.moved[v, name] = scenario_of[mine]
            else:
                out.other.append((v, name))
    published, lat, lon = known.published, layout.grid.lat, layout.grid.lon
    if layout.time.text(0) != published.first_month:
        out.axes.append(f"time begins in {layout.time.text(0)}, not {published.first_month}")
    for name, axis, ends in (("latitude", lat, published.latitudes), ("longitude", lon, published.longitudes)):
        if not np.allclose(axis, np.linspace(*ends, len(axis)), atol=_TOLERANCE):
            out.axes.append(f"{name} runs {axis[0]:.3f} .. {axis[-1]:.3f}, not {ends[0]:.3f} .. {ends[1]:.3f}")
    return out


def _refuse_changed(found: _Comparison, findings: Findings) -> None:
    if not (found.moved or found.other or found.axes):
        return
    changes = [f"{v} of {s} holds what was published as {v} of {was}" for (v, s), was in found.moved.items()]
    if found.other:
        changes.append("other values: " + ", ".join(f"{v} of {s}" for v, s in found.other))
    whose = found.known.name
    findings.refuse(
        f"the store is a changed copy of {whose}" if whose else "the store is not as emukit wrote it",
        found="; ".join([*changes, *found.axes]),
        expected=f"the values of {'the published copy' if whose else 'its digests'}: {len(found.same)} other pairs of "
        "variable and scenario have them",
        hint="download or copy the store again; if it was changed on purpose, "
        + (
            f"copy the card {whose} without its [published] table and name the copy with --card FILE.toml"
            if whose
            else f"remove its attribute {DIGESTS_ATTRIBUTE}"
        ),
    )


def _sentence(found: _Comparison, layout: Layout, whole: bool) -> str:
    name, absent = found.known.name, []
    for s in next(iter(found.known.published.digests.values())).scenarios:
        absent += [s] if s not in layout.names else []
    if whole:
        part = f"of {', '.join(layout.names)}, a part of" if absent else "of"
        return f"by their digests, the values are those {part} {name}"
    same = ", ".join(dict.fromkeys(v for v, _ in found.same)) or "nothing"
    unknown = ", ".join(f"{v} of {s}" for v, s in found.unknown) or "its targets"
    return (
        f"by their digests, {same} are those of {name}; nothing is known of {unknown} (hidden there, or of other "
        "months, members or type here): scores on this store are ranked apart"
    )


def digests_of(layout: Layout, loaded: Loaded, ds: xr.Dataset) -> Published:
    """What a card of one's own says under ``[published]`` for stores with these values."""
    return Published(
        first_month=layout.time.text(0),
        months=len(layout.time),
        members=list(layout.members),
        latitudes=(float(layout.grid.lat[0]), float(layout.grid.lat[-1])),
        longitudes=(float(layout.grid.lon[0]), float(layout.grid.lon[-1])),
        cells=layout.grid.shape,
        digests={
            v: Digests(
                dtype="<f4" if ds[v].dtype.itemsize == 4 else "<f8", scenarios=dict(zip(layout.names, of, strict=True))
            )
            for v, of in loaded.digests.items()
        },
    )
