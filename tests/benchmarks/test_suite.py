"""Benches that nobody can find, options that do nothing, tables that lose a figure."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import Figure, suite
from benchmarks.__main__ import app
from benchmarks.device import CeilingRow
from benchmarks.suite import BENCHES, Bench, Choice, run_suite
from emukit.data.demo import DemoClimate
from emukit.data.store import archive_from_dataset
from emukit.errors import EmukitError
from emukit.progress import Reporter

QUIET = Reporter(quiet=True)
GOOD = Figure("good one", 1.0, "s", 3.0, 3.0, 70.0, "under 2 s", True)
BAD = Figure("bad one", 5.0, "months/s", 3.0, 0.6, 71.0, "under 2 s", False)
CEILING = CeilingRow("memory", "copy", 12.346, "GB/s")


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    for name, bench in BENCHES.items():
        measured = lambda choice, name=name: names.append(name) or []  # noqa: E731
        monkeypatch.setitem(BENCHES, name, Bench(measured, bench.takes, bench.needs_store, bench.by_default))
    return names


def test_the_long_ones_run_only_by_name(called: list[str]) -> None:
    run_suite((), Choice(), QUIET)
    assert called == ["help", "commands", "write", "score", "report", "predict", "input"]
    called.clear()
    run_suite((), Choice("a.zarr"), QUIET)
    assert called == ["help", "commands", "write", "score", "store", "linear", "report", "predict", "input"]
    called.clear()
    run_suite(("device", "segments"), Choice(), QUIET)
    assert called == ["device", "segments"]


@pytest.mark.parametrize("name", ["store", "linear", "reach"])
def test_what_reads_a_store_refuses_the_demo(called: list[str], name: str) -> None:
    with pytest.raises(EmukitError, match=f"store on disk is needed for {name}"):
        run_suite(("help", name), Choice(), QUIET)
    assert called == []


@pytest.mark.parametrize(
    ("names", "choice", "refused"),
    [
        (("help",), Choice(models=("cnn-gru",)), "--model"),
        ((), Choice(settings=("a=1",)), "--set"),
        (("linear",), Choice("a.zarr", device="cpu"), "--device"),
        (("segments",), Choice(budget=3.0), "--budget"),
        (("segments", "write"), Choice(device="cpu"), "--device"),
        (("reach",), Choice("a.zarr", runs=5), "--runs"),
        (("segments",), Choice(budget=0.0), "--budget"),
    ],
)
def test_an_option_that_does_nothing_is_refused(
    called: list[str], names: tuple[str, ...], choice: Choice, refused: str
) -> None:
    with pytest.raises(EmukitError, match=f"{refused} would do nothing"):
        run_suite(names, choice, QUIET)
    assert called == []


# Runs of the command itself, to the exit code.
REFUSED = [
    (("predict", "--model", "cnn-grr"), "unknown emulator 'cnn-grr'"),
    (("predict", "--model", "linear"), "linear is not a network"),
    (("input", "--set", "model.wdith=3"), "wdith"),
    (("train", "--model", "cnn-gru", "--set", "model.width=0"), "cannot build cnn-gru"),
    (("device", "--model", "cnn-gru", "--set", "inputs.forcings=CO2,N2O"), "N2O"),
    (("segments", "--device", "gpu"), "--device gpu cannot be had here"),
    (("segments", "--device", "cuda:9"), "--device cuda:9 cannot be had here"),
    (("help", "store", "--data", "nowhere.zarr"), "nowhere.zarr"),
    (("linear", "--data", "nowhere.zarr"), "nowhere.zarr"),
    (("reach", "--data", "nowhere.zarr"), "nowhere.zarr"),
    (("reach", "--data", "nowhere.zarr", "--model", "cnn-grr"), "unknown emulator 'cnn-grr'"),
    (("reach", "--data", "nowhere.zarr", "--budget", "0"), "not a time to train in"),
    (("reach", "--data", "nowhere.zarr", "--budget", "-3"), "not a time to train in"),
    (("reach", "--data", "nowhere.zarr", "--budget", "nan"), "not a time to train in"),
    (("reach", "--data", "nowhere.zarr", "--budget", "inf"), "not a time to train in"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED)
def test_what_cannot_be_measured_is_said_before_anything_is(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    from benchmarks import checks

    def start(*args: object, **options: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr("subprocess.run", start)
    small = DemoClimate(lat_cells=8, lon_cells=12, years=1, members=1)
    monkeypatch.setattr(checks, "made_up_archive", lambda job: archive_from_dataset(small.dataset(), source="demo"))
    done = CliRunner().invoke(app, [*words])
    if isinstance(done.exception, EmukitError):  # what the command line prints, with exit code 2
        text = str(done.exception)
    else:
        assert done.exit_code == 2
        text = done.output
    assert said in " ".join(text.split())


def test_every_network_bench_checks_its_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import checks

    seen: list[list[str]] = []
    monkeypatch.setattr(checks, "check_networks", lambda jobs, *a: seen.append([j.model for j in jobs]))
    monkeypatch.setattr(checks, "open_data", lambda path: None)
    for name in ("segments", "predict", "train", "input", "reach", "device"):
        BENCHES[name].check(Choice("x.zarr", models=("unet",)))
    assert seen == [["unet"]] * 6


def test_help_names_every_bench() -> None:
    text = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    words = set(re.findall(r"\w+", text))
    assert set(BENCHES) <= words


def test_both_tables_hold_every_figure() -> None:
    rows = [CEILING, GOOD, BAD]
    console = Console(width=200, file=io.StringIO())
    shown = suite.tables(rows, "machine")
    assert len(shown) == 2
    for table in shown:
        console.print(table)
    text = console.file.getvalue()
    lines = suite.markdown(rows, "machine").splitlines()
    assert lines[0] == "machine"
    assert "| memory | copy | 12.35 GB/s |" in lines
    assert "| good one | 1.00 s | 3.00 s | 3.0 | 70 | under 2 s | yes |" in lines
    assert "| bad one | 5.00 months/s | 3.00 months/s | 0.6 | 71 | under 2 s | NO |" in lines
    assert "| figure | median | reference | times faster | peak MB | bound | holds |" in lines
    for word in ("good one", "5.00 months/s", "NO", "12.3", "copy"):
        assert word in text


def test_a_broken_bound_is_an_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    for rows, code in (([GOOD], 0), ([GOOD, BAD], 1)):
        monkeypatch.setitem(BENCHES, "help", Bench(lambda choice, rows=rows: rows))
        done = CliRunner().invoke(app, ["help", "--markdown"])
        assert done.exit_code == code
        assert "| good one |" in done.output
