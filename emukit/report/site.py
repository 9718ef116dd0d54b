"""A report: what is gathered from runs, submissions and studies for the pages, and how these are written.

Invariant: everything that is there is named: as an entry, as not finished, or as left out with the reason. The folder
of a report is whole or as it was before, and it is replaced only where a report wrote every file in it. What cannot be
read is named on the first page, and never stands there as if it were not.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import tempfile
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from emukit import provenance
from emukit.competitions.ranking import Row
from emukit.data.archive import Archive
from emukit.data.protocol import ALL, LOSO
from emukit.distribution import VERSION
from emukit.errors import EmukitError, RunError
from emukit.figures.maps import round_limit
from emukit.files import parse_json, read_text
from emukit.outputs import Kind, new_output, refuse_taken
from emukit.progress import Reporter
from emukit.report import run_figures as kept
from emukit.report.content import downscale_page, run_entry, study_page, submission_entry, training_pictures
from emukit.report.pages import Errors, PageEntry, Picture, Site, Unfinished, identifier, render
from emukit.report.plot_data import LEAST_MONTHS, NO_SEASONS, NO_SPECTRA
from emukit.report.run_figures import Drawn, RunFigures, in_scale, run_figures_of
from emukit.runs.downscale_record import DownscaleRecord, read_downscale_record
from emukit.runs.leaderboard import RowSource, combine, entry_folders, folders_in, read_source
from emukit.runs.listing import summarise_run
from emukit.runs.record import DOWNSCALE_FILE, RECORD_FILE
from emukit.runs.run import Run
from emukit.studies.study_file import STUDY_FILE, StudyFile, read_study

MANIFEST = "report.json"
# What is shown of a run: the scenario that was left out says more than the months that selected.
SETS = ("test", "validation")
NOT_DRAWN = "no maps and curves: "
Opener = Callable[[Run], Archive]
CAPTIONS = {
    "maps": (
        "Errors on the map",
        "Prediction less the scored run of the climate model. Every map of a quantity in this report has this scale; "
        "what lies beyond it has the colour of its end.",
    ),
    "another_run": (
        "The same of another run of the climate model",
        "What chance alone does over these months: a prediction whose maps are as strong as these cannot be told from "
        "a run of the climate model by them.",
    ),
    "zonal": (
        "Zonal means of the errors",
        "The height is the sine of the latitude, so that equal heights are equal areas. The scale is that of the maps.",
    ),
    "indices": (
        "Annual indices on the map",
        "The mean over the scored years, prediction less truth. Each index has a scale of its own.",
    ),
    "regions": (
        "Scores by region",
        "What each region adds to the score: 1 is exact, 0 the mean of the truth, -1 the limit. "
        "White: in no region, or nothing there varies.",
    ),
    "days": (
        "Days of three cells",
        "The cells whose mean score is the lowest, the median and the highest; the number is that score.",
    ),
    "years": ("Global means", "Annual means over the whole scenario; every run of the climate model is a line."),
    "seasons": (
        "Seasonal cycle by latitude",
        "The mean year of the scored span, and under it the same less the scored run.",
    ),
    "rain": ("Distribution of precipitation", "How often cells have which amount, by their area."),
    "spectra": (
        "Spectra",
        "Of anomalies from a straight line of each calendar month: how much variance has which period, in cells.",
    ),
    "budget": (
        "Energy budget",
        "Annual means of the energy balance behind the prediction: forcings, and how each layer warms.",
    ),
    "uncertainty": (
        "How sure the response is",
        "Posterior standard deviation of the time mean of the forced response, next to the error of the prediction "
        "against the mean over members, which has chance of its own. Nothing is known of what the base gets wrong.",
    ),
    "discrepancy": (
        "Departures of scenarios",
        "How each training scenario departs from the response that all of them share, with one posterior standard "
        "deviation: its global mean, its climate indices, and what cells depart by besides. Dotted: foretold, after "
        "its training years.",
    ),
    "shares": (
        "What the response is made of",
        "Share of each component in the variance of the annual mean response over the training years; every row has a "
        "scale of its own. Components that go together there divide among them what either could explain.",
    ),
    "course": (
        "Global means of every step",
        "Of the trajectory that is scored. Where its lines leave those of the climate model it drifts.",
    ),
    "hovmoeller": (
        "Hovmoeller pictures",
        "Anomalies from the mean of the scored run, mean of the middle latitudes of the north, by longitude and time.",
    ),
    "ranks": ("Ranks", "How often a run of the climate model has each rank among the realisations."),
    "spread": (
        "Spread",
        "Of realisations and of runs of the climate model, each about the mean of all of them, and the difference.",
    ),
    "learning": ("Learning curves", "Training loss, and the score on the validation months that selected the weights."),
    "terms": ("Terms of the loss", "Each before its weight."),
}


@dataclass(frozen=True)
class Report:
    """What was written.

    Attributes:
        folder: Where.
        entries: How many pages of entries.
        studies: How many of studies.
        size: Of all files, in bytes.
        left_out: What could not be read, and why.
        undrawn: Names of runs by why they have no maps and curves.
        downscales: How many pages of downscaling runs.
    """

    folder: Path
    entries: int
    studies: int
    size: int
    left_out: Sequence[str]
    undrawn: Mapping[str, Sequence[str]]
    downscales: int = 0


def write_report(
    places: Iterable[Path],
    out: Path,
    opener: Opener,
    reporter: Reporter,
    *,
    published: bool = True,
    study_runs: bool = True,
    draw: int | None = None,
    overwrite: bool = False,
) -> Report:
    """Write the pages of all runs, submissions and studies at or right below the places.

    Args:
        places: Runs, submissions, studies, or folders of such.
        out: The folder of the report; new, empty, or one that a report wrote.
        opener: Opens the data of a run, where its pictures are not kept yet.
        reporter: Shows progress, and says what is left out.
        published: Whether published results stand on the leaderboard.
        study_runs: Whether the runs of studies have pages, where they are not named themselves.
        draw: How many runs have pictures, the best first, next to those that are named themselves; None: all.
        overwrite: Whether a report that is there may be replaced.

    Raises:
        EmukitError: A place holds nothing of this kind, or is damaged; or the folder is taken.
    """
    # What a link points to is written, and the link stays.
    target = out.resolve()
    _refuse_around(target)
    refuse_taken(target, KIND, overwrite)
    found = collect_places(places, study_runs)
    for why in found.left_out:
        reporter.say(f"note: left out: {why}")
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emukit-report-")))
        site = _site(found, to_draw(found, draw), opener, reporter, scratch, published)
        size = _write(site, target, overwrite)
    undrawn: dict[str, list[str]] = {}
    for entry in site.entries:
        for why in entry.missing:
            if why.startswith(NOT_DRAWN):
                undrawn.setdefault(why.removeprefix(NOT_DRAWN), []).append(entry.name)
    return Report(out, len(site.entries), len(site.studies), size, site.left_out, undrawn, len(site.downscales))


def _site(
    found: Collected, chosen: Container[Path], opener: Opener, reporter: Reporter, scratch: Path, published: bool
) -> Site:
    names = study_names(found.studies)
    sources = [named_source(source, names) for source in found.sources]
    rows = named_means(combine(sources, published), names)
    figures_of_runs: dict[Path, RunFigures] = {}
    missing: dict[Path, list[str]] = {}
    with reporter.step("report", len(found.sources)) as step:
        for source in found.sources:
            if source.record and source.folder not in chosen:
                why = (
                    "others are better; --draw N draws the best N"
                    if any(r.kind == "run" for r in source.rows)
                    else "it has no score here"
                )
                missing[source.folder] = [NOT_DRAWN + why]
            elif source.run:
                try:
                    figures_of_runs[source.folder] = _run_figures(source.run, opener, scratch)
                except EmukitError as e:
                    missing.setdefault(source.folder, []).append(f"{NOT_DRAWN}{e.line}")
            step.advance(note=source.folder.name)
    scales = shared_scales(figures_of_runs.values())
    entries: list[PageEntry] = []
    links: dict[tuple[object, ...], str] = {}
    for source in sources:
        folder = source.folder
        curves = folder in chosen
        entry = _entry(source, figures_of_runs.get(folder), scales, missing.get(folder, []), scratch, curves=curves)
        entry = replace(entry, name=names.get(Path(os.path.realpath(source.folder)), entry.name))
        entries.append(entry)
        own = [r for r in source.rows if r.kind in ("run", "submission")]
        links |= {row.key: entry.id for row in own}
    ids = {s.folder.resolve(): e.id for s, e in zip(found.sources, entries, strict=True)}
    studies = [study_page(folder, study, ids, scratch) for folder, study in found.studies]
    left_out, downscales = list(found.left_out), []
    for about in found.downscales:
        try:
            downscales.append(downscale_page(about, scratch))
        except EmukitError as e:
            left_out.append(e.line)
    written = f"Written {provenance.now()} by emukit {VERSION}."
    title = "emukit leaderboard" if rows else "emukit studies" if studies else "emukit report"
    return Site(title, written, rows, links, entries, studies, scales, left_out, found.unfinished, downscales)


def shared_scales(figures_of_runs: Iterable[RunFigures]) -> dict[str, float]:
    """The limit of the scale of each quantity, from all errors of all entries."""
    values: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]] = {}
    areas: dict[str, list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]] = {}
    for one in figures_of_runs:
        for name, f in one.fields.items():
            values.setdefault(name, []).append(f.error.ravel())
            areas.setdefault(name, []).append(one.grid.weights.ravel())
    return {name: round_limit(np.concatenate(v), np.concatenate(areas[name])) for name, v in values.items()}


def _run_figures(run: Run, opener: Opener, scratch: Path) -> RunFigures:
    sets = [s for s in SETS if (run.folder / "scores" / f"{s}.json").exists()]
    if not sets:
        raise RunError(
            "it was not evaluated where the truth is known", hint=f"emukit evaluate {run.folder} --split SET"
        )
    return run_figures_of(run, sets[0], _keep(run, scratch), lambda: opener(run))


def _keep(run: Run, scratch: Path) -> Path:
    """Where pictures of a run are kept: with it, or for this report alone where nothing can be written there."""
    if os.access(run.folder, os.W_OK):
        return run.folder / kept.FOLDER
    return scratch / identifier(run.folder.name, run.folder)


# What a run has no picture of where its data do not allow one.
LEFT_OUT = {"seasons": NO_SEASONS, "spectra": f"{NO_SPECTRA}, {LEAST_MONTHS} or more"}


def _entry(
    source: RowSource,
    shown: RunFigures | None,
    scales: Mapping[str, float],
    missing: list[str],
    scratch: Path,
    *,
    curves: bool,
) -> PageEntry:
    if source.run is None:
        return submission_entry(source)
    entry = run_entry(source.run, source)
    drawn: dict[str, Drawn] = {}
    try:
        if curves:
            drawn |= training_pictures(source.run, _keep(source.run, scratch))
    except EmukitError as e:
        missing = [*missing, f"no learning curves: {e.line}"]
    else:
        missing = [*missing, *(f"the log has gaps: {words}" for words in source.run.log_problems())]
    errors = None
    if shown:
        drawn |= {**in_scale(shown, scales), **shown.drawn}
        missing = [*missing, *(f"no {name}: {why}" for name, why in LEFT_OUT.items() if name not in shown.drawn)]
        own = [r for r in entry.rows if f" {shown.set_name}: " in r.split and r.score is not None]
        errors = Errors(
            shown.span,
            shown.span_key,
            shown.earth,
            shown.grid,
            shown.fields,
            {"score": own[0].score or 0.0, **own[0].numbers} if own else {},
            source.run.record.data.scoring.competition,
        )
    pictures = [
        # The other member is the same for all entries of a span.
        _picture(name, drawn[name], shown.span_key if shown and name == "another_run" else entry.id)
        for name in CAPTIONS
        if name in drawn
    ]
    return replace(entry, pictures=pictures, missing=missing, errors=errors)


def _picture(name: str, drawn: Drawn, owner: str) -> Picture:
    heading, caption = CAPTIONS[name]
    return Picture(f"pictures/{owner}/{name}.webp", drawn.file, drawn.size, drawn.alt, caption, heading)


def _write(site: Site, out: Path, overwrite: bool) -> int:
    size, names = 0, []
    with new_output(out, KIND, overwrite) as temporary:
        temporary.mkdir()

        def place(name: str) -> Path:
            names.append(name)
            path = temporary / name
            path.parent.mkdir(parents=True, exist_ok=True)
            return path

        for name, text in render(site):
            content = text.encode("utf-8", errors="replace")
            place(name).write_bytes(content)
            size += len(content)
        pictures = {p.file: p.source for e in site.entries for p in e.pictures}
        pictures |= {p.file: p.source for d in site.downscales for p in d.pictures}
        pictures |= {p.file: p.source for s in site.studies for shown in s.pictures.values() for p in shown}
        for name, picture in pictures.items():
            shutil.copyfile(picture, place(name))
            size += picture.stat().st_size
        manifest = json.dumps({"format": 1, "written": site.written, "files": sorted(names)}, indent=1)
        (temporary / MANIFEST).write_text(manifest, encoding="utf-8")
    return size + len(manifest)


def _refuse_around(out: Path) -> None:
    """Refuse a folder that this command runs in."""
    if Path.cwd().is_relative_to(out):
        raise EmukitError(
            f"{out} cannot be replaced by a report",
            found="the folder that this command runs in, or one above it",
            expected="a folder of its own",
            hint="--out report",
        )


def _strange(out: Path) -> str:
    """What in a folder no report wrote."""
    if not out.is_dir():
        return "a file"
    there = {p.relative_to(out) for p in out.rglob("*")}
    try:
        files = {Path(f) for f in parse_json(read_text(out / MANIFEST))["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        files = set()
    own = {Path(MANIFEST)}.union(files, *(f.parents for f in files))
    # A link is not a page, wherever it points.
    strange = sorted(str(p) for p in there if p not in own or (out / p).is_symlink())
    return ", ".join(strange[:5]) + (f" and {len(strange) - 5} more" if len(strange) > 5 else "")


KIND = Kind("a report of `emukit report`", _strange)


@dataclass
class Collected:
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


def collect_places(places: Iterable[Path], study_runs: bool = True) -> Collected:
    """Read everything that has a page.

    Args:
        places: As for `write_report`.
        study_runs: As for `write_report`.

    Raises:
        EmukitError: A place holds nothing, or is itself damaged.
    """
    found = Collected()
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
            found.left_out.append(e.line)
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
                found.left_out.append(e.line)
                continue
            found.studies.append((folder, study))
            for run in (r for v in study.variants for r in v.runs if study_runs and r.state == "finished"):
                if (folder / run.folder / RECORD_FILE).exists():
                    add(folder / run.folder, False)
                else:
                    found.left_out.append(f"the run {run.folder} of the study {study.name} is no longer there")
    return found


def _add_downscale(found: Collected, folder: Path, seen: set[Path], named: bool) -> None:
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
        found.left_out.append(e.line)
        return
    if about.state == "finished":
        found.downscales.append(about)
    else:
        command = f"{about.command or 'emukit train downscale'} --resume --out {shlex.quote(str(folder))}"
        found.unfinished.append(Unfinished(folder.name, summarise_run(folder).state, command))


def to_draw(found: Collected, most: int | None) -> set[Path]:
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
