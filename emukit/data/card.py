"""Data cards: what a data set is, in one checked file.

Invariant: whatever is particular to one data set (names, units, plausible values, splits, oddities) stands in its card
and nowhere in the code; a card with any mistake is refused whole, every mistake listed with its dotted path.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from emukit.config import parse_toml
from emukit.data.time import in_words, step_problem
from emukit.data.variable import CardTable, Pair, Role, Variable, as_tuple
from emukit.errors import EmukitError, StoreError
from emukit.files import read_text, shipped
from emukit.registry import Entry, Registry

if TYPE_CHECKING:
    import xarray as xr

ATTRIBUTE = "emukit_card"
# The competition of a card that names none, which scores fields as they are.
GENERIC = "generic"
DIGESTS_ATTRIBUTE = "emukit_published"

Whole = Annotated[tuple[int, int], BeforeValidator(as_tuple)]
Offsets = Whole


class _Counted(CardTable):
    """A part that counts steps of the time axis: of months under `months` or `steps`, of all others under `steps`."""

    @model_serializer(mode="wrap")
    def _only_what_is_said(self, plain: SerializerFunctionWrapHandler) -> dict[str, object]:
        # What cards said before there were steps is still all that is said of them: their digests hold.
        return {k: v for k, v in plain(self).items() if v is not None}


class SpanSpec(_Counted):
    """Steps held out of training: offsets from the scenario's end, half open, 0 = the end.

    Attributes:
        scenario: Whose steps.
        member: The member that is scored.
        months: First and last offset of a card of months, such as ``[-120, 0]``; either this or `steps`.
        steps: The same in steps of any time axis.
    """

    scenario: str
    member: int = 0
    months: Offsets | None = None
    steps: Offsets | None = None

    @model_validator(mode="after")
    def _before_end(self) -> SpanSpec:
        if (self.months is None) == (self.steps is None):
            raise ValueError("needs months = [start, stop], or steps = [start, stop] of another time axis")
        if not self.offsets[0] < self.offsets[1] <= 0:
            name = "steps" if self.months is None else "months"
            raise ValueError(f"{name} must be [start, stop] with start < stop <= 0, not {self.offsets}")
        return self

    @property
    def offsets(self) -> Offsets:
        """[start, stop) in steps of the time axis, counted from the end."""
        return self.months or self.steps or (0, 0)


class CardProtocol(CardTable):
    """A named split. Training is every visible month of `train` that is not held out here.

    Attributes:
        train: The scenarios that train.
        validation: What selects epochs, settings and recipes.
        test: What is predicted for the submission; it selects nothing.
    """

    train: list[str]
    validation: list[SpanSpec]
    test: list[SpanSpec]


class Loso(_Counted):
    """Leave one scenario out: steps validated in the others, and tested in the one left out.

    Attributes:
        validation_months: Months validated at the end of each scenario that trains; either this or `validation_steps`.
        test_months: Months tested at the end of the scenario left out; either this or `test_steps`.
        validation_steps: As `validation_months`, in steps of any time axis.
        test_steps: As `test_months`, in steps of any time axis.
    """

    validation_months: Annotated[int, Field(gt=0)] | None = None
    test_months: Annotated[int, Field(gt=0)] | None = None
    validation_steps: Annotated[int, Field(gt=0)] | None = None
    test_steps: Annotated[int, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _each_once(self) -> Loso:
        for name in ("validation", "test"):
            if (getattr(self, f"{name}_months") is None) == (getattr(self, f"{name}_steps") is None):
                raise ValueError(f"needs {name}_months, or {name}_steps of another time axis")
        return self

    @property
    def validation(self) -> int:
        """Steps validated at the end of each scenario that trains."""
        return self.validation_months or self.validation_steps or 0

    @property
    def test(self) -> int:
        """Steps tested at the end of the scenario left out."""
        return self.test_months or self.test_steps or 0


class DailyFiles(CardTable):
    """Of data that come as a folder of daily files: how they are named, and what they hold next to fields.

    Attributes:
        cells: (Y, X).
        train: Patterns of the names of files with targets; a file says itself which scenario it holds.
        forcings_only: Patterns of the names of files of scenarios whose targets are hidden.
        year_axis: The dimension of forcings with a value a year.
        month_axis: The dimension of forcings with a value a month.
        missing_days: Days missing at the end of a scenario's last year.
        base_period: First and last year of the percentiles of indices.
        carried: Targets that no score uses.
    """

    cells: Whole
    train: Annotated[list[str], Field(min_length=1)]
    forcings_only: list[str] = Field(default_factory=list)
    year_axis: str = "time_year"
    month_axis: str = "time_month"
    missing_days: Annotated[int, Field(ge=0, lt=365)] = 0
    base_period: Whole
    carried: list[str] = Field(default_factory=list)


class Digests(CardTable):
    """One variable of a published copy: the type it is stored in, and scenario to SHA-256 of its values.

    The values are those of one scenario in the order time, member, y, x (time, y, x of a forcing field; time of a
    series), little-endian, latitude and longitude ascending from 0 E.

    Attributes:
        dtype: How the values are stored: 4 or 8 bytes.
        scenarios: Scenario to the digest.
    """

    dtype: Literal["<f4", "<f8"]
    scenarios: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{64}$")]]


class Published(CardTable):
    """What the published copy of a data set holds.

    Attributes:
        first_month: The first step, such as ``2015-01``.
        months: How many steps there are.
        members: Numbers of the members, in the order of the store.
        latitudes: First and last cell centre of the targets, degrees north, ascending and evenly spaced.
        longitudes: The same, degrees east.
        cells: Number of latitudes and longitudes of the targets.
        digests: Variable to the digests of its values.
    """

    first_month: str
    months: int
    members: list[int]
    latitudes: Pair
    longitudes: Pair
    cells: Whole
    digests: dict[str, Digests]

    def toml(self) -> Iterator[str]:
        """The lines of a card's ``[published]`` table."""
        yield "[published]"
        for name, value in self.model_dump(mode="json", exclude={"digests"}).items():
            yield f"{name} = {json.dumps(value)}"
        for variable, of in self.digests.items():
            yield f'\n[published.digests.{json.dumps(variable)}]\ndtype = "{of.dtype}"'
            yield f"\n[published.digests.{json.dumps(variable)}.scenarios]"
            yield from (f'{json.dumps(s)} = "{digest}"' for s, digest in of.scenarios.items())


