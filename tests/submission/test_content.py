"""Numbers that can be no climate, and a climate in the rows of other months."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from emukit.data.grid import Grid
from emukit.submission import Problem, RowLayout, check_submission, write_submission
from emukit.submission.check import content_problems
from tests.submission.cases import GRID, MONTHS, coded, lines_of, save


def problems_of(fields: NDArray[np.floating], reference: NDArray[np.floating] | None = None) -> list[Problem]:
    layout = RowLayout.of(GRID, len(fields))
    lines = np.arange(2, layout.size + 2)
    return content_problems(np.asarray(fields, np.float64).ravel(), lines, layout, reference)


def kinds(problems: list[Problem]) -> list[str]:
    return [problem.kind for problem in problems]


def with_variable(variable: int, change) -> NDArray[np.float64]:
    fields = coded().astype(np.float64)
    fields[:, variable] = change(fields[:, variable])
    return fields


IMPOSSIBLE = {
    "degrees Celsius": (0, lambda f: f - 273.15, "tas_range", "Celsius"),
    "one hot cell": (0, lambda f: np.where(f == f[0, 0, 2], 351.0, f), "tas_range", "351"),
    "one cold cell": (0, lambda f: np.where(f == f[0, 0, 2], 149.0, f), "tas_range", "149"),
    "negative rain": (1, lambda f: np.where(f == f[0, 0, 2], -0.01, f), "pr_negative", "-0.01"),
    "kg m-2 s-1": (1, lambda f: f / 86400, "pr_units", "kg m-2 s-1"),
    "far too wet": (1, lambda f: np.where(f == f[0, 0, 2], 1001.0, f), "pr_range", "1001"),
    "zero tas": (0, np.zeros_like, "all_zero", "tas"),
    "zero pr": (1, np.zeros_like, "all_zero", "pr"),
    "one number": (0, lambda f: np.full_like(f, 288.0), "constant", "288"),
    "one field": (1, lambda f: np.broadcast_to(f[:1], f.shape), "constant", "24 months"),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_values_are_named(name: str) -> None:
    variable, change, kind, word = IMPOSSIBLE[name]
    (problem,) = problems_of(with_variable(variable, change))
    assert problem.kind == kind
    assert word in problem.message
    assert problem.count > 0


def test_the_rows_of_impossible_values_are_those_of_the_file() -> None:
    fields = coded()
    fields[2, 0, 1, 3] = 400
    fields[1, 0, 0, 0] = 100
    (problem,) = problems_of(fields)
    assert problem.rows == (2 + 24, 2 + 2 * 24 + 7)
    assert problem.count == 2
    assert "the worst 100" in problem.message or "the worst 400" in problem.message


def test_the_limits_themselves_are_possible() -> None:
    fields = coded()
    fields[0, 0, 0, :2] = 150, 350
    fields[0, 1, 0, :2] = 0, 1000
    assert problems_of(fields) == []


@pytest.mark.filterwarnings("error")
def test_values_that_are_not_there_are_not_judged(tmp_path: Path) -> None:
    header, *rows = lines_of(coded())
    tas_only = [header, *(row for row in rows if "_tas_" in row)]
    path = save(tmp_path / "a.csv", tas_only)
    assert kinds(check_submission(path, GRID, MONTHS, reference=coded())) == ["missing"]


@pytest.mark.parametrize("lag", range(-5, 7))
@pytest.mark.parametrize("months", [12, 24, 35, 360])
def test_a_shift_by_any_number_of_months_is_named(lag: int, months: int) -> None:
    fields = coded(months, first_month=lag)
    problems = problems_of(fields, coded(months))
    if lag == 0:
        assert problems == []
        return
    assert {p.kind for p in problems} <= {"shifted", "upside_down"}
    assert len(problems) == 2
    if abs(lag) < 6:
        by = "one month" if abs(lag) == 1 else f"{abs(lag)} months"
        assert f"looks {by} {'early' if lag > 0 else 'late'}" in problems[0].message


def test_a_submission_one_month_early_is_named_from_the_file(tmp_path: Path) -> None:
    write_submission(tmp_path / "a.csv", coded(first_month=1), GRID)
    problems = check_submission(tmp_path / "a.csv", GRID, MONTHS, reference=coded(12))
    assert kinds(problems) == ["shifted", "shifted"]
    assert problems[0].message.startswith("tas looks one month early")


def test_a_reference_of_any_length_from_a_year_on_serves() -> None:
    for months in (12, 13, 30, 120):
        assert problems_of(coded(), coded(months)) == []
        assert kinds(problems_of(coded(first_month=-1), coded(months))) == ["shifted", "shifted"]


def test_one_shifted_variable_is_named_alone() -> None:
    fields = coded()
    fields[:, 1] = coded(first_month=2)[:, 1]
    (problem,) = problems_of(fields, coded())
    assert problem.message.startswith("pr looks 2 months early")


def test_half_a_month_of_phase_is_no_shift() -> None:
    fields = (coded(first_month=0) + coded(first_month=1)) / 2
    assert problems_of(fields, coded()) == []


def test_a_flat_or_noisy_prediction_is_no_shift() -> None:
    fields = coded()
    noise = np.random.default_rng(0).standard_normal(fields.shape)
    weak = 0.3 * (fields - fields.mean(0)) + fields.mean(0)
    assert problems_of(weak, coded()) == []
    assert problems_of(280 + noise * np.array([1.0, 0.0])[:, None, None] + np.abs(noise), coded()) == []
    assert problems_of(np.abs(fields.mean(0) + np.linspace(0, 1, len(fields))[:, None, None, None]), coded()) == []


@pytest.mark.parametrize("seed", range(10))
def test_a_cycle_of_pure_noise_is_no_shift(seed: int) -> None:
    fields = 100 + 10 * np.random.default_rng(seed).random((240, 2, *GRID.shape))
    assert {"shifted", "upside_down"}.isdisjoint(kinds(problems_of(fields, coded())))


@pytest.mark.filterwarnings("error")
def test_a_prediction_without_seasons_is_constant_and_no_shift() -> None:
    fields = np.broadcast_to(coded()[:1].astype(np.float64) + 0.1, coded().shape)
    assert kinds(problems_of(fields, coded())) == ["constant", "constant"]


def test_south_for_north_is_named() -> None:
    own = coded()
    own[:, :, 0] += 1.0 * np.cos(2 * np.pi * np.arange(MONTHS) / 12)[:, None, None]  # hemispheres that are not mirrors
    assert problems_of(own, own) == []
    problems = problems_of(own[:, :, ::-1], own)
    assert kinds(problems) == ["upside_down", "upside_down"]


@pytest.mark.filterwarnings("error")
def test_less_than_a_year_tells_no_shift() -> None:
    assert problems_of(coded(6, first_month=1), coded(12)) == []


@pytest.mark.parametrize("change", [lambda r: r[:11], lambda r: r[:, :1], lambda r: r * np.nan, lambda r: r[:, :, :2]])
def test_a_reference_that_does_not_fit_is_refused(change) -> None:
    with pytest.raises(ValueError, match="reference"):
        problems_of(coded(), change(coded()))


@pytest.mark.real
def test_real_runs_are_no_shift_and_a_shifted_real_run_is(real_store: Path) -> None:
    zarr = pytest.importorskip("zarr")
    store = zarr.open_group(real_store, mode="r")
    grid = Grid(np.asarray(store["y"]), np.asarray(store["x"]))

    def months(ssp: int, start: int, stop: int, member: int) -> NDArray[np.float32]:
        return np.stack([store[v][ssp, start:stop, member] for v in ("tas", "pr")], 1)

    climatology = months(0, 0, 240, 0).reshape(20, 12, 2, *grid.shape).mean(0)
    layout = RowLayout.of(grid, 120)
    lines = np.arange(layout.size)
    for shift in (-1, 0, 1):
        run = months(3, 660 + shift, 780 + shift, 1).astype(np.float64)
        problems = content_problems(run.ravel(), lines, layout, climatology)
        assert kinds(problems) == ["shifted", "shifted"] * (shift != 0), shift
        way = "early" if shift > 0 else "late"
        assert all(f"one month {way}" in problem.message for problem in problems)
    flipped = months(3, 660, 780, 1)[:, :, ::-1].astype(np.float64)
    assert kinds(content_problems(flipped.ravel(), lines, layout, climatology)) == ["upside_down", "upside_down"]
