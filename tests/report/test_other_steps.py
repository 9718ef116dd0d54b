"""Pictures of years and days that are refused, say months, or mean over the wrong steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emukit.data.protocol import make_split
from emukit.data.store import open_store
from emukit.emulators.climatology import ClimatologyEmulator
from emukit.report import plot
from emukit.report import plot_data as pictures
from emukit.report.plot_data import collect
from tests.cli.conftest import emukit  # noqa: F401
from tests.other_steps import even_dataset, written, yearly_dataset


@pytest.fixture(scope="module", params=["year", "day"])
def store(request, tmp_path_factory):
    """The name of a step, a store of such steps, and its card."""
    ds, scored = {"year": (yearly_dataset(), 10), "day": (even_dataset(24, 1200), 370)}[request.param]
    return request.param, *written(tmp_path_factory.mktemp(request.param), request.param, ds, scored)


@pytest.fixture(scope="module")
def shown(store):
    _, place, card = store
    archive = open_store(place, card=str(card))
    split = make_split(archive)
    return collect(ClimatologyEmulator.fit(archive, split), archive, split.scored["validation"][0])


def test_annual_means_are_of_whole_calendar_years(store, shown):
    scenario, grid = shown.scenario, shown.archive.grid
    global_means = grid.mean(scenario.targets[0])
    first = int(scenario.time.year[0])
    for v, panel in enumerate(pictures.annual_means(shown)):
        # 1200 days are three years and a part of one.
        assert len(panel.curves.x) == (40 if store[0] == "year" else 3)
        for i, x in enumerate(panel.curves.x):
            assert x == first + i + 0.5
            own = global_means[scenario.time.year == first + i, v]
            assert panel.curves.members[0, i] == pytest.approx(own.mean(), rel=1e-6)


def test_a_step_lies_where_its_year_says(store, shown):
    first, step = shown.scenario, store[0]
    begin = {"year": 2015.0, "day": 2015.0}[step]
    assert pictures.year_of(first, 0) == begin
    assert pictures.year_of(first, 370) == pytest.approx(2016 + 5 / 365) if step == "day" else True
    end = pictures.year_of(first, len(first))
    assert end == pytest.approx(2055.0 if step == "year" else 2015 + 1200 / 365)


def test_the_change_is_between_whole_years(store, shown):
    change = shown.change
    year = shown.scenario.time.per_year
    assert change is not None
    for a, b in (change.early, change.late):
        assert b > a
        assert (b - a) % year == 0
    assert np.isfinite(change.truth).all()
    words = {"year": "2015..2034 to 2035..2044", "day": "2015-01-01"}
    assert words[store[0]].partition(" to ")[0] in pictures.change_words(shown, change)


def test_what_cannot_be_drawn_is_said(emukit, store, undrawn, monkeypatch):  # noqa: F811
    step, place, card = store
    if step == "year":
        # Pictures of days are drawn.
        monkeypatch.setattr(plot, "write_png", lambda figure, path, about: path.write_bytes(b""))
    assert emukit("train", "linear", "--data", place, "--card", card, "--out", "runs/linear", "-q").code == 0
    answer = emukit("plot", "runs/linear", "--out", "plots", "-q")
    assert answer.code == 0, answer.err
    assert emukit("report", "runs", "--out", "site", "-q").code == 0
    drawn = {p.stem for p in Path("plots").rglob("*.png")}
    assert {"maps", "years", "change"} <= drawn
    assert ("seasons" in drawn) == (step == "day")
    assert "spectra" not in drawn
    (page,) = Path("site/entries").glob("*.html")
    text = page.read_text()
    assert ("steps of a year have no seasons" in text) == (step == "year")
    assert "are made of months" in text
    assert "this works on months alone" not in text
    assert any("maps" in p.stem for p in Path("site/pictures").rglob("*.webp"))
