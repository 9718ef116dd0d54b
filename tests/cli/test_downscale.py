"""`emukit train downscale` and `emukit downscale` as users call them."""

import json
import os
import re

import pytest
import xarray as xr

from emukit.data.store import open_store
from emukit.progress import Reporter
from emukit.recipes.downscale import load_downscale
from emukit.runs.downscale import train_downscaler

SMALL = [
    "--set=coarse=4,6",
    "--set=blocks.size=4,6",
    "--set=blocks.share=0.01",
    "--set=overlap=2",
    "--set=conditions.base=pass",
    "--set=model.width=4",
    "--set=model.depth=1",
    "--set=training.epochs=1",
]


def test_a_regression_beyond_memory_is_refused_before_the_store_is_read(emukit, demo_store, tmp_path, monkeypatch):
    def read(*args, **kwargs):
        raise AssertionError("it reads")

    monkeypatch.setattr("emukit.data.opening.open_data", read)
    monkeypatch.setattr("emukit.runs.downscale.host_free", lambda: 70 << 30)
    wide = ["--set=conditions.context=6", "--set=conditions.width=15", "--set=conditions.context_width=15"]
    small = [word for word in SMALL if "base=pass" not in word]
    answer = emukit("train", "downscale", "--data", demo_store, *small, *wide, "--out", tmp_path / "fine")
    assert answer.code == 2
    assert "does not fit into memory" in answer.err
    assert not list(tmp_path.iterdir())
    assert "it reads" in emukit("train", "downscale", "--data", demo_store, *small, "--out", tmp_path / "fine").err


def test_a_run_is_trained_and_downscales_a_prediction(emukit, demo_store, linear_run, tmp_path):
    answer = emukit("train", "downscale", "--data", demo_store, *SMALL, "--out", tmp_path / "fine", "-q")
    assert answer.code == 0, answer.err
    assert "residual's monthly climatology" in answer.out.replace("\n", " ")
    assert "MAE below that of the best baseline" in answer.out
    again = emukit("train", "downscale", "--data", demo_store, *SMALL, "--out", tmp_path / "fine", "-q")
    assert again.code == 0
    emukit("predict", linear_run, "--scenario", "ssp245", "--data", demo_store, "--out", tmp_path / "said.nc", "-q")
    answer = emukit(
        "downscale", tmp_path / "fine", tmp_path / "said.nc", "--out", tmp_path / "f.zarr", "--region=0,80,0,90"
    )
    assert answer.code == 0, answer.err
    assert "coarsened first" in answer.err
    with xr.open_zarr(tmp_path / "f.zarr") as found, xr.open_dataset(tmp_path / "said.nc") as said:
        assert found.sizes["time"] == said.sizes["time"]
        assert found.y.min() >= 0


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--devices", "2"], "--devices"),
        (["--refit"], "--refit"),
        (["--loss", "mse"], "--loss"),
        (["--objective", "guess"], "unknown objective"),
        (["--objective", "rollout"], "feeds states back"),
        (["--set", "blocks.size=9,9,9"], "blocks.size"),
        (["--set", "conditions.width=4"], "odd"),
        (["--set", "model=5"], "model: input should be a valid dictionary"),
        (["--set", "model.size=[1]"], "unknown size [1]"),
        (["--set", "objective=5", "--objective", "crps"], "objective: input should be a valid dictionary"),
        (["--set=blocks.size=4,6", "--set=model.depth=1", "--set=coarse=500000,500000"], "is finer than the data"),
    ],
)
def test_options_that_would_do_nothing_are_refused(emukit, demo_store, words, found):
    answer = emukit("train", "downscale", "--data", demo_store, *words)
    assert answer.code == 2
    assert found in answer.err


def test_an_objective_named_in_a_recipe_is_replaced_by_that_of_the_command():
    assert load_downscale(None, ["objective=diffusion"], "crps").objective.name == "crps"


def test_other_runs_are_refused_by_name(emukit, linear_run, tmp_path):
    answer = emukit("downscale", linear_run, tmp_path / "x.nc", "--out", tmp_path / "f.zarr")
    assert answer.code == 2
    assert "not a downscaling run" in answer.err


@pytest.fixture(scope="module")
def fine_run(demo_store, tmp_path_factory):
    """A finished downscaling run in a folder of runs."""
    folder = tmp_path_factory.mktemp("fine-runs") / "runs" / "fine"
    settings = [word.removeprefix("--set=") for word in SMALL]
    recipe = load_downscale(None, [*settings, "conditions.base=regression", "conditions.width=3"])
    train_downscaler(
        open_store(demo_store),
        recipe,
        folder,
        command="emukit train downscale --data demo",
        reporter=Reporter(quiet=True),
    )
    return folder


def test_runs_lists_downscaling_runs_and_removes_none(emukit, fine_run):
    answer = emukit("runs", fine_run.parent, "--format", "json")
    (line,) = json.loads(answer.out)
    score = json.loads((fine_run / "downscale.json").read_text())["scores"]["validation"]["network"]["score"]
    assert (line["model"], line["state"], line["seed"], line["set"]) == ("downscale", "finished", 0, "validation")
    assert line["score"] == score
    assert (line["epoch"], line["epochs"]) == (1, 1)
    assert line["protocol"]
    # Of everything that the command did, as its page says, and not of the epochs alone.
    assert line["seconds"] == json.loads((fine_run / "downscale.json").read_text())["seconds"]
    table = emukit("runs", fine_run.parent).out
    assert "downscaling from 4 x 6 cells" in table
    assert "lower is better" in " ".join(table.split())
    for words in (["rm", fine_run, "--yes"], ["rm", fine_run.parent, "--keep-best", "1", "--yes"]):
        answer = emukit("runs", *words)
        assert (fine_run / "downscale.json").exists()
    assert emukit("runs", "rm", fine_run, "--yes").code == 2


