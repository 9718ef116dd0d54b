"""What is in a store, what is odd, what is hidden, and whether it can be used: the report behind `emukit data check`.

Invariant: a report lists every problem that can be found, not only the first; a store without problems opens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emukit.data.archive import Archive
from emukit.data.card import Card, Published
from emukit.data.decode import Findings, read_calendar
from emukit.data.protocol import make_split, working_protocols
from emukit.data.published_copy import digests_of
from emukit.data.source import Source, open_source
from emukit.data.split import stretches
from emukit.data.store import Survey, archive_of, said_of, survey_store, visible_extremes
from emukit.data.time import in_words
from emukit.errors import ProtocolError, StoreError
from emukit.progress import Reporter


@dataclass(frozen=True)
class VariableReport:
    """One variable: what it is, and its visible values in the card's units (after `convert`, where given)."""

    name: str
    what: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    units: str
    low: float
    high: float
    mean: float


@dataclass(frozen=True)
class ScenarioReport:
    """One scenario: its steps, its members, and the spans (first, last step) that are hidden."""

    name: str
    steps: int
    members: tuple[int, ...]
    hidden: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class StoreReport:
    """All that `emukit data check` tells.

    Attributes:
        source: The path.
        kind: ``Zarr v2`` and the like; empty where it could not be opened.
        card: Name of the data card.
        published: Whether the values are the published ones of that card: True, False, or None where the card holds no
            digests.
        digests: What a card of one's own would say of these values, where it was asked for.
        calendar: Of the time coordinate.
        step: Of the time axis.
        span: First and last step.
        grid: In words.
        bytes_on_disk: Size of the store.
        bytes_in_memory: Size of the arrays after loading.
        untrainable: Why no protocol works, where it opens and none does.
        protocols: Splits that can be trained and scored on, the card's default first; empty where it cannot be used.
        oddities: What is odd, measured first, then from the card.
        problems: Why it cannot be used; empty where it can.
    """

    source: str
    kind: str = ""
    card: str = ""
    published: bool | None = None
    digests: Published | None = None
    calendar: str = ""
    step: str = "month"
    span: tuple[str, str] = ("", "")
    grid: str = ""
    bytes_on_disk: int = 0
    bytes_in_memory: int = 0
    variables: tuple[VariableReport, ...] = ()
    scenarios: tuple[ScenarioReport, ...] = ()
    protocols: tuple[str, ...] = ()
    untrainable: str = ""
    oddities: tuple[str, ...] = ()
    problems: tuple[StoreError, ...] = field(default=())

    @property
    def unit(self) -> str:
        """What one step is called."""
        return self.step if self.step in ("month", "year", "day") else "step"

    @property
    def usable(self) -> bool:
        """Whether `open_store` would open it."""
        return not self.problems

    @property
    def trainable(self) -> bool:
        """Whether it opens, and some protocol leaves months to train and validate on."""
        return self.usable and bool(self.protocols)

    def lines(self) -> Iterator[str]:
        """The report as plain text."""
        card = "in the layout of" if self.published is False else "card"
        yield f"{self.source}: {self.kind or 'not readable'}" + (f", {card} {self.card}" if self.card else "")
        if self.grid:
            disk, memory = self.bytes_on_disk / 1e6, self.bytes_in_memory / 1e6
            step = "" if self.step == "month" else f"{in_words(self.step)}, "
            yield f"  {self.grid}; {self.span[0]} .. {self.span[1]}, {step}calendar {self.calendar}"
            yield f"  {disk:.0f} MB on disk, {memory:.0f} MB in memory"
        if self.variables:
            yield "variables"
            for v in self.variables:
                size = " x ".join(map(str, v.shape))
                values = f"{v.low:10.4g} .. {v.high:<10.4g} mean {v.mean:<10.4g}"
                yield f"  {v.name:5} {v.units:11} {values} {v.dtype} {size}"
                yield f"        {v.what}"
        if self.scenarios:
            yield "scenarios"
            for s in self.scenarios:
                members = ", ".join(map(str, s.members)) or "none"
                hidden = "; ".join(f"{a} .. {b}" for a, b in s.hidden) or "nothing"
                yield f"  {s.name}: {s.steps} {self.unit}s, members {members}, hidden: {hidden}"
        if self.scenarios and self.usable:
            yield "protocols"
            yield f"  {', '.join(self.protocols) or 'none'}"
        yield from numbered("odd", self.oddities)
        yield from self.verdict()

    def verdict(self) -> Iterator[str]:
        """Why the store cannot be used or trained on, or that it can."""
        return verdict(self.problems, self.protocols, self.untrainable)


def verdict(problems: Sequence[StoreError], protocols: Sequence[str], untrainable: str) -> Iterator[str]:
    """Why data cannot be used or trained on, or that it can."""
    yield from numbered("problems", [p.text() for p in problems])
    if problems:
        yield f"cannot be used: {len(problems)} problem(s)"
    else:
        yield "usable" if protocols else f"cannot be trained on: {untrainable}"