class Card(CardTable):
    """A data set's card.

    Attributes:
        name: By which `--card` and records name it.
        title: What the data set is, for people.
        source: Where the data come from: model, members, processing.
        licence: Under which terms they may be used.
        url: Where to get them.
        scenarios: Names of the scenarios, in the order of the store.
        targets: What is predicted, by the names of the variables in the store.
        forcings: What drives it, likewise; none of a sequence of states that follow from each other.
        default_protocol: The protocol that commands use without `--protocol`.
        protocols: The splits, by name.
        loso: How a scenario is left out, under the protocols ``loso:SCENARIO``.
        benchmark: Scores on stores of one benchmark stand in one ranking, if their values are the published ones.
        competition: What scores predictions: ``cse151b``, ``climx``, ``generic``, or one of an installed package.
        by_layout: Whether a store that does not name its card may be recognised as this one.
        time: The step of the time axis: ``month``, ``day``, ``year``, or hours that divide a day (``6h``). All spans of
            the card count these steps.
        hidden: Scenario to the steps that may be hidden by zeros: offsets from its end, or ``all``.
        oddities: What a user should know before trusting the data, one sentence each.
        daily: Where and what the files are, for data that come as a folder of daily files; without it they are one
            store.
        published: The values by which a store is known to hold this data set, not another of its layout. Without it
            only the layout is known.
    """

    name: str
    title: str
    source: str
    licence: str
    url: str = ""
    benchmark: str = ""
    # Excluded from dumps: digests of cards are older than it. `emukit.runs.record.card_digest` adds it.
    competition: str = Field(GENERIC, exclude=True)
    by_layout: bool = True
    time: str = "month"
    scenarios: Annotated[list[str], Field(min_length=1)]
    targets: Annotated[dict[str, Variable], Field(min_length=1)]
    forcings: dict[str, Variable] = Field(default_factory=dict)
    hidden: dict[str, Offsets | Literal["all"]] = Field(default_factory=dict)
    default_protocol: str
    protocols: Annotated[dict[str, CardProtocol], Field(min_length=1)]
    loso: Loso
    oddities: list[str] = Field(default_factory=list)
    # Excluded from dumps as `physics` is: they decide which data this is, not what is done with them.
    daily: DailyFiles | None = Field(None, exclude=True)
    published: Published | None = Field(None, exclude=True)

    @field_validator("time")
    @classmethod
    def _known_step(cls, step: str) -> str:
        if problem := step_problem(step):
            raise ValueError(problem)
        return step

    @model_serializer(mode="wrap")
    def _time_where_it_matters(self, plain: SerializerFunctionWrapHandler) -> dict[str, object]:
        # Cards of months are what they were before there was another step.
        return {k: v for k, v in plain(self).items() if k != "time" or v != "month"}

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: object) -> object:
        if not isinstance(values, Mapping):
            return values
        return {**values, **{k: _with_names(values[k]) for k in ("targets", "forcings") if k in values}}

    @model_validator(mode="after")
    def _consistent(self) -> Card:
        wrong = []
        if self.default_protocol not in self.protocols:
            wrong.append(f"default_protocol: {self.default_protocol} is none of {', '.join(self.protocols)}")
        for name, protocol in self.protocols.items():
            held = [h.scenario for h in (*protocol.validation, *protocol.test)]
            wrong += [
                f"protocols.{name}: scenario {s} is none of {', '.join(self.scenarios)}"
                for s in dict.fromkeys([*protocol.train, *held])
                if s not in self.scenarios
            ]
        wrong += [f"hidden.{s}: no such scenario" for s in self.hidden if s not in self.scenarios]
        wrong += [
            f"hidden.{s}: must be 'all' or [start, stop] with start < stop <= 0, not {o}"
            for s, o in self.hidden.items()
            if o != "all" and not o[0] < o[1] <= 0
        ]
        wrong += [f"targets.{v}.kind: targets are fields" for v, q in self.targets.items() if q.kind != "field"]
        wrong += [f"{v}.name: {q.name} is not its key" for v, q in self.quantities.items() if q.name != v]
        wrong += [f"forcings.{v}: also a target" for v in self.forcings if v in self.targets]
        wrong += self._other_steps()
        if self.daily is not None:
            wrong += [] if self.time == "day" else [f"time: {self.time}, where files are daily"]
            wrong += [f"daily.carried: {v} is not a target" for v in self.daily.carried if v not in self.targets]
        if wrong:
            raise ValueError("; ".join(wrong))
        return self

    def _other_steps(self) -> list[str]:
        """Spans in months where the time axis has other steps."""
        if self.time == "month":
            return []
        spans: dict[str, object] = {
            f"protocols.{name}.{kind}.{i}.months": span.months
            for name, protocol in self.protocols.items()
            for kind, of in (("validation", protocol.validation), ("test", protocol.test))
            for i, span in enumerate(of)
        }
        spans |= {"loso.validation_months": self.loso.validation_months, "loso.test_months": self.loso.test_months}
        return [
            f"{place}: this card counts {in_words(self.time)}, so write "
            + place.rpartition(".")[2].replace("month", "step")
            for place, said in spans.items()
            if said is not None
        ]

    @property
    def deciding(self) -> str:
        """What decides numbers, except for the competition, as JSON: that of two cards is equal if runs under them are.

        What a variable says that would hold without it is left out.
        """
        told = {k: {n: v.implied() for n, v in getattr(self, k).items()} for k in ("targets", "forcings")}
        return self.model_dump_json(exclude=told)

    def position(self, role: Role, variables: Sequence[str]) -> int | None:
        """Where the first variable of a role is among some targets; None where there is none."""
        return next((i for i, v in enumerate(variables) if self.targets[v].role == role), None)

    @property
    def quantities(self) -> Mapping[str, Variable]:
        """Targets and forcings by name."""
        return {**self.targets, **self.forcings}

    def may_hide(self, scenario: str, steps: int) -> slice:
        """The steps of a scenario of so many steps that may be hidden; a shorter scenario has the last of them."""
        declared = self.hidden.get(scenario, (0, 0))
        start, stop = (-steps, 0) if declared == "all" else declared
        return slice(max(steps + start, 0), max(steps + stop, 0))


