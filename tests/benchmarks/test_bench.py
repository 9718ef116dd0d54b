"""A figure must be measured, not assumed: its times, its memory, and that both sides give the same answer."""

from __future__ import annotations

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
