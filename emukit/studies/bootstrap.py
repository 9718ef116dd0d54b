"""Whether two recipes differ, from a few seeds and a few years.

Invariant: what is compared is paired: the first seed with the first, the second with the second, and the same years of
the same truth. A difference is that of a variant minus the base, in the score and in each of its numbers; the
competition says which way is better. Seeds of a pair are equal, except where a variant holds several networks:
its seeds lie farther apart.

A score is uncertain for two reasons. *Seeds*: another initial draw would have given another network. *Years*: the truth
is one run of a climate model, and other years of the same climate would have had other weather. The interval here holds
both:

- Years are drawn with replacement, a whole year at a time, the same for all runs, and the scores are reckoned again.
  Whole years keep the seasonal cycle, and truth and prediction are drawn together, so a month is always compared with
  the same month. The time mean and the standard deviation over time of what was drawn are those of a period that could
  have been, with repeated years in place of others; its trend counts as scatter, in truth and prediction alike. A drawn
  period has more noise in its mean than a real one of the same length, in variant and base alike; what that moves the
  middle of the differences by is taken off, so that the interval lies about the difference that was seen. Years are
  taken to be independent: what persists from year to year makes the interval too narrow.
- Seeds: three of them have ten samples with replacement, and these scatter too little, by a third of the variance and
  the whole tail. In their place the mean over seeds is taken to scatter as Student's t of the differences seen, seed by
  seed, does. The years' part, of ten years or more, is widened likewise by the t of so many years.

The coverage on synthetic climates whose true difference is known stands in the test of this module. One seed, or one
year, says nothing of its kind; then the interval is that of the other alone, and the sentence says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.split import Span
from emukit.emulators.base import Emulator
from emukit.files import atomic_path, open_regular
from emukit.metrics import Competition, Moments
from emukit.runs.evaluate import derived_fields, scored_variables
from emukit.runs.run import Run

Array = NDArray[np.float64]

DRAWS, LEVEL = 2000, 0.95
# Draws reckoned at a time: their fields fit into a processor's cache or nearly.
_AT_ONCE = 64
# Of the draws, so that a table is reproduced.
SEED = 0
# No interval is told more finely.
MOST_DIGITS = 9


@dataclass(frozen=True)
class Difference:
    """A variant minus the base in one number.

    Attributes:
        mean: Over seeds.
        low, high: The 95 % interval; None where neither seeds nor years say anything.
        sd: Between seeds; None for a single one.
    """

    mean: float
    low: float | None
    high: float | None
    sd: float | None

    @property
    def sign(self) -> int:
        """-1 where the variant is lower, 1 where it is higher, 0 where the interval holds zero."""
        if self.low is None or self.high is None:
            return 0
        return -1 if self.high < 0 else 1 if self.low > 0 else 0


def resample_years(number: int, draws: int = DRAWS, seed: int = SEED) -> NDArray[np.int64]:
    """(1 + draws, number) how often each year counts: once each in the first, drawn with replacement in the others."""
    random = np.random.default_rng([seed, number])
    drawn = random.integers(number, size=(draws, number))
    counts = (drawn[:, :, None] == np.arange(number)).sum(1)
    return np.concatenate([np.ones((1, number), np.int64), counts])


def scores_of(
    years: Array,
    counts: NDArray[np.int64],
    weights: NDArray[np.floating],
    variables: Sequence[str],
    competition: Competition,
) -> Array:
    """The numbers of one run for every draw of years.

    Args:
        years: (N, 6, V, Y, X) packed moments of a span's years, with the further sums of the competition after them.
        counts: (D, N) how often each counts.
        weights: (Y, X) area weights.
        variables: Names along the V axis.
        competition: Whose numbers they are.

    Returns:
        (D, C): the columns of the competition, the score first; NaN where a number does not exist.
    """
    # In the order of the competition's variables, and without others.
    years = years[:, :, competition.places(variables)]
    months = counts @ years[:, 0, 0, 0, 0]
    fields = years[:, 1:].reshape(len(years), -1)
    columns = np.empty((len(counts), len(competition.columns)))
    for start in range(0, len(counts), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        sums = (counts[part].astype(np.float64) @ fields).reshape(-1, len(years[0]) - 1, *years.shape[2:])
        more = {name: sums[:, 5 + i] for i, name in enumerate(competition.terms)}
        moments = Moments(months[part, None, None], *(sums[:, i] for i in range(5)), more=more)
        numbers = competition.numbers(moments, weights, competition.variables)
        columns[part, 0] = competition.value(numbers)
        for i, key in enumerate(competition.keys, 1):
            columns[part, i] = numbers[key]
    return columns


def difference(
    variant: Sequence[Array], base: Sequence[Array], years: int, names: Sequence[str], seed: int = SEED
) -> dict[str, Difference]:
    """A variant minus the base, with an interval.

    Args:
        variant: For every seed (1 + D, C), the numbers on the years as they are and on draws of them.
        base: Likewise, of the same seeds and draws.
        years: How many there are to draw from, where there are several spans, in the shortest.
        names: Of the C numbers.
        seed: Of the draws of seeds.

    Returns:
        By name of the number; without those that a run does not have.

    Raises:
        ValueError: There is nothing to compare, or they are not paired.
    """
    if not variant or len(variant) != len(base):
        raise ValueError(f"{len(variant)} runs of a variant and {len(base)} of the base are not paired")
    each = np.stack([v - b for v, b in zip(variant, base, strict=True)])
    seen, drawn, pairs = each[:, 0], each[:, 1:].mean(0), len(each)
    mean = seen.mean(0)
    random = np.random.default_rng([seed, pairs, years])
    scatter = np.zeros((drawn.shape[0], len(names)))
    if years > 1:
        # A normal deviation over the root of a scaled chi square is Student's t.
        heavier = np.sqrt((years - 1) / random.chisquare(years - 1, size=(len(drawn), 1)))
        scatter += np.sqrt(years / (years - 1)) * heavier * (drawn - drawn.mean(0))
    sd = seen.std(0, ddof=1) if pairs > 1 else None
    if sd is not None:
        scatter += random.standard_t(pairs - 1, size=(len(drawn), 1)) * sd / np.sqrt(pairs)
    low, high = mean + np.quantile(scatter, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    known = (years > 1 or pairs > 1) & np.isfinite(low) & np.isfinite(high)
    return {
        name: Difference(
            float(mean[i]),
            float(low[i]) if known[i] else None,
            float(high[i]) if known[i] else None,
            None if sd is None else float(sd[i]),
        )
        for i, name in enumerate(names)
        if not np.isnan(mean[i])
    }


def sentence(
    differences: Mapping[str, Difference], competition: Competition, seeds: int, drawn: bool, years: int
) -> str:
    """What a difference says, for people.

    Args:
        differences: As `difference` gives them.
        competition: Whose numbers they are, which says which way is better.
        seeds: How many were compared.
        drawn: Whether a seed decides anything in the variant or the base.
        years: How many years there were to draw from.
    """
    score, better = differences["score"], competition.by_key["score"].sign
    interval = "" if score.low is None else f"95 % {_apart(score)}"
    if score.sign:
        size, _ = both_ends(abs(score.mean), abs(score.mean), sign="")
        words = f"{'better' if score.sign * better < 0 else 'worse'} by {size} ({interval})"
    else:
        words = f"indistinguishable: {score.mean:+.3f} ({interval or 'one run on one year has no interval'})"
    known = [(c, differences[c.key].sign) for c in competition.metrics if c.key in differences]
    parts = [
        f"{word} in {', '.join(names)}"
        for which, word in ((-1, "better"), (1, "worse"))
        if (names := [c.heading for c, sign in known if sign * c.sign == which])
    ]
    words += f"; {'; '.join(parts)}" if parts else ""
    if drawn and seeds < 2:
        words += "; one seed: another may differ"
    if years < 2:
        words += "; one year: another may differ"
    return words


def _apart(score: Difference) -> str:
    """The ends of an interval: of how much better, or worse, where it is one of the two; with signs where it is not."""
    assert score.low is not None
    assert score.high is not None
    if not score.sign:
        return " to ".join(both_ends(score.low, score.high))
    near, far = sorted((abs(score.low), abs(score.high)))
    return " to ".join(both_ends(near, far, sign=""))


def years_in(span: Span, archive: Archive) -> int:
    """Into how many years the sums of a span are divided."""
    time = archive[span.scenario].time
    if competition_of(archive).derive:
        return len(np.unique(time.year[span.start : span.stop]))
    return max(1, len(span) // time.per_year)


def year_moments(emulator: Emulator, archive: Archive, spans: Sequence[Span], competition: Competition) -> list[Array]:
    """Predict, and sum every year.

    Args:
        emulator: Of the archive's grid and variables.
        archive: Forcings and truth.
        spans: What is scored.
        competition: Whose sums they are.

    Returns:
        For every span (N, 6, V, Y, X), packed moments of its years, with the further sums of the competition. They are
        counted from the span's first step; steps that are left over belong to the last.
    """
    out = []
    for span in spans:
        if competition.derive:
            # A year of fields in memory at a time; the truth of several runs is derived once.
            derived = zip(*derived_fields(emulator, archive, span), strict=True)
            out.append(np.stack([competition.moments(*(fields[None] for fields in year)).pack() for year in derived]))
            continue
        prediction = emulator.predict_fields(archive[span.scenario], span.start, span.stop)
        truth = archive[span.scenario].truth(span.members[0], span.start, span.stop)
        year = archive[span.scenario].time.per_year
        edges = [*range(0, years_in(span, archive) * year, year), len(span)]
        out.append(np.stack([competition.moments(prediction[a:b], truth[a:b]).pack() for a, b in pairwise(edges)]))
    return out


def save_years(path: Path, spans: Sequence[Array]) -> None:
    """Keep them in a file.

    Raises:
        EmukitError: It cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as f:
        np.savez(f, *spans)


