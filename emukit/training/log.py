"""The record of a training: one JSON line an epoch.

Invariant: the lines are those of the epochs that count, each once. They are on disk before the checkpoint that counts
their epochs, and stand in it too: a log that was lost or damaged since is written again from there. Only a last line
that a crash cut short is left out without a word.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from emukit.errors import RunError
from emukit.files import MOST_BYTES, open_append, open_regular, parse_json, write_text

LOG = "metrics.jsonl"


class MetricsLog:
    """Appends to `metrics.jsonl`."""

    def __init__(self, path: Path, kept: Sequence[str]) -> None:
        """Begin the log with lines of epochs before this session."""
        self._path = path
        write_text(path, "".join(line + "\n" for line in kept))

    def append(self, text: str) -> dict[str, Any]:
        """Write the line of an epoch, on disk when this returns; its values.

        Raises:
            OSError: The disk is full, or the log is a link by now.
        """
        with open_append(self._path) as f:
            f.write(f"{text}\n".encode())
            os.fsync(f.fileno())
        written: dict[str, Any] = parse_json(text)
        return written


def line_of(values: Mapping[str, Any]) -> str:
    """An epoch's numbers as a line; one that is not finite is null, which JSON has, unlike NaN."""
    return json.dumps(_finite(values), allow_nan=False)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log; a last line that a crash cut short is left out.

    Raises:
        RunError: The log is damaged in another way.
    """
    try:
        with open_regular(path) as f:
            content = f.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as e:
        raise _damaged(path, e.strerror or str(e)) from e
    if len(content) > MOST_BYTES:
        raise _damaged(path, f"more than {MOST_BYTES:,} bytes")
    *texts, rest = content.split(b"\n")
    lines = [_parsed(path, number, text) for number, text in enumerate(texts, 1)]
    if rest:
        try:
            lines.append(_parsed(path, len(lines) + 1, rest))
        except RunError:
            # What is whole was written with its end.
            return lines
    return lines


def recovered(path: Path, kept: Sequence[str] | None, epochs: int) -> tuple[list[str], str]:
    """The lines to continue from, and what was wrong with the log, in words; empty where nothing was.

    Args:
        path: The log, which may be lost or damaged.
        kept: Its lines as they stand in the checkpoint; None in one of an earlier version.
        epochs: How many the checkpoint counts.

    Raises:
        RunError: It is damaged, and the checkpoint does not hold it.
    """
    if kept is None:
        lines = [line for line in read_lines(path) if line["epoch"] <= epochs]
        return [*map(line_of, lines)], gaps(lines, epochs)
    try:
        found = [line for line in read_lines(path) if line["epoch"] <= epochs]
    except RunError as e:
        return [*kept], e.found
    same = found == [*map(parse_json, kept)]
    return [*kept], "" if same else gaps(found, epochs) or "other numbers than in the checkpoint"


def gaps(lines: Sequence[Mapping[str, Any]], epochs: int | None = None) -> str:
    """Which epochs a log lacks, in words; empty where it lacks none.

    Args:
        lines: As `read_lines` gives them.
        epochs: How many there were; as many as the log says when None.
    """
    found = [line["epoch"] for line in lines]
    last = max(found, default=0) if epochs is None else epochs
    # A record may claim any number of epochs: nothing here is as long as it says.
    there = {epoch for epoch in found if 1 <= epoch <= last}
    lacking = last - len(there)
    if lacking:
        first = islice((epoch for epoch in count(1) if epoch not in there), min(lacking, 5))
        return f"{lacking} of {last} epochs missing: {', '.join(map(str, first))}" + " and more" * (lacking > 5)
    in_order = all(epoch == expected for epoch, expected in zip(found, count(1), strict=False))
    return "" if len(found) == last and in_order else f"other epochs than 1 to {last}, each once and in order"


def _parsed(path: Path, number: int, text: bytes) -> dict[str, Any]:
    try:
        line = parse_json(text.decode())
    except ValueError as e:
        raise _damaged(path, f"line {number} cannot be read: {e}") from None
    if not isinstance(line, dict) or type(line.get("epoch")) is not int:
        raise _damaged(path, f"line {number} is not that of an epoch")
    return line


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _damaged(path: Path, found: str) -> RunError:
    return RunError(
        f"the log {path} is damaged",
        found=found,
        expected="a line of JSON for every epoch",
        hint="restore it; --resume writes it again, where the checkpoint next to it is of this version of emukit",
    )
