"""Results that others published, and the lines of reference, as ``baselines/published.toml`` keeps them.

Invariant: no result is without a source and the span it was scored on, and a score that stands beside its six numbers
agrees with them.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from emukit.errors import RecipeError
from emukit.files import read_text, shipped
from emukit.metrics import Parts, Score

# Six numbers of three decimals give a score to 0.0019 (half a thousandth times the sum of the weights, and its own).
_ROUNDING = 0.0024

_Text = Annotated[str, Field(min_length=1)]
_Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class PublishedParts(_Strict):
    """The three numbers of one variable, as `emukit.metrics.Parts`, in K or mm/day."""

    monthly_rmse: _Number
    time_mean_rmse: _Number
    time_stddev_mae: _Number


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
        computed: The score was computed from the six numbers, not published.
        leaderboard: What the competition's private leaderboard said, as a text: it may be a range.
        tas: The three numbers of near-surface temperature.
        pr: The three numbers of precipitation.
        source: Where all this comes from.
        note: What must be known to compare it.
    """

    kind: Literal["competition", "reference", "measured"]
    name: _Text
    place: _Text | None = None
    parameters: Annotated[int, Field(gt=0)] | None = None
    protocol: Literal["official", "k360"]
    part: Literal["validation", "test"]
    months: Annotated[int, Field(gt=0)]
    score: _Number | None = None
    computed: bool = False
    leaderboard: _Text | None = None
    tas: PublishedParts | None = None
    pr: PublishedParts | None = None
    source: _Text
    note: str = ""

    @property
    def split(self) -> str:
        """What it was scored on, in words: results of different splits do not compare."""
        return f"{self.protocol} {self.part}, {self.months} months"

    @property
    def parts(self) -> dict[str, Parts]:
        """The six numbers by variable; empty where they are not known."""
        if self.tas is None or self.pr is None:
            return {}
        return {"tas": Parts(**self.tas.model_dump()), "pr": Parts(**self.pr.model_dump())}

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if (self.tas is None) != (self.pr is None):
            raise ValueError("tas and pr belong together")
        if self.computed and not (self.parts and self.score is not None):
            raise ValueError("a computed score needs its six numbers")
        if self.score is None and self.leaderboard is None:
            raise ValueError("there is neither a score nor a leaderboard number")
        if self.parts and self.score is not None:
            value = Score(self.parts, self.months).value
            if abs(value - self.score) > _ROUNDING:
                raise ValueError(f"the six numbers give {value:.4f}, not {self.score}")
        return self


class _Table(_Strict):
    result: list[PublishedResult]


def load_published(path: Path | str | None = None) -> list[PublishedResult]:
    """Read published results, in the file's order.

    Args:
        path: A file of the same form; emukit's own by default.

    Raises:
        RecipeError: The file cannot be read, or rows are wrong; all mistakes are listed.
    """
    path = Path(path) if path is not None else shipped("baselines", "published.toml")
    try:
        return _Table.model_validate(tomllib.loads(read_text(path))).result
    except OSError as e:
        raise RecipeError(f"cannot read {path}", found=e.strerror or str(e)) from e
    except ValidationError as e:
        found = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in e.errors())
        raise RecipeError(f"{path} holds wrong results", found=found, hint="mend these keys") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise RecipeError(f"{path} is no TOML", found=str(e)) from e