def load_years(path: Path) -> list[Array] | None:
    """Read such a file; None where there is none that can be read, and it is to be made again."""
    try:
        with open_regular(path) as f, np.load(f, allow_pickle=False) as kept:
            return [np.asarray(kept[f"arr_{i}"], np.float64) for i in range(len(kept.files))]
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def numbers_on_years(run: Run, archive: Archive, spans: Sequence[Span], name: str) -> Array:
    """The numbers of a run on a set and on draws of its years, whose sums are kept next to the scores of the run.

    Args:
        run: A finished one.
        archive: The data that it was trained on.
        spans: What the set scores.
        name: Of the set.

    Returns:
        (1 + draws, C) columns of the competition, the mean over spans: first on the years as they are.

    Raises:
        EmukitError: The run is damaged, or its folder cannot be written.
    """
    path = run.folder / "scores" / f"{name}-years.npz"
    kept = load_years(path)
    found = _numbers_if_own(kept, run, archive, spans, name) if kept else None
    if found is None:
        kept = year_moments(run.emulator(archive), archive, spans, competition_of(archive))
        save_years(path, kept)
        found = _numbers(kept, archive)
    return found


def _numbers_if_own(kept: list[Array], run: Run, archive: Archive, spans: Sequence[Span], name: str) -> Array | None:
    """The numbers that kept sums make; None where they are not those of this run."""
    fields = (6 + len(competition_of(archive).terms), len(scored_variables(archive)), *archive.grid.shape)
    wanted = [(years_in(span, archive), *fields) for span in spans]
    if [k.shape for k in kept] != wanted or not all(np.isfinite(k).all() for k in kept):
        return None
    found = _numbers(kept, archive)
    score = run.evaluation(name)["score"] if (run.folder / "scores" / f"{name}.json").exists() else None
    return found if score is None or math.isclose(found[0, 0], score, abs_tol=1e-4) else None


def _numbers(kept: Sequence[Array], archive: Archive) -> Array:
    """(1 + draws, C) numbers, the mean over spans."""
    weights, competition = archive.grid.weights, competition_of(archive)
    each = [
        scores_of(years, resample_years(len(years), seed=i), weights, scored_variables(archive), competition)
        for i, years in enumerate(kept)
    ]
    return np.asarray(np.mean(each, axis=0))


def both_ends(low: float, high: float, digits: int = 3, sign: str = "+") -> tuple[str, str]:
    """The ends of an interval as text: one that does not hold zero has as many digits as keep zero from its ends.

    Args:
        low, high: The ends.
        digits: Behind the point, where they suffice.
        sign: As a format has it: ``+`` for the sign of either, empty for that of a negative number alone.
    """
    nearest = min(abs(low), abs(high)) if low > 0 or high < 0 else 0.0
    while nearest and digits < MOST_DIGITS and not float(f"{nearest:.{digits}f}"):
        digits += 1
    return f"{low:{sign}.{digits}f}", f"{high:{sign}.{digits}f}"
