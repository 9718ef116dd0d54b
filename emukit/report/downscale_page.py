"""The page of a downscaling run: scores next to the baselines, maps of errors, and pictures made while it trained.

Invariant: every number and picture is one that the run wrote; nothing is downscaled or scored here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from emukit.figures.learning import draw_learning
from emukit.metrics.downscaling import COLUMNS
from emukit.report.pages.model import DownscalePage, Picture, ScoreLine, ScoreTable, identifier
from emukit.report.run_figures import picture_size, save
from emukit.runs.downscale_record import ERRORS, SAMPLES, DownscaleRecord
from emukit.training.log import LOG, read_lines

CAPTION_OF_ERRORS = (
    "Mean absolute error in each cell over the steps of the validation: of the best baseline, of the network, and the "
    "difference, which is below zero where the network is better."
)
CAPTION_OF_SAMPLE = (
    "One step of the validation: what the coarse field does not say of the truth, and what the network puts there. "
    "A single answer is smoother than the truth; a realisation should be as rough."
)


def downscale_page(about: DownscaleRecord, scratch: Path) -> DownscalePage:
    """What the page of a finished run shows.

    Args:
        about: Its record.
        scratch: Where its learning curve is drawn.

    Raises:
        RunError: Its log is damaged.
    """
    folder, values = about.folder, about.values
    name = identifier(folder.name, folder)
    pictures, missing = [], []

    def add(file: Path, alt: str, caption: str, heading: str) -> None:
        size = picture_size(file)
        if size is None:
            missing.append(f"{heading.lower()}: there is no {file.name}")
        else:
            pictures.append(Picture(f"pictures/{name}/{file.name}", file, size, alt, caption, heading))

    add(folder / ERRORS, "Maps of the mean absolute error of each variable.", CAPTION_OF_ERRORS, "Errors on the map")
    samples = sorted((folder / SAMPLES).glob("*.png"))
    for file, when in zip(dict.fromkeys((*samples[:1], *samples[-1:])), ("the first", "the last"), strict=False):
        add(file, f"A validation step at {when} validation.", CAPTION_OF_SAMPLE, f"A step, at {when} validation")
    lines = read_lines(folder / LOG)
    if lines:
        curve = scratch / f"{name}-learning.webp"
        size = save(draw_learning({"network": lines}, "", "lower is better"), curve, "learning", folder.name)
        words = "Training loss, and the score on the validation months that selected the weights."
        pictures.append(Picture(f"pictures/{name}/learning.webp", curve, size, words, words, "Learning curves"))
    sessions = [s for s in values["sessions"] if isinstance(s, dict)]
    facts = {
        "parameters": f"{values['parameters']:,}" if isinstance(values.get("parameters"), int) else "",
        "epochs": f"{values.get('epochs', '')}, the best {values.get('best_epoch', '')}",
        "time": f"{values['seconds']:.0f} s" + (f" in {len(sessions)} sessions" if len(sessions) > 1 else ""),
    }
    origin = {
        "command": about.command,
        "protocol": about.protocol,
        "seed": str(about.seed),
        "trained on": "\n".join(map(str, values.get("train", ()))),
        "data": str(values["data"].get("source", "")),
        "data digest": str(values["identity"].get("data", "")),
        "started": str(sessions[0].get("started", "")) if sessions else "",
    }
    return DownscalePage(
        name,
        folder.resolve().name,
        {k: v for k, v in facts.items() if v},
        {k: v for k, v in origin.items() if v},
        json.dumps(values["recipe"], indent=1, ensure_ascii=False),
        _tables(about),
        pictures,
        missing,
    )


def _tables(about: DownscaleRecord) -> Sequence[ScoreTable]:
    """A table for each variable of each set: a row for each downscaler, the baselines always among them."""
    out = []
    for set_name, scores in about.scores.items():
        labels = [label for label in scores if label != "gain"]
        for variable, units in about.units.items():
            shown = [c for c in COLUMNS if any(f"{variable}.{c}" in scores[label] for label in labels)]
            rows = [ScoreLine(label, [scores[label].get(f"{variable}.{c}") for c in shown]) for label in labels]
            title = f"{variable}, {units}, {set_name}" if units else f"{variable}, {set_name}"
            heads = [COLUMNS[c] for c in shown]
            out.append(ScoreTable(title, heads, rows, scores["gain"].get(variable), about.months(set_name)))
    return out
