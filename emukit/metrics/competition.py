"""What a prediction is scored by: metrics, and the competition that makes one score of them.

Invariant: every number is a function of `Moments` and area weights alone, so it can be computed from any choice of
months and on any number of processes. A score is linear in the numbers: the mean of scores is the score of the means.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.metrics.limit import Ceiling, Total, ceilings_of
from emukit.metrics.moments import Field, Moments, Term

Better = Literal["lower", "higher", "neither"]
# What a file of scores says next to the groups of its numbers.
RESERVED = ("score", "months", "set", "spans", "floors", "limit", "members", "competition", "split", "csv_sha256")


def digits_of(values: Iterable[float | None], least: int = 3) -> int:
    """Decimals that show three digits of the largest of these values, and no fewer than `least`."""
    largest = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)
    # Below that a value is a zero with a rounding error.
    return max(least, 2 - math.floor(math.log10(largest))) if 1e-9 < largest < 0.01 else least


@dataclass(frozen=True, kw_only=True)
class Column:
    """A number as tables, pictures and pages show it.

    Attributes:
        key: ``score``, or the key of a metric such as ``tas.monthly_rmse``.
        heading: In a terminal and under a picture: ``tas month``.
        measure: How it is measured, such as RMSE.
        units: Of the number; empty where it has none.
        title: Where a line has room: ``tas monthly RMSE``.
        description: In full, for whoever meets it first.
        better: Which values are better. Of a signed number, such as a bias, neither is.
        lowest: What no value is below, such as 0 of an error; a kept value below it is damaged.
        digits: Behind the point, as it is printed.
    """

    key: str
    heading: str
    measure: str = ""
    units: str = ""
    title: str
    description: str
    better: Better = "lower"
    lowest: float = -math.inf
    digits: int = 3

    @property
    def sign(self) -> int:
        """What a value is multiplied by so that lower is better: 1, -1, or 0 where no value is better."""
        return {"lower": 1, "higher": -1, "neither": 0}[self.better]

    def cost(self, value: float) -> float:
        """What is to be small: the value, or its negative; of a number that has no better side its distance from 0."""
        return value * self.sign if self.sign else abs(value)

    @property
    def full_heading(self) -> str:
        """The title with its units."""
        return f"{self.title}, {self.units}" if self.units else self.title

    def text(self, value: float | None) -> str:
        """A value as it is printed; empty if there is no value."""
        return "" if value is None or math.isnan(value) else f"{value:.{self.digits}f}"

    def fitted(self, values: Iterable[float | None]) -> Self:
        """With decimals that show three digits of the largest of these values: kg kg-1 needs more than most units."""
        return replace(self, digits=digits_of(values, self.digits))


@dataclass(frozen=True, kw_only=True)
class Metric(Column):
    """A number of a prediction, as a function of additive sums.

    Attributes:
        variable: Whose sums it is made of: its `function` then gets fields (..., Y, X). None: of all variables of the
            competition in their order, (..., V, Y, X).
        function: From the sums and (Y, X) area weights that add up to one to the number, or to (...) numbers. NaN
            says that the number does not exist for these months.
        terms: Name to what is summed besides `Moments`: of (T, V, Y, X) predictions and truths in float64, (T, V, Y,
            X) values. The sums are `Moments.more` by these names.
        ceiling: How the number of a perfect emulator is estimated from several runs; None where that is unknown.
    """

    variable: str | None
    function: Callable[[Moments, Field], Any]
    terms: Mapping[str, Term] = field(default_factory=dict)
    ceiling: Ceiling | None = None


@dataclass(frozen=True, kw_only=True)
class SubmissionFormat:
    """The file that a competition takes.

    Attributes:
        packings: Suffixes that can be written, the default first.
        write: (path, fields (T, V, Y, X), grid, variables) to the number of rows written.
        check: (path, grid, months, variables, (R, V, Y, X) reference) to what is wrong, a `Problem` each.
        score_fields: (path, (T, V, Y, X) truth, grid) to the score.
        score_files: (path of a submission, path of a solution) to the score.
    """

    packings: tuple[str, ...]
    write: Callable[[Path, NDArray[np.floating], Grid, tuple[str, ...]], int]
    check: Callable[[Path, Grid, int, tuple[str, ...], NDArray[np.floating] | None], list[Any]]
    score_fields: Callable[[Path, NDArray[np.floating], Grid], Score]
    score_files: Callable[[Path, Path], Score]


@dataclass(frozen=True, kw_only=True)
class StoreFormat:
    """The file of a competition that wants it computed from predicted fields, which are kept with it.

    Attributes:
        packings: Suffixes that can be written, the default first.
        write: (store of predicted fields, the data, path of the file) to the number of rows written; refuses what the
            competition would refuse.
        note: What to know of a file from fields on a grid, in a sentence; empty where there is nothing. None: never.
    """

    packings: tuple[str, ...]
    write: Callable[[Path, Any, Path], int]
    note: Callable[[Grid], str] | None = None


@dataclass(frozen=True)
class Detail:
    """A further table of a prediction, as text.

    Attributes:
        headings: Of its columns.
        rows: Its lines.
        most: How many of them a terminal shows; 0: all.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    most: int = 0


