"""A figure must be measured, not assumed: its times, its memory, and that both sides give the same answer."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import Figure, Measured, compare, times_faster
from benchmarks.submission import bench_submission_score, bench_submission_write, grid, noise_climate, shuffle_rows
from emukit.errors import EmukitError


def slow(answer: str) -> Callable[[], float]:
    time.sleep(1.5)  # preparation, which is not timed

    def work() -> float:
        time.sleep(0.3)
        return float(answer)

    return work


def quick(answer: str) -> Callable[[], float]:
    def work() -> float:
        time.sleep(0.02)
        return float(answer)

    return work


def fat(answer: str) -> Callable[[], float]:
    def work() -> float:
        reserved = np.empty(250_000_000)  # never touched, so never resident
        return float(np.ones(25_000_000)[-1] - 1 + float(answer)) + 0 * len(reserved)

    return work


def other(answer: str) -> Callable[[], float]:
    return lambda: float(answer) + 1


def broken(answer: str) -> Callable[[], float]:
    raise RuntimeError("this one cannot run")


def unusable(answer: str) -> Callable[[], float]:
    raise EmukitError("there is no such climate")


def measure(work: str, reference: str, **bounds: float) -> Figure:
    bounds = {"faster": 0.0, "peak_mb": 1e6, **bounds}
    return compare("x", f"{__name__}:{work}", f"{__name__}:{reference}", ("3",), runs=1, **bounds)


def test_a_figure_is_the_time_of_the_work_alone() -> None:
    figure = measure("quick", "slow", faster=1.0)
    assert 0.3 <= figure.reference < 1.5
    assert 0.02 <= figure.value < figure.reference
    assert figure.ratio == pytest.approx(figure.reference / figure.value)
    assert figure.within
    assert not measure("slow", "quick", faster=1.0).within


def test_a_figure_is_the_median_of_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 10.0, 5.0, 90.0, 2.0, 30.0])
    runs = (Measured(s, s * 10, 7.0, 1) for s in seconds)
    monkeypatch.setattr("benchmarks.measure", lambda work, arguments: next(runs))
    figure = compare("x", "a:b", "c:d", (), runs=3, faster=15, peak_mb=51)
    assert (figure.value, figure.reference, figure.ratio, figure.peak_mb) == (2.0, 30.0, 15.0, 50.0)
    assert figure.within


def test_memory_is_the_peak_of_the_process() -> None:
    figure = measure("fat", "quick", peak_mb=150)
    assert 200 < figure.peak_mb < 500  # 25 million float64
    assert not figure.within


def test_a_faster_way_to_another_answer_is_no_figure() -> None:
    with pytest.raises(EmukitError, match="differ"):
        measure("other", "quick")


def test_the_cause_of_a_failed_process_is_shown() -> None:
    with pytest.raises(EmukitError, match="this one cannot run"):
        measure("broken", "quick")


def test_an_error_of_the_user_s_is_shown_without_a_traceback() -> None:
    with pytest.raises(EmukitError, match="no such climate") as raised:
        measure("unusable", "quick")
    assert "Traceback" not in str(raised.value)


def test_a_small_ratio_is_not_zero() -> None:
    shown = [times_faster(r) for r in (0.0512, 0.666, 1.0, 12.345, math.nan)]
    assert shown == ["0.051", "0.67", "1.0", "12.3", "-"]
    assert Figure("x", 0.3, "s", 0.015, 0.05, 70.0, "", True).cells()[3] == "0.05"


def test_nothing_holds_where_nothing_is_held() -> None:
    assert Figure("x", 1.0, "s", 1.0, 1.0, 70.0, "", True).cells()[-1] == ""
    assert Figure("x", 1.0, "s", 1.0, 1.0, 70.0, "under 2 s", True).cells()[-1] == "yes"


def test_a_reference_that_there_is_not_is_no_number() -> None:
    assert Figure("x", 1.0, "s", math.nan, math.nan, 70.0, "", True).cells()[2:4] == ("-", "-")


def test_the_memory_of_the_parent_is_not_counted() -> None:
    held = np.ones(60_000_000)
    assert measure("quick", "quick").peak_mb < held.nbytes / 1e6


def test_submission_figures_run_on_a_small_climate() -> None:
    figures = bench_submission_write(months=1, runs=1) + bench_submission_score(months=1, runs=1)
    assert [f.name for f in figures] == [
        "write submission",
        "score submission",
        "score submission, rows shuffled",
    ]
    assert all(f.value > 0 and f.reference > 0 and f.peak_mb > 20 for f in figures)


def test_shuffled_rows_are_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ID,Prediction\n" + "".join(f"{i},{i}\n" for i in range(99)))
    shuffle_rows(tmp_path / "a.csv", tmp_path / "b.csv")
    a, b = ((tmp_path / f"{n}.csv").read_text().splitlines() for n in "ab")
    assert a[0] == b[0]
    assert a != b
    assert sorted(a) == sorted(b)


def test_the_bench_climate_has_the_competition_s_size() -> None:
    assert grid().shape == (48, 72)
    assert f"{grid().lat[0]:.2f} {grid().lon[-1]:.2f}" == "-88.59 356.88"
    climate = noise_climate(2, seed=0)
    assert climate.shape == (2, 2, 48, 72)
    assert climate.dtype == np.float32


def test_a_long_list_is_of_runs_and_entries_that_differ(tmp_path: Path) -> None:
    """Copies that are one line of a leaderboard, or are one run, would make the list short."""
    from benchmarks.command import copy_folders

    for path, text in (
        ("one/run.json", '{"identity": {"seed": 0, "protocol": "k360"}}'),
        ("one/scores/validation.json", "{}"),
        ("one/emulator/arrays.safetensors", "large"),
        ("entry/entry.toml", 'name = "entry"\ncsv = "submission.csv"\n'),
        ("entry/submission.csv", "large"),
        ("entry/score.json", "{}"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    copy_folders(tmp_path, 3, 2)
    records = [json.loads(p.read_text())["identity"] for p in tmp_path.glob("runs/*/run.json")]
    assert sorted(r["seed"] for r in records) == [0, 1, 2]
    assert len(list(tmp_path.glob("runs/*/scores/validation.json"))) == 3
    assert {p.read_text().splitlines()[0] for p in tmp_path.glob("entries/*/entry.toml")} == {
        'name = "entry 0"',
        'name = "entry 1"',
    }
    assert len(list(tmp_path.glob("entries/*/score.json"))) == 2
    assert not [*tmp_path.glob("runs/**/*.safetensors"), *tmp_path.glob("entries/**/*.csv")]


def test_a_command_is_timed_by_the_processor_s_time_and_refused_where_it_fails(tmp_path: Path) -> None:
    from benchmarks.command import _cpu_seconds

    loop = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    assert 0.3 <= _cpu_seconds(["-c", loop], 0, tmp_path) < 1.0
    # Waiting costs nothing.
    assert _cpu_seconds(["-c", "import time; time.sleep(0.5)"], 0, tmp_path) < 0.3
    assert _cpu_seconds(["-c", "import os, sys; sys.exit(os.getcwd() != sys.argv[1])", str(tmp_path)], 0, tmp_path) < 1
    with pytest.raises(EmukitError, match="no such run"):
        _cpu_seconds(["-c", "import sys; sys.exit('no such run {}'.format(sys.argv[1]))", "{run}"], 7, tmp_path)
