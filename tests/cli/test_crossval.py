"""`emukit evaluate MODEL` and `emukit crossval` that print other tables than they keep, or train unasked."""

import json
import shutil
from pathlib import Path

import pytest


def test_from_recipe_to_table(emukit, demo_store):
    words = ("evaluate", "linear", "--data", demo_store, "--protocols", "official,loso:all", "--out", "v")
    answer = emukit(*words, "--set", "model.ridge=30.0")
    assert answer.code == 0, answer.err
    assert "one run is enough" in answer.err
    assert "noise ceiling" in answer.out
    assert "not scored: loso:ssp245 test" in answer.out
    kept = json.loads(Path("v/validation.json").read_text())
    together = next(s for s in kept["scored"] if s["protocol"] == "loso:all")
    assert len(together["months"]) == 3
    for numbers in together["lines"].values():
        assert f"{numbers['score']:.4f}" in answer.out
    record = json.loads(Path("v/linear-loso-ssp126-s0/run.json").read_text())
    assert record["command"] == (
        f"emukit train linear --data {demo_store} --set model.ridge=30.0 --protocol loso:ssp126 --seed 0"
    )
    again = emukit(*words, "--set", "model.ridge=30.0", "--format", "md")
    assert f"| one run | {together['lines']['one run']['score']:.4f} |" in again.out
    assert again.err.count("\nrun ") == len(kept["runs"])
    other = emukit(*words)
    assert other.code == 2
    assert "another configuration" in other.err


def test_the_earlier_spelling_continues_what_it_began(emukit, demo_store):
    words = ("climatology", "--data", demo_store, "--protocols", "official", "--seeds", "1")
    old = emukit("validate", *words)
    assert old.code == 0, old.err
    assert "is now `emukit evaluate MODEL" in old.err
    folder = Path("runs/validate-climatology/climatology-official-s0")
    before = (folder / "run.json").read_bytes()
    again = emukit("validate", *words, "--markdown", "-q")
    assert "| one run | " in again.out
    assert again.err == ""
    new = emukit("evaluate", *words, "--out", "runs/validate-climatology", "--format", "json", "-q")
    assert json.loads(new.out) == json.loads(Path("runs/validate-climatology/validation.json").read_text())
    assert (folder / "run.json").read_bytes() == before
    assert emukit("--help").out.count("validate") == 0


def test_a_recipe_that_is_named_alone_is_not_trained(emukit, demo_store):
    """A misspelt run folder must not cost hours."""
    for what in ("linear", "cnn-gru-fast", "mine.toml", "module:Name"):
        answer = emukit("evaluate", what, "--data", demo_store)
        assert answer.code == 2
        assert f"emukit evaluate {what} --protocols" in answer.err
    assert "--set" not in emukit("evaluate", "runs/lienar", "--data", demo_store).err
    answer = emukit("evaluate", "linear", "--data", demo_store, "--set", "model.ridge=1.0")
    assert (answer.code, "--protocols or --seeds" in answer.err) == (2, True)
    assert not Path("runs").exists()


def test_options_of_a_recipe_do_nothing_for_a_run_and_are_refused(emukit, linear_run):
    for words in (
        ("--protocols", "k360"),
        ("--seeds", "2"),
        ("--out", "o"),
        ("--set", "model.ridge=1.0"),
        ("--recipe", "a.toml"),
        ("--fast",),
        ("--track", "wandb"),
    ):
        answer = emukit("evaluate", linear_run, *words)
        assert answer.code == 2
        assert f"{words[0]} would do nothing" in answer.err
    for words in (("--split", "test"), ("--members", "4")):
        answer = emukit("evaluate", "linear", "--protocols", "official", *words)
        assert answer.code == 2
        assert f"{words[0]} would do nothing" in answer.err


def test_a_run_folder_of_a_recipes_name_is_a_run(emukit, linear_run):
    shutil.copytree(linear_run, "linear")
    answer = emukit("evaluate", "linear", "-q")
    assert answer.code == 0, answer.err
    assert "validation" in answer.out


def test_mistakes_are_said_before_anything_is_trained(emukit, demo_store):
    answer = emukit("evaluate", "linear", "--data", demo_store, "--protocols", "official,loso:nowhere", "--out", "v")
    assert answer.code == 2
    assert "loso:nowhere" in answer.err
    assert not Path("v").exists()
    assert emukit("evaluate", "linear", "--data", demo_store, "--seeds", "0", "--out", "v").code == 2


def test_precision_that_would_reach_no_network_is_refused(emukit, demo_store):
    answer = emukit("train", "residual-correction", "--precision", "bf16", "--data", demo_store)
    assert answer.code == 2
    assert "does not reach the networks in residual-correction" in answer.err


