"""Results that others published, and the lines of reference, as a TOML file of a competition keeps them.

Invariant: no result is without a source and the span it was scored on, and a score that stands next to its numbers
agrees with them.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from emukit.data.card import load_card
from emukit.errors import RecipeError
from emukit.files import read_text, shipped
from emukit.metrics import Competition

_Text = Annotated[str, Field(min_length=1)]
_Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


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