def numbered(title: str, entries: Sequence[str]) -> Iterator[str]:
    """Entries below a title; nothing where there are none."""
    if entries:
        yield title
    for i, entry in enumerate(entries, 1):
        yield f"  {i}. " + entry.replace("\n", "\n     ")


def inspect_store(
    path: str | Path,
    *,
    card: Card | str | None = None,
    convert: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
    digests: bool = False,
) -> StoreReport:
    """Look at everything in a store and report it; nothing about the store is raised.

    Args:
        path: As `open_store`, as all below.
        card: Its card.
        convert: Its units.
        reporter: Where progress is shown.
        digests: Take the digests of all variables, for a card of one's own.
    """
    findings = Findings()
    try:
        with open_source(path) as source:
            chosen, survey = survey_store(
                source, card, convert, findings, reporter or Reporter(quiet=True), digests=digests
            )
            return _report(source, chosen, survey, findings, digests)
    except StoreError as e:
        return StoreReport(str(path), problems=(*findings.problems, e))


def _report(source: Source, card: Card, survey: Survey | None, findings: Findings, digests: bool) -> StoreReport:
    found = StoreReport(
        source.name,
        source.kind,
        card.name,
        bytes_on_disk=source.bytes_on_disk,
        oddities=said_of(card, survey, findings) if survey else tuple(findings.notes),
        published=survey.identity.recognised if survey and card.published else None,
        problems=tuple(findings.problems),
    )
    if survey is None:
        return found
    layout = survey.layout
    lat, lon = layout.grid.lat, layout.grid.lon
    time = layout.time
    working: tuple[str, ...] = ()
    untrainable = ""
    if not found.problems:
        archive = archive_of(source, card, survey, found.oddities)
        working = tuple(working_protocols(archive))
        untrainable = "" if working else _why_untrainable(archive)
    return StoreReport(
        **{
            **found.__dict__,
            "calendar": read_calendar(source.ds),
            "step": time.step,
            "span": (time.text(0), time.text(-1)),
            "grid": f"{len(lat)} x {len(lon)} cells, latitude {lat[0]:.2f} .. {lat[-1]:.2f}, "
            f"longitude {lon[0]:.2f} .. {lon[-1]:.2f}",
            "bytes_in_memory": _memory(survey),
            "digests": digests_of(layout, survey.loaded, source.ds) if digests else None,
            "variables": tuple(_variables(source, card, survey)),
            "protocols": working,
            "untrainable": untrainable,
            "scenarios": tuple(
                ScenarioReport(
                    name,
                    int(survey.held[s].sum()),
                    tuple(m for m, there in zip(layout.members, survey.present[s], strict=True) if there),
                    tuple((time.text(a), time.text(b - 1)) for a, b in stretches(survey.hidden[s])),
                )
                for s, name in enumerate(layout.names)
            ),
        }
    )


def _why_untrainable(archive: Archive) -> str:
    try:
        make_split(archive)
    except ProtocolError as e:
        return f"{e.what} ({e.found}), and no other protocol works either"
    return ""


def _memory(survey: Survey) -> int:
    arrays = {id(a): a for a in survey.loaded.targets}
    arrays |= {id(a): a for per_scenario in survey.loaded.forcings.values() for a in per_scenario}
    return sum(a.nbytes for a in arrays.values())


def _variables(source: Source, card: Card, survey: Survey) -> Iterator[VariableReport]:
    for name in [*survey.layout.targets, *survey.layout.forcings]:
        stored = source.ds[name]
        arrays, low, high = _visible(survey, name)
        total = sum(float(a.sum(dtype=np.float64)) for a in arrays)
        count = sum(a.size for a in arrays)
        yield VariableReport(
            name,
            card.quantities[name].what,
            tuple(map(str, stored.dims)),
            stored.shape,
            str(stored.dtype),
            card.quantities[name].units,
            low,
            high,
            total / count if count else float("nan"),
        )


def _visible(survey: Survey, name: str) -> tuple[list[NDArray[np.floating]], float, float]:
    """The visible values of a variable, and their extremes, in the units they are held in now."""
    if name in survey.layout.forcings:
        arrays = [
            a[own] if not own.all() else a for a, own in zip(survey.loaded.forcings[name], survey.held, strict=True)
        ]
    else:
        v = list(survey.layout.targets).index(name)
        arrays = [
            targets[m, start:stop, v]
            for s, targets in enumerate(survey.loaded.targets)
            for m in np.flatnonzero(survey.present[s])
            for start, stop in stretches(~survey.hidden[s] & survey.held[s])
        ]
    if not arrays or name in survey.loaded.broken or visible_extremes(survey, name) is None:
        return [], float("nan"), float("nan")
    return arrays, min(float(a.min()) for a in arrays), max(float(a.max()) for a in arrays)
