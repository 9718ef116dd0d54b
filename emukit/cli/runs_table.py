"""How `emukit runs` shows runs: as a table, Markdown, CSV or JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from itertools import groupby
from textwrap import wrap
from typing import Any

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.text import Text

from emukit.runs.listing import RunSummary
from emukit.terminal import duration, markdown_text, one_line, size

HEADINGS = ("run", "state", "model", "protocol", "seed", "score", "set", "epoch", "time", "size")
RIGHT = ("seed", "score", "epoch", "time", "size")
# A title says protocol and set.
NARROW = tuple(h for h in HEADINGS if h not in ("run", "protocol", "set"))
RULE = "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
# A title is not folded to less.
MIN_TITLE = 60
STYLES = {"training": "green", "interrupted": "yellow", "failed": "red", "damaged": "red"}
VALUES = (
    "folder",
    "state",
    "held",
    "model",
    "protocol",
    "seed",
    "final",
    "set",
    "score",
    "scored",
    "epoch",
    "epochs",
    "seconds",
    "bytes",
    "started",
    "problem",
)


def tables(runs: Sequence[RunSummary], width: int) -> list[Text]:
    """One table for all that can be compared, and for what has no score; one line a run.

    Args:
        runs: In the order in which they are shown.
        width: Columns that there are; the names of runs are folded to what the others leave.
    """
    return [_table(title, list(group), width) for title, group in groupby(runs, _title)]


def _table(title: str, runs: Sequence[RunSummary], width: int) -> Text:
    # A table of rich takes a millisecond a row, and there may be thousands.
    shown = [HEADINGS.index(heading) for heading in ("run", *NARROW)]
    rows = [[one_line(cells[i]) for i in shown] for cells in map(_cells, runs)]
    widths = [max(map(cell_len, column)) for column in zip(("run", *NARROW), *rows, strict=True)]
    left = max(width - sum(widths[1:]) - len(NARROW), len("run"))
    widths[0] = min(widths[0], left)

    def line(cells: Sequence[str]) -> str:
        return " ".join(
            " " * (w - cell_len(cell)) + cell if heading in RIGHT else set_cell_size(cell, w)
            for heading, cell, w in zip(("run", *NARROW), cells, widths, strict=True)
        ).rstrip()

    total = sum(widths) + len(widths) - 1
    text = Text("\n".join(wrap(one_line(title), max(total, MIN_TITLE))) + "\n\n", style="bold")
    text = Text.assemble(text, f"{line(('run', *NARROW))}\n{RULE * total}\n")
    for run, (name, *cells) in zip(runs, rows, strict=True):
        first, *more = chop_cells(name, widths[0]) or [""]
        text.append("\n".join([line([first, *cells]), *more]) + "\n", STYLES.get(run.state))
    return text


def _title(run: RunSummary) -> str:
    if run.record is None:
        return "failed before anything was trained" if run.state == "failed" else "damaged"
    if run.state != "finished":
        return f"{run.record.identity.protocol}, not finished"
    ranked = run.ranked_by
    if ranked is None:
        return f"{run.record.identity.protocol}, no score"
    return f"{run.months[ranked[0]]} ({run.record.data.scoring.competition.direction})"


def markdown(runs: Sequence[RunSummary]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "".join("--:|" if h in RIGHT else "---|" for h in HEADINGS)]
    lines += ["| " + " | ".join(markdown_text(cell) for cell in _cells(run)) + " |" for run in runs]
    return "\n".join(lines) + "\n"


def to_csv(runs: Sequence[RunSummary]) -> str:
    """A CSV table of plain values."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, VALUES, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_values(run) for run in runs)
    return stream.getvalue()


def as_json(runs: Sequence[RunSummary]) -> str:
    """Plain values, with the score of every set."""
    return json.dumps([_values(run) | {"scores": run.scores} for run in runs], indent=1) + "\n"


def together(runs: Sequence[RunSummary]) -> str:
    """How many, and what they take on disk."""
    return f"{len(runs)} run{'s' if len(runs) != 1 else ''}, {size(sum(run.size for run in runs))}"


def problem_lines(runs: Sequence[RunSummary]) -> list[str]:
    """What is wrong with folders that are damaged, or failed."""
    return [f"{run.state}: {run.folder}: {run.problem}" for run in runs if run.problem]


def _values(run: RunSummary) -> dict[str, Any]:
    record, ranked = (run.record), run.ranked_by
    return {
        "folder": str(run.folder),
        "state": run.state,
        "held": run.held,
        "model": run.model,
        "protocol": record.identity.protocol if record else None,
        "seed": record.identity.seed if record else None,
        "final": bool(record.identity.final) if record else None,
        "set": ranked[0] if ranked else None,
        "score": ranked[1] if ranked else None,
        "scored": run.months[ranked[0]] if ranked else None,
        "epoch": run.epoch,
        "epochs": run.epochs,
        "seconds": round(run.seconds, 1),
        "bytes": run.size,
        "started": record.sessions[0].started if record and record.sessions else None,
        "problem": run.problem,
    }


def _cells(run: RunSummary) -> tuple[str, ...]:
    values = _values(run)
    state = run.state + (", in use" if run.held and run.state != "training" else "")
    name = f"{run.folder}{' (final fit)' if values['final'] else ''}"
    epoch = "" if run.epoch is None else f"{run.epoch}/{run.epochs}" if run.epochs else str(run.epoch)
    score = "" if values["score"] is None else f"{values['score']:.4f}"
    seed = "" if values["seed"] is None else str(values["seed"])
    time = duration(run.seconds) if run.record else ""
    return (
        name,
        state,
        run.model,
        values["protocol"] or "",
        seed,
        score,
        values["set"] or "",
        epoch,
        time,
        size(run.size),
    )
