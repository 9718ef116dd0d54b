"""Collecting the leaderboard's rows from run folders, submissions and published results.

Invariant: every number comes from a file that says on which months it was reached.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from emukit.errors import RunError, SubmissionError
from emukit.experiments.run import Run, read_run
from emukit.report.leaderboard import NUMBERS, Row
from emukit.report.published import load_published
from emukit.submission import ENTRY_FILE, read_entry

SCORE_FILE = "score.json"


def collect_rows(places: Iterable[Path], published: bool = True) -> list[Row]:
    """Rows of every run and submission at or right below the places, their floors, and published results.

    Raises:
        RunError: A place is neither a run, a submission, nor a folder of such.
    """
    rows: list[Row] = []
    for place in places:
        found = [f for f in (place, *_folders(place)) if (f / "run.json").exists() or (f / ENTRY_FILE).exists()]
        if not found:
            raise RunError(
                f"{place} holds no run and no submission",
                expected="a folder that `emukit train` or `emukit submit` wrote, or a folder of such",
                hint="train first, or name another folder",
            )
        for folder in found:
            rows += _run_rows(read_run(folder)) if (folder / "run.json").exists() else _entry_rows(folder)
    rows += published_rows() if published else []
    # Every run of a split carries the same floors: one line of each is enough.
    return list({(r.split, r.name, r.kind, r.seed, r.score): r for r in rows}.values())


def published_rows() -> list[Row]:
    """What others reached, each with its split and source."""
    return [
        Row(
            r.name, "floor" if r.floor else "published", r.split, r.score, dict(r.numbers), None, r.parameters, r.source
        )
        for r in load_published()
    ]


def numbers_of(score: Mapping[str, Any]) -> dict[str, float]:
    """The six numbers of a score's JSON by ``variable.part``."""
    return {n: float(score[n.split(".")[0]][n.split(".")[1]]) for n in NUMBERS}


def split_name(protocol: str, evaluation: Mapping[str, Any]) -> str:
    """How the leaderboard names what was scored: `k360 validation: ssp370 2060-02..2070-01 member 0`."""
    return f"{protocol} {evaluation['set']}: {'; '.join(evaluation['spans'])}"


def _folders(place: Path) -> list[Path]:
    return sorted(p for p in place.iterdir() if p.is_dir()) if place.is_dir() else []


def _run_rows(run: Run) -> list[Row]:
    rows = []
    for path in sorted((run.folder / "scores").glob("*.json")):
        evaluation = run.evaluation(path.stem)
        assert evaluation is not None
        split = split_name(run.record["protocol"], evaluation) + f" [{run.record['data']['card']}]"
        # A closed-form fit has no random part: its seed says nothing.
        seed = run.record["seed"] if run.record.get("parameters") else None
        parameters = run.record.get("parameters")
        score = float(evaluation["score"])
        rows.append(Row(run.folder.name, "run", split, score, numbers_of(evaluation), seed, parameters))
        for name, floor in evaluation["floors"].items():
            rows.append(Row(name, "floor", split, float(floor["score"]), numbers_of(floor)))
    return rows


def _entry_rows(folder: Path) -> list[Row]:
    entry = read_entry(folder)
    path = folder / SCORE_FILE
    if not path.exists():
        return []
    try:
        scored = json.loads(path.read_text(encoding="utf-8"))
        return [Row(entry.name, "submission", scored["split"], float(scored["score"]), numbers_of(scored), entry.seed)]
    except (ValueError, KeyError, TypeError) as e:
        raise SubmissionError(f"{path} is damaged", found=repr(e), hint="score the submission again") from e
