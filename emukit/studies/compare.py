"""Finished runs compared with each other, and one study on several data sets: differences, and how sure they are.

Invariant of `compare`: what is compared was trained on the same data under the same protocol, and is scored by the same
competition on the same steps; runs that differ in one of these are refused by name. Runs that differ in their seed
alone are one entry, and entries are compared seed by seed.

Invariant of `repeated_study`: a data set counts once, and a difference is taken within each before the mean over all.
Data sets have their own truth and their own runs, so what differs between them holds all that chance decides: years,
seeds and climates. An interval is therefore Student's t over the data sets alone, of a score as of a difference. It is
valid for data sets that are drawn alike and independently, as seeds of one generator are; it says nothing of another
generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.split import Span, is_hidden
from emukit.errors import RunError
from emukit.metrics import Competition
from emukit.metrics.competition import Column
from emukit.progress import Reporter
from emukit.recipes.catalogue import is_random, model_name
from emukit.recipes.schema import networks_of
from emukit.runs.evaluate import scored_spans
from emukit.runs.run import Run
from emukit.studies.bootstrap import LEVEL, Difference, difference, numbers_on_years, sentence, years_in
from emukit.studies.study_file import StudyFile, read_study

Array = NDArray[np.float64]
VALUES = (
    "protocol", "set", "variant", "number", "data_sets", "mean", "low", "high", "difference", "difference_low",
    "difference_high",
)  # fmt: skip


@dataclass(frozen=True)
class Compared:
    """Runs that differ in their seed alone.

    Attributes:
        name: The folder of a single run; the model and the seeds of several.
        runs: By seed, ascending.
    """

    name: str
    runs: Mapping[int, Run]

    @property
    def random(self) -> bool:
        """Whether a seed decides anything in them."""
        return is_random(next(iter(self.runs.values())).record.recipe)


@dataclass(frozen=True)
class PairRow:
    """One number of a pair.

    Attributes:
        column: The number.
        first, second: The means over the paired seeds.
        difference: The second minus the first.
    """

    column: Column
    first: float
    second: float
    difference: Difference

    @property
    def verdict(self) -> str:
        """``better`` or ``worse``, of the second, where the interval does not hold zero; else empty."""
        sign = self.difference.sign * self.column.sign
        return "better" if sign < 0 else "worse" if sign > 0 else ""


@dataclass(frozen=True)
class Pair:
    """Two entries.

    Attributes:
        first, second: Their names.
        seeds: Those of the first and of the second that were paired, in the same order.
        rows: The score, then the numbers of the competition that both have.
        sentence: What the difference says.
    """

    first: str
    second: str
    seeds: tuple[tuple[int, int], ...]
    rows: tuple[PairRow, ...]
    sentence: str


@dataclass(frozen=True)
class RunComparison:
    """All pairs of some runs.

    Attributes:
        set: Which set of months was scored.
        protocol: Under which split.
        spans: What was scored, for people.
        years: How many there are to resample, in the shortest span.
        competition: Whose numbers they are.
        pairs: Every two entries, in the order in which they were named.
        notes: What to know before believing them.
    """

    set: str
    protocol: str
    spans: tuple[str, ...]
    years: int
    competition: Competition
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "set": self.set,
            "protocol": self.protocol,
            "spans": list(self.spans),
            "years": self.years,
            "competition": self.competition.name,
            "notes": list(self.notes),
            "pairs": [
                {
                    "first": p.first,
                    "second": p.second,
                    "seeds": [list(seeds) for seeds in p.seeds],
                    "sentence": p.sentence,
                    "numbers": {
                        r.column.key: {
                            "better": r.column.better,
                            "first": r.first,
                            "second": r.second,
                            "difference": asdict(r.difference),
                            "verdict": r.verdict,
                        }
                        for r in p.rows
                    },
                }
                for p in self.pairs
            ],
        }


def compare_runs(runs: Sequence[Run], archive: Archive, name: str | None, reporter: Reporter) -> RunComparison:
    """Compare every two of several runs, the later one with the earlier one.

    The sums of each year are kept in the run folders, where studies find them too.

    Args:
        runs: Finished runs.
        archive: The data that they were trained on.
        name: Of the set that is scored; None: ``test`` where the protocol has one and its targets are visible, else
            ``validation``.
        reporter: Shows progress.

    Raises:
        RunError: They cannot be compared: they are of other data, another protocol, other steps or another
            competition; one has not finished or is named twice; or entries of several seeds share none.
        ProtocolError: There is no such set, or its targets are hidden.
        EmukitError: A folder cannot be written.
    """
    check_comparable(runs)
    first = runs[0]
    if archive.digest != first.record.data.digest:
        raise RunError(
            f"the store {archive.source} is not the data that the runs were trained on",
            found=f"values with the digest {archive.digest[:12]}",
            expected=first.record.data.digest[:12],
            hint="name the store of the training with --data",
        )
    compared = _by_seed(runs)
    split = first.split(archive)
    name = name or _visible_set(archive, split.scored)
    spans = scored_spans(archive, split, name)
    _refuse_other_months(runs, name)
    numbers: dict[Path, Array] = {}
    with reporter.step("scoring", len(runs)) as bar:
        for run in runs:
            # Also refuses a run under another card, whose training may hold what is scored.
            run.split(archive)
            numbers[run.folder] = numbers_on_years(run, archive, spans, name)
            bar.advance(note=run.folder.name)
    years = min(years_in(span, archive) for span in spans)
    competition = competition_of(archive)
    pairs = [_pair(a, b, numbers, years, competition) for a, b in combinations(compared, 2)]
    texts = tuple(span.text(archive) for span in spans)
    notes = tuple(_notes(name, compared))
    return RunComparison(name, first.record.identity.protocol, texts, years, competition, tuple(pairs), notes)


def check_comparable(runs: Sequence[Run]) -> None:
    """Refuse runs that cannot be compared, from their records alone.

    Raises:
        RunError: They cannot be; see `compare_runs`.
    """
    if len(runs) < 2:
        raise RunError("one run has nothing to be compared with", hint="emukit compare RUN RUN")
    for run in runs:
        run.refuse_unfinished()
    twice = [r.folder for i, r in enumerate(runs) if any(r.folder.samefile(b.folder) for b in runs[:i])]
    if twice:
        raise RunError(f"the run {twice[0]} is named twice", hint="name each run once")
    first = runs[0]
    for other in runs[1:]:
        a, b = first.record, other.record
        differences = {
            "data": (f"{a.data.source} ({a.identity.data[:12]})", f"{b.data.source} ({b.identity.data[:12]})"),
            "competition": (_scoring(first), _scoring(other)),
            "protocol": (a.identity.protocol, b.identity.protocol),
            "data card": (f"{a.data.card} ({a.identity.card[:12]})", f"{b.data.card} ({b.identity.card[:12]})"),
        }
        for what, (one, two) in differences.items():
            if one != two:
                raise RunError(
                    f"{first.folder} and {other.folder} cannot be compared: another {what}",
                    found=f"{what} of {other.folder}: {two}",
                    expected=f"that of {first.folder}: {one}",
                    hint="compare runs that were trained on the same store, with the same --card and --protocol",
                )


def _scoring(run: Run) -> str:
    scoring = run.record.data.scoring
    return f"{scoring.name} ({', '.join(scoring.units)})"


def _visible_set(archive: Archive, scored: Mapping[str, Sequence[Span]]) -> str:
    visible = "test" in scored and not any(is_hidden(archive, span) for span in scored["test"])
    return "test" if visible else "validation"


def _refuse_other_months(runs: Sequence[Run], name: str) -> None:
    """A final fit has no validation months: what it trained on scores nothing.

    Raises:
        RunError: A run scores other steps in this set than the first one, or none.
    """
    first = runs[0]
    wanted = first.record.scored.get(name)
    for run in runs[1:]:
        found = run.record.scored.get(name)
        if found != wanted:
            raise RunError(
                f"{first.folder} and {run.folder} cannot be compared: other steps",
                found=f"{name} of {run.folder}: {'; '.join(found or ()) or 'nothing, it was trained on them'}",
                expected=f"that of {first.folder}: {'; '.join(wanted or ())}",
                hint="choose a set that both have with --split, or compare the runs that selected, not final fits",
            )


def _by_seed(runs: Sequence[Run]) -> list[Compared]:
    """Runs of one configuration together, in the order in which they were named.

    Raises:
        RunError: Two runs are the same in everything, their seed included.
    """
    groups: dict[str, dict[int, Run]] = {}
    for run in runs:
        identity = run.record.identity
        # A final fit names the run that selected, which has a seed.
        key = repr((identity.recipe, identity.members, identity.final is not None))
        group = groups.setdefault(key, {})
        if identity.seed in group:
            raise RunError(
                f"{group[identity.seed].folder} and {run.folder} are the same run",
                found=f"the same recipe, data, protocol and seed {identity.seed}",
                hint="leave one of them out",
            )
        group[identity.seed] = run
    compared: list[Compared] = []
    for group in groups.values():
        one = next(iter(group.values()))
        seeds = ", ".join(map(str, sorted(group)))
        model = model_name(one.record.command, one.recipe.emulator)
        name = str(one.folder) if len(group) == 1 else f"{model}, seeds {seeds}"
        if name in [c.name for c in compared]:
            name = f"{name} ({one.folder}, ...)"
        compared.append(Compared(name, dict(sorted(group.items()))))
    if len(compared) < 2:
        raise RunError(
            "the runs differ in their seed alone",
            found=compared[0].name,
            expected="runs of two recipes at least",
            hint="`emukit evaluate MODEL --seeds N` says how far seeds of one recipe differ",
        )
    return compared


def _pair(
    first: Compared, second: Compared, numbers: Mapping[Path, Array], years: int, competition: Competition
) -> Pair:
    seeds = tuple(_paired_seeds(first, second))
    a = [numbers[first.runs[s].folder] for s, _ in seeds]
    b = [numbers[second.runs[s].folder] for _, s in seeds]
    names = [column.key for column in competition.columns]
    found = difference(b, a, years, names)
    if "score" not in found:
        raise RunError(
            f"{first.name} and {second.name} have no score on these steps",
            expected="a truth that varies over the scored steps",
            hint="choose another set with --split",
        )
    mean = {key: (fmean(float(x[0, i]) for x in a), fmean(float(x[0, i]) for x in b)) for i, key in enumerate(names)}
    rows = tuple(PairRow(competition.by_key[key], *mean[key], found[key]) for key in names if key in found)
    words = sentence(found, competition, len(seeds), first.random or second.random, years)
    return Pair(first.name, second.name, seeds, rows, f"{second.name} against {first.name}: {words}")


def _paired_seeds(first: Compared, second: Compared) -> Iterator[tuple[int, int]]:
    """Seeds of the first and of the second that are compared.

    Those that both have; where one is a single run, and its seed decides nothing or the other is single too, that run
    and each of the other's.

    Raises:
        RunError: Several seeds are named, and none of both.
    """
    common = sorted(first.runs.keys() & second.runs.keys())
    single = [c for c in (first, second) if len(c.runs) == 1]
    if len(single) == 2 or any(not c.random for c in single):
        yield from ((a, b) for a in first.runs for b in second.runs)
    elif common:
        yield from ((seed, seed) for seed in common)
    else:
        raise RunError(
            f"{first.name} and {second.name} share no seed",
            found=f"seeds {', '.join(map(str, first.runs))}, and {', '.join(map(str, second.runs))}",
            expected="runs of the same seeds, which are paired",
            hint="name runs of the same seeds, or one run of each",
        )


def _notes(name: str, compared: Sequence[Compared]) -> Iterator[str]:
    """What makes a comparison less than it seems."""
    chosen = [c.name for c in compared if networks_of(next(iter(c.runs.values())).recipe)]
    if name == "validation" and chosen:
        yield f"the validation months chose the epochs of {'; '.join(chosen)}, which flatters it"
    for a, b in combinations(compared, 2):
        pairs = list(_paired_seeds(a, b))
        for entry, paired in ((a, {s for s, _ in pairs}), (b, {s for _, s in pairs})):
            if odd := [str(s) for s in entry.runs if s not in paired]:
                yield f"{entry.name}: seed {', '.join(odd)} has no partner in {(b if entry is a else a).name}"


@dataclass(frozen=True)
class RepeatedRow:
    """A variant over all data sets.

    Attributes:
        variant: Its name.
        each: Its score on each of them.
        mean: Key of a number to its mean over them; those alone that every data set has.
        difference: Likewise, less that of the base; None of the base.
        sentence: What the difference says.
    """

    variant: str
    each: tuple[float, ...]
    mean: dict[str, Difference]
    difference: dict[str, Difference] | None
    sentence: str


@dataclass(frozen=True)
class RepeatedTable:
    """A study on one set of months of all data sets.

    Attributes:
        name: Of the study.
        protocol, set: What was scored.
        folders: Of the studies, in the order of `RepeatedRow.each`.
        competition: Whose numbers they are.
        rows: The base first.
        notes: Variants that are left out, and why.
    """

    name: str
    protocol: str
    set: str
    folders: tuple[str, ...]
    competition: Competition
    rows: tuple[RepeatedRow, ...]
    notes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "study": self.name,
            "protocol": self.protocol,
            "set": self.set,
            "folders": list(self.folders),
            "competition": self.competition.name,
            "notes": list(self.notes),
            "rows": [asdict(row) for row in self.rows],
        }


def repeated_study(folders: Sequence[Path]) -> list[RepeatedTable]:
    """Take studies of the same variants on different data together.

    Args:
        folders: Of two or more studies, each with its `study.json`.

    Returns:
        A table for each set of months that all of them scored.

    Raises:
        RunError: One cannot be read; they are not the same study, or two are of the same data; the base has no finished
            run on some; or they have no set of months in common.
    """
    studies = [read_study(folder) for folder in folders]
    _refuse_others(studies, folders)
    first = studies[0]
    common = [
        (r.protocol, r.set)
        for r in first.results
        if all((r.protocol, r.set) in {(o.protocol, o.set) for o in s.results} for s in studies)
    ]
    if not common:
        raise RunError(
            "the studies have no set of months in common",
            found="; ".join(f"{f}: {', '.join(s.protocols)}" for f, s in zip(folders, studies, strict=True)),
            hint="repeat the study with the same --protocols",
        )
    return [_table(studies, folders, *which) for which in common]


def _refuse_others(studies: Sequence[StudyFile], folders: Sequence[Path]) -> None:
    first = studies[0]
    if len(studies) < 2:
        raise RunError("one study has nothing to be taken together with", hint="emukit compare STUDY STUDY STUDY")
    for i, (other, folder) in enumerate(zip(studies, folders, strict=True)):
        for what, one, two in (
            ("study", first.name, other.name),
            ("base", first.base, other.base),
            ("competition", first.competition.name, other.competition.name),
        ):
            if one != two:
                raise RunError(
                    f"{folders[0]} and {folder} cannot be taken together: another {what}",
                    found=two,
                    expected=one,
                    hint="name the folders of one study, repeated on other data",
                )
        for earlier, before in zip(studies[:i], folders[:i], strict=True):
            if other.data == earlier.data:
                raise RunError(
                    f"{before} and {folder} are of the same data, which would count twice",
                    found=f"values with the digest {other.data[:12]} in both",
                    expected="a study of each data set",
                    hint="runs that differ in their seeds are of one study: emukit ablate NAME --seeds N",
                )


def _table(studies: Sequence[StudyFile], folders: Sequence[Path], protocol: str, name: str) -> RepeatedTable:
    found = []
    for study in studies:
        result = next(r for r in study.results if (r.protocol, r.set) == (protocol, name))
        found.append({row.variant: row.mean for row in result.rows})
    competition, base = studies[0].competition.competition, studies[0].base
    notes: list[str] = []
    rows: list[RepeatedRow] = []
    for variant in dict.fromkeys(v for numbers in found for v in (base, *numbers)):
        without = [str(f) for f, numbers in zip(folders, found, strict=True) if not numbers.get(variant)]
        if without and variant == base:
            raise RunError(
                f"the base {base!r} has no finished run on some data, and everything is compared with it",
                found=f"none in {', '.join(without)}",
                hint="continue these studies: the command is in their study.json",
            )
        if without:
            notes.append(f"{variant}: no finished run in {', '.join(without)}")
            continue
        own, bases = ([numbers[v] or {} for numbers in found] for v in (variant, base))
        keys = [c.key for c in competition.columns if all(c.key in numbers for numbers in own)]
        mean = {key: over_data_sets([numbers[key] for numbers in own]) for key in keys}
        paired = [key for key in keys if all(key in numbers for numbers in bases)]
        difference = (
            {key: over_data_sets([o[key] - b[key] for o, b in zip(own, bases, strict=True)]) for key in paired}
            if variant != base
            else None
        )
        words = sentence(difference, competition, len(own), False, len(own)) if difference else "the base"
        rows.append(RepeatedRow(variant, tuple(n["score"] for n in own), mean, difference, words))
    return RepeatedTable(
        studies[0].name, protocol, name, tuple(map(str, folders)), competition, tuple(rows), tuple(notes)
    )


def over_data_sets(values: Sequence[float]) -> Difference:
    """The mean of independent values with its interval: Student's t.

    Args:
        values: Two or more, one for each data set.
    """
    from scipy.special import stdtrit

    mean, sd = fmean(values), stdev(values)
    half = float(stdtrit(len(values) - 1, (1 + LEVEL) / 2)) * sd / len(values) ** 0.5
    return Difference(mean, mean - half, mean + half, sd)


def value_rows(table: RepeatedTable) -> Iterator[tuple[str, ...]]:
    """Every number of every variant: `VALUES`."""
    for row in table.rows:
        for key, mean in row.mean.items():
            difference = (row.difference or {}).get(key)
            ends = (None,) * 3 if difference is None else (difference.mean, difference.low, difference.high)
            numbers = (mean.mean, mean.low, mean.high, *ends)
            texts = ("" if value is None else repr(value) for value in numbers)
            yield (table.protocol, table.set, row.variant, key, str(len(row.each)), *texts)
