"""A report that a command refuses without saying why, or writes where it was not asked to."""

import json
import re
from pathlib import Path

import numpy as np
from PIL import Image


def test_report_of_runs_and_submissions_is_written_and_written_again(emukit, linear_run, demo_store):
    assert emukit("submit", linear_run, "-q", "--out", "submissions/mine", "--data", demo_store).code == 0
    answer = emukit("report", linear_run, "submissions/", "-q")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("wrote report/index.html: pages of entries: 2, of studies: 0; ")
    index = Path("report/index.html").read_text()
    links = re.findall(r'href="(entries/[^"]+)"', index)
    assert len(links) == 2
    submission = Path("report", next(link for link in links if "/mine-" in link)).read_text()
    assert "a submission is a table of numbers" in submission
    assert "SHA-256" in submission
    assert "own report; leaderboard of the UCSD" in index
    pictures = list(Path("report/pictures").rglob("*.webp"))
    assert {p.stem for p in pictures} == {"maps", "another_run", "zonal", "years", "seasons", "rain", "spectra"}
    for picture in pictures:
        with Image.open(picture) as image:
            image.load()
            assert 600 <= image.width <= 1000
            assert np.asarray(image.convert("L")).std() > 5
    # A made-up planet has none of the Earth's coasts.
    assert '"earth":false' in next(Path("report/data").iterdir()).read_text()
    assert emukit("report", linear_run, "-q", "--no-published").code == 2
    assert emukit("report", linear_run, "-q", "--no-published", "--overwrite").code == 0
    assert "own report; leaderboard of the UCSD" not in Path("report/index.html").read_text()


def test_nothing_to_report_and_a_foreign_folder_are_refused(emukit, linear_run):
    empty = emukit("report", "-q")
    assert empty.code == 2
    assert "there is nothing to report on" in empty.err
    nowhere = emukit("report", "nowhere", "-q")
    assert nowhere.code == 2
    assert "there is no nowhere" in nowhere.err
    for words in ("expected:", "do:"):
        assert words in nowhere.err
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("years of work")
    foreign = emukit("report", linear_run, "-q", "--out", "mine")
    assert foreign.code == 2
    assert "thesis.tex" in foreign.err
    assert Path("mine/thesis.tex").read_text() == "years of work"


def test_store_that_is_gone_leaves_a_page_without_maps(emukit, linear_run):
    import shutil

    shutil.copytree(linear_run, "r", ignore=shutil.ignore_patterns("report"))
    record = json.loads(Path("r/run.json").read_text())
    record["data"]["source"] = "/nowhere.zarr"
    Path("r/run.json").write_text(json.dumps(record))
    answer = emukit("report", "r", "-q")
    assert answer.code == 0, answer.err
    (page,) = Path("report/entries").iterdir()
    assert "no maps and curves: " in page.read_text()
    assert "/nowhere.zarr" in page.read_text()
