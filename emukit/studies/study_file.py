"""A study as its folder describes it in `study.json`: variants, their runs, and what came out.

Invariant: a study that can be read has finite numbers, a base, and results that name its variants alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from unicodedata import category

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from emukit.config import describe
from emukit.errors import RunError
from emukit.files import read_text
from emukit.metrics.competition import Competition
from emukit.runs.record import Scoring

STUDY_FILE = "study.json"
# Of a path, and of one part of it, on the file systems that there are.
MOST_LETTERS, MOST_BYTES = 1000, 255
# Beyond any score, and within what can be drawn.
_LARGEST = 1e9
_Number = Annotated[float, Field(allow_inf_nan=False, ge=-_LARGEST, le=_LARGEST)]


def _printable(text: str) -> str:
    if any(category(sign) == "Cc" for sign in text):
        raise ValueError("it holds control characters")
    return text


def _missing(competition: Competition, numbers: Mapping[str, Any] | None) -> list[str]:
    """What the score needs, and is not there."""
    needed = ("score", *(() if competition.skip_missing else competition.weights))
    return [] if numbers is None else [key for key in needed if key not in numbers]


def _is_path(text: str) -> str:
    if len(text) > MOST_LETTERS or any(len(part.encode(errors="replace")) > MOST_BYTES for part in text.split("/")):
        raise ValueError("longer than a path can be")
    return _printable(text)


_Folder = Annotated[str, AfterValidator(_is_path)]
_Name = Annotated[str, AfterValidator(_printable)]
_Numbers = dict[str, _Number] | None


class _Part(BaseModel):
    # Unknown keys pass: a later emukit may write more.
    model_config = ConfigDict(frozen=True, extra="ignore")


class StudyRun(_Part):
    """One training of a variant; `folder` is relative to the study's."""

    protocol: str
    seed: int
    folder: _Folder
    state: str
    error: str = ""
    command: str = ""


class ShownVariant(_Part):
    """What differs from the base."""

    name: _Name
    settings: dict[str, Any] = {}
    members: str | None = None
    recipe: str = ""
    epochs: int | None = None
    runs: list[StudyRun] = []


class Interval(_Part):
    """A paired difference from the base with its confidence interval; no ends where nothing says how sure it is."""

    mean: _Number
    low: _Number | None
    high: _Number | None
    sd: _Number | None = None


class StudyRow(_Part):
    """A variant on one set of months, over those of its seeds that have finished; `mean` is None where none has."""

    variant: str
    seeds: list[int]
    mean: _Numbers
    sd: _Numbers = None
    difference: dict[str, Interval] | None = None
    sentence: str = ""


class StudyResult(_Part):
    """All variants on one set of months."""

    protocol: _Name
    set: _Name
    months: list[str]
    floor: _Numbers = None
    limit: _Numbers = None
    rows: list[StudyRow]


class StudyFile(_Part):
    """`study.json`."""

    format: Literal[1]
    name: _Name
    question: str = ""
    finding: str = ""
    base: str = ""
    model: str = ""
    protocols: list[str] = []
    seeds: list[int] = []
    benchmark: str = ""
    data: str = ""
    competition: Scoring = Scoring()
    machine: Any = ""
    trained_with: list[str] = []
    command: str = ""
    best: str | None = None
    variants: Annotated[list[ShownVariant], Field(min_length=1)]
    results: list[StudyResult] = []

    @property
    def same_as_base(self) -> list[str]:
        """Names of variants whose runs are those of the base."""
        folders = [{run.folder for run in v.runs} for v in self.variants]
        others = zip(self.variants[1:], folders[1:], strict=True)
        return [v.name for v, own in others if own and own == folders[0]]

    @model_validator(mode="after")
    def _knows_its_variants(self) -> Self:
        names = {v.name for v in self.variants}
        unknown = sorted({row.variant for r in self.results for row in r.rows} - names)
        unknown += [self.best] if self.best and self.best not in names else []
        if unknown:
            raise ValueError(f"results of variants that it does not have: {', '.join(unknown)}")
        return self

    @model_validator(mode="after")
    def _has_what_its_score_needs(self) -> Self:
        competition = self.competition.competition
        for result in self.results:
            own: list[tuple[str, Mapping[str, Any] | None]] = [("floor", result.floor), ("limit", result.limit)]
            for row in result.rows:
                own += [(f"{row.variant} mean", row.mean), (f"{row.variant} sd", row.sd)]
                own += [(f"{row.variant} difference", row.difference)]
            for name, numbers in own:
                if missing := _missing(competition, numbers):
                    raise ValueError(f"{name}: without {', '.join(missing)}")
        return self


def read_study(folder: Path) -> StudyFile:
    """Read the study of a folder.

    Raises:
        RunError: It cannot be read, or is damaged or of another version.
    """
    path = folder / STUDY_FILE
    try:
        return StudyFile.model_validate_json(read_text(path))
    except OSError as e:
        raise RunError(f"cannot read {path}", found=e.strerror or str(e)) from e
    except (ValidationError, UnicodeDecodeError) as e:
        problems = describe(e) if isinstance(e, ValidationError) else [str(e)]
        raise RunError(
            f"{path} is damaged or of another version of emukit",
            found="\n            ".join(problems[:5]),
            hint="run the study again, which reuses its finished runs",
        ) from None
