"""The page of a study: its pictures, one of each kind for each set of months, and which of its runs have pages.

Invariant: what is drawn is what `study.json` says; nothing is scored here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from emukit.figures.study import MOST_VARIANTS, VariantInterval, draw_coordinates, draw_intervals
from emukit.report.pages.model import Picture, StudyPage, identifier
from emukit.report.run_figures import Drawn, save
from emukit.runs.record import checked_command
from emukit.studies.study_file import StudyFile, StudyResult

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
