"""Opening a data set: a store on disk, or an xarray dataset in memory, becomes a checked `Archive`.

Invariant: there is one way in. Zarr v2 and v3, NetCDF and datasets in memory go through the same checks, and what
comes out has one meaning, or nothing comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from emukit.data import completeness
from emukit.data.archive import Archive, Scenario
from emukit.data.card import Card, identify_card, load_card
from emukit.data.decode import Findings, read_calendar
from emukit.data.grid import Grid
from emukit.data.load import Loaded, load
from emukit.data.physics import check_physics
from emukit.data.published_copy import PublishedIdentity, comparable, identify, known_copies
from emukit.data.source import Source, open_source
from emukit.data.split import stretches
from emukit.data.store_layout import Layout, read_layout, store_statics
from emukit.data.units import conversion
from emukit.errors import StoreError
from emukit.parallel.share import share_of
from emukit.progress import Reporter

if TYPE_CHECKING:
    from emukit.parallel.comm import Comm

QUIET = Reporter(quiet=True)


def open_store(
    path: str | Path,
    *,
    card: Card | str | None = None,
    convert: Mapping[str, str] | None = None,
    reporter: Reporter | None = None,
    comm: Comm | None = None,
) -> Archive:
    """Read a store (Zarr v2 or v3, NetCDF) into memory and check it.

    Args:
        path: A Zarr folder or a NetCDF file.
        card: The data card, its name, or the path of its TOML file; recognised from the store when None.
        convert: Variable to the units that the store holds it in, for example ``{"tas": "degC"}``.
        reporter: Where progress is shown.
        comm: The processes that share the globe, each of which makes this call, and reads and holds its own cells;
            None: this one alone.

    Returns:
        The archive: float32 targets (M, T, V, Y, X) and forcing fields (T, Y, X), float64 series (T,).

    Raises:
        StoreError: The store cannot be read, or has no single meaning.
        TrainingError: There are fewer rows than processes, or the columns do not divide.
    """
    with open_source(path) as source:
        return _archive(source, card, convert, reporter, comm)


def archive_from_dataset(
    ds: xr.Dataset,
    *,
    source: str,
    card: Card | str | None = None,
    convert: Mapping[str, str] | None = None,
    comm: Comm | None = None,
) -> Archive:
    """A checked archive from a dataset in the store's layout.

    Args:
        ds: Targets and forcings, with their coordinates.
        source: Where it is from, for messages and records.
        card: Data card, or its name; recognised when None.
        convert: Variable to the units that the dataset holds it in, from which it is converted to those of the card.
        comm: As `open_store`.

    Raises:
        StoreError: The dataset has no single meaning.
    """
    return _archive(Source(ds, source), card, convert, None, comm)


def scenario_from_dataset(
    ds: xr.Dataset,
    *,
    card: Card | str,
    grid: Grid | None = None,
    name: str | None = None,
    convert: Mapping[str, str] | None = None,
) -> Scenario:
    """One scenario's forcings as a `Scenario` without targets: what prediction needs.

    Args:
        ds: The card's forcings with dimensions time, y, x (or time), with or without a scenario dimension of size one.
        card: What the forcings are.
        grid: The grid they must be on; any when None.
        name: The scenario's name where no dimension has it; the dataset's attribute `scenario` when None.
        convert: As `open_store`.

    Raises:
        StoreError: A forcing is missing, not finite, in other units or on another grid, or there are several scenarios.
    """
    findings = Findings()
    card = load_card(card) if isinstance(card, str) else card
    name = name or str(ds.attrs.get("scenario", "")) or "scenario"
    survey = take_survey(
        Source(ds, "the dataset"), card, convert or {}, findings, QUIET, with_targets=False, scenario=name
    )
    findings.check()
    if survey is None or len(survey.layout.names) != 1:
        names = ", ".join(survey.layout.names) if survey else "none"
        raise StoreError("the dataset does not hold one scenario", found=names, hint="choose one: ds.sel(ssp=...)")
    layout = survey.layout
    if grid is not None and layout.grid != grid:
        raise StoreError(
            "the forcings are on another grid",
            found=f"{layout.grid.shape[0]} x {layout.grid.shape[1]} cells from latitude {layout.grid.lat[0]:.2f}",
            expected=f"{grid.shape[0]} x {grid.shape[1]} cells from latitude {grid.lat[0]:.2f}",
            hint="regrid them first",
        )
    forcings = {k: arrays[0] for k, arrays in survey.loaded.forcings.items()}
    return Scenario(layout.names[0], layout.time, forcings, hidden=np.ones(len(layout.time), bool))


@dataclass(frozen=True)
class Survey:
    """A store's layout and values, and what the checks found next to problems.

    Attributes:
        layout: What the axes mean.
        loaded: The values; in the card's units where there is no problem.
        present: (S, M) which members are there.
        hidden: (S, T) which steps are hidden.
        held: (S, T) which steps each scenario has, a stretch of them.
        statics: Name to (Y, X) field that does not change in time.
        identity: What the values are known to be.
    """

    layout: Layout
    loaded: Loaded
    present: completeness.Mask
    hidden: completeness.Mask
    held: completeness.Mask
    statics: Mapping[str, NDArray[np.float32]]
    identity: PublishedIdentity


def take_survey(
    source: Source,
    card: Card,
    convert: Mapping[str, str],
    findings: Findings,
    reporter: Reporter,
    *,
    named: bool = True,
    with_targets: bool = True,
    scenario: str | None = None,
    digests: bool = False,
    comm: Comm | None = None,
) -> Survey | None:
    """Read and check everything.

    Args:
        source: The store.
        card: What it holds.
        convert: As `open_store`.
        findings: Where all problems go.
        reporter: Where progress is shown.
        named: Whether the user named the card.
        with_targets: Whether it must hold targets.
        scenario: Its one scenario, where the store names none.
        digests: Take the digests of all variables, not only of those that may be of a published copy.
        comm: As `open_store`.

    Returns:
        None where the axes cannot be read.
    """
    for v in convert:
        if v not in card.quantities:
            findings.refuse(
                f"--convert names {v}, which is not a variable", expected=f"one of {', '.join(card.quantities)}"
            )
    for sentence in source.notes:
        findings.note(sentence)
    # A card of one scenario says which it is, where the store does not.
    only = card.scenarios[0] if len(card.scenarios) == 1 and with_targets else None
    layout = read_layout(source.ds, card, findings, with_targets=with_targets, default_scenario=scenario or only)
    if layout is None:
        return None
    copies = known_copies(source.ds, card, named, findings) if with_targets else []
    compared = {v for k in copies for v in comparable(k, layout, source.ds, convert)}
    taken = [*layout.targets, *layout.forcings] if digests else compared
    loaded = load(source, layout, findings, reporter, taken, share_of(comm, layout.grid.shape))
    held = completeness.held_steps(layout, loaded, findings)
    present = completeness.present_members(layout, loaded, held, findings)
    hidden = completeness.hidden_steps(layout, loaded, present)
    lost = completeness.undeclared(card, layout, hidden, held)
    loaded.broken |= completeness.refuse_missing_chunks(
        card, source, layout, loaded, present, hidden & ~lost, held, findings
    )
    completeness.refuse_not_finite(layout, loaded, present, held, findings)
    completeness.refuse_lost(card, layout, lost, held, findings)
    completeness.refuse_partly_hidden(layout, loaded, present, hidden, findings)
    statics = store_statics(source, layout.grid, tuple(card.quantities), findings) if with_targets else {}
    identity = identify(card, copies, layout, loaded, source.ds, convert, findings)
    survey = Survey(layout, loaded, present, hidden, held, statics, identity)
    _check_units(source.ds, card, convert, survey, findings, may_be_zero=not with_targets)
    # What is asked of the seasons is asked of months that every scenario has.
    if layout.time.is_monthly and held.all() and not (identity.recognised or findings.problems):
        check_physics(card, layout, loaded, present, hidden, statics, findings)
    completeness.note_negatives(card, layout, loaded, findings)
    completeness.note_shared(layout, loaded, findings)
    completeness.note_same_members(layout, loaded, present, hidden | ~held, findings)
    return survey


def visible_extremes(survey: Survey, name: str) -> tuple[float, float] | None:
    """Smallest and largest visible value of a variable in the store's units; None where nothing is visible."""
    low, high = survey.loaded.low[name], survey.loaded.high[name]
    if name in survey.layout.targets:
        visible = survey.present[:, :, None] & ~survey.hidden[:, None, :]
        low, high = low[visible], high[visible]
    finite = np.isfinite(low) & np.isfinite(high)
    return (float(low[finite].min()), float(high[finite].max())) if finite.any() else None


