"""Pictures of a run, as files.

Invariant: a folder of pictures is whole and of one run, one set and one span, or it is not there; nothing in it was
drawn from other data than it says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from emukit import provenance
from emukit.competitions.registry import competition_of
from emukit.data.archive import Archive
from emukit.data.encodings import daily_fields, seasonal_fields, seasonal_positions
from emukit.data.frames import FrameEncoder
from emukit.data.grid import Grid
from emukit.data.split import Span, Split, is_hidden
from emukit.data.time import in_words
from emukit.errors import EmukitError, ProtocolError
from emukit.figures.curves import (
    draw_budget,
    draw_course,
    draw_discrepancies,
    draw_ranks,
    draw_seasons,
    draw_spectra,
    draw_window,
    draw_years,
)
from emukit.figures.figure import write_png
from emukit.figures.maps import draw_hovmoeller, draw_maps
from emukit.files import inside, open_regular, parse_json, read_text
from emukit.outputs import Kind, new_output, refuse_taken
from emukit.progress import Reporter
from emukit.report import plot_data as pictures
from emukit.report.index_pictures import ShownIndices, collect_indices, index_figures
from emukit.report.plot_data import REALISATIONS, Shown, collect
from emukit.report.variability import VariabilityComparison, compare_variability
from emukit.runs.evaluate import scored_spans
from emukit.runs.run import Run

FOLDER = "plots"
VARIABILITY_FILE = "variability.json"
# What it was called in earlier versions.
FORMER_FILE = "weather.json"
# As PNG names the program that wrote a file.
SOFTWARE = "emukit"
PICTURES = (
    "maps", "change", "years", "seasons", "spectra", "ranks", "spread", "budget", "uncertainty", "discrepancy",
    "shares", "indices", "regions", "days", "hovmoeller", "course",
)  # fmt: skip
# Of fields of all steps at once.
ON_DISK = "the data stay on disk, and fields of all steps do not fit into memory"
DEFAULT_SETS = ("validation", "test")


@dataclass(frozen=True, eq=False)
class Album:
    """The pictures of one span.

    Attributes:
        folder: Where they are.
        title: Which run, set and months.
        files: What was written.
        left_out: Picture to why there is none.
        variability: How like that of members it is; None where there are too few months.
    """

    folder: Path
    title: str
    files: tuple[str, ...]
    left_out: Mapping[str, str]
    variability: VariabilityComparison | None


def plot_run(
    run: Run, archive: Archive, name: str | None, out: Path | None, reporter: Reporter, overwrite: bool = False
) -> list[Album]:
    """Draw every span of a set among the members of the climate model's ensemble.

    Args:
        run: A finished run.
        archive: What it is compared with.
        name: The set; None: validation and test, each where its truth is visible.
        out: The folder in which each span gets one; ``plots`` in the run folder when None.
        reporter: Shows progress.
        overwrite: Whether pictures that are there may be replaced.

    Raises:
        RunError: The run has not finished, or is damaged.
        ProtocolError: There is no such set, nothing visible to compare with, or the archive does not fit.
        EmukitError: The pictures would be of other data than the run, inside the run; or a folder is taken.
    """
    split = run.split(archive)
    spans = {name: scored_spans(archive, split, name)} if name else _visible_sets(archive, split, reporter)
    if out is None and archive.digest != run.record.data.digest:
        raise EmukitError(
            f"pictures of other data are not kept in the run {run.folder}",
            found=f"{archive.source}, whose values are others than those it was trained on",
            hint="name a folder for them with --out DIR",
        )
    if archive.on_disk and competition_of(archive).maps is None:
        raise ProtocolError(
            "there are no pictures of data on disk", found=ON_DISK, hint="plot coarser data, or on a larger machine"
        )
    emulator = run.emulator(archive)
    places = {_place(archive, s, span, spans[s]): (s, span) for s in spans for span in spans[s]}
    folders = {out / place if out else inside(run.folder, FOLDER, place): of for place, of in places.items()}
    for folder in folders:
        refuse_taken(folder, KIND, overwrite)
    albums = []
    with reporter.step("plot", len(folders)) as step:
        for folder, (set_name, span) in folders.items():
            title = f"{run.folder.resolve().name}, {set_name}: {span.text(archive)}"
            shown = None if archive.on_disk else collect(emulator, archive, span)
            indices = collect_indices(emulator, archive, span)
            albums.append(_write(shown, indices, run, archive, folder, title, overwrite))
            step.advance(note=str(folder))
    return albums


def _visible_sets(archive: Archive, split: Split, reporter: Reporter) -> dict[str, tuple[Span, ...]]:
    sets = {name: split.scored[name] for name in DEFAULT_SETS if name in split.scored}
    visible = {name: spans for name, spans in sets.items() if not any(is_hidden(archive, s) for s in spans)}
    hidden = {name: "; ".join(s.text(archive) for s in spans) for name, spans in sets.items() if name not in visible}
    if not visible:
        raise ProtocolError(
            f"there is nothing visible to compare with under {split.protocol}",
            found="; ".join(f"the truth of {name}, {text}, is hidden" for name, text in hidden.items()),
            expected="a set whose truth is in the store",
            hint="plot the run that selected, or name a store that holds the truth with --data",
        )
    for name, text in hidden.items():
        reporter.say(f"note: no pictures of {name}: the truth of {text} is hidden in this store")
    return visible


def _place(archive: Archive, name: str, span: Span, spans: tuple[Span, ...]) -> str:
    """A folder name of its own for every span: with its first month where a scenario has several."""
    alone = sum(s.scenario == span.scenario for s in spans) == 1
    return f"{name}-{span.scenario}" + ("" if alone else f"-{archive[span.scenario].time.text(span.start)}")


def _strange(folder: Path) -> str:
    """What in a folder no `emukit plot` wrote."""
    if not folder.is_dir():
        return "a file"
    return ", ".join(sorted(p.name for p in folder.iterdir() if not _is_own(p))[:5])


def _is_own(path: Path) -> bool:
    try:
        if path.name in (VARIABILITY_FILE, FORMER_FILE):
            head = parse_json(read_text(path))
            return isinstance(head, dict) and {"title", "written", "data", "recipe"} <= head.keys()
        if path.suffix != ".png" or path.stem not in PICTURES:
            return False
        with open_regular(path) as file, Image.open(file) as image:
            return bool(image.info.get("Software") == SOFTWARE)
    except (OSError, ValueError, UnidentifiedImageError):
        return False


KIND = Kind("pictures of `emukit plot`", _strange)


def _write(
    shown: Shown | None,
    indices: ShownIndices | None,
    run: Run,
    archive: Archive,
    folder: Path,
    title: str,
    overwrite: bool,
) -> Album:
    figures, left_out = draw(shown, title) if shown else ({}, dict.fromkeys(PICTURES[:8], ON_DISK))
    if indices:
        figures |= {name: figure for name, (figure, _) in index_figures(indices, title, whole=True).items()}
    variability = compare_variability(shown) if shown and "spectra" not in left_out else None
    about = {"Title": title, "Software": SOFTWARE, "Description": f"data {archive.digest}, recipe {run.recipe.digest}"}
    with new_output(folder, KIND, overwrite) as temporary:
        temporary.mkdir()
        for name, figure in figures.items():
            write_png(figure, temporary / f"{name}.png", about)
        if variability:
            head = {"title": title, "written": provenance.now(), "data": archive.digest, "recipe": run.recipe.digest}
            text = json.dumps(head | variability.as_dict(), indent=1)
            (temporary / VARIABILITY_FILE).write_text(text, encoding="utf-8")
    files = (*(f"{name}.png" for name in figures), *((VARIABILITY_FILE,) if variability else ()))
    return Album(folder, title, files, left_out, variability)


def draw(shown: Shown, title: str) -> tuple[dict[str, Figure], dict[str, str]]:
    """All pictures of a span by name, and why others are left out."""
    span, scenario = shown.span, shown.scenario
    scored = pictures.year_of(scenario, span.start), pictures.year_of(scenario, span.stop)
    figures = {
        "maps": draw_maps(
            pictures.error_rows(shown), shown.archive.grid, f"{title}\nerrors, with their area means", earth=shown.earth
        ),
        "years": draw_years(
            pictures.annual_means(shown),
            scored,
            pictures.hidden_years(scenario),
            f"{title}\nannual means",
            in_words(scenario.time.step),
        ),
    }
    left_out = {}
    if scenario.time.step == "year":
        left_out["seasons"] = pictures.NO_SEASONS
    else:
        figures["seasons"] = draw_seasons(
            pictures.mean_years(shown), f"{title}\nmean year of the scored {in_words(scenario.time.step)}"
        )
    if shown.change:
        rows, words = pictures.change_rows(shown, shown.change), pictures.change_words(shown, shown.change)
        figures["change"] = draw_maps(rows, shown.archive.grid, f"{title}\n{words}", earth=shown.earth)
    else:
        left_out["change"] = "no years before the scored ones are visible to begin from"
    if why := pictures.why_no_spectra(shown):
        left_out["spectra"] = why
    else:
        figures["spectra"] = draw_spectra(
            pictures.power(shown), f"{title}\nspectra of anomalies from a straight line of each calendar month"
        )
    middles, panels = pictures.annual_budget(shown)
    if len(middles):
        figures["budget"] = draw_budget(middles, panels, f"{title}\nannual means of the energy budget")
    if shown.explanation:
        grid, earth = shown.archive.grid, shown.earth
        rows = pictures.uncertainty_rows(shown, shown.explanation)
        figures["uncertainty"] = draw_maps(rows, grid, f"{title}\nhow sure the forced response is", earth=earth)
        departures = pictures.discrepancy_panels(shown.explanation)
        figures["discrepancy"] = draw_discrepancies(departures, f"{title}\ndepartures of training scenarios")
        rows = pictures.share_rows(shown, shown.explanation)
        words = "share of each component in the annual mean response"
        figures["shares"] = draw_maps(rows, grid, f"{title}\n{words}", earth=earth)
    found = pictures.sections(shown)
    if found is None:
        left_out["hovmoeller"] = "a single step, or a single row, is no course"
    else:
        figures["hovmoeller"] = draw_hovmoeller(*found, f"{title}\nanomalies from the mean of the member")
    means = pictures.course(shown)
    if means:
        begin = scenario.time.text(span.start)
        figures["course"] = draw_course(means, begin, f"{title}\nglobal means of every step")
    histograms = pictures.ranks(shown)
    if histograms:
        figures["ranks"] = draw_ranks(histograms, f"{title}\nmembers among {REALISATIONS} realisations")
        spread = pictures.spread_rows(shown)
        if spread:
            words = "spread of realisations and of members, each about the mean of all of them"
            figures["spread"] = draw_maps(spread, shown.archive.grid, f"{title}\n{words}", earth=shown.earth)
        else:
            left_out["spread"] = "a single member has none to compare with"
    else:
        left_out["ranks"] = left_out["spread"] = (
            "the emulator has one answer to a scenario; `emukit train sampled` makes realisations"
        )
    return figures, left_out


WINDOW = Kind("a picture of `emukit data windows`", lambda path: "" if _is_window(path) else "another file", False)
_WINDOW_TITLE = "the forcing window of a target month"


def _is_window(path: Path) -> bool:
    try:
        with open_regular(path) as file, Image.open(file) as image:
            return image.info.get("Software") == SOFTWARE and image.info.get("Description") == _WINDOW_TITLE
    except (OSError, ValueError, UnidentifiedImageError):
        return False


def check_window_place(out: Path, overwrite: bool) -> None:
    """Refuse a place that `plot_window` could not write to.

    Raises:
        EmukitError: The place is taken, or is not a ``.png``.
    """
    if out.suffix != ".png":
        raise EmukitError(f"cannot draw {out}", found=out.suffix or "no suffix", expected="FILE.png")
    refuse_taken(out, WINDOW, overwrite, "--plot")


def plot_window(archive: Archive, split: Split, encoder: FrameEncoder, out: Path, overwrite: bool) -> None:
    """Draw the window of the first validation step, with forcings and encodings of the season and the day, as PNG.

    Raises:
        EmukitError: The place is taken, or is not a ``.png``.
    """
    check_window_place(out, overwrite)
    window, span = encoder.settings.window, split.validation[0]
    scenario, target = archive[span.scenario], max(span.start, window.first_target)
    time = scenario.time
    rows = [int(abs(archive.grid.lat - lat).argmin()) for lat in (-45.0, 45.0)]
    encodings = {
        c: (fields[at, e, rows[0], 0], fields[at, e, rows[1], 0])
        for make, at in ((seasonal_fields, seasonal_positions(time)), (daily_fields, time.step_of_day))
        for channels, fields in (make(encoder.settings.seasonal, archive.grid, time),)
        for e, c in enumerate(channels)
    }
    series = {name: _global_mean(scenario.forcings[name], archive.grid) for name in encoder.settings.forcings}
    step = time.text(target)
    figure = draw_window(
        f"what a network sees of {scenario.name} {step}",
        time.texts(),
        window.frames(target, 1, len(scenario), time),
        target,
        {f"{name}, {archive.card.forcings[name].units}": values for name, values in series.items()},
        encodings,
    )
    with new_output(out, WINDOW, overwrite) as temporary:
        about = {"Title": f"{scenario.name} {step}", "Software": SOFTWARE, "Description": _WINDOW_TITLE}
        write_png(figure, temporary, about)


def _global_mean(values: NDArray[np.floating], grid: Grid) -> NDArray[np.float64]:
    return np.asarray(values if values.ndim == 1 else grid.mean(values), np.float64)