@dataclass(frozen=True, kw_only=True)
class PublishedTable:
    """Where the results of others are, and what they were scored on.

    Attributes:
        file: TOML under ``baselines/``.
        card: Of the data, whose protocols say which months.
        cells: Of its grid, as the names of benchmarks have them: ``48x72``.
        last_month: Of the data: cards count held-out months from the end.
    """

    file: str
    card: str
    cells: str
    last_month: str


@dataclass(frozen=True, eq=False)
class ScoreMaps:
    """Scores of W scored variables on the map.

    Attributes:
        grid: Of `regions`, which may be finer than that of the data.
        regions: (W, Y', X') the score of the region that a cell lies in; NaN where it is in none that is scored.
        cells: (W, Y, X) the score of each cell of the data by itself; NaN where it is in no score.
    """

    grid: Grid
    regions: Field
    cells: Field


@dataclass(frozen=True, kw_only=True, eq=False)
class Competition:
    """What is scored, how, and which way is better.

    Attributes:
        name: By which cards and saved scores name it.
        title: In a few words.
        units: The variables that are scored, in the order of the metrics' sums, with their units.
        metrics: All numbers, in the order of their columns.
        weights: Key of a metric to its weight; the score is the weighted sum.
        higher_is_better: Which way the score goes.
        skip_missing: Whether a weighted metric that has no value for some months is left out, and the weights of the
            others scaled up in its place. Otherwise there is no score without it.
        description: Of the score, in a sentence.
        legend: What the short headings mean, in a line under a table.
        long_names: Variable to what it is, in words, of those that a reader may not know by their name.
        never_zero: Variables that cannot be zero in every cell: a month in which one is holds no truth.
        references: What stands next to a score: ``climatology``, ``runs`` (other members of the climate model) and
            ``linear``.
        fits: Says what is wrong with a grid, nothing where it can be scored on; None: every grid can.
        derive: Of what is scored by numbers of whole years, such as annual extremes of days: from an archive and the
            place (scenario, first step, step after the last) to a function from (T, V, Y, X) fields of these steps to
            (N, W, Y, X), the scored variables of each year. None: fields are scored as they are.
        detail: Where `derive` is, further tables of a scored span: from its N years, the (N,) global mean temperature
            of the truth, and (N, W, Y, X) prediction and truth. None: there are none.
        ensemble: Where `derive` is, how realisations are scored: from (E, N, W, Y, X) and the (N, W, Y, X) truth.
            None: they are not.
        maps: Where `derive` is, scores on the map: from (N, W, Y, X) prediction and truth. None: none are shown.
        published: Results of others; None where there are none.
        submission: Format of what is handed in; None where nothing is.
    """

    name: str
    title: str
    units: Mapping[str, str]
    metrics: tuple[Metric, ...]
    weights: Mapping[str, float]
    higher_is_better: bool = False
    skip_missing: bool = False
    description: str
    legend: str = ""
    long_names: Mapping[str, str] = field(default_factory=dict)
    never_zero: tuple[str, ...] = ()
    references: tuple[str, ...] = ("climatology", "runs", "linear")
    fits: Callable[[Grid], str] | None = None
    derive: Callable[[Any, str, int, int], Callable[[NDArray[np.floating]], NDArray[np.floating]]] | None = None
    detail: Callable[[Sequence[int], Field, Field, Field], list[Detail]] | None = None
    ensemble: Callable[[Field, Field], Detail] | None = None
    maps: Callable[[Field, Field], ScoreMaps] | None = None
    published: PublishedTable | None = None
    submission: SubmissionFormat | StoreFormat | None = None

    def __post_init__(self) -> None:
        """Refuse a competition that could not be computed, kept or read again."""
        keys = [m.key for m in self.metrics]
        wrong = [f"{k}: twice" for k in dict.fromkeys(keys) if keys.count(k) > 1]
        wrong += [f"{k}: not GROUP.NAME" for k in keys if k.count(".") != 1 or not all(k.split("."))]
        wrong += [f"{k}: its group is a word of the file" for k in keys if k.partition(".")[0] in RESERVED]
        wrong += [f"{m.key}: of {m.variable}" for m in self.metrics if m.variable not in (None, *self.units)]
        wrong += [f"{k}: a weight of no metric" for k in self.weights if k not in keys]
        wrong += [] if self.weights else ["no weights"]
        named: dict[str, Term] = {}
        for m in self.metrics:
            wrong += [f"{m.key}: another term {n}" for n, term in m.terms.items() if named.setdefault(n, term) != term]
        if wrong:
            raise ValueError(f"the competition {self.name} is wrong: {'; '.join(wrong)}")

    def __repr__(self) -> str:
        """Short: every score holds a competition, and a notebook shows scores."""
        return f"Competition({self.name!r})"

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that are scored."""
        return tuple(self.units)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The score, then the metrics."""
        better: Better = "higher" if self.higher_is_better else "lower"
        words = f"{self.description}; {better} is better"
        lowest = {m.key: m.lowest for m in self.metrics}
        # Of a sum in which something counts backwards nothing is known.
        least = 0.0 if all(w >= 0 and lowest[key] >= 0 for key, w in self.weights.items()) else -math.inf
        score = Column(
            key="score", heading="score", title="score", description=words, better=better, lowest=least, digits=4
        )
        return (score, *self.metrics)

    def columns_of(self, lines: Iterable[Mapping[str, float | None]]) -> list[Column]:
        """`columns` with the digits that a table of these lines of numbers needs."""
        lines = list(lines)
        return [c.fitted(line.get(c.key) for line in lines) for c in self.columns]

    @cached_property
    def by_key(self) -> Mapping[str, Column]:
        """`columns` by their keys."""
        return {c.key: c for c in self.columns}

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of the metrics."""
        return tuple(m.key for m in self.metrics)

    @property
    def direction(self) -> str:
        """``lower is better`` or ``higher is better``, of the score."""
        return f"{self.columns[0].better} is better"

    @cached_property
    def terms(self) -> Mapping[str, Term]:
        """What is summed besides `Moments`."""
        return {name: term for m in self.metrics for name, term in m.terms.items()}

    def cost(self, score: float) -> float:
        """A score with its sign turned where higher is better: the lowest is the best."""
        return -score if self.higher_is_better else score

    def moments(self, prediction: NDArray[np.floating], truth: NDArray[np.floating]) -> Moments:
        """The sums that the metrics need, of (T, V, Y, X) fields."""
        return Moments.of(prediction, truth, self.terms)

    def places(self, variables: Sequence[str]) -> list[int]:
        """Where the scored variables stand among some.

        Raises:
            ValueError: One is missing.
        """
        missing = [v for v in self.units if v not in variables]
        if missing:
            raise ValueError(f"{self.name} scores {', '.join(missing)}, which is not among {', '.join(variables)}")
        return [list(variables).index(v) for v in self.units]

    def numbers(self, moments: Moments, weights: NDArray[np.floating], variables: Sequence[str]) -> dict[str, Any]:
        """Every metric of some months, or (...) of each of several sets of months.

        Args:
            moments: Sums with fields of shape (..., V, Y, X).
            weights: (Y, X) area weights; any positive multiple gives the same.
            variables: Names along the V axis.
        """
        w = np.asarray(weights, np.float64) / np.sum(weights, dtype=np.float64)
        places = dict(zip(self.units, self.places(variables), strict=True))
        of = {v: moments.of_variable(i) for v, i in places.items()}
        whole = _choose(moments, [*places.values()]) if any(m.variable is None for m in self.metrics) else moments
        with np.errstate(divide="ignore", invalid="ignore"):
            return {m.key: m.function(whole if m.variable is None else of[m.variable], w) for m in self.metrics}

    def score(self, moments: Moments, weights: NDArray[np.floating], variables: Sequence[str]) -> Score:
        """Score summed months.

        Args:
            moments: Sums with fields of shape (V, Y, X), in the units of the variables.
            weights: (Y, X) area weights; any positive multiple gives the same.
            variables: Names along the V axis.

        Raises:
            ValueError: There are no months to score.
        """
        if moments.n == 0:
            raise ValueError("no months to score")
        found = {key: float(value) for key, value in self.numbers(moments, weights, variables).items()}
        assert isinstance(moments.n, int)
        return Score(self, {key: value for key, value in found.items() if not math.isnan(value)}, moments.n)

    def value(self, numbers: Mapping[str, Any]) -> Any:
        """The score that numbers make; NaN where one that it needs is missing.

        Args:
            numbers: By key, numbers or arrays of one shape; NaN where there is none.
        """
        known = {key: numbers.get(key, math.nan) for key in self.weights}
        if not self.skip_missing:
            return sum(weight * known[key] for key, weight in self.weights.items())
        found = np.array([np.asarray(value, np.float64) for value in known.values()])
        there = ~np.isnan(found)
        shares = np.array([*self.weights.values()]).reshape(-1, *[1] * (found.ndim - 1))
        total, whole = (shares * np.where(there, found, 0.0)).sum(0), (shares * there).sum(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = total / whole * shares.sum()
        return float(value) if value.ndim == 0 else value

    def limit(
        self,
        runs: Sequence[NDArray[np.floating]] | NDArray[np.floating],
        weights: Any,
        variables: Sequence[str],
        total: Total = np.asarray,
    ) -> Score | None:
        """What a perfect emulator scores against one run, as `emukit.metrics.limit` estimates it.

        Args:
            runs: M runs, at least two, each (T, V, Y, X) in physical units.
            weights: (Y, X) area weights; any positive multiple gives the same score.
            variables: Names along the V axis.
            total: As `emukit.metrics.limit.ceilings_of` takes it.

        Returns:
            The numbers that have a ceiling; None where the score needs another.

        Raises:
            ValueError: There are fewer than two runs, or no months.
        """
        places = dict(zip(self.units, self.places(variables), strict=True))
        numbers: dict[str, float] = {}
        for variable, place in places.items():
            own = [m for m in self.metrics if m.variable == variable and m.ceiling]
            means = ceilings_of(runs, weights, place, [m.ceiling for m in own if m.ceiling], total)
            numbers |= {m.key: value for m, value in zip(own, means, strict=True)}
        ordered = {key: numbers[key] for key in self.keys if key in numbers}
        score = Score(self, ordered, len(runs[0]))
        return None if math.isnan(score.value) else score

    def mean(self, scores: Sequence[Score]) -> Score:
        """Mean of each number that all scores have."""
        numbers = {
            key: sum(s.numbers[key] for s in scores) / len(scores)
            for key in self.keys
            if all(key in s.numbers for s in scores)
        }
        return Score(self, numbers, sum(s.months for s in scores))

    def flatten(self, values: Mapping[str, Any]) -> dict[str, float]:
        """The numbers of a score's plain values by key, those that are there.

        Raises:
            KeyError, TypeError, ValueError: A number that the score needs is missing, or is not a number.
        """
        found = {}
        for key in self.keys:
            group, _, name = key.partition(".")
            needed = key in self.weights and not self.skip_missing
            own = values[group] if needed else values.get(group, {})
            if needed or name in own:
                found[key] = float(own[name])
        return found


@dataclass(frozen=True)
class Score:
    """The numbers of a prediction and the score made of them.

    Attributes:
        competition: Whose score it is.
        numbers: Key of a metric to its number; metrics without a value for these months are left out.
        months: How many months they are over.
    """

    competition: Competition
    numbers: Mapping[str, float]
    months: int

    @property
    def value(self) -> float:
        """The score; `Competition.higher_is_better` says which way is better."""
        return float(self.competition.value(self.numbers))

    @property
    def cost(self) -> float:
        """The score with its sign turned where higher is better: the lowest is the best."""
        return self.competition.cost(self.value)

    def __getitem__(self, key: str) -> float:
        """A number by its key, such as ``tas.time_mean_rmse``, or the score by ``score``."""
        return self.value if key == "score" else self.numbers[key]

    def line(self) -> dict[str, float]:
        """The score and its numbers by key, as tables have them."""
        return {"score": self.value, **self.numbers}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: the numbers in groups."""
        groups: dict[str, Any] = {"score": self.value, "months": self.months}
        for key, value in self.numbers.items():
            group, _, name = key.partition(".")
            groups.setdefault(group, {})[name] = value
        return groups

    @classmethod
    def from_dict(cls, competition: Competition, values: Mapping[str, Any]) -> Score:
        """The inverse of `as_dict`.

        Raises:
            KeyError, TypeError, ValueError: A number is missing or is not a number, or they do not make the score.
        """
        score = cls(competition, competition.flatten(values), int(values["months"]))
        if score.value != values["score"]:
            raise ValueError(f"the numbers make {score.value}, not {values['score']}")
        return score


def mean_score(scores: Iterable[Score]) -> Score:
    """Mean of each number; the score, which is linear in them, is then the mean of the scores."""
    each = [*scores]
    return each[0].competition.mean(each)


def _choose(moments: Moments, places: list[int]) -> Moments:
    def take(values: Field) -> Field:
        return values[..., places, :, :]

    sums = (take(values) for values in (moments.p, moments.t, moments.pp, moments.tt, moments.ee))
    n = moments.n if isinstance(moments.n, int) else moments.n[..., None]
    return Moments(n, *sums, more={name: take(v) for name, v in moments.more.items()})
