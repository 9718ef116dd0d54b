"""Trackers that show other numbers than the log, an epoch twice or not at all."""

import json
import os
import sys
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest

from emukit.errors import RunError, TrainingError
from emukit.progress import silent_reporter
from emukit.recipes.load import load_recipe
from emukit.registry import Entry
from emukit.runs.run import train_run
from emukit.training import loop, tracking
from emukit.training.engine import Execution
from emukit.training.log import read_lines
from emukit.training.tracking import Tracker, check_tracker, mirror, scalars
from tests import forks
from tests.cli.conftest import TINY
from tests.coded import warming_archive

NETWORK = [*(word.removeprefix("--set=") for word in TINY), "training.segments.length=40", "training.epochs=4"]
# The log of each epoch is written, and mirrored, before the checkpoint: a crash between the two takes an epoch back.
CRASH_AFTER = 2


class CrashError(Exception):
    pass


@pytest.fixture(scope="module")
def archive():
    return warming_archive()


def tracked(archive, folder, monkeypatch, tracker, *, untracked_first=False):
    """A training that crashes in its third epoch, and continues."""
    recipe, calls, save = load_recipe("cnn-gru", assignments=NETWORK), [], loop.save_checkpoint

    def run(**words):
        train_run(archive, recipe, folder, protocol="k360", reporter=silent_reporter(), **words)

    def crashing(*words):
        calls.append(1)
        if len(calls) > CRASH_AFTER:
            raise CrashError
        save(*words)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "save_checkpoint", crashing)
        with pytest.raises(CrashError):
            run(execution=Execution(track=None if untracked_first else tracker))
    assert len(read_lines(folder / "metrics.jsonl")) == CRASH_AFTER + 1
    run(execution=Execution(track=tracker), resume=True)
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    return lines


def expected(lines):
    """Name to step and value."""
    table = pd.json_normalize(lines, sep="/")
    return {n: [*zip(table["step"], table[n], strict=True)] for n in table.columns if n != "step"}


@pytest.mark.parametrize("untracked_first", [False, True])
def test_tensorboard_shows_every_epoch_of_the_log_once(archive, tmp_path, monkeypatch, untracked_first):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: its mirror is not tested")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    lines = tracked(archive, tmp_path / "run", monkeypatch, "tensorboard", untracked_first=untracked_first)
    # Nothing is purged: what a resume takes back must not be in the files.
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), purge_orphaned_data=False).Reload()
    found = {n: [(e.step, e.value) for e in events.Scalars(n)] for n in events.Tags()["scalars"]}
    # Event files hold float32.
    assert found == {n: [(step, float(np.float32(v))) for step, v in own] for n, own in expected(lines).items()}
    assert len(found) > 12
    (text,) = events.Tensors("about/text_summary")
    about = json.loads(text.tensor_proto.string_val[0])
    assert (about["protocol"], about["seed"]) == ("k360", 0)
    assert about["recipe"]["training"]["epochs"] == 4


def offline_history(folder, about=None):
    """What wandb kept for later: step and numbers of each line, read from its log of length-prefixed records."""
    from wandb.proto.wandb_internal_pb2 import Record

    out = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, place, whole = path.read_bytes(), 7, b""
        while place + 7 <= len(data):
            if 32768 - place % 32768 < 7:
                place += 32768 - place % 32768
                continue
            length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
            whole += data[place + 7 : place + 7 + length]
            place += 7 + length
            if kind in (1, 4):
                record, whole = Record.FromString(whole), b""
                if record.HasField("run") and about is not None:
                    about |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
                if record.HasField("history"):
                    items = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.history.item}
                    own = {k: v for k, v in items.items() if not k.startswith("_")}
                    # The name of the folder ends in a number where two runs began in one second.
                    out.append((path.stem.removeprefix("run-"), items["_step"], own))
    return out


