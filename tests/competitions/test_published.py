"""Published results keep their source and split, agree with their own numbers, and are found where emukit lies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import emukit
from emukit.competitions.cse151b import cse151b
from emukit.competitions.ranking import load_published
from emukit.errors import EmukitError, RecipeError
from emukit.files import shipped

GOOD = """[[result]]
kind = "competition"
name = "a model"
protocol = "official"
part = "validation"
months = 120
score = 0.553
computed = true
source = "its report"
tas = { monthly_rmse = 1.152, time_mean_rmse = 0.243, time_stddev_mae = 0.139 }
pr = { monthly_rmse = 2.199, time_mean_rmse = 0.242, time_stddev_mae = 0.197 }
"""


def test_the_shipped_results_are_those_of_the_competition() -> None:
    results = load_published(cse151b())
    scores = {r.place: r.score for r in results if r.kind == "competition"}
    assert scores == {"1": None, "2": 0.553, "3": 0.756, "5": 0.883, "6+": 0.792, "33": 0.988, "starter": 1.616}
    for result in results:
        if result.numbers:
            assert cse151b().value(result.numbers) == pytest.approx(result.score, abs=1e-3)
    floors = {(r.protocol, r.part, r.score) for r in results if r.kind == "reference"}
    assert floors == {
        *(("official", "validation", score) for score in (0.595, 0.661)),
        *(("k360", "validation", score) for score in (0.629, 0.575)),
        *(("k360", "test", score) for score in (0.431, 0.461)),
    }


def test_no_two_rows_are_the_same_predictor_on_the_same_split() -> None:
    keys = [(r.name, r.split) for r in load_published(cse151b())]
    assert len(set(keys)) == len(keys)


def test_spans_are_those_of_the_protocols() -> None:
    months = {("official", "validation"): 120, ("k360", "validation"): 120, ("k360", "test"): 360}
    assert all(r.months == months[r.protocol, r.part] for r in load_published(cse151b()))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.553", "0.653", "the numbers give 0.5534"),
        ("0.139", "0.193", "the numbers give"),
        ('source = "its report"\n', "", "result.0.source: Field required"),
        ("months = 120", "", "result.0.months"),
        ("months = 120", 'months = "120"', "result.0.months"),
        ("months = 120", "months = 120\nmoths = 1", "result.0.moths"),
        ('"official"', '"offical"', "result.0.protocol"),
        ("pr = {", "# pr = {", "belong together"),
        ("score = 0.553\n", "", "needs its numbers"),
        ("score = 0.553\ncomputed = true\n", "", "neither a score"),
        ("1.152", "nan", "finite"),
        ("monthly_rmse = 1.152", "montly_rmse = 1.152", "no numbers of cse151b: tas.montly_rmse"),
        ('part = "validation"', "part = ", "not TOML"),
    ],
)
def test_a_wrong_row_is_refused_by_name(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "published.toml"
    path.write_text(GOOD)
    assert len(load_published(cse151b(), path)) == 1
    assert old in GOOD
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(RecipeError) as error:
        load_published(cse151b(), path)
    assert message in str(error.value)


def test_all_mistakes_are_listed_at_once(tmp_path: Path) -> None:
    path = tmp_path / "published.toml"
    path.write_text(GOOD.replace("120", '"120"') + GOOD.replace("official", "other"))
    with pytest.raises(RecipeError) as error:
        load_published(cse151b(), path)
    assert "result.0.months" in error.value.found
    assert "result.1.protocol" in error.value.found


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="nowhere"):
        load_published(cse151b(), tmp_path / "nowhere.toml")
    with pytest.raises(EmukitError, match=r"baselines/nowhere\.toml is missing"):
        shipped("baselines", "nowhere.toml")


def test_an_installed_wheel_finds_its_own_files(tmp_path: Path) -> None:
    """A wheel holds the folder inside the package, and no repository around it."""
    package = Path(emukit.__file__).parent
    shutil.copytree(package, tmp_path / "emukit", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("baselines", "data_cards"):
        shutil.copytree(package.parent / name, tmp_path / "emukit" / "shipped" / name)
    code = (
        "from emukit.competitions.ranking import load_published; from emukit.competitions.cse151b import cse151b;"
        "print(len(load_published(cse151b())))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True
    )
    assert run.stdout.strip() == str(len(load_published(cse151b()))), run.stderr
