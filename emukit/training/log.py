"""The record of a training: one JSON line an epoch.

Invariant: the lines are those of the epochs that count. After a resume, what an interrupted try wrote past its last
checkpoint is gone, so that no epoch stands twice.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emukit.errors import RunError
from emukit.files import parse_json, write_text

LOG = "metrics.jsonl"


class MetricsLog:
    """Appends to `metrics.jsonl`."""

    def __init__(self, path: Path, keep_epochs: int) -> None:
        """Open the log, keeping the lines of the first `keep_epochs` epochs."""
        self._path = path
        kept = [line for line in read_lines(path) if line["epoch"] <= keep_epochs]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))

    def append(self, line: Mapping[str, Any]) -> dict[str, Any]:
        """Write one epoch's numbers; one that is not finite is null, which JSON has, unlike NaN. What was written."""
        written: dict[str, Any] = _finite(line)
        text = json.dumps(written, allow_nan=False)
        with self._path.open("a", encoding="utf-8") as f:
            f.write(text + "\n")
            f.flush()
        return written


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a log; a last line that a crash cut short is left out.

    Raises:
        RunError: The log is damaged in another way.
    """
    if not path.exists():
        return []
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise _damaged(path, str(e)) from e
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = parse_json(text)
        except json.JSONDecodeError:
            break
        if not isinstance(line, dict) or not isinstance(line.get("epoch"), int):
            raise _damaged(path, f"line {number} is no epoch")
        lines.append(line)
    return lines


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _damaged(path: Path, found: str) -> RunError:
    return RunError(f"the log {path} is damaged", found=found, hint="remove the run folder and train again")
