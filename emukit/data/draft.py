"""A first data card for a store that has none, to be read and completed by who knows the data.

Invariant: the draft loads as it stands, and the store opens with it. What was found in the store is written as it is;
what was guessed says so in a comment, and what a store does not say is marked ``TODO``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from emukit.config import toml_value
from emukit.data.card import Card, card_names, load_card, parse_card, scenario_names, shipped_cards, text_of
from emukit.data.completeness import Mask
from emukit.data.decode import ROLES, Findings, read_time, role
from emukit.data.source import Source, open_source
from emukit.data.store import Survey, take_survey, visible_extremes
from emukit.data.time import STEPS, TimeAxis, in_words, step_problem
from emukit.data.units import same_units
from emukit.data.variable import KNOWN, MEAN
from emukit.errors import StoreError
from emukit.progress import Reporter

# Fields on latitude and longitude that models put out, by their names in the tables of CMIP6 (Amon, Lmon, LImon,
# SImon, Omon, day); `rsdt`, the insolation at the top of the atmosphere, is one that drives them.
OUTPUTS = frozenset(
    {
        "tas", "tasmax", "tasmin", "ts", "pr", "prc", "prsn", "prw", "evspsbl", "huss", "hurs", "hursmax", "hursmin",
        "sfcWind", "sfcWindmax", "uas", "vas", "ps", "psl", "clt", "clwvi", "clivi", "tauu", "tauv", "hfls", "hfss",
        "rlds", "rldscs", "rlus", "rsds", "rsdscs", "rsus", "rsuscs", "rsut", "rsutcs", "rlut", "rlutcs", "rtmt",
        "zg500", "ta850", "mrro", "mrros", "mrso", "mrsos", "evspsblsoi", "evspsblveg", "tran", "lai", "gpp", "npp",
        "nep", "nbp", "rh", "cVeg", "cSoil", "snc", "snd", "snm", "snw", "siconc", "sithick", "tos", "sos", "zos",
        "mlotst"
    }
)  # fmt: skip
TO_DO = "# TODO: "
# What is held out: an eighth of a scenario, at most ten years; no test is longer than thirty.
SHARE, MOST_YEARS, TEST_YEARS = 8, 10, 30
PROTOCOL = "late"
# Digits of ranges: they are guesses.
DIGITS = 3


@dataclass(frozen=True)
class _Guess:
    """What the variables of a store are taken for.

    Attributes:
        targets: Name to why.
        forcings: Name to why.
        left_out: Name to why; in no card.
    """

    targets: Mapping[str, str]
    forcings: Mapping[str, str]
    left_out: Mapping[str, str]


def draft_card(path: str | Path, reporter: Reporter, name: str | None = None) -> str:
    """Draft the data card of a store; its values are read once.

    Args:
        path: A Zarr folder or a NetCDF file.
        reporter: Shows progress.
        name: Of the card; None: after the store.

    Returns:
        The text of a TOML file.

    Raises:
        StoreError: The store cannot be read, its axes have no single meaning, it holds nothing to predict or nothing
            to predict from, or its values would be refused under any card.
    """
    with open_source(path) as source:
        findings = Findings()
        step = _find_step(source.ds, findings)
        guess = _guess(source.ds)
        scenarios = _scenarios(source.ds)
        card = _unbounded(source.ds, step, guess, scenarios)
        survey = take_survey(source, card, {}, findings, reporter)
        findings.check()
        if survey is None or not survey.layout.targets:
            raise StoreError(
                f"{source.name} holds no field on a grid", hint="name a store with (time, lat, lon) fields"
            )
        text = "\n".join(_lines(source, card, survey, guess, name or _name_of(Path(str(path))))) + "\n"
    parse_card(tomllib.loads(text), "of the draft")
    return text


def _find_step(ds: xr.Dataset, findings: Findings) -> str:
    """The step of the time axis, by how far its stamps lie apart.

    Raises:
        StoreError: There is no time axis of a step that emukit knows.
    """
    values = ds["time"].values if "time" in ds.coords and ds["time"].ndim == 1 else np.zeros(0)
    apart = timedelta(0)
    if len(values) > 1 and (values.dtype == object or np.issubdtype(values.dtype, np.datetime64)):
        gaps = sorted(np.diff(values).astype("timedelta64[us]").astype(object))
        apart = gaps[len(gaps) // 2]
    hours = apart / timedelta(hours=1)
    if hours > 24 * 300:
        step = "year"
    elif hours > 24 * 26 or not hours:
        # Of a single step, or of stamps that are not dates, the reader of months says what is wrong.
        step = "month"
    else:
        step = "day" if hours == 24 else f"{hours:g}h"
    if step_problem(step):
        raise StoreError(
            "the steps of time are none that emukit knows",
            found=f"stamps {apart} apart",
            expected=STEPS,
            hint="average or sum the data to one of these first",
        )
    if read_time(ds, step, findings) is None:
        findings.check()
    return step


def _guess(ds: xr.Dataset) -> _Guess:
    """Sort the variables of a store.

    Raises:
        StoreError: There is nothing to predict, or nothing to predict from.
    """
    bounds = {str(ds[c].attrs.get(k, "")) for c in ds.coords for k in ("bounds", "climatology")}
    fields: dict[str, set[str | None]] = {}
    series: list[str] = []
    left_out: dict[str, str] = {}
    # In an order that does not depend on how a format lists its arrays.
    for key in sorted(ds.data_vars, key=str):
        array = ds[key]
        name, roles = str(key), {role(d) for d in array.dims}
        if name in bounds or not array.ndim:
            continue
        if None in roles:
            unknown = ", ".join(str(d) for d in array.dims if role(d) is None)
            left_out[name] = f"its dimension {unknown} is none of {', '.join(d for r in ROLES.values() for d in r)}"
        elif array.dtype.kind not in "fiu":
            left_out[name] = f"not numeric: {array.dtype}"
        elif "time" not in roles:
            left_out[name] = (
                "a static field, which needs no card" if {"lat", "lon"} <= roles else "it does not change in time"
            )
        elif {"lat", "lon"} <= roles:
            fields[name] = roles
        elif roles & {"lat", "lon"}:
            left_out[name] = "on one horizontal axis alone"
        elif "member" in roles:
            left_out[name] = "a series with members is neither a field to predict nor a forcing"
        else:
            series.append(name)
    targets = {v: "a field of CMIP's tables" for v in fields if v in OUTPUTS}
    targets |= {v: "it has members" for v, roles in fields.items() if "member" in roles and v not in targets}
    forcings = dict.fromkeys(series, "a series")
    others = [v for v in fields if v not in targets]
    if targets:
        forcings |= dict.fromkeys(others, "a field of no table of outputs, without members")
    else:
        # Better a guess to correct than none.
        targets = dict.fromkeys(others, "nothing in the store is a known output")
    if not targets or not forcings:
        lacking = "to predict: no field on (time, lat, lon)" if not targets else "to predict from: no forcing"
        raise StoreError(
            f"there is nothing {lacking}",
            found=", ".join(map(str, ds.data_vars)) or "no variables",
            expected="fields to predict, such as tas(ssp, time, lat, lon), and forcings, such as CO2(ssp, time)",
            hint="add the concentrations or emissions of the scenarios to the store"
            if targets
            else "add the fields of the climate model to the store",
        )
    return _Guess(targets, forcings, left_out)


def _scenarios(ds: xr.Dataset) -> tuple[str, ...]:
    """The scenarios, in the spelling of the shipped cards; one made-up name where the store names none."""
    dim = next((d for d in ROLES["scenario"] if d in ds.coords), None)
    if dim is None:
        return ("scenario",)
    known = [s for name in shipped_cards() for s in load_card(name).scenarios]
    return tuple(dict.fromkeys(scenario_names([text_of(v) for v in np.atleast_1d(ds[dim].values).tolist()], known)))


def _unbounded(ds: xr.Dataset, step: str, guess: _Guess, scenarios: Sequence[str]) -> Card:
    """A card of the store under which any value is plausible and everything may be hidden."""
    whole = [-np.inf, np.inf]

    def table(v: str) -> dict[str, Any]:
        kind = "field" if {"lat", "lon"} <= {role(d) for d in ds[v].dims} else "series"
        return {"units": _units(ds, v) or "", "range": whole, "largest": whole, "what": "unknown", "kind": kind}

    return parse_card(
        {
            "name": "draft",
            "title": "draft",
            "source": "unknown",
            "licence": "unknown",
            "time": step,
            "scenarios": list(scenarios),
            "targets": {v: table(v) for v in guess.targets},
            "forcings": {v: table(v) for v in guess.forcings},
            "hidden": dict.fromkeys(scenarios, "all"),
            "default_protocol": PROTOCOL,
            "protocols": {PROTOCOL: {"train": [scenarios[0]], "validation": [], "test": []}},
            "loso": {"validation_steps": 1, "test_steps": 1}
            if step != "month"
            else {"validation_months": 1, "test_months": 1},
        },
        "of the draft",
    )


def _name_of(path: Path) -> str:
    """A name for the card of a store, unlike those of all existing cards."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.name.removesuffix(path.suffix)) or "mine"
    return f"{name}-draft" if name in card_names() else name


