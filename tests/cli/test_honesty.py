"""Scores that stand where they do not belong: under another card, another truth, another CSV, another climate."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from emukit.files import shipped
from tests import forks
from tests.cli.conftest import TINY


@pytest.fixture
def other_card(tmp_path):
    """The demo's card with validation ten years earlier."""
    text = shipped("data_cards", "demo.toml").read_text()
    assert "months = [-480, -360]" in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace("months = [-480, -360]", "months = [-600, -480]"))
    return path


def test_run_under_another_card_is_neither_scored_nor_resumed_under_this_one(emukit, demo_store, other_card):
    words = ("train", "linear", "--data", demo_store, "--protocol", "k360", "--out", "run")
    assert emukit(*words, "--card", other_card).code == 0
    before = Path("run/scores/validation.json").read_text()
    assert "2050-02..2060-01" in before
    assert emukit("evaluate", "run").code == 0  # the card of the training is remembered
    assert Path("run/scores/validation.json").read_text() == before
    wrong = emukit("evaluate", "run", "--card", "demo")
    assert wrong.code == 2
    assert "another data card" in wrong.err
    assert "another card" in emukit(*words, "--resume").err


def test_other_demo_climates_are_not_ranked_together(emukit):
    for seed in (1, 2):
        store = f"s{seed}.zarr"
        assert emukit("data", "demo", store, "--grid", "6x10", "--members", "2", "--seed", seed).code == 0
        assert emukit("train", "climatology", "--data", store, "--out", f"runs/r{seed}", "-q").code == 0
    rows = json.loads(emukit("leaderboard", "runs", "--no-published", "--format", "json").out)
    assert len({r["split"] for r in rows if r["kind"] == "run"}) == 2


def test_floors_do_not_depend_on_the_members_trained_on(emukit, demo_store):
    for members in ("0", "0,1"):
        words = ("train", "climatology", "--data", demo_store, "--members", members, "--out", f"runs/m{members[-1]}")
        assert emukit(*words).code == 0
    rows = json.loads(emukit("leaderboard", "runs", "--no-published", "--format", "json").out)
    floors = [r for r in rows if r["kind"] == "reference"]
    assert len(floors) == len({r["name"] for r in floors})
    assert {r["name"] for r in rows if r["kind"] == "run"} == {"m0 (members 0)", "m1"}


def test_submission_without_a_score_has_a_row_and_a_stale_score_is_refused(emukit, linear_run, demo_store):
    assert emukit("submit", linear_run, "--out", "submissions/e").code == 0
    listed = emukit("leaderboard", "submissions", "--no-published", "--format", "json")
    assert "note: e: without a score there is no place" in listed.err
    (row,) = json.loads(listed.out)
    assert (row["name"], row["score"]) == ("e", None)
    assert "validation 0." in row["note"]
    shown = emukit("leaderboard", "submissions", "--no-published").out
    assert "not scored here" in shown
    # Another seed would have given the same.
    assert "e (linear)" in shown
    assert emukit("score", "submissions/e/submission.csv", demo_store, "--save").code == 0
    assert "without a score" not in emukit("leaderboard", "submissions", "--format", "json").err
    score = json.loads(Path("submissions/e/score.json").read_text())
    Path("submissions/e/score.json").write_text(json.dumps({**score, "csv_sha256": "0" * 64}))
    answer = emukit("leaderboard", "submissions/e")
    assert answer.code == 2
    assert "another CSV" in answer.err
    # Among others it is named and left out, and the others are shown.
    shutil.copytree(linear_run, "submissions/linear")
    among = emukit("leaderboard", "submissions", "--no-published", "--format", "json")
    assert among.code == 0
    assert "note: left out" in among.err
    assert "another CSV" in among.err
    assert {r["name"] for r in json.loads(among.out) if r["kind"] == "run"} == {"linear"}


@pytest.mark.parametrize("edit", [{"score": 0.01}, {"tas": {"monthly_rmse": 0.001}}])
def test_score_that_its_numbers_do_not_make_is_refused(emukit, linear_run, edit):
    shutil.copytree(linear_run, "r")
    path = Path("r/scores/validation.json")
    stored = json.loads(path.read_text())
    stored |= {k: {**stored[k], **v} if isinstance(v, dict) else v for k, v in edit.items()}
    path.write_text(json.dumps(stored))
    answer = emukit("leaderboard", "r")
    assert answer.code == 2
    assert "where its numbers make" in answer.err