def _check_units(
    ds: xr.Dataset,
    card: Card,
    convert: Mapping[str, str],
    survey: Survey,
    findings: Findings,
    *,
    may_be_zero: bool,
) -> None:
    """Convert what was asked for, and refuse what is in other units.

    Args:
        ds: The store.
        card: What it should be.
        convert: As `open_store`.
        survey: What was read; converted in place.
        findings: Where problems go.
        may_be_zero: Whether a variable may be zero throughout: a forcing that an experiment leaves out. It is zero in
            all units.
    """
    unstated = []
    for name in [*survey.layout.targets, *survey.layout.forcings]:
        quantity, extremes = card.quantities[name], visible_extremes(survey, name)
        if extremes is None or name in survey.loaded.broken or (may_be_zero and extremes == (0.0, 0.0)):
            continue
        stated = str(ds[name].attrs.get("units", "")).strip()
        unstated += [] if stated else [name]
        days = survey.layout.time.month_days(read_calendar(ds))
        factors = conversion(name, quantity, stated, *extremes, convert.get(name), findings, days)
        if factors is not None:
            _convert(survey, name, *factors)
    if unstated:
        findings.note(f"no units attribute: {', '.join(unstated)}; their values fit the card's units")


def _convert(survey: Survey, name: str, scale: NDArray[np.float64], offset: float) -> None:
    if name in survey.layout.targets:
        v = list(survey.layout.targets).index(name)
        for targets, hidden in zip(survey.loaded.targets, survey.hidden, strict=True):
            for start, stop in stretches(~hidden):  # hidden steps stay zero
                part = targets[:, start:stop, v]
                part *= scale[start:stop, None, None].astype(np.float32)
                part += offset
        return
    for array in {id(a): a for a in survey.loaded.forcings[name]}.values():
        array *= scale.astype(array.dtype).reshape(-1, *[1] * (array.ndim - 1))
        array += offset