def _units(ds: xr.Dataset, v: str) -> str | None:
    return str(ds[v].attrs.get("units", "")).strip() or None


def _lines(source: Source, card: Card, survey: Survey, guess: _Guess, name: str) -> Iterator[str]:
    """The lines of the draft."""
    ds, layout = source.ds, survey.layout
    attributes = {
        k: text_of(ds.attrs[k]).replace("\n", " ") for k in ("title", "source", "license", "licence") if k in ds.attrs
    }
    yield "# A draft that `emukit data card` made by looking at the store. Look at each line that says TODO or guessed."
    yield "# What the keys mean: docs/cards.md. `emukit data check STORE --card THIS_FILE.toml` says what fits."
    yield f"name = {toml_value(name)}"
    for key, stated, default in (
        ("title", attributes.get("title"), f"The store {name}"),
        ("source", attributes.get("source"), "unknown"),
        ("licence", attributes.get("license", attributes.get("licence")), "unknown"),
    ):
        yield f"{key} = {toml_value(stated or default)}" + ("" if stated else f"  {TO_DO}the store does not say")
    yield "# Without a line `competition` predictions are scored by generic errors: relative RMSE, mean, spread, bias."
    if card.time != "month":
        yield f"time = {toml_value(card.time)}  # found: stamps of {in_words(card.time)}"
    named = any(d in ds.coords for d in ROLES["scenario"])
    yield f"scenarios = {toml_value(layout.names)}" + ("" if named else f"  {TO_DO}the store does not say")
    yield f"default_protocol = {toml_value(PROTOCOL)}"
    yield from (f"# Left out: {v}: {why}" for v, why in guess.left_out.items())
    yield from _hidden(survey)
    for kind, of in (("targets", guess.targets), ("forcings", guess.forcings)):
        for v, why in of.items():
            yield f"\n# Guessed to be {'a target' if kind == 'targets' else 'a forcing'}: {why}."
            yield f"[{kind}.{_bare(v)}]"
            yield from _variable(ds, v, survey, of is guess.targets)
    yield from _protocols(survey)