@pytest.mark.parametrize("words", ["", "k360,,loso:all", ","])
def test_empty_name_of_a_protocol_is_not_the_default(emukit, demo_store, words):
    answer = emukit("evaluate", "linear", "--data", demo_store, "--protocols", words, "--out", "v")
    assert answer.code == 2
    assert "empty name" in answer.err


def test_final_fit_by_the_command_line(emukit, demo_store):
    assert emukit("train", "linear", "--data", demo_store, "--members", "1", "--out", "runs/a").code == 0
    final = emukit("train", "linear", "--data", demo_store, "--final", "runs/a")
    assert final.code == 0, final.err
    assert "score nothing" in final.out
    record = json.loads(Path("runs/linear-official-s0-final/run.json").read_text())
    assert record["identity"]["members"] == [1]
    assert "validation" not in record["scored"]
    refused = emukit("evaluate", "runs/linear-official-s0-final")
    assert refused.code == 2
    assert "final fit" in refused.err
    other = emukit("train", "linear", "--data", demo_store, "--final", "runs/a", "--set", "model.ridge=1.0")
    assert other.code == 2
    assert "another recipe" in other.err


def test_crossval_prints_what_it_keeps_and_knows_its_own_runs(emukit, demo_store):
    words = ("crossval", "--data", demo_store, "--protocol", "k360", "--out", "c", "-q")
    answer = emukit(*words, "linear", "--months", "240")
    assert answer.code == 0, answer.err
    kept = json.loads(Path("c/crossval.json").read_text())
    assert len(kept["months"]) == 7
    assert kept["months"]["without ssp126"] == "ssp126 2080-02..2100-01 members 0,1"
    for fold, numbers in kept["recipes"]["linear"]["folds"].items():
        assert f"{fold} {numbers['score']:.4f}" in " ".join(answer.out.split())
    assert len([*Path("c").glob("*/*/run.json")]) == 7
    both = emukit(*words, "climatology", "linear", "--months", "240", "--markdown")
    assert f"| linear | {kept['recipes']['linear']['mean']['score']:.4f} |" in both.out
    assert "linear minus climatology" in both.out
    assert len([*Path("c").glob("*/*/run.json")]) == 14


def test_crossval_refuses_what_it_cannot_do_before_training(emukit, demo_store):
    words = ("crossval", "--data", demo_store, "--out", "c")
    for wrong, said in (
        (("linear", "anchor", "--set", "model.ridge=1.0"), "of one recipe"),
        (("linear", "linear"), "named twice"),
        (("linear", "nothing"), "unknown emulator"),
        (("linear", "--protocol", "nothing"), "not known"),
        (("linear", "--months", "0"), "--months"),
    ):
        answer = emukit(*words, *wrong)
        assert answer.code == 2
        assert said in answer.err
    assert not Path("c").exists()


def test_refit_selects_and_fits_once_more_in_one_command(emukit, demo_store):
    words = ("train", "linear", "--data", demo_store, "--members", "0,1", "--refit", "--out", "runs/a")
    whole = emukit(*words)
    assert whole.code == 0, whole.err
    assert "score nothing" in whole.out
    assert "runs/a-final: " in whole.out
    selected, final = (json.loads(Path(f"runs/{n}/run.json").read_text()) for n in ("a", "a-final"))
    assert selected["identity"]["final"] is None
    assert final["identity"]["final"]
    assert final["train"] != selected["train"]
    by_hand = emukit("train", "linear", "--data", demo_store, "--final", "runs/a", "--out", "runs/b")
    assert by_hand.code == 0
    arrays = [Path(f"runs/{n}/emulator/arrays.safetensors").read_bytes() for n in ("a-final", "b", "a")]
    assert arrays[0] == arrays[1] != arrays[2]
    shutil.copytree("runs/a-final", "runs/d-final")
    early = emukit(*words[:-1], "runs/d")
    assert (early.code, Path("runs/d").exists()) == (2, False)  # before anything is trained
    assert "runs/d-final exists" in early.err
    record = json.loads(Path("runs/d-final/run.json").read_text())
    Path("runs/d-final/run.json").write_text(json.dumps({**record, "state": "training"}))
    assert "--resume --out runs/d\n" in emukit("submit", "runs/d-final").err + "\n"
    both = emukit(*words, "--final", "runs/a")
    assert both.code == 2
    assert "two ways" in both.err
    # Interrupted after the first training, it continues with the second.
    shutil.rmtree("runs/a-final")
    again = emukit(*words, "--resume")
    assert again.code == 0, again.err
    assert Path("runs/a-final/emulator/arrays.safetensors").read_bytes() == arrays[0]
