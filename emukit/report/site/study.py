"""A study as its folder describes it in `study.json`: variants, their runs, and what came out.

Invariant: a study that can be read has finite numbers, a base, and results that name its variants alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from emukit.config import describe
from emukit.errors import RunError

STUDY_FILE = "study.json"
_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Part(BaseModel):
    # Unknown keys pass: a later emukit may write more.
    model_config = ConfigDict(frozen=True, extra="ignore")


class StudyRun(_Part):
    """One training of a variant; `folder` is relative to the study's."""

    protocol: str
    seed: int
    folder: str
    state: str
    error: str = ""
    command: str = ""


class Variant(_Part):
    """What differs from the base."""

    name: str
    settings: dict[str, Any] = {}
    members: str | None = None
    recipe: str = ""
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
    mean: dict[str, _Number] | None
    sd: dict[str, _Number] | None = None
    difference: dict[str, Interval] | None = None
    sentence: str = ""


class StudyResult(_Part):
    """All variants on one set of months."""

    protocol: str
    set: str
    months: list[str]
    floor: dict[str, _Number] | None = None
    limit: dict[str, _Number] | None = None
    rows: list[StudyRow]


class Study(_Part):
    """`study.json`."""

    format: Literal[1]
    name: str
    question: str = ""
    finding: str = ""
    base: str = ""
    model: str = ""
    protocols: list[str] = []
    seeds: list[int] = []
    benchmark: str = ""
    data: str = ""
    machine: Any = ""
    command: str = ""
    variants: Annotated[list[Variant], Field(min_length=1)]
    results: list[StudyResult] = []

    @model_validator(mode="after")
    def _knows_its_variants(self) -> Self:
        names = {v.name for v in self.variants}
        unknown = sorted({row.variant for r in self.results for row in r.rows} - names)
        if unknown:
            raise ValueError(f"results of variants that it does not have: {', '.join(unknown)}")
        return self


def read_study(folder: Path) -> Study:
    """Read the study of a folder.

    Raises:
        RunError: It cannot be read, or is damaged or of another version.
    """
    path = folder / STUDY_FILE
    try:
        return Study.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise RunError(f"cannot read {path}", found=e.strerror or str(e)) from e
    except (ValidationError, UnicodeDecodeError) as e:
        problems = describe(e) if isinstance(e, ValidationError) else [str(e)]
        raise RunError(
            f"{path} is damaged or of another version of emukit",
            found="\n            ".join(problems[:5]),
            hint="run the study again, which reuses its finished runs",
        ) from None
