"""What a page shows of one run: errors as arrays, and pictures, kept in the run folder so that no page waits for them.

Invariant: what is kept belongs to one run, one training of it, one set and one way of drawing, by a key; anything else
is made again. It is drawn only from the data that the run was trained on.

    RUN/report/SET/about.json           key, words, sizes of pictures
    RUN/report/SET/numbers.safetensors  errors of the time mean and of the standard deviation, zonal means of members
    RUN/report/SET/*.webp               pictures; those in a scale that all runs share carry it in their name
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from emukit.data.archive import Archive
from emukit.data.grid import Grid
from emukit.data.time import in_words
from emukit.emulators.base import Explanation
from emukit.errors import ProtocolError
from emukit.figures.curves import (
    Season,
    draw_budget,
    draw_course,
    draw_discrepancies,
    draw_distribution,
    draw_ranks,
    draw_seasons,
    draw_spectra,
    draw_years,
)
from emukit.figures.figure import line_colours, write_webp
from emukit.figures.maps import (
    DIFFERENCES,
    SCORES,
    SEQUENTIAL,
    Field,
    MapRow,
    draw_error_maps,
    draw_hovmoeller,
    draw_maps,
    draw_zonal,
    map_colours,
)
from emukit.files import atomic_path, check_regular, open_regular, parse_json, read_text, sha256
from emukit.report import plot_data as pictures
from emukit.report.index_pictures import collect_indices, index_figures
from emukit.report.plot_data import REALISATIONS, Shown, collect
from emukit.runs.evaluate import scored_spans
from emukit.runs.run import Run

Array = NDArray[np.float64]

FOLDER = "report"
ABOUT_FILE, NUMBERS_FILE = "about.json", "numbers.safetensors"
# Raised with every change of what is kept or drawn.
VERSION = 13
# Of every picture, in inches: on a page they are as wide as its text, and their letters are of one size.
SHAPES = {
    "maps": (8.6, 4.5),
    "another_run": (8.6, 4.5),
    "zonal": (8.6, 2.9),
    "years": (8.6, 3.7),
    "seasons": (8.6, 5.2),
    "spectra": (7.0, 2.7),
    "rain": (6.0, 2.9),
    "ranks": (8.6, 3.6),
    "spread": (12.9, 4.6),
    "budget": (8.6, 3.6),
    "uncertainty": (8.6, 4.8),
    "discrepancy": (8.6, 9.5),
    "shares": (8.6, 13.0),
    "indices": (8.6, 8.4),
    "regions": (8.6, 8.6),
    "days": (8.6, 7.0),
    "learning": (8.6, 2.8),
    "terms": (8.6, 2.8),
}
# Heights of figures of two variables, for which shapes are made: with more of them a picture grows as its figure does.
OF_TWO = {"maps": 5.1, "another_run": 5.1, "zonal": 3.6, "years": 6.9, "seasons": 8.9}
# Lines of many hues, of which so many colours are kept; elsewhere colours mean something, and none is left out.
MANY = {"learning": 16, "terms": 16, "coordinates": 64, "intervals": 32, "discrepancy": 64}
# What a mean over a step is called.
ADJECTIVES = {"month": "monthly", "day": "daily", "year": "annual"}
# Of what a cell sees: a page has no room for the globe's and for years, which `emukit plot` draws.
POWER = "monthly, area mean of cells"
# Colour maps of pictures that have their own.
OWN_MAPS = {
    "uncertainty": (SEQUENTIAL,),
    "shares": (SEQUENTIAL,),
    "indices": (DIFFERENCES,),
    "regions": (SCORES,),
}
MOMENTS = {"mean": "mean over time", "std": "standard deviation over time"}


@dataclass(frozen=True)
class Drawn:
    """A picture as a file.

    Attributes:
        file: Where it is.
        size: Width and height in pixels.
        alt: What it shows, for those who do not see it.
    """

    file: Path
    size: tuple[int, int]
    alt: str


@dataclass(frozen=True, eq=False)
class RunFigures:
    """What is kept of a run and a set.

    Attributes:
        folder: Where it is kept.
        set_name: ``validation`` or ``test``.
        span: The months and the member, in words.
        span_key: The same for all runs on this span of these data.
        grid: Of the errors.
        earth: Whether the coasts are those of the Earth.
        fields: Errors by quantity, ``tas.mean`` and so on.
        ensemble_member: The same of another member of the climate model; empty where there is none.
        drawn: Pictures that need no shared scale.
    """

    folder: Path
    set_name: str
    span: str
    span_key: str
    grid: Grid
    earth: bool
    fields: Mapping[str, Field]
    ensemble_member: Mapping[str, Field]
    drawn: Mapping[str, Drawn]


def run_figures_of(run: Run, set_name: str, root: Path, archive: Callable[[], Archive]) -> RunFigures:
    """The figures that are kept, or new ones.

    Args:
        run: Finished.
        set_name: What is shown of it.
        root: The folder in which it is kept.
        archive: Opens the data, where they are needed.

    Raises:
        EmukitError: The run is damaged, or the data are not those it was trained on, or do not fit.
    """
    folder, key = root / set_name, _key(run, set_name)
    kept = _read(folder, key)
    if kept is None:
        _draw(run, set_name, folder, key, archive())
        kept = _read(folder, key)
    assert kept is not None
    return kept


def in_scale(kept: RunFigures, scales: Mapping[str, float]) -> dict[str, Drawn]:
    """Maps and zonal means of the figures of a run, and the maps of its reference, in scales that all share."""
    mark = hashlib.sha256(repr(sorted(scales.items())).encode()).hexdigest()[:8]
    title, maps = f"{kept.set_name}: {kept.span}", tuple(dict.fromkeys(f.colours for f in kept.fields.values()))
    out = {
        "maps": keep_drawn(
            kept.folder / f"maps-{mark}.webp",
            lambda: draw_error_maps(kept.fields, kept.grid, scales, title, earth=kept.earth),
            f"Maps of the error of the prediction. {_words(kept.fields)}",
            title,
            maps,
        ),
        "zonal": keep_drawn(
            kept.folder / f"zonal-{mark}.webp",
            lambda: draw_zonal(kept.fields, kept.grid, scales, title),
            "Zonal means of the same errors over latitude, next to those of other members. " + _words(kept.fields),
            title,
        ),
    }
    if kept.ensemble_member:
        out["another_run"] = keep_drawn(
            kept.folder / f"another_run-{mark}.webp",
            lambda: draw_error_maps(kept.ensemble_member, kept.grid, scales, title, earth=kept.earth),
            f"The same maps of another member of the climate model. {_words(kept.ensemble_member)}",
            title,
            maps,
        )
    return out


def save(figure: Figure, path: Path, kind: str, about: str, maps: Iterable[str] = ()) -> tuple[int, int]:
    """Write a picture of a kind, in its shape where it has one.

    Args:
        figure: What to draw.
        path: Where.
        kind: Of the picture.
        about: Words inside the file.
        maps: Of a picture with maps, their colour maps by name.

    Returns:
        Width and height in pixels.
    """
    width, height = SHAPES.get(kind) or figure.get_size_inches()
    if kind in OF_TWO:
        height *= max(1.0, figure.get_size_inches()[1] / OF_TWO[kind])
    colours: list[str] | int = MANY[kind] if kind in MANY else map_colours(maps) if maps else line_colours()
    return write_webp(figure, path, about, width=width, height=height, colours=colours)


def _words(fields: Mapping[str, Field]) -> str:
    return "; ".join(f"{f.label}: {f.numbers}" for f in fields.values()) + "."


def picture_size(path: Path) -> tuple[int, int] | None:
    """Width and height in pixels; None where there is no picture that can be read."""
    try:
        with open_regular(path) as file, Image.open(file) as image:
            return image.size
    except (OSError, UnidentifiedImageError):
        return None


def keep_drawn(
    path: Path, draw: Callable[[], Figure], alt: str, about: str | None = None, maps: Iterable[str] = ()
) -> Drawn:
    """The picture of a file ``KIND-MARK.webp``; drawn, in the place of those of other marks, where it cannot be read.

    Args:
        path: Its file.
        draw: Makes the figure.
        alt: What it shows, for those who do not see it.
        about: Words inside the file; `alt` when None.
        maps: As for `save`.
    """
    known = picture_size(path)
    if known is not None:
        return Drawn(path, known, alt)
    kind = path.name.partition("-")[0]
    with atomic_path(path) as temporary:
        size = save(draw(), temporary, kind, alt if about is None else about, maps)
    for old in path.parent.glob(f"{kind}-*.webp"):
        if old != path:
            old.unlink(missing_ok=True)
    return Drawn(path, size, alt)


def _key(run: Run, set_name: str) -> str:
    """What decides the figures: the run, when it was trained, and how it is drawn."""
    described = run.folder / "emulator" / "emulator.json"
    parts = [
        VERSION,
        run.record.identity.digest,
        [s.started for s in run.record.sessions],
        sha256(described) if described.exists() else "",
        set_name,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _read(folder: Path, key: str) -> RunFigures | None:
    """What is kept; None where there is nothing whole of this key."""
    try:
        about = parse_json(read_text(folder / ABOUT_FILE))
        if about["key"] != key:
            return None
        check_regular(folder / NUMBERS_FILE)
        numbers = {k: v.astype(np.float64) for k, v in load_file(folder / NUMBERS_FILE).items()}
        drawn = {
            name: Drawn(folder / f"{name}.webp", (int(w), int(h)), str(alt))
            for name, (w, h, alt) in about["pictures"].items()
        }
        if not all(d.file.is_file() for d in drawn.values()):
            return None
        words = {name: (str(colours), str(label)) for name, (colours, label) in about["quantities"].items()}
        fields = {
            name: Field(colours, label, about["numbers"][name], numbers["errors"][i], numbers["members"][:, i])
            for i, (name, (colours, label)) in enumerate(words.items())
        }
        ensemble_member = {
            name: Field(
                colours, label, about["another_run"][name], numbers["another_run"][i], numbers["members"][:0, i]
            )
            for i, (name, (colours, label)) in enumerate(words.items())
            if "another_run" in numbers
        }
        grid = Grid(numbers["lat"], numbers["lon"])
        return RunFigures(
            folder, about["set"], about["span"], about["span_key"], grid, about["earth"], fields, ensemble_member, drawn
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, SafetensorError):
        # Whatever is wrong with what is kept, it can be made again.
        return None


def _draw(run: Run, set_name: str, folder: Path, key: str, archive: Archive) -> None:
    if archive.digest != run.record.data.digest:
        raise ProtocolError(
            "the data are not those it was trained on",
            found=f"other values in {archive.source}",
            expected="the store of the training, unchanged",
            hint="name it with --data",
        )
    if archive.on_disk:
        raise ProtocolError(
            "the data stay on disk, and fields of all steps do not fit into memory",
            hint=f"`emukit plot {run.folder}` draws what is made a year at a time",
        )
    span = scored_spans(archive, run.split(archive), set_name)[0]
    emulator = run.emulator(archive)
    shown = collect(emulator, archive, span)
    numbers, about = _numbers(shown)
    title = f"{set_name}: {span.text(archive)}"
    spread_colours = [SEQUENTIAL, *dict.fromkeys(archive.card.targets[v].colours for v in shown.archive.variables)]
    figures, earth = _figures(shown, title), shown.earth
    # Fields of decades of days: indices need the room.
    del shown
    indices = collect_indices(emulator, archive, span)
    if indices:
        figures |= index_figures(indices, title, whole=False)
    with atomic_path(folder) as temporary:
        temporary.mkdir(parents=True)
        drawn = {}
        for name, (figure, alt) in figures.items():
            maps = spread_colours if name in ("spread", "hovmoeller") else OWN_MAPS.get(name, ())
            drawn[name] = (*save(figure, temporary / f"{name}.webp", name, title, maps), alt)
        save_file(numbers, temporary / NUMBERS_FILE)
        about |= {
            "key": key,
            "set": set_name,
            "span": span.text(archive),
            "span_key": hashlib.sha256(f"{archive.digest} {span.text(archive)}".encode()).hexdigest()[:12],
            "earth": earth,
            "pictures": drawn,
        }
        (temporary / ABOUT_FILE).write_text(json.dumps(about, indent=1), encoding="utf-8")


def _numbers(shown: Shown) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
    """The arrays to keep, and the words to them."""
    grid, members = shown.archive.grid, list(shown.members.values())
    moments = {"mean": pictures.time_mean, "std": pictures.time_std}
    truth = {name: moment(members[0]) for name, moment in moments.items()}

    def errors(fields: NDArray[np.float32]) -> Array:
        """(Q, Y, X), quantities by variable."""
        both = [moment(fields) - truth[name] for name, moment in moments.items()]
        return np.stack(both, 1).reshape(-1, *grid.shape)

    names = [(v, m) for v in shown.archive.variables for m in MOMENTS]
    prediction = errors(shown.predictions[0])
    others = [errors(fields) for fields in members[1:]]
    zonal = [e.mean(-1) for e in others]
    arrays = {
        "errors": prediction,
        "members": np.stack(zonal) if zonal else np.zeros((0, *prediction.shape[:2])),
        "lat": grid.lat,
        "lon": grid.lon,
    }

    def words(error: Array) -> dict[str, str]:
        return {
            f"{v}.{m}": pictures.area_means(e, grid, squared=m == "mean")
            for (v, m), e in zip(names, error, strict=True)
        }

    targets = shown.archive.card.targets
    about: dict[str, Any] = {
        "quantities": {f"{v}.{m}": (targets[v].colours, f"{shown.label(v)}, {MOMENTS[m]}") for v, m in names},
        "numbers": words(prediction),
    }
    if others:
        arrays["another_run"] = others[0]
        about["another_run"] = words(others[0])
    return {k: np.ascontiguousarray(a, np.float32) for k, a in arrays.items()}, about


def _figures(shown: Shown, title: str) -> dict[str, tuple[Figure, str]]:
    """Pictures that need no shared scale, with what they show in words."""
    span, scenario, time = shown.span, shown.scenario, shown.scenario.time
    scored = pictures.year_of(scenario, span.start), pictures.year_of(scenario, span.stop)
    beside = f"the prediction and {len(shown.members)} members of the climate model"
    years = draw_years(
        pictures.annual_means(shown), scored, pictures.hidden_years(scenario), title, in_words(time.step)
    )

    def bands(line: list[Season]) -> list[Season]:
        # A store of a single band has only the globe.
        return [s for s in line if s.place in pictures.BANDS] or line

    out = {
        "years": (years, f"Annual global means of {beside}, {time.text(0)} to {time.text(-1)}."),
    }
    if time.step != "year":
        out["seasons"] = (
            draw_seasons([bands(line) for line in pictures.mean_years(shown)], title),
            f"The mean year of bands of latitude: {beside}, and their errors.",
        )
    rain = shown.archive.card.position("precipitation", shown.archive.variables)
    if rain is not None:
        name = shown.archive.variables[rain]
        label = f"{shown.label(name)}, mean of a {time.unit}"
        amounts = draw_distribution(pictures.distribution(shown, name), label, title)
        adjective = ADJECTIVES.get(time.step, f"{time.step} mean")
        out["rain"] = amounts, f"How often a cell has which {adjective} precipitation: {beside}."
    if not pictures.why_no_spectra(shown):
        powers = [[p for line in pictures.power(shown) for p in line if p.what == POWER]]
        words = f"Power spectra of anomalies in cells of {beside}."
        out["spectra"] = draw_spectra(powers, title), words
    middles, panels = pictures.annual_budget(shown)
    if len(middles):
        words = "Annual means of the energy budget: forcings, what is sent back, the net flux, and warming by layer."
        out["budget"] = draw_budget(middles, panels, title), words
    if shown.explanation:
        out |= _explained(shown, shown.explanation, title)
    means, found = pictures.course(shown), pictures.sections(shown)
    if means and found is not None:
        words = f"Global means of every step of the scored ones: {beside}."
        out["course"] = draw_course(means, time.text(span.start), title), words
        words = "Anomalies by longitude and time, of the scored member, of the prediction, and their difference."
        out["hovmoeller"] = draw_hovmoeller(*found, title), words
    histograms = pictures.ranks(shown)
    if histograms:
        words = f"Ranks of members of the climate model among {REALISATIONS} realisations."
        out["ranks"] = draw_ranks(histograms, title), words
    spread = pictures.spread_rows(shown)
    if spread:
        words = (
            f"Maps of the spread of {REALISATIONS} realisations, of {len(shown.members)} members, and the difference."
        )
        out["spread"] = draw_maps(spread, shown.archive.grid, title, earth=shown.earth), words
    return out


def _explained(shown: Shown, explanation: Explanation, title: str) -> dict[str, tuple[Figure, str]]:
    """Pictures of what a forced response is made of."""
    grid, earth = shown.archive.grid, shown.earth
    sure = pictures.uncertainty_rows(shown, explanation)
    departures = pictures.discrepancy_panels(explanation)
    shares = pictures.share_rows(shown, explanation)
    names = ", ".join(dict.fromkeys(name for by_scenario in explanation.discrepancies.values() for name in by_scenario))

    def words(rows: Iterable[MapRow]) -> str:
        said = (f"{row.label}: {', '.join(p.title for p in row.panels)}" for row in rows)
        return " ".join("; ".join(said).split()) + "."

    return {
        "uncertainty": (draw_maps(sure, grid, title, earth=earth), f"Maps of how sure the response is. {words(sure)}"),
        "discrepancy": (
            draw_discrepancies(departures, title),
            f"Departures of {names} from the response that all scenarios share, over the years: "
            f"{'; '.join(explanation.discrepancies)}.",
        ),
        "shares": (
            draw_maps(shares, grid, title, earth=earth),
            f"Maps of the share of each component. {words(shares)}",
        ),
    }