def _with_names(tables: object) -> object:
    """Tables of variables, each with its key as its name."""
    if not isinstance(tables, Mapping):
        return tables
    return {k: {"name": k, **table} if isinstance(table, dict) else table for k, table in tables.items()}


def parse_card(settings: Mapping[str, object], origin: str) -> Card:
    """Check settings as a card.

    Raises:
        StoreError: Every mistake, with its dotted path.
    """
    try:
        return Card.model_validate(dict(settings))
    except ValidationError as e:
        mistakes = [f"{'.'.join(map(str, m['loc'])) or 'card'}: {m['msg']}" for m in e.errors()]
        raise StoreError(
            f"the data card {origin} has {len(mistakes)} mistake{'s' * (len(mistakes) > 1)}",
            found="\n            ".join(mistakes),
            hint="fix the card; the shipped cards show the form",
        ) from e


# Cards of installed packages; emukit's own lie in ``data_cards/``, and win where a name is both.
CARDS: Registry[Entry] = Registry(
    "data card",
    "emukit.cards",
    {},
    entry=Entry,
    accepts=lambda found: isinstance(found, str | Path | Mapping),
    expected="the path of a TOML file, or its values",
    error=StoreError,
)


@cache
def shipped_cards() -> tuple[str, ...]:
    """The names of emukit's own cards: every file in ``data_cards/``."""
    return tuple(sorted(p.stem for p in shipped("data_cards", ".").glob("*.toml")))