def test_wandb_goes_on_with_the_same_run_and_sends_no_epoch_twice(archive, tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="wandb is not installed: its mirror is not tested")
    monkeypatch.setenv("WANDB_MODE", "offline")
    lines = tracked(archive, tmp_path / "run", monkeypatch, "wandb")
    about = {}
    found = offline_history(tmp_path / "run", about)
    assert (about["protocol"], about["recipe"]["training"]["epochs"]) == ("k360", 4)
    assert len({run for run, _, _ in found}) == 1
    assert [step for _, step, _ in found] == [line["step"] for line in lines]
    for (_, _, numbers), line in zip(found, lines, strict=True):
        # The third epoch was sent before the crash; on one CPU it is the same again, except for the time it took.
        own = scalars(line)
        assert {k: v for k, v in numbers.items() if k != "seconds"} == {k: v for k, v in own.items() if k != "seconds"}
    assert json.loads((tmp_path / "run" / "wandb.json").read_text())["epochs"] == 4


def test_tracker_without_its_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(TrainingError, match="not installed") as caught:
        check_tracker("wandb")
    assert "pip install -e '.[wandb]'" in caught.value.hint
    with pytest.raises(TrainingError, match="unknown tracker 'paper'") as caught:
        check_tracker("paper")
    assert caught.value.expected == "tensorboard, wandb"


@pytest.mark.parametrize("mode", ["online", "shared", "sideways"])
def test_a_tracker_that_cannot_begin_leaves_a_run_behind(tmp_path, monkeypatch, demo_store, mode):
    """In a process of its own: wandb reads its environment once."""
    pytest.importorskip("wandb", reason="wandb is not installed: its mirror is not tested")
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    environment = {"WANDB_MODE": mode, "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    # Nobody listens there: a test needs no network.
    environment |= {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}
    words = ("train", "cnn-gru", "--data", demo_store, "--out", "run", "--track", "wandb")
    started = forks.start(tmp_path, *words, **environment)
    assert started.wait() == 2
    said = started.err.read_text()
    assert said.startswith("error: wandb cannot start\n")
    assert "WANDB_MODE=offline now" in said
    assert not (tmp_path / "run").exists()


def test_every_tracker_has_an_extra_of_its_name():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert set(tracking.TRACKERS) <= set(project["optional-dependencies"])


def test_nothing_is_tracked_or_imported_unless_asked(archive, tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "check_tracker", None)
    train_run(
        archive,
        load_recipe("cnn-gru", assignments=NETWORK),
        tmp_path / "r",
        protocol="k360",
        reporter=silent_reporter(),
    )
    assert not (tmp_path / "r" / "tensorboard").exists()


SEEN = []


@contextmanager
def _seen(folder, lines, about):
    SEEN.extend([{"step": about["seed"]}, *lines])
    yield SEEN.append


KEPT = Tracker(_seen)


def test_third_tracker_is_one_function_and_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.SEEN", [])
    monkeypatch.setitem(tracking.TRACKERS.built_in, "kept", Entry(f"{__name__}:KEPT"))
    (tmp_path / "metrics.jsonl").write_text('{"epoch": 1, "step": 5}\n')
    with mirror("kept", tmp_path / "metrics.jsonl", {"seed": 3}) as send:
        send({"epoch": 2, "step": 10})
    assert [line["step"] for line in SEEN] == [3, 5, 10]


def test_damaged_memory_of_what_was_sent_is_refused(tmp_path):
    pytest.importorskip("wandb", reason="wandb is not installed: its mirror is not tested")
    (tmp_path / "wandb.json").write_text("{")
    with pytest.raises(RunError, match="damaged"), mirror("wandb", tmp_path / "metrics.jsonl", {}):
        pass


def test_what_is_null_in_the_log_is_no_scalar():
    assert scalars({"epoch": 1, "step": 3, "gradient_norm": None, "validation": {"score": 0.5, "tas": {"a": 1.0}}}) == {
        "epoch": 1,
        "validation/score": 0.5,
        "validation/tas/a": 1.0,
    }