def _variable(ds: xr.Dataset, v: str, survey: Survey, is_target: bool) -> Iterator[str]:
    attributes, known = ds[v].attrs, KNOWN.get(v, {})
    units = _units(ds, v)
    extremes = visible_extremes(survey, v)
    if "lat" not in {role(d) for d in ds[v].dims}:
        yield 'kind = "series"'
    yield f"units = {toml_value(units or 'unknown')}" + ("" if units else f"  {TO_DO}the store states none")
    spellings = _spellings(units) if units else []
    if spellings:
        yield f"spellings = {toml_value(spellings)}"
    low, high = extremes or (-1.0, 1.0)
    span, largest = widened(low, high, never_below_zero=low >= 0)
    yield (
        f"# Seen: {low:.6g} .. {high:.6g}; widened by half of what lies between."
        if extremes
        else (f"{TO_DO}nothing of it is visible in the store: say what it may be.")
    )
    yield f"range = {toml_value(list(span))}"
    yield f"largest = {toml_value(list(largest))}"
    what = " ".join(str(attributes.get("long_name", known.get("long_name", ""))).split())
    yield f"what = {toml_value(what or v)}" + ("" if what else f"  {TO_DO}what it is, in a sentence")
    for key, default in (("standard_name", ""), ("cell_methods", MEAN)):
        stated = attributes.get(key)
        if isinstance(stated, str) and stated.strip() not in ("", known.get(key, default)):
            yield f"{key} = {toml_value(stated.strip())}"
    if is_target and low >= 0 and not known and extremes:
        yield "# bounds = { lower = 0.0 }  # where it cannot be negative: predictions are then clipped"


def widened(low: float, high: float, never_below_zero: bool) -> tuple[tuple[float, float], tuple[float, float]]:
    """The `range` and `largest` of a card from the smallest and the largest value seen: both have room for more.

    Args:
        low, high: The extremes.
        never_below_zero: Whether the range ends at zero rather than below it.
    """
    room = (high - low) / 2 or abs(high) / 2 or 1.0
    upper, lower, least = (
        _outward(x, up) for x, up in ((high + room, True), (low - room, False), (high - room, False))
    )
    if never_below_zero:
        lower = max(lower, 0.0)
        least = max(least, 0.0)
    return (lower, upper), (least, upper)


