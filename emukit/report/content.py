"""What the pages of runs, submissions, studies and downscaling runs say and show, from the files in their folders.

Invariant: every value is what the folder says; nothing is guessed or scored here, and what is not known is left out.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from emukit.figures.studies import (
    MOST_VARIANTS,
    Log,
    VariantInterval,
    draw_coordinates,
    draw_intervals,
    draw_learning,
    draw_terms,
    has_terms,
)
from emukit.files import below, parse_json, sha256
from emukit.metrics.downscaling import COLUMNS, texts_of
from emukit.report.pages import DownscalePage, PageEntry, PageTable, Picture, ScoreLine, StudyPage, identifier
from emukit.report.run_figures import Drawn, keep_drawn, picture_size, save
from emukit.runs.downscale_record import ERRORS, SAMPLES, DownscaleRecord
from emukit.runs.leaderboard import RowSource
from emukit.runs.record import checked_command
from emukit.runs.run import Run
from emukit.studies.study_file import StudyFile, StudyResult
from emukit.submission import read_entry
from emukit.terminal import duration, size
from emukit.training.log import LOG, read_lines

CAPTION_OF_INTERVALS = (
    "A line a variant, a panel a number in its units: the difference from the base, at zero, with its 95 % confidence "
    "interval over seeds and years. Blue dot: better. Orange square: worse. Grey dot: neither is better. Open grey "
    "ring: the interval holds zero, and nothing tells the two apart. An arrow: beyond the axis, with its number."
)
CAPTION_OF_COORDINATES = (
    f"A line a variant (of many, the best {MOST_VARIANTS} and the base), "
    "an axis a number in its units, each from the best variant at the bottom to the worst; bars are a "
    "standard deviation over seeds to either side. A triangle: beyond the axis, with its number. Lines that cross "
    "between two axes buy the one number with the other."
)
CAPTION_OF_ERRORS = (
    "Mean absolute error in each cell over the steps of the validation: of the best baseline, of the network, and the "
    "difference, which is below zero where the network is better."
)
CAPTION_OF_SAMPLE = (
    "One step of the validation: what the coarse field does not say of the truth, and what the network puts there. "
    "A single answer is smoother than the truth; a realisation should be as rough."
)


def run_entry(run: Run, source: RowSource) -> PageEntry:
    """The page of a run, without pictures."""
    record = run.record
    identity, data = record.identity, record.data
    sessions = record.sessions
    facts = {
        "emulator": run.recipe.emulator,
        "description": run.recipe.description,
        "time": duration(record.seconds) + (f" in {len(sessions)} sessions" if len(sessions) > 1 else ""),
        "parameters": "" if record.parameters is None else f"{record.parameters:,}",
        "epochs": _epochs(run),
        "size on disk": size(sum(f.stat().st_size for f in (run.folder / "emulator").glob("*") if f.is_file())),
        "machine": "" if not sessions else _machine(sessions[-1].machine),
        "findings": "\n".join(record.findings),
    }
    provenance = {
        "command": record.command,
        "protocol": identity.protocol,
        "seed": str(identity.seed),
        "members": "all" if identity.members is None else ", ".join(map(str, identity.members)),
        "trained on": "\n".join(record.train),
        "scored on": "\n".join(f"{name}: {'; '.join(spans)}" for name, spans in record.scored.items()),
        "notes": "\n".join(record.notes),
        "data": data.source,
        "data card": data.card + (f" (--card {data.card_option})" if data.card_option else ""),
        "converted": ", ".join(f"{k} from {v}" for k, v in data.convert.items()),
        "data digest": data.digest,
        "recipe digest": identity.recipe,
        "selected by the run": identity.final or "",
    }
    lines = [
        {
            "started": s.started,
            "code": _commit(s.git),
            "versions": ", ".join(f"{k} {v}" for k, v in s.versions.items()),
            "machine": _machine(s.machine),
        }
        for s in sessions
    ]
    return PageEntry(
        identifier(run.folder.name, run.folder),
        run.folder.resolve().name,
        run.folder.resolve().name,
        "run",
        [r for r in source.rows if r.kind == "run"],
        _known(facts),
        _known(provenance),
        lines,
        json.dumps(record.recipe, indent=1, ensure_ascii=False),
    )


def submission_entry(source: RowSource) -> PageEntry:
    """The page of a submission.

    Raises:
        SubmissionError: It is damaged.
    """
    entry = read_entry(source.folder)
    validation = ", ".join(f"{k} {v:.4f}" for k, v in entry.validation.items())
    facts = {"emulator": entry.emulator, "validation": validation, "rows": f"{entry.rows:,}"}
    provenance = {
        "written": entry.created,
        "command": "\n".join(entry.commands) or entry.command,
        "protocol": entry.protocol,
        "seed": str(entry.seed),
        "predicts": f"{entry.scenario} {entry.first_month}..{entry.last_month}",
        "to be scored on": entry.split,
        "data digest": entry.data_digest,
        "code": f"emukit {entry.emukit_version}" + (f", commit {entry.git_commit}" if entry.git_commit else ""),
        "file": f"{entry.csv}, SHA-256 {entry.csv_sha256}",
    }
    return PageEntry(
        identifier(entry.name, source.folder),
        entry.name,
        source.folder.resolve().name,
        "submission",
        source.rows,
        _known(facts),
        _known(provenance),
        [],
        _readable(entry.recipe),
        missing=["maps and curves: a submission is a table of numbers; name the run that made it to see them"],
    )


def training_pictures(run: Run, root: Path) -> dict[str, Drawn]:
    """Learning curves of all networks of a run, and the terms of the loss where it is a single one.

    Raises:
        RunError: A log is damaged.
    """
    logs = _logs(run.folder)
    if not logs:
        return {}
    mark = hashlib.sha256("".join(map(sha256, below(run.folder, LOG))).encode()).hexdigest()[:8]
    own = next(iter(logs.values()))
    many = f" of {len(logs)} networks" if len(logs) > 1 else ""
    last = own[-1]["epoch"]
    out = {
        "learning": keep_drawn(
            root / f"learning-{mark}.webp",
            lambda: draw_learning(logs, "", run.record.data.scoring.competition.direction),
            f"Training loss and validation score{many} over {last} epochs.",
        )
    }
    if len(logs) == 1 and has_terms(own):
        words = f"The terms of the loss over {last} epochs."
        out["terms"] = keep_drawn(root / f"terms-{mark}.webp", lambda: draw_terms(own, ""), words)
    return out


def _logs(folder: Path) -> dict[str, Log]:
    """Logs of a run and of what it is made of, by their places in it."""
    out: dict[str, Log] = {}
    for path in below(folder, LOG):
        lines = read_lines(path)
        place = path.parent.relative_to(folder).as_posix()
        if lines:
            out["network" if place == "." else place.replace("bases/", "")] = lines
    return out


def _epochs(run: Run) -> str:
    record = run.record
    if record.epochs is None:
        return ""
    best = "" if record.best_epoch is None else f", the best {record.best_epoch}"
    return f"{record.epochs}{best}" + (", averaged weights" if record.best_average else "")


def _commit(git: Mapping[str, str | bool]) -> str:
    if "commit" not in git:
        return "not a checkout"
    return f"commit {git['commit']}" + (", changed since" if git.get("changed") else "")


def _machine(machine: Mapping[str, str | int]) -> str:
    return ", ".join(f"{k} {v}" for k, v in machine.items())


def _known(values: Mapping[str, str]) -> dict[str, str]:
    return {k: v for k, v in values.items() if v}


def _readable(recipe: str) -> str:
    """The recipe of an entry: JSON with line ends, where it is JSON."""
    try:
        return json.dumps(parse_json(recipe), indent=1, ensure_ascii=False)
    except json.JSONDecodeError:
        return recipe


def study_page(folder: Path, study: StudyFile, ids: Mapping[Path, str], scratch: Path) -> StudyPage:
    """What the page of a study shows.

    Args:
        folder: Of the study.
        study: As it was read from there.
        ids: Real folder of a run to the id of its entry, for runs that have a page.
        scratch: Where pictures are drawn.
    """
    name = identifier(study.name, folder)
    pictures = {}
    # A line over the base's would hide it.
    same = f" Not drawn, for their runs are the base's: {', '.join(study.same_as_base)}." if study.same_as_base else ""
    for i, result in enumerate(study.results):
        kinds = {"intervals": (_intervals, CAPTION_OF_INTERVALS), "coordinates": (_coordinates, CAPTION_OF_COORDINATES)}
        shown = []
        for kind, (draw, caption) in kinds.items():
            drawn = draw(study, result, scratch / f"{name}-{i}-{kind}.webp")
            if drawn:
                file = f"pictures/{name}/{i}-{kind}.webp"
                shown.append(Picture(file, drawn.file, drawn.size, drawn.alt, caption + same, ""))
        pictures[result.protocol, result.set] = shown
    runs = {r.folder: Path(os.path.realpath(folder / r.folder)) for v in study.variants for r in v.runs}
    entries = {place: ids[real] for place, real in runs.items() if real in ids}
    best = next((v.runs[0].command for v in study.variants if v.name == study.best and v.runs), "")
    return StudyPage(name, study, pictures, entries, checked_command(best))


def _intervals(study: StudyFile, result: StudyResult, path: Path) -> Drawn | None:
    variants = {
        row.variant: {
            k: VariantInterval(d.mean, d.low, d.high)
            for k, d in row.difference.items()
            if d.low is not None and d.high is not None
        }
        for row in result.rows
        if row.difference and row.variant not in study.same_as_base
    }
    variants = {name: known for name, known in variants.items() if known}
    if not variants:
        return None
    base = study.variants[0].name
    figure = draw_intervals(
        variants, base, f"{study.name}: {result.protocol}, {result.set}", study.competition.competition
    )
    size = save(figure, path, "intervals", study.name)
    said = "; ".join(f"{row.variant}: {row.sentence}" for row in result.rows if row.difference)
    return Drawn(path, size, f"Differences from {base} with confidence intervals. {said}.")


def _coordinates(study: StudyFile, result: StudyResult, path: Path) -> Drawn | None:
    same = study.same_as_base
    means = {row.variant: row.mean for row in result.rows if row.mean and row.variant not in same}
    if len(means) < 2:
        return None
    spreads = {row.variant: row.sd for row in result.rows if row.mean and row.sd}
    title = f"{study.name}: {result.protocol}, {result.set}"
    size = save(
        draw_coordinates(means, spreads, study.variants[0].name, title, study.competition.competition),
        path,
        "coordinates",
        study.name,
    )
    which = "every variant" if len(means) <= MOST_VARIANTS else f"the {MOST_VARIANTS} best variants"
    return Drawn(path, size, f"The score and the numbers of {which} as lines; the table below holds them all.")


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
        pixels = picture_size(file)
        if pixels is None:
            missing.append(f"{heading.lower()}: there is no {file.name}")
        else:
            pictures.append(Picture(f"pictures/{name}/{file.name}", file, pixels, alt, caption, heading))

    add(folder / ERRORS, "Maps of the mean absolute error of each variable.", CAPTION_OF_ERRORS, "Errors on the map")
    samples = sorted((folder / SAMPLES).glob("*.png"))
    for file, when in zip(dict.fromkeys((*samples[:1], *samples[-1:])), ("the first", "the last"), strict=False):
        add(file, f"A validation step at {when} validation.", CAPTION_OF_SAMPLE, f"A step, at {when} validation")
    lines = read_lines(folder / LOG)
    if lines:
        curve = scratch / f"{name}-learning.webp"
        pixels = save(draw_learning({"network": lines}, "", "lower is better"), curve, "learning", folder.name)
        words = "Training loss, and the score on the validation months that selected the weights."
        pictures.append(Picture(f"pictures/{name}/learning.webp", curve, pixels, words, words, "Learning curves"))
    sessions = [s for s in values["sessions"] if isinstance(s, dict)]
    spread = values.get("fold_spread")
    spreads = spread.items() if isinstance(spread, dict) else ()
    facts = {
        "parameters": f"{values['parameters']:,}" if isinstance(values.get("parameters"), int) else "",
        "epochs": f"{values.get('epochs', '')}, the best {values.get('best_epoch', '')}",
        "time": f"{values['seconds']:.0f} s" + (f" in {len(sessions)} sessions" if len(sessions) > 1 else ""),
        "spread over error on training steps, before it was calibrated": ", ".join(
            f"{v} {s:.2f}" for v, s in spreads if isinstance(s, int | float)
        ),
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


def _tables(about: DownscaleRecord) -> list[PageTable]:
    """A table for each variable of each set: a row for each downscaler, the baselines always among them."""
    out = []
    for set_name, scores in about.scores.items():
        labels = [label for label in scores if label != "gain"]
        for variable, units in about.units.items():
            shown = [c for c in COLUMNS if any(f"{variable}.{c}" in scores[label] for label in labels)]
            texts = texts_of({label: scores[label] for label in labels}, variable, shown)
            rows = [ScoreLine(label, values) for label, values in texts.items()]
            title = f"{variable}, {units}, {set_name}" if units else f"{variable}, {set_name}"
            heads = [COLUMNS[c] for c in shown]
            out.append(PageTable(title, heads, rows, scores["gain"].get(variable), about.months(set_name)))
    return out
