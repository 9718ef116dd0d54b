"""Mistakes that end in a traceback, in the wrong exit code, or with something half-written."""

import json
from importlib import import_module
from pathlib import Path

import pytest

from tests.cli.conftest import TINY


@pytest.fixture
def good_csv(emukit, linear_run, demo_store):
    assert emukit("submit", linear_run, "--data", demo_store, "--out", "entry").code == 0
    return Path("entry/submission.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train nothing", "unknown emulator"),
        ("train linear --members 0,9", "member 9"),
        ("train linear --members 0,0", "twice"),
        ("train linear --members a", "cannot read --members"),
        ("train linear --protocol k999", "protocol k999"),
        ("train linear --protocol loso:ssp999", "ssp999"),
        ("train linear --set model.ridge=hard --set model.wrong=1", "2 wrong settings"),
        ("train linear --set training.epochs=3", "training: unknown key"),
        ("train cnn-gru --set inputs.window.history=2000", "inputs.window.history"),
        ("train cnn-gru --set inputs.window.history=1100", "longer than the scenario"),
        ("train cnn-gru --set training.segments.length=5000", "no training span"),
        ('train cnn-gru --set inputs.seasonal=["moon"]', "moon"),
        ('train cnn-gru --set inputs.statics=["land"]', "land"),
        ('train cnn-gru --set inputs.forcings=["N2O"]', "N2O"),
        ("train cnn-gru --set model.stages=9", "cannot build"),
        ("train cnn-gru --set loss.tas.mze=1", "mze"),
        ("train cnn-gru --recipe missing.toml", "cannot read"),
        ("train linear --data missing.zarr", "missing.zarr"),
        ("train linear --convert tas", "cannot read --convert"),
        ("train linear --card nocard", "nocard"),
        ("evaluate nowhere", "not a run"),
        ("evaluate RUN --split test", "hidden"),
        ("evaluate RUN --split tomorrow", "no set 'tomorrow'"),
        ("predict RUN --scenario ssp999 --out x.nc", "ssp999"),
        ("predict RUN --scenario ssp245 --out x.txt", "cannot tell the format"),
        ("submit RUN --pack rar", "cannot pack"),
        ("score missing.csv STORE", "missing.csv"),
        ("check-submission missing.csv --data STORE", "missing.csv"),
        ("leaderboard nowhere", "holds no run"),
        ("data demo d.zarr --grid 8by12", "cannot read --grid"),
        ("data demo d.zarr --years 0", "years"),
        ("data windows STORE --model linear", "reads no windows"),
        ("models nothing", "unknown emulator"),
    ],
)
def test_mistake_is_one_clear_error_and_exit_code_2(emukit, demo_store, linear_run, words, message, tmp_path):
    places = {"RUN": str(linear_run), "STORE": str(demo_store)}
    arguments = [places.get(w, w) for w in words.split()]
    if arguments[0] == "train" and "--data" not in arguments:
        arguments += ["--data", str(demo_store)]
    answer = emukit(*arguments)
    assert answer.code == 2, answer
    assert message in answer.err
    assert "Traceback" not in answer.err
    assert answer.err.count("error: ") == 1
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix not in ("",)] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("cnn-gru --devices 2 --strategy fsdp --precision fp16", "fp16 is not supported with fsdp"),
        ("cnn-gru --devices 2 --loss mse --set training.segments={per_batch=1,length=1}", "cannot be divided over 2"),
        ("cnn-gru-published --devices 2 --set training.segments.per_batch=1", "batch normalisation"),
        ("cnn-gru --devices 2 --set model.stages=9", "cannot build"),
        ("cnn-gru --devices 2 --data missing.zarr", "missing.zarr"),
        ("cnn-gru --devices 4096", "cannot start 4096 processes"),
        ("cnn-gru --devices 2 --compile", "C++ compiler"),
        ("cnn-gru --compile", "C++ compiler"),
        ("cnn-gru --strategy fsdp", "nothing to shard"),
        ("linear --devices 2", "closed form: --devices would do nothing"),
        ("linear --strategy ddp", "closed form: --strategy would do nothing"),
        ("linear --compile --channels-last", "closed form: --compile and --channels-last would do nothing"),
        ("climatology --precision bf16", "closed form: --precision would do nothing"),
    ],
)
def test_mistake_in_the_words_alone_starts_processes_or_reads_a_store(
    emukit, demo_store, words, message, monkeypatch, tmp_path
):
    def reached(*arguments):
        raise AssertionError("not refused before")

    monkeypatch.setattr("emukit.parallel.launch.relaunch", reached)
    # `emukit.cli` has a function of that name too.
    monkeypatch.setattr(import_module("emukit.cli.options"), "open_named", reached)
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("EMUKIT_DATA", str(demo_store))
    answer = emukit("train", *words.split())
    assert answer.code == 2, answer
    assert message in answer.err
    assert answer.err.count("error: ") == 1


