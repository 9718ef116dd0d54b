"""A report of entries that are one, a reference that draws nothing, a folder that may grow."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import Figure, report
from emukit.recipes.load import load_recipe
from emukit.report import run_figures as run_figures_of

PICTURES = 6  # of a linear emulator, next to the reference's


@pytest.mark.parametrize(("room", "holds"), [(30.0, True), (0.1, False)])
def test_a_report_is_measured_that_draws_what_is_kept_or_fills_the_disk(
    monkeypatch: pytest.MonkeyPatch, room: float, holds: bool
) -> None:
    """Both sides in this process, with a quick recipe."""
    drawn: list[str] = []
    save = run_figures_of.save

    def saving(figure: object, path: Path, *words: object) -> object:
        drawn.append(path.stem)
        return save(figure, path, *words)

    def compare(name: str, ours: str, plain: str, arguments: tuple[str, str], **bounds: float) -> Figure:
        folder, prepared = Path(arguments[0]), {}
        for side, work in (("report", ours), ("report-drawn", plain)):
            prepared[side] = getattr(report, work.partition(":")[2])(*arguments)
            drawn.clear()
            assert prepared[side]() == PICTURES
            pages = len(list((folder / side / "entries").glob("*.html")))
            assert (pages, len(drawn)) == {"report": (2, 0), "report-drawn": (1, PICTURES + 1)}[side]
        assert bounds == {"runs": 1, "seconds": 2.0, "scale": 2.0}
        return Figure(name, 1.0, "s", 2.0, 2.0, 1.0, "under 2 s", True)

    monkeypatch.setattr(run_figures_of, "save", saving)
    monkeypatch.setattr(report, "compare", compare)
    monkeypatch.setattr(report, "load_recipe", lambda *words: load_recipe("linear"))
    monkeypatch.setattr(report, "DRAWN", 1)
    monkeypatch.setattr(report, "FOLDER_MB", room)

    def time_command(name: str, words: list[str], plain: list[str], runs: int, bound: float, place: str) -> Figure:
        assert len(list(Path(place, words[1]).glob("*/run.json"))) == 3
        assert len(list(Path(place, words[1]).glob("*/report"))) == {"runs": 3, "undrawn": 0}[words[1]]
        return Figure(name, 1.0, "s", 2.0, 2.0, 1.0, f"under {bound:g} s", True)

    monkeypatch.setattr(report, "time_command", time_command)
    figure, *whole = report.bench_report(entries=2, runs=1, many=3)
    names = ("emukit report, 3 runs", "emukit report, 3 runs that keep no pictures")
    assert [(one.name, one.bound) for one in whole] == [(name, "under 60 s") for name in names]
    assert figure.name == "report of 2 runs"
    assert figure.bound.startswith(f"under 2 s, under {room:g} MB on disk (0.")
    assert figure.within is holds