def _archive(
    source: Source,
    card: Card | str | None,
    convert: Mapping[str, str] | None,
    reporter: Reporter | None,
    comm: Comm | None,
) -> Archive:
    findings = Findings()
    layout_card, survey = survey_store(source, card, convert, findings, reporter or QUIET, comm=comm)
    findings.check()
    if survey is None:
        raise StoreError(f"{source.name} holds no field on a grid", hint="see `emukit data check`")
    return archive_of(source, layout_card, survey, said_of(layout_card, survey, findings))


def survey_store(
    source: Source,
    card: Card | str | None,
    convert: Mapping[str, str] | None,
    findings: Findings,
    reporter: Reporter,
    *,
    digests: bool = False,
    comm: Comm | None = None,
) -> tuple[Card, Survey | None]:
    """A store's card and what is in it; arguments as `open_store` and `take_survey`.

    Where no card is named, it is that of the data set which the values are, else the one whose layout the store has.

    Raises:
        StoreError: There is no card for it.
    """
    chosen = load_card(card) if isinstance(card, str) else card or identify_card(source.ds)
    survey = take_survey(
        source, chosen, convert or {}, findings, reporter, named=card is not None, digests=digests, comm=comm
    )
    if card is None and survey is not None and survey.identity.card is not None:
        chosen = survey.identity.card
    return chosen, survey


def said_of(card: Card, survey: Survey, findings: Findings) -> tuple[str, ...]:
    """What is odd: what was found, and what the card says, unless that is of published values which these are not."""
    known = card.published is None or survey.identity.recognised
    return (*findings.notes, *(card.oddities if known else ()))


def archive_of(source: Source, card: Card, survey: Survey, notes: tuple[str, ...]) -> Archive:
    """The archive of a store in which no problem was found.

    Args:
        source: The open store.
        card: Of its data.
        survey: What was read and found.
        notes: What is odd, for people.
    """
    layout = survey.layout
    archive = Archive(
        card=card,
        source=source.name,
        grid=layout.grid,
        variables=tuple(layout.targets),
        scenarios={name: _scenario(survey, s) for s, name in enumerate(layout.names)},
        statics=survey.statics,
        notes=notes,
        published=survey.identity.recognised,
        share=survey.loaded.share,
    )
    if archive.share.divided:
        # All processes are needed for it, and here all of them are.
        _ = archive.digest
    return archive


def _scenario(survey: Survey, s: int) -> Scenario:
    layout, present = survey.layout, survey.present[s]
    ((start, stop),) = stretches(survey.held[s])
    own, whole = slice(start, stop), stop - start == len(layout.time)
    # Scenarios that share an array continue sharing it.
    forcings = {k: arrays[s] if whole else arrays[s][own] for k, arrays in survey.loaded.forcings.items()}
    scenario = Scenario(
        layout.names[s], layout.time[own], forcings, hidden=survey.hidden[s, own], share=survey.loaded.share
    )
    if not present.any():
        return replace(scenario, hidden=np.ones(len(scenario), bool))
    targets = survey.loaded.targets[s][:, own]
    members = tuple(m for m, there in zip(layout.members, present, strict=True) if there)
    return replace(scenario, members=members, targets=targets if present.all() else targets[present])
