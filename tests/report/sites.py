"""A site of made-up entries for tests: rows, errors on the map and a study, without any run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from emukit.competitions.cse151b import cse151b
from emukit.competitions.ranking import Row
from emukit.figures.maps import Field
from emukit.report import content, run_figures
from emukit.report.pages import Errors, PageEntry, Picture, Site, StudyPage, identifier
from emukit.studies.study_file import StudyFile
from tests.coded import small_grid

MONTHS = "ssp370 2060-02..2070-01 member 0"
SPLIT = f"cse151b 4x6 k360 validation: {MONTHS}"
OTHER_SPLIT = "cse151b 4x6 loso:ssp126 test: ssp126 2070-02..2100-01 member 0"
EVIL = "<script>alert('x')</script>\"&'\u2028"
QUANTITIES = ("tas.mean", "tas.std", "pr.mean", "pr.std")


def leave_blank(patch: pytest.MonkeyPatch) -> None:
    """No time is spent on drawing: every picture of a run and of a study is two by four pixels."""

    def blank(figure: Figure, path: Path, about: str, **shape: object) -> tuple[int, int]:
        Image.new("RGB", (4, 2)).save(path, format="WEBP")
        return 4, 2

    patch.setattr(run_figures, "write_webp", blank)
    for name in [n for n in vars(run_figures) if n.startswith("draw_")]:
        patch.setattr(run_figures, name, lambda *a, **k: Figure((1, 1)))
    for name in ("draw_learning", "draw_terms"):
        patch.setattr(content, name, lambda *a, **k: Figure((1, 1)))


def numbers(value: float) -> dict[str, float]:
    """Six numbers that tell rows and columns apart."""
    return {n: value + i / 10 for i, n in enumerate(cse151b().keys)}


def row(name: str, score: float | None, kind: str = "run", split: str = SPLIT, note: str = "") -> Row:
    """A row of the leaderboard."""
    own = {} if score is None else numbers(score)
    return Row(name, kind, split, score, own, note=note, competition=cse151b())  # type: ignore[arg-type]


def entry(name: str, score: float | None, folder: Path, split: str = SPLIT, picture: Path | None = None) -> PageEntry:
    """A run with errors that spell its score, the quantity and the cell."""
    grid = small_grid()
    cells = np.arange(24.0).reshape(grid.shape) - 11.5
    ident = identifier(name, folder / name.replace("/", "_"))
    fields = {
        name: Field(
            "RdBu_r" if name.startswith("tas") else "BrBG",
            f"{name.partition('.')[0]} (1), {name}",
            "RMSE 1.000, bias -0.500",
            cells * ((score or 1.0) + q),
            np.empty((0, len(grid.lat))),
        )
        for q, name in enumerate(QUANTITIES)
    }
    errors = Errors(
        split.partition(": ")[2],
        split,
        False,
        grid,
        fields,
        {} if score is None else {"score": score, **numbers(score)},
        cse151b(),
    )
    pictures = []
    if picture:
        pictures = [Picture(f"pictures/{ident}/maps.webp", picture, (20, 10), f"Maps of {name}", "caption", "Maps")]
    return PageEntry(
        ident,
        name,
        name,
        "run",
        [row(name, score, split=split)],
        {"time": "9 s", "description": name},
        {"command": f"emukit train {name}"},
        [{"started": "2026-11-21", "code": "commit 0"}],
        '{"emulator": "<b>linear</b>"}',
        pictures,
        [f"nothing of {name}"],
        errors,
    )


def study(folder: str = "runs/a", name: str = "loss-weights") -> StudyFile:
    """A study of a base and two variants, one better and one that cannot be told from it."""
    six = ("score", *cse151b().keys)

    def line(variant: str, less: float, wide: float) -> dict[str, object]:
        difference = {c: {"mean": less, "low": less - wide, "high": less + wide, "sd": 0.01} for c in six}
        return {
            "variant": variant,
            "seeds": [0, 1],
            "mean": dict.fromkeys(six, 0.5 + less),
            "sd": dict.fromkeys(six, 0.01),
            "difference": difference if less else None,
            "sentence": f"sentence of {variant}",
        }

    waiting = {"variant": "waiting", "seeds": [], "mean": None, "sd": None, "difference": None, "sentence": "waits"}
    runs = [{"protocol": "k360", "seed": 0, "folder": folder, "state": "finished", "error": "", "command": ""}]
    failed = [{**runs[0], "folder": "runs/b", "state": "failed", "error": f"no disk {EVIL}"}]
    return StudyFile.model_validate(
        {
            "format": 1,
            "name": name,
            "question": "Does it help?",
            "finding": "published: yes",
            "base": "cnn-gru",
            "model": "cnn-gru",
            "protocols": ["k360"],
            "seeds": [0, 1],
            "benchmark": "cse151b",
            "data": "00",
            "machine": {"cores": 2},
            "command": "emukit ablate loss-weights",
            "variants": [
                {"name": "mse", "settings": {"window": 12}, "recipe": "cnn-gru", "epochs": 30, "runs": runs},
                {"name": EVIL, "settings": {"loss.pr.dice": 1.0}, "members": "0,1", "recipe": "x", "runs": failed},
                {"name": "same", "settings": {"window": 12}, "recipe": "cnn-gru", "runs": []},
                {"name": "waiting", "settings": {}, "members": None, "recipe": "x", "runs": []},
            ],
            "results": [
                {
                    "protocol": "k360",
                    "set": "validation",
                    "months": [MONTHS],
                    "floor": dict.fromkeys(six, 0.6),
                    "limit": None,
                    "rows": [line("mse", 0.0, 0.0), line(EVIL, -0.1, 0.05), line("same", 0.01, 0.05), waiting],
                }
            ],
        }
    )


def site(folder: Path) -> Site:
    """Three entries of the same months and one of others, lines, a published result, a study."""
    picture = folder / "picture.webp"
    Image.new("RGB", (20, 10), "white").save(picture)
    entries = [
        entry("best", 0.5, folder, picture=picture),
        entry(EVIL, 0.75, folder, picture=picture),
        entry("third", 1.25, folder),
        entry("other", 0.25, folder, OTHER_SPLIT),
    ]
    rows = [r for e in entries for r in e.rows]
    rows += [row("climatology", 1.5, "reference"), row("noise ceiling", 0.4, "limit")]
    rows += [row("place 1: a team", 0.625, "published", note=f"source: their report {EVIL}")]
    rows += [row("unscored", None, "submission", note="not scored here")]
    page = StudyPage(identifier("loss-weights", folder), study(), {}, {"runs/a": entries[0].id})
    return Site(
        "leaderboard",
        "Written now.",
        rows,
        {r.key: e.id for e in entries for r in e.rows},
        entries,
        [page],
        {"tas.mean": 1.0, "tas.std": 2.0, "pr.mean": 3.0, "pr.std": 4.0},
        [f"the run {EVIL} is damaged"],
    )


def write(made: Site, folder: Path) -> Path:
    """Write a site as it is, without a manifest."""
    from emukit.report.pages import render

    for name, text in render(made):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for one in made.entries:
        for shown in one.pictures:
            path = folder / shown.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(shown.source.read_bytes())
    return folder
