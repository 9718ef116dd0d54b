"""What a report is of: the runs, submissions and studies at or right below some places, and what they are called.

Invariant: everything that is there is named: as an entry, as not finished, or as left out with the reason.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from emukit.competitions.ranking import Row
from emukit.data.protocol import ALL, LOSO
from emukit.errors import EmukitError, RunError
from emukit.report.pages.model import Unfinished
from emukit.report.study_file import STUDY_FILE, StudyFile, read_study
from emukit.runs.downscale_record import DOWNSCALE_FILE, DownscaleRecord, read_downscale_record
from emukit.runs.leaderboard import RowSource, entry_folders, folders_in, read_source
from emukit.runs.listing import summarise_run
from emukit.runs.record import RECORD_FILE


@dataclass
class Findings:
    """What the places hold.

    Attributes:
        sources: Finished runs and submissions, each once.
        named: Folders of those that were named themselves, not found in a folder of several.
        studies: Folders with a study.
        unfinished: Runs that have no emulator yet.
        left_out: What could not be read.
        downscales: Finished downscaling runs.
    """

    sources: list[RowSource] = field(default_factory=list)
    named: set[Path] = field(default_factory=set)
    studies: list[tuple[Path, StudyFile]] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    downscales: list[DownscaleRecord] = field(default_factory=list)


def collect_places(places: Iterable[Path], study_runs: bool = True) -> Findings:
    """Read everything that has a page.

    Args:
        places: As for `write_report`.
        study_runs: As for `write_report`.

    Raises:
        EmukitError: A place holds nothing, or is itself damaged.
    """
    found = Findings()
    seen: set[Path] = set()

    def add(folder: Path, named: bool) -> None:
        # Unlike Path.resolve, which raises where links lead in a circle.
        real = Path(os.path.realpath(folder))
        if real in seen:
            return
        seen.add(real)
        try:
            source = read_source(folder)
            run = source.run
        except EmukitError as e:
            if named:
                raise
            found.left_out.append(reason(e))
            return
        if run and run.record.state != "finished":
            found.unfinished.append(Unfinished(folder.name, summarise_run(folder).state, run.go_on()))
        else:
            found.sources.append(source)
            if named:
                found.named.add(folder)

    places = list(places)
    if not places:
        raise RunError(
            "there is nothing to report on",
            found="neither runs/ nor submissions/ nor ablations/ here",
            expected="a folder that `emukit train`, `emukit submit` or `emukit ablate` wrote, or a folder of such",
            hint="train first, or name a folder",
        )
    for place in places:
        entries = entry_folders(place)
        inside = (place, *folders_in(place))
        studies = [f for f in inside if (f / STUDY_FILE).exists()]
        downscales = [f for f in inside if (f / DOWNSCALE_FILE).exists() and f not in entries]
        if not entries and not studies and not downscales:
            raise RunError(
                f"{place} holds no run, no submission and no study" if place.exists() else f"there is no {place}",
                expected="a folder that `emukit train`, `emukit submit` or `emukit ablate` wrote, or a folder of such",
                hint="train first, or name another folder",
            )
        for folder in entries:
            add(folder, folder == place)
        for folder in downscales:
            _add_downscale(found, folder, seen, folder == place)
        for folder in studies:
            try:
                study = read_study(folder)
            except EmukitError as e:
                if folder == place:
                    raise
                found.left_out.append(reason(e))
                continue
            found.studies.append((folder, study))
            for run in (r for v in study.variants for r in v.runs if study_runs and r.state == "finished"):
                if (folder / run.folder / RECORD_FILE).exists():
                    add(folder / run.folder, False)
                else:
                    found.left_out.append(f"the run {run.folder} of the study {study.name} is no longer there")
    return found


def _add_downscale(found: Findings, folder: Path, seen: set[Path], named: bool) -> None:
    """Read a downscaling run, once.

    Raises:
        RunError: It was named itself, and is damaged.
    """
    real = Path(os.path.realpath(folder))
    if real in seen:
        return
    seen.add(real)
    try:
        about = read_downscale_record(folder)
    except EmukitError as e:
        if named:
            raise
        found.left_out.append(reason(e))
        return
    if about.state == "finished":
        found.downscales.append(about)
    else:
        command = f"{about.command or 'emukit train downscale'} --resume --out {shlex.quote(str(folder))}"
        found.unfinished.append(Unfinished(folder.name, summarise_run(folder).state, command))


def to_draw(found: Findings, most: int | None) -> set[Path]:
    """Folders of the runs that get pictures: those that were named, and the best of the others.

    Runs of different splits are taken in turns, the best of each first.

    Args:
        found: Everything that has a page.
        most: How many runs that were not named; None: all.
    """
    splits: dict[str, list[tuple[Row, Path]]] = {}
    for source in found.sources:
        if source.record and source.folder not in found.named:
            own = next((row for row in source.rows if row.kind == "run"), None)
            if own:
                splits.setdefault(own.split, []).append((own, source.folder))
    places = [
        (place, folder)
        for rows in splits.values()
        for place, (_, folder) in enumerate(sorted(rows, key=lambda row: row[0].order))
    ]
    return found.named | {folder for _, folder in sorted(places, key=lambda place: place[0])[:most]}


def study_names(studies: Iterable[tuple[Path, StudyFile]]) -> dict[Path, str]:
    """Real folder of a run of a study to what it is there: ``STUDY: VARIANT, seed N``.

    With its protocol where the study has several; of a run that several studies share, what the first says.
    """
    names: dict[Path, str] = {}
    for folder, study in studies:
        several = len({run.protocol for v in study.variants for run in v.runs}) > 1
        for variant in study.variants:
            for run in variant.runs:
                words = (variant.name, run.protocol if several else "", f"seed {run.seed}")
                name = f"{study.name}: {', '.join(filter(None, words))}"
                names.setdefault(Path(os.path.realpath(folder / run.folder)), name)
    return names


def named_source(source: RowSource, names: Mapping[Path, str]) -> RowSource:
    """A source with its own rows under the name that its run has in a study; that says the seed already."""
    name = names.get(Path(os.path.realpath(source.folder)))
    if source.record is None or name is None:
        return source
    known = source.folder.name
    rows = [
        replace(r, name=name + r.name.removeprefix(known), seed=None) if r.kind == "run" else r for r in source.rows
    ]
    return replace(source, rows=rows)


def named_means(rows: Iterable[Row], names: Mapping[Path, str]) -> list[Row]:
    """The rows; means over scenarios left out, which are called after several folders, by what these are in a study."""
    of_folder = {folder.name: name for folder, name in names.items()}

    def named(row: Row) -> Row:
        folders = row.name.split(" + ")
        if row.kind != "run" or len(folders) < 2 or not all(folder in of_folder for folder in folders):
            return row
        each = [", ".join(ALL if w.startswith(LOSO) else w for w in of_folder[f].split(", ")) for f in folders]
        return replace(row, name=" + ".join(dict.fromkeys(each)), seed=None)

    return [named(row) for row in rows]


def reason(error: EmukitError) -> str:
    """What is wrong, in a line."""
    return f"{error.what} ({error.found})" if error.found else error.what
