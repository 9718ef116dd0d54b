"""What an entry says of itself: the file ``entry.toml`` next to a submission.

Invariant: an entry names all that is needed to make its CSV again (recipe, data, seed, commands, versions), and the
CSV by its digest, since the CSV itself is too large to be kept under version control.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from emukit.config import describe, parse_toml
from emukit.errors import SubmissionError
from emukit.files import read_text, write_text

ENTRY_FILE = "entry.toml"
Text = Annotated[str, Field(min_length=1)]
Month = Annotated[str, Field(pattern=r"^\d{4}-\d{2}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class SubmissionEntry(BaseModel):
    """One submission, as it is kept for the leaderboard.

    Attributes:
        name: The entry's name, that of its folder.
        created: When, in ISO 8601.
        emulator: What made it, for example ``cnn-gru``.
        recipe: The settings it was trained with: the text of a recipe file. JSON in entries of earlier versions.
        protocol: The split it was trained under, for example ``k360``.
        scenario: What it predicts.
        first_month: ``t000``, as ``2070-02``.
        last_month: The last month.
        seed: The seed of the training.
        command: The command line that trained it, as the run has it.
        commands: The command lines that make the CSV again, in this order: what is trained before, the run itself,
            and the submission. Each is complete, except for where the data is, if a variable of the environment says
            it. Empty in entries of earlier versions.
        run: Digest of the identity of the run. Empty in entries of earlier versions.
        split: What is to be scored, as the leaderboard names it.
        data_digest: Which data its forcings are from.
        emukit_version: What wrote it.
        git_commit: The state of the code; empty outside a checkout.
        csv: File name of the CSV in the same folder.
        csv_sha256: Its digest.
        rows: Its rows below the header.
        competition: Which score it is written for.
        units: Scored variable to its units; empty in entries of before there were several competitions.
        validation: Numbers of the validation score by name, as in ``{"score": 0.77, "tas.monthly_rmse": 1.6}``.
            Empty where none of it says anything: a final fit trained on those months.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    name: Text
    created: str
    emulator: str
    recipe: str
    protocol: str
    scenario: str
    first_month: Month
    last_month: Month
    seed: int
    command: str
    commands: list[str] = Field(default_factory=list)
    run: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    split: Text
    data_digest: str
    emukit_version: str
    git_commit: str
    csv: Text
    csv_sha256: Digest
    rows: Annotated[int, Field(gt=0)]
    competition: Text = "cse151b"
    units: dict[str, str] = Field(default_factory=dict)
    validation: dict[str, float] = Field(default_factory=dict)


def write_entry(folder: Path | str, entry: SubmissionEntry) -> Path:
    """Write ``entry.toml`` into a folder; its path."""
    path = Path(folder) / ENTRY_FILE
    values: dict[str, Any] = entry.model_dump()
    tables = {key: values.pop(key) for key in [k for k, v in values.items() if isinstance(v, dict)]}
    # What earlier versions did not have is left out where nothing is said.
    lines = [_line(key, value) for key, value in values.items() if key not in ("commands", "run") or value]
    for key, table in ((k, t) for k, t in tables.items() if t):
        lines += ["", f"[{key}]", *(_line(k, v) for k, v in table.items())]
    write_text(path, "\n".join(lines) + "\n")
    return path


def read_entry(folder: Path | str) -> SubmissionEntry:
    """Read the entry of a folder.

    Raises:
        SubmissionError: There is none, or it is wrong; all wrong keys are listed.
    """
    path = Path(folder) / ENTRY_FILE
    expected = "the file that emukit submit writes"
    try:
        return SubmissionEntry.model_validate(parse_toml(read_text(path)))
    except OSError as e:
        raise SubmissionError(f"cannot read {path}", found=e.strerror or str(e), expected=expected) from e
    except ValidationError as e:
        raise SubmissionError(f"{path} is not an entry", found="\n".join(describe(e)[:10]), expected=expected) from e
    except ValueError as e:
        raise SubmissionError(f"{path} is not TOML", found=str(e), expected=expected) from e


def entry_of(csv: Path) -> SubmissionEntry | None:
    """What the entry next to a submission's CSV says of it; None where there is none, or it is of another file.

    Raises:
        SubmissionError: The entry is damaged.
    """
    if not (csv.parent / ENTRY_FILE).exists():
        return None
    entry = read_entry(csv.parent)
    return entry if entry.csv == csv.name else None


def _line(key: str, value: str | float | list[str]) -> str:
    if isinstance(value, list):
        return f"{_quoted(key)} = [\n{''.join(f'    {_escaped(text)},{chr(10)}' for text in value)}]"
    return f"{_quoted(key)} = {_text(value) if isinstance(value, str) else _number(value)}"


def _number(value: float) -> str:
    # repr of 1e+16 lacks what TOML asks of a float only for inf and nan, which it spells the same way.
    return repr(value)


def _quoted(key: str) -> str:
    bare = key.isascii() and key.replace("_", "").replace("-", "").isalnum()
    return key if bare else _escaped(key)


def _text(value: str) -> str:
    if "\n" not in value:
        return _escaped(value)
    literal = value.replace("\n", "")
    if literal.isprintable() and "'''" not in value and not value.endswith("'"):
        return f"'''\n{value}'''"
    # A recipe stays readable: one line of the file for each of its lines. TOML drops the line end behind the quotes.
    return '"""\n' + "\n".join(_escaped(line)[1:-1] for line in value.split("\n")) + '"""'


def _escaped(text: str) -> str:
    # Strings of JSON are strings of TOML except for DEL, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