def test_a_damaged_downscaling_run_is_listed_as_damaged(emukit, fine_run, tmp_path):
    place = tmp_path / "runs" / "torn"
    place.mkdir(parents=True)
    (place / "downscale.json").write_text((fine_run / "downscale.json").read_text()[:500])
    (line,) = json.loads(emukit("runs", tmp_path / "runs", "--format", "json").out)
    assert line["state"] == "damaged"
    record = json.loads((fine_run / "downscale.json").read_text())
    (place / "downscale.json").write_text(json.dumps(record | {"state": "training"}))
    (line,) = json.loads(emukit("runs", tmp_path / "runs", "--format", "json").out)
    assert line["state"] == "interrupted"


def test_evaluate_scores_a_downscaling_run_next_to_its_baselines(emukit, demo_store, fine_run):
    answer = emukit("evaluate", fine_run, "--data", demo_store, "--format", "json", "-q")
    assert answer.code == 0, answer.err
    known = json.loads((fine_run / "downscale.json").read_text())["scores"]["validation"]
    found = json.loads(answer.out)["scores"]
    for label, own in known.items():
        assert found[label] == pytest.approx(own, rel=1e-6)
    answer = emukit("evaluate", fine_run, "--data", demo_store, "-q")
    assert "MAE below that of the best baseline" in answer.out
    for words, found in ([["--seeds", "1"], "--seeds"], [["--format", "csv"], "--format csv"], [["--fast"], "--fast"]):
        answer = emukit("evaluate", fine_run, *words)
        assert answer.code == 2
        assert found in answer.err
    answer = emukit("evaluate", fine_run, "--data", demo_store, "--split", "test")
    assert answer.code == 2
    assert "hidden" in answer.err


def test_no_gain_is_printed_that_is_one_over_bilinear_alone(emukit, demo_store, fine_run):
    """The network is better than bilinear by far, and than the best baseline by less or not at all."""
    answer = emukit("evaluate", fine_run, "--data", demo_store, "-q")
    scores = json.loads((fine_run / "downscale.json").read_text())["scores"]["validation"]
    labels = ["bilinear", "bilinear + residual's monthly climatology", "bilinear + line of each cell and month"]
    said = answer.out.splitlines()[-1]
    for variable in ("tas", "pr"):
        maes = [scores[label][f"{variable}.mae"] for label in labels]
        own = scores["network"][f"{variable}.mae"]
        alone, best = 1 - own / maes[0], 1 - own / min(maes)
        assert alone - best > 0.01
        assert f"{variable} {best:+.1%}" in said
        assert f"{alone:+.1%}" not in answer.out


def test_a_report_has_a_page_of_a_downscaling_run(emukit, fine_run, tmp_path):
    answer = emukit("report", fine_run, "--out", tmp_path / "report", "-q")
    assert answer.code == 0, answer.err
    (page,) = (tmp_path / "report" / "downscaling").glob("fine-*.html")
    text = page.read_text()
    assert f"downscaling/{page.name}" in (tmp_path / "report" / "index.html").read_text()
    known = json.loads((fine_run / "downscale.json").read_text())["scores"]["validation"]
    for label, own in known.items():
        if label != "gain":
            assert f'<td class="number">{own["tas.mae"]:.3f}</td>' in text
    assert "of the best baseline" in text
    pictures = re.findall(r'<img src="\.\./([^"]+)"', text)
    assert {p.rsplit("/", 1)[1] for p in pictures} >= {"errors.png", "learning.webp", "0001.png"}
    assert all((tmp_path / "report" / p).stat().st_size > 1000 for p in pictures)


@pytest.mark.parametrize(
    ("table", "key", "value", "found"),
    [("scored", "validation", 3, "scored.validation"), ("recipe", "coarse", {"grid": True}, "recipe.coarse")],
)
def test_a_record_with_values_of_another_kind_is_listed_as_damaged(
    emukit, fine_run, tmp_path, table, key, value, found
):
    record = json.loads((fine_run / "downscale.json").read_text())
    record[table][key] = value
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "downscale.json").write_text(json.dumps(record))
    answer = emukit("runs", tmp_path, "--format", "json")
    assert answer.code == 0, answer.err
    (line,) = json.loads(answer.out)
    assert line["state"] == "damaged"
    assert found in answer.out + answer.err


def test_a_record_that_is_no_file_is_not_said_to_be_missing(emukit, tmp_path):
    os.mkfifo(tmp_path / "downscale.json")
    answer = emukit("downscale", tmp_path, tmp_path / "x.nc", "--out", tmp_path / "f.zarr")
    assert answer.code == 2
    assert "not a downscaling run" in answer.err
    assert "no downscale.json" not in answer.err


@pytest.mark.parametrize("command", ["plot", "leaderboard", "submit"])
def test_a_command_of_other_runs_says_that_nobody_trained_it(emukit, tmp_path, command):
    (tmp_path / "fine").mkdir()
    (tmp_path / "fine" / "downscale.json").write_text("{}")
    refused = emukit(command, tmp_path / "fine")
    assert refused.code == 2
    assert "it holds a run of downscaling" in " ".join(refused.err.split())