def test_emulator_of_another_run_is_not_taken_for_its_own(emukit, linear_run, demo_store):
    assert emukit("train", "climatology", "--data", demo_store, "--out", "c").code == 0
    shutil.rmtree("c/emulator")
    shutil.copytree(linear_run / "emulator", "c/emulator")
    answer = emukit("evaluate", "c")
    assert answer.code == 2
    assert "not the one that this run trained" in answer.err


def test_solutions_of_one_name_but_other_truth_are_kept_apart(emukit, linear_run, demo_store):
    assert emukit("submit", linear_run, "--out", "submissions/e").code == 0
    names = []
    for folder, shift in (("a", 0.0), ("b", 1.0)):
        Path(folder).mkdir()
        lines = Path("submissions/e/submission.csv").read_text().splitlines()
        moved = [f"{i},{float(v) + shift}" for i, v in (line.split(",") for line in lines[1:])]
        Path(folder, "solution.csv").write_text("\n".join([lines[0], *moved]) + "\n")
        assert (
            emukit("score", "submissions/e/submission.csv", f"{folder}/solution.csv", "--save", "--overwrite").code == 0
        )
        names.append(json.loads(Path("submissions/e/score.json").read_text())["split"])
    assert names[0] != names[1]


def test_demo_store_cut_in_time_is_scored_on_its_own_months_or_refused(emukit, linear_run, demo_store):
    """The hidden truth must be that of the months named, not of the store's positions."""
    assert emukit("submit", linear_run, "--data", demo_store, "--out", "e").code == 0
    whole = emukit("score", "e/submission.csv", demo_store)
    ds = xr.open_zarr(demo_store, chunks=None).isel(time=slice(300, None)).load()
    for v in ds.variables:
        ds[v].encoding = {}
    ds.to_zarr("cut.zarr", zarr_format=2, write_empty_chunks=True)
    cut = emukit("score", "e/submission.csv", "cut.zarr")
    number = re.search(r"submission\.csv +([0-9.]+)", whole.out).group(1)
    assert cut.code == 2 or number in cut.out


@pytest.mark.parametrize("verb", ["submit RUN --out e", "predict RUN --scenario ssp245 --out p.nc"])
def test_emulator_of_another_grid_predicts_nothing(emukit, linear_run, verb):
    assert emukit("data", "demo", "other.zarr", "--grid", "6x10", "--members", "2").code == 0
    words = [str(linear_run) if w == "RUN" else w for w in verb.split()]
    answer = emukit(*words, "--data", "other.zarr")
    assert answer.code == 2
    assert "another grid" in answer.err


def test_run_found_from_another_folder_finds_its_store(emukit, monkeypatch, tmp_path):
    assert emukit("data", "demo", "near.zarr", "--grid", "6x10", "--members", "2").code == 0
    assert emukit("train", "climatology", "--data", "near.zarr", "--out", "run").code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert emukit("evaluate", "../run").code == 0


def test_card_of_a_run_is_lost_in_another_folder_or_with_it_the_maps_of_a_report(
    emukit, monkeypatch, tmp_path, undrawn
):
    assert emukit("data", "demo", "near.zarr", "--grid", "6x10", "--members", "2").code == 0
    shutil.copy(shipped("data_cards", "demo.toml"), "card.toml")
    words = ("--data", "near.zarr", "--card", "card.toml", "--out", "run")
    assert emukit("train", "climatology", *words).code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    answer = emukit("evaluate", "../run")
    assert answer.code == 0, answer.err
    assert emukit("report", "../run", "--out", "pages").code == 0
    assert any(Path("pages/pictures").rglob("maps.webp"))
    # Without the card there are no maps, and it is said where one looks.
    (tmp_path / "card.toml").unlink()
    shutil.rmtree(tmp_path / "run" / "report")
    answer = emukit("report", "../run", "--out", "without")
    assert not any(Path("without").rglob("maps.webp"))
    assert "no maps and curves of run: " in answer.out
    assert "card.toml" in answer.out