def test_other_devices_than_torchrun_started_are_left_unsaid(emukit, demo_store, monkeypatch):
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "29400"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    answer = emukit("train", "cnn-gru", "--data", demo_store, "--devices", "3")
    assert answer.code == 2
    assert "2 processes that torchrun started" in answer.err


def test_all_mistakes_of_a_recipe_are_listed(emukit, demo_store):
    Path("r.toml").write_text('[training]\nepochs = "3"\nepoch = 4\n[model]\nhiden = 3\n[inputs.window]\nhistory = 0\n')
    answer = emukit("train", "cnn-gru", "--data", demo_store, "--recipe", "r.toml")
    assert answer.code == 2
    for path in ("training.epochs", "training.epoch:", "model.hiden", "inputs.window.history", "r.toml"):
        assert path in answer.err


def test_debug_shows_the_traceback(emukit):
    with pytest.raises(Exception, match="not a run"):
        emukit("evaluate", "nowhere", "--debug")


def test_truncated_run_is_named(emukit, demo_store):
    words = ("train", "cnn-gru", "--data", demo_store, "--out", "net", *TINY)
    assert emukit(*words).code == 0
    record = Path("net/run.json")
    content = record.read_text()
    record.write_text(content[:100])
    assert "damaged" in emukit("evaluate", "net").err
    values = json.loads(content)
    record.write_text(json.dumps({k: v for k, v in values.items() if k != "recipe"}))
    assert "recipe: missing" in emukit("evaluate", "net").err
    record.write_text(json.dumps({**values, "state": "training"}))
    answer = emukit("evaluate", "net")
    assert answer.code == 2
    assert "--resume" in answer.err


def shift_ids(lines):
    return [lines[0], *(f"t{int(line[1:4]) + 1:03d}{line[4:]}" for line in lines[1:])]


def shift_content(lines):
    """One month early: month t holds what belongs to month t + 1."""
    cells = (len(lines) - 1) // 360
    ids = [line.split(",")[0] for line in lines[1:]]
    values = [line.split(",")[1] for line in lines[1:]]
    return [lines[0], *(f"{i},{v}" for i, v in zip(ids, values[cells:] + values[:cells], strict=True))]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x[:-5], "missing"),
        (lambda x: [*x, x[7]], "duplicate"),
        (lambda x: [*x, "t999_tas_0.00_0.00,1"], "t999"),
        (lambda x: [x[0], x[1].split(",")[0] + ",nan", *x[2:]], "finite"),
        (lambda x: ["id,pred", *x[1:]], "header"),
        (shift_ids, "t001"),
        (shift_content, "early"),
        (lambda x: x[: 1 + (len(x) - 1) * 120 // 360], "120"),
    ],
)
def test_wrong_submission_is_named_and_exits_1(emukit, good_csv, demo_store, spoil, message):
    lines = good_csv.read_text().splitlines()
    Path("bad.csv").write_text("\n".join(spoil(lines)) + "\n")
    answer = emukit("check-submission", "bad.csv", "--data", demo_store)
    assert answer.code == 1, answer.out
    assert message in answer.out


def test_failed_submission_leaves_no_folder(emukit, linear_run, demo_store, monkeypatch):
    from emukit import submission

    monkeypatch.setattr(submission, "check_submission", lambda *a: ["made up"])
    answer = emukit("submit", linear_run, "--data", demo_store, "--out", "entry")
    assert answer.code == 2
    assert "made up" in answer.err
    assert not Path("entry").exists()
    assert list(Path.cwd().glob(".entry*")) == []


def test_emulator_of_another_grid_is_not_scored(emukit, linear_run):
    assert emukit("data", "demo", "other.zarr", "--grid", "6x10", "--members", "1").code == 0
    answer = emukit("evaluate", linear_run, "--data", "other.zarr")
    assert answer.code == 2
    assert "another grid" in answer.err
