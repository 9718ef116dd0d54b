"""One study on several data sets, such as several seeds of a demo climate: means over these, and how sure they are.

Invariant: a data set counts once, and a difference is taken within each before the mean over all. Data sets have their
own truth and their own runs, so what differs between them holds all that chance decides: years, seeds and climates. An
interval is therefore Student's t over the data sets alone, of a score as of a difference. It is valid for data sets
that are drawn alike and independently, as seeds of one generator are; it says nothing of another generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from emukit.errors import RunError
from emukit.metrics import Competition
from emukit.studies.bootstrap import LEVEL, Difference, sentence
from emukit.studies.study_file import StudyFile, read_study


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


VALUES = (
    "protocol", "set", "variant", "number", "data_sets", "mean", "low", "high", "difference", "difference_low",
    "difference_high",
)  # fmt: skip