def _outward(value: float, up: bool) -> float:
    """A number of few digits that is not below, or not above, a value."""
    if not value:
        return 0.0
    size = 10.0 ** (np.floor(np.log10(abs(value))) - DIGITS + 1)
    # Without what rounding left behind: 5e-12 is not below 5e-12.
    digits = (np.ceil if up else np.floor)(round(value / size, 6))
    return float(f"{digits * size:.{DIGITS}g}")


def _spellings(units: str) -> list[str]:
    """Other spellings of units that the shipped cards know."""
    found = [
        s
        for name in shipped_cards()
        for q in load_card(name).quantities.values()
        if same_units(q.units, units)
        for s in (q.units, *q.spellings)
    ]
    return [s for s in dict.fromkeys(found) if s != units]


def _hidden(survey: Survey) -> Iterator[str]:
    """The table of what is hidden, with offsets from the end of each scenario."""
    found = {name: span for s, name in enumerate(survey.layout.names) if (span := _hidden_span(survey, s))}
    if not found:
        return
    yield "\n# Every target of every member is zero, or missing, in these steps: guessed to be a hidden test."
    yield "[hidden]"
    for name, (start, stop, length) in found.items():
        yield f"{_bare(name)} = " + ('"all"' if stop - start == length else toml_value([start - length, stop - length]))


def _hidden_span(survey: Survey, s: int) -> tuple[int, int, int] | None:
    """The first and last hidden step, half open, and the length of a scenario; None where all of it is visible."""
    hidden = _own_hidden(survey, s)
    places = np.flatnonzero(hidden)
    return (int(places[0]), int(places[-1]) + 1, len(hidden)) if len(places) else None


def _own_hidden(survey: Survey, s: int) -> Mask:
    """(T,) which steps of a scenario are hidden; all where it has no member."""
    hidden: Mask = survey.hidden[s, survey.held[s]]
    return hidden if survey.present[s].any() else np.ones_like(hidden)


def _protocols(survey: Survey) -> Iterator[str]:
    """A protocol that holds out the end of a scenario, and how scenarios are left out."""
    layout, time = survey.layout, survey.layout.time
    hidden = [_hidden_span(survey, s) for s in range(len(layout.names))]
    lengths = [int(survey.held[s].sum()) for s in range(len(layout.names))]
    trained = [s for s, h in enumerate(hidden) if h is None or h[1] - h[0] < h[2]]
    if not trained:
        raise StoreError(
            "every target is zero or missing",
            expected="visible steps of one scenario at least",
            hint="name the whole store",
        )
    last = trained[-1]
    # Validation ends where the visible steps of the last scenario end.
    own = hidden[last]
    stop = lengths[last] if own is None else own[0] or lengths[last]
    scored = _whole(stop // SHARE, time, MOST_YEARS)
    tested, test = last, (stop - scored, stop)
    for s, hides in enumerate(hidden):
        if hides is not None:
            tested, test = s, (max(hides[0], hides[1] - time.per_year * TEST_YEARS), hides[1])
            break
    else:
        stop -= scored
    names, unit = layout.names, "months" if time.is_monthly else "steps"

    def span(s: int, start: int, end: int) -> str:
        member = next((m for m, there in zip(layout.members, survey.present[s], strict=True) if there), 0)
        place = f"member = {member}, {unit} = {toml_value([start - lengths[s], end - lengths[s]])}"
        return f"[{{ scenario = {toml_value(names[s])}, {place} }}]"

    yield f"\n# Guessed: {unit} are counted from the end of a scenario. Nothing of validation and test is trained on."
    yield f"[protocols.{PROTOCOL}]"
    yield f"train = {toml_value([names[s] for s in trained])}"
    yield f"validation = {span(last, stop - scored, stop)}"
    yield f"test = {span(tested, *test)}"
    shortest = min(lengths[s] for s in trained)
    yield f"\n# Guessed: how many {unit} are held out where a whole scenario is left out."
    yield "[loso]"
    yield f"validation_{unit} = {min(scored, _whole(shortest // SHARE, time, MOST_YEARS))}"
    yield f"test_{unit} = {_whole(shortest // 2, time, TEST_YEARS)}"


def _whole(steps: int, time: TimeAxis, years: int) -> int:
    """Some steps, but whole years of them where they are as many, and not more than some years."""
    whole = min(steps // time.per_year, years) * time.per_year
    return whole or max(steps, 1)


def _bare(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)