def card_names() -> tuple[str, ...]:
    """emukit's own cards, then those of installed packages."""
    return tuple(dict.fromkeys((*shipped_cards(), *CARDS)))


def load_card(name_or_path: str | Path) -> Card:
    """A card of emukit or of an installed package by its name, or any card by the path of its TOML file.

    Raises:
        StoreError: There is no such card, or it has mistakes (all of them listed).
    """
    text = str(name_or_path)
    if not text.endswith(".toml") and text not in shipped_cards() and text in CARDS.plugins:
        found = CARDS.load(text)
        if isinstance(found, Mapping):
            return parse_card(found, CARDS.find(text).origin)
        path = Path(found)
    else:
        path = Path(text) if text.endswith(".toml") else _shipped_path(text)
    try:
        # A copy: the tables of a card can be changed, and the one that is kept is for all.
        return _card_of(read_text(path), str(path)).model_copy(deep=True)
    except OSError as e:
        raise StoreError(
            f"cannot read the data card {path}",
            found=e.strerror or str(e),
            expected=f"one of {', '.join(card_names())}, or the path of a .toml file",
            hint="check the path: name the card with --card PATH",
        ) from e
    except ValueError as e:
        raise StoreError(f"the data card {path} is not TOML", found=str(e), hint="fix the line named above") from e


# To open a store, all of emukit's cards are asked for twice; the digests in them are long.
@lru_cache(maxsize=32)
def _card_of(text: str, origin: str) -> Card:
    return parse_card(parse_toml(text), origin)