def test_hint_of_a_store_that_is_gone_does_not_help(emukit, monkeypatch):
    assert emukit("data", "demo", "near.zarr", "--grid", "6x10", "--members", "2").code == 0
    assert emukit("train", "climatology", "--data", "near.zarr", "--out", "run").code == 0
    Path("near.zarr").rename("moved.zarr")
    refused = emukit("evaluate", "run")
    assert refused.code == 2
    assert "name it with --data PATH, or set EMUKIT_DATA to its path" in refused.err
    assert emukit("evaluate", "run", "--data", "moved.zarr").code == 0
    monkeypatch.setenv("EMUKIT_DATA", "moved.zarr")
    followed = emukit("evaluate", "run")
    assert followed.code == 0, followed.err
    assert "moved.zarr (from $EMUKIT_DATA; " in followed.err
    assert emukit("data", "check").out.startswith("moved.zarr: ")


@pytest.mark.parametrize(
    "key", ["state", "identity", "data", "command", "sessions", "seconds", "recipe", "train", "scored", "notes"]
)
def test_record_without_a_key_is_refused(emukit, linear_run, tmp_path, key):
    import shutil

    shutil.copytree(linear_run, "run")
    record = json.loads(Path("run/run.json").read_text())
    del record[key]
    Path("run/run.json").write_text(json.dumps(record))
    for verb in (("evaluate", "run"), ("submit", "run"), ("leaderboard", "run")):
        answer = emukit(*verb)
        if key == "seconds":  # it has a default: nothing was spent
            assert answer.code == 0
            continue
        assert answer.code == 2, (verb, answer)
        assert key in answer.err


@pytest.mark.parametrize("damage", ["{", "[]", '{"set": "validation"}', None])
def test_damaged_score_is_named_with_the_remedy(emukit, linear_run, damage):
    import shutil

    shutil.copytree(linear_run, "run")
    path = Path("run/scores/validation.json")
    path.write_text(damage) if damage is not None else path.unlink()
    answer = emukit("submit", "run")
    assert answer.code == 2
    assert "emukit evaluate run" in answer.err
    if damage is not None:
        assert emukit("leaderboard", "run").code == 2


def test_flipped_bytes_in_weights_are_noticed(emukit, linear_run):
    import shutil

    shutil.copytree(linear_run, "run")
    path = Path("run/emulator/arrays.safetensors")
    content = bytearray(path.read_bytes())
    content[-100] ^= 0xFF
    path.write_bytes(bytes(content))
    answer = emukit("evaluate", "run")
    assert answer.code == 2
    assert "SHA-256" in answer.err


def test_two_processes_do_not_train_into_one_folder(demo_store, tmp_path):
    words = ("train", "cnn-gru", "--data", demo_store, "-q", "--out", "run", *TINY)
    both = [forks.start(tmp_path, *words, "--seed", seed, name=f"seed-{seed}") for seed in (1, 2)]
    codes = [(one.wait(), one.err.read_text()) for one in both]
    assert sorted(c for c, _ in codes) == [0, 2], codes
    loser = next(err for code, err in codes if code == 2)
    assert "another process" in loser or "exists" in loser
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 2


def test_loss_of_a_recipe_replaces_the_default_and_bad_weights_are_refused(emukit, demo_store):
    from emukit.recipes.load import load_recipe

    Path("r.toml").write_text("[loss]\ntas = { l1 = 1.0 }\n")
    recipe = load_recipe("cnn-gru", Path("r.toml"))
    assert recipe.loss.tas == {"l1": 1.0}
    assert recipe.loss.pr == load_recipe("cnn-gru").loss.pr
    for wrong in ("loss.tas.mse=-5", "loss.pr.mze=1"):
        answer = emukit("train", "cnn-gru", "--data", demo_store, "--set", wrong)
        assert answer.code == 2
        assert "loss." in answer.err


def test_forcings_that_begin_late_are_refused_not_misremembered(linear_run, demo_store):
    import emukit as api
    from emukit.errors import ProtocolError

    emulator = api.load_emulator(linear_run)
    ds = xr.open_zarr(demo_store, chunks=None).sel(ssp="ssp245")
    whole = emulator.predict(ds, start="2070-02")
    assert np.isfinite(whole.tas).all()
    with pytest.raises(ProtocolError, match="begin too late"):
        emulator.predict(ds.isel(time=slice(600, None)))
    for start, stop in (("2050-01", "2040-01"), ("garbage", None)):
        with pytest.raises(ProtocolError):
            emulator.predict(ds, start=start, stop=stop)
