"""Logs that lose epochs, and do not say so."""

from __future__ import annotations

import json

import pytest

from emukit.errors import RunError
from emukit.training.log import MetricsLog, gaps, line_of, read_lines, recovered

LINES = [line_of({"epoch": e, "loss": 1.0 / e}) for e in (1, 2, 3)]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(line + "\n" for line in LINES))
    return path


def epochs(path):
    return [line["epoch"] for line in read_lines(path)]


@pytest.mark.parametrize("rest", ['{"epo', '{"epoch": 4, "loss": "', "\x00" * 40, "\xff\xfe"])
def test_a_last_line_that_was_cut_takes_others_with_it(log, rest):
    log.write_bytes(log.read_bytes() + rest.encode("latin-1"))
    assert epochs(log) == [1, 2, 3]


def test_a_last_line_that_lacks_only_its_end_is_lost(log):
    log.write_bytes(log.read_bytes()[:-1])
    assert epochs(log) == [1, 2, 3]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_damaged_line_ends_the_log_without_a_word(log, number):
    lines = LINES.copy()
    lines[number] = lines[number].replace("{", "#", 1)
    log.write_text("\n".join(lines) + "\n")
    with pytest.raises(RunError, match=rf"damaged\n.*line {number + 1} cannot be read"):
        read_lines(log)


def test_a_log_of_something_else_is_read(log):
    for text in ("[1]\n", '{"epoch": true}\n', "\n"):
        log.write_text(text)
        with pytest.raises(RunError, match="line 1 "):
            read_lines(log)


@pytest.mark.parametrize(
    ("kept", "of", "words"),
    [
        ([1, 2, 3], None, ""),
        ([1, 3], None, "1 of 3 epochs missing: 2"),
        ([1, 2], 3, "1 of 3 epochs missing: 3"),
        ([], 7, "7 of 7 epochs missing: 1, 2, 3, 4, 5 and more"),
        ([1, 2, 2], None, "other epochs than 1 to 2, each once and in order"),
        ([], None, ""),
    ],
)
def test_gaps_are_not_told(kept, of, words):
    assert gaps([{"epoch": e} for e in kept], of) == words


def test_a_log_that_was_lost_is_written_again_from_the_checkpoint(log):
    log.unlink()
    assert recovered(log, LINES, 3) == (LINES, "3 of 3 epochs missing: 1, 2, 3")
    log.write_text("#" + LINES[0] + "\n")
    lines, wrong = recovered(log, LINES, 3)
    assert (lines, "line 1 cannot be read" in wrong) == (LINES, True)
    log.write_text("\n".join([LINES[0], line_of({"epoch": 2, "loss": 7.0}), LINES[2]]) + "\n")
    assert recovered(log, LINES, 3) == (LINES, "other numbers than in the checkpoint")


def test_an_epoch_after_the_checkpoint_is_taken_for_damage(log):
    assert recovered(log, LINES[:2], 2) == (LINES[:2], "")
    # A checkpoint of an earlier version holds no lines: the log alone has them.
    assert recovered(log, None, 2) == (LINES[:2], "")
    log.write_text(LINES[1] + "\n")
    assert recovered(log, None, 2) == (LINES[1:2], "1 of 2 epochs missing: 1")


def test_a_line_is_not_on_disk_when_its_checkpoint_is(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    log, synced = MetricsLog(path, LINES[:1]), []
    monkeypatch.setattr("emukit.training.log.os.fsync", lambda descriptor: synced.append(path.read_text()))
    log.append(LINES[1])
    assert synced == ["".join(line + "\n" for line in LINES[:2])]


def test_a_log_that_leads_elsewhere_is_appended_to(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    log = MetricsLog(tmp_path / "metrics.jsonl", [])
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to(victim)
    with pytest.raises(OSError, match="symbolic link"):
        log.append(json.dumps({"epoch": 1}))
    assert victim.read_text() == "precious"