def _shipped_path(name: str) -> Path:
    if name not in shipped_cards():
        raise StoreError(
            f"there is no data card {name}",
            expected=f"one of {', '.join(card_names())}, or the path of a .toml file",
            hint="choose one with --card",
        )
    try:
        return shipped("data_cards", f"{name}.toml")
    except EmukitError as e:
        raise StoreError(e.what, found=e.found, expected=e.expected, hint=e.hint) from e


def identify_card(ds: xr.Dataset) -> Card:
    """The card whose layout a store has: the one it names in its attribute `emukit_card`, else the one that fits.

    Cards of one layout differ in what they hide: of those whose hidden months are in the store and all zero, the one
    that hides most of it is taken. Whether the values are those of the card's data set is another question, which
    `emukit.data.published_copy` answers.

    Raises:
        StoreError: No card fits.
    """
    if ATTRIBUTE in ds.attrs:
        return load_card(str(ds.attrs[ATTRIBUTE]))
    cards: list[Card] = []
    # Those of other packages are looked at where none of emukit's fits.
    for names in (shipped_cards(), CARDS.plugins):
        cards += [c for c in map(load_card, names) if c.by_layout and c not in cards]
        scenarios = set(_scenarios(ds, cards))
        fitting = [c for c in cards if scenarios <= set(c.scenarios) and sum(v in ds for v in c.quantities) > 1]
        if fitting:
            return max(fitting, key=lambda c: _hidden_months(ds, c))
    raise StoreError(
        "no data card fits the store",
        found=f"variables {', '.join(map(str, ds.data_vars)) or 'none'}; "
        f"scenarios {', '.join(sorted(scenarios)) or 'none'}",
        expected="; ".join(f"{c.name}: {', '.join(c.quantities)}" for c in cards),
        hint="name the card with --card NAME or --card FILE.toml",
    )


def _scenarios(ds: xr.Dataset, cards: Iterable[Card]) -> list[str]:
    dim = next((d for d in ("ssp", "scenario") if d in ds.coords), None)
    if dim is None:
        return []
    written = [text_of(v) for v in np.atleast_1d(ds[dim].values).ravel().tolist()]
    return list(scenario_names(written, [s for c in cards for s in c.scenarios]))


def text_of(value: object) -> str:
    """A name as text: NumPy and HDF5 tools write names as bytes of one length."""
    text = value.decode("utf-8", errors="backslashreplace") if isinstance(value, bytes) else str(value)
    return text.strip()


def scenario_names(written: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    """Scenario names in the spelling of a card: ``SSP126`` and ``ssp1-2.6`` are ``ssp126``; others stay as they are."""
    spelled = {_letters(name): name for name in known}
    return tuple(spelled.get(_letters(name), name) for name in written)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _hidden_months(ds: xr.Dataset, card: Card) -> int:
    """How many of the months that a card hides are hidden in the store; -1 where one of them is visible."""
    # Heavy, and not needed to read a card.
    from emukit.data.chunk_files import READ_ERRORS

    # One member's first and last month of each hidden span tell the cards apart, and cost a chunk each. Of a scenario
    # that may be hidden as a whole the last month is enough: copies differ in how much of it they hide.
    target = next((ds[v] for v in card.targets if v in ds), None)
    names = _scenarios(ds, [card])
    if target is None or "time" not in target.dims or not target.size:
        return 0
    one: dict[str, int] = {d: 0 for d in ("member_id", "member") if d in target.dims}
    count = 0
    for scenario, declared in card.hidden.items():
        span = card.may_hide(scenario, ds.sizes["time"])
        if scenario not in names or span.start == span.stop:
            continue
        at: dict[str, int] = {d: names.index(scenario) for d in ("ssp", "scenario") if d in target.dims}
        whole = declared == "all" or -declared[0] > ds.sizes["time"]
        months = [span.stop - 1] if whole else [span.start, span.stop - 1]
        try:
            if target.isel({"time": months, **at, **one}).values.any():
                return -1
        except READ_ERRORS:  # a broken chunk hides nothing; loading names it
            return -1
        count += span.stop - span.start
    return count
