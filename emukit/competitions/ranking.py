"""The leaderboard: what stands next to what, on which months, and what others published.

Invariant: scores of different months never share a ranking. Rows are grouped by split and set, and what is ranked
together was scored on the same months of the same truth. No published result is without a source and the span it was
scored on, and a score that stands next to its numbers agrees with them.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from emukit.data.card import load_card
from emukit.errors import RecipeError
from emukit.files import read_text, shipped
from emukit.metrics.competition import Competition
from emukit.terminal import csv_table, markdown_table, markdown_text, terminal_table

LINES = ("reference", "limit")
# With more numbers than the score and seven metrics a table is wider than a terminal.
MOST_COLUMNS = 8
# What names are left of a narrow terminal: enough for most words to stay whole.
NAME_WIDTH = 24
NOT_SCORED = "without a score there is no place: submit the CSV, or emukit score CSV --save where the truth is"
# What another run of the climate model scores in the place of a prediction, and what a perfect emulator would.
ANOTHER_RUN, LIMIT = "reference: another run", "noise ceiling"
# Of the column that stands next to the score where it is known: the score holds the weather of one member.
OVER_MEMBERS = "mean ± sd over members"
Format = Literal["table", "md", "csv", "json"]
_Text = Annotated[str, Field(min_length=1)]
_Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Row:
    """One line of the leaderboard.

    Attributes:
        name: Of the run, submission or publication.
        kind: ``run`` or ``submission`` of one's own; ``published`` by a team of the competition; ``measured``, a plain
            regression scored elsewhere; ``reference`` and ``limit``, lines to compare with that take no place: what
            another run of the climate model, the climatology or a plain regression scores on the same months, and
            what a perfect emulator would.
        split: What was scored: rows are ranked only next to rows of the same split.
        score: None where a publication gave none on these months.
        numbers: By key of the competition's metrics; fewer where a publication gave fewer.
        seed: Of the training, where there is one.
        parameters: Of a network, where known.
        note: Source of a published number, or what to know.
        model: What was trained, of a run or a submission.
        random: Whether another seed would give another score.
        remark: What to know of its training, next to its name.
        members: Scores with each member of these months as truth, in the place of the one that the split names; empty
            where they are not known.
        competition: Which score it is.
    """

    name: str
    kind: Literal["run", "submission", "published", "measured", "reference", "limit"]
    split: str
    score: float | None
    numbers: dict[str, float]
    seed: int | None = None
    parameters: int | None = None
    note: str = ""
    model: str = ""
    random: bool = True
    remark: str = ""
    members: tuple[float, ...] = ()
    competition: Competition = field(kw_only=True)

    @property
    def key(self) -> tuple[str, str, str, int | None, float | None]:
        """What tells one line of the leaderboard from another."""
        return self.split, self.name, self.kind, self.seed, self.score

    @property
    def over_members(self) -> tuple[float, float] | None:
        """Mean over members as truth, and sample standard deviation over them; None of fewer than two."""
        return (fmean(self.members), stdev(self.members)) if len(self.members) > 1 else None

    @property
    def over_members_text(self) -> str:
        """The same for people; empty where it is not known."""
        return "" if self.over_members is None else "{:.4f} ± {:.4f}".format(*self.over_members)

    @property
    def order(self) -> tuple[bool, float]:
        """Sorts rows of one split, the best first and those without a score last."""
        return self.score is None, self.competition.cost(self.score or 0.0)

    def values(self) -> dict[str, float | None]:
        """The score and all numbers by key, None where there is none."""
        return {"score": self.score, **{key: self.numbers.get(key) for key in self.competition.keys}}


def ranked(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by split, best first; splits with scored runs or submissions first, those with unscored ones next."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.split, []).append(row)
    own = {s for s, g in groups.items() if any(r.kind in ("run", "submission") for r in g)}
    scored = {s for s in own if any(r.kind in ("run", "submission") and r.score is not None for r in groups[s])}
    order = sorted(groups, key=lambda s: (s not in scored, s not in own, s))
    return {s: sorted(groups[s], key=lambda r: r.order) for s in order}


def tables(rows: Sequence[Row], width: int) -> list[RenderableType]:
    """One rich table a split, with what is not in it below.

    Args:
        rows: All that are shown.
        width: Columns of the terminal.
    """
    out: list[RenderableType] = []
    explained: list[Competition] = []
    for split, group in ranked(rows).items():
        # A title of the table's own would be folded to its width.
        out.append(Text(split, style="bold"))
        table = terminal_table()
        labels, numbers = [_terminal_label(row) for row in group], [_cells(row) for row in group]
        table.add_column("#", justify="right")
        table.add_column("entry", overflow="fold", ratio=1)
        # Months on which nothing was scored yet have no numbers.
        shown, taken = 0, 1 + len(str(len(group)))
        several = any(row.over_members for row in group)
        if several:
            taken += 1 + max(len(row.over_members_text) for row in group)
        if any(map(any, numbers)):
            shown = add_number_columns(table, group[0].competition, labels, numbers, width - taken)
        if several:
            table.add_column("mean ±\nsd over\nmembers", justify="right", no_wrap=True)
        for (place, row), label, cells in zip(places(group), labels, numbers, strict=True):
            # Text, not markup: a run's name may hold brackets.
            style = "dim" if row.kind in LINES else "cyan" if row.kind in ("published", "measured") else ""
            table.add_row(
                *(Text(c) for c in (place, label, *cells[:shown], *[row.over_members_text] * several)), style=style
            )
        out.append(table)
        if any(row.kind == "submission" and row.score is None for row in group):
            out.append(Text(NOT_SCORED, style="dim"))
        if any(row.note for row in group):
            out.append(Text("sources and caveats of the rows: --format md", style="dim"))
        if shown:
            out += left_out(group[0].competition, shown)
            explained.append(group[0].competition)
        out.append(Text())
    return out + legends(explained)


def legends(competitions: Iterable[Competition]) -> list[RenderableType]:
    """What the headings of tables mean, a line for each competition."""
    texts = dict.fromkeys(competition.legend for competition in competitions if competition.legend)
    return [Text(text, style="dim") for text in texts]


def add_number_columns(
    table: Table, competition: Competition, labels: Iterable[str], numbers: Iterable[Sequence[str]], width: int
) -> int:
    """Add the columns of the score and the metrics: what each is, how it is measured, and its unit.

    Of a competition with many metrics that is the score alone, and in a narrow terminal as many as leave names room.

    Args:
        table: One for a terminal, which has lines for these but no width.
        competition: Whose numbers they are.
        labels: What the rows are called.
        numbers: Of each row, the texts in the order of the competition's columns.
        width: Columns of the terminal that names and numbers share.

    Returns:
        How many columns were added.
    """
    columns = competition.columns if len(competition.columns) <= MOST_COLUMNS else competition.columns[:1]
    numbers = list(numbers)
    # The box takes a column on either side.
    room = width - 2 - min(NAME_WIDTH, max(map(len, labels), default=0))
    for i, column in enumerate(columns):
        lines = [line for line in (*column.heading.split(), column.measure, column.units) if line]
        room -= 1 + max(len(text) for text in (*lines, *(row[i] for row in numbers)))
        if i and room < 0:
            return i
        table.add_column("\n".join(lines), justify="right", no_wrap=True)
    return len(columns)


def left_out(competition: Competition, shown: int) -> list[RenderableType]:
    """A line on the numbers that a table has no column for."""
    hidden = competition.columns[shown:]
    if not hidden:
        return []
    what = f"the {len(hidden)} numbers of each score" if shown == 1 else ", ".join(c.title for c in hidden)
    wider = "" if len(competition.columns) > MOST_COLUMNS else "in a wider terminal, or "
    return [Text(f"{what}: {wider}with --format csv", style="dim")]


def markdown(rows: Sequence[Row]) -> str:
    """One Markdown table a split."""
    lines = []
    for split, group in ranked(rows).items():
        headings = [markdown_text(column.full_heading) for column in group[0].competition.columns]
        several = any(row.over_members for row in group)
        headings += [OVER_MEMBERS] * several
        cells = (
            (place, _label(row), row.kind, *_cells(row), *[row.over_members_text] * several, row.note)
            for place, row in places(group)
        )
        shown = (list(map(markdown_text, line)) for line in cells)
        right = (0, *range(3, 3 + len(headings)))
        table = markdown_table(["#", "entry", "kind", *headings, "note"], shown, right)
        lines += [f"### {markdown_text(split)}", "", *table, ""]
    return "\n".join(lines)


def to_csv(rows: Sequence[Row]) -> str:
    """One CSV table of all rows, the split as a column."""
    keys = all_keys(row.competition for row in rows)
    last = ("seed", "parameters", "note", "model", "remark", "members_mean", "members_sd")
    lines = (
        (
            *(split, r.name, r.kind, r.score, *map(r.numbers.get, keys)),
            *(r.seed, r.parameters, r.note, r.model, r.remark, *(r.over_members or (None, None))),
        )
        for split, group in ranked(rows).items()
        for r in group
    )
    return csv_table(["split", "name", "kind", "score", *keys, *last], lines)


def as_json(rows: Sequence[Row]) -> str:
    """All rows in ranking order."""
    names = [f.name for f in fields(Row) if f.name != "competition"]
    plain = [
        {name: getattr(r, name) for name in names} | {"competition": r.competition.name}
        for group in ranked(rows).values()
        for r in group
    ]
    return json.dumps(plain, indent=1)


def all_keys(competitions: Iterable[Competition]) -> list[str]:
    """Keys of the metrics of several competitions, each once."""
    return list(dict.fromkeys(key for competition in competitions for key in competition.keys))


def places(group: Sequence[Row]) -> list[tuple[str, Row]]:
    """Rows with their places; references and limits are lines to compare with, not competitors: they take none."""
    out, place = [], 0
    for row in group:
        ranks = row.kind not in LINES and row.score is not None
        place += ranks
        out.append((str(place) if ranks else "", row))
    return out


def _label(row: Row) -> str:
    words = [row.model] if row.model else []
    words += [f"seed {row.seed}"] if row.seed is not None and row.random else []
    words += [row.remark] if row.remark else []
    return f"{row.name} ({', '.join(words)})" if words else row.name


def _terminal_label(row: Row) -> str:
    # A terminal has no room for a column of its own.
    kind = "" if row.kind in ("run", "submission", "limit") else f"{row.kind}: "
    why = f" ({row.note.partition(';')[0]})" if row.score is None else ""
    return f"{kind}{_label(row)}{why}"


def _cells(row: Row) -> list[str]:
    return [column.text(value) for column, value in zip(row.competition.columns, row.values().values(), strict=True)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class PublishedResult(_Strict):
    """One row of the published table.

    Attributes:
        kind: An entry of the competition, another run of the climate model, or a plain regression.
        name: The model in a few words.
        place: Its place in the competition.
        parameters: Its number of weights, as far as its source rounds them.
        protocol: The split it was scored on ..
        part: .. which part of it ..
        months: .. and how many months that is.
        score: The official score on that span.
        computed: The score was computed from the numbers, not published.
        leaderboard: What the competition's private leaderboard said, as a text: it may be a range.
        groups: Numbers as the file has them, a table for each group of the competition's metrics, such as ``tas``.
        source: Where all this comes from.
        note: What must be known to compare it.
    """

    kind: Literal["competition", "reference", "measured"]
    name: _Text
    place: _Text | None = None
    parameters: Annotated[int, Field(gt=0)] | None = None
    protocol: _Text
    part: Literal["validation", "test"]
    months: Annotated[int, Field(gt=0)]
    score: _Number | None = None
    computed: bool = False
    leaderboard: _Text | None = None
    groups: dict[str, dict[str, Annotated[float, Field(allow_inf_nan=False)]]] = {}
    source: _Text
    note: str = ""

    @property
    def split(self) -> str:
        """What it was scored on, in words: results of different splits do not compare."""
        return f"{self.protocol} {self.part}, {self.months} months"

    @property
    def numbers(self) -> dict[str, float]:
        """Numbers by key of their metrics; empty where they are not known."""
        return {f"{group}.{name}": value for group, own in self.groups.items() for name, value in own.items()}

    @model_validator(mode="before")
    @classmethod
    def _gather(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        groups = {k: v for k, v in values.items() if isinstance(v, dict) and k not in cls.model_fields}
        return {k: v for k, v in values.items() if k not in groups} | ({"groups": groups} if groups else {})

    @field_validator("protocol")
    @classmethod
    def _is_protocol(cls, name: str, info: ValidationInfo) -> str:
        known = [*load_card(_competition(info)[1]).protocols]
        if name not in known:
            raise ValueError(f"none of {', '.join(known)}")
        return name

    @model_validator(mode="after")
    def _agrees(self, info: ValidationInfo) -> Self:
        competition, _ = _competition(info)
        if unknown := [key for key in self.numbers if key not in competition.keys]:
            raise ValueError(f"no numbers of {competition.name}: {', '.join(unknown)}")
        missing = [key for key in competition.weights if key not in self.numbers]
        if self.numbers and missing:
            raise ValueError(f"numbers belong together: without {', '.join(missing)}")
        if self.computed and not (self.numbers and self.score is not None):
            raise ValueError("a computed score needs its numbers")
        if self.score is None and self.leaderboard is None:
            raise ValueError("there is neither a score nor a leaderboard number")
        if self.numbers and self.score is not None:
            value = competition.value(self.numbers)
            # Numbers of three decimals give a score to half a thousandth times the sum of the weights, and its own.
            if abs(value - self.score) > 0.0005 * (1 + sum(map(abs, competition.weights.values()))):
                raise ValueError(f"the numbers give {value:.4f}, not {self.score}")
        return self


def _competition(info: ValidationInfo) -> tuple[Competition, str]:
    context: dict[str, Any] = info.context or {}
    return context["competition"], context["card"]


class _Table(_Strict):
    result: list[PublishedResult]


def load_published(competition: Competition, path: Path | str | None = None) -> list[PublishedResult]:
    """Read published results, in the file's order; none of a competition without any.

    Args:
        competition: Whose.
        path: A file of the same form; emukit's own by default.

    Raises:
        RecipeError: The file cannot be read, or rows are wrong; all mistakes are listed.
    """
    table = competition.published
    if table is None:
        return []
    path = Path(path) if path is not None else shipped("baselines", table.file)
    context = {"competition": competition, "card": table.card}
    try:
        return _Table.model_validate(tomllib.loads(read_text(path)), context=context).result
    except OSError as e:
        raise RecipeError(f"cannot read {path}", found=e.strerror or str(e)) from e
    except ValidationError as e:
        found = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in e.errors())
        raise RecipeError(f"{path} holds wrong results", found=found, hint="fix these keys") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path} is not TOML", found=str(e)) from e
